"""The decoder: what a position sees, the cache, cross-attention, and the size of the paper's model."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bert.errors import InputError
from bert.model.attention import Layout
from bert.model.config import EncoderConfig, HeadConfig, Seq2SeqConfig
from bert.model.decoder import CrossAttention, Seq2Seq, rows_at
from bert.model.encoder import count_parameters
from tests.model.test_transformer_claims import lively

BASE = EncoderConfig(vocab_size=50, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=48, max_length=16)
POST = replace(BASE, norm_first=False, final_norm=False, bias=True, norm_bias=True, gated=False)
LAYOUTS = {
    "rotary": BASE,
    "rotary, grouped, normalized": replace(BASE, num_kv_heads=2, qk_norm=True),
    "windows": replace(BASE, local_window=4, global_every=2),
    "learned": replace(POST, positions="learned"),
    "sinusoidal": replace(POST, positions="sinusoidal", embedding_scale=True, embedding_norm=False),
    "halves": replace(POST, positions="sinusoidal", sinusoid_halves=True),
    "none": replace(BASE, positions="none", norm="rmsnorm"),
}
SOURCE = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
TARGET = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(2))


def model_of(config: EncoderConfig, **head: object) -> Seq2Seq:
    model = Seq2Seq(config, Seq2SeqConfig(config, **head))  # type: ignore[arg-type]
    return lively(model).double()  # type: ignore[return-value]


@pytest.fixture(params=LAYOUTS)
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    return model_of(LAYOUTS[request.param])


def test_a_position_never_depends_on_later_ones(model: Seq2Seq) -> None:
    before = model(SOURCE, MASK, decoder_input_ids=TARGET).logits
    for at in range(TARGET.shape[1]):
        other = TARGET.clone()
        other[:, at] = (other[:, at] + 7) % 50
        after = model(SOURCE, MASK, decoder_input_ids=other).logits
        assert torch.equal(before[:, :at], after[:, :at])
        assert (before[:, at] - after[:, at]).abs().amax(-1).min() > 1e-6


def test_no_gradient_flows_from_a_position_to_later_tokens(model: Seq2Seq) -> None:
    vectors: list[torch.Tensor] = []

    def keep(module: object, arguments: object, output: torch.Tensor) -> torch.Tensor:
        if output.shape[1] == TARGET.shape[1]:
            vectors.append(output.requires_grad_())
        return output

    model.requires_grad_(False)
    with model.decoder_embeddings.register_forward_hook(keep):
        logits = model(SOURCE, MASK, decoder_input_ids=TARGET).logits
    (gradient,) = torch.autograd.grad(logits[:, 4].sum(), vectors)
    assert (gradient[:, 5:] == 0).all()
    assert (gradient[:, 4] != 0).any()
    if model.config.local_window is None:
        assert (gradient[:, 0] != 0).any()


@pytest.mark.parametrize("steps", [[1] * 9, [4, 1, 3, 1], [9]])
def test_cached_decoding_equals_uncached_decoding_at_every_step(model: Seq2Seq, steps: list[int]) -> None:
    whole = model(SOURCE, MASK, decoder_input_ids=TARGET).logits
    with torch.inference_mode():
        cache = model.decoder.cache(model.encoder(SOURCE, MASK).last_hidden_state, MASK)
        for part in TARGET.split(steps, dim=1):
            begin = cache.length
            hidden, *_ = model.decoder(part, model.decoder_embeddings, cache)
            found = model.scores(hidden)
            assert torch.allclose(found, whole[:, begin : cache.length], atol=1e-9)
    assert cache.length == 9


def test_several_targets_of_a_source_share_a_cache_and_continue_each_other(model: Seq2Seq) -> None:
    """Two targets of each source, continued in other orders between steps, against each of them alone, uncached."""
    draw = torch.Generator().manual_seed(3)
    targets = torch.empty(2, 2, 0, dtype=torch.long)
    with torch.inference_mode():
        cache = model.decoder.cache(model.encoder(SOURCE, MASK).last_hidden_state, MASK, targets=2)
        for _ in range(9):
            newest = torch.randint(3, 50, (2, 2), generator=draw)
            targets = torch.cat((targets, newest[..., None]), dim=2)
            hidden, *_ = model.decoder(newest, model.decoder_embeddings, cache)
            sources, masks = (one.repeat_interleave(2, 0) for one in (SOURCE, MASK))
            expected = model(sources, masks, decoder_input_ids=targets.flatten(0, 1)).logits[:, -1]
            assert torch.allclose(model.scores(hidden).flatten(0, 1), expected, atol=1e-9)
            origins = torch.randint(0, 2, (2, 2), generator=draw)
            cache.select(origins)
            targets = rows_at(targets, origins)
    assert cache.length == 9


def test_a_cache_without_room_refuses_a_token() -> None:
    model = model_of(BASE)
    with torch.inference_mode():
        cache = model.decoder.cache(model.encoder(SOURCE).last_hidden_state, room=2)
        model.decoder(TARGET[:, :2], model.decoder_embeddings, cache)
        with pytest.raises(AssertionError, match="more tokens than the cache has room for"):
            model.decoder(TARGET[:, 2:3], model.decoder_embeddings, cache)


def test_cross_attention_is_its_definition() -> None:
    """Softmax of q·k / √Dh over the tokens of the source, written out with one matrix a head."""
    torch.manual_seed(0)
    config = replace(POST, num_kv_heads=2)
    attention = CrossAttention(config, 24).double()
    x, memory = torch.randn(2, 5, 32).double(), torch.randn(2, 7, 24).double()
    found, weights = attention(x, attention.keys_values(memory), Layout(key_documents=MASK), "sdpa", False)
    assert weights is None
    keys, values = (memory @ attention.kv.weight.T + attention.kv.bias).split(16, dim=-1)
    heads = []
    for head in range(4):
        own, shared = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
        q = (x @ attention.q.weight.T + attention.q.bias)[..., own]
        scores = (q @ keys[..., shared].transpose(1, 2)) / 8**0.5
        probabilities = scores.masked_fill(MASK[:, None] == 0, float("-inf")).softmax(-1)
        heads.append(probabilities @ values[..., shared])
        _, returned = attention(x, attention.keys_values(memory), Layout(key_documents=MASK), "sdpa", True)
        assert torch.allclose(returned[:, head], probabilities, atol=1e-9)  # type: ignore[index]
    expected = torch.cat(heads, -1) @ attention.out.weight.T + attention.out.bias
    assert torch.allclose(found, expected, atol=1e-9)


def test_padding_of_the_source_changes_nothing(model: Seq2Seq) -> None:
    alone = model(SOURCE[1:, :5], decoder_input_ids=TARGET[1:]).logits
    padded = model(SOURCE, MASK, decoder_input_ids=TARGET).logits[1:]
    assert torch.allclose(alone, padded, atol=1e-9)


def test_the_cache_of_grouped_queries_is_smaller_by_the_group_factor() -> None:
    sizes = []
    for kv_heads in (4, 2, 1):
        model = model_of(replace(BASE, num_kv_heads=kv_heads))
        with torch.inference_mode():
            cache = model.decoder.cache(model.encoder(SOURCE).last_hidden_state)
            model.decoder(TARGET, model.decoder_embeddings, cache)
        sizes.append((cache.numel(), sum(k.numel() + v.numel() for k, v in cache.memory)))
    assert sizes == [(sizes[2][0] * factor, sizes[2][1] * factor) for factor in (4, 2, 1)]


def test_the_base_model_of_the_paper_has_63_082_496_parameters() -> None:
    """Vaswani et al. 2017, table 3: N = 6, d = 512, d_ff = 2048, and a shared vocabulary of 37,000; the paper prints 65 million."""
    d, inner, layers, vocabulary = 512, 2048, 6, 37_000
    norm, attention, mlp = 2 * d, 4 * (d * d + d), 2 * d * inner + inner + d
    expected = vocabulary * d + layers * (attention + mlp + 2 * norm) + layers * (2 * attention + mlp + 3 * norm)
    shape = {"positions": "sinusoidal", "embedding_scale": True, "embedding_norm": False, "activation": "relu"}
    config = replace(POST, vocab_size=vocabulary, hidden_size=d, num_layers=layers, num_heads=8, **shape)
    model = Seq2Seq(replace(config, intermediate_size=inner), Seq2SeqConfig(replace(config, intermediate_size=inner)))
    assert count_parameters(model) == expected == 63_082_496


def test_teacher_forcing_shifts_the_labels_and_the_loss_is_cross_entropy() -> None:
    model = model_of(BASE, start_id=4)
    labels = TARGET.clone()
    labels[1, 6:] = -100
    target = torch.cat((torch.full((2, 1), 4), labels[:, :-1]), 1).clamp(min=0)
    output = model(SOURCE, MASK, labels=labels, output_hidden_states=True, output_attentions=True)
    logits = model(SOURCE, MASK, decoder_input_ids=target).logits
    assert torch.allclose(output.logits[0], logits[0], atol=1e-9)
    assert torch.allclose(output.logits[1, :7], logits[1, :7], atol=1e-9)
    expected = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)  # type: ignore[arg-type]
    assert int(output.num_labels) == 15  # type: ignore[arg-type]
    assert [one.shape[1] for one in output.hidden_states] == [9] * 4  # type: ignore[union-attr]
    assert [one.shape for one in output.cross_attentions] == [(2, 4, 9, 7)] * 3  # type: ignore[union-attr]
    assert (output.cross_attentions[0][1, ..., 5:] == 0).all()  # type: ignore[index]
    assert torch.allclose(output.attentions[0].sum(-1), torch.ones(2, 4, 9).double())  # type: ignore[index]
    assert (output.attentions[0].triu(1) == 0).all()  # type: ignore[index]


def test_any_encoder_may_stand_on_both_sides(tmp_path) -> None:
    """Sides of different width, depth and vocabulary, in our own folder."""
    decoder = replace(POST, vocab_size=33, hidden_size=48, num_layers=2, positions="learned")
    model = lively(Seq2Seq(BASE, Seq2SeqConfig(decoder, HeadConfig(tied=False), shared=False, start_id=5, end_id=6)))
    model.save(tmp_path / "model")  # type: ignore[operator]
    again = Seq2Seq.load(tmp_path / "model")
    assert (again.config, again.head_config) == (model.config, model.head_config)
    target = TARGET % 33
    same = (one(SOURCE, MASK, decoder_input_ids=target).logits for one in (model, again))
    assert torch.equal(*same)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: model_of(BASE)(SOURCE[:1], labels=TARGET),
            "1 sources and 2 targets: give as many of both",
        ),
        (lambda: model_of(BASE)(SOURCE), "neither decoder_input_ids nor labels: give a target"),
        (
            lambda: Seq2Seq(BASE, Seq2SeqConfig(replace(BASE, vocab_size=51))),
            "head.shared needs the vocab_size and hidden_size of the encoder: give it, or shared false",
        ),
        (
            lambda: Seq2Seq(BASE, Seq2SeqConfig(replace(BASE, positions="none"))),
            "head.shared needs the positions of the encoder: give it, or shared false",
        ),
        (
            lambda: Seq2Seq(LAYOUTS["learned"], Seq2SeqConfig(replace(LAYOUTS["learned"], max_length=20))),
            "head.shared needs the max_length of the encoder: give it, or shared false",
        ),
        (
            lambda: Seq2SeqConfig(BASE, start_id=50),
            "head.start_id is 50: give an id of the vocabulary, from 0 to below 50",
        ),
        (
            lambda: model_of(LAYOUTS["learned"])(SOURCE, decoder_input_ids=TARGET.repeat(1, 2)),
            "a target of 18 tokens is longer than the 16 that the decoder takes: shorten it",
        ),
        (
            lambda: replace(BASE, sinusoid_halves=True),
            "encoder.sinusoid_halves needs positions sinusoidal, not rope: omit it",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == message
