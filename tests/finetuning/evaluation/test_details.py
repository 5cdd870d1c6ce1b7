"""What one task alone shows, against definitions written once more, and scikit-learn."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score

from bert.data.tagged import TaggedExample
from bert.finetuning.evaluation.details import KINDS, confusion, error_kinds, types_table
from bert.finetuning.metrics import SpanF1
from bert.finetuning.tags import spans
from bert.finetuning.tasks.multilabel import Multilabel, f1_over
from tests.finetuning.evaluation import reports
from tests.finetuning.test_metrics import by_type

SPAN_TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]
SENTENCES = st.lists(st.lists(st.tuples(*[st.sampled_from(SPAN_TAGS)] * 2), min_size=1, max_size=9), min_size=1)


def sides_of(sentences):
    return [tuple(map(list, zip(*pairs))) for pairs in sentences]


def cells_of(span):
    return set(range(span.start, span.end))


@settings(max_examples=60, deadline=None)
@given(SENTENCES)
def test_the_kinds_of_errors_are_those_of_their_definition(sentences):
    """Written with sets of words, one condition for each kind."""
    expected = Counter()
    for predicted, gold in ([spans(tags) for tags in pair] for pair in sides_of(sentences)):
        for one in gold:
            near = [other for other in predicted if cells_of(one) & cells_of(other)]
            equal = [other for other in near if cells_of(one) == cells_of(other)]
            typed = [other for other in near if one.type == other.type]
            holds = [one in predicted, equal, typed, near, True]
            expected[one.type, KINDS[[*map(bool, holds)].index(True)]] += 1
        covered = set().union(*map(cells_of, gold))
        expected.update((other.type, "spurious") for other in predicted if not cells_of(other) & covered)
    assert error_kinds(sides_of(sentences)) == expected


@settings(max_examples=60, deadline=None)
@given(SENTENCES)
def test_the_kinds_of_a_type_add_up_to_its_gold_spans_and_the_right_ones_to_its_f1(sentences):
    sides = sides_of(sentences)
    metrics = [SpanF1(SPAN_TAGS), SpanF1(SPAN_TAGS, "strict")]
    for metric in metrics:
        metric.update(*map(list, zip(*sides)))
    loose, strict = ({**metric.compute(), **by_type(metric)} for metric in metrics)
    table = types_table(sides, SPAN_TAGS, "IOB2")
    *types, total = table.rows
    assert list(table.header) == ["type", *KINDS, "F1", "strict F1"]
    for name, *kinds, f1, strict_f1 in types:
        assert sum(kinds[:5]) == loose[f"gold_{name}"]
        assert (f1, strict_f1) == pytest.approx((float(loose[f"f1_{name}"]), float(strict[f"f1_{name}"])))
    assert list(total[1:7]) == [sum(column) for column in zip(*(row[1:7] for row in types))]
    assert total[7:] == pytest.approx((float(loose["f1"]), float(strict["f1"])))


@pytest.mark.parametrize(
    ("predicted", "kind"),
    [("O B-A I-A O O", "right"), ("O B-B I-B O O", "wrong type"), ("O B-A O O O", "wrong boundary"),
     ("O O B-A I-A O", "wrong boundary"), ("B-B I-B O O O", "both wrong"), ("B-A O O B-A O", "missing")],
)  # fmt: skip
def test_a_gold_span_has_the_kind_of_what_is_predicted_there(predicted, kind):
    found = error_kinds([(predicted.split(), "O B-A I-A O O".split())])
    assert {name: count for (_, name), count in found.items() if name != "spurious"} == {kind: 1}
    assert found["A", "spurious"] == (2 if kind == "missing" else 0)


def test_recall_is_of_mentions_that_training_has_and_has_not():
    words, tags = ("Ann", "met", "Bo", "in", "Rome"), ("B-PER", "O", "B-PER", "O", "B-LOC")
    learned = TaggedExample(("Rome", "Ann", "and", "Rome"), ("B-PER", "B-PER", "O", "B-PER"))
    labels = ("B-LOC", "B-PER", "O")
    scored = reports.scored_of(reports.task_named("tag"), labels, [TaggedExample(words, tags)], sharpness=99)
    scored.scores[0] = scored.scores[1]  # Ann is not found
    (table,) = [one for one in scored.task.details(scored, [learned]) if one.title.startswith("Mentions")]
    assert {name: tuple(rest) for name, *rest in table.rows} == {
        "words with this type: seen in training": (1, 0, 0.0),  # Ann
        "words with this type: not seen in training": (2, 2, 1.0),  # Bo, Rome as a place
        "words: seen in training": (2, 1, 0.5),
        "words: not seen in training": (1, 1, 1.0),
    }
    assert len(scored.task.details(scored)) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3),
)
def test_f1_over_thresholds_is_that_of_scikit_learn_at_each(rows, thresholds):
    chances, gold = map(np.array, zip(*rows))
    expected = [f1_score(gold, chances >= threshold, zero_division=0) for threshold in thresholds]
    assert f1_over(chances, gold.astype(int), thresholds) == pytest.approx(expected)


def test_curves_are_of_the_most_frequent_labels_and_thresholds_stand_beside_one_half():
    names = tuple("abcdefghijklmn")
    plain = reports.multilabel(400, names)
    scored = reports.replace(plain, task=Multilabel([0.3 + 0.02 * number for number in range(len(names))]))
    chart, table = scored.task.details(scored)
    gold, chances = scored.right.view(-1, 14).numpy(), scored.scores.double().sigmoid().numpy()
    order = sorted(range(14), key=lambda number: -gold[:, number].sum())
    assert [row[:3] for row in table.rows] == [(names[n], gold[:, n].sum(), scored.task.thresholds[n]) for n in order]
    for number, (*_, fitted, half) in zip(order, table.rows):
        for value, threshold in ((fitted, scored.task.thresholds[number]), (half, 0.5)):
            assert value == pytest.approx(f1_score(gold[:, number], chances[:, number] >= threshold))
    assert list(chart.series) == [*(names[number] for number in order[:12]), "in use"]
    assert chart.series["in use"] == [(row[2], row[3]) for row in table.rows[:12]]
    for number in order[:12]:
        x, y = zip(*chart.series[names[number]])
        assert x[::49] == (0.01, 0.5, 0.99)
        assert y[49] == pytest.approx(f1_score(gold[:, number], chances[:, number] >= 0.5))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60), st.randoms())
def test_confusions_are_those_of_scikit_learn_with_the_examples_of_the_largest_loss(pairs, random):
    gold, decided = np.array(pairs).T
    losses = np.array([random.random() for _ in pairs])
    found = confusion("abcd", np.stack([gold, decided]), losses, [1] * len(pairs))
    matrix = confusion_matrix(gold, decided, labels=range(4))
    assert {(a, b): count for a, b, count, _ in found.cells} == {
        ("abcd"[a], "abcd"[b]): matrix[a, b] for a, b in zip(*matrix.nonzero())
    }
    assert found.labels == ["abcd"[number] for number in sorted({*gold, *decided})]
    for a, b, _, examples in found.cells:
        there = [number for number, (x, y) in enumerate(pairs) if ("abcd"[x], "abcd"[y]) == (a, b)]
        assert examples == sorted(there, key=lambda number: -losses[number])[:20]


def test_confusions_of_words_name_each_sentence_once():
    scored = reports.scored_of(
        reports.task_named("tag"), ("N", "V"), [TaggedExample(("a", "b", "c"), ("N", "N", "V"))], 99
    )
    (found,) = scored.task.details(scored)
    assert [*found.cells] == [("N", "N", 2, [0]), ("V", "V", 1, [0])]


def test_points_are_right_numbers_with_what_is_predicted_and_at_most_2000():
    predictions, residuals = (scored := reports.regression(300)).task.details(scored)
    right, found = scored.right.double().tolist(), scored.decided.double().tolist()
    assert sorted(predictions.series["examples"]) == sorted(zip(right, found))
    assert sorted(residuals.series["examples"]) == pytest.approx(
        np.array(sorted((x, y - x) for x, y in zip(right, found)))
    )
    assert predictions.series["no error"] == [(0.0, 0.0), (5.0, 5.0)]
    assert residuals.series["no error"] == [(0.0, 0.0), (5.0, 0.0)]
    assert len((many := reports.regression(2500)).task.details(many)[0].series["examples"]) == 2_000
