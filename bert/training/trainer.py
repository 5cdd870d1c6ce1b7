"""The Lightning Trainer of a run: its arguments checked before any work, precision by what the hardware has, ranks and waiting."""

import importlib
import inspect
import logging
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from bert.errors import InputError, did_you_mean

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


def check_trainer_arguments(arguments: Mapping[str, Any]) -> None:
    """InputError for an argument that Lightning's Trainer does not have, or that the recipe decides elsewhere."""
    known = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    for name in arguments:
        if name not in known:
            raise InputError(f"trainer.{name}: Lightning's Trainer has no such argument.{did_you_mean(name, known)}")
        if name in _DECIDED:
            raise InputError(f"trainer.{name} is decided by {_DECIDED[name]}: set that instead")


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
    ):  # of Lightning 2.6 on newer PyTorch, and no mistake of anybody
        warnings.filterwarnings("ignore", message=known)
    given = {name: _instantiated(value) for name, value in arguments.items()}
    settings: dict[str, Any] = {
        "accelerator": "auto",
        **_launched_layout(),
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
    try:
        return L.Trainer(**settings)
    except (
        ValueError,
        TypeError,
        RuntimeError,
    ) as error:  # Lightning's MisconfigurationException is not a ValueError's kin everywhere
        raise InputError(f"trainer: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__name__ == "MisconfigurationException":
            raise InputError(f"trainer: {str(error).splitlines()[0]}") from error
        raise


def best_precision(accelerator: str = "auto") -> str:
    """bf16-mixed where the hardware multiplies bf16 matrices, 32-true elsewhere.

    On a CPU that means AVX512-BF16 or AMX: without them bf16 autocast is slower than fp32 (PyTorch issue 86550).
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return "32-true"
    return "bf16-mixed" if cpu_multiplies_bf16() else "32-true"


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX instructions."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def global_rank() -> int:
    """This process's rank before any process group exists: as torchrun, SLURM or Lightning's own launcher say; 0 where none does."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ and (name != "SLURM_PROCID" or "SLURM_NTASKS" in os.environ):
            return int(os.environ[name])
    return 0


def world_size(arguments: Mapping[str, Any]) -> int:
    """How many processes will train together, before any exists: what torchrun or SLURM started, else devices × nodes."""
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        if name in os.environ:
            return int(os.environ[name])
    devices = arguments.get("devices", 1)
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if isinstance(devices, str):
        count = (
            _visible_devices(arguments)
            if devices == "auto"
            else len([part for part in devices.split(",") if part.strip()])
        )
    else:
        count = len(devices) if isinstance(devices, (list, tuple)) else int(devices)
    if count == -1:
        count = _visible_devices(arguments)
    if count < 1:
        raise InputError(f"trainer.devices is {devices}: give 1 or more, or -1 for all")
    return count * int(arguments.get("num_nodes", 1))


def _launched_layout() -> dict[str, int]:
    """Devices and nodes as torchrun or SLURM laid the processes out; one device where nobody did."""
    for world, local in (("WORLD_SIZE", "LOCAL_WORLD_SIZE"), ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE")):
        if world in os.environ and local in os.environ:
            devices = int(os.environ[local])
            return {"devices": devices, "num_nodes": int(os.environ[world]) // devices}
    return {"devices": 1}


def _visible_devices(arguments: Mapping[str, Any]) -> int:
    on_cpu = arguments.get("accelerator", "auto") == "cpu" or not torch.cuda.is_available()
    return 1 if on_cpu else torch.cuda.device_count()


def launch_key() -> str:
    """What the processes of one launch have in common and other launches have not."""
    names = (
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_RESTART_COUNT",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
    )
    return " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)


def wait_for_rank_0(marker: Path, key: str, minutes: float = 60.0) -> None:
    """Wait until rank 0 has written `key` to `marker`; InputError after `minutes`.

    Processes that Lightning starts itself come when rank 0 is done, and need not wait for a key of theirs.
    """
    started_together = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_JOB_ID" in os.environ
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        if marker.exists() and (not started_together or marker.read_text() == key):
            return
        time.sleep(0.2)
    raise InputError(
        f"{marker}: rank 0 has not finished its preparations in {minutes:g} minutes: see its output, or prepare the store first"
    )


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
        return made(**{key: _instantiated(item) for key, item in value.get("init_args", {}).items()})
    return value
