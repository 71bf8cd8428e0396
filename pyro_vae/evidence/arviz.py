"""ArviZ's own objects, made of plain tensors: pointwise densities, draws with dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from ..common.errors import warn
from .diagnostics import pareto_k_threshold

__all__ = ["elpd_data", "labelled"]

Hashed: TypeAlias = tuple[Tensor, str]

_KIND = "log_px"
_VANISHES = -700  # whose exponential is about the least number that float64 holds


def elpd_data(
    log_px: Hashed, pareto_k: Tensor, samples: int, doubtful: Tensor, base: Hashed | None = None
) -> Any:
    r"""Return log p(x) of held-out data as ArviZ's ``ELPDData``, for its comparisons and plots.

    .. math:: elpd = \sum_n \log p(x_n), \qquad se = \sqrt{N \, Var_n \log p(x_n)}

    Where the data were not trained on, this sum is what cross-validation estimates: the log
    predictive density of new data. So ``arviz_stats.compare`` ranks models, pairs their data, and
    gives stacking weights, and ``arviz_plots.plot_compare`` and ``plot_khat`` draw them. The
    Monte-Carlo error of each value is part of the spread that ``se`` measures. There is no
    effective number of parameters: ``p`` is NaN. The kind is ``log_px``, which ArviZ does not
    compare with leave-one-out (``loo``) of other programs.

    Args:
        log_px: log p(x) of each of N data, bias-corrected, in nats, shape ``(N,)``, and the data's
            hash.
        pareto_k: Pareto k̂ of the importance weights of each.
        samples: importance samples of each, for the limit of k̂ (``good_k``).
        doubtful: which are to doubt; if any is, so says ArviZ's ``warning``.
        base: log p(x) and hash by another model, from which to take the differences.

    Raises:
        ImportError: arviz-stats is not installed.
        ValueError: fewer than two data, which have no spread (such as a whole data set); a base of
            other data.

    Warns:
        PyroVAEWarning: log p(x) so low that ArviZ's stacking weights, which take its exponential,
            would be wrong.

    References:
        Vehtari, Gelman and Gabry (2017). https://arxiv.org/abs/1507.04544
        Yao et al. (2018), stacking. https://arxiv.org/abs/1704.02030
    """
    try:
        import xarray  # type: ignore[import-not-found,unused-ignore]
        from arviz_stats.utils import ELPDData  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            'to_elpd needs arviz-stats: pip install "pyro-vae[arviz]". pyro_vae.compare needs '
            "nothing."
        ) from error
    (values, sha256), n = log_px, len(pareto_k)
    if base is not None:
        if base[1] != sha256:
            raise ValueError("relative_to must be a result on the same data, in the same order.")
        values = values - base[0]
    elif (values < _VANISHES).any():
        warn(
            f"log p(x) is {values.min():.0f} nats for some datum, whose exponential vanishes, so "
            "that arviz_stats.compare gives equal stacking weights whatever the models; write "
            "to_elpd(relative_to=...), with one result for all of them.",
        )
    if n < 2:
        raise ValueError(
            "to_elpd needs log p(x) of two data at least; that of a whole data set is one number. "
            "pyro_vae.compare gives log Bayes factors."
        )
    coords = {"datum": np.arange(n)}
    pointwise, k = (
        xarray.DataArray(tensor.double().cpu().numpy().copy(), dims=("datum",), coords=coords)
        for tensor in (values, pareto_k)
    )
    return ELPDData(
        kind=_KIND,
        elpd=float(pointwise.sum()),
        se=float(np.sqrt(n * pointwise.var())),
        p=float("nan"),
        n_samples=samples,
        n_data_points=n,
        scale="log",
        warning=bool(doubtful.any()),
        good_k=pareto_k_threshold(samples),
        elpd_i=pointwise,
        pareto_k=k,
    )


def labelled(
    values: Mapping[str, Tensor],
    lead: Sequence[str],
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, Any],
    *,
    number: int,
) -> Any:
    """Return draws as a data set with named dimensions.

    Args:
        values: draws by site, with all dimensions of ``lead`` but the first, ``chain``.
        lead: names of the leading dimensions.
        dims: names of the others by site; by default ``z_dim_0``, ...
        coords: labels along dimensions.
        number: size of the dimension ``datum``.

    Raises:
        ImportError: xarray is not installed.
        ValueError: names or labels that fit no site.
    """
    import xarray  # type: ignore[import-not-found,unused-ignore]

    foreign = [name for name in dims if name not in values]
    if foreign:
        raise ValueError(f"dims names sites {foreign}; there are {', '.join(values)}.")
    variables, sizes = {}, {"chain": 1, "datum": number}
    for name, value in values.items():
        array = value.detach().cpu().numpy()[None].copy()
        own = array.shape[len(lead) :]
        names = list(dims.get(name, [f"{name}_dim_{i}" for i in range(len(own))]))
        if len(names) != len(own):
            raise ValueError(
                f"dims has {len(names)} names for site {name!r}, whose own shape is {own}."
            )
        variables[name] = ((*lead, *names), array)
        sizes |= dict(zip((*lead, *names), array.shape, strict=True))
    labels = {dim: np.arange(size) for dim, size in sizes.items() if dim != "datum" or dim in lead}
    for dim, given in coords.items():
        if len(given) != sizes.get(dim, -1):
            raise ValueError(
                f"coords has {len(given)} labels for dimension {dim!r}; there are "
                + ", ".join(f"{name} of {size}" for name, size in sizes.items())
                + "."
            )
        labels[dim] = np.asarray(given)
    return xarray.Dataset(variables, coords=labels)
