"""Hostile safetensors, pickles and checkpoints."""

import hashlib
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.hostile.bombs import Bomb, write_zip_bomb
from tests.hostile.values import Raw, odd_value, parent_of, places

_TYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I16",
    "I8",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "X9",
    "U16",
    "U64",
    "F4",
    "C64",
)


def odd_safetensors(file: Path, draw: random.Random) -> str:
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    names = sorted(name for name in header if name != "__metadata__")
    name = draw.choice(names)
    begin, end = header[name]["data_offsets"]
    how = draw.choice(("type", "shape", "offsets", "header", "nan", "whole", "names", "metadata", "length", "order"))
    what: Any = ""
    if how == "type":
        what = header[name]["dtype"] = draw.choice(_TYPES)
        if draw.random() < 0.7:  # as many bytes as it needs
            width = {
                "F64": 8,
                "I64": 8,
                "U64": 8,
                "C64": 8,
                "F32": 4,
                "I32": 4,
                "F16": 2,
                "BF16": 2,
                "I16": 2,
                "U16": 2,
            }.get(what, 1)
            data = data[:begin] + b"\1" * (end - begin) + data[end:] if draw.random() < 0.5 else data
            data += b"\0" * ((end - begin) // 4 * width)
            header[name]["data_offsets"] = [len(data) - (end - begin) // 4 * width, len(data)]
    elif how == "shape":
        shapes: tuple[Any, ...] = (
            [2**40],
            [2**32, 2**32],
            [0],
            [],
            [-1],
            [1.5],
            "x",
            [2**63],
            [2**62, 4],
            [1] * 100,
            [10**400],
        )
        what = header[name]["shape"] = draw.choice(shapes)
    elif how == "offsets":
        offsets: tuple[Any, ...] = (
            [0, 2**62],
            [end, begin],
            [-4, 0],
            [0, 0],
            [begin, end + 4],
            ["0", "4"],
            [2**63, 2**63 + 4],
            [0],
            None,
        )
        what = header[name]["data_offsets"] = draw.choice(offsets)
    elif how == "header":
        header = draw.choice(({}, [], {"__metadata__": {"format": "pt"}}, {name: header[name]}, {name: 7}, 7))
    elif how in ("nan", "whole"):
        number = draw.choice((float("nan"), float("inf"), -float("inf"), 3e38, 1e-45))
        if how == "nan":
            place = begin + 4 * draw.randrange(max(1, (end - begin) // 4))
            data = data[:place] + struct.pack("<f", number) + data[place + 4 :]
        else:
            data = struct.pack("<f", number) * (len(data) // 4)
        what = number
    elif how == "names":
        what = draw.choice(("a\x1b[31m", "x" * 100_000, "", "../x", "encoder.layers.999999999999999999999.x.weight"))
        header[what] = header.pop(name)
    elif how == "metadata":
        values: tuple[Any, ...] = (None, 7, {"format": 7}, {"format": "x\x1b"}, {"a": "x" * 1_000_000})
        what = header["__metadata__"] = draw.choice(values)
    elif how == "order":  # two names for the same bytes
        other = draw.choice(names)
        header[name]["data_offsets"] = header[other]["data_offsets"]
    text = json.dumps(header).encode()
    length = len(text)
    if how == "length":
        what = length = draw.choice((0, 1, 2**31, 2**62, 2**63, 2**64 - 1, len(text) + 5, 100_000_001))
    file.write_bytes(struct.pack("<Q", length) + text + data)
    return f"{how} of {name}: {str(what)[:60]}"


def _odd_tensors(tensors: dict[str, Any], draw: random.Random) -> tuple[Any, str]:
    """What is no state dict of a model, or one with odd tensors."""
    names = sorted(name for name, value in tensors.items() if isinstance(value, torch.Tensor)) or sorted(tensors)
    name = draw.choice(names)
    old = tensors[name] if isinstance(tensors[name], torch.Tensor) else torch.zeros(4, 4)
    with_one: dict[str, Any] = {
        "expanded": torch.zeros(1).expand(2**33),
        "strided": torch.as_strided(torch.zeros(4), (2**20, 2**13), (0, 0)),
        "sparse": torch.zeros(4, 4).to_sparse(),
        "sparse large": torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (2**20, 2**20)),
        "complex": old.to(torch.complex64),
        "integers": old.to(torch.int64),
        "half": old.half(),
        "bool": old.bool(),
        "meta": torch.empty(2**40, device="meta"),
        "no axes": torch.tensor(1.0),
        "empty": torch.empty(0),
        "nan": old * float("nan"),
        "infinite": old.float() + float("inf"),
        "parameter": torch.nn.Parameter(old.float()),
        "turned": old.float().T if old.ndim == 2 else old,
        "nested list": [[old]],
        "number": 7,
        "text": "a\x1b[31m",
        "none": None,
        "code": Bomb("touch ../../owned"),
        "array": np.zeros(3),
        "quantised": torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8) if old.numel() else old,
    }
    what = draw.choice(sorted(with_one))
    return tensors | {name: with_one[what]}, f"{name} is {what}"


def odd_pickle(file: Path, draw: random.Random) -> str:
    tensors = torch.load(file, weights_only=True)
    whole: dict[str, Any] = {
        "list": list(tensors.values()),
        "tensor": torch.zeros(3),
        "code": Bomb("touch ../../owned"),
        "nested": {"state_dict": tensors},
        "module": torch.nn.Linear(2, 2),
        "numbered": dict(enumerate(tensors.values())),
        "nothing": {},
        "many names": {f"x{number}": torch.zeros(1) for number in range(3000)},
        "name": {("a\x1b[31m" if number == 0 else name): value for number, (name, value) in enumerate(tensors.items())},
    }
    how = draw.randrange(4)
    if how < 2:
        content, what = _odd_tensors(tensors, draw)
    else:
        what = draw.choice(sorted(whole))
        content = whole[what]
    torch.save(content, file, _use_new_zipfile_serialization=draw.random() < 0.8)
    if how == 3 and zipfile.is_zipfile(file):
        what = f"{what}, {_zip_claims(file, draw)}"
    return what


def _zip_claims(file: Path, draw: random.Random) -> str:
    """Members that are packed, that are far larger than the file, or that lie elsewhere."""
    with zipfile.ZipFile(file) as source:
        members = {name: source.read(name) for name in source.namelist()}
    how = draw.choice(("packed", "bomb", "path", "twice"))
    name = next((name for name in members if "/data/" in name), min(members))
    if how == "bomb":
        write_zip_bomb(file, name, {other: content for other, content in members.items() if other != name})
        return "a bomb"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED) as target:
        for other, content in members.items():
            target.writestr("../../owned" if how == "path" and other == name else other, content)
    return how


def odd_checkpoint(file: Path, draw: random.Random) -> str:
    """A state that the manifest vouches for."""
    state = torch.load(file, weights_only=True)
    values = [path for path in places(state) if path]
    path = draw.choice(values) if draw.random() < 0.7 else (draw.choice(sorted(state)),)
    parent = parent_of(state, path)
    key = draw.choice(("state_dict", "optimizer_states"))
    if draw.random() < 0.3 and isinstance(state.get(key), dict):
        state[key], what = _odd_tensors(state[key], draw)
    elif isinstance(parent, (dict, list)):
        new = odd_value(draw, None)
        parent[path[-1]] = str(new) if isinstance(new, Raw) else new
        what = f"{'.'.join(map(str, path))} is {str(new)[:60]!r}"
    else:
        what = "as it was"
    torch.save(state, file)
    content = file.read_bytes()
    manifest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "global_step": 4}
    (file.parent / "manifest.json").write_text(json.dumps(manifest))
    return what
