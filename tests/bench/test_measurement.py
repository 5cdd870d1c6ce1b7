"""Sides alternate; a timed run counts the tokens of its own steps."""

import torch

from bert.bench.measurement import TimedSteps, alternate, spread
from bert.training.step import StepBatch

CPU = torch.device("cpu")


def test_runs_alternate_and_every_step_is_counted_with_its_own_tokens():
    calls = []

    def side(name, tokens):
        inputs = [{"input_ids": torch.full((2, 5), number)} for number in range(len(tokens))]
        batches = [StepBatch([each], {}, count) for each, count in zip(inputs, tokens)]
        return TimedSteps(
            lambda batch: calls.append((name, int(batch.micro_batches[0]["input_ids"][0, 0]))), batches, CPU
        )

    a, b = side("a", [1, 2, 4]), side("b", [8])
    between = []
    runs = alternate([a, b], rounds=4, seconds=1e-9, between=lambda: between.append(len(calls)))
    timed = [name for name, _ in calls[between[0] :]]
    order = [name for index, name in enumerate(timed) if index == 0 or timed[index - 1] != name]
    assert order == ["b", "a", "b", "a", "b"]  # b a, a b, b a, a b: the last side of a round starts the next
    assert timed.count("a") == timed.count("b") == 4 * 3  # per round: one to warm up and two that count
    assert [number for name, number in calls if name == "a"][:7] == [
        0,
        1,
        2,
        0,
        1,
        2,
        0,
    ]  # the prepared batches, repeated
    assert len(between) == 4
    done = 5  # three to warm up, two to estimate the time of a step
    for run in runs[0]:
        assert run.tokens == sum([1, 2, 4][number % 3] for number in (done + 1, done + 2))
        assert run.positions == 20
        done += 3


def test_a_spread_is_median_minimum_and_maximum():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}
