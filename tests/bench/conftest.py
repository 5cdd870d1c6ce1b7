"""Hardware peaks at toy sizes: the speed of the machine does not matter in these tests."""

import pytest

from bert.bench import machine


@pytest.fixture(autouse=True)
def small_peaks(monkeypatch):
    """Products and vectors so small that they take no time."""
    monkeypatch.setattr(machine, "CPU_SHAPES", ((64, 64, 64), (32, 64, 32)))
    monkeypatch.setattr(machine, "CPU_VECTOR", 10_000)
