"""Find anomalies by log p(x), see where that fails, and mend it by looking at both sides.

Two classic tests. First, a class of digits is left out of training and has to be told from the
others. Second, digits have to be told from other images. In both, simple images fail: 1s, digits
without the noise of binarization, and on MNIST faint digits and nearly blank images get more
log p(x) than the data themselves, as less in them is left to chance. So what is improbable is an
anomaly, but not every anomaly is improbable. Remedies, each at a price where log p(x) does well:

- typicality: how far log p(x) is from its mean over the validation data, to either side
  (in the manner of Nalisnick et al. 2019, https://arxiv.org/abs/1906.02994);
- several such statistics at once: log p(x), ELBO, reconstruction and the log density of independent
  pixels, by their Mahalanobis distance from the validation data (in the manner of Morningstar et
  al. 2021, https://arxiv.org/abs/2006.09273);
- ratio: log p(x) minus the log density of independent pixels (Ren et al. 2019,
  https://arxiv.org/abs/1906.02845).

AUC: the probability that an anomaly gets a higher score than a datum; 0.5 is guessing.
"""

import argparse
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pyro.distributions as dist
import torch
from sklearn.covariance import EmpiricalCovariance

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, EDGE, INK, ORANGE, SKY, TEAL, Figure, styled, titled

SETTINGS = {
    "digits": {"latent_dim": 8, "hidden": (100,), "epochs": 60, "left_out": tuple(range(10))},
    "mnist": {"latent_dim": 32, "hidden": (200, 200), "epochs": 15, "left_out": (1, 2)},
}
COLOURS = {"log p(x)": ORANGE, "ratio": SKY, "typicality": BLUE, "several": TEAL}
Scores = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Anomalies, the usual data, and their scores by name (higher: more of an anomaly)."""

    images: torch.Tensor
    anomalies: Scores
    usual: Scores

    def auc(self, score: str) -> tuple[float, float]:
        """Return AUC and standard error of a score."""
        return auc(self.anomalies[score], self.usual[score])


def only(data: pv.Data, keep: torch.Tensor) -> pv.Data:
    """Return some of the data."""
    gray = None if data.intensities is None else data.intensities[keep]
    return replace(data, x=data.x[keep], y=data.y[keep], intensities=gray)


class Detector:
    """A VAE of the usual images, and scores that are high for others."""

    def __init__(
        self, train: pv.Data, valid: pv.Data, *, epochs: int, samples: int, **parts
    ) -> None:
        config = pv.Config(**parts)
        self.vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
        options = {"learning_rate": 2e-3, "schedule": "one-cycle", "seed": 0}
        pv.fit(self.vae, train, epochs=epochs, compiled=len(train) > 10_000, **options)
        self.vae.cpu()
        mean = (train.x.sum(0) + 0.5) / (len(train) + 1)  # no pixel is impossible
        self.independent = dist.Bernoulli(mean).to_event(2)
        self.samples = samples
        usual = self.statistics(valid.x[:400])
        self.mean = usual["log p(x)"].mean()
        self.covariance = EmpiricalCovariance().fit(stacked(usual))

    def statistics(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Four log densities of each image, in nats."""
        programs = self.vae.model, self.vae.guide, x
        with warnings.catch_warnings():  # of an encoder far from its data; the fitted rung mends it
            warnings.simplefilter("ignore", pv.UnreliableEvidence)
            elbo = pv.log_evidence(*programs, samples=100).elbo
            log_px = pv.log_evidence(*programs, samples=self.samples, method="laplace").log_px
        with torch.no_grad():
            reconstruction = self.vae.likelihood(self.vae.encode(x)).log_prob(x)
        return {
            "log p(x)": log_px,
            "ELBO": elbo,
            "reconstruction": reconstruction.double(),
            "independent": self.independent.log_prob(x).double(),
        }

    def scores(self, x: torch.Tensor) -> Scores:
        """Turn log densities into scores of anomaly."""
        statistics = self.statistics(x)
        log_px = statistics["log p(x)"]
        return {
            "log p(x)": -log_px,
            "ELBO": -statistics["ELBO"],
            "reconstruction": -statistics["reconstruction"],
            "ratio": statistics["independent"] - log_px,
            "typicality": (log_px - self.mean).abs(),
            "several": torch.from_numpy(self.covariance.mahalanobis(stacked(statistics))),
        }


