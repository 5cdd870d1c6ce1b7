"""A run goes on by its own command, keeps to its recipe, and is stopped neither by a full disk nor by what is amended."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch

from bert.cli import main
from bert.pretraining.module import PretrainingModule
from bert.training.callbacks import MetricsCsv
from bert.training.checkpoints import WholeCheckpointIO, list_checkpoints
from tests.conftest import TINY
from tests.training.test_folder import tree


@pytest.fixture
def run(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def bert(capsys):
    """Run a command; (exit code, lines of standard error, standard output)."""

    def call(*arguments):
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"bert: {message}", file=__import__("sys").stderr)
            warnings.simplefilter("always", UserWarning)
            code = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return code, [line for line in output.err.splitlines() if line], output.out

    return call


def same_weights(one, other):
    return (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()


def columns_but_time(run):
    return [row.split(",")[:8] for row in (run / "metrics.csv").read_text().splitlines()]


@pytest.fixture
def stopped_before_a_checkpoint(text_file, tmp_path, bert, monkeypatch):
    """A run that Ctrl-C ended in its first step."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingModule, "training_step", interrupted)
        code, errors, _ = bert("pretrain", text_file, "--out", tmp_path / "run", *TINY)
    assert (code, errors) == (130, [f"stopped. Resume with: bert pretrain --resume {tmp_path / 'run'}"])
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")
    return tmp_path / "run"


@pytest.mark.parametrize("by_resume", [True, False])
def test_a_run_without_a_checkpoint_begins_again_with_what_is_prepared(
    stopped_before_a_checkpoint, tiny_run, text_file, bert, by_resume
):
    run = stopped_before_a_checkpoint
    store = (run / "store" / "store.json").stat().st_mtime_ns
    code, _, output = bert("pretrain", *(("--resume", run) if by_resume else (text_file, "--out", run, *TINY)))
    assert code == 0
    assert "has no checkpoint yet" in output
    assert (run / "store" / "store.json").stat().st_mtime_ns == store
    assert same_weights(run, tiny_run)
    assert columns_but_time(run) == columns_but_time(tiny_run)


def test_the_same_command_resumes_its_run_and_says_so(run, text_file, bert):
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    code, _, output = bert("pretrain", text_file, "--out", run, *TINY)
    assert code == 0
    assert f"{run}: already holds this run, which is resumed" in output
    assert (run / "model").exists()
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000002", "step-00000004"]


def test_the_same_command_on_a_finished_run_takes_no_step(run, tiny_run, text_file, bert):
    code, _, output = bert("pretrain", text_file, "--out", run, *TINY)
    assert code == 0
    assert "nothing to do: the budget" in output
    assert same_weights(run, tiny_run)


def test_the_same_command_in_another_folder_names_the_same_text(run, text_file, bert, monkeypatch):
    monkeypatch.chdir(text_file.parent)
    assert bert("pretrain", text_file.name, "--out", run, *TINY)[0] == 0


def test_a_text_that_has_changed_since_is_said_and_a_text_that_is_gone_is_not_needed(text_file, tmp_path, bert):
    text, out = tmp_path / "text.txt", tmp_path / "run"
    shutil.copy(text_file, text)
    command = ["pretrain", text, "--out", out, *TINY]
    warning = f"warning: the text of {out} has changed: the run continues with the text that it started with"
    assert warning not in bert(*command)[1]
    os.utime(text)  # touched: the same text
    assert warning not in bert(*command)[1]
    text.write_text(text.read_text() + "\n\nOne more document of the old man.\n")
    code, errors, _ = bert(*command)
    assert code == 0
    assert warning in errors
    text.unlink()
    code, errors, output = bert("pretrain", "--resume", out, "--stop.steps", "5")
    assert code == 0
    assert "warning" not in output + "".join(errors)


def test_another_recipe_in_the_folder_is_refused_with_both_values_and_nothing_changes(run, text_file, bert):
    before = tree(run)
    code, errors, _ = bert("pretrain", text_file, "--out", run, *TINY, "--optimizer.lr", "0.5")
    assert code == 2
    assert errors == [
        f"bert: {run}: already holds a run, with optimizer.lr 0.002, not 0.5: give another --out, --resume {run} to resume"
        " that run, or --overwrite to lose it"
    ]
    assert tree(run) == before


