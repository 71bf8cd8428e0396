"""Masks go where the data go: models that observe a function of their argument."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.programs.followed import Followed
from pyro_vae.programs.masks import check_hidden, mask_model

_LATENTS = 2


class Factors(nn.Module):
    """z ~ N(0, I), y | z ~ N(W z, s^2 I) with y a function of the data; log p(y_obs) is known."""

    def __init__(self, observe, width, scale=0.6):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        weight = torch.randn(_LATENTS, width, generator=generator)
        self.weight = nn.Parameter(weight)
        self.encode = nn.Linear(1, 1)
        self.observe, self.scale = observe, scale

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(_LATENTS), 1.0).to_event(1))
            self.observe(x, z @ self.weight, self.scale)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            mean = self.encode(x.flatten(1).float().mean(1, keepdim=True)) * torch.ones(_LATENTS)
            pyro.sample("z", dist.Normal(0.1 * mean, 1.0).to_event(1))

    def log_p(self, y, mask):
        """Log density of the observed values of y, row by row."""
        weight = self.weight.detach().double()
        covariance = weight.T @ weight + self.scale**2 * torch.eye(weight.shape[1]).double()
        rows = []
        for value, seen in zip(y.double(), mask, strict=True):
            normal = dist.MultivariateNormal(
                torch.zeros(int(seen.sum())).double(), covariance[seen][:, seen]
            )
            rows.append(normal.log_prob(value[seen]))
        return torch.stack(rows)


def _of(function):
    """Observe a function of the data at one site."""

    def observe(x, mean, scale):
        pyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=function(x))

    return observe


def _halves(x, mean, scale):
    pyro.sample("left", dist.Normal(mean[..., :2], scale).to_event(1), obs=x[:, 0])
    pyro.sample("right", dist.Normal(mean[..., 2:], scale).to_event(1), obs=x[..., 1, :])


def _one_by_one(x, mean, scale):
    for place, value in enumerate(x.flatten(1).unbind(-1)):
        pyro.sample(f"y{place}", dist.Normal(mean[..., place], scale), obs=value)


def _in_place(x):
    y = x.clone().view(len(x), -1)
    y *= 2
    return y.sub_(1)


def _flat(x):
    return x.flatten(1)


CASES = {
    "reshape": (_of(lambda x: x.reshape(-1, 4)), _flat),
    "flatten": (_of(_flat), _flat),
    "permute": (_of(lambda x: x.permute(0, 2, 1).flatten(1)), lambda x: x.mT.flatten(1)),
    "transposed": (_of(lambda x: x.flatten(1).T.flip(0).T), lambda x: x.flatten(1).flip(1)),
    "affine": (_of(lambda x: 2 * x.view(-1, 4) - 1), _flat),
    "divided": (_of(lambda x: x.flatten(1).div(torch.arange(1.0, 5.0))), _flat),
    "squashed": (_of(lambda x: torch.special.log1p(x.flatten(1) ** 2)), _flat),
    "joined": (_of(lambda x: torch.cat([x[:, 1], x[:, 0]], -1)), lambda x: x.flip(1).flatten(1)),
    "in place": (_of(_in_place), _flat),
    "where": (_of(lambda x: torch.where(x > 0, x, -x).flatten(1)), _flat),
    "halves": (_halves, _flat),
    "one by one": (_one_by_one, _flat),
}


def _data(rows=9):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 2, 2, generator=generator) * 1.3
    mask = torch.rand(rows, 2, 2, generator=generator) < 0.5
    mask[:, 0, 1] = True
    return x, mask


_VALUES = {  # what the program makes of the values, where it is not themselves
    "affine": lambda y: 2 * y - 1,
    "in place": lambda y: 2 * y - 1,
    "divided": lambda y: y / torch.arange(1.0, 5.0),
    "squashed": lambda y: (1 + y**2).log(),
    "where": torch.abs,
}


@pytest.mark.parametrize("name", CASES)
def test_evidence_of_the_observed_values(name, no_unreliable_warning):
    """Against the closed form, 5 standard errors."""
    observe, moved = CASES[name]
    x, mask = _data()
    program = Factors(observe, 4)
    y, seen = _VALUES.get(name, lambda y: y)(moved(x)), moved(mask)
    exact = program.log_p(y, seen)
    hidden = x.masked_fill(~mask, math.nan)
    result = pv.log_evidence(
        program.model, program.guide, hidden, mask=mask, samples=4000, method="laplace"
    )
    assert ((result.log_px - exact).abs() < 5 * result.standard_error + 1e-4).all()
    masked = pv.Masked(program)
    same = pv.log_evidence(masked.model, masked.guide, (x, mask), samples=4000, method="laplace")
    assert torch.equal(same.log_px, result.log_px)


def test_cast_of_integers(no_unreliable_warning):
    """Bytes observed as numbers between 0 and 1, for images of which some pixels are missing."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(256, (6, 4), generator=generator, dtype=torch.uint8)
    mask = torch.rand(6, 4, generator=generator) < 0.6
    mask[:, 2] = True
    program = Factors(_of(lambda x: x.float() / 255), 4)
    densities = _densities(program, x, mask)
    z, density = densities["z"]
    expected = dist.Normal(z @ program.weight, program.scale).log_prob(x / 255)
    torch.testing.assert_close(densities["y"][1], torch.where(mask, expected, 0).sum(-1))
    assert (density == dist.Normal(0.0, 1.0).log_prob(z).sum(-1)).all()


