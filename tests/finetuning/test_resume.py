"""A fine-tuning run that is killed or stopped goes on by the same command to the model of a run that was not, bit for bit on a CPU."""

import csv
import json
import shutil
import signal

import pytest

from bert.cli import main
from bert.finetuning.module import TaskTraining
from bert.model.encoder import Encoder
from bert.training.callbacks import TIME_COLUMNS
from bert.training.checkpoints import list_checkpoints
from tests import warm
from tests.test_bad_input import snapshot

from .synthetic import FAST, save_encoder, texts, write_texts

STEPS = 30
"""3 epochs of 10; validations at 4, 8, …, checkpoints at 7, 14, …"""
FLAGS = [
    *FAST,
    "--data.batch_size=8",
    "--validation.every_steps=4",
    "--checkpoint.every_steps=7",
    "--log.every_steps=3",
]
FLAGS += ["--optimizer.lr=1e-2"]  # the models of steps 4, 24 and 28 are the best so far

# The program kills itself, or sends itself another signal, at a place that {patch} chooses.
PROGRAM = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)  # as in this process: the last bits depend on it
import bert.cli, bert.finetuning.finish as end, bert.finetuning.run as run, bert.training.checkpoints as checkpoints
from bert.finetuning.module import KeepBest, TaskTraining
from pathlib import Path
def send(number=signal.SIGKILL): os.kill(os.getpid(), number)
def before(owner, name, act, when=lambda self, *_: True):
    real = getattr(owner, name)
    def patched(*arguments, **named):
        if when(*arguments): act()
        return real(*arguments, **named)
    setattr(owner, name, patched)
def after(owner, name, act, when=lambda self, *_: True):
    real = getattr(owner, name)
    def patched(*arguments, **named):
        result = real(*arguments, **named)
        if when(*arguments): act()
        return result
    setattr(owner, name, patched)
