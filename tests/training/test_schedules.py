"""Schedules against their closed forms, and budgets."""

import math

import pytest

from bert.errors import InputError
from bert.training.config import ScheduleConfig, StopConfig
from bert.training.schedules import Progress, learning_rate_share


def share(progress, kind, **fields):
    return learning_rate_share(progress, ScheduleConfig(kind=kind, **fields))


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
def test_warm_up_rises_in_a_line_from_0_to_1(kind):
    for progress in (0.0, 0.025, 0.05, 0.1):
        assert share(progress, kind, warmup=0.1) == pytest.approx(progress / 0.1)


def test_linear_falls_in_a_line_to_its_final_value():
    for progress in (0.1, 0.4, 0.7, 1.0):
        assert share(progress, "linear", warmup=0.1) == pytest.approx((1 - progress) / 0.9)
    assert share(1.0, "linear", final=0.1) == pytest.approx(0.1)


def test_cosine_is_half_a_cosine():
    for progress in (0.2, 0.5, 0.9):
        assert share(progress, "cosine", warmup=0.2) == pytest.approx(
            0.5 + 0.5 * math.cos(math.pi * (progress - 0.2) / 0.8)
        )


def test_wsd_is_stable_and_falls_at_the_end():
    assert share(0.3, "wsd", warmup=0.1, decay=0.5) == 1
    assert share(0.5, "wsd", warmup=0.1, decay=0.5) == 1
    assert share(0.75, "wsd", warmup=0.1, decay=0.5) == pytest.approx(0.5)
    assert share(1.0, "wsd", warmup=0.1, decay=0.5) == 0


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
def test_beyond_the_end_the_rate_stays_final(kind):
    assert share(1.3, kind, final=0.05) == pytest.approx(0.05)


def test_no_warm_up_begins_at_the_top():
    assert share(0.0, "linear", warmup=0.0) == 1


def test_warm_up_and_decay_longer_than_the_run_are_refused():
    with pytest.raises(InputError, match=r"schedule\.warmup 0\.6 and schedule\.decay 0\.5 are more than the whole run"):
        ScheduleConfig(kind="wsd", warmup=0.6, decay=0.5)


def test_the_budget_that_ends_first_decides():
    progress = Progress(StopConfig(steps=100, tokens=1000, minutes=1))
    for step in range(1, 11):
        progress.advance(tokens=50, seconds=0.6 * step)
    assert progress.share() == pytest.approx(0.5)  # 10 % of the steps, 10 % of the time, half of the tokens
    assert not progress.finished()
    progress.advance(tokens=500, seconds=7)
    assert progress.finished()


def test_the_schedule_by_the_clock_begins_behind_the_first_step_which_compiles():
    progress = Progress(StopConfig(minutes=2))
    progress.advance(tokens=1, seconds=60)
    assert progress.share() == 0
    assert progress.left() is None
    progress.advance(tokens=1, seconds=75)
    assert progress.share() == pytest.approx(0.25)
    assert progress.left() == pytest.approx(45)
    progress.advance(tokens=1, seconds=120)
    assert progress.finished()  # the budget has the compiling in it all the same


def test_a_first_step_longer_than_the_budget_ends_the_run():
    progress = Progress(StopConfig(minutes=1))
    progress.advance(tokens=1, seconds=61)
    assert progress.finished()


def test_progress_goes_through_a_checkpoint():
    progress = Progress(StopConfig(steps=10))
    progress.advance(tokens=7, seconds=1.5)
    other = Progress(StopConfig(steps=10))
    other.restore(progress.state())
    assert (other.step, other.tokens, other.seconds, other.first_seconds) == (1, 7, 1.5, 1.5)
    other.start()
    assert other.elapsed() >= 1.5  # the clock goes on where it stood


@pytest.mark.parametrize("fields", [{"steps": 0}, {"tokens": -1.0}, {"minutes": 0.0}])
def test_empty_budgets_are_refused(fields):
    with pytest.raises(InputError, match="give more than 0"):
        StopConfig(**fields)