def _densities(program, x, mask):
    trace = pyro.poutine.trace(mask_model(program.model)).get_trace(x, mask)
    trace.compute_log_prob()
    return {
        name: (site["value"], site["log_prob"])
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and "log_prob" in site
    }


@pytest.mark.parametrize(
    "name", ["reshape", "halves", pytest.param("squashed", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_training_by_the_observed_values(name, compiled):
    """What is hidden has no effect, what the mask says has; compiled steps do the same."""
    x, mask = _data(32)
    histories = []
    for hidden, seen in ((0.0, mask), (math.nan, mask), (0.0, torch.ones_like(mask))):
        torch.manual_seed(0)
        program = pv.Masked(Factors(CASES[name][0], 4))
        batch = (x.masked_fill(~mask, hidden), seen)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pv.PyroVAEWarning)
            history = pv.fit(
                program, batch, epochs=2, batch_size=16, compiled=compiled, device="cpu"
            )
        histories.append(history.epochs[-1].train_elbo)
    assert histories[0] == histories[1]
    assert abs(histories[0] - histories[2]) > 0.5


@pytest.mark.parametrize(
    ("function", "by"),
    [
        (lambda x: (x - x.mean((1, 2), keepdim=True)).flatten(1), "mean"),
        (lambda x: x.flatten(1).cumsum(-1), "cumsum"),
        (lambda x: (x @ x).flatten(1), "matmul"),
        (lambda x: torch.cat([x[:, 0] + x[:, 1], x[:, 0]], -1), "add"),
        (lambda x: x.flatten(1).sort(-1).values, "sort"),
    ],
)
def test_observations_made_of_several_values_are_refused(function, by):
    x, mask = _data()
    program = Factors(_of(function), 4)
    with pytest.raises(ValueError, match=rf"site 'y' observes values made of several .*by {by}"):
        pv.log_evidence(program.model, program.guide, x, mask=mask, samples=10)


def test_a_mask_of_nothing_is_refused():
    x, mask = _data()
    aside = torch.randn(len(x), 4)
    away = Factors(_of(lambda x: aside[: len(x)]), 4)
    copied = Factors(_of(lambda x: torch.tensor(x.flatten(1).tolist())), 4)
    for program in (away, copied):
        with pytest.raises(ValueError, match="no site of the model observes the data"):
            pv.log_evidence(program.model, program.guide, x, mask=mask, samples=10)
        with pytest.raises(ValueError, match="no site of the model observes the data"):
            pv.fit(pv.Masked(program), (x, mask), epochs=1, device="cpu")


def test_models_that_read_missing_values_are_refused():
    """Each value given the one before it, zeros where that is missing: no p(x_obs)."""

    def observe(x, mean, scale):
        y = x.flatten(1)
        before = nn.functional.pad(y[:, :-1], (1, 0))
        pyro.sample("y", dist.Normal(mean + before, scale).to_event(1), obs=y)

    x, mask = _data()
    program = Factors(observe, 4)
    masked = pv.Masked(program)
    for attempt in (
        lambda: pv.log_evidence(program.model, program.guide, x, mask=mask, samples=10),
        lambda: pv.log_evidence(masked.model, masked.guide, (x, mask), samples=10),
        lambda: pv.fit(masked, (x, mask), epochs=1, device="cpu"),
    ):
        with pytest.raises(ValueError, match="'y' changes with what stands in place of missing"):
            attempt()
    check_hidden(program.model, program.guide, (x,))  # nothing is missing
    check_hidden(masked.model, masked.guide, (x, torch.ones_like(mask)))


def test_quantities_of_the_data_beside_the_observation():
    """What a model records of the data, or asks of their form, is no observation of them."""

    def observe(x, mean, scale):
        pyro.deterministic("middle", x.flatten(1).mean(-1))
        noise = torch.zeros_like(x).reshape(-1, 4) + x.new_ones(4)
        pyro.sample("noise", dist.Normal(0.0, 1.0).expand([4]).to_event(1), obs=noise)
        pyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=noise * 0 + x.reshape(-1, 4))

    x, mask = _data()
    found = _densities(Factors(observe, 4), x, mask)
    torch.testing.assert_close(
        found["noise"][1], dist.Normal(0.0, 1.0).log_prob(torch.tensor(1.0)).mul(4).expand(len(x))
    )
    z, _ = found["z"]
    program = Factors(observe, 4)
    terms = dist.Normal(z @ program.weight, program.scale).log_prob(x.flatten(1))
    torch.testing.assert_close(found["y"][1], torch.where(mask.flatten(1), terms, 0).sum(-1))


@pytest.mark.parametrize("name", ["permute", "squashed", "halves"])
def test_compiled_evidence_of_the_observed_values(name, no_unreliable_warning):
    x, mask = _data(70)
    program = Factors(CASES[name][0], 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pv.PyroVAEWarning)  # no falling back
        warnings.simplefilter("ignore", pv.UnreliableEvidence)
        one, two = (
            pv.log_evidence(
                program.model, program.guide, x, mask=mask, samples=40, compiled=compiled
            )
            for compiled in (False, True)
        )
    torch.testing.assert_close(one.log_px, two.log_px, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 3)])
def test_the_greatest_value_is_not_each(shape):
    """``max`` of one argument makes fewer values, of two one for each."""
    x = torch.randn(shape)
    mask = torch.ones(shape, dtype=torch.bool)
    with Followed(x, mask) as followed:
        fewer = (x.max(), x.amax(0), x.max(0).values)
        each = x.max(torch.zeros(shape))
    for value in fewer:
        assert not isinstance(followed.mask_of(value), torch.Tensor)
    assert torch.equal(followed.mask_of(each), mask)
