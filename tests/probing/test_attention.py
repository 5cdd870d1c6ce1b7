"""The attention of a text: whose weights they are, and which head is shown."""

import numpy as np
import pytest
import torch

from bert import attention
from bert.errors import InputError
from bert.probing import attention as module
from bert.probing.attention import Attention
from tests.probing.models import make_masked_lm

MODEL = make_masked_lm()


def test_weights_are_those_of_the_encoder_and_tokens_its_tokens() -> None:
    found = attention("The cat sat", MODEL)
    ids = MODEL.tokenizer.encode("The cat sat")
    assert found.tokens == tuple(MODEL.tokenizer.token(i) for i in ids)
    assert found.weights.shape == (2, 2, len(ids), len(ids))
    np.testing.assert_allclose(found.weights.sum(-1), 1, atol=1e-6)
    expected = MODEL.encoder(torch.tensor([ids]), output_attentions=True).attentions
    np.testing.assert_allclose(found.head(2, 1), expected[1][0, 1].detach().numpy(), atol=1e-6)


def test_unknown_tokens_are_counted_in_a_note(said: list[str]) -> None:
    attention("The щ sat", MODEL)
    tokens = len(MODEL.tokenizer.encode("The щ sat")) - 2
    assert said == [f"1 of {tokens} tokens are unknown to the model ([UNK])"]
    attention("The cat", MODEL)
    assert len(said) == 1


def test_tokens_of_bytes_are_shown_as_written_in_the_text() -> None:
    tokens = attention("The cat 苹果", make_masked_lm("bpe")).tokens
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert "".join(tokens[1:-1]).replace("␣", "").startswith("Thecat")
    assert set("".join(tokens[1:-1])) <= set("The cat苹果␣")


def test_the_telling_head_looks_hardest_at_a_token_that_is_not_beside_it() -> None:
    weights = np.full((2, 3, 6, 6), 1 / 6, dtype=np.float32)
    weights[0, 0] = np.eye(6)  # at itself
    weights[0, 1] = np.eye(6)[[5] * 6]  # at [SEP]
    weights[0, 2] = 0.5 * np.eye(6)[[0, 3, 4, 1, 2, 5]] + 0.5 / 6  # at the next but one, less hard
    weights[1, 0] = np.eye(6)[[0, 2, 3, 4, 5, 5]]  # at the next
    weights[1, 2] = 0.9 * np.eye(6)[[0, 3, 4, 1, 2, 5]] + 0.1 / 6  # at the next but one
    found = Attention(tuple("abcdef"), weights)
    assert found.telling_head() == (2, 2)
    assert found.telling_head(layer=1) == (1, 2)
    assert found.telling_head(head=0)[1] == 0
    assert found.telling_head(1, 1) == (1, 1)
    assert attention("a", MODEL).telling_head() == (1, 0)


def test_equal_tokens_are_numbered_where_they_are_named() -> None:
    found = Attention(("[CLS]", "the", "cat", "the", "[SEP]"), np.full((1, 1, 5, 5), 0.2, np.float32))
    assert found.labels == ("[CLS]", "the (1)", "cat", "the (2)", "[SEP]")
    rows = found.table(1, 0).splitlines()[3:]
    assert [row.split("  ")[0].strip() for row in rows] == list(found.labels)
    assert "the (1) 20%" in rows[3]


def heads(*targets: dict[int, int], size: int) -> np.ndarray:
    """(1, H, T, T): in each head some tokens attend to one other, the rest to the first."""
    weights = np.zeros((1, len(targets), size, size), np.float32)
    for head, of_head in enumerate(targets):
        for token in range(size):
            weights[0, head, token, of_head.get(token, 0)] = 1
    return weights


@pytest.mark.parametrize("mark", [".", "。", "!?", "«", "$", "␣", "##'", "…"])
def test_a_head_that_attends_to_punctuation_or_from_it_tells_less(mark: str) -> None:
    tokens = ("[CLS]", "she", "ate", "an", mark, "apple", "today", mark, "[SEP]")
    at_marks = dict.fromkeys(range(1, 6), 7)
    from_marks = {4: 1, 7: 2}
    between_words = {1: 5}  # one word alone
    found = Attention(tokens, heads(at_marks, from_marks, between_words, size=9))
    assert found.telling_head() == (1, 2)


@pytest.mark.parametrize("word", ["a", "苹", "##s", "[UNK]", "３", "👍", "ส"])
def test_a_word_is_no_punctuation(word: str) -> None:
    tokens = ("[CLS]", word, "b", "c", "[SEP]")
    assert Attention(tokens, heads({}, {3: 1}, size=5)).telling_head() == (1, 1)


def test_a_head_in_which_all_attend_to_one_word_tells_less_than_one_in_which_they_differ() -> None:
    tokens = ("[CLS]", *"abcdef", "[SEP]")
    stripe = dict.fromkeys(range(1, 7), 1)
    differ = {1: 4, 2: 5, 3: 6, 4: 1}
    assert Attention(tokens, heads(stripe, differ, size=8)).telling_head() == (1, 1)


def test_a_text_of_punctuation_alone_has_a_head_too() -> None:
    assert Attention(("[CLS]", ".", "!", "[SEP]"), heads({1: 2}, {2: 1}, size=4)).telling_head() == (1, 0)


def test_weights_that_would_fill_the_memory_are_refused_with_their_size_and_the_length_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 4 * 4 * 12**2)
    assert len(attention("cat " * 10, MODEL).tokens) == 12
    message = r"13 tokens have 0.0 GB of weights: give a text of at most 12"
    with pytest.raises(InputError, match=message):
        attention("cat " * 11, MODEL)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((0, 0), "layer 0: the model has layers 1 to 2 with attention"),
        ((3, 0), "layer 3: the model has layers 1 to 2"),
        ((1, 2), "head 2: a layer of the model has heads 0 to 1"),
        ((1, -1), "head -1: a layer"),
        (("1", 0), "layer is '1'; must be int"),
        ((1, 0.5), "head is 0.5; must be int"),
    ],
)
def test_a_head_that_is_not_there_is_refused(place: tuple[int, int], message: str) -> None:
    found = attention("cat", MODEL)
    with pytest.raises(InputError, match=message):
        found.head(*place)
    with pytest.raises(InputError, match=message):
        found.telling_head(*place)


def test_a_text_longer_than_the_model_takes_is_refused() -> None:
    with pytest.raises(InputError, match="tokens long and the model takes 32: give a shorter text"):
        attention("cat " * 40, MODEL)
