"""Masked language modeling (Devlin et al. 2018): cross-entropy of the original tokens at masked positions."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bert.model.config import EncoderConfig, HeadConfig
from bert.model.heads import MaskedLM
from bert.pretraining.stream import GlobalBatch, MicroBatch, count_masked, model_inputs
from bert.training.step import LossTerms


class MaskedLanguageModeling:
    """The objective of a MaskedLM."""

    weights: Mapping[str, float] = MappingProxyType({"loss": 1.0})
    pipeline = "fill-mask"
    next_command = 'bert fill "… [MASK] …" --model {folder}'
    metrics: tuple[str, ...] = ("val_loss", "val_accuracy", "val_perplexity")

    def __init__(self, compiled: bool = False) -> None:
        self.compiled = compiled
        self._loss_sum: Callable[..., Tensor] = MaskedLM.loss_sum
        self._forward: Callable[..., Any] = MaskedLM.__call__
        if compiled:
            self._loss_sum = torch.compile(MaskedLM.loss_sum, fullgraph=True, dynamic=False)
            self._forward = torch.compile(MaskedLM.forward, fullgraph=True, dynamic=False)

    def build(self, encoder: EncoderConfig, head: HeadConfig) -> MaskedLM:
        """A randomly initialized masked LM."""
        return MaskedLM(encoder, head)

    def counts(self, batch: GlobalBatch) -> dict[str, int]:
        """The number of masked tokens."""
        return count_masked(batch)

    def loss(self, model: MaskedLM, micro_batch: MicroBatch) -> LossTerms:
        """Cross-entropy, summed over the masked tokens."""
        return LossTerms({"loss": self._loss_sum(model, **_inputs(model, micro_batch))}, self.weights)

    def evaluate(self, model: MaskedLM, micro_batch: MicroBatch) -> Tensor:
        """(3,): sum of the cross-entropy, number of correct predictions, number of masked tokens."""
        output = self._forward(model, **_inputs(model, micro_batch))
        right = (output.logits.argmax(-1) == micro_batch["labels"]).sum()
        return torch.stack([output.loss_sum, right, output.num_labels])

    def summarize(self, sums: Tensor) -> dict[str, float]:
        """Mean cross-entropy in nats, accuracy, and perplexity."""
        loss, accuracy = (sums[:2] / sums[2]).tolist()  # NaN without a masked token
        return dict(zip(self.metrics, (loss, accuracy, float(torch.tensor(loss).exp())), strict=True))

    def describe(self, metrics: Mapping[str, float]) -> str:
        """The metrics as text."""
        loss, accuracy, perplexity = (metrics[name] for name in self.metrics)
        return f"loss {loss:.3f} nats, accuracy {accuracy:.1%}, perplexity {perplexity:.1f}"

    def export(self, model: MaskedLM, folder: Path, card: str) -> None:
        """Write a model folder in Hugging Face's format."""
        model.save(folder, card=card)


make = MaskedLanguageModeling


def _inputs(model: MaskedLM, batch: MicroBatch) -> dict[str, Tensor]:
    if batch["input_ids"].is_cuda:
        model.encoder.make_room(batch["documents"])
    return model_inputs(batch)
