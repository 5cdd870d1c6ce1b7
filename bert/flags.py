"""The command line of a command, by argparse: its options, and a flag for every field of a recipe: `--group.field`, or an option of
the command in its place.

Help texts are the docstrings under the fields. The value of a flag is read as YAML, or as plain text if the field is text.
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

from bert import recipe as recipes
from bert.errors import InputError, check_values, did_you_mean

DOCUMENTATION = "https://bert-kit.readthedocs.io/en/latest/"
_PATHS = ("FILE", "DIR", "RUN", "--out", "--model")  # what is never empty, by metavar or name
_CONFIG = "config"


def command_name(command: Callable[..., Any]) -> str:
    """`_fill` → `fill`, `_linear_probe` → `linear-probe`."""
    return command.__name__.lstrip("_").replace("_", "-")


def first_line(command: Callable[..., Any]) -> str:
    """The summary of a command."""
    return (command.__doc__ or "").splitlines()[0]


def examples(command: Callable[..., Any]) -> list[str]:
    """The lines of a command's docstring that begin with `$`, without it."""
    lines = map(str.strip, (command.__doc__ or "").splitlines())
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@dataclass(frozen=True)
class _Option:
    """An option of a command, without its help."""

    name: str
    kind: Any
    default: Any
    required: bool
    same_as: str
    at_least: int | None
    is_path: bool


def flag_of(name: str) -> str:
    """A parameter or field as the command line parsed last spells it."""
    return Parser.latest.flag_of(name) if Parser.latest is not None else f"`{name}`"


