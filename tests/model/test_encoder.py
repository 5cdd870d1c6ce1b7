"""The encoder as a whole: its call, its parts in every point of the config space, how weights begin."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bert.errors import InputError
from bert.model import layers
from bert.model.attention import AttentionOptions, Layout
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder, count_parameters, restarting_positions
from bert.model.layers import MLP, activate, rotate, rotations, sinusoids

from .test_attention import masks_made

SMALL = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=48, max_length=40)
POST = {"norm_first": False, "final_norm": False}
SHAPES = {
    "original": {**POST, "positions": "sinusoidal", "embedding_norm": False, "embedding_scale": True}
    | {"activation": "relu", "gated": False, "bias": True, "norm_bias": True},
    "bert": {**POST, "positions": "learned", "gated": False, "bias": True, "norm_bias": True, "token_types": 2},
    "modern": {"local_window": 6, "global_every": 2},
    "local-last": {"local_window": 4, "global_every": 3, "bias": True},
    "rms": {"norm": "rmsnorm", "activation": "silu", "qk_norm": True, "num_kv_heads": 2, "first_attention_norm": True},
    "none": {"positions": "none", "activation": "gelu_tanh"},
}


def make(name: str, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    encoder = Encoder(replace(SMALL, **SHAPES[name]))
    for parameter_name, parameter in encoder.named_parameters():
        scale = "norm" in parameter_name and parameter_name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=1.0 if scale else 0.0, std=0.25)
    return encoder.eval()


def some_ids(rows: int = 2, length: int = 20) -> torch.Tensor:
    return torch.randint(0, 60, (rows, length), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", SHAPES)
def test_the_result_has_its_shapes_and_is_finite_forward_and_backward(name: str) -> None:
    encoder = make(name).train()
    output = encoder(some_ids(), output_hidden_states=True, output_attentions=True)
    assert output.last_hidden_state.shape == (2, 20, 32)
    assert [h.shape for h in output.hidden_states] == [(2, 20, 32)] * 4
    assert [a.shape for a in output.attentions] == [(2, 4, 20, 20)] * 3
    output.last_hidden_state.square().sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", SHAPES)
def test_hidden_states_go_from_the_embeddings_to_the_last(name: str) -> None:
    encoder = make(name)
    output = encoder(some_ids(), output_hidden_states=True)
    positions = torch.arange(20)[None]
    assert torch.equal(output.hidden_states[0], encoder.embeddings(some_ids(), None, positions))
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert encoder(some_ids()).hidden_states is None


@pytest.mark.parametrize("name", SHAPES)
def test_backends_agree_on_the_whole_encoder_and_its_gradients(name: str) -> None:
    documents = torch.tensor([[1] * 7 + [2] * 10 + [0] * 3, [1] * 20])
    results = []
    for backend in ("eager", "sdpa"):
        encoder = make(name)
        encoder.attention = AttentionOptions(backend)
        out = encoder(some_ids(), document_ids=documents).last_hidden_state[documents > 0]
        out.square().mean().backward()
        results.append([out.detach(), *(parameter.grad for parameter in encoder.parameters())])
    for ours, reference in zip(*results):
        assert torch.allclose(ours, reference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_padding_changes_nothing_for_the_tokens(name: str) -> None:
    encoder = make(name)
    ids = some_ids()
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, 13:] = 0
    padded = encoder(ids, mask).last_hidden_state
    assert torch.allclose(padded[1, :13], encoder(ids[1:, :13]).last_hidden_state[0], atol=1e-5)
    assert torch.allclose(padded[0], encoder(ids[:1]).last_hidden_state[0], atol=1e-5)
    assert torch.allclose(padded[mask > 0], encoder(ids, mask.bool()).last_hidden_state[mask > 0])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("name", SHAPES)
def test_targets_get_the_vectors_that_they_have_among_all_positions_and_the_same_gradients(
    name: str, backend: str, packed: bool
) -> None:
    documents = torch.ones(2, 20, dtype=torch.long)
    documents[1, 13:] = 0
    if packed:
        documents[:, 5:13] = 2
    given = {"document_ids" if packed else "attention_mask": documents}
    masked_positions = torch.tensor([[3, 19, 0, 5, 3], [12, 0, 0, 7, 6]])
    results = []
    for trimmed in (True, False):
        encoder = make(name)
        encoder.attention = AttentionOptions(backend)
        if trimmed:
            vectors = encoder(some_ids(), **given, masked_positions=masked_positions).last_hidden_state
        else:
            vectors = encoder(some_ids(), **given).last_hidden_state
            vectors = vectors.gather(1, masked_positions[..., None].expand(-1, -1, vectors.shape[2]))
        vectors.square().sum().backward()
        results.append([vectors.detach(), *(parameter.grad for parameter in encoder.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_targets_are_right_where_an_adapter_stands_in_the_place_of_the_projection() -> None:
    class Doubled(torch.nn.Module):
        """What LoRA does to a layer: the weight that it has is not all that it computes with."""

        def __init__(self, layer: torch.nn.Linear) -> None:
            super().__init__()
            self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.layer(x)

    encoder = make("bert")
    encoder.layers[-1].attention.qkv = Doubled(encoder.layers[-1].attention.qkv)
    masked_positions = torch.tensor([[3, 19], [0, 7]])
    all_vectors = encoder(some_ids()).last_hidden_state
    vectors = encoder(some_ids(), masked_positions=masked_positions).last_hidden_state
    expected = torch.stack([all_vectors[0, [3, 19]], all_vectors[1, [0, 7]]])
    torch.testing.assert_close(vectors, expected)


def test_targets_and_all_hidden_states_are_not_asked_for_at_once() -> None:
    with pytest.raises(InputError, match="masked_positions and output_hidden_states cannot be combined"):
        make("modern")(some_ids(), masked_positions=torch.tensor([[1], [1]]), output_hidden_states=True)


def test_attentions_are_those_that_made_the_result() -> None:
    """The weights of the only layer, applied by hand to its values, give the attention's output."""
    encoder = Encoder(replace(SMALL, num_layers=1, positions="none")).eval()
    output = encoder(some_ids(), output_hidden_states=True, output_attentions=True)
    x, layer = output.hidden_states[0], encoder.layers[0]
    values = (x @ layer.attention.qkv.weight[64:].T).unflatten(-1, (4, 8)).transpose(1, 2)
    x = x + (output.attentions[0] @ values).transpose(1, 2).flatten(-2) @ layer.attention.out.weight.T
    x = x + layer.mlp(layer.mlp_norm(x))
    assert torch.allclose(encoder.final_norm(x), output.last_hidden_state, atol=1e-6)


