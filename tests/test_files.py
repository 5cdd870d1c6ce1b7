"""Files and folders that are replaced: one whole version at every instant, and all that is the user's."""

import errno
import os
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert import files
from bert.errors import InputError
from bert.files import (
    clear_workshops,
    completed,
    is_same,
    keep_others,
    locked,
    real_path,
    remove_folder,
    replaced,
    replaced_folder,
    sync,
)
from tests.kills.instants import counted, watched
from tests.kills.trees import listed, lost, make_tree

OURS = ("config.json", "weights", "onnx/*")
KINDS = ("exchange", "two renames")


@pytest.fixture(params=KINDS)
def exchange(request, monkeypatch):
    """Both ways to replace a folder: systems that exchange two in one step, and others."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchanged", lambda first, second: False)
    return request.param == "exchange"


def write(folder, version):
    """A version of ours."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "weights", "onnx/model.onnx"):
        (folder / name).write_text(f"{name} of {version}")


def version_of(folder):
    """The version that is there, whole."""
    found = {(folder / name).read_text().split(" of ")[1] for name in ("config.json", "weights", "onnx/model.onnx")}
    assert len(found) == 1
    return found.pop()


def replace(folder, version):
    with replaced_folder(folder, OURS) as fresh:
        write(fresh, version)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ── one file ──


