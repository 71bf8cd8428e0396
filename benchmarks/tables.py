"""Missing cells of real tables: imputation, and log p of held-out cells, against usual methods.

    python benchmarks/tables.py [--seeds 3] [--tables wine diabetes breast-cancer]

Cells of scikit-learn's tables are removed at random; each method sees the rest. Printed are the
root mean square error of the removed cells' imputations, in standard deviations of their columns,
and log p of the removed cells given the others of their row, in nats per cell, of standardized
values; means over seeds, with standard errors.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn import datasets
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import pyro_vae as pv

TABLES = {
    "wine": (datasets.load_wine, ()),
    "diabetes": (datasets.load_diabetes, ("sex",)),  # two values: no density
    "breast-cancer": (datasets.load_breast_cancer, ()),
}
SHARES = (0.1, 0.3, 0.5)
RIDGES = (1e-3, 1e-2, 1e-1)


def table(name: str) -> pd.DataFrame:
    """Standardized columns of a table."""
    load, left_out = TABLES[name]
    frame = load(as_frame=True).data.drop(columns=list(left_out))
    return (frame - frame.mean()) / frame.std(ddof=0)


def removed(x: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Where cells are removed, at least one left in each row."""
    rng = np.random.default_rng([seed, int(100 * share)])
    hidden = rng.random(x.shape) < share
    rows = np.flatnonzero(hidden.all(1))
    hidden[rows, rng.integers(x.shape[1], size=len(rows))] = False
    return hidden


