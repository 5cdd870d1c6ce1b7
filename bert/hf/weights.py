"""Tensors of a model folder: `model.safetensors`, `pytorch_model.bin`, or the parts that an index of either names.

Tensors are on the CPU, as stored, memory-mapped if the format allows it. Pickles are read only by
`torch.load(weights_only=True)`, which builds tensors and runs no code.
"""

import contextlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bert.errors import InputError
from bert.untrusted import read_json

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX_ENDING = ".index.json"
_MOST_NAMES = 8  # in a message
WEIGHT_FILES = (WEIGHTS, WEIGHTS + INDEX_ENDING, PICKLED, PICKLED + INDEX_ENDING)
"""the first one in a folder is read"""


def weights_file(folder: Path) -> Path:
    """The file of the tensors of a folder, or the index that names its parts. Raises InputError if there is none."""
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{folder}: no {WEIGHTS} and no {PICKLED} in it: give the folder of a whole model")
    return found


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder. Raises InputError, naming the file, if it is missing, damaged or holds other objects."""
    file = weights_file(folder)
    if not file.name.endswith(INDEX_ENDING):
        return _read_file(file)
    places = _read_index(file)
    tensors: dict[str, Tensor] = {}
    for part in sorted(set(places.values())):
        if not (folder / part).is_file():
            raise InputError(f"{file}: names {part!r}, which is missing: fetch the missing part of the model")
        tensors |= _read_file(folder / part)
    if absent := [name for name in places if name not in tensors]:
        raise InputError(f"{file}: names parameters that its parts do not hold: {listed(absent)}")
    return tensors


def _read_index(file: Path) -> dict[str, str]:
    """Parameter → name of its file in the folder of the index."""
    try:
        index: Any = read_json(file)
        places = {str(name): str(part) for name, part in index["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{file}: not an index of weights with a weight_map: {error}: fetch it again") from None
    for part in places.values():
        # an absolute path, or one with .., may lead anywhere
        if Path(part).name != part or Path(part).suffix not in (".safetensors", ".bin"):
            raise InputError(f"{file}: names {part!r}, which is not a file of weights in this folder: not read")
    return places


def _read_file(file: Path) -> dict[str, Tensor]:
    tensors: Any
    try:
        tensors = load_file(file) if file.suffix == ".safetensors" else _unpickle(file)
    except pickle.UnpicklingError as error:
        why = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
        what = f"holds more than tensors and is not read, since it could run code{f' ({why.strip()})' if why else ''}"
        raise InputError(f"{file}: {what}: give the model as {WEIGHTS}") from None
    except Exception as error:  # PyTorch raises errors of any type for damaged pickles
        first = (str(error).splitlines() or [""])[0].partition(". ")[0]
        raise InputError(f"{file}: damaged, or not a file of weights{_why(file, first)}") from error
    if not isinstance(tensors, dict):
        raise InputError(f"{file}: holds a {type(tensors).__name__}, not tensors by name")
    if odd := [
        str(name)
        for name, value in tensors.items()
        if not (isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided and value.is_cpu)
    ]:
        raise InputError(f"{file}: not tensors: {listed(odd)}: give only the state dict of a model")
    claimed, size = sum(value.numel() * value.element_size() for value in tensors.values()), file.stat().st_size
    if claimed > 2 * size:  # a tied matrix has two names, and is stored once
        raise InputError(f"{file}: {size} bytes cannot hold its tensors of {claimed} bytes: fetch the file again")
    return dict(tensors)


def _why(file: Path, said: str) -> str:
    """`: ` and the cause of an error, if it is known."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        if opened.read(40).startswith(b"version https://git-lfs"):
            return ": a pointer of git-lfs: fetch the file itself with `git lfs pull`"
    return f": {said}" if said else ""


def _unpickle(file: Path) -> object:
    with file.open("rb") as opened:
        zipped = opened.read(2) == b"PK"  # since PyTorch 1.6; older files cannot be mapped
    if zipped:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        if any(entry.compress_type for entry in entries) or sum(one.file_size for one in entries) > file.stat().st_size:
            raise ValueError("its parts are compressed or overlap, unlike those of PyTorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch about unusual tensors, which are refused anyway
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)


def listed(names: Iterable[str]) -> str:
    """The names, with layers joined: `layers.{0-5,7}.mlp.wi.weight`; of many, the first."""
    layers: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"(?<=\.)\d{1,9}(?=\.)", name)
        pattern = f"{name[: number.start()]}{{}}{name[number.end() :]}" if number else name
        layers.setdefault(pattern, []).extend([int(number[0])] if number else [])
    shown = [pattern.replace("{}", _ranges(numbers), 1) for pattern, numbers in layers.items()]
    more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
    return ", ".join(shown[:_MOST_NAMES]) + more


def _ranges(numbers: list[int]) -> str:
    """`5`, or `{0-3,5}`."""
    by_run = groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])  # constant in consecutive numbers
    runs = [[number for _, number in run] for _, run in by_run]
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return text if len(numbers) == 1 else f"{{{text}}}"
