"""`bert quickstart`, `doctor` and `sample`: parse, call, print."""

from collections.abc import Sequence
from pathlib import Path

from bert.errors import InputError, accessing
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


def _doctor(arguments: Sequence[str]) -> None:
    """Say what looks wrong in a training, and what to try: of a run, or of the log of another tool.

    $ bert doctor runs/mine
    $ bert doctor checkpoint-500/trainer_state.json
    """
    parser = Parser(_doctor)
    parser.add("run", "run directory of pretrain or finetune; a .csv with a column loss; Trainer's trainer_state.json")
    path = Path(parser.parse(arguments).run).expanduser()
    from bert.finetuning import doctor
    from bert.pretraining import summary
    from bert.recipe import read_yaml
    from bert.training.doctor import NOT_SEEN, of_curve, read_curve

    if not path.is_dir():
        looked, found = "the curve of its loss", list(of_curve(read_curve(path)))
    elif not (path / "recipe.yaml").is_file():
        raise InputError(f"{path}: no run: it has no recipe.yaml; give a run directory, or a .csv log of another tool")
    elif "task" in read_yaml(path / "recipe.yaml"):
        looked, found = "its loss, its rows and its report", list(doctor.examine(path))
    else:
        looked, found = "its loss, its text and its masks", list(summary.examine(path))
    for one in found:
        print(f"{one.name}: {one.text}")
    if all(one.name == NOT_SEEN for one in found):
        print(f"{path}: nothing looks wrong in {looked}")


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
    with accessing(f"--out {out}", "written", "give another folder"):
        paths = write_sample(out, options.languages, options.seed)
    for path in paths:
        print(path)


COMMANDS = (_quickstart, _doctor, _sample)
