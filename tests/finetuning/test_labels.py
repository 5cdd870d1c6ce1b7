"""Labels mean what they say: those that look alike, that are no labels, and that a model does not know are named."""

import json
from pathlib import Path

import pytest

from bert.cli import main
from bert.data.examples import Example
from bert.data.tagged import TaggedExample
from bert.errors import InputError
from bert.finetuning.config import DataConfig, WindowsConfig
from bert.finetuning.inputs import places_of, prepare_data, window_maker
from bert.finetuning.tags import span_tags
from bert.finetuning.tasks.index import task_named
from bert.finetuning.tasks.task import printed
from bert.model.encoder import Encoder

from .synthetic import FAST, save_encoder, sentences, texts, write_tagged, write_texts

CLASSIFY, MULTILABEL, REGRESSION, TAG = map(task_named, ("classify", "multilabel", "regression", "tag"))


@pytest.fixture(scope="module")
def maker(tiny_run, tmp_path_factory):
    encoder = Encoder.load(save_encoder(tiny_run, tmp_path_factory.mktemp("labels") / "encoder"))
    return window_maker(WindowsConfig(sequence_length=24), encoder, "encoder")


def doubts(task, *labels):
    """What a task says about texts, or words, with these labels on lines 1, 2, …"""
    if task is TAG:
        examples = [TaggedExample(("w",) * len(labels), labels, "f, line 1", tuple(range(1, len(labels) + 1)))]
    else:
        examples = [Example("", None, label, f"f, line {n}") for n, label in enumerate(labels, start=1)]
    return list(task.doubts(places_of(task, examples)))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("new york", "new\u00a0york"),
        ("good", "go\u200bod"),
        ("good", "Good"),
        ("1", "1.0"),
        ("1", "01"),
        ("0.5", "5e-1"),
        ("A", "\uff21"),
        ("\u2764", "\u2764\ufe0f"),  # one as a text, one as an emoji
        ("cat", "c\u0430t"),  # a Cyrillic letter
        ("\u039d\u039f", "NO"),  # Greek letters
        ("-1", "\u22121.0"),
        ("-0", "0"),
    ],
)
def test_labels_that_look_alike_or_mean_the_same_number_are_told_with_their_lines(one, two):
    assert printed(one) == printed(two)
    for task, labels in ((CLASSIFY, (one, "other", two)), (MULTILABEL, ((one,), ("other",), (two, one)))):
        (line,) = doubts(task, *labels)
        assert line.startswith(f"f, line 3: the label {two!a} differs from {one!a} (f, line 1) only in")


def test_labels_that_differ_are_not_told():
    assert doubts(CLASSIFY, "a", "b", "a", "1", "2", "10", "x1", "x2", "new york", "newyork", "苹果", "蘋果") == []
    assert (
        doubts(CLASSIFY, "12345678901234567890", "12345678901234567891", "1e400", "1e500", "nan1", "nan2", "кот") == []
    )
    assert doubts(REGRESSION, 1.0, 1, 2.5) == []
    assert doubts(TAG, "O", "B-PER", "I-PER", "B-LOC", "O") == []


def test_tags_that_are_numbers_are_told():
    """In JSON lines the tags of published data sets are often ids."""
    assert doubts(TAG, "0", "3", "12") == [
        "f, line 1: tags are numbers, so that there is no span F1; write their names"
    ]
    assert doubts(TAG, "NOUN", "3") == []


def test_single_letters_that_are_parts_of_speech_are_no_span_tags():
    """As in tweets: S is a possessive, U an address, E an emoticon, O a pronoun."""
    letters = tuple("NO^SZVARDPTXUEGLMY")
    assert span_tags(letters) == [] == doubts(TAG, *letters)


def test_a_stray_tag_among_prefixes_alone_leaves_the_span_f1():
    assert span_tags(["B", "I", "O", "b"]) == ["B", "I", "O", "O"]
    assert doubts(TAG, "B", "I", "O", "X") == [
        "f, line 4: the tag 'X' marks no span, as B-PER does; counts as O in span F1"
    ]


@pytest.mark.parametrize(("tags", "spans"), [(("O", "B-PER", "I-PER", "per"), True), (("O", "B-PER", "X", "Y"), False)])
def test_a_stray_tag_among_spans_is_told_with_its_line_and_leaves_the_span_f1(tmp_path, maker, said, tags, spans):
    rows = [
        *sentences(20, 1),
        (["one", "two"], ["O", "O"]),
        (["three", "four"], list(tags[:2])),
        (["five", "six"], list(tags[2:])),
    ]
    rows = [(words, ["O" if "WH" in tag else tag for tag in row]) for words, row in rows]
    train = write_tagged(tmp_path / "train.conll", rows)
    data = prepare_data(TAG, DataConfig(train=train, dev=train), maker)
    assert (next(iter(data.metrics)) == "span_f1") == spans
    lines = Path(train).read_text().split("\n")
    strays = [tag for tag in tags if tag not in ("O", "B-PER", "I-PER")]
    told = [line for line in said if "marks no span" in line]
    assert len(told) == len(strays)
    for tag, line in zip(strays, told):
        number = next(n for n, row in enumerate(lines, start=1) if row.endswith(f"\t{tag}"))
        assert line.startswith(f"{train}, line {number}: the tag {tag!r} marks no span")


