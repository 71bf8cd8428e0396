"""What shows in some of the data only: other sites, company that matters, missing values."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_vae as pv

NOISE = 0.5


def check(evidence, exact, *, errors=4.5):
    distance = (evidence.log_px - exact).abs()
    good = ~evidence.unreliable()
    assert good.double().mean() > 0.8
    assert (distance / (evidence.standard_error + 1e-6))[good].max() < errors


def chain(x, lengths):
    """A random walk as long as the longest of the data at hand, masked beyond each length."""
    z = torch.zeros(len(x)).double()
    with pyro.plate("data", len(x)):
        for t in range(int(lengths.max())):
            with poutine.mask(mask=t < lengths):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, NOISE), obs=x[:, t])


def chain_guide(x, lengths):
    with pyro.plate("data", len(x)):
        for t in range(int(lengths.max())):
            with poutine.mask(mask=t < lengths):
                pyro.sample(f"z{t}", dist.Normal(0.8 * x[:, t], 0.6))


def of_chain(x, lengths):
    steps = torch.arange(1.0, x.shape[1] + 1).double()
    covariance = torch.minimum(steps[:, None], steps) + NOISE**2 * torch.eye(len(steps))
    return torch.stack(
        [
            dist.MultivariateNormal(torch.zeros(n).double(), covariance[:n, :n]).log_prob(row[:n])
            for row, n in zip(x, lengths.tolist(), strict=True)
        ]
    )


@pytest.mark.parametrize(
    "lengths",
    [
        torch.tensor([3, 1, 2, 2, 3]),
        torch.tensor([1, 2, 1, 2, 3]),  # longer than the first three
        torch.tensor([1] * 64 + [3] * 16),  # in the second block
        torch.tensor([3] * 4 + [1] * 76),
    ],
    ids=["mixed", "longest last", "longer in another block", "longest first"],
)
@pytest.mark.parametrize("method", ["guide", "laplace"])
def test_sites_that_only_long_data_have(lengths, method):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(lengths), 3, generator=generator).double().cumsum(1)
    evidence = pv.log_evidence(chain, chain_guide, (x, lengths), method=method, samples=4000)
    check(evidence, of_chain(x, lengths))


def test_sites_that_show_too_late_are_named():
    """One long sequence of many, which is not among those that are looked at beforehand."""
    lengths = torch.ones(3000, dtype=torch.long)
    lengths[2900] = 3
    x = torch.zeros(3000, 3).double()
    with pytest.raises(ValueError, match=r"data from 2880 on have latent sites .*'z1', 'z2'"):
        pv.log_evidence(chain, chain_guide, (x, lengths), samples=2, search=False)


def test_enumerated_sites_that_only_long_data_have():
    """Exact by the sum over 2^3 paths."""
    move = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).double()
    places = torch.tensor([-1.0, 1.0]).double()

    def model(x, lengths):
        with pyro.plate("data", len(x)):
            state = torch.zeros(len(x), dtype=torch.long)
            for t in pyro.markov(range(int(lengths.max()))):
                with poutine.mask(mask=t < lengths):
                    state = pyro.sample(
                        f"s{t}", dist.Categorical(move[state]), infer={"enumerate": "parallel"}
                    )
                    pyro.sample(f"x{t}", dist.Normal(places[state], 1.0), obs=x[:, t])

    lengths = torch.tensor([1, 1, 1, 2, 3])
    x = torch.linspace(-2, 2, 15).double().reshape(5, 3)
    exact = []
    for row, n in zip(x, lengths.tolist(), strict=True):
        alpha = move[0].log()
        for t in range(n):
            alpha = alpha if not t else (alpha[:, None] + move.log()).logsumexp(0)
            alpha = alpha + dist.Normal(places, 1.0).log_prob(row[t])
        exact.append(alpha.logsumexp(0))
    evidence = pv.log_evidence(model, lambda x, lengths: None, (x, lengths), samples=2)
    torch.testing.assert_close(evidence.log_px, torch.stack(exact))


def test_company_of_data_in_other_blocks():
    """The number of classes is read from the data at hand, which are sorted."""

    def model(y):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            classes = int(y.max()) + 1
            pyro.sample("y", dist.Categorical(torch.ones(len(y), classes)), obs=y)
            pyro.sample("one", dist.Normal(z, 1.0), obs=torch.ones(len(y)).double())

    def guide(y):
        with pyro.plate("data", len(y)):
            pyro.sample("z", dist.Normal(torch.tensor(0.5).double(), 0.8))

    y = torch.arange(3).repeat_interleave(64)
    with pytest.raises(ValueError, match="when the data beside it are others"):
        pv.log_evidence(model, guide, y, samples=10)


@pytest.mark.parametrize("rows", [[4, 4, 2, 3, 4], [0, 1, 2, 3, 3], [1, 1, 2, 3, 4]])
def test_company_in_programs_of_so_many_data_alone(rows):
    """Rows that read each other's latents are one data set, whichever rows they are."""
    x = torch.tensor([0.3, -0.5, 1.2, 0.1, 2.0]).double()

    def model(x):
        with pyro.plate("data", 5):
            b = pyro.sample("b", dist.Normal(torch.zeros(5).double(), 1.0))
            pyro.sample("x", dist.Normal(b[..., rows], NOISE), obs=x)

    def guide(x):
        with pyro.plate("data", 5):
            pyro.sample("b", dist.Normal(torch.zeros(5).double(), 1.0))

    reads = torch.nn.functional.one_hot(torch.tensor(rows), 5).double()
    covariance = reads @ reads.T + NOISE**2 * torch.eye(5).double()
    exact = dist.MultivariateNormal(torch.zeros(5).double(), covariance).log_prob(x)
    evidence = pv.log_evidence(model, guide, x, method="laplace", samples=2000)
    assert evidence.data_set == 5
    assert (evidence.log_px - exact).abs() < 4.5 * evidence.standard_error + 1e-6


