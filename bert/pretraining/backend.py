"""The attention backends of a run: as the recipe says, or chosen by timing before the run starts.

Backends differ in the last bits, so a choice by timing is written into the recipe of the run, which is then resumed with the same backends.
"""

import logging
from dataclasses import replace

import torch

from bert.model.attention import AttentionOptions, Case
from bert.model.backends import check_backend, missing
from bert.model.config import Backend, EncoderConfig
from bert.model.tuning import candidates, fastest
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.phases import Plan

logger = logging.getLogger(__name__)

_LAYERS = 3
"""largest number of layers that are timed with one mask: more take longer to compile and add no information"""


def select_attention(
    recipe: PretrainRecipe, plan: Plan, device: torch.device, precision: str, compiled: bool
) -> PretrainRecipe:
    """`recipe` with the attention backends of the run on `device`.

    `auto` is resolved by timing in the phase with the longest sequences, if the step is compiled; a shorter run would not earn back the
    time and keeps `auto`, which chooses without timing. Layers with a window are timed separately. Raises InputError if a backend that
    the recipe names is not supported.
    """
    encoder, case = recipe.encoder, _case(recipe.encoder, device, precision)
    for named in (recipe.attention, recipe.local_attention or "auto"):
        check_backend(named, case)
    if recipe.attention != "auto" or not compiled or len(backends := candidates(case, compiled)) < 2:
        return recipe
    length, sequences = max((phase.sequence_length, phase.micro_batch_size) for phase in plan.phases)

    def timed(layers: int, window: int | None, where: str) -> Backend:
        seconds = fastest(
            backends,
            (sequences, encoder.num_heads, length, encoder.head_size),
            kv_heads=encoder.kv_heads,
            window=window,
            dtype=case.dtype,
            device=device,
            dropout=case.dropout,
            compiled=True,
            layers=min(layers, _LAYERS),
        )
        best = next(iter(seconds))
        times = ", ".join(f"{backend} {1e3 * value:.1f} ms" for backend, value in seconds.items())
        logger.info(f"attention{where}: {best} ({times} per layer)")
        return best

    local = sum(map(encoder.is_local, range(encoder.num_layers)))
    recipe = replace(recipe, attention=timed(encoder.num_layers - local, None, ""))
    if local and recipe.local_attention is None:
        recipe = replace(recipe, local_attention=timed(local, encoder.local_window, " in windows"))
    return recipe


def attention_options(recipe: PretrainRecipe, device: torch.device, precision: str) -> AttentionOptions:
    """The attention options of an encoder that is trained with a recipe on `device`. The last layer computes masked positions only: if its
    backend does not support that, `auto` is used there, which is logged."""
    options, encoder = AttentionOptions(recipe.attention, recipe.local_attention), recipe.encoder
    last = options.of_layer(encoder.is_local(encoder.num_layers - 1), chosen=True)
    if not (lack := missing(last, _case(encoder, device, precision)._replace(queries="chosen"))):
        return options
    logger.info(f"attention of the last layer, at masked positions: auto ({last} {lack})")
    return replace(options, masked_backend="auto")


def _case(encoder: EncoderConfig, device: torch.device, precision: str) -> Case:
    """Training under a precision of Lightning, such as bf16-mixed, as a case for backends."""
    dtypes = {"bf": torch.bfloat16, "16": torch.float16}  # in which matrices are multiplied
    dtype = dtypes.get(precision[:2], torch.float32)
    return Case(device, dtype, encoder.head_size, encoder.attention_dropout, training=True)
