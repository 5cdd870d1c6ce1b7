"""Scores of training examples by models that have not seen them: cross-validation in five folds.

Each fold is scored by the last model of the same recipe that is trained on the other folds. Equal texts are in one fold, or the copy of a
wrong label would confirm it.
"""

import csv
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bert.data.rng import Stream, permutation
from bert.errors import InputError
from bert.files import replaced
from bert.finetuning.batches import Item
from bert.finetuning.evaluation.label_errors import Suspect
from bert.finetuning.evaluation.overlap import normal_form
from bert.finetuning.inputs import TrainingData
from bert.finetuning.module import TaskTraining
from bert.finetuning.tasks.task import window_scores
from bert.untrusted import read_arrays

logger = logging.getLogger(__name__)

FOLDS = 5
Trained = Callable[[Sequence[Item]], TaskTraining]
"""training examples → a finished training on them"""


def folds_of(examples: Sequence[Any], seed: int) -> np.ndarray:
    """(E,): the fold of each example, a function of its text, the other texts and `seed`, whatever their order. Raises InputError for
    fewer texts than folds."""
    texts = [normal_form(one.key) for one in examples]
    distinct = {text: number for number, text in enumerate(sorted(set(texts)))}
    if len(distinct) < FOLDS:
        raise InputError(f"label_errors: {len(distinct)} different training texts; must be at least {FOLDS}")
    return permutation(len(distinct), seed, Stream.FOLDS)[[distinct[text] for text in texts]] % FOLDS


def out_of_fold(data: TrainingData, seed: int, folder: Path, trained_on: Trained) -> list[Tensor]:
    """The scores (units, C) of each training example, from a model that has not been trained on its text.

    `trained_on` trains a model on the examples outside of a fold. The scores of each finished fold are kept in `folder`, and used if they
    are of the same examples and labels. Raises InputError.
    """
    folder.mkdir(exist_ok=True)
    folds, labels = folds_of(data.examples, seed), [label for item in data.train for label in item.labels]
    scores = dict[int, Tensor]()
    for fold in range(FOLDS):
        file, asked = folder / f"fold-{fold}.npz", np.flatnonzero(folds == fold).tolist()
        if not (found := _kept(file, asked, labels)):
            logger.info(f"label errors: training without fold {fold + 1} of {FOLDS}")
            model = trained_on([item for item, other in zip(data.train, folds) if other != fold]).model
            model.to("cuda" if torch.cuda.is_available() else "cpu")
            found = window_scores(data.task, model, [data.train[number].windows for number in asked], data.task.bf16)
            with replaced(file) as partial:
                np.savez(partial, examples=asked, labels=labels, sizes=[*map(len, found)], scores=torch.cat(found))
        scores |= zip(asked, found, strict=True)
    return [scores[number] for number in range(len(scores))]


def write_label_errors(data: TrainingData, seed: int, out: Path, trained_on: Trained) -> list[Suspect]:
    """Write the suspect labels of the training examples to RUN/label-errors.csv, the most suspect first, and return them."""
    scores, file = out_of_fold(data, seed, out / "folds", trained_on), out / "label-errors.csv"
    found = sorted(data.task.suspects([*data.examples], scores, data.labels), key=lambda one: one.score)
    with replaced(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        rows = ([rank, *one[1:]] for rank, one in enumerate(found, start=1))
        csv.writer(stream).writerows([["rank", "where", "text", "given", "suggested", "score", "start", "end"], *rows])
    checked = data.task.counted([len(item.labels) for item in data.train])
    logger.info(f"label errors: {len(found):,} suspect in {checked}: {file}")
    return found


def _kept(file: Path, asked: Sequence[int], labels: Sequence[float]) -> list[Tensor]:
    """The scores in `file`; empty unless it has those of the examples `asked` under the same labels."""
    with suppress(OSError, ValueError, KeyError, RuntimeError, TypeError):  # of a damaged file
        kept = read_arrays(file, ["examples", "labels", "sizes", "scores"])
        if np.array_equal(kept["examples"], asked) and np.array_equal(kept["labels"], labels):
            return list(torch.from_numpy(kept["scores"]).split(kept["sizes"].tolist()))
    return []
