"""`bert finetune`, `evaluate` and `predict`: parse, call, print."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert.commands.options import TRUST, output
from bert.errors import InputError, did_you_mean, option
from bert.files import real_path
from bert.finetuning.tasks.index import TASKS
from bert.flags import Parser, documentation

if TYPE_CHECKING:
    from bert.finetuning.config import DataConfig

_COLUMNS = ("text", "pair", "label", "separator", "label_columns", "words", "tags", "file_format")
_OF_ROWS = ("report", "against", "group", "slice", "explain")  # options of `bert evaluate` for labeled rows


def _finetune(arguments: Sequence[str]) -> None:
    """Fine-tune a model for a task on labeled rows.

    Writes a run directory with the model that scores best on the dev set, the recipe and a log.

    $ bert finetune classify --model runs/mine/model --train topics.csv --out runs/topics
    $ bert finetune tag --model runs/mine/model --train train.conll --dev dev.conll --out runs/names --epochs 5
    """
    from bert.finetuning.config import FinetuneRecipe

    usage = f"bert finetune {'|'.join(TASKS)} --model DIR --train FILE --out RUN [--dev FILE] [--test FILE] [--config RECIPE]"
    parser = Parser(_finetune, FinetuneRecipe, f"{usage} [--GROUP.FIELD VALUE ...]", "finetune")
    parser.add("--out", "run directory to write; an interrupted run in it is resumed", metavar="RUN")
    add_data(parser)
    parser.add("--overwrite", "delete the run in --out, and start again", bool)
    parser.add("--select", metavar="METRIC", same_as="validation.select")
    parser.add("--label-errors", kind=bool, same_as="label_errors")
    parser.add("--trust", TRUST, bool)
    if not arguments or arguments[0] not in (*TASKS, "-h", "--help"):
        given = f", not {arguments[0]}.{did_you_mean(arguments[0], TASKS)}" if arguments else ""
        raise InputError(f"bert finetune {'|'.join(TASKS)}: name the task first{given}")
    options = parser.parse(arguments)
    recipe = parser.recipe(options)
    if options.out is None:
        raise InputError("--out RUN is missing: specify the run directory")
    from bert.finetuning.run import finetune

    finetune(options.task, recipe, Path(options.out).expanduser(), overwrite=options.overwrite, trust=options.trust)


def _evaluate(arguments: Sequence[str]) -> None:
    """Measure a model: a fine-tuned one on labeled rows, a masked LM on sequences with fixed masks.

    $ bert evaluate runs/topics test.csv --against runs/other --report runs/compared
    $ bert evaluate runs/mine/model --masked masked.npz
    """
    parser = Parser(_evaluate)
    parser.add("model", "model folder, or run directory, also of several --seeds")
    parser.add("data", "fine-tuned model: labeled rows, a file or a split on the Hub", required=False)
    parser.add("--masked", "masked LM: .npz with masked input_ids and labels, (sequences, length)", metavar="FILE")
    parser.add("--report", "folder of metrics.json, predictions.jsonl and report.html, an offline page", metavar="DIR")
    parser.add("--against", "model to compare with on the same rows; several --seeds compare recipes", metavar="MODEL")
    parser.add("--group", "column whose equal values are resampled together, such as a user", metavar="COLUMN")
    parser.add("--slice", "with --report: columns by whose values the headline is shown", list[str], metavar="COLUMN")
    parser.add("--explain", "with --report: add the words that speak for each of the worst errors", bool)
    add_columns(parser)
    options = parser.parse(arguments)
    if options.masked is not None and options.data is not None:
        raise InputError(f"--masked {options.masked} and {options.data}: give one of them")
    if options.masked is not None and (given := [name for name in (*_OF_ROWS, *_COLUMNS) if getattr(options, name)]):
        raise InputError(f"{option(given[0])} is for labeled rows, not for --masked; remove it")
    if options.masked is not None:
        from bert.model.heads import MaskedLM
        from bert.pretraining.score import score_masked

        score = score_masked(MaskedLM.load(options.model), options.masked)
        print(f"loss {score.loss:.4f}  accuracy {score.accuracy:.2%}  over {score.targets:,} targets")
    elif options.data is None:
        from bert.hf.folder import head_of

        head_of(options.model)  # an error of the folder comes first
        raise InputError(f"{options.model}: no data: give labeled rows, or for a masked LM --masked FILE.npz")
    elif options.report is None and (given := [name for name in ("slice", "explain") if getattr(options, name)]):
        raise InputError(f"--{given[0]} is shown in the report only: add --report DIR")
    else:
        from bert.finetuning.assess import assess
        from bert.finetuning.evaluation.record import check_folder

        folder = options.report and Path(options.report).expanduser()
        if folder:
            check_folder(folder)
        asked = {name: getattr(options, name) for name in _OF_ROWS[1:]}
        report = assess(options.model, options.data, data_config(options), **asked)
        print(report)
        if folder:
            from bert.finetuning.evaluation.page import write_report  # imports matplotlib

            write_report(report, folder)
            print(f"\nreport: {folder / 'report.html'}")


def _predict(arguments: Sequence[str]) -> None:
    """Predict the labels or numbers of texts, or the spans in them, with a fine-tuned model.

    One prediction for each row of the input, as a table or as JSON lines; .csv and .jsonl files repeat the columns of the input. A
    tagger finds spans, counted in characters of the text; words that are separated already get a line each, with tag and probability.

    $ bert predict runs/topics/model new.csv --out predictions.csv --top 3 --explain
    $ bert predict runs/names/model mails.txt --out names.jsonl --html names.html
    """
    parser = Parser(_predict)
    parser.add("model", "model folder")
    parser.add("input", "texts or sentences, with or without labels: a file or a split on the Hub; - is standard input")
    parser.add("--out", "file to write; - is standard output", default="-", metavar="FILE")
    parser.add("--format", "tsv, csv or jsonl; of a tagger jsonl, csv, conll or text; default: by the suffix of --out")
    parser.add("--top", "labels whose probability is written, the most probable first", int)
    parser.add("--explain", "texts: add the words that speak for each prediction, and a check of them", bool)
    parser.add("--html", "offline page of the first 500 texts to write: spans of a tagger, --explain", metavar="FILE")
    add_columns(parser)
    options = parser.parse(arguments)
    html = output("--html", options.html, (".html", ".htm"), inputs=[options.input, options.model])
    if options.html is not None and real_path(Path(options.html)) == real_path(Path(options.out)):
        raise InputError(f"--html {options.html}: is --out too; give the page a name of its own")
    from bert.finetuning.predict import predict

    how = data_config(options), options.format, options.top, options.html is not None, options.explain
    count, page = predict(options.model, options.input, options.out, *how)
    html(lambda file: file.write_text(page, encoding="utf-8"))
    if options.out != "-":
        print(f"{count:,} prediction{'s' * (count != 1)}: {options.out}")


def add_data(parser: Parser) -> None:
    """Add the task, and the options for the files of a recipe and their columns."""
    parser.add("task", "; ".join(f"{name}: {what}" for name, what in TASKS.items()), same_as="task")
    for name in ("train", "dev", "test"):
        parser.add(f"--{name}", metavar="FILE", same_as=f"data.{name}")
    add_columns(parser, of_recipe=True)


def add_columns(parser: Parser, of_recipe: bool = False) -> None:
    """Add the options for the columns and the format of labeled rows."""
    from bert.finetuning.config import DataConfig

    texts = documentation(DataConfig)
    for name in _COLUMNS:
        kind = list[str] if name.endswith("columns") else str
        metavar = None if name in ("separator", "file_format") else "COLUMN"
        field = f"data.{name}" if of_recipe else ""
        parser.add(f"--{name.replace('_', '-')}", texts[name], kind, metavar=metavar, same_as=field)


def data_config(options: Any) -> "DataConfig":
    """The values of those options."""
    from bert.finetuning.config import DataConfig

    return DataConfig(**{name: value for name in _COLUMNS if (value := getattr(options, name)) not in (None, [])})


COMMANDS = (_finetune, _evaluate, _predict)
