"""Two processes see the same global batches as one, bit for bit, and with AdamW in fp32 the same losses."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bert.text.counter import draw

pytestmark = pytest.mark.slow

SETTINGS = """
data: {row_length: 32, batch_rows: 8, held_out: 0.3}
vocabulary: {size: 80}
encoder: {hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 32, max_length: 32}
stop: {steps: 20}
validation: {every_steps: 10, rows: 20}
log: {every_steps: 1, progress_bar: false}
trainer: {accelerator: cpu, precision: 32-true}
"""

# Writes down every micro-batch that a rank sees.
RECORDER = """
import os, sys
import torch
import bert.cli
from bert.pretraining.module import MaskedLMTraining
real = MaskedLMTraining.training_step
def step(self, batch, batch_idx):
    name = f"{os.environ['RECORD']}-{self.progress.step}-{batch_idx % self.split.accumulation}-{self.global_rank}.pt"
    torch.save(dict(batch), name)
    return real(self, batch, batch_idx)
MaskedLMTraining.training_step = step
sys.exit(bert.cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    words = "the apple bank river money tree house sea moon sun red green old new small big runs sees eats buys".split()
    numbers = draw(3, torch.arange(150).numpy()[:, None], torch.arange(40).numpy()) % len(words)
    (folder / "text.txt").write_text("\n\n".join(" ".join(words[n] for n in row) for row in numbers))
    (folder / "recipe.yaml").write_text(SETTINGS)
    (folder / "record.py").write_text(RECORDER)
    return folder


def train(corpus, name, launcher=(), extra=()):
    """Run `bert pretrain`, recording; returns (run folder, global batches by step, losses)."""
    run, record = corpus / name, corpus / f"{name}-batch"
    arguments = [
        "pretrain",
        str(corpus / "text.txt"),
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
        assert len({(part["global_targets"], part["global_tokens"]) for part in loaded}) == 1
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
        ("accumulating", (), ("--trainer.devices", "2", "--data.micro_batch_rows", "2")),
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


def test_with_muon_the_losses_agree_within_its_bf16(corpus):
    """Muon orthogonalises in bf16, which rounds a sum of gradients taken in another order to another neighbour: 3 digits agree."""
    one = train(corpus, "muon-alone", (), ("--optimizer.kind", "muon"))
    two = train(corpus, "muon-two", (), ("--optimizer.kind", "muon", "--trainer.devices", "2"))
    assert max(abs(a - b) for a, b in zip(one[1], two[1])) < 2e-3
