"""`bert quickstart` and `sample`: parse, call, print."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bert.errors import InputError
from bert.recipe import parse
from bert.verbs.options import verb_parser


def _quickstart(arguments: Sequence[str]) -> None:
    """See all of it in one to three minutes: pretrain, fine-tune and probe a small encoder on the bundled sample."""
    parser = verb_parser("quickstart", _quickstart)
    add = parser.add_argument
    add("--out", type=str, default="runs/quickstart", help="folder for the runs and report.html")
    add(
        "--minutes",
        type=float | None,
        default=None,
        help="of pretraining at most, which ends when the sample is learned; not given: so many that it takes three in all at most",
    )
    add("--overwrite", action="store_true", help="lose what an earlier quickstart left in --out")
    options = parse(parser, arguments)
    if options.minutes is not None and not options.minutes > 0:
        raise InputError(f"--minutes {options.minutes}: give more than 0")
    from bert.quickstart.run import MINUTES, quickstart

    quickstart(Path(options.out).expanduser(), options.overwrite, options.minutes or MINUTES)


def _sample(arguments: Sequence[str]) -> None:
    """Write the bundled sample text to a folder: corpus and labelled rows, English and Chinese."""
    parser = verb_parser("sample", _sample)
    add = parser.add_argument
    add("--out", type=str, required=True, help="folder to write; it must be empty or not there")
    add("--languages", nargs="+", type=str, default=["en", "zh"], metavar="LANGUAGE", help="en, zh or both")
    add("--seed", type=int, default=0, help="decides which sentences the grammar makes")
    options = parse(parser, arguments)
    from bert.sample.files import write_sample

    out = Path(options.out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: already holds something: name a folder that is empty or not there")
    try:
        paths = write_sample(out, options.languages, options.seed)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror or error}): give another folder") from None
    for path in paths:
        print(path)


VERBS: dict[str, Callable[[Sequence[str]], None]] = {"quickstart": _quickstart, "sample": _sample}
