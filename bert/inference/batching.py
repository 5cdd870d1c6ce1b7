"""Inference on many inputs: the one function that computes all vectors, probes and predictions.

    inputs (ids) → batches of similar length → model → `take`: the output of a batch → one small result per input

Only the results of `take` are kept, so that memory does not grow with the number of tokens. Batches of similar lengths need
little padding; packing several texts into a sequence, as in pretraining, was measured to be slower.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.model.encoder import EncoderOutput, evaluating
from bert.model.hardware import cpu_multiplies_bf16, keep_freed_memory, return_freed_memory
from bert.terminal import progress_bar

Result = TypeVar("Result")

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 8_192, 65_536
"""default number of padded tokens of a batch"""
CPU_BATCH_TOKENS_OF_ALL_LAYERS = 1_024
"""likewise, if the states of all layers are wanted: as fast, in a third of the memory"""
_BATCHES_UNTIL_RETURN = 16
"""batches of all layers, of many shapes, after which memory between what lasts is returned"""
MOST_PADDING = 1 / 32
"""share of a batch, from a quarter of its tokens on: a smaller batch is cheaper than more padding"""


@dataclass(frozen=True)
class Encoded:
    """One input of a model: at most `max_length` tokens."""

    ids: Sequence[int] | np.ndarray
    """with special tokens"""
    token_type_ids: Sequence[int] | None = None
    """as many, for models with token types; None: all 0"""
    target: int | None = None
    """the one position whose vector is wanted, for every input or for none"""


@dataclass(frozen=True)
class Batch:
    """Several inputs as tensors, on the device of the model."""

    positions: list[int]
    """indices of the inputs"""
    input_ids: Tensor
    """(B, T)"""
    attention_mask: Tensor
    """(B, T): 1 for tokens, 0 for padding"""
    token_type_ids: Tensor | None
    """(B, T), or None if no input has any"""
    masked_positions: Tensor | None = None
    """(B, 1) `target` of each input, or None if no input has one"""

    @property
    def visible(self) -> Tensor | None:
        """The mask, or None without padding: kernels without a mask are faster."""
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
    """Run a model on many inputs and return the results of `take`, in the order of `inputs`.

    `take(output, batch)` is called with the output of the model for each batch, and returns one result for each of its inputs.
    It runs in inference mode: clone tensors for autograd, and views of larger tensors. Batches hold inputs of similar length,
    the longest first, and at most `batch_tokens` padded tokens (but at least one input). `bf16` computes with weights rounded
    to bfloat16, by default on hardware that multiplies it; it changes a vector by about a percent, fp32 by 1e-6. The model is
    in eval mode meanwhile. `progress` is the label of a progress bar on a terminal.

    Raises InputError for an input with more tokens than the model takes.
    """
    config: EncoderConfig = model.config  # type: ignore[assignment]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))  # ONNX has none
    longest = max(range(len(inputs)), key=lambda place: len(inputs[place].ids), default=None)
    if longest is not None and len(inputs[longest].ids) > config.max_length:
        what = f"input {longest + 1} has {len(inputs[longest].ids)} tokens and the model takes {config.max_length}"
        raise InputError(f"{what}: split or truncate it")
    if device.type == "cpu" and not hidden_states:
        keep_freed_memory()
    if batch_tokens is None:
        on_cpu = CPU_BATCH_TOKENS_OF_ALL_LAYERS if hidden_states else CPU_BATCH_TOKENS
        batch_tokens = on_cpu if device.type == "cpu" else GPU_BATCH_TOKENS
    wanted: dict[str, Any] = {"output_hidden_states": True} if hidden_states else {}
    results: list[Any] = [None] * len(inputs)
    with evaluating(model), torch.inference_mode(), progress_bar(progress, len(inputs)) as (advance, _):
        compute = _rounded(model) if takes_bf16(device, bf16) else model
        for number, positions in enumerate(_batches([len(one.ids) for one in inputs], batch_tokens)):
            if hidden_states and number % _BATCHES_UNTIL_RETURN == 0:
                return_freed_memory()
            batch = padded_batch(inputs, positions, config.pad_id, device)
            asked = wanted if batch.masked_positions is None else wanted | {"masked_positions": batch.masked_positions}
            output = compute(batch.input_ids, batch.visible, batch.token_type_ids, **asked)
            check_finite(output.last_hidden_state if isinstance(output, EncoderOutput) else output.logits)
            for place, result in zip(positions, take(output, batch), strict=True):
                results[place] = result
            del output  # frees its memory for the next batch
            advance(len(positions))
    return results


def check_finite(values: Tensor) -> None:
    """Raises InputError for NaN and infinity in the output of a model."""
    if not (values.sum().isfinite() or values.isfinite().all()):  # a sum may also be too large
        raise InputError("the model outputs NaN or infinity: its weights are damaged, or too large: fetch it again")


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of inputs, the longest first, so that a lack of memory shows in the first batch."""
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


def padded_batch(inputs: Sequence[Encoded], positions: list[int], pad_id: int, device: torch.device) -> Batch:
    """The inputs at `positions`, padded to the longest of them."""
    rows = [inputs[place] for place in positions]
    lengths = torch.tensor([len(row.ids) for row in rows])
    width = int(lengths.max())

    def padded(values: Sequence[Sequence[int] | np.ndarray], filler: int) -> Tensor:
        table = np.full((len(values), width), filler, np.int64)  # 20 times as fast as pad_sequence for short rows
        for row, given in zip(table, values):
            row[: len(given)] = given
        return torch.from_numpy(table).to(device)

    types = None
    if any(row.token_type_ids is not None for row in rows):
        types = padded([row.token_type_ids or [0] * len(row.ids) for row in rows], 0)
    mask = (torch.arange(width) < lengths[:, None]).long().to(device)
    targets = [[row.target] for row in rows if row.target is not None]
    masked_positions = torch.tensor(targets, device=device) if targets else None
    return Batch(positions, padded([row.ids for row in rows], pad_id), mask, types, masked_positions)


def takes_bf16(device: torch.device, bf16: bool | None) -> bool:
    """Whether `run_batches` computes with weights rounded to bfloat16: `bf16`, or by default what the hardware does fast."""
    if bf16 is not None:
        return bf16
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return on_gpu or (device.type == "cpu" and cpu_multiplies_bf16())


def _rounded(model: nn.Module) -> Callable[..., Any]:
    """`model` with its weights in bfloat16, converted once; autocast would do it for every batch."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    weights = {name: one.bfloat16() if one.is_floating_point() else one for name, one in tensors}

    def compute(*inputs: Tensor | None, **asked: Any) -> Any:
        return torch.func.functional_call(model, weights, inputs, asked)

    return compute