def stacked(statistics: dict[str, torch.Tensor]) -> np.ndarray:
    """Statistics as columns."""
    return torch.stack(list(statistics.values()), 1).numpy()


def auc(anomalies: torch.Tensor, usual: torch.Tensor) -> tuple[float, float]:
    """Area under the ROC curve and its standard error (DeLong et al. 1988, for one curve)."""
    wins = (anomalies[:, None] > usual).double() + (anomalies[:, None] == usual).double() / 2
    variance = sum(wins.mean(1 - i).var() / wins.shape[i] for i in range(2))
    return wins.mean().item(), float(variance**0.5)


def other_images(data: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Images that are no digits, or digits as they never are, as many as there are data."""
    gray = pv.load(data, binarize="gray").test.x[: len(x)]
    torch.manual_seed(0)
    quarter = x.shape[-1] // 4
    images = {
        "nearly blank": torch.full_like(x, 1 / x[0].numel()).bernoulli(),
        "faint digits": (gray / 4).bernoulli(),
        "digits without noise": (gray > 0.5).float(),
        "coin flips": torch.full_like(x, 0.5).bernoulli(),
        "independent pixels": gray.mean(0).expand_as(x).bernoulli(),
        "inverted": 1 - x,
        "turned by 90°": x.rot90(1, (1, 2)),
        "shifted by a quarter": x.roll(quarter, 2),
    }
    if data == "mnist":
        try:
            images["Fashion-MNIST"] = pv.load("fashion-mnist", download=False).test.x[: len(x)]
        except FileNotFoundError:
            print("without Fashion-MNIST, which is not there\n")
    return images


def table(title: str, cases: dict[str, Case]) -> dict[str, float]:
    """Print the AUC of each score for each anomaly; return them by name."""
    names = list(next(iter(cases.values())).usual)
    pairs = {key: [case.auc(name) for name in names] for key, case in cases.items()}
    rows = [[title, *names]]
    rows += [[key, *(f"{a:.3f} ± {e:.3f}" for a, e in row)] for key, row in pairs.items()]
    areas = np.array(list(pairs.values()))[..., 0]
    for word, values in (("mean", areas.mean(0)), ("worst", areas.min(0))):
        rows.append([word, *(f"{value:.3f} {'':7}" for value in values)])
    print(*align(rows), sep="\n")
    print()
    return {
        f"{key}, {name}": area
        for key, row in pairs.items()
        for name, (area, _) in zip(names, row, strict=True)
    }


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, float]:
    """Print the tables, draw the figure, and return each AUC by name."""
    settings = SETTINGS[data] | {"samples": 500}
    left_out, number = settings.pop("left_out"), 400
    if smoke:
        settings |= {"epochs": 5, "samples": 30}
        left_out, number = left_out[1:2], 30
    train, valid, test = pv.load(data)
    print(f"{data}: AUC ± standard error; {settings['samples']} importance samples\n")

    unseen = {}
    for label in left_out:
        detector = Detector(*(only(some, some.y != label) for some in (train, valid)), **settings)
        splits = (train, valid, test) if data == "digits" else (test,)
        images = torch.cat([some.x[some.y == label] for some in splits])[:number]
        usual = detector.scores(test.x[test.y != label][:number])
        unseen[f"digit {label}"] = Case(images, detector.scores(images), usual)
    numbers = table("left out of training", unseen)

    detector = Detector(train, valid, **settings)
    x = test.x[:number]
    usual = detector.scores(x)
    others = {
        name: Case(images, detector.scores(images), usual)
        for name, images in other_images(data, x).items()
    }
    numbers |= table("other images", others)

    rows = [["", "mean log p(x)", "of the usual data", "above their mean"]]
    for name, case in (unseen | others).items():
        log_px, known = -case.anomalies["log p(x)"], -case.usual["log p(x)"]
        means = [f"{v.mean():.1f} ± {v.std() / len(v) ** 0.5:.1f}" for v in (log_px, known)]
        numbers[f"{name}, above"] = share = (log_px > known.mean()).double().mean().item()
        rows.append([name, *means, f"{share:.0%}"])
    print(*align(rows), sep="\n")
    print(f"\nfigure: {pv.plots.save(draw(x, unseen, others), f'anomaly-{data}.png')}")
    return numbers


@styled()
def draw(x: torch.Tensor, unseen: dict[str, Case], others: dict[str, Case]) -> Figure:
    """Show images, and log p(x) and ROC curves of the anomalies where log p(x) does worst."""
    cases = unseen | others
    worst = min(cases, key=lambda name: cases[name].auc("log p(x)")[0])
    case = cases[worst]
    figure = Figure((13.2, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(0.75, 1.1, 1))
    shown = {"usual": x} | {worst: case.images} | {name: one.images for name, one in others.items()}
    pv.plots.picture_rows(left, torch.stack([some[:6] for some in shown.values()]), list(shown))

    sides = {"usual data": (case.usual, BLUE), worst: (case.anomalies, ORANGE)}
    log_px = {name: -scores["log p(x)"].numpy() for name, (scores, _) in sides.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(log_px.values())), 50)
    for name, (_, colour) in sides.items():
        middle.hist(log_px[name], edges, color=colour, alpha=0.6, label=name)
    middle.axvline(log_px["usual data"].mean(), ymax=0.8, color=INK, linewidth=1.4)
    middle.set_ylim(top=1.25 * middle.get_ylim()[1])
    middle.legend(frameon=False, loc="upper left")
    middle.set(xlabel="log p(x), nats", ylabel="images")
    above = (log_px[worst] > log_px["usual data"].mean()).mean()
    middle.set_title(f"{above:.0%} are above the usual mean")

    share = np.linspace(0, 1, 201)
    right.plot(share, share, color=EDGE, linewidth=1)
    for i, (name, colour) in enumerate(COLOURS.items()):
        curves = roc(case.anomalies[name].numpy(), case.usual[name].numpy(), share)
        low, high = np.quantile(curves[1:], (0.025, 0.975), axis=0)
        right.fill_between(share, low, high, color=colour, alpha=0.25, linewidth=0)
        right.plot(share, curves[0], color=colour)
        area, error = case.auc(name)
        text = f"{name}\nAUC {area:.2f} ± {error:.2f}"
        right.text(1.03, 0.85 - 0.2 * i, text, color=colour, transform=right.transAxes)
    right.set(xlabel="share of the usual flagged", ylabel="share of anomalies found")
    right.set_title(f"ROC, {worst}")
    best = max(list(COLOURS)[1:], key=lambda name: case.auc(name)[0])
    (failed, _), (mended, _) = case.auc("log p(x)"), case.auc(best)
    best = best.replace("several", "several statistics")
    title = f"{worst.capitalize()}: more probable than the data. AUC by log p(x) {failed:.2f}, "
    return titled(figure, title + f"by {best} {mended:.2f}", "")


def roc(anomalies: np.ndarray, usual: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the share of anomalies found; first row of all data, then of 200 resampled ones."""
    generator, curves = np.random.default_rng(0), []
    for draw in range(201):
        high, low = (generator.choice(v, len(v)) if draw else v for v in (anomalies, usual))
        curves.append((high[:, None] > np.quantile(low, 1 - share)).mean(0))
    return np.array(curves)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs and one class only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
