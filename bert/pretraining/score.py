"""Masked-LM quality on fixed masks: mean cross-entropy and accuracy over the positions that a file marks.

The file is an .npz with `input_ids` (N, T), already masked, and `labels` (N, T), the original ids at masked positions and −100
elsewhere. Any code base can be scored on it, so scores are comparable.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bert.errors import InputError
from bert.model.encoder import evaluating
from bert.model.heads import MaskedLM
from bert.model.loss import IGNORED
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.inputs import open_data
from bert.pretraining.stream import BatchStream, model_inputs
from bert.recipe import read_recipe
from bert.untrusted import read_arrays


@dataclass(frozen=True)
class Score:
    """Cross-entropy in nats and accuracy, both means over `targets` masked positions."""

    loss: float
    accuracy: float
    targets: int


@dataclass(frozen=True)
class ValidationScore(Score):
    """A score on the validation split of a run, with its trivial baseline."""

    most_frequent: float
    """accuracy of always guessing the most frequent of the masked tokens"""


def read_masked(file: str | Path) -> tuple[Tensor, Tensor]:
    """(input_ids, labels), both (N, T) int64, from an .npz. InputError if the file is not valid."""
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
        shapes = f"input_ids {input_ids.shape} and labels {labels.shape}"
        raise InputError(f"{file}: {shapes} must be two tables of one shape, and hold sequences")
    if input_ids.min() < 0:
        raise InputError(f"{file}: input_ids holds {input_ids.min()}: ids are 0 or more")
    if not (labels >= 0).any():
        raise InputError(f"{file}: no label is 0 or more, so there is nothing to score")
    return torch.from_numpy(input_ids), torch.from_numpy(labels)


def score_masked(model: MaskedLM, file: str | Path, batch_size: int = 32) -> Score:
    """Score `model` in fp32 on a masked file. InputError if the file is not valid, or does not fit the model."""
    input_ids, labels = read_masked(file)
    largest, length, config = int(torch.maximum(input_ids.max(), labels.max())), input_ids.shape[1], model.config
    if largest >= config.vocab_size:
        vocabulary = f"the model has {config.vocab_size} entries"
        raise InputError(f"{file}: holds token id {largest} and {vocabulary}: it was made with another tokenizer")
    if length > config.max_length:
        raise InputError(f"{file}: sequences of {length} tokens are longer than the model's {config.max_length}")

    def batches() -> Iterator[dict[str, Tensor]]:
        for ids, marks in zip(input_ids.split(batch_size), labels.split(batch_size)):
            masked = marks >= 0
            first = masked.int().sort(dim=1, descending=True, stable=True).indices  # (B, T), masked positions first
            positions = first[:, : int(masked.sum(1).max())]  # (B, K)
            originals = marks.gather(1, positions).where(masked.gather(1, positions), IGNORED)
            yield {"input_ids": ids, "masked_positions": positions, "labels": originals}

    score = _score(model, batches())
    return Score(score.loss, score.accuracy, score.targets)


def score_validation(run: Path, model: MaskedLM) -> ValidationScore:
    """Score `model` on the validation split of the run in the folder `run`, with the masks of its validation."""
    recipe = read_recipe(run / "recipe.yaml", PretrainRecipe)
    validation = open_data(recipe, run).validation
    if validation is None:
        share = recipe.data.validation_split
        raise InputError(f"{run}: this run has no validation split (data.validation_split {share}): nothing to score")
    return score_stream(model, validation)


def score_stream(model: MaskedLM, stream: BatchStream) -> ValidationScore:
    """Score `model` in fp32, on its device, on a stream with a last sequence. InputError if no token is masked."""
    stream = stream.dealt(32)  # a step of the run may have more sequences than memory allows here
    return _score(model, (model_inputs(batch) for step in range(stream.steps) for batch in stream.micro_batches(step)))


@torch.inference_mode()
def _score(model: MaskedLM, batches: Iterable[Mapping[str, Tensor]]) -> ValidationScore:
    """Score `model`, in eval mode for the time being, on batches of its arguments."""
    device = next(model.parameters()).device
    loss, right, counts = 0.0, 0, Counter[int]()
    with evaluating(model):
        for batch in batches:
            labels = batch["labels"]
            output = model(**{name: tensor.to(device) for name, tensor in batch.items()})
            loss += float(output.loss_sum)
            right += int((output.logits.argmax(-1).cpu() == labels).sum())
            counts.update(labels[labels >= 0].tolist())
    targets = sum(counts.values())
    if not targets:
        raise InputError("no token to mask in the text to measure on: give more text")
    return ValidationScore(loss / targets, right / targets, targets, counts.most_common(1)[0][1] / targets)
