"""Small programs in the style of Pyro's tutorials and tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer import autoguide as auto
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

import pyro_vae as pv

from .base import ARGUMENT, DISCRETE, Brought, Source, case, train
from .references import (
    Reference,
    by_quadrature,
    by_traces,
    by_weights,
    exactly,
    log_mean,
)

__all__: list[str] = []

GLOBAL = r"global latent|shared by all|log p\((D|data)\)|whole data set"
"""Words of a refusal of a method that takes no latents of all data together."""

JOINT = r"of all data together"
"""Words of a refusal of a guide that does not factor over the data."""

OTHER_DATA = r"automatic guide knows"
"""Words of a refusal of other data than those that an AutoGuide was trained on."""

DELTA = r"Delta|point (mass|estimate)"
NUMBER = 6


class Decoder(nn.Module):
    """p(x | z) of the programs here: linear and Gaussian, so that log p(x) is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z)

    def log_px(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        weight, bias = self.linear.weight.double(), self.linear.bias.double()
        covariance = weight @ weight.T + 0.25 * torch.eye(3, dtype=torch.float64)
        if seen is None:
            return dist.MultivariateNormal(bias, covariance).log_prob(x.double())
        total = []
        for row, mask in zip(x.double(), seen, strict=True):
            if mask.any():
                part = dist.MultivariateNormal(bias[mask], covariance[mask][:, mask])
                total.append(part.log_prob(row[mask]))
            else:
                total.append(torch.zeros((), dtype=torch.float64))
        return torch.stack(total)


class Encoder(nn.Module):
    """q(z | x) of the programs here."""

    def __init__(self, given: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(given, 4)

    def forward(self, x: Tensor) -> Any:
        loc, scale = self.linear(x).chunk(2, -1)
        return dist.Normal(loc, scale.exp()).to_event(1)


def _prior() -> Any:
    return dist.Normal(torch.zeros(2), 1.0).to_event(1)


def _data(number: int = NUMBER) -> Tensor:
    return torch.randn(number, 3)


def _local(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: tuple[Any, ...],
    reference: Callable[[], Tensor | Reference],
    **fields: Any,
) -> Brought:
    steps = 600 if isinstance(guide, auto.AutoGuide) else 300
    rate = 0.05 if isinstance(guide, auto.AutoGuide) else 0.02
    train(model, guide, data, steps=steps, learning_rate=rate, objective=fields.get("objective"))
    found = reference()
    if isinstance(found, Tensor):
        found = exactly(found)
    return Brought(model, guide, data, found, **fields)


# Plates, arguments and masks.


@case("plate without a size", "`pyro.plate('data')` takes its size from the sites")
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data"):
            pyro.sample("z", encoder(x))

    x = _data()
    return _local(model, guide, (x,), lambda: decoder.log_px(x))


@case("y=None, given", "`model(x, y=None)` called with both")
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder(4)

    def model(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _prior())
            pyro.sample("y", dist.Normal(decoder(z) + x, 0.5).to_event(1), obs=y)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", encoder(torch.cat([x, y.mean(-1, keepdim=True)], -1)))  # type: ignore[union-attr]

    x, y = _data(), _data()
    return _local(model, guide, (x, y), lambda: decoder.log_px(y - x))


@case(
    "y=None, left out",
    "the label is a discrete latent then, summed out by the guide",
    auto=DISCRETE,
    certify=DISCRETE,
)
def _(source: Source) -> Brought:
    decoder, encoder, classifier = Decoder(), Encoder(5), nn.Linear(3, 2)

    def model(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(2) / 2), obs=y)
            z = pyro.sample("z", _prior())
            loc = decoder(z) + y[..., :1]  # type: ignore[index]
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    @config_enumerate
    def guide(x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("encoder", encoder)
        pyro.module("classifier", classifier)
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=classifier(x)))
            shape = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])  # type: ignore[union-attr]
            both = torch.cat([x.expand(*shape, 3), y.expand(*shape, 2)], -1)  # type: ignore[union-attr]
            pyro.sample("z", encoder(both))

    x = _data()

    def reference() -> Tensor:
        first = decoder.log_px(x - 1).logaddexp(decoder.log_px(x))
        return first - math.log(2)

    objective = TraceEnum_ELBO(max_plate_nesting=1)
    ours = pv.EnumeratedELBO()
    return _local(model, guide, (x,), reference, objective=objective, ours=ours)


