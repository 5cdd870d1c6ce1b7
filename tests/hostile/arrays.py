"""Hostile .npz and .npy files."""

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.bombs import Bomb, npy_header, write_zip_bomb


def _odd_array(array: np.ndarray, draw: random.Random) -> tuple[np.ndarray, str]:
    array = np.atleast_1d(array)
    array = array.astype(np.int64) if array.dtype.kind in "iu" else array
    cases: dict[str, Any] = {
        "objects": np.array([Bomb("touch ../../owned"), None], dtype=object),
        "fewer": array[:1],
        "no rows": array[:0],
        "one axis": array.ravel(),
        "three axes": array[None],
        "no axes": np.array(7),
        "negative": array - 10_000,
        "large": array + 2**40,
        "largest": np.full_like(array, np.iinfo(np.int64).max),
        "smallest": np.full_like(array, np.iinfo(np.int64).min),
        "real": array + 0.5,
        "nan": array * np.nan,
        "infinite": array + np.inf,
        "complex": array.astype(complex),
        "text": array.astype(str),
        "bytes": array.astype("S8"),
        "bool": array.astype(bool),
        "dates": array.astype("M8[s]"),
        "record": np.zeros(array.shape, dtype=[("a", "i4"), ("b", "O" if draw.random() < 0.3 else "f4")]),
        "backwards": array.astype(">i8"),
        "falling": array[::-1],
        "zeros": np.zeros_like(array),
        "unsigned": array.astype(np.uint64) + np.uint64(2**63),
        "long": np.resize(array, (*array.shape[:-1], 5000)),
        "void": np.zeros(array.shape, dtype="V8"),
    }
    what = draw.choice(sorted(cases))
    return cases[what], what


_CLAIMS = (
    "(281474976710656,)",
    "(4294967296, 4294967296)",
    "(-1,)",
    "(1.5,)",
    "('a',)",
    "(9223372036854775807,)",
    "()",
    "[3]",
    "(100000000,)",
)


def odd_npz(file: Path, draw: random.Random) -> str:
    with np.load(file) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    name = draw.choice(sorted(found))
    how = draw.randrange(10)
    if how < 7:
        found[name], what = _odd_array(found[name], draw)
        np.savez(file, **found)
        return f"{name}: {what}"
    if how == 7:
        write_zip_bomb(
            file, f"{name}.npy", {f"{other}.npy": _npy(array) for other, array in found.items() if other != name}
        )
        return f"{name}: a bomb"
    if how == 8:
        shape, descr = draw.choice(_CLAIMS), draw.choice(("<i8", "|O", "V0", "x", "|V1000000000"))
        with zipfile.ZipFile(file, "w") as target:
            for other, array in found.items():
                target.writestr(f"{other}.npy", npy_header(shape, descr) + b"\0" * 64 if other == name else _npy(array))
        return f"{name} claims {shape} {descr}"
    surplus = {"../../owned": np.zeros(3), name: found[name]} if draw.random() < 0.5 else {name: found[name]}
    np.savez(file, **surplus)
    return f"{sorted(surplus)} alone"


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def odd_npy(file: Path, draw: random.Random) -> str:
    if draw.random() < 0.2:
        shape = draw.choice(_CLAIMS)
        file.write_bytes(npy_header(shape) + b"\0" * 64)
        return f"claims {shape}"
    array, what = _odd_array(np.load(file), draw)
    with file.open("wb") as stream:
        np.save(stream, array)
    return what
