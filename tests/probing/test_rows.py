"""Sentences from files of each kind, and what is refused."""

import gzip
import json
from pathlib import Path

import pytest

from bert.data.files import READERS
from bert.errors import InputError
from bert.probing.rows import Row, read_pairs, read_rows


def test_plain_text_has_a_sentence_a_line(tmp_path: Path) -> None:
    file = tmp_path / "lines.txt.gz"
    file.write_bytes(gzip.compress("An apple.\r\n\n  \n我吃苹果。\n".encode()))
    assert read_rows(file) == [Row("An apple.", f"{file}, line 1"), Row("我吃苹果。", f"{file}, line 4")]


def test_json_lines_and_tables_give_word_place_and_sense(tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    rows = [
        {"word": "apple", "sentence": "an apple , an apple", "start": 3, "end": 8, "sense": "fruit"},
        {"word": "apple", "sentence": "an apple , an apple", "index": 4, "sense": 1},
        {"sentence": "no more"},
    ]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = read_rows(lines)
    assert (first.word, first.span, first.sense) == ("apple", (3, 8), "fruit")
    assert (second.span, second.sense) == ((14, 19), "1")
    assert (third.word, third.span, third.sense) == (None, None, None)
    table = tmp_path / "rows.tsv"
    table.write_text('text\tsense\tword\tstart\tend\n"an apple\tfruit\tapple\t4\t9\n')
    (row,) = read_rows(table)
    assert row == Row('"an apple', f"{table}, line 2", "apple", (4, 9), "fruit")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " \n\n", "a.txt: no sentences: give a file with at least one"),
        ("a.jsonl", "", "no column `sentence`; there are: none"),
        (
            "a.jsonl",
            '{"sentense": "x"}\n',
            r"no column `sentence`; there are: sentense\. Rename a column\. Did you mean `sentense`\?",
        ),
        (
            "a.jsonl",
            '{"sentence": "x"}\n{"word": "y"}\n',
            r"a.jsonl, line 2: no text in column 'sentence'; there are: word",
        ),
        ("a.jsonl", "{nonsense\n", r"a.jsonl, line 1: not valid JSON"),
        (
            "a.jsonl",
            '{"sentence": "an apple", "start": 3, "end": 9}\n',
            r"line 1: characters 3 to 9 are not inside its sentence of 8",
        ),
        ("a.jsonl", '{"sentence": "an apple", "start": "x", "end": 9}\n', r"line 1: start is 'x': give a whole number"),
        (
            "a.jsonl",
            '{"sentence": "an apple", "start": 3}\n',
            r"line 1: only start is given: give start and end, or neither",
        ),
        (
            "a.jsonl",
            '{"sentence": "an apple", "index": 2}\n',
            r"line 1: index is 2 and the sentence has 2 words",
        ),
        ("a.tsv", "sentence\tword\nan apple\n", "line 2: 1 cells, the header has 2"),
        ("a.jsonl", f'{{"sentence": {"1" * 5000}}}\n', r"line 1: not valid JSON \(Exceeds the limit"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("name", ["a.parquet", "a.XML", "a.parquet.gz"])
def test_a_format_of_a_corpus_without_sentences_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(READERS, ".xml", READERS[".parquet"])
    (tmp_path / name).write_text("<text>An apple.</text>\n")
    suffix = name.removesuffix(".gz")[1:].lower()
    for read in (read_rows, read_pairs):
        with pytest.raises(InputError) as caught:
            read(tmp_path / name)
        known = ".txt, .text, .jsonl, .ndjson, .json, .tsv, .csv"
        assert str(caught.value) == f"{tmp_path / name}: {suffix} is not a format of sentences: convert it to {known}"


def test_blank_lines_before_the_header_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n\nsentence\nan apple\n\na pear\n")
    assert [row.sentence for row in read_rows(tmp_path / "a.csv")] == ["an apple", "a pear"]
    for delimiter in ",;":
        lines = ["", "", delimiter.join(["sentence", "word"]), delimiter.join(["an apple", "apple"])]
        (tmp_path / "a.csv").write_text("\n".join(lines))
        assert [(row.sentence, row.word) for row in read_rows(tmp_path / "a.csv")] == [("an apple", "apple")]
    (tmp_path / "a.csv").write_text("\nsentence,sentence\nan apple,a pear\n")
    with pytest.raises(InputError, match="line 2: two columns are named 'sentence'"):
        read_rows(tmp_path / "a.csv")


def test_pairs_are_read_where_the_columns_are_there(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"good": "a b", "bad": "b a"}\n')
    assert [(pair.good, pair.bad) for pair in read_pairs(file)] == [("a b", "b a")]
    file.write_text('{"sentence": "a b"}\n')
    assert read_pairs(file) is None
    (tmp_path / "lines.txt").write_text("a\n")
    assert read_pairs(tmp_path / "lines.txt") is None
    file.write_text('{"good": "a b", "bad": "b a"}\n{"good": "a b"}\n')
    with pytest.raises(InputError, match=r"line 2: no sentence in column 'bad'; there are: good"):
        read_pairs(file)


def test_pairs_know_what_they_differ_in_under_the_names_of_blimp_too(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text(
        "good\tbad\tphenomenon\tparadigm\tfield\n" + "a\tb\tbinding\tone\tsyntax\n" * 3 + "c\td\tbinding\t\t\n"
    )
    (first, second, other) = read_pairs(file, limit=2) or []
    assert (first.phenomenon, first.paradigm, first.field) == ("binding", "one", "syntax")
    assert (second.where, other.where) == (f"{file}, line 3", f"{file}, line 5")
    assert (other.good, other.paradigm, other.field) == ("c", None, None)
    blimp = tmp_path / "adjunct_island.jsonl"
    blimp.write_text('{"sentence_good": "a", "sentence_bad": "b", "linguistics_term": "islands", "UID": "adjunct"}\n')
    (pair,) = read_pairs(blimp) or []
    assert (pair.good, pair.bad, pair.phenomenon, pair.paradigm) == ("a", "b", "islands", "adjunct")


def test_places_count_line_ends_as_the_file_has_them(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"Word": "apple", "Sentence": "one\\r\\ntwo\\r\\nan apple", "START": 13, "end": 18.0}\n')
    (row,) = read_rows(file)  # columns in any case of letters
    assert row.sentence == "one\ntwo\nan apple"
    assert row.span is not None
    assert row.sentence[slice(*row.span)] == row.word == "apple"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            '{"word": "pear", "sentence": "🍐🍐 the pear fell", "start": 9, "end": 13}',
            "characters 9 to 13 are 'ar f', not 'pear'",
        ),
        (
            '{"word": "pear", "sentence": "few pears fell", "start": 0, "end": 3}',
            "characters 0 to 3 are 'few', not 'pear'",
        ),
        ('{"word": "pear", "sentence": "few pears fell", "index": 2}', "characters 10 to 14 are 'fell', not 'pear'"),
        ('{"word": "go", "sentence": "she went", "start": 4, "end": 8}', "characters 4 to 8 are 'went', not 'go'"),
        ('{"lemma": "go", "sentence": "she went", "start": 5, "end": 8}', "characters 5 to 8 are 'ent', not 'go'"),
        ('{"word": "क", "sentence": "का", "start": 0, "end": 2}', "characters 0 to 2 are 'का', not 'क'"),
    ],
)
def test_a_place_of_something_else_than_the_word_is_named(tmp_path: Path, row: str, told: str) -> None:
    file = tmp_path / "places.jsonl"
    column = "lemma" if "lemma" in row else "word"
    first = f'{{"{column}": "pear", "sentence": "a pear", "start": 2, "end": 6}}'
    file.write_text(f"{first}\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_rows(file)
    assert str(caught.value).startswith(
        f"{file}, line 2: {told}; count characters, not bytes, or name the column `lemma`"
    )


@pytest.mark.parametrize(
    "row",
    [
        '{"word": "pear", "sentence": "three Pears", "start": 6, "end": 11}',
        '{"word": "pear", "sentence": "a (pear), ripe", "index": 1}',
        '{"word": "pear", "sentence": "the pear\'s skin", "index": 1}',
        '{"word": "İzmir", "sentence": "in izmir", "start": 3, "end": 8}',
        '{"lemma": "go", "sentence": "she went", "start": 4, "end": 8}',
        '{"target": "梨", "sentence": "吃梨吧", "start": 1, "end": 2}',
        '{"sentence": "no word given", "start": 3, "end": 5}',
    ],
)
def test_a_place_of_the_word_or_a_form_of_it_is_read(tmp_path: Path, row: str) -> None:
    (tmp_path / "places.jsonl").write_text(row + "\n", encoding="utf-8")
    (one,) = read_rows(tmp_path / "places.jsonl")
    assert one.span is not None


def test_a_column_of_the_very_name_is_taken_before_one_in_other_letters(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("sentence\tSentence\nright\twrong\n")
    assert [row.sentence for row in read_rows(tmp_path / "a.tsv")] == ["right"]


@pytest.mark.parametrize(
    ("place", "word"),
    [
        ({"index": 1}, "pears"),  # [“Pears’,]
        ({"start": 0, "end": 17}, "pears"),
        ({"start": 4, "end": 11}, "pears"),
    ],
)
def test_a_place_is_that_of_the_word_without_what_stands_beside_it(
    tmp_path: Path, place: dict[str, int], word: str
) -> None:
    file = tmp_path / "places.jsonl"
    file.write_text(json.dumps({"word": "pear", "sentence": "Two “Pears’, fell"} | place))
    (row,) = read_rows(file)
    assert row.span is not None
    assert row.sentence[slice(*row.span)].lower() == word
