"""Names in running text: spans by character offsets, whatever the text, the format of the file and the other texts."""

import csv
import io
import json
import shutil
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.cli import main
from bert.data.splitting import Splitter
from bert.errors import InputError
from bert.finetuning.config import WindowsConfig
from bert.finetuning.predict import predictor_of
from bert.finetuning.tags import Transitions, spans
from bert.finetuning.tasks.tag import Tag
from bert.finetuning.windows import Settings
from bert.model.heads import TokenClassifier
from tests.conftest import run_quietly
from tests.strategies import TEXTS, UTF8_TEXTS

from .synthetic import save_random, sentences

IOB = ("B-ORG", "B-PER", "I-ORG", "I-PER", "O")
IOBES = ("B-PER", "E-PER", "I-PER", "O", "S-PER")
LEARNED = Splitter.learn([("Mr. Li did n't see @user .".split(), []), (["well-known", ":)", "3.14"], [])] * 3)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """Taggers with random weights: with the settings of training, without them, and of other labels."""
    folder = tmp_path_factory.mktemp("names")
    learned = Settings(WindowsConfig(24, 9), task=Tag((), "IOB2", LEARNED).settings()).written()
    save_random(tiny_run, folder / "trained", "tag", IOB, learned)
    save_random(tiny_run, folder / "elsewhere", "tag", IOB)
    save_random(tiny_run, folder / "iobes", "tag", IOBES)
    save_random(tiny_run, folder / "upos", "tag", ("ADJ", "NOUN", "VERB", "X"))
    save_random(tiny_run, folder / "plain", "tag", ("LOC", "O", "PER"))
    return folder


NAMES = ["trained", "elsewhere", "iobes", "upos", "plain"]


@pytest.fixture(scope="module")
def models(place):
    return Taggers({name: TokenClassifier.load(place / name) for name in NAMES})


class Taggers(dict):
    """Models by name."""

    def __repr__(self):
        return "the taggers"  # not each matrix of them, where a test fails


def exactly(model, texts, task=None):
    """The predictions in single precision, so that nearly equal scores are not rounded to others; with another `task` if given."""
    predictor = predictor_of(model, bf16=False)
    predictor = replace(predictor, task=task or predictor.task)
    return [prediction for _, prediction in predictor(map(predictor.task.example, texts))]


def predict(*arguments):
    run_quietly(["predict", *map(str, arguments)])


def located(prediction):
    return [(span.start, span.end, span.type) for span in prediction.spans]


# ── spans are parts of the text ──


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=100)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_each_span_is_the_text_between_its_offsets(models, name, texts):
    model = models[name]
    splitter = LEARNED if name == "trained" else Splitter()
    for text, found in zip(texts, model.predict(texts), strict=True):
        assert found.text == text
        assert [*found.offsets] == splitter.words(text)
        assert len(found.tags) == len(found.probabilities) == len(found.offsets)
        ends = [0]
        for span in found.spans:
            assert text[span.start : span.end] == span.text != ""
            assert ends[-1] <= span.start < span.end
            assert 0 < span.score <= 1
            assert not span.text[0].isspace()
            assert not span.text[-1].isspace()
            ends.append(span.end)
        if name in ("trained", "iobes"):
            scheme = "IOB2" if name == "trained" else "IOBES"
            covered = {word for _, start, end in spans(found.tags, scheme) for word in range(start, end)}
            assert covered == {word for word, tag in enumerate(found.tags) if tag != "O"}


def test_random_taggers_give_spans_of_all_kinds(models):
    """So that the tests of this file say something."""
    texts = [" ".join(words) for words, _ in sentences(60, 3)]
    for name, types in {
        "trained": {"PER", "ORG"},
        "iobes": {"PER"},
        "upos": {"ADJ", "NOUN", "VERB"},
        "plain": {"LOC", "PER"},
    }.items():
        found = [span for one in models[name].predict(texts) for span in one.spans]
        assert types <= {span.type for span in found}
        assert name == "upos" or any(" " in span.text for span in found)


def write_jsonl(file, texts, end):
    rows = [
        json.dumps({"id": n, "text": text}, ensure_ascii=n % 2 == 0 or not text.isprintable())
        for n, text in enumerate(texts)
    ]
    file.write_bytes("".join(row + end for row in rows).encode())
    return texts


