"""The sentences that come with the recipes can be read, and say what they say of themselves."""

from pathlib import Path

from bert.probing.occurrences import find, forms_of
from bert.probing.rows import read_pairs, read_rows

FOLDER = Path(__file__).parents[2] / "recipes" / "probe"


def test_the_senses_are_even_and_the_places_are_those_of_the_word() -> None:
    for name in ("apple", "pingguo"):
        rows = read_rows(FOLDER / f"{name}.jsonl")
        senses = [row.sense for row in rows]
        assert {senses.count(sense) for sense in set(senses)} == {len(rows) // 2}
        assert all(len(find(row.sentence, forms_of(row.word))) == 1 for row in rows)
        assert all(row.sentence[slice(*row.span)].casefold() == row.word for row in rows)


def test_pairs_are_different_sentences_of_one_length() -> None:
    pairs = read_pairs(FOLDER / "pairs.jsonl")
    assert all(pair.good != pair.bad and len(pair.good.split()) == len(pair.bad.split()) for pair in pairs)
