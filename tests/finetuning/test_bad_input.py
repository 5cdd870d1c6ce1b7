"""What a user can get wrong in fine-tuning: one line that names the thing and the fix, exit code 2, and the folder as it was."""

import json
import re
import shutil

import pytest

from bert.cli import main
from bert.finetuning.tasks.index import TASKS
from tests.conftest import run_quietly
from tests.test_bad_input import snapshot

from .synthetic import FAST, save_encoder, sentences, texts, write_tagged, write_texts


@pytest.fixture(scope="module")
def master(tmp_path_factory, tiny_run):
    """A folder with an encoder, a masked LM, a classifier and the files of both tasks."""
    folder = tmp_path_factory.mktemp("bad")
    save_encoder(tiny_run, folder / "encoder")
    shutil.copytree(tiny_run / "model", folder / "masked")
    write_texts(folder / "train.tsv", texts(40, 1))
    write_texts(folder / "dev.tsv", texts(20, 2))
    write_tagged(folder / "train.conll", sentences(40, 1))
    flags = ["--train", str(folder / "train.tsv"), "--dev", str(folder / "dev.tsv"), *FAST, "--epochs=1"]
    run_quietly(["finetune", "classify", "--model", str(folder / "encoder"), *flags, "--out", str(folder / "run")])
    return folder