@case("masked values", "`.mask(seen)` over the values of each datum")
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor, seen: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).mask(seen).to_event(1), obs=x)

    def guide(x: Tensor, seen: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", encoder(x * seen))

    x = _data()
    seen = torch.rand(x.shape) < 0.7
    return _local(model, guide, (x, seen), lambda: decoder.log_px(x, seen))


@case("masked sequences", "latents and values beyond a sequence's length are masked")
def _(source: Source) -> Brought:
    encoder = nn.Linear(4, 8)
    lengths = torch.tensor([1, 2, 3, 4, 2, 4])

    def model(x: Tensor, lengths: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z: Tensor | float = 0.0
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
                    pyro.sample(f"x_{t}", dist.Normal(z, scale), obs=x[:, t])

    def guide(x: Tensor, lengths: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                with poutine.mask(mask=t < lengths):
                    pyro.sample(f"z_{t}", dist.Normal(loc[..., t], scale[..., t].exp()))

    x = torch.randn(len(lengths), 4).cumsum(1)

    def reference() -> Tensor:
        steps = torch.arange(1.0, 5.0, dtype=torch.float64)
        noise = pyro.param("scale").detach().double().square()
        covariance = torch.minimum(steps[:, None], steps) + noise * torch.eye(4)
        return torch.stack(
            [
                dist.MultivariateNormal(
                    torch.zeros(n, dtype=torch.float64), covariance[:n, :n]
                ).log_prob(row[:n].double())
                for row, n in zip(x, lengths.tolist(), strict=True)
            ]
        )

    return _local(model, guide, (x, lengths), reference)


@case(
    "subsampled plate",
    "`pyro.plate('data', N, B)` subsamples inside",
    every=r"subsampl|any number of data",
)
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x), min(4, len(x))) as index:
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x[index])

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x), min(4, len(x))) as index:
            pyro.sample("z", encoder(x[index]))

    x = _data()
    return _local(model, guide, (x,), lambda: decoder.log_px(x))


@case("minibatch of a plate", "`pyro.plate('data', size, len(x))`: a scale that is not of the data")
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", 100, len(x)):
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", 100, len(x)):
            pyro.sample("z", encoder(x))

    x = _data()
    return _local(model, guide, (x,), lambda: decoder.log_px(x), scale=100 / len(x))


@case("annealed by poutine.scale", "a weight on the latent's terms is no part of log p(x)")
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor, beta: float = 0.5) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=beta):
                z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor, beta: float = 0.5) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)), poutine.scale(scale=beta):
            pyro.sample("z", encoder(x))

    x = _data()
    return _local(model, guide, (x,), lambda: decoder.log_px(x))


@case("a number as argument", "`model(x, noise)` with a float: no tensor, no data", every=ARGUMENT)
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor, noise: float) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    def guide(x: Tensor, noise: float) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", encoder(x))

    x = _data()
    return _local(model, guide, (x, 0.5), lambda: decoder.log_px(x))


@case(
    "a dict as argument",
    "`model(batch)` with a dict of tensors, as many loaders give",
    every=ARGUMENT,
)
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(batch: dict[str, Tensor]) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(batch["x"])):
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=batch["x"])

    def guide(batch: dict[str, Tensor]) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", encoder(batch["x"]))

    x = _data()
    return _local(model, guide, ({"x": x},), lambda: decoder.log_px(x), number=len(x))


@case("observed by condition", "`poutine.condition(model, data={'x': x})`")
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def program(number: int) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", number):
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1))

    def model(x: Tensor) -> None:
        poutine.condition(program, data={"x": x})(len(x))

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", encoder(x))

    x = _data()
    return _local(model, guide, (x,), lambda: decoder.log_px(x))


@case("data by x.reshape", "`obs=x.reshape(-1, D)` of images `(N, 1, D)`")
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x.reshape(-1, 3))

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", encoder(x.reshape(-1, 3)))

    x = _data()
    return _local(model, guide, (x[:, None],), lambda: decoder.log_px(x))


