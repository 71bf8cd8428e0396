"""The training loop: its state, its steps, and how it is saved and restored."""

from __future__ import annotations

import copy
import itertools
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..common.errors import CheckpointError, Interrupted, NonFiniteLoss
from ..common.files import write_json, write_text
from ..common.host import threads_worth
from ..common.locks import FolderLock
from ..common.processes import Processes
from ..common.progress import Progress, part_done
from ..common.seeding import derive, seeded
from ..common.settings import TrainingSettings
from ..compiled.step import NOTHING_TO_LEARN, CompiledGradients, Gradients
from ..config import Config
from ..data import Source
from ..objectives import Objective, kl_weight
from ..programs.checks import explain
from ..programs.modules import modes_kept
from . import checkpoint
from .callbacks import Callbacks
from .history import Epoch, History
from .optimizers import adam, progress_of, scheduler_of
from .resuming import check_resumable

__all__ = ["Loop", "Saver"]

_EVALUATION_BATCH = 1000
# Steps between two reads of their ELBOs: reading makes the host wait for the device.
_LOOK_EVERY = {"cpu": 1}
_LOOK_EVERY_ELSE = 100
# Steps between two questions to the other processes, whether to stop or save.
_ASK_EVERY = {"cpu": 1}
_ASK_EVERY_ELSE = 20
_PLACE = ("epoch", "step", "epoch_elbo", "epoch_data", "last_kl_weight", "seconds")


