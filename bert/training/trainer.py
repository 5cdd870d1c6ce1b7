"""The Lightning Trainer of a run: its arguments checked before any work."""

import importlib
import inspect
import logging
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from bert.errors import InputError, did_you_mean, option
from bert.model.hardware import best_precision, keep_freed_memory
from bert.training.ranks import launched_layout, launcher

# Arguments of the Trainer that something else in a recipe decides.
_DECIDED = {
    "max_steps": "stop.steps",
    "max_epochs": "stop.tokens",
    "max_time": "stop.minutes",
    "min_steps": "stop.steps",
    "min_epochs": "stop.steps",
    "accumulate_grad_batches": "data.micro_batch_size",
    "gradient_clip_val": "optimizer.clip_norm",
    "gradient_clip_algorithm": "optimizer.clip_norm",
    "fast_dev_run": "stop.steps",
    "limit_train_batches": "stop.steps",
    "overfit_batches": "stop.steps",
    "limit_val_batches": "validation.sequences",
    "val_check_interval": "validation.every_steps",
    "check_val_every_n_epoch": "validation.every_steps",
    "log_every_n_steps": "log.every_steps",
    "enable_progress_bar": "log.progress_bar",
    "enable_checkpointing": "checkpoint.every_steps",
    "default_root_dir": option("out"),
    "use_distributed_sampler": "data.batch_size",
    "reload_dataloaders_every_n_epochs": "data.corpus",
}


# The classes of lightning.pytorch that a recipe or a flag may name, each with the init_args that it may give: none that names a file.
_OBJECTS = {
    "callbacks.DeviceStatsMonitor": "cpu_stats",
    "callbacks.EarlyStopping": "monitor min_delta patience verbose mode strict check_finite stopping_threshold divergence_threshold"
    " check_on_train_epoch_end log_rank_zero_only",
    "callbacks.LearningRateMonitor": "logging_interval log_momentum log_weight_decay",
    "loggers.CSVLogger": "prefix flush_logs_every_n_steps",
    "loggers.MLFlowLogger": "experiment_name run_name prefix",
    "loggers.TensorBoardLogger": "default_hp_metric prefix",
    "loggers.WandbLogger": "project name offline prefix",
    "profilers.AdvancedProfiler": "line_count_restriction",
    "profilers.PyTorchProfiler": "group_by_input_shapes emit_nvtx export_to_chrome row_limit sort_by_key record_module_names",
    "profilers.SimpleProfiler": "extended",
    "strategies.DDPStrategy": "find_unused_parameters bucket_cap_mb gradient_as_bucket_view static_graph broadcast_buffers"
    " process_group_backend",
}
_PACKAGE = "lightning.pytorch."
_COUNTS = ("devices", "num_nodes")
_MODULES = {"callbacks": "callbacks.", "logger": "loggers.", "profiler": "profilers.", "strategy": "strategies."}
# Numbers and words that an argument may be; one that is not here may be any.
_WORDS = {
    **{
        "devices": r"auto|-?\d{1,5}(, ?\d{1,5})*,?",
        "num_nodes": r"\d{1,5}",
        "logger": "True|False",
        "profiler": r"\w+",
    },
    **{"strategy": r"auto|ddp\w*", "callbacks": "", "plugins": "", "model_registry": ""},
}


def check_trainer_arguments(
    arguments: Mapping[str, Any], decided: Mapping[str, str] | None = None, trust: bool = False
) -> None:
    """InputError for an argument that Lightning's Trainer does not have, or that the recipe decides elsewhere; and, without `trust`,
    for what describes an object that is not one of a few, or init_args that could name a file. Nothing is imported.

    `decided` names the keys of a recipe that decide an argument, where they are others than those of pretraining.
    """
    decided_by = _DECIDED | dict(decided or {})
    known = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    for name, value in arguments.items():
        if name not in known:
            raise InputError(f"trainer.{name}: Lightning's Trainer has no such argument.{did_you_mean(name, known)}")
        if name in decided_by:
            raise InputError(f"trainer.{name} is decided by {decided_by[name]}: set that instead")
        for item in _as_list(value) or ([value] if name in _COUNTS else []):
            if not trust or name in _COUNTS:
                _check_described(name, item)


def _check_described(argument: str, value: Any) -> None:
    """InputError for what a file must not have made or read; objects, of the Python API, pass."""
    where, trusted = f"trainer.{argument}", f"give {option('trust')} if you trust the recipe"
    if value is None or isinstance(value, str | int | float):
        if not re.fullmatch(_WORDS.get(argument, ".*"), str(value)):
            fix = "give a whole number" if argument in _COUNTS else f"not supported here; leave it out, or {trusted}"
            raise InputError(f"{where} is {value}: {fix}")
    elif isinstance(value, Mapping | list | tuple):
        described = value if isinstance(value, Mapping) else {}
        name, given = str(described.get("class_path")), described.get("init_args") or {}
        module = _MODULES.get(argument, "-")
        allowed = {_PACKAGE + key: names.split() for key, names in _OBJECTS.items() if key.startswith(module)}
        if name not in allowed or described.keys() - {"class_path", "init_args"} or not isinstance(given, Mapping):
            raise InputError(
                f"{where} is {value}: give class_path, one of {', '.join(allowed) or 'none'}, and init_args; or {trusted}"
            )
        for key, item in given.items():
            if key not in allowed[name]:
                raise InputError(
                    f"{where}: {name}: init_args.{key} is not one of {', '.join(allowed[name])}: leave it out, or {trusted}"
                )
            if item is not None and not re.fullmatch(r"[\w+-]+(\.\d*(e[-+]?\d+)?)?", str(item)):
                raise InputError(f"{where}: {name}: init_args.{key} is {item}: give a number or a word, or {trusted}")


