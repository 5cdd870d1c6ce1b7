"""Checkpoints, written atomically (temporary name, fsync, rename) and checked against a hash when read.

A checkpoint is a folder `step-00000100` with `state.pt`, Lightning's state dictionary, and `manifest.json`, with its length and SHA-256.
A damaged one is detected, and the run is resumed from the one before. A milestone is a model folder, which is kept for good.
"""

import hashlib
import json
import logging
import math
import re
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bert.data.milestones import MILESTONE_FILE, MILESTONES, milestones
from bert.errors import InputError, RankError, option
from bert.files import clear_workshops, remove_folder, replaced_folder
from bert.hf.folder import OURS as MODEL_FILES
from bert.training.callbacks import MetricsCsv, not_finite
from bert.training.config import CheckpointConfig
from bert.training.ranks import Agreement
from bert.training.schedules import Progress
from bert.untrusted import read_json

logger = logging.getLogger(__name__)

_FILES = ("state.pt", "manifest.json")
_OF_A_MILESTONE = (*MODEL_FILES, MILESTONE_FILE)
_NAME = re.compile(r"step-\d{8,}")


class UnwrittenCheckpoint(InputError):
    """The disk is full; a run can continue and try again at the next checkpoint."""


class WholeCheckpointIO(CheckpointIO):
    """Reads and writes checkpoint folders, for Lightning."""

    def __init__(self, run_id: str | None = None, check: Callable[[], None] = lambda: None) -> None:
        """`run_id` is written into each checkpoint; `check` is called first, and raises if the folder no longer belongs to the run."""
        self.run_id, self.check = run_id, check

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to the folder `path` atomically. UnwrittenCheckpoint if the disk is full."""
        self.check()
        folder = Path(path)
        try:
            with replaced_folder(folder, _FILES) as fresh:
                state = fresh / "state.pt"
                with state.open("wb") as stream:
                    torch.save(checkpoint, stream)
                manifest = {"run_id": self.run_id, "fingerprint": checkpoint.get("fingerprint", {})}
                manifest |= {"bytes": state.stat().st_size, "sha256": _sha256(state)}
                manifest["global_step"] = checkpoint.get("global_step")
                (fresh / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError) or "write" in str(error).lower():
                why = f"({cause if isinstance(cause, OSError) else error}): make room on this disk"
                raise UnwrittenCheckpoint(f"{folder}: the checkpoint could not be written {why}") from error
            raise

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the checkpoint at `path`, always with `weights_only`: nothing is unpickled."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about contents that are refused anyway
                state = torch.load(Path(path) / "state.pt", map_location=map_location or "cpu", weights_only=True)
            return dict(state)
        except Exception as error:  # of any kind, by the contents of the file
            what = "PyTorch cannot read state.pt without running code"
            raise InputError(f"{path}: {what}: move this checkpoint away") from error

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the checkpoint at `path`."""
        remove_folder(Path(path))


