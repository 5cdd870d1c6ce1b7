"""Two processes see the same global batches as one, bit for bit, and with AdamW in fp32 the same losses."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bert.data.rng import random_bits

pytestmark = pytest.mark.slow

SETTINGS = """
data: {sequence_length: 32, batch_size: 8, validation_split: 0.3}
vocabulary: {size: 80}
encoder: {hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 32, max_length: 32}
optimizer: {kind: adamw}
stop: {steps: 20}
validation: {every_steps: 10, sequences: 20}
log: {every_steps: 1, progress_bar: false}
trainer: {accelerator: cpu, precision: 32-true}
"""

# Writes down every micro-batch that a rank sees.
RECORDER = """
import os, sys
import torch
import bert.cli
from bert.pretraining.module import PretrainingModule
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    for number, micro in enumerate(batch.micro_batches):
        name = f"{os.environ['RECORD']}-{self.progress.step}-{number}-{self.global_rank}.pt"
        torch.save(dict(micro, counts=batch.counts, tokens=batch.tokens), name)
    return real(self, batch, batch_idx)
PretrainingModule.training_step = step
sys.exit(bert.cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    words = "the apple bank river money tree house sea moon sun red green old new small big runs sees eats buys".split()
    numbers = random_bits(3, torch.arange(150).numpy()[:, None], torch.arange(40).numpy()) % len(words)
    (folder / "text.txt").write_text("\n\n".join(" ".join(words[n] for n in row) for row in numbers))
    (folder / "recipe.yaml").write_text(SETTINGS)
    (folder / "record.py").write_text(RECORDER)
    return folder


def train(corpus, name, launcher=(), extra=(), text=True):
    """Run `bert pretrain`, recording; returns (run folder, global batches by step, losses)."""
    run, record = corpus / name, corpus / f"{name}-batch"
    arguments = [
        "pretrain",
        *([str(corpus / "text.txt")] if text else []),
        "--config",
        str(corpus / "recipe.yaml"),
        "--out",
        str(run),
        *extra,
    ]
    environment = os.environ | {"RECORD": str(record), "OMP_NUM_THREADS": "1"}
    command = [*(launcher or [sys.executable]), str(corpus / "record.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    batches = {}
    for step in range(20):
        parts = sorted(corpus.glob(f"{name}-batch-{step}-*.pt"), key=lambda p: [int(n) for n in p.stem.split("-")[-2:]])
        loaded = [torch.load(part) for part in parts]
        batches[step] = {
            key: torch.cat([part[key] for part in loaded]) for key in ("input_ids", "document_ids", "labels")
        }
        assert len({(part["counts"]["loss"], part["tokens"]) for part in loaded}) == 1
    with (run / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return (
        batches,
        [float(row["loss"]) for row in rows if row["loss"]],
        [float(row["val_loss"]) for row in rows if row["val_loss"]],
    )


@pytest.fixture(scope="module")
def alone(corpus):
    return train(corpus, "alone")


def torchrun():
    return [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2"]


@pytest.mark.parametrize(
    ("name", "launcher", "extra"),
    [
        ("devices", (), ("--trainer.devices", "2")),
        ("torchrun", "torchrun", ()),
        ("accumulating", (), ("--trainer.devices", "2", "--data.micro_batch_size", "2")),
        ("compiled", (), ("--trainer.devices", "2", "--compile", "true")),
    ],
)
def test_two_processes_see_the_batches_of_one_and_reach_its_losses(corpus, alone, name, launcher, extra):
    batches, losses, validation = train(corpus, name, torchrun() if launcher else (), extra)
    for step, batch in batches.items():
        for key, tensor in batch.items():
            assert torch.equal(tensor, alone[0][step][key]), (step, key)
    assert len(losses) == 20
    assert max(abs(a - b) for a, b in zip(losses, alone[1])) < 1e-5
    assert max(abs(a - b) for a, b in zip(validation, alone[2])) < 1e-5


PHASES = (
    "[{tokens: 1024, sequence_length: 16, micro_batch_size: 2}, {tokens: 1536, batch_size: 12, micro_batch_size: 2},"
    " {micro_batch_size: 4}]"
)


def test_phases_and_a_mixture_give_two_processes_the_batches_of_one(corpus):
    """Steps 0 to 7 in 16 positions, 8 to 11 with more rows, then larger micro-batches; rows of two sources."""
    (corpus / "more.txt").write_text("\n\n".join((corpus / "text.txt").read_text().split("\n\n")[::2]))
    mixture = ("--phases", PHASES, "--data.mixture", f"{{{corpus / 'text.txt'}: 2, {corpus / 'more.txt'}: 1}}")
    one = train(corpus, "phased", (), mixture, text=False)
    two = train(corpus, "phased-two", (), (*mixture, "--trainer.devices", "2"), text=False)
    for step, batch in one[0].items():
        for key, tensor in batch.items():
            assert torch.equal(tensor, two[0][step][key]), (step, key)
    assert [tuple(one[0][step]["input_ids"].shape) for step in (7, 8, 11, 12)] == [(8, 16), (12, 32), (12, 32), (8, 32)]
    assert max(abs(a - b) for a, b in zip(one[1], two[1], strict=True)) < 1e-5
    assert max(abs(a - b) for a, b in zip(one[2], two[2], strict=True)) < 1e-5
    assert len(one[1]) == 20


def test_a_run_of_two_processes_goes_on_as_one(corpus, alone):
    """From a checkpoint in the middle, with another number of micro-batches a step: the steps are the same."""
    flags = (
        "--trainer.devices",
        "2",
        "--data.micro_batch_size",
        "2",
        "--checkpoint.every_steps",
        "5",
        "--checkpoint.keep",
        "9",
    )
    train(corpus, "many", (), flags)
    run = corpus / "many"
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.name != "step-00000005":
            shutil.rmtree(checkpoint)
    command = [sys.executable, "-m", "bert", "pretrain", "--resume", str(run), "--trainer.devices", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with (run / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert max(abs(a - b) for a, b in zip(losses, alone[1], strict=True)) < 1e-5
    assert [row["step"] for row in rows if row["val_loss"]] == ["10", "20"]


def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(corpus, alone):
    """SIGTERM goes to the first alone, as some schedulers do; both stop, one speaks, and the run goes on to the same losses."""
    run = corpus / "stopped"
    slow = RECORDER.replace(
        "    for number",
        "    import time; time.sleep(0.2)\n    open(os.environ['RECORD'], 'w').close()\n    for number",
    )
    (corpus / "slow.py").write_text(slow)
    arguments = [
        "pretrain",
        str(corpus / "text.txt"),
        "--config",
        str(corpus / "recipe.yaml"),
        "--out",
        str(run),
        "--trainer.devices",
        "2",
    ]
    environment = os.environ | {"RECORD": str(corpus / "stopped-batch"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(corpus / "slow.py"), *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (corpus / "stopped-batch").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert errors.count("Resume with: bert pretrain --resume") == 1
    done = subprocess.run(
        [sys.executable, "-m", "bert", "pretrain", "--resume", str(run)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with (run / "metrics.csv").open() as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream) if row["loss"]]
    assert max(abs(a - b) for a, b in zip(losses, alone[1], strict=True)) < 1e-5


def test_with_muon_the_losses_agree_within_its_bf16(corpus):
    """Muon orthogonalises in bf16, which rounds a sum of gradients taken in another order to another neighbour: 3 digits agree."""
    one = train(corpus, "muon-alone", (), ("--optimizer.kind", "muon"))
    two = train(corpus, "muon-two", (), ("--optimizer.kind", "muon", "--trainer.devices", "2"))
    assert max(abs(a - b) for a, b in zip(one[1], two[1])) < 2e-3


# Counts the buckets of gradients that this process exchanges.
COUNTER = """
import os, sys
import bert.cli
from bert.pretraining.module import PretrainingModule
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
last = []
def counted(state, bucket):
    last.append(bucket.is_last())
    return allreduce_hook(state, bucket)
real = PretrainingModule.on_train_start
def start(self):
    real(self)
    self.trainer.strategy.model.register_comm_hook(None, counted)
PretrainingModule.on_train_start = start
code = bert.cli.main(sys.argv[1:])
with open(os.environ["RECORD"], "a") as file: file.write(f"{len(last)} {sum(last)}\\n")
sys.exit(code)
"""


@pytest.mark.parametrize("micro_batch_size", [4, 1])
def test_gradients_are_exchanged_once_a_bucket_and_step_whatever_the_accumulation(corpus, micro_batch_size):
    """The model is so small that its gradients are one bucket."""
    (corpus / "count.py").write_text(COUNTER)
    record = corpus / f"reductions-{micro_batch_size}"
    arguments = [
        "pretrain",
        str(corpus / "text.txt"),
        "--config",
        str(corpus / "recipe.yaml"),
        "--trainer.devices",
        "2",
    ]
    arguments += [
        "--out",
        str(corpus / f"counted-{micro_batch_size}"),
        "--data.micro_batch_size",
        str(micro_batch_size),
    ]
    environment = os.environ | {"RECORD": str(record), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(corpus / "count.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert record.read_text().split() == ["20"] * 4  # calls and last buckets, of two processes over 20 steps
