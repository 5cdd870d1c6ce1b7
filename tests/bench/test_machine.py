"""The machine: the products of a model are those of the operations formula, rates are operations over time, and the peak of memory
begins anew when it is told to."""

import mmap
import sys

import pytest
import torch

from bert.bench import machine
from bert.bench.machine import forget_peak, matrix_rate, measure_peaks, model_shapes, peak
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.flops import training_flops

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "fields", [{}, {"gated": False, "num_layers": 1}, {"num_kv_heads": 1, "embedding_size": 16}], ids=str
)
def test_the_products_of_a_model_are_those_that_the_formula_counts(fields):
    """A third of training is forward; attention over no keys leaves the products with weights."""
    size = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 48, "max_length": 16}
    config, head = EncoderConfig(96, **(size | fields)), HeadConfig()
    shapes = model_shapes(config, head, sequences=4, sequence_length=16, slots=3)
    products = sum(2 * sequences * inner * columns for sequences, inner, columns in shapes)
    assert 3 * products == training_flops(config, head, tokens=64, slots=12, visible=0)


def test_a_rate_is_operations_over_the_shortest_time(monkeypatch):
    monkeypatch.setattr(machine, "shortest", lambda work, device, seconds: (work(), 0.5)[1])
    assert matrix_rate([(8, 4, 2), (2, 2, 2)], torch.float32, CPU, 0.1) == 2 * (8 * 4 * 2 + 2 * 2 * 2) / 0.5


def test_ceilings_are_positive_and_the_shape_is_one_of_those_measured():
    found = measure_peaks(CPU, [(16, 16, 16)], 0.01)
    assert min(found.own_shapes, found.fp32, found.copy, found.triad) > 0
    assert found.bf16 >= found.own_shapes
    assert found.best_shape in machine.CPU_SHAPES


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
