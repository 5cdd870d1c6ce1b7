"""The one reader of tables and of JSON lines: delimiters, quotes, headers, arrays, fields inside fields."""

import csv
import io
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bert.data.corpus import find_corpus
from bert.data.examples import read_examples
from bert.data.rows import json_rows, table_rows
from bert.errors import InputError
from bert.probing.rows import read_rows


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts_of(path: Path) -> list[list[str]]:
    """The texts of a file as `prepare`, `finetune`, and `score` and `words` read them."""
    corpus = list(find_corpus(path).documents())
    examples = [example.text for example in read_examples(path, needs_label=False)]
    return [corpus, examples, [row.sentence for row in read_rows(path)]]


def errors_of(path: Path) -> set[str]:
    """What each of the readers says of a file, without its name."""
    said = set()
    for read in (lambda: list(find_corpus(path).documents()), lambda: list(read_examples(path, needs_label=False))):
        with pytest.raises(InputError) as caught:
            read()
        said.add(str(caught.value).removeprefix(str(path)))
    with pytest.raises(InputError) as caught:
        read_rows(path)
    return said | {str(caught.value).removeprefix(str(path))}


TABLES = {
    "commas.csv": 'id,text\n1,"ships, boats"\n2,quays\n',
    "semicolons.csv": "text;id\nships, boats;1\nquays;2\n",
    "excel.csv": '\ufeffsep=;\r\ntext;id\r\n"ships, boats";1\r\nquays;2\r\n',
    "quoted-sep.csv": '"sep=,"\ntext,id\n"ships, boats",1\nquays,2\n',
    "bars.csv": "sep=|\ntext|id\nships, boats|1\nquays|2\n",
    "tabs.csv": "sep=\t\ntext\tid\nships, boats\t1\nquays\t2\n",
    "plain.tsv": "id\ttext\n1\tships, boats\n2\tquays\n",
    "quoted.tsv": '"id"\t"text"\n"1"\t"ships, boats"\n"2"\t"quays"\n',
    "sep.tsv": "sep=,\ntext,id\nquays,2\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_all_commands_read_a_table_alike(tmp_path, name):
    expected = ["quays"] if name == "sep.tsv" else ["ships, boats", "quays"]
    assert texts_of(write(tmp_path / name, TABLES[name])) == [expected] * 3


@pytest.mark.parametrize(
    ("name", "first", "said"),
    [
        ("a.csv", "text|label", "',' or ';', not by '|'; write a line sep=| above this one"),
        ("a.csv", '"text"|"label"', "',' or ';', not by '|'; write a line sep=| above this one"),
        ("a.csv", "the text\tlabel", "',' or ';', not by '\\t'; name the file .tsv"),
        ("a.tsv", "text,label,place", "'\\t', not by ','; write a line sep=, above this one"),
        ("a.tsv", "text;label", "'\\t', not by ';'; write a line sep=; above this one"),
    ],
)
def test_another_delimiter_is_named_by_all_commands(tmp_path, name, first, said):
    path = write(tmp_path / name, f"\n{first}\n{first.replace('text', 'a')}\n")
    assert errors_of(path) == {f", line 2: columns are separated by {said}"}


def test_a_header_of_one_column_may_be_a_sentence(tmp_path):
    path = write(tmp_path / "a.tsv", "text, as it was said\na\n")
    assert list(find_corpus(path, text_field="text, as it was said").documents()) == ["a"]


def test_single_quotes_are_said_to_be_none(tmp_path):
    path = write(tmp_path / "a.csv", "text,id\n'ships, boats',1\n")
    fix = "put cells with a delimiter in quotes; single quotes are none, use double ones"
    assert errors_of(path) == {f", line 2: 3 cells, the header has 2; repair this line ({fix})"}


@pytest.mark.parametrize(
    ("table", "line"), [("'text','label'\n'ships','x'\n", 1), ("text,label\nan 'x',y\n'ships','x'\n", 3)]
)
def test_a_header_or_a_row_in_single_quotes_is_named(tmp_path, table, line):
    said = "cells are in single quotes, which are part of the text; use double quotes"
    assert errors_of(write(tmp_path / "a.csv", table)) == {f", line {line}: {said}"}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(("name", "between"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
def test_the_header_of_a_second_table_is_named_by_all_commands(tmp_path, name, between, mark):
    table = "text label\nships x\n".replace(" ", between)
    said = "repeats the header, as where two tables were joined; remove this line"
    assert errors_of(write(tmp_path / name, table + mark + table)) == {f", line 3: {said}"}


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('plain\tx\n"a ""quoted"" word"\ty\n', 3),  # as pandas writes it
        ('"every"\t"x"\n"cell"\t"y"\n', 2),
        ('"Well," she said.\tx\n"a ""b"""\ty\n"c ""d"""\tz\n', 3),  # once
    ],
)
def test_cells_of_a_tsv_that_look_quoted_are_named(tmp_path, said, rows, line):
    path = write(tmp_path / "a.tsv", f"text\tlabel\n{rows}")
    texts = [example.text for example in read_examples(path)]
    assert texts == [row.split("\t")[0] for row in rows.splitlines()]
    (warning,) = said
    assert warning.startswith(f"{path}, line {line}: quotes enclose cells, but a .tsv has no quotes")


@pytest.mark.parametrize("rows", ['"Well," she said.\tx\n', '"Yes."\tx\n', 'a 5" disk\tx\n', '""\tx\n'])
def test_quotes_of_speech_in_a_tsv_are_text(tmp_path, said, rows):
    path = write(tmp_path / "a.tsv", f"text\tlabel\n{rows}")
    assert [example.text for example in read_examples(path)] == [rows.split("\t")[0]]
    assert said == []


CELLS = st.text(st.sampled_from("ab ,;|\t\"'\n字"), max_size=6)


@example([("'a'", "''")], ",")
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.sampled_from([",", ";", "\t"]))
def test_what_the_csv_module_quotes_is_read_again(rows, delimiter):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("text", "x"), *rows])
    header, found = table_rows("a", iter(file.getvalue().splitlines(keepends=True)), delimiter)
    assert header == ["text", "x"]
    assert [(row["text"], row["x"]) for _, row in found] == rows


