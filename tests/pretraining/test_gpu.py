"""On a GPU: `pytest -m gpu` needs torch, Lightning and numpy alone."""

import dataclasses

import pytest
import torch
from torch._dynamo.utils import counters

from bert.model.attention import AttentionOptions
from bert.model.heads import MaskedLM
from bert.pretraining.module import MaskedLMTraining
from bert.pretraining.stream import Split
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.optimizers import clip_gradients

from .synthetic import ENCODER, SEQUENCES, fit, make_module, make_stream

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def train(accelerator, precision, kind="adamw", micro_sequences=SEQUENCES):
    split = Split(SEQUENCES, micro_sequences)
    module = make_module(split, steps=20, kind=kind)
    fit(module, split, accelerator, precision)
    return module.read_log()["loss"]


def test_in_fp32_a_gpu_reaches_the_losses_of_a_cpu():
    assert train("gpu", "32-true") == pytest.approx(train("cpu", "32-true"), abs=1e-4)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_bf16_and_accumulation_train_as_fp32_does(kind):
    """Within 2 %: bf16 has 8 bits of mantissa, and 20 steps add up."""
    reference = train("gpu", "32-true", kind)
    assert train("gpu", "bf16-mixed", kind) == pytest.approx(reference, rel=0.02)
    assert train("gpu", "bf16-mixed", kind, micro_sequences=SEQUENCES // 3) == pytest.approx(reference, rel=0.02)


def test_a_gpu_run_repeats():
    weights = []
    for _ in range(2):
        split = Split(SEQUENCES, SEQUENCES)
        module = make_module(split, steps=5)
        fit(module, split, "gpu", "bf16-mixed")
        weights.append(torch.cat([parameter.detach().cpu().flatten() for parameter in module.model.parameters()]))
    assert torch.allclose(weights[0], weights[1], atol=1e-5)  # atomics of index_add may differ in the last bits


@pytest.mark.parametrize("backend", ["auto", "sdpa", "varlen", "flex"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_compiled_step_is_one_graph_that_never_waits_for_the_gpu(backend, kind):
    """Local and global layers in bf16. Two steps set things up; from then on nothing is compiled, and nothing synchronises."""
    torch._dynamo.reset()
    counters.clear()
    split, stream = Split(SEQUENCES, SEQUENCES), make_stream()
    shape = dataclasses.replace(ENCODER, hidden_size=64, num_layers=3, local_window=6, global_every=2)
    optimizer = OptimizerConfig(kind=kind)
    module = MaskedLMTraining(
        MaskedLM(shape), optimizer, ScheduleConfig(), StopConfig(steps=6), split, seed=5, compiled=True
    ).cuda()
    masked = "auto" if backend == "varlen" else None
    module.model.encoder.attention = AttentionOptions(backend, masked_backend=masked)
    updates = module.configure_optimizers()
    batches = [
        {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        for batch in (stream.micro_batch(step, split) for step in range(6))
    ]
    graphs, losses = [], []
    try:
        for step, batch in enumerate(batches):
            torch.cuda.set_sync_debug_mode("error" if step >= 2 else "default")
            with torch.autocast("cuda", torch.bfloat16):
                loss_sum = module.sum_losses(batch)
            (loss_sum / batch["global_targets"]).backward()
            clip_gradients(module.model, 1.0)
            updates.step()
            updates.zero_grad()
            losses.append(loss_sum.detach())
            graphs.append(int(counters["stats"]["unique_graphs"]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert graphs == [1] * 6
    assert not counters["graph_break"]
    assert all(torch.isfinite(loss) for loss in losses)
