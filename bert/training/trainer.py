"""The Lightning Trainer of a run, with its arguments checked first, and its parts."""

import importlib
import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bert.errors import InputError, did_you_mean, first_line, option
from bert.model.hardware import best_precision, keep_freed_memory
from bert.recipe import shown
from bert.training import checkpoints
from bert.training.callbacks import TIME_COLUMNS, MetricsCsv, ProgressBar, StepLog, StopOnSignal
from bert.training.doctor import Watch
from bert.training.folder import Launch, extra_loggers
from bert.training.module import TrainingModule
from bert.training.ranks import launched_layout, launcher, world_size

# Fields of a recipe that determine arguments of the Trainer.
_DECIDED_BY = {
    "stop.steps": "max_steps min_steps min_epochs fast_dev_run limit_train_batches overfit_batches",
    "stop.tokens": "max_epochs",
    "stop.minutes": "max_time",
    "data.micro_batch_size": "accumulate_grad_batches",
    "data.batch_size": "use_distributed_sampler",
    "data.corpus": "reload_dataloaders_every_n_epochs",
    "optimizer.clip_norm": "gradient_clip_val gradient_clip_algorithm",
    "validation.sequences": "limit_val_batches",
    "validation.every_steps": "val_check_interval check_val_every_n_epoch",
    "log.every_steps": "log_every_n_steps",
    "log.progress_bar": "enable_progress_bar",
    "checkpoint.every_steps": "enable_checkpointing",
    option("out"): "default_root_dir",
}
_DECIDED = {name: field for field, names in _DECIDED_BY.items() for name in names.split()}

# Classes of lightning.pytorch that a recipe or a flag may name, with the init_args that it may give: none of them can name a file.
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
_GIVE = dict.fromkeys(("devices", "num_nodes"), "a whole number")
_GIVE["precision"] = "one of 32-true, bf16-mixed, 16-mixed, bf16-true, 16-true, 64-true"
"""what a plain value of an argument must be, whatever is trusted"""
_MODULES = {"callbacks": "callbacks.", "logger": "loggers.", "profiler": "profilers.", "strategy": "strategies."}
# Patterns of plain values; arguments that are not here may have any.
_WORDS = {"devices": r"auto|-?\d{1,5}(, ?\d{1,5})*,?", "num_nodes": r"\d{1,5}", "strategy": r"auto|ddp\w*"}
_WORDS["precision"] = r"(16|bf16)(-(true|mixed))?|(32|64)(-true)?|transformer-engine(-float16)?|None"
_WORDS |= {"logger": "True|False", "profiler": r"\w+", "callbacks": "", "plugins": "", "model_registry": ""}
# Warnings of Lightning 2.6 on newer PyTorch that point to no mistake.
_HARMLESS = (
    ".*LeafSpec.*",
    ".*but have no `val_dataloader`.*",
    ".*when logging on epoch level in distributed setting.*",  # what is logged is already summed over all ranks
    ".*all_gather.* is deprecated.*",
)


def check_trainer_arguments(
    arguments: Mapping[str, Any], decided: Mapping[str, str] | None = None, trust: bool = False
) -> None:
    """InputError for an argument that Lightning's Trainer does not have, or that other fields of the recipe determine; and, without
    `trust`, for an object that is not in the table, or init_args that could name a file. Nothing is imported.

    `decided` maps arguments to the fields that determine them, where they differ from those of pretraining.
    """
    decided_by = _DECIDED | dict(decided or {})
    known = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    for name, value in arguments.items():
        if name not in known:
            raise InputError(f"trainer.{name}: Lightning's Trainer has no such argument.{did_you_mean(name, known)}")
        if name in decided_by:
            raise InputError(f"trainer.{name} is decided by {decided_by[name]}: set that instead")
        for item in _as_list(value) or ([value] if name in _GIVE else []):
            if not trust or name in _GIVE:
                _check_described(name, item)


def _check_described(argument: str, value: Any) -> None:
    """InputError for an object that a file must not create or read; objects from the Python API pass."""
    where, trusted = f"trainer.{argument}", f"give {option('trust')} if you trust the recipe"
    if value is None or isinstance(value, str | int | float):
        if not re.fullmatch(_WORDS.get(argument, ".*"), str(value)):
            fix = f"give {_GIVE[argument]}" if argument in _GIVE else f"not supported here; leave it out, or {trusted}"
            raise InputError(f"{where} is {shown(value)}: {fix}")
    elif isinstance(value, Mapping | list | tuple):
        described = value if isinstance(value, Mapping) else {}
        name, given = str(described.get("class_path")), described.get("init_args") or {}
        module = _MODULES.get(argument, "-")
        allowed = {_PACKAGE + key: names.split() for key, names in _OBJECTS.items() if key.startswith(module)}
        if name not in allowed or described.keys() - {"class_path", "init_args"} or not isinstance(given, Mapping):
            fix = f"give class_path, one of {', '.join(allowed) or 'none'}, and init_args; or {trusted}"
            raise InputError(f"{where} is {value}: {fix}")
        for key, item in given.items():
            place = f"{where}: {name}: init_args.{key}"
            if key not in allowed[name]:
                raise InputError(f"{place} is not one of {', '.join(allowed[name])}: leave it out, or {trusted}")
            if item is not None and not re.fullmatch(r"[\w+-]+(\.\d*(e[-+]?\d+)?)?", str(item)):
                raise InputError(f"{place} is {item}: give a number or a word, or {trusted}")


