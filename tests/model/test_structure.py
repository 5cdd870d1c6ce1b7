import pytest
import torch

from bert.errors import InputError
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM
from bert.model.structure import layer_of_neighbors, structure, structure_attention

SHAPE = {"vocab_size": 500, "hidden_size": 128, "num_layers": 3, "num_heads": 4, "intermediate_size": 96}
SHAPES = {
    "pre-norm": SHAPE,
    "post-norm": SHAPE | {"norm_first": False, "final_norm": False},
    "post-norm without a norm of the embeddings": SHAPE
    | {"norm_first": False, "final_norm": False, "embedding_norm": False},
    "small heads": SHAPE | {"num_heads": 8},
    "grouped queries": SHAPE | {"num_kv_heads": 2},
    "windows": SHAPE | {"local_window": 16, "global_every": 3},
    "normed queries and keys": SHAPE | {"qk_norm": True},
    "narrow embeddings": SHAPE | {"embedding_size": 64},
    "without a norm of the embeddings": SHAPE | {"embedding_norm": False, "first_attention_norm": True},
}


def structured(seed: int = 0, **shape) -> Encoder:
    torch.manual_seed(seed)
    encoder = Encoder(EncoderConfig(**shape)).eval()
    structure_attention(encoder)
    return encoder


def attention_to_neighbors(encoder: Encoder) -> torch.Tensor:
    """(H, T, T) weights of the layer that looks at neighbors, mean over rows of random tokens."""
    ids = torch.randint(5, encoder.config.vocab_size, (8, 64), generator=torch.Generator().manual_seed(3))
    layer = layer_of_neighbors(encoder.config)
    return encoder(ids, output_attentions=True).attentions[layer].mean(dim=0)


@pytest.mark.parametrize(
    ("layers", "windows", "layer"),
    [(1, {}, 0), (2, {}, 0), (3, {}, 1), (4, {}, 2), (12, {}, 6), (22, {"local_window": 16, "global_every": 3}, 9)],
)
def test_neighbors_are_looked_at_in_the_middle_below_a_layer_that_copies(layers, windows, layer) -> None:
    config = EncoderConfig(**SHAPE | {"num_layers": layers} | windows)
    assert layer_of_neighbors(config) == layer
    assert not config.is_local(layer)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_two_heads_of_a_layer_look_before_and_behind(shape) -> None:
    encoder = structured(**shape)
    weights = attention_to_neighbors(encoder)
    groups = encoder.config.num_heads // encoder.config.kv_heads
    for head, offset in ((0, -1), (groups, 1)):
        by_offset = {d: torch.diagonal(weights[head], d).mean().item() for d in range(-7, 8)}
        assert max(by_offset, key=by_offset.__getitem__) == offset, by_offset
        assert by_offset[offset] > 0.25  # a head of the others gives a 64th
    others = [head for head in range(len(weights)) if head not in (0, groups)]
    assert weights[others].max() < 0.25


def test_heads_turn_by_the_rotary_base_that_training_begins_with() -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(**SHAPE, rope_theta=160_000.0))
    structure_attention(encoder, rope_theta=1_000.0)
    for one, other in zip(encoder.parameters(), structured(**SHAPE, rope_theta=1_000.0).parameters()):
        assert torch.equal(one, other)


def test_a_fresh_encoder_looks_at_no_neighbors() -> None:  # what the test above would say of random weights
    torch.manual_seed(0)
    weights = attention_to_neighbors(Encoder(EncoderConfig(**SHAPE)).eval())
    assert torch.diagonal(weights, -1, 1, 2).mean(dim=1).max() < 0.05


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_like_looks_at_like_above_that_layer_and_values_come_out_as_they_went_in(shape) -> None:
    encoder = structured(**shape)
    for layer, block in enumerate(encoder.layers):
        attention = block.attention
        size, heads, kv_heads = attention.head_size, attention.num_heads, attention.kv_heads
        q, k, v = attention.qkv.weight.split([heads * size, kv_heads * size, kv_heads * size])
        groups = heads // kv_heads
        if layer > layer_of_neighbors(encoder.config):
            assert torch.equal(k, q.unflatten(0, (heads, size))[::groups].flatten(0, 1))
        through = attention.out.weight @ v.unflatten(0, (kv_heads, size)).repeat_interleave(groups, 0).flatten(0, 1)
        assert torch.linalg.eigvalsh(through).min() > -1e-6  # symmetric and positive: nothing is turned around
        assert torch.allclose(through, through.T, atol=1e-6)


