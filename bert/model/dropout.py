"""Dropout whose random bits a compiled step computes itself, from the index of each element and two keys. Used by attention and layers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """nn.Dropout, computed by `drop`."""

    def forward(self, x: Tensor) -> Tensor:
        """x; in training, with each element dropped with probability `p`."""
        return drop(x, self.p) if self.training else x


def drop(x: Tensor, rate: float) -> Tensor:
    """Set each element of x to 0 with probability `rate` (0 ≤ rate < 1), otherwise divide it by 1 − rate (Srivastava et al. 2014).

    On a GPU it is PyTorch's dropout. On a CPU PyTorch draws a number for each element, which takes an eighth of the step of a small BERT;
    four of 16 bits from one of 64 take a seventh of that. The compiler generates Philox numbers one at a time on a CPU, two fifths of the
    step; a hash is a dozen vector operations, fused with the surrounding ones.
    """
    if rate == 0.0:
        return x
    if not torch.compiler.is_compiling():
        if x.device.type != "cpu":
            return F.dropout(x, rate)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        is_kept = bits[: x.numel()].view(x.shape) >= int(rate * 2**16) - 2**15
        return x * is_kept.to(x.dtype).mul_(1 / (1 - rate))
    # Sums have a loop of their own: the compiler would draw a single number again for each vector of the loop that uses it.
    keys = torch.randint(-(2**31), 2**31, (2, 16), device=x.device).sum(1)
    number = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
    # 1 if the hash, without its sign, is not below the rate. With bit operations, as a comparison gives booleans, which a CPU stores one
    # at a time for the backward pass.
    below = (int(rate * 2**31) - 1) - (hashed(number, keys.to(torch.int32)) & (2**31 - 1))
    return x * _right(below, 31).to(x.dtype) * (1 / (1 - rate))


def hashed(number: Tensor, keys: Tensor) -> Tensor:
    """32 random bits for each number (int32, any shape): a one-to-one function for each pair of keys (2,).

    The mixing function of Wellons 2018 ("hash prospector", lowbias32), with one key before it and one in the middle.
    """
    x = number ^ keys[0]
    x = (x ^ _right(x, 16)) * 0x21F0AAAD
    x = (x ^ _right(x, 15) ^ keys[1]) * 0x735A2D97
    return x ^ _right(x, 15)


def _right(x: Tensor, positions: int) -> Tensor:
    """x shifted right by `positions` bits, as an unsigned number."""
    return (x >> positions) & ((1 << (32 - positions)) - 1)
