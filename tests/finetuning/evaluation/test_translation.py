"""BLEU, chrF and exact matches from sums of counts, beside sacrebleu over the whole corpus."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.finetuning.evaluation.per_example import Counts, csr_array
from bert.finetuning.evaluation.translation import CorpusMetric, bleu_tokenizer, formula, statistics

WORDS = st.sampled_from(["the", "cat", "sat.", "a", "dog", "(x)", "3.5", "苹果", "在", "。", "Don't", "ö"])
SENTENCES = st.lists(WORDS, max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES.filter(bool)), min_size=1, max_size=6)


def of_corpus(found, right, tokenize):
    """What sacrebleu says of a corpus."""
    exact = sum(one.split() == other.split() for one, other in zip(found, right)) / len(found)
    bleu = sacrebleu.BLEU(tokenize=tokenize).corpus_score(found, [right]).score
    return {"bleu": bleu, "chrf": sacrebleu.CHRF().corpus_score(found, [right]).score, "exact_match": exact}


def of_counts(counts, weights=None):
    weights = np.ones((1, len(counts))) if weights is None else weights
    values = Counts((), csr_array(counts), formula).metrics(weights)
    return {name: value[0] for name, value in values.items()}


@settings(deadline=None)
@given(PAIRS, st.sampled_from(["13a", "zh", "char"]))
def test_the_metrics_are_those_of_sacrebleu(pairs, tokenize):
    found, right = map(list, zip(*pairs))
    assert of_counts(statistics(found, right, tokenize)) == pytest.approx(of_corpus(found, right, tokenize), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(PAIRS, st.data())
def test_a_weight_is_a_number_of_copies(pairs, data):
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs)).filter(any))
    found, right = map(list, zip(*pairs))
    several = [pair for pair, count in zip(pairs, times) for _ in range(count)]
    expected = of_corpus(*map(list, zip(*several)), "13a")
    assert of_counts(statistics(found, right, "13a"), np.array([times])) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["bleu", "chrf", "exact_match"])
def test_a_metric_over_parts_is_that_of_the_whole(name):
    found, right = ["the cat sat", "a dog", "苹果"], ["the cat sat down", "a dog", "梨"]
    metric = CorpusMetric(name)
    for part in (slice(1), slice(1, None)):
        metric.update(statistics(found[part], right[part], "13a"))
    assert float(metric.compute()) == pytest.approx(of_corpus(found, right, "13a")[name], abs=1e-4)
    metric.reset()
    assert float(metric.compute()) == 0.0


@pytest.mark.parametrize(
    ("text", "name"),
    [("The cat sat.", "13a"), ("农民在果园里。", "zh"), ("りんごを食べる", "char"), ("แมว", "char"), ("", "13a")],
)
def test_the_tokenizer_of_bleu_follows_from_the_script(text, name):
    assert bleu_tokenizer([text, "12 %"]) == name
