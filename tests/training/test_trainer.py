"""The Trainer's arguments, and ranks, before anything runs."""

import importlib

import lightning as L
import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, MPIEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from bert.cli import main
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


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"WORLD_SIZE": "2x"}, "WORLD_SIZE"),
        ({"RANK": "first"}, "RANK"),
        ({"SLURM_NTASKS": "x", "SLURM_STEP_ID": "0"}, "SLURM_NTASKS"),
        ({"SLURM_RESTART_COUNT": "-1"}, "SLURM_RESTART_COUNT"),
    ],
)
def test_what_a_launcher_says_must_be_numbers(variables, name, monkeypatch, tiny_run, capsys):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    more = (
        ["x", "--out", str(tiny_run), "--overwrite"] if name == "SLURM_RESTART_COUNT" else ["--resume", str(tiny_run)]
    )
    assert main(["pretrain", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bert: {name} is {variables[name]!r} in the environment, not a number: unset it")


SRUN = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "train"}
SRUN |= {"SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7"}


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


def test_an_interactive_shell_of_slurm_trains_on_one_process(monkeypatch, tmp_path):
    """`salloc --ntasks=8`, then the command itself: nobody starts the other seven."""
    for name, value in (SRUN | {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "8"}).items():
        monkeypatch.setenv(name, value)
    for job in ("bash", "interactive"):
        monkeypatch.setenv("SLURM_JOB_NAME", job)
        made = make_trainer({"accelerator": "cpu"}, [], [], [], 1, None, run_dir=tmp_path)
        assert (world_size({}), global_rank(), launched_layout(), made.world_size) == (1, 0, {"devices": 1}, 1)


def test_tasks_that_slurm_may_lay_out_unevenly_are_refused_with_the_flag_to_give(monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    assert global_rank() == 3
    with pytest.raises(InputError, match="--ntasks-per-node"):
        world_size({})


def test_a_rank_without_a_number_of_processes_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert global_rank() == 1
    with pytest.raises(InputError, match="RANK is in the environment and WORLD_SIZE is not"):
        world_size({})


@pytest.mark.parametrize("node", [0, 1])
def test_the_rank_is_that_of_all_nodes(monkeypatch, node):
    """The second of four processes on a node: of torchrun and of srun."""
    rank = str(4 * node + 1)
    with monkeypatch.context() as torchrun:
        for name, value in {"RANK": rank, "WORLD_SIZE": "8", "LOCAL_RANK": "1", "GROUP_RANK": str(node)}.items():
            torchrun.setenv(name, value)
        torchrun.setenv("TORCHELASTIC_RUN_ID", "7")
        assert global_rank() == int(rank)
    slurm = SRUN | {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": rank, "SLURM_LOCALID": "1"}
    for name, value in (slurm | {"SLURM_NODEID": str(node)}).items():
        monkeypatch.setenv(name, value)
    assert (global_rank(), world_size({})) == (int(rank), 8)


def test_processes_of_mpirun_are_refused_and_know_their_ranks(monkeypatch):
    """A stand-in for mpi4py, which asks the launcher."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setattr(MPIEnvironment, "detect", staticmethod(lambda: True))
    monkeypatch.setattr(MPIEnvironment, "__init__", lambda self: None)
    monkeypatch.setattr(MPIEnvironment, "global_rank", lambda self: 1)
    assert global_rank() == 1
    with pytest.raises(InputError, match="mpirun started this command: start it by torchrun or srun"):
        world_size({})


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


@pytest.mark.parametrize("precision", ["fp16", "float32", "mixed", "32-mixed", "64-mixed", "FP16", True, 8, "auto"])
@pytest.mark.parametrize("trust", [False, True])
def test_an_unknown_precision_names_the_known_ones(precision, trust):
    what = r"^trainer\.precision is \S+: give one of 32-true, bf16-mixed, 16-mixed, bf16-true, 16-true, 64-true$"
    with pytest.raises(InputError, match=what):
        check_trainer_arguments({"precision": precision}, trust=trust)


@pytest.mark.parametrize(
    "precision",
    [*(64, 32, 16, "64", "32", "16", "bf16", "64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed")]
    + [None, "transformer-engine", "transformer-engine-float16"],
)
def test_every_precision_of_lightning_is_taken(precision):
    check_trainer_arguments({"precision": precision})


def test_objects_of_a_recipe_are_made_and_added_to_ours():
    described = {"class_path": "lightning.pytorch.callbacks.DeviceStatsMonitor", "init_args": {"cpu_stats": True}}
    made = make_trainer({"accelerator": "cpu", "callbacks": [described]}, [], [], [], None)
    assert any(type(callback).__name__ == "DeviceStatsMonitor" for callback in made.callbacks)
    with pytest.raises(InputError, match="no\\.such\\.Thing cannot be made of these init_args"):
        make_trainer({"callbacks": [{"class_path": "no.such.Thing"}]}, [], [], [], None, trust=True)


CSV = "lightning.pytorch.loggers.CSVLogger"
STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


@pytest.mark.parametrize(
    "arguments",
    [
        {"profiler": {"class_path": "os.system", "init_args": {"command": "touch PWNED"}}},
        {"callbacks": [{"class_path": "subprocess.run", "init_args": {"args": ["touch", "PWNED"]}}]},
        {"callbacks": {"class_path": "subprocess.run"}},
        {"callbacks": [[{"class_path": "os.system"}]]},
        {"callbacks": [{"class_path": STOPPING, "init_args": {"monitor": {"class_path": "os.getcwd"}}}]},
        {"callbacks": [{"class_path": STOPPING, "init_args": {"monitor": ["loss"]}}]},
        {"callbacks": [{"class_path": STOPPING, "init_args": [1]}]},
        {"callbacks": [{"class_path": STOPPING, "more": 1}]},
        {"callbacks": [{"class_path": ["os.system"]}]},
        {"callbacks": [{"init_args": {}}]},
        {"callbacks": "os.system"},
        {"callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "."}}]},
        {"callbacks": [{"class_path": "lightning.pytorch.callbacks.LambdaCallback"}]},
        {"callbacks": [{"class_path": "callbacks.EarlyStopping", "init_args": {"monitor": "loss"}}]},
        {"callbacks": [{"class_path": CSV}]},
        {"logger": {"class_path": CSV, "init_args": {"save_dir": "."}}},
        {"logger": [{"class_path": CSV, "init_args": {"version": ""}}]},
        {"logger": [{"class_path": CSV, "init_args": {"prefix": "../metrics"}}]},
        {"logger": [{"class_path": CSV, "init_args": {"prefix": ""}}]},
        {"logger": {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "http://x"}}},
        {"logger": {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"tracking_uri": "x"}}},
        {"logger": "x"},
        {"logger": 5},
        {"profiler": {"class_path": "lightning.pytorch.profilers.SimpleProfiler", "init_args": {"filename": "x"}}},
        {"profiler": "../x"},
        {"strategy": "deepspeed_stage_2"},
        {"strategy": "xla"},
        {"strategy": {"class_path": "lightning.pytorch.strategies.DeepSpeedStrategy", "init_args": {"config": "x"}}},
        {"strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"ddp_comm_hook": "x"}}},
        {"plugins": "x"},
        {"plugins": [{"class_path": "lightning.pytorch.plugins.io.TorchCheckpointIO"}]},
        {"model_registry": "x"},
        {"accelerator": {"class_path": "os.system"}},
        {"precision": {"class_path": "os.system"}},
        {"devices": {"class_path": "os.system"}},
        {"default_root_dir": "x"},
    ],
)
def test_nothing_is_imported_or_called_because_a_recipe_names_it(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"imports {name}"))
    for check in (
        lambda: check_trainer_arguments(arguments),
        lambda: make_trainer({"accelerator": "cpu"} | arguments, [], [], [], None),
    ):
        with pytest.raises(InputError, match=f"^trainer.{next(iter(arguments))}") as error:
            check()
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["devices", "num_nodes"])
@pytest.mark.parametrize("count", [None, [], {}, 1.5, True, "x", 10**9, [[0]], float("nan")])
def test_how_many_processes_is_a_number(name, count):
    with pytest.raises(InputError, match=rf"^trainer\.{name} is "):
        check_trainer_arguments({name: count}, trust=True)


def test_trust_makes_what_a_recipe_describes():
    described = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_fit_start": print}}
    check_trainer_arguments({"callbacks": [described]}, trust=True)
    made = make_trainer({"accelerator": "cpu", "callbacks": [described]}, [], [], [], None, trust=True)
    assert any(type(callback).__name__ == "LambdaCallback" for callback in made.callbacks)


def test_objects_of_the_python_api_need_no_trust():
    class Mine(L.Callback):
        pass

    mine = Mine()
    check_trainer_arguments({"callbacks": [mine]})
    assert mine in make_trainer({"accelerator": "cpu", "callbacks": [mine]}, [], [], [], None).callbacks


def test_loggers_that_a_recipe_describes_write_below_the_folder_of_the_run(tmp_path, monkeypatch):
    """Not over the user's metrics.csv, and not over that of the run."""
    (tmp_path / "here").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in ("here", "run"):
        (tmp_path / folder / "metrics.csv").write_text("mine")
    made = make_trainer(
        {"accelerator": "cpu", "logger": {"class_path": CSV}}, [], [], [], None, run_dir=tmp_path / "run"
    )
    made.loggers[0].log_metrics({"loss": 1.0}, step=1)
    made.loggers[0].save()
    written = [file for file in tmp_path.rglob("*.csv") if file.read_text() != "mine"]
    assert [file.is_relative_to(tmp_path / "run") for file in written] == [True]
    assert len(list(tmp_path.rglob("metrics.csv"))) == 3
    assert made.default_root_dir == str(tmp_path / "run")


def slurm(monkeypatch, **names):
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    for name, value in names.items():
        monkeypatch.setenv(name, value)


def test_under_srun_lightning_leaves_signals_to_us(tmp_path, monkeypatch):
    slurm(monkeypatch, SLURM_STEP_ID="0", SLURM_NODEID="0", SLURM_JOB_NAME="train")
    environment = make_trainer({"accelerator": "cpu"}, [], [], [], None, run_dir=tmp_path)._accelerator_connector
    assert isinstance(environment.cluster_environment, SLURMEnvironment)
    assert not environment.cluster_environment.auto_requeue


@pytest.mark.parametrize("names", [{"SLURM_JOB_NAME": "train"}, {"SLURM_JOB_NAME": "bash", "SLURM_STEP_ID": "0"}])
def test_in_a_batch_script_or_a_shell_of_slurm_we_start_the_processes(tmp_path, monkeypatch, names):
    slurm(monkeypatch, **names)
    made = make_trainer({"accelerator": "cpu"}, [], [], [], None, run_dir=tmp_path)
    assert type(made._accelerator_connector.cluster_environment) is LightningEnvironment


def test_a_folder_with_a_checkpoint_of_lightnings_slurm_handler_is_refused(tmp_path, monkeypatch):
    """Lightning begins with it, whatever the run."""
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"hpc_ckpt_1\.ckpt: Lightning would start from this checkpoint: move it"):
        make_trainer({"accelerator": "cpu"}, [], [], [], None, run_dir=tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"hpc_ckpt_1\.ckpt"):
        make_trainer({"accelerator": "cpu"}, [], [], [], None)


def test_a_strategy_that_only_inherits_from_ddp_is_refused():
    class Engine(DDPStrategy):
        """As those of DeepSpeed and XLA, which save and shard in ways of their own."""

    with pytest.raises(InputError, match="Engine is not supported: leave it out, or give ddp"):
        make_trainer({"accelerator": "cpu", "strategy": Engine()}, [], [], [], None)
    make_trainer({"accelerator": "cpu", "strategy": DDPStrategy()}, [], [], [], None)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("ddp_fork", "read the sequences of the first"),
        ("ddp_spawn", "read the sequences of the first"),
        ("fsdp", "trainer"),
    ],
)
def test_strategies_that_would_train_on_something_else_are_refused(strategy, message):
    with pytest.raises(InputError, match=message):
        make_trainer({"accelerator": "cpu", "devices": 2, "strategy": strategy}, [], [], [], None)
