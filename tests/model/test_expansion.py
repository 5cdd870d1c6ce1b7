"""A model made larger: where the old function can be kept it is, and its copies learn apart."""

import dataclasses

import pytest
import torch

from bert.errors import InputError
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.expansion import expand, larger, repeat_layers
from bert.model.heads import MaskedLM

SMALL = {
    "vocab_size": 97,
    "hidden_size": 16,
    "num_layers": 3,
    "num_heads": 2,
    "intermediate_size": 24,
    "max_length": 32,
}
POST_NORM = {
    "norm_first": False,
    "final_norm": False,
    "norm_bias": True,
    "bias": True,
    "gated": False,
}
SHAPES = {
    "modernbert": ({}, {}),
    "bert": ({**POST_NORM, "positions": "learned", "token_types": 2}, {"transform_bias": True}),
    "local": ({"local_window": 4, "global_every": 3, "num_layers": 4}, {}),
    "own type": ({"norm": "rmsnorm", "num_heads": 4, "num_kv_heads": 2, "qk_norm": True}, {"tied": False}),
    "no transform": (
        {"embedding_norm": False, "first_attention_norm": True},
        {"transform": False, "output_bias": False},
    ),
    "electra": ({**POST_NORM, "positions": "learned", "token_types": 2, "embedding_size": 8}, {"transform_bias": True}),
    "narrow embeddings": ({"embedding_size": 12}, {"tied": False}),
    "embeddings of the same width": ({"embedding_size": 16}, {}),
    "post-norm, no transform": ({**POST_NORM, "embedding_scale": True, "positions": "none"}, {"transform": False}),
}
NARROW = ("electra", "narrow embeddings")
"""shapes with embeddings of a width of their own, which cannot be made wider"""
WIDENED = [name for name in SHAPES if name not in NARROW]
IDS = torch.randint(5, 97, (3, 11), generator=torch.Generator().manual_seed(1))


def make_model(shape):
    """Weights of a size that makes every part count."""
    encoder, head = SHAPES[shape]
    torch.manual_seed(0)
    model = MaskedLM(EncoderConfig(**{**SMALL, "initializer_range": 0.3, **encoder}), HeadConfig(**head)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 1, 0.2)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS, document_ids=torch.tensor([1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0]).expand(3, 11)).logits[:, :9]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_size_is_the_same_model_bit_for_bit(shape):
    model = make_model(shape)
    copy = expand(model, larger(model.config))
    assert copy.config == model.config
    for name, tensor in copy.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize("shape", WIDENED)
@pytest.mark.parametrize(
    "sizes",
    [{"hidden_size": 32}, {"hidden_size": 48, "intermediate_size": 50}, {"intermediate_size": 31}],
    ids=["width 2", "width 3", "inside"],
)
def test_a_multiple_of_the_width_and_any_width_inside_compute_the_old_function(shape, sizes):
    model = make_model(shape)
    expanded = expand(model, larger(model.config, **sizes))
    for name, size in sizes.items():
        assert getattr(expanded.config, name) == size
    assert expanded.config.head_size == model.config.head_size
    assert torch.allclose(logits(expanded), logits(model), atol=2e-5)


@pytest.mark.parametrize("shape", [name for name in WIDENED if SHAPES[name][0].get("norm_first", True)])
@pytest.mark.parametrize("layers", [5, 6, 9])
def test_a_deeper_pre_norm_model_computes_the_old_function(shape, layers):
    model = make_model(shape)
    expanded = expand(model, larger(model.config, num_layers=layers, hidden_size=32))
    assert torch.allclose(logits(expanded), logits(model), atol=2e-5)


@pytest.mark.parametrize("shape", ["bert", "post-norm, no transform"])
def test_a_deeper_post_norm_model_stays_near_the_old_function(shape):
    """Its added norms cannot be the identity; against layers that are simply repeated it is near."""
    model = make_model(shape)
    expanded = expand(model, larger(model.config, num_layers=6))
    again = expand(model, larger(model.config, num_layers=6))
    for layer, (copied, _) in enumerate(repeat_layers(model.config, again.config)):
        again.encoder.layers[layer].load_state_dict(model.encoder.layers[copied].state_dict())
    near, far = ((logits(other) - logits(model)).square().mean().sqrt() for other in (expanded, again))
    assert near < 0.5 * far


