"""One command in a loop, killed and stopped at any instant, comes to the run that nobody touched; under schedulers and full disks too."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import warm
from tests.pretraining.test_resume import KILLER, STEPS, assert_same_run, bert, log_without_time, whole

pytestmark = pytest.mark.slow
__all__ = ["whole"]

KILLS = int(os.environ.get("BERT_KILLS", "4"))
"""of the loop; the long form takes 30"""

# Where a signal comes: a patch that sends it to the process itself, once.
ONCE = """
import warnings
warnings.simplefilter("ignore")
def once(number=int(os.environ["SIGNAL"])):
    if not os.path.exists(os.environ["SENT"]):
        open(os.environ["SENT"], "w").close(); os.kill(os.getpid(), number)
def before(owner, name):
    real = getattr(owner, name)
    def patched(*arguments, **named):
        once()
        return real(*arguments, **named)
    setattr(owner, name, patched)
import bert.data.vocabulary, bert.data.prepare, bert.pretraining.run as run, lightning.pytorch as L
from bert.training.callbacks import StopOnSignal
from bert.pretraining.stream import BatchStream
"""
PHASES = {
    "the tokenizer": 'before(bert.data.vocabulary, "train_tokenizer")',
    "the store": 'before(bert.data.prepare, "document_encoder")',
    "the parts of the run": 'before(run, "describe")',
    "what Lightning sets up": 'before(L.strategies.SingleDeviceStrategy, "setup")',
    "the first batch": 'before(BatchStream, "micro_batch")',
    "the start": 'before(StopOnSignal, "on_train_start")',
    "a step": 'before(PretrainingModule, "on_before_optimizer_step")',
    "a validation": 'before(PretrainingModule, "validation_step")',
    "a checkpoint": 'before(checkpoints.torch, "save")',
    "the end": 'before(run, "finish")',
    "the model": 'before(__import__("bert.hf.folder").hf.folder, "save_file")',
}
PREPARING = ("the tokenizer", "the store")


@pytest.mark.parametrize(
    ("phase", "number"),
    [(phase, signal.SIGTERM) for phase in PHASES]
    + [(phase, signal.SIGINT) for phase in ("the store", "what Lightning sets up", "a step", "the model")]
    + [(phase, signal.SIGUSR1) for phase in ("the first batch", "a step", "the end")],
)
def test_a_signal_in_any_phase_ends_the_command_by_its_code_and_the_same_command_goes_on(
    whole, tmp_path, phase, number
):
    run, arguments = whole
    environment = {"SIGNAL": str(int(number)), "SENT": str(tmp_path / "sent")}
    command = [KILLER.format(patch=ONCE + PHASES[phase]), *arguments, tmp_path / "run"]
    first = warm.run(*command, environment=environment)
    lines = [
        line for line in first.stderr.splitlines() if line and not line.startswith("stopping at the end of this step")
    ]
    assert (first.returncode, len(lines)) == (128 + number, 1), first.stderr
    left = {path.name for path in tmp_path.iterdir()} - {"sent"}
    if phase in PREPARING:
        assert left == {"run"}
        assert lines[0] == "stopped before the first step: the same command goes on"
        assert {path.name for path in (tmp_path / "run").iterdir()} <= {"given.yaml", "tokenizer"}
    else:
        assert lines[0].endswith(f"Go on with: bert pretrain --resume {tmp_path / 'run'}")
        assert not [path.name for path in (tmp_path / "run").rglob(".*")]
    second = warm.run(*command, environment=environment)
    assert second.returncode == 0, second.stderr
    assert_same_run(run, tmp_path / "run")


def loop(command, environment, kills, seconds, finished):
    """InitialModel a command again and again, killed after a random time so many times, until it ends well. Returns the kills."""
    draw, killed = random.Random(2026), 0
    while True:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        try:
            _, errors = process.communicate(timeout=draw.uniform(*seconds) if killed < kills else 300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
            continue
        assert process.returncode == 0, errors
        if killed >= kills:
            return killed
        shutil.rmtree(finished)  # it came to its end before it was killed often enough


@pytest.mark.parametrize("processes", [1, 2])
def test_one_command_in_a_loop_that_is_killed_at_random_instants_is_bit_identical(whole, tmp_path, processes):
    _, arguments = whole
    devices = ["--trainer.devices", str(processes), "--data.micro_batch_size", "2"]
    slow = """
import time
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    time.sleep(0.05); return real(self, batch, batch_idx)
PretrainingModule.training_step = step
"""
    (tmp_path / "run.py").write_text(KILLER.format(patch=slow))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "run.py"), *arguments]
    left_alone = subprocess.run(
        [*command, str(tmp_path / "alone"), *devices], capture_output=True, text=True, env=environment, timeout=300
    )
    assert left_alone.returncode == 0, left_alone.stderr
    target = tmp_path / "killed"
    assert loop([*command, str(target), *devices], environment, KILLS, (1.0, 12.0), target) == KILLS
    assert_same_run(tmp_path / "alone", target)


def test_a_scheduler_that_sends_usr1_starts_the_same_command_again_and_the_next_run_begins_at_its_own_step(
    whole, tmp_path
):
    """SLURM's variables, and a stub in the place of scontrol; Lightning would save into the current directory and requeue."""
    run, arguments = whole
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/scontrol.log\n")
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    slurm = {
        "NTASKS": 1,
        "NTASKS_PER_NODE": 1,
        "JOB_ID": 77,
        "JOB_NAME": "train",
        "PROCID": 0,
        "LOCALID": 0,
        "NODEID": 0,
    }
    slurm |= {"NODELIST": "localhost", "STEP_ID": 0}
    environment = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
    environment |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SIGNAL": str(int(signal.SIGUSR1))}
    environment |= {"SENT": str(tmp_path / "sent")}
    sending = (
        ONCE
        + """
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    if self.progress.step == 6: once()
    return real(self, batch, batch_idx)
PretrainingModule.training_step = step
"""
    )
    command = [KILLER.format(patch=sending), *arguments]
    (tmp_path / "cwd").mkdir()
    options = {"environment": environment, "cwd": tmp_path / "cwd"}
    first = warm.run(*command, tmp_path / "run", **options)
    assert first.returncode == 138, first.stderr
    assert list((tmp_path / "cwd").iterdir()) == []
    assert not (tmp_path / "scontrol.log").exists()
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    other = warm.run(*command, tmp_path / "other", "--seed", "9", **options)
    assert other.returncode == 0, other.stderr
    assert log_without_time(tmp_path / "other")[0]["step"] == "3"
    again = warm.run(*command, tmp_path / "run", **options)
    assert again.returncode == 0, again.stderr
    assert_same_run(run, tmp_path / "run")


