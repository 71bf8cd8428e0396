"""Classify with few labels: a generative model of the codes of a VAE, labels summed out.

A VAE learns codes from all data, without labels (M1 of Kingma et al. 2014). A second model learns
how labels and styles make codes (M2): its label is a latent variable where it is not known, summed
out exactly in training. Together they are one model of the data, whose prior is the second part:
log p(x) tells what that is worth. The picture: a row is one style, a column one digit.
"""

import argparse
import math
import time
from collections.abc import Iterator

import pyro
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import pyro_vae as pv

CLASSES = 10
SETTINGS = {
    "digits": {"code": 10, "style": 5, "hidden": (100,), "epochs": (100, 200)},
    "mnist": {"code": 32, "style": 20, "hidden": (500,), "epochs": (40, 100)},
}


class Codes:
    """Batches of codes, drawn anew from q(z|x) each time, and labels, -1 where unknown."""

    def __init__(self, vae: pv.VAE, x: Tensor, labels: Tensor, batch_size: int = 100) -> None:
        with torch.no_grad():
            self.posterior = vae.posterior(x)
            self.mean, self.scale = self.posterior.mean, self.posterior.stddev
        self.labels, self.batch_size = labels, batch_size
        self.generator = torch.Generator()  # fit seeds it for each epoch

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels), generator=self.generator)
        for rows in order.split(self.batch_size):
            mean, scale = self.mean[rows], self.scale[rows]
            noise = torch.randn(mean.shape, generator=self.generator)
            yield mean + scale * noise, self.labels[rows]


class Stack(nn.Module):
    """Both parts as one Pyro program: p(y) p(style) p(code | style, y) p(x | code)."""

    def __init__(self, vae: pv.VAE, labels: pv.SemiSupervisedVAE) -> None:
        super().__init__()
        self.vae, self.labels = vae, labels

    def model(self, x: Tensor) -> None:
        """Declare how a label and a style make a code, and a code makes x."""
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", self.labels.label_prior())
            style = pyro.sample("style", self.labels.prior())
            code = pyro.sample("code", self.labels.likelihood(style, one_hot(y)))
            pyro.sample("x", self.vae.likelihood(code), obs=x)

    def guide(self, x: Tensor) -> None:
        """Infer the code, the label from the code, the style from both."""
        with pyro.plate("data", len(x)):
            code = pyro.sample("code", self.vae.posterior(x))
            y = pyro.sample("y", self.labels.classifier(code))
            pyro.sample("style", self.labels.posterior(code, one_hot(y)))

    def classify(self, x: Tensor) -> Tensor:
        """Return the most probable label of each datum."""
        return self.labels.classify(self.vae.encode(x)).argmax(-1)


def one_hot(y: Tensor) -> Tensor:
    """Labels ``(*)`` as vectors ``(*, 10)``."""
    return nn.functional.one_hot(y, CLASSES).float()


def accuracy(right: Tensor) -> str:
    """Write the share of right answers with its standard error."""
    share = right.double().mean().item()
    return f"{share:.2%} ± {math.sqrt(share * (1 - share) / len(right)):.2%}"


def main(
    data: str = "digits",
    *,
    labels: int = 100,
    seed: int = 0,
    smoke: bool = False,
) -> float:
    """Train with ``labels`` labels, and return the accuracy on the test data."""
    started = time.perf_counter()
    train, _, test = pv.load(data, binarize="threshold" if data == "digits" else "dynamic")
    settings = SETTINGS[data]
    epochs = (2, 2) if smoke else settings["epochs"]
    long = data == "mnist" and not smoke

    config = pv.Config(latent_dim=settings["code"], hidden=settings["hidden"], seed=seed)
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    options = {"schedule": "one-cycle", "seed": seed, "compiled": long}
    pv.fit(vae, train, epochs=epochs[0], learning_rate=2e-3, **options)

    repeats = max(1, len(train) // (4 * labels))  # a fifth of all rows
    x, y = pv.partially_labelled(train.x, train.y, labels=labels, repeats=repeats, seed=seed)
    vae.cpu()
    codes = Codes(vae, x, y)
    config = pv.Config(
        latent_dim=settings["style"],
        hidden=(500,),
        activation="softplus",
        likelihood="normal",
        seed=seed,
    )
    model = pv.SemiSupervisedVAE.from_config(
        config, event_shape=(settings["code"],), classes=CLASSES, data=codes.mean
    )
    objective = pv.EnumeratedELBO()
    pv.fit(model, codes, objective=objective, epochs=epochs[1], learning_rate=3e-3, **options)
    stack = Stack(vae, model.cpu())
    right = stack.classify(test.x) == test.y
    seconds = time.perf_counter() - started

    known = y[: len(train)] >= 0
    alone = LogisticRegression(max_iter=1000).fit(train.x[known].flatten(1), train.y[known])
    guess = torch.from_numpy(alone.predict(test.x.flatten(1)))
    print(f"{data}, {labels} labels of {len(train)}, epochs {epochs}, {seconds:.0f} s")
    print(f"test accuracy:                            {accuracy(right)}")
    print(f"logistic regression on the labelled data: {accuracy(guess == test.y)}\n")

    some, samples = test.x[:500], 100 if smoke else 1000
    plain = pv.log_evidence(vae.model, vae.guide, some, samples=samples)
    both = pv.log_evidence(stack.model, stack.guide, some, samples=samples)
    print(pv.compare({"N(0, I)": plain, "labels and styles": both}))

    styles = torch.randn(8, 1, settings["style"], generator=torch.Generator().manual_seed(seed))
    digits = torch.arange(CLASSES).expand(8, CLASSES)
    grid = vae.decode(model.decode(styles.expand(8, CLASSES, -1), digits))
    title = f"{data}: a row is one style, a column one digit"
    figure = pv.plots.images(grid.flatten(0, 1), columns=CLASSES, title=title)
    print(f"\nfigure: {pv.plots.save(figure, f'semi-supervised-{data}.png')}")
    return right.double().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--labels", type=int, default=100, help="data that keep their label")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of labels and the run")
    parser.add_argument("--smoke", action="store_true", help="a few epochs only")
    given = parser.parse_args()
    main(given.data, labels=given.labels, seed=given.seed, smoke=given.smoke)
