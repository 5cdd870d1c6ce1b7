"""bf16 where the hardware multiplies it."""

import pytest
import torch

from bert.model.precision import best_precision, cpu_multiplies_bf16


@pytest.mark.parametrize(
    ("bf16", "amx", "precision"), [(True, False, "bf16-mixed"), (False, True, "bf16-mixed"), (False, False, "32-true")]
)
def test_bf16_on_a_cpu_is_a_matter_of_its_instructions(monkeypatch, bf16, amx, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert best_precision("cpu") == precision
    assert cpu_multiplies_bf16() == (precision == "bf16-mixed")
