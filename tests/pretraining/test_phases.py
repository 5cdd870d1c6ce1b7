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
from bert.pretraining.masking import IGNORED
from bert.pretraining.module import PretrainingModule
from bert.pretraining.objectives.masked_lm import MaskedLanguageModeling
from bert.pretraining.phases import resolve_plan
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
    phases, number, used, sequences = resolve_plan(recipe), 0, 0, dict[int, int]()
    for step in range(steps):
        config = recipe.phases[number]
        length, batch_size = config.sequence_length or 24, config.batch_size or 4
        phase = phases.at(step)
        assert (phase.sequence_length, phase.batch_size) == (length, batch_size)
        assert phase.mask_rate == (config.mask_rate or recipe.masking.rate)
        assert phase.first_sequence_of(step) == sequences.get(length, 0)
        sequences[length] = sequences.get(length, 0) + batch_size
        used += length * batch_size
        if used >= (config.tokens or math.inf):
            number, used = number + 1, 0
    assert phases.lengths == {config.sequence_length or 24 for config in recipe.phases}


def test_a_recipe_without_phases_is_one_phase_from_sequence_0_on():
    recipe = PretrainRecipe(seed=7)
    (phase,) = (plan := resolve_plan(recipe)).phases
    assert list(plan.spans()) == [(0, math.inf, phase)]
    assert plan.at(0) is plan.at(10**9) is phase
    assert phase.first_sequence_of(7) == 7 * recipe.data.batch_size
    assert (phase.sequence_length, phase.batch_size) == (recipe.data.sequence_length, recipe.data.batch_size)
    assert (phase.mask_rate, phase.mask_seed) == (recipe.masking.rate, recipe.seed)
    assert phase.rope_theta == recipe.encoder.rope_theta


@settings(max_examples=25, deadline=None)
@given(recipes(), st.integers(0, 12), st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)]))
def test_every_split_over_ranks_and_accumulation_sees_the_same_sequences_and_masks(recipe, step, dealt):
    ranks, micro_sequences = dealt
    stream = phased(replace(recipe, data=replace(recipe.data, micro_batch_size=micro_sequences)), ranks)
    whole = phased(recipe).micro_batch(step)
    accumulation = stream.plan.at(step).accumulation
    parts = [stream.micro_batch(step, micro, rank) for micro in range(accumulation) for rank in range(ranks)]
    for name in ("input_ids", "document_ids", "labels"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
    assert stream.batch(step).masked_tokens == int((whole["labels"] != IGNORED).sum())


def test_masked_positions_of_a_phase_follow_its_rate_and_its_length():
    stream = phased(RECIPE)
    for step, most in ((0, round(0.3 * 24)), (2, round(0.2 * 16)), (3, round(0.2 * 24)), (4, round(0.2 * 16))):
        batch = stream.micro_batch(step)
        assert batch["labels"].shape == (len(batch["input_ids"]), most)


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
    stream = phased(recipe)
    seen = {16: [], 24: []}
    for step in range(stream.plan.phases[-1].first_step + 200):
        seen[stream.sequences_at(step).sequence_length].extend(stream.batch(step).input_ids)
    for length, sequences in seen.items():
        tokens = np.concatenate(sequences[: make_sequences(length).sequences_in_epoch])
        assert sorted(tokens[tokens >= 5]) == sorted(VALUES)


def test_sequences_of_one_number_and_two_lengths_are_masked_apart():
    """Were the masks keyed by the number alone, the same positions of both sequences would be masked first."""
    phases = [PhaseConfig(tokens=1.0, sequence_length=16), PhaseConfig(tokens=1.0, sequence_length=24), PhaseConfig()]
    recipe = PretrainRecipe(data=DataConfig(sequence_length=24, batch_size=64), encoder=ENCODER, phases=phases)
    stream = phased(recipe)
    first = [stream.micro_batch(step)["masked_positions"][:, 0] for step in (0, 1)]
    assert (first[0] == first[1]).float().mean() < 0.5


def test_a_phase_like_the_recipe_has_the_batches_of_a_run_without_phases():
    recipe = PretrainRecipe(data=DataConfig(sequence_length=24, batch_size=4), encoder=ENCODER, seed=3)
    batches = []
    for phases in ([], [PhaseConfig(tokens=200.0), PhaseConfig()]):
        stream = phased(replace(recipe, phases=phases))
        batches.append([stream.micro_batch(step) for step in range(5)])
    for one, other in zip(*batches):
        assert all(torch.equal(one[name], other[name]) for name in ("input_ids", "masked_positions", "labels"))


@pytest.mark.parametrize(("first", "workers"), [(0, 0), (0, 2), (1, 0), (2, 0), (3, 2), (4, 0), (7, 0)])
def test_the_loader_goes_through_the_phases_from_any_step_on(first, workers):
    stream = phased(RECIPE)
    got = list(StepLoader(stream, first_step=lambda: first, steps=8, workers=workers))
    expected = [stream.micro_batches(step) for step in range(first, 8)]
    assert [len(batch.micro_batches) for batch in got] == [len(parts) for parts in expected]
    for batch, parts in zip(got, expected):
        assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(batch.micro_batches, parts))


def train(recipe, steps, compiled=False, **encoder):
    stream = phased(recipe)
    torch.manual_seed(0)
    model = MaskedLM(EncoderConfig(**{**ENCODER.__dict__, **encoder}))
    configs = OptimizerConfig(), ScheduleConfig(), StopConfig(steps=steps)
    module = PretrainingModule(model, MaskedLanguageModeling(compiled), *configs, seed=5, plan=stream.plan)
    seen = []
    real = module.loss_terms

    def loss_terms(batch):
        seen.append((int(module.progress.step), tuple(batch["input_ids"].shape), model.encoder.config.rope_theta))
        return real(batch)

    module.loss_terms = loss_terms
    trainer = fit(module, stream)
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
        ([{"tokens": 5.0}], "phases: phase 1 is the last and has tokens 5: leave them out, stop ends it"),
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
    assert str(error.value) == "phases: phase 1: rope_theta needs encoder.positions rope, not learned"


def test_batches_of_a_phase_that_do_not_divide_are_refused():
    recipe = PretrainRecipe(phases=[PhaseConfig(tokens=1.0), PhaseConfig(batch_size=30, micro_batch_size=4)])
    with pytest.raises(InputError) as error:
        resolve_plan(recipe, 2)
    assert str(error.value) == (
        "phase 2: data.batch_size 30 over 2 devices is 15 sequences each, which data.micro_batch_size 4 does"
        " not divide: give a divisor of 15"
    )
