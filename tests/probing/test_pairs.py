"""Minimal pairs: what is right, wrong and a tie, and how pairs are counted."""

from pathlib import Path

import pytest

from bert import score
from bert.errors import InputError
from bert.probing.pairs import MinimalPairs, ScoredPair, minimal_pairs
from bert.probing.rows import Pair
from bert.probing.sentences import SentenceScore
from tests.probing.models import make_masked_lm


def scored(good: float, bad: float, phenomenon: str | None = None) -> ScoredPair:
    sides = [SentenceScore("a b", ("a", "b"), (value / 4, 3 * value / 4)) for value in (good, bad)]
    return ScoredPair(Pair("a b", "b a", "", phenomenon), *sides)


def test_the_right_sentence_must_have_the_higher_score_and_rounding_decides_nothing() -> None:
    assert scored(-3.0, -3.1).verdict == "right"
    assert scored(-3.1, -3.0).verdict == "wrong"
    assert scored(-3.0, -3.0).verdict == scored(-3.0, -3.00001).verdict == scored(-3.00001, -3.0).verdict == "tie"


def test_a_tie_is_counted_and_is_not_right() -> None:
    result = MinimalPairs((scored(-1, -2, "x"), scored(-1, -1, "y"), scored(-2, -1, "x"), scored(-1, -2)))
    assert [(group.name, group.pairs, group.right, group.ties) for group in result.groups("phenomenon")] == [
        ("x", 2, 1, 0),
        ("y", 1, 0, 1),
    ]
    assert (result.overall.right, result.overall.ties, result.overall.accuracy) == (2, 1, 0.5)
    assert "1 pair is a tie" in str(result)
    assert "tie" not in str(MinimalPairs((scored(-1, -2),))).replace("ties", "")


def test_pairs_are_scored_as_their_sentences_are() -> None:
    model = make_masked_lm()
    pairs = [Pair("the cat sat", "sat the cat"), Pair("the unripe apple", "an unripe apple")]
    for within_word in (False, True):
        result = minimal_pairs(pairs, model, within_word=within_word)
        for one, pair in zip(result.pairs, pairs, strict=True):
            for side, text in ((one.good, pair.good), (one.bad, pair.bad)):
                (alone,) = score([text], model, within_word=within_word)
                assert side.score == pytest.approx(alone.score, abs=1e-4)


def test_sentences_of_the_same_tokens_are_a_tie_in_whatever_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bert.probing.sentences.CHUNK_TOKENS", 40)  # the two sides stand in two chunks
    result = minimal_pairs([Pair("the CAT sat on the mat", "the cat sat on the mat")] * 3, make_masked_lm())
    assert [one.verdict for one in result.pairs] == ["tie"] * 3


def test_a_file_without_pairs_and_a_sentence_without_a_token_are_refused(tmp_path: Path) -> None:
    model = make_masked_lm()
    (tmp_path / "lines.txt").write_text("the cat\n")
    with pytest.raises(InputError, match=r"lines.txt: no columns good and bad"):
        minimal_pairs(tmp_path / "lines.txt", model)
    with pytest.raises(InputError, match=r"pair 2: no token in the sentence '\\u200b'"):
        minimal_pairs([Pair("the cat", "cat the"), Pair("the cat", "\u200b")], model)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "^no pairs: give at least one$"),
        (None, "^pairs is None; must be "),
        ([("the cat", "cat the")], r"^pairs\[0\] is \('the cat', 'cat the'\); must be "),
    ],
)
def test_what_is_no_list_of_pairs_is_refused(pairs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        minimal_pairs(pairs, make_masked_lm())  # type: ignore[arg-type]
