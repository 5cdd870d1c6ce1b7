"""Signals are never lost, whenever they come."""

import signal
from types import SimpleNamespace

import pytest

from bert.training.callbacks import MetricsCsv, StopOnSignal
from bert.training.config import StopConfig
from bert.training.schedules import Progress


def trainer(step=3):
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: False))
    return SimpleNamespace(fit_loop=loop, should_stop=False, limit_val_batches=1.0, global_step=step)


def module(step, steps=10):
    return SimpleNamespace(progress=Progress(StopConfig(steps=steps), step=step))


class Meanwhile:
    """An agreement during which a signal arrives."""

    def __init__(self, callback):
        self.callback = callback

    def largest(self, number):
        self.callback._handle(signal.SIGTERM, None)
        return number


def test_a_signal_that_comes_while_ranks_agree_is_told_at_the_next_step():
    callback, run = StopOnSignal(), trainer()
    callback._agreement = Meanwhile(callback)
    callback.on_train_batch_end(run, module(3))
    assert not run.should_stop  # the other ranks do not know of it yet
    callback.on_train_batch_end(run, module(4))
    assert run.should_stop
    assert callback.stopped_by == signal.SIGTERM


def test_a_signal_in_the_last_step_lets_the_run_finish():
    """Its validation and its model are worth the seconds."""
    callback, run = StopOnSignal(), trainer()
    callback._agreement = SimpleNamespace(largest=lambda number: number)
    callback._handle(signal.SIGTERM, None)
    callback.on_train_batch_end(run, module(10))
    assert callback.stopped_by is None
    assert run.limit_val_batches == 1.0


@pytest.mark.parametrize(("step", "validated"), [(7, 0), (8, 1.0)])
def test_a_run_that_is_stopped_validates_only_where_it_would_have_without(step, validated):
    callback, run = StopOnSignal(validate_every=4), trainer(step)
    callback._agreement = SimpleNamespace(largest=lambda number: number)
    callback._handle(signal.SIGTERM, None)
    callback.on_train_batch_end(run, module(step))
    assert run.should_stop
    assert run.limit_val_batches == validated


def test_what_other_callbacks_log_leaves_no_empty_rows(tmp_path):
    log = MetricsCsv(tmp_path / "metrics.csv", ["step", "loss"])
    log.log_metrics({"loss": 2.5}, step=1)
    log.log_metrics({"cpu_percent": 40.0}, step=1)
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss", "1,2.5"]
