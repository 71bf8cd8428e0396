"""Results for other tools: a labelled xarray tree that ArviZ reads, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..common.files import write_text
from .result import COLUMNS, METHODS, Evidence

if TYPE_CHECKING:
    import xarray  # type: ignore[import-not-found,unused-ignore]

__all__ = ["to_csv", "to_datatree", "write_csv"]

_COUNTS = ("draws", "rung")


def to_datatree(
    evidence: Evidence,
    *,
    log_weights: Tensor | None = None,
    labels: Sequence[str] | Sequence[int] | Tensor | None = None,
) -> xarray.DataTree:
    """Return a result as a labelled tree, in nats, for xarray and ArviZ.

    The group ``log_evidence`` has the dimension ``datum`` and every number of the result, bit by
    bit; ``rung`` is a flag variable (``flag_values``, ``flag_meanings``). Its attributes, and the
    tree's, are the settings: samples, seed, method, data, their hash, event_size, units.
    ArviZ reads the groups with ``sample_dims``, for example
    ``arviz_stats.summary(tree, group="log_evidence", sample_dims=["datum"], kind="stats")``.

    Args:
        evidence: result of ``log_evidence``.
        log_weights: log p(x, z) - log q(z) of each draw, in nats, shape ``(samples, N)``; becomes
            the group ``log_weights`` with dimensions ``(sample, datum)``.
        labels: one label per datum, shape ``(N,)``, such as its class; need not be unique. Becomes
            the coordinate ``label`` along ``datum``.

    Returns:
        A tree of numpy arrays: float64, and int64 for ``draws`` and ``rung``.

    Raises:
        ImportError: xarray is not installed.
        ValueError: ``log_weights`` or ``labels`` of another number of data.
    """
    try:
        import xarray  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            'to_datatree needs xarray: pip install "pyro-vae[xarray]". to_csv needs nothing.'
        ) from error
    n = len(evidence)
    coords: dict[str, Any] = {"datum": np.arange(n)}
    if labels is not None:
        values = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        if values.shape != (n,):
            raise ValueError(
                f"labels have shape {values.shape}; expected one per datum, ({n},), in the order "
                "of the evaluated data."
            )
        coords["label"] = ("datum", values)
    attributes = _attributes(evidence)
    groups = {
        "/": xarray.Dataset(attrs=attributes),
        "/log_evidence": xarray.Dataset(
            {name: ("datum", _numbers(evidence, name), _about(name)) for name in COLUMNS},
            coords=coords,
            attrs=attributes,
        ),
    }
    if log_weights is not None:
        if log_weights.ndim != 2 or log_weights.shape[1] != n:
            raise ValueError(
                f"log_weights have shape {tuple(log_weights.shape)}; expected (samples, {n}), one "
                "column per datum."
            )
        weights = log_weights.detach().to("cpu", torch.float64).numpy().copy()
        about = {"long_name": "log p(x, z) - log q(z)", "units": "nats"}
        groups["/log_weights"] = xarray.Dataset(
            {"log_weights": (("sample", "datum"), weights, about)},
            coords={"sample": np.arange(len(weights)), **coords},
            attrs=attributes,
        )
    return xarray.DataTree.from_dict(groups, name="pyro_vae")


def to_csv(evidence: Evidence) -> str:
    """Return a result as CSV: a header, and one row per datum, in nats.

    Floats are written so that they read back to the same bits (``nan``, ``inf``, ``-inf`` among
    them); ``rung`` is the proposal's name.

    Args:
        evidence: result of ``log_evidence``.

    Returns:
        Text with columns ``datum`` (its index), ``log_px``, ``standard_error``, ``ess``,
        ``pareto_k``, ``jackknife``, ``elbo``, ``draws``, ``rung``, ``edge`` and ``verdict``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("datum", *COLUMNS, "verdict"))
    columns = {name: _numbers(evidence, name).tolist() for name in COLUMNS}
    columns["rung"] = [METHODS[number] for number in columns["rung"]]
    rows = zip(range(len(evidence)), *columns.values(), evidence.verdicts(), strict=True)
    writer.writerows(rows)
    return text.getvalue()


def write_csv(evidence: Evidence, path: str | Path) -> Path:
    """Write :func:`to_csv` to a file, atomically.

    Args:
        evidence: result of ``log_evidence``.
        path: file to write; its folder is made.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written; an older one is left as it was.
    """
    return write_text(path, to_csv(evidence))


def _numbers(evidence: Evidence, name: str) -> np.ndarray[Any, Any]:
    """Return a copy, so that writing to the export does not change the result."""
    values = getattr(evidence, name).detach().to("cpu", torch.float64).numpy().copy()
    return values.astype(np.int64) if name in _COUNTS else values


def _about(name: str) -> dict[str, Any]:
    words = {"flag_values": np.arange(len(METHODS)), "flag_meanings": " ".join(METHODS)}
    return {**COLUMNS[name], **(words if name == "rung" else {})}


def _attributes(evidence: Evidence) -> dict[str, Any]:
    """Return the settings, of the types that netCDF and Zarr take as attributes."""
    settings = {field.name: getattr(evidence, field.name) for field in fields(evidence)}
    plain = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
    about = {"verdict": evidence.verdict, "units": "nats", "creation_library": "pyro_vae"}
    return plain | about
