"""A text of random token ids and a tiny recipe for it: no tokenizer, no files."""

from dataclasses import replace

import numpy as np

from bert.bench.documents import text_of_arrays
from bert.data.rng import random_bits
from bert.model.config import EncoderConfig, HeadConfig
from bert.pretraining.config import DataConfig, PretrainRecipe

SIZE, LENGTH = 96, 16
LENGTHS = random_bits(3, np.arange(90)).astype(np.int64) % 20 + 1
VALUES = (random_bits(4, np.arange(LENGTHS.sum())) % np.uint64(SIZE - 5)).astype(np.uint16) + 5
TEXT = text_of_arrays(VALUES, np.concatenate(([0], np.cumsum(LENGTHS))), SIZE)

MODERN = EncoderConfig(SIZE, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=32, max_length=LENGTH)
BERT = replace(
    MODERN,
    positions="learned", norm_first=False, final_norm=False, gated=False, bias=True, norm_bias=True, token_types=2, norm_eps=1e-12
)  # fmt: skip
RECIPE = PretrainRecipe(
    data=DataConfig(sequence_length=LENGTH, batch_size=8, micro_batch_size=4),
    encoder=MODERN,
    compile=False,
    trainer={"accelerator": "cpu", "precision": "32-true"},
)
RECIPES = {"bert": replace(RECIPE, encoder=BERT, head=HeadConfig(transform_bias=True)), "modernbert": RECIPE}


class Stop(Exception):
    """Raised to interrupt a measurement."""
