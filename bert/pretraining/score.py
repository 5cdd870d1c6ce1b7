"""Masked-LM quality on fixed masks: mean cross-entropy and accuracy over the positions that a file marks.

The file is an .npz with `input_ids` (N, T), already masked, and `labels` (N, T), the original id at masked positions and −100
elsewhere. Any code base can be scored on it, so the numbers compare.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bert.errors import InputError
from bert.model.heads import MaskedLM
from bert.model.loss import IGNORED
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.inputs import open_data
from bert.pretraining.stream import BatchStream
from bert.recipe import read_recipe
from bert.untrusted import read_arrays


@dataclass(frozen=True)
class Score:
    """Cross-entropy in nats and accuracy, both means over `targets` positions."""

    loss: float
    accuracy: float
    targets: int


def read_masked(file: str | Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, labels), both (N, T) int64, from an .npz. InputError where the file is not such a file."""
    try:
        arrays = read_arrays(Path(file), ("input_ids", "labels"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not an .npz file: give one with input_ids and labels") from error
    if missing := {"input_ids", "labels"} - set(arrays):
        raise InputError(f"{file}: has no array {', '.join(sorted(missing))}: give an .npz with input_ids and labels")
    if odd := [name for name in ("input_ids", "labels") if not np.isfinite(arrays[name]).all()]:
        raise InputError(f"{file}: {odd[0]} holds NaN or infinity: give whole numbers")
    input_ids, labels = (arrays[name].astype(np.int64) for name in ("input_ids", "labels"))
    if input_ids.shape != labels.shape or input_ids.ndim != 2 or not input_ids.size:
        raise InputError(
            f"{file}: input_ids {input_ids.shape} and labels {labels.shape} must be two tables of one shape, and hold sequences"
        )
    if input_ids.min() < 0:
        raise InputError(f"{file}: input_ids holds {input_ids.min()}: ids are 0 or more")
    if not (labels >= 0).any():
        raise InputError(f"{file}: no label is 0 or more, so there is nothing to score")
    return torch.from_numpy(input_ids), torch.from_numpy(labels)


@torch.inference_mode()
def score_masked(model: MaskedLM, file: str | Path, batch_size: int = 32) -> Score:
    """Score `model` in fp32 on a masked file."""
    input_ids, labels = read_masked(file)
    largest = int(torch.maximum(input_ids.max(), labels.max()))
    if largest >= model.config.vocab_size:
        raise InputError(
            f"{file}: holds token id {largest} and the model has {model.config.vocab_size} entries: it was made with another tokenizer"
        )
    if input_ids.shape[1] > model.config.max_length:
        raise InputError(
            f"{file}: sequences of {input_ids.shape[1]} tokens are longer than the model's {model.config.max_length}"
        )
    model.eval()
    device = next(model.parameters()).device
    loss, right, targets = 0.0, 0, 0
    for ids, marks in zip(input_ids.split(batch_size), labels.split(batch_size)):
        asked = marks >= 0
        most = int(asked.sum(1).max())
        positions = (
            asked.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
        )  # (B, K), those asked for first
        originals = marks.gather(1, positions).where(asked.gather(1, positions), IGNORED)
        output = model(ids.to(device), masked_positions=positions.to(device), labels=originals.to(device))
        loss += float(output.loss_sum)
        right += int((output.logits.argmax(-1).cpu() == originals).sum())
        targets += int(asked.sum())
    return Score(loss / targets, right / targets, targets)


@dataclass(frozen=True)
class ValidationScore(Score):
    """A score on the validation text of a run, and what needs no model."""

    most_frequent: float
    """accuracy of guessing the most frequent of the hidden tokens everywhere"""


def score_validation(run: Path, model: MaskedLM) -> ValidationScore:
    """Score `model` on the held-out sequences of the run in the folder `run`, under the masks of its validation."""
    recipe = read_recipe(run / "recipe.yaml", PretrainRecipe)
    validation = open_data(recipe, run).validation
    if validation is None:
        raise InputError(
            f"{run}: this run held nothing out (data.validation_split {recipe.data.validation_split}): nothing to score"
        )
    return score_stream(model, validation)


@torch.inference_mode()
def score_stream(model: MaskedLM, stream: BatchStream) -> ValidationScore:
    """Score `model` in fp32 on the sequences of a stream that ends, on the device where the model is. It is in eval mode meanwhile.

    InputError where no token is hidden in them.
    """
    assert stream.last_sequence is not None
    training, device = model.training, next(model.parameters()).device
    model.eval()
    last = stream.last_sequence
    stream = stream.dealt(32)  # however many sequences a step of the run has, a few at once are enough
    loss, right, counts = 0.0, 0, Counter[int]()
    for step in range(-(-last // stream.plan.at(0).batch_size)):
        for batch in stream.micro_batches(step):
            labels = batch["labels"].to(device)
            output = model(
                batch["input_ids"].to(device),
                document_ids=batch["document_ids"].to(device),
                masked_positions=batch["masked_positions"].to(device),
                labels=labels,
            )
            loss += float(output.loss_sum)
            right += int((output.logits.argmax(-1) == labels).sum())
            counts.update(batch["labels"][batch["labels"] >= 0].tolist())
    model.train(training)
    targets = sum(counts.values())
    if not targets:
        raise InputError("no token to hide in the text to measure on: give more text")
    return ValidationScore(loss / targets, right / targets, targets, counts.most_common(1)[0][1] / targets)
