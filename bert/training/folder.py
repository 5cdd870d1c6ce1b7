"""The run directory: owned by one process, prepared by rank 0 before training, while the other ranks wait."""

import json
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bert.data.encoding import ALL_FILES
from bert.data.milestones import MILESTONE_FILE, MILESTONES
from bert.errors import InputError, InterruptedRun, accessing, option
from bert.files import (
    clear_workshop,
    clear_workshops,
    completed,
    is_held,
    locked,
    matches,
    real_path,
    replace_text,
    replaced_folder,
)
from bert.hf.folder import OURS as MODEL_FILES
from bert.model.hardware import cpu_multiplies_bf16
from bert.recipe import differences, read_recipe, shown, write_yaml
from bert.signals import Signals, handled, number_of
from bert.terminal import quiet, renamed
from bert.training.config import LogConfig
from bert.training.ranks import global_rank, launch_key, tell_others, wait_for_rank_0
from bert.training.schedules import Progress
from bert.untrusted import read_json

RECIPE, GIVEN = "recipe.yaml", "given.yaml"
_ENVIRONMENT, READY, _LOCK = "environment.json", "ready", ".lock"
_REPEATS = "another run with it repeats this one"
_REPEATS_NOT = "this run was changed while it ran, and another run with it does not repeat this one"
_STORE = "store.json data-00000-of-00001.arrow dataset_info.json state.json sequences-*.npy"
_EVENTS = "events.* hparams.yaml metrics.csv"
_FILES = {  # folder → patterns of the files that a run writes into it
    "": f"{RECIPE} {GIVEN} {_ENVIRONMENT} {READY} metrics.csv best.json .recipe.partial.yaml .given.partial.yaml"
    " .environment.partial.json .ready.partial .metrics.partial.csv .best.partial.json .tokenizer.lock .store.lock"
    " .store-[0-9]*.lock label-errors.csv .label-errors.partial.csv search.csv .search.partial.csv",
    "report/": "metrics.json predictions.jsonl report.html",
    "folds/": "fold-[0-9]*.npz .fold-[0-9]*.partial.npz",
    "tokenizer/": " ".join(ALL_FILES),
    "store/": _STORE,
    "store-[0-9]*/": _STORE,
    "checkpoints/step-[0-9]*/": "state.pt manifest.json",
    "before-after/": "losses.tsv validation-text.npz general-sample.npz .*.partial.*",
    **dict.fromkeys(("model/", "initial/"), " ".join(MODEL_FILES)),
    f"{MILESTONES}/[0-9]*/": " ".join((*MODEL_FILES, MILESTONE_FILE)),
    "tensorboard/": _EVENTS,
    "lightning_logs/version_*/": _EVENTS,
    "wandb/": "run-*/** offline-run-*/** debug*.log latest-run",
}
_FILES |= {f"seed-[0-9]*/{folder}": names for folder, names in _FILES.items()}
OURS = tuple(folder + name for folder, names in _FILES.items() for name in names.split())
"""patterns of the files that a run writes into its directory; all others are the user's"""


def is_rank_0() -> bool:
    """Whether this process is rank 0, which prepares the run."""
    return global_rank() == 0


@contextmanager
def owned(out: Path) -> Iterator[Callable[[], None]]:
    """Own the run directory `out`, which is created. Yields a function that raises InputError if it is no longer the same directory.

    Raises InputError if another process owns it, or if it cannot be written. A directory that was created and is still empty is removed.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file: give a folder as {option('out')}")
    new = [folder for folder in (completed(out), *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / _LOCK, str(out)) as descriptor:
            _check_links(out)

            def check() -> None:
                if not is_held(out / _LOCK, descriptor):
                    what = "was moved or replaced while this run trained"
                    raise InputError(f"{out}: {what}: nothing more is written there")

            yield check
    except OSError as error:
        if Path(error.filename or "") not in (out / _LOCK, *new):
            raise
        raise InputError(f"{out}: cannot be made ({error.strerror}): give another {option('out')}") from error
    finally:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()


@dataclass(frozen=True)
class Launch:
    """One call of a command that trains, on this rank."""

    out: Path
    signals: Signals
    trust: bool
    check: Callable[[], None]
    """raises if the run directory no longer belongs to this run"""

    def begin(self, progress: Progress) -> None:
        """To be called at the first request for a batch."""
        self.signals.install()  # Lightning has replaced the handlers by its own
        progress.start()


@contextmanager
def launched(out: Path, trust: bool, advice: Callable[[], str]) -> Iterator[Launch]:
    """Rank 0 owns the run directory `out`, in which it prepares the run. A signal outside of training raises InterruptedRun with the line
    `advice()`."""
    first = is_rank_0()
    with handled() as signals, quiet(not first):
        try:
            with owned(out) if first else nullcontext(lambda: None) as check:
                yield Launch(out, signals, trust, check)
        except (KeyboardInterrupt, SystemExit) as error:
            if (number := number_of(error)) is None:
                raise
            raise InterruptedRun(advice() if first else "", number) from None


def _check_links(out: Path) -> None:
    """InputError for a link with the name of a file or folder that a run writes: it may lead to any file of the user."""
    folders = {tuple(Path(pattern).parts[:size]) for pattern in OURS for size in range(1, len(Path(pattern).parts))}
    names = [*OURS, *("/".join(parts) for parts in folders)]
    for above, inside, files in os.walk(out):
        for path in (Path(above, name) for name in [*inside, *files]):
            if path.is_symlink() and any(matches(path.relative_to(out), name) for name in names):
                raise InputError(f"{path}: is a link, which may lead to any file: replace it with a copy or remove it")


def named(out: Path) -> Path:
    """`out` with a name: "." becomes the absolute path, as the directory may be replaced while it is the current one."""
    return out if out.name else out.absolute()


def holds_run(out: Path) -> bool:
    """Whether `out` holds a prepared run; RECIPE alone may be a file of the user's."""
    return (completed(out) / RECIPE).exists() and (out / GIVEN).exists()


