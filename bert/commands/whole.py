"""`bert quickstart` and `sample`: parse, call, print."""

from collections.abc import Sequence
from pathlib import Path

from bert.errors import InputError
from bert.flags import Parser


def _quickstart(arguments: Sequence[str]) -> None:
    """Pretrain, fine-tune and probe a small encoder on the bundled sample in one to three minutes.

    $ bert quickstart
    $ bert quickstart --minutes 1 --out runs/short
    """
    minutes = "maximum minutes of pretraining; default: enough for three minutes in all"
    parser = Parser(_quickstart)
    parser.add("--out", "folder for the runs and report.html", default="runs/quickstart")
    parser.add("--minutes", minutes, float)
    parser.add("--overwrite", "delete the quickstart in --out, and start again", bool)
    options = parser.parse(arguments)
    if options.minutes is not None and not options.minutes > 0:
        raise InputError(f"--minutes {options.minutes}: give more than 0")
    from bert.quickstart.run import MINUTES, quickstart

    quickstart(Path(options.out).expanduser(), options.overwrite, options.minutes or MINUTES)


def _sample(arguments: Sequence[str]) -> None:
    """Write the bundled sample to a folder: a corpus and labeled rows, English and Chinese.

    $ bert sample --out sample
    $ bert sample --out sample --languages zh --seed 1
    """
    parser = Parser(_sample)
    parser.add("--out", "folder to write; must be empty or not exist", required=True)
    parser.add("--languages", "en, zh or both", list[str], ["en", "zh"], metavar="LANGUAGE")
    parser.add("--seed", "seed of the grammar", int, 0)
    options = parser.parse(arguments)
    from bert.sample.files import write_sample

    out = Path(options.out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: not empty: give an empty or new folder")
    try:
        paths = write_sample(out, options.languages, options.seed)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror or error}): give another folder") from None
    for path in paths:
        print(path)


COMMANDS = (_quickstart, _sample)
