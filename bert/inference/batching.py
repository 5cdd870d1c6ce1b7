"""Many inputs through a model, without training it: the one engine under every vector, probe and prediction.

    inputs (ids) → batches of like length → model → `take`: the output of a batch → one small result an input

What it keeps is what `take` returns, so memory does not grow with the vectors of the tokens. Texts of like length side by side need
next to no padding; several texts in a row, as in pretraining, were measured slower: their tokens look past each other.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.model.encoder import EncoderOutput
from bert.model.hardware import cpu_multiplies_bf16, keep_freed_memory
from bert.terminal import progress_bar

Result = TypeVar("Result")

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 8_192, 65_536
"""padded tokens of a batch where the caller does not say"""
MOST_PADDING = 1 / 32
"""share of a batch, from a quarter of its tokens on: a smaller batch costs less than more padding"""


@dataclass(frozen=True)
class Encoded:
    """One input of a model: at most `max_length` tokens."""

    ids: Sequence[int] | np.ndarray
    """with special tokens"""
    token_type_ids: Sequence[int] | None = None
    """as many, for models that have token types; none: all 0"""
    target: int | None = None
    """the one place whose vector is asked of an encoder, of each input or of none"""


@dataclass(frozen=True)
class Batch:
    """Several inputs as a model takes them, on its device."""

    positions: list[int]
    """which inputs the rows are"""
    input_ids: Tensor
    """(B, T)"""
    attention_mask: Tensor
    """(B, T): 1 for tokens, 0 for padding"""
    token_type_ids: Tensor | None
    """(B, T), or none where no input has any"""
    masked_positions: Tensor | None = None
    """(B, 1) positions within the rows, or none where no input has any"""

    @property
    def visible(self) -> Tensor | None:
        """The mask, where there is padding: kernels without one are faster."""
        return None if bool(self.attention_mask.all()) else self.attention_mask


def run_batches(
    model: nn.Module,
    inputs: Sequence[Encoded],
    take: Callable[[Any, Batch], Sequence[Result]],
    *,
    hidden_states: bool = False,
    batch_tokens: int | None = None,
    bf16: bool | None = None,
    progress: str | None = None,
) -> list[Result]:
    """Run a model over many inputs and return what `take` makes of each, in the order of `inputs`.

    `take(output, batch)` gets the output of the model for a batch, once, and returns one result for each of its rows. It runs
    in inference mode: clone what is to meet autograd, and what is a view of a larger tensor. Batches hold inputs of like
    length, the longest first, and at most `batch_tokens` padded tokens (but always one input). `bf16` computes with the
    weights rounded to bfloat16, where not given on hardware that multiplies it; it moves a vector by about a percent, fp32
    by 1e-6. The model is in eval mode meanwhile. `progress` names the work beside a bar on a terminal.

    Raises InputError for an input with more tokens than the model takes.
    """
    config: EncoderConfig = model.config  # type: ignore[assignment]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))  # ONNX has none
    longest = max(range(len(inputs)), key=lambda place: len(inputs[place].ids), default=None)
    if longest is not None and len(inputs[longest].ids) > config.max_length:
        what = f"input {longest + 1} has {len(inputs[longest].ids)} tokens and the model takes {config.max_length}"
        raise InputError(f"{what}: split it, or cut it")
    if device.type == "cpu":
        keep_freed_memory()
    if batch_tokens is None:
        batch_tokens = CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
    wanted: dict[str, Any] = {"output_hidden_states": True} if hidden_states else {}
    results: list[Any] = [None] * len(inputs)
    with evaluating(model), torch.inference_mode(), progress_bar(progress, len(inputs)) as (advance, _):
        compute = _rounded(model) if _takes_bf16(device, bf16) else model
        for positions in _batches([len(one.ids) for one in inputs], batch_tokens):
            batch = _collate(inputs, positions, config.pad_id, device)
            asked = wanted if batch.masked_positions is None else wanted | {"masked_positions": batch.masked_positions}
            output = compute(batch.input_ids, batch.visible, batch.token_type_ids, **asked)
            check_finite(output.last_hidden_state if isinstance(output, EncoderOutput) else output.logits)
            for place, result in zip(positions, take(output, batch), strict=True):
                results[place] = result
            del output  # the next batch shall have its room
            advance(len(positions))
    return results


def check_finite(values: Tensor) -> None:
    """InputError for NaN and infinity in what a model gives."""
    if not (values.sum().isfinite() or values.isfinite().all()):  # a sum may also be too large
        raise InputError("the model gives NaN or infinity: its weights are damaged, or too large: fetch it again")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode until the end of the `with`, then as before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions of inputs, the longest first: what takes most memory is known to fit at once."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    begin = 0
    while begin < len(order):
        longest = max(1, lengths[order[begin]])
        end, tokens = begin, 0
        while end < len(order) and (end == begin or (end + 1 - begin) * longest <= batch_tokens):
            padded, tokens = (end + 1 - begin) * longest, tokens + lengths[order[end]]
            if padded > batch_tokens / 4 and padded - tokens > MOST_PADDING * padded:
                break
            end += 1
        yield order[begin:end]
        begin = end


def _collate(inputs: Sequence[Encoded], positions: list[int], pad_id: int, device: torch.device) -> Batch:
    rows = [inputs[place] for place in positions]
    width = max(len(row.ids) for row in rows)
    lengths = torch.tensor([len(row.ids) for row in rows])

    def padded(values: Sequence[Sequence[int] | np.ndarray], filler: int) -> Tensor:
        table = np.full((len(values), width), filler, np.int64)
        for row, given in zip(table, values):
            row[: len(given)] = given
        return torch.from_numpy(table).to(device)

    types = None
    if any(row.token_type_ids is not None for row in rows):
        types = padded([row.token_type_ids or [0] * len(row.ids) for row in rows], 0)
    mask = (torch.arange(width) < lengths[:, None]).long().to(device)
    positions_asked = [[row.target] for row in rows if row.target is not None]
    masked_positions = torch.tensor(positions_asked, device=device) if positions_asked else None
    return Batch(positions, padded([row.ids for row in rows], pad_id), mask, types, masked_positions)


def _takes_bf16(device: torch.device, bf16: bool | None) -> bool:
    if bf16 is not None:
        return bf16
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return on_gpu or (device.type == "cpu" and cpu_multiplies_bf16())


def _rounded(model: nn.Module) -> Callable[..., Any]:
    """`model` with its weights in bfloat16. They are converted once; autocast would do it for every batch."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    weights = {name: one.bfloat16() if one.is_floating_point() else one for name, one in tensors}

    def compute(*inputs: Tensor | None, **asked: Any) -> Any:
        return torch.func.functional_call(model, weights, inputs, asked)

    return compute
