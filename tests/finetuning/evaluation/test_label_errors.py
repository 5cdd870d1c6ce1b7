"""Suspect labels against cleanlab on the same probabilities, against definitions, and for spans against planted errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.data.examples import Example
from bert.data.tagged import TaggedExample
from bert.finetuning.evaluation.label_errors import confident_errors, quality, wrong_labels, wrong_values
from bert.finetuning.tasks.index import task_named

TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")


@st.composite
def labeled(draw):
    """Labels (N,) of some or all of C classes, and probabilities (N, C) that often agree with them."""
    seed, count, classes = draw(st.integers(0, 2**32 - 1)), draw(st.integers(2, 80)), draw(st.integers(2, 6))
    random = np.random.default_rng(seed)
    labels = random.integers(0, draw(st.integers(1, classes)), count)
    probabilities = random.dirichlet(np.full(classes, draw(st.sampled_from([0.2, 1.0, 5.0]))), count)
    probabilities[np.arange(count), labels] += draw(st.sampled_from([0.0, 0.5, 2.0])) * random.random(count)
    return labels, probabilities / probabilities.sum(1, keepdims=True)


@settings(deadline=None)  # of the import of cleanlab
@given(labeled())
def test_the_suspect_examples_are_those_of_cleanlab(case):
    cleanlab = pytest.importorskip("cleanlab.filter")
    labels, probabilities = case
    if len(set(labels.tolist())) < 2:  # which cleanlab refuses
        return
    expected = cleanlab.find_label_issues(labels, probabilities, filter_by="confident_learning", n_jobs=1)
    assert np.array_equal(confident_errors(labels, probabilities), expected)


@settings(deadline=None)
@given(labeled())
def test_the_qualities_are_the_normalized_margins_of_cleanlab(case):
    rank = pytest.importorskip("cleanlab.rank")
    expected = rank.get_label_quality_scores(*case, method="normalized_margin")
    np.testing.assert_allclose(quality(*case), expected, atol=1e-12)


@settings(deadline=None)
@given(labeled())
def test_suspects_of_texts_have_the_order_of_cleanlab(case):
    cleanlab = pytest.importorskip("cleanlab.filter")
    labels, probabilities = case
    if len(set(labels.tolist())) < 2:
        return
    how = {"filter_by": "confident_learning", "return_indices_ranked_by": "normalized_margin", "n_jobs": 1}
    expected = cleanlab.find_label_issues(labels, probabilities, **how)
    names = [f"label {number}" for number in range(probabilities.shape[1])]
    found = wrong_labels([Example(f"text {number}") for number in range(len(labels))], labels, probabilities, names)
    ranked = sorted(found, key=lambda one: one.score)
    np.testing.assert_allclose([one.score for one in ranked], quality(*case)[expected], atol=1e-12)
    assert {one.example for one in found} == set(expected.tolist())
    assert all(one.given == names[labels[one.example]] for one in found)
    assert all(one.suggested == names[probabilities[one.example].argmax()] for one in found)


def test_only_confident_classes_count():
    """The mean self-confidences are 0.8 and 0.7: the example at 0.72 is suspect, that at 0.65 is not."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    first = np.array([0.99, 0.99, 0.94, 0.28, 0.25, 0.35])
    assert confident_errors(labels, np.stack([first, 1 - first], 1)).tolist() == [False] * 3 + [True, False, False]
    first[3] = 0.35  # and the mean is 0.8175
    assert not confident_errors(labels, np.stack([first, 1 - first], 1)).any()


def logits(probabilities):
    return torch.tensor(probabilities, dtype=torch.double).log()


def test_multiwrong_labels_are_those_of_cleanlab_label_by_label():
    cleanlab = pytest.importorskip("cleanlab.multilabel_classification.filter")
    task, labels = task_named("multilabel"), ("a", "b", "c")
    random = np.random.default_rng(0)
    truth = random.random((300, 3)) < 0.4
    yes = np.clip(0.5 + 0.4 * (2 * truth - 1) + random.normal(0, 0.1, truth.shape), 0.01, 0.99)
    wrong = random.random(truth.shape) < 0.05
    noisy = truth ^ wrong
    names = [tuple(label for label, one in zip(labels, row) if one) for row in noisy]
    examples = [Example(f"text {number}", label=name) for number, name in enumerate(names)]
    scores = [row[None] for row in torch.tensor(np.log(yes / (1 - yes)))]
    found = task.suspects(examples, scores, labels)
    ids = [[labels.index(name) for name in row] for row in names]
    masks = cleanlab.find_multilabel_issues_per_class(ids, yes, filter_by="confident_learning", n_jobs=1)  # (N, C)
    expected = {(number, labels[label]) for number, label in np.argwhere(masks).tolist()}
    assert {(one.example, one.given.split(":")[0]) for one in found} == expected
    assert len(expected & {(n, labels[c]) for n, c in np.argwhere(wrong).tolist()}) > 0.5 * wrong.sum()
    assert {(one.given[3:], one.suggested[3:]) for one in found} == {("no", "yes"), ("yes", "no")}


