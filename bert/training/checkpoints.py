"""Checkpoints that are whole or not there: written under another name, synced, renamed; checked against a hash when read.

A checkpoint is a folder `step-00000100` with `state.pt`, Lightning's dictionary of state, and `manifest.json`, its length and SHA-256.
A damaged one is noticed, and the run goes on from the one before.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from bert.errors import InputError
from bert.files import sync
from bert.training.config import CheckpointConfig
from bert.training.ranks import Agreement

_PARTIAL = ".partial"


class WholeCheckpointIO(CheckpointIO):
    """Reads and writes checkpoint folders; Lightning calls it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to the folder `path`. InputError where the disk has no room; nothing half-written stays."""
        folder = Path(path)
        partial = folder.with_name(folder.name + _PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            state = partial / "state.pt"
            with state.open("wb") as stream:
                torch.save(checkpoint, stream)
            sync(state)
            manifest = {
                "bytes": state.stat().st_size,
                "sha256": _sha256(state),
                "global_step": checkpoint.get("global_step"),
            }
            with (partial / "manifest.json").open("w") as stream:
                json.dump(manifest, stream)
            sync(partial / "manifest.json")
            sync(partial)
            if folder.exists():
                shutil.rmtree(folder)
            os.rename(partial, folder)
            sync(folder.parent)
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
            shutil.rmtree(partial, ignore_errors=True)
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError) or "write" in str(error).lower():
                why = cause if isinstance(cause, OSError) else error
                raise InputError(
                    f"{folder}: the checkpoint could not be written ({why}): make room on this disk"
                ) from error
            raise

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the checkpoint at `path`; weights only, whatever Lightning asks for: nothing is unpickled."""
        return torch.load(Path(path) / "state.pt", map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the checkpoint at `path`."""
        shutil.rmtree(path, ignore_errors=True)


class Checkpoints(Checkpoint):
    """Saves every so many steps or minutes and at the end, and keeps the newest few.

    Where a validation falls on the same step it comes first, so that a resumed run finds its row in the log.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, validate_every: int | None = None) -> None:
        self.folder, self.config, self.validate_every = folder, config, validate_every
        self._saved_step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The clock between two checkpoints runs from here. What a killed write left is cleared away."""
        if trainer.is_global_zero:
            for unfinished in self.folder.glob(f"*{_PARTIAL}"):
                shutil.rmtree(unfinished, ignore_errors=True)
        self._agreement, self._saved_at = Agreement(trainer.world_size), time.monotonic()
        if self._folder_of(trainer.global_step).exists():  # the one that the run goes on from
            self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """After the last micro-batch of a step, unless a validation comes next."""
        validates = self.validate_every and trainer.global_step % self.validate_every == 0
        if not validates and not trainer.should_stop:  # the last validation and the last checkpoint come at the end
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After a validation inside the run."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_if_due(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last checkpoint of the run, whether it is finished or interrupted."""
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def _save_if_due(self, trainer: L.Trainer) -> None:
        step, config = trainer.global_step, self.config
        if step == self._saved_step or step == 0 or trainer.fit_loop.epoch_loop._should_accumulate():
            return
        due = config.every_steps is not None and step % config.every_steps == 0
        if config.every_minutes is not None:
            due = self._agreement.largest(time.monotonic() - self._saved_at) > 60 * config.every_minutes or due
        if due:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(self._folder_of(trainer.global_step))
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            for old in list_checkpoints(self.folder)[: -self.config.keep]:
                shutil.rmtree(old, ignore_errors=True)

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; unfinished ones are left out."""
    found = [path for path in folder.glob("step-*") if not path.name.endswith(_PARTIAL)]
    return sorted(found, key=lambda path: path.name)


def newest_whole(folder: Path, warn: Callable[[str], None]) -> Path:
    """The newest undamaged checkpoint; a warning for each damaged one. InputError where there is none."""
    checkpoints = list_checkpoints(folder)
    for place, checkpoint in reversed(list(enumerate(checkpoints))):
        damage = find_damage(checkpoint)
        if not damage:
            return checkpoint
        warn(f"{checkpoint}: {damage}" + ("; the checkpoint before it is used" if place else ""))
    if checkpoints:
        raise InputError(f"{folder}: every checkpoint is damaged: start the run again with --overwrite")
    raise InputError(f"{folder}: no checkpoint to resume from: start the run again with --overwrite")


def drop_behind(checkpoint: Path) -> None:
    """Remove what lies behind the checkpoint that a run goes on from: it was damaged, and is not to count among those kept."""
    for later in list_checkpoints(checkpoint.parent):
        if later.name > checkpoint.name:
            shutil.rmtree(later, ignore_errors=True)


def find_damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, or an empty string."""
    state = checkpoint / "state.pt"
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
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
