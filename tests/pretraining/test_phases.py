"""Phases: which sequences a step reads is a function of its number, however a run is dealt out, and Lightning follows."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.pretraining.config import DataConfig, MaskingConfig, PhaseConfig, PretrainRecipe
from bert.pretraining.inputs import make_splits
from bert.pretraining.masking import NO_TARGET
from bert.pretraining.module import MaskedLMTraining
from bert.pretraining.phases import Phased, longest_sequence, plan
from bert.pretraining.stream import StepLoader
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig

from .synthetic import ENCODER, VALUES, fit, make_sequences, phased

# Lengths, sequences and shares of masks change, the first length comes again, and a step is 1, 2 or 3 micro-batches.
RECIPE = PretrainRecipe(
    data=DataConfig(sequence_length=24, batch_size=4, micro_batch_size=2),
    masking=MaskingConfig(rate=0.2),
    encoder=ENCODER,
    phases=[
        PhaseConfig(tokens=100.0, mask_rate=0.3),  # 96 positions a step: 2 steps, 4 micro-batches
        PhaseConfig(tokens=96.0, sequence_length=16, batch_size=6),  # 96 positions: 1 step, 3 micro-batches
        PhaseConfig(tokens=1.0, batch_size=6),  # 1 step
        PhaseConfig(sequence_length=16, micro_batch_size=4, rope_theta=500.0),
    ],
)

PHASES = st.builds(
    PhaseConfig,
    sequence_length=st.sampled_from([None, 8, 16, 24]),
    batch_size=st.sampled_from([None, 4, 8, 12]),
    mask_rate=st.sampled_from([None, 0.1, 0.4]),
)


@st.composite
def recipes(draw):
    tokens = draw(st.lists(st.integers(1, 2000), max_size=4))
    phases = [replace(draw(PHASES), tokens=float(count)) for count in tokens] + [draw(PHASES)]
    return PretrainRecipe(data=DataConfig(sequence_length=24, batch_size=4), encoder=ENCODER, phases=phases)


@settings(deadline=None)
@given(recipes(), st.integers(1, 60))
def test_the_plan_is_that_of_playing_the_run_from_its_start(recipe, steps):
    """One step after the other: a phase ends when its positions are used up, and each sequence length counts its own sequences."""
    phases, number, used, sequences = plan(recipe), 0, 0, dict[int, int]()
    for step in range(steps):
        config = recipe.phases[number]
        length, batch_size = config.sequence_length or 24, config.batch_size or 4
        phase = phases.at(step)
        assert (phase.recipe.data.sequence_length, phase.recipe.data.batch_size) == (length, batch_size)
        assert phase.recipe.masking.rate == (config.mask_rate or recipe.masking.rate)
        assert phase.first_sequence_of(step) == sequences.get(length, 0)
        sequences[length] = sequences.get(length, 0) + batch_size
        used += length * batch_size
        if used >= (config.tokens or math.inf):
            number, used = number + 1, 0
    assert longest_sequence(recipe) == max(config.sequence_length or 24 for config in recipe.phases)


def test_a_recipe_without_phases_is_one_phase_from_sequence_0_on():
    phases = plan(PretrainRecipe())
    assert phases.first_steps == (0,)
    assert phases.at(7).first_sequence_of(7) == 7 * PretrainRecipe().data.batch_size
    assert phases.at(7).recipe == PretrainRecipe()


def test_a_value_that_is_always_the_same_is_so_at_every_step():
    always = Phased.always("here")
    assert [always.at(step) for step in (0, 1, 10**9)] == ["here"] * 3
    assert Phased.always(always) is always
    assert list(Phased((0, 3), "ab").spans()) == [(0, 3, "a"), (3, math.inf, "b")]


@settings(max_examples=25, deadline=None)
@given(recipes(), st.integers(0, 12), st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)]))
def test_every_split_over_ranks_and_accumulation_sees_the_same_sequences_and_masks(recipe, step, dealt):
    ranks, micro_sequences = dealt
    whole_streams, whole_splits = phased(recipe)
    streams, splits = phased(replace(recipe, data=replace(recipe.data, micro_batch_size=micro_sequences)), ranks)
    whole = whole_streams.at(step).micro_batch(step, whole_splits.at(step))
    parts = [
        streams.at(step).micro_batch(step, splits.at(step), rank, micro)
        for micro in range(splits.at(step).accumulation)
        for rank in range(ranks)
    ]
    for name in ("input_ids", "document_ids", "labels"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
    assert {part["global_targets"] for part in parts} == {int((whole["labels"] != NO_TARGET).sum())}


def test_slots_of_a_phase_follow_its_rate_and_its_length():
    streams, splits = phased(RECIPE)
    for step, slots in ((0, round(0.3 * 24)), (2, round(0.2 * 16)), (3, round(0.2 * 24)), (4, round(0.2 * 16))):
        batch = streams.at(step).micro_batch(step, splits.at(step))
        assert len(batch["labels"]) == len(batch["input_ids"]) * slots


def test_sequences_of_each_length_come_once_an_epoch_whatever_stands_between():
    """The tokens of the first epoch of sequences of 24 and of 16 positions are each the whole text."""
    recipe = PretrainRecipe(
        data=DataConfig(sequence_length=24, batch_size=4),
        encoder=ENCODER,
        phases=[
            *(PhaseConfig(tokens=500.0), PhaseConfig(tokens=400.0, sequence_length=16)),
            *(PhaseConfig(tokens=900.0), PhaseConfig(tokens=1e5, sequence_length=16), PhaseConfig()),
        ],
    )
    streams, _ = phased(recipe)
    seen = {16: [], 24: []}
    for step in range(streams.first_steps[-1] + 200):
        stream = streams.at(step)
        seen[stream.sequences.sequence_length].extend(stream.batch(step)[0])
    for length, sequences in seen.items():
        tokens = np.concatenate(sequences[: make_sequences(length).sequences_in_epoch])
        assert sorted(tokens[tokens >= 5]) == sorted(VALUES)


def test_sequences_of_one_number_and_two_lengths_are_masked_apart():
    """Were the masks keyed by the number alone, the same positions of both sequences would be hidden first."""
    phases = [PhaseConfig(tokens=1.0, sequence_length=16), PhaseConfig(tokens=1.0, sequence_length=24), PhaseConfig()]
    recipe = PretrainRecipe(data=DataConfig(sequence_length=24, batch_size=64), encoder=ENCODER, phases=phases)
    streams, splits = phased(recipe)
    first = []
    for step in (0, 1):
        batch = streams.at(step).micro_batch(step, splits.at(step))
        first.append(batch["targets"].view(64, -1)[:, 0] % streams.at(step).sequences.sequence_length)
    assert (first[0] == first[1]).float().mean() < 0.5


def test_a_phase_like_the_recipe_has_the_batches_of_a_run_without_phases():
    recipe = PretrainRecipe(data=DataConfig(sequence_length=24, batch_size=4), encoder=ENCODER, seed=3)
    batches = []
    for phases in ([], [PhaseConfig(tokens=200.0), PhaseConfig()]):
        streams, splits = phased(replace(recipe, phases=phases))
        batches.append([streams.at(step).micro_batch(step, splits.at(step)) for step in range(5)])
    for one, other in zip(*batches):
        assert all(torch.equal(one[name], other[name]) for name in ("input_ids", "targets", "labels"))


@pytest.mark.parametrize(("first", "workers"), [(0, 0), (0, 2), (1, 0), (2, 0), (3, 2), (4, 0), (7, 0)])
def test_the_loader_goes_through_the_phases_from_any_step_on(first, workers):
    streams, splits = phased(RECIPE)
    loader = StepLoader(streams, splits, first_step=lambda: first, steps=8, workers=workers)
    expected = [
        streams.at(step).micro_batch(step, splits.at(step), 0, micro)
        for step in range(first, 8)
        for micro in range(splits.at(step).accumulation)
    ]
    got = list(loader)
    assert len(got) == len(expected)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(got, expected))


def train(recipe, steps, compiled=False, **encoder):
    streams, splits = phased(recipe)
    torch.manual_seed(0)
    model = MaskedLM(EncoderConfig(**{**ENCODER.__dict__, **encoder}))
    stop = StopConfig(steps=steps)
    module = MaskedLMTraining(model, OptimizerConfig(), ScheduleConfig(), stop, splits, seed=5, compiled=compiled)
    module.rope_theta = plan(recipe).map(lambda phase: phase.recipe.encoder.rope_theta)
    seen = []
    real = module.training_step

    def step(batch, batch_idx):
        loss = real(batch, batch_idx)
        seen.append((int(module.progress.step), tuple(batch["input_ids"].shape), model.encoder.config.rope_theta))
        return loss

    module.training_step = step
    trainer = fit(module, splits, stream=streams)
    return module, trainer, seen


def test_lightning_steps_after_the_micro_batches_of_each_phase():
    module, trainer, seen = train(RECIPE, steps=7)
    theta = ENCODER.rope_theta
    assert seen == [
        *((step, (2, 24), theta) for step in (0, 0, 1, 1)),
        *((2, (2, 16), theta) for _ in range(3)),
        *((3, (2, 24), theta) for _ in range(3)),
        *((step, (4, 16), 500.0) for step in (4, 5, 6)),
    ]
    assert trainer.global_step == module.progress.step == 7
    assert module.model.config.rope_theta == 500.0


def test_accumulation_that_changes_gives_the_steps_of_whole_batches():
    phases = [replace(phase, micro_batch_size=None) for phase in RECIPE.phases]
    whole = replace(RECIPE, data=replace(RECIPE.data, micro_batch_size=None), phases=phases)
    weights = []
    for recipe in (RECIPE, whole):
        module, _, _ = train(recipe, steps=8)
        weights.append(torch.cat([p.detach().flatten() for p in module.model.parameters()]))
    assert torch.allclose(weights[0], weights[1], atol=5e-5)


def test_a_run_that_ends_with_a_phase_keeps_its_rotary_base():
    """The model that is saved has the base that it was trained with, not that of a phase that never began."""
    assert train(RECIPE, steps=4)[0].model.config.rope_theta == ENCODER.rope_theta


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"tokens": 5.0}], "phases: phase 1 is the last and has tokens 5: leave them out, stop says when it ends"),
        (
            [{"sequence_length": 16}, {}],
            "phases: phase 1 has no tokens: say how long it lasts, only the last phase may leave it open",
        ),
        ([{"tokens": 5.0}, {"tokens": 0.0}, {}], "phases: phase 2: tokens is 0.0: give a finite number above 0"),
        ([{"tokens": float("inf")}, {}], "phases.tokens is inf: give a finite number"),
        ([{"rope_theta": float("inf")}], "phases.rope_theta is inf: give a finite number"),
        ([{"sequence_length": 4}], "phases: phase 1: sequence_length is 4: give 8 or more"),
        ([{"mask_rate": 1.0}], "phases: phase 1: mask_rate is 1.0: give a share between 0 and 1"),
        (
            [{"sequence_length": 1024}],
            "phases: phase 1: sequence_length 1024 is longer than encoder.max_length 512: lower the one or raise the other",
        ),
    ],
)
def test_phases_that_cannot_be_are_refused(phases, message):
    with pytest.raises(InputError) as error:
        PretrainRecipe(phases=[PhaseConfig(**phase) for phase in phases])
    assert str(error.value) == message


def test_a_rotary_base_is_refused_where_nothing_rotates():
    with pytest.raises(InputError) as error:
        PretrainRecipe(encoder=EncoderConfig(positions="learned"), phases=[PhaseConfig(rope_theta=1e4)])
    assert str(error.value) == "phases: phase 1 has a rope_theta and encoder.positions is learned: leave it out"


def test_batches_of_a_phase_that_do_not_divide_are_refused():
    recipe = PretrainRecipe(phases=[PhaseConfig(tokens=1.0), PhaseConfig(batch_size=30, micro_batch_size=4)])
    with pytest.raises(InputError) as error:
        make_splits(recipe, 2)
    assert str(error.value) == (
        "phase 2: data.batch_size 30 over 2 devices is 15 sequences each, which data.micro_batch_size 4 does not divide: give a divisor of 15"
    )
