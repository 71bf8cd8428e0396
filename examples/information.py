"""Surprise, entropy and the KL divergence: what every number of this package is made of.

The surprise of an outcome is -log p; entropy is the surprise to expect, and the least mean length
of a message; KL(P || Q) is how much more of both there is for whoever believes in Q while P is
true. Everything comes from Pyro's distributions: log_prob, entropy and torch's kl_divergence.
"""

import argparse
import heapq
import math

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import kl_divergence

import pyro_vae as pv
from pyro_vae.common.tables import align
from pyro_vae.plots.style import BLUE, EDGE, GREY, INK, MUTED, ORANGE, Figure, styled, titled

BIT = math.log(2)  # nats
COINS = {"fair": dist.Bernoulli(0.5), "biased": dist.Bernoulli(0.9)}
SEQUENCES = ("HTTHTHHTTH", "HHHHHHTHHH")
P = {"a": 0.25, "b": 0.25, "c": 0.5}
Q = {"a": 0.5, "b": 0.25, "c": 0.25}


def coins() -> dict[str, float]:
    """Print how surprising two sequences are under two coins, in bits."""
    numbers = {}
    rows = [["sequence", *(f"{name} coin" for name in COINS), "evidence for biased"]]
    for sequence in SEQUENCES:
        heads = torch.tensor([float(flip == "H") for flip in sequence])
        fair, biased = (-coin.log_prob(heads).sum().item() / BIT for coin in COINS.values())
        rows.append(
            [sequence, f"{fair:.2f} bits", f"{biased:.2f} bits", f"{fair - biased:+.2f} bits"]
        )
        numbers |= {f"{sequence}, fair": fair, f"{sequence}, biased": biased}
    entropies = {name: coin.entropy().item() / BIT for name, coin in COINS.items()}
    rows.append(["entropy of a flip", *(f"{h:.2f} bits" for h in entropies.values()), ""])
    print("Surprise: to a fair coin all sequences are alike; a biased one, P(H) = 0.9, expects H\n")
    print(*align(rows), sep="\n")
    return numbers | {f"entropy, {name} coin": h for name, h in entropies.items()}


def huffman(probabilities: dict[str, float]) -> dict[str, str]:
    """Return the prefix code of least mean length: join the two rarest until one is left."""
    heap = [(p, i, {letter: ""}) for i, (letter, p) in enumerate(probabilities.items())]
    heapq.heapify(heap)
    for i in range(len(heap), 2 * len(heap) - 1):
        (p, _, zero), (q, _, one) = heapq.heappop(heap), heapq.heappop(heap)
        joined = {key: "0" + word for key, word in zero.items()}
        joined |= {key: "1" + word for key, word in one.items()}
        heapq.heappush(heap, (p + q, i, joined))
    return heap[0][2]


def messages() -> dict[str, float]:
    """Print codes for letters, whose mean length is the entropy if they fit the letters."""
    p, q = (dist.Categorical(torch.tensor(list(letters.values()))) for letters in (P, Q))
    codes = {"code for P": huffman(P), "code for Q": huffman(Q)}
    means = {
        name: sum(P[letter] * len(word) for letter, word in code.items())
        for name, code in codes.items()
    }
    entropy, excess = p.entropy().item() / BIT, kl_divergence(p, q).item() / BIT
    rows = [["letter", "P", "surprise", "Q", *codes]]
    for i, letter in enumerate(P):
        bits = f"{-p.log_prob(torch.tensor(i)).item() / BIT:.2f} bits"
        words = [code[letter] for code in codes.values()]
        rows.append([letter, f"{P[letter]:.2f}", bits, f"{Q[letter]:.2f}", *words])
    lengths = [f"{mean:.2f} bits" for mean in means.values()]
    rows.append(["mean under P", "", f"{entropy:.2f} bits", "", *lengths])
    print(
        "\nMessage length: at best the entropy, KL(P || Q) = "
        f"{excess:.2f} bits more by a code for Q\n"
    )
    print(*align(rows), sep="\n")
    return means | {"entropy of a letter": entropy, "excess": excess}


def asymmetry() -> dict[str, float]:
    """Print both divergences of two distributions, and what is often printed for them."""
    p = torch.tensor([0.36, 0.48, 0.16], dtype=torch.float64)
    one, uniform = dist.Categorical(p), dist.Categorical(torch.full_like(p, 1 / 3))
    nats = kl_divergence(one, uniform).item(), kl_divergence(uniform, one).item()
    q = torch.full_like(p, 0.33)  # adds up to .99: these are no divergences
    printed = (p * (p / q).log10()).sum().item(), (q * (q / p).log10()).sum().item()
    rows = [
        ["P = (.36, .48, .16), Q uniform", "KL(P || Q)", "KL(Q || P)"],
        ["nats", *(f"{kl:.4f}" for kl in nats)],
        ["bits", *(f"{kl / BIT:.4f}" for kl in nats)],
        ["base 10", *(f"{kl / math.log(10):.4f}" for kl in nats)],
        ["base 10, Q of .33: .0414 and .0375 in print", *(f"{kl:.5f}" for kl in printed)],
    ]
    pairs = dist.Dirichlet(torch.full((3,), 0.5, dtype=torch.float64)).sample((2, 10_000))
    least = kl_divergence(dist.Categorical(pairs[0]), dist.Categorical(pairs[1])).min().item()
    print("\nKL divergence: expected excess surprise, not symmetric\n")
    print(*align(rows), sep="\n")
    print(f"\nleast of 10,000 random pairs: {least:.0e} nats; none is below 0")
    return {
        "KL(P || Q)": nats[0],
        "KL(Q || P)": nats[1],
        "in print, KL(P || Q)": printed[0],
        "in print, KL(Q || P)": printed[1],
        "least KL": least,
    }


