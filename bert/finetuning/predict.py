"""`bert predict`: texts or sentences in, predictions of a task out, in constant memory.

A text that is longer than a sequence is split into windows, as in training.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from bert.data.columns import Columns
from bert.errors import InputError
from bert.files import is_same, replaced
from bert.finetuning.config import DataConfig, WindowsConfig
from bert.finetuning.inputs import check_options, chunks, window_maker
from bert.finetuning.tasks.index import task_of
from bert.finetuning.tasks.task import Task, TaskModel
from bert.finetuning.windows import WindowMaker, read_columns, read_windows
from bert.hub import local_folder
from bert.inference.batching import Batch, Encoded, run_batches
from bert.terminal import raw


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
        return ((one, self.task.prediction(scores, self.model.labels)) for one, scores in self.scores(examples))

    def scores(self, examples: Iterable[Any]) -> Iterator[tuple[Any, Tensor]]:
        """Each example with the scores (units, C) of its units."""
        for chunk in chunks(examples):
            windows = self.task.windows(chunk, self.maker)
            inputs = [Encoded(window.ids, window.token_types) for of_example in windows for window in of_example]
            logits = iter(run_batches(self.model, inputs, _logits, bf16=self.bf16))
            for example, of_example in zip(chunk, windows):
                yield example, self.task.of_example([next(logits) for _ in of_example], of_example)


def _logits(output: Any, batch: Batch) -> list[Tensor]:
    """The logits of each window of a batch, (C,) or (T, C)."""
    return list(output.logits.float().cpu())


def load_predictor(folder: str | Path, windows: WindowsConfig | None = None, bf16: bool | None = None) -> Predictor:
    """The fine-tuned model of a folder, on the GPU if there is one. `windows`: default is those of training.

    Raises InputError if it is not a fine-tuned model.
    """
    folder = local_folder(folder)
    task = task_of(folder)
    model = task.model.load(folder)
    maker = window_maker(windows or read_windows(folder), model, str(folder))
    if torch.cuda.is_available():
        model.to("cuda")
    return Predictor(model, maker, task, read_columns(folder), task.bf16 if bf16 is None else bf16)


def predict(folder: str | Path, file: str, out: str, data: DataConfig) -> int:
    """Write the predictions for each row of `file`, or each word of its sentences, to `out`; `-` is standard input or output.

    Returns the number of rows or sentences. The file is written atomically. Raises InputError.
    """
    if "-" not in (file, out) and is_same(Path(file).expanduser(), Path(out).expanduser()):
        raise InputError(f"--out {out}: would overwrite the input: give another --out")
    predictor = load_predictor(folder)
    results = predictor(predictor.read(file, data, labeled=False))
    first = next(results, None)  # errors of the input show before a line is written
    count = 0
    with written(out) as stream:
        stream.write(predictor.task.header(predictor.model.labels))
        for example, prediction in chain([] if first is None else [first], results):
            stream.write(predictor.task.lines(example, prediction))
            count += 1
    return count


@contextmanager
def written(out: str) -> Iterator[TextIO]:
    """A text file that is written atomically; `-` is standard output. Raises InputError if it cannot be written."""
    file = Path(out).expanduser()
    if out != "-" and file.is_dir():
        raise InputError(f"{out}: is a folder: give a file as --out")
    try:
        if out == "-":
            # only a terminal needs protection from control characters
            yield sys.stdout if sys.stdout.isatty() else raw(sys.stdout)
            sys.stdout.flush()
        else:  # a pipe or a device is written to, not replaced
            target = nullcontext(file) if file.exists() and not file.is_file() else replaced(file)
            with target as path, path.open("w", encoding="utf-8", newline="\n") as stream:
                yield stream
    except BrokenPipeError:  # the reader has closed the pipe
        raise
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}): give another --out") from error