class FullNormal:
    """Normal with full covariance, by EM on the observed cells; ``ridge`` is added to variances."""

    def __init__(self, x: np.ndarray, *, ridge: float, steps: int = 30) -> None:
        n, d = x.shape
        self.mean, self.cov = np.nanmean(x, 0), np.diag(np.nanvar(x, 0))
        for _ in range(steps):
            filled, spread = np.empty_like(x), np.zeros((d, d))
            for row in range(n):
                mean, cov, hidden = self.given(x[row])
                filled[row] = np.where(hidden, 0, x[row])
                filled[row, hidden] = mean
                spread[np.ix_(hidden, hidden)] += cov
            self.mean = filled.mean(0)
            centred = filled - self.mean
            self.cov = (centred.T @ centred + spread) / n + ridge * np.eye(d)

    def given(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and covariance of a row's missing cells, given the others, and where they are."""
        hidden = np.isnan(row)
        inverse = np.linalg.solve(self.cov[np.ix_(~hidden, ~hidden)], self.cov[~hidden][:, hidden])
        mean = self.mean[hidden] + inverse.T @ (row[~hidden] - self.mean[~hidden])
        cov = self.cov[np.ix_(hidden, hidden)] - self.cov[hidden][:, ~hidden] @ inverse
        return mean, cov, hidden

    def scores(self, x: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
        """RMSE, and log p per cell, of missing cells."""
        errors, logs = [], 0.0
        for row, true in zip(x, whole, strict=True):
            mean, cov, hidden = self.given(row)
            if hidden.any():
                off = true[hidden] - mean
                errors.append(off)
                _, log_det = np.linalg.slogdet(2 * np.pi * cov)
                logs -= 0.5 * (off @ np.linalg.solve(cov, off) + log_det)
        flat = np.concatenate(errors)
        return float(np.sqrt((flat**2).mean())), logs / len(flat)


def normal_scores(x: np.ndarray, whole: np.ndarray, seed: int) -> tuple[float, float]:
    """Scores of the full normal whose ridge does best on a tenth of the observed cells."""
    rng = np.random.default_rng(seed)
    more = np.where(rng.random(x.shape) < 0.1, np.nan, x)
    more[np.isnan(more).all(1)] = x[np.isnan(more).all(1)]
    held = {}
    for ridge in RIDGES:
        chosen, logs, count = FullNormal(more, ridge=ridge, steps=15), 0.0, 0
        for row, seen in zip(more, x, strict=True):
            known = ~(np.isnan(row) & np.isnan(seen))
            if np.isnan(row[known]).any():
                mean, cov, hidden = chosen.given(row)
                there = known[hidden]
                off, part = seen[hidden][there] - mean[there], cov[np.ix_(there, there)]
                _, log_det = np.linalg.slogdet(2 * np.pi * part)
                logs -= 0.5 * (off @ np.linalg.solve(part, off) + log_det)
                count += len(off)
        held[ridge] = logs / max(count, 1)
    return FullNormal(x, ridge=max(held, key=held.__getitem__)).scores(x, whole)


def ours(
    frame: pd.DataFrame, x: np.ndarray, seed: int, latent_dim: int
) -> tuple[float, float, float]:
    """RMSE, log p per cell and share of doubtful estimates of a VAE with columns."""
    with_holes = pd.DataFrame(x, columns=frame.columns)
    train, valid, _ = pv.load(with_holes, validation=len(x) // 10)
    schema = train.schema
    train = train.joined(_test(with_holes, schema, train, valid))
    config = pv.Config(
        likelihood="columns", likelihood_schema=schema, latent_dim=latent_dim, seed=seed, **SETTINGS
    )
    vae = pv.build_program(config, event_shape=train.event_shape, data=train.x)
    training = {**vars(config.training), "device": "cpu", "progress": False}
    pv.fit(vae, train, valid, objective=pv.IWAE(particles=10), **training)
    holes, whole = pv.data.coded(with_holes, schema), pv.data.coded(frame, schema)
    hidden = holes.isnan()
    units = torch.tensor([column.scale for column in schema])
    options = {"method": "guide", "samples": 500, "seed": seed, "progress": False, "search": False}
    filled = pv.impute(vae.model, vae.guide, holes, 200, **options)
    off = ((filled.mean - whole) * units)[hidden]
    logs = [pv.log_evidence(vae.model, vae.guide, data, **options) for data in (whole, holes)]
    touched = hidden.any(1)
    conditional = (logs[0].log_px - logs[1].log_px)[touched].sum() / hidden.sum()
    doubtful = max(evidence.share_unreliable() for evidence in logs)
    return float(off.square().mean().sqrt()), float(conditional), doubtful


def _test(with_holes: pd.DataFrame, schema: object, train: pv.Data, valid: pv.Data) -> pv.Data:
    """The rows set aside as test data: here all rows are to be imputed, so they are trained on."""
    return pv.load(with_holes, columns=schema, validation=len(valid)).test


LATENTS = {"wine": 4, "diabetes": 4, "breast-cancer": 8}
SETTINGS = {
    "hidden": (32,),
    "epochs": 300,
    "batch_size": 128,
    "learning_rate": 1e-2,
    "schedule": "one-cycle",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", nargs="+", default=list(TABLES))
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("table          removed  method               RMSE             log p per cell   CPU s")
    for name in arguments.tables:
        frame = table(name)
        whole = frame.to_numpy()
        for share in arguments.shares:
            found: dict[str, list[tuple[float, float, float]]] = {}
            for seed in range(arguments.seeds):
                hidden = removed(whole, share, seed)
                x = np.where(hidden, np.nan, whole)
                for method, (imputer, scores) in _methods(name, frame, x, whole, seed).items():
                    start = time.process_time()
                    rmse, logs = scores() if imputer is None else (_rmse(imputer, x, whole), np.nan)
                    found.setdefault(method, []).append((rmse, logs, time.process_time() - start))
            for method, rows in found.items():
                print(
                    f"{name:<14} {share:>6.0%}   {method:<19}", *_cells(np.array(rows)), flush=True
                )


def _methods(name, frame, x, whole, seed):
    return {
        "column mean": (SimpleImputer(), None),
        "nearest neighbours": (KNNImputer(n_neighbors=5), None),
        "IterativeImputer": (IterativeImputer(random_state=seed, max_iter=20), None),
        "full normal (EM)": (None, lambda: normal_scores(x, whole, seed)),
        "ours": (None, lambda: ours(frame, x, seed, LATENTS[name])[:2]),
    }


def _rmse(imputer, x: np.ndarray, whole: np.ndarray) -> float:
    off = (imputer.fit_transform(x) - whole)[np.isnan(x)]
    return float(np.sqrt((off**2).mean()))


def _cells(rows: np.ndarray) -> list[str]:
    mean = rows.mean(0)
    error = rows.std(0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else rows[0] * np.nan
    cells = [
        f"{m:7.3f} ± {e:.3f}" if np.isfinite(m) else " " * 15
        for m, e in zip(mean, error, strict=True)
    ]
    return [*cells[:2], f"{mean[2]:7.1f}"]


if __name__ == "__main__":
    main()
