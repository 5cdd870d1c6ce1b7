"""Reading untrusted files with limits: JSON and YAML of bounded size and depth, arrays, and text that is safe on a terminal."""

import json
import math
import os
import re
import select
import stat
import zipfile
from collections.abc import Iterator, Sequence
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 1 << 27
"""limit of a JSON file: the largest published tokenizers have 35 MB"""
_MOST_YAML_BYTES = 1 << 20
_MOST_PACKED, _MOST_UNPACKED = 100, 1 << 28
"""limits of an unpacked .npz: bytes for each byte of the file, and bytes that are always allowed"""
_MOST_DEPTH = 64
_MOST_YAML_NODES = 100_000
_EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d+)[eE][-+]?\d+$")
_LONGEST_NUMBER = 100
_PATIENCE = 2.0
"""seconds to wait for the writer of a pipe, such as a recipe from `<(…)` in a shell"""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# control characters of C0 and C1 except tab and newline, which a terminal may execute
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises OSError if it cannot be read, and ValueError, with a short message, if it is not JSON in UTF-8, exceeds the limits of
    size or depth, or holds text that cannot be written again (lone surrogates).
    """
    value = parse_json(text := _text(file, MOST_BYTES))
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def parse_json(text: str) -> Any:
    """The content of JSON text. Raises ValueError if it is not JSON or nested too deeply."""
    try:
        value = json.loads(text)
    except (RecursionError, MemoryError):
        raise ValueError("nested too deeply, or larger than the memory") from None
    _check_depth(value, count())
    return value


def read_yaml_text(file: Path) -> str:
    """The text of a YAML file. Raises OSError and ValueError as `read_json` does."""
    return _text(file, _MOST_YAML_BYTES)


def read_arrays(file: Path, names: Sequence[str]) -> dict[str, "np.ndarray"]:
    """The arrays of an .npz that are named in `names`, only of numbers.

    Raises OSError if it cannot be read, and ValueError if it is not an .npz or an array does not have the size that it claims.
    """
    from numpy.lib import format as npy

    arrays, room = {}, max(_MOST_UNPACKED, _MOST_PACKED * file.stat().st_size)
    try:
        with zipfile.ZipFile(file) as archive:
            for name in set(names) & {member.removesuffix(".npy") for member in archive.namelist()}:
                info = archive.getinfo(f"{name}.npy")
                with archive.open(info) as content:
                    if npy.read_magic(content) != (1, 0):  # headers of other versions have any length
                        raise ValueError(f"{name} has another version")
                    shape, _, dtype = npy.read_array_header_1_0(content)
                    size, room = content.tell() + math.prod(shape) * dtype.itemsize, room - info.file_size
                    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or size != info.file_size or room < 0:
                        raise ValueError(f"{name} is not {shape} numbers of {dtype}, or larger than such a file can be")
                with archive.open(info) as content:
                    arrays[name] = npy.read_array(content, allow_pickle=False)
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many types for damaged files
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return arrays


def parse_yaml(text: str) -> Any:
    """The content of YAML text: plain values, never objects.

    Raises yaml.YAMLError if it is not YAML, or has a key twice; ValueError if it is nested too deeply, has a number of more than
    100 characters, or has aliases for more than 100,000 values.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_scalar(self, node: Any) -> Any:
            if node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
                raise ValueError(f"a number of {len(node.value):,} characters")
            return super().construct_scalar(node)

        def flatten_mapping(self, node: Any) -> None:  # of `<<`, which may double the values at each level
            seen: set[Any] = getattr(node, "seen", set())
            for key in [] if seen else [key for key, _ in node.value if key.id == "scalar"]:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"a second key {key.value}", key.start_mark)
                seen.add(key.value)
            node.seen = seen
            super().flatten_mapping(node)
            if len(node.value) > _MOST_YAML_NODES:
                raise ValueError("its aliases stand for too many values")

    if len(text) > _MOST_YAML_BYTES:
        raise ValueError(f"larger than {_MOST_YAML_BYTES:,} characters")
    Loader.yaml_implicit_resolvers = _yaml_resolvers()
    brackets = (1 if sign in "[{" else -1 for sign in text if sign in "[]{}")
    if max(accumulate(brackets), default=0) > 2 * _MOST_DEPTH:  # in the loader this takes seconds
        raise ValueError("nested too deeply")
    try:
        value = yaml.load(text, Loader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # `!!int ""`, a time before the year 1
        raise ValueError(f"a value does not match its tag ({error})") from None
    _check_depth(value, iter(range(_MOST_YAML_NODES)))
    return value


def dump_yaml(value: Any) -> str:
    """Plain values as YAML that `parse_yaml` reads as the same values: a text that it would take for a number, such as 0E0, is quoted."""
    import yaml

    class Dumper(yaml.SafeDumper):
        yaml_implicit_resolvers = _yaml_resolvers()

        def represent_str(self, text: str) -> yaml.ScalarNode:
            # Line breaks of Unicode survive in double quotes alone, as escapes.
            style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
            return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, Dumper.represent_str)

    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _yaml_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """What an unquoted scalar can mean, by its first character: as in YAML 1.1, but a number with an exponent needs no point."""
    import yaml

    known = yaml.SafeLoader.yaml_implicit_resolvers.items()
    return {first: [*kinds, ("tag:yaml.org,2002:float", _EXPONENT)] for first, kinds in known}


def printable(text: str) -> str:
    """`text` with a visible symbol for every control character except tab and newline, so that no terminal executes it."""
    return _CONTROL.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)


def _open_at_once(name: str, flags: int) -> int:
    """Open a file. Raises OSError for a pipe without a writer, which would block."""
    descriptor = os.open(name, flags | os.O_NONBLOCK)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and not select.select([descriptor], [], [], _PATIENCE)[0]:
        os.close(descriptor)
        raise OSError(f"{name}: a pipe without a writer")
    os.set_blocking(descriptor, True)
    return descriptor


def _text(file: Path, most: int) -> str:
    with open(file, "rb", opener=_open_at_once) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"larger than {most:,} bytes")
    return content.decode("utf-8")


def _check_depth(value: Any, nodes: Iterator[int], room: int = _MOST_DEPTH) -> None:
    """Raises ValueError for more than `room` levels of containers, and for more values than `nodes` has items; shared values are
    counted at each occurrence."""
    if isinstance(value, (dict, list, tuple, set)):
        if not room:
            raise ValueError("nested too deeply")
        for child in value.values() if isinstance(value, dict) else value:
            if next(nodes, None) is None:
                raise ValueError("its aliases stand for too many values")
            _check_depth(child, nodes, room - 1)
