"""Packed sequences as arguments: the data are their sequences, in the order that they came in."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import pyro_vae as pv

LENGTHS = torch.tensor([2, 3, 1, 3, 2])
STEPS = 3
SEEN = torch.arange(STEPS) < LENGTHS[:, None]
X = torch.randn(5, STEPS, generator=torch.Generator().manual_seed(1)).double() * SEEN
PACKED = pack_padded_sequence(X[..., None], LENGTHS, batch_first=True, enforce_sorted=False)


class Drift(nn.Module):
    """A random walk that is seen with noise; a recurrent network reads the packed sequences."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.GRU(1, 6, batch_first=True).double()
        self.head = nn.Linear(6, 2).double()

    def model(self, x, seen, packed=None):
        before = torch.zeros(len(x)).double()
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                there = seen[:, t : t + 1]  # over the event, as in Pyro's deep Markov model
                step = dist.Normal(before[..., None], 1.0).mask(there).to_event(1)
                before = pyro.sample(f"z_{t}", step)[..., 0]
                pyro.sample(f"x_{t}", dist.Normal(before, 0.5).mask(seen[:, t]), obs=x[:, t])

    def guide(self, x, seen, packed):
        states, _ = self.network(packed)
        states, _ = pad_packed_sequence(states, batch_first=True)
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                loc, raw = self.head(states[:, t]).chunk(2, -1)
                scale = nn.functional.softplus(raw) + 0.8
                pyro.sample(f"z_{t}", dist.Normal(loc, scale).to_event(1).mask(seen[:, t]))


def closed_form():
    """Sums of independent steps, and noise: jointly normal."""
    walk = torch.ones(STEPS, STEPS).double().tril()
    covariance = walk @ walk.T + 0.25 * torch.eye(STEPS).double()
    found = []
    for x, length in zip(X, LENGTHS.tolist(), strict=True):
        part = covariance[:length, :length]
        law = dist.MultivariateNormal(torch.zeros(length).double(), part)
        found.append(law.log_prob(x[:length]))
    return torch.stack(found)


@pytest.mark.parametrize("method", ["guide", "laplace"])
def test_evidence(method):
    """Sequences shorter than the longest one, alone in a chunk, have all its steps."""
    program = Drift()
    found = pv.log_evidence(
        program.model,
        program.guide,
        (X, SEEN, PACKED),
        samples=5000 if method == "guide" else 100,
        method=method,
        seed=3,
        progress=False,
    )
    assert ((found.log_px - closed_form()).abs() <= 5 * found.standard_error).all()
    assert (found.standard_error < 0.1).all()


def test_rows_go_with_their_sequences():
    """Some of the data in another order, packed anew."""
    program, some = Drift(), torch.tensor([2, 0, 3])
    packed = pack_padded_sequence(
        X[some, :, None], LENGTHS[some], batch_first=True, enforce_sorted=False
    )
    found = pv.log_evidence(
        program.model,
        program.guide,
        (X[some], SEEN[some], packed),
        samples=5000,
        method="guide",
        progress=False,
    )
    error = (found.log_px - closed_form()[some]).abs()
    assert (error <= 5 * found.standard_error).all()


def test_sorted_and_alone():
    """A sequence that is the only argument, packed in the order of lengths."""

    def model(packed):
        x, lengths = pad_packed_sequence(packed, batch_first=True)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            seen = torch.arange(x.shape[1]) < lengths[:, None]
            pyro.sample("x", dist.Normal(z[..., None], 1.0).mask(seen).to_event(1), obs=x)

    def guide(packed):
        x, lengths = pad_packed_sequence(packed, batch_first=True)
        with pyro.plate("data", len(x)):
            loc, scale = x.sum(1) / (lengths + 1), (lengths + 1.0) ** -0.5
            pyro.sample("z", dist.Normal(loc, scale))

    sequences = [torch.tensor([1.0, -0.5, 2.0]), torch.tensor([0.3]), torch.tensor([-1.0])]
    found = pv.log_evidence(model, guide, pack_sequence(sequences), samples=20, progress=False)
    for log_px, x in zip(found.log_px, sequences, strict=True):
        covariance = torch.eye(len(x)) + 1.0
        law = dist.MultivariateNormal(torch.zeros(len(x)), covariance)
        assert log_px.item() == pytest.approx(law.log_prob(x).item(), abs=1e-5)


def test_training():
    """``fit`` takes mini-batches of the sequences; the ELBO rises."""
    program = Drift()
    history = pv.fit(
        pv.as_program(program.model, program.guide, X, SEEN, PACKED),
        (X, SEEN, PACKED),
        batch_size=3,
        epochs=30,
        learning_rate=1e-2,
        progress=False,
    )
    assert history.epochs[-1].train_elbo > history.epochs[0].train_elbo + 1
    assert history.epochs[-1].train_elbo < closed_form().mean() + 0.3  # a bound, and noise


def test_certificate():
    program = Drift()
    certificate = pv.certify(
        program.model,
        program.guide,
        (X, SEEN, PACKED),
        number=3,
        samples=100,
        annealing=pv.Annealing(temperatures=15, chains=4),
        progress=False,
    )
    gap, error = certificate.gap
    assert -5 * error - 0.01 < gap < 0.3
