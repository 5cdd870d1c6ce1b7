"""Nothing of the user's is lost and one whole version is there, whatever instant of an operation a kill or a power cut falls on.

What is tried stands in `tests/kills/operations.py`, how in `tests/kills/worker.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills.instants import can_exchange
from tests.kills.operations import OPERATIONS

BROKEN = ("DeletesFirst", "ForgetsToSync")
QUICK = [name for name, operation in OPERATIONS.items() if not operation.slow and name not in BROKEN]
EVERY = int(os.environ.get("BERT_KILLS_EVERY", "8"))
"""of the instants that are tried in the slow tier, beside every rename: each eighth; 1 is the long form"""
SLOW = [name for name, operation in OPERATIONS.items() if operation.slow]


@pytest.fixture(scope="module")
def worker():
    """The warm process."""
    command = [sys.executable, "-m", "tests.kills.worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], **pipes)
    yield process
    process.stdin.close()
    process.wait()


@pytest.fixture
def prove(worker, tmp_path):
    """A function that has the worker try an operation and checks what it found."""

    def faults(proof, operation, exchange=True, every=1, seed=0):
        if exchange and not can_exchange(tmp_path):
            pytest.skip("this file system does not exchange folders")
        scratch = tmp_path / f"{seed}"
        scratch.mkdir()
        task = {"proof": proof, "operation": operation, "seed": seed, "exchange": exchange, "every": every}
        worker.stdin.write(json.dumps(task | {"scratch": str(scratch)}) + "\n")
        worker.stdin.flush()
        answer = json.loads(worker.stdout.readline())
        assert answer["tried"] > 0 or answer["faults"]
        return answer["faults"]

    def prove(proof, operation, exchange=True, every=1, seed=0):
        found = faults(proof, operation, exchange, every, seed)
        assert not found, f"{len(found)} faults:\n" + "\n".join(found[:20])

    prove.faults = faults
    return prove


# ── a few instants of each, at every change ──


@pytest.mark.parametrize("operation", ["SaveModel", "ExportOut", "SaveCheckpoint", "CutMetrics"])
def test_a_kill_at_a_rename_leaves_all_of_the_users_and_one_whole_version(prove, operation):
    prove("kills", operation, every=1000)


@pytest.mark.parametrize("operation", ["WriteRecipe", "CutMetrics", "SaveCheckpoint", "SaveCheckpointAgain"])
def test_a_power_cut_leaves_all_of_the_users_and_one_whole_version(prove, operation):
    prove("power cuts", operation)


def test_the_proof_sees_a_kill_between_removing_and_writing(prove):
    found = prove.faults("kills", "DeletesFirst")
    assert any("lost" in fault for fault in found)
    assert any("not whole" in fault for fault in found)


def test_the_proof_sees_what_a_rename_leaves_unsynced(prove):
    found = prove.faults("power cuts", "ForgetsToSync")
    assert any("new is not synced before the replace" in fault for fault in found)
    assert any("model is not synced after the replace" in fault for fault in found)
    assert any("no whole version" in fault for fault in found)


# ── every instant, with and without an exchange of folders ──


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("operation", QUICK)
def test_a_kill_at_any_instant_leaves_all_of_the_users_and_one_whole_version(prove, operation, exchange):
    prove("kills", operation, exchange, every=EVERY, seed=3 + exchange)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("operation", QUICK)
def test_a_power_cut_at_any_instant_leaves_all_of_the_users_and_one_whole_version(prove, operation, exchange):
    prove("power cuts", operation, exchange, every=EVERY, seed=5 + exchange)


@pytest.mark.slow
@pytest.mark.parametrize("operation", SLOW)
def test_a_kill_while_a_run_is_overwritten_leaves_all_of_the_users_and_one_whole_run(prove, operation):
    prove("kills", operation, every=25, seed=7)
