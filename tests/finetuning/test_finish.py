"""The end of a run: a kill while the model is measured changes nothing in the report, which says what `bert evaluate` says."""

import json
import random
import signal

import pytest

from bert.cli import main
from bert.finetuning.assess import assess
from bert.finetuning.config import DataConfig
from tests import warm

from .synthetic import FAST, save_encoder, texts, write_texts
from .test_resume import PROGRAM


def noisy(count, seed):
    """Random labels: a model that has learned from right ones is too sure of itself, so that a temperature is fitted."""
    draw = random.Random(seed)
    return [(text, draw.choice(["early", "late", "other"])) for text, _ in texts(count, seed)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A folder with an encoder and rows, and the run `whole`."""
    folder = tmp_path_factory.mktemp("finish")
    save_encoder(tiny_run, folder / "encoder")
    for name, rows in (("train", texts(80, 1)), ("dev", noisy(60, 2)), ("test", noisy(60, 3))):
        write_texts(folder / f"{name}.tsv", rows)
    assert main(command(folder, "whole")) == 0
    return folder


def command(place, run):
    files = [f"--{name}={place / name}.tsv" for name in ("train", "dev", "test")]
    flags = [*FAST, "--data.batch_size=8", "--optimizer.lr=1e-2"]
    return ["finetune", "classify", f"--model={place / 'encoder'}", *files, *flags, f"--out={place / run}"]


def contents(run, *folders):
    name = run.name  # in the report
    return {(folder, file.name): file.read_text(errors="replace").replace(f"/{name}/", "/run/")
            for folder in folders for file in (run / folder).iterdir()}  # fmt: skip


@pytest.mark.parametrize("name", ["model", "report"])
def test_a_run_that_is_killed_before_one_of_its_results_is_there_has_the_same_ones(place, name):
    """What is fitted to the dev set is written before the model, and this before the report."""
    seen = '"tuned" in file.read_text()'
    patch = {
        "model": f'after(end, "replace_text", send, lambda file, *_: {seen})',
        "report": 'before(end, "over_seeds", send)',
    }[name]
    assert warm.run(PROGRAM.format(patch=patch), *command(place, name)).returncode == -signal.SIGKILL
    temperature = json.loads((place / name / "model" / "windows.json").read_text())["temperature"]
    assert (temperature is None) == (name == "model")
    again = warm.run(PROGRAM.format(patch=""), *command(place, name))
    assert again.returncode == 0, again.stderr
    assert contents(place / name, "model", "report") == contents(place / "whole", "model", "report")


def test_the_report_of_a_run_says_what_its_model_does(place):
    record = json.loads((place / "whole" / "report" / "metrics.json").read_text())
    assert record["tuned"]["temperature"] != 1
    found = json.loads(json.dumps(assess(place / "whole", place / "test.tsv", DataConfig()).record()))
    for key in ("metrics", "labels", "slices", "details", "calibration"):
        assert found[key] == record[key], key
