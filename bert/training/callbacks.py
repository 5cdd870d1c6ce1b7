"""What happens around the steps of a run: its log, its progress bar, and its end by a signal.

The modules that are trained keep a `progress` (see schedules) and answer `read_log()` with what a row of the log says; everything here
works with any such module.
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

TIME_COLUMNS = ("seconds", "tokens_per_second", "data_share")  # the columns that may differ between two equal runs


def not_finite(what: str, value: float, step: float) -> InputError:
    """What to say of a run whose loss or gradient is no number any more: from there on its weights are none either."""
    return InputError(
        f"the {what} is {value} at step {step}: resume the run with a lower optimizer.lr (and optimizer.muon_lr, where Muon trains),"
        " or start again with a longer schedule.warmup"
    )


class MetricsCsv(Logger):
    """RUN/metrics.csv: one row a log step or validation, appended and flushed, so that nothing is lost and nothing is written twice.

    Lightning's own CSVLogger forgets earlier rows when a run is resumed.
    """

    def __init__(self, file: Path, columns: list[str]) -> None:
        super().__init__()
        self.file, self.columns = file, columns
        self._waiting: list[dict[str, Any]] = []  # rows that could not be written yet

    @property
    def name(self) -> str:
        """Lightning asks for it."""
        return "csv"

    @property
    def version(self) -> str:
        """Lightning asks for it."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The recipe has a file of its own."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row. Where the disk has no room it waits for the next one, and training goes on."""
        if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
            return
        if not metrics.keys() & set(self.columns):  # of a callback of the user's, for loggers that take anything
            return
        self._waiting.append({"step": step, **metrics})
        try:
            with self.file.open("ab", buffering=0) as stream:
                self._append(stream)
        except OSError as error:
            if len(self._waiting) == 1:
                why = error.strerror or error
                warnings.warn(
                    f"{self.file}: cannot be written ({why}): training goes on, its rows wait for room", stacklevel=2
                )
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
            stream.truncate(size)  # no half row
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(self) -> None:
        """Have the disk hold the rows: a checkpoint that outlives a power cut finds those before it."""
        if self.file.exists():
            sync(self.file)

    def cut(self, step: int) -> None:
        """Drop the rows after `step`, which a resumed run writes again, and whatever is no whole row, as a power cut leaves it."""
        if not self.file.exists():
            return
        if not self.file.is_file():
            raise InputError(f"{self.file}: is no file: move it away")
        lines = self.file.read_bytes().decode("utf-8", "replace").split("\n")[:-1]  # the last one is torn, or empty
        rows = [line.rstrip("\r").split(",") for line in lines]  # of numbers alone: no cell is quoted
        kept = [row for row in rows if len(row) == len(self.columns) and row[0].isdecimal() and int(row[0]) <= step]
        with replaced(self.file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([self.columns, *kept])


class StepLog(Callback):
    """Writes a row to every logger each `every_steps` steps: what the module measured, and the speed."""

    def __init__(self, every_steps: int) -> None:
        self.every_steps = every_steps
        self.latest: dict[str, float] = {}
        self._before: tuple[float, int, float] | None = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """At the end of a step that is logged."""
        progress = pl_module.progress
        due = progress.step % self.every_steps == 0 or progress.finished()
        if not due:
            return
        row = pl_module.read_log()
        if not math.isfinite(row["loss"]):
            raise not_finite("loss", row["loss"], progress.step)
        waited = getattr(trainer.train_dataloader, "waited", 0.0)
        seconds, tokens, waited_before = self._before or (0.0, 0, 0.0)
        if self._before:
            span = max(progress.seconds - seconds, 1e-9)
            row |= {
                "tokens_per_second": (progress.tokens - tokens) / span,
                "data_share": (waited - waited_before) / span,
            }
        self._before = progress.seconds, progress.tokens, waited
        self.latest = row | {"tokens": progress.tokens, "seconds": round(progress.seconds, 3)}
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step=progress.step)


class ProgressBar(Callback):
    """Loss, tokens a second and the time left: a bar on a terminal, a line every half minute elsewhere. Rank 0 only."""

    def __init__(self, step_log: StepLog) -> None:
        self.step_log = step_log
        self._bar: Progress | None = None
        self._said = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Opens the bar."""
        console = Console(file=raw(sys.stdout))
        self._said = time.monotonic()
        if trainer.is_global_zero and console.is_terminal:
            self._bar = Progress(
                BarColumn(bar_width=20), TextColumn("{task.percentage:3.0f}%  {task.description}"), console=console
            )
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Moves it."""
        if not trainer.is_global_zero:
            return
        progress = pl_module.progress
        if self._bar:
            self._bar.update(self._task, completed=progress.share(), description=self._line(progress))
        elif time.monotonic() - self._said > 30:
            self._said = time.monotonic()
            logger.info(f"{progress.share():4.0%}  {self._line(progress)}")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Closes it."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Leaves the terminal in order."""
        self.on_train_end(trainer, pl_module)

    def _line(self, progress: schedules.Progress) -> str:
        parts = [f"step {progress.step}"]
        if "loss" in self.step_log.latest:
            parts.append(f"loss {self.step_log.latest['loss']:.3f}")
        if "tokens_per_second" in self.step_log.latest:
            parts.append(f"{self.step_log.latest['tokens_per_second'] / 1000:.1f} K tokens/s")
        if (left := progress.left()) is not None:
            parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        return "  ".join(parts)


class StopOnSignal(Callback):
    """A signal ends the run at the next step boundary, on every rank, or before the first step.

    Lightning puts its own handler for SIGTERM in place, which ends a run in the middle of a step with exit code 0: `install` puts
    ours back, when the first batch is asked for.
    """

    def __init__(self, signals: Signals, validate_every: int | None = None) -> None:
        """`validate_every`: steps between two validations; none: there is none inside the run."""
        self.signals, self.validate_every = signals, validate_every
        self.stopped_by: int | None = None
        """the signal that ended the run before its budget was used up"""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """A run that was told to stop while it was set up takes no step."""
        self.signals.install()
        self._agreement = Agreement(trainer.world_size)
        self._stop_where_told(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """At a step boundary: all ranks stop where one was told to."""
        self._stop_where_told(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """SIGTERM may come between Lightning's handler and ours; then Lightning ends the run by this, at a step boundary or not."""
        if isinstance(exception, SIGTERMException):
            self.stopped_by = signal.SIGTERM

    def _stop_where_told(self, trainer: L.Trainer, pl_module: Any) -> None:
        told = int(
            self._agreement.largest(self.signals.received or 0)
        )  # one that comes meanwhile is told at the next step
        if told and not pl_module.progress.finished():
            self.stopped_by = told
            trainer.should_stop = True
            if not (self.validate_every and trainer.global_step and trainer.global_step % self.validate_every == 0):
                trainer.limit_val_batches = 0  # no validation on the way out, but the one that a resumed run would lack
