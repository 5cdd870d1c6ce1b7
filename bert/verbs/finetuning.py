"""`bert finetune`, `evaluate` and `predict`: parse, call, print."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert.errors import InputError
from bert.recipe import add_recipe, build, parse
from bert.verbs.options import TRUST, verb_parser

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from bert.finetuning.config import DataConfig

_COLUMNS = {
    "text": "column of the text; not given: found by usual names",
    "pair": "column of a second sentence; not given: found by usual names, or none",
    "label": "column of the label; not given: found by usual names",
    "words": "tagging: column of the words; not given: the first",
    "tags": "tagging: column of the tags; not given: the last",
    "file_format": "tsv, csv, jsonl, txt, conll or conllu; not given: what the name of the file says",
}
_TASKS = ("classify", "tag")


def _finetune(arguments: Sequence[str]) -> None:
    """Fine-tune a model on labelled rows: classify texts or tag words.

    `bert finetune classify` learns one label a text (or a pair of texts), `bert finetune tag` one tag a word. Makes a run
    folder with the model that measures best on the dev set, the recipe and a log."""
    from bert.finetuning.config import FinetuneRecipe

    parser = verb_parser("finetune", _finetune)
    add = parser.add_argument
    add("task", type=str, help="classify or tag")
    add("--out", type=str | None, default=None, help="folder of the run")
    add("--train", type=str | None, default=None, help="the same as --data.train")
    add("--dev", type=str | None, default=None, help="the same as --data.dev")
    add_columns(parser, "; the same as --data.{}")
    add("--overwrite", action="store_true", help="lose the run that --out holds")
    add("--trust", action="store_true", help=TRUST)
    add_recipe(parser, FinetuneRecipe)
    parser.usage = (
        "bert finetune classify|tag --model DIR --train FILE --out RUN [--dev FILE] [--config RECIPE.yaml]"
        " [--GROUP.FIELD VALUE ...]"
    )
    if not arguments or arguments[0] not in (*_TASKS, "-h", "--help"):
        given = f", not {arguments[0]}" if arguments else ""
        raise InputError(f"bert finetune classify or bert finetune tag{given}: say first what is to be learned")
    options = parse(parser, arguments, FinetuneRecipe)
    for shortcut in ("train", "dev", *_COLUMNS):
        if options[shortcut] is not None:
            options.data[shortcut] = options[shortcut]
    recipe = build(FinetuneRecipe, parser.instantiate(options))
    if options.out is None:
        raise InputError("--out RUN is missing: name the folder that the run shall make")
    from bert.finetuning.run import finetune

    finetune(options.task, recipe, Path(options.out).expanduser(), overwrite=options.overwrite, trust=options.trust)


def _evaluate(arguments: Sequence[str]) -> None:
    """Measure a model: a classifier or tagger on labelled rows, a masked LM on rows with fixed masks."""
    parser = verb_parser("evaluate", _evaluate)
    add = parser.add_argument
    add("model", type=str, help="model folder")
    add("data", nargs="?", type=str | None, default=None, help="labelled rows, for a classifier or tagger")
    add(
        "--masked",
        type=str | None,
        default=None,
        help="masked LM: .npz with masked input_ids and labels, (rows, length)",
    )
    add_columns(parser)
    options = parse(parser, arguments)
    from bert.evaluate import evaluate, evaluate_masked

    if options.masked is not None and options.data is not None:
        raise InputError(f"--masked {options.masked} beside {options.data}: give the one or the other")
    if options.masked is not None:
        evaluate_masked(options.model, options.masked)
    else:
        evaluate(options.model, options.data, data_config(options))


def _predict(arguments: Sequence[str]) -> None:
    """Label texts, or tag the words of sentences, by a fine-tuned model.

    A classifier writes a table with `label` and `probability`, one row for each row of the input. A tagger writes each word
    with its tag and the probability, a blank line behind each sentence."""
    parser = verb_parser("predict", _predict)
    add = parser.add_argument
    add("model", type=str, help="model folder")
    add("input", type=str, help="texts or sentences, with labels or without; - is standard input")
    add("--out", type=str, default="-", help="file to write; - is standard output")
    add_columns(parser)
    options = parse(parser, arguments)
    from bert.finetuning.predict import predict

    count = predict(options.model, options.input, options.out, data_config(options))
    if options.out != "-":
        print(f"{count:,} predictions: {options.out}")


def add_columns(parser: "ArgumentParser", more: str = "") -> None:
    """Give `parser` the options that name columns and format of labelled rows."""
    for name, text in _COLUMNS.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=str | None, default=None, help=text + more.format(name))


def data_config(options: Any) -> "DataConfig":
    """What those options say."""
    from bert.finetuning.config import DataConfig

    return DataConfig(**{name: options[name] for name in _COLUMNS})


VERBS: dict[str, Callable[[Sequence[str]], None]] = {"finetune": _finetune, "evaluate": _evaluate, "predict": _predict}
