"""A run that is interrupted and resumed is bit-identical to one that was not: weights, optimiser, every column of the log but time."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from bert.data.rng import random_bits
from bert.training.callbacks import TIME_COLUMNS
from tests import warm

pytestmark = pytest.mark.slow

STEPS = 14
SETTINGS = f"""
data: {{sequence_length: 32, batch_size: 8, micro_batch_size: 4, validation_split: 0.3}}
vocabulary: {{size: 80}}
encoder: {{hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 32, max_length: 32, hidden_dropout: 0.1}}
optimizer: {{kind: muon}}
stop: {{steps: {STEPS}}}
validation: {{every_steps: 4, sequences: 16}}
checkpoint: {{every_steps: 4, every_minutes: null, keep: 3}}
log: {{every_steps: 3, progress_bar: false}}
trainer: {{accelerator: cpu, precision: 32-true}}
"""

# Every run is a process of its own, so that all have the same threads. It kills itself, truly, at a chosen place: {patch} puts the trap,
# `die` springs it.
KILLER = """
import json, os, signal, sys
import torch
import bert.cli, bert.training.checkpoints as checkpoints
from bert.pretraining.module import PretrainingModule
def die(): os.kill(os.getpid(), signal.SIGKILL)
{patch}
sys.exit(bert.cli.main(sys.argv[1:]))
"""
INSIDE_A_CHECKPOINT_WRITE = """
real = torch.save
def save(state, stream):
    if state["global_step"] == 8:
        real(state, stream); stream.flush(); stream.truncate(1000); die()
    real(state, stream)
checkpoints.torch.save = save
"""
BETWEEN_MICRO_BATCHES = """
real = PretrainingModule.loss_terms
seen = []
def terms(self, batch):
    if self.progress.step == 10: seen.append(1)
    if len(seen) == 2: die()
    return real(self, batch)
PretrainingModule.loss_terms = terms
"""
DURING_VALIDATION = """
real = PretrainingModule.validation_step
def step(self, batch, batch_idx):
    if self.progress.step == 12: die()
    return real(self, batch, batch_idx)
PretrainingModule.validation_step = step
"""


def bert(*arguments, patch="", code=0):
    """Run the command line in a process; returns what it wrote to standard error."""
    done = warm.run(KILLER.format(patch=patch), *arguments)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody interrupts, and the arguments that made it."""
    folder = tmp_path_factory.mktemp("runs")
    words = "the apple bank river money tree house sea moon sun red green old new small big runs sees eats buys".split()
    numbers = random_bits(3, torch.arange(150).numpy()[:, None], torch.arange(40).numpy()) % len(words)
    (folder / "text.txt").write_text("\n\n".join(" ".join(words[n] for n in row) for row in numbers))
    (folder / "recipe.yaml").write_text(SETTINGS)
    arguments = ["pretrain", str(folder / "text.txt"), "--config", str(folder / "recipe.yaml"), "--out"]
    bert(*arguments, folder / "whole")
    return folder / "whole", arguments


def kill_and_resume(tmp_path, arguments, patch):
    run = tmp_path / "run"
    bert(*arguments, run, patch=patch, code=-signal.SIGKILL)
    assert not (run / "model").exists()
    bert("pretrain", "--resume", run)
    return run


def log_without_time(run):
    with (run / "metrics.csv").open() as stream:
        return [{key: value for key, value in row.items() if key not in TIME_COLUMNS} for row in csv.DictReader(stream)]


def assert_same(one, other, where="state"):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other)):
            assert_same(a, b, f"{where}[{number}]")
    else:
        assert one == other, where


def assert_same_run(one, other):
    states = [torch.load(run / f"checkpoints/step-{STEPS:08d}/state.pt", weights_only=True) for run in (one, other)]
    for state in states:
        for clock in ("seconds", "first_seconds"):
            state["progress"].pop(clock)
    for part in ("state_dict", "optimizer_states", "progress", "learning_rate", "global_step"):
        assert_same(states[0][part], states[1][part], part)
    assert log_without_time(one) == log_without_time(other)
    assert (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("patch", [INSIDE_A_CHECKPOINT_WRITE, BETWEEN_MICRO_BATCHES, DURING_VALIDATION])
def test_killed_and_resumed_is_bit_identical(whole, tmp_path, patch):
    run, arguments = whole
    assert_same_run(run, kill_and_resume(tmp_path, arguments, patch))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_at_a_step_boundary_saves_and_says_how_to_go_on(whole, tmp_path, number, code):
    whole_run, arguments = whole
    run = tmp_path / "run"
    slow = """
import time
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    if self.progress.step >= 5: open(sys.argv[-1] + ".at5", "w").close(); time.sleep(0.3)
    return real(self, batch, batch_idx)
PretrainingModule.training_step = step
"""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLER.format(patch=slow), *arguments, str(run)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as in the processes of `warm`: the last bits depend on it
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not os.path.exists(f"{run}.at5") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"bert pretrain --resume {run}" in errors
    steps = [int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir()]
    assert 5 <= max(steps) < STEPS
    bert("pretrain", "--resume", run)
    assert_same_run(whole_run, run)


def test_a_signal_in_a_step_that_is_validated_loses_no_row_of_the_log(whole, tmp_path):
    run, arguments = whole
    stopping = """
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    if self.progress.step == 7: os.kill(os.getpid(), signal.SIGTERM)
    return real(self, batch, batch_idx)
PretrainingModule.training_step = step
"""
    bert(*arguments, tmp_path / "run", patch=stopping, code=143)
    bert("pretrain", "--resume", tmp_path / "run")
    assert_same_run(run, tmp_path / "run")


def test_a_signal_to_all_processes_of_a_run_leaves_it_its_workers_until_it_is_saved(whole, tmp_path):
    """Ctrl-C goes to all; a step of 8 micro-batches needs more of them than 2 workers have ready."""
    _, arguments = whole
    run = tmp_path / "run"
    stopping = """
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    if self.progress.step == 4: os.killpg(0, signal.SIGINT)
    return real(self, batch, batch_idx)
PretrainingModule.training_step = step
"""
    workers = ("--data.workers", 2, "--data.micro_batch_size", 1)
    command = [sys.executable, "-c", KILLER.format(patch=stopping), *arguments, run, *workers]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, start_new_session=True)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    bert("pretrain", "--resume", run)
    assert log_without_time(run)[-1]["step"] == str(STEPS)


def test_a_resumed_run_may_be_longer_and_keeps_its_rows(whole, tmp_path):
    _, arguments = whole
    run = tmp_path / "run"
    bert(*arguments, run, "--stop.steps", 6)
    before = log_without_time(run)
    bert("pretrain", "--resume", run, "--stop.steps", 9)
    after = log_without_time(run)
    assert after[: len(before)] == before
    assert after[-1]["step"] == "9"


def test_the_written_recipe_repeats_the_run(whole, tmp_path):
    run, _ = whole
    bert("pretrain", "--config", run / "recipe.yaml", "--out", tmp_path / "again")
    assert_same_run(run, tmp_path / "again")
