"""Dropout whose random bits a compiled step makes by itself, out of a number of each element and two keys."""

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

    Uncompiled it is PyTorch's. The compiler would make Philox numbers one at a time on a CPU, two fifths of the step of a small
    BERT; a hash is a dozen operations on whole vectors, fused with what stands around.
    """
    if rate == 0.0:
        return x
    if not torch.compiler.is_compiling():
        return F.dropout(x, rate)
    # Sums, which have a loop of their own: the compiler would draw a bare number anew for each vector of the loop that uses it.
    keys = torch.randint(-(2**31), 2**31, (2, 16), device=x.device).sum(1)
    number = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
    # 1 where the hash, without its sign, is not below the rate. By bits: a comparison makes truth values, which a CPU stores for the
    # backward pass one at a time.
    below = (int(rate * 2**31) - 1) - (hashed(number, keys.to(torch.int32)) & (2**31 - 1))
    return x * _right(below, 31).to(x.dtype) * (1 / (1 - rate))


def hashed(number: Tensor, keys: Tensor) -> Tensor:
    """Random 32 bits for each number (int32, any shape), a one-to-one map of them for each pair of keys (2,).

    The mixing of Wellons 2018 ("hash prospector", lowbias32), with a key in front and one in the middle.
    """
    x = number ^ keys[0]
    x = (x ^ _right(x, 16)) * 0x21F0AAAD
    x = (x ^ _right(x, 15) ^ keys[1]) * 0x735A2D97
    return x ^ _right(x, 15)


def _right(x: Tensor, positions: int) -> Tensor:
    """x without its last `positions` bits, zeros in front: a shift as that of an unsigned number."""
    return (x >> positions) & ((1 << (32 - positions)) - 1)