@case("scalar latent", "a latent without event dimensions")
def _(source: Source) -> Brought:
    def model(x: Tensor) -> None:
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + shift, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, scale))

    x = torch.randn(NUMBER)

    def reference() -> Tensor:
        shift = pyro.param("shift").detach().double()
        return dist.Normal(shift, math.sqrt(1.25)).log_prob(x.double())

    return _local(model, guide, (x,), reference)


@case("parameter read again by its name", "a constraint that is stated the first time only")
def _(source: Source) -> Brought:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        slope = pyro.param("slope", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, pyro.param("scale")))

    x = torch.randn(NUMBER)
    exact = dist.Normal(0.0, math.sqrt(1.25)).log_prob(x).double()
    return _local(model, guide, (x,), lambda: exact)


@case("no latents", "log p(x) is the likelihood itself", every=r"no latent")
def _(source: Source) -> Brought:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.0))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    def guide(x: Tensor) -> None:
        pass

    x = torch.randn(NUMBER) + 1

    def reference() -> Tensor:
        loc, scale = (pyro.param(name).detach().double() for name in ("loc", "scale"))
        return dist.Normal(loc, scale).log_prob(x.double())

    return _local(model, guide, (x,), reference)


@case("Gamma latent", "a positive latent of each datum and a LogNormal guide")
def _(source: Source) -> Brought:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            mean = loc[0] + loc[1] * (1 + x).log()
            pyro.sample("rate", dist.LogNormal(mean, scale))

    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0, 8.0])

    def reference() -> Tensor:
        return dist.GammaPoisson(2.0, 1.0).log_prob(x).double()

    return _local(model, guide, (x,), reference)


@case("observed sites in the guide", "auxiliary terms of a loss, which are no part of q")
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            aux = dist.Normal(0.0, 1.0).expand([3]).to_event(1)
            pyro.sample("aux", aux, obs=x, infer={"is_auxiliary": True})
            pyro.sample("z", encoder(x))

    x = _data()
    return _local(model, guide, (x,), lambda: decoder.log_px(x))


@case("a factor in the guide", "`pyro.factor` in the guide, a term of the loss")
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            q = encoder(x)
            pyro.sample("z", q)
            pyro.factor("penalty", -q.mean.square().sum(-1), has_rsample=False)

    x = _data()
    return _local(model, guide, (x,), lambda: decoder.log_px(x))


class _Silent(dist.TorchDistribution):
    """A distribution that does not say its support, like those of ``pyro.contrib.zuko``."""

    has_rsample = True

    def __init__(self, base: Any) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Silent:
        return _Silent(self.base.expand(batch_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.base.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value)


SUPPORT = r"support"


@case(
    "prior without support",
    "a prior whose class does not state its support",
    auto=SUPPORT,
    certify=SUPPORT,
)
def _(source: Source) -> Brought:
    decoder, encoder = Decoder(), Encoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _Silent(_prior()))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", encoder(x))

    x = _data()
    return _local(model, guide, (x,), lambda: decoder.log_px(x))


@case(
    "flow prior of zuko",
    "`pyro.contrib.zuko` as in the tutorial of flow priors",
    auto=SUPPORT,
    certify=SUPPORT,
)
def _(source: Source) -> Brought:
    import zuko
    from pyro.contrib.zuko import ZukoToPyro

    decoder, encoder = Decoder(), Encoder()
    flow = zuko.flows.NSF(2, transforms=1, hidden_features=(8,))

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        pyro.module("prior", flow)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", ZukoToPyro(flow()))
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", encoder(x))

    x = _data()
    return _local(
        model,
        guide,
        (x,),
        lambda: by_weights(model, guide, [(row[None],) for row in x], samples=20_000),
    )


# AutoGuides of local latents.


def _autoguided(make: Callable[..., Any], **fields: Any) -> Brought:
    decoder = Decoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", _prior())
            pyro.sample("x", dist.Normal(decoder(z), 0.5).to_event(1), obs=x)

    x = _data()
    guide = make(model)
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    return _local(model, guide, (x,), lambda: decoder.log_px(x), **fields)


