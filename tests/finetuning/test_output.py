"""Files of predictions: the same as in Python for every task, beside the columns of the input, and safe to look at."""

import csv
import io
import json
import re
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.cli import main
from bert.data.columns import Columns
from bert.data.examples import Example
from bert.errors import InputError
from bert.finetuning.output import chosen_format, writer, written
from bert.finetuning.predict import MOST_ON_PAGE
from bert.finetuning.tasks.index import TASKS, task_named
from bert.finetuning.tasks.multilabel import LabelsPrediction
from bert.finetuning.tasks.regression import ValuePrediction
from bert.finetuning.tasks.tag import TASK as TAG
from bert.finetuning.tasks.tag import TagPrediction, TextSpan
from bert.finetuning.tasks.task import LabelPrediction
from bert.finetuning.windows import Settings
from bert.model.heads import SequenceClassifier, TokenClassifier
from bert.terminal import printable_output
from tests.conftest import run_quietly
from tests.strategies import TEXTS

from .synthetic import save_random, texts

LABELS = {
    "classify": ("early", "late", "other"),
    "multilabel": ("cat", "dark", "day"),
    "regression": ("value",),
    "tag": ("B-PER", "I-PER", "O"),
}
FORMATS = {name: task_named(name).formats for name in TASKS}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A model with random weights for each task, and one of pairs."""
    folder = tmp_path_factory.mktemp("output")
    for name, labels in LABELS.items():
        save_random(tiny_run, folder / name, name, labels)
    pairs = Settings(columns=Columns("premise", "hypothesis", "label")).written()
    save_random(tiny_run, folder / "pairs", "classify", LABELS["classify"], pairs)
    return folder


@pytest.fixture
def refused(capsys):
    """The one line that is said about arguments of `bert predict`."""

    def run(*arguments):
        assert main(["predict", *map(str, arguments)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1
        return output.err.removeprefix("bert: ").removesuffix("\n")

    return run


def predict(*arguments):
    run_quietly(["predict", *map(str, arguments)])


def json_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def table_of(file, delimiter=","):
    with file.open(encoding="utf-8", newline="") as stream:
        return [*csv.DictReader(stream, delimiter=delimiter)]


# ── one way out: Python and the command ──

TEXT = [text for text, _ in texts(12, 3)] + ["", "苹果 😀", "the cat " * 90]


@pytest.mark.parametrize("name", [*LABELS, "pairs"])
def test_python_and_the_command_predict_the_same(place, tmp_path, name):
    kind = TokenClassifier if name == "tag" else SequenceClassifier
    seconds = TEXT[::-1] if name == "pairs" else None
    columns = ("premise", "hypothesis") if seconds else ("text",)
    rows = [dict(zip(columns, row)) for row in zip(*filter(None, (TEXT, seconds)))]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = kind.load(place / name).predict(TEXT, seconds)
    predict(place / name, tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")
    # texts without the space at their ends, but for offsets
    records = [json.loads(json.dumps(one.record(None))) for one in found]
    assert json_of(tmp_path / "out.jsonl") == [row | record for row, record in zip(rows, records, strict=True)]
    predict(place / name, tmp_path / "in.jsonl", "--out", tmp_path / "out.csv")
    cells = [{name: as_cell(value) for name, value in one.cells(None).items()} for one in found]
    assert table_of(tmp_path / "out.csv") == [row | some for row, some in zip(rows, cells, strict=True)]
    if name != "tag":
        predict(place / name, tmp_path / "in.jsonl", "--out", tmp_path / "out.tsv")
        assert table_of(tmp_path / "out.tsv", "\t") == cells


def as_cell(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def test_predictions_of_each_task_have_their_fields(place):
    found = {name: SequenceClassifier.load(place / name).predict(TEXT) for name in LABELS if name != "tag"}
    for one in found["classify"]:
        assert isinstance(one, LabelPrediction)
        assert sorted(one.probabilities) == sorted(LABELS["classify"])
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert [*one.probabilities.values()] == sorted(one.probabilities.values(), reverse=True)
        assert one.probability == one.probabilities[one.label] == max(one.probabilities.values())
    for one in found["multilabel"]:
        assert isinstance(one, LabelsPrediction)
        assert [*one.probabilities] == [*LABELS["multilabel"]]
        assert one.labels == tuple(label for label, p in one.probabilities.items() if p >= 0.5)
    assert all(isinstance(one, ValuePrediction) and isinstance(one.value, float) for one in found["regression"])
    assert len({one.label for one in found["classify"]}) > 1


@pytest.mark.parametrize(
    ("name", "texts", "seconds", "message"),
    [
        ("classify", "the cat", None, "give a list of texts, not one text"),
        ("classify", ["a"], "b", "give a list of texts, not one text"),
        ("classify", ["a", "b"], ["c"], "2 texts and 1 second texts; give as many of both"),
        ("classify", [1], None, "1 is not a text; give strings"),
        ("classify", [["a", "b"]], None, "is not a text; give strings"),
        ("tag", [7], None, "7 is neither a text nor a list of words; give one of them"),
        ("tag", [["a", ""]], None, "is neither a text nor a list of words"),
        ("tag", [["a", 1]], None, "is neither a text nor a list of words"),
        ("tag", ["a"], ["b"], "a tagger takes no second texts; leave them out"),
    ],
)
def test_what_python_cannot_predict_is_told(place, name, texts, seconds, message):
    kind = TokenClassifier if name == "tag" else SequenceClassifier
    with pytest.raises(InputError, match=f"^predict: .*{re.escape(message)}"):
        kind.load(place / name).predict(texts, seconds)


def test_no_texts_have_no_predictions(place):
    assert (
        SequenceClassifier.load(place / "classify").predict([]) == TokenClassifier.load(place / "tag").predict([]) == []
    )


# ── the columns of the input ──

ROW = {
    "id": 7,
    "text": "the cat",
    "label": "gold",
    "probability": None,
    "meta": {"a": [1, {"b": None}]},
    "spans": [],
    "é.x": True,
}
RENAMED = {
    "classify": ["predicted_label", "predicted_probability", "probabilities"],
    "multilabel": ["labels", "probabilities"],
    "regression": ["value"],
    "tag": ["predicted_spans"],
}


@pytest.mark.parametrize("name", LABELS)
def test_the_columns_of_the_input_stay_and_come_first(place, tmp_path, name):
    rows = [ROW, ROW | {"id": 8, "meta": 0.5}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict(place / name, tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")
    for row, before in zip(json_of(tmp_path / "out.jsonl"), rows, strict=True):
        assert {key: row[key] for key in before} == before
        assert [*row] == [*before, *RENAMED[name]]
    predict(place / name, tmp_path / "in.jsonl", "--out", tmp_path / "out.csv")
    for row, before in zip(table_of(tmp_path / "out.csv"), rows, strict=True):
        assert row["text"] == "the cat"
        assert row["probability"] == ""
        assert json.loads(row["meta"]) == before["meta"]
        assert (row["id"], row["é.x"]) == (str(before["id"]), "true")
        assert [*row][: len(before)] == [*before]


def test_the_columns_of_a_table_stay_as_they_are(place, tmp_path):
    (tmp_path / "in.csv").write_text('id;text;label\r\n007;"the ""cat"";\r\nleft";x\r\n8;dog;\r\n')
    predict(place / "classify", tmp_path / "in.csv", "--out", tmp_path / "out.csv", "--top", "2")
    first, second = table_of(tmp_path / "out.csv")
    assert [*first] == [
        "id",
        "text",
        "label",
        "predicted_label",
        "probability",
        "label_2",
        "probability_2",
    ]
    assert (first["id"], second["id"], first["label"], second["label"]) == ("007", "8", "x", "")
    assert first["text"].replace("\r\n", "\n") == 'the "cat";\nleft'


def test_the_text_of_spans_stands_beside_the_column_it_comes_from(place, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"body": "the cat", "text": "a title"}\n{"body": " dog"}\n')
    predict(place / "tag", tmp_path / "in.jsonl", "--text", "body", "--out", tmp_path / "out.jsonl")
    first, second = json_of(tmp_path / "out.jsonl")
    assert [*first] == ["body", "text", "predicted_text", "spans"]
    assert (first["text"], first["predicted_text"]) == ("a title", "the cat")
    assert (second["body"], second["text"]) == (" dog", " dog")
    (tmp_path / "words.jsonl").write_text('{"words": ["the", "cat", "."], "n": 1}\n')
    predict(place / "tag", tmp_path / "words.jsonl", "--out", tmp_path / "out.jsonl")
    (row,) = json_of(tmp_path / "out.jsonl")
    assert row | {"spans": []} == {"words": ["the", "cat", "."], "n": 1, "text": "the cat .", "spans": []}


def test_a_file_of_predictions_can_be_predicted_on_again_and_again(place, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "the cat", "spans": 1, "predicted_spans": 2}\n')
    predict(place / "tag", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl")
    (row,) = json_of(tmp_path / "out.jsonl")
    assert (row["spans"], row["predicted_spans"]) == (1, 2)


def test_a_row_with_a_column_that_the_first_has_not_is_named_and_nothing_written(place, tmp_path, refused):
    (tmp_path / "in.jsonl").write_text('{"text": "a", "x": 1}\n{"text": "b"}\n{"text": "c", "y": 1}\n')
    out = tmp_path / "out.csv"
    message = refused(place / "tag", tmp_path / "in.jsonl", "--out", out)
    assert message == f"{tmp_path}/in.jsonl, line 3: column 'y' is not in the first row; give --format jsonl"
    assert [*tmp_path.iterdir()] == [tmp_path / "in.jsonl"]
    predict(place / "tag", tmp_path / "in.jsonl", "--out", out, "--format", "jsonl")
    assert [sorted(row) for row in json_of(out)] == [["spans", "text", "x"], ["spans", "text"], ["spans", "text", "y"]]


# ── formats, and how many labels ──


@pytest.mark.parametrize("name", LABELS)
def test_the_suffix_of_the_output_is_its_format_unless_one_is_given(name):
    task, example = task_named(name), TAG.example("a text") if name == "tag" else Example("a text")
    for suffix, form in {
        ".csv": "csv",
        ".jsonl": "jsonl",
        ".json": "jsonl",
        ".tsv": "tsv",
        ".conll": "conll",
        ".txt": "",
    }.items():
        form = "conll" if name == "tag" and suffix == ".tsv" else form
        expected = form if form in FORMATS[name] else FORMATS[name][0]
        assert chosen_format(task, None, f"a{suffix}", example) == expected
        assert all(chosen_format(task, one, f"a{suffix}", example) == one for one in FORMATS[name])
    if name == "tag":
        assert chosen_format(task, None, "-", TAG.example(["a", "text"])) == "conll"


@pytest.mark.parametrize(
    ("name", "given", "near"),
    [
        ("classify", "jsnl", "jsonl"),
        ("classify", "TSV", "tsv"),
        ("tag", "conl", "conll"),
        ("regression", "conll", None),
        ("tag", "tsv", None),
        ("tag", "xml", None),
    ],
)
def test_a_format_that_a_task_does_not_write_is_told_with_the_nearest(place, tmp_path, refused, name, given, near):
    (tmp_path / "a.txt").write_text("the cat\n")
    message = refused(place / name, tmp_path / "a.txt", "--format", given, "--out", tmp_path / "out")
    start = f"--format {given}: {name} writes {', '.join(FORMATS[name])}; give one."
    assert message.startswith(start)
    assert near is None or message == f"{start} Did you mean `{near}`?"
    assert not (tmp_path / "out").exists()


def test_the_most_probable_labels_are_written(place, tmp_path):
    (tmp_path / "a.txt").write_text("the cat\na dog at night\n")
    for name in ("classify", "multilabel"):
        found = SequenceClassifier.load(place / name).predict(["the cat", "a dog at night"])
        for top in (1, 2, 3, 9):
            predict(place / name, tmp_path / "a.txt", "--top", top, "--out", tmp_path / "out.jsonl")
            for row, one in zip(json_of(tmp_path / "out.jsonl"), found, strict=True):
                ranked = sorted(one.probabilities.items(), key=lambda pair: -pair[1])[:top]
                assert [*row["probabilities"].items()] == [(label, pytest.approx(p, abs=1e-6)) for label, p in ranked]
            predict(place / name, tmp_path / "a.txt", "--top", top, "--out", tmp_path / "out.tsv")
            for row, one in zip(table_of(tmp_path / "out.tsv", "\t"), found, strict=True):
                ranked = sorted(one.probabilities.items(), key=lambda pair: -pair[1])[:top]
                ends = ["", *(f"_{n}" for n in range(2, top + 1))]
                assert [(row[f"label{end}"], row[f"probability{end}"]) for end, _ in zip(ends, ranked)] == [
                    (label, f"{p:.4f}") for label, p in ranked
                ]
                assert len(row) == 2 * len(ranked) + (name == "multilabel")


def test_labels_and_a_page_that_a_task_has_not_are_refused_before_anything_is_written(place, tmp_path, refused):
    (tmp_path / "a.txt").write_text("the cat\n")
    outs = ["--out", tmp_path / "out", "--html", tmp_path / "page.html"]
    for name in ("classify", "multilabel", "regression"):
        message = refused(place / name, tmp_path / "a.txt", *outs)
        assert message == f"--html shows spans, and {place / name} is for {name}; add --explain to show words"
    for name in ("regression", "tag"):
        assert refused(place / name, tmp_path / "a.txt", "--top", "2", *outs[:2]).startswith("--top 2: ")
    assert refused(place / "classify", tmp_path / "a.txt", "--top", "0", *outs[:2]) == "--top 0: must be at least 1"
    assert refused(place / "tag", tmp_path / "a.txt", *outs[:3], tmp_path / "page.pdf").startswith(
        f"--html {tmp_path}/page.pdf: give a name that ends in .html"
    )
    assert [*tmp_path.iterdir()] == [tmp_path / "a.txt"]


# ── spans in brackets, in colors, on a page ──


def prediction(text, *found):
    """With spans of a (start, end, type)."""
    spans = [TextSpan(start, end, kind, 0.5, text[start:end]) for start, end, kind in found]
    return TagPrediction(
        text, [(start, end) for start, end, _ in found], [kind for *_, kind in found], [0.5] * len(found), spans
    )


ANN = prediction("Ann Lee left Rome.\tYes", (0, 7, "PER"), (13, 17, "LOC"))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, *predictions):
    write = writer("text", TAG, stream, None)
    for one in predictions:
        write(TAG.example(one.text), one)
    return stream.getvalue()


def test_spans_are_in_brackets_with_their_type(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert (
        shown(io.StringIO(), ANN, prediction("no names"), prediction(""))
        == "[Ann Lee PER] left [Rome LOC].\tYes\nno names\n\n"
    )


def test_colors_are_for_terminals_that_have_them(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    colored = shown(Terminal(), ANN, prediction("Bob", (0, 3, "PER")))
    codes = re.findall(r"\x1b\[([\d;]+)m\[(.*?) (\w+)\]\x1b\[0m", colored)
    assert [(text, kind) for _, text, kind in codes] == [("Ann Lee", "PER"), ("Rome", "LOC"), ("Bob", "PER")]
    assert codes[0][0] == codes[2][0] != codes[1][0]  # a color for each type
    assert re.sub(r"\x1b\[[\d;]+m", "", colored) == "[Ann Lee PER] left [Rome LOC].\tYes\n[Bob PER]\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(Terminal(), ANN)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(Terminal(), ANN)


@pytest.mark.parametrize("form", FORMATS["tag"])
@given(text=TEXTS, start=st.integers(0, 9), length=st.integers(1, 9))
def test_no_control_character_of_a_text_reaches_a_terminal(form, text, start, length):
    terminal = Terminal()
    one = prediction(text, (start, min(len(text), start + length), "PER")) if start < len(text) else prediction(text)
    before = sys.stdout
    sys.stdout = terminal
    try:
        with printable_output(), written("-") as stream:
            writer(form, TAG, stream, None)(TAG.example(text), one)
    finally:
        sys.stdout = before
    bare = (
        re.sub(r"\x1b\[[\d;]*m(\[.*? PER\])\x1b\[0m", r"\1", terminal.getvalue(), flags=re.DOTALL)
        if form == "text"
        else terminal.getvalue()
    )
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", bare)
    terminal.getvalue().encode()


class Marks(HTMLParser):
    """The paragraphs of a page with their marks, as text, and all elements."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.paragraphs, self.elements, self.inside = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        if tag == "figure":
            self.inside = [] if "spanned" in dict(attributes)["class"] else ["other"]
        if tag == "p" and self.inside == ["figure"]:
            self.paragraphs.append(("", []))
        self.inside.append(tag)
        if tag == "mark":
            self.paragraphs[-1][1].append(["", ""])

    def handle_endtag(self, tag):
        if tag in self.inside:
            del self.inside[len(self.inside) - 1 - self.inside[::-1].index(tag) :]

    def handle_data(self, data):
        if self.inside[:2] == ["figure", "p"]:
            text, marks = self.paragraphs[-1]
            if "mark" in self.inside:
                marks[-1]["small" in self.inside] += data
            if "small" not in self.inside:
                self.paragraphs[-1] = text + data, marks