def test_local_layers_see_their_window_and_global_layers_everything() -> None:
    attentions = make("modern")(some_ids(), output_attentions=True).attentions
    near = (torch.arange(20)[:, None] - torch.arange(20)).abs() <= 3
    for layer, weights in enumerate(attentions):
        seen = weights[0, 0] > 0
        assert torch.equal(seen, near if layer == 1 else torch.ones_like(near))


def test_masks_are_made_once_a_batch_for_each_kind_of_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    made = masks_made(monkeypatch)
    encoder = Encoder(replace(SMALL, num_layers=8, local_window=6, global_every=2))
    encoder(some_ids(), document_ids=torch.ones(2, 20, dtype=torch.long))
    assert sorted((layout.window for layout in made), key=str) == [6, None]


def test_positions_begin_again_in_each_document() -> None:
    documents = torch.tensor([[1, 1, 1, 2, 3, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
    assert restarting_positions(documents)[:, :6].tolist() == [[0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5]]
    assert restarting_positions(documents)[1].tolist() == list(range(8))


def test_token_types_are_added_and_default_to_zero() -> None:
    encoder = make("bert")
    ids, types = some_ids(), torch.zeros(2, 20, dtype=torch.long)
    plain = encoder(ids).last_hidden_state
    assert torch.allclose(plain, encoder(ids, token_type_ids=types).last_hidden_state, atol=1e-5)
    types[:, 10:] = 1
    assert not torch.allclose(plain, encoder(ids, token_type_ids=types).last_hidden_state, atol=0.01)


def test_the_original_scales_its_embeddings_and_adds_sines() -> None:
    encoder = make("original")
    first = encoder(some_ids(), output_hidden_states=True).hidden_states[0]
    assert torch.allclose(
        first, encoder.embeddings.tokens(some_ids()) * math.sqrt(32) + sinusoids(torch.arange(20), 32), atol=1e-5
    )
    assert torch.allclose(sinusoids(torch.arange(20), 32)[:, 0], torch.arange(20.0).sin(), atol=1e-5)
    assert torch.allclose(
        sinusoids(torch.arange(20), 32)[:, 3], (torch.arange(20) / 10_000 ** (2 / 32)).cos(), atol=1e-5
    )


def test_normalised_queries_and_keys_make_the_size_of_their_projections_irrelevant() -> None:
    encoder = make("rms")
    before = encoder(some_ids()).last_hidden_state
    for layer in encoder.layers:
        layer.attention.qkv.weight.data[: 32 + 16] *= 10  # 4 heads of queries, 2 of keys; values stay
    assert torch.allclose(encoder(some_ids()).last_hidden_state, before, atol=1e-3)
    encoder.layers[0].attention.qkv.weight.data[32 + 16 :] *= 10
    assert not torch.allclose(encoder(some_ids()).last_hidden_state, before, atol=0.1)


def test_the_first_attention_norm_is_left_out_where_the_embeddings_are_normalised_already() -> None:
    for first in (False, True):
        x = torch.randn(2, 5, 32) * 10 + 3
        block = Encoder(replace(SMALL, first_attention_norm=first)).layers[0]
        normed = block.attention_norm(x)
        assert torch.equal(normed, x) != first
        assert torch.allclose(normed.mean(-1), torch.zeros(2, 5), atol=1e-5) == first


def test_rotary_scores_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(16), torch.randn(16)
    everywhere = rotations(torch.arange(50)[None], 16, 10_000.0, torch.float32)
    qs, ks = (rotate(x.expand(1, 50, 1, 16), everywhere)[0, :, 0] for x in (q, k))
    scores = qs @ ks.T
    for distance in (-20, -1, 0, 3, 30):
        along = scores.diagonal(distance)
        assert torch.allclose(along, along[:1].expand_as(along), atol=1e-4)
    assert torch.allclose(qs.norm(dim=-1), q.norm().expand(50), atol=1e-5)


def test_a_gate_multiplies_what_went_through_the_activation() -> None:
    mlp = MLP(replace(SMALL, activation="silu"))
    x = torch.randn(2, 3, 32)
    active, gate = x @ mlp.wi.weight[:48].T, x @ mlp.wi.weight[48:].T
    assert torch.allclose(mlp(x), (F.silu(active) * gate) @ mlp.wo.weight.T, atol=1e-7)


def test_dropout_stands_between_the_two_matrices_too() -> None:
    mlp = MLP(replace(SMALL, mlp_dropout=0.5))
    mlp.wo.weight.data = torch.eye(32, 48)
    dropped = mlp(torch.randn(50, 32)) == 0
    assert 0.4 < float(dropped.float().mean()) < 0.6


def test_activations_are_themselves() -> None:
    x = torch.linspace(-3, 3, 50)
    normal = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    assert torch.allclose(activate(x, "gelu"), x * normal, atol=1e-6)
    assert torch.allclose(activate(x, "gelu_tanh"), x * normal, atol=1e-3)
    assert torch.equal(activate(x, "relu"), x.clamp(min=0))
    assert torch.allclose(activate(x, "silu"), x * torch.sigmoid(x))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("modern", {"attention_mask": 1, "document_ids": 1}, "give one of them"),
        ("modern", {"token_type_ids": 0}, "token_type_ids given and encoder.token_types is 0"),
    ],
)
def test_arguments_that_cannot_go_together_are_refused(name: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(name)(some_ids(), **{key: torch.full((2, 20), value) for key, value in arguments.items()})


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ((20,), None, r"input_ids is \(20,\): give \(sequences, tokens\), one as ids\[None\]"),
        ((2, 20), (2, 19), r"attention_mask is \(2, 19\) and input_ids is \(2, 20\): give one number per token"),
    ],
)
def test_ids_and_masks_of_other_shapes_are_refused(ids: tuple[int, ...], mask: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("modern")(torch.ones(ids, dtype=torch.long), None if mask is None else torch.ones(mask))


def test_weights_begin_as_truncated_normals_and_output_matrices_smaller_with_depth_in_pre_norm() -> None:
    wide = replace(SMALL, hidden_size=256, num_layers=8, bias=True, norm_bias=True)
    for config, divisor in ((wide, 4.0), (replace(wide, **POST), 1.0)):
        encoder = Encoder(config)
        cut = 0.8796  # what is left of a normal's deviation when it is cut at two of them
        for name, parameter in encoder.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0).all(), name
            elif "norm" in name:
                assert (parameter == 1).all(), name
            else:
                std = 0.02 / divisor if name.endswith(("out.weight", "wo.weight")) else 0.02
                assert float(parameter.detach().std()) == pytest.approx(std * cut, rel=0.05), name
                assert float(parameter.detach().abs().max()) <= 2 * std + 1e-6, name


