"""Complete images of which one, two or three quadrants are seen: log p(x | c), and completions.

The task of Sohn et al. (2015) and of Pyro's tutorial on conditional VAEs,
https://pyro.ai/examples/cvae.html: the bottom left quadrant is seen (with two, the left half; with
three, all but the bottom right), the others are predicted. A network that predicts every pixel for
itself is the baseline; its guess, pasted beside what is seen, is the condition of the VAE.

The score is the negative log-likelihood of the pixels that are not seen, summed over them, per
image: here of 0/1 pixels, by importance sampling. With --gray it is the tutorial's: a cross-entropy
against gray values (not a likelihood), of which the tutorial reports the bound.
"""

import argparse

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import binary_cross_entropy_with_logits

import pyro_vae as pv
from pyro_vae.plots.style import Figure, styled, titled

SETTINGS = {
    "digits": {"latent_dim": 16, "hidden": (200, 200), "epochs": 200, "patience": 20},
    "mnist": {"latent_dim": 200, "hidden": (500, 500), "epochs": 50, "patience": 10},
}


class GrayBernoulli(dist.Bernoulli):
    """Cross-entropy against gray values as the tutorial has it; no density of them."""

    support = constraints.unit_interval


class CrossEntropy(nn.Module):
    """A likelihood of one's own: any module that returns a Pyro distribution."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> dist.TorchDistribution:
        """Return the score of gray values given latents and condition."""
        return GrayBernoulli(logits=self.network(*inputs)).to_event(1)


def quadrants(height: int, width: int, number: int) -> torch.Tensor:
    """Mask of what is seen: bottom left, then top left, then top right."""
    seen = torch.zeros(height, width, dtype=torch.bool)
    seen[height // 2 :, : width // 2] = True
    if number >= 2:
        seen[: height // 2, : width // 2] = True
    if number >= 3:
        seen[: height // 2, width // 2 :] = True
    return seen


def train_baseline(network, train, valid, *, epochs, patience, batch_size=128):
    """Minimize the cross-entropy; keep the parameters that are best on the validation data."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    best, state, waited = torch.inf, network.state_dict(), 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(train[0]), generator=generator).split(batch_size):
            optimizer.zero_grad()
            score(network, train[0][rows], train[1][rows]).mean().backward()
            optimizer.step()
        with torch.no_grad():
            value = score(network, *valid).mean().item()
        waited += 1
        if value < best:
            state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            best, waited = value, 0
        if waited == patience:
            break
    network.load_state_dict(state)


def score(network, seen, hidden):
    """Cross-entropy of the hidden pixels, summed over them, one number per image."""
    loss = binary_cross_entropy_with_logits(network(seen), hidden, reduction="none")
    return loss.sum(-1)


def shown(value: torch.Tensor) -> str:
    """Write a mean over images with its standard error."""
    return f"{value.mean():8.2f} ± {value.std() / len(value) ** 0.5:.2f} nats"


def main(
    data: str = "digits",
    *,
    observed: int = 1,
    gray: bool = False,
    epochs: int | None = None,
    samples: int = 1000,
    smoke: bool = False,
) -> pv.Evidence:
    """Train both models and score them on the test data."""
    settings = SETTINGS[data]
    epochs = 3 if smoke else epochs or settings["epochs"]
    samples, patience = 50 if smoke else samples, settings["patience"]
    images = [split.x for split in pv.load(data, binarize="gray" if gray else "static")]
    mask = quadrants(*images[0].shape[1:], observed)
    seen, hidden = ([x[:, part] for x in images] for part in (mask, ~mask))
    width, target = int(mask.sum()), int((~mask).sum())

    torch.manual_seed(0)
    network = pv.networks.MLP((width,), (target,), hidden=settings["hidden"], activation="relu")
    train_baseline(
        network, (seen[0], hidden[0]), (seen[1], hidden[1]), epochs=epochs, patience=patience
    )

    @torch.no_grad()
    def condition(seen: torch.Tensor) -> torch.Tensor:
        """What is seen, and the baseline's guess of the rest, as one flat image."""
        image = torch.empty(len(seen), mask.numel())
        image[:, mask.flatten()] = seen
        image[:, ~mask.flatten()] = network(seen).sigmoid()
        return image

    config = pv.Config(
        latent_dim=settings["latent_dim"], hidden=settings["hidden"], activation="relu"
    )
    cvae = pv.ConditionalVAE.from_config(
        config,
        event_shape=(target,),
        condition_shape=(mask.numel(),),
        data=hidden[0],
        learned_prior=True,
    )
    if gray:
        cvae.likelihood = CrossEntropy(cvae.likelihood.network)
    conditions = [condition(x) for x in seen]
    pv.fit(
        cvae,
        (hidden[0], conditions[0]),
        (hidden[1], conditions[1]),
        epochs=epochs,
        batch_size=128,
        schedule="one-cycle",
        patience=patience,
        seed=0,
    )
    evidence = pv.log_evidence(cvae.model, cvae.guide, (hidden[2], conditions[2]), samples=samples)
    cvae.cpu()

    print(f"{data}, {observed} of 4 quadrants seen, {target} pixels predicted")
    with torch.no_grad():
        baseline = score(network, seen[2], hidden[2]).double()
    scores = {
        "baseline network": baseline,
        f"conditional VAE, {samples} samples": -evidence.log_px,
        "conditional VAE, its bound (-ELBO)": -evidence.elbo,
        "baseline - conditional VAE": baseline + evidence.log_px,
    }
    for name, values in scores.items():
        print(f"-log p(x | c), {name:36}{shown(values)}")
    print()
    print(evidence)  # of log p(x) given the condition

    count, draws = 10, 4
    rows = {"seen": fill(mask, seen[2][:count], torch.full((count, target), torch.nan))}
    rows["baseline"] = conditions[2][:count].reshape(count, *mask.shape)
    for seed in range(draws):
        drawn = cvae.sample(conditions[2][:count], seed=seed, mean=True)
        rows[f"draw {seed + 1}"] = fill(mask, seen[2][:count], drawn)
    rows["truth"] = images[2][:count]
    gain = shown(scores["baseline - conditional VAE"]).strip()
    title = f"What was not seen, drawn from the conditional VAE: {gain} better than one guess"
    figure = draw(rows, title)
    print(f"\nfigure: {pv.plots.save(figure, f'quadrants-{data}-{observed}.png')}")
    return evidence


@styled()
def draw(rows: dict[str, torch.Tensor], title: str) -> Figure:
    """Show an image of each kind in every column."""
    figure = Figure((9.2, 6.6), layout="constrained")
    pv.plots.picture_rows(figure.subplots(), torch.stack(list(rows.values())), list(rows))
    return titled(figure, title, "")


def fill(mask: torch.Tensor, seen: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Put seen and hidden pixels together to images."""
    image = torch.empty(len(seen), *mask.shape)
    image[:, mask], image[:, ~mask] = seen, hidden
    return image


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=list(SETTINGS), default="digits")
    parser.add_argument("--observed", type=int, choices=(1, 2, 3), default=1, help="quadrants seen")
    parser.add_argument("--gray", action="store_true", help="score gray values, as the tutorial")
    parser.add_argument("--epochs", type=int, help="passes over the training data, at most")
    parser.add_argument("--samples", type=int, default=1000, help="importance samples per image")
    parser.add_argument("--smoke", action="store_true", help="a few epochs only")
    given = parser.parse_args()
    main(
        given.data,
        observed=given.observed,
        gray=given.gray,
        epochs=given.epochs,
        samples=given.samples,
        smoke=given.smoke,
    )