def test_values_far_from_the_prediction_are_ranked_by_their_residual():
    rank = pytest.importorskip("cleanlab.regression.rank")
    random = np.random.default_rng(0)
    predicted = random.normal(0, 1, 500)
    values = predicted + random.normal(0, 0.1, 500)
    values[[7, 11, 13]] += [2.0, -3.0, 1.5]
    found = wrong_values([Example(f"text {number}") for number in range(500)], values, predicted)
    order = rank.get_label_quality_scores(values, predicted, method="residual").argsort()
    ranked = [one.example for one in sorted(found, key=lambda one: one.score)]
    assert ranked[:3] == [11, 7, 13]
    assert ranked == order[: len(ranked)].tolist()
    assert len(ranked) < 3 + 500 * 0.01  # of a normal distribution 0.27 % is beyond three deviations
    same = np.ones(4)
    assert wrong_values([Example("text")] * 4, same, same) == []


def test_a_suspect_number_shows_both_texts_and_both_numbers():
    examples = [Example("a cat", "a dog", float(number % 5), f"line {number}") for number in range(40)]
    scores = [torch.tensor([[one.label + 0.01 * (number % 3)]]) for number, one in enumerate(examples)]
    scores[7] += 2.5
    (one,) = task_named("regression").suspects(examples, scores, ("value",))
    assert (one.where, one.text, one.given, one.suggested) == ("line 7", "a cat / a dog", "2", "4.51")
    assert (one.start, one.end) == (None, None)


def tagged(words, tags, guess, sure=0.97):
    """A sentence, and scores that predict the tags `guess`."""
    rest = (1 - sure) / (len(TAGS) - 1)
    scores = logits([[sure if tag == one else rest for tag in TAGS] for one in guess.split()])
    return TaggedExample(tuple(words.split()), tuple(tags.split()), "train.conll, line 1"), scores


RIGHT = tagged("Ann Lee left New York", *["B-PER I-PER O B-LOC I-LOC"] * 2, sure=0.9)
CASES = {
    "type": (tagged("Bo saw Ann Lee", "O O B-LOC I-LOC", "O O B-PER I-PER"), "LOC: Ann Lee", "PER: Ann Lee", "Ann Lee"),
    "missing": (tagged("Bo saw Ann Lee", "B-PER O O O", "B-PER O B-PER I-PER"), "O", "PER: Ann Lee", "Ann Lee"),
    "extra": (tagged("the old Rome", "B-PER O B-LOC", "O O B-LOC"), "PER: the", "O", "the"),
    "boundary": (tagged("Bo saw Ann Lee", "O O B-PER O", "O O B-PER I-PER"), "PER: Ann", "PER: Ann Lee", "Ann Lee"),
    "two": (
        tagged("of Rome Ann Lee", "O B-LOC B-PER I-PER", "O B-LOC I-LOC I-LOC"),
        "LOC: Rome; PER: Ann Lee",
        "LOC: Rome Ann Lee",
        "Rome Ann Lee",
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_wrong_span_is_one_suspect_with_its_place(kind):
    case, before, after, place = CASES[kind]
    examples, scores = zip(*[RIGHT] * 10, case)
    task = task_named("tag").fitted(TAGS, examples)
    (one,) = task.suspects(examples, scores, TAGS)
    assert (one.example, one.given, one.suggested) == (10, before, after)
    assert one.text[one.start : one.end] == place
    assert one.where == "train.conll, line 1"


def test_span_errors_of_all_kinds_are_on_one_scale():
    """The surer the model, the lower the score, whatever the kind of error."""
    kinds = [("O O O", "O B-PER O"), ("O B-LOC O", "O B-PER O"), ("O B-PER O", "O B-PER I-PER")]
    cases = [tagged("saw Ann Lee", *kind, sure=sure) for kind, sure in zip(kinds, (0.97, 0.99, 0.95))]
    examples, scores = zip(*[RIGHT] * 10, *cases)
    found = task_named("tag").fitted(TAGS, examples).suspects(examples, scores, TAGS)
    assert [one.example for one in sorted(found, key=lambda one: one.score)] == [11, 10, 12]


def test_a_span_of_which_the_model_is_not_confident_is_no_suspect():
    examples, scores = zip(*[RIGHT] * 10, tagged("saw Ann Lee", "O O O", "O B-PER I-PER", sure=0.5))
    assert task_named("tag").fitted(TAGS, examples).suspects(examples, scores, TAGS) == []


def test_the_score_of_a_span_is_the_mean_probability_of_the_labels_in_dispute():
    chances = [[0.01, 0.9, 0.01, 0.07, 0.01], [0.01, 0.02, 0.01, 0.88, 0.08], [0.01, 0.01, 0.01, 0.95, 0.02]]
    wrong = TaggedExample(("Ann", "van", "Lee"), ("B-PER", "O", "O"), "line 1"), logits(chances)
    examples, scores = zip(*[RIGHT] * 10, wrong)
    (one,) = task_named("tag").fitted(TAGS, examples).suspects(examples, scores, TAGS)
    assert (one.given, one.suggested) == ("PER: Ann", "PER: Ann van Lee")
    assert one.score == pytest.approx((0.08 + 0.02) / 2)  # the label of Ann is not in dispute


def test_without_spans_each_word_is_a_suspect_of_its_own():
    labels = ("NOUN", "VERB")
    right = TaggedExample(("dogs", "bark"), labels, "line 1"), logits([[0.9, 0.1], [0.1, 0.9]])
    wrong = TaggedExample(("dogs", "bark"), ("VERB", "NOUN"), "line 4"), logits([[0.95, 0.05], [0.02, 0.98]])
    examples, scores = zip(*[right] * 10, wrong)
    found = task_named("tag").fitted(labels, examples).suspects(examples, scores, labels)
    assert [(one.given, one.suggested) for one in found] == [
        ("VERB: dogs", "NOUN: dogs"),
        ("NOUN: bark", "VERB: bark"),
    ]
