"""On a GPU: `pytest -m gpu` needs torch, Lightning and numpy alone."""

import dataclasses

import pytest
import torch
from torch._dynamo.utils import counters

from bert.model.attention import AttentionOptions
from bert.model.heads import MaskedLM
from bert.pretraining.objectives.masked_lm import MaskedLanguageModeling
from bert.training.config import OptimizerConfig
from bert.training.optimizers import make_optimizer
from bert.training.step import optimizer_step, scaled_loss

from .synthetic import ENCODER, SEQUENCES, fit, make_module, make_stream

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def train(accelerator, precision, kind="adamw", micro_sequences=SEQUENCES):
    module = make_module(steps=20, kind=kind)
    fit(module, make_stream(micro_batch_size=micro_sequences), accelerator, precision)
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
        module = make_module(steps=5)
        fit(module, None, "gpu", "bf16-mixed")
        weights.append(torch.cat([parameter.detach().cpu().flatten() for parameter in module.model.parameters()]))
    assert torch.allclose(weights[0], weights[1], atol=1e-5)  # atomics of index_add may differ in the last bits


@pytest.mark.parametrize("backend", ["auto", "sdpa", "varlen", "flex"])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_compiled_step_is_one_graph_that_never_waits_for_the_gpu(backend, kind):
    """Local and global layers in bf16. Two steps set things up; from then on nothing is compiled, and nothing synchronises."""
    torch._dynamo.reset()
    counters.clear()
    stream, objective = make_stream(), MaskedLanguageModeling(compiled=True)
    shape = dataclasses.replace(ENCODER, hidden_size=64, num_layers=3, local_window=6, global_every=2)
    model = MaskedLM(shape).cuda()
    masked = "auto" if backend == "varlen" else None
    model.encoder.attention = AttentionOptions(backend, masked_backend=masked)
    optimizer = make_optimizer(model, OptimizerConfig(kind=kind))
    batches = [
        {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        for batch in (stream.micro_batch(step) for step in range(6))
    ]
    graphs, losses = [], []

    def loss(numbered):
        step, batch = numbered
        with torch.autocast("cuda", torch.bfloat16):
            terms = objective.loss(model, batch)
        losses.append(terms.sums["loss"].detach())
        return scaled_loss(terms, {"loss": stream.batch(step).masked_tokens})

    try:
        for step, batch in enumerate(batches):
            torch.cuda.set_sync_debug_mode("error" if step >= 2 else "default")
            optimizer_step(loss, optimizer, [(step, batch)], learning_rate=1.0)
            graphs.append(int(counters["stats"]["unique_graphs"]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert graphs == [1] * 6
    assert not counters["graph_break"]
    assert all(torch.isfinite(loss) for loss in losses)
