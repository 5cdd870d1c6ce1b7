"""The training step: one function that reads from top to bottom, used by training, by `bench` and by tests.

The loss of a step is a sum over the global batch divided by a count over the global batch, never a mean of means: every micro-batch on
every rank divides its sums by the counts of the whole step, so gradients simply add up.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from bert.training.optimizers import set_learning_rate

Micro = TypeVar("Micro")


class LossTerms(NamedTuple):
    """The contribution of one micro-batch to the loss of its step."""

    sums: dict[str, Tensor]
    """name → scalar sum over what the count of that name counts"""
    weights: Mapping[str, float]
    """name → weight of the term in the loss"""


class StepBatch(NamedTuple):
    """The input of one rank in one optimizer step."""

    micro_batches: Sequence
    """one forward pass each"""
    counts: dict[str, int]
    """name of a loss term → divisor of its sum, counted over the global batch (all ranks and micro-batches)"""
    tokens: int
    """number of tokens in the global batch, without padding"""


def scaled_loss(terms: LossTerms, counts: Mapping[str, int], ranks: int = 1) -> Tensor:
    """The contribution of a micro-batch to the loss of its step: each sum times its weight, divided by its count.

    Data-parallel training averages gradients over `ranks`; the factor `ranks` turns that mean back into a sum.
    """
    scaled = [total * (terms.weights[name] * ranks / max(1, counts[name])) for name, total in terms.sums.items()]
    return torch.stack(scaled).sum() if len(scaled) > 1 else scaled[0]


def optimizer_step(
    loss: Callable[[Micro], Tensor],
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[Micro],
    *,
    learning_rate: float,
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
    without_sync: Callable[[], AbstractContextManager] = nullcontext,
) -> None:
    """One optimizer step over the micro-batches of this rank.

    `loss(micro_batch)` is its contribution to the loss of the step (`scaled_loss`); `learning_rate` is a share of the highest learning rate
    of each parameter group; `backward(loss)` accumulates gradients. Ranks exchange gradients once, in the last backward pass: earlier ones
    run inside `without_sync()`. Gradients are clipped inside `optimizer.step` (see `make_optimizer`), after a scaler has unscaled them.
    """
    set_learning_rate(optimizer, learning_rate)
    for number, micro_batch in enumerate(micro_batches, start=1):
        with nullcontext() if number == len(micro_batches) else without_sync():
            backward(loss(micro_batch))
    optimizer.step()
    optimizer.zero_grad()