def check_same(out: Path, given: Any, changes: bool = True) -> None:
    """InputError if the run in `out` was started with another recipe than `given`, with both values of the first fields. `changes`: whether
    a run can be resumed with another recipe."""
    before, amended = (read_recipe(out / name, type(given)) for name in (GIVEN, RECIPE))
    # Fields may also have the values to which they were amended.
    other = {key for key, _, _ in differences(amended, given)}
    if changed := [
        f"{key} {shown(then)}, not {shown(now)}" for key, then, now in differences(before, given) if key in other
    ]:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        resume = f"{option('resume')} {out} to resume that run, " * changes
        fix = f"give another {option('out')}, {resume}or {option('overwrite')} to lose it"
        raise InputError(f"{out}: already holds a run, with {'; '.join(changed[:3])}{more}: {fix}")


@contextmanager
def claimed(out: Path, overwrite: bool, given: Any, ours: Sequence[str] = OURS, keeps: bool = True) -> Iterator[Path]:
    """A directory in which to prepare the run `out`, inside the `with`. If that fails, nothing of a new run remains, except what was
    prepared before a signal.

    It is `out` itself or, if `out` holds a run and is overwritten, another that replaces it at the end. `given` is the recipe as given: it
    marks a preparation as ours. If a preparation with the same recipe was killed, what it has prepared is reused if `keeps` is true.
    `ours` are patterns of the files that a run of this kind writes: all others are the user's and stay. Raises InputError if the directory
    holds another run, unless it is overwritten, or other files.
    """
    if holds_run(out):
        if not overwrite:
            fix = f"give another {option('out')}, or {option('overwrite')} to lose it"
            raise InputError(f"{out}: already holds a run: {fix}")
        with replaced_folder(out, ours) as fresh, renamed(fresh, out):
            try:
                _mark(fresh, given)
                yield fresh
                for recipe in fresh.rglob("*.yaml"):  # paths to files in it must be those after the replacement
                    text = recipe.read_text(encoding="utf-8").replace(str(fresh), str(real_path(out)))
                    recipe.write_text(text, encoding="utf-8")
            except InputError as error:
                raise InputError(error.args[0].replace(str(fresh), str(out))) from error
        return
    clear_workshops(out, ["**"])
    if (out / GIVEN).exists():
        if not keeps or any(differences(read_recipe(out / GIVEN, type(given)), given)):
            _remove_ours(out, ours)
    elif any(path.name != _LOCK for path in out.iterdir()):
        raise InputError(f"{out}: holds files that are not of a run: give another {option('out')}")
    try:
        _mark(out, given)
        yield out
    except BaseException as error:
        if not keeps or number_of(error) is None:  # after a signal, the same command continues with what is prepared
            _remove_ours(out, ours)
        raise


def _mark(folder: Path, given: Any) -> None:
    header = f"The recipe as given. {RECIPE} has every field resolved."
    with accessing(folder, "written", f"free the disk or choose another {option('out')}"):
        write_yaml(given, folder / GIVEN, header)


def _remove_ours(out: Path, ours: Sequence[str]) -> None:
    for above, folders, files in os.walk(out, topdown=False):
        for name in files:
            path = Path(above, name)
            if any(matches(path.relative_to(out), pattern) for pattern in ours):
                path.unlink()
        for name in folders:
            with suppress(OSError):
                Path(above, name).rmdir()


