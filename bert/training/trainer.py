"""The Lightning Trainer of a run: its arguments checked before any work."""

import importlib
import inspect
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from bert.errors import InputError, did_you_mean
from bert.memory import keep_freed_memory
from bert.training.precision import best_precision
from bert.training.ranks import launched_layout

# Arguments of the Trainer that something else in a recipe decides.
_DECIDED = {
    "max_steps": "stop.steps",
    "max_epochs": "stop.tokens",
    "max_time": "stop.minutes",
    "min_steps": "stop.steps",
    "min_epochs": "stop.steps",
    "accumulate_grad_batches": "data.micro_batch_rows",
    "gradient_clip_val": "optimizer.clip_norm",
    "gradient_clip_algorithm": "optimizer.clip_norm",
    "fast_dev_run": "stop.steps",
    "limit_train_batches": "stop.steps",
    "overfit_batches": "stop.steps",
    "limit_val_batches": "validation.rows",
    "val_check_interval": "validation.every_steps",
    "check_val_every_n_epoch": "validation.every_steps",
    "log_every_n_steps": "log.every_steps",
    "enable_progress_bar": "log.progress_bar",
    "enable_checkpointing": "checkpoint.every_steps",
    "default_root_dir": "--out",
    "use_distributed_sampler": "data.batch_rows",
    "reload_dataloaders_every_n_epochs": "data.corpus",
}


def check_trainer_arguments(arguments: Mapping[str, Any], decided: Mapping[str, str] | None = None) -> None:
    """InputError for an argument that Lightning's Trainer does not have, or that the recipe decides elsewhere.

    `decided` names the keys of a recipe that decide an argument, where they are others than those of pretraining.
    """
    decided_by = _DECIDED | dict(decided or {})
    known = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    for name in arguments:
        if name not in known:
            raise InputError(f"trainer.{name}: Lightning's Trainer has no such argument.{did_you_mean(name, known)}")
        if name in decided_by:
            raise InputError(f"trainer.{name} is decided by {decided_by[name]}: set that instead")


def make_trainer(
    arguments: Mapping[str, Any],
    callbacks: list[L.Callback],
    loggers: list[Any],
    plugins: list[Any],
    accumulation: int,
    validate_every_batches: int | None,
) -> L.Trainer:
    """A Trainer with the user's arguments over ours. `callbacks`, `logger` and `plugins` of the user are added to ours."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # what they would say of hardware, the run says itself
    for known in (
        ".*LeafSpec.*",
        ".*but have no `val_dataloader`.*",
        ".*when logging on epoch level in distributed setting.*",  # what is logged is summed over all ranks already
        ".*all_gather.* is deprecated.*",
    ):  # of Lightning 2.6 on newer PyTorch, and no mistake of anybody
        warnings.filterwarnings("ignore", message=known)
    given = {name: _instantiated(value) for name, value in arguments.items()}
    settings: dict[str, Any] = {
        "accelerator": "auto",
        **launched_layout(),
        "precision": best_precision(str(given.get("accelerator", "auto"))),
        "max_epochs": -1,  # one endless epoch: the module stops when the budget is used up
        "accumulate_grad_batches": accumulation,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_model_summary": False,
        "enable_progress_bar": False,  # ours shows the share of the budget
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    if validate_every_batches is not None:
        settings |= {"val_check_interval": validate_every_batches, "check_val_every_n_epoch": None}
    settings |= given
    settings["callbacks"] = callbacks + _as_list(given.get("callbacks"))
    settings["logger"] = loggers + (_as_list(given.get("logger")) if given.get("logger") not in (True, False) else [])
    settings["plugins"] = plugins + _as_list(given.get("plugins"))
    keep_freed_memory()
    try:
        trainer = L.Trainer(**settings)
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise InputError(f"trainer: {str(error).splitlines()[0]}") from error
    _check_strategy(trainer)
    return trainer


def _check_strategy(trainer: L.Trainer) -> None:
    """Every rank prepares its share of a batch, and sees whole gradients: others train on something else without a word.

    InputError for processes that are copies of this one, which know themselves as rank 0, and for parts of parameters.
    """
    strategy = trainer.strategy
    if isinstance(strategy.launcher, _MultiProcessingLauncher):
        raise InputError(
            "trainer.strategy: processes that are forked or spawned from this one (in a notebook, too) all read the rows of the"
            " first: give ddp, in a script or on a command line"
        )
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise InputError(f"trainer.strategy: {type(strategy).__name__} is not supported: leave it out, or give ddp")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _instantiated(value: Any) -> Any:
    """Objects described in YAML as {class_path, init_args}; anything else as it is."""
    if isinstance(value, list):
        return [_instantiated(item) for item in value]
    if isinstance(value, Mapping) and "class_path" in value:
        module, _, name = str(value["class_path"]).rpartition(".")
        try:
            made = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"trainer: class_path {value['class_path']} cannot be imported ({error})") from error
        try:
            return made(**{key: _instantiated(item) for key, item in value.get("init_args", {}).items()})
        except (TypeError, ValueError) as error:
            raise InputError(f"trainer: {value['class_path']} does not take these init_args ({error})") from error
    return value