# ── JSON ──


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("value", [[{"text": "ships"}], [{"text": "a"}, {"text": "b"}], [], ["a"]])
def test_an_array_is_named_with_what_splits_it(tmp_path, value, indent):
    (short,) = {
        message.split(";")[0] for message in errors_of(write(tmp_path / "a.json", json.dumps(value, indent=indent)))
    }
    assert short == ", line 1: not a JSON object but an array (jq -c '.[]' splits it)"


@pytest.mark.parametrize("indent", [0, 1, 4])
@pytest.mark.parametrize("value", [{"text": "ships"}, {"meta": {"n": 1}, "text": "a"}])
def test_an_object_over_several_lines_is_named_with_what_joins_it(tmp_path, value, indent):
    messages = errors_of(write(tmp_path / "a.jsonl", "\n" + json.dumps(value, indent=indent)))
    (short,) = {message.split(";")[0] for message in messages}
    assert short == ", line 2: not a JSON object but one over several lines (jq -c . joins them)"
    for message in messages:
        example = json.loads(message[message.index("{") :])
        assert all(isinstance(field, str) for field in example)


def test_a_later_line_that_is_cut_is_not_taken_for_another_format(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b",\n')
    assert all("line 2: not valid JSON (" in message for message in errors_of(path))


def test_a_field_inside_a_field_is_named_by_its_path(tmp_path):
    rows = [
        {"meta": {"text": "in", "of": {"mood": "calm"}}},
        {"id": 1, "meta": {"text": "out", "of": {"mood": "wild"}}},
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert list(find_corpus(path, text_field="meta.text").documents()) == ["in", "out"]
    examples = list(read_examples(path, text="meta.text", label="meta.of.mood"))
    assert [(example.text, example.label) for example in examples] == [("in", "calm"), ("out", "wild")]
    with pytest.raises(InputError) as caught:
        list(find_corpus(path).documents())
    there = "there are: meta.text, meta.of.mood. Name one by `text_field`. Did you mean `meta.text`?"
    assert str(caught.value) == f"{path}, line 1: no field 'text'; {there}"


def test_no_field_is_suggested_that_holds_no_text(tmp_path):
    with pytest.raises(InputError, match=r"there are: meta\.n\. Name one by `text_field`\.$"):
        list(find_corpus(write(tmp_path / "a.jsonl", '{"meta": {"n": "a"}}\n')).documents())


def test_a_field_with_a_dot_in_its_name_stays_what_it_is():
    lines = ['{"meta.text": "own", "meta": {"text": "inner"}}\n', '{"a": "{", "b": {}}\n']
    rows = [row for _, row in json_rows("a", iter(lines), "{}")]
    assert rows == [{"meta.text": "own", "meta": {"text": "inner"}}, {"a": "{", "b": {}}]


def test_an_object_nested_without_end_is_one_line():
    with pytest.raises(InputError, match=r"a, line 1: not valid JSON \(nested too deeply\)"):
        list(json_rows("a", iter(['{"a": ' * 50_000 + "1" + "}" * 50_000]), "{}"))
    for depth in range(400, 1000, 7):  # less than what json reads
        with suppress(InputError):
            list(json_rows("a", iter(['{"a": ' * depth + "1" + "}" * depth]), "{}"))
