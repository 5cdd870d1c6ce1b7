"""Callbacks and loggers of a run: its log, its progress bar, and its end by a signal.

They work with any module that has a `progress` (see schedules) and whose `read_log()` returns a row of the log.
"""

import csv
import errno
import logging
import math
import os
import signal
import sys
import time
import warnings
from io import RawIOBase, StringIO
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bert.errors import InputError
from bert.files import replaced, sync
from bert.signals import Signals
from bert.terminal import raw
from bert.training import schedules
from bert.training.ranks import Agreement

logger = logging.getLogger(__name__)

TIME_COLUMNS = ("seconds", "tokens_per_second", "data_share")  # columns that may differ between identical runs


class NotFinite(InputError):
    """The error of a run that has diverged."""


def not_finite(what: str, value: float, step: float) -> NotFinite:
    """The loss or gradient `what` is NaN or infinite."""
    lower = "resume pretraining, or start again, with a lower optimizer.lr (and optimizer.muon_lr, if Muon is used)"
    return NotFinite(f"the {what} is {value} at step {step}: {lower}; or start again with a longer schedule.warmup")


class MetricsCsv(Logger):
    """RUN/metrics.csv: one row per log step or validation, appended and flushed, so that no row is lost or written twice.

    Lightning's own CSVLogger drops earlier rows when a run is resumed.
    """

    def __init__(self, file: Path, columns: list[str]) -> None:
        super().__init__()
        self.file, self.columns = file, columns
        self._waiting: list[dict[str, Any]] = []  # rows that could not be written yet

    name, version = "csv", ""
    """required by Lightning"""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the recipe has its own file."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row. If the disk is full, it is written with the next one, and training continues."""
        if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
            return
        if not metrics.keys() & set(self.columns):  # from a user's callback, for other loggers
            return
        self._waiting.append({"step": step, **metrics})
        try:
            with self.file.open("ab", buffering=0) as stream:
                self._append(stream)
        except OSError as error:
            if len(self._waiting) == 1:
                what = f"cannot be written ({error.strerror or error}): training continues, its rows wait for room"
                warnings.warn(f"{self.file}: {what}", stacklevel=2)
        else:
            self._waiting.clear()

    def _append(self, stream: RawIOBase) -> None:
        size, text = stream.tell(), StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore")
        if size == 0:
            writer.writeheader()
        writer.writerows(self._waiting)
        content = text.getvalue().encode()
        if (stream.write(content) or 0) < len(content):
            stream.truncate(size)  # no partial row
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(self) -> None:
        """Flush the rows to disk: a checkpoint that survives a power cut finds those before it."""
        if self.file.exists():
            sync(self.file)

    def cut(self, step: int) -> None:
        """Drop the rows after `step`, which a resumed run writes again, and incomplete rows, as after a power cut."""
        if not self.file.exists():
            return
        if not self.file.is_file():
            raise InputError(f"{self.file}: is not a file: move it away")
        lines = self.file.read_bytes().decode("utf-8", "replace").split("\n")[:-1]  # the last is incomplete or empty
        rows = [line.rstrip("\r").split(",") for line in lines]  # only numbers: no cell is quoted
        kept = [row for row in rows if len(row) == len(self.columns) and row[0].isdecimal() and int(row[0]) <= step]
        with replaced(self.file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([self.columns, *kept])


class StepLog(Callback):
    """Writes a row to every logger each `every_steps` steps: the module's metrics, and the speed."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps
        self.latest: dict[str, float] = {}
        self._before: tuple[float, int, float] | None = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Log the step if it is due."""
        progress = pl_module.progress
        if progress.step % self.every_steps and not progress.finished():
            return
        row = pl_module.read_log()
        if not math.isfinite(row["loss"]):
            raise not_finite("loss", row["loss"], progress.step)
        waited = getattr(trainer.train_dataloader, "waited", 0.0)
        if self._before:
            seconds, tokens, waited_before = self._before
            span = max(progress.seconds - seconds, 1e-9)
            row["tokens_per_second"] = (progress.tokens - tokens) / span
            row["data_share"] = (waited - waited_before) / span
        self._before = progress.seconds, progress.tokens, waited
        self.latest = row | {"tokens": progress.tokens, "seconds": round(progress.seconds, 3)}
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step=progress.step)


class ProgressBar(Callback):
    """Loss, tokens per second and the remaining time: a bar on a terminal, otherwise a line every half minute. Rank 0 only."""

    def __init__(self, step_log: StepLog) -> None:
        self.step_log = step_log
        self._bar: Progress | None = None
        self._said = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Show the bar."""
        console = Console(file=raw(sys.stdout))
        self._said = time.monotonic()
        if trainer.is_global_zero and console.is_terminal:
            columns = BarColumn(bar_width=20), TextColumn("{task.percentage:3.0f}%  {task.description}")
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Update the bar, or log a line."""
        if not trainer.is_global_zero:
            return
        progress = pl_module.progress
        if self._bar:
            self._bar.update(self._task, completed=progress.share(), description=self._line(progress))
        elif time.monotonic() - self._said > 30:
            self._said = time.monotonic()
            logger.info(f"{progress.share():4.0%}  {self._line(progress)}")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Restore the terminal."""
        self.on_train_end(trainer, pl_module)

    def _line(self, progress: schedules.Progress) -> str:
        parts, latest = [f"step {progress.step}"], self.step_log.latest
        if "loss" in latest:
            parts.append(f"loss {latest['loss']:.3f}")
        if "tokens_per_second" in latest:
            parts.append(f"{latest['tokens_per_second'] / 1000:.1f} K tokens/s")
        if (left := progress.left()) is not None:
            parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        return "  ".join(parts)


class StopOnSignal(Callback):
    """A signal ends the run at the next step boundary, or before the first step, on every rank.

    Lightning installs its own handler for SIGTERM, which ends a run in the middle of a step with exit code 0: `install` restores ours
    at the first request for a batch.
    """

    def __init__(self, signals: Signals, validate_every: int | None = None) -> None:
        """`validate_every` is the number of steps between validations; None: there are none during the run."""
        self.signals, self.validate_every = signals, validate_every
        self.stopped_by: int | None = None
        """the signal that ended the run before its budget was used up"""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """A run that was interrupted during its setup takes no step."""
        self.signals.install()
        self._agreement = Agreement(trainer.world_size)
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """At a step boundary, all ranks stop if one has received a signal; a later signal counts at the next step."""
        received = int(self._agreement.largest(self.signals.received or 0))
        if received and not pl_module.progress.finished():
            self.stopped_by = received
            trainer.should_stop = True
            # Validate on the way out only if a validation is due: a resumed run would not repeat it.
            if not (self.validate_every and trainer.global_step and trainer.global_step % self.validate_every == 0):
                trainer.limit_val_batches = 0

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Lightning ends the run in this way, at any point, if SIGTERM comes before our handler is back."""
        if isinstance(exception, SIGTERMException):
            self.stopped_by = signal.SIGTERM
