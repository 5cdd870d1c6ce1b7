"""`bert sample`: parse, call, print."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bert.errors import InputError
from bert.verbs.options import verb_parser


def _sample(arguments: Sequence[str]) -> None:
    """Write the bundled sample text to a folder: corpus and labelled rows, English and Chinese."""
    from bert.recipe import parse

    parser = verb_parser("sample", _sample)
    parser.add_argument("--out", type=str, required=True, help="folder to write; it must be empty or not there")
    parser.add_argument(
        "--languages", nargs="+", type=str, default=["en", "zh"], metavar="LANGUAGE", help="en, zh or both"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides which sentences the grammar makes")
    options = parse(parser, arguments)
    from bert.sample.files import write_sample

    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: already holds something: name a folder that is empty or not there")
    for path in write_sample(out, options.languages, options.seed):
        print(path)


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "sample": _sample,
}
