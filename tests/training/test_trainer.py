"""The Trainer's arguments, and ranks, before anything runs."""

import pytest

from bert.errors import InputError
from bert.training.ranks import global_rank, launch_key, launched_layout, wait_for_rank_0, world_size
from bert.training.trainer import check_trainer_arguments, make_trainer


@pytest.mark.parametrize(
    ("arguments", "processes"),
    [
        ({}, 1),
        ({"devices": 2}, 2),
        ({"devices": "2"}, 2),
        ({"devices": [0, 1, 3]}, 3),
        ({"devices": "0,1"}, 2),
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
    for other in ('{"launch": "another"}', "another", "[]"):
        (tmp_path / "ready").write_text(other)
        with pytest.raises(InputError):
            wait_for_rank_0(tmp_path / "ready", "mine", minutes=0.005)
    (tmp_path / "ready").write_text('{"launch": "mine", "checkpoint": "step-00000002"}')
    assert wait_for_rank_0(tmp_path / "ready", "mine", minutes=0.005)["checkpoint"] == "step-00000002"


SRUN = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "train"}


def test_srun_starts_processes_and_a_shell_or_a_batch_script_does_not(monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert (world_size({}), global_rank(), launched_layout()) == (4, 3, {"devices": 2, "num_nodes": 2})
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert (world_size({"devices": 2}), global_rank(), launched_layout()) == (2, 0, {"devices": 1})
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    monkeypatch.delenv("SLURM_STEP_ID")
    assert (world_size({}), global_rank(), launched_layout()) == (1, 0, {"devices": 1})


def test_nodes_with_different_numbers_of_processes_are_refused_on_each(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "12")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    for local in ("8", "4"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        with pytest.raises(InputError, match="start the same number on each node"):
            launched_layout()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "6")
    assert launched_layout() == {"devices": 6, "num_nodes": 2}


def test_several_nodes_need_a_launcher_that_tells_launches_apart():
    with pytest.raises(InputError, match="several nodes are started by torchrun or srun"):
        world_size({"devices": 2, "num_nodes": 3})


def test_a_requeued_job_is_another_launch(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    first = launch_key()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert launch_key() != first


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
