"""Labelled rows: what a file holds is what comes out, and what is wrong with it is said with its line."""

import gzip
import io
import json
import sys
import tracemalloc
from pathlib import Path

import pytest

from bert.data.examples import Columns, read_examples
from tests.conftest import DATA
from tests.data.reading import COMPRESS, error_of, write


def rows(path: Path | str, **options) -> list[tuple[str, str | None]]:
    return [(example.text, example.label) for example in read_examples(path, **options)]


# ── texts with one label ──

EXPECTED = [("an apple a day", "fruit"), ("Apple sells phones", "firm")]
TABLES = {
    "a.tsv": "text\tlabel\nan apple a day\tfruit\nApple sells phones\tfirm\n",
    "a.csv": "text,label\nan apple a day,fruit\nApple sells phones,firm\n",
    "semicolons.csv": "Label;Text\r\nfruit;an apple a day\r\nfirm;Apple sells phones\r\n",
    "a.jsonl": '{"text": "an apple a day", "label": "fruit"}\n\n{"label": "firm", "text": "Apple sells phones"}',
}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", TABLES)
def test_every_format_gives_the_same_rows(tmp_path, name, bom, compression):
    path = write(tmp_path / (name + compression), COMPRESS[compression](bom + TABLES[name].encode()))
    assert rows(path) == EXPECTED


def test_quoted_cells_hold_line_ends_delimiters_and_quotes_and_lines_are_counted_through_them(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\r\n"one,\r\ntwo ""three"""\t,a\r\n\r\n"four\n",b\r\nfive,c\r\n')
    path = write(path, path.read_text().replace("\t", ""))
    read = list(read_examples(path))
    assert [(e.text, e.label) for e in read] == [('one,\ntwo "three"', "a"), ("four", "b"), ("five", "c")]
    assert [e.where for e in read] == [f"{path}, line {n}" for n in (2, 5, 7)]


def test_a_stray_quote_in_a_tsv_file_is_a_character(tmp_path):
    path = write(tmp_path / "a.tsv", 'sentence\tlabel\n"a quote\t1\nb\t0\n')
    assert rows(path) == [('"a quote', "1"), ("b", "0")]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text\tlabel", Columns("text", None, "label")),
        ("id\tSentence\tSense", Columns("Sentence", None, "Sense")),
        ("label\tsentence1\tsentence2", Columns("sentence1", "sentence2", "label")),
        ("question1\tquestion2\tclass", Columns("question1", "question2", "class")),
        ("premise\thypothesis\tlabel", Columns("premise", "hypothesis", "label")),
        ("content\tsentence2\ttopic", Columns("content", None, "topic")),
        ("text\tpair\tcategory\tlabel", Columns("text", "pair", "label")),
    ],
)
def test_columns_are_found_by_usual_names(tmp_path, header, columns):
    path = write(tmp_path / "a.tsv", f"{header}\n" + "\t".join("x" * len(header.split("\t"))) + "\n")
    assert read_examples(path).columns == columns


def test_named_columns_go_before_usual_ones(tmp_path):
    path = write(tmp_path / "a.csv", "text,label,title,mood\na,b,c,d\n")
    (example,) = read_examples(path, text="title", pair="text", label="mood")
    assert (example.text, example.pair, example.label) == ("c", "a", "d")


def test_labels_of_json_are_strings(tmp_path):
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": "x", "label": y}) + "\n" for y in (0, 1, True, "z")))
    assert [label for _, label in rows(path)] == ["0", "1", "true", "z"]


def test_without_need_of_labels_they_may_lack_and_plain_text_is_a_row_a_line(tmp_path):
    assert rows(write(tmp_path / "a.txt", "one\n\n two \u2028three"), needs_label=False) == [
        ("one", None),
        ("", None),  # an empty sentence is a row: predictions stand beside it
        ("two \u2028three", None),
    ]
    assert rows(write(tmp_path / "a.csv", "text\none\n"), needs_label=False) == [("one", None)]
    assert rows(write(tmp_path / "b.csv", "text,label\none,\ntwo,x\n"), needs_label=False) == [
        ("one", None),
        ("two", "x"),
    ]
    assert rows(write(tmp_path / "a.jsonl", '{"text": "one"}\n'), needs_label=False) == [("one", None)]


