"""Ceilings: the products of a model are those of the operations formula, and rates are operations over time."""

import pytest
import torch

from bert.bench import ceilings
from bert.bench.ceilings import matrix_rate, measure_ceilings, model_shapes
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.operations import training_operations

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "fields", [{}, {"gated": False, "num_layers": 1}, {"num_kv_heads": 1, "embedding_size": 16}], ids=str
)
def test_the_products_of_a_model_are_those_that_the_formula_counts(fields):
    """A third of training is forward; attention over no keys leaves the products with weights."""
    size = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 48, "max_length": 16}
    config, head = EncoderConfig(96, **(size | fields)), HeadConfig()
    shapes = model_shapes(config, head, rows=4, row_length=16, slots=3)
    products = sum(2 * rows * inner * columns for _, (rows, inner, columns) in shapes)
    assert 3 * products == training_operations(config, head, tokens=64, slots=12, visible=0)


def test_a_rate_is_operations_over_the_shortest_time(monkeypatch):
    monkeypatch.setattr(ceilings, "shortest", lambda work, device, seconds: (work(), 0.5)[1])
    assert matrix_rate([(8, 4, 2), (2, 2, 2)], torch.float32, CPU, 0.1) == 2 * (8 * 4 * 2 + 2 * 2 * 2) / 0.5


def test_ceilings_are_positive_and_the_shape_is_one_of_those_given():
    found = measure_ceilings(CPU, 0.01, shapes=((64, 64, 64), (32, 64, 128)))
    assert min(found.bf16, found.fp32, found.copy, found.triad) > 0
    assert found.best_shape in ((64, 64, 64), (32, 64, 128))
