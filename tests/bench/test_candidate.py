"""The measured step is the step of a run, and its FLOPs are those of its batches; in a profile, shares add up to a whole and names have
kinds."""

from dataclasses import replace

import pytest
import torch

from bert.bench.documents import packed
from bert.bench.measurement import TimedSteps
from bert.bench.steps import (
    Candidate,
    flops_per_token,
    kind_of,
    split_time,
    steps_of,
    times_table,
    where_the_time_goes,
)
from bert.model.flops import training_flops
from bert.pretraining.module import PretrainingModule
from bert.pretraining.objective import OBJECTIVES
from bert.pretraining.stream import StepLoader
from bert.training.config import ScheduleConfig, StopConfig
from bert.training.trainer import make_trainer

from .synthetic import LENGTH, RECIPE, TEXT


@pytest.mark.parametrize(
    ("objective", "micro_batch_size"), [("masked_lm", 8), ("masked_lm", 4), ("masked_lm", 2), ("toy", 4)]
)
def test_a_step_leaves_the_weights_of_a_step_in_lightning(objective, micro_batch_size, monkeypatch):
    """Bit for bit: both are one function, and the objective is that of the recipe. The learning rate of a run of one step is that of its
    middle."""
    monkeypatch.setitem(OBJECTIVES, "toy", "tests.pretraining.toy_objective")
    data = replace(RECIPE.data, micro_batch_size=micro_batch_size)
    recipe = replace(RECIPE, data=data, objective=objective)
    candidate, inside = (Candidate(recipe) for _ in range(2))  # the same weights
    configs = recipe.optimizer, ScheduleConfig(kind="linear", warmup=0.0, final=0.0), StopConfig(steps=1)
    module = PretrainingModule(inside.model, inside.objective, *configs)  # half the highest rate, as in a measurement
    trainer = make_trainer(recipe.trainer | {"logger": False}, [], [], [], None)
    trainer.fit(module, StepLoader(packed(TEXT, recipe), inside.objective.counts, steps=1))
    (batch,) = steps_of(TEXT, recipe, 1)
    assert len(batch.micro_batches) == 8 // micro_batch_size
    assert set(batch.counts) == set(candidate.objective.weights)
    candidate.step(batch)
    for (name, one), other in zip(candidate.model.named_parameters(), inside.model.parameters()):
        assert torch.equal(one, other), name


def test_tokens_and_positions_of_timed_steps_are_those_of_its_batches():
    steps = steps_of(TEXT, RECIPE, 3)
    candidate = Candidate(RECIPE)
    timed = TimedSteps(candidate.step, steps, candidate.device)
    assert timed.tokens == [
        sum(int((micro["document_ids"] > 0).sum()) for micro in batch.micro_batches) for batch in steps
    ]
    assert timed.positions == [8 * LENGTH] * 3
    timed.run(4)
    assert timed.done == 4


def test_flops_are_the_formula_over_tokens_masked_positions_and_visible_keys():
    steps = steps_of(TEXT, RECIPE, 2)
    documents = torch.cat([micro["document_ids"] for batch in steps for micro in batch.micro_batches])
    tokens = int((documents > 0).sum())
    masked = sum(int((batch["labels"] >= 0).sum()) for step in steps for batch in step.micro_batches)
    pairs = int(((documents[:, :, None] == documents[:, None]) & (documents > 0)[:, None]).sum())
    whole = training_flops(RECIPE.encoder, RECIPE.head, tokens, masked, pairs / tokens)
    assert flops_per_token(RECIPE, steps) == pytest.approx(whole / tokens)


def test_every_part_of_a_step_takes_time():
    parts = split_time(Candidate(RECIPE), packed(TEXT, RECIPE), steps=2)
    assert set(parts) == {"data", "forward", "backward", "optimizer"}
    assert min(parts.values()) > 0


def test_times_are_a_step_and_shares_of_the_whole():
    times = {"aten::mm": 6000.0, "aten::_fused_adamw_": 3000.0, "odd": 1000.0}
    table = times_table(times, {"aten::mm": 4, "aten::_fused_adamw_": 2, "odd": 2}, steps=2, operators=2)
    lines = table.splitlines()[2:]
    assert lines[0] == "| **matrix products** | 3.00 | 60.0% | |"
    assert "| **optimizer** | 1.50 | 30.0% | |" in lines
    assert "| aten::mm | 3.00 | 60.0% | 2 |" in lines
    assert not any(line.startswith("| odd") for line in lines)


def test_kernels_fall_into_kinds():
    for name, kind in (
        ("nvjet_tst_128x256", "matrix products"),
        ("flash_fwd_splitkv", "attention"),
        ("triton_red_fused_add_native_layer_norm", "compiled loops"),
        ("Memcpy HtoD", "copies"),
        ("aten::embedding", "other"),
    ):
        assert kind_of(name) == kind


def test_a_step_is_profiled_with_its_matrix_products():
    assert "| **matrix products** |" in where_the_time_goes(TEXT, RECIPE, steps=1)
