"""The metrics of weighted examples are those of the examples repeated as often, by scikit-learn, SciPy and torchmetrics."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_recall_fscore_support

from bert.data.tagged import TaggedExample
from bert.finetuning.evaluation.per_example import Counts
from bert.finetuning.evaluation.scored import first
from bert.finetuning.metrics import read
from bert.finetuning.tasks.classify import TASK as CLASSIFY
from bert.finetuning.tasks.multilabel import TASK as MULTILABEL
from bert.finetuning.tasks.regression import TASK as REGRESSION
from bert.finetuning.tasks.tag import TASK as TAG

SIZE = 12
TAGS = ("B-ORG", "B-PER", "I-ORG", "I-PER", "O")

ids = arrays(np.int64, SIZE, elements=st.integers(0, 2))
flags = arrays(np.int64, (SIZE, 3), elements=st.integers(0, 1))
numbers = arrays(np.float64, SIZE, elements=st.integers(-3, 3).map(float))
weights = arrays(np.int64, SIZE, elements=st.integers(0, 3)).filter(lambda one: one.sum() > 1)
tag_ids = arrays(np.int64, 3 * SIZE, elements=st.integers(0, len(TAGS) - 1))


def measured(task, labels, decided, right, examples=()):
    sizes = [3 if examples else 1] * SIZE
    return task.per_example(
        SimpleNamespace(labels=labels, examples=examples, sizes=sizes, right=torch.tensor(right.copy())), decided
    )


def weighted(per_example, weight):
    return first(per_example.metrics(weight[None].astype(float)))


@given(ids, ids, weights)
@settings(deadline=None)
def test_the_metrics_of_classes_are_those_of_scikit_learn_on_the_repeated_examples(decided, right, weight):
    found = weighted(measured(CLASSIFY, "abc", decided, right), weight)
    decided, right = decided.repeat(weight), right.repeat(weight)
    assert found == pytest.approx({
        "accuracy": accuracy_score(right, decided),
        "macro_f1": f1_score(right, decided, average="macro", zero_division=0),
        "mcc": matthews_corrcoef(right, decided),
    }, abs=1e-9)  # fmt: skip


@given(flags, flags, weights)
@settings(deadline=None)
def test_the_metrics_of_several_labels_are_those_of_scikit_learn_on_the_repeated_examples(decided, right, weight):
    found = weighted(measured(MULTILABEL, "abc", decided, right.ravel()), weight)
    decided, right = decided.repeat(weight, 0), right.repeat(weight, 0)
    expected = {f"{mean}_f1": f1_score(right, decided, average=mean, zero_division=0) for mean in ("micro", "macro")}
    assert found == pytest.approx({**expected, "exact_match": accuracy_score(right, decided)})


@given(numbers, numbers, weights)
@settings(deadline=None)
def test_the_metrics_of_numbers_are_those_of_scipy_on_the_repeated_examples(decided, right, weight):
    found = weighted(measured(REGRESSION, ("value",), decided, right), weight)
    decided, right = decided.repeat(weight), right.repeat(weight)
    constant = min(np.ptp(decided), np.ptp(right)) == 0  # no correlation is defined
    assert found["rmse"] == pytest.approx(np.sqrt(((decided - right) ** 2).mean()))
    assert found["pearson"] == pytest.approx(0.0 if constant else pearsonr(decided, right)[0], abs=1e-7)
    assert found["spearman"] == pytest.approx(0.0 if constant else spearmanr(decided, right)[0], abs=1e-7)


@given(tag_ids, tag_ids, weights)
@settings(deadline=None, max_examples=50)
def test_the_metrics_of_spans_are_those_of_the_training_metrics_on_the_repeated_sentences(decided, right, weight):
    sides = decided.reshape(SIZE, 3), right.reshape(SIZE, 3)
    examples = [TaggedExample(("w",) * 3, tuple(TAGS[i] for i in row)) for row in sides[1]]
    found = weighted(measured(TAG, TAGS, decided, right, examples), weight)
    scores, gold = (torch.from_numpy(side.repeat(weight, 0).ravel()) for side in sides)
    metrics = TAG.metrics(TAGS, examples)
    TAG.update(metrics, torch.nn.functional.one_hot(scores, len(TAGS)).float(), gold, [3] * int(weight.sum()))
    assert found == pytest.approx(read(metrics), abs=1e-6)


@given(ids, ids, weights)
@settings(deadline=None)
def test_labels_have_the_precision_recall_and_f1_of_scikit_learn(decided, right, weight):
    counts = Counts.of_classes("abc", decided, right, [1] * SIZE, lambda totals: {})
    found = counts.labels(weight[None].astype(float))
    repeated = right.repeat(weight), decided.repeat(weight)
    expected = precision_recall_fscore_support(*repeated, labels=range(3), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected):
        assert np.nan_to_num(found[name][0]) == pytest.approx(values)


@given(numbers, numbers, ids, weights)
@settings(deadline=None)
def test_chosen_and_joined_examples_count_as_if_they_were_all(decided, right, classes, weight):
    for one in (
        measured(REGRESSION, ("value",), decided, right),
        measured(CLASSIFY, "abc", classes, classes[::-1]),
    ):
        chosen = one.chosen(np.flatnonzero(weight))
        assert weighted(chosen, weight[weight > 0]) == pytest.approx(weighted(one, weight))
        twice = one.joined(one)
        assert weighted(twice, np.concatenate([weight, 0 * weight])) == pytest.approx(weighted(one, weight))