@pytest.mark.parametrize("shape", NARROW)
def test_a_model_with_narrow_embeddings_expands_in_depth_and_inside(shape):
    model = make_model(shape)
    inside = expand(model, larger(model.config, intermediate_size=31))
    assert torch.allclose(logits(inside), logits(model), atol=2e-5)
    deeper = expand(model, larger(model.config, num_layers=6, intermediate_size=31))
    distance = (logits(deeper) - logits(model)).square().mean().sqrt() / logits(model).std()
    assert distance < (1e-5 if model.config.norm_first else 0.7)  # post-norm comes near, as above
    with pytest.raises(InputError, match="cannot be made wider"):
        larger(model.config, hidden_size=32)


def test_a_model_without_a_norm_before_a_tied_output_matrix_is_not_made_wider():
    """Its logits would double."""
    model = MaskedLM(EncoderConfig(**SMALL, final_norm=False), HeadConfig(transform=False))
    with pytest.raises(InputError, match="with no norm before it cannot grow"):
        expand(model, larger(model.config, hidden_size=32))
    assert expand(model, larger(model.config, num_layers=4)).config.num_layers == 4


@pytest.mark.parametrize("shape", WIDENED)
def test_copies_get_gradients_of_their_own(shape):
    """Copies that are written and read alike would stay copies for ever."""
    model = make_model(shape)
    expanded = expand(
        model, larger(model.config, num_layers=model.config.num_layers + 1, hidden_size=32, intermediate_size=48)
    )
    assert all(parameter.requires_grad for parameter in expanded.parameters())
    expanded(IDS, labels=IDS).loss.backward()
    first = expanded.encoder.layers[0]
    for weight, half in ((first.mlp.wo.weight, 16), (first.attention.out.weight, 16)):
        one, other = weight.grad[:half], weight.grad[half:]
        assert float((one - other).norm()) > 0.01 * float(one.norm())
    silent = next(i for i, (_, repeated) in enumerate(repeat_layers(model.config, expanded.config)) if repeated)
    assert not expanded.encoder.layers[silent].mlp.wo.weight.any()
    assert float(expanded.encoder.layers[silent].mlp.wo.weight.grad.norm()) > 0


def test_the_seed_decides_the_shares():
    model = make_model("bert")
    shape = larger(model.config, hidden_size=32)
    one, same, other = (expand(model, shape, seed).state_dict() for seed in (3, 3, 4))
    name = "encoder.layers.1.mlp.wi.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


@pytest.mark.parametrize("layers", range(4, 30))
@pytest.mark.parametrize("every", [1, 2, 3])
def test_layers_come_in_their_order_each_in_a_place_of_its_kind(layers, every):
    window = None if every == 1 else 4
    old = EncoderConfig(num_layers=4, local_window=window, global_every=every)
    new = dataclasses.replace(old, num_layers=layers)
    plan = repeat_layers(old, new)
    placed = [(place, layer) for place, (layer, repeated) in enumerate(plan) if not repeated]
    assert [layer for _, layer in placed] == [0, 1, 2, 3]
    assert all(old.is_local(layer) == new.is_local(place) for place, layer in placed)
    if every == 1:
        assert [layer for layer, _ in plan] == [place * 4 // layers for place in range(layers)]


def test_sizes_that_cannot_be():
    config = EncoderConfig(**SMALL)
    for sizes, message in (
        ({"num_layers": 2}, "expand.num_layers is 2 and the model has 3: give as many or more"),
        ({"hidden_size": 20}, "give a multiple of 8, the size of a head, as 24"),
    ):
        with pytest.raises(InputError, match=message):
            larger(config, **sizes)
    grouped = EncoderConfig(**{**SMALL, "num_heads": 4, "num_kv_heads": 2})
    with pytest.raises(InputError, match="give a multiple of 8, the size of a group of heads"):
        larger(grouped, hidden_size=20)
    assert larger(grouped, hidden_size=24).num_kv_heads == 3
