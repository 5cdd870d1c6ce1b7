"""Predictions of a fine-tuned model: texts or sentences in, predictions of its task out, in constant memory.

A text that is longer than a sequence is split into windows, as in training.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch

from bert.data.columns import Columns
from bert.errors import InputError
from bert.files import is_same
from bert.finetuning.config import DataConfig, WindowsConfig
from bert.finetuning.explanation import explained, explanation_page
from bert.finetuning.inputs import check_options, chunks, window_maker
from bert.finetuning.output import chosen_format, writer, written
from bert.finetuning.tasks.index import task_of, task_with
from bert.finetuning.tasks.task import Prediction, Task, TaskModel
from bert.finetuning.windows import Settings, WindowMaker
from bert.hf.folder import SETTINGS
from bert.hub import local_folder

MOST_ON_PAGE = 500
"""predictions on an HTML page"""


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model with everything needed to read texts as in training."""

    model: TaskModel
    maker: WindowMaker
    task: Task
    columns: Columns
    """those of training"""
    bf16: bool | None = None
    """compute in bfloat16; none: if the hardware supports it natively"""

    def read(self, file: str, data: DataConfig, labeled: bool = True) -> Iterable[Any]:
        """The examples of a file, from the columns of training unless `data` names others. Raises InputError."""
        check_options(self.task, data)
        learned = self.columns if labeled else replace(self.columns, label=None, tags=None)
        return self.task.read(file, data, labeled, learned)

    def __call__(self, examples: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Each example with its prediction."""
        return ((one, self.task.prediction(one, scores, self.model.labels)) for one, scores in self.scores(examples))

    def scores(self, examples: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Each example with its output (`Task.outputs`): the scores (units, C) of its units."""
        return chain.from_iterable(map(self._scores, chunks(examples)))

    def _scores(self, examples: list[Any]) -> Iterator[tuple[Any, Any]]:
        # not lazily: the windows of a long text are large, and are not kept
        return zip(examples, self.task.outputs(self.model, examples, self.maker, self.bf16))


def load_predictor(folder: str | Path, windows: WindowsConfig | None = None, bf16: bool | None = None) -> Predictor:
    """The fine-tuned model of a folder, on the GPU if there is one. `windows`: default is those of training.

    Raises InputError if it is not a fine-tuned model.
    """
    folder = local_folder(folder)
    model: Any = task_of(folder).model.load(folder)
    if torch.cuda.is_available():
        model.to("cuda")
    return predictor_of(model, windows, bf16, str(folder))


def predictor_of(
    model: TaskModel, windows: WindowsConfig | None = None, bf16: bool | None = None, source: str = "the model"
) -> Predictor:
    """A model with its task and the windows and columns of its training. Raises InputError if it has no tokenizer."""
    task, settings = restored(model, source)
    maker = window_maker(windows or settings.windows, model, source)
    return Predictor(model, maker, task, settings.columns, task.bf16 if bf16 is None else bf16)


def restored(model: TaskModel, source: str | Path) -> tuple[Task, Settings]:
    """The task of a model with what it learned in training, and all settings. Raises InputError if these are damaged."""
    problem = getattr(model.head_config, "problem_type", "that of a discriminator")
    task, file = task_with(type(model).__name__, problem, str(source)), f"{source}/{SETTINGS}"
    settings = Settings.read(model.settings, file)
    try:
        return task.restored(settings.task, model.labels).bound(model), settings
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{file}: cannot be read ({error}): fetch it again, or remove it") from error


def predict_texts(
    model: TaskModel, texts: Sequence[str | Sequence[str]], pairs: Sequence[str] | None = None, explain: bool = False
) -> list[Prediction]:
    """The predictions for texts, or pairs of texts, on the device of the model, with an `explanation` if asked. Raises InputError."""
    if isinstance(texts, str) or isinstance(pairs, str):
        raise InputError("predict: give a list of texts, not one text")
    if pairs is not None and len(pairs) != len(texts):
        raise InputError(f"predict: {len(texts)} texts and {len(pairs)} second texts; give as many of both")
    predictor = predictor_of(model)
    if predictor.columns.text and (pairs is None) == bool(predictor.columns.pair):
        had = "pairs; give the second texts too" if pairs is None else "single texts; leave the second ones out"
        raise InputError(f"predict: training had {had}")
    examples = map(predictor.task.example, texts, pairs or repeat(None))
    results = predictor(examples)
    return [prediction for _, prediction in (explained(predictor, results) if explain else results)]


def predict(
    folder: str | Path,
    file: str,
    out: str,
    data: DataConfig,
    form: str | None = None,
    top: int | None = None,
    page: bool = False,
    explain: bool = False,
) -> tuple[int, str]:
    """Write the predictions for each row of `file`, or each sentence, to `out`; `-` is standard input or output.

    `form` is the format of `out`, by default that of its suffix, or the usual one of the task; `top` is the number of labels whose
    probability is written; `explain` adds the words that speak for each prediction. The file is written atomically. Returns the number of
    rows or sentences and, if a `page` is asked for, an HTML page that shows the first of them. Raises InputError.
    """
    if "-" not in (file, out) and is_same(Path(file).expanduser(), Path(out).expanduser()):
        raise InputError(f"--out {out}: would overwrite the input: give another --out")
    predictor = load_predictor(folder)
    task = predictor.task
    if top is not None and (top < 1 or not task.has_top):
        fix = "must be at least 1" if task.has_top else f"{task.name} has no probabilities of several labels; remove it"
        raise InputError(f"--top {top}: {fix}")
    if page and not explain:
        task.page([], str(folder), 0)
    results = predictor(predictor.read(file, data, labeled=False))
    results = explained(predictor, results) if explain else results
    current = next(results, None)  # errors of the input show before a line is written
    if current is None:
        return 0, ""
    shown: list[Prediction] = []
    form, count = chosen_format(task, form, out, current[0]), 0
    with written(out) as stream:
        write = writer(form, task, stream, top)
        while current is not None:  # no loop over `results`, which would keep one long text while the next is tagged
            write(*current)
            shown += [current[1]] * (page and count < MOST_ON_PAGE)
            count, current = count + 1, None
            current = next(results, None)
    return count, (explanation_page if explain else task.page)(shown, f"{file}, {folder}", count) if page else ""
