"""Several seeds: each run is the run of its seed alone, they go on after a kill, and RUN/model is the best; the test file."""

import json
import re
import shutil
import signal
import statistics
import subprocess
import sys

import pytest
from scipy import stats

from bert.cli import main
from bert.finetuning.assess import assess
from bert.finetuning.config import DataConfig, FinetuneRecipe
from bert.finetuning.evaluate import evaluate
from bert.finetuning.module import start_model
from bert.recipe import read_recipe
from tests import warm
from tests.conftest import run_quietly

from .synthetic import FAST, save_encoder, texts, write_texts
from .test_resume import PROGRAM, log_of, report_of

FLAGS = [*FAST, "--data.batch_size=8", "--epochs=3", "--optimizer.lr=1e-2", "--head.dropout=0.3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A folder with an encoder, its rows, and the finished run `three` with three seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    save_encoder(tiny_run, folder / "encoder")
    for name, count, seed in (("train", 80, 1), ("dev", 30, 2), ("test", 40, 3)):
        write_texts(folder / f"{name}.tsv", texts(count, seed))
    run_quietly(arguments(folder, folder / "three", "--seeds=3", "--seed=4"))
    return folder


def arguments(place, run, *extra):
    files = [part for name in ("train", "dev", "test") for part in (f"--{name}", str(place / f"{name}.tsv"))]
    return ["finetune", "classify", *files, "--model", str(place / "encoder"), "--out", str(run), *FLAGS, *extra]


def weights_of(run):
    return (run / "model" / "model.safetensors").read_bytes()


def test_each_seed_gives_the_run_of_that_seed_alone(place, tmp_path):
    runs = [place / "three" / f"seed-{seed}" for seed in (4, 5, 6)]
    for seed, run in zip((4, 5, 6), runs):
        run_quietly(arguments(place, tmp_path / str(seed), f"--seed={seed}"))
        alone = tmp_path / str(seed)
        assert weights_of(run) == weights_of(alone)
        assert log_of(run) == log_of(alone)
        assert json.loads((run / "best.json").read_text()) == json.loads((alone / "best.json").read_text())
        recipe = read_recipe(run / "recipe.yaml", FinetuneRecipe)
        assert (recipe.seed, recipe.seeds) == (seed, 1)
    assert len({weights_of(run) for run in runs}) == 3


def test_the_model_of_a_run_is_that_of_the_best_seed_and_takes_no_room(place):
    seeds = [place / "three" / f"seed-{seed}" for seed in (4, 5, 6)]
    measured = [list(json.loads((run / "best.json").read_text())["dev"].values()) for run in seeds]
    best = seeds[measured.index(max(measured))]
    kept = place / "three" / "model"
    assert {path.name for path in kept.iterdir()} == {path.name for path in (best / "model").iterdir()}
    assert all(path.samefile(best / "model" / path.name) for path in kept.iterdir())


def test_a_run_that_is_killed_in_its_second_seed_goes_on_with_it(place, tmp_path):
    patch = 'before(TaskTraining, "training_step", send, lambda self, *_: self.seed == 5 and self.progress.step == 13)'
    command = arguments(place, tmp_path / "run", "--seeds=3", "--seed=4", "--checkpoint.every_steps=6")
    assert warm.run(PROGRAM.format(patch=patch), *command).returncode == -signal.SIGKILL
    first = (tmp_path / "run" / "seed-4" / "metrics.csv").stat().st_mtime_ns
    again = warm.run(PROGRAM.format(patch=""), *command)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already holds this run, which is resumed") == 1
    assert "resumed at step 12:" in again.stdout
    assert (tmp_path / "run" / "seed-4" / "metrics.csv").stat().st_mtime_ns == first
    for seed in (4, 5, 6):
        one, other = (run / f"seed-{seed}" for run in (tmp_path / "run", place / "three"))
        assert weights_of(one) == weights_of(other)
        assert log_of(one) == log_of(other)
    assert weights_of(tmp_path / "run") == weights_of(place / "three")
    assert report_of(tmp_path / "run") == report_of(place / "three")


def test_rows_that_change_between_two_seeds_are_refused(place, tmp_path, capsys, monkeypatch):
    """Without a checkpoint of the second seed, too."""
    rows = tmp_path / "train.tsv"
    shutil.copy(place / "train.tsv", rows)
    command = arguments(place, tmp_path / "run", "--seeds=2", f"--train={rows}")

    def started(data, recipe, items):
        if recipe.seed == 1:
            raise KeyboardInterrupt
        return start_model(data, recipe, items)

    with monkeypatch.context() as patch:
        patch.setattr("bert.finetuning.module.start_model", started)
        assert main(command) == 130
    rows.write_text(rows.read_text().replace("the cat", "the dog"))
    assert main(command) == 2
    assert "the examples of this run has changed" in capsys.readouterr().err


def test_the_test_file_is_measured_with_each_model_at_the_end(place):
    """The report has the value of each seed, their spread by Student's t, and the evaluation of the best model."""
    found, file = report_of(place / "three"), str(place / "test.tsv")
    for seed, metrics in zip((4, 5, 6), found["seeds"]["seeds"], strict=True):
        model = place / "three" / f"seed-{seed}" / "model"
        assert metrics == {"seed": seed} | evaluate(model, file, DataConfig()).metrics
    values = [metrics["accuracy"] for metrics in found["seeds"]["seeds"]]
    assert found["seeds"]["mean"]["accuracy"] == pytest.approx(statistics.fmean(values))
    assert found["seeds"]["sd"]["accuracy"] == pytest.approx(statistics.stdev(values))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["seeds"]["interval"]["accuracy"] == pytest.approx([max(0, expected.low), min(1, expected.high)])
    kept = evaluate(place / "three" / "model", file, DataConfig())
    assert {name: one["value"] for name, one in found["metrics"].items()} == pytest.approx(kept.metrics)
    assert (found["selected"], found["dev"]["selected"], found["dev"]["data"]) == (False, True, "dev.tsv")


def test_the_summary_says_what_was_measured_and_with_how_many_seeds(place):
    """Of a run directory `bert evaluate` gives the same."""
    found = report_of(place / "three")
    mean, sd = (found["seeds"][name]["accuracy"] for name in ("mean", "sd"))
    assert found["summary"].startswith(f"accuracy {mean:.1%} ± {100 * sd:.1f} (95% t interval ")
    assert found["summary"].endswith("%) on test.tsv, 3 seeds")
    again = assess(place / "three", str(place / "test.tsv"), DataConfig())
    assert again.summary == found["summary"]
    assert again.record()["seeds"] == found["seeds"]
    one = assess(place / "three" / "seed-5" / "model", str(place / "test.tsv"), DataConfig())
    assert re.fullmatch(r"accuracy [\d.]+% \(95% interval [\d.]+–[\d.]+%\) on test.tsv, 1 seed", one.summary)


def test_two_run_directories_of_several_seeds_are_compared_as_recipes(place, capsys):
    run, single = str(place / "three"), str(place / "three" / "seed-4" / "model")
    assert main(["evaluate", run, str(place / "test.tsv"), "--against", run]) == 0
    assert "recipes, over seeds and rows: accuracy +0.0, 95% interval " in capsys.readouterr().out
    assert main(["evaluate", run, str(place / "test.tsv"), "--against", single]) == 0
    said = capsys.readouterr().out
    assert "these are two models on these rows; to compare recipes, give runs of several --seeds of both" in said
    assert "recipes, over seeds" not in said


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (["--seeds=0"], "seeds is 0; must be at least 1"),
        (
            ["--seed=9223372036854775807", "--seeds=2"],
            "seed is 9223372036854775808: give a whole number from 0 to below",
        ),
        (["--test=-"], "--test -: a run reads its examples more than once: give a file"),
        (["--test=dev.tsv"], "--test dev.tsv: is the file of --dev too: give rows that the run has not seen"),
        (["--test=../X/train.tsv"], "--test ../X/train.tsv: is the file of --train too: give rows"),
        (["--test=absent.tsv"], "absent.tsv: "),
        (["--test=other.tsv"], "other.tsv, line 2: label 'soon' does not occur in "),
    ],
)
def test_seeds_and_test_files_that_are_refused(place, tmp_path, capsys, monkeypatch, extra, line):
    monkeypatch.chdir(place)
    write_texts(place / "other.tsv", [("the cat", "soon"), ("the dog", "late")])
    extra = [part.replace("../X", f"../{place.name}") for part in extra]
    assert main(arguments(place, tmp_path / "run", *extra)) == 2
    assert capsys.readouterr().err.startswith(f"bert: {line}".replace("../X", f"../{place.name}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_train_several_seeds_as_one_does(place, tmp_path):
    """Every example once, and the same metrics; rounding differs. Started again, the finished run is found."""
    for devices in (1, 2):
        flags = ["--seeds=2", "--head.dropout=0", f"--trainer.devices={devices}"]
        command = [sys.executable, "-m", "bert", *arguments(place, tmp_path / str(devices), *flags)]
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr
        assert "this run has finished" in done.stdout
    for seed in (0, 1):
        logs = [log_of(tmp_path / str(devices) / f"seed-{seed}") for devices in (1, 2)]
        for one, other in zip(*logs, strict=True):
            assert {name: bool(value) for name, value in one.items()} == {name: bool(other[name]) for name in one}
            if one["loss"]:
                assert float(one["loss"]) == pytest.approx(float(other["loss"]), abs=2e-3)


def test_test_texts_that_are_training_texts_are_counted_before_and_after(place, tmp_path, capsys):
    rows = [*texts(40, 3), *texts(80, 1)[:3]]
    file = write_texts(tmp_path / "test.tsv", [(text.upper(), label) for text, label in rows])
    known = {text for text, _ in texts(80, 1)}
    count = sum(text in known for text, _ in rows)
    assert main(arguments(place, tmp_path / "run", f"--test={file}", "--epochs=0.1")) == 0
    said = capsys.readouterr()
    assert (
        f"warning: {count} of 43 test texts are training texts too: remove them from the training file"
        in said.out + said.err
    )
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "Also in the training file" in page