def write_csv(file, texts, end):
    stream = io.StringIO(newline="")
    texts = [text.replace("\0", "") for text in texts]
    csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([("id", "text"), *enumerate(texts)])
    file.write_bytes(stream.getvalue().encode())
    return texts


def write_txt(file, texts, end):
    texts = [text.translate(dict.fromkeys(map(ord, "\0\r\n\t"))) + "." for text in texts]
    file.write_bytes(("\ufeff" + "".join(text + end for text in texts)).encode())
    return texts


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_txt])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_spans_of_a_file_count_in_its_texts_as_they_are(place, models, tmp_path_factory, write, end, data):
    folder = tmp_path_factory.mktemp("raw")
    texts = data.draw(st.lists(TEXTS if write is write_jsonl else UTF8_TEXTS, min_size=1, max_size=25))
    file = folder / f"texts.{write.__name__[6:]}"
    texts = write(file, texts, end)
    predict(place / "trained", file, "--out", folder / "out.jsonl")
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["text"] for row in rows] == texts
    for row, expected in zip(rows, models["trained"].predict(texts), strict=True):
        assert [row["text"][span["start"] : span["end"]] for span in row["spans"]] == [
            span["text"] for span in row["spans"]
        ]
        assert [(span["start"], span["end"], span["type"]) for span in row["spans"]] == located(expected)
        assert [span["score"] for span in row["spans"]] == pytest.approx(
            [span.score for span in expected.spans], abs=1e-5
        )
    if write is not write_txt:
        assert [str(row["id"]) for row in rows] == [*map(str, range(len(texts)))]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@settings(deadline=None, max_examples=20)