def make_trainer(
    arguments: Mapping[str, Any],
    callbacks: list[L.Callback],
    loggers: list[Any],
    plugins: list[Any],
    validate_every: int | None,
    trust: bool = False,
    run_dir: Path | None = None,
) -> L.Trainer:
    """A Trainer with the user's arguments in addition to ours, and its callbacks, loggers and plugins in addition to ours. It validates
    every `validate_every` steps.

    `trust` imports any class that `arguments` describe; loggers write to `run_dir`. Raises InputError.
    """
    check_trainer_arguments(arguments, trust=trust)
    if left := sorted((run_dir or Path()).glob("hpc_ckpt_*")):
        raise InputError(f"{left[0]}: Lightning would start from this checkpoint: move it to another folder")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the run itself reports the hardware
    for message in _HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    given = {name: instantiated(value, run_dir) for name, value in arguments.items()}
    settings: dict[str, Any] = {
        "accelerator": "auto",
        **launched_layout(),
        "precision": best_precision(str(given.get("accelerator", "auto"))),
        "max_epochs": -1,  # a single endless epoch: the module stops when the budget is used up
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_model_summary": False,
        "enable_progress_bar": False,  # ours shows the used share of the budget
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    if validate_every is not None:
        settings |= {"val_check_interval": validate_every, "check_val_every_n_epoch": None}
    own = given.get("logger") if given.get("logger") not in (True, False) else None
    plugins = plugins + _as_list(given.get("plugins"))
    if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        plugins += _cluster(given.get("strategy"))
    settings |= given | {"plugins": plugins, "logger": loggers + _as_list(own), "default_root_dir": run_dir}
    settings["callbacks"] = callbacks + _as_list(given.get("callbacks"))
    keep_freed_memory()
    try:
        trainer = L.Trainer(**settings)
    except Exception as error:  # of many kinds
        raise InputError(f"trainer: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    _check_strategy(trainer)
    return trainer


def equip(
    launch: Launch, folder: Path, recipe: Any, columns: list[str], every: int | None, start: Path | None, *more: Any
) -> tuple[L.Trainer, MetricsCsv, StopOnSignal]:
    """The Trainer of the run in `folder`, and two of its parts. Writes nothing. InputError for what this machine cannot do.

    `recipe` has the fields trainer, log, checkpoint and run_id; `columns` are those of metrics.csv except those of time; it validates
    `every` so many steps; `start` is the checkpoint to resume from; `more` are further callbacks.
    """
    ranks = world_size(recipe.trainer)
    csv = MetricsCsv(folder / "metrics.csv", [*columns, *TIME_COLUMNS])
    log, stop = StepLog(recipe.log.every_steps), StopOnSignal(launch.signals, every)
    source = f"{recipe.run_id} {'' if start is None else checkpoints.read_manifest(start).get('sha256')}"
    saves = checkpoints.Checkpoints(folder / "checkpoints", recipe.checkpoint, every, source)
    trainer = make_trainer(
        recipe.trainer,
        callbacks=[log, Watch(log), stop, *more, saves, *([ProgressBar(log)] if recipe.log.progress_bar else [])],
        loggers=[csv, *extra_loggers(recipe.log, folder)],
        plugins=[checkpoints.WholeCheckpointIO(recipe.run_id, launch.check)],
        validate_every=every,
        trust=launch.trust,
        run_dir=folder,
    )
    if trainer.world_size != ranks:
        both = f"{ranks} processes were expected and Lightning starts {trainer.world_size}"
        raise InputError(f"trainer.devices: {both}: give a number")
    return trainer, csv, stop


@contextmanager
def fitting(launch: Launch, module: TrainingModule, start: Path | None) -> Iterator[None]:
    """For `trainer.fit` from the checkpoint `start` on: a signal ends it at the next step. InputError if `start` does not fit the run."""
    with suppress(SIGTERMException), launch.signals.deferred():
        try:
            yield
        except Exception as error:
            # An error before the first batch of a resumed run comes from PyTorch or Lightning, which restore the checkpoint.
            if start is None or module.progress.is_running or isinstance(error, InputError):
                raise
            what = first_line(error)
            raise InputError(f"{start}: is not a checkpoint of this run ({what}): move it away") from error


def _check_strategy(trainer: L.Trainer) -> None:
    """InputError for a strategy in which ranks would silently train on wrong data: each must prepare its share of a batch, which copies of
    this process do not, as they take themselves for rank 0, and see whole gradients."""
    strategy = trainer.strategy
    if hasattr(strategy.launcher, "get_extra_results"):  # only launchers that fork or spawn have this
        what = "processes that are forked or spawned from this one (also in a notebook) all read the sequences of the first"
        raise InputError(f"trainer.strategy: {what}: give ddp, in a script or on a command line")
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):  # not subclasses, such as those of DeepSpeed and XLA
        raise InputError(f"trainer.strategy: {type(strategy).__name__} is not supported: leave it out, or give ddp")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _cluster(strategy: Any) -> list[ClusterEnvironment]:
    """Under SLURM, an environment that leaves signals to us: Lightning's own saves within a step and starts from that file."""
    is_slurm = "SLURM_NTASKS" in os.environ and not TorchElasticEnvironment.detect()
    has_own = bool(getattr(strategy, "cluster_environment", None))
    return [launcher() or LightningEnvironment()] if is_slurm and not has_own else []


def instantiated(value: Any, run_dir: Path | None = None) -> Any:
    """The objects that YAML describes as {class_path, init_args}; anything else unchanged. Loggers write to `run_dir`."""
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
    except Exception as error:  # of any kind
        raise InputError(f"trainer: {value['class_path']} cannot be made of these init_args ({error})") from error
