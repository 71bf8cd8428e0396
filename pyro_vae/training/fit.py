"""fit(): SVI with a progress bar, a history, early stopping, checkpoints and resuming."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.devices import bytes_of_one, exact_convolutions, resolve_device
from ..common.errors import warn
from ..common.files import sweep
from ..common.host import use_threads
from ..common.locks import held, writes_to
from ..common.memory import check_memory
from ..common.options import Precision, Schedule, WarmupUnit
from ..common.processes import Processes
from ..common.seeding import seeded
from ..common.settings import TrainingSettings
from ..common.verbs import verb
from ..config import Config
from ..data import AnyData, Source
from ..objectives import ELBO, EnumeratedELBO, Objective
from ..programs.arguments import of_data
from ..programs.checks import check_parameters
from ..programs.enumeration import left_out
from ..programs.inputs import source_for
from ..programs.masks import check_hidden
from ..programs.module import ProgramModule
from ..programs.modules import check_programs, check_type, evaluation_mode, modes_kept
from ..programs.observations import check_support, say_rounded
from ..programs.traces import Batch, run_both
from . import checkpoint
from .callbacks import Callbacks, OnEpoch, as_functions
from .history import History
from .loop import Loop, Saver
from .signals import stop_on_signal

__all__ = ["History", "fit"]

_CHECKED_AT_ONCE = 4096
_MANY = 2**16  # rows and particles of a step whose memory is looked at beforehand
_CHECKED_FIRST = 256  # of data that are not in memory


@verb
@writes_to("out")
def fit(
    program: Any,
    train: AnyData,
    valid: AnyData | None = None,
    *,
    objective: Objective | EnumeratedELBO | None = None,
    epochs: int = TrainingSettings.epochs,
    batch_size: int = TrainingSettings.batch_size,
    learning_rate: float = TrainingSettings.learning_rate,
    schedule: Schedule = TrainingSettings.schedule,
    kl_warmup: int = TrainingSettings.kl_warmup,
    kl_warmup_unit: WarmupUnit = TrainingSettings.kl_warmup_unit,
    kl_cycles: int = TrainingSettings.kl_cycles,
    beta: float = TrainingSettings.beta,
    patience: int | None = TrainingSettings.patience,
    compiled: bool = TrainingSettings.compiled,
    precision: Precision = TrainingSettings.precision,
    seed: int = TrainingSettings.seed,
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    config: Config | None = None,
    checkpoint_seconds: float = 10.0,
    on_epoch: OnEpoch | Sequence[OnEpoch] | None = None,
    progress: bool | None = None,
) -> History:
    r"""Train a model and its guide by stochastic variational inference with Adam.

    Each step minimizes the objective per datum, :math:`\frac{1}{B} \sum_n -L(x_n)`, over a
    minibatch. Loss and gradient are those of ``pyro.infer.SVI`` with the same objective (divided
    by B), with one fused optimizer, and without argument validation inside the loop.

    Under ``torchrun`` the processes divide each batch among them. Each draws its own noise, and
    gradients are those of the whole batch, so the number of processes changes only the noise. The
    first one writes; a run may be resumed with another number of processes.

    On a GPU the ELBOs are read every hundred steps, so that the host does not wait at each; an
    error then names the step of the first loss that was not finite, but not its cause. Convolutions
    are of float32 there, too (not TF32, torch's default). Data may lie anywhere; those in memory
    are put on the device at once, and the program stays there (``vae.device``).

    Everything random depends on ``seed`` alone, and the caller's random state is left unchanged.
    With ``out``, the state is saved at most every ``checkpoint_seconds`` and at the end. A run that
    was killed at any moment and resumed ends bit for bit, on the same machine, as one that was not
    (on a GPU, for networks with convolutions and flows with splines, only after
    ``torch.use_deterministic_algorithms(True)``).

    Args:
        program: ``nn.Module`` with Pyro programs ``model`` and ``guide``, such as ``VAE``; it is
            moved to the device and trained in place.
        train: training data: a tensor or an array ``(N, *event_shape)``, ``Data``, a map-style
            dataset, or a loader or a list of batches (of which the programs take the leading
            parts); a tuple may hold what is the same for all data (numbers, ``None``), and a
            dictionary gives arguments by name. Integers become numbers of the parameters' type
            where the programs want these.
        valid: validation data, likewise.
        objective: by default ``ELBO()``, or ``EnumeratedELBO`` where the guide leaves out discrete
            latents that the model marks ``infer={"enumerate": "parallel"}``.
        epochs: passes over the training data.
        batch_size: data per step. The last step of an epoch takes what is left; a single datum
            joins the step before if the program has batch normalization.
        learning_rate: Adam's step size, or the schedule's peak.
        schedule: ``"constant"``, ``"one-cycle"`` (up, then down to nearly zero), or ``"cosine"``
            (down to zero).
        kl_warmup: length of the warm-up, over which the weight of the KL term rises from exactly 0
            to exactly ``beta``.
        kl_warmup_unit: unit of ``kl_warmup``: ``"epochs"`` or ``"steps"``.
        kl_cycles: cycles within the warm-up; see :func:`pyro_vae.objectives.kl_weight`.
        beta: weight of the KL term after the warm-up; the logged ELBO always has weight 1.
        patience: stop after this many epochs without a better validation ELBO (counted from the end
            of the warm-up), and restore the best parameters. ``None`` trains to the end.
        compiled: compile the step first (some seven seconds, three from the cache); loss and
            gradients stay the same up to rounding.
        precision: of matrix products in a compiled step, see :class:`pyro_vae.CompiledStep`.
        seed: seed of data order, noise and binarization.
        device: ``"auto"`` (a GPU where there is one), or a torch device.
        out: run folder for checkpoint, history (CSV) and config (JSON).
        resume: continue from the checkpoint in ``out`` (from the start if there is none yet). A
            run may then have more ``epochs`` under a constant learning rate, and more ``patience``;
            it ends at the bits of one that had them from the start. One that stopped early has
            nothing to do with more epochs, only with more patience.
        config: description of the run, kept in the checkpoint so that ``load_run`` can rebuild the
            model.
        checkpoint_seconds: least time between two checkpoints.
        on_epoch: function of the row of the history, an :class:`Epoch`, called after every epoch
            (``row.to_dict()`` is what trackers log), or several, in turn. A mapping of numbers by
            name that it returns becomes columns of the history, which those after it see, such as
            ``pv.analysis.collapse(vae, valid)``. The training depends on nothing that it draws or
            switches, and its time is not in ``seconds``. What it raises ends the run after that
            epoch's state was saved. Of several processes the first calls it, and shares no work in
            it.
        progress: show a progress bar; by default if the output is a terminal.

    Returns:
        History with one row per epoch: ELBOs in nats per datum, KL weight, learning rate, seconds.

    Raises:
        ValueError: empty data or NaN; data outside the likelihood's support; a setting out of
            range; a checkpoint of another architecture or of other settings.
        NonFiniteLoss: NaN or infinite loss; names the step and the cause. The last checkpoint is
            kept.
        FileExistsError: ``out`` holds a run and ``resume`` is false.
        Interrupted: Ctrl-C; with ``out``, the state at that step was saved.
        NotEnoughMemory: a step does not fit.
        OSError: ``out`` cannot be written; the last checkpoint is kept. Or another process trains
            into ``out`` (``BlockingIOError``), or ``out`` was deleted meanwhile.

    Warns:
        PyroVAEWarning: the run ended far worse than it started, or worse than no model at all.
    """
    settings = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        kl_warmup=kl_warmup,
        kl_warmup_unit=kl_warmup_unit,
        kl_cycles=kl_cycles,
        beta=beta,
        patience=patience,
        compiled=compiled,
        precision=precision,
        seed=seed,
    )
    if objective is not None and not hasattr(objective, "terms"):
        raise TypeError(
            f"objective must be one of pyro_vae's, such as pv.ELBO(); got {objective!r}. Those of "
            "Pyro train with pyro.infer.SVI(vae.model, vae.guide, ...)."
        )
    callbacks = Callbacks(as_functions(on_epoch))
    check_programs(program)
    program, train, valid = of_data(program, train, valid)
    own = list(program.parameters())
    if resume and out is None:
        raise ValueError("resume=True needs the run folder: out=...")
    if settings.patience is not None and valid is None:
        raise ValueError("patience needs validation data; pass them, or leave patience out.")
    processes = Processes.join()
    target = resolve_device(device)
    folder = None if out is None else Path(out)
    lock = held(folder)
    if folder is not None and not resume and checkpoint.holds_run(folder):
        raise FileExistsError(
            f"{folder} holds a run already; resume it (resume=True, --resume) or choose another "
            "folder."
        )
    processes.wait()  # before the first writes what the others have just looked for
    program.to(target)
    processes.align(program)
    programs = program.model, program.guide
    training = source_for(train, *programs, what="training data").to(target)
    validation = None
    if valid is not None:
        validation = source_for(valid, *programs, what="validation data").to(target)
    rows = training.largest(settings.batch_size)
    with use_threads(1), seeded("check", settings.seed), evaluation_mode(*programs):
        _check_size(program, objective, training, own, rows or settings.batch_size)
        goal = _check_source(program, objective, training, own, what="training data")
        if validation is not None:
            _check_source(program, goal, validation, own, learn=False, what="validation data")
        baseline = _baseline(program, training)
    loop = Loop(program, training, validation, goal, settings, target, processes, callbacks)
    if folder is not None:
        if resume and (found := checkpoint.newest(folder)) is not None:
            path, state = found
            loop.restore(state, str(path))
            if path.name == checkpoint.PREVIOUS and lock is not None:
                _say_previous(folder, path, loop)
        processes.wait()
        if lock is not None:  # what a run that was killed while it wrote has left
            sweep(folder, *checkpoint.FILES)
    saver = Saver(loop, folder, config, checkpoint_seconds, lock=lock)
    if math.isnan(loop.history.baseline):
        loop.history.baseline = baseline
    if loop.finished:
        saver.describe()
        if loop.changed:  # more epochs, which a run that stopped early does not need
            saver.save()
        return loop.history
    with modes_kept(program):
        if not program.training:
            program.train()
        saver.save()  # an unwritable folder shows at once
        saver.describe()
        with (
            seeded("fit", settings.seed),
            pyro.validation_enabled(False),
            exact_convolutions(),
            use_threads(loop.choose_threads()),
            stop_on_signal() as stop,
        ):
            loop.run(saver, stop, progress)
    if settings.beta >= 1 and (failure := loop.history.failure()):  # else it was not maximized
        warn(failure)
    return loop.history


def _check_size(module: Any, objective: Any, source: Source, own: list[Tensor], rows: int) -> None:
    """Check that a step fits into memory, by what surely has to be there at once.

    Of each parameter its gradient and the optimizer's two moments; of the largest tensor of a step
    also its gradient.
    """
    learned = sum(p.nbytes for p in own if p.requires_grad)
    device = own[0].device if own else None
    check_memory(3 * learned, "training", cure="Take smaller layers.", device=device)
    particles = getattr(objective, "num_particles", 1)
    if rows * particles <= _MANY:
        return
    batch = next(source.batches(8))

    def run(number: int) -> None:
        run_both(module.model, module.guide, tuple(a[:number] for a in batch))

    try:
        with pyro.validation_enabled(False):
            one = bytes_of_one(run)
    except Exception:  # what is wrong with the programs is said where they are checked
        return
    said = f"a step of {rows:,} data" + (f" and {particles:,} particles" * (particles > 1))
    cure = "Take fewer particles, or a smaller batch_size."
    check_memory(2.0 * one * rows * particles, said, cure=cure, device=device)


def _baseline(module: Any, source: Source) -> float:
    """Mean log p of some of the training data without latents; NaN where nobody knows it."""
    if not isinstance(module, ProgramModule):
        return math.nan
    if source.in_memory:
        index = torch.linspace(0, len(source) - 1, min(len(source), _CHECKED_AT_ONCE)).long()
        batch = next(source.select(index, len(index)))
    else:
        batch = next(source.batches(_CHECKED_FIRST))
    try:
        found = module.baseline(batch[0])
    except Exception:  # a likelihood need not know; training does not depend on it
        return math.nan
    return math.nan if found is None else found.double().mean().item()


def _say_previous(folder: Path, path: Path, loop: Loop) -> None:
    """Warn that a run goes on from the checkpoint before the newest, which is kept apart."""
    lost = "is not there"
    if (folder / checkpoint.CHECKPOINT).exists():
        lost = f"is damaged (it is kept as {checkpoint.DAMAGED})"
        checkpoint.set_aside(folder)
    warn(
        f"{folder / checkpoint.CHECKPOINT} {lost}; the run goes on from {path.name}, epoch "
        f"{loop.epoch + 1} after step {loop.step}, and ends with the same numbers.",
    )


def _goal(module: Any, objective: Any, batch: Batch) -> Any:
    """The objective; one that sums discrete latents out where the guide leaves them out."""
    with pyro.validation_enabled(False):
        traces = run_both(module.model, module.guide, batch)
    say_rounded(traces[0])
    summed = left_out(*traces)
    if not summed or isinstance(objective, EnumeratedELBO):
        return ELBO() if objective is None else objective
    if objective is not None:
        raise ValueError(
            f"{objective!r} cannot sum out {', '.join(map(repr, summed))}, which the guide leaves "
            "out; use objective=pv.EnumeratedELBO(), or add them to the guide."
        )
    return EnumeratedELBO()


def _check_source(
    module: Any,
    objective: Any,
    source: Source,
    own: list[Tensor],
    *,
    learn: bool = True,
    what: str,
) -> Any:
    """Check data against the likelihood's support: all if held in memory, else the first batch.

    Returns the objective, or one in its place if there is none.
    """
    first = 0
    for batch in source.batches(_CHECKED_AT_ONCE if source.in_memory else _CHECKED_FIRST):
        check_type(batch[0], module)
        check_support(module.model, module.guide, batch, first=first, what=what)
        if first == 0:
            check_parameters(module, own, batch)
            check_hidden(module.model, module.guide, batch)
            if learn:
                objective = _goal(module, objective, batch)
                with pyro.validation_enabled(False):
                    objective.prepare(module.model, module.guide, *batch)
                    _say_sampled_kl(module, objective, batch)
        first += len(batch[0])
        if not source.in_memory:
            break
    return objective


def _say_sampled_kl(module: Any, objective: Objective, batch: tuple[Tensor, ...]) -> None:
    """Warn of a KL term without the closed form that was asked for."""
    if getattr(objective, "kl", None) != "analytic":
        return
    used = objective.kl_used(module.model, module.guide, *batch)
    sampled = [name for name, how in used.items() if how == "sampled"]
    if sampled:
        warn(
            f"the KL term of {', '.join(sampled)} has no closed form here and is sampled.",
        )
