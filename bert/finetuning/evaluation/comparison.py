"""Is a model better than another, and is a recipe better than another? Two questions with two answers.

*These two models, on these rows*: paired tests, which say nothing about the next seed. *These two recipes*: several seeds of both, so that
seeds and rows vary (Sellam et al. 2022, "The MultiBERTs").
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from bert.errors import InputError
from bert.finetuning.evaluate import Evaluation
from bert.finetuning.evaluation.per_example import PerExample
from bert.finetuning.evaluation.scored import Scored
from bert.finetuning.evaluation.statistics import Comparison, Measure, mcnemar, multi_bootstrap, randomization_test
from bert.finetuning.metrics import Scales
from bert.finetuning.tasks.task import first_of


@dataclass(frozen=True)
class Compared:
    """Two models on the same examples."""

    metrics: dict[str, tuple[float, float, float, float]]
    """first, second, first − second, and the p value of a paired randomization test"""
    only_first: list[int]
    """the numbers of the examples that only the first model gets right as a whole; empty for regression"""
    only_second: list[int]
    mcnemar: float | None
    """mid-p value of McNemar's test on these; none for regression"""
    recipes: dict[str, Comparison] = field(default_factory=dict)
    """the difference of the means over seeds, if both are several seeds of a recipe"""

    def lines(self, scales: Scales) -> list[str]:
        """The comparison in words."""
        lines = [f"{'':<14}{'first':>10}{'second':>10}{'difference':>12}"]
        for name, (first, second, difference, p) in self.metrics.items():
            scale = scales[name]
            shown = f"{scale.shown(first):>10}{scale.shown(second):>10}{scale.difference(difference):>12}"
            lines.append(f"{scale.title:<14}{shown}  {_shown(p)}")
        if self.mcnemar is not None:
            told = f"only the first is right in {len(self.only_first):,}, only the second in {len(self.only_second):,}"
            lines.append(f"{told}: {_shown(self.mcnemar)} (McNemar, mid-p)")
        if not self.recipes:
            lines.append("these are two models on these rows; to compare recipes, give runs of several --seeds of both")
        for name, found in self.recipes.items():
            scale = scales[name]
            is_known = np.isfinite(found.low)
            bounds = " to ".join(map(scale.difference, (found.low, found.high))) if is_known else "–"
            shown = f"{scale.difference(found.difference)}, 95% interval {bounds}, {_shown(found.p)}"
            lines.append(f"recipes, over seeds and rows: {scale.title} {shown}")
        return lines


def _shown(p: float) -> str:
    return "p undefined" if p != p else f"p = {p:.4f}" if p >= 0.0002 else "p < 0.0002"


def compare(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> Compared:
    """Compare models on the same examples: the first of each, and, if there are more, the recipes whose seeds the others are.

    Examples of a group are swapped, or drawn, together. Raises InputError for models of different tasks or labels.
    """
    evaluation, other = first[0], second[0]
    base, groups = evaluation.scored, evaluation.groups
    sides = base.per_example, in_order_of(base, other.scored)
    tested = randomization_test(_defined(sides[0].joined(sides[1])), groups)  # type: ignore[arg-type]
    metrics = {name: (value, other.metrics[name], *tested[name]) for name, value in evaluation.metrics.items()}
    only, p = [np.zeros(0, int)] * 2, None
    if len(base.choices()[0]):
        wrong, also_wrong = base.is_wrong, other.scored.is_wrong
        only = [np.flatnonzero(one) for one in (~wrong & also_wrong, wrong & ~also_wrong)]
        p = mcnemar(len(only[0]), len(only[1]))
    recipes = {}
    if min(len(first), len(second)) > 2:  # the kept model, and those of two seeds or more
        ours, theirs = ([_defined(in_order_of(base, one.scored)) for one in side[1:]] for side in (first, second))
        recipes = multi_bootstrap(ours, theirs, groups)
    return Compared(metrics, only[0].tolist(), only[1].tolist(), p, recipes)


def in_order_of(first: Scored, second: Scored) -> PerExample:
    """The metrics of the second model with the labels in the order of the first. Raises InputError if they differ."""
    if (first.task.name, sorted(first.labels)) != (second.task.name, sorted(second.labels)):
        each = (f"{one.task.name} with {first_of(one.labels, 10)}" for one in (first, second))
        raise InputError(f"the models differ in task or labels ({'; '.join(each)}): compare models of the same labels")
    if [one.key for one in first.examples] != [one.key for one in second.examples]:
        raise InputError("the models read different texts from the file: name its columns")
    if first.labels == second.labels:
        return first.deciding(second.decided)
    order = torch.tensor([second.labels.index(label) for label in first.labels])  # the old id of each class
    is_several = second.decided.dim() == 2
    return first.deciding(second.decided[:, order] if is_several else order.argsort()[second.decided])


def _defined(of: PerExample) -> Measure:
    """The metrics, 0 where they are undefined."""
    return lambda weights: {name: np.nan_to_num(value) for name, value in of.metrics(weights).items()}
