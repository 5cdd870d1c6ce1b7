"""The text of a measurement: documents as token ids, from a store, from a file of arrays, or a mixture; and the sequences made of them.

Only the reader of a store needs more than NumPy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bert.data.packing import SPECIALS_PER_CHUNK, Documents, SequenceIndex
from bert.data.rng import Stream, permutation
from bert.data.store import TokenStore, open_store
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.files import replaced
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.inputs import make_vocabulary
from bert.pretraining.masking import Vocabulary
from bert.pretraining.phases import resolve_plan
from bert.pretraining.stream import BatchStream, Source, SpecialIds
from bert.untrusted import read_arrays

SPECIALS = (0, 1, 2, 3, 4)
"""ids of [PAD], [UNK], [CLS], [SEP] and [MASK] if a file of arrays does not give them"""
_WINDOW = 4096  # documents packed together


@dataclass(frozen=True)
class Text:
    """Documents, with what packing and masking need to know about their tokenizer."""

    store: TokenStore
    special_ids: SpecialIds
    vocabulary: Vocabulary

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer."""
        return len(self.vocabulary.maskable)


def text_of_arrays(
    values: np.ndarray, offsets: np.ndarray, vocab_size: int, specials: Sequence[int] = SPECIALS
) -> Text:
    """Document i is `values[offsets[i] : offsets[i + 1]]`, token ids below `vocab_size` without special tokens.

    `specials` are the ids of [PAD], [UNK], [CLS], [SEP] and [MASK]. Raises InputError if arrays and ids are inconsistent.
    """
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"values: {values.dtype} of {values.ndim} axes; must be integers on one axis, the token ids")
    if offsets.ndim != 1 or len(offsets) < 2:
        given = f"{offsets.size} numbers on {offsets.ndim} axes"
        raise InputError(f"offsets: {given}; must be the start of each document and the end of the last, on one axis")
    if len(specials) != len(SPECIALS):
        raise InputError(f"specials: {len(specials)} ids; must be those of [PAD], [UNK], [CLS], [SEP] and [MASK]")
    for name, ids in (("values", values), ("specials", np.asarray(specials))):
        if ids.size and int(ids.min()) < 0:
            raise InputError(f"{name}: token id {int(ids.min())}; must be 0 or more")
        if ids.size and int(ids.max()) >= vocab_size:
            raise InputError(f"{name}: token id {int(ids.max())}; must be below {vocab_size}, the vocabulary size")
    pad, _, cls, sep, mask = specials
    maskable = np.ones(vocab_size, bool)
    maskable[list(specials)] = False
    vocabulary = Vocabulary(mask, maskable, np.flatnonzero(maskable), np.ones(vocab_size, bool))
    hashes = np.zeros(len(offsets) - 1, np.uint64)  # only a validation split needs them
    return Text(TokenStore.from_arrays(values, offsets, hashes), SpecialIds(cls, sep, pad), vocabulary)


def read_tokens(file: str | Path, vocab_size: int | None = None) -> Text:
    """The text of an .npz with `values` and `offsets` (see `text_of_arrays`) and, optionally, `specials` (5,) and `vocab_size` ().
    Raises InputError if the file cannot be read or holds anything else."""
    try:
        arrays = read_arrays(Path(file), ("values", "offsets", "specials", "vocab_size"))
        values, offsets = arrays["values"], arrays["offsets"]
        specials = [int(number) for number in arrays.get("specials", SPECIALS)]
        known = int(arrays["vocab_size"]) if "vocab_size" in arrays else int(values.max(initial=0)) + 1
    except FileNotFoundError:
        raise InputError(f"{file}: no such file: write it with bert.bench.documents.write_tokens") from None
    except KeyError as error:
        raise InputError(f"{file}: has no array {error.args[0]}: give an .npz with values and offsets") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file}: not an .npz file: give one with values and offsets") from error
    return text_of_arrays(values, offsets, max(known, vocab_size or 0), specials)


