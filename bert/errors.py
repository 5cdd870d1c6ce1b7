"""Errors that a user can fix: one line that names the cause and the fix. `bert.cli` prints it and exits with code 2."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from inspect import formatannotation
from numbers import Integral, Real
from reprlib import repr as shortened
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)
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
    """Raises InputError for a field of `config`, a group of a recipe (without a name: the recipe), with a value that does not fit. None is
    allowed if the type allows it. `names` are separated by spaces."""
    hints = _hints(type(config))
    for name in names.split():
        value = getattr(config, name)
        if not (right := _fits(value, hints[name])) or (value is not None and not fits(value)):
            raise InputError(f"{f'{group}.{name}'.lstrip('.')} is {value if right else repr(value)}: give {give}")


def require_positive(group: str, config: Any, names: str) -> None:
    """Raises InputError for a field of `config` that is zero or less."""
    require(group, config, names, lambda value: value > 0, "more than 0")


def check_values(value: Any, name: str, source: str = "") -> None:
    """Raises InputError for a number that is not finite or needs more than 64 bits, text that no file name can contain, and keys
    that are not text, anywhere in dataclasses, mappings and lists. `name` is the key of `value`, `source` a file and ": "."""
    value, hints = (vars(value), _hints(type(value))) if is_dataclass(value) else (value, {})
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{source}the key {key} of {name or 'a recipe'} is not text: put it in quotes")
            check_values(key, name, source)
            _check_type(inside := f"{name}.{key}" if name else key, item, hints.get(key, Any))
            check_values(item, inside, source)
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


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raises InputError for an argument of another type than its annotation: `check_arguments(score, locals())` begins a function."""
    for name, value in arguments.items():
        _check_type(name, value, _hints(function).get(name, Any))


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raises InputError for a value, called `name`, that does not have the type of an annotation."""
    if _fits(value, hint):
        return
    items = value if isinstance(value, list | tuple) and _fits([], hint) else ()
    wrong = [(f"{name}[{place}]", item) for place, item in enumerate(items) if not _fits([item], hint)]
    name, value = wrong[0] if wrong else (name, value)
    kinds = re.sub(r"[\w.]+\.", "", formatannotation(hint))
    raise InputError(f"{name} is {shortened(value)}; must be {kinds}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of an annotation. The items of an iterator are not looked at, which would use it up."""
    kind, inside = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in inside)
    if kind in (Sequence, Iterable, list):
        if isinstance(value, Iterator | str | bytes | Mapping | Set) or not isinstance(value, Iterable):
            return kind is Iterable and isinstance(value, Iterator)
        return all(_fits(one, inside[0]) for one in {type(one): one for one in value}.values())
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not (kind is int and isinstance(value, bool))
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


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

    A name without its group, or with another one, is nearest to the first one with the same end: `lr` to `optimizer.lr`. A name of up to
    four letters is near to one that begins with it or has nearly the same letters: `otu` is near to `out`, `foo` not to `for`.
    """
    names = list(known)
    group, end = _parts(name)
    near = [other for other in names if _parts(other)[1] == end]
    near = get_close_matches(name, near, 1, 0.0) if group else near
    in_group = [other for other in names if _parts(other)[0] == group]
    for pool, cutoff in ((in_group, 0.45 if group else 0.55), (names, 0.66)):
        ends = {_parts(other)[1]: other for other in reversed(pool)}
        near = near or [ends[one] for one in get_close_matches(end, ends, 1, cutoff) if _is_near(end, one)]
    return f" Did you mean `{near[0]}`?" if near else ""


def _parts(name: str) -> tuple[str, str]:
    """The group and the end of a name, in lower case: `--optimizer.lr` → optimizer, lr."""
    group, _, end = name.lower().lstrip("-").rpartition(".")
    return group, end


def _is_near(name: str, other: str) -> bool:
    short, long = sorted((name, other), key=len)
    return len(short) > 4 or long.startswith(short) or (Counter(short) <= Counter(long) and len(long) - len(short) <= 2)
