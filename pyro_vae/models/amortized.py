"""Programs made from a model alone: the guide is read from the model and amortized by networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, cast, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from ..common.registry import check_choice, lookup
from ..common.seeding import seeded
from ..common.verbs import verb
from ..data import AnyData
from ..data.signatures import signature_of
from ..distributions import ConstrainedDistribution
from ..networks import ACTIVATIONS, MLP, NETWORKS, Joint, MakesNetwork
from ..networks.named import build_network
from ..posteriors import POSTERIORS, DiagonalNormal, FullNormal, Posterior
from ..programs.arguments import bound
from ..programs.inputs import source_for
from ..programs.latents import Latent, Latents, read_latents
from ..programs.module import ProgramModule
from ..programs.modules import check_callable, check_type, device_of, evaluation_mode, modules_of
from ..programs.stored import as_program
from ..programs.supports import is_everywhere
from ..programs.traces import Batch, Fn

__all__ = ["AmortizedGuide", "Family", "amortize"]

Family = Literal["normal", "full", "low-rank", "flow"]
MakesPosterior = Callable[[MakesNetwork, int], Posterior]

_STATISTICS = 4096  # data that centers and spreads of the inputs are taken from
_ACTIVATION = "silu"  # nearly linear far out, as posterior means often are
_FIRST_WEIGHT = 0.1
_UNIT_SCALE = math.log(math.e - 1)  # whose softplus is one


@verb
def amortize(
    model: Fn,
    x: AnyData,
    *,
    network: str | nn.Module = "mlp",
    family: str | MakesPosterior = "normal",
    encode: Callable[..., Tensor] | None = None,
    hidden: Sequence[int] | None = None,
    features: int = 200,
    activation: str | None = None,
    structured: bool = True,
    globals_guide: Callable[[Fn], nn.Module] | None = None,
    seed: int = 0,
) -> ProgramModule:
    r"""Make a program of a model: an amortized guide is read from a few runs of it.

    .. math:: q(z_1, \dots, z_J \mid x) = \prod_j q(z_j \mid h(x), z_1, \dots, z_{j-1}),
        \qquad z_j = b_j(m_j + s_j \odot \epsilon_j)

    :math:`z_j` are the latents in the data plate, in the order in which the model draws them;
    :math:`\epsilon_j` has a distribution of the ``family``, whose parameters a head makes of the
    features h(x) and the latents before; :math:`b_j` goes to the support
    (``torch.distributions.biject_to``); and :math:`m_j` and :math:`s_j` are the center and the
    spread of the model's prior, at which the guide starts. So a model alone is enough::

        program = pv.amortize(model, x)
        pv.fit(program, x, epochs=100)
        evidence = pv.log_evidence(program.model, program.guide, test_x, method="auto")

    In plates inside the data plate each item has parameters of its own. Discrete latents marked
    ``infer={"enumerate": "parallel"}`` are left out of the guide and summed out. What is learned is
    the guide, the modules that the model is a method of, closes over or names as globals, and its
    ``pyro.param`` (see :func:`pyro_vae.as_program`).

    Args:
        model: Pyro program with a plate over the data, ``pyro.plate("data", len(x))``.
        x: data ``(N, *event_shape)``, a tuple of tensors for a model of several arguments, each
            with the data along dimension 0, or a dictionary of them by name, or what else ``fit``
            takes. A few are run, and up to
            4,096 give the center and spread by which the network's inputs are standardized.
        network: encoder from the inputs to h(x): ``"mlp"``, ``"gated"``, or ``"conv"`` or
            ``"residual"`` for images; or a module that maps the inputs to ``(*, features)``.
        family: distribution of the unconstrained latents of one site (and item): ``"normal"``,
            ``"full"`` covariance, ``"low-rank"`` covariance, ``"flow"``; or a function such as
            ``lambda net, dim: pv.posteriors.LowRankNormal(net, dim, rank=5)``.
        encode: function of the model's arguments that returns what the network sees, ``(N, ...)``;
            by default all arguments, side by side.
        hidden: widths of the network's hidden layers, or channels; ``None`` for its defaults.
        features: number of features h(x), the last hidden layer.
        activation: nonlinearity of the network; by default ``"silu"``, and ``"gelu"`` for images.
        structured: whether a latent's head sees those before it; without, the latents of a datum
            are independent given x, site by site.
        globals_guide: guide of the latents outside the data plate, such as
            ``pyro.infer.autoguide.AutoNormal``; then ``log_evidence`` is of the whole data set.
        seed: seed of the initial parameters.

    Returns:
        Module with the programs ``model`` and ``guide``.

    Raises:
        TypeError: a model that is not callable, or data of another kind.
        ValueError: the model does not run on x, or not on fewer data; no plate follows the number
            of data; no latent; a latent that is discrete and not marked, masked, or of a support
            that differs between data; latents outside the data plate without ``globals_guide``; an
            unknown name; a network that does not fit the inputs.

    References:
        Kingma and Welling (2014). https://arxiv.org/abs/1312.6114
        Webb et al. (2018), structured amortization. https://arxiv.org/abs/1712.00287
    """
    check_callable(model=model)
    if isinstance(family, str):
        check_choice("family", family, get_args(Family))
    if isinstance(network, str):
        check_choice("network", network, NETWORKS)
    names = tuple(signature_of(model).parameters)
    if isinstance(x, Mapping) and x and set(x) <= set(names):
        bound(x, model)  # which says what is no data
        x = tuple(x[name] for name in names if name in x)
    source = source_for(x, model, model, finite=False)
    device = device_of(model)
    batch = tuple(a.to(device or a.device) for a in next(source.blocks(_STATISTICS)))
    check_type(batch[0], model)
    with evaluation_mode(model):
        latents = read_latents(model, batch)
    outside = _guide_of_globals(model, latents.outside, globals_guide)
    with seeded("amortize", seed):
        encoder = Encoder(
            batch,
            network,
            encode=encode,
            hidden=hidden,
            features=features,
            activation=activation,
        )
        guide = AmortizedGuide(
            latents, encoder, family, structured=structured, outside=outside, names=names
        )
    guide.to(device=batch[0].device, dtype=_dtype(model, batch))
    program: Any = as_program(model, guide, *(argument[:2] for argument in batch))
    return program


class Encoder(nn.Module):
    """Features of data: a network of standardized inputs.

    Arguments are those of :func:`amortize`; ``batch`` are data, as arguments of the model.
    """

    def __init__(
        self,
        batch: Batch,
        network: str | nn.Module,
        *,
        encode: Callable[..., Tensor] | None,
        hidden: Sequence[int] | None,
        features: int,
        activation: str | None,
    ) -> None:
        super().__init__()
        self.encode = encode
        inputs = self._inputs(batch)
        for place, value in enumerate(inputs):
            known = value.double().masked_fill(~value.isfinite(), math.nan)
            center = known.nanmean(0).nan_to_num()
            spread = (known - center).square().nanmean(0).sqrt()
            spread = torch.where(spread > 1e-6 * (1 + center.abs()), spread, 1.0)
            self.register_buffer(f"center{place}", center.to(value.dtype))
            self.register_buffer(f"spread{place}", spread.to(value.dtype))
        shapes = [value.shape[1:] for value in inputs]
        self.nonlinearity: nn.Module = nn.Identity()
        if isinstance(network, nn.Module):
            self.network = network
        else:
            if activation is None and network == "mlp":
                activation = _ACTIVATION
            options = {"hidden": hidden, "activation": activation}
            self.network = build_network(network, "encoder", shapes, (features,), **options)
            self.nonlinearity = lookup("activation", activation or _ACTIVATION, ACTIVATIONS)()
        self.to(inputs[0].device)
        with torch.no_grad():
            self.size: int = self(*(argument[:2] for argument in batch)).shape[-1]

    def forward(self, *batch: Tensor) -> Tensor:
        """Return features of shape ``(N, size)``."""
        standardized = [
            (value - self.get_buffer(f"center{place}")) / self.get_buffer(f"spread{place}")
            for place, value in enumerate(self._inputs(batch))
        ]
        return self.nonlinearity(self.network(*standardized).flatten(1))

    def _inputs(self, batch: Batch) -> list[Tensor]:
        """What the network sees, as numbers of the parameters' type."""
        values = batch if self.encode is None else (self.encode(*batch),)
        known = self._buffers.get("center0")
        dtype = torch.get_default_dtype() if known is None else known.dtype
        for value in values:
            if value.is_complex():
                raise TypeError(
                    f"the network sees {str(value.dtype).removeprefix('torch.')} numbers; give "
                    "their parts, torch.view_as_real(x), or encode=lambda x: torch.view_as_real(x)."
                )
        return [value.to(dtype) for value in values]


