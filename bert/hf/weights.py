"""Tensors of a model folder: `model.safetensors`, `pytorch_model.bin`, or the parts that an index of either names.

In: a folder. Out: name → tensor on the CPU, as stored, mapped from the file where its format allows it. Pickles are read by
`torch.load(weights_only=True)` alone, which builds tensors and runs no code.
"""

import contextlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable
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
WEIGHT_FILES = (WEIGHTS, WEIGHTS + INDEX_ENDING, PICKLED, PICKLED + INDEX_ENDING)
"""the first of them that a folder has is read"""


def weights_file(folder: Path) -> Path:
    """The file that a folder's tensors are read from, or the index that names its parts. InputError where there is none."""
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{folder}: no {WEIGHTS} and no {PICKLED} in it: give the folder of a whole model")
    return found


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder. Raises InputError, naming the file, for what is missing, damaged or no tensors."""
    file = weights_file(folder)
    if not file.name.endswith(INDEX_ENDING):
        return _read_file(file)
    places = _read_index(file)
    tensors: dict[str, Tensor] = {}
    for part in sorted(set(places.values())):
        if not (folder / part).is_file():
            raise InputError(f"{file}: names {part!r}, which is not there: fetch the missing part of the model")
        tensors |= _read_file(folder / part)
    if absent := [name for name in places if name not in tensors]:
        raise InputError(f"{file}: names parameters that its parts do not hold: {listed(absent)}")
    return tensors


def _read_index(file: Path) -> dict[str, str]:
    """Parameter → file beside the index."""
    try:
        index: Any = read_json(file)
        places = {str(name): str(part) for name, part in index["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{file}: not an index of weights with a weight_map: {error}: fetch it again") from None
    for part in places.values():
        # A path, absolute or through .., may lead anywhere.
        if Path(part).name != part or Path(part).suffix not in (".safetensors", ".bin"):
            raise InputError(f"{file}: names {part!r}, which is no file of weights in this folder: it is not read")
    return places


def _read_file(file: Path) -> dict[str, Tensor]:
    tensors: Any
    try:
        tensors = load_file(file) if file.suffix == ".safetensors" else _unpickle(file)
    except pickle.UnpicklingError as error:
        why = next((line for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
        raise InputError(
            f"{file}: holds more than tensors and is not read, since it could run code"
            f"{f' ({why.strip()})' if why else ''}: give the model as {WEIGHTS}"
        ) from None
    except Exception as error:  # a damaged pickle makes PyTorch raise anything
        first = (str(error).splitlines() or [""])[0].partition(". ")[0]
        raise InputError(f"{file}: damaged or no file of weights{_why(file, first)}") from error
    if not isinstance(tensors, dict):
        raise InputError(f"{file}: holds a {type(tensors).__name__} and no tensors by name")
    if odd := [
        str(name)
        for name, value in tensors.items()
        if not (isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided and value.is_cpu)
    ]:
        raise InputError(f"{file}: not tensors: {listed(odd)}: give the state dict of a model alone")
    claimed, size = sum(value.numel() * value.element_size() for value in tensors.values()), file.stat().st_size
    if claimed > 2 * size:  # a tied matrix has two names, and no number is stored for both
        raise InputError(f"{file}: {size} bytes cannot hold its tensors of {claimed} bytes: fetch the file again")
    return dict(tensors)


def _why(file: Path, said: str) -> str:
    """`: ` and what is wrong with a file, where something is known of it."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        if opened.read(40).startswith(b"version https://git-lfs"):
            return ": it is the pointer of git-lfs: fetch the file itself by `git lfs pull`"
    return f": {said}" if said else ""


def _unpickle(file: Path) -> object:
    with file.open("rb") as opened:
        zipped = opened.read(2) == b"PK"  # since PyTorch 1.6; older files cannot be mapped
    if zipped:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        if any(entry.compress_type for entry in entries) or sum(one.file_size for one in entries) > file.stat().st_size:
            raise ValueError("its parts are compressed or overlap, which PyTorch's never do")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, of odd tensors, which are refused in our words
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)


def listed(names: Iterable[str]) -> str:
    """All names, those of several layers as one: `layers.{0-5,7}.mlp.wi.weight`."""
    layers: dict[str, list[int]] = {}
    for name in names:
        pattern = re.sub(r"(?<=\.)\d{1,9}(?=\.)", "{}", name, count=1)
        numbers = layers.setdefault(pattern, [])
        if pattern != name:
            numbers.append(int(re.search(r"(?<=\.)\d{1,9}(?=\.)", name)[0]))  # type: ignore[index]
    return ", ".join(pattern.replace("{}", _ranges(numbers), 1) for pattern, numbers in layers.items())


def _ranges(numbers: list[int]) -> str:
    """`5`, or `{0-3,5}`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return text if len(numbers) == 1 else f"{{{text}}}"