def test_the_tokenizer_is_no_part_of_the_state() -> None:
    encoder = make("modern")
    assert encoder.tokenizer is None
    encoder.tokenizer = "a tokenizer"  # type: ignore[assignment]
    assert not any("tokenizer" in name for name in encoder.state_dict())
    encoder(some_ids())


def test_parameters_are_counted_by_hand() -> None:
    config = EncoderConfig(vocab_size=100, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24)
    block = 3 * 16 * 16 + 16 * 16 + 16 + 2 * 16 * 24 + 24 * 16  # qkv, out, MLP norm, wi with its gate, wo
    assert count_parameters(Encoder(config)) == 100 * 16 + 16 + 2 * block + 16 + 16  # and layer 1's attention norm


@pytest.mark.parametrize("name", SHAPES)
def test_bf16_autocast_is_near_fp32(name: str) -> None:
    encoder, ids = make(name), some_ids()
    documents = torch.ones_like(ids)
    exact = encoder(ids, document_ids=documents).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(ids, document_ids=documents).last_hidden_state
    assert F.cosine_similarity(exact.flatten(), rough.float().flatten(), dim=0) > 0.999


@pytest.mark.parametrize("name", SHAPES)
def test_the_residual_path_is_bf16_under_autocast_and_fp32_without(name: str) -> None:
    encoder = make(name)
    for autocast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            states = encoder(some_ids(), output_hidden_states=True).hidden_states
        assert states is not None
        assert {state.dtype for state in states[:-1]} == {expected}


