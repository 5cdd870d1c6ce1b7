"""What `tokenizers`, which is written in Rust, does in its own way: panics, bare exceptions, and lines on standard error."""

import base64
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRIAL = f"a Test, 1+1 = été\n[MASK] 苹果 ꙮ𐎠😀\u200b {'a' * 40}! {'1' * 40}.{' ' * 40}x"
"""text of many kinds, with what makes patterns backtrack"""
_MOST_EXPANSION = 10_000  # characters that the steps of a tokenizer may make of one


def is_of_rust(error: BaseException) -> bool:
    """Whether `tokenizers` raised it: a bare Exception, or a panic, which is none."""
    return type(error) is Exception or type(error).__module__ == "pyo3_runtime"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_expansion(definition: Any) -> None:
    """ValueError where the steps of a tokenizer may make a text many thousand times as long."""
    waiting = [definition.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")]
    times = 1
    while waiting:
        if isinstance(step := waiting.pop(), dict):
            waiting += [inner for value in step.values() if isinstance(value, list) for inner in value]
            longest = [len(value) for key in ("content", "prepend") if isinstance(value := step.get(key), str)]
            _check_charsmap(step.get("precompiled_charsmap"))
            times *= max([1 + (step.get("type") == "ByteLevel"), *longest])
    if times > _MOST_EXPANSION:
        raise ValueError(f"its steps may make {times:,} characters of one")


def _check_charsmap(encoded: Any) -> None:
    """ValueError where the table of a normalizer says of itself that it is larger than it is: its four first bytes are its size."""
    if isinstance(encoded, str):
        table = base64.b64decode(encoded)
        if len(table) >= 4 and int.from_bytes(table[:4], "little") > len(table) - 4:
            raise ValueError("its precompiled_charsmap is cut off")


@contextmanager
def rust_silent() -> Iterator[None]:
    """Nothing reaches standard error: a panic is printed there before it becomes an exception."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
