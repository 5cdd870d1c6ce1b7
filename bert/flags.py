"""The command line of a command by argparse: its options, and one flag for every field of a recipe: `--group.field`, or an option of
the command in its place.

Help texts are the docstrings under the fields. A flag's value is read as YAML, or as it stands where the field takes text.
"""

import argparse
import ast
import inspect
import os
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, is_dataclass, make_dataclass
from functools import cache
from itertools import pairwise, takewhile
from keyword import iskeyword
from typing import Any, ClassVar, Literal, NoReturn, get_args, get_origin

from bert.errors import InputError, check_values, did_you_mean
from bert.recipe import (
    Fields,
    as_text,
    as_yaml,
    fields_of,
    hints_of,
    in_words,
    is_group,
    kinds_of,
    load,
    read_yaml,
    shown,
)

_CONFIG = "config"


def command_name(command: Callable[..., Any]) -> str:
    """`_fill` carries out `bert fill`."""
    return command.__name__.lstrip("_")


def first_line(command: Callable[..., Any]) -> str:
    """What a command does, in a line."""
    return (command.__doc__ or "").splitlines()[0]


@dataclass(frozen=True)
class _Option:
    """What is known of an option of a command beside its help."""

    name: str
    kind: Any
    default: Any
    required: bool
    same_as: str
    at_least: int | None


def flag_of(name: str) -> str:
    """How the command line that was parsed last writes a parameter or field."""
    return Parser.latest.flag_of(name) if Parser.latest is not None else f"`{name}`"


