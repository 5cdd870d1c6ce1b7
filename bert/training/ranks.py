"""The processes of a run: how many there are, which one this is, how they wait for the first and agree on a number.

Before Lightning has started anything its classes of launchers tell: torchrun, srun, mpirun, or none.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert.errors import InputError, RankError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import ClusterEnvironment

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "SLURM_NTASKS", "SLURM_PROCID")
_LAUNCHERS = ("RANK", "TORCHELASTIC_RUN_ID", "SLURM_STEP_ID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


class Agreement:
    """What all ranks take the largest of. Numbers travel over the CPU, so that no rank waits for its device.

    Make it on every rank at the same place: with several ranks it makes a process group.
    """

    def __init__(self, ranks: int) -> None:
        import torch  # late: this file also says which rank a process is, before torch is needed

        self._group = torch.distributed.new_group(backend="gloo") if ranks > 1 else None

    def largest(self, number: float) -> float:
        """The largest of the ranks' numbers, on every rank."""
        if self._group is None:
            return number
        import torch

        shared = torch.tensor(number, dtype=torch.float64)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, group=self._group)
        return float(shared)

    def is_same(self, number: int) -> bool:
        """Whether all ranks have the same number, below 2^53; the same answer on every rank."""
        return self.largest(number) == -self.largest(-number)


def launcher() -> "ClusterEnvironment | None":
    """What started the processes of this run, as Lightning's class for it; None where nothing did, or Lightning itself.

    SLURM is one by srun alone: in a batch script without srun, and in an interactive shell (SLURM_JOB_NAME bash or interactive),
    its variables tell of processes that nobody starts. RankError for variables that are no numbers, InputError where they do not fit.
    """
    for name in _NUMBERS:  # Lightning reads some of them as soon as it is imported
        _number(name)
    if not any(name in os.environ for name in _LAUNCHERS):
        return None  # without loading torch
    from lightning.fabric.plugins.environments import MPIEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect() or "RANK" in os.environ:
        return TorchElasticEnvironment()
    if {"SLURM_NTASKS", "SLURM_STEP_ID"} <= os.environ.keys() and SLURMEnvironment.detect():
        try:
            return SLURMEnvironment(auto_requeue=False)  # Lightning would save within a step, and start from that file
        except RuntimeError as error:
            raise InputError(f"SLURM: {error}") from error
    return MPIEnvironment() if MPIEnvironment.detect() else None


def global_rank() -> int:
    """This process's rank before any process group exists: 0 for the first alone, and where nobody launched."""
    try:
        started = launcher()
    except RankError:
        raise
    except InputError:  # of SLURM: for the first process to say
        return _number("SLURM_PROCID")
    if started is not None:
        return started.global_rank()
    on_one_node = _number("WORLD_SIZE", 1)  # of Lightning's own launcher, which has one node here
    return _number("NODE_RANK") * on_one_node + _number("LOCAL_RANK")


def world_size(arguments: Mapping[str, Any]) -> int:
    """How many processes will train together, before any exists: what torchrun or srun started, else devices.

    Raises InputError for processes that mpirun started, and for several nodes that neither of the two started: nothing tells one
    such launch from another.
    """
    if (started := launcher()) is not None:
        from lightning.fabric.plugins.environments import MPIEnvironment

        if isinstance(started, MPIEnvironment):
            raise InputError("mpirun started this command: start it by torchrun or srun")
        if "RANK" in os.environ and "WORLD_SIZE" not in os.environ:
            raise InputError("RANK is in the environment and WORLD_SIZE is not: unset it, or start by torchrun or srun")
        return started.world_size()
    if (nodes := int(arguments.get("num_nodes", 1))) != 1:
        raise InputError(
            f"trainer.num_nodes is {nodes}: several nodes are started by torchrun or srun; start the command by one of them"
        )
    devices = arguments.get("devices", 1)
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    count = len(devices) if isinstance(devices, list | tuple) else -1 if devices == "auto" else int(devices)
    if count == -1:
        count = _visible_devices(arguments)
    if count < 1:
        raise InputError(f"trainer.devices is {devices}: give 1 or more, or -1 for all")
    return count


def launched_layout() -> dict[str, int]:
    """Devices and nodes as torchrun or srun laid the processes out; one device where nobody did. InputError where the nodes have
    different numbers of processes."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    if "WORLD_SIZE" in os.environ and "LOCAL_WORLD_SIZE" in os.environ:
        processes, devices = _number("WORLD_SIZE"), _number("LOCAL_WORLD_SIZE")
        nodes = _number("GROUP_WORLD_SIZE", processes // devices)
    elif isinstance(started := launcher(), SLURMEnvironment):
        processes, devices = started.world_size(), _number("SLURM_NTASKS_PER_NODE", 1)
        nodes = _number("SLURM_NNODES", processes // devices)
    else:
        return {"devices": 1}
    if devices * nodes != processes:
        raise InputError(
            f"{processes} processes on {nodes} nodes, {devices} of them on this one: start the same number on each node"
        )
    return {"devices": devices, "num_nodes": nodes}


def _visible_devices(arguments: Mapping[str, Any]) -> int:
    import torch

    on_cpu = arguments.get("accelerator", "auto") == "cpu" or not torch.cuda.is_available()
    return 1 if on_cpu else torch.cuda.device_count()


def _number(name: str, default: int = 0) -> int:
    """A number that the launcher has put into the environment. RankError where it is none."""
    text = os.environ.get(name, str(default))
    if not text.strip().isdecimal():
        raise RankError(f"{name} is {text!r} in the environment, not a number: unset it, or start by torchrun or srun")
    return int(text)


def launch_key() -> str:
    """What the processes of one launch have in common and other launches have not.

    On one node that is their parent; over several it is the name that torchrun or SLURM gave to the launch.
    """
    names = "MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID TORCHELASTIC_RESTART_COUNT SLURM_JOB_ID SLURM_STEP_ID SLURM_RESTART_COUNT"
    parts = [f"{name}={os.environ[name]}" for name in names.split() if name in os.environ]
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        parts.append(f"parent={os.getppid()}")
    return " ".join(parts)


def is_restart() -> bool:
    """Whether torchrun or SLURM starts this command again after it failed."""
    return any(_number(name) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def tell_others(marker: Path, told: Mapping[str, Any]) -> None:
    """Have the other ranks of this launch, which wait for `marker`, read `told`."""
    from bert.files import replaced

    with replaced(marker) as partial:
        partial.write_text(json.dumps({"launch": launch_key(), **told}) + "\n", encoding="utf-8")


def wait_for_rank_0(marker: Path, key: str, minutes: float = 60.0) -> dict[str, Any]:
    """Wait until rank 0 of the launch `key` has written `marker`; what it tells. RankError after `minutes`.

    Processes that Lightning starts itself come when rank 0 is done, and need not wait for a key of theirs.
    """
    started_together = launcher() is not None
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        try:
            told = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, moved away this instant, or of another version
            told = None
        if isinstance(told, dict) and (not started_together or told.get("launch") == key):
            return told
        time.sleep(0.2)
    raise RankError(
        f"{marker}: rank 0 has not finished its preparations in {minutes:g} minutes: see its output, or prepare the store first"
    )
