"""A model as one function of plain tensors, for any batch and length, that can be exported from Python.

    input_ids, attention_mask[, token_type_ids], int64 (B, T) → last_hidden_state (B, T, D), or logits: (B, T, V) of a
    masked LM, (B, C) of a classifier, (B, T, C) of a tagger

`trace` makes it, as a `torch.export` program, from the plain padded forward pass. `compare` compares an exported function with
the model.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bert.errors import InputError, option
from bert.model.attention import AttentionOptions
from bert.model.config import Backend, EncoderConfig
from bert.model.encoder import Encoder
from bert.model.heads import HeadedModel

TOLERANCE = 1e-4
"""largest allowed difference between an exported model and the model in fp32"""
LONGEST = 1024
"""tokens of the longest sequence of `compare`: plain attention needs memory quadratic in it"""

Function = Callable[..., Tensor]
"""tensors in the order of `input_names` → the output"""


@dataclass(frozen=True)
class Difference:
    """The difference of two models on inputs of one shape."""

    rows: int
    length: int
    largest: float
    """over all outputs; NaN if one of them is"""
    outputs: float
    """largest absolute output of the first model"""


def input_names(config: EncoderConfig) -> list[str]:
    """The inputs of the function, in order; no token types if there is only one, as in RoBERTa."""
    return ["input_ids", "attention_mask", *(["token_type_ids"] if config.token_types > 1 else [])]


def output_name(model: Encoder | HeadedModel) -> str:
    """The name of the output of the function."""
    return "last_hidden_state" if isinstance(model, Encoder) else "logits"


def dynamic_shapes(config: EncoderConfig) -> tuple[dict[int, Dim], ...]:
    """Names and limits of the axes of each input: batches of any size, at most `max_length` tokens."""
    axes = {0: Dim("batch"), 1: Dim("length", max=config.max_length)}
    return (axes,) * len(input_names(config))


def trace(model: Encoder | HeadedModel, backend: Backend) -> ExportedProgram:
    """The program of a model in eval mode on the CPU; it shares the weights. `backend` computes attention.

    Raises InputError for a model of sequences of one token.
    """
    if model.config.max_length < 2:
        raise InputError("encoder.max_length is 1: a program with a length needs a model that takes 2 tokens or more")
    encoder = model if isinstance(model, Encoder) else model.encoder
    before, encoder.attention = encoder.attention, AttentionOptions(backend)
    # sizes 0 and 1 in the example would be constants of the graph
    inputs = _inputs(model.config, 2, min(7, model.config.max_length))
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(_Plain(model).eval(), inputs, dynamic_shapes=dynamic_shapes(model.config))
    finally:
        encoder.attention = before


class _Plain(nn.Module):
    """A model with tensors as arguments and a tensor as result."""

    def __init__(self, model: Encoder | HeadedModel) -> None:
        super().__init__()
        self.model = model
        self.output = output_name(model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        return getattr(self.model(input_ids, attention_mask, token_type_ids), self.output)


def write_torch(model: Encoder | HeadedModel, file: Path) -> None:
    """Write the program of a model with its weights: `torch.export.load(file).module()` is the function."""
    program, buffer = trace(model, "sdpa"), io.BytesIO()
    with quiet():
        torch.export.save(program, buffer)
    file.write_bytes(buffer.getbuffer())  # on a full disk PyTorch's own writer aborts the process


def open_torch(file: Path) -> Function:
    """The function in a file of `write_torch`."""
    with quiet():
        return torch.export.load(file).module()


@torch.no_grad()
def compare(model: Encoder | HeadedModel, other: Function, seed: int = 0) -> list[Difference]:
    """Run the model and `other` on random tokens of five shapes: one token, one sequence of full length (at most 1,024 tokens),
    odd sizes, sequences that end in padding, one of padding only."""
    longest = min(model.config.max_length, LONGEST)
    found = []
    for rows, length in ((1, 1), (1, longest), (2, 2), (3, min(13, longest)), (5, (longest + 1) // 2)):
        inputs = _inputs(model.config, rows, length, seed)
        right = _Plain(model)(*inputs)
        largest = float((other(*inputs) - right).abs().max())  # NaN if either has one
        found.append(Difference(rows, length, largest, float(right.abs().max())))
    return found


def check(differences: Sequence[Difference], what: str) -> float:
    """The largest of the differences. Raises InputError if it is above `TOLERANCE`, or NaN."""
    wrong = next((one for one in differences if not one.largest <= TOLERANCE), None)
    if wrong is not None:
        by = f"{wrong.largest:.1e}, more than {TOLERANCE:g}, on {wrong.rows} sequences of {wrong.length} tokens"
        what += f" differs from the model by {by} (outputs up to {wrong.outputs:.1f})"
        fix = f"nothing was written; omit {option('verify')} to write it anyway"
        raise InputError(f"{option('verify')}: {what}: {fix}")
    return max(one.largest for one in differences)


def _inputs(config: EncoderConfig, rows: int, length: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random tokens. Every second sequence ends in padding; the fifth is only padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1::2, (length + 1) // 2 :] = 0
    mask[4:] = 0
    if "token_type_ids" not in input_names(config):
        return ids, mask
    return ids, mask, torch.randint(0, config.token_types, ids.shape, generator=generator)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and log lines below errors: exporters report much about their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
