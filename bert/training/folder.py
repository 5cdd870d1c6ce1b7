"""The folder of a run: claimed once, filled by rank 0 before training, waited for by the others."""

import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bert.errors import InputError
from bert.recipe import read_yaml, write_yaml
from bert.training.config import LogConfig
from bert.training.precision import cpu_multiplies_bf16
from bert.training.ranks import global_rank, launch_key, wait_for_rank_0

_BEFORE_THE_RECIPE = {"checkpoints", "tokenizer", "store", "before-after", ".store.partial", ".recipe.yaml.partial"}
_STORE_NUMBER = re.compile(r"store-\d+")  # of a source of a mixture
_READY = "ready"  # written last; holds what the processes of this launch have in common


def is_rank_0() -> bool:
    """Whether this process prepares the run."""
    return global_rank() == 0


@contextmanager
def claimed(out: Path, overwrite: bool, resume: bool | None) -> Iterator[None]:
    """Make the folder of a run and fill it inside the `with`; where that fails, nothing of a new run stays.

    InputError where the folder holds another run, unless told to overwrite or to resume it; None: it is no run of a
    kind that can be resumed.
    """
    if resume:
        if not (out / "recipe.yaml").exists():
            raise InputError(f"{out}: no run to resume here: it has no recipe.yaml")
        yield
        return
    aside = _aside(out)
    with _terminated_as_interrupted():
        _claim(out, overwrite, resumable=resume is not None)
        try:
            yield
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            if aside.exists():
                aside.rename(out)
            raise
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM raises, so that it leaves as little behind as Ctrl-C does."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def named(out: Path) -> Path:
    """`out` with a name of its own: "." is put aside and made anew while it is the folder one is in."""
    return out if out.name else out.absolute()


def _aside(out: Path) -> Path:
    """Where a run waits that is about to be overwritten."""
    return out.with_name(f".{out.name}.replaced")


def _claim(out: Path, overwrite: bool, resumable: bool) -> None:
    """Make the folder; a run that is there is put aside. What a killed preparation left is cleared away first."""
    if (
        out.is_dir()
        and any(out.iterdir())
        and not (out / "recipe.yaml").exists()
        and all(_STORE_NUMBER.sub("store", path.name) in _BEFORE_THE_RECIPE for path in out.iterdir())
    ):
        shutil.rmtree(out)
        if _aside(out).exists():
            _aside(out).rename(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file: give a folder as --out")
    if out.exists() and any(out.iterdir()):
        if not (out / "recipe.yaml").exists():
            raise InputError(f"{out}: holds files that are not of a run: give another --out")
        if not overwrite:
            go_on = f", --resume {out} to go on," if resumable else ""
            raise InputError(f"{out}: already holds a run: give another --out{go_on} or --overwrite to lose it")
        shutil.rmtree(_aside(out), ignore_errors=True)
        out.rename(_aside(out))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}): give another --out") from error


def mark_ready(out: Path, recipe: Any, command: str) -> None:
    """Write the resolved recipe, the environment and, last, the marker that other ranks wait for."""
    header = f"A whole recipe: `{command} --config {out}/recipe.yaml --out …` repeats this run."
    write_yaml(recipe, out / "recipe.yaml", header)
    (out / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")
    (out / _READY).write_text(launch_key())


def wait_until_ready(out: Path, recipe: type) -> Any:
    """Wait for rank 0, then read the resolved recipe that it wrote."""
    wait_for_rank_0(out / _READY, launch_key())
    return read_recipe(out / "recipe.yaml", recipe)


def read_recipe(file: Path, recipe: type) -> Any:
    """A recipe of type `recipe` from a file with all its fields, without a command-line parser."""
    return _from_plain(recipe, read_yaml(file))


def environment() -> dict[str, Any]:
    """Versions, hardware and commit: what a figure has to be read with."""
    packages = {}
    for name in ("bert", "torch", "lightning", "tokenizers", "datasets", "numpy", "transformers"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "cpu": {
            "model": _cpu_model(),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "bf16": cpu_multiplies_bf16(),
            "threads": torch.get_num_threads(),
        },
        "cuda_devices": devices,
        "commit": _commit(),
    }


def _cpu_model() -> str:
    """The processor by its own name, family and model; what Python knows of it where the kernel does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    parts = [told.get("model name", ""), *(f"{key} {told[key]}" for key in ("cpu family", "model") if key in told)]
    return ", ".join(filter(None, parts)) or platform.processor()


def extra_loggers(log: LogConfig, out: Path) -> list[Any]:
    """TensorBoard and Weights & Biases where the recipe asks for them. InputError where the package is missing."""
    loggers: list[Any] = []
    try:
        if log.tensorboard:
            from lightning.pytorch.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(out, name="tensorboard", version=""))
        if log.wandb is not None:
            from lightning.pytorch.loggers import WandbLogger

            loggers.append(WandbLogger(project=log.wandb, save_dir=out))
    except ModuleNotFoundError as error:
        name = (
            "log.wandb"
            if log.wandb is not None and not loggers[1:] and (not log.tensorboard or loggers)
            else "log.tensorboard"
        )
        package = "wandb" if name == "log.wandb" else "tensorboard"
        raise InputError(f"{name} needs the package {package}: pip install {package}") from error
    return loggers


def _from_plain(kind: type, values: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    made = {}
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        value, hint = values[field.name], hints[field.name]
        if dataclasses.is_dataclass(hint):
            value = _from_plain(hint, value)  # type: ignore[arg-type]
        elif typing.get_origin(hint) is tuple:
            value = tuple(value)
        made[field.name] = value
    return kind(**made)


def _commit() -> str:
    try:
        here = Path(__file__).parent
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
