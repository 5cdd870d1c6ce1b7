"""Texts that stand in two files, against a brute-force search over sets of n-grams."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.finetuning.evaluation import overlap
from bert.finetuning.evaluation.overlap import copies, normal_form

LONG = "The committee has postponed the vote on the new bridge until the middle of March."
OTHER = "A gentle comedy about two sisters who inherit a lighthouse and a debt."


def grams(text):
    text = normal_form(text)
    return {text[place : place + 5] for place in range(len(text) - 4)}


def likeness(one, other):
    a, b = grams(one), grams(other)
    return len(a & b) / (len(a) * len(b)) ** 0.5 if a and b else 0.0


@pytest.mark.parametrize("copy", [LONG.upper(), f"  {LONG.replace(' ', '  ')} ", LONG.replace("f", "\uff46")])
def test_texts_that_differ_in_case_spaces_or_width_are_equal(copy):
    (one,) = copies([OTHER, LONG], [copy])
    assert one == (0, 1, 1.0)


@pytest.mark.parametrize("copy", [LONG.replace("middle", "midle"), f"{LONG} Yes.", LONG.replace("new ", "")])
def test_a_near_copy_is_found_and_is_not_called_equal(copy):
    (one,) = copies([OTHER, LONG], ["something else", copy])
    assert (one.test, one.train) == (1, 1)
    assert 0.8 < one.similarity < 1
    assert one.similarity == pytest.approx(likeness(LONG, copy), abs=1e-5)


def test_the_same_n_grams_in_another_text_are_no_equal_text():
    (one,) = copies(["ab" * 20], ["ab" * 30])
    assert one.similarity == pytest.approx(0.999)


parts = st.builds(lambda begin, size: LONG[begin : begin + size], st.integers(0, 30), st.integers(0, 30))
texts = st.lists(parts, max_size=8)  # that share many n-grams


@given(texts, texts, st.sampled_from([0.5, 0.8]), st.sampled_from([1, 5, 10_000]))
def test_the_nearest_text_is_that_of_a_brute_force_search(train, test, least, at_once):
    before, overlap._PAIRS_AT_ONCE = overlap._PAIRS_AT_ONCE, at_once
    try:
        found = {one.test: one for one in copies(train, test, least)}
    finally:
        overlap._PAIRS_AT_ONCE = before
    for number, text in enumerate(test):
        equal = [place for place, other in enumerate(train) if normal_form(other) == normal_form(text)]
        best = max([likeness(text, other) for other in train], default=0.0)
        if equal:
            assert found[number][1:] == (equal[0], 1.0)
        elif abs(best - least) > 1e-5:
            assert (number in found) == (best > least)
            if number in found:
                assert likeness(text, train[found[number].train]) == pytest.approx(best, abs=1e-5)


def test_half_of_a_surrogate_pair_is_compared_too():
    assert copies([LONG + "\ud83d"], [LONG + "\ud83d"])[0].similarity == 1


def test_memory_does_not_grow_with_the_training_texts(monkeypatch):
    monkeypatch.setattr(overlap, "_PAIRS_AT_ONCE", 2_000)
    peaks = []
    for count in (200, 1_600):
        train = [f"{LONG} Number {number} of many." for number in range(count)]
        tracemalloc.start()
        assert len(copies(train, train[:10])) == 10
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    texts_alone = 1_400 * 400  # bytes of the normal forms, and the entries of the table of them
    assert peaks[1] < peaks[0] + texts_alone
