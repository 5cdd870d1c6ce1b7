"""`bert finetune`, `evaluate` and `predict`: parse, call, print."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert.commands.options import TRUST
from bert.errors import InputError
from bert.flags import Parser, documentation

if TYPE_CHECKING:
    from bert.finetuning.config import DataConfig

_COLUMNS = ("text", "pair", "label", "words", "tags", "file_format")
_TASKS = ("classify", "tag")


def _finetune(arguments: Sequence[str]) -> None:
    """Fine-tune a model on labelled rows: classify texts or tag words.

    `bert finetune classify` learns one label a text (or a pair of texts), `bert finetune tag` one tag a word. Makes a run
    folder with the model that measures best on the dev set, the recipe and a log."""
    from bert.finetuning.config import FinetuneRecipe

    usage = "bert finetune classify|tag --model DIR --train FILE --out RUN [--dev FILE] [--config RECIPE.yaml]"
    parser = Parser(_finetune, FinetuneRecipe, f"{usage} [--GROUP.FIELD VALUE ...]")
    parser.add("task", "classify or tag")
    parser.add("--out", "folder of the run")
    parser.add("--train", "file to learn from", same_as="data.train")
    parser.add("--dev", "file to measure on", same_as="data.dev")
    add_columns(parser, of_recipe=True)
    parser.add("--overwrite", "lose the run that --out holds", bool)
    parser.add("--trust", TRUST, bool)
    if not arguments or arguments[0] not in (*_TASKS, "-h", "--help"):
        given = f", not {arguments[0]}" if arguments else ""
        raise InputError(f"bert finetune classify or bert finetune tag{given}: say first what is to be learned")
    options = parser.parse(arguments)
    recipe = parser.recipe(options)
    if options.out is None:
        raise InputError("--out RUN is missing: name the folder that the run shall make")
    from bert.finetuning.run import finetune

    finetune(options.task, recipe, Path(options.out).expanduser(), overwrite=options.overwrite, trust=options.trust)


def _evaluate(arguments: Sequence[str]) -> None:
    """Measure a model: a classifier or tagger on labelled rows, a masked LM on rows with fixed masks."""
    parser = Parser(_evaluate)
    parser.add("model", "model folder")
    parser.add("data", "labelled rows, for a classifier or tagger", required=False)
    parser.add("--masked", "masked LM: .npz with masked input_ids and labels, (rows, length)")
    add_columns(parser)
    options = parser.parse(arguments)
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
    parser = Parser(_predict)
    parser.add("model", "model folder")
    parser.add("input", "texts or sentences, with labels or without; - is standard input")
    parser.add("--out", "file to write; - is standard output", default="-")
    add_columns(parser)
    options = parser.parse(arguments)
    from bert.finetuning.predict import predict

    count = predict(options.model, options.input, options.out, data_config(options))
    if options.out != "-":
        print(f"{count:,} predictions: {options.out}")


def add_columns(parser: Parser, of_recipe: bool = False) -> None:
    """Give `parser` the options that name columns and format of labelled rows."""
    from bert.finetuning.config import DataConfig

    texts = documentation(DataConfig)
    for name in _COLUMNS:
        parser.add(f"--{name.replace('_', '-')}", texts[name], same_as=f"data.{name}" if of_recipe else "")


def data_config(options: Any) -> "DataConfig":
    """What those options say."""
    from bert.finetuning.config import DataConfig

    return DataConfig(**{name: getattr(options, name) for name in _COLUMNS})


VERBS = (_finetune, _evaluate, _predict)