def mark_ready(folder: Path, out: Path, recipe: Any, command: str, decided: Mapping[str, Any]) -> None:
    """Write into `folder` the resolved recipe of the run `out`, the environment, and the marker that the other ranks wait for.

    `decided` is what was decided on this machine and is in no recipe."""
    append_environment(folder, decided)
    write_recipe(recipe, folder, command)
    tell_others(folder / READY, {})


def write_recipe(recipe: Any, folder: Path, command: str) -> None:
    """Write the resolved recipe of a run of `command`."""
    write_yaml(recipe, folder / RECIPE, f"A complete recipe for `{command}`: {_REPEATS}.")


def mark_resumed(
    out: Path,
    recipe: Any,
    changed: Sequence[tuple[str, Any, Any]],
    step: int,
    decided: Mapping[str, Any],
    told: Mapping[str, Any],
) -> None:
    """`mark_ready` for a resumed run: the fields in `changed` are recorded in its recipe as amendments, and a warning names each difference
    between this environment and the last one. `told` is for the other ranks."""
    clear_workshop(out, OURS)  # of a command with `overwrite` that was killed when this run had replaced another
    before = _environments(out)
    if changed:
        lines = (out / RECIPE).read_text(encoding="utf-8").splitlines()
        header = [line.strip("# ").replace(_REPEATS, _REPEATS_NOT) for line in lines if line.startswith("#")]
        header += [f"Amended at step {step}: {key} {shown(then)} -> {shown(now)}." for key, then, now in changed]
        write_yaml(recipe, out / RECIPE, "\n".join(header))
    now = append_environment(out, decided)
    for what in ("packages", "decided") if before else ():
        then = before[-1].get(what)
        then = then if isinstance(then, dict) else {}
        for key in then.keys() & now[what].keys():
            if then[key] != now[what][key]:
                change = f"{key} is {now[what][key]}, and was {then[key]} before"
                warnings.warn(f"{out}: {change}: results may differ", stacklevel=2)
    tell_others(out / READY, told)


def append_environment(folder: Path, decided: Mapping[str, Any]) -> dict[str, Any]:
    """Append an entry for this start to environment.json of a run, and return it."""
    entry = environment() | {"decided": {"threads": torch.get_num_threads(), **decided}}
    replace_text(folder / _ENVIRONMENT, json.dumps([*_environments(folder), entry], indent=2) + "\n")
    return entry


def _environments(folder: Path) -> list[dict[str, Any]]:
    """The entries of environment.json; none if it is damaged, as it is for information only."""
    try:
        entries = read_json(folder / _ENVIRONMENT)
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def wait_until_ready(out: Path, recipe: type) -> tuple[Any, dict[str, Any]]:
    """Wait for rank 0. Returns the resolved recipe that it has written, and what else it tells."""
    told = wait_for_rank_0(out / READY, launch_key())
    return read_recipe(out / RECIPE, recipe), told


def environment() -> dict[str, Any]:
    """Versions, hardware and commit, without which a measurement cannot be interpreted."""
    packages = {}
    for name in ("bert-kit", "torch", "lightning", "tokenizers", "datasets", "numpy", "transformers"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    cpu = {"model": _cpu_model(), "cores": os.cpu_count(), "machine": platform.machine()}
    cpu |= {"bf16": cpu_multiplies_bf16(), "threads": torch.get_num_threads()}
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    system = {"python": platform.python_version(), "platform": platform.platform(), "packages": packages}
    return system | {"cpu": cpu, "cuda_devices": devices, "commit": _commit()}


def _cpu_model() -> str:
    """Name, family and model of the processor from the kernel; from Python if that is not available."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    parts = [told.get("model name", ""), *(f"{key} {told[key]}" for key in ("cpu family", "model") if key in told)]
    return ", ".join(filter(None, parts)) or platform.processor()


def extra_loggers(log: LogConfig, out: Path) -> list[Any]:
    """TensorBoard and Weights & Biases, as requested by the recipe. InputError if the package is missing."""
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    loggers: list[Any] = []
    package = "tensorboard"
    try:
        if log.tensorboard:
            loggers.append(TensorBoardLogger(out, name="tensorboard", version=""))
        package = "wandb"
        if log.wandb is not None:
            loggers.append(WandbLogger(project=log.wandb, save_dir=out))
    except ModuleNotFoundError as error:
        raise InputError(f"log.{package} needs the package {package}: pip install {package}") from error
    return loggers


def _commit() -> str:
    try:
        here = Path(__file__).parent
        command = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
