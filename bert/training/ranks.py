"""The processes of a run: how many there are, which one this is, how they wait for the first and agree on a number.

Before Lightning has started anything the launcher's environment variables tell: torchrun's, SLURM's, or those of Lightning's own launcher.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bert.errors import InputError


class Agreement:
    """What all ranks take the largest of. Numbers travel over the CPU, so that no rank waits for its device.

    Make it on every rank at the same place: with several ranks it makes a process group.
    """

    def __init__(self, ranks: int) -> None:
        self._group = torch.distributed.new_group(backend="gloo") if ranks > 1 else None

    def largest(self, number: float) -> float:
        """The largest of the ranks' numbers, on every rank."""
        if self._group is None:
            return number
        shared = torch.tensor(number, dtype=torch.float64)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX, group=self._group)
        return float(shared)


def global_rank() -> int:
    """This process's rank before any process group exists, as the launcher says: 0 for the first alone, and where nobody launched.

    Of Lightning's own launcher only that much is known: the rank on a node, and the number of the node.
    """
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ and (name != "SLURM_PROCID" or "SLURM_NTASKS" in os.environ):
            return int(os.environ[name])
    return int(os.environ.get("LOCAL_RANK", 0)) + int(os.environ.get("NODE_RANK", 0))


def world_size(arguments: Mapping[str, Any]) -> int:
    """How many processes will train together, before any exists: what torchrun or SLURM started, else devices × nodes."""
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        if name in os.environ:
            return int(os.environ[name])
    devices = arguments.get("devices", 1)
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if isinstance(devices, str):
        count = (
            _visible_devices(arguments)
            if devices == "auto"
            else len([part for part in devices.split(",") if part.strip()])
        )
    else:
        count = len(devices) if isinstance(devices, (list, tuple)) else int(devices)
    if count == -1:
        count = _visible_devices(arguments)
    if count < 1:
        raise InputError(f"trainer.devices is {devices}: give 1 or more, or -1 for all")
    return count * int(arguments.get("num_nodes", 1))


def launched_layout() -> dict[str, int]:
    """Devices and nodes as torchrun or SLURM laid the processes out; one device where nobody did."""
    for world, local in (("WORLD_SIZE", "LOCAL_WORLD_SIZE"), ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE")):
        if world in os.environ and local in os.environ:
            devices = int(os.environ[local])
            return {"devices": devices, "num_nodes": int(os.environ[world]) // devices}
    return {"devices": 1}


def _visible_devices(arguments: Mapping[str, Any]) -> int:
    on_cpu = arguments.get("accelerator", "auto") == "cpu" or not torch.cuda.is_available()
    return 1 if on_cpu else torch.cuda.device_count()


def launch_key() -> str:
    """What the processes of one launch have in common and other launches have not.

    On one node that is their parent; over several it is the name that torchrun (--rdzv-id) or SLURM gave to the launch.
    """
    names = (
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_RESTART_COUNT",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
    )
    parts = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        parts.append(f"parent={os.getppid()}")
    return " ".join(parts)


def wait_for_rank_0(marker: Path, key: str, minutes: float = 60.0) -> None:
    """Wait until rank 0 has written `key` to `marker`; InputError after `minutes`.

    Processes that Lightning starts itself come when rank 0 is done, and need not wait for a key of theirs.
    """
    started_together = "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_JOB_ID" in os.environ
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        if marker.exists() and (not started_together or marker.read_text() == key):
            return
        time.sleep(0.2)
    raise InputError(
        f"{marker}: rank 0 has not finished its preparations in {minutes:g} minutes: see its output, or prepare the store first"
    )