class Checkpoints(Checkpoint):
    """Saves checkpoints by steps or minutes and at the end, and keeps the newest ones.

    A validation at the same step comes first, so that a resumed run finds its row in the log.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, validate_every: int | None = None, source: str = ""
    ) -> None:
        """`source` identifies the run and the checkpoint that it resumes from; it must be the same on all ranks."""
        self.folder, self.config, self.validate_every, self.source = folder, config, validate_every, source
        self._saved_step = 0
        self._is_full = False  # whether the disk had no room for the last one

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Start the clock for `every_minutes`. InputError if ranks resume from different checkpoints."""
        self._agreement, self._saved_at = Agreement(trainer.world_size), time.monotonic()
        start = hashlib.sha256(f"{self.source} {pl_module.progress.step} {trainer.world_size}".encode()).digest()
        if not self._agreement.is_same(int.from_bytes(start[:6])):
            what = "the processes of this run resume from different checkpoints"
            raise InputError(f"{self.folder}: {what}: make sure that all of them see the same files, and start again")
        if self._folder_of(trainer.global_step).exists():  # the run was resumed from it
            self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Save after a step if due, unless a validation comes next, or the end of the run."""
        validates = self.validate_every and trainer.global_step % self.validate_every == 0
        if not validates and not trainer.should_stop:
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after a validation during the run if due."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_if_due(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last checkpoint of a finished or interrupted run, if it has taken a step."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, last=True)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Do the same if Lightning ends the run by SIGTERM, before our handler is installed."""
        if isinstance(exception, SIGTERMException):
            self.on_train_end(trainer, pl_module)

    def _save_if_due(self, trainer: L.Trainer) -> None:
        step, config = trainer.global_step, self.config
        if step == self._saved_step or step == 0:
            return
        due = config.every_steps is not None and step % config.every_steps == 0
        if config.every_minutes is not None:
            due = self._agreement.largest(time.monotonic() - self._saved_at) > 60 * config.every_minutes or due
        if due:
            self._save(trainer)

    def _save(self, trainer: L.Trainer, last: bool = False) -> None:
        """Save. If the disk is full, warn, or raise for the last checkpoint, on all ranks, so that none waits in vain."""
        failure = None
        for logger in trainer.loggers:
            logger.save()
        try:
            trainer.save_checkpoint(self._folder_of(trainer.global_step))
        except UnwrittenCheckpoint as error:
            failure = error
            trainer.strategy.barrier()  # where other ranks wait at the end of a checkpoint
        self._saved_at = time.monotonic()
        if self._agreement.largest(failure is not None):
            if last:
                raise failure or InputError("the last checkpoint could not be written")
            if failure is not None and not self._is_full:  # warn once, not at every checkpoint
                warnings.warn(f"{failure}; training continues until the next one is due", stacklevel=2)
            self._is_full = True
            return
        self._saved_step, self._is_full = trainer.global_step, False
        if trainer.is_global_zero:
            for old in list_checkpoints(self.folder)[: -self.config.keep]:
                remove_folder(old)

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


class Milestones(Callback):
    """Writes a milestone at the end of each step that reaches the next of `points`: shares of the budget, or tokens.

    It precedes `Checkpoints`, because a run that is resumed from the checkpoint of a step does not take this step again. Whether a step
    reaches a point is a function of the progress before and after it, which is equal on all ranks, and in a resumed run.
    """

    def __init__(
        self, run: Path, points: int | list[float], export: Callable[[Path], None], check: Callable[[], None]
    ) -> None:
        """`points`: a list of tokens; or n, for 1/2^(n-1), …, 1/4, 1/2 and all of the budget. `export` writes the model into a folder.
        `check` is called first, and raises if the directory `run` no longer belongs to the run."""
        self.run, self.points, self.export, self.check = run, points, export, check

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """What is reached now was reached before the run was resumed."""
        self._reached = self._count(pl_module.progress)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Write a milestone, on rank 0, if the step has reached a point, or several."""
        before, self._reached = self._reached, self._count(pl_module.progress)
        if self._reached > before:
            loss = pl_module.mean_losses()["loss"]
            if not math.isfinite(loss):
                raise not_finite("loss", loss, pl_module.progress.step)
            if trainer.is_global_zero:
                self._write(pl_module.progress, loss)

    def _count(self, progress: Progress) -> int:
        """The number of points that are reached."""
        if isinstance(self.points, int):
            return sum(progress.share() >= 2.0**-halvings for halvings in range(self.points))
        return sum(progress.tokens >= point for point in self.points)

    def _write(self, progress: Progress, loss: float) -> None:
        """Write a milestone, unless it is there because the run was killed before its next checkpoint. If the disk is full, warn, and
        training continues."""
        self.check()
        record = {"step": int(progress.step), "tokens": int(progress.tokens), "loss": loss}
        folder = self.run / MILESTONES / str(record["tokens"])
        if (folder / MILESTONE_FILE).exists():
            return
        try:
            # What the model warns of is said when it is finished.
            with replaced_folder(folder, _OF_A_MILESTONE) as fresh, warnings.catch_warnings(action="ignore"):
                self.export(fresh)
                (fresh / MILESTONE_FILE).write_text(json.dumps(record) + "\n", encoding="utf-8")
        except (InputError, OSError) as error:
            why = getattr(error.__cause__ or error, "strerror", None) or error
            warnings.warn(f"{folder}: the milestone could not be written ({why}); training continues", stacklevel=2)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first: only folders named step- and a number."""
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path | None) -> int:
    """The step of a checkpoint; 0 without one."""
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))


