"""The folder of a run: owned by one process, filled by rank 0 before training, waited for by the others."""

import json
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bert.data.encoding import ALL_FILES
from bert.errors import InputError, option
from bert.files import clear_workshops, completed, is_held, locked, matches, real_path, replace_text, replaced_folder
from bert.hf.folder import OURS as MODEL_FILES
from bert.model.precision import cpu_multiplies_bf16
from bert.recipe import differences, read_recipe, write_yaml
from bert.signals import number_of
from bert.terminal import renamed
from bert.training.config import LogConfig
from bert.training.ranks import global_rank, launch_key, tell_others, wait_for_rank_0
from bert.untrusted import read_json

RECIPE, GIVEN = "recipe.yaml", "given.yaml"
_ENVIRONMENT, _READY, _LOCK = "environment.json", "ready", ".lock"
_STORE = ("store.json", "data-00000-of-00001.arrow", "dataset_info.json", "state.json", "sequences-*.npy")
_PARTIAL = (
    ".recipe.partial.yaml",
    ".given.partial.yaml",
    ".environment.partial.json",
    ".ready.partial",
    ".metrics.partial.csv",
)
_LOGS = (*(f"wandb/{kind}run-*/**" for kind in ("", "offline-")), "wandb/debug*.log", "wandb/latest-run")
OURS = (
    *(RECIPE, GIVEN, _ENVIRONMENT, _READY, "metrics.csv", *_PARTIAL, *_LOGS),
    *(f".{name}.lock" for name in ("tokenizer", "store", "store-[0-9]*")),
    *("checkpoints/step-[0-9]*/state.pt", "checkpoints/step-[0-9]*/manifest.json"),
    *(
        f"before-after/{name}"
        for name in ("losses.tsv", ".losses.partial.tsv", "held-out-text.npz", "general-sample.npz")
    ),
    *(
        f"{place}/{name}"
        for place in ("tensorboard", "lightning_logs/version_*")
        for name in ("events.*", "hparams.yaml", "metrics.csv")
    ),
    *(f"tokenizer/{name}" for name in ALL_FILES),
    *(f"store{number}/{name}" for number in ("", "-[0-9]*") for name in _STORE),
    *(f"model/{name}" for name in (*MODEL_FILES, "windows.json")),
)
"""patterns of what a run writes into its folder; whatever else lies there is the user's"""


def is_rank_0() -> bool:
    """Whether this process prepares the run."""
    return global_rank() == 0