def _list(model: Callable[..., Any]) -> Any:
    guides = auto.AutoGuideList(model)
    guides.append(auto.AutoNormal(poutine.block(model, expose=["z"])))
    return guides


_AUTOGUIDES: dict[str, Callable[..., Any]] = {
    "AutoNormal": auto.AutoNormal,
    "AutoDiagonalNormal": auto.AutoDiagonalNormal,
    "AutoMultivariateNormal": auto.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": lambda model: auto.AutoLowRankMultivariateNormal(
        model, rank=2
    ),
    "AutoIAFNormal": lambda model: auto.AutoIAFNormal(model, hidden_dim=[30], num_transforms=1),
    "AutoStructured": auto.AutoStructured,
    "AutoGuideList": _list,
}

for _name, _make in _AUTOGUIDES.items():
    case(
        f"{_name}, local",
        "an AutoGuide of latents inside the data plate",
        every=JOINT,
        certify=OTHER_DATA,
    )(lambda source, make=_make: _autoguided(make))

case("AutoDelta, local", "a point mass in place of q: no weights, no log p(x)", every=DELTA)(
    lambda source: Brought(**{**vars(_autoguided(auto.AutoDelta)), "reference": None})
)


# Latents shared by all data: one log p(D).


@case("minipyro, conjugate", "the model of minipyro.py: one mean for all data", every=GLOBAL)
def _(source: Source) -> Brought:
    def model(data: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(data), dim=-1):
            pyro.sample("obs", dist.Normal(loc, 1.0), obs=data)

    def guide(data: Tensor) -> None:
        loc = pyro.param("guide_loc", torch.tensor(0.0))
        scale = torch.exp(pyro.param("guide_scale_log", torch.tensor(0.0)))
        pyro.sample("loc", dist.Normal(loc, scale))

    data = torch.randn(20) + 3.0

    def reference() -> Tensor:
        return _normal_normal(data.double(), 0.0, 1.0, 1.0)

    return _local(model, guide, (data,), reference)


def _normal_normal(data: Tensor, loc: float, variance: float, noise: float) -> Tensor:
    """Log p(D) of N(mean, noise) data under N(loc, variance), with the data along dimension 0."""
    n = len(data)
    covariance = variance * torch.ones(n, n) + noise * torch.eye(n)
    normal = dist.MultivariateNormal(torch.full((n,), loc).double(), covariance.double())
    return normal.log_prob(data.T if data.dim() > 1 else data).sum()


@case("normal-normal, no arguments", "data in the closure: `model()`", every=GLOBAL)
def _(source: Source) -> Brought:
    data = torch.tensor([[-0.1, 0.3], [0.0, 0.4], [0.2, 0.5], [0.1, 0.7]])

    def model() -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", dist.Normal(loc, 0.4).to_event(1), obs=data)

    def guide() -> None:
        loc = pyro.param("loc_q", torch.zeros(2))
        scale = pyro.param("scale_q", torch.ones(2), constraint=constraints.positive)
        pyro.sample("loc", dist.Normal(loc, scale).to_event(1))

    return _local(model, guide, (), lambda: _normal_normal(data.double(), 0.0, 9.0, 0.16))