class Parser(argparse.ArgumentParser):
    """The command line of `command`, whose docstring is its description; with the type of a recipe, a flag for each of its fields."""

    latest: "ClassVar[Parser | None]" = None
    """the one that parsed last: its flags are those that an error names"""

    def __init__(self, command: Callable[..., Any], recipe: type | None = None, usage: str | None = None):
        description = " ".join((command.__doc__ or "").split())
        super().__init__(f"bert {command_name(command)}", usage, description, allow_abbrev=False, exit_on_error=False)
        self.recipe_type = recipe
        self.known = {"-h", "--help"}
        self.options: dict[str, _Option] = {}
        self.hints: dict[str, Any] = {}  # of the fields of the recipe that have a flag
        if recipe is not None:
            self._add_flag(self, _CONFIG, str, "recipe: a YAML file of the fields below", "FILE")
            self.add(
                "--print-config", "print the recipe that files and flags make, with all its fields, and stop", bool
            )

    def add(
        self,
        name: str,
        help: str = "",
        kind: Any = str,
        default: Any = None,
        *,
        required: bool | None = None,
        metavar: str | None = None,
        same_as: str = "",
        at_least: int | None = None,
    ) -> None:
        """Add an option of the command, or an argument without dashes, which is required unless told otherwise.

        A `kind` of bool is an option without a value, a list one with several. `same_as` names the field of the recipe that is given
        by this option, and by no other flag, and tells its help where there is no `help`; its value is taken after every file and flag.
        """
        is_option, is_list, word = name.startswith("-"), get_origin(kind) is list, name.lstrip("-").replace("-", "_")
        required = not is_option if required is None else required
        help = help or self._text_of(same_as)
        dest = word + "_" * iskeyword(word)
        if get_origin(kind) is Literal:
            help += f"; {in_words(kind)}"
        if default not in (None, ""):
            help += f" (default: {' '.join(map(str, default)) if is_list else default})"
        settings: dict[str, Any] = {"help": help.replace("%", "%%"), "default": argparse.SUPPRESS}
        if kind is bool:
            settings |= {"action": "store_true"}
        else:
            several, one = ("+", None) if required or is_option else ("*", "?")
            settings |= {"nargs": several if is_list else one, "metavar": metavar or word.upper()}
        if is_option:
            settings |= {"dest": dest, "required": required}
        self.add_argument(name if is_option else dest, **settings)
        default = False if kind is bool else [] if is_list and default is None else default
        self.known.add(name)
        self.options[dest] = _Option(name if is_option else name.upper(), kind, default, required, same_as, at_least)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options of the command. InputError, in one line, for what is unknown (with the nearest known name), absent or wrong."""
        Parser.latest = self
        self._complete()
        for argument in takewhile("--".__ne__, arguments):
            option = argument.partition("=")[0]
            if option.startswith("--trainer.") and "trainer" in self.hints and option not in self.known:
                self._add_flag(self, option[2:], Any, argparse.SUPPRESS)
            if option.startswith("--") and option not in self.known:
                raise InputError(f"{option} is not an option of {self.prog}.{did_you_mean(option, self.known)}")
        found = argparse.Namespace(given=[])
        try:
            _, unknown = self.parse_known_args(arguments, found)
        except argparse.ArgumentError as error:
            if (name := error.argument_name) is None:
                absent = [one.name for dest, one in self.options.items() if one.required and dest not in found]
                them = "it" if len(absent) == 1 else "them"
                needs = f"{self.prog} needs {' and '.join(absent)}"
                raise InputError(f"{needs}: give {them}, or read {self.prog} --help") from None
            if any(argument.startswith(f"{name}=") for argument in arguments):
                raise InputError(f"{name} takes no value: leave out what follows it") from None
            raise InputError(f"{name} has no value: write one after it") from None
        if unknown:
            raise InputError(f"{unknown[0]} is not an argument of {self.prog}: leave it out")
        kinds, values = [], Fields()
        for dest, one in self.options.items():
            if (given := getattr(found, dest, None)) is not None:
                is_list = isinstance(given, list)
                value = [_read(item, *get_args(one.kind)) for item in given] if is_list else _read(given, one.kind)
                check_values(value, one.name)
                values[dest,] = value, ""
                kinds.append((dest, one.kind))
        spelling = {dest: one.name for dest, one in self.options.items()}
        options = vars(load(make_dataclass("Options", kinds), values, spelling))
        for dest, one in self.options.items():
            value = options.setdefault(dest, one.default)
            if one.at_least is not None and value is not None and value < one.at_least:
                raise InputError(f"{one.name} {value}: give {one.at_least} or more")
        return argparse.Namespace(**options, given=found.given)

    def recipe(self, options: argparse.Namespace, *files: str) -> Any:
        """The recipe that parsed options describe: `files`, then files and flags in their order, then options that stand for a field."""
        assert self.recipe_type is not None
        given: Fields = {}
        for name, text in [*((_CONFIG, file) for file in files), *options.given]:
            hint, path, source = self.hints[name], tuple(name.split(".", 1)), ""
            if name == _CONFIG:
                given |= fields_of(self.recipe_type, read_yaml(text), text)
                continue
            value = _read(text, hint)
            if is_group(hint) and os.path.isfile(text):
                value, source = read_yaml(text), text
            elif is_group(hint) and not isinstance(value, dict):
                raise InputError(f"{name} is {text}: give its fields, or a YAML file of them")
            check_values(value, name, "--")
            if name.startswith("trainer."):  # one argument beside those that are given
                path, value = ("trainer",), {**given.get(("trainer",), ({}, ""))[0], path[-1]: value}
            given |= fields_of(hint, value, source, path) if is_dataclass(hint) else {path: (value, source)}
        for dest, one in self.options.items():
            if one.same_as and (value := getattr(options, dest)):
                given[tuple(one.same_as.split("."))] = value, ""
        recipe = load(self.recipe_type, given)
        if options.print_config:
            print(as_text(recipe), end="")
            raise SystemExit
        return recipe

    def flag_of(self, name: str) -> str:
        """The flag that fills a parameter or field, such as `text_field` or `data.tokenizer`; its name where there is none."""
        given_by = {one.same_as: one.name for one in self.options.values() if one.same_as}
        flags = {f"--{name.replace('_', '-')}", f"--{name}"} & self.known
        flags |= {flag for field, flag in given_by.items() if field == name or field.endswith(f".{name}")}
        flags = flags or {flag for flag in self.known if flag.endswith(f".{name}")}
        return flags.pop() if len(flags) == 1 else f"`{name}`"

    def format_help(self) -> str:
        """What --help prints."""
        self._complete()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """What argparse calls where arguments are absent."""
        raise argparse.ArgumentError(None, message)

    def _text_of(self, field: str) -> str:
        group, _, key = field.rpartition(".")
        assert self.recipe_type is not None
        return documentation(hints_of(self.recipe_type)[group] if group else self.recipe_type)[key]

    def _complete(self) -> None:
        """Add the flags of the recipe, once every option is there."""
        if self.recipe_type is not None and len(self.hints) == 1:  # --config
            self._add_fields(self.recipe_type, {one.same_as for one in self.options.values()})

    def _add_fields(self, kind: type, given: Collection[str], name: str = "", text: str = "") -> None:
        """A flag for every field of a dataclass that no option gives: of a recipe, or of its group `name`, which may be given as a
        file too."""
        group = self.add_argument_group(f"{name}: {text}" if name else (kind.__doc__ or "").rstrip("."))
        if name:
            self._add_flag(group, name, kind, "a YAML file of these fields", "FILE")
        hints, texts, defaults = hints_of(kind), documentation(kind), kind()
        inner = [key for key, hint in hints.items() if is_dataclass(hint)]
        for key, hint in hints.items():
            if key not in inner and (path := f"{name}.{key}" if name else key) not in given:
                told = f"{texts.get(key, '')} ({in_words(hint)}; default: {shown(getattr(defaults, key))})"
                self._add_flag(group, path, hint, told)
        for key in inner:
            self._add_fields(hints[key], given, key, texts.get(key, ""))

    def _add_flag(self, group: Any, name: str, hint: Any, help: str, metavar: str = "VALUE") -> None:
        self.known.add(f"--{name}")
        self.hints[name] = hint
        settings = {"metavar": metavar, "help": help.replace("%", "%%")}
        # All flags and files go into one list, for their order counts.
        group.add_argument(f"--{name}", dest="given", action="append", type=lambda text: (name, text), **settings)


@cache
def documentation(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, those that it inherits included, in one line each."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = next(node.body for node in _classes(base.__module__) if node.name == base.__name__)
        for statement, below in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr):
                texts[ast.unparse(statement.target)] = " ".join(ast.literal_eval(below.value).split())
    return texts


@cache
def _classes(module: str) -> list[ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]


def _read(text: Any, hint: Any) -> Any:
    """The value that the text of a flag means: itself where `hint` takes text, save for null, and else what it is as YAML."""
    if not isinstance(text, str) or hint is str:
        return text
    value, kinds = as_yaml(text), kinds_of(hint)
    takes_text = any(kind is str or get_origin(kind) is Literal for kind in kinds)
    return text if takes_text and not (value is None and text and len(kinds) > 1) else value
