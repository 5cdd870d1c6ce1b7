"""The rows of a masked LM for another vocabulary: pieces that both have keep theirs, the others start as a mean.

A piece that is new starts as the mean of the rows of the pieces that the old tokenizer cuts its text into, in the embedding
matrix, in the output matrix where it is another, and in the output bias. That is the usual start for added words, and
what overlap initialisation does where the whole tokenizer changes (Dobler and de Melo 2023, FOCUS, name the baselines).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bert.data.tokenizer import ROLES, Tokenizer, is_unspaced
from bert.model.heads import MaskedLM

Spelling = tuple[bool, str]
_BY_VOCABULARY = ("encoder.embeddings.tokens.weight", "head.weight", "head.bias")


@dataclass(frozen=True)
class Overlap:
    """From which old rows each row of the new vocabulary starts: their mean."""

    sources: list[list[int]]
    """old ids for each new id; none where the old tokenizer knows nothing of a piece: then the mean of all ordinary rows"""
    ordinary: np.ndarray
    """old ids that are neither special nor unused"""
    kept: int
    """pieces that both vocabularies have"""

    @property
    def unknown(self) -> int:
        """Pieces without a source."""
        return sum(not ids for ids in self.sources)

    @property
    def from_pieces(self) -> int:
        """Pieces that start as the mean of the old pieces of their text."""
        return len(self.sources) - self.kept - self.unknown


def overlap(old: Tokenizer, new: Tokenizer) -> Overlap:
    """Match the pieces of two tokenizers by what they stand for, whatever kind each is of; special tokens by role."""
    spelt = _by_spelling(old)
    roles = {getattr(new, f"{role}_id"): getattr(old, f"{role}_id") for role in ROLES}
    same_name = {old.token(i): i for i in range(old.vocab_size) if i in {*old.special_ids, *old.unused_ids}}
    sources: list[list[int]] = []
    kept = 0
    open_ids: list[int] = []  # pieces whose text is cut by the old tokenizer, all at once
    for i in range(new.vocab_size):
        spelling = new.spelling(i)
        found = roles.get(i, same_name.get(new.token(i)) if spelling is None else _find(spelt, spelling))
        sources.append([] if found is None else [found])
        kept += found is not None
        if found is None and spelling is not None:
            open_ids.append(i)
    spellings = [new.spelling(i) or (True, "") for i in open_ids]
    for i, (begins, _), pieces in zip(open_ids, spellings, old.word_tokens([text for _, text in spellings])):
        if not begins:  # inside a word its first piece is the one that goes on, where there is such a one
            first = old.spelling(pieces[0])
            pieces = [spelt.get((False, first[1]), pieces[0]) if first else pieces[0], *pieces[1:]]
        sources[i] = [piece for piece in pieces if piece != old.unk_id and old.spelling(piece) != (True, "")]  # a blank
    return Overlap(sources, old.replacement_ids, kept)


def carry_over(model: MaskedLM, tokenizer: Tokenizer, rows: Overlap) -> MaskedLM:
    """`model` with the vocabulary of `tokenizer`, in eval mode: row i is the mean of the rows `rows.sources[i]` of `model`.
    All else (save RoBERTa's positions, which are counted from the padding id on) is shared with `model`, no copy."""
    config = replace(model.config, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    with torch.device("meta"):
        grown = MaskedLM(config, model.head_config)
    state = {
        name: _means(tensor, rows) if name in _BY_VOCABULARY else tensor for name, tensor in model.state_dict().items()
    }
    if config.positions_skip_padding:  # their table begins with the rows up to that of padding, which no token has
        name = "encoder.embeddings.positions.weight"
        before, of_tokens = state[name][: model.config.pad_id + 1], state[name][model.config.pad_id + 1 :]
        state[name] = torch.cat([before[-1:].expand(config.pad_id + 1, -1), of_tokens])
    grown.load_state_dict(state, assign=True)
    grown.requires_grad_(True)
    grown.tokenizer = tokenizer
    return grown.eval()


def _means(table: Tensor, rows: Overlap) -> Tensor:
    """(V, D) or (V,) → the same for the new vocabulary. A mean of one row is that row, bit for bit."""
    lengths = torch.tensor([len(ids) for ids in rows.sources])
    flat = torch.tensor([i for ids in rows.sources for i in ids])
    means = F.embedding_bag(flat, table.reshape(len(table), -1), lengths.cumsum(0) - lengths, mode="mean")
    means[lengths == 0] = table[torch.from_numpy(rows.ordinary)].mean(dim=0)
    return means.reshape(-1, *table.shape[1:])


def _by_spelling(tokenizer: Tokenizer) -> dict[Spelling, int]:
    spelt: dict[Spelling, int] = {}
    for i in range(tokenizer.vocab_size):
        spelling = tokenizer.spelling(i)
        if spelling is not None:
            spelt.setdefault(spelling, i)
    return spelt


def _find(spelt: dict[Spelling, int], spelling: Spelling) -> int | None:
    """The piece of that spelling. Punctuation and characters of scripts without blanks are words by themselves: whether a
    blank stands before them makes no other piece of them."""
    begins, text = spelling
    alone = len(text) == 1 and (not text.isalnum() or is_unspaced(text))
    return spelt.get(spelling, spelt.get((not begins, text)) if alone else None)