def test_a_file_is_replaced_at_the_end(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with replaced(file) as partial:
        assert partial.parent == tmp_path
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_file_is_as_it_was_where_anything_fails(tmp_path, error):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(error), replaced(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/a.txt")
    with replaced(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "a.txt").read_text() == "new"


def test_a_link_of_the_temporary_name_is_not_followed(tmp_path):
    """In a run folder of a stranger's it may lead to anything."""
    (tmp_path / ".bashrc").write_text("mine")
    with replaced(tmp_path / "metrics.csv") as partial:
        pass_on = partial
        partial.write_text("rows")
    pass_on.symlink_to(tmp_path / ".bashrc")
    with replaced(tmp_path / "metrics.csv") as partial:
        partial.write_text("rows again")
    assert (tmp_path / ".bashrc").read_text() == "mine"
    assert (tmp_path / "metrics.csv").read_text() == "rows again"


def test_a_file_that_was_not_written_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), replaced(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_a_file_is_whole_whatever_instant_is_interrupted(tmp_path, error):
    for at in range(100):
        file = tmp_path / str(at) / "a.txt"
        file.parent.mkdir()
        file.write_text("old")

        def interrupt():
            raise error

        passed = False
        with suppress(error), watched(counted(at, interrupt)):
            with replaced(file) as partial:
                partial.write_text("new")
            passed = True
        assert file.read_text() in ("old", "new")
        if passed:
            assert at > 5
            return
    pytest.fail("never ran through")


# ── a folder: what comes and what stays ──


def test_a_folder_is_made_with_its_parents(tmp_path, exchange):
    replace(tmp_path / "a" / "b" / "model", "new")
    assert version_of(tmp_path / "a" / "b" / "model") == "new"
    assert names(tmp_path / "a" / "b") == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_there_where_the_work_fails(tmp_path, exchange, error):
    with pytest.raises(error), replaced_folder(tmp_path / "a" / "b" / "model", OURS) as fresh:
        write(fresh, "new")
        raise error
    assert names(tmp_path) == []


def test_the_new_folder_replaces_the_old_one_and_what_of_it_is_ours(tmp_path, exchange):
    replace(tmp_path / "model", "old")
    (tmp_path / "model" / "onnx" / "model.onnx.data").write_text("of the old one alone")
    with replaced_folder(tmp_path / "model", OURS) as fresh:
        assert names(fresh) == []
        write(fresh, "new")
        assert version_of(tmp_path / "model") == "old"
    assert version_of(tmp_path / "model") == "new"
    assert names(tmp_path / "model" / "onnx") == ["model.onnx"]
    assert names(tmp_path) == ["model"]


def test_everything_else_stays_as_it_was(tmp_path, exchange):
    """Files, links, pipes, empty folders, read-only folders, times, rights, and two names of one file."""
    folder = tmp_path / "model"
    replace(folder, "old")
    (folder / "notes.txt").write_text("mine")
    os.utime(folder / "notes.txt", (1, 1))
    (folder / "twin.txt").hardlink_to(folder / "notes.txt")
    (folder / "script").write_text("#!/bin/sh")
    (folder / "script").chmod(0o750)
    (folder / "link").symlink_to("notes.txt")
    (folder / "to a folder").symlink_to(tmp_path)
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "empty" / "deep").mkdir(parents=True)
    (folder / "onnx" / "drafts").mkdir()  # an empty folder of a name of ours
    (folder / "private" / "a").mkdir(parents=True)
    (folder / "private" / "a" / "b").write_text("mine too")
    (folder / "private" / "a").chmod(0o555)
    before = {path: what for path, what in listed(folder).items() if not path.startswith(("onnx", "config", "weights"))}
    inode = (folder / "notes.txt").stat().st_ino
    replace(folder, "new")
    assert version_of(folder) == "new"
    assert lost(before, listed(folder)) == []
    assert (folder / "notes.txt").stat().st_mtime == 1
    assert (folder / "notes.txt").stat().st_ino == (folder / "twin.txt").stat().st_ino == inode
    assert names(tmp_path) == ["model"]


def test_the_folder_keeps_its_rights(tmp_path, exchange):
    """One that its user closed to others is not opened to them by a new version."""
    replace(tmp_path / "model", "old")
    (tmp_path / "model").chmod(0o700)
    replace(tmp_path / "model", "new")
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o700


def test_files_that_arrive_while_the_new_folder_is_filled_stay(tmp_path, exchange):
    replace(tmp_path / "model", "old")
    with replaced_folder(tmp_path / "model", OURS) as fresh:
        write(fresh, "new")
        (tmp_path / "model" / "late.txt").write_text("mine")
    assert (tmp_path / "model" / "late.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, OSError])
def test_files_that_arrive_in_the_last_instant_stay(tmp_path, exchange, monkeypatch, error):
    """After the user's files were linked, before the folders change places; also where that is interrupted right after."""
    replace(tmp_path / "model", "old")
    (tmp_path / "model" / "draft").write_text("first words")
    os.utime(tmp_path / "model" / "draft", (1, 1))
    real = files._put

    def put(fresh, folder, workshop):
        (folder / "late.txt").write_text("mine")
        (folder / "draft.new").write_text("second words")
        os.replace(folder / "draft.new", folder / "draft")  # as an editor saves a file
        real(fresh, folder, workshop)
        if error:
            raise error

    monkeypatch.setattr(files, "_put", put)
    with suppress(KeyboardInterrupt, OSError):
        replace(tmp_path / "model", "new")
    assert version_of(tmp_path / "model") == "new"
    assert (tmp_path / "model" / "late.txt").read_text() == "mine"
    assert (tmp_path / "model" / "draft").read_text() == "second words"
    assert names(tmp_path) == ["model"]


def test_a_file_system_without_links_gets_copies(tmp_path, exchange, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    replace(tmp_path / "model", "old")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    os.utime(tmp_path / "model" / "notes.txt", (1, 1))
    (tmp_path / "model" / "link").symlink_to("notes.txt")
    monkeypatch.setattr(os, "link", refuse)
    replace(tmp_path / "model", "new")
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "model" / "notes.txt").stat().st_mtime == 1
    assert os.readlink(tmp_path / "model" / "link") == "notes.txt"


def test_all_is_as_it_was_where_the_users_files_cannot_be_kept(tmp_path, exchange, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace(tmp_path / "model", "old")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)
    with pytest.raises(OSError, match="No space left"):
        replace(tmp_path / "model", "new")
    assert version_of(tmp_path / "model") == "old"
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["model"]


def test_a_subfolder_that_cannot_be_read_is_an_error_and_no_loss(tmp_path, exchange, monkeypatch):
    replace(tmp_path / "model", "old")
    (tmp_path / "model" / "closed").mkdir()
    (tmp_path / "model" / "closed" / "notes.txt").write_text("mine")
    real = os.scandir

    def scandir(path):
        if not isinstance(path, int) and Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        replace(tmp_path / "model", "new")
    monkeypatch.undo()
    assert version_of(tmp_path / "model") == "old"
    assert (tmp_path / "model" / "closed" / "notes.txt").read_text() == "mine"


def test_a_link_to_the_folder_stays_and_what_it_leads_to_is_replaced(tmp_path, exchange):
    replace(tmp_path / "elsewhere" / "model", "old")
    (tmp_path / "model").symlink_to("elsewhere/model")
    replace(tmp_path / "model", "new")
    assert (tmp_path / "model").is_symlink()
    assert version_of(tmp_path / "elsewhere" / "model") == "new"
    assert names(tmp_path) == ["elsewhere", "model"]


def test_a_file_in_the_place_of_the_folder_is_refused_and_stays(tmp_path, exchange):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(InputError, match=r"model: is a file: give the path of a folder"):
        replace(tmp_path / "model", "new")
    assert (tmp_path / "model").read_text() == "mine"
    assert names(tmp_path) == ["model"]


def test_names_with_patterns_and_links_in_them_are_names(tmp_path, exchange):
    for name in ("[a]*", "a b\n", "-rf", "苹果", "x.new-abcdefgh"):
        replace(tmp_path / name, "old")
        replace(tmp_path / name, "new")
        assert version_of(tmp_path / name) == "new"
    assert len(names(tmp_path)) == 5


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), exchanges=st.booleans(), links=st.booleans())
def test_random_trees_of_the_users_are_kept(seed, exchanges, links):
    home = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        if not exchanges:
            patch.setattr(files, "_exchanged", lambda first, second: False)
        replace(home / "model", "old")
        ours = set(listed(home))
        make_tree(home, seed, prefix="u")
        make_tree(home / "model", seed + 1, files=10, prefix="u")
        make_tree(home / "model" / "drafts of mine", seed + 2) if seed % 2 else None
        before = {path: what for path, what in listed(home).items() if path not in ours}
        replace(home / "model", "new")
    assert version_of(home / "model") == "new"
    assert lost(before, listed(home)) == []
    assert set(listed(home)) == ours | set(before)
    subprocess.run(["rm", "-rf", str(home)], check=True)


