"""`bert predict`: texts or sentences in, labels with probabilities out, in constant memory.

A text that is longer than a row goes through several windows, as in learning: the scores of a classifier are the mean over
them, the tag of a word is that of the one window which decides it.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import torch

from bert.data.examples import TaggedExample
from bert.errors import InputError
from bert.files import is_same, replaced
from bert.finetuning.config import DataConfig, WindowsConfig
from bert.finetuning.inputs import Labelled, Task, chunks, make_windows, read_labelled, window_maker
from bert.finetuning.module import TaskModel
from bert.finetuning.windows import Window, WindowMaker, read_windows
from bert.hf.folder import task_of
from bert.hub import local_folder
from bert.inference.batching import Batch, Encoded, run_batches
from bert.model.heads import SequenceClassifier, TokenClassifier
from bert.terminal import raw


@dataclass(frozen=True)
class Guess:
    """A label, and how sure the model is of it."""

    label: str
    probability: float
    """among all labels, from 0 to 1"""


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model with what it needs to read texts as it did when it learned."""

    model: TaskModel
    maker: WindowMaker
    task: Task
    bf16: bool | None = None
    """compute in bfloat16; none: where the hardware multiplies it"""

    def __call__(self, examples: Iterable[Labelled]) -> Iterator[tuple[Labelled, list[Guess]]]:
        """Each example with its guesses: one for a text, one for each word of a sentence."""
        for chunk in chunks(examples):
            windows = make_windows(chunk, self.maker)
            flat = [window for of_example in windows for window in of_example]
            inputs = [Encoded(window.ids, window.token_types) for window in flat]
            rows = iter(run_batches(self.model, inputs, partial(self._scores, flat), bf16=self.bf16))
            for example, of_example in zip(chunk, windows):
                scores = [next(rows) for _ in of_example]  # one tensor a window: (C,) or (its words, C)
                yield example, self._guesses(of_example, scores)

    def _scores(self, windows: Sequence[Window], output: Any, batch: Batch) -> list[torch.Tensor]:
        """Of each window of a batch its scores (C,), or those of its words (words, C)."""
        logits = output.logits.float().cpu()  # (B, C) or (B, T, C)
        if self.task == "classify":
            return list(logits.clone())
        return [logits[row, list(windows[place].places)] for row, place in enumerate(batch.positions)]

    def _guesses(self, windows: Sequence[Window], scores: Sequence[torch.Tensor]) -> list[Guess]:
        if self.task == "classify":
            logits = torch.stack(list(scores)).mean(0, keepdim=True)  # (1, C)
        else:
            order = sorted((word, place) for place, word in enumerate(w for window in windows for w in window.words))
            logits = torch.cat(list(scores))[[place for _, place in order]]  # (words, C)
        if not len(logits):
            return []
        values, best = logits.softmax(-1).max(-1)
        return [Guess(self.model.labels[i], p) for i, p in zip(best.tolist(), values.tolist())]


def load_predictor(folder: str | Path, windows: WindowsConfig | None = None, bf16: bool | None = None) -> Predictor:
    """The fine-tuned model of a folder, on the accelerator where there is one. `windows`: others than it learned with.

    Raises InputError where it is no such model.
    """
    folder = local_folder(folder)
    task = task_of(folder)
    if task not in ("classify", "tag"):
        what = {"masked-lm": "a masked LM", "discriminate": "a discriminator"}.get(task, "an encoder")
        raise InputError(
            f"{folder}: {what} without a head for a task:"
            f" make one from it by `bert finetune classify` or `tag --model {folder}`"
        )
    model: TaskModel = (SequenceClassifier if task == "classify" else TokenClassifier).load(folder)
    maker = window_maker(windows or read_windows(folder), model, str(folder))
    if torch.cuda.is_available():
        model.to("cuda")
    return Predictor(model, maker, "classify" if task == "classify" else "tag", bf16)


def predict(folder: str | Path, file: str, out: str, data: DataConfig) -> int:
    """Write a label for each row of `file`, or for each word of its sentences, to `out`; `-` is standard input or output.

    Returns the number of rows or sentences. The file appears whole or not at all. Raises InputError.
    """
    if "-" not in (file, out) and is_same(Path(file).expanduser(), Path(out).expanduser()):
        raise InputError(f"--out {out}: is the input, which would be lost: give another --out")
    predictor = load_predictor(folder)
    results = iter(predictor(read_labelled(predictor.task, file, data, needs_label=False)))
    first = next(results, None)  # what is wrong with the input shows before a line is written
    count = 0
    with written(out) as stream:
        if predictor.task == "classify":
            stream.write("label\tprobability\n")
        for example, guesses in chain([] if first is None else [first], results):
            stream.writelines(_lines(example, guesses))
            count += 1
    return count


def _lines(example: Labelled, guesses: Sequence[Guess]) -> Iterator[str]:
    """A classifier's line, or the lines of a sentence and the blank one behind it."""
    if not isinstance(example, TaggedExample):
        yield f"{guesses[0].label}\t{guesses[0].probability:.4f}\n"
        return
    for word, guess in zip(example.words, guesses, strict=True):
        yield f"{word}\t{guess.label}\t{guess.probability:.4f}\n"
    yield "\n"


@contextmanager
def written(out: str) -> Iterator[TextIO]:
    """A text file that appears whole or not at all; `-` is standard output. InputError where it cannot be written."""
    file = Path(out).expanduser()
    if out != "-" and file.is_dir():
        raise InputError(f"{out}: is a folder: give a file as --out")
    try:
        if out == "-":
            # data for a file or a program stay as they are
            yield sys.stdout if sys.stdout.isatty() else raw(sys.stdout)
            sys.stdout.flush()
        elif file.exists() and not file.is_file():  # a pipe or a device is written into, not replaced
            with file.open("w", encoding="utf-8", newline="\n") as stream:
                yield stream
        else:
            with replaced(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
                yield stream
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}): give another --out") from error
