"""`bert finetune`, `evaluate` and `predict` on splits of a data set on the Hub, here in the cache of `datasets`."""

import json

import datasets
import pytest

from bert.cli import main
from bert.data.hub_rows import lines_of
from bert.finetuning import run as running
from bert.finetuning.config import FinetuneRecipe
from bert.recipe import read_recipe
from tests.conftest import run_quietly
from tests.data.hub import class_label, write_data_set

from .synthetic import FAST, save_encoder, texts

LABELS = ("late", "early", "other")
COLUMNS = {"text": {"dtype": "string"}, "label": {"dtype": class_label(*LABELS)}}


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_run):
    """A folder with an encoder and, in the cache, the data set owner/set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    save_encoder(tiny_run, tmp_path / "encoder")
    splits = {
        split: [{"text": text, "label": LABELS.index(label)} for text, label in texts(count, seed)]
        for split, count, seed in (("train", 40, 1), ("dev", 20, 2), ("test", 20, 3))
    }
    write_data_set(tmp_path / "here" / "set", {"topics": (COLUMNS, splits)})
    assert len(list(lines_of("here/set:topics:train"))) == 40
    (tmp_path / "cache" / "set").rename(tmp_path / "cache" / "owner___set")  # as one of the Hub is called there
    return tmp_path


def test_a_run_on_splits_goes_on_from_any_folder_and_its_model_is_measured_on_splits(
    place, tmp_path_factory, monkeypatch, said, capsys
):
    names = [f"owner/set:topics:{split}" for split in ("train", "dev", "test")]
    files = ["--train", names[0], "--dev", names[1], "--test", names[2], "--model", str(place / "encoder")]
    command = ["finetune", "classify", *files, "--out", str(place / "run"), *FAST, "--epochs=1"]

    def killed(*_):
        raise RuntimeError

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(running, "finish", killed)
        main(command)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    run_quietly(command)
    headline = json.loads((place / "run" / "report" / "metrics.json").read_text())["summary"]
    assert headline.endswith(" on owner/set:topics:test, 1 seed")
    run_quietly(command)
    assert any("this run has finished" in line for line in said)
    for file in ("recipe.yaml", "given.yaml"):
        data = read_recipe(place / "run" / file, FinetuneRecipe).data
        assert [data.train, data.dev, data.test] == names
    model = place / "run" / "model"
    assert "- data: owner/set:topics:train, 40 examples" in (model / "README.md").read_text()

    capsys.readouterr()
    assert main(["evaluate", str(model), names[2], "--report", str(place / "report")]) == 0
    assert "20 examples" in capsys.readouterr().out
    assert "owner/set:topics:test" in (place / "report" / "report.html").read_text()
    run_quietly(["predict", str(model), names[2], "--out", str(place / "labels.jsonl")])
    rows = [json.loads(line) for line in (place / "labels.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [text for text, _ in texts(20, 3)]
    assert {row["predicted_label"] for row in rows} <= set(LABELS)
