"""Finished results of a measurement, a line of JSON each: what is there is not measured again, so that an interruption costs one result."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bert.errors import InputError
from bert.files import replaced
from bert.model.tuning import FAILURES

RESULTS = "results.jsonl"
OUT_OF_MEMORY = "out of memory"
Value = dict[str, Any]


class Results:
    """The results of one measurement, in `folder`, or in memory alone where there is none.

    `fingerprint` names everything that a metric depends on beside its key. InputError where the folder holds results of something else.
    """

    def __init__(self, folder: Path | None, fingerprint: Mapping[str, Any]) -> None:
        self.folder = folder
        self._results: dict[str, dict[str, Value]] = {}
        if folder is None:
            return
        head, file = json.loads(json.dumps({"fingerprint": fingerprint})), folder / RESULTS
        lines = list(_whole_lines(file))
        if len(lines) > 1 and lines[0] != head:  # a measurement that failed before its first result is in nobody's way
            raise InputError(f"{file}: results of another measurement: give another --out, or remove the file")
        # what failed is tried again: memory may be free now, or a package there
        self._results = {_name(line["key"]): line for line in lines[1:] if "error" not in line["value"]}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replaced(file) as partial:
                whole = "".join(json.dumps(line) + "\n" for line in (head, *self._results.values()))
                partial.write_text(whole, encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{file}: cannot be written ({reason}): give another --out") from None

    def measured(self, key: Mapping[str, Any], measure: Callable[[], Value]) -> Value:
        """The result of this key: as it stands there, or measured now and written down at once."""
        name = _name(key)
        if name not in self._results:
            self._results[name] = json.loads(json.dumps({"key": key, "value": measure()}))
            if self.folder is not None:
                with (self.folder / RESULTS).open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(self._results[name]) + "\n")
        return self._results[name]["value"]

    def __iter__(self) -> Iterator[Value]:
        """All results, each with its key in it, in the order in which they were measured."""
        return (result["key"] | result["value"] for result in self._results.values())

    def of(self, kind: str, *, failed: bool = False) -> list[Value]:
        """The results of a kind; with `failed` also those that hold nothing but an error."""
        return [result for result in self if result["kind"] == kind and (failed or "error" not in result)]


def attempt(measure: Callable[[], Value], side: str = "", fatal: tuple[type[Exception], ...] = ()) -> Value:
    """What `measure` finds; or a short error where it does not run, with the `side` of a comparison that failed. What is `fatal` is
    raised."""
    try:
        return measure()
    except fatal:
        raise
    except (*FAILURES, ImportError, OSError) as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
        return {"error": OUT_OF_MEMORY if is_out_of_memory(error) else reason} | ({"side": side} if side else {})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was used up: of a GPU, or as PyTorch's allocators of a CPU say it."""
    reasons = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in reasons)


def _name(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of the file, if there is one; a line that a kill has cut short is left out."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return
