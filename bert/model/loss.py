"""Losses as sums over labeled positions, and cross-entropy over a vocabulary from hidden vectors with an explicit gradient.

PyTorch's own derivative costs passes over the scores (N, V), the largest tensor of a step: it computes log-probabilities, sums one-hot
vectors over the vocabulary although each has a single 1, and first copies the bias into place.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""label of positions that have no label"""


def cross_entropy(
    scores: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(sum, count) of the cross-entropy of `scores` (..., C) at class ids `labels` (...), except `IGNORED`; in fp32.

    `weights` (C,): what an example of each class counts. `smoothing`: the share of the target that all classes have together (label
    smoothing; Szegedy et al. 2016)."""
    how = {"ignore_index": IGNORED, "reduction": "sum", "label_smoothing": smoothing}
    total = F.cross_entropy(scores.flatten(0, -2).float(), labels.flatten(), weights, **how)  # type: ignore[arg-type]
    return total, (labels != IGNORED).sum()


def binary_cross_entropy(
    scores: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(sum, count) of the binary cross-entropy of log-odds `scores` (...) and labels 0 or 1 (...), except `IGNORED`; in fp32.

    `weights` (C,): what an example with each label counts beside one without it. `smoothing`: targets are this share nearer to 1/2."""
    asked, targets = labels != IGNORED, labels.clamp(min=0).float() * (1 - smoothing) + smoothing / 2
    losses = F.binary_cross_entropy_with_logits(scores.float(), targets, reduction="none", pos_weight=weights)
    return (losses * asked).sum(), asked.sum()


def squared_error(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, count) of the squared differences between `scores` and as many `labels`; in fp32."""
    return (scores.flatten().float() - labels.flatten()).square().sum(), torch.tensor(labels.numel())


Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""scores and labels → (sum, count)"""
LOSSES: dict[str, Loss] = {
    "single_label_classification": cross_entropy,
    "multi_label_classification": binary_cross_entropy,
    "regression": squared_error,
}
"""Hugging Face's `problem_type` → loss"""


def linear_cross_entropy(hidden: Tensor, matrix: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """(): the sum of -log softmax(hidden · matrixᵀ + bias)[label] over the positions whose label is not `IGNORED`.

    `hidden` (N, D), `matrix` (V, D) and `bias` (V,) have one floating dtype, in which they are multiplied; softmax and sum are in fp32
    or more. `labels` is (N,). The scores are kept in that dtype for the backward pass. First derivatives only.
    """
    return _LinearCrossEntropy.apply(hidden, matrix, bias, labels)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, matrix: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        products = hidden @ matrix.T  # (N, V)
        scores = _scores(products, bias)
        normalizers = scores.logsumexp(dim=-1)  # (N,)
        of_label = scores.gather(-1, labels.clamp(min=0)[:, None])[:, 0]
        ctx.save_for_backward(hidden, matrix, bias, labels, products, normalizers)
        return torch.where(labels == IGNORED, 0.0, normalizers - of_label).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        hidden, matrix, bias, labels, products, normalizers = ctx.saved_tensors
        share = torch.where(labels == IGNORED, 0.0, gradient)[:, None]  # (N, 1)
        scores, at_label = _scores(products, bias), labels.clamp(min=0)[:, None]
        probabilities = (scores - normalizers[:, None]).exp()
        of_label = (scores.gather(-1, at_label) - normalizers[:, None]).exp()
        # The gradient is the probabilities, minus 1 at the label. It is written there alone, without a comparison for every entry.
        of_scores = (probabilities * share).to(products.dtype)
        of_scores = of_scores.scatter(-1, at_label, ((of_label - 1) * share).to(products.dtype))
        of_bias = None if bias is None else of_scores.sum(dim=0, dtype=scores.dtype).to(bias.dtype)
        return of_scores @ matrix, of_scores.T @ hidden, of_bias, None


def _scores(products: Tensor, bias: Tensor | None) -> Tensor:
    """The scores in fp32 or more, from products in the dtype of the multiplication."""
    exact = torch.promote_types(products.dtype, torch.float32)
    return products.to(exact) if bias is None else products.to(exact) + bias.to(exact)
