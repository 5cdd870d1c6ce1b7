"""A search for the learning rate and the number of steps of a run, on the dev set: successive halving (Jamieson and Talwalkar 2016; Li et
al. 2018).

Nine points are trained for a ninth of their steps, the best three of them for a third; the best of these becomes the run. Each training
starts anew and follows the schedule of its whole run, so that a score is that of the run of this point at this step.
"""

import csv
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L

from bert.files import replaced
from bert.finetuning.config import FinetuneRecipe
from bert.finetuning.inputs import TrainingData
from bert.finetuning.metrics import LOSS, goodness, in_words
from bert.finetuning.module import steps_of
from bert.report.text import render, table
from bert.training.callbacks import NotFinite

logger = logging.getLogger(__name__)

_LONGER, _HIGHER = (1, 1 / 2, 2), (1, 1 / 3, 3)
"""factors of steps and learning rate; the recipe itself is the first point"""
_RUNGS, _KEPT = (9, 3), 3
"""what the steps of a point are divided by at each rung, and the points after it"""


@dataclass
class Point:
    """A recipe of the search."""

    recipe: FinetuneRecipe
    steps: int
    """those of its whole run"""
    measured: list[dict[str, float]] = field(default_factory=list)
    """its metrics on the dev set at each rung that it has reached"""
    seconds: float = 0.0


class Until(L.Callback):
    """Ends a training after its first validation, or without one at `deadline`, a time of the monotonic clock."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End it if the time is up."""
        if time.monotonic() > self.deadline:
            trainer.should_stop, trainer.limit_val_batches = True, 0

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        """End it."""
        trainer.should_stop = True


def searched(recipe: FinetuneRecipe, data: TrainingData, file: Path, trained: Callable[..., Any]) -> FinetuneRecipe:
    """The best point around `recipe`: of those that come furthest within the minutes of `recipe.search`, the one with the highest score.
    The recipe itself is measured however long it takes. `file` becomes the table of all points.

    `trained(recipe, items, every, callback)` is the module after a training on `items` with a validation `every` so many steps.
    """
    points = tried = points_of(recipe, -(-len(data.train) // recipe.data.batch_size))
    end, scales = time.monotonic() + 60 * (recipe.search or 0.0), data.task.scales

    def order(point: Point) -> tuple[int, list[float]]:
        return len(point.measured), goodness(point.measured[-1] if point.measured else {}, scales)

    for rung, divisor in enumerate(_RUNGS):
        for point in tried:
            begin, step = time.monotonic(), max(1, round(point.steps / divisor))
            deadline = end if rung or point is not points[0] else math.inf
            if begin >= deadline:
                break
            with suppress(NotFinite):
                if found := trained(point.recipe, data.train, step, Until(deadline)).validation:
                    point.measured.append(found)
                    lr, told = point.recipe.optimizer.lr, in_words(found, scales)
                    logger.info(f"search: learning rate {lr:g}, {point.steps:,} steps: {told} at step {step:,}")
            point.seconds += time.monotonic() - begin
        done = [point for point in tried if len(point.measured) > rung]
        logger.info(f"search: {len(done)} of {len(tried)} points measured at 1/{divisor} of their steps")
        tried = sorted(done, key=order, reverse=True)[: max(1, len(tried) // _KEPT)]
    best = max(points, key=order)
    write_table(points, best, file)
    return best.recipe


def points_of(recipe: FinetuneRecipe, in_epoch: int) -> list[Point]:
    """The recipe, which is resolved, and those with a third or three times the learning rate, to two digits, and half or twice the steps,
    of which an epoch has `in_epoch`."""
    points, of = list[Point](), recipe.optimizer
    assert of.lr is not None
    for longer, higher in product(_LONGER, _HIGHER):
        steps = max(1, round(longer * steps_of(recipe, in_epoch)))
        lr, muon_lr = (one if higher == 1 else float(f"{one * higher:.1e}") for one in (of.lr, of.muon_lr))
        own = replace(recipe, search=None, epochs=steps / in_epoch)
        points.append(Point(replace(own, optimizer=replace(of, lr=lr, muon_lr=muon_lr)), steps))
    return points


def write_table(points: Sequence[Point], best: Point, file: Path) -> None:
    """Write the points, with the metric that decides, as a CSV file, and print them."""
    name = next((name for point in points for found in point.measured for name in found), LOSS)
    rows: list[list[Any]] = [["learning_rate", "steps", *(f"{name}_at_1/{one}" for one in _RUNGS), "seconds", "kept"]]
    for one in points:
        scores = [found[name] for found in one.measured] + [""] * (len(_RUNGS) - len(one.measured))
        rows.append([one.recipe.optimizer.lr, one.steps, *scores, round(one.seconds, 1), "yes" * (one is best)])
    with replaced(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    header, *lines = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    logger.info(render(table(header, lines, left=0)))
