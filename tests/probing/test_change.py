"""Change of meaning between two periods, against definitions, and planted changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, cosine, jensenshannon
from scipy.stats import kstest

from bert.errors import InputError
from bert.probing.change import PERMUTATIONS, change, measures, with_p
from bert.probing.rows import Row, read_rows
from tests.probing.models import FIRM, FRUIT, SENSES, make_masked_lm, sentence


@given(st.integers(0, 10_000))
def test_the_measures_are_their_definitions(seed: int) -> None:
    draw = np.random.default_rng(seed)
    vectors, second = draw.normal(0.3, 1, (30, 5)), draw.random((2, 30)) < 0.4
    second[:, 0], second[:, 1] = True, False
    clusters = draw.integers(0, 3, 30)
    apd, prt, jsd = measures(vectors, clusters, second.astype(float))
    for n, of in enumerate(second):
        one, two = vectors[~of], vectors[of]
        assert apd[n] == pytest.approx(cdist(one, two, "cosine").mean())
        assert prt[n] == pytest.approx(1 / max(1 - cosine(one.mean(axis=0), two.mean(axis=0)), 1e-6))
        shares = [np.bincount(clusters[side], minlength=3) / side.sum() for side in (~of, of)]
        assert jsd[n] == pytest.approx(jensenshannon(*shares, base=2) ** 2, abs=1e-9)


def test_p_values_of_unchanged_words_are_uniform_and_those_of_changed_ones_small() -> None:
    """A word of two senses, and the same mixture in both periods; or another."""
    draw = np.random.default_rng(0)

    def p_of(first: float, second: float) -> list[float]:
        sense = np.concatenate([draw.random(30) < first, draw.random(20) < second])
        vectors = draw.normal(0, 0.5, (50, 8)) + np.where(sense[:, None], 1, -1) * np.eye(8)[0] + 1
        return with_p(vectors, np.arange(50) >= 30, sense.astype(int), draw)[1]

    unchanged = np.array([p_of(0.7, 0.7) for _ in range(200)])  # (words, 3)
    for column in (0, 1):  # that of two clusters takes few values
        assert kstest(unchanged[:, column], "uniform").pvalue > 0.01
    assert (unchanged <= 0.05).mean(axis=0).max() <= 0.09
    assert np.max([p_of(0.9, 0.1) for _ in range(20)]) <= 0.01
    assert np.min([p_of(1.0, 0.0) for _ in range(3)]) == 1 / (PERMUTATIONS + 1)


def rows_of(word: str, first: str, second: str) -> list[Row]:
    """Ten sentences in each period, all of one sense."""
    return [
        Row(sentence(word, SENSES["apple"][sense], n), f"line {n}", word, group=period)
        for period, sense in (("1900", first), ("2000", second))
        for n in range(10)
    ]


def test_the_changed_word_comes_first_with_an_example_of_each_period() -> None:
    rows = rows_of("apple", "fruit", "firm") + rows_of("berry", "fruit", "fruit")
    found = change(rows, make_masked_lm())
    assert found.periods == ("1900", "2000")
    assert [one.word for one in found.words] == ["apple", "berry"]
    apple, berry = found.words
    assert apple.p_prt <= 0.01 < 0.2 < berry.p_prt
    for example, companions in ((apple.example_first, FRUIT), (apple.example_second, FIRM)):
        assert "[apple]" in example
        assert any(one in example for one in companions)
    assert (apple.first, apple.second) == (10, 10)
    row = found.table()[0]
    assert (row["first_period"], row["second_period"], row["vectors"]) == ("1900", "2000", "layers 1–2, summed")
    assert set(found.table()[0]) >= {"word", "apd", "p_apd", "q", "example_first"}
    assert f"apple, 1900: {apple.example_first}" in str(found)
    assert "berry, 1900" not in str(found)
    assert str(found).startswith("vectors of layers 1–2, summed\n")
    assert str(change(rows, make_masked_lm(), layer=1)).startswith("vectors of layer 1\n")
    assert f"1 + {berry.prt - 1:.2g}" in str(found)


def test_rows_without_two_periods_or_enough_occurrences_are_refused(tmp_path: Path) -> None:
    rows = rows_of("apple", "fruit", "firm")
    encoder = make_masked_lm()
    with pytest.raises(InputError, match=r"3 periods \(1900, 1950, 2000\): give rows of exactly two"):
        change([*rows, replace(rows[0], group="1950")], encoder)
    with pytest.raises(InputError) as told:
        change([replace(row, group=row.sentence * 9) for row in rows], encoder)
    assert len(str(told.value)) < 200
    with pytest.raises(InputError, match="no word has 5 occurrences in 1900 and in 2000"):
        change([*rows[:4], *rows[10:]], encoder)
    with pytest.raises(InputError, match=r"aple: no row has this word\. Did you mean `apple`"):
        change(rows, encoder, words=["aple"])
    few = [*rows, *rows_of("rare", "fruit", "firm")[8:]]
    assert "rare" in change(few, encoder).notes[0]
    file = tmp_path / "rows.tsv"
    file.write_text("sentence\tword\tyear\nan apple a day\tapple\t1900\nan apple\tapple\t\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 3: no value in column 'year'"):
        read_rows(file, group="year")
    with pytest.raises(InputError, match=r"no column 'yaer'.*Did you mean `year`"):
        read_rows(file, group="yaer")
