"""Figures of a classifier and a tagger against scikit-learn, and the guesses without a model against their definition."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from bert.finetuning.figures import baseline, in_words, make_figures, read, update
from bert.finetuning.metrics import scheme_of

LABELS = ("cold", "hot", "mild")


def drawn(rng, count):
    return [[LABELS[i]] for i in rng.integers(0, 3, count)]


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_of_a_classifier_are_those_of_scikit_learn_over_all_updates(seed):
    rng = np.random.default_rng(seed)
    guessed, right = drawn(rng, 40), drawn(rng, 40)
    figures = make_figures(LABELS, tagging=False)
    update(figures, LABELS, guessed[:13], right[:13])
    update(figures, LABELS, guessed[13:], right[13:])
    flat = [[label for labels in side for label in labels] for side in (right, guessed)]
    expected = {"accuracy": accuracy_score(*flat), "macro_f1": f1_score(*flat, average="macro", labels=LABELS)}
    assert read(figures) == pytest.approx(expected)
    update(figures, LABELS, right, right)
    assert read(figures) == {"accuracy": 1.0, "macro_f1": 1.0}  # what was read is counted no more


def test_accuracy_of_tags_counts_words_and_not_sentences():
    figures = make_figures(("NOUN", "VERB"), tagging=True)
    update(figures, ("NOUN", "VERB"), [["NOUN"], ["VERB"] * 3], [["VERB"], ["VERB"] * 3])
    assert read(figures) == {"accuracy": 0.75}


def test_tags_of_spans_are_led_by_the_span_f1():
    tags = ("B-WHO", "I-WHO", "O")
    figures = make_figures(tags, tagging=True, scheme=scheme_of([tags]))
    update(figures, tags, [["B-WHO", "O", "B-WHO"]], [["B-WHO", "I-WHO", "B-WHO"]])
    assert read(figures) == {"span_f1": 0.5, "strict_span_f1": 0.5, "accuracy": pytest.approx(2 / 3)}


def test_a_sentence_without_a_word_counts_nothing():
    figures = make_figures(("NOUN", "VERB"), tagging=True)
    update(figures, ("NOUN", "VERB"), [[]], [[]])
    update(figures, ("NOUN", "VERB"), [["NOUN"]], [["NOUN"]])
    assert read(figures) == {"accuracy": 1.0}


def test_without_a_model_a_text_gets_the_most_frequent_label_of_what_was_learned():
    learned = [((), (label,)) for label in ["hot", "hot", "cold"]]
    asked = [((), (label,)) for label in ["hot", "cold", "cold", "mild"]]
    assert baseline(learned, asked, LABELS, tagging=False)["accuracy"] == 0.25


def test_of_equally_frequent_labels_the_first_in_the_alphabet_is_guessed_whatever_the_order():
    asked = [((), ("cold",))]
    for order in (["hot", "cold"], ["cold", "hot"]):
        assert baseline([((), (label,)) for label in order], asked, LABELS, tagging=False)["accuracy"] == 1.0


def test_without_a_model_a_word_gets_its_most_frequent_tag_and_an_unknown_one_that_of_all():
    learned = [(("bank", "banks", "bank"), ("NOUN", "VERB", "NOUN")), (("bank", "near"), ("VERB", "VERB"))]
    asked = [(("bank", "near", "new"), ("NOUN", "VERB", "VERB")), (("banks",), ("NOUN",))]
    assert baseline(learned, asked, ("NOUN", "VERB"), tagging=True) == {"accuracy": 0.75}


def test_figures_are_said_as_shares_of_a_hundred():
    assert in_words({"span_f1": 0.5, "strict_span_f1": 0.456, "accuracy": 1.0}) == (
        "span F1 50.0%, strict span F1 45.6%, accuracy 100.0%"
    )
