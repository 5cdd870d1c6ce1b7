"""Signals are never lost, whenever they come."""

import resource
import signal
from types import SimpleNamespace

import pytest

from bert.signals import Signals
from bert.training.callbacks import MetricsCsv, StopOnSignal
from bert.training.config import StopConfig
from bert.training.schedules import Progress


def trainer(step=3):
    return SimpleNamespace(should_stop=False, limit_val_batches=1.0, global_step=step)


def module(step, steps=10):
    return SimpleNamespace(progress=Progress(StopConfig(steps=steps), step=step))


def deferred():
    signals = Signals()
    signals._deferred = True
    return signals


class Meanwhile:
    """An agreement during which a signal arrives."""

    def __init__(self, callback):
        self.callback = callback

    def largest(self, number):
        self.callback.signals._handle(signal.SIGTERM, None)
        return number


def test_a_signal_that_comes_while_ranks_agree_is_told_at_the_next_step():
    callback, run = StopOnSignal(deferred()), trainer()
    callback._agreement = Meanwhile(callback)
    callback.on_train_batch_end(run, module(3))
    assert not run.should_stop  # the other ranks do not know of it yet
    callback.on_train_batch_end(run, module(4))
    assert run.should_stop
    assert callback.stopped_by == signal.SIGTERM


def test_a_signal_in_the_last_step_lets_the_run_finish():
    """Its validation and its model are worth the seconds."""
    callback, run = StopOnSignal(deferred()), trainer()
    callback._agreement = SimpleNamespace(largest=lambda number: number)
    callback.signals._handle(signal.SIGTERM, None)
    callback.on_train_batch_end(run, module(10))
    assert callback.stopped_by is None
    assert run.limit_val_batches == 1.0


@pytest.mark.parametrize(("step", "validated"), [(7, 0), (8, 1.0)])
def test_a_run_that_is_stopped_validates_only_where_it_would_have_without(step, validated):
    callback, run = StopOnSignal(deferred(), validate_every=4), trainer(step)
    callback._agreement = SimpleNamespace(largest=lambda number: number)
    callback.signals._handle(signal.SIGTERM, None)
    callback.on_train_batch_end(run, module(step))
    assert run.should_stop
    assert run.limit_val_batches == validated


def test_what_other_callbacks_log_leaves_no_empty_rows(tmp_path):
    log = MetricsCsv(tmp_path / "metrics.csv", ["step", "loss"])
    log.log_metrics({"loss": 2.5}, step=1)
    log.log_metrics({"cpu_percent": 40.0}, step=1)
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,loss", "1,2.5"]


def test_only_full_sequences_up_to_a_step_are_kept(tmp_path):
    """A power cut leaves NULs; a kill tears the last row, whose number may then read as another step."""
    file = tmp_path / "metrics.csv"
    log = MetricsCsv(file, ["step", "loss", "val_loss"])
    for step in (8, 16):
        log.log_metrics({"loss": 0.5}, step=step)
    whole = file.read_bytes()
    file.write_bytes(whole + b"\0" * 40 + b"\n" + b"24,0.5\nx,1,1\n160,0.1,")
    log.cut(160)
    assert file.read_bytes() == whole
    file.write_bytes(whole + b"16")  # of 160,…
    log.cut(16)
    assert file.read_bytes() == whole
    log.cut(8)
    assert [line.split(",")[0] for line in file.read_text().split()] == ["step", "8"]


def test_a_row_that_finds_no_room_is_taken_back_and_written_with_the_next(tmp_path):
    file = tmp_path / "metrics.csv"
    log = MetricsCsv(file, ["step", "loss"])
    log.log_metrics({"loss": 0.5}, step=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 3, before[1]))
    try:
        with pytest.warns(UserWarning, match="training continues"):
            log.log_metrics({"loss": 0.25}, step=2)
        assert file.read_text().split() == ["step,loss", "1,0.5"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    log.log_metrics({"loss": 0.125}, step=3)
    assert file.read_text().split() == ["step,loss", "1,0.5", "2,0.25", "3,0.125"]