def test_values_of_a_recipe_are_shown_as_yaml(run, text_file, bert):
    flags = ["--compile", "true", "--data.micro_batch_size", "4", "--optimizer.clip_norm", "null"]
    _, errors, _ = bert("pretrain", text_file, "--out", run, *TINY, *flags)
    assert (
        "with compile null, not true; data.micro_batch_size null, not 4; optimizer.clip_norm 1.0, not null:"
        in errors[0]
    )
    _, errors, _ = bert("pretrain", "--resume", run, "--encoder.gated", "false")
    assert errors[0].startswith(f"bert: encoder.gated is false and {run} was started with true: ")


def test_a_longer_budget_is_said_with_what_becomes_of_the_learning_rate(run, bert):
    code, _, output = bert("pretrain", "--resume", run, "--stop.steps", "8", "--log.every_steps", "2")
    assert code == 0
    assert "changed from step 4 on: stop.steps 4 -> 8\n" in output
    before, after = 0.002 * (1 - (3.5 / 4 - 0.06) / 0.94), 0.002 * (1 - (4 / 8 - 0.06) / 0.94)  # the linear schedule
    assert f"resumed at step 4: learning rate {after:.3g}, after {before:.3g}\n" in output
    head = [line for line in (run / "recipe.yaml").read_text().splitlines() if line.startswith("#")]
    assert head[0].endswith("this run was changed while it ran, and another run with it does not repeat this one.")
    assert head[1:] == ["# Amended at step 4: log.every_steps 1 -> 2.", "# Amended at step 4: stop.steps 4 -> 8."]


def test_a_command_that_a_scheduler_starts_again_resumes_what_it_was_to_overwrite(run, text_file, bert, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    code, _, output = bert("pretrain", text_file, "--out", run, *TINY, "--overwrite")
    assert code == 0
    assert "nothing to do: the budget" in output


def test_a_lower_learning_rate_is_taken_and_written_into_the_recipe(run, bert):
    code, *_ = bert("pretrain", "--resume", run, "--optimizer.lr", "0.001", "--stop.steps", "6")
    assert code == 0
    recipe = (run / "recipe.yaml").read_text()
    assert "# Amended at step 4: optimizer.lr 0.002 -> 0.001." in recipe
    rates = [
        float(row.split(",")[3]) for row in (run / "metrics.csv").read_text().splitlines()[1:] if row.split(",")[3]
    ]
    share = 1 - (4.5 / 6 - 0.06) / (1 - 0.06)  # the linear schedule in the middle of step 5 of 6
    assert rates[4] == pytest.approx(0.001 * share)
    state = torch.load(run / "checkpoints" / "step-00000006" / "state.pt", weights_only=True)
    assert {
        group["highest_lr"] for group in state["optimizer_states"][0]["param_groups"] if group["kind"] == "adamw"
    } == {0.001}


def test_another_attention_is_taken_where_the_one_of_the_run_cannot_be_had(run, bert):
    assert bert("pretrain", "--resume", run, "--attention", "sdpa", "--stop.steps", "5")[0] == 0


def test_a_refused_resume_leaves_the_run_untouched(run, text_file, bert, tmp_path):
    """The store that the run reads holds another text by now."""
    store, tokenizer, other = tmp_path / "store", run / "tokenizer", tmp_path / "other"
    text = tmp_path / "text.txt"
    shutil.copy(text_file, text)
    assert bert("prepare", text, "--tokenizer", tokenizer, "--out", store)[0] == 0
    flags = [flag for flag in TINY if "vocabulary" not in flag]
    assert bert("pretrain", "--store", store, "--tokenizer", tokenizer, "--out", other, *flags)[0] == 0
    text.write_text(text.read_text() + "\n\nOne more document of the old man.\n")
    assert bert("prepare", text, "--tokenizer", tokenizer, "--out", store)[0] == 0
    before = tree(other)
    code, errors, _ = bert("pretrain", "--resume", other, "--stop.steps", "8")
    assert (code, errors) == (
        2,
        ["bert: the text of this run has changed since its checkpoint: put it back or start a new run"],
    )
    assert tree(other) == before


def test_a_checkpoint_of_another_run_is_refused(run, text_file, bert, tmp_path):
    other = tmp_path / "other"
    assert bert("pretrain", text_file, "--out", other, *TINY, "--seed", "5", "--stop.steps", "8")[0] == 0
    shutil.copytree(other / "checkpoints" / "step-00000008", run / "checkpoints" / "step-00000008")
    before = tree(run)
    code, errors, _ = bert("pretrain", "--resume", run, "--stop.steps", "10")
    assert code == 2
    assert errors == [f"bert: {run}/checkpoints/step-00000008: is a checkpoint of another run: move it away"]
    assert tree(run) == before


def of_a_stranger(checkpoint, change):
    """A state.pt that its manifest vouches for, made of the one there by `change`: bytes as they are, or the contents."""
    state = change(torch.load(checkpoint / "state.pt", weights_only=True))
    if isinstance(state, bytes):
        (checkpoint / "state.pt").write_bytes(state)
    else:
        torch.save(state, checkpoint / "state.pt")
    content = (checkpoint / "state.pt").read_bytes()
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: b"x" * 100,
        lambda state: b"",
        lambda state: pickle.dumps(print),
        lambda state: {},
        lambda state: torch.zeros(3),
        lambda state: state | {"optimizer_states": []},
        lambda state: state | {"optimizer_states": None},
        lambda state: state | {"loops": "x"},
        lambda state: state | {"loops": {"fit_loop": {}}},
        lambda state: state | {"callbacks": 5},
        lambda state: state | {"pytorch-lightning_version": 5},
        lambda state: state | {"state_dict": "x"},
        lambda state: (
            state | {"state_dict": {name: value[:1] for name, value in state["state_dict"].items() if value.ndim}}
        ),
        lambda state: state | {"progress": "x"},
        lambda state: state | {"fingerprint": 5},
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(run, bert, change):
    of_a_stranger(run / "checkpoints" / "step-00000004", change)
    code, errors, _ = bert("pretrain", "--resume", run, "--stop.steps", "6")
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].endswith("move it away") or errors[0].endswith("move this checkpoint away")


