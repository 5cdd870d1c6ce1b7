"""YAML and flags → typed dataclasses, and back: every field of a recipe is a key of a YAML file and a flag `--group.field`.

jsonargparse does the parsing; it is imported when a command is parsed, so that recipes can be made and written without it.
"""

import dataclasses
import os
import re
import typing
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bert.errors import InputError, check_values, did_you_mean
from bert.files import replaced
from bert.untrusted import parse_yaml, read_yaml_text

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    Free = Any
else:

    class Free:
        """Any value of YAML, as it stands. Where jsonargparse sees `Any`, it imports what a class_path names."""


_LONGEST_MESSAGE, _LONGEST_WORD = 5000, 100
_PLAIN = (str, int, float, dict, list, tuple, type(None))


def make_parser(prog: str, description: str) -> "ArgumentParser":
    """A parser whose help texts come from the docstrings under the fields."""
    from jsonargparse import ArgumentParser, set_parsing_settings
    from jsonargparse.typing import register_type

    # What a free mapping holds stays as it is: a recipe is data, and objects for the Trainer are made by `training.trainer`.
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    register_type(Free, lambda value: value, _as_it_stands, type_check=lambda value, kind: False)
    return ArgumentParser(prog=prog, description=description, exit_on_error=False)


def add_recipe(parser: "ArgumentParser", recipe: type) -> None:
    """Give `parser` a flag for every field of the dataclass `recipe`, and --config for a YAML file of them."""
    parser.add_argument("--config", action="config", help="recipe: a YAML file of the fields below")
    parser.add_class_arguments(recipe, None, sub_configs=True)


def parse(parser: "ArgumentParser", arguments: Sequence[str], recipe: type | None = None) -> "Namespace":
    """Parse a command line. InputError, in one line, for what is unknown (with the nearest known name) or of the wrong type."""
    known = {option for action in parser._actions for option in action.option_strings}
    files = values_of(arguments, "--config") if recipe is not None else []
    for file in files:
        assert recipe is not None
        check_keys(read_yaml(file), recipe, file)
    for group in dataclasses.fields(recipe) if recipe is not None else ():
        for given in values_of(arguments, f"--{group.name}"):
            content = read_yaml(given) if os.path.isfile(given) else _as_it_stands(given)
            if dataclasses.is_dataclass(group.default_factory):
                if not isinstance(content, dict):  # a name: jsonargparse would import it
                    raise InputError(f"{group.name} is {given}: give its fields, or a YAML file of them")
                check_keys(content, group.default_factory, given, f"{group.name}.")
    for argument in arguments:
        option = argument.partition("=")[0]
        if option.startswith("--") and option != "--" and option not in known and not option.startswith("--trainer."):
            raise InputError(f"{option} is not an option of {parser.prog}.{did_you_mean(option, known)}")
    try:
        options = parser.parse_args(list(arguments))
    except InputError:
        raise
    except Exception as error:  # what is wrong with values is told in many ways
        message = _one_line(str(error)[:_LONGEST_MESSAGE], parser.prog, known)
        item = re.match(r"([\w.]+): Unexpected keys: {'(\w+)'", message)
        if item and recipe is not None:  # in a list of mappings
            name = f"{item[1]}.{item[2]}"
            possible = [key for key in _names(recipe) if key.startswith(f"{item[1]}.")]
            message = f"{item[1]} is a list with the unknown key `{name}`.{did_you_mean(name, possible)}"
        key = message.split(" is ")[0]
        guilty = [file for file in files if key in dict(_leaves(read_yaml(file)))]
        if guilty and not values_of(arguments, f"--{key}"):
            message = f"{guilty[-1]}: {message}"
        raise InputError(message) from error
    if recipe is not None:
        _check_nulls(options, recipe)
    for name, value in options.as_dict().items():
        check_values(value, f"--{name.replace('_', '-')}")
    return options


def _check_nulls(values: Any, recipe: type, prefix: str = "") -> None:
    """InputError for null where a field of `recipe` is never null; jsonargparse takes it for any."""
    hints = typing.get_type_hints(recipe)
    for field in dataclasses.fields(recipe):
        name, value = f"{prefix}{field.name}", values[field.name]
        if value is None and type(None) not in typing.get_args(hints[field.name]):
            raise InputError(f"{name} is null: give a value, or leave it out")
        if dataclasses.is_dataclass(field.default_factory):
            _check_nulls(value, field.default_factory, f"{name}.")


def _as_it_stands(value: Any) -> Any:
    """The value that a text means as YAML; any other value is itself."""
    with suppress(yaml.YAMLError, ValueError):
        return parse_yaml(value) if isinstance(value, str) else value
    return value


