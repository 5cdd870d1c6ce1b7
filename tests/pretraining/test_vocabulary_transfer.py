"""The rows of a model for another vocabulary."""

import dataclasses

import pytest
import torch

from bert.data.tokenizer import ROLES
from bert.data.vocabulary import add_words, train_tokenizer
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.heads import MaskedLM
from bert.pretraining.vocabulary_transfer import carry_over, overlap
from bert.sample.make import make_sample

from ..conftest import make_text

PROSE = make_sample("en").corpus
TEXTS = make_text(60).split("\n\n")
OTHERS = [
    text.replace("apple", "pineapple").replace("garden", "gardener") for text in make_text(60, seed=4).split("\n\n")
]


def train(kind="wordpiece", texts=TEXTS, size=None, **options):
    return train_tokenizer(texts, kind, size, **options)


def make_model(tokenizer, tied=True, padding=0):
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size + padding, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32
    )
    model = MaskedLM(config, HeadConfig(tied=tied)).eval()
    torch.nn.init.normal_(model.head.bias)
    model.tokenizer = tokenizer
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_added_words_start_as_the_mean_of_their_old_pieces_and_all_else_stays(tied):
    old = train(size=192)
    new, words = add_words(old, ["nanobot", "gardenwater"])
    model = make_model(old, tied, padding=5)
    grown = carry_over(model, new, overlap(old, new))
    assert grown.config == dataclasses.replace(model.config, vocab_size=new.vocab_size)
    pairs = [(model.encoder.embeddings.tokens.weight, grown.encoder.embeddings.tokens.weight)]
    pairs += [(model.output_matrix, grown.output_matrix), (model.head.bias, grown.head.bias)]
    for before, after in pairs:
        assert torch.equal(after[: old.vocab_size], before[: old.vocab_size])
        for place, word in enumerate(words):
            pieces = old.word_tokens([word])[0]
            assert len(pieces) > 1
            assert torch.allclose(after[old.vocab_size + place], before[pieces].mean(0))
    others = {name for name, _ in grown.named_parameters()} - {
        "encoder.embeddings.tokens.weight",
        "head.weight",
        "head.bias",
    }
    for name in others:
        assert torch.equal(grown.get_parameter(name), model.get_parameter(name))
    assert all(parameter.requires_grad for parameter in grown.parameters())


def test_the_scores_of_old_tokens_in_text_without_the_new_words_are_what_they_were():
    """So the loss there grows by the new words' share of the probability alone."""
    old = train(size=192)
    new, words = add_words(old, ["nanobot", "gardenwater"])
    model = make_model(old)
    grown = carry_over(model, new, overlap(old, new))
    ids = torch.tensor([old.encode(TEXTS[0])])
    assert ids.tolist() == [new.encode(TEXTS[0])]
    with torch.no_grad():
        before, after = model(ids).logits, grown(ids).logits
    assert torch.allclose(after[..., : old.vocab_size], before, atol=1e-5)
    share = after.softmax(-1)[..., old.vocab_size :].sum(-1)
    grows = before.log_softmax(-1)[..., 0] - after.log_softmax(-1)[..., 0]
    assert torch.allclose(grows, -torch.log1p(-share), atol=1e-5)
    assert float(grows.max()) < 5 * len(words) / old.vocab_size


def test_the_same_tokenizer_gives_the_same_model():
    old = train(size=192)
    rows = overlap(old, train(size=192))
    assert rows.sources == [[i] for i in range(old.vocab_size)]
    assert rows.kept == old.vocab_size


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("other", ["wordpiece", "bpe", "unigram"])
def test_pieces_of_the_same_text_keep_their_rows_from_kind_to_kind(kind, other):
    old, new = train(kind, PROSE[:400]), train(other, PROSE[300:700], lowercase=True)
    rows = overlap(old, new)
    assert len(rows.sources) == new.vocab_size
    for role in ROLES:
        assert rows.sources[getattr(new, f"{role}_id")] == [getattr(old, f"{role}_id")]
    words = sorted({word for text in PROSE for word in text.lower().replace(".", "").split()})
    whole = [(before[0], after[0]) for before, after in zip(old.word_tokens(words), new.word_tokens(words))
             if len(before) == len(after) == 1]  # fmt: skip
    assert len(whole) > 10
    for before, after in whole:
        assert rows.sources[after] == [before]
    stop = [tokenizer.encode("the baker.")[-2] for tokenizer in (old, new)]
    assert rows.sources[stop[1]] == [stop[0]]
    assert rows.kept > 0.2 * new.vocab_size


def test_a_piece_that_is_new_is_the_mean_of_the_pieces_of_its_text():
    old, new = train(size=192), train(texts=OTHERS)
    rows = overlap(old, new)
    (word,) = new.word_tokens(["pineapple"])
    assert len(word) == 1
    assert rows.sources[word[0]] == old.word_tokens(["pineapple"])[0]
    inner = next(i for i in range(new.vocab_size) if new.token(i).startswith("##") and len(rows.sources[i]) > 1)
    assert "".join(old.token(i).removeprefix("##") for i in rows.sources[inner]) == new.token(inner).removeprefix("##")
    assert old.token(rows.sources[inner][0]).startswith("##")


def test_a_piece_of_unknown_characters_is_the_mean_of_all_ordinary_rows():
    old, new = train(size=192), train(texts=[*TEXTS, "ж ж ж ж"])
    (piece,) = new.word_tokens(["ж"])
    rows = overlap(old, new)
    assert rows.sources[piece[0]] == []
    assert rows.unknown >= 1
    model = make_model(old)
    grown = carry_over(model, new, rows)
    ordinary = model.encoder.embeddings.tokens.weight[torch.from_numpy(old.replacement_ids)]
    assert torch.allclose(grown.encoder.embeddings.tokens.weight[piece[0]], ordinary.mean(0), atol=1e-6)


def test_a_roberta_keeps_its_positions_behind_another_padding_token():
    """They are counted from the id of the padding token on, and the new one may have another."""
    old, new = train(), train("bpe", OTHERS)
    shape = {"norm_first": False, "final_norm": False, "positions": "learned", "positions_skip_padding": True}
    config = EncoderConfig(
        vocab_size=old.vocab_size, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32, pad_id=3, **shape
    )
    model = MaskedLM(config)
    table = model.encoder.embeddings.positions.weight
    changed = carry_over(model, new, overlap(old, new)).encoder.embeddings
    assert changed.first_position == new.pad_id + 1 != 4
    assert torch.equal(changed.positions.weight[changed.first_position :], table[4:])
    assert torch.equal(changed.positions.weight[new.pad_id], table[3])