def test_a_folder_of_the_users_among_the_checkpoints_is_neither_read_nor_removed(run, bert):
    mine = run / "checkpoints" / "step-00000009-good"
    shutil.copytree(run / "checkpoints" / "step-00000002", mine)
    before = tree(mine)
    assert bert("pretrain", "--resume", run, "--stop.steps", "8")[0] == 0
    assert tree(mine) == before


@pytest.mark.parametrize(
    ("flag", "name"),
    [("--tokenizer", "tokenizer"), ("--store", "store"), ("--from", "model"), ("--general", "mine.txt")],
)
def test_what_a_run_reads_must_not_lie_in_what_it_replaces(run, text_file, bert, flag, name):
    (run / "mine.txt").write_text(text_file.read_text())
    text = [] if flag == "--store" else [text_file]
    more = ["--from", run.parent / "elsewhere"] if flag == "--general" else []
    flags = TINY if flag in ("--tokenizer", "--store") else ["--trainer.accelerator", "cpu"]
    before = tree(run)
    code, errors, _ = bert("pretrain", *text, "--out", run, *flags, "--overwrite", *more, flag, run / name)
    assert code == 2
    assert errors[0].endswith(f" {run / name} lies in --out {run}: give another --out")
    assert tree(run) == before


def test_a_full_disk_at_the_log_is_a_warning_and_no_row_is_lost(tiny_run, text_file, tmp_path, bert, monkeypatch):
    real, calls = MetricsCsv._append, []

    def full(self, stream):
        calls.append(1)
        if 2 <= len(calls) <= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, stream)

    monkeypatch.setattr(MetricsCsv, "_append", full)
    code, errors, _ = bert("pretrain", text_file, "--out", tmp_path / "run", *TINY)
    assert code == 0
    assert [line for line in errors if "metrics.csv" in line] == [
        f"bert: {tmp_path}/run/metrics.csv: cannot be written (No space left on device): training continues, its rows wait for room"
    ]
    assert columns_but_time(tmp_path / "run") == columns_but_time(tiny_run)


def fail_at(monkeypatch, *steps):
    real = WholeCheckpointIO.save_checkpoint

    def full(self, checkpoint, path, storage_options=None):
        with monkeypatch.context() as patch:
            if checkpoint["global_step"] in steps:
                patch.setattr(
                    torch, "save", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
                )
            real(self, checkpoint, path, storage_options)

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", full)


