"""The peak of memory begins anew when it is told to."""

import mmap
import sys

import pytest
import torch

from bert.bench.peak import forget_peak, peak

CPU = torch.device("cpu")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process can be reset on Linux alone")
def test_a_peak_is_seen_after_its_memory_is_free_again_and_then_forgotten():
    forget_peak(CPU)
    before = peak(CPU)
    with mmap.mmap(-1, 64 * 2**20) as block:  # not the heap, which keeps what is freed
        block.write(b"1" * 64 * 2**20)
    high = peak(CPU)
    assert high >= before + 60 * 2**20
    forget_peak(CPU)
    assert peak(CPU) <= high - 30 * 2**20
