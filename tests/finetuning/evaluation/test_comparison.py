"""Two models on the same rows, and two recipes: what is tested is what is said, and labels in another order change nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from bert.data.examples import Example
from bert.errors import InputError
from bert.finetuning.evaluate import Evaluation
from bert.finetuning.evaluation.comparison import compare
from bert.finetuning.evaluation.scored import Scored
from bert.finetuning.tasks.classify import TASK as CLASSIFY
from bert.finetuning.tasks.multilabel import Multilabel
from bert.finetuning.tasks.regression import TASK as REGRESSION

LABELS = ("cold", "hot", "mild")
SIZE = 120


def evaluation(seed, skill=1.0, labels=LABELS, text="text"):
    """A classifier whose logits contain the right class times `skill`."""
    right = np.random.default_rng(0).integers(3, size=SIZE)
    scores = np.random.default_rng(seed).normal(size=(SIZE, 3))
    scores[np.arange(SIZE), right] += skill
    examples = [Example(f"{text} {number}", label=LABELS[one]) for number, one in enumerate(right)]
    columns = [LABELS.index(label) for label in labels]
    scored = Scored(CLASSIFY, labels, examples, torch.from_numpy(scores)[:, columns], [1] * SIZE)
    return Evaluation(scored, np.arange(SIZE))


def test_a_model_compared_with_itself_does_not_differ():
    found = compare([evaluation(1)], [evaluation(1)])
    assert all((difference, p) == (0.0, 1.0) for _, _, difference, p in found.metrics.values())
    assert (found.only_first, found.only_second, found.mcnemar) == ([], [], 1.0)


def test_a_much_better_model_is_found_and_the_rows_that_only_it_gets_right():
    good, bad = evaluation(1, 3.0), evaluation(2, 0.3)
    found = compare([good], [bad])
    first, second, difference, p = found.metrics["accuracy"]
    assert difference == pytest.approx(first - second)
    assert difference > 0.3
    assert p < 0.001
    assert found.mcnemar < 0.001
    right = ~good.scored.is_wrong & bad.scored.is_wrong
    assert found.only_first == np.flatnonzero(right).tolist()
    assert len(found.only_first) - len(found.only_second) == round(difference * SIZE)
    turned = compare([bad], [good])
    assert turned.metrics["accuracy"][2:] == (pytest.approx(-difference), pytest.approx(p, abs=0.01))


def test_labels_in_another_order_change_nothing():
    first, second = evaluation(1), evaluation(2)
    plain, other = (compare([first], [evaluation(2, labels=one)]) for one in (LABELS, ("mild", "cold", "hot")))
    assert plain == dataclasses.replace(other, metrics=plain.metrics)
    for name, values in plain.metrics.items():
        assert other.metrics[name] == pytest.approx(values)
    assert second.metrics == pytest.approx(evaluation(2, labels=("mild", "cold", "hot")).metrics)


def test_several_labels_in_another_order_change_nothing():
    right = np.random.default_rng(0).integers(2, size=(SIZE, 3))
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(SIZE, 3)) + right)
    thresholds = {"cold": 0.3, "hot": 0.5, "mild": 0.9}
    examples = [Example(f"{n}", label=tuple(np.array(LABELS)[row > 0])) for n, row in enumerate(right)]

    def of(labels):
        task, columns = Multilabel([thresholds[one] for one in labels]), [LABELS.index(one) for one in labels]
        return Evaluation(Scored(task, labels, examples, logits[:, columns], [1] * SIZE), np.arange(SIZE))

    found = compare([of(LABELS)], [of(("mild", "cold", "hot"))])
    assert all(difference == pytest.approx(0) for _, _, difference, _ in found.metrics.values())
    assert found.only_first == found.only_second == []


def test_two_files_never_yield_a_sentence_about_recipes():
    lines = "\n".join(compare([evaluation(1, 3.0)], [evaluation(2)]).lines(CLASSIFY.scales))
    assert "these are two models on these rows; to compare recipes, give runs of several --seeds of both" in lines
    assert "recipes, over seeds" not in lines


def test_several_seeds_of_both_compare_the_recipes():
    def runs(first, skill):
        seeds = [evaluation(seed, skill) for seed in range(first, first + 4)]
        return [seeds[0], *seeds]

    found = compare(runs(1, 3.0), runs(11, 0.5))
    assert found.recipes["accuracy"].difference > 0.3
    assert found.recipes["accuracy"].p < 0.01
    same = compare(runs(1, 1.0), runs(11, 1.0))
    assert same.recipes["accuracy"].p > 0.05
    text = "\n".join(found.lines(CLASSIFY.scales))
    assert "recipes, over seeds and rows: accuracy +" in text
    assert "these are two models" not in text


def test_an_interval_that_is_unknown_is_a_dash():
    runs = [evaluation(1)] * 3
    lines = compare(runs, runs).lines(CLASSIFY.scales)
    assert "recipes, over seeds and rows: accuracy +0.0, 95% interval –, p undefined" in lines


def test_numbers_have_no_rows_that_one_gets_right():
    right = np.random.default_rng(0).normal(size=SIZE)
    examples = [Example(f"{n}", label=float(one)) for n, one in enumerate(right)]
    sides = (
        torch.from_numpy(right + scale * np.random.default_rng(1).normal(size=SIZE))[:, None] for scale in (0.1, 1)
    )
    first, second = (
        Evaluation(Scored(REGRESSION, ("value",), examples, one, [1] * SIZE), np.arange(SIZE)) for one in sides
    )
    found = compare([first], [second])
    assert found.mcnemar is None
    assert found.metrics["rmse"][3] < 0.001
    assert "McNemar" not in "\n".join(found.lines(REGRESSION.scales))


def test_models_of_other_labels_or_texts_are_refused():
    other = evaluation(1)
    renamed = dataclasses.replace(other, scored=dataclasses.replace(other.scored, labels=("a", "b", "c")))
    with pytest.raises(InputError, match=r"classify with cold, hot, mild; classify with a, b, c\): compare models"):
        compare([evaluation(1)], [renamed])
    with pytest.raises(InputError, match="the models read different texts"):
        compare([evaluation(1)], [evaluation(1, text="other")])
