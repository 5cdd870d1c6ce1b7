"""HardwarePeaks of toys: what the machine can do is no matter of these tests."""

import pytest

from bert.bench import machine


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch):
    """Products and vectors that take no time."""
    monkeypatch.setattr(machine, "CPU_SHAPES", ((64, 64, 64), (32, 64, 32)))
    monkeypatch.setattr(machine, "CPU_VECTOR", 10_000)
