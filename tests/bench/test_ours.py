"""Our step in a measurement is the step of a run, and its operations are those of the batches that it saw."""

import lightning as L
import pytest
import torch

from bert.bench.documents import packed
from bert.bench.ours import OurSteps, operations_per_token, split_time, steps_of
from bert.model.operations import training_operations
from bert.pretraining.stream import StepLoader, split_batch
from bert.training.trainer import make_trainer

from .synthetic import LENGTH, RECIPE, TEXT

SPLIT = split_batch(8, 4, 1)


def stream():
    return packed(TEXT, LENGTH, 8, RECIPE.masking, 0)


class Take(L.Callback):
    """Keeps the gradients of a step, before they are clipped and used."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients = {name: parameter.grad.clone() for name, parameter in pl_module.named_parameters()}


def test_a_step_has_the_gradients_of_a_step_in_lightning():
    ours, inside = (OurSteps(RECIPE, SPLIT, compiled=False) for _ in range(2))  # the same weights
    for batch in steps_of(stream(), SPLIT, 0, 1)[0]:
        ours.forward(batch).backward()
    taken = Take()
    loader = StepLoader(stream(), SPLIT, steps=1)
    make_trainer(RECIPE.trainer | {"logger": False}, [taken], [], [], SPLIT.accumulation, None).fit(
        inside.module, loader
    )
    for name, parameter in ours.module.named_parameters():
        assert torch.allclose(parameter.grad, taken.gradients[name], atol=1e-6), name


def test_tokens_and_positions_of_a_contender_are_those_of_its_batches():
    steps = steps_of(stream(), SPLIT, 0, 3)
    contender = OurSteps(RECIPE, SPLIT, compiled=False).contender(steps)
    assert contender.tokens == [sum(int((batch["document_ids"] > 0).sum()) for batch in batches) for batches in steps]
    assert contender.positions == [8 * LENGTH] * 3
    contender.turn(4)
    assert contender.done == 4


def test_operations_are_the_formula_over_real_tokens_targets_and_visible_keys():
    steps = steps_of(stream(), SPLIT, 0, 2)
    documents = torch.cat([batch["document_ids"] for batches in steps for batch in batches])
    tokens = int((documents > 0).sum())
    targets = sum(int((batch["labels"] >= 0).sum()) for batches in steps for batch in batches)
    pairs = int(((documents[:, :, None] == documents[:, None]) & (documents > 0)[:, None]).sum())
    whole = training_operations(RECIPE.encoder, RECIPE.head, tokens, targets, pairs / tokens)
    assert operations_per_token(RECIPE, steps) == pytest.approx(whole / tokens)


def test_every_part_of_a_step_takes_time():
    parts = split_time(OurSteps(RECIPE, SPLIT, compiled=False), stream(), SPLIT, steps=2)
    assert min(parts.data, parts.forward, parts.backward, parts.optimizer) > 0
