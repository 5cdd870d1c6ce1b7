"""Finished cells of a measurement, a line of JSON each: what is there is not measured again, so that an interruption costs a cell."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bert.errors import InputError
from bert.files import replaced
from bert.model.tuning import FAILURES

CELLS = "cells.jsonl"
OUT_OF_MEMORY = "out of memory"
Value = dict[str, Any]


class Cells:
    """The cells of one measurement, in `folder`, or in memory alone where there is none.

    `what` names everything that a figure depends on beside its key. InputError where the folder holds cells of something else.
    """

    def __init__(self, folder: Path | None, what: Mapping[str, Any]) -> None:
        self.file = None if folder is None else folder / CELLS
        self._cells: dict[str, dict[str, Value]] = {}
        head = json.loads(json.dumps({"what": what}))
        if self.file is None:
            return
        if self.file.exists():
            lines = list(_whole_lines(self.file))
            if len(lines) > 1 and lines[0] != head:  # what failed before its first figure is in nobody's way
                raise InputError(f"{self.file}: figures of another measurement: give another --out, or remove the file")
            # what failed is tried again: memory may be free now, or a package there
            self._cells = {_key(line["key"]): line for line in lines[1:] if "fails" not in line["value"]}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with replaced(self.file) as partial:
                whole = [json.dumps(line) + "\n" for line in (head, *self._cells.values())]
                partial.write_text("".join(whole), encoding="utf-8")
        except OSError as error:
            said = error.strerror or error
            raise InputError(f"{self.file}: cannot be written ({said}): give another --out") from None

    def measured(self, key: Mapping[str, Any], measure: Callable[[], Value]) -> Value:
        """The cell of this key: as it stands there, or measured now and written down at once."""
        name = _key(key)
        if name not in self._cells:
            self._cells[name] = json.loads(json.dumps({"key": key, "value": measure()}))
            if self.file is not None:
                with self.file.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(self._cells[name]) + "\n")
        return self._cells[name]["value"]

    def __iter__(self) -> Iterator[Value]:
        """All cells, each with its key in it, in the order in which they were measured."""
        return (cell["key"] | cell["value"] for cell in self._cells.values())

    def ran(self, what: str) -> list[Value]:
        """The cells of a kind that have figures."""
        return [cell for cell in self if cell["what"] == what and "fails" not in cell]


def attempt(measure: Callable[[], Value], side: str = "", fatal: tuple[type[Exception], ...] = ()) -> Value:
    """What `measure` finds; or the cell of what does not run: what went wrong, short, and whose fault it is, a `side` of two. What
    is `fatal` is raised."""
    try:
        return measure()
    except fatal:
        raise
    except (*FAILURES, ImportError, OSError) as error:
        lines = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
        return {"fails": OUT_OF_MEMORY if is_out_of_memory(error) else said} | ({"side": side} if side else {})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was used up: of a GPU, or as PyTorch's allocators of a CPU say it."""
    said = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in said)


def _key(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of the file; one that a kill has cut short is left out."""
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
