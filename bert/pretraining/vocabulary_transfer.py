"""Vocabulary transfer: the embedding rows of a masked LM for another vocabulary. Shared tokens keep theirs, new ones start as a mean.

A new token starts as the mean of the rows of the tokens into which the old tokenizer splits its text: in the embedding matrix, in an untied
output matrix, and in the output bias. That is the usual initialization of added words, and a baseline of overlap initialization when the
whole tokenizer changes (Dobler and de Melo 2023, FOCUS).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bert.data.tokenizer import ROLES, Tokenizer, is_unspaced
from bert.model.heads import MaskedLM
from bert.model.layers import without_memory

Spelling = tuple[bool, str]
_BY_VOCABULARY = ("encoder.embeddings.tokens.weight", "head.weight", "head.bias")


@dataclass(frozen=True)
class Overlap:
    """The old rows whose mean each row of the new vocabulary starts from."""

    sources: list[list[int]]
    """old ids for each new id; none if the old tokenizer does not know the text: then the mean of all ordinary rows"""
    ordinary: np.ndarray
    """old ids that are neither special nor unused"""
    kept: int
    """number of shared tokens"""

    @property
    def unknown(self) -> int:
        """Number of tokens without a source."""
        return sum(not ids for ids in self.sources)

    @property
    def averaged(self) -> int:
        """Number of tokens that start as the mean of the old tokens of their text."""
        return len(self.sources) - self.kept - self.unknown


def overlap(old: Tokenizer, new: Tokenizer) -> Overlap:
    """Match the tokens of two tokenizers by the text that they stand for, whatever their kinds; special tokens by role."""
    spelt = _by_spelling(old)
    roles = {getattr(new, f"{role}_id"): getattr(old, f"{role}_id") for role in ROLES}
    same_name = {old.token(i): i for i in range(old.vocab_size) if i in {*old.special_ids, *old.unused_ids}}
    sources: list[list[int]] = []
    unmatched: dict[int, Spelling] = {}  # tokens whose texts the old tokenizer splits, all at once
    for i in range(new.vocab_size):
        spelling = new.spelling(i)
        found = roles.get(i, same_name.get(new.token(i)) if spelling is None else _find(spelt, spelling))
        sources.append([] if found is None else [found])
        if found is None and spelling is not None:
            unmatched[i] = spelling
    kept = sum(map(len, sources))
    split = old.word_tokens([text for _, text in unmatched.values()])
    for (i, (begins, _)), tokens in zip(unmatched.items(), split):
        if not begins:  # inside a word, the first token is the one that continues a word, if it exists
            first = old.spelling(tokens[0])
            tokens = [spelt.get((False, first[1]), tokens[0]) if first else tokens[0], *tokens[1:]]
        sources[i] = [token for token in tokens if token != old.unk_id and old.spelling(token) != (True, "")]  # a space
    return Overlap(sources, old.replacement_ids, kept)


def carry_over(model: MaskedLM, tokenizer: Tokenizer, rows: Overlap) -> MaskedLM:
    """`model` with the vocabulary of `tokenizer`, in eval mode: row i is the mean of rows `rows.sources[i]` of `model`. Other tensors are
    shared with `model`, except RoBERTa's positions, which are counted from the padding id."""
    config = replace(model.config, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    with without_memory():
        grown = MaskedLM(config, model.head_config)
    state = model.state_dict()
    state |= {name: _means(state[name], rows) for name in _BY_VOCABULARY if name in state}
    if config.positions_skip_padding:  # their table starts with unused rows, up to the padding id
        name = "encoder.embeddings.positions.weight"
        before, of_tokens = state[name][: model.config.pad_id + 1], state[name][model.config.pad_id + 1 :]
        state[name] = torch.cat([before[-1:].expand(config.pad_id + 1, -1), of_tokens])
    grown.load_state_dict(state, assign=True)
    grown.requires_grad_(True)
    grown.tokenizer, grown.model_type = tokenizer, model.model_type
    return grown.eval()


def _means(table: Tensor, rows: Overlap) -> Tensor:
    """(V, D) or (V,) → the same for the new vocabulary. The mean of a single row is exactly that row."""
    lengths = torch.tensor([len(ids) for ids in rows.sources])
    flat = torch.tensor([i for ids in rows.sources for i in ids])
    means = F.embedding_bag(flat, table.reshape(len(table), -1), lengths.cumsum(0) - lengths, mode="mean")
    means[lengths == 0] = table[torch.from_numpy(rows.ordinary)].mean(dim=0)
    return means.reshape(-1, *table.shape[1:])


def _by_spelling(tokenizer: Tokenizer) -> dict[Spelling, int]:
    ids = reversed(range(tokenizer.vocab_size))  # the lowest id of equal spellings
    return {spelling: i for i in ids if (spelling := tokenizer.spelling(i)) is not None}


def _find(spelt: dict[Spelling, int], spelling: Spelling) -> int | None:
    """The token with a spelling. Punctuation and characters of scripts without spaces are words by themselves: they are the same token with
    and without a space before them."""
    begins, text = spelling
    alone = len(text) == 1 and (not text.isalnum() or is_unspaced(text))
    return spelt.get(spelling, spelt.get((not begins, text)) if alone else None)