def test_a_worker_that_is_killed_under_torchrun_comes_back_by_max_restarts(whole, tmp_path):
    _, arguments = whole
    dying = """
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    if self.progress.step == 9 and not os.path.exists(os.environ["SENT"]):
        open(os.environ["SENT"], "w").close(); die()
    return real(self, batch, batch_idx)
PretrainingModule.training_step = step
"""
    (tmp_path / "run.py").write_text(KILLER.format(patch=dying))
    launcher = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "1", "--max-restarts", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SENT": str(tmp_path / "sent")}
    command = [*launcher, str(tmp_path / "run.py"), *arguments, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sent").exists()
    assert [row["step"] for row in log_without_time(tmp_path / "run")][-1] == str(STEPS)


def two_processes(arguments, tmp_path, patch, name="run"):
    (tmp_path / "two.py").write_text(KILLER.format(patch=patch))
    command = [sys.executable, str(tmp_path / "two.py"), *map(str, arguments), "--trainer.devices", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


NAN = """
real = PretrainingModule.loss_terms
def terms(self, batch):
    sums, weights = real(self, batch)
    if self.progress.step == 3: sums["loss"] = sums["loss"] * float("nan")
    return type(real(self, batch))(sums, weights)
PretrainingModule.loss_terms = terms
"""
FULL = """
def full(*_): raise OSError(28, "No space left on device")
checkpoints.torch.save = full
"""


@pytest.mark.parametrize(("patch", "message"), [(NAN, "is nan at step"), (FULL, "make room on this disk")])
def test_what_ends_a_run_of_two_processes_is_one_line(whole, tmp_path, patch, message):
    _, arguments = whole
    done = two_processes([*arguments, tmp_path / "run", "--data.micro_batch_size", "2"], tmp_path, patch)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line and "training goes on" not in line]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]


def test_ranks_that_see_different_checkpoints_train_on_none(whole, tmp_path):
    """The second process reads an older state than the one that the first has chosen."""
    _, arguments = whole
    done = two_processes([*arguments, tmp_path / "run", "--data.micro_batch_size", "2"], tmp_path, "")
    assert done.returncode == 0, done.stderr
    stale = """
from pathlib import Path
real = checkpoints.WholeCheckpointIO.load_checkpoint
def load(self, path, *arguments, **named):
    if os.environ.get("LOCAL_RANK", "0") == "1": path = Path(path).with_name("step-00000008")
    return real(self, path, *arguments, **named)
checkpoints.WholeCheckpointIO.load_checkpoint = load
"""
    before = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    done = two_processes(["pretrain", "--resume", tmp_path / "run", "--stop.steps", "20"], tmp_path, stale)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert "go on from different checkpoints" in line
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == before


def test_a_disk_that_fills_for_a_while_costs_no_row_and_no_run(whole, tmp_path):
    run, arguments = whole
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    filling = f"""
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    filler = {str(disk / "filler")!r}
    if self.progress.step == 2 and not os.path.exists(filler):
        with open(filler, "wb", buffering=0) as stream:
            try:
                while stream.write(bytes(1024)): pass
            except OSError: pass
    if self.progress.step == 10 and os.path.exists(filler): os.unlink(filler)
    return real(self, batch, batch_idx)
PretrainingModule.training_step = step
"""
    try:
        errors = bert(*arguments, disk / "run", patch=filling)
        assert (
            errors.count("training goes on") == 2
        )  # the log, and the checkpoint of step 4; that of step 8 is not said again
        shutil.copytree(disk / "run", tmp_path / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert_same_run(run, tmp_path / "run")


def test_two_commands_in_one_folder_one_trains_and_the_other_says_who(whole, tmp_path):
    _, arguments = whole
    waiting = """
import time
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    open(os.environ["SENT"], "w").close()
    while not os.path.exists(os.environ["SENT"] + ".go"): time.sleep(0.1)
    return real(self, batch, batch_idx)
PretrainingModule.training_step = step
"""
    run = tmp_path / "run"
    command = [sys.executable, "-c", KILLER.format(patch=waiting), *arguments, str(run)]
    environment = os.environ | {"SENT": str(tmp_path / "begun")}
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for more in ((), ("--overwrite",)):
        second = subprocess.run([*command, *more], capture_output=True, text=True, timeout=300)
        assert second.returncode == 2
        assert second.stderr.startswith(f"bert: {run}: in use by process {first.pid} on ")
        assert len(second.stderr.splitlines()) == 1
    (tmp_path / "begun.go").touch()
    assert "Traceback" not in first.communicate(timeout=300)[1]
    assert first.returncode == 0
    with (run / "metrics.csv").open() as stream:
        steps = [row["step"] for row in csv.DictReader(stream) if row["loss"]]
    assert len(steps) == len(set(steps))
