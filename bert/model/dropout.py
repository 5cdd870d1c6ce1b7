"""Dropout whose random bits a compiled step makes by itself, out of a number of each element and two keys."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """nn.Dropout, by `drop`."""

    def forward(self, x: Tensor) -> Tensor:
        """x, in training without a share `p` of its elements."""
        return drop(x, self.p) if self.training else x


def drop(x: Tensor, rate: float) -> Tensor:
    """Each element of x is 0 with probability `rate` (0 ≤ rate < 1), else divided by 1 − rate (Srivastava et al. 2014).

    Uncompiled it is PyTorch's. The compiler would make its Philox numbers one at a time on a CPU, which takes as long as all
    the rest of a small model's step; a hash is a dozen operations on whole vectors, fused with what stands around.
    """
    if rate == 0.0:
        return x
    if not torch.compiler.is_compiling():
        return F.dropout(x, rate)
    keys = torch.randint(-(2**31), 2**31, (2,), device=x.device)
    number = torch.arange(math.prod(x.shape), dtype=torch.int32, device=x.device).view(x.shape)
    kept = hashed(number, keys.to(torch.int32)) >= int(rate * 2**32) - 2**31
    return torch.where(kept, x * (1 / (1 - rate)), 0.0)


def hashed(number: Tensor, keys: Tensor) -> Tensor:
    """Random 32 bits for each number (int32, any shape), a one-to-one map of them for each pair of keys (2,).

    The mixing of Wellons 2018 ("hash prospector", lowbias32), with a key in front and one in the middle.
    """
    x = number ^ keys[0]
    x = (x ^ _right(x, 16)) * 0x21F0AAAD
    x = (x ^ _right(x, 15) ^ keys[1]) * 0x735A2D97
    return x ^ _right(x, 15)


def _right(x: Tensor, places: int) -> Tensor:
    """x without its last `places` bits, zeros in front: a shift as that of an unsigned number."""
    return (x >> places) & ((1 << (32 - places)) - 1)
