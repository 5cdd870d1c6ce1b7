"""Splits of data sets on the Hub as labeled rows: class labels by name, and what is said of a name that cannot be read."""

import json
import shutil

import datasets
import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.data import hub_rows
from bert.data.examples import read_examples
from bert.data.hub_rows import is_split, lines_of, title_of
from bert.data.tagged import read_tagged
from bert.errors import InputError

from .hub import class_label, write_data_set

TOPICS = {"text": {"dtype": "string"}, "label": {"dtype": class_label("sport", "art")}, "n": {"dtype": "float32"}}
TAGS = {"tokens": {"list": "string"}, "ner_tags": {"list": class_label("O", "B-PER", "I-PER")}}
ROWS = [{"text": "A ball.", "label": 0, "n": 1.5}, {"text": "A song.", "label": 1, "n": 2}, {"text": "?", "label": -1}]
SENTENCES = [{"tokens": ["Ann", "Lee", "left"], "ner_tags": [1, 2, 0]}]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with the data set owner/set in place of one of the Hub, and with a cache of its own."""
    sets = {"topics": (TOPICS, {"train": ROWS[:2], "test": ROWS}), "names.en": (TAGS, {"validation": SENTENCES})}
    write_data_set(tmp_path / "owner" / "set", sets)
    write_data_set(tmp_path / "one", {"default": (TOPICS, {"train": ROWS[:2]})})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def error_of(name):
    with pytest.raises(InputError) as caught:
        list(lines_of(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a/b:c:train", "conll2003::validation", "a-b/c.d:e.f-g:test_matched"])
def test_a_name_with_a_configuration_and_a_split_is_one_of_the_hub(name):
    assert is_split(name)
    assert title_of(name) == name


@pytest.mark.parametrize("name", ["-", "", "train.csv", "a/b", "a/b:c", "a/b/c:d:e", "a:b:c.jsonl", "~/a:b:c", ":b:c"])
def test_any_other_name_is_that_of_a_file(name):
    assert not is_split(name)


def test_an_existing_file_wins(place):
    (place / "owner" / "set:topics:train").write_text("text\tlabel\nfrom the file\tx\n")
    assert [example.text for example in read_examples("owner/set:topics:train", file_format="tsv")] == ["from the file"]
    assert title_of("owner/set:topics:train") == "set:topics:train"


def test_labels_are_names_and_unknown_ones_are_missing(place):
    read = read_examples("owner/set:topics:train", file_format="csv")  # the format of the other files of a run
    assert [(one.text, one.label, one.where) for one in read] == [
        ("A ball.", "sport", "owner/set:topics:train, line 1"),
        ("A song.", "art", "owner/set:topics:train, line 2"),
    ]
    assert [one.label for one in read_examples("one::train", label="n")] == ["1.5", "2.0"]
    assert [one.label for one in read_examples("owner/set:topics:test", needs_label=False)] == ["sport", "art", None]
    with pytest.raises(InputError, match=r"^owner/set:topics:test, line 3: the label in column 'label' is empty;"):
        list(read_examples("owner/set:topics:test"))


def test_tags_are_names(place):
    (sentence,) = read_tagged("owner/set:names.en:validation")
    assert (sentence.words, sentence.tags) == (("Ann", "Lee", "left"), ("B-PER", "I-PER", "O"))


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.data())
def test_names_are_those_of_the_feature_at_any_depth(names, data):
    label = datasets.ClassLabel(names=names)
    numbers = data.draw(st.lists(st.integers(0, len(names) - 1)))
    assert [hub_rows._named(label, number) for number in numbers] == label.int2str(numbers)
    assert hub_rows._named(datasets.List(datasets.LargeList(label)), [numbers, [-1], None]) == [
        label.int2str(numbers),
        [None],
        None,
    ]
    assert hub_rows._named(datasets.List(datasets.Value("int64")), numbers) == numbers
    assert hub_rows._named(datasets.Value("int64"), -1) == -1


def test_a_split_or_configuration_that_is_not_there_is_said_in_one_line(place):
    assert error_of("owner/set:topics:tain") == (
        "owner/set:topics:tain: no such file or folder, and as a Hub data set it cannot be read (ValueError: Unknown split"
        " \"tain\". Should be one of ['train', 'test']); check the path, the name or the network"
    )
    assert "(ValueError: BuilderConfig 'topic' not found. Available: ['topics', 'names.en']);" in error_of(
        "owner/set:topic:test"
    )
    assert "(ValueError: Config name is missing" in error_of("owner/set::train")


def test_a_hub_that_does_not_answer_is_one_line_at_once(place, monkeypatch):
    def refuse(self, name, timeout):
        raise ConnectionError(f"no network for {name}\nsecond line")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("which would ask again and again"))
    assert error_of("owner/other:topics:train") == (
        "owner/other:topics:train: no such file or folder, and as a Hub data set it cannot be read "
        "(ConnectionError: no network for owner/other); check the path, the name or the network"
    )


def test_what_was_read_once_is_read_from_the_cache_without_a_network(place):
    before = list(lines_of("owner/set:topics:test"))
    shutil.rmtree(place / "owner")
    (place / "cache" / "set").rename(place / "cache" / "owner___set")  # as a data set of the Hub is called there
    assert list(lines_of("owner/set:topics:test")) == before
    assert json.loads(before[0]) == {"text": "A ball.", "label": "sport", "n": 1.5}
    assert 'Unknown split "tain"' in error_of("owner/set:topics:tain")
