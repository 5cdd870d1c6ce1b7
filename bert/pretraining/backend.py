"""How the attention of a run is computed: as the recipe says, or by timing before the run begins.

Backends differ in the last bits, so what is chosen by the clock is written into the recipe of the run: it is resumed with the same.
"""

import logging
from dataclasses import replace

import torch

from bert.model.attention import AttentionOptions, Case, check_backend, missing
from bert.model.config import Backend, EncoderConfig
from bert.model.tuning import candidates, fastest
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.phases import Plan

logger = logging.getLogger(__name__)

_LAYERS = 3
"""layers that are timed with one mask, at most: more take longer to compile and tell no more"""


def select_attention(
    recipe: PretrainRecipe,
    plan: Plan,
    device: torch.device,
    precision: str,
    compiled: bool,
) -> PretrainRecipe:
    """`recipe` with the attention that the run takes on `device`, by its `plan`.

    `auto` is timed, in the phase of the longest sequences, where the step is compiled: a shorter run would not earn back what timing
    takes, and keeps `auto`, which asks no clock. Layers with a window are timed by themselves. Raises InputError where the
    attention that the recipe names cannot be had.
    """
    encoder, case = recipe.encoder, _case(recipe.encoder, device, precision)
    for named in (recipe.attention, recipe.local_attention or "auto"):
        check_backend(named, case)
    if recipe.attention != "auto" or not compiled or len(backends := candidates(case, compiled)) < 2:
        return recipe
    length, sequences = max((phase.sequence_length, phase.micro_batch_size) for phase in plan.phases)

    def timed(layers: list[int], window: int | None, which: str) -> Backend:
        seconds = fastest(
            backends,
            (sequences, encoder.num_heads, length, encoder.head_size),
            kv_heads=encoder.kv_heads,
            window=window,
            dtype=case.dtype,
            device=device,
            dropout=case.dropout,
            compiled=True,
            layers=min(len(layers), _LAYERS),
        )
        best = next(iter(seconds))
        figures = ", ".join(f"{backend} {1e3 * value:.1f} ms" for backend, value in seconds.items())
        logger.info(f"attention{which}: {best} ({figures} a layer)")
        return best

    of_window = [layer for layer in range(encoder.num_layers) if encoder.is_local(layer)]
    of_all = [layer for layer in range(encoder.num_layers) if not encoder.is_local(layer)]
    recipe = replace(recipe, attention=timed(of_all, None, ""))
    if of_window and recipe.local_attention is None:
        recipe = replace(recipe, local_attention=timed(of_window, encoder.local_window, " in windows"))
    return recipe


def attention_options(recipe: PretrainRecipe, device: torch.device, precision: str) -> AttentionOptions:
    """The attention of a recipe as the options of an encoder that is trained on `device`. The last layer computes masked positions
    alone: where its backend cannot do that, these name `auto` for it, which is logged."""
    options, encoder = AttentionOptions(recipe.attention, recipe.local_attention), recipe.encoder
    last = options.of_layer(encoder.is_local(encoder.num_layers - 1), chosen=True)
    if not (lack := missing(last, _case(encoder, device, precision)._replace(queries="chosen"))):
        return options
    logger.info(f"attention of the last layer, at masked positions: auto ({last} {lack})")
    return replace(options, masked_backend="auto")


def _case(encoder: EncoderConfig, device: torch.device, precision: str) -> Case:
    """What training under a precision of Lightning, as bf16-mixed, asks of a backend."""
    dtype = {"bf": torch.bfloat16, "16": torch.float16}.get(
        precision[:2], torch.float32
    )  # matrices are multiplied in it
    return Case(device, dtype, encoder.head_size, encoder.attention_dropout, training=True)
