"""What a fine-tuning run reads: labels, the held-out share, the limit, by properties that the order of rows cannot change."""

import dataclasses
import json

import pytest

from bert.data.examples import Example
from bert.data.tagged import TaggedExample
from bert.errors import InputError
from bert.finetuning.config import DataConfig, FinetuneOptimizer, FinetuneRecipe, TaskConfig, WindowsConfig
from bert.finetuning.inputs import make_items, prepare_data, resolved, window_maker
from bert.finetuning.tasks.classify import TASK as CLASSIFY
from bert.finetuning.tasks.tag import TASK as TAG
from bert.model.encoder import Encoder

from .synthetic import save_encoder, sentences, texts, write_tagged, write_texts


@pytest.fixture(scope="module")
def encoder(tiny_run, tmp_path_factory):
    return Encoder.load(save_encoder(tiny_run, tmp_path_factory.mktemp("inputs") / "encoder"))


@pytest.fixture(scope="module")
def maker(encoder):
    return window_maker(WindowsConfig(sequence_length=24), encoder, "encoder")


def rows_of(items):
    return sorted((tuple(item.windows[0].ids), item.labels) for item in items)


def test_labels_are_those_of_the_training_file_sorted(tmp_path, maker):
    train = write_texts(tmp_path / "train.tsv", texts(60, 1))
    data = prepare_data(CLASSIFY, DataConfig(train=train), maker)
    assert data.labels == ("early", "late", "other")
    assert list(data.metrics) == ["accuracy", "macro_f1", "mcc"]
    tagged = write_tagged(tmp_path / "train.conll", sentences(60, 1))
    data = prepare_data(TAG, DataConfig(train=tagged), maker)
    assert data.labels == ("B-WHAT", "B-WHO", "I-WHAT", "I-WHO", "O")
    assert list(data.metrics) == ["span_f1", "strict_span_f1", "accuracy"]


def test_the_validation_split_depends_on_the_texts_and_not_on_their_order(tmp_path, maker):
    rows = texts(300, 2)
    sides = []
    for number, order in enumerate((rows, rows[::-1])):
        train = write_texts(tmp_path / f"{number}.tsv", order)
        data = prepare_data(CLASSIFY, DataConfig(train=train, validation_split=0.3), maker)
        assert len(data.train) + len(data.dev) == 300
        assert 0 < len(data.dev) < 150
        # equal texts stand on one side: nothing that is measured was learned
        assert not {ids for ids, _ in rows_of(data.train)} & {ids for ids, _ in rows_of(data.dev)}
        sides.append((rows_of(data.train), rows_of(data.dev)))
    assert sides[0] == sides[1]


def test_what_alone_has_a_label_is_learned_from(tmp_path, maker):
    for seed in range(8):
        train = write_texts(tmp_path / "train.tsv", [*texts(40, seed), (f"the only one of its kind {seed}", "rare")])
        data = prepare_data(CLASSIFY, DataConfig(train=train, validation_split=0.5), maker)
        rare = data.labels.index("rare")
        assert sum(item.labels == (rare,) for item in data.train) == 1


def test_dev_texts_from_training_and_a_dev_set_of_one_label_are_doubted(tmp_path, maker, said):
    rows, alone = texts(80, 1), [(text, "other") for text, label in texts(40, 2) if label == "other"]
    train, same, one = (write_texts(tmp_path / f"{name}.tsv", some) for name, some in
                        (("train", rows), ("same", rows[:30]), ("one", alone)))  # fmt: skip
    prepare_data(CLASSIFY, DataConfig(train=train, dev=same), maker)
    assert "30 of 30 dev texts are training texts too: remove them from the training file" in said
    assert not [line for line in said if "only one label" in line]
    prepare_data(CLASSIFY, DataConfig(train=train, dev=one), maker)
    assert (
        "one.tsv: only one label, 'other': give examples of two or more in data.dev, or its score tells little" in said
    )
    tagged = write_tagged(tmp_path / "train.conll", sentences(20, 1))
    without = write_tagged(tmp_path / "none.conll", [(["a", f"b{n}"], ["O", "O"]) for n in range(9)])
    prepare_data(TAG, DataConfig(train=tagged, dev=without), maker)
    assert [line for line in said if line.startswith("none.conll: only one label, 'O'")]


