"""What the command lines of several verbs share."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def first_line(verb: Callable[..., Any]) -> str:
    """What a verb does, in a line."""
    return (verb.__doc__ or "").splitlines()[0]


def verb_parser(verb: str, function: Callable[..., Any]) -> "ArgumentParser":
    from bert.recipe import make_parser

    return make_parser(f"bert {verb}", " ".join((function.__doc__ or "").split()))


def add_corpus(parser: "ArgumentParser", required: bool) -> None:
    parser.add_argument(
        "corpus", nargs="+" if required else "*", type=str, help="files, globs, folders or a Hub data set"
    )
    parser.add_argument(
        "--layout",
        type=str,
        default="auto",
        help="what parts documents in .txt files: blank-lines, lines, file; auto looks at the file",
    )
    parser.add_argument(
        "--text-field", type=str, default="text", help="column of .jsonl, .csv, .tsv and .parquet that holds the text"
    )


def last(values: Sequence[str]) -> str | None:
    return values[-1] if values else None
