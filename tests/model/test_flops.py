"""Operations of a step by formula against those that PyTorch counts while a step runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bert.model.attention import AttentionOptions
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.flops import training_flops
from bert.model.heads import MaskedLM

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_length": 24,
}
POST = {"norm_first": False, "final_norm": False, "gated": False, "positions": "learned"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        POST,
        {"num_kv_heads": 2},
        {"embedding_size": 16} | POST,
        {"num_layers": 1},
        {"local_window": 6, "global_every": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("transform", [True, False])
def test_the_formula_is_what_is_counted(fields: dict, transform: bool) -> None:
    """Every token sees every other here, so that nothing is computed that a mask hides; local layers are counted as they run,
    over all keys."""
    if not transform and "embedding_size" in fields:
        pytest.skip("without a transform nothing makes the vectors narrower again")
    config, head = EncoderConfig(**(SIZES | fields)), HeadConfig(transform=transform)
    model = MaskedLM(config, head)
    model.encoder.attention = AttentionOptions("eager")
    ids = torch.randint(0, 96, (2, 24))
    masked_positions = torch.tensor([[0, 5, 7, 9], [1, 2, 3, 23]])
    with FlopCounterMode(display=False) as counter:
        model(ids, masked_positions=masked_positions, labels=ids[:, :4]).loss.backward()
    formula = training_flops(config, head, tokens=48, slots=8, visible=24, visible_local=24)
    assert counter.get_total_flops() == pytest.approx(formula, rel=1e-9)


def test_a_window_counts_the_keys_inside_it() -> None:
    config = EncoderConfig(**SIZES | {"local_window": 6, "global_every": 3})
    everything, windowed = (
        training_flops(config, HeadConfig(), 100, 10, visible=24, visible_local=local) for local in (24, None)
    )
    # layers 1 and 2 are local: 7 keys in the place of 24, twice the width each, for all tokens and for the slots
    assert everything - windowed == 6 * 2 * 32 * (24 - 7) * (100 + 10)