@given(texts=st.lists(UTF8_TEXTS, min_size=1, max_size=12))
def test_a_table_of_spans_repeats_the_cells_of_the_input(place, tmp_path_factory, end, texts):
    folder = tmp_path_factory.mktemp("cells")
    texts = write_csv(folder / "texts.csv", [text.replace("\r", "\r\n") for text in texts], end)
    predict(place / "trained", folder / "texts.csv", "--out", folder / "out.csv")
    with (folder / "out.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["id", "text", "spans"]
    assert [row[:2] for row in rows] == [[str(number), text] for number, text in enumerate(texts)]
    for _, text, cell in rows:
        assert all(text[span["start"] : span["end"]] == span["text"] for span in json.loads(cell))


@pytest.mark.parametrize("text", ["the\rcat", "\r", "the cat\r"])
def test_a_return_in_a_cell_stays_in_the_cell(place, tmp_path, text):
    write_csv(tmp_path / "texts.csv", [text], "\n")
    predict(place / "trained", tmp_path / "texts.csv", "--out", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as stream:
        assert [row[:2] for row in csv.reader(stream)] == [["id", "text"], ["0", text]]


@pytest.mark.parametrize("form", ["csv", "conll", "text"])
@settings(deadline=None, max_examples=20)
@given(texts=st.lists(TEXTS, min_size=1, max_size=12))
def test_spans_of_any_text_are_written_in_each_format(place, models, tmp_path_factory, form, texts):
    folder = tmp_path_factory.mktemp("forms")
    write_jsonl(folder / "texts.jsonl", texts, "\n")
    predict(
        place / "trained",
        folder / "texts.jsonl",
        "--format",
        form,
        "--out",
        folder / "out",
        "--html",
        folder / "page.html",
    )
    content = (folder / "out").read_bytes().decode()
    if form == "conll":
        sentences = content.split("\n\n")[:-1] if content.strip("\n") else []
        found = [[line.split("\t") for line in one.split("\n") if line] for one in sentences]
        expected = [one for one in models["trained"].predict(texts) if one.offsets]
        assert [[tag for _, tag, _ in rows] for rows in found if rows] == [[*one.tags] for one in expected]
    assert (folder / "page.html").read_bytes().decode().count("<p dir=") == len(texts) + 1  # and the lead


def test_standard_input_is_lines_of_texts(place, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("the cat\r\n\n 苹果\n".encode()), encoding="utf-8"))
    assert main(["predict", str(place / "upos"), "-"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["the cat", "", " 苹果"]
    assert [[(span["start"], span["end"]) for span in row["spans"]] for row in rows] == [
        [(0, 3), (4, 7)],
        [],
        [(1, 2), (2, 3)],
    ]


# ── the same as transformers, and the same in any company ──

WORDS = st.sampled_from(
    ["the", "cat", "Ann", "Lee", "sees", "river,", "don't", "3.14", "苹果", "café", "(U.S.)", "x-y", "apple", "xyzzy"]
)
PLAIN = st.lists(WORDS, min_size=1, max_size=12).map(" ".join)


@pytest.fixture(scope="module")
def pipeline(place):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = place / "elsewhere"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    how = {"tokenizer": tokenizer, "aggregation_strategy": "first", "device": "cpu"}
    return transformers.pipeline("token-classification", str(folder), **how)


@settings(deadline=None, max_examples=10)
@given(texts=st.lists(PLAIN, min_size=1, max_size=8))
def test_spans_without_constraints_are_those_of_the_pipeline_of_transformers(pipeline, models, texts):
    """Of a model from elsewhere, whose tags may be of either scheme."""
    for text, found in zip(texts, exactly(models["elsewhere"], texts)):
        expected = pipeline(text)
        assert located(found) == [(one["start"], one["end"], one["entity_group"]) for one in expected]
        assert [span.score for span in found.spans] == pytest.approx([one["score"] for one in expected], abs=1e-5)


def test_spans_of_legal_tags_are_those_of_the_pipeline_of_transformers(pipeline, models):
    texts = [" ".join(words) for words, _ in sentences(80, 3)]
    free = models["elsewhere"]
    found = exactly(free, texts, Tag(IOB, "IOB2"))
    legal = [[*one.tags] == [*other.tags] for one, other in zip(found, exactly(free, texts))]
    assert 0 < sum(legal) < len(legal)
    for text, one, is_legal in zip(texts, found, legal):
        if is_legal:
            expected = pipeline(text)
            assert located(one) == [(one["start"], one["end"], one["entity_group"]) for one in expected]


@settings(deadline=None, max_examples=15)
@given(
    long=st.lists(WORDS, min_size=60, max_size=150).map(" ".join),
    others=st.lists(TEXTS | PLAIN, max_size=6),
    data=st.data(),
)
def test_the_spans_of_a_long_text_are_the_same_whatever_stands_beside_it(models, long, others, data):
    model, position = models["trained"], data.draw(st.integers(0, len(others)))
    (alone,) = exactly(model, [long])
    beside = exactly(model, [*others[:position], long, *others[position:]])[position]
    assert located(beside) == located(alone)
    assert beside.probabilities == pytest.approx(alone.probabilities, abs=1e-4)


@settings(deadline=None, max_examples=15)
@given(words=st.lists(WORDS.filter(str.isalpha), max_size=80))
def test_words_of_a_text_are_labeled_as_words_that_are_given_one_by_one(models, words):
    model = models["trained"]
    words = [word for word in words if word.isascii()]
    of_text, of_words = (exactly(model, [given])[0] for given in (" ".join(words), words))
    assert (of_text.text, of_text.offsets, of_text.tags) == (of_words.text, of_words.offsets, of_words.tags)
    assert located(of_text) == located(of_words)


# ── legal tags ──


def illegal(tags, labels, scheme):
    numbers = [[labels.index(tag) for tag in one] for one in tags]
    return Transitions(labels, scheme).illegal(np.array([*chain(*numbers)], int), [*map(len, numbers)])


def test_iob_labels_of_a_model_from_elsewhere_are_free_and_others_are_not(models):
    texts = [" ".join(words) for words, _ in sentences(40, 5)]
    for name, scheme in (("elsewhere", "IOB2"), ("iobes", "IOBES")):
        model = models[name]
        most_probable, found = ([[*one.tags] for one in exactly(model, texts, task)] for task in (Tag(), None))
        assert illegal(most_probable, model.labels, scheme)
        if name == "elsewhere":
            assert found == most_probable
        else:
            assert not illegal(found, model.labels, scheme)
            wrong = illegal(most_probable, model.labels, scheme)
            assert all((one == free) == (n not in wrong) for n, (one, free) in enumerate(zip(found, most_probable)))


def test_evaluation_counts_legal_tags(place, tmp_path):
    """`span_f1` and `strict_span_f1` are then the same."""
    rows = sentences(40, 5)
    lines = "\n".join("".join(f"{word}\tO\n" for word in words[:-1]) + f"{words[-1]}\tS-PER\n" for words, _ in rows)
    (tmp_path / "dev.conll").write_text(lines)
    from bert.finetuning.config import DataConfig
    from bert.finetuning.evaluate import evaluate

    found = evaluate(place / "iobes", str(tmp_path / "dev.conll"), DataConfig()).metrics
    assert found["span_f1"] == found["strict_span_f1"]
    predict(place / "iobes", tmp_path / "dev.conll", "--out", tmp_path / "out.conll")
    written = [line.split("\t")[1] for line in (tmp_path / "out.conll").read_text().splitlines() if line]
    right = [line.split("\t")[1] for line in lines.splitlines() if line]
    assert found["accuracy"] == pytest.approx(np.mean([one == two for one, two in zip(written, right, strict=True)]))


# ── what a folder keeps ──


def test_settings_survive_load_and_save(place, tmp_path):
    for name in ("trained", "elsewhere"):
        TokenClassifier.load(place / name).save(tmp_path / name)
        files = [folder / name / "windows.json" for folder in (place, tmp_path)]
        contents = [json.loads(file.read_text()) if file.exists() else None for file in files]
        assert contents[0] == contents[1]
        assert (contents[0] is None) == (name == "elsewhere")
    text = "Mr. Li didn't see the @user."
    first, second = (TokenClassifier.load(folder / "trained").predict([text]) for folder in (place, tmp_path))
    assert first == second


@pytest.mark.parametrize(
    "task",
    [
        {"scheme": "IOB9"},
        {"scheme": 1},
        {"words": {}},
        {"scheme": None, "words": 1},
        {"scheme": None, "words": None},
        {"scheme": "IOB2", "words": {"0a b": 2}},
        {"scheme": "IOB2", "words": ["a"]},
        {"scheme": ["IOB2"]},
        "IOB2",
        7,
        [1],
    ],
)
def test_a_damaged_task_in_a_folder_is_one_line(place, tmp_path, capsys, task):
    shutil.copytree(place / "trained", tmp_path / "model")
    (tmp_path / "model" / "windows.json").write_text(json.dumps({"sequence_length": 24, "task": task}))
    (tmp_path / "a.txt").write_text("the cat\n")
    (tmp_path / "a.conll").write_text("the\tO\n")
    commands = ["predict", "a.txt"], ["evaluate", "a.conll"]
    for command, file in commands:
        assert main([command, str(tmp_path / "model"), str(tmp_path / file)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith(f"bert: {tmp_path}/model/windows.json: cannot be read (")
        assert output.err.count("\n") == 1
    with pytest.raises(InputError, match=r"^the model/windows\.json: cannot be read"):
        TokenClassifier.load(tmp_path / "model").predict(["the cat"])


@pytest.mark.parametrize("to", ["hf", "torch"])
def test_a_damaged_task_is_one_line_of_an_export_too(place, tmp_path, capsys, to):
    shutil.copytree(place / "trained", tmp_path / "model")
    (tmp_path / "model" / "windows.json").write_text('{"task": {"scheme": "IOB9"}}')
    assert main(["export", str(tmp_path / "model"), "--to", to, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"bert: {tmp_path}/model/windows.json: cannot be read (")


def test_an_export_has_the_tables_of_the_transitions(place, tmp_path, tiny_run):
    expected = Transitions(IOB, "IOB2").written()
    run_quietly(["export", str(place / "trained"), "--to", "hf", "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "transitions.json").read_text()) == {"labels": [*IOB]} | expected
    assert json.loads((tmp_path / "out" / "windows.json").read_text()) == json.loads(
        (place / "trained" / "windows.json").read_text()
    )
    for name in ("elsewhere", "upos"):
        run_quietly(["export", str(place / name), "--to", "hf", "--out", str(tmp_path / name)])
        assert not (tmp_path / name / "transitions.json").exists()


@pytest.mark.slow
def test_a_program_has_the_tables_of_the_transitions_beside_it(place, tmp_path):
    shutil.copytree(place / "iobes", tmp_path / "model")
    run_quietly(["export", str(tmp_path / "model"), "--to", "torch"])
    found = json.loads((tmp_path / "model" / "torch" / "transitions.json").read_text())
    assert found == {"labels": [*IOBES]} | Transitions(IOBES, "IOBES").written()
