"""Options of the probes, set by flags and YAML files; without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SensesProtocol:
    """How `senses` computes vectors and centroids. Set all fields for the protocol of Loureiro et al. 2021."""

    words_one_by_one: bool = False
    """tokenize each word between spaces separately and use all of its tokens, for text with spaces around punctuation"""
    plain_centroids: bool = False
    """centroids are means of the vectors, not of their directions, so that longer vectors have more weight"""
    full_precision: bool = False
    """compute vectors in fp32, also where bf16 is faster, in which a row in a hundred may get another sense"""