def test_values_that_are_missing_late_are_looked_at():
    """Column 1 has column 0 in its mean, which is missing from datum 90 on."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            mean = torch.stack(torch.broadcast_tensors(z, z + x[:, 0]), -1)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))

    x, mask = torch.ones(200, 2).double(), torch.ones(200, 2, dtype=torch.bool)
    mask[190:, 0] = False
    with pytest.raises(ValueError, match="changes with what stands in place of missing values"):
        pv.log_evidence(model, guide, x, mask=mask, samples=10, search=False)


def test_discrete_guides_narrower_than_the_model():
    """Refused by itself; draws of the prior have no density there, and make it right."""

    def program(x, classes):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(classes).double()))
            if classes == 3:
                pyro.sample("x", dist.Normal(c.double(), 1.0), obs=x)

    x = torch.linspace(0, 3, 6).double()
    given = (lambda x: program(x, 3), lambda x: program(x, 2), x)
    with pytest.raises(ValueError, match=r"latent site 'c' has support .* only"):
        pv.log_evidence(*given)
    classes = torch.arange(3).double()
    exact = dist.Normal(classes, 1.0).log_prob(x[:, None]).logsumexp(-1) - math.log(3)
    for options in ({"method": "auto"}, {"defensive": 0.1}):
        check(pv.log_evidence(*given, samples=20_000, **options), exact)


@pytest.mark.parametrize("one_hot", [True, False])
@pytest.mark.parametrize("summed", [True, False])
def test_classes_without_probability(summed, one_hot):
    """Torch takes them for 1e-7, which a datum far from all others makes the best."""
    shares, places = torch.tensor([0.0, 0.6, 0.4]), torch.tensor([-3.0, 0.0, 3.0])
    infer = {"enumerate": "parallel"} if summed else {}
    of_classes = dist.OneHotCategorical if one_hot else dist.Categorical

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", of_classes(shares), infer=infer)
            z = pyro.sample("z", dist.Normal(c @ places if one_hot else places[c], 0.5))
            pyro.sample("x", dist.Normal(z, 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            if not summed:
                pyro.sample("c", of_classes(torch.ones(3) / 3))
            pyro.sample("z", dist.Normal(0.7 * x, 1.0))

    x = torch.tensor([-4.0, 0.5, 2.8])
    log_p = dist.Normal(places, math.hypot(0.5, 0.3)).log_prob(x[:, None])
    exact = (shares.log() + log_p).logsumexp(-1).double()
    evidence = pv.log_evidence(model, guide, x, method="auto", samples=4000)
    check(evidence, exact, errors=5)
