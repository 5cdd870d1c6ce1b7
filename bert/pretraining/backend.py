"""How the attention of a run is computed: as the recipe says, or by timing before the run begins.

Backends differ in the last bits, so what is chosen by the clock is written into the recipe of the run: it is resumed with the same.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from bert.errors import InputError
from bert.model.attention import Backend, missing
from bert.model.tuning import candidates, fastest
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.phases import Plan

_LAYERS = 3
"""layers that are timed with one mask, at most: more take longer to compile and tell no more"""


def select_attention(
    recipe: PretrainRecipe,
    plan: Plan,
    device: torch.device,
    precision: str,
    compiled: bool,
    say: Callable[[str], None],
) -> PretrainRecipe:
    """`recipe` with the attention that the run takes on `device`, by its `plan`.

    `auto` is timed, in the phase of the longest sequences, where the step is compiled: a shorter run would not earn back what timing
    takes, and keeps `auto`, which asks no clock. Layers with a window are timed by themselves. Raises InputError where the
    attention that the recipe names cannot be had.
    """
    encoder, dtype = recipe.encoder, _compute_dtype(precision)
    dropout, size = encoder.attention_dropout, encoder.head_size
    for named in (recipe.attention, recipe.local_attention or "auto"):
        lack = "" if named == "auto" else missing(named, device, dtype, size, dropout, training=True)
        if lack:
            raise InputError(f"attention {named} {lack}: choose another, as sdpa, or auto")
    backends = candidates(device, dtype, size, dropout, training=True, compiled=compiled)
    if recipe.attention != "auto" or not compiled or len(backends) < 2:
        return recipe
    length, sequences = max((phase.sequence_length, phase.micro_batch_size) for phase in plan.phases)

    def timed(layers: list[int], window: int | None, which: str) -> Backend:
        seconds = fastest(
            backends,
            (sequences, encoder.num_heads, length, size),
            kv_heads=encoder.kv_heads,
            window=window,
            dtype=dtype,
            device=device,
            dropout=dropout,
            compiled=True,
            layers=min(len(layers), _LAYERS),
        )
        best = next(iter(seconds))
        figures = ", ".join(f"{backend} {1e3 * value:.1f} ms" for backend, value in seconds.items())
        say(f"attention{which}: {best} ({figures} a layer)")
        return best

    of_window = [layer for layer in range(encoder.num_layers) if encoder.is_local(layer)]
    of_all = [layer for layer in range(encoder.num_layers) if not encoder.is_local(layer)]
    recipe = replace(recipe, attention=timed(of_all, None, ""))
    if of_window and recipe.local_attention is None:
        recipe = replace(recipe, local_attention=timed(of_window, encoder.local_window, " in windows"))
    return recipe


def _compute_dtype(precision: str) -> torch.dtype:
    """The dtype in which matrices are multiplied under a precision of Lightning, as bf16-mixed."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32