def values_of(arguments: Sequence[str], option: str) -> list[str]:
    """The values of an option, one for each time it is given, before anything is parsed."""
    following = [value for argument, value in pairwise(arguments) if argument == option]
    return following + [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{option}=")]


def build(recipe: type, values: Any) -> Any:
    """The dataclass `recipe` from parsed values (a mapping or a Namespace with the same names)."""
    return recipe(**{field.name: _mapping(values[field.name]) for field in dataclasses.fields(recipe)})


def _mapping(value: Any) -> Any:
    """Free mappings as plain dictionaries, whatever the parser made of what they describe."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _mapping(item) for key, item in value.items()}
    return [_mapping(item) for item in value] if isinstance(value, list) else value


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. InputError where there is none."""
    try:
        content = parse_yaml(read_yaml_text(Path(file)))
    except FileNotFoundError:
        raise InputError(f"{file}: no such recipe: give the path of a YAML file") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f"{file}, line {line + 1}" if line is not None else str(file)
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise InputError(f"{where}: not valid YAML ({problem}): mend this line") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: a recipe is `key: value` lines, this file is not")
    check_values(content, "", f"{file}: ")
    return content


def write_yaml(recipe: Any, file: Path, header: str = "") -> None:
    """Write a recipe with all its fields, so that the file alone repeats the run. The file is replaced whole."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    text = comment + yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True)
    with replaced(file) as partial:
        partial.write_text(text, encoding="utf-8")


def check_keys(values: dict[str, Any], recipe: type, source: str, prefix: str = "") -> None:
    """InputError for a key that `recipe` does not have, naming the nearest one that it has. Free mappings are not looked into."""
    fields, hints = {field.name: field for field in dataclasses.fields(recipe)}, typing.get_type_hints(recipe)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            known = list(_names(recipe)) if not prefix else [f"{prefix}{field}" for field in fields]
            raise InputError(f"{source}: unknown key `{name}`.{did_you_mean(name, known)}")
        hint, group = hints[key], fields[key].default_factory
        if (
            typing.get_origin(hint) is dict
            or str not in (hint, *typing.get_args(hint))
            or (hint == list[str] and isinstance(value, str))
        ):
            _check_short(value, f"{source}: {name}")
        if not dataclasses.is_dataclass(group) and group is not dict:
            continue
        if not isinstance(value, dict):
            raise InputError(
                f"{source}: `{name}` is a group: give `key: value` lines below it or leave it out, not {value}"
            )
        if dataclasses.is_dataclass(group):
            check_keys(value, group, source, f"{name}.")


def _check_short(value: Any, name: str) -> None:
    """InputError for a long text where none is due: jsonargparse reads it as YAML once more, without any limits."""
    if isinstance(value, str) and len(value) > _LONGEST_WORD:
        raise InputError(f"{name} is a text of {len(value):,} characters: give a number or a word")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_short(item, name)


def differences(before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """(key, value before, value after) for every field in which two recipes of one type differ, keys as in flags."""
    flat_before, flat_after = dict(_leaves(_plain(before))), dict(_leaves(_plain(after)))
    for key in sorted(flat_before.keys() | flat_after.keys()):
        if flat_before.get(key) != flat_after.get(key):
            yield key, flat_before.get(key), flat_after.get(key)


def _names(recipe: type) -> Iterator[str]:
    hints = typing.get_type_hints(recipe)
    for field in dataclasses.fields(recipe):
        yield field.name
        for item in typing.get_args(hints[field.name]):
            if typing.is_typeddict(item):
                yield from (f"{field.name}.{key}" for key in typing.get_type_hints(item))
        if dataclasses.is_dataclass(field.default_factory):
            yield from (f"{field.name}.{inner.name}" for inner in dataclasses.fields(field.default_factory))


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
    """What YAML can hold of a recipe: tuples become lists, and objects for the Trainer, which no file can make again, are left out."""
    if dataclasses.is_dataclass(value):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if isinstance(item, _PLAIN)}
    return [_plain(item) for item in value if isinstance(item, _PLAIN)] if isinstance(value, list | tuple) else value


def _one_line(message: str, prog: str, options: Container[str]) -> str:
    """jsonargparse's message in one line and in our words: `key is value: give what is expected`."""
    message = re.sub(r"<class '(\w+)'>", r"\1", re.sub(r"\s+", " ", message).strip())
    if absent := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = [f"--{name}" if f"--{name}" in options else name.upper() for name in absent[1].split(", ")]
        return f"{prog} needs {' and '.join(names)}: give {'it' if len(names) == 1 else 'them'}, or read {prog} --help"
    if bare := re.fullmatch(r"argument ([\w./-]+): expected (?:one|at least one) argument", message):
        return f"{bare[1]} has no value: write one behind it"
    message = re.sub(r'^Parser key "([^"]+)": ', r"\1: ", message)
    no_file = re.match(r"([\w.]+): Unable to load config '([^']*)'", message)
    if no_file:
        return f"{no_file[1]} is {no_file[2]}: give its fields, or a YAML file of them"
    wrong = re.fullmatch(r"([\w.]+): (.*?)\.? (?:Got|Given) value(?: type: \w+ Given value)?: (.*)", message)
    kinds = re.findall(r"Expected an? (\S*\[[^\]]*\]|\w+(?: with \d+ elements)?)", wrong[2]) if wrong else []
    return f"{wrong[1]} is {wrong[3]}: give {' or '.join(map(_in_words, kinds))}" if wrong and kinds else message


def _in_words(kind: str) -> str:
    """`typing.Literal['a', 'b']` → one of a, b; `int` → a whole number."""
    if "Literal[" in kind:
        return "one of " + ", ".join(re.findall("'([^']*)'", kind))
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "null", "str": "text"}
    return words.get(kind, "a list" + kind[5:] if kind.startswith("tuple") else f"a {kind}")
