"""Checkpoints are whole or absent, damage is noticed, the one before is used."""

import errno
import json
import os

import pytest
import torch

from bert.errors import InputError, RankError
from bert.training.checkpoints import WholeCheckpointIO, drop_later, find_damage, list_checkpoints, newest_whole, prove

STATE = {"global_step": 3, "weights": torch.arange(1000.0)}


def save(folder, step):
    WholeCheckpointIO().save_checkpoint(STATE | {"global_step": step}, folder / f"step-{step:08d}")


def test_what_is_saved_is_loaded(tmp_path):
    save(tmp_path, 3)
    loaded = WholeCheckpointIO().load_checkpoint(tmp_path / "step-00000003")
    assert torch.equal(loaded["weights"], STATE["weights"])
    assert find_damage(tmp_path / "step-00000003") == ""
    assert newest_whole(tmp_path, warn=pytest.fail) == tmp_path / "step-00000003"


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("unpickled",))

    folder = tmp_path / "step-00000001"
    folder.mkdir()
    torch.save(Trap(), folder / "state.pt")
    with pytest.raises(Exception, match=r"PyTorch cannot read state\.pt without running code"):
        WholeCheckpointIO().load_checkpoint(folder, weights_only=False)


def truncate(state):
    state.write_bytes(state.read_bytes()[:-100])


def flip_a_byte(state):
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda s: s.with_name("manifest.json").write_text('{"bites": 3}'), "manifest.json is damaged"),
        (truncate, "bytes instead of"),
        (flip_a_byte, "does not match its hash"),
        (lambda s: s.unlink(), "unreadable"),
    ],
)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(tmp_path, damage, what):
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(tmp_path / "step-00000002" / "state.pt")
    warnings = []
    assert newest_whole(tmp_path, warnings.append) == tmp_path / "step-00000001"
    assert len(warnings) == 1
    assert "step-00000002" in warnings[0]
    assert what in warnings[0]


def test_what_lies_behind_the_checkpoint_of_a_run_that_goes_on_is_dropped(tmp_path):
    """Or the damaged ones, being the newest, would be those that are kept."""
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    drop_later(tmp_path / "step-00000002")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001", "step-00000002"]


def test_where_every_checkpoint_is_damaged_is_an_input_error(tmp_path):
    assert newest_whole(tmp_path, print) is None
    save(tmp_path, 1)
    truncate(tmp_path / "step-00000001" / "state.pt")
    with pytest.raises(InputError, match="every checkpoint is damaged"):
        newest_whole(tmp_path, print)


@pytest.mark.parametrize("moment", ["torch.save", "the manifest", "the rename"])
def test_a_write_that_dies_leaves_no_checkpoint(tmp_path, monkeypatch, moment):
    """Death is an exception that nobody catches: what the disk holds then is what SIGKILL would leave."""
    save(tmp_path, 1)

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    target, name = {
        "torch.save": (torch, "save"),
        "the manifest": (json, "dumps"),
        "the rename": (os, "rename"),
    }[moment]
    monkeypatch.setattr(target, name, die)
    with pytest.raises(Killed):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001"]
    assert newest_whole(tmp_path, warn=pytest.fail).name == "step-00000001"
    save(tmp_path, 2)  # the remains do not stand in the way
    assert newest_whole(tmp_path, warn=pytest.fail).name == "step-00000002"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")]
)
def test_a_full_disk_is_an_input_error_and_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(InputError, match="make room on this disk"):
        save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_everything_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    real_fsync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), real_fsync(fd))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), real_rename(a, b))[1])
    save(tmp_path, 1)
    assert events == [
        "sync",
        "sync",
        "sync",
        "rename",
        "rename",
        "sync",
    ]  # state, manifest, folder; then the folder above


def test_only_folders_with_our_names_are_checkpoints(tmp_path):
    for name in ("step-00000004-good", "step-4", "step-00000003.partial", "step-x"):
        (tmp_path / name).mkdir()
    for step in (2, 123456789):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002", "step-123456789"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    WholeCheckpointIO("mine").save_checkpoint(STATE, tmp_path / "step-00000001")
    assert newest_whole(tmp_path, pytest.fail, "mine")
    with pytest.raises(InputError, match="is a checkpoint of another run"):
        newest_whole(tmp_path, pytest.fail, "yours")


def test_a_process_that_sees_another_checkpoint_than_the_first_says_so(tmp_path):
    save(tmp_path, 1)
    checkpoint = tmp_path / "step-00000001"
    sha256 = json.loads((checkpoint / "manifest.json").read_text())["sha256"]
    prove(checkpoint, sha256, minutes=0)
    for other in ("0" * 64, ""):
        with pytest.raises(RankError, match="does not see the checkpoint"):
            prove(checkpoint, other, minutes=0)
    truncate(checkpoint / "state.pt")
    with pytest.raises(RankError, match="does not see the checkpoint"):
        prove(checkpoint, sha256, minutes=0)