def at(step): return lambda self, *_: self.progress.step == step
{patch}
sys.exit(bert.cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A folder with an encoder, its rows, and a run that nobody interrupts: `whole`."""
    folder = tmp_path_factory.mktemp("resume")
    save_encoder(tiny_run, folder / "encoder")
    known = texts(80, 1)
    write_texts(folder / "train.tsv", known)
    write_texts(folder / "dev.tsv", [row for row in texts(31, 2) if row not in known])
    assert bert(folder, folder / "whole").returncode == 0
    return folder


def arguments(place, run, *extra):
    files = ["--train", str(place / "train.tsv"), "--dev", str(place / "dev.tsv"), "--model", str(place / "encoder")]
    return ["finetune", "classify", *files, "--out", str(run), *FLAGS, *extra]


def bert(place, run, *extra, patch=""):
    """Run the command in a process of its own."""
    return warm.run(PROGRAM.format(patch=patch), *arguments(place, run, *extra))


def log_of(run):
    with (run / "metrics.csv").open() as stream:
        return [{key: value for key, value in row.items() if key not in TIME_COLUMNS} for row in csv.DictReader(stream)]


def report_of(run):
    """metrics.json without the path of the model."""
    return json.loads((run / "report" / "metrics.json").read_text()) | {"model": None}


def assert_same_run(one, other):
    assert (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()
    assert log_of(one) == log_of(other)
    assert json.loads((one / "best.json").read_text()) == json.loads((other / "best.json").read_text())
    assert report_of(one) == report_of(other)
    assert not (other / "checkpoints").exists()


KILLS = {
    "before the first checkpoint, after a validation": 'before(TaskTraining, "training_step", send, at(5))',
    "in a step of the second epoch": 'before(TaskTraining, "on_before_optimizer_step", send, at(17))',
    "in a validation": 'before(TaskTraining, "validation_step", send, at(12))',
    "while the best model is saved": 'before(__import__("bert.hf.folder").hf.folder, "save_file", send)',
    "after the best model is saved": 'after(KeepBest, "on_validation_end", send, lambda self, *_: self.best_step > 7)',
    "in a checkpoint": 'after(checkpoints.torch, "save", send, lambda state, *_: state["global_step"] == 14)',
    "after the last checkpoint": 'before(KeepBest, "on_train_end", send)',
    "when it has been trained": 'before(run, "write_best", send)',
    "while checkpoints are removed": 'before(end, "remove_folder", send)',
    "while the model is measured": 'before(run, "finish", send)',
}


@pytest.mark.slow
@pytest.mark.parametrize("where", KILLS)
def test_a_killed_run_goes_on_by_the_same_command_to_the_same_model(place, tmp_path, where):
    assert bert(place, tmp_path / "run", patch=KILLS[where]).returncode == -signal.SIGKILL
    again = bert(place, tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert_same_run(place / "whole", tmp_path / "run")


STOPS = {
    "while rows are read": ('before(run, "prepare", stop)', None),
    "before the first step": ('before(run, "describe", stop)', None),
    "what Lightning sets up": (
        'before(__import__("lightning").pytorch.strategies.SingleDeviceStrategy, "setup", stop)',
        0,
    ),
    "a step": ('before(TaskTraining, "on_before_optimizer_step", stop, at(17))', 18),
    "a step that is validated": ('before(TaskTraining, "on_before_optimizer_step", stop, at(23))', 24),
    "a validation": ('before(TaskTraining, "validation_step", stop, at(12))', 13),
    "the measurement of the model": ('before(run, "finish", stop)', None),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("where", STOPS)
def test_a_signal_ends_the_command_by_its_code_and_the_same_command_goes_on(place, tmp_path, where, number):
    patch, step = STOPS[where]
    stopping = f"sent = []\ndef stop():\n    if not sent: sent.append(1); send({int(number)})\n{patch}"  # once
    stopped = bert(place, tmp_path / "run", patch=stopping)
    others = "stopping at the end", "warning: validation on"  # the dev set is small
    lines = [line for line in stopped.stderr.splitlines() if line and not line.startswith(others)]
    assert (stopped.returncode, len(lines)) == (128 + number, 1), stopped.stderr
    if step:
        assert lines[0].startswith(f"stopped at step {step} and saved: run the same command to continue. ")
        assert "holds the best model so far: step" in lines[0]
    else:
        assert lines[0].endswith(": run the same command to continue")
    again = bert(place, tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert_same_run(place / "whole", tmp_path / "run")


# ── what is resumed, and what is not ──


@pytest.fixture
def stopped(place, tmp_path, monkeypatch):
    """A run that Ctrl-C ended in step 18, with checkpoints of steps 14 and 17."""
    real, run = TaskTraining.training_step, tmp_path / "run"

    def step(self, *arguments):
        real(self, *arguments)
        if self.progress.step == 18:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskTraining, "training_step", step)
        assert main(arguments(place, run)) == 130
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000007", "step-00000014"]
    return run


def test_a_finished_run_says_so_and_trains_nothing(place, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(place / "whole", run)
    before = snapshot(run / "model")
    monkeypatch.setattr("bert.finetuning.run.prepare", None)
    assert main(arguments(place, run)) == 0
    line = f"{run}: this run has finished: {report_of(run)['summary']}\n"
    assert capsys.readouterr().out == line
    assert line.endswith(" on dev.tsv, on which the model was chosen, 1 seed\n")
    assert snapshot(run / "model") == before


def test_a_run_of_another_recipe_or_task_is_refused_with_both_values(place, stopped, capsys):
    before = snapshot(stopped)
    for extra, both in ((["--seed=5"], "seed 0, not 5"), (["--seeds=2"], "seeds 1, not 2"), ([], "task classify, not")):
        command = arguments(place, stopped, *extra)
        command[1] = "classify" if extra else "multilabel"
        assert main(command) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"bert: {stopped}: already holds a run, with {both}")
        assert line.endswith(": give another --out, or --overwrite to lose it\n")
    assert snapshot(stopped) == before


@pytest.mark.parametrize("what", ["examples", "labels", "model"])
def test_a_run_whose_rows_or_model_have_changed_is_not_resumed(place, stopped, tmp_path, capsys, what):
    """The files at the same paths have other contents."""
    recipe, model, rows = (stopped / "recipe.yaml"), tmp_path / "model", tmp_path / "train.tsv"
    shutil.copytree(place / "encoder", model)
    shutil.copy(place / "train.tsv", rows)
    for file in (recipe, stopped / "given.yaml"):
        text = file.read_text().replace(str(place / "encoder"), str(model))
        file.write_text(text.replace(str(place / "train.tsv"), str(rows)))
    if what == "model":
        encoder = Encoder.load(model)
        encoder.layers[0].mlp.wo.weight.data[0, 0] += 1
        encoder.save(model)
    else:
        change = ("late", "later") if what == "labels" else ("the cat", "the dog")
        rows.write_text(rows.read_text().replace(*change))
    command = [*arguments(place, stopped), "--model", str(model), "--train", str(rows)]
    if what == "labels":
        dev = tmp_path / "dev.tsv"
        dev.write_text((place / "dev.tsv").read_text().replace("late", "later"))
        for file in (recipe, stopped / "given.yaml"):
            file.write_text(file.read_text().replace(str(place / "dev.tsv"), str(dev)))
        command += ["--dev", str(dev)]
    before = snapshot(stopped)
    assert main(command) == 2
    line = f"bert: the {what} of this run has changed since its checkpoint: put it back or start a new run\n"
    assert capsys.readouterr().err.splitlines(keepends=True)[-1] == line  # after a warning of the small dev set
    assert snapshot(stopped) == before


def test_a_damaged_checkpoint_is_skipped_and_that_of_another_run_is_refused(place, stopped, capsys):
    newest = stopped / "checkpoints" / "step-00000014"
    shutil.copytree(newest, stopped / "checkpoints" / "step-00000021")
    manifest = stopped / "checkpoints" / "step-00000021" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"run_id": "another"}))
    assert main(arguments(place, stopped)) == 2
    assert "step-00000021: is a checkpoint of another run: move it away" in capsys.readouterr().err
    shutil.rmtree(manifest.parent)
    with (newest / "state.pt").open("r+b") as state:
        state.seek(500)
        state.write(b"damaged")
    assert main(arguments(place, stopped)) == 0
    output = capsys.readouterr()
    assert (
        "step-00000014: state.pt does not match its hash; the checkpoint before it is used" in output.out + output.err
    )
    assert "resumed at step 7: learning rate" in output.out
    assert_same_run(place / "whole", stopped)


def test_a_run_of_an_earlier_version_is_not_resumed(place, stopped, capsys):
    """It has no checkpoints, and its recipe names neither task nor run."""
    lines = (stopped / "recipe.yaml").read_text().splitlines()
    (stopped / "recipe.yaml").write_text("\n".join(line for line in lines if not line.startswith(("task:", "run_id:"))))
    assert main(arguments(place, stopped)) == 2
    line = f"bert: {stopped}: already holds a run: give another --out, or --overwrite to lose it\n"
    assert capsys.readouterr().err == line


def test_the_same_command_in_another_folder_goes_on(place, stopped, monkeypatch, capsys):
    monkeypatch.chdir(place)
    command = [part.removeprefix(f"{place}/") for part in arguments(place, stopped)]
    assert main(command) == 0
    assert "already holds this run, which is resumed" in capsys.readouterr().out


def test_overwriting_starts_again(place, stopped, capsys):
    assert main(arguments(place, stopped, "--overwrite")) == 0
    assert "resumed" not in capsys.readouterr().out
    assert_same_run(place / "whole", stopped)
