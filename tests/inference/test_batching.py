"""The engine under every vector: the same for an input whatever its batch, and nothing kept that was not asked for."""

import weakref
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.errors import InputError
from bert.inference.batching import Batch, Encoded, _batches, run_batches
from bert.inference.embeddings import embed
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.probing.attention import attention
from tests.encoders import ENCODERS, LAYERS, LEARNED, TEXTS, make_encoder, span_vectors


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=1, max_size=20), st.integers(1, 200), st.sampled_from(["rope", "learned"]))
def test_no_vector_depends_on_padding_batches_or_order(lengths: list[int], batch_tokens: int, positions: str) -> None:
    encoder = LEARNED if positions == "learned" else ENCODERS["wordpiece"]
    inputs = [Encoded([(7 * row + place) % 100 + 5 for place in range(n)]) for row, n in enumerate(lengths)]
    seen: list[list[int]] = []

    def take(output: object, batch: Batch) -> list[torch.Tensor]:
        seen.append(batch.positions)
        assert batch.input_ids.shape[1] * len(batch.positions) <= batch_tokens or len(batch.positions) == 1
        return [hidden[mask.bool()].clone() for hidden, mask in zip(output.last_hidden_state, batch.attention_mask)]

    together = run_batches(encoder, inputs, take, batch_tokens=batch_tokens, bf16=False)
    assert sorted(place for places in seen for place in places) == list(range(len(inputs)))
    for one, vectors in zip(inputs, together, strict=True):
        alone = encoder(torch.tensor([one.ids])).last_hidden_state[0]
        torch.testing.assert_close(vectors, alone.detach(), atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 2_000))
def test_a_batch_is_little_padding_or_small(lengths: list[int], batch_tokens: int) -> None:
    batches = list(_batches(lengths, batch_tokens))
    assert sorted(place for places in batches for place in places) == list(range(len(lengths)))
    assert [lengths[place] for places in batches for place in places] == sorted(lengths, reverse=True)
    for places, following in zip(batches, [*batches[1:], []]):
        padded, tokens = lengths[places[0]] * len(places), sum(lengths[place] for place in places)
        assert padded <= batch_tokens or len(places) == 1
        assert padded - tokens <= padded / 32 or padded <= batch_tokens / 4
        if following:  # one more would not have fitted, or been too much padding
            padded, tokens = padded + lengths[places[0]], tokens + lengths[following[0]]
            assert padded > batch_tokens or (padded - tokens > padded / 32 and padded > batch_tokens / 4)


def test_token_types_reach_the_model_and_are_padded() -> None:
    pair = Encoded([2, 9, 3, 8, 3], [0, 0, 0, 1, 1])
    vectors = run_batches(LEARNED, [Encoded([2, 9, 9, 9, 9, 9, 3]), pair], _last, bf16=False)
    alone = LEARNED(torch.tensor([pair.ids]), token_type_ids=torch.tensor([pair.token_type_ids])).last_hidden_state
    torch.testing.assert_close(vectors[1][:5], alone[0].detach(), atol=1e-5, rtol=0)


def _last(output: object, batch: Batch) -> Sequence[torch.Tensor]:
    return list(output.last_hidden_state.clone())


def test_the_mode_of_the_model_is_kept_also_when_the_work_fails() -> None:
    encoder = make_encoder(hidden_dropout=0.9).train()

    def fail(output: object, batch: Batch) -> list[None]:
        assert not encoder.training
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        run_batches(encoder, [Encoded([2, 3])], fail)
    assert encoder.training
    torch.testing.assert_close(embed(encoder, TEXTS[:1]), embed(encoder, TEXTS[:1]))


def test_an_input_longer_than_the_model_takes_is_named() -> None:
    with pytest.raises(InputError, match="input 2 has 25 tokens and the model takes 24: split or truncate it"):
        run_batches(ENCODERS["wordpiece"], [Encoded([2, 3]), Encoded([2] * 25)], _last)


def test_nothing_in_gives_nothing_out() -> None:
    assert run_batches(ENCODERS["wordpiece"], [], _last) == []
    assert embed(ENCODERS["wordpiece"], []).shape == (0, 16)
    assert span_vectors(ENCODERS["wordpiece"], [], []).shape == (0, LAYERS + 1, 16)


def test_the_vectors_of_the_tokens_are_dropped_batch_by_batch() -> None:
    outputs: list[weakref.ref] = []

    def take(output: object, batch: Batch) -> list[float]:
        assert not any(earlier() for earlier in outputs)
        outputs.append(weakref.ref(output))
        return [float(row.sum()) for row in output.last_hidden_state]

    run_batches(ENCODERS["wordpiece"], [Encoded([2, 5, 6, 3])] * 20, take, hidden_states=True, batch_tokens=8)
    assert len(outputs) == 10


@pytest.mark.parametrize("reader", ["embed", "fill", "attention"])
def test_what_a_model_computes_of_weights_that_are_too_large_is_refused_and_not_shown(reader: str) -> None:
    tokenizer = ENCODERS["wordpiece"].tokenizer
    assert tokenizer is not None
    model = MaskedLM(
        EncoderConfig(tokenizer.vocab_size, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=16)
    )
    model.tokenizer = model.encoder.tokenizer = tokenizer
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3e38)
    with pytest.raises(InputError, match="the model outputs NaN or infinity"):
        if reader == "embed":
            embed(model.encoder, ["the cat"])
        elif reader == "fill":
            model.fill(f"the {tokenizer.mask_token}")
        else:
            attention("the cat", model.encoder)
