"""`bert probe`: parse, call, print."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bert.commands.options import counts, kept_milestones, names
from bert.errors import InputError, accessing
from bert.files import is_same, replaced
from bert.flags import Parser
from bert.untrusted import read_json

_RESULTS, VECTORS, _MADE_BY = "metrics.json", "vectors", "bert probe"
_FILES = "report.html", _RESULTS, "metrics.csv"


def _probe(arguments: Sequence[str]) -> None:
    """Measure what each layer of a model knows about the labels of words or texts, each number beside its controls.

    $ bert probe train.conllu --dev dev.conllu --label upos --model runs/mine/model --out runs/probe
    $ bert probe reviews.tsv --label label --model runs/mine/model --model runs/other/model --examples 10,100,1000
    """
    label = "column of the file, such as upos, deprel or feats=Number; head: the structural probe, on trees"
    parser = Parser(_probe)
    parser.add("train", ".conllu, .conll, .jsonl, .tsv or .csv file with labelled words or texts")
    parser.add("--label", label, required=True)
    parser.add("--model", "model folder; can be repeated", list[str], metavar="DIR", repeated=True)
    parser.add("--checkpoints", "pretraining run, of which the milestones are probed", metavar="RUN")
    parser.add("--dev", "file that regularization is chosen on; default: every fifth sentence of TRAIN", metavar="FILE")
    parser.add("--test", "file that is scored; default: that of --dev", metavar="FILE")
    parser.add("--text", "column of the texts; default: found by its usual names", metavar="COLUMN")
    parser.add("--pooling", "of the tokens of a word: mean, first or last; of a text: mean or cls", default="mean")
    measures = "what is measured, also similarity: of a model, and to the first of several"
    parser.add("--measures", measures, default="linear,control,random,mdl")
    parser.add(
        "--examples", "also train on these numbers of units, for learning curves, such as 10,100,1000", default=""
    )
    parser.add(
        "--seeds", "number of control tasks, random encoders, samples and orders of the code", int, 1, at_least=1
    )
    parser.add("--out", "folder for report.html, metrics.csv and metrics.json", metavar="DIR")
    parser.add(
        "--vectors",
        "folder that keeps vectors for other labels of the same words; default: that in --out",
        metavar="DIR",
    )
    options = parser.parse(arguments)
    milestones = kept_milestones(options.checkpoints) if options.checkpoints else []
    if not options.model and not milestones:
        raise InputError("bert probe needs --model or --checkpoints: see bert probe --help")
    examples = counts("--examples", options.examples)
    chosen: Any = names(options.measures)
    folder = None if options.out is None else Path(options.out).expanduser()
    if folder is not None:
        if theirs := [name for name in _FILES if (folder / name).exists()]:
            probed = _label_of(folder / _RESULTS)
            if probed is None:
                raise InputError(f"--out {options.out}: holds a {theirs[0]} of something else: give another folder")
            if probed != options.label:
                fix = f"give another folder, and --vectors {options.out}/{VECTORS} to compute none again"
                raise InputError(f"--out {options.out}: holds the probes of {probed}: {fix}")
        given = [Path(one).expanduser() for one in (options.train, options.dev, options.test) if one is not None]
        if any(is_same(folder / name, one) for name in _FILES for one in given):
            raise InputError(f"--out {options.out}: would overwrite the input: give another folder")
        with accessing(f"--out {options.out}", "written", "give another path"):
            folder.mkdir(parents=True, exist_ok=True)
    from bert.probing.probe import probe

    result = probe(
        options.train, options.label, options.model, options.dev, options.test, text=options.text, pooling=options.pooling,
        measures=chosen, examples=examples, seeds=options.seeds, checkpoints=milestones,
        folder=Path(options.vectors).expanduser() if options.vectors else folder and folder / VECTORS,
    )  # fmt: skip
    print(result)
    if folder is not None:
        from bert.probing.pictures import probe_page

        rows = result.table()
        about = {"made by": _MADE_BY, "label": result.label, "settings": result.settings, "notes": result.notes}
        texts = probe_page(result), json.dumps({**about, "rows": rows}, indent=2) + "\n", _csv(rows)
        for name, content in zip(_FILES, texts, strict=True):
            with accessing(f"--out {options.out}", "written", "give another path"), replaced(folder / name) as partial:
                partial.write_text(content, encoding="utf-8")
        print(f"{folder / 'report.html'}   {folder / 'metrics.csv'}")


def _label_of(file: Path) -> str | None:
    """The label of which a file has the results of this command; none of another file."""
    with suppress(OSError, ValueError, TypeError, LookupError):
        found = read_json(file)
        return str(found["label"]) if found["made by"] == _MADE_BY else None
    return None


def _csv(rows: Sequence[dict[str, object]]) -> str:
    import csv
    import io

    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


COMMANDS = (_probe,)
