"""What the models of the package share: building from a config, evaluation on their device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..common.devices import bytes_of_one, planned
from ..common.memory import check_memory
from ..common.registry import options_of
from ..common.seeding import seeded
from ..common.verbs import verb
from ..config import Config
from ..data.missing import completed
from ..programs.module import ProgramModule, evaluated
from ..programs.modules import device_of, takes_missing
from .parts import Parts

__all__ = ["Model"]

_MANY = 10_000  # draws whose memory is looked at beforehand


class Model(ProgramModule):
    """Base of modules with the programs ``model`` and ``guide`` that a config can describe.

    A subclass defines the two programs and :meth:`assemble`. ``encode`` and ``decode`` let it
    reconstruct, :meth:`generate` lets it sample, and an entry in ``pyro_vae.models.MODELS`` lets
    ``build_program`` find it. Methods take tensors from any device, and return those of the model's
    (:attr:`device`); the programs themselves want their data there.
    """

    programs: ClassVar[tuple[str, ...]] = ()
    """Values of a config's ``program`` that the class implements, besides the default ``"vae"``."""

    encode: Callable[..., Any]
    decode: Callable[..., Tensor]

    @classmethod
    def assemble(cls, parts: Parts, *args: Any, **options: Any) -> Self:
        """Build the model from the usual parts.

        A subclass names its ``options``, which replace settings of the config, and takes no
        ``args``.
        """
        raise NotImplementedError

    @classmethod
    @verb
    def from_config(
        cls,
        config: Config,
        *,
        event_shape: Sequence[int],
        data: Tensor | tuple[Tensor, ...] | None = None,
        **options: Any,
    ) -> Self:
        """Build the usual model: networks and parts chosen by name.

        The initial parameters depend on ``config.seed`` alone (and on ``data``).

        Args:
            config: names and sizes of the parts.
            event_shape: shape of one datum.
            data: training data of shape ``(N, *event_shape)``, or all arguments of the programs; if
                given, parts that can start from them do (a likelihood's output at their mean).
            options: settings of this model in place of the config's, see ``assemble``.

        Raises:
            ValueError: an unknown part, an option that the part does not take, or a config of
                another program (``build_program`` takes any).
            NotEnoughMemory: the parameters do not fit.
        """
        foreign_top = config.top_dim is not None and "top_dim" not in options_of(cls.assemble)
        if config.program not in ("vae", *cls.programs) or foreign_top:
            raise ValueError(
                f"{cls.__name__} is not what the config says, program={config.program!r}, "
                f"top_dim={config.top_dim}; use pv.build_program(config, ...), or leave these out."
            )
        parts = Parts(config, event_shape)

        def make() -> Any:
            with seeded("initialize", config.seed):
                model = cls.assemble(parts, **options)
                if data is not None:
                    x, *given = data if isinstance(data, tuple) else (data,)
                    model.initialize(completed(x) if takes_missing(model.model) else x, *given)
            return model

        cure = "Take smaller layers (hidden), fewer latent dimensions or components."
        return planned(make, "the model", cure=cure)

    def initialize(self, x: Tensor, *given: Tensor) -> None:
        """Start the parts that know how at training data ``(N, *event_shape)``.

        ``given`` are the programs' conditions or labels, if any.
        """
        for part in self.children():
            initialize = getattr(part, "initialize", None)
            if callable(initialize):
                initialize(x)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return device_of(self) or torch.device("cpu")

    @evaluated
    def baseline(self, x: Tensor) -> Tensor | None:
        """Return log p of each datum without latents, shape ``(N,)``, for x ``(N, *event_shape)``.

        See :meth:`pyro_vae.likelihoods.Likelihood.baseline`; ``None`` for a likelihood of another
        kind.
        """
        of_likelihood = getattr(self.likelihood, "baseline", None)
        return of_likelihood(x) if callable(of_likelihood) else None

    def reconstruct(self, x: Tensor, *given: Tensor) -> Tensor:
        """Return ``decode(encode(x))``, the decoder's mean at the means of the guide.

        x has shape ``(N, *event_shape)``; ``given`` are the programs' conditions or labels, if any.
        """
        latents = self.encode(x, *given)
        return self.decode(*(latents if isinstance(latents, tuple) else (latents,)), *given)

    @evaluated
    def sample(self, given: Any, /, *, seed: int | None = None, mean: bool = False) -> Tensor:
        """Draw data from the model: latents from their prior, then x given these.

        Args:
            given: number of draws n; for a model with conditions or labels, one of them for each
                draw (repeated for several draws of the same).
            seed: seed of the draws; ``None`` draws from the caller's random state.
            mean: return the mean of x given the latents instead of a draw (for pictures).

        Returns:
            Tensor of shape ``(n, *event_shape)``.

        Raises:
            ValueError: n is less than one.
            NotEnoughMemory: n draws do not fit.
        """
        if isinstance(given, int) and given < 1:
            raise ValueError(f"number of samples must be at least 1; got {given}.")
        self._check_size(given)
        with nullcontext() if seed is None else seeded("sample", seed):
            likelihood = self.generate(given)
            return likelihood.mean if mean else likelihood.sample()

    def _check_size(self, given: Any) -> None:
        """Check that so many draws fit into memory, by the largest tensor of a few."""
        number = given if isinstance(given, int) else len(given)
        if number <= _MANY:
            return
        few: Any = (lambda n: n) if isinstance(given, int) else (lambda n: given[:n])
        with seeded("sizes", 0):
            one = bytes_of_one(lambda n: self.generate(few(n)).sample())
        check_memory(one * number, f"drawing {number:,} data", cure="Draw fewer at a time.")

    def generate(self, given: Any) -> Any:
        """Draw latents from their prior and return the distribution of x given these.

        ``given`` is that of :meth:`sample`.
        """
        raise NotImplementedError
