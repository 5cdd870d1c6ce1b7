"""What the descriptions of the Transformer claim (Vaswani et al. 2017; Devlin et al. 2018), each checked on this
code."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bert.errors import InputError
from bert.model.attention import AttentionOptions, Layout, attend_eager
from bert.model.backends import attend
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM
from bert.model.layers import Attention, Shared, make_norm, sinusoids

TINY = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, max_length=40)


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that attention and context matter, unlike those at the start of training."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm.weight" in name else 0.0, std=0.3)
    return model.eval()


def test_attention_rows_sum_to_one_over_the_allowed_keys_and_a_masked_key_gets_exactly_zero() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 8, 4) for _ in range(3))
    documents = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 0, 0]])
    allowed = (documents[:, :, None] == documents[:, None, :]) & (documents != 0)[:, None, :]
    _, weights = attend_eager(q, k, v, Layout(documents, documents))
    allowed = allowed[:, None].expand_as(weights)
    assert (weights[~allowed] == 0).all()
    assert (weights[allowed] > 0).all()
    real = (documents != 0)[:, None].expand(2, 3, 8)
    assert torch.allclose(weights.sum(-1)[real], torch.ones(int(real.sum())), atol=1e-6)


def test_dividing_by_the_root_of_the_head_size_brings_the_variance_of_scores_back_to_one() -> None:
    """The scores are read back from the weights: their logarithms, up to a constant of each row."""
    for size in (16, 64, 256):
        torch.manual_seed(size)
        q, k = torch.randn(4, 4, 64, size), torch.randn(4, 4, 64, size)
        scaled = attend_eager(q, k, k, Layout())[1].log().var(dim=-1).mean()
        raw = attend_eager(q / 4, k, k, Layout(), scale=1.0)[1].log().var(dim=-1).mean() * 16
        assert float(scaled) == pytest.approx(1.0, abs=0.1)
        assert float(raw) == pytest.approx(size, rel=0.1)


def test_splitting_into_heads_and_concatenating_loses_nothing() -> None:
    """A token that sees itself alone gets its own value: with the identity as output matrix, V comes back feature for
    feature."""
    attention = Attention(TINY)
    attention.out.weight.data = torch.eye(32)
    x = torch.randn(2, 5, 32)
    alone = torch.arange(1, 6)[None].expand(2, -1)
    mixed, _ = attention(x, Shared(Layout(alone, alone), None), "sdpa")
    values = x @ attention.qkv.weight[2 * 32 :].T
    assert torch.allclose(mixed, values, atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_heads_together_equal_as_many_separate_attentions(backend: str) -> None:
    attention = lively(Attention(TINY))
    x = torch.randn(2, 7, 32)
    together, _ = attention(x, Shared(Layout(), None), backend)
    queries, keys, values = attention.qkv.weight.split(32)
    outputs = []
    for rows in torch.arange(32).split(8):  # the features of one head
        q, k, v = (x @ matrix[rows].T for matrix in (queries, keys, values))  # (B, T, Dh), no axis of heads
        outputs.append((q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v)
    assert torch.allclose(together, torch.cat(outputs, dim=-1) @ attention.out.weight.T, atol=1e-5)


def test_layernorm_standardises_each_token_over_its_own_features() -> None:
    norm = make_norm(TINY)
    x = torch.randn(2, 5, 32) * 7 + 3
    normed = norm(x)
    assert torch.allclose(normed.mean(-1), torch.zeros(2, 5), atol=1e-5)
    assert torch.allclose(normed.var(-1, correction=0), torch.ones(2, 5), atol=1e-4)
    x[0, 0] += torch.randn(32)  # another token's features change nothing here
    assert torch.equal(norm(x)[0, 1:], normed[0, 1:])


def test_sinusoidal_positions_exist_for_any_length() -> None:
    assert torch.isfinite(sinusoids(torch.arange(20_000), 16)).all()
    assert torch.equal(sinusoids(torch.arange(20_000), 16)[:50], sinusoids(torch.arange(50), 16))
    encoder = Encoder(replace(TINY, positions="sinusoidal")).eval()
    longer = torch.randint(0, 60, (1, 3 * TINY.max_length))
    assert torch.isfinite(encoder(longer).last_hidden_state).all()


def test_sinusoidal_dot_products_depend_on_distance_alone_and_fall_at_short_range() -> None:
    table = sinusoids(torch.arange(200), 128).double()
    products = table @ table.T
    by_distance = [products.diagonal(distance) for distance in range(150)]
    assert all(float(along.max() - along.min()) < 1e-3 for along in by_distance)
    of_distance = torch.stack([along.mean() for along in by_distance])
    assert float(of_distance[0]) == pytest.approx(64.0)  # sin² + cos² in each of 64 pairs
    assert (of_distance[1:] < of_distance[0]).all()
    assert (of_distance[:8].diff() < 0).all()


def test_learned_positions_refuse_a_longer_input() -> None:
    encoder = Encoder(replace(TINY, positions="learned"))
    encoder(torch.zeros(1, 40, dtype=torch.long))
    with pytest.raises(InputError, match=r"a sequence of 41 tokens is longer than the 40 learned positions.*truncate"):
        encoder(torch.zeros(1, 41, dtype=torch.long))


def test_the_output_matrix_is_the_embedding_matrix() -> None:
    model = lively(MaskedLM(TINY))
    ids = torch.randint(0, 60, (2, 9))
    embedding = model.encoder.embeddings.tokens.weight
    assert model.output_matrix is embedding
    assert sum(p.shape == (60, 32) for p in model.parameters()) == 1
    hidden = model.encoder(ids).last_hidden_state
    transformed = model.head.norm(torch.nn.functional.gelu(model.head.dense(hidden)))
    assert torch.allclose(model(ids).logits, transformed @ embedding.T + model.head.bias, atol=1e-4)


def test_a_words_vector_differs_between_two_contexts() -> None:
    encoder = lively(Encoder(TINY))
    pie, phone = torch.tensor([[2, 7, 30, 8, 3]]), torch.tensor([[2, 7, 31, 9, 3]])  # word 7 at the same place in both
    outputs = [encoder(ids, output_hidden_states=True) for ids in (pie, phone)]
    before, after = ([o.hidden_states[layer][0, 1] for o in outputs] for layer in (0, -1))
    assert torch.equal(*before)
    assert torch.nn.functional.cosine_similarity(*after, dim=0) < 0.99
    alone = torch.tensor([[1, 2, 3, 3, 3]])  # where the word sees itself alone, the contexts make no difference
    assert torch.equal(*(encoder(ids, document_ids=alone).last_hidden_state[0, 1] for ids in (pie, phone)))


def test_without_positions_the_encoder_is_permutation_equivariant() -> None:
    ids, order = torch.arange(12)[None], torch.randperm(12, generator=torch.Generator().manual_seed(3))
    for positions in ("none", "learned", "sinusoidal", "rope"):
        encoder = lively(Encoder(replace(TINY, positions=positions)))
        straight, shuffled = encoder(ids).last_hidden_state[:, order], encoder(ids[:, order]).last_hidden_state
        assert torch.allclose(straight, shuffled, atol=1e-4) == (positions == "none")


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("positions", ["none", "learned", "sinusoidal", "rope"])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_packed_row_gives_each_chunk_the_vectors_that_it_has_alone(
    positions: str, window: int | None, backend: str
) -> None:
    shape = {"local_window": window, "global_every": 2} if window else {}
    encoder = lively(Encoder(replace(TINY, positions=positions, **shape)))
    encoder.attention = AttentionOptions(backend)
    chunks = [torch.randint(0, 60, (length,)) for length in (9, 4, 14, 1)]
    packed = torch.cat([*chunks, torch.zeros(5, dtype=torch.long)])[None]
    numbers = torch.tensor([n for n, chunk in enumerate(chunks, 1) for _ in chunk] + [0] * 5)[None]
    together = encoder(packed, document_ids=numbers).last_hidden_state[0]
    for number, chunk in enumerate(chunks, 1):
        alone = encoder(chunk[None]).last_hidden_state[0]
        assert torch.allclose(together[numbers[0] == number], alone, atol=1e-5)


def test_the_residual_path_carries_a_gradient_to_layer_0_of_a_48_layer_pre_norm_stack() -> None:
    torch.manual_seed(0)
    encoder = Encoder(replace(TINY, num_layers=48, hidden_size=64))
    encoder(torch.randint(0, 60, (4, 16))).last_hidden_state[:, :, 0].sum().backward()
    norms = [float(layer.mlp.wo.weight.grad.norm()) for layer in encoder.layers]
    assert min(norms) > 0
    assert 0.2 < norms[0] / norms[-1] < 5


def test_the_worked_example_the_cat_sat() -> None:
    """One head, d = 4, in numpy by hand. Queries and keys are the embeddings themselves, values are scaled feature by
    feature."""
    embeddings = np.array(
        [
            [1.0, 0.0, 1.0, 0.0],  # The
            [0.0, 2.0, 0.0, 2.0],  # cat
            [1.0, 1.0, 1.0, 1.0],  # sat
        ]
    )
    w_query, w_key, w_value = np.eye(4), np.eye(4), np.diag([1.0, 2.0, 3.0, 4.0])
    q, k, v = embeddings @ w_query, embeddings @ w_key, embeddings @ w_value
    scores = q @ k.T / np.sqrt(4)
    np.testing.assert_array_equal(scores, [[1, 0, 1], [0, 4, 2], [1, 2, 2]])
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    written_weights = [
        [0.4223, 0.1554, 0.4223],  # e, 1, e over 2e + 1
        [0.0159, 0.8668, 0.1173],  # 1, e⁴, e² over 1 + e⁴ + e²
        [0.1554, 0.4223, 0.4223],  # e, e², e² over e + 2e²
    ]
    np.testing.assert_allclose(weights, written_weights, atol=5e-5)
    np.testing.assert_array_equal(v, [[1, 0, 3, 0], [0, 4, 0, 8], [1, 2, 3, 4]])
    written = [
        [0.8446, 1.4661, 2.5339, 2.9322],
        [0.1332, 3.7019, 0.3996, 7.4037],
        [0.5777, 2.5339, 1.7330, 5.0678],
    ]
    np.testing.assert_allclose(weights @ v, written, atol=5e-5)

    def heads(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.float32)[None, None]

    for backend in ("eager", "sdpa"):
        ours = attend(heads(q), heads(k), heads(v), Layout(), backend=backend)[0, 0]
        np.testing.assert_allclose(ours, written, atol=5.1e-5)
    layer = Attention(EncoderConfig(vocab_size=3, hidden_size=4, num_heads=1))
    layer.qkv.weight.data = torch.tensor(np.concatenate([w_query.T, w_key.T, w_value.T]), dtype=torch.float32)
    layer.out.weight.data = torch.eye(4)
    mixed, seen = layer(heads(embeddings)[0], Shared(Layout(), None), "eager", return_weights=True)
    np.testing.assert_allclose(mixed[0].detach(), written, atol=5.1e-5)
    np.testing.assert_allclose(seen[0, 0].detach(), written_weights, atol=5e-5)