@contextmanager
def owned(out: Path) -> Iterator[Callable[[], None]]:
    """Own the run directory `out`, which is made. Yields a function that raises InputError where it is no longer the one.

    Raises InputError where another process owns it or it cannot be written. A folder that was made and stays empty goes again.
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
                    raise InputError(
                        f"{out}: was moved or replaced while this run trained: nothing more is written there"
                    )

            yield check
    except OSError as error:
        if Path(error.filename or "") not in (out / _LOCK, *new):
            raise
        raise InputError(f"{out}: cannot be made ({error.strerror}): give another {option('out')}") from error
    finally:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()


def _check_links(out: Path) -> None:
    """InputError for a link under a name that a run writes, or that of a folder it writes in: it may lead to any file of the user."""
    folders = {tuple(Path(pattern).parts[:size]) for pattern in OURS for size in range(1, len(Path(pattern).parts))}
    names = [*OURS, *("/".join(parts) for parts in folders)]
    for above, inside, files in os.walk(out):
        for path in (Path(above, name) for name in [*inside, *files]):
            if path.is_symlink() and any(matches(path.relative_to(out), name) for name in names):
                raise InputError(
                    f"{path}: is a link, which may lead to any file: put what it leads to there, or remove it"
                )


def named(out: Path) -> Path:
    """`out` with a name of its own: "." is put aside and made anew while it is the folder one is in."""
    return out if out.name else out.absolute()


def holds_run(out: Path) -> bool:
    """Whether a run was prepared in `out`."""
    return (completed(out) / RECIPE).exists() and (out / GIVEN).exists()  # a recipe of that name may be the user's


def check_same(out: Path, given: Any) -> None:
    """InputError where the run that `out` holds was asked for by another recipe than `given`, with both values of the first field."""
    before, amended = (read_recipe(out / name, type(given)) for name in (GIVEN, RECIPE))
    # As it is by now: a command may ask for what was amended.
    other = {key for key, _, _ in differences(amended, given)}
    if changed := [f"{key} {then}, not {now}" for key, then, now in differences(before, given) if key in other]:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"{out}: already holds a run, with {'; '.join(changed[:3])}{more}: give another {option('out')},"
            f" {option('resume')} {out} to go on with that run, or {option('overwrite')} to lose it"
        )


@contextmanager
def claimed(
    out: Path, overwrite: bool, given: Any = None, ours: Sequence[str] = OURS, keeps: bool = True
) -> Iterator[Path]:
    """A folder to prepare the run `out` in, inside the `with`; where that fails, nothing of a new run
    stays, but for what was prepared when a signal came.

    It is `out` itself, or, where `out` holds a run and is to be overwritten, another that takes its place at the end. `given` is
    the recipe that was asked for: it marks a preparation as ours, and where the same was asked for before and killed, what it
    has prepared is there if it `keeps` that. `ours` are patterns of what a run of this kind writes: all else is the user's and
    stays. Raises InputError where the folder holds another run, unless it is to be overwritten, or something else.
    """
    if holds_run(out):
        if not overwrite:
            raise InputError(
                f"{out}: already holds a run: give another {option('out')}, or {option('overwrite')} to lose it"
            )
        with replaced_folder(out, ours) as fresh, renamed(fresh, out):
            try:
                _mark(fresh, given)
                yield fresh
                for recipe in fresh.rglob("*.yaml"):  # they name their files where those will be
                    recipe.write_text(
                        recipe.read_text(encoding="utf-8").replace(str(fresh), str(real_path(out))), encoding="utf-8"
                    )
            except InputError as error:
                raise InputError(error.args[0].replace(str(fresh), str(out))) from error
        return
    clear_workshops(out, ["**"])
    if (out / GIVEN).exists():
        if not keeps or given is None or any(differences(read_recipe(out / GIVEN, type(given)), given)):
            _remove_ours(out, ours)
    elif any(path.name != _LOCK for path in out.iterdir()):
        raise InputError(f"{out}: holds files that are not of a run: give another {option('out')}")
    try:
        _mark(out, given)
        yield out
    except BaseException as error:
        if not keeps or number_of(error) is None:  # after a signal the same command goes on with what is prepared
            _remove_ours(out, ours)
        raise


def _mark(folder: Path, given: Any) -> None:
    if given is None:
        return
    try:
        header = f"What was asked for. {RECIPE} is what came of it, with every open field decided."
        write_yaml(given, folder / GIVEN, header)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); free the disk or choose another {option('out')}"
        ) from error


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
    """Write into `folder` the resolved recipe of the run `out`, the environment, and the marker that other ranks wait for.

    `decided` is what was decided on this machine and is in no recipe."""
    append_environment(folder, decided)
    header = f"A whole recipe for `{command}`: with it another run repeats this one."
    write_yaml(recipe, folder / RECIPE, header)
    tell_others(folder / _READY, {})


def mark_resumed(
    out: Path,
    recipe: Any,
    changed: Sequence[tuple[str, Any, Any]],
    step: int,
    decided: Mapping[str, Any],
    told: Mapping[str, Any],
) -> None:
    """What `mark_ready` does, of a run that goes on: fields that are `changed` are written into its recipe as amendments, and a
    difference of this environment from the one before is warned of. `told` is for the other ranks."""
    before = _environments(out)
    if changed:
        lines = (out / RECIPE).read_text(encoding="utf-8").splitlines()
        header = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
        header += [f"Amended at step {step}: {key} {then} -> {now}." for key, then, now in changed]
        write_yaml(recipe, out / RECIPE, "\n".join(header))
    now = append_environment(out, decided)
    for what in ("packages", "decided") if before else ():
        then = before[-1].get(what)
        then = then if isinstance(then, dict) else {}
        for key in then.keys() & now[what].keys():
            if then[key] != now[what][key]:
                warnings.warn(
                    f"{out}: {key} is {now[what][key]}, and was {then[key]} before: results may differ", stacklevel=2
                )
    tell_others(out / _READY, told)


def append_environment(folder: Path, decided: Mapping[str, Any]) -> dict[str, Any]:
    """Add this start of the run to its environment.json, a list with one entry a start; the entry."""
    entry = environment() | {"decided": {"threads": torch.get_num_threads(), **decided}}
    replace_text(folder / _ENVIRONMENT, json.dumps([*_environments(folder), entry], indent=2) + "\n")
    return entry


def _environments(folder: Path) -> list[dict[str, Any]]:
    """The entries of environment.json; none where it is damaged, for it only informs."""
    try:
        entries = read_json(folder / _ENVIRONMENT)
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def wait_until_ready(out: Path, recipe: type) -> tuple[Any, dict[str, Any]]:
    """Wait for rank 0; the resolved recipe that it wrote, and what else it tells."""
    told = wait_for_rank_0(out / _READY, launch_key())
    return read_recipe(out / RECIPE, recipe), told


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
    package = "tensorboard"
    try:
        if log.tensorboard:
            from lightning.pytorch.loggers import TensorBoardLogger

            loggers.append(TensorBoardLogger(out, name="tensorboard", version=""))
        package = "wandb"
        if log.wandb is not None:
            from lightning.pytorch.loggers import WandbLogger

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