def normals(dim: int = 5) -> dict[str, tuple[dist.TorchDistribution, dist.TorchDistribution]]:
    """Return pairs of normals: an encoder's and the prior, and two of full covariance."""
    zero, one = torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64)
    loc, scale = 0.7 * torch.randn_like(zero), (0.3 * torch.randn_like(zero)).exp()
    factors = 0.3 * torch.randn(2, dim, dim, dtype=torch.float64)
    covariances = factors @ factors.mT + torch.diag(scale)
    return {
        "diagonal || N(0, I)": (dist.Normal(loc, scale), dist.Normal(zero, one)),
        "full || full": (
            dist.MultivariateNormal(loc, covariances[0]),
            dist.MultivariateNormal(zero, covariances[1]),
        ),
    }


def closed_forms(samples: int) -> dict[str, float]:
    """Print closed-form divergences of normals beside the mean of log p - log q over draws."""
    numbers = {}
    rows = [["normals in 5 dimensions", "closed form", f"mean of {samples:,} draws", "in errors"]]
    for name, (p, q) in normals().items():
        draws = p.sample((samples,))
        excess = (p.log_prob(draws) - q.log_prob(draws)).reshape(samples, -1).sum(-1)
        mean, error = excess.mean().item(), excess.std().item() / math.sqrt(samples)
        exact = kl_divergence(p, q).sum().item()
        deviation = (mean - exact) / error
        rows.append([name, f"{exact:.4f}", f"{mean:.4f} ± {error:.4f}", f"{deviation:+.1f}"])
        numbers |= {f"KL, {name}": exact, f"in errors, {name}": deviation}
        if isinstance(p, dist.Normal):
            terms = p.mean**2 + p.stddev**2 - (p.stddev**2).log() - 1
            numbers["half sum"] = half = terms.sum().item() / 2
            rows.append(["  +½ Σ(μ² + σ² - log σ² - 1)", f"{half:.4f}", "", ""])
            rows.append(["  -½ Σ(...), much copied", f"{-half:.4f}", "no KL is negative", ""])
    print("\nBetween normals, in nats\n")
    print(*align(rows), sep="\n")
    return numbers


def main(*, smoke: bool = False) -> dict[str, float]:
    """Print the tables, draw the figure, and return the numbers by name."""
    pyro.set_rng_seed(0)
    numbers = coins() | messages() | asymmetry() | closed_forms(100_000 if smoke else 1_000_000)
    print(f"\nfigure: {pv.plots.save(draw(), 'information.png')}")
    return numbers


@styled()
def draw() -> Figure:
    """Show the entropy of a coin, and the excess surprise between two normals, both ways."""
    figure = Figure((13.2, 4.2), layout="constrained")
    left, *others = figure.subplots(1, 3)
    probability = torch.linspace(1e-4, 1 - 1e-4, 501)
    left.plot(probability, dist.Bernoulli(probability).entropy() / BIT, color=GREY)
    for colour, (name, coin) in zip((BLUE, ORANGE), COINS.items(), strict=True):
        bits = coin.entropy().item() / BIT
        left.plot(coin.probs, bits, "o", color=colour, markersize=8)
        x, y, side = (0.5, 0.9, "center") if name == "fair" else (0.86, bits, "right")
        left.text(x, y, f"{name} {bits:.2f}", color=colour, ha=side, va="center")
    left.set(title="Entropy of a coin", xlabel="P(heads)", ylabel="bits", ylim=(0, 1.08))
    left.grid(axis="y")

    z = torch.linspace(-5, 6, 1101)
    pair = dist.Normal(-0.8, 0.8), dist.Normal(0.6, 1.4)
    for axes, names, (p, q) in zip(others, ("PQ", "QP"), (pair, pair[::-1]), strict=True):
        excess = p.log_prob(z).exp() * (p.log_prob(z) - q.log_prob(z))
        axes.fill_between(z, excess, where=excess > 0, color=ORANGE, alpha=0.55, linewidth=0)
        axes.fill_between(z, excess, where=excess < 0, color=BLUE, alpha=0.45, linewidth=0)
        axes.plot(z, p.log_prob(z).exp(), color=INK)
        axes.plot(z, q.log_prob(z).exp(), color=GREY, linestyle=(0, (3, 1.5)))
        axes.set_title(f"KL({names[0]} || {names[1]}) = {kl_divergence(p, q):.2f} nats")
        axes.set(xlabel="z", xlim=(-5, 6), ylim=(-0.22, 0.92))
        axes.axhline(0, color=EDGE, linewidth=1)
        lines = [(f"{names[0]}, true", INK), (f"{names[1]}, believed", MUTED)]
        lines += [("more surprise", ORANGE), ("less surprise", BLUE)]
        left_of = 0.03 if names == "QP" else 0.66  # where the curves leave room
        for i, (text, colour) in enumerate(lines):
            axes.text(left_of, 0.93 - 0.08 * i, text, color=colour, transform=axes.transAxes)
    others[0].set_ylabel("density, and its excess surprise")
    title = "Entropy is expected surprise; KL is expected excess surprise, and not symmetric"
    return titled(figure, title, "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="fewer draws")
    main(smoke=parser.parse_args().smoke)
