"""YAML → typed dataclasses, and back: every field of a recipe is a key of a YAML file, and by `bert.flags` a flag.

A recipe is untrusted: it is plain data, and nothing is imported or called because a recipe names it. pydantic checks the types; it is
imported when a recipe is loaded, so that recipes can be made and written without it.
"""

import dataclasses
import json
import os
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from bert.errors import InputError, check_values, did_you_mean
from bert.files import replace_text
from bert.untrusted import dump_yaml, parse_yaml, read_yaml_text

_HERE = Path(__file__).parent
_RECIPES = next(filter(Path.is_dir, (_HERE / "recipes", _HERE.parent / "recipes")), _HERE)
"""in the installed package, or beside it in a clone"""
_LONGEST_WORD = 100
_PLAIN = (str, int, float, dict, list, tuple, type(None))
_IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}
_IN_WORDS |= {type(None): "null"}

Fields = dict[tuple[str, ...], tuple[Any, str]]
"""the given fields of a recipe: path, such as ("data", "corpus") → value and the file that it comes from, or an empty string"""


def fields_of(kind: Any, values: dict[str, Any], source: str = "", path: tuple[str, ...] = ()) -> Fields:
    """The fields given by a mapping, with the groups of `kind` split into their fields. Raises InputError if a group is not a mapping."""
    found: Fields = {}
    for key, value in values.items():
        hint, here = hints_of(kind).get(key), (*path, key)
        if is_group(hint) and not isinstance(value, dict):
            fix = "give `key: value` lines below it or leave it out"
            raise InputError(f"{source or f'--{here[0]}'}: `{'.'.join(here)}` is a group: {fix}, not {value}")
        found |= fields_of(hint, value, source, here) if is_dataclass(hint) else {here: (value, source)}
    return found


def load(kind: type, given: Fields, spelling: dict[str, str] | None = None) -> Any:
    """The dataclass `kind` with the given values, which are plain: what YAML or JSON can hold.

    Numbers, text and booleans are never converted into one another, except a whole number to a float. Raises InputError, in one line,
    for an unknown key, naming the nearest known one, and for a value of the wrong type. `spelling`: names of the fields in messages,
    for the options of a command.
    """
    from pydantic import TypeAdapter, ValidationError

    values: dict[str, Any] = {}
    for (*groups, field), (value, _) in given.items():
        reduce(lambda inside, group: inside.setdefault(group, {}), groups, values)[field] = value
    # A list, because a dataclass takes its configuration from the type around it.
    adapter = TypeAdapter(list[kind], config={"extra": "forbid"})  # type: ignore[valid-type]
    # Strict validation accepts lists for tuples and mappings for dataclasses in JSON only. JSON cannot hold file names that are not
    # UTF-8, so the values themselves come from a second validation, of types that are known to be right.
    text = json.dumps([values], ensure_ascii=False).encode("utf-8", "replace")
    try:
        adapter.validate_json(text, strict=True)
        return adapter.validate_python([values])[0]
    except ValidationError as found:
        errors = found.errors(include_url=False)
    # An unknown key comes first: it explains the other errors.
    error = min(errors, key=lambda error: error["type"] != "unexpected_keyword_argument")
    if isinstance(ours := error.get("ctx", {}).get("error"), InputError):
        raise ours  # from a __post_init__
    path: tuple[Any, ...] = error["loc"][1:]
    name = ".".join(part for part in path if isinstance(part, str))
    source = next((given[start][1] for size in (2, 1) if (start := path[:size]) in given), "")
    if error["type"] == "unexpected_keyword_argument":
        known = [key for key in _names(kind) if key.startswith(name[: name.rfind(".") + 1])]
        raise InputError(f"{source or f'--{path[0]}'}: unknown key `{name}`.{did_you_mean(name, known)}")
    hint: Any = kind
    for place, part in enumerate(path[:-1] if error["type"] == "missing" else path):  # in a tuple that is too short
        if len(kinds_of(hint)) > 2:  # pydantic names one of several types
            name = ".".join(map(str, path[:place]))
            break
        hint = hints_of(hint)[part] if is_dataclass(hint) else get_args(hint)[-1]  # type: ignore[arg-type]
    told = spelling[name] if spelling else f"{source}: {name} is" if source else f"{name} is"
    words = [word for one in kinds_of(hint) if get_origin(one) is Literal for word in get_args(one)]
    near, value = did_you_mean(str(error["input"]), words), shown(error["input"])
    example = f", as [{value}]" if get_origin(hint) is list and isinstance(error["input"], str) else ""
    raise InputError(f"{told} {value}: give {in_words(hint)}{example}{'.' if near else ''}{near}")


