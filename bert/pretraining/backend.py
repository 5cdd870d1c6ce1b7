"""How the attention of a run is computed: as the recipe says, or by timing before the run begins.

Backends differ in the last bits, so what is chosen by the clock is written into the recipe of the run: it is resumed with the same.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from bert.errors import InputError
from bert.model.attention import missing
from bert.model.tuning import candidates, fastest
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.phases import Phased, plan
from bert.pretraining.stream import Split


def settle_attention(
    recipe: PretrainRecipe,
    splits: Phased[Split],
    device: torch.device,
    precision: str,
    compiled: bool,
    say: Callable[[str], None],
) -> PretrainRecipe:
    """`recipe` with the attention that the run takes on `device`, dealt out by `splits`.

    `auto` is timed, in the phase of the longest rows, where the step is compiled: a shorter run would not earn back what timing
    takes, and keeps `auto`, which asks no clock. Raises InputError where the attention that the recipe names cannot be had.
    """
    encoder, dtype = recipe.encoder, _compute_dtype(precision)
    dropout, size = encoder.attention_dropout, encoder.head_size
    if recipe.attention != "auto":
        lack = missing(recipe.attention, device, dtype, size, dropout, training=True)
        if lack:
            raise InputError(f"attention {recipe.attention} {lack}: choose another, as sdpa, or auto")
        return recipe
    backends = candidates(device, dtype, size, dropout, training=True, compiled=compiled)
    if not compiled or len(backends) < 2:
        return recipe
    lengths = (phase.recipe.data.row_length for phase in plan(recipe).values)
    length, rows = max((length, split.micro_batch_rows) for length, split in zip(lengths, splits.values))
    seconds = fastest(
        backends,
        (rows, encoder.num_heads, length, size),
        kv_heads=encoder.kv_heads,
        window=encoder.local_window,
        dtype=dtype,
        device=device,
        dropout=dropout,
        compiled=True,
    )
    best = next(iter(seconds))
    figures = ", ".join(f"{backend} {1e3 * value:.1f} ms" for backend, value in seconds.items())
    say(f"attention: {best} ({figures} a layer)")
    return replace(recipe, attention=best)


def _compute_dtype(precision: str) -> torch.dtype:
    """The dtype in which matrices are multiplied under a precision of Lightning, as bf16-mixed."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32
