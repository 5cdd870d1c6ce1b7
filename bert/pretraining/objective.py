"""What is learned from unlabeled text: an `Objective` builds the model, gives named loss terms, evaluates and exports.

Masked language modeling is one (`objectives/masked_lm.py`). A new one is one file: its batches are those of `stream`, its loss terms
are added up over micro-batches and ranks, and its columns of the log follow from the names of its terms and metrics.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from bert.model.config import EncoderConfig, HeadConfig
from bert.pretraining.stream import GlobalBatch, MicroBatch
from bert.training.module import STEP_COLUMNS
from bert.training.step import LossTerms


class Objective(Protocol):
    """One way to learn from unlabeled text."""

    weights: Mapping[str, float]
    """the loss terms by name, each with its weight in the loss"""
    compiled: bool
    """whether its loss and its evaluation are one graph each (torch.compile)"""
    pipeline: str
    """of Hugging Face, for the exported model"""
    metrics: tuple[str, ...]
    """names of what `summarize` measures"""

    def build(self, encoder: EncoderConfig, head: HeadConfig) -> Any:
        """A module with an `encoder`, randomly initialized."""

    def counts(self, batch: GlobalBatch) -> dict[str, int]:
        """By name of a loss term, what its sum is divided by, from the global batch alone, before any forward pass."""

    def loss(self, model: Any, micro_batch: MicroBatch) -> LossTerms:
        """The loss terms of a micro-batch."""

    def evaluate(self, model: Any, micro_batch: MicroBatch) -> Tensor:
        """Sums (S,) over a micro-batch of the validation split: they are added up over micro-batches and ranks."""

    def summarize(self, sums: Tensor) -> dict[str, float]:
        """The metrics from those sums (S,)."""

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Those metrics in words, for the terminal and the model card."""

    def export(self, model: Any, folder: Path, card: str) -> None:
        """Write the model folder, with the text of its card."""


def log_columns(objective: Objective) -> list[str]:
    """Columns of metrics.csv."""
    terms = list(objective.weights) if len(objective.weights) > 1 else []
    return list(dict.fromkeys([*STEP_COLUMNS, *terms, *objective.metrics]))
