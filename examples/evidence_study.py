"""How good is an estimate of log p(x)? The ladder of proposals, convergence, bounds, export.

One trained model, and every check that the number of a paper should pass:

1. the ladder: proposals from cheap to dear, with error, effective sample size, verdict and seconds;
2. convergence in the number of samples K, by estimators whose biases differ;
3. bounds from both sides, on data simulated from the model, where they exist;
4. the numbers of each image, for other tools.
"""

import argparse
import importlib.util
import math
import warnings

import torch

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, EDGE, INK, ORANGE, SKY, TEAL, Figure, beside, styled, titled

SETTINGS = {
    "digits": {"latent_dim": 8, "hidden": (100,), "epochs": 150, "likelihood": "normal"},
    "mnist": {"latent_dim": 32, "hidden": (200, 200), "epochs": 10, "likelihood": "bernoulli"},
}
# Gray pixels tell much of z, which makes the posterior narrow and the encoder's task hard.
PIXELS = {"normal": "gray", "bernoulli": "dynamic"}
METHODS = ("guide", "refined", "laplace", "modes", "annealed", "auto")
COLOURS = {"plain": BLUE, "delta": SKY, "jackknife": TEAL, "antithetic": ORANGE}


def ladder(vae: pv.VAE, test: pv.Data, samples: int, repeats: int) -> dict[str, list[pv.Evidence]]:
    """Estimate log p(x) from each proposal, several times with other draws."""
    return {
        method: [
            pv.log_evidence(vae.model, vae.guide, test, samples=samples, method=method, seed=seed)
            for seed in range(repeats)
        ]
        for method in METHODS
    }


def print_ladder(found: dict[str, list[pv.Evidence]]) -> dict[str, float]:
    """Print one row for each proposal; return the means and errors."""
    head = ["proposal", "log p(x)", "its own error", "of repeats", "median ESS", "doubtful"]
    rows, numbers = [[*head, "seconds", "seconds for an error of 0.01"]], {}
    for method, runs in found.items():
        mean, first = runs[0].mean(), runs[0]
        values = torch.tensor([run.mean().value for run in runs], dtype=torch.float64)
        # An error that repeats do not confirm is one that the verdict doubts.
        spread = values.std().item()
        seconds = sum(run.seconds for run in runs) / len(runs)
        needed = seconds * (mean.mc_error / 0.01) ** 2
        numbers |= {method: values.mean().item(), f"{method}, error": mean.mc_error}
        numbers |= {f"{method}, spread": spread, f"{method}, bad": first.share_unreliable()}
        errors = [f"{values.mean():.3f}", f"{mean.mc_error:.4f}", f"{spread:.4f}"]
        trust = [f"{first.ess.median():.0f} of {int(first.draws.median())}"]
        trust.append(f"{first.share_unreliable():.0%}")
        rows.append([method, *errors, *trust, f"{seconds:.1f}", f"{needed:.1f}"])
    print(*align(rows), sep="\n")
    print("\ndoubtful: share of the images; of the guide:", found["guide"][0].verdict, "\n")
    return numbers