class AmortizedGuide(nn.Module):
    """Guide of a model's latents: features of the data, and a head for each latent.

    Args:
        latents: of the model.
        encoder: maps the model's arguments to features.
        family: as for :func:`amortize`.
        structured: whether a head sees the latents before its own.
        outside: guide of the latents outside the data plate, if any.
        names: of the model's parameters, by which arguments may be given, too.
    """

    def __init__(
        self,
        latents: Latents,
        encoder: Encoder,
        family: str | MakesPosterior,
        *,
        structured: bool = True,
        outside: nn.Module | None = None,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.latents, self.structured, self.names = latents, structured, names
        self.encoder, self.outside = encoder, outside
        self.heads = nn.ModuleList()
        sizes = [encoder.size]
        for place, latent in enumerate(latents.local):
            self.heads.append(_head(latent, latents.data.dim, sizes, family))
            self.register_buffer(f"loc{place}", latent.loc)
            self.register_buffer(f"scale{place}", latent.scale)
            if structured:
                sizes.append(latent.loc.numel())

    def forward(self, *batch: Tensor, **named: Tensor) -> None:
        """Draw the latents, given the model's arguments."""
        batch = (*batch, *(named[name] for name in self.names if name in named))
        if self.outside is not None:
            with _local_parameters():
                self.outside(*batch)
        seen = [self.encoder(*batch)]
        plates = self._plates(len(batch[0]))
        for place, latent in enumerate(self.latents.local):
            q = self._distribution(place, seen)
            with ExitStack() as stack:
                for name in latent.plates:
                    stack.enter_context(plates[name])
                if latent.weight != 1:
                    stack.enter_context(poutine.scale(scale=latent.weight))
                value = pyro.sample(latent.name, q)
            if self.structured:
                seen.append(self._flat(place, value))

    def _plates(self, rows: int) -> dict[str, Any]:
        data, plates = self.latents.data, {}
        for name in {name: None for latent in self.latents.local for name in latent.plates}:
            plate = self.latents.plates[name]
            taken = rows if plate == data and data.size is not None else None
            size = rows if plate.size is None else plate.size
            plates[name] = pyro.plate(name, size, subsample_size=taken, dim=plate.dim)
        return plates

    def _distribution(self, place: int, seen: list[Tensor]) -> dist.TorchDistribution:
        """Return q of a latent in its plates, given features and the latents before."""
        latent, head = self.latents.local[place], cast(Posterior, self.heads[place])
        output = head.output(*seen)  # (*samples, N, *items of inner plates, rows, D)
        depth, lead = len(latent.inner), output.dim() - len(latent.inner) - 2
        output = output.movedim(lead, lead + depth + self.latents.data.dim)
        if lead:
            others = [1] * (self.latents.plate_dims - depth)
            output = output.reshape(*output.shape[:lead], *others, *output.shape[lead:])
        base = head.distribution(output)
        loc, scale = self.get_buffer(f"loc{place}"), self.get_buffer(f"scale{place}")
        if isinstance(head, DiagonalNormal) and is_everywhere(latent.support):
            normal, shape = base.base_dist, (*base.batch_shape, *latent.shape)
            mean, deviation = loc + scale * normal.loc, scale * normal.scale
            return dist.Normal(mean.reshape(shape), deviation.reshape(shape)).to_event(
                len(latent.shape)
            )
        return ConstrainedDistribution(
            base, latent.transform, latent.shape, latent.support, loc=loc, scale=scale
        )

    def _flat(self, place: int, value: Tensor) -> Tensor:
        """Values of a latent as a head sees them, ``(*samples, N, values of a datum)``."""
        latent, dims = self.latents.local[place], self.latents.plate_dims
        u = latent.transform.inv(value)
        u = u.reshape(*u.shape[: u.dim() - len(latent.shape)], -1)
        u = (u - self.get_buffer(f"loc{place}")) / self.get_buffer(f"scale{place}")
        u = u.reshape((1,) * (dims + 1 - u.dim()) + u.shape)
        return u.movedim(self.latents.data.dim - 1, -dims - 1).flatten(-dims)


def _head(
    latent: Latent, data_dim: int, sizes: Sequence[int], family: str | MakesPosterior
) -> Posterior:
    """Make the family of a latent on a network of features and the latents before.

    It starts near a standard normal, whatever the inputs.
    """
    inner = list(latent.inner)
    del inner[data_dim]
    dim, hidden = latent.loc.shape[-1], (max(1, sizes[0] // 2),) * (len(sizes) > 1)
    made: list[MLP] = []

    def network(shape: tuple[int, ...]) -> nn.Module:
        made.append(MLP((sum(sizes),), (*inner, *shape), hidden=hidden, activation=_ACTIVATION))
        return Joint(made[0], *((size,) for size in sizes))

    if isinstance(family, str):  # one dimension has no covariance
        make: Any = POSTERIORS[family if dim > 1 else "normal"]
    else:
        make = family
    head: Posterior = make(network, dim)
    start = torch.zeros(head.output_shape)
    start[1] = _UNIT_SCALE
    if isinstance(head, FullNormal):
        start[1:] = _UNIT_SCALE * torch.eye(dim)
    with torch.no_grad():
        for mlp in made:
            mlp.output.get_parameter("weight").mul_(_FIRST_WEIGHT)
            mlp.initialize_output(start)
    return head


def _guide_of_globals(
    model: Fn, names: Sequence[str], make: Callable[[Fn], nn.Module] | None
) -> nn.Module | None:
    """Make the guide of the latents outside the data plate."""
    if not names:
        return None
    if make is None:
        raise ValueError(
            f"latent sites {list(names)} lie outside the data plate, so that they belong to no "
            "datum; give a guide for them, globals_guide=pyro.infer.autoguide.AutoNormal, or make "
            "them parameters (pyro.param, or of a module)."
        )
    with _local_parameters():
        return make(poutine.block(model, expose=list(names)))


def _local_parameters() -> Any:
    """Pyro's modules have parameters of their own meanwhile, and none in its global store."""
    return pyro.settings.context(module_local_params=True)


def _dtype(model: Fn, batch: Batch) -> torch.dtype:
    """Type of the model's parameters, or else of the data."""
    parameters = [p for module in modules_of(model) for p in module.parameters()]
    floats = (value.dtype for value in (*parameters, *batch) if value.is_floating_point())
    return next(floats, torch.get_default_dtype())