def test_layers_with_a_window_may_have_a_backend_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[bool, str]] = []
    original = layers.attend

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, **rest: str) -> torch.Tensor:
        taken.append((layout.window is not None, rest["backend"]))
        return original(q, k, v, layout, **rest)

    monkeypatch.setattr(layers, "attend", attend)
    encoder = make("modern")  # layer 1 of 3 has a window
    encoder.attention = AttentionOptions("eager")
    encoder(some_ids())
    encoder.attention = AttentionOptions("eager", local_backend="sdpa")
    encoder(some_ids())
    assert taken == [(False, "eager"), (True, "eager"), (False, "eager")] + [
        (False, "eager"), (True, "sdpa"), (False, "eager")
    ]  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("autocast", [False, True])
def test_the_forward_is_one_graph_for_dynamo(name: str, autocast: bool) -> None:
    encoder, ids = make(name), some_ids()
    documents = torch.tensor([[1] * 12 + [2] * 5 + [0] * 3] * 2)
    torch._dynamo.reset()  # each shape is a recompilation of the same function
    graph = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = graph(ids, document_ids=documents).last_hidden_state
        assert torch.allclose(ours, encoder(ids, document_ids=documents).last_hidden_state, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "modern"])
def test_the_compiled_encoder_gives_the_same(name: str) -> None:
    documents = torch.tensor([[1] * 12 + [2] * 5 + [0] * 3] * 2)
    results = []
    for compiled in (False, True):
        encoder = make(name)
        call = torch.compile(encoder, fullgraph=True) if compiled else encoder
        out = call(some_ids(), document_ids=documents).last_hidden_state
        out.square().mean().backward()
        results.append([out.detach(), *(parameter.grad for parameter in encoder.parameters())])
    for ours, reference in zip(*results):
        assert torch.allclose(ours, reference, atol=1e-4)