HOSTILE = [
    "the <b>cat</b> & a dog &amp; </p><script>alert(1)</script>",
    'a "young" woman\'s <mark>book</mark>',
    "",
    "苹果 السلام <!-- x",
]


def test_a_page_has_each_span_once_and_texts_as_text(place, tmp_path):
    given = [*HOSTILE, *(text for text, _ in texts(20, 4))]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in given))
    predict(place / "tag", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--html", tmp_path / "page.html")
    page = Marks((tmp_path / "page.html").read_text(encoding="utf-8"))
    rows = json_of(tmp_path / "out.jsonl")
    hostile = prediction(HOSTILE[0] * 3, (len(HOSTILE[0]), 2 * len(HOSTILE[0]), "<u>"))
    assert Marks(TAG.page([hostile], "<u>", 1)).paragraphs == [(HOSTILE[0] * 3, [[HOSTILE[0], "<u>"]])]
    found = [(text, [tuple(mark) for mark in marks]) for text, marks in page.paragraphs]
    assert found == [(row["text"], [(span["text"], span["type"]) for span in row["spans"]]) for row in rows]
    assert sum(len(row["spans"]) for row in rows) == page.elements.count("mark") > 20
    assert page.elements.count("script") == Marks(TAG.page([], "", 0)).elements.count("script")


def test_a_page_shows_the_first_texts_and_the_beginning_of_a_long_one(place, tmp_path):
    (tmp_path / "in.txt").write_text("the cat\n" * (MOST_ON_PAGE + 3))
    predict(place / "tag", tmp_path / "in.txt", "--out", tmp_path / "out.jsonl", "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert len(Marks(page).paragraphs) == MOST_ON_PAGE
    assert f"{MOST_ON_PAGE} of {MOST_ON_PAGE + 3} texts" in page
    assert len(json_of(tmp_path / "out.jsonl")) == MOST_ON_PAGE + 3
    long = prediction("Ann " * 2_000, *((start, start + 3, "PER") for start in range(0, 8_000, 4)))
    ((text, marks),) = Marks(TAG.page([long], "in.txt", 1)).paragraphs
    assert text == long.text[:5_000] + "…"
    assert marks == [["Ann", "PER"]] * 1_250


def test_a_page_and_predictions_are_not_one_file(place, tmp_path, refused):
    (tmp_path / "a.txt").write_text("the cat\n")
    refused(place / "tag", tmp_path / "a.txt", "--out", tmp_path / "a.html", "--html", tmp_path / "a.html")