def test_it_follows_from_the_seed_of_pytorch() -> None:
    one, same, other = structured(0, **SHAPE), structured(0, **SHAPE), structured(1, **SHAPE)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(one.embeddings.tokens.weight, other.embeddings.tokens.weight)


def test_weights_keep_their_size() -> None:
    torch.manual_seed(0)
    fresh, encoder = Encoder(EncoderConfig(**SHAPE)), structured(**SHAPE)
    for (name, before), after in zip(fresh.named_parameters(), encoder.parameters(), strict=True):
        if before.ndim == 2:
            assert 0.9 < (after.std() / before.std()).item() < 1.5, name


def test_positions_without_offsets_are_refused() -> None:
    with pytest.raises(InputError, match=r"for rotary positions and encoder\.positions is learned"):
        structured(**SHAPE, positions="learned")


COUNTS = (1e6 / torch.arange(1, SHAPE["vocab_size"] + 1)).long()  # Zipf's law


def masked_lm(tokens_counted: bool, head: HeadConfig | None = None, **shape) -> MaskedLM:
    torch.manual_seed(0)
    model = MaskedLM(EncoderConfig(**SHAPE | shape), head).eval()
    if tokens_counted:
        structure(model, COUNTS)
    return model


def test_the_first_loss_is_the_entropy_of_the_tokens() -> None:
    shares = COUNTS / COUNTS.sum()
    entropy = -(shares * shares.log()).sum().item()
    words = torch.multinomial(shares, 8 * 512, replacement=True).view(8, 512)
    hidden, labels = torch.full_like(words, 4), words
    with torch.no_grad():
        uniform, counted = (masked_lm(counted)(hidden, labels=labels).loss.item() for counted in (False, True))
    assert uniform == pytest.approx(torch.tensor(SHAPE["vocab_size"]).log().item(), abs=0.1)
    assert counted == pytest.approx(entropy, abs=0.15)
    assert uniform > entropy + 0.5  # else the line above says nothing


def test_tokens_that_never_come_are_the_least_likely() -> None:
    counts = torch.tensor([0, 7, 0, *[2] * (SHAPE["vocab_size"] - 3)])
    model = masked_lm(False)
    structure(model, counts)
    chances = model.head.bias.softmax(dim=0)
    assert torch.allclose(chances, (counts + 1) / (counts + 1).sum(), rtol=1e-5)


def test_other_positions_begin_with_the_tokens_alone() -> None:
    fresh, model = (masked_lm(counted, positions="learned") for counted in (False, True))
    assert not torch.equal(fresh.head.bias, model.head.bias)
    for (name, before), after in zip(fresh.encoder.named_parameters(), model.encoder.parameters(), strict=True):
        assert torch.equal(before, after), name


def test_a_head_without_output_bias_has_attention_alone() -> None:
    model = masked_lm(True, HeadConfig(output_bias=False))
    assert model.head.bias is None
    assert torch.equal(model.encoder.layers[1].attention.out.weight, structured(**SHAPE).layers[1].attention.out.weight)


def test_hidden_words_that_stand_elsewhere_in_the_text_are_found_sooner() -> None:
    """Rows of random words, said twice: the one way to guess a hidden word is to copy it from the other time."""

    def loss_after(steps: int, structure: bool) -> float:
        torch.manual_seed(1)
        model = MaskedLM(EncoderConfig(**SHAPE | {"vocab_size": 64, "num_layers": 2, "hidden_size": 64}))
        if structure:
            structure_attention(model.encoder)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for _ in range(steps):
            words = torch.randint(5, 64, (32, 12)).repeat(1, 2)
            hidden = torch.rand(words.shape) < 0.15
            labels = torch.where(hidden, words, -100)
            loss = model(torch.where(hidden, 4, words), labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    random, structured = loss_after(150, structure=False), loss_after(150, structure=True)
    assert structured < 0.8 * random
