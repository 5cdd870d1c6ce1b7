"""The precision that pays on this hardware. No Lightning here: what only runs a model asks it too."""

import torch


def best_precision(accelerator: str = "auto") -> str:
    """bf16-mixed where the hardware multiplies bf16 matrices, 32-true elsewhere.

    On a CPU that means AVX512-BF16 or AMX: without them bf16 autocast is slower than fp32 (PyTorch issue 86550).
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return "32-true"
    return "bf16-mixed" if cpu_multiplies_bf16() else "32-true"


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX instructions."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
