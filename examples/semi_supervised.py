"""Classify with few labels: a latent-variable model that learns from the data without them, too.

The label is a latent variable where it is not known, summed out exactly in training; one program
serves labelled and unlabelled data. The picture shows what the model makes of it: a row is one
style, a column one digit.
"""

import argparse
import math
import time

import torch
from sklearn.linear_model import LogisticRegression

import pyro_vae as pv

CLASSES = 10
SETTINGS = {
    "digits": {"latent_dim": 8, "hidden": (200, 200), "epochs": 100},
    "mnist": {"latent_dim": 50, "hidden": (500, 500), "epochs": 50},
}


def accuracy(right: torch.Tensor) -> str:
    """Write the share of right answers with its standard error."""
    share = right.double().mean().item()
    return f"{share:.2%} ± {math.sqrt(share * (1 - share) / len(right)):.2%}"


def main(
    data: str = "digits",
    *,
    labels: int = 100,
    epochs: int | None = None,
    seed: int = 0,
    smoke: bool = False,
) -> float:
    """Train with ``labels`` labels, and return the accuracy on the test data."""
    started = time.perf_counter()
    train, valid, test = pv.load(data, binarize="threshold")
    settings = SETTINGS[data]
    epochs = 3 if smoke else epochs or settings["epochs"]
    x, y = pv.partially_labelled(train.x, train.y, labels=labels, seed=seed)

    config = pv.Config(latent_dim=settings["latent_dim"], hidden=settings["hidden"], seed=seed)
    model = pv.SemiSupervisedVAE.from_config(
        config, event_shape=train.event_shape, classes=CLASSES, data=train.x
    )
    unknown = torch.full_like(valid.y, -1)
    pv.fit(
        model,
        (x, y),
        (valid.x, unknown),
        objective=pv.EnumeratedELBO(),
        epochs=epochs,
        schedule="one-cycle",
        learning_rate=2e-3,
        seed=seed,
    )
    model.cpu()
    seconds = time.perf_counter() - started

    known = y[: len(train)] >= 0
    alone = LogisticRegression(max_iter=1000).fit(train.x[known].flatten(1), train.y[known])
    guess = torch.from_numpy(alone.predict(test.x.flatten(1)))
    right = model.classify(test.x).argmax(-1) == test.y
    print(f"{data}, {labels} labels of {len(train)}, {epochs} epochs, {seconds:.0f} s")
    print(f"test accuracy:                            {accuracy(right)}")
    print(f"logistic regression on the labelled data: {accuracy(guess == test.y)}\n")

    some = slice(0, 200)
    samples = 100 if smoke else 1000
    without = pv.log_evidence(
        model.model, model.guide, (test.x[some], torch.full_like(test.y[some], -1)), samples=samples
    )
    both = pv.log_evidence(model.model, model.guide, (test.x[some], test.y[some]), samples=samples)
    print(f"log p(x)    {without.mean()}")
    print(f"log p(x, y) {both.mean()}")

    styles = torch.randn(8, 1, config.latent_dim, generator=torch.Generator().manual_seed(seed))
    digits = torch.arange(CLASSES).expand(8, CLASSES)
    grid = model.decode(styles.expand(8, CLASSES, -1), digits)
    title = f"{data}: a row is one style, a column one digit"
    figure = pv.plots.images(grid.flatten(0, 1), columns=CLASSES, title=title)
    print(f"\nfigure: {pv.plots.save(figure, f'semi-supervised-{data}.png')}")
    return right.double().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--labels", type=int, default=100, help="data that keep their label")
    parser.add_argument("--epochs", type=int, help="passes over the training data")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of labels and the run")
    parser.add_argument("--smoke", action="store_true", help="a few epochs only")
    given = parser.parse_args()
    main(given.data, labels=given.labels, epochs=given.epochs, seed=given.seed, smoke=given.smoke)
