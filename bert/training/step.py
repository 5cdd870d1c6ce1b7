"""The training step: one function that reads from top to bottom, used by training, by `bench` and by tests.

The loss of a step is a sum over the global batch divided by the count of the global batch, never a mean of means: every micro-batch on
every rank divides its sums by the counts of the whole step, so that gradients simply add up.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from bert.training.optimizers import set_learning_rate

Micro = TypeVar("Micro")


class LossTerms(NamedTuple):
    """What one micro-batch adds to the loss of its step."""

    sums: dict[str, Tensor]
    """by name, a scalar each: the sum over what the count of that name counts"""
    weights: Mapping[str, float]
    """by name, the weight of each term in the loss"""


class StepBatch(NamedTuple):
    """What one rank reads in one optimizer step."""

    micro_batches: Sequence
    """each is one forward pass"""
    counts: dict[str, int]
    """by name of a loss term, what its sum is divided by: counted over the global batch, all ranks and micro-batches"""
    tokens: int
    """tokens of the global batch, padding not counted"""


def scaled_loss(terms: LossTerms, counts: Mapping[str, int], ranks: int = 1) -> Tensor:
    """The share of a micro-batch in the loss of its step: each sum times its weight, over its count.

    Data-parallel training averages gradients over `ranks`; the factor turns that mean back into a sum.
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

    `loss(micro_batch)` is its share in the loss of the step (`scaled_loss`); `learning_rate` the share of the highest learning rate of
    each parameter group; `backward(loss)` adds its gradients. Ranks exchange gradients once, in the last backward pass: the others run
    inside `without_sync()`. Gradients are clipped inside `optimizer.step` (see `make_optimizer`), after a scaler has unscaled them.
    """
    set_learning_rate(optimizer, learning_rate)
    for number, micro_batch in enumerate(micro_batches, start=1):
        with nullcontext() if number == len(micro_batches) else without_sync():
            backward(loss(micro_batch))
    optimizer.step()
    optimizer.zero_grad()