@case("Poisson-Gamma", "a rate of all data, and a Gamma guide", every=GLOBAL)
def _(source: Source) -> Brought:
    data = torch.tensor([1.0, 2.0, 3.0, 2.0, 0.0])

    def model(data: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", dist.Poisson(rate), obs=data)

    def guide(data: Tensor) -> None:
        alpha = pyro.param("alpha", torch.tensor(5.0), constraint=constraints.positive)
        beta = pyro.param("beta", torch.tensor(3.0), constraint=constraints.positive)
        pyro.sample("rate", dist.Gamma(alpha, beta))

    def reference() -> Tensor:
        total, n = data.double().sum(), len(data)
        counts = (data.double() + 1).lgamma().sum()
        return (total + 1).lgamma() - (total + 1) * math.log(n + 1) - counts

    return _local(model, guide, (data,), reference)


@case("Bernoulli-Beta", "a share of all data, and a Beta guide", every=GLOBAL)
def _(source: Source) -> Brought:
    data = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 1.0])

    def model(data: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", dist.Bernoulli(p), obs=data)

    def guide(data: Tensor) -> None:
        a = pyro.param("a", torch.tensor(3.0), constraint=constraints.positive)
        b = pyro.param("b", torch.tensor(3.0), constraint=constraints.positive)
        pyro.sample("p", dist.Beta(a, b))

    def reference() -> Tensor:
        ones, zeros = data.double().sum(), (1 - data.double()).sum()

        def log_beta(a: Tensor, b: Tensor) -> Tensor:
            return a.lgamma() + b.lgamma() - (a + b).lgamma()

        two, three = torch.tensor([2.0, 3.0]).double()
        return log_beta(two + ones, three + zeros) - log_beta(two, three)

    return _local(model, guide, (data,), reference)


@case(
    "one datum at a time", "`for i in pyro.plate(...)`, as in the first SVI tutorial", every=GLOBAL
)
def _(source: Source) -> Brought:
    data = torch.tensor([1.0, 1.0, 0.0, 1.0])

    def model(data: Tensor) -> None:
        p = pyro.sample("latent_fairness", dist.Beta(10.0, 10.0))
        for i in pyro.plate("data_loop", len(data)):
            pyro.sample(f"obs_{i}", dist.Bernoulli(p), obs=data[i])

    def guide(data: Tensor) -> None:
        a = pyro.param("alpha_q", torch.tensor(15.0), constraint=constraints.positive)
        b = pyro.param("beta_q", torch.tensor(15.0), constraint=constraints.positive)
        pyro.sample("latent_fairness", dist.Beta(a, b))

    def reference() -> Tensor:
        return dist.BetaBinomial(10.0, 10.0, 4).log_prob(torch.tensor(3.0)) - math.log(4)

    return _local(model, guide, (data,), reference)


class _Regression(PyroModule):
    """The model of the tutorial of Bayesian regression."""

    def __init__(self, given: int) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](given, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, given]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 2.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 3.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def _regression_reference(x: Tensor, y: Tensor, top: float = 3.0) -> Reference:
    x, y = x.double(), y.double()
    base = x @ x.T + 4.0
    sigma = torch.linspace(1e-3, top, 2000, dtype=torch.float64)
    eye = torch.eye(len(y), dtype=torch.float64)
    covariance = base + sigma.square()[:, None, None] * eye
    normal = dist.MultivariateNormal(torch.zeros(len(y), dtype=torch.float64), covariance)
    terms = normal.log_prob(y) - math.log(top)
    return by_quadrature(lambda s: terms, sigma)


for _name in ("AutoDiagonalNormal", "AutoMultivariateNormal", "AutoNormal"):

    @case(
        f"Bayesian regression, {_name}", "PyroModule with PyroSample weights, y=None", every=GLOBAL
    )
    def _(source: Source, name: str = _name) -> Brought:
        x = torch.randn(10, 2)
        y = x @ torch.tensor([1.0, -0.5]) + 0.5 + 0.4 * torch.randn(10)
        model = _Regression(2)
        guide = _AUTOGUIDES[name](model)
        return _local(model, guide, (x, y), lambda: _regression_reference(x, y))


@case(
    "Bayesian regression, AutoDelta", "maximum a posteriori: no weights, no log p(D)", every=DELTA
)
def _(source: Source) -> Brought:
    x = torch.randn(10, 2)
    y = x @ torch.tensor([1.0, -0.5]) + 0.5 + 0.4 * torch.randn(10)
    model = _Regression(2)
    guide = auto.AutoDelta(model)
    train(model, guide, (x, y))
    return Brought(model, guide, (x, y), None)


@case(
    "reparameterized by a config",
    "`poutine.reparam` with LocScaleReparam: other latents",
    every=GLOBAL,
)
def _(source: Source) -> Brought:
    y = torch.tensor([2.8, 0.8, -0.3, 0.7])

    @poutine.reparam(config={"theta": LocScaleReparam(centered=0.0)})
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, 0.7))
            pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    guide = auto.AutoNormal(model)
    return _local(model, guide, (y,), lambda: _normal_normal(y.double(), 0.0, 1.0, 1.49))


# Discrete latents summed out in the model.

ENUMERATED = r"enumerat\w* in the model|model alone|summed out"
EXACT = r"no latent is left"