@dataclass
class Loop:
    """State of a training run: everything that the next step depends on."""

    program: Any
    train: Source
    valid: Source | None
    objective: Objective
    settings: TrainingSettings
    device: torch.device
    processes: Processes = field(default_factory=Processes)
    callbacks: Callbacks = field(default_factory=Callbacks)
    history: History = field(default_factory=History)
    epoch: int = 0  # epochs completed
    step: int = 0  # steps completed in the epoch under way
    epoch_elbo: float = 0.0
    epoch_data: int = 0
    last_kl_weight: float = 1.0
    seconds: float = 0.0
    best: dict[str, Tensor] | None = None
    last: dict[str, Tensor] | None = None  # of the last epoch, once the best are restored
    rng: list[dict[str, Tensor]] | None = None  # at a restored step, by rank
    finished: bool = False
    changed: bool = False  # whether the settings are others than those of the state restored
    threads: int | None = None  # the same all through a run, since sums may depend on their number
    least: int = field(init=False, default=1)  # data in a batch
    unread: list[tuple[Tensor, int | Tensor]] = field(default_factory=list)  # ELBO, data of steps

    def __post_init__(self) -> None:
        self.described = {  # what must be the same to resume a run
            **asdict(self.settings),
            "objective": repr(self.objective),
            "train_data": self.train.sha256,
            "valid_data": None if self.valid is None else self.valid.sha256,
        }
        self.learned = [p for p in self.program.parameters() if p.requires_grad]
        self.optimizer = adam(self.learned, self.settings)
        # Batch normalization has no statistics of a single datum: two for every process.
        normalized = any(isinstance(m, _BatchNorm) for m in self.program.modules())
        self.least = 2 * self.processes.world if normalized else 1
        self.steps_per_epoch = self.train.steps(self.settings.batch_size, least=self.least)
        self.warmup_epochs = self.settings.warmup_epochs(self.steps_per_epoch)
        self.scheduler = scheduler_of(self.optimizer, self.settings, self.steps_per_epoch)
        self.gradients = Gradients(self.program, self.objective)
        if self.settings.compiled:
            rows = self.train.largest(self.settings.batch_size, least=self.least)
            self.gradients = CompiledGradients(
                self.program,
                self.objective,
                rows=None if rows is None else len(range(rows)[self.processes.share]),
                precision=self.settings.precision,
            )

    @property
    def steps(self) -> int:
        """Number of steps completed in all epochs."""
        return self.epoch * self.steps_per_epoch + self.step

    def run(self, saver: Saver, stop: threading.Event, progress: bool | None) -> None:
        """Train from the present state to the end."""
        total = self.settings.epochs
        started = time.perf_counter() - self.seconds
        shown = progress if self.processes.is_first else False
        with Progress(total, "training", "epochs", show=shown, done=self.epoch, keep=True) as bar:
            while self.epoch < total and not self._should_stop():
                self._train_epoch(saver, stop, started)
                self.seconds = time.perf_counter() - started
                self._finish_epoch()
                bar.update(note=str(self.history.epochs[-1]))
                self.seconds = time.perf_counter() - started
                self.callbacks(self.program, self.history, self.settings.seed, self.processes)
                started = time.perf_counter() - self.seconds  # of training alone
                if any(self.processes.any(saver.is_due(), self.callbacks.failed is not None)):
                    saver.save()
                self.callbacks.check(saver.how_to_resume(self.epoch, self.step))
        self.finished = True
        self.history.stopped_early = self.epoch < total
        if self.settings.patience is not None and self.best is not None and (best := self._best()):
            self.last = checkpoint.copy_of(self.program)
            self.program.load_state_dict(self.best)
            self.history.restored_epoch = best.epoch
        saver.save()

    def choose_threads(self) -> int:
        """Measure how many threads a step is worth, once for a run, on a copy of the program."""
        if self.threads is None or self.threads > torch.get_num_threads():
            self.threads = torch.get_num_threads()
            if self.threads > 1 and self.device.type == "cpu":
                try:
                    step = Gradients(*copy.deepcopy((self.program, self.objective)))
                    batch = next(iter(self.train.batches(self.settings.batch_size)))
                    self.threads = threads_worth(lambda: step(*batch), self.threads)
                except Exception:  # no copy, or no such step: the first of the run says it better
                    self.threads = 1
        return self.threads

    def _train_epoch(self, saver: Saver, stop: threading.Event, started: float) -> None:
        seed, rank = self.settings.seed, self.processes.rank
        torch.manual_seed(derive("train", seed, self.epoch, *([rank] if rank else [])))
        order = torch.Generator().manual_seed(derive("order", seed, self.epoch))
        size, share = self.settings.batch_size, self.processes.share
        data = self.train.shuffled(size, order, share, least=self.least)
        for _ in itertools.islice(data, self.step):
            pass  # after a restart, batches already used are drawn again and dropped
        self._restore_rng()
        for batch in data:
            self._train_step(batch)
            self.seconds = time.perf_counter() - started
            part_done(self.step / max(self.steps_per_epoch, 1), 1, "epochs")
            if self.processes.world > 1 and self.steps % _ASK_EVERY.get(
                self.device.type, _ASK_EVERY_ELSE
            ):
                continue
            stopped, due = self.processes.any(stop.is_set(), saver.is_due())
            if stopped or due:
                saver.save()
            if stopped:
                raise Interrupted(saver.how_to_resume(self.epoch, self.step))

    def _train_step(self, batch: tuple[Tensor, ...]) -> None:
        self.last_kl_weight = self._kl_weight()
        rows = len(batch[0])
        if rows:
            elbo = self._elbo(batch)
            if self.steps == 0 and all(p.grad is None for p in self.learned):
                raise ValueError(NOTHING_TO_LEARN)
        else:  # fewer data than processes
            self.optimizer.zero_grad(set_to_none=True)
            elbo = torch.zeros((), device=self.device)
        self.unread.append(self.processes.combine(self.learned, rows, elbo))
        self.step += 1
        if len(self.unread) >= _LOOK_EVERY.get(self.device.type, _LOOK_EVERY_ELSE):
            self.look(batch)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()

    def _elbo(self, batch: tuple[Tensor, ...]) -> Tensor:
        try:
            return self.gradients(*batch, kl_weight=self.last_kl_weight)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"step {self.step + 1} has {len(batch[0])} datum, of which batch normalization "
                "has no statistics; use batch_size=2 or more, or give a loader of your own "
                "drop_last=True."
            ) from error

    def look(self, batch: tuple[Tensor, ...] = ()) -> None:
        """Read and add up the ELBOs of the last steps; a non-finite one ends the run."""
        unread, self.unread = self.unread, []
        if not unread:
            return
        if len(unread) == 1:
            values = [unread[0][0].item()]
        else:
            values = torch.stack([elbo for elbo, _ in unread]).double().tolist()
        for place, value in enumerate(values, self.step - len(values) + 1):
            if not math.isfinite(value):  # true whenever the loss is not finite
                now = batch and place == self.step  # before the optimizer has spread it
                cause = f": {explain(self.program, batch)}" if now else ""
                raise NonFiniteLoss(
                    f"the ELBO became {value} in epoch {self.epoch + 1}, step {place}{cause}. "
                    "Parameters of the last checkpoint are kept. Try a smaller learning rate, or "
                    "a KL warm-up."
                )
            self.epoch_elbo += value
            if place == 1 and self.epoch == 0:
                self.history.start = value / max(int(unread[0][1]), 1)
        self.epoch_data += int(sum(rows for _, rows in unread))

    def _kl_weight(self) -> float:
        of_one = self.steps_per_epoch if self.settings.kl_warmup_unit == "epochs" else 1
        return kl_weight(
            self.steps / of_one,
            warmup=self.settings.kl_warmup,
            cycles=self.settings.kl_cycles,
            beta=self.settings.beta,
        )

    def _best(self) -> Epoch | None:
        """Best epoch at the final KL weight, by the validation ELBO."""
        return self.history.best(after=self.warmup_epochs)

    def _finish_epoch(self) -> None:
        self.look()
        self.history.epochs.append(
            Epoch(
                epoch=self.epoch + 1,
                train_elbo=self.epoch_elbo / self.epoch_data,
                valid_elbo=self._validate(),
                kl_weight=self.last_kl_weight,
                learning_rate=float(self.optimizer.param_groups[0]["lr"]),
                seconds=round(self.seconds, 3),
            )
        )
        self.epoch, self.step, self.epoch_elbo, self.epoch_data = self.epoch + 1, 0, 0.0, 0
        if self.settings.patience is not None and self._best() is self.history.epochs[-1]:
            self.best = checkpoint.copy_of(self.program)

    @torch.no_grad()
    def _validate(self) -> float:
        """ELBO of the validation data per datum, with the same noise after every epoch."""
        if self.valid is None:
            return math.nan
        total, count = 0.0, 0
        with modes_kept(self.program), seeded("validate", self.settings.seed):
            self.program.eval()
            for batch in self.valid.batches(_EVALUATION_BATCH):
                terms = self.objective.terms(self.program.model, self.program.guide, *batch)
                total += terms[1].item()
                count += len(batch[0])
        return self.processes.gather(total / count)[0]

    def _should_stop(self) -> bool:
        patience, best = self.settings.patience, self._best()
        return patience is not None and best is not None and self.epoch - best.epoch >= patience

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, as tensors and plain values."""
        self.look()
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "settings": self.described,
            "parameters": self.program.state_dict(),
            "best": self.best if self.last is None else None,  # the parameters then
            "last": self.last,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else progress_of(self.scheduler),
            "rng": self.processes.gather(rng),
            **{name: getattr(self, name) for name in _PLACE},
            **self.history.to_state(),
            "finished": self.finished,
            "threads": self.threads,
        }

    def restore(self, state: Mapping[str, Any], source: str) -> None:
        """Continue from a state returned by :meth:`state`."""
        with checkpoint.entries_of(source):
            self.history = History.from_state(state)
        check_resumable(state["settings"], self.described, source)
        self.changed = state["settings"] != self.described
        for name in _PLACE:
            setattr(self, name, state[name])
        over = self.epoch >= self.settings.epochs or self._should_stop()
        self.finished = state["finished"] and over
        self.history.stopped_early = self.finished and self.epoch < self.settings.epochs
        parameters, self.best, self.last = state["parameters"], state["best"], state.get("last")
        if self.history.restored_epoch is not None and not self.finished:
            if self.last is None:
                raise CheckpointError(
                    f"{source} was written by an earlier version, which kept the best parameters "
                    "but not those of the last epoch, so it cannot be made longer; start a new run."
                )
            parameters, self.best, self.last = self.last, parameters, None
            self.history.restored_epoch = None
        for other in filter(None, (self.best, self.last)):
            checkpoint.check_parameters(self.program, other, source=source)
        checkpoint.load_parameters(self.program, parameters, source=source)
        with checkpoint.entries_of(source):
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            torch.Generator().set_state(state["rng"][0]["cpu"].cpu())  # is one
        self.rng = state["rng"]
        self.threads = state.get("threads")

    def _restore_rng(self) -> None:
        if self.rng is None:
            return
        rank = self.processes.rank
        if self.step and len(self.rng) == self.processes.world:
            torch.set_rng_state(self.rng[rank]["cpu"].cpu())
            if "cuda" in self.rng[rank] and self.device.type == "cuda":
                torch.cuda.set_rng_state(self.rng[rank]["cuda"].cpu(), self.device)
        elif self.step:  # saved by another number of processes
            seed = self.settings.seed
            torch.manual_seed(derive("train again", seed, self.epoch, self.step, rank))
        self.rng = None


@dataclass
class Saver:
    """Writes the state of a run to its folder, from time to time and at the end."""

    loop: Loop
    folder: Path | None
    config: Config | None
    every: float
    last: float = field(default_factory=time.monotonic)
    lock: FolderLock | None = None

    def is_due(self) -> bool:
        """Whether the last save was long enough ago."""
        return time.monotonic() - self.last >= self.every

    def save(self) -> None:
        """Write checkpoint and history, if there is a folder; every process must call this."""
        self.loop.look()  # a loss that was not finite says more than the parameters after it
        self._check_parameters()
        self.last = time.monotonic()
        if self.folder is None:
            return
        state = self.loop.state()
        if not self.loop.processes.is_first:
            return
        if self.lock is not None:
            self.lock.check()
        state["config"] = None if self.config is None else self.config.to_dict()
        state["event_shape"] = self.loop.train.event_shape
        checkpoint.write(self.folder / checkpoint.CHECKPOINT, state)
        write_text(self.folder / checkpoint.HISTORY, self.loop.history.to_csv())

    def describe(self) -> None:
        """Write the config beside the checkpoint, which has it too, for people to read."""
        if self.folder is None or self.config is None or not self.loop.processes.is_first:
            return
        write_json(self.folder / checkpoint.CONFIG, self.config.to_dict())

    def _check_parameters(self) -> None:
        """Refuse non-finite parameters, which a bad gradient leaves before the next loss."""
        named = dict(self.loop.program.named_parameters())
        finite = torch.stack([p.isfinite().all() for p in named.values()]).tolist()  # read at once
        wrong = [name for name, good in zip(named, finite, strict=True) if not good]
        if wrong:
            raise NonFiniteLoss(
                f"parameters {', '.join(wrong[:3])} became NaN or infinite by epoch "
                f"{self.loop.epoch + 1}, step {self.loop.step}, from a gradient that was not "
                "finite. The last checkpoint is kept. Try a smaller learning rate."
            )

    def how_to_resume(self, epoch: int, step: int) -> str:
        """Say where the run was stopped and how to go on."""
        where = f"in epoch {epoch + 1} after step {step}" if step else f"after epoch {epoch}"
        if self.folder is None:
            return f"stopped {where}; nothing was saved, as no run folder was given."
        return f"stopped {where}; saved to {self.folder}. Go on with --resume (resume=True)."
