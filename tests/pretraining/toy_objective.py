"""A second objective, to prove that one file is enough: masked language modeling, and vectors of the first chunk drawn to length 0."""

from types import MappingProxyType

import torch

from bert.model.heads import MaskedLM
from bert.training.step import LossTerms


class Toy:
    weights = MappingProxyType({"masked_lm": 1.0, "length": 0.5})
    metrics = ("val_masked_lm", "val_length")
    compiled = False
    pipeline = "fill-mask"
    next_command = ""

    def build(self, encoder, head):
        return MaskedLM(encoder, head)

    def counts(self, batch):
        return {"masked_lm": batch.masked_tokens, "length": int((batch.document_ids == 1).sum())}

    def loss(self, model, batch):
        hidden = model.encoder(batch["input_ids"], document_ids=batch["document_ids"]).last_hidden_state
        inputs = {name: batch[name] for name in ("input_ids", "document_ids", "masked_positions", "labels")}
        length = hidden.float()[batch["document_ids"] == 1].pow(2).sum()
        return LossTerms({"masked_lm": model.loss_sum(**inputs), "length": length}, self.weights)

    def evaluate(self, model, batch):
        sums = self.loss(model, batch).sums
        counts = (batch["labels"] >= 0).sum(), (batch["document_ids"] == 1).sum()
        return torch.stack([sums["masked_lm"], counts[0], sums["length"], counts[1]])

    def summarize(self, sums):
        masked_lm, masked, length, first = sums.tolist()
        return {"val_masked_lm": masked_lm / masked, "val_length": length / first}

    def describe(self, metrics):
        return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())

    def export(self, model, folder, card):
        model.save(folder, card=card)


def make(compiled):
    return Toy()