def newest_whole(folder: Path, warn: Callable[[str], None], run_id: str | None = None) -> Path | None:
    """The newest undamaged checkpoint, or None if the folder has no checkpoints. `warn` is called for each damaged one.

    InputError if all are damaged, or if it is not of the run `run_id`."""
    clear_workshops(folder, _FILES)
    damages: dict[Path, str] = {}
    for checkpoint in reversed(list_checkpoints(folder)):
        if not (damage := find_damage(checkpoint)):
            for damaged, what in damages.items():
                warn(f"{damaged}: {what}; the checkpoint before it is used")
            if read_manifest(checkpoint).get("run_id") != run_id:
                raise InputError(f"{checkpoint}: is a checkpoint of another run: move it away")
            return checkpoint
        damages[checkpoint] = damage
    if damages:
        each = "; ".join(f"{checkpoint.name}: {damage}" for checkpoint, damage in damages.items())
        fix = f"start the run again with {option('overwrite')}"
        raise InputError(f"{folder}: every checkpoint is damaged ({each}): {fix}")
    return None


def prove(checkpoint: Path, sha256: str, minutes: float = 1.0) -> None:
    """RankError if this process does not see the checkpoint that rank 0 has chosen, which may take time on a network file system."""
    deadline = time.monotonic() + 60 * minutes
    while True:
        with suppress(OSError, ValueError):
            manifest = read_manifest(checkpoint)
            if manifest.get("sha256") == sha256 and (checkpoint / "state.pt").stat().st_size == manifest.get("bytes"):
                return
        if time.monotonic() > deadline:
            what = "this process does not see the checkpoint that rank 0 resumes from"
            raise RankError(f"{checkpoint}: {what}: check the file system")
        time.sleep(1.0)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The contents of manifest.json. Raises OSError and ValueError."""
    manifest = read_json(checkpoint / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("fingerprint", {}), dict):
        raise ValueError("manifest.json is damaged")
    return manifest


def check_fingerprint(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """InputError if what a run reads has changed since a checkpoint."""
    for what, value in before.items():
        if value != now.get(what):
            raise InputError(f"the {what} of this run has changed since its checkpoint: put it back or start a new run")


def drop_later(checkpoint: Path) -> None:
    """Remove the checkpoints after the one that a run is resumed from: they are damaged, and must not count among those kept."""
    for later in list_checkpoints(checkpoint.parent):
        if step_of(later) > step_of(checkpoint):
            remove_folder(later)


def newest_checkpoint(folder: Path, run_id: str | None) -> tuple[Path | None, dict[str, Any]]:
    """Rank 0: the newest undamaged checkpoint of the run in `folder`, if there is one, and its manifest. InputError if it is of another
    run."""
    checkpoint = newest_whole(folder / "checkpoints", logger.warning, run_id)
    return checkpoint, {} if checkpoint is None else read_manifest(checkpoint)


def chosen_checkpoint(folder: Path, told: Mapping[str, Any]) -> Path | None:
    """The other ranks: the checkpoint of the run in `folder` that rank 0 has told. RankError if this process does not see it."""
    if "checkpoint" not in told:
        return None
    checkpoint = folder / "checkpoints" / Path(told["checkpoint"]).name
    prove(checkpoint, told["sha256"])
    return checkpoint


def cut_back(folder: Path, csv: MetricsCsv, checkpoint: Path | None) -> None:
    """Remove what the run in `folder` has written after its checkpoint."""
    csv.cut(step_of(checkpoint))
    if checkpoint is None:
        logger.info(f"{folder}: has no checkpoint yet: it starts at the first step, from the inputs prepared before")
    else:
        drop_later(checkpoint)


def drop_later_milestones(run: Path, step: int) -> None:
    """Remove the milestones after `step`, from which a run is resumed with another recipe. Files of the user in their folders stay."""
    clear_workshops(run / MILESTONES, _OF_A_MILESTONE)
    for later in (one.folder for one in milestones(run) if one.step > step):
        with replaced_folder(later, _OF_A_MILESTONE):
            pass  # the new folder holds nothing of ours
        with suppress(OSError):  # not empty
            later.rmdir()


def find_damage(checkpoint: Path) -> str:
    """What is damaged in a checkpoint; an empty string if nothing is."""
    state = checkpoint / "state.pt"
    try:
        manifest = read_manifest(checkpoint)
        length, expected, digest = state.stat().st_size, manifest["bytes"], manifest["sha256"]
    except (OSError, ValueError) as error:
        return f"unreadable ({error})"
    except (KeyError, TypeError):
        return "manifest.json is damaged"
    if length != expected:
        return f"state.pt has {length} bytes instead of {expected}"
    if _sha256(state) != digest:
        return "state.pt does not match its hash"
    return ""


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
