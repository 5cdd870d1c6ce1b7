"""What is learned from unlabeled text: an `Objective` builds the model, gives named loss terms, evaluates and exports.

Masked language modeling is one (`objectives/masked_lm.py`). A new objective is one module with a function `make` and one line in
`OBJECTIVES`: its batches are those of `stream`, its loss terms are summed over micro-batches and ranks, and its columns in the log are
derived from the names of its loss terms and metrics.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from bert.errors import InputError, did_you_mean
from bert.model.config import EncoderConfig, HeadConfig
from bert.pretraining.stream import GlobalBatch, MicroBatch
from bert.training.module import STEP_COLUMNS
from bert.training.step import LossTerms

OBJECTIVES = {"masked_lm": "bert.pretraining.objectives.masked_lm"}
"""name in a recipe → module"""


class Objective(Protocol):
    """One way to learn from unlabeled text."""

    weights: Mapping[str, float]
    """name of each loss term → its weight in the loss"""
    compiled: bool
    """whether loss and evaluation are compiled (torch.compile), one graph each"""
    pipeline: str
    """Hugging Face pipeline of the exported model"""
    metrics: tuple[str, ...]
    """names of the metrics that `summarize` returns"""
    next_command: str
    """a command to try the exported model with, `{folder}` for its folder; empty if there is none"""

    def build(self, encoder: EncoderConfig, head: HeadConfig) -> Any:
        """A module with an attribute `encoder`, randomly initialized."""

    def counts(self, batch: GlobalBatch) -> dict[str, int]:
        """The divisor of each loss term by name, computed from the global batch alone, before any forward pass."""

    def loss(self, model: Any, micro_batch: MicroBatch) -> LossTerms:
        """The loss terms of a micro-batch."""

    def evaluate(self, model: Any, micro_batch: MicroBatch) -> Tensor:
        """Sums (S,) over a micro-batch of the validation split; they are added over micro-batches and ranks."""

    def summarize(self, sums: Tensor) -> dict[str, float]:
        """The metrics, from the sums (S,) of `evaluate`."""

    def describe(self, metrics: Mapping[str, float]) -> str:
        """The metrics as text for the terminal and the model card."""

    def export(self, model: Any, folder: Path, card: str) -> None:
        """Write the model folder; `card` is the text of its model card."""


def objective_named(name: str, compiled: bool = False) -> Objective:
    """The objective called `name`; see `Objective.compiled`. InputError for an unknown name."""
    if name not in OBJECTIVES:
        raise InputError(f"objective is {name!r}: give one of {', '.join(OBJECTIVES)}.{did_you_mean(name, OBJECTIVES)}")
    return import_module(OBJECTIVES[name]).make(compiled)


def log_columns(objective: Objective) -> list[str]:
    """Columns of metrics.csv."""
    terms = list(objective.weights) if len(objective.weights) > 1 else []
    return list(dict.fromkeys([*STEP_COLUMNS, *terms, *objective.metrics]))