@pytest.fixture
def place(master, tmp_path, monkeypatch):
    shutil.copytree(master, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def refused(place, capsys):
    """Runs a command that must fail and returns its one line on standard error, without `bert: `."""

    def run(*arguments):
        before = snapshot(place)
        capsys.readouterr()
        code = main(list(arguments))
        errors = re.sub("warning: validation on .* tells little.*\n", "", capsys.readouterr().err)
        assert (code, errors.count("\n")) == (2, 1), errors
        assert snapshot(place) == before
        return errors.removeprefix("bert: ").removesuffix("\n")

    return run


CLASSIFY = ("finetune", "classify", "--model", "encoder", "--out", "new", *FAST)
TAG = ("finetune", "tag", "--model", "encoder", "--out", "new", *FAST)


def test_label_errors_need_one_process_and_five_texts(place, refused):
    asked = (*CLASSIFY, "--label-errors", "--train")
    expected = "label_errors: 2 processes train; must be one: give trainer.devices 1"
    assert refused(*asked, "train.tsv", "--trainer.devices=2") == expected
    write_texts(place / "few.tsv", [("a b", "x"), ("A  B", "y"), ("c", "x"), ("d", "y"), ("e", "x")])
    write_texts(place / "rare.tsv", [(text, "xy"[text > "h"]) for text in "fghij"])
    expected = "label_errors: 4 different training texts; must be at least 5"
    assert refused(*asked, "few.tsv", "--dev", "rare.tsv") == expected


FILES = {
    "no label column": ("text\tstars\na b\t1\n", "label", "stars"),
    "an empty cell": ("text\tlabel\na b\tx\nc d\t\n", "line 3", "empty"),
    "one class only": ("text\tlabel\na b\tx\nc d\tx\n", "one label", "'x'"),
    "too few to hold out": ("text\tlabel\na b\tx\nc d\ty\n", "2 examples", "--dev"),
    "no rows": ("text\tlabel\n", "no examples"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_to_learn_from(refused, place, case):
    content, *parts = FILES[case]
    (place / "bad.tsv").write_text(content)
    line = refused(*CLASSIFY, "--train", "bad.tsv")
    assert "bad.tsv" in line
    assert all(part in line for part in parts), line


def test_files_of_the_other_task(refused, place):
    assert "train.tsv, line 1: a table of texts with labels" in refused(*TAG, "--train", "train.tsv")
    (place / "bad.conll").write_text("Ann\tO\n")
    assert "bad.conll: .conll is a format of tagged words, not of texts" in refused(*CLASSIFY, "--train", "bad.conll")
    assert "encoder: is a folder: give a file" in refused(*CLASSIFY, "--train", "encoder")


def test_what_is_read_does_not_lie_in_the_folder_that_is_replaced(refused):
    line = refused(*CLASSIFY[: -len(FAST)], *FAST, "--train", "train.tsv", "--out", ".", "--overwrite")
    assert "lies in --out ." in line


def test_a_split_that_is_neither_here_nor_on_the_hub(refused, place):
    for option in ("--train", "--dev", "--test"):
        files = [] if option == "--train" else ["--train", "train.tsv"]
        line = refused(*CLASSIFY, *files, option, "nobody/nothing:a:train")
        assert line.startswith(
            "nobody/nothing:a:train: no such file or folder, and as a Hub data set it cannot be read ("
        )
        assert line.endswith("); check the path, the name or the network")
    line = refused(*CLASSIFY, "--train", "nobody/nothing:a:train", "--test", "nobody/nothing:a:train")
    assert line.startswith("--test nobody/nothing:a:train: is the file of --train too")
    shutil.copytree(place / "encoder", place.parent / "encoder")
    out = ("--model", "../encoder", "--out", ".", "--overwrite")  # the split does not lie in it
    line = refused(*CLASSIFY, *out, "--train", "nobody/nothing:a:train")
    assert line.endswith("here: holds files that are not of a run: give another --out")


def test_rows_of_unequal_length(refused, place):
    (place / "bad.jsonl").write_text(json.dumps({"words": ["a", "b"], "tags": ["O"]}) + "\n")
    line = refused(*TAG, "--train", "bad.jsonl")
    assert "bad.jsonl, line 1: 2 words and 1 tags" in line


def test_a_dev_label_that_is_unseen_in_train(refused, place):
    (place / "bad.tsv").write_text("text\tlabel\nthe cat\tearly\nthe dog\tearlier\n")
    line = refused(*CLASSIFY, "--train", "train.tsv", "--dev", "bad.tsv")
    assert line.startswith("bad.tsv, line 3: label 'earlier' does not occur in train.tsv")
    assert "Did you mean `early`?" in line


def test_sentences_without_a_word(refused, place):
    (place / "none.jsonl").write_text(json.dumps({"words": [], "tags": []}) + "\n")
    assert refused(*TAG, "--train", "none.jsonl") == "none.jsonl: no words: give at least one sentence with a word"
    line = refused(*TAG, "--train", "train.conll", "--dev", "none.jsonl")
    assert line == "none.jsonl: no words: give at least one sentence with a word"


def test_texts_that_are_too_much_alike_to_hold_some_out(refused, place):
    (place / "same.tsv").write_text("text\tlabel\n" + "the cat\tearly\nthe dog\tlate\n" * 20)
    assert "40 examples with 2 different texts are too few to split" in refused(*CLASSIFY, "--train", "same.tsv")


def test_a_dev_tag_that_is_unseen_in_train_is_named_with_its_word(refused, place):
    (place / "bad.conll").write_text("the\tO\ncat\tB-THING\n")
    line = refused(*TAG, "--train", "train.conll", "--dev", "bad.conll")
    assert line.startswith("bad.conll, line 2: label 'B-THING' of 'cat' does not occur in train.conll")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ("--train",)),
        (("--train", "-"), ("--train -", "file")),
        (("--train", "absent.tsv"), ("absent.tsv",)),
        (("--train", "train.tsv", "--text", "txet"), ("train.tsv", "txet", "text")),
        (("--train", "train.tsv", "--windows.sequence_length", "80"), ("windows.sequence_length is 80", "64")),
        (
            ("--train", "train.tsv", "--windows.sequence_length", "16", "--windows.stride", "15"),
            ("windows.stride 15", "14"),
        ),
        (("--train", "train.tsv", "--epochs", "0"), ("epochs is 0",)),
        (("--train", "train.tsv", "--data.validation_split", "0.9"), ("data.validation_split",)),
        (("--train", "train.tsv", "--trainer.max_epochs", "3"), ("trainer.max_epochs", "epochs")),
        (("--train", "train.tsv", "--optimizer.rate", "3"), ("optimizer.rate",)),
        (("--train", "train.tsv", "--head.pooling", "max"), ("head.pooling", "cls")),
        (("--train", "train.tsv", "--data.validation_split", "0.5", "--trainer.accelerator", "tpu"), ("trainer",)),
    ],
)
def test_options(refused, arguments, parts):
    line = refused(*CLASSIFY, *arguments)
    assert all(part in line for part in parts), line