def test_labels_that_a_limit_drops_are_told(tmp_path, maker, said):
    rows = [(f"the cat {n}", f"label{n % 8}") for n in range(80)]
    train, dev = write_texts(tmp_path / "train.tsv", rows), write_texts(tmp_path / "dev.tsv", rows[:16])
    data = prepare_data(CLASSIFY, DataConfig(train=train, dev=dev, limit=4), maker)
    left = {item.labels[0] for item in data.train}
    (line,) = [line for line in said if "no example left" in line]
    gone = [label for number, label in enumerate(data.labels) if number not in left]
    more = ", …" if len(gone) > 5 else ""
    assert line == (
        f"data.limit: {len(gone)} of 8 labels have no example left to learn from ({', '.join(gone[:5])}{more}); raise it"
    )
    said.clear()
    prepare_data(CLASSIFY, DataConfig(train=train, dev=dev, limit=79), maker)
    assert not [line for line in said if "no example left" in line]


def test_labels_that_stand_once_are_the_cause_and_not_the_number_of_texts(tmp_path, maker):
    train = write_texts(tmp_path / "train.tsv", [(f"the dog {n}", f"{n / 10}") for n in range(30)])
    with pytest.raises(InputError, match=r"30 of 30 labels stand once, .* a number, an id or the text\?"):
        prepare_data(CLASSIFY, DataConfig(train=train), maker)
    with pytest.raises(
        InputError, match=r"train.tsv, line 1: column 'text' is the text and also the label; name another"
    ):
        prepare_data(CLASSIFY, DataConfig(train=train, text="text", label="text"), maker)


def test_texts_without_a_token_are_counted(tmp_path, maker, said):
    rows = [*texts(20, 1), ("", "late"), ("\u200b", "early"), ("  ", "late")]
    train = write_texts(tmp_path / "train.tsv", rows)
    prepare_data(CLASSIFY, DataConfig(train=train, dev=train), maker)
    assert [line for line in said if line.startswith("train:")] == ["train: 23 examples; 3 without a token"]


@pytest.mark.parametrize(("count", "worth"), [(20, 5), (49, 2), (50, None)])
def test_a_dev_set_that_tells_little_is_told(tmp_path, maker, said, count, worth):
    train, dev = write_texts(tmp_path / "t.tsv", texts(20, 1)), write_texts(tmp_path / "d.tsv", texts(count, 2))
    prepare_data(CLASSIFY, DataConfig(train=train, dev=dev), maker)
    why = f"validation on {count} examples tells little, as each is worth {worth} points: give more in data.dev"
    assert [line for line in said if "tells little" in line] == ([why] if worth else [])


def test_a_label_that_a_dev_set_writes_otherwise_is_told_with_its_twin(tmp_path, maker):
    train = write_texts(tmp_path / "t.tsv", [*texts(20, 1), ("the caf\u00e9", "caf\u00e9")])
    dev = write_texts(tmp_path / "d.tsv", [("a cat", "cafe\u0301")])
    with pytest.raises(InputError, match=r"d.tsv, line 2: .* does not occur in .* Did you mean 'caf\\xe9'\?"):
        prepare_data(CLASSIFY, DataConfig(train=train, dev=dev), maker)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("tag", {"text": "a"}, "`text` is a column to predict on, and labeled examples are words; remove it"),
        ("tag", {"label_columns": ["a"]}, "`label_columns` is an option of multilabel, not of tag; remove it"),
        ("classify", {"words": "1"}, "`words` is an option of tag, not of classify; remove it"),
        ("regression", {"separator": ";"}, "`separator` is an option of multilabel, not of regression; remove it"),
    ],
)
def test_options_of_another_task_are_refused(maker, task, options, message):
    with pytest.raises(InputError) as caught:
        prepare_data(task_named(task), DataConfig(train="absent.tsv", **options), maker)
    assert str(caught.value) == message


def test_a_table_of_0_and_1_names_the_option_for_it(tmp_path, maker):
    (tmp_path / "a.csv").write_text("text,hot,cold\na,1,0\n")
    with pytest.raises(
        InputError, match=r"Name it by `label`, or columns of 0 and 1 by `label_columns`, or, if this line"
    ):
        prepare_data(MULTILABEL, DataConfig(train=str(tmp_path / "a.csv")), maker)


def test_flags_of_labeled_rows_have_no_effect_on_masked_ones(capsys):
    assert main(["evaluate", "m", "--masked", "x.npz", "--label", "y"]) == 2
    assert capsys.readouterr().err == "bert: --label is for labeled rows, not for --masked; remove it\n"


def test_tags_of_any_scheme_are_written_back_as_they_were_read(tmp_path, tiny_run, capsys):
    """In the folder, which transformers reads, and in predictions."""
    letters = {"B-WHO": "B_WHO", "I-WHO": "E_WHO", "B-WHAT": "B_WHAT", "I-WHAT": "M_WHAT"}
    rows = [(words, [letters.get(tag, tag) for tag in tags]) for words, tags in sentences(40, 1)]
    train, model = write_tagged(tmp_path / "train.conll", rows), save_encoder(tiny_run, tmp_path / "encoder")
    command = ["finetune", "tag", "--model", model, "--train", train, "--dev", train, "--out", str(tmp_path / "run")]
    assert main([*command, *FAST, "--epochs=0.1"]) == 0
    assert "1 step of 32 examples = 0.1 epochs" in capsys.readouterr().out
    folder = tmp_path / "run" / "model"
    labels = {*letters.values(), "O"}
    assert set(json.loads((folder / "config.json").read_text())["id2label"].values()) == labels
    assert main(["predict", str(folder), train]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines() if line]
    assert {tag for _, tag, _ in lines} <= labels
    assert main(["evaluate", str(folder), train]) == 0
    assert "span F1" in capsys.readouterr().out
