"""How probes measure, where there is a choice: read from flags and YAML files, without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SensesProtocol:
    """How the vectors and the centroids of `senses` are made. Both fields set: as Loureiro et al. 2021 published it."""

    words_one_by_one: bool = False
    """cut each word between blanks by itself and take all of its pieces, for text with blanks around punctuation"""
    plain_centroids: bool = False
    """centroids are means of the vectors as they are, not of their directions: longer ones weigh more"""
