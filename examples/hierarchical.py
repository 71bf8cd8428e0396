"""One layer of latents against two, bottom-up and top-down: log p(x), use of each layer, samples.

A second layer z2 above z1 makes the prior of z1 flexible: p(z1) = E[p(z1 | z2)]. From the bottom up
(Burda et al. 2016, https://arxiv.org/abs/1509.00519) z2 is inferred from z1 alone, from the top
down (the model of Tomczak and Welling 2018, https://arxiv.org/abs/1705.07120) both layers see the
data. The form is one word of the config. A layer that nothing needs is switched off in training,
which the active units and the KL of each layer show. In the picture a row holds one z2, and z1 is
drawn anew: what stays the same along a row is what the top layer decides.
"""

import argparse
import warnings
from dataclasses import replace

import torch

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import INK, Figure, styled, titled

SETTINGS = {
    "digits": {"latent_dim": 12, "hidden": (150,), "epochs": 150, "number": 360},
    "mnist": {"latent_dim": 32, "hidden": (200, 200), "epochs": 12, "number": 500},
}
TOP_DIM = {"digits": 6, "mnist": 16}
ROWS, COLUMNS = 6, 10


def layers(program: str, top_dim: int) -> dict[str, object]:
    """Settings of the config for one or two layers."""
    return {} if program == "vae" else {"program": program, "top_dim": top_dim}


@torch.no_grad()
def rows_of_one_top(model: pv.HierarchicalVAE) -> torch.Tensor:
    """Draw z2 for each row, z1 for each picture; return means of x, ``(rows, columns, *)``."""
    torch.manual_seed(0)
    z2 = model.prior().sample((ROWS, 1)).expand(-1, COLUMNS, -1)
    z1 = model.conditional(z2).sample()
    return model.decode(z1, z2)


def spread(pictures: torch.Tensor) -> float:
    """Share of the pictures' variance that is within rows, where only z1 changes."""
    flat = pictures.flatten(2).double()
    within = flat.var(1, correction=0).sum(-1).mean()
    return (within / flat.flatten(0, 1).var(0, correction=0).sum()).item()


def main(data: str = "digits", *, smoke: bool = False) -> dict[str, float]:
    """Print the tables, draw the figure, and return the numbers by name."""
    settings = dict(SETTINGS[data])
    number, epochs = settings.pop("number"), 3 if smoke else settings.pop("epochs")
    settings.pop("epochs", None)
    train, valid, test = pv.load(data)
    test = test.head(40 if smoke else number)
    base = pv.Config(**settings)
    evidences, numbers, models = {}, {}, {}
    head = ["", "site", "active units", "KL to its prior, nats", "parameters"]
    rows = [head]
    for program in ("vae", "bottom-up", "top-down"):
        config = replace(base, **layers(program, TOP_DIM[data]))
        model = pv.build_program(config, event_shape=train.event_shape, data=train.x)
        # A warm-up of the KL term gives the top layer time before it is switched off.
        options = {"learning_rate": 2e-3, "schedule": "one-cycle", "kl_warmup": epochs // 5}
        compiled = data == "mnist" and not smoke
        pv.fit(model, train, valid, epochs=epochs, compiled=compiled, seed=0, **options)
        models[program] = model.cpu()
        name = {"vae": "one layer"}.get(program, program)
        with warnings.catch_warnings():  # the table says it
            warnings.simplefilter("ignore", pv.UnreliableEvidence)
            evidences[name] = pv.log_evidence(
                model.model, model.guide, test, samples=100 if smoke else 1000, method="laplace"
            )
        numbers[name] = evidences[name].mean().value
        active = pv.analysis.active_units(model.model, model.guide, test).variance
        kl = pv.analysis.kl_per_dimension(model.model, model.guide, test)
        size = f"{sum(p.numel() for p in model.parameters()):,}"
        for site in sorted(active):
            used = int((active[site] > 0.01).sum())
            total = kl[site].sum().item()
            numbers |= {f"{name}, {site} active": used, f"{name}, {site} KL": total}
            shown = ("", "") if site == "z2" else (name, size)
            rows.append(
                [shown[0], site, f"{used} of {len(active[site])}", f"{total:.2f}", shown[1]]
            )
    print(f"{data}, {epochs} epochs each\n")
    print(pv.compare(evidences), "\n")
    print(*align(rows), sep="\n")
    print()
    pictures = {}
    for form in ("bottom-up", "top-down"):
        pictures[form] = rows_of_one_top(models[form])
        numbers[f"{form}, within"] = share = spread(pictures[form])
        print(f"{form}: {share:.0%} of the variance of samples is within rows of one z2")
    one, *rest = (evidences[name] for name in ("one layer", "bottom-up", "top-down"))
    gains = [two.corrected() - one.corrected() for two in rest]
    texts = [f"{g.mean():+.2f} ± {g.std() / len(g) ** 0.5:.2f}" for g in gains]
    for form, gain in zip(pictures, gains, strict=True):
        numbers[f"{form}, gain"] = gain.mean().item()
        numbers[f"{form}, gain error"] = gain.std().item() / len(gain) ** 0.5
    figure = draw(pictures, dict(zip(pictures, texts, strict=True)))
    print(f"\nfigure: {pv.plots.save(figure, f'hierarchical-{data}.png')}")
    return numbers


@styled()
def draw(pictures: dict[str, torch.Tensor], gains: dict[str, str]) -> Figure:
    """Show rows of one z2 and z1 drawn anew, for both forms."""
    figure = Figure((12.6, 4.5), layout="constrained")
    for axes, (form, some) in zip(figure.subplots(1, 2), pictures.items(), strict=True):
        pv.plots.picture_rows(axes, some)
        axes.set_title(f"{form}: {gains[form]} nats to one layer", color=INK)
        axes.set_xlabel("z1 drawn anew")
        axes.set_ylabel("z2 held")
    return titled(figure, "What the top layer decides stays the same along a row", "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--smoke", action="store_true", help="a few epochs only")
    given = parser.parse_args()
    main(given.data, smoke=given.smoke)
