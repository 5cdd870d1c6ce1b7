"""The files of the sample say what the sample says, in forms that need no reader of ours."""

import csv
import json

import pytest

from bert.cli import main
from bert.sample.files import write_sample
from bert.sample.grammar import LANGUAGES, read_language
from bert.sample.make import make_sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "new" / "folder"
    write_sample(folder)
    return folder


def lines(file):
    return file.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def samples():
    return [make_sample("en"), make_sample("zh")]


def test_the_corpus_has_the_documents_of_both_languages_parted_by_blank_lines(folder, samples):
    documents = (folder / "corpus.txt").read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    assert documents == [document for sample in samples for document in sample.corpus]


@pytest.mark.parametrize("part", ["train", "test"])
def test_topics_are_a_table_with_a_header(folder, samples, part):
    with (folder / f"topics-{part}.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    expected = [row for sample in samples for row in getattr(sample, f"topics_{part}")]
    assert [(row["text"], row["label"]) for row in rows] == expected


@pytest.mark.parametrize("part", ["train", "test"])
def test_tags_are_a_word_and_a_tag_a_line(folder, samples, part):
    blocks = (folder / f"tags-{part}.conll").read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    rows = [tuple(zip(*(line.split("\t") for line in block.split("\n")))) for block in blocks]
    assert rows == [row for sample in samples for row in getattr(sample, f"tags_{part}")]


@pytest.mark.parametrize("part", ["train", "test"])
def test_senses_count_characters(folder, part):
    rows = [json.loads(line) for line in lines(folder / f"senses-{part}.jsonl")]
    assert len(rows) == 12 * sum(len(senses) for code in LANGUAGES for senses in read_language(code).words.values())
    assert all(row["sentence"][row["start"] : row["end"]].lower() == row["word"] for row in rows)


def test_sentences_of_a_word_are_its_labelled_sentences(folder):
    for word in ("apple", "苹果"):
        file = lines(folder / f"sentences-{word}.txt")
        assert len(file) == 48
        assert all(word in line.lower() for line in file)


def test_pairs_and_prompts(folder):
    assert all(set(json.loads(line)) == {"good", "bad"} for line in lines(folder / "pairs.jsonl"))
    assert all(set(json.loads(line)) == {"word", "sense", "text"} for line in lines(folder / "prompts.jsonl"))


def test_the_verb_writes_the_same_files(folder, tmp_path, capsys):
    assert main(["sample", "--out", str(tmp_path / "out")]) == 0
    named = capsys.readouterr().out.splitlines()
    assert sorted(named) == sorted(str(path) for path in (tmp_path / "out").iterdir())
    for path in folder.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_one_language_alone(tmp_path):
    assert main(["sample", "--out", str(tmp_path / "zh"), "--languages", "zh"]) == 0
    assert not (tmp_path / "zh" / "sentences-apple.txt").exists()
    assert (tmp_path / "zh" / "corpus.txt").read_text(encoding="utf-8").startswith(make_sample("zh").corpus[0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--languages", "fr"], "no language fr: use en or zh"), (["--seed", "x"], "seed")],
)
def test_what_cannot_be_made_is_one_line_and_leaves_nothing(tmp_path, capsys, arguments, says):
    assert main(["sample", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["sample", "--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