def write_tokens(file: str | Path, text: Text, most_tokens: int = 4_000_000) -> None:
    """Write the first documents of a text, at most `most_tokens` tokens, as a file for `read_tokens`."""
    special, kept = text.special_ids, int(np.searchsorted(np.cumsum(text.store.lengths), most_tokens, side="right"))
    store = _with(text, [text.store.document(number) for number in range(max(1, kept))]).store
    roles = (special.pad, special.cls, special.sep, text.vocabulary.mask_id)
    unk = next((int(n) for n in np.flatnonzero(~text.vocabulary.maskable) if n not in roles), special.pad)
    with replaced(Path(file)) as partial, partial.open("wb") as stream:
        np.savez_compressed(
            stream,
            values=store.values,
            offsets=np.append(store.starts, store.num_tokens),
            specials=np.array([special.pad, unk, special.cls, special.sep, text.vocabulary.mask_id]),
            vocab_size=np.array(text.vocab_size),
        )


def text_of_store(folder: str | Path, tokenizer: Tokenizer) -> Text:
    """The text of a token store. Raises InputError if it was made with another tokenizer."""
    special_ids = SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    return Text(open_store(folder, tokenizer), special_ids, make_vocabulary(tokenizer))


def full_sequences(text: Text, sequence_length: int, sequences: int, seed: int = 0) -> Text:
    """`sequences` documents of sequence_length − 2 consecutive tokens, each of which fills a sequence: documents in random order,
    concatenated, as in run_mlm. A shorter text is repeated."""
    room = sequence_length - SPECIALS_PER_CHUNK
    order = permutation(len(text.store), seed, Stream.BENCH_MIXTURE)
    enough = int(np.searchsorted(np.cumsum(text.store.lengths[order]), sequences * room)) + 1
    tokens = np.concatenate([text.store.document(int(number)) for number in order[:enough]])
    return _with(text, list(np.resize(tokens, (sequences, room))))


def mixture(texts: Sequence[Text], documents: int, sequence_length: int, seed: int = 0) -> Text:
    """`documents` documents, taken from the texts in turn (equal numbers of each), truncated to the sequence length.

    The texts share one tokenizer. A text with too few documents is repeated.
    """
    room = sequence_length - SPECIALS_PER_CHUNK
    orders = [permutation(len(text.store), seed, Stream.BENCH_MIXTURE, number) for number, text in enumerate(texts)]
    indices = (divmod(number, len(texts)) for number in range(documents))  # (index in the order of a text, which text)
    chosen = [(texts[which], orders[which][index % len(orders[which])]) for index, which in indices]
    return _with(texts[0], [text.store.document(int(number))[:room] for text, number in chosen])


def packed(text: Text, recipe: PretrainRecipe) -> BatchStream:
    """The batches of a run over all documents of the text."""
    documents, data = Documents(text.store.starts, text.store.lengths), recipe.data
    source = Source(text.store, SequenceIndex(documents, data.sequence_length, _WINDOW, recipe.seed))
    plan = resolve_plan(replace(recipe, phases=[]))
    return BatchStream({data.sequence_length: source}, plan, text.special_ids, text.vocabulary, recipe.masking)


def mean_visible(document_ids: np.ndarray, window: int | None = None) -> float:
    """Mean number of keys visible to a token, itself included, in sequences (R, T) of document ids (0: padding).

    Without a window this is E[n²] / E[n] over the chunks of n tokens; with a window w, keys at most w // 2 away count.
    """
    sequences = np.arange(len(document_ids))[:, None] * (int(document_ids.max(initial=0)) + 1)
    _, sizes = np.unique((document_ids + sequences)[document_ids > 0], return_counts=True)
    if not len(sizes):
        return 0.0
    reach = sizes - 1 if window is None else np.minimum(window // 2, sizes - 1)
    return float((sizes + 2 * reach * sizes - reach * (reach + 1)).sum() / sizes.sum())


def _with(text: Text, documents: Sequence[np.ndarray]) -> Text:
    """The text with other documents of the same tokenizer."""
    offsets, hashes = np.cumsum([0, *map(len, documents)]), np.zeros(len(documents), np.uint64)
    return replace(text, store=TokenStore.from_arrays(np.concatenate(documents), offsets, hashes))