@torch.no_grad()
def log_weights(vae: pv.VAE, x: torch.Tensor, samples: int) -> torch.Tensor:
    """Return log p(x, z) - log q(z | x) of draws from the guide: all there is to it, by hand."""
    torch.manual_seed(0)
    q, parts = vae.posterior(x), []
    for _ in range(samples // 100):
        z = q.sample((100,))
        parts.append(vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x) - q.log_prob(z))
    return torch.cat(parts)


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, float]:
    """Print the tables, draw the figure, write the exports, and return the numbers by name."""
    settings = dict(SETTINGS[data])
    epochs = settings.pop("epochs")
    number, epochs, samples = (8, 3, 200) if smoke else (60, epochs, 2000)
    train, valid, test = pv.load(data, binarize=PIXELS[settings["likelihood"]])
    config = pv.Config(**settings)
    vae = pv.VAE.from_config(config, event_shape=train.event_shape, data=train.x)
    options = {
        "schedule": "one-cycle",
        "learning_rate": 2e-3,
        "compiled": data == "mnist" and not smoke,
    }
    pv.fit(vae, train, valid, epochs=epochs, seed=0, **options)
    vae.cpu()
    test = test.head(number)

    print(f"1. The ladder: {data}, {len(test)} test images, K = {samples}, nats per image\n")
    with warnings.catch_warnings():  # the table says it
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        found = ladder(vae, test, samples, repeats=2 if smoke else 5)
        numbers = print_ladder(found)

        # Estimators whose biases differ in sign and order agree only where none is left.
        print("2. Convergence of the guide's estimate in K\n")
        weights = log_weights(vae, test.x, 10 * samples)
        course = pv.evidence.convergence(weights)
        unbiased = pv.evidence.unbiased_log_evidence(vae.model, vae.guide, test, method="laplace")
        print(course)
        print(f"\nconverged: {'yes' if course.converged else 'no'}")
        print(f"unbiased, multilevel: {unbiased.mean:.3f} ± {unbiased.standard_error:.3f}\n")
        numbers |= {"unbiased": unbiased.mean, "unbiased, error": unbiased.standard_error}

        # Of data drawn from the model an exact posterior draw is known, hence an upper bound too.
        print("3. Bounds from both sides\n")
        annealing = pv.Annealing(temperatures=10 if smoke else 100, chains=16)
        certificate = pv.certify(
            vae.model, vae.guide, test, number=number, samples=samples, annealing=annealing
        )
    print(f"{certificate}\n")
    (gap, gap_error), (short, short_error) = certificate.gap, certificate.shortfall
    numbers |= {"gap": gap, "gap, error": gap_error}
    numbers |= {"shortfall": short, "shortfall, error": short_error}

    # Each image's own number: least probable first is where to look for odd data or a bad model.
    best = found["auto"][0]
    print(f"4. Exports: {pv.evidence.write_csv(best, f'evidence-study-{data}.csv')}")
    if importlib.util.find_spec("xarray"):  # labelled, as ArviZ and xarray read it
        tree = pv.evidence.to_datatree(best, labels=test.y)
        by_label = tree["log_evidence"].to_dataset().groupby("label").mean()["log_px"]
        print("mean log p(x) by digit:", *by_label.values.round(1))
    order = best.log_px.argsort()[:5]
    print(f"least probable images: {order.tolist()}, labelled {test.y[order].tolist()}")
    print(f"\nfigure: {pv.plots.save(draw(found, course), f'evidence-study-{data}.png')}")
    return numbers


@styled()
def draw(found: dict[str, list[pv.Evidence]], course: pv.evidence.bias.Convergence) -> Figure:
    """Show the runs of each proposal, and the guide's estimate as K grows."""
    figure = Figure((13.2, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    means = {name: [run.mean().value for run in runs] for name, runs in found.items()}
    best = min(found, key=lambda name: found[name][0].mean().mc_error)
    known = sum(means[best]) / len(means[best])
    for row, (method, runs) in enumerate(found.items()):
        bad = runs[0].share_unreliable()
        colour = ORANGE if bad > 0.2 else BLUE
        places = [row + 0.12 * (i - (len(runs) - 1) / 2) for i in range(len(runs))]
        errors = [2 * run.mean().mc_error for run in runs]
        style = {"linestyle": "", "marker": "o", "markersize": 4, "linewidth": 1.4}
        left.errorbar(means[method], places, xerr=errors, color=colour, **style)
        seconds = sum(run.seconds for run in runs) / len(runs)
        beside(left, row, f"{seconds:.1f} s, {bad:.0%} doubtful", colour)
    left.axvline(known, color=EDGE, linewidth=1.4, zorder=0)
    left.set_yticks(range(len(found)), list(found), fontsize=11, color=INK)
    left.invert_yaxis()
    left.tick_params(axis="y", length=0)
    left.locator_params(axis="x", nbins=5)
    left.set(xlabel="mean log p(x), nats")
    left.set_title("independent runs, ± 2 of their own errors")
    right.axhline(known, color=EDGE, linewidth=1.4, zorder=0)
    right.grid(axis="y")
    for name, colour in COLOURS.items():
        mean, error = course.means[name].numpy(), course.errors[name].numpy()
        band = {"color": colour, "alpha": 0.2, "linewidth": 0}
        right.fill_between(course.sizes, mean - 2 * error, mean + 2 * error, **band)
        right.plot(course.sizes, mean, color=colour, label=name)
    right.legend(frameon=False, loc="lower right")
    right.set(xscale="log", xlabel="draws K from the guide", ylabel="mean log p(x), nats")
    right.set_title(f"the guide, corrected for bias; grey line: {best}")
    values = torch.tensor(means["guide"], dtype=torch.float64)
    short, error = known - values.mean(), values.std() / math.sqrt(len(values))
    title = f"The guide falls {short:.3f} ± {error:.3f} nats short of the fitted proposals; "
    bad = found["guide"][0].share_unreliable()
    return titled(figure, title + f"{bad:.0%} of its estimates are doubtful", "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs and draws only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