def find(name: str, folder: str) -> str:
    """The path `name`, or that of the recipe of this name in a folder of the recipes that come with the package: pretrain, finetune,
    probe or model. Raises InputError, naming the recipes, if there is neither."""
    known = {file.stem: str(file) for file in sorted(_RECIPES.glob(f"{folder}/*.yaml"))}
    if name in known and not os.path.isfile(name):
        return known[name]
    near = did_you_mean(Path(name).stem, known)
    if os.path.exists(name) or (Path(name).suffix and not near):
        return name
    others = [file.parent.name for file in _RECIPES.glob("*/*.yaml") if file.stem == name]
    known_for = f"; {name} is one for {others[0]}" if others and not near else ""
    names = f"give the path of a YAML file, or one of {', '.join(known)}"
    raise InputError(f"{name}: no such recipe: {names}{known_for}.{near}")


def read_recipe(file: Path, recipe: type) -> Any:
    """The recipe of type `recipe` in a YAML file."""
    return load(recipe, fields_of(recipe, read_yaml(file), str(file)))


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InputError if there is none."""
    try:
        content = parse_yaml(read_yaml_text(Path(file)))
    except FileNotFoundError:
        raise InputError(f"{file}: no such recipe: give the path of a YAML file") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f"{file}, line {line + 1}" if line is not None else str(file)
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise InputError(f"{where}: not valid YAML ({problem}): fix this line") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a recipe: write `key: value` lines")
    check_values(content, "", f"{file}: ")
    return content


def write_yaml(recipe: Any, file: Path, header: str = "") -> None:
    """Write a recipe with all its fields, so that the file alone reproduces the run. The file is replaced atomically."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    replace_text(file, comment + as_text(recipe))


def as_text(recipe: Any) -> str:
    """A recipe with all its fields as YAML."""
    return dump_yaml(_plain(recipe))


def differences(before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """(key, value before, value after) of every field in which two recipes of one type differ; keys as in flags."""
    flat_before, flat_after = dict(_leaves(_plain(before))), dict(_leaves(_plain(after)))
    for key in sorted(flat_before.keys() | flat_after.keys()):
        if flat_before.get(key) != flat_after.get(key):
            yield key, flat_before.get(key), flat_after.get(key)


def is_group(hint: Any) -> bool:
    """Whether a field holds `key: value` lines: a dataclass or a mapping."""
    return is_dataclass(hint) or get_origin(hint) is dict


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """The types of the fields of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def shown(value: Any) -> str:
    """A value as quoted in a message; text is in quotes if YAML would read it as something else."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if len(value) > _LONGEST_WORD:
        return f"a text of {len(value):,} characters"
    return value if isinstance(as_yaml(value), str) else f'"{value}"'


def as_yaml(text: str) -> Any:
    """The value of a text as YAML; the text itself if it is not YAML."""
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError):
        return text


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """`int | None` → int, None; `int` → int."""
    return get_args(hint) if type(None) in get_args(hint) else (hint,)


def in_words(hint: Any) -> str:
    """The values of a type in words: `Literal["a", "b"]` → one of a, b; `int | None` → a whole number or null."""
    if len(kinds := kinds_of(hint)) > 1:
        return " or ".join(map(in_words, kinds))
    kind, inside = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(inside)}" if len(inside) > 1 else inside[0]
    return f"a list with {len(inside)} elements" if kind is tuple else _IN_WORDS.get(kind, "`key: value` lines")


def _names(kind: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a recipe, including those of its groups and of the mappings in its lists; as in flags."""
    for key, hint in hints_of(kind).items():
        yield f"{prefix}{key}"
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner):
                yield from _names(inner, f"{prefix}{key}.")


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
    """A recipe as YAML can hold it: tuples become lists; objects for the Trainer, which a file cannot describe, are left out."""
    if is_dataclass(value):
        fields = vars(value).items()
        return {name: [*map(_plain, one)] if isinstance(one, list | tuple) else _plain(one) for name, one in fields}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if isinstance(item, _PLAIN)}
    return [_plain(item) for item in value if isinstance(item, _PLAIN)] if isinstance(value, list | tuple) else value
