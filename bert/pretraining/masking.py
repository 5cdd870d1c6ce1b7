"""Dynamic masking: which tokens of a sequence are masked, and what replaces them, as a function of (seed, sequence number).

In: sequences of token ids. Out: the masked sequences, and K masked positions for each. K is fixed, so every shape is static; an unused
index is 0 and has the label −100, which the loss ignores.

A worked example. A sequence of 10 positions, 8 of them maskable, at a rate of 25 % has K = round(0.25 × 10) = 2 and gets
max(1, round(0.25 × 8)) = 2 masked tokens: the two maskable positions with the smallest random numbers.

After BERT (Devlin et al. 2018): of the masked tokens 80 % become [MASK], 10 % a random token and 10 % stay unchanged.
"""

from dataclasses import dataclass

import numpy as np

from bert.data.rng import Stream, random_bits, uniform
from bert.pretraining.config import MaskingConfig

IGNORED = -100  # label of an unused index


@dataclass(frozen=True)
class Vocabulary:
    """The properties of a tokenizer that masking needs."""

    mask_id: int
    maskable: np.ndarray  # (V,) bool: False for special tokens
    replacements: np.ndarray  # (N,) ids of random replacements: neither special nor unused
    word_starts: np.ndarray  # (V,) bool: whether a token begins a word


@dataclass(frozen=True)
class MaskedSequences:
    """Sequences after masking (R, T); masked positions (R, K), and the original ids there (R, K), −100 if unused."""

    input_ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


def most_masked(rate: float, sequence_length: int) -> int:
    """K: the largest number of masked positions in a sequence."""
    return max(1, round(rate * sequence_length))


def masked_counts(maskable: np.ndarray, rate: float) -> np.ndarray:
    """The number of tokens (R,) to mask in sequences with n `maskable` (R, T) positions: min(K, max(1, round(rate × n))); 0 if n is 0."""
    positions = maskable.sum(axis=1)
    wanted = np.maximum(1, np.rint(rate * positions).astype(np.int64))
    return np.where(positions > 0, np.minimum(wanted, most_masked(rate, maskable.shape[1])), 0)


def choose_positions(maskable: np.ndarray, counts: np.ndarray, seed: int, sequences: np.ndarray) -> np.ndarray:
    """Masked (R, T) bool: in each sequence, the `counts` maskable positions with the smallest random numbers."""
    length = maskable.shape[1]
    position_bits = np.uint64((1 << length.bit_length()) - 1)
    # The lowest bits of a key are its position, so that no two keys are equal and the count is exact.
    keys = random_bits(seed, Stream.MASKED_POSITIONS, sequences[:, None], np.arange(length)) >> np.uint64(1)
    keys = keys & ~position_bits | np.arange(length, dtype=np.uint64)
    keys[~maskable] = np.iinfo(np.uint64).max  # above every random number
    most = int(counts.max(initial=1))
    smallest = np.sort(np.partition(keys, most - 1, axis=1)[:, :most], axis=1)
    last = np.take_along_axis(smallest, np.maximum(counts - 1, 0)[:, None], axis=1)
    return (keys <= last) & (counts > 0)[:, None]


def choose_words(
    maskable: np.ndarray, starts: np.ndarray, counts: np.ndarray, seed: int, sequences: np.ndarray
) -> np.ndarray:
    """Masked (R, T) bool: whole words in random order, each taken if it fits into what is left of the sequence's count.

    `starts` (R, T) marks the positions at which a word starts. If no word of a sequence fits, the first tokens of one word are masked.
    """
    sequence_count = len(maskable)
    after_maskable = np.pad(maskable, ((0, 0), (1, 0)))[:, :-1]
    begins = maskable & (starts | ~after_maskable)  # a chunk may start inside a word
    word_of = np.cumsum(begins, axis=1) - 1  # (R, T): index of the word in the sequence, if maskable
    words = int(begins.sum(axis=1).max(initial=0))
    if words == 0:
        return np.zeros_like(maskable)
    sequence_index = np.broadcast_to(np.arange(sequence_count)[:, None], maskable.shape)
    sizes = np.zeros((sequence_count, words), np.int64)
    np.add.at(sizes, (sequence_index[maskable], word_of[maskable]), 1)
    keys = random_bits(seed, Stream.MASKED_POSITIONS, sequences[:, None], np.arange(words)) >> np.uint64(1)
    keys[sizes == 0] = np.iinfo(np.uint64).max
    order = np.argsort(keys, axis=1, kind="stable")
    taken = np.zeros((sequence_count, words), bool)
    left = counts.copy()
    every_sequence = np.arange(sequence_count)
    for rank in range(words):  # the rank-th word of every sequence at once
        word = order[:, rank]
        size = sizes[every_sequence, word]
        fits = (size > 0) & (size <= left)
        taken[every_sequence, word] = fits
        left -= np.where(fits, size, 0)
    chosen = maskable & np.take_along_axis(taken, np.maximum(word_of, 0), axis=1)
    nothing = (left == counts) & (counts > 0)
    first_word = maskable & (word_of == order[:, :1]) & nothing[:, None]
    return chosen | (first_word & (np.cumsum(first_word, axis=1) <= counts[:, None]))


def mask_sequences(
    input_ids: np.ndarray, sequences: np.ndarray, seed: int, masking: MaskingConfig, vocabulary: Vocabulary
) -> MaskedSequences:
    """Mask the sequences `input_ids` (R, T), whose numbers in the run are `sequences` (R,)."""
    length = input_ids.shape[1]
    maskable = vocabulary.maskable[input_ids]
    counts = masked_counts(maskable, masking.rate)
    if masking.whole_words:
        masked = choose_words(maskable, vocabulary.word_starts[input_ids], counts, seed, sequences)
    else:
        masked = choose_positions(maskable, counts, seed, sequences)
    # (R, K): masked first, in the order of their positions
    used = np.arange(most_masked(masking.rate, length)) < masked.sum(axis=1)[:, None]
    positions = np.zeros(used.shape, np.int64)
    positions[used] = np.nonzero(masked)[1]
    originals = input_ids[masked]  # (masked,), like the arrays below
    kind = uniform(seed, Stream.MASK_KIND, sequences[:, None], positions)[used]
    pick = random_bits(seed, Stream.MASK_REPLACEMENT, sequences[:, None], positions)[used]
    pick = pick % np.uint64(len(vocabulary.replacements))
    becomes = np.where(kind < masking.mask_share, vocabulary.mask_id, originals)
    becomes = np.where(kind >= 1 - masking.random_share, vocabulary.replacements[pick.astype(np.int64)], becomes)
    corrupted = input_ids.copy()
    corrupted[masked] = becomes
    labels = np.full(used.shape, IGNORED, np.int64)
    labels[used] = originals
    return MaskedSequences(corrupted, positions, labels)
