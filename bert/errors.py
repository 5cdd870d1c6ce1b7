"""Errors that a user can fix: one line that names the cause and the fix. `bert.cli` prints it and exits with code 2."""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args, get_type_hints

_OPTION = re.compile("\x0e([^\x0f]*)\x0f")


class InputError(ValueError):
    """An error in a file, a recipe key or a value of the user. One line: where, what, and the fix.

    `option` marks the parameters in the line, so that the command line can print its flags instead."""

    def __str__(self) -> str:
        return self.message()

    def message(self, spelled: Callable[[str], str] = "`{}`".format) -> str:
        """The line, with each marked parameter as `spelled` prints it; by default its name."""
        return _OPTION.sub(lambda found: spelled(found[1]), super().__str__())


def option(name: str) -> str:
    """A parameter or field in the message of an InputError: shown as its name in Python, as its flag on the command line."""
    return f"\x0e{name}\x0f"


class RankError(InputError):
    """An InputError of a single rank, which prints it; any other is printed by rank 0 alone."""


class InterruptedRun(Exception):
    """A run that was stopped by a signal and saved, and can be resumed."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def check_seed(seed: int, bits: int = 32) -> None:
    """Raises InputError for a seed that NumPy and scikit-learn (32 bits) or PyTorch (63) would refuse."""
    if not 0 <= seed < 2**bits:
        raise InputError(f"seed is {seed}: give a whole number from 0 to below 2^{bits}")


def require(group: str, config: Any, names: str, fits: Callable[[Any], bool], give: str) -> None:
    """Raises InputError for a field of `config`, a group of a recipe, with a value that does not fit. None is allowed if the type
    allows it. `names` are separated by spaces."""
    hints = get_type_hints(type(config))
    for name in names.split():
        value = getattr(config, name)
        if not (NoneType in get_args(hints[name]) if value is None else fits(value)):
            raise InputError(f"{group}.{name} is {value}: give {give}")


def require_positive(group: str, config: Any, names: str) -> None:
    """Raises InputError for a field of `config` that is zero or less."""
    require(group, config, names, lambda value: value > 0, "more than 0")


def check_values(value: Any, name: str, source: str = "") -> None:
    """Raises InputError for a number that is not finite or needs more than 64 bits, text that no file name can contain, and keys
    that are not text, anywhere in dataclasses, mappings and lists. `name` is the key of `value`, `source` a file and ": "."""
    value = vars(value) if is_dataclass(value) else value
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{source}the key {key} of {name or 'a recipe'} is not text: put it in quotes")
            check_values(key, name, source)
            check_values(item, f"{name}.{key}" if name else key, source)
    elif isinstance(value, list | tuple):
        for item in value:
            check_values(item, name, source)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{source}{name} is {value}: give a finite number")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(f"{source}{name} is a number of {value.bit_length()} bits: give one of at most 64")
    elif isinstance(value, str) and re.search("[\0\ud800-\udc7f\udd00-\udfff]", value):
        raise InputError(f"{source}{name} has a character that no file name can have: remove it")
    elif source and value is not None and not isinstance(value, str | int | float):
        raise InputError(f"{source}{name} is a {type(value).__name__}: put it in quotes")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def accessing(path: object, how: str, fix: str) -> Iterator[None]:
    """Turns an OSError into an InputError: `path` cannot be `how` ("read" or "written"), with the fix."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be {how} ({error.strerror or error}); {fix}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean `x`?' with the known name nearest to `name`, or an empty string if none is near.

    A name without its group, or with another one, is nearest to the first one with the same end: `lr` to `optimizer.lr`.
    """
    names = list(known)
    same_end = [other for other in names if _end(other) == _end(name)]
    near = get_close_matches(name, same_end or names, n=1, cutoff=0.0 if same_end else 0.5)
    if same_end and "." not in name.lstrip("-"):
        near = same_end[:1]  # without a group, the first one
    return f" Did you mean `{near[0]}`?" if near else ""


def _end(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-")
