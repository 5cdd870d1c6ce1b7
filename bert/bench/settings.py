"""What a comparison consists of: workloads, and how the baseline runs. No torch here: command lines are parsed with these types."""

from dataclasses import dataclass
from typing import Literal, get_args

Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
"""attention implementations of transformers"""
Compile = Literal["no", "yes", "cuda-graphs"]
Side = Literal["baseline", "candidate"]
Workload = Literal["full-sequences", "concatenated", "padded"]
SIDES: tuple[Side, ...] = get_args(Side)
WORKLOADS: tuple[Workload, ...] = get_args(Workload)
"""the one with changing shapes last: the compiler remembers the shapes that it has seen"""


@dataclass(frozen=True)
class BaselineSettings:
    """How the baseline runs."""

    attention: Attention = "sdpa"
    compile: Compile = "no"
    """torch.compile, with or without CUDA graphs"""

    def __str__(self) -> str:
        return self.attention + {"no": "", "yes": ", compiled", "cuda-graphs": ", CUDA graphs"}[self.compile]


def baseline_settings(
    device_type: str, attention: Attention | None = None, compile: Compile | None = None
) -> tuple[BaselineSettings, ...]:
    """All settings worth trying on this type of device; `attention` and `compile`, if given, are fixed in each of them."""
    on_cpu = device_type == "cpu"
    compiles: tuple[Compile, ...] = ("no", "yes") if on_cpu else get_args(Compile)
    attentions: tuple[Attention, ...] = ("eager", "sdpa") if on_cpu else ("sdpa", "flash_attention_2")
    compiles, attentions = (compile,) if compile else compiles, (attention,) if attention else attentions
    return tuple(BaselineSettings(attention, compile) for compile in compiles for attention in attentions)
