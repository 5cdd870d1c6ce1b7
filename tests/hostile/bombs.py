"""What grows when it is read, and what runs when it is unpickled."""

import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import zstandard


def npy_header(shape: str, descr: str = "<i8") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"


class Bomb:
    """What runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def zeros(container: int) -> bytes:
    """A deflated stream of 2 GiB of zeros, in a gzip (31) or raw (-15) form, but for its checksum."""
    packer = zlib.compressobj(9, zlib.DEFLATED, container)
    first = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    raw.compress(b"")
    block = raw.compress(bytes(1 << 24)) + raw.flush(zlib.Z_FULL_FLUSH)
    return first + block * 127 + b"\3\0"


def write_zip_bomb(file: Path, name: str, others: dict[str, bytes]) -> None:
    """A member `name` of 2 GiB of zeros behind an honest header."""
    head = npy_header("(268435454,)") if name.endswith(".npy") else b""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    content = begin + zeros(-15)
    with zipfile.ZipFile(file, "w") as target:
        for other, plain in others.items():
            target.writestr(other, plain)
        info = zipfile.ZipInfo(name)
        target.writestr(info, content)
        info = target.getinfo(name)
    raw = bytearray(file.read_bytes())
    for signature, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):  # say that it is deflated, and how large it is
        at = raw.rindex(signature, 0, raw.rindex(name.encode()) if signature == b"PK\1\2" else raw.index(name.encode()))
        raw[at + place : at + place + 2] = struct.pack("<H", 8)
        size = at + place + 14
        raw[size : size + 4] = struct.pack("<I", min(2**32 - 1, len(head) + (1 << 31)))
    file.write_bytes(raw)


def zstd_bomb() -> bytes:
    return zstandard.compress(bytes(1 << 26), 3) * 40


def zstd_runs(blocks: int, window: int = 27) -> bytes:
    """A frame of blocks that each repeat one byte 128 KiB long: 4 bytes of file for them."""
    descriptor = bytes([0x00, (window - 10) << 3])
    block = (1 << 17) << 3 | 1 << 1
    body = block.to_bytes(3, "little") + b"a"
    last = (1 << 17 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"a"
    return b"\x28\xb5\x2f\xfd" + descriptor + body * blocks + last