# ── mount points ──


def mount_points(monkeypatch, *points):
    real = Path.is_mount
    monkeypatch.setattr(Path, "is_mount", lambda path: path in points or real(path))


def test_a_mount_point_is_refused_naming_a_subfolder(tmp_path, monkeypatch):
    replace(tmp_path / "model", "old")
    mount_points(monkeypatch, tmp_path / "model")
    with pytest.raises(
        InputError, match=r"is a mount point, which cannot be replaced: give a folder in it, as .*/model/new"
    ):
        replace(tmp_path / "model", "new")
    assert version_of(tmp_path / "model") == "old"
    assert names(tmp_path) == ["model"]


@pytest.fixture
def mount():
    """A function that mounts, where this user may."""
    mounted = []

    def mount(*arguments):
        done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this user cannot mount: {done.stderr.strip()}")
        mounted.append(arguments[-1])

    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount")
    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kind", ["another file system", "the same file system"])
@pytest.mark.parametrize("inside", ["", "my data", "onnx"])
def test_real_mounts_are_refused_before_any_work_and_what_is_mounted_stays(tmp_path, exchange, mount, kind, inside):
    """Removing the old folder would remove what is mounted in it."""
    replace(tmp_path / "model", "old")
    place = tmp_path / "model" / inside
    place.mkdir(exist_ok=True)
    if kind == "another file system":
        mount("-t", "tmpfs", "tmpfs", place)
    else:
        (tmp_path / "elsewhere").mkdir()
        mount("--bind", tmp_path / "elsewhere", place)
    (place / "data.bin").write_text("mine")
    with pytest.raises(InputError, match="is a mount point"), replaced_folder(tmp_path / "model", OURS):
        pytest.fail("filled in vain")
    assert (place / "data.bin").read_text() == "mine"


