"""Our step in a measurement is the step of a run, and its operations are those of the batches that it saw; of where the time goes,
shares add up to a whole and names fall into kinds."""

import lightning as L
import pytest
import torch

from bert.bench.documents import packed
from bert.bench.ours import (
    CandidateSteps,
    flops_per_token,
    kind_of,
    split_time,
    steps_of,
    times_table,
    where_the_time_goes,
)
from bert.model.flops import training_flops
from bert.pretraining.stream import StepLoader
from bert.training.trainer import make_trainer

from .synthetic import LENGTH, RECIPE, TEXT


class Take(L.Callback):
    """Keeps the gradients of a step, before they are clipped and used."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients = {name: parameter.grad.clone() for name, parameter in pl_module.named_parameters()}


def test_a_step_has_the_gradients_of_a_step_in_lightning():
    ours, inside = (CandidateSteps(RECIPE) for _ in range(2))  # the same weights
    for batch in steps_of(TEXT, RECIPE, 1)[0]:
        ours.forward(batch).backward()
    taken = Take()
    loader = StepLoader(packed(TEXT, RECIPE), ours.split, steps=1)
    make_trainer(RECIPE.trainer | {"logger": False}, [taken], [], [], ours.split.accumulation, None).fit(
        inside.module, loader
    )
    for name, parameter in ours.module.named_parameters():
        assert torch.allclose(parameter.grad, taken.gradients[name], atol=1e-6), name


def test_tokens_and_positions_of_a_contender_are_those_of_its_batches():
    steps = steps_of(TEXT, RECIPE, 3)
    contender = CandidateSteps(RECIPE).contender(steps)
    assert contender.tokens == [sum(int((batch["document_ids"] > 0).sum()) for batch in batches) for batches in steps]
    assert contender.positions == [8 * LENGTH] * 3
    contender.turn(4)
    assert contender.done == 4


def test_operations_are_the_formula_over_real_tokens_targets_and_visible_keys():
    steps = steps_of(TEXT, RECIPE, 2)
    documents = torch.cat([batch["document_ids"] for batches in steps for batch in batches])
    tokens = int((documents > 0).sum())
    targets = sum(int((batch["labels"] >= 0).sum()) for batches in steps for batch in batches)
    pairs = int(((documents[:, :, None] == documents[:, None]) & (documents > 0)[:, None]).sum())
    whole = training_flops(RECIPE.encoder, RECIPE.head, tokens, targets, pairs / tokens)
    assert flops_per_token(RECIPE, steps) == pytest.approx(whole / tokens)


def test_every_part_of_a_step_takes_time():
    parts = split_time(CandidateSteps(RECIPE), packed(TEXT, RECIPE), steps=2)
    assert set(parts) == {"data", "forward", "backward", "optimizer"}
    assert min(parts.values()) > 0


def test_times_are_a_step_and_shares_of_the_whole():
    times = {"aten::mm": 6000.0, "aten::_fused_adamw_": 3000.0, "odd": 1000.0}
    table = times_table(times, {"aten::mm": 4, "aten::_fused_adamw_": 2, "odd": 2}, steps=2, sequences=2)
    lines = table.splitlines()[2:]
    assert lines[0] == "| **matrix products** | 3.00 | 60.0% | |"
    assert "| **optimiser** | 1.50 | 30.0% | |" in lines
    assert "| aten::mm | 3.00 | 60.0% | 2 |" in lines
    assert not any(line.startswith("| odd") for line in lines)


def test_kernels_fall_into_kinds():
    for name, kind in (
        ("nvjet_tst_128x256", "matrix products"),
        ("flash_fwd_splitkv", "attention"),
        ("triton_red_fused_add_native_layer_norm", "compiled loops"),
        ("Memcpy HtoD", "copies"),
        ("aten::embedding", "the rest"),
    ):
        assert kind_of(name) == kind


def test_a_step_is_profiled_with_its_matrix_products():
    assert "| **matrix products** |" in where_the_time_goes(TEXT, RECIPE, steps=1)
