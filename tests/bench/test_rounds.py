"""Contenders take turns; a turn counts the real tokens of the steps that it did."""

import torch

from bert.bench.rounds import Contender, alternate, spread

CPU = torch.device("cpu")


def test_turns_alternate_and_every_step_is_counted_with_its_own_tokens():
    calls = []

    def contender(name, tokens):
        numbers = range(len(tokens))
        return Contender(lambda number: calls.append((name, number)), numbers, tokens, [10] * len(tokens), CPU)

    a, b = contender("a", [1, 2, 4]), contender("b", [8])
    between = []
    turns = alternate([a, b], rounds=4, seconds=1e-9, between=lambda: between.append(len(calls)))
    timed = [name for name, _ in calls[between[0] :]]
    order = [name for place, name in enumerate(timed) if place == 0 or timed[place - 1] != name]
    assert order == ["b", "a", "b", "a", "b"]  # b a, a b, b a, a b: who ends a round begins the next
    assert timed.count("a") == timed.count("b") == 4 * 3  # one to warm up and two that count, a round
    assert [number for name, number in calls if name == "a"][:7] == [0, 1, 2, 0, 1, 2, 0]  # the prepared steps in turn
    assert len(between) == 4
    done = 5  # three to warm up, two to see how long a step takes
    for turn in turns[0]:
        assert turn.tokens == sum([1, 2, 4][number % 3] for number in (done + 1, done + 2))
        assert turn.positions == 20
        done += 3


def test_a_spread_is_median_least_and_greatest():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "greatest": 3.0}