def test_the_first_word_is_the_task(refused):
    for arguments in ((), ("classfy",), ("--train", "train.tsv")):
        assert f"bert finetune {'|'.join(TASKS)}: name the task first" in refused("finetune", *arguments)
    assert refused("finetune", "multilable").endswith("not multilable. Did you mean `multilabel`?")


def test_the_model(refused, place):
    assert "--model" in refused("finetune", "classify", "--train", "train.tsv", "--out", "new")
    assert "no such folder" in refused("finetune", "classify", "--model", "no", "--train", "train.tsv", "--out", "new")
    (place / "encoder" / "model.safetensors").unlink()
    assert "model.safetensors" in refused(*CLASSIFY, "--train", "train.tsv")


def test_an_encoder_without_its_tokenizer(refused, place):
    (place / "encoder" / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(*CLASSIFY, "--train", "train.tsv")


def test_a_folder_in_use(refused, place):
    files = ("finetune", "classify", "--model", "encoder", "--train", "train.tsv", *FAST)
    line = refused(*files, "--out", "run")
    assert line.startswith("run: already holds a run")
    assert "--overwrite" in line
    assert "--resume" not in line  # there is no such thing here
    assert "not of a run" in refused(*files, "--out", "masked")
    assert "is a file" in refused(*files, "--out", "train.tsv")


def test_an_overwriting_run_that_is_refused_leaves_the_old_one(refused, place):
    (place / "bad.tsv").write_text("text\tlabel\na\tx\nb\tx\n")
    files = ("finetune", "classify", "--model", "encoder", "--train", "bad.tsv", "--out", "run", "--overwrite")
    assert "one label" in refused(*files)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("model", ["encoder", "masked"])
def test_models_without_a_head_for_a_task(refused, command, model):
    line = refused(command, model, "train.tsv")
    assert model in line
    assert "bert finetune" in line


def test_what_predict_and_evaluate_read(refused, place):
    assert "absent.tsv" in refused("predict", "run/model", "absent.tsv")
    assert "is a folder" in refused("predict", "run/model", "dev.tsv", "--out", "encoder")
    assert "none/out.tsv" in refused("predict", "run/model", "dev.tsv", "--out", "none/out.tsv")
    assert "labeled rows" in refused("evaluate", "run/model")
    (place / "other.tsv").write_text("text\tlabel\nthe cat\tearly\nthe dog\tnever\n")
    line = refused("evaluate", "run/model", "other.tsv")
    assert line.startswith("other.tsv, line 3: label 'never'")
    (place / "run" / "model" / "windows.json").write_text("{}}")
    assert "windows.json" in refused("predict", "run/model", "dev.tsv", "--out", "new.tsv")


def test_a_class_that_a_recipe_names_is_made_with_trust_alone(place, refused):
    described = "{class_path: lightning.pytorch.callbacks.LambdaCallback}"
    (place / "recipe.yaml").write_text(f"trainer: {{callbacks: [{described}]}}\n")
    command = (*CLASSIFY, "--train", "train.tsv", "--config", "recipe.yaml", "--epochs=1")
    assert refused(*command).startswith(
        "trainer.callbacks is {'class_path': 'lightning.pytorch.callbacks.LambdaCallback'}"
    )
    assert main([*command, "--trust"]) == 0
    assert "LambdaCallback" in (place / "new" / "recipe.yaml").read_text()
    (place / "recipe.yaml").write_text("trust: true\n")
    assert "unknown key `trust`" in refused(*command)
