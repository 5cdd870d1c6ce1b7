"""The machine: the products of a model are those of the FLOPs formula, rates are FLOPs over time, and the memory peak can be
reset."""

import mmap
import sys

import pytest
import torch

from bert.bench import machine
from bert.bench.machine import matrix_rate, measure_peaks, model_shapes, peak_gib, reset_peak_memory
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.flops import training_flops

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "fields", [{}, {"gated": False, "num_layers": 1}, {"num_kv_heads": 1, "embedding_size": 16}], ids=str
)
def test_the_products_of_a_model_are_those_that_the_formula_counts(fields):
    """The forward pass is a third of training; without visible keys, only the products with weights remain."""
    size = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 48, "max_length": 16}
    config, head = EncoderConfig(96, **(size | fields)), HeadConfig()
    shapes = model_shapes(config, head, sequences=4, sequence_length=16, masked=3)
    products = sum(2 * sequences * inner * columns for sequences, inner, columns in shapes)
    assert 3 * products == training_flops(config, head, tokens=64, slots=12, visible=0)


def test_a_rate_is_flops_over_the_shortest_time(monkeypatch):
    monkeypatch.setattr(machine, "shortest", lambda work, device, seconds: (work(), 0.5)[1])
    assert matrix_rate([(8, 4, 2), (2, 2, 2)], torch.float32, CPU, 0.1) == 2 * (8 * 4 * 2 + 2 * 2 * 2) / 0.5


def test_peaks_are_positive_and_the_shape_is_one_of_those_measured():
    found = measure_peaks(CPU, [(16, 16, 16)], 0.01)
    assert min(found[name] for name in ("model_shapes", "fp32", "copy", "triad")) > 0
    assert found["bf16"] >= found["model_shapes"]
    assert found["best_shape"] in machine.CPU_SHAPES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process can be reset on Linux alone")
def test_a_peak_is_seen_after_its_memory_is_free_again_and_then_forgotten():
    reset_peak_memory(CPU)
    before = peak_gib(CPU)
    with mmap.mmap(-1, 64 * 2**20) as block:  # not the heap, which keeps what is freed
        block.write(b"1" * 64 * 2**20)
    high = peak_gib(CPU)
    assert high >= before + 60 / 1024
    reset_peak_memory(CPU)
    assert peak_gib(CPU) <= high - 30 / 1024