class Parser(argparse.ArgumentParser):
    """The command line of `command`, described by its docstring; given the type of a recipe, with a flag for each of its fields.
    `folder`: that of the package's recipes of this type."""

    latest: "ClassVar[Parser | None]" = None
    """the one that parsed last: an error names its flags"""

    def __init__(
        self,
        command: Callable[..., Any],
        recipe: type | None = None,
        usage: str | None = None,
        folder: str = "pretrain",
    ) -> None:
        description = " ".join((command.__doc__ or "").partition("$ ")[0].split())
        super().__init__(f"bert {command_name(command)}", usage, description, allow_abbrev=False, exit_on_error=False)
        self.command, self.recipe_type, self.folder = command, recipe, folder
        self.known = {"-h", "--help"}
        self.options: dict[str, _Option] = {}
        self.hints: dict[str, Any] = {}  # types of the recipe's fields that have a flag
        if recipe is not None:
            text = "recipe: a YAML file with the fields below, or the name of one of the package"
            self._add_flag(self, _CONFIG, str, text, "RECIPE")
            self.add("--print-config", "print the complete recipe that files and flags give, and exit", bool)

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
        repeated: bool = False,
    ) -> None:
        """Add an option, or a positional argument if `name` has no dashes; positional arguments are required by default.

        An option of `kind` bool takes no value, one of a list type several, or one each time if it can be `repeated`. `same_as` names
        the field of the recipe that this option sets in place of a flag of its own; the field's docstring is the default of `help`, and
        the option wins over files and flags.
        """
        is_option, is_list, word = name.startswith("-"), get_origin(kind) is list, name.lstrip("-").replace("-", "_")
        required = not is_option if required is None else required
        help = (help or self._text_of(same_as)).replace("null: ", "default: ")
        dest = word + "_" * iskeyword(word)
        if get_origin(kind) is Literal:
            help += f"; {recipes.in_words(kind)}"
        if default not in (None, ""):
            help += f" (default: {' '.join(map(str, default)) if is_list else default})"
        settings: dict[str, Any] = {"help": help.replace("%", "%%"), "default": argparse.SUPPRESS}
        if kind is bool:
            settings |= {"action": "store_true"}
        else:
            several, one = ("+", None) if required or is_option else ("*", "?")
            settings |= {"nargs": several if is_list else one, "metavar": metavar or word.upper()}
        if repeated:
            settings |= {"nargs": None, "action": "append"}
        if is_option:
            settings |= {"dest": dest, "required": required}
        self.add_argument(name if is_option else dest, **settings)
        default = False if kind is bool else [] if is_list and default is None else default
        self.known.add(name)
        self.options[dest] = _Option(
            name if is_option else name.upper(),
            kind,
            default,
            required,
            same_as,
            at_least,
            metavar in _PATHS or name in _PATHS,
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The parsed options. Raises InputError, in one line, if one is unknown (naming the nearest known one), missing or invalid."""
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
                raise InputError(f"{self.prog} needs {' and '.join(absent)}: see {self.prog} --help") from None
            if any(argument.startswith(f"{name}=") for argument in arguments):
                raise InputError(f"{name} takes no value: remove what follows it") from None
            raise InputError(f"{name} requires a value") from None
        if unknown:
            raise InputError(f"{unknown[0]} is not an argument of {self.prog}: remove it")
        kinds, values = [], recipes.Fields()
        for dest, one in self.options.items():
            if (given := getattr(found, dest, None)) is not None:
                is_list = isinstance(given, list)
                if given == "" and one.is_path:
                    raise InputError(f"{one.name} is empty: give a path")
                value = [_read(item, *get_args(one.kind)) for item in given] if is_list else _read(given, one.kind)
                check_values(value, one.name)
                values[dest,] = value, ""
                kinds.append((dest, one.kind))
        spelling = {dest: one.name for dest, one in self.options.items()}
        options = vars(recipes.load(make_dataclass("Options", kinds), values, spelling))
        for dest, one in self.options.items():
            value = options.setdefault(dest, one.default)
            if one.at_least is not None and value is not None and value < one.at_least:
                raise InputError(f"{one.name} {value}: give {one.at_least} or more")
        return argparse.Namespace(**options, given=found.given)

    def recipe(self, options: argparse.Namespace, *files: str) -> Any:
        """The recipe given by the parsed options: `files`, then files and flags in their order, then the options that set a field."""
        assert self.recipe_type is not None
        given: recipes.Fields = {}
        for name, text in [*((_CONFIG, file) for file in files), *options.given]:
            hint, path, source = self.hints[name], tuple(name.split(".", 1)), ""
            if name == _CONFIG:
                file = recipes.find(text, self.folder)
                given |= recipes.fields_of(self.recipe_type, recipes.read_yaml(file), file)
                continue
            value = _read(text, hint)
            if name == "encoder" and isinstance(value, str):
                text = recipes.find(text, "model")
            if recipes.is_group(hint) and os.path.isfile(text):
                value, source = recipes.read_yaml(text), text
            elif recipes.is_group(hint) and not isinstance(value, dict):
                raise InputError(f"{name} is {text}: give its fields, or a YAML file of them")
            check_values(value, name, "--")
            if name.startswith("trainer."):  # added to the arguments already given
                path, value = ("trainer",), {**given.get(("trainer",), ({}, ""))[0], path[-1]: value}
            given |= recipes.fields_of(hint, value, source, path) if is_dataclass(hint) else {path: (value, source)}
        for dest, one in self.options.items():
            if one.same_as and (value := getattr(options, dest)):
                given[tuple(one.same_as.split("."))] = value, ""
        recipe = recipes.load(self.recipe_type, given)
        if options.print_config:
            print(recipes.as_text(recipe), end="")
            raise SystemExit
        return recipe

    def flag_of(self, name: str) -> str:
        """The flag of a parameter or field, such as `text_field` or `data.tokenizer`; its name in backquotes if it has none."""
        given_by = {one.same_as: one.name for one in self.options.values() if one.same_as}
        flags = {f"--{name.replace('_', '-')}", f"--{name}"} & self.known
        flags |= {flag for field, flag in given_by.items() if field == name or field.endswith(f".{name}")}
        flags = flags or {flag for flag in self.known if flag.endswith(f".{name}")}
        return flags.pop() if len(flags) == 1 else f"`{name}`"

    def format_help(self) -> str:
        """The text of --help: the examples of the command, the address of its page, and its options."""
        self._complete()
        lines = ["Examples:", *(f"  {line}" for line in examples(self.command))]
        page = f"Documentation: {DOCUMENTATION}reference/commands/{self.prog.split()[1]}/"
        return "\n".join([*lines, page, "", super().format_help()])

    def error(self, message: str) -> NoReturn:
        """Called by argparse if arguments are missing."""
        raise argparse.ArgumentError(None, message)

    def _text_of(self, field: str) -> str:
        group, _, key = field.rpartition(".")
        assert self.recipe_type is not None
        return documentation(recipes.hints_of(self.recipe_type)[group] if group else self.recipe_type)[key]

    def _complete(self) -> None:
        """Add the flags of the recipe, after all options."""
        if self.recipe_type is not None and len(self.hints) == 1:  # --config
            self._add_fields(self.recipe_type, {one.same_as for one in self.options.values()})

    def _add_fields(self, kind: type, given: Collection[str], name: str = "", text: str = "") -> None:
        """Add a flag for every field of a dataclass that no option sets: a recipe, or its group `name`, which can also be a file."""
        group = self.add_argument_group(f"{name}: {text}" if name else (kind.__doc__ or "").rstrip("."))
        if name:
            named = ", or the name of one of the package" if name == "encoder" else ""
            self._add_flag(group, name, kind, f"a YAML file with these fields{named}", "FILE")
        hints, texts, defaults = recipes.hints_of(kind), documentation(kind), kind()
        inner = [key for key, hint in hints.items() if is_dataclass(hint)]
        for key, hint in hints.items():
            if key not in inner and (path := f"{name}.{key}" if name else key) not in given:
                default = recipes.shown(getattr(defaults, key))
                text = f"{texts.get(key, '')} ({recipes.in_words(hint)}; default: {default})"
                self._add_flag(group, path, hint, text)
        for key in inner:
            self._add_fields(hints[key], given, key, texts.get(key, ""))

    def _add_flag(self, group: Any, name: str, hint: Any, help: str, metavar: str = "VALUE") -> None:
        self.known.add(f"--{name}")
        self.hints[name] = hint
        settings = {"metavar": metavar, "help": help.replace("%", "%%")}
        # All flags and files go into one list because their order matters.
        group.add_argument(f"--{name}", dest="given", action="append", type=lambda text: (name, text), **settings)


@cache
def documentation(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, inherited fields included, in one line each."""
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
    """The value of a flag's text: the text itself if `hint` accepts text, unless it means null, otherwise its value as YAML."""
    if not isinstance(text, str) or hint is str:
        return text
    value, kinds = recipes.as_yaml(text), recipes.kinds_of(hint)
    takes_text = any(kind is str or get_origin(kind) is Literal for kind in kinds)
    is_other = (value is None and text and len(kinds) > 1) or (int in kinds and isinstance(value, int))
    return text if takes_text and not is_other else value