def make_trainer(
    arguments: Mapping[str, Any],
    callbacks: list[L.Callback],
    loggers: list[Any],
    plugins: list[Any],
    validate_every: int | None,
    trust: bool = False,
    run_dir: Path | None = None,
) -> L.Trainer:
    """A Trainer with the user's arguments over ours; it validates every `validate_every` steps. `callbacks`, `logger` and `plugins` of
    the user are added to ours.

    `trust` imports any class that `arguments` describe; `run_dir` is where loggers write. Raises InputError.
    """
    check_trainer_arguments(arguments, trust=trust)
    if left := sorted((run_dir or Path()).glob("hpc_ckpt_*")):
        raise InputError(f"{left[0]}: Lightning would begin with this checkpoint: move it to another folder")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # what they would say of hardware, the run says itself
    for known in (
        ".*LeafSpec.*",
        ".*but have no `val_dataloader`.*",
        ".*when logging on epoch level in distributed setting.*",  # what is logged is summed over all ranks already
        ".*all_gather.* is deprecated.*",
    ):  # of Lightning 2.6 on newer PyTorch, and no mistake of anybody
        warnings.filterwarnings("ignore", message=known)
    given = {name: instantiated(value, run_dir) for name, value in arguments.items()}
    settings: dict[str, Any] = {
        "accelerator": "auto",
        **launched_layout(),
        "precision": best_precision(str(given.get("accelerator", "auto"))),
        "max_epochs": -1,  # one endless epoch: the module stops when the budget is used up
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_model_summary": False,
        "enable_progress_bar": False,  # ours shows the share of the budget
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    if validate_every is not None:
        settings |= {"val_check_interval": validate_every, "check_val_every_n_epoch": None}
    settings |= given
    settings["callbacks"] = callbacks + _as_list(given.get("callbacks"))
    settings["logger"] = loggers + (_as_list(given.get("logger")) if given.get("logger") not in (True, False) else [])
    settings["plugins"] = plugins + _as_list(given.get("plugins"))
    if not any(isinstance(plugin, ClusterEnvironment) for plugin in settings["plugins"]):
        settings["plugins"] += _cluster(given.get("strategy"))
    settings["default_root_dir"] = run_dir
    keep_freed_memory()
    try:
        trainer = L.Trainer(**settings)
    except Exception as error:  # Lightning raises many kinds
        raise InputError(f"trainer: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    _check_strategy(trainer)
    return trainer


def _check_strategy(trainer: L.Trainer) -> None:
    """Every rank prepares its share of a batch, and sees whole gradients: others train on something else without a word.

    InputError for processes that are copies of this one, which know themselves as rank 0, and for parts of parameters.
    """
    strategy = trainer.strategy
    if hasattr(
        strategy.launcher, "get_extra_results"
    ):  # what launchers that fork or spawn bring back from their processes
        raise InputError(
            "trainer.strategy: processes that are forked or spawned from this one (in a notebook, too) all read the sequences of the"
            " first: give ddp, in a script or on a command line"
        )
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):  # those of DeepSpeed and XLA are subclasses
        raise InputError(f"trainer.strategy: {type(strategy).__name__} is not supported: leave it out, or give ddp")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _cluster(strategy: Any) -> list[ClusterEnvironment]:
    """Under SLURM: an environment that leaves signals to us, since Lightning's own saves within a step, and starts from that file."""
    if (
        "SLURM_NTASKS" not in os.environ
        or TorchElasticEnvironment.detect()
        or getattr(strategy, "cluster_environment", None)
    ):
        return []
    return [launcher() or LightningEnvironment()]


def instantiated(value: Any, run_dir: Path | None = None) -> Any:
    """Objects described in YAML as {class_path, init_args}; anything else as it is. Loggers write below `run_dir`."""
    if isinstance(value, list):
        return [instantiated(item, run_dir) for item in value]
    if not isinstance(value, Mapping) or "class_path" not in value:
        return value
    module, _, name = str(value["class_path"]).rpartition(".")
    given = {key: instantiated(item, run_dir) for key, item in (value.get("init_args") or {}).items()}
    if module == f"{_PACKAGE}loggers":
        given.setdefault("save_dir", str(run_dir or "."))
    try:
        return getattr(importlib.import_module(module), name)(**given)
    except Exception as error:  # it is not ours
        raise InputError(f"trainer: {value['class_path']} cannot be made of these init_args ({error})") from error
