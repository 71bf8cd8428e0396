"""What a VAE has learned: samples under each prior, and its code as a representation for labels.

A generative model is judged by what it draws, and by log p(x); its code by how few labels a simple
classifier needs on it. The classifiers are a linear probe (logistic regression) and the nearest
neighbour, on the posterior mean, against the pixels themselves and a principal component analysis
(PCA) of the same dimension, with few labels (several draws of which ones) and with all. The codes
never saw a label. Errors of accuracies are those of the test images and of the draws of labels.
"""

import argparse
import importlib.util
import math
import warnings
from collections.abc import Iterator

import torch
from matplotlib.ticker import MultipleLocator, PercentFormatter
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, INK, ORANGE, Figure, styled, titled

PRIORS = ["normal", "mixture", "vamp", "flow"]
SETTINGS = {
    "digits": {"latent_dim": 10, "hidden": (150,), "epochs": 100, "prior_components": 20},
    "mnist": {"latent_dim": 32, "hidden": (200, 200), "epochs": 10, "prior_components": 100},
}
FEW, MOST, DRAWS = 100, 10_000, 5  # labels, at most; draws of the few
CLASSIFIERS = {
    "linear": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    "nearest": lambda: KNeighborsClassifier(1),
}


def labelled(y: torch.Tensor, draws: int) -> Iterator[torch.Tensor]:
    """Choose a few data, the same number of each class, several times."""
    for seed in range(draws):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(y), generator=generator)
        yield torch.cat([order[y[order] == label][: FEW // 10] for label in range(10)])


def right_answers(train: pv.Data, test: pv.Data, codes: tuple, draws: int) -> dict:
    """Return by classifier and number of labels which test data are right, ``(draws, N)``."""
    inputs, targets = codes
    choices = {f"{FEW} labels": list(labelled(train.y, draws)), "all": [slice(MOST)]}
    return {
        (labels, name): torch.stack(
            [
                torch.from_numpy(build().fit(inputs[rows], train.y[rows]).predict(targets))
                == test.y
                for rows in several
            ]
        ).double()
        for labels, several in choices.items()
        for name, build in CLASSIFIERS.items()
    }


def estimate(right: torch.Tensor) -> tuple[float, float]:
    """Mean of right answers, or of their differences, and its standard error."""
    images = right.mean(0).std() / math.sqrt(right.shape[1])
    draws = right.mean(1).std() / math.sqrt(len(right)) if len(right) > 1 else torch.tensor(0.0)
    return right.mean().item(), torch.hypot(images, draws).item()


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, float]:
    """Print the tables, draw the figure, and return the numbers by name."""
    priors = [name for name in PRIORS if name != "flow" or importlib.util.find_spec("zuko")]
    settings = dict(SETTINGS[data])
    epochs, components = settings.pop("epochs"), settings.pop("prior_components")
    epochs, priors, draws = (2, priors[:2], 2) if smoke else (epochs, priors, DRAWS)
    train, valid, test = pv.load(data)
    test = test.head(100 if smoke else 2000)
    pixels = [split.x.flatten(1).numpy() for split in (train, test)]
    pca = PCA(settings["latent_dim"], random_state=0).fit(pixels[0])
    codes = {"pixels": tuple(pixels), "PCA": tuple(pca.transform(some) for some in pixels)}
    samples, evidences = {"data": test.x[:16]}, {}
    for prior in priors:
        options = {"prior_components": components} if prior in ("mixture", "vamp") else {}
        config = pv.Config(prior=prior, **settings, **options)
        vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
        options = {"learning_rate": 2e-3, "schedule": "one-cycle", "seed": 0}
        options["compiled"] = data == "mnist" and not smoke
        pv.fit(vae, train, valid, epochs=epochs, **options)
        vae.cpu()
        samples[prior] = vae.sample(16, seed=0, mean=True)
        codes[f"code, {prior} prior"] = tuple(vae.encode(s.x).numpy() for s in (train, test))
        with warnings.catch_warnings():  # the table says it
            warnings.simplefilter("ignore", pv.UnreliableEvidence)
            evidences[prior] = pv.log_evidence(
                vae.model, vae.guide, test.head(360), samples=50 if smoke else 500, method="laplace"
            )
    print(f"{data}, {epochs} epochs each\n\n{pv.compare(evidences)}\n")

    found = {name: right_answers(train, test, pair, draws) for name, pair in codes.items()}
    columns = list(found["PCA"])
    rows = [["accuracy", "dimensions", *(f"{name}, {labels}" for labels, name in columns)]]
    numbers = {name: evidence.mean().value for name, evidence in evidences.items()}
    for name in list(codes)[2:]:  # paired: the same images, the same labels
        gaps = {key: found[name][key] - found["PCA"][key] for key in columns}
        found[f"{name} - PCA"] = gaps
    for name, right in found.items():
        pairs = {key: estimate(right[key]) for key in columns}
        size = str(codes[name][0].shape[1]) if name in codes else "paired"
        rows.append([name, size, *(f"{a:.1%} ± {e:.1%}" for a, e in pairs.values())])
        for (labels, classifier), (accuracy, error) in pairs.items():
            numbers[f"{name}, {classifier}, {labels}"] = accuracy
            numbers[f"{name}, {classifier}, {labels}, error"] = error
    print(*align(rows), sep="\n")
    shown = {name: found[name] for name in codes}
    print(f"\nfigure: {pv.plots.save(draw(samples, shown), f'representation-{data}.png')}")
    return numbers


@styled()
def draw(samples: dict[str, torch.Tensor], found: dict[str, dict]) -> Figure:
    """Show a row of samples for each prior, and accuracies on each representation."""
    figure = Figure((13.2, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    pictures = torch.stack([some[:12] for some in samples.values()])
    pv.plots.picture_rows(left, pictures, list(samples))
    left.set_title("means of x given z, drawn from each prior")

    labels = f"{FEW} labels"
    for row, right_of in enumerate(found.values()):
        for name, colour, shift in (("linear", BLUE, -0.13), ("nearest", ORANGE, 0.13)):
            accuracy, error = estimate(right_of[labels, name])
            span = (accuracy - 2 * error, accuracy + 2 * error)
            right.hlines(row + shift, *span, color=colour, linewidth=2)
            right.plot(accuracy, row + shift, "o", color=colour)
    right.set_title("linear probe", color=BLUE)
    right.set_title("nearest neighbour", color=ORANGE, loc="right")
    right.set_yticks(range(len(found)), list(found), fontsize=11, color=INK)
    right.invert_yaxis()
    right.tick_params(axis="y", length=0)
    right.xaxis.set_major_locator(MultipleLocator(0.05))
    right.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.set(xlabel=f"test accuracy from {labels}, ± 2 standard errors")
    right.grid(axis="x")
    means = {name: max(estimate(r[labels, c])[0] for c in CLASSIFIERS) for name, r in found.items()}
    best = max((name for name in means if name.startswith("code")), key=means.__getitem__)
    title = f"From {labels}: {means[best]:.0%} right on the {best.replace(', ', ' of the ')}, "
    return titled(figure, title + f"{means['PCA']:.0%} on PCA, {means['pixels']:.0%} on pixels", "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs and two priors only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
