"""The certificate of a run: bounds of log p(x) from both sides, kept in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..common.errors import CheckpointError
from ..common.files import read_json, sweep, write_json
from ..common.locks import take_turns
from ..common.settings import CertificateSettings
from ..common.verbs import verb
from ..evidence import Annealing, Certificate, certify
from .folder import Run, load_run
from .inputs import arguments, data_of
from .results import CERTIFICATE

__all__ = ["certify_run", "save_certificate", "statements", "stored_certificate"]

_STATES: Mapping[str, type | tuple[type, ...]] = {
    "number": int,
    "gap": (int, float),
    "gap_error": (int, float),
    "within": (int, float),
    "method": str,
    "samples": int,
}


@verb
def certify_run(
    folder: str | Path,
    settings: CertificateSettings | None = None,
    *,
    root: str | Path | None = None,
    device: str = "auto",
    progress: bool | None = None,
) -> Certificate:
    """Bound log p(x) from both sides on data simulated from a run; write ``certificate.json``.

    Its test data give their shape, and what the program is given beside them (labels of a
    conditional one, exposures). Arguments are those of :func:`~pyro_vae.runs.run.evaluate_run`.

    Returns:
        The certificate, see :func:`~pyro_vae.evidence.bounds.certify`.

    Raises:
        ValueError: a program with discrete latents; data that cannot be simulated.
    """
    settings = settings or CertificateSettings()
    run = load_run(folder, device=device)
    test = data_of(run, root=root).test.head(settings.number)
    certificate = certify(
        run.vae.model,
        run.vae.guide,
        arguments(run.config, test),
        number=settings.number,
        samples=settings.samples,
        method=settings.method,
        annealing=Annealing(temperatures=settings.temperatures, chains=settings.chains),
        seed=settings.seed,
        progress=progress,
    )
    save_certificate(run, certificate)
    return certificate


def save_certificate(run: Run, certificate: Certificate) -> None:
    """Write what was certified of a run into its folder."""
    with take_turns(run.folder):
        run.check_folder()
        sweep(run.folder, CERTIFICATE)
        about = {**certificate.summary(), "model_sha256": run.sha256}
        write_json(run.folder / CERTIFICATE, about)


def stored_certificate(
    run: Run, settings: CertificateSettings | None = None
) -> Mapping[str, Any] | None:
    """Read what was certified of a run (``Certificate.summary``).

    Args:
        run: the run.
        settings: those it must have been made with, if not any.

    Returns:
        ``None`` if nothing was certified of its present parameters, or with other settings.

    Raises:
        CheckpointError: the file is damaged, or not a certificate.
    """
    path = run.folder / CERTIFICATE
    if not path.exists():
        return None
    try:
        found: Mapping[str, Any] = read_json(path)
        if found.get("model_sha256") != run.sha256:
            return None
        for name, kind in _STATES.items():
            if not isinstance(found[name], kind):
                raise ValueError(f"{name} is {found[name]!r}")
    except (ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a certificate ({error}); make it anew: pyro-vae certify {run.folder}."
        ) from error
    wanted = {} if settings is None else asdict(settings)
    return found if found.items() >= wanted.items() else None


def statements(run: Run) -> list[tuple[str, str]]:
    """Say what is certified of a run, in pairs of a term and its value; nothing if nothing is."""
    found = stored_certificate(run)
    if found is None:
        return []
    gap = f"{found['gap']:.3f} ± {found['gap_error']:.3f} nats".replace("-", "\N{MINUS SIGN}")
    within = f"within {found['within']:.3f} nats of log p(x) on them at 95\N{NO-BREAK SPACE}%"
    how = f"method {found['method']}, K = {found['samples']:,}"
    return [
        ("certified gap", f"{gap} between bounds, {found['number']} simulated data"),
        ("certified mean", f"{within}, {how}"),
    ]