def test_a_checkpoint_that_finds_no_room_is_a_warning_and_the_next_is_tried(text_file, tmp_path, bert, monkeypatch):
    fail_at(monkeypatch, 2)
    code, errors, _ = bert("pretrain", text_file, "--out", tmp_path / "run", *TINY)
    assert code == 0
    (line,) = [line for line in errors if "checkpoint" in line]
    assert "step-00000002: the checkpoint could not be written" in line
    assert "training continues" in line
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_disk_that_stays_full_is_warned_of_once_and_again_when_it_has_had_room(
    text_file, tmp_path, bert, monkeypatch
):
    fail_at(monkeypatch, 2, 3, 5)
    flags = ["--checkpoint.every_steps", "1", "--stop.steps", "6"]
    code, errors, _ = bert("pretrain", text_file, "--out", tmp_path / "run", *TINY, *flags)
    assert code == 0
    warned = [line.split(":")[1].rpartition("/")[2] for line in errors if "could not be written" in line]
    assert warned == ["step-00000002", "step-00000005"]


def test_a_last_checkpoint_that_finds_no_room_is_an_error_in_one_line(text_file, tmp_path, bert, monkeypatch):
    fail_at(monkeypatch, 4)
    code, errors, _ = bert("pretrain", text_file, "--out", tmp_path / "run", *TINY)
    assert code == 2
    assert "make room on this disk" in errors[-1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]


def test_the_model_is_there_though_measuring_it_fails(tiny_run, text_file, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("bert.pretraining.run.measure_after", fail)
    shapeless = [flag for flag in TINY if not flag.startswith(("--encoder", "--vocabulary"))]
    initialized = ["--from", str(tiny_run / "model"), *shapeless]
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["pretrain", str(text_file), "--out", str(tmp_path / "run"), *initialized])
    monkeypatch.undo()
    assert main(["pretrain", str(text_file), "--out", str(tmp_path / "whole"), *initialized]) == 0
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_run_whose_folder_was_moved_away_writes_nothing_elsewhere(text_file, tmp_path, bert, monkeypatch):
    real = PretrainingModule.training_step

    def move(self, batch, batch_idx):
        if self.progress.step == 1 and (tmp_path / "run").exists():
            (tmp_path / "run").rename(tmp_path / "moved")
        return real(self, batch, batch_idx)

    monkeypatch.setattr(PretrainingModule, "training_step", move)
    code, errors, _ = bert("pretrain", text_file, "--out", tmp_path / "run", *TINY)
    assert code == 2
    assert "was moved or replaced while this run trained" in errors[-1]
    assert not (tmp_path / "run").exists()


def test_the_run_id_is_new_for_each_run_and_stands_in_its_checkpoints(run, text_file, tmp_path, bert):
    assert bert("pretrain", "--config", run / "recipe.yaml", "--out", tmp_path / "again")[0] == 0
    ids = []
    for folder in (run, tmp_path / "again"):
        line = next(line for line in (folder / "recipe.yaml").read_text().splitlines() if line.startswith("run_id"))
        ids.append(line.split(": ")[1])
        for checkpoint in list_checkpoints(folder / "checkpoints"):
            assert json.loads((checkpoint / "manifest.json").read_text())["run_id"] == ids[-1]
    assert ids[0] != ids[1]
    assert "run_id" not in (run / "model" / "README.md").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_before_the_first_step_ends_the_run_with_its_code_and_the_run_goes_on(
    number, tiny_run, text_file, tmp_path, bert, monkeypatch
):
    """It comes after Lightning has put its own handlers in place."""
    from bert.training.callbacks import StopOnSignal

    real = StopOnSignal.on_train_start

    def signalled(self, trainer, module):
        os.kill(os.getpid(), number)
        real(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "on_train_start", signalled)
        code, errors, _ = bert("pretrain", text_file, "--out", tmp_path / "run", *TINY)
    assert code == 128 + number
    assert errors[-1].endswith(f"Resume with: bert pretrain --resume {tmp_path / 'run'}")
    assert not Path(tmp_path / "run" / "model").exists()
    assert bert("pretrain", text_file, "--out", tmp_path / "run", *TINY)[0] == 0
    assert same_weights(tmp_path / "run", tiny_run)
