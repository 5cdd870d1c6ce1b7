"""The Trainer's arguments, and ranks, before anything runs."""

import pytest

from bert.errors import InputError
from bert.training.ranks import global_rank, wait_for_rank_0, world_size
from bert.training.trainer import check_trainer_arguments, make_trainer


@pytest.mark.parametrize(
    ("arguments", "processes"),
    [
        ({}, 1),
        ({"devices": 2}, 2),
        ({"devices": "2"}, 2),
        ({"devices": [0, 1, 3]}, 3),
        ({"devices": "0,1"}, 2),
        ({"devices": 2, "num_nodes": 3}, 6),
    ],
)
def test_world_size_by_devices_and_nodes(arguments, processes):
    assert world_size(arguments) == processes


def test_world_size_and_rank_by_the_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert world_size({"devices": 2}) == 8
    assert global_rank() == 5


def test_a_rank_that_waits_in_vain_says_so(tmp_path):
    with pytest.raises(InputError, match="rank 0 has not finished its preparations"):
        wait_for_rank_0(tmp_path / "ready", "key", minutes=0.005)


def test_a_marker_of_another_launch_is_not_taken_for_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    (tmp_path / "ready").write_text("another launch")
    with pytest.raises(InputError):
        wait_for_rank_0(tmp_path / "ready", "mine", minutes=0.005)
    (tmp_path / "ready").write_text("mine")
    wait_for_rank_0(tmp_path / "ready", "mine", minutes=0.005)


def test_every_argument_of_lightnings_trainer_is_taken_or_sent_to_its_key():
    with pytest.raises(InputError, match="Did you mean `precision`"):
        check_trainer_arguments({"precison": "32"})
    with pytest.raises(InputError, match=r"trainer\.max_steps is decided by stop\.steps"):
        check_trainer_arguments({"max_steps": 3})
    check_trainer_arguments({"profiler": "simple", "benchmark": True, "deterministic": True, "sync_batchnorm": False})


def test_objects_of_a_recipe_are_made_and_added_to_ours():
    described = {"class_path": "lightning.pytorch.callbacks.DeviceStatsMonitor", "init_args": {"cpu_stats": True}}
    made = make_trainer({"accelerator": "cpu", "callbacks": [described]}, [], [], [], 1, None)
    assert any(type(callback).__name__ == "DeviceStatsMonitor" for callback in made.callbacks)
    with pytest.raises(InputError, match="class_path no\\.such\\.Thing cannot be imported"):
        make_trainer({"callbacks": [{"class_path": "no.such.Thing"}]}, [], [], [], 1, None)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [("ddp_fork", "read the rows of the first"), ("ddp_spawn", "read the rows of the first"), ("fsdp", "trainer")],
)
def test_strategies_that_would_train_on_something_else_are_refused(strategy, message):
    with pytest.raises(InputError, match=message):
        make_trainer({"accelerator": "cpu", "devices": 2, "strategy": strategy}, [], [], [], 1, None)