def test_standard_input_is_read_as_it_comes(monkeypatch):
    class Typed(io.BytesIO):
        """Gives one line at a time and says when it was asked for."""

        def read1(self, size: int = -1) -> bytes:
            return self.readline()

    source = Typed("one\ntwo 苹果\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(source))
    read = iter(read_examples("-", needs_label=False))
    assert next(read).text == "one"
    assert source.tell() == len(b"one\n")
    assert next(read).where == "standard input, line 2"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text\tlabel\na\tb\n")))
    assert rows("-", file_format="tsv") == [("a", "b")]


def test_reading_takes_constant_memory(tmp_path):
    path = tmp_path / "a.tsv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"text\tlabel\n")
        for number in range(40_000):
            file.write(f"{number} {'word ' * 200}\t{number % 3}\n".encode())  # 40 MB
    tracemalloc.start()
    assert sum(1 for _ in read_examples(path)) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: holds no examples; give a file with at least one"),
        ("a.csv", "text,label\n", "a.csv: holds no examples; give a file with at least one"),
        ("a.jsonl", "\n", "a.jsonl: holds no examples; give a file with at least one"),
        (
            "a.tsv",
            "a good film\t1\na bad film\t0\n",
            "a.tsv, line 1: no column is known as the text; there are: a good film, 1. Name it by `text`, or, if this line is data "
            "and not a header, add a header above it",
        ),
        ("a.csv", "text,y\na,b\n", "a.csv, line 1: no column is known as the label; there are: text, y. Name it by `label`, or"),
        ("a.csv", "text,label\na,x\nb, \n", "a.csv, line 3: the label in column 'label' is empty; fill it in or remove the row"),
        (
            "a.csv",
            "text,label\n\na,b\nHello, you,b\n",
            "a.csv, line 4: 3 cells, the header has 2; repair this line (put cells with a delimiter in quotes)",
        ),
        (
            "a.tsv",
            "text\tlabel\na\n",
            "a.tsv, line 2: 1 cells, the header has 2; repair this line (a .tsv has no quotes: keep tabs and line ends out of cells)",
        ),
        (
            "a.csv",
            'text,label\n"a,b\nc,d\n',
            "a.csv, line 2: not a readable row (unexpected end of data); close its quotes, write \" inside them as \"\"",
        ),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text"\n', "a.jsonl, line 2: not valid JSON (Expecting ':' delimiter); each line"),
        ("a.csv", "text,label,label\na,b,c\n", "a.csv, line 1: two columns are named 'label': give each a name of its own"),
        ("a.csv", 'text,label\na,"b\nc"\n', "a.csv, line 2: column 'label' holds 'b\\nc'; replace its tab or line end by a space"),
        (
            "a.tsv",
            "text   label\na   b\n",
            "a.tsv, line 1: no column is known as the text; there are: text   label. Name it by `text`, or, if this line is data and"
            " not a header, add a header above it; only one column: a .tsv separates columns by tabs",
        ),
        ("a.jsonl", "1\n", 'a.jsonl, line 1: not a JSON object; each line must be like {"text": "A text.", "label": "a label"}'),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"txt": "a", "label": 1}\n',
            "a.jsonl, line 2: no column 'text'; there are: txt, label. Did you mean `txt`?",
        ),
        (
            "a.jsonl",
            '{"text": false, "label": 1}\n',
            "a.jsonl, line 1: column 'text' holds true or false, not text; repair this row or name another column",
        ),
        ("a.jsonl", '{"text": "a", "label": null}\n', "a.jsonl, line 1: the label in column 'label' is empty; fill it in"),
        ("a.jsonl", '{"text": "a", "label": [1]}\n', "a.jsonl, line 1: column 'label' holds a list, not a label; name another"),
        ("a.csv", b"text,label\na,b\n\xff\xfe,c\n", "a.csv, line 3: not UTF-8 (byte 0xff); convert the file: iconv"),
        ("a.csv.gz", gzip.compress(b"text,label\na,b\n" * 99, mtime=0)[:-9], "a.csv.gz: truncated or damaged ("),
        ("a.txt", "one\n", "a.txt: plain text has no labels; give a .tsv, .csv or .jsonl file with a label column"),
        ("a.xlsx", "PK", "a.xlsx: no known suffix (.tsv, .csv, .jsonl, .ndjson, .json, .txt, .text); save it as CSV in UTF-8"),
        ("a.dat", "x", "a.dat: no known suffix (.tsv, .csv, .jsonl, .ndjson, .json, .txt, .text); rename it or give `file_format`: csv"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, name, content, message):
    assert error_of(read_examples, write(tmp_path / name, content)).startswith(message)


def test_a_column_a_format_or_a_file_that_is_not_there_is_named(tmp_path):
    path = write(tmp_path / "a.csv", "review,mood\na,b\n")
    assert error_of(read_examples, path, label="moods") == (
        "a.csv, line 1: no column 'moods' for `label`; there are: review, mood. Did you mean `mood`?"
    )
    assert "Did you mean `review`?" in error_of(read_examples, path, text="reviews", label="mood")
    assert error_of(read_examples, path, file_format="cvs") == (
        "a.csv: format 'cvs' is not known: use one of csv, jsonl, tsv, txt. Did you mean `csv`?"
    )
    assert (
        error_of(read_examples, tmp_path / "b.csv") == "b.csv: no such file: give another path. Did you mean `a.csv`?"
    )
    assert error_of(read_examples, tmp_path / "x.txt", text="body").startswith("x.txt: plain text has no column 'body'")


# ── measurement data: its README gives the numbers ──


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "number", "labels", "pairs"),
    [
        ("sst2/train.tsv.gz", 67_348, 2, False),
        ("sst2/dev.tsv.gz", 872, 2, False),
        ("zh-cls/dev.tsv.gz", 1_161, 2, False),
        ("pairs/dev.tsv.gz", 500, 2, True),
        ("coarsewsd20/train.jsonl.gz", 23_370, 53, False),
    ],
)
def test_measurement_texts_have_the_rows_that_are_stated(name, number, labels, pairs):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is absent")
    read = list(read_examples(DATA / name))
    assert (len(read), len({example.label for example in read})) == (number, labels)
    assert all((example.pair is not None) == pairs for example in read)


def test_what_is_no_label_matters_only_where_labels_are_needed(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "one", "label": {"x": 1}}\n{"text": "two", "label": "b"}\n')
    assert rows(path, needs_label=False) == [("one", None), ("two", "b")]
    assert "line 1: column 'label' holds an object" in error_of(read_examples, path)


def test_null_is_an_empty_cell(tmp_path):
    assert rows(write(tmp_path / "a.jsonl", '{"text": null, "label": "a"}\n')) == [("", "a")]
    assert rows(write(tmp_path / "a.csv", "text,label\n,a\n")) == [("", "a")]
