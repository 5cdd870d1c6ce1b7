"""On a GPU: `pytest -m gpu` needs torch, Lightning and numpy alone."""

import pytest
import torch

from bert.pretraining.stream import Split

from .synthetic import ROWS, fit, make_module

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def train(accelerator, precision, kind="adamw", micro_rows=ROWS):
    split = Split(ROWS, micro_rows)
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
    assert train("gpu", "bf16-mixed", kind, micro_rows=ROWS // 3) == pytest.approx(reference, rel=0.02)


def test_a_gpu_run_repeats():
    weights = []
    for _ in range(2):
        split = Split(ROWS, ROWS)
        module = make_module(split, steps=5)
        fit(module, split, "gpu", "bf16-mixed")
        weights.append(torch.cat([parameter.detach().cpu().flatten() for parameter in module.model.parameters()]))
    assert torch.allclose(weights[0], weights[1], atol=1e-5)  # atomics of index_add may differ in the last bits
