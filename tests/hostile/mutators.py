"""The ways in which a file is made hostile. Each takes a file and a random source, changes the file in place and says how."""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.hostile.arrays import odd_npy, odd_npz
from tests.hostile.definitions import link_inside, odd_config, odd_index, odd_modules, odd_store, odd_tokenizer
from tests.hostile.recipes import change_key, name_code, odd_card, odd_yaml
from tests.hostile.tables import odd_arrow, odd_parquet
from tests.hostile.texts import odd_cell, odd_gz, odd_json_line, odd_lines, odd_zst
from tests.hostile.values import change_all, change_value
from tests.hostile.weights import odd_checkpoint, odd_pickle, odd_safetensors

Change = Callable[[Path, random.Random], str]

_KINDS = (
    ("config.json", ("json", "config")),
    ("tokenizer.json", ("json", "tokenizer")),
    ("store.json", ("json", "store")),
    ("modules.json", ("json", "modules")),
    ("*index.json", ("json", "index")),
    ("*.json", ("json",)),
    ("*.yaml", ("yaml",)),
    ("README.md", ("card",)),
    ("*.safetensors", ("safetensors",)),
    ("state.pt", ("pickle", "checkpoint")),
    ("*.bin", ("pickle",)),
    ("*.npz", ("npz",)),
    ("*.npy", ("npy",)),
    ("*.arrow", ("arrow",)),
    ("*.parquet", ("parquet",)),
    ("*.gz", ("gz",)),
    ("*.zst", ("zst",)),
    ("*.jsonl", ("lines", "jsonl")),
    ("*.tsv", ("lines", "table")),
    ("*.csv", ("lines", "table")),
    ("*", ("lines",)),
)


def kinds_of(file: Path) -> tuple[str, ...]:
    """What is in a file, by its name."""
    return next(kinds for pattern, kinds in _KINDS if fnmatch(file.name, pattern))


@dataclass(frozen=True)
class Mutator:
    """A way to change files of some kinds, and how often it is drawn."""

    name: str
    kinds: tuple[str, ...]
    change: Change
    weight: int = 1

    def fits(self, file: Path, named: bool) -> bool:
        """Whether it is for this file; `named`: the user names the file on the command line."""
        if self.name == "link":  # which of the user's own files leads where is the user's affair
            return not named
        return "*" in self.kinds or any(kind in self.kinds for kind in kinds_of(file))


def _bytes(file: Path, draw: random.Random) -> str:
    content = bytearray(file.read_bytes())
    how = draw.choice(("flip", "flips", "zeros", "high", "cut", "begin", "append", "insert", "length"))
    place = draw.randrange(len(content) + 1) if draw.random() < 0.6 else draw.randrange(min(64, len(content)) + 1)
    if how == "flip" and place < len(content):
        content[place] ^= 1 << draw.randrange(8)
    elif how == "flips":
        for _ in range(draw.randrange(2, 200)):
            if content:
                content[draw.randrange(len(content))] = draw.randrange(256)
    elif how in ("zeros", "high"):
        size = draw.choice((1, 2, 4, 8, 64, 1024))
        content[place : place + size] = (b"\0" if how == "zeros" else b"\xff") * len(content[place : place + size])
    elif how == "cut":
        del content[place:]
    elif how == "begin":
        del content[:place]
    elif how == "append":
        content += draw.choice((b"\0" * 4096, draw.randbytes(100), bytes(content), b"\n", b"PK\5\6" + b"\0" * 18))
    elif how == "insert":
        content[place:place] = draw.choice((b"\0", b"\xff\xfe", b"\x1b[31m", draw.randbytes(16), b"\r", b"\xf0\x9f"))
    else:
        number = draw.choice((2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1))
        packed = struct.pack("<Q", number)[: draw.choice((4, 8))]
        content[place : place + len(packed)] = packed
    file.write_bytes(content)
    return f"{how} at {place}"


def _file(file: Path, draw: random.Random) -> str:
    how = draw.choice(("empty", "gone", "folder", "swapped", "dangling", "loop", "unreadable"))
    if how == "swapped":
        others = sorted(path for path in file.parent.iterdir() if path.is_file() and path != file)
        if not others:
            how = "empty"
        else:
            other = draw.choice(others)
            file.write_bytes(other.read_bytes())
            return f"the content of {other.name}"
    if how == "unreadable":  # root reads it all the same
        file.chmod(0)
        return how
    file.unlink()
    if how == "empty":
        file.touch()
    elif how == "folder":
        file.mkdir()
        (file / "x").write_text("x")
    elif how in ("dangling", "loop"):
        file.symlink_to(file.name if how == "loop" else "nowhere")
    return how


def _link(file: Path, draw: random.Random) -> str:
    """A link to a file or a folder of the user's."""
    home = Path.cwd().parent.parent
    target = draw.choice(
        (home / "projects" / "private.key", home / "private.json", home / "notes", Path("/etc/passwd"))
    )
    if not target.exists():
        target = home / "projects" / "private.key"
    file.unlink()
    file.symlink_to(target)
    return f"a link to {target.name}"


MUTATORS = (
    Mutator("bytes", ("*",), _bytes, 3),
    Mutator("file", ("*",), _file),
    Mutator("link", ("*",), _link),
    Mutator("value", ("json",), change_value, 6),
    Mutator("whole", ("json",), change_all),
    Mutator("key", ("yaml",), change_key, 8),
    Mutator("code", ("yaml",), name_code, 6),
    Mutator("yaml", ("yaml",), odd_yaml, 6),
    Mutator("card", ("card",), odd_card, 3),
    Mutator("config", ("config",), odd_config, 6),
    Mutator("definition", ("tokenizer",), odd_tokenizer, 8),
    Mutator("modules", ("modules",), odd_modules, 6),
    Mutator("linked folder", ("modules",), link_inside, 2),
    Mutator("parts", ("index",), odd_index, 4),
    Mutator("info", ("store",), odd_store, 8),
    Mutator("tensors", ("safetensors",), odd_safetensors, 6),
    Mutator("pickle", ("pickle",), odd_pickle, 6),
    Mutator("state", ("checkpoint",), odd_checkpoint, 6),
    Mutator("arrays", ("npz",), odd_npz, 10),
    Mutator("array", ("npy",), odd_npy, 6),
    Mutator("schema", ("arrow",), odd_arrow, 8),
    Mutator("parquet", ("parquet",), odd_parquet, 8),
    Mutator("packed", ("gz",), odd_gz, 4),
    Mutator("packed", ("zst",), odd_zst, 4),
    Mutator("lines", ("lines",), odd_lines, 6),
    Mutator("row", ("jsonl",), odd_json_line, 6),
    Mutator("cell", ("table",), odd_cell, 6),
)