def test_a_folder_in_a_mount_point_can_be_replaced(tmp_path, exchange, mount):
    (tmp_path / "disk").mkdir()
    mount("-t", "tmpfs", "tmpfs", tmp_path / "disk")
    replace(tmp_path / "disk" / "model", "old")
    replace(tmp_path / "disk" / "model", "new")
    assert version_of(tmp_path / "disk" / "model") == "new"
    assert names(tmp_path / "disk") == ["model"]


# ── interruptions ──


@pytest.mark.parametrize("error", [KeyboardInterrupt, pytest.param(OSError, marks=pytest.mark.slow)])
def test_one_whole_version_is_there_whatever_instant_is_interrupted(tmp_path, exchange, monkeypatch, error):
    """And all of the user's, and nothing of ours once it ran again."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for at in range(1000):
        home = tmp_path / str(at)
        replace(home / "model", "old")
        (home / "model" / "my things" / "empty").mkdir(parents=True)
        (home / "model" / "my things" / "notes.txt").write_text("mine")
        (home / "model" / "onnx" / "notes.txt.mine").symlink_to("nowhere")
        users = {path: what for path, what in listed(home).items() if "my things" in path}

        def interrupt():
            raise error

        passed = False
        with suppress(error), watched(counted(at, interrupt), exchange):
            replace(home / "model", "new")
            passed = True
        assert version_of(completed(home / "model")) in ("old", "new"), at
        assert lost(users, listed(home)) == [], at
        replace(home / "model", "new")
        assert version_of(home / "model") == "new"
        assert lost(users, listed(home)) == [], at
        assert names(home) == ["model"], at
        if passed and error is KeyboardInterrupt:
            assert at > 50
            break
        if at > 60:  # some errors are passed over, as of what is removed
            break


def test_a_replacement_that_was_cut_between_its_renames_is_completed_by_who_opens_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchanged", lambda first, second: False)
    cut(tmp_path, "rename", 2)  # the new one is ready; the old one is aside
    assert not (tmp_path / "model").exists()
    assert completed(tmp_path / "model") == tmp_path / "model"
    assert version_of(tmp_path / "model") == "new"
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    replace(tmp_path / "model", "newer")
    assert names(tmp_path) == ["model"]


def cut(home, call, number):
    """Leave what a kill after the call of that number, from 1, would leave of a replacement."""
    replace(home / "model", "old")
    (home / "model" / "notes.txt").write_text("mine")
    child = os.fork()
    if child == 0:
        passed = 0

        def instant(name, over, arguments):
            nonlocal passed
            passed += name == call and over
            if passed == number:
                os._exit(9)

        with watched(instant, exchange=False):
            replace(home / "model", "new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_folder_that_is_there_or_was_never_is_complete(tmp_path):
    assert completed(tmp_path / "absent" / "model") == tmp_path / "absent" / "model"
    assert completed(tmp_path / "model") == tmp_path / "model"
    assert names(tmp_path) == []


# ── workshops ──


def test_a_workshop_of_a_process_that_lives_is_left_alone(tmp_path):
    with replaced_folder(tmp_path / "model", OURS) as fresh:
        write(fresh, "first")
        replace(tmp_path / "model", "second")
        assert version_of(fresh) == "first"
        clear_workshops(tmp_path, OURS)
        assert version_of(fresh) == "first"
    assert version_of(tmp_path / "model") == "first"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("owner", [False, True])
@pytest.mark.parametrize("versions", [(), ("fresh",), ("fresh", "before"), ("ready",), ("before",)])
def test_what_a_killed_process_left_is_cleared_even_without_its_lock_file(tmp_path, owner, versions):
    """As a kill leaves it between the making of the workshop and its locking, or while the workshop is removed."""
    for looked_at in (False, True):
        replace(tmp_path / "model", "old")
        workshop = tmp_path / ".model.new-abcd_123"
        for name in ((workshop / version) for version in versions):
            write(name, "half")
        workshop.mkdir(exist_ok=True)
        if owner:
            (workshop / "owner").write_text("process 1")
        if looked_at:
            (tmp_path / "model").rename(tmp_path / "aside")
            if "before" not in versions:
                completed(tmp_path / "model")
            (tmp_path / "aside").rename(tmp_path / "model")
        replace(tmp_path / "model", "new")
        assert version_of(tmp_path / "model") == "new"
        assert names(tmp_path) == ["model"]


@pytest.mark.parametrize(
    "name", [".model.new-idea", ".model.new-ABCDEFGH", ".model.new-abcdefgh", ".other.new-abcdefgh"]
)
def test_folders_of_the_users_that_are_named_like_workshops_stay(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    (tmp_path / name / "fresh").mkdir()
    (tmp_path / ".model.new-zzzzzzzz").symlink_to(name)
    replace(tmp_path / "model", "old")
    replace(tmp_path / "model", "new")
    clear_workshops(tmp_path, OURS)
    assert names(tmp_path) == sorted([name, "model", ".model.new-zzzzzzzz"])
    assert (tmp_path / name / "notes.txt").read_text() == "mine"


def test_links_in_what_looks_like_a_workshop_lead_nowhere(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("mine")
    replace(tmp_path / "model", "old")
    (tmp_path / ".model.new-abcdefgh").mkdir()
    (tmp_path / ".model.new-abcdefgh" / "ready").symlink_to(tmp_path / "private")
    replace(tmp_path / "model", "new")
    assert names(tmp_path / "private") == ["key"]
    assert names(tmp_path / "model") == ["config.json", "onnx", "weights"]


@pytest.mark.parametrize("folder", ["foo", "step-1/sub", "."])
def test_a_stranger_s_workshop_writes_nothing_through_links(tmp_path, folder):
    """What lies in it for a folder of that name, or below one, must not reach where a link leads."""
    private, checkpoints = tmp_path / "private", tmp_path / "checkpoints"
    private.mkdir(mode=0o700)
    (private / ".bashrc").write_text("mine")
    os.utime(private / ".bashrc", (0, 0))
    replace(checkpoints / "step-1", "whole")
    name, _, below = folder.partition("/")
    ready = checkpoints / f".{name}.new-abcdefgh" / "ready"
    (ready / below).mkdir(parents=True)
    (ready / below / ".bashrc").write_text("evil")
    ready.chmod(0o777)
    if folder != ".":
        (checkpoints / folder).symlink_to(private)
    clear_workshops(checkpoints, OURS)
    assert ((private / ".bashrc").read_text(), stat.S_IMODE(private.stat().st_mode)) == ("mine", 0o700)
    assert names(private) == [".bashrc"]
    assert not (checkpoints / ".bashrc").exists()


def test_all_that_killed_processes_left_in_a_folder_is_cleared_or_completed_at_once(tmp_path):
    """Checkpoints of steps that no run comes by again."""
    for name in ("step-1", "step-2", "step-3"):
        write(tmp_path / f".{name}.new-abcdefgh" / "fresh", "half")
    write(tmp_path / ".step-4.new-abcdefgh" / "ready", "new")
    write(tmp_path / ".step-4.new-abcdefgh" / "before", "old")
    replace(tmp_path / "step-2", "whole")
    clear_workshops(tmp_path, OURS)
    assert names(tmp_path) == ["step-2", "step-4"]
    assert version_of(tmp_path / "step-2") == "whole"
    assert version_of(tmp_path / "step-4") == "new"
    clear_workshops(tmp_path / "absent", OURS)


# ── removal ──


def test_a_folder_is_removed_as_a_whole(tmp_path):
    write(tmp_path / "step-1", "old")
    remove_folder(tmp_path / "step-1")
    assert names(tmp_path) == []
    remove_folder(tmp_path / "step-1")
    remove_folder(tmp_path / "absent" / "step-1")
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_half_a_folder_is_never_there_whatever_instant_of_its_removal_is_interrupted(tmp_path, error):
    for at in range(60):
        home = tmp_path / str(at)
        write(home / "step-1", "old")

        def interrupt():
            raise error

        with suppress(error), watched(counted(at, interrupt)):
            remove_folder(home / "step-1")
        assert not (home / "step-1").exists() or version_of(home / "step-1") == "old"
        remove_folder(home / "step-1")
        clear_workshops(home, ["*"])
        assert names(home) == [], at


# ── small parts ──


def test_two_names_of_one_file_are_the_same(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "b").symlink_to("a")
    assert is_same(tmp_path / "a", tmp_path / "b")
    assert not is_same(tmp_path / "a", tmp_path / "c")
    assert not is_same(tmp_path / "c", tmp_path / "c")


def test_links_and_pipes_are_not_opened_to_be_synced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "file").write_text("")
    synced = []
    with watched(lambda name, over, arguments: synced.append(name) if over else None):
        for name in ("pipe", "link", "file", "."):
            sync(tmp_path / name)
    assert synced == ["fsync", "fsync"]


def test_what_is_kept_is_linked_under_its_own_name_only(tmp_path):
    write(tmp_path / "old", "old")
    (tmp_path / "old" / "notes.txt").write_text("mine")
    (tmp_path / "fresh").mkdir()
    keep_others(tmp_path / "old", tmp_path / "fresh", OURS)
    assert names(tmp_path / "fresh") == ["notes.txt"]


def test_many_files_of_the_users_are_kept_in_time_linear_in_their_number(tmp_path, monkeypatch):
    """A list of all names is not searched for each of them."""
    (tmp_path / "old").mkdir()
    (tmp_path / "fresh").mkdir()
    compared = 0

    class Name(str):
        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    for number in range(200):
        (tmp_path / "old" / f"{number}").write_text("")
    real = os.walk
    monkeypatch.setattr(
        os,
        "walk",
        lambda *a, **k: ((top, folders, [Name(name) for name in found]) for top, folders, found in real(*a, **k)),
    )
    keep_others(tmp_path / "old", tmp_path / "fresh", OURS)
    assert len(names(tmp_path / "fresh")) == 200
    assert compared < 2000


def test_a_folder_that_another_process_works_on_is_not_replaced_twice_at_once_into_a_mixture(tmp_path, exchange):
    """Whoever comes last is there whole."""
    with replaced_folder(tmp_path / "model", OURS) as first:
        (first / "config.json").write_text("config.json of first")
        with replaced_folder(tmp_path / "model", OURS) as second:
            write(second, "second")
        write(first, "first")
    assert version_of(tmp_path / "model") == "first"


def test_a_workshop_that_is_locked_by_another_process_is_not_completed(tmp_path):
    workshop = tmp_path / ".model.new-abcdefgh"
    write(workshop / "ready", "new")
    write(workshop / "before", "old")
    with locked(workshop / "owner", "model"):
        assert not completed(tmp_path / "model").exists()
    assert version_of(completed(tmp_path / "model")) == "new"


def test_links_in_a_circle_lead_nowhere_and_raise_nothing(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert real_path(tmp_path / "a") in (tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path)
    assert real_path(tmp_path / "c" / "x") == tmp_path / "x"
