"""The processes (ranks) of a run: their number, the rank of this one, waiting for rank 0, and agreeing on a number.

Before any process group exists, Lightning's classes for launchers (torchrun, srun, mpirun) provide the ranks.
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
    """Numbers on which all ranks agree. They are exchanged over the CPU, so that no rank waits for its device.

    Create it on every rank at the same point: with several ranks, it creates a process group.
    """

    def __init__(self, ranks: int) -> None:
        import torch  # late, as the rank of a process is also needed before torch

        self._group = torch.distributed.new_group(backend="gloo") if ranks > 1 else None

    def largest(self, number: float) -> float:
        """The largest number of all ranks, on every rank."""
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
    """Lightning's class for the launcher of this run; None for a single process, and if Lightning itself launches.

    SLURM counts only with srun: in a batch script without srun, and in an interactive shell (SLURM_JOB_NAME bash or interactive), its
    variables describe processes that nothing starts. RankError for variables that are not numbers, InputError if they do not fit.
    """
    for name in _NUMBERS:  # Lightning reads some of them on import
        _number(name)
    if not any(name in os.environ for name in _LAUNCHERS):
        return None  # without importing torch
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
    """The rank of this process before any process group exists; 0 without a launcher."""
    try:
        started = launcher()
    except RankError:
        raise
    except InputError:  # from SLURM, which rank 0 reports
        return _number("SLURM_PROCID")
    if started is not None:
        return started.global_rank()
    on_one_node = _number("WORLD_SIZE", 1)  # from Lightning's own launcher, which uses one node here
    return _number("NODE_RANK") * on_one_node + _number("LOCAL_RANK")


def world_size(arguments: Mapping[str, Any]) -> int:
    """The number of processes that will train together, before any exists: those of torchrun or srun, otherwise `devices`.

    Raises InputError for mpirun, and for several nodes without torchrun or srun: such launches cannot be told apart.
    """
    if (started := launcher()) is not None:
        from lightning.fabric.plugins.environments import MPIEnvironment

        if isinstance(started, MPIEnvironment):
            raise InputError("mpirun started this command: start it by torchrun or srun")
        if "RANK" in os.environ and "WORLD_SIZE" not in os.environ:
            raise InputError("RANK is in the environment and WORLD_SIZE is not: unset it, or start by torchrun or srun")
        return started.world_size()
    if (nodes := int(arguments.get("num_nodes", 1))) != 1:
        raise InputError(f"trainer.num_nodes is {nodes}: several nodes are started by torchrun or srun: use one")
    devices = arguments.get("devices", 1)
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    count = len(devices) if isinstance(devices, list | tuple) else -1 if devices == "auto" else int(devices)
    if count == -1:
        import torch

        on_cpu = arguments.get("accelerator", "auto") == "cpu" or not torch.cuda.is_available()
        count = 1 if on_cpu else torch.cuda.device_count()
    if count < 1:
        raise InputError(f"trainer.devices is {devices}: give 1 or more, or -1 for all")
    return count


def launched_layout() -> dict[str, int]:
    """Devices and nodes in the launch of torchrun or srun; one device without a launcher. InputError if nodes have different numbers of
    processes."""
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
        what = f"{processes} processes on {nodes} nodes, {devices} of them on this one"
        raise InputError(f"{what}: start the same number on each node")
    return {"devices": devices, "num_nodes": nodes}


def _number(name: str, default: int = 0) -> int:
    """A number in the environment from the launcher. RankError if it is not a number."""
    text = os.environ.get(name, str(default))
    if not text.strip().isdecimal():
        raise RankError(f"{name} is {text!r} in the environment, not a number: unset it, or start by torchrun or srun")
    return int(text)


def launch_key() -> str:
    """A key that the processes of one launch share, and no other launch has: on one node their parent, otherwise the name that torchrun or
    SLURM gave to the launch."""
    names = "MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID TORCHELASTIC_RESTART_COUNT SLURM_JOB_ID SLURM_STEP_ID SLURM_RESTART_COUNT"
    parts = [f"{name}={os.environ[name]}" for name in names.split() if name in os.environ]
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        parts.append(f"parent={os.getppid()}")
    return " ".join(parts)


def is_restart() -> bool:
    """Whether torchrun or SLURM has restarted this command after a failure."""
    return any(_number(name) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def tell_others(marker: Path, told: Mapping[str, Any]) -> None:
    """Write `told` to `marker`, for which the other ranks of this launch wait."""
    from bert.files import replaced

    with replaced(marker) as partial:
        partial.write_text(json.dumps({"launch": launch_key(), **told}) + "\n", encoding="utf-8")


def wait_for_rank_0(marker: Path, key: str, minutes: float = 60.0) -> dict[str, Any]:
    """Wait until rank 0 of the launch `key` has written `marker`, and return its contents. RankError after `minutes`.

    Processes that Lightning starts itself start after rank 0 is done, and need no key.
    """
    started_together = launcher() is not None
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        try:
            told = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # missing, just moved away, or from another version
            told = None
        if isinstance(told, dict) and (not started_together or told.get("launch") == key):
            return told
        time.sleep(0.2)
    what = f"rank 0 has not finished its preparations in {minutes:g} minutes"
    raise RankError(f"{marker}: {what}: see its output, or prepare the store first")
