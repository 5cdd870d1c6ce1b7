"""Labelled words and texts from files: against the files themselves, and what is refused."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.errors import InputError
from bert.probing.units import Units, read_units
from tests.conftest import DATA

DOGS = [
    "# text = Dogs don't bark, 5!",
    "1\tDogs\tdog\tNOUN\t_\tNumber=Plur\t4\tnsubj\t_\t_",
    "2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_",
    "2\tdo\tdo\tAUX\t_\t_\t4\taux\t_\t_",
    "3\tn't\tnot\tPART\t_\t_\t4\tadvmod\t_\t_",
    "4\tbark\tbark\tVERB\t_\tMood=Ind|Number=Plur\t0\troot\t_\tSpaceAfter=No",
    "5\t,\t,\tPUNCT\t_\t_\t4\tpunct\t_\t_",
    "6\tI\tI\tPRON\t_\tCase=Nom|Number=Sing\t4\tdep\t_\t_",
    "",
    "1\tStop\tstop\tVERB\t_\t_\t0\troot\t_\t_",
    "2\t§\t§\tSYM\t_\t_\t1\tdep\t_\t_",
    "",
]


def conllu(folder: Path, lines: list[str] = DOGS) -> Path:
    file = folder / "dogs.conllu"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def words_of(units: Units) -> list[str]:
    assert units.spans is not None
    return [units.sentences[owner][slice(*span)] for owner, span in zip(units.owners, units.spans, strict=True)]


def test_words_stand_in_their_sentences_with_a_column_as_label(tmp_path: Path) -> None:
    units = read_units(conllu(tmp_path), "UPOS")
    assert units.sentences == ("Dogs don't bark, I", "Stop §")
    assert words_of(units) == ["Dogs", "do", "n't", "bark", ",", "I", "Stop", "§"]
    assert units.labels == ("NOUN", "AUX", "PART", "VERB", "PUNCT", "PRON", "VERB", "SYM")
    assert units.types == ("dogs", "do", "n't", "bark", ",", "i", "stop", "§")
    assert units.owners.tolist() == [0] * 6 + [1] * 2
    assert np.flatnonzero(units.punctuation).tolist() == [4]
    assert units.heads is None
    assert read_units(conllu(tmp_path), "lemma").labels[:3] == ("dog", "do", "not")


def test_words_without_the_feature_are_left_out_and_counted(tmp_path: Path, said: list[str]) -> None:
    units = read_units(conllu(tmp_path), "feats=Number")
    assert (words_of(units), units.labels) == (["Dogs", "bark", "I"], ("Plur", "Plur", "Sing"))
    assert units.sentences == ("Dogs don't bark, I",)
    assert said[-1].endswith("5 of 8 words without feats=Number are left out")


def test_heads_are_indices_of_units_and_sentences_without_them_are_left_out(tmp_path: Path, said: list[str]) -> None:
    without = ["1\tNo\t_\t_\t_\t_\t_\t_\t_\t_", "2\thead\t_\t_\t_\t_\t1\t_\t_\t_", ""]
    units = read_units(conllu(tmp_path, [*DOGS[:9], *without, *DOGS[9:]]), "head")
    assert units.heads is not None
    assert units.heads.tolist() == [3, 3, 3, -1, 3, 3, -1, 6]
    assert units.labels == ("4", "4", "4", "0", "4", "4", "0", "1")
    assert said[-1].endswith("2 of 10 words without head are left out")


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_exactly_the_trees_with_one_root_are_taken(tmp_path_factory: pytest.TempPathFactory, heads: list[int]) -> None:
    """Against walks upward from each word."""

    def top(word: int) -> int:
        for _ in heads:
            word = heads[word - 1] if 0 < word <= len(heads) else word
        return word

    is_tree = heads.count(0) == 1 and all(top(word) == 0 for word in range(1, len(heads) + 1))
    lines = [f"{n}\tw\t_\t_\t_\t_\t{head}\t_\t_\t_" for n, head in enumerate(heads, start=1)]
    file = conllu(tmp_path_factory.mktemp("tree"), lines)
    if is_tree:
        found = read_units(file, "head").heads
        assert found is not None
        assert found.tolist() == [head - 1 for head in heads]
    else:
        with pytest.raises(InputError, match=r"dogs.conllu, line \d: head is \d; must be"):
            read_units(file, "head")


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (["2", "0", "7"], "line 3: head is 7; must be a word, or 0"),
        (["-1", "0"], "line 1: head is -1; must be a word"),
        (["0", "1", "0"], "line 3: head is 0; must be 0 only once"),
        (["0", "3", "2"], "line 2: head is 3; must be outside of a cycle"),
        (["1"], "line 1: head is 1; must be outside of a cycle"),
    ],
)
def test_heads_that_are_no_tree_are_refused_with_their_line(tmp_path: Path, heads: list[str], message: str) -> None:
    lines = [f"{n}\tw\t_\t_\t_\t_\t{head}\t_\t_\t_" for n, head in enumerate(heads, start=1)]
    with pytest.raises(InputError, match=message):
        read_units(conllu(tmp_path, lines), "head")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("uppos", "no column 'uppos'.*Did you mean `upos`"),
        ("xpos", "column 'xpos' holds nothing but _; filled are form, lemma, upos, feats, head, deprel, misc"),
        ("feats=Numbr", "no word has 'Numbr'; there are: Case, Mood, Number. Did you mean `Number`"),
        ("feats=Mood", "only one class of feats=Mood, 'Ind'"),
    ],
)
def test_a_label_that_tells_nothing_is_refused_with_what_is_there(tmp_path: Path, label: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_units(conllu(tmp_path), label)


def test_conll_takes_the_last_column_or_a_numbered_one(tmp_path: Path) -> None:
    file = tmp_path / "names.conll.gz"
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.write("Ann NNP B-PER\nleft VBD O\n. . O\n\nBob NNP B-PER\n")
    units = read_units(file, "tag")
    assert (units.labels, words_of(units)) == (("B-PER", "O", "O", "B-PER"), ["Ann", "left", ".", "Bob"])
    assert units.punctuation.tolist() == [False, False, True, False]
    assert read_units(file, "2").labels == ("NNP", "VBD", ".", "NNP")
    with pytest.raises(
        InputError, match=r"names.conll.gz: `label` is 'ner'; must be tag, the last column, or the number of a column"
    ):
        read_units(file, "ner")


def test_json_lines_hold_words_or_texts(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"words": ["Ann", "left"], "pos": ["N", "V"], "text": "Ann left", "kind": "a"}]
    rows += [{"words": ["苹果", "熟了"], "pos": ["N", "V"], "text": "苹果熟了", "kind": "b"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = read_units(file, "pos")
    assert words.sentences == ("Ann left", "苹果熟了")
    assert words_of(words) == ["Ann", "left", "苹果", "熟了"]
    texts = read_units(file, "kind", text="text")
    assert (texts.sentences, texts.labels, texts.spans) == (("Ann left", "苹果熟了"), ("a", "b"), None)
    with pytest.raises(InputError, match=r"no column 'poss'.*Did you mean `pos`"):
        read_units(file, "poss")


def test_a_table_holds_texts(tmp_path: Path, said: list[str]) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("sentence1,sentence2,grade\nGood.,Fine.,1\nBAD!,Worse.,0\n")
    units = read_units(file, "grade")
    assert units.sentences == units.types == ("Good.", "BAD!")
    assert (units.labels, units.owners.tolist(), units.spans, units.heads) == (("1", "0"), [0, 1], None, None)
    assert not units.punctuation.any()
    assert said[-1].endswith("column 'sentence2' is not read: units are single texts")
    with pytest.raises(InputError, match=r"no column 'grad'.*Did you mean `grade`"):
        read_units(file, "grad")


@pytest.mark.parametrize("suffix", [".conll", ".conllu"])
def test_hostile_words_keep_their_places(tmp_path: Path, suffix: str) -> None:
    words = ["\x1b[31m", "\u202eevil", "a\u0301" * 50_000, "<script>", "\u200b", "👩‍👩‍👧", "\x01", "a b"]
    rows = [f"{n}\t{word}\t_\tX{n % 2}\t_\t_\t_\t_\t_\t_" for n, word in enumerate(words, start=1)]
    if suffix == ".conll":
        rows = [f"{word}\tX{n % 2}" for n, word in enumerate(words)]
    file = tmp_path / f"hostile{suffix}"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    units = read_units(file, "upos" if suffix == ".conllu" else "tag")
    assert words_of(units) == words


def test_the_words_of_a_treebank_are_all_read() -> None:
    file = DATA / "ud-ewt" / "dev.conllu.gz"
    if not file.exists():
        pytest.skip("needs ../shared/data/ud-ewt")
    units = read_units(file, "deprel")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        cells = [line.split("\t") for line in lines if line[:1].isdigit()]
    cells = [row for row in cells if row[0].isdecimal()]
    assert (words_of(units), list(units.labels)) == ([row[1] for row in cells], [row[7] for row in cells])
    assert int(units.punctuation.sum()) == sum(row[3] == "PUNCT" for row in cells)
