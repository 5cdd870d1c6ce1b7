"""Tiny random encoders with tokenizers of the tests' text."""

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers, pre_tokenizers

from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer
from bert.inference.embeddings import span_tokens, token_vectors, tokenizer_of
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder
from tests.conftest import make_text

TEXTS = make_text(12).split("\n\n")
LAYERS = 2


def as_published(tokenizer: Tokenizer, lowercase: bool = True) -> Tokenizer:
    """The vocabulary of a WordPiece tokenizer with BERT's own normalizer and pre-tokenizer, as in published models."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Tokenizer(backend)


def span_vectors(
    encoder: Encoder, sentences: list[str], spans: list[tuple[int, int]], *layers: list[int], **options: object
):
    """(n, layers, D): the vectors of what stands between two characters of each sentence."""
    return token_vectors(encoder, span_tokens(tokenizer_of(encoder), sentences, spans), *layers, **options)


def make_encoder(kind: str = "wordpiece", max_length: int = 24, **shape: object) -> Encoder:
    """A random encoder with a tokenizer of the tests' text, weights far enough from the start that layers differ."""
    tokenizer = train_tokenizer(
        [*TEXTS, "我每天吃一个苹果。"], kind, {"wordpiece": 140, "bpe": 300, "unigram": 80}[kind]
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": LAYERS, "num_heads": 2, "intermediate_size": 24}
    encoder = Encoder(EncoderConfig(vocab_size=tokenizer.vocab_size, max_length=max_length, **(sizes | shape)))
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    encoder.tokenizer = tokenizer
    return encoder.eval()


ENCODERS = {kind: make_encoder(kind) for kind in ("wordpiece", "bpe", "unigram")}
LEARNED = make_encoder(positions="learned", token_types=2)