@case(
    "Gaussian mixture, parameters",
    "enumerated assignments, no other latents",
    every=f"{ENUMERATED}|{EXACT}",
)
def _(source: Source) -> Brought:
    x = torch.tensor([-2.0, -1.5, 0.3, 1.8, 2.2, 2.9])

    @config_enumerate
    def model(x: Tensor) -> None:
        weights = pyro.param("weights", torch.ones(2) / 2, constraint=constraints.simplex)
        locs = pyro.param("locs", torch.tensor([-1.0, 1.0]))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(locs[k], 0.8), obs=x)

    def guide(x: Tensor) -> None:
        pass

    def reference() -> Tensor:
        weights, locs = (pyro.param(n).detach().double() for n in ("weights", "locs"))
        terms = dist.Normal(locs, 0.8).log_prob(x.double()[:, None]) + weights.log()
        return terms.logsumexp(-1)

    objective = TraceEnum_ELBO(max_plate_nesting=1)
    ours = pv.EnumeratedELBO()
    return _local(model, guide, (x,), reference, objective=objective, ours=ours)


def _mixture(make: Callable[..., Any], *, defined: bool) -> Brought:
    """The model of the tutorial of Gaussian mixtures."""
    x = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])

    @config_enumerate
    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[k], scale), obs=x)

    names = ["weights", "locs", "scale"]

    def start(site: Any) -> Tensor:
        starts = {
            "weights": torch.ones(2) / 2,
            "scale": torch.tensor(1.0),
            "locs": torch.tensor([1.0, 10.0]),
        }
        return starts[site["name"]]

    guide = make(poutine.block(model, expose=names), init_loc_fn=start)
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    train(model, guide, (x,), steps=200, objective=objective)
    reference = _of_prior(x) if defined else None
    return Brought(model, guide, (x,), reference, objective, pv.EnumeratedELBO())


@torch.no_grad()
def _of_prior(x: Tensor, draws: int = 4_000_000) -> Reference:
    """The mean likelihood of two components over draws of their prior."""
    weights = dist.Dirichlet(0.5 * torch.ones(2)).sample((draws,)).log()
    scale = dist.LogNormal(0.0, 2.0).sample((draws, 1, 1))
    locs = dist.Normal(0.0, 10.0).sample((draws, 1, 2))
    each = dist.Normal(locs, scale).log_prob(x[:, None]) + weights[:, None]
    return log_mean(each.logsumexp(-1).sum(1, keepdim=True).double(), f"{draws} draws of the prior")


case(
    "gmm tutorial, AutoNormal",
    "global latents and enumerated assignments",
    every=f"{GLOBAL}|{ENUMERATED}",
)(lambda source: _mixture(auto.AutoNormal, defined=True))
case("gmm tutorial, AutoDelta", "maximum a posteriori with enumerated assignments", every=DELTA)(
    lambda source: _mixture(auto.AutoDelta, defined=False)
)


@case("prodlda tutorial", "topics as parameters, a masked bag of words, batch normalization")
def _(source: Source) -> Brought:
    decoder = nn.Sequential(nn.Linear(3, 7), nn.BatchNorm1d(7, affine=False))
    encoder = nn.Sequential(nn.Linear(7, 8), nn.Softplus(), nn.Linear(8, 6))

    def model(docs: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("documents", docs.shape[0]):
            loc = docs.new_zeros((docs.shape[0], 3))
            scale = docs.new_ones((docs.shape[0], 3))
            theta = pyro.sample("theta", dist.Normal(loc, scale).to_event(1)).softmax(-1)
            shape = theta.shape[:-1]
            logits = decoder(theta.reshape(-1, 3)).reshape(*shape, 7)
            total = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total, logits=logits), obs=docs)

    def guide(docs: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = encoder(docs).chunk(2, -1)
            pyro.sample("theta", dist.Normal(loc, (0.5 * scale).exp()).to_event(1))

    docs = dist.Multinomial(12, torch.ones(7)).sample((NUMBER,))
    train(model, guide, (docs,))
    decoder.eval()
    reference = by_traces(model, guide, (docs,), samples=1000, number=len(docs))
    return Brought(model, guide, (docs,), reference)