def test_a_limit_takes_the_same_examples_from_every_order_and_says_what_they_are(tmp_path, maker, said):
    rows = texts(200, 3)
    dev = write_texts(tmp_path / "dev.tsv", texts(20, 4))
    taken, counted = [], []
    for number, order in enumerate((rows, rows[::-1])):
        train = write_texts(tmp_path / f"{number}.tsv", order)
        data = prepare_data(CLASSIFY, DataConfig(train=train, dev=dev, limit=50), maker)
        taken.append(rows_of(data.train))
        counted.append(said[-1])
    assert taken[0] == taken[1]
    assert len(taken[0]) == 50
    assert counted[0] == counted[1]
    counts = [int(part.split()[-1]) for part in counted[0].removeprefix("labels: ").split(", ")]
    assert sum(counts) == 50  # of what is learned from, not of the whole file


def test_a_limit_decides_nothing_about_the_scheme_of_tags(tmp_path, maker):
    spans = [([f"word{n}"], ["O"]) for n in range(40)] + [(["Ann"], ["B-WHO"])]
    dev = write_tagged(tmp_path / "dev.conll", [(["Ann"], ["B-WHO"])])
    one_stray, two_strays = ([*spans, (["odd", "odder"], tags)] for tags in (["X", "X"], ["X", "Y"]))
    for rows, is_spans in ((spans, True), (one_stray, True), (two_strays, False)):
        train = write_tagged(tmp_path / "train.conll", rows)
        data = prepare_data(TAG, DataConfig(train=train, dev=dev, limit=1), maker)
        assert ("span_f1" in data.metrics) == is_spans


def test_items_keep_every_word_and_leave_out_sentences_without_one(maker):
    tagged = [TaggedExample(tuple(words), tuple(tags)) for words, tags in sentences(20, 5)]
    items = make_items(TAG, [TaggedExample((), ()), *tagged], maker, ("B-WHAT", "B-WHO", "I-WHAT", "I-WHO", "O"))
    assert [len(item.labels) for item in items] == [len(example.words) for example in tagged]
    assert [sorted(word for window in item.windows for word in window.words) for item in items] == [
        list(range(len(example.words))) for example in tagged
    ]
    assert len(make_items(CLASSIFY, [Example("", None, "a"), Example("cat", None, "b")], maker, ("a", "b"))) == 2


def test_a_recipe_is_kept_with_the_rows_that_were_decided(encoder):
    maker = window_maker(WindowsConfig(), encoder, "encoder")
    recipe = resolved(FinetuneRecipe(epochs=2.0, optimizer=FinetuneOptimizer(lr=0.5)), maker, CLASSIFY, 32, 100)
    assert recipe.windows == WindowsConfig(64, 31)
    assert (
        dataclasses.replace(
            recipe, windows=WindowsConfig(), epochs=None, optimizer=FinetuneOptimizer(), head=TaskConfig()
        )
        == FinetuneRecipe()
    )
    assert recipe.head.probe_examples == 1_000
    assert resolved(FinetuneRecipe(), maker, TAG, 32, 100).head.probe_examples == 0
    with pytest.raises(InputError, match="sequence_length is 128; must be at most the maximum length of encoder, 64"):
        window_maker(WindowsConfig(sequence_length=128), encoder, "encoder")


def test_pairs_are_two_texts_in_a_row(tmp_path, maker, encoder):
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(json.dumps({"premise": "the cat", "hypothesis": text, "label": text}) + "\n" for text in "ab" * 9)
    )
    data = prepare_data(CLASSIFY, DataConfig(train=str(file), dev=str(file)), maker)
    sep_id = encoder.tokenizer.sep_id
    assert all(item.windows[0].ids.count(sep_id) == 2 for item in data.train)
