"""The folder of a run: one owner, nothing of the user's lost, what was decided written down and compared."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import PurePath

import pytest

from bert.errors import InputError
from bert.files import matches
from bert.pretraining.config import DataConfig, PretrainRecipe
from bert.training import folder as run_folder
from bert.training.folder import OURS, append_environment, check_same, claimed, mark_ready, mark_resumed, owned

GIVEN = PretrainRecipe(data=DataConfig(corpus=["text.txt"]))
OTHER = dataclasses.replace(GIVEN, seed=7)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def prepare(out, given=GIVEN, overwrite=False, **files):
    with owned(out), claimed(out, overwrite, given) as folder:
        for name, text in files.items():
            fill(folder, **{name: text})
        mark_ready(folder, out, given, "bert pretrain", {})


def test_every_file_of_a_finished_run_is_known_as_ours(tiny_run):
    """Or an overwritten run would leave parts of it in the next."""
    names = [path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()]
    assert [name for name in names if not any(matches(PurePath(name), pattern) for pattern in OURS)] == []


def test_a_second_process_is_told_who_owns_the_folder(tmp_path):
    code = "from pathlib import Path; from bert.training.folder import owned\nwith owned(Path('run')): pass"
    with owned(tmp_path / "run"):
        second = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
    assert second.returncode == 1
    assert f"InputError: run: in use by process {os.getpid()} on " in second.stderr


def test_a_folder_that_was_made_and_stays_empty_goes_again(tmp_path):
    with pytest.raises(KeyError), owned(tmp_path / "above" / "run"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_of_the_user_stays(tmp_path):
    (tmp_path / "run").mkdir()
    with owned(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_the_owner_notices_that_its_folder_was_replaced(tmp_path):
    with owned(tmp_path / "run") as check:
        check()
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(InputError, match="was moved or replaced"):
            check()
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / ".lock").write_text("of another")
        with pytest.raises(InputError, match="was moved or replaced"):
            check()
    assert (tmp_path / "run" / ".lock").read_text() == "of another"


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer__tokenizer.json",
        "store__store.json",
        "checkpoints__step-00000001__state.pt",
        "before-after__losses.tsv",
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_without_our_marker_is_the_users_whatever_its_names(tmp_path, name, overwrite):
    fill(tmp_path / "run", **{name: "two days of work"})
    before = tree(tmp_path)
    with owned(tmp_path / "run"), pytest.raises(InputError, match="holds files that are not of a run"):
        with claimed(tmp_path / "run", overwrite, GIVEN):
            raise AssertionError
    assert tree(tmp_path) == before


def die_while_preparing(out, given, **files):
    """A process that prepares a run is killed."""
    process = os.fork()
    if process == 0:
        with owned(out), claimed(out, False, given):
            fill(out, **files)
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL


def test_what_a_killed_preparation_made_is_kept_for_the_same_recipe(tmp_path):
    out = tmp_path / "run"
    die_while_preparing(out, GIVEN, **{"tokenizer__tokenizer.json": "{}"})
    with owned(out), claimed(out, False, GIVEN) as folder:
        assert folder == out
        assert (out / "tokenizer" / "tokenizer.json").read_text() == "{}"


def test_what_a_killed_preparation_made_goes_for_another_recipe_and_the_users_files_stay(tmp_path):
    out = tmp_path / "run"
    die_while_preparing(out, GIVEN, **{"tokenizer__tokenizer.json": "{}"})
    fill(out, **{"notes__mine.txt": "mine", "tokenizer__mine.txt": "mine too"})
    with owned(out), claimed(out, False, OTHER):
        assert set(tree(out)) == {".lock", "given.yaml", "notes/mine.txt", "tokenizer/mine.txt"}


def test_a_preparation_that_fails_takes_back_what_it_made_and_nothing_else(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyError), owned(out), claimed(out, False, GIVEN):
        fill(out, **{"tokenizer__tokenizer.json": "{}", "store__store.json": "{}"})
        raise KeyError
    assert not out.exists()


def test_an_overwritten_run_leaves_the_users_files_and_nothing_of_its_own(tmp_path):
    out = tmp_path / "run"
    prepare(out, **{"checkpoints__step-00000002__state.pt": "weights", "model__config.json": "{}"})
    users = {
        "thesis.tex": "x",
        "checkpoints/best.ckpt": "y",
        "model/onnx/mine.bin": "z",
        "checkpoints/step-00000002-good/a": "w",
    }
    fill(out, **{name.replace("/", "__"): text for name, text in users.items()})
    prepare(out, OTHER, overwrite=True, **{"tokenizer__tokenizer.json": "{}"})
    new = {"environment.json", "given.yaml", "ready", "recipe.yaml", "tokenizer/tokenizer.json"}
    assert set(tree(out)) == new | set(users)
    assert {name: (out / name).read_text() for name in users} == users
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_overwrite_that_fails_leaves_the_old_run_byte_for_byte(tmp_path):
    out = tmp_path / "run"
    prepare(out, **{"checkpoints__step-00000002__state.pt": "weights", "thesis.tex": "x"})
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"^{out}/store: no room$"), owned(out), claimed(out, True, OTHER) as folder:
        fill(folder, **{"tokenizer__tokenizer.json": "{}"})
        raise InputError(f"{folder}/store: no room")
    assert tree(tmp_path) == before


def test_a_run_behind_a_link_is_overwritten_where_it_lies(tmp_path):
    prepare(tmp_path / "disk" / "run", model__a="old")
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    prepare(tmp_path / "run", OTHER, overwrite=True)
    assert (tmp_path / "run").is_symlink()
    assert "seed: 7" in (tmp_path / "disk" / "run" / "recipe.yaml").read_text()
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


def test_another_recipe_is_refused_with_both_values(tmp_path):
    prepare(tmp_path / "run")
    check_same(tmp_path / "run", GIVEN)
    with pytest.raises(
        InputError, match=r"run: already holds a run, with seed 0, not 7: give another `out`, `resume` "
    ):
        check_same(tmp_path / "run", OTHER)


def test_each_start_is_appended_to_the_environment_and_differences_are_named(tmp_path, recwarn):
    out = tmp_path / "run"
    with owned(out), claimed(out, False, GIVEN) as folder:
        mark_ready(folder, out, GIVEN, "bert pretrain", {"precision": "bf16-mixed", "compiled": True})
    mark_resumed(out, GIVEN, [], 4, {"precision": "32-true", "compiled": True}, {})
    assert [str(warning.message) for warning in recwarn] == [
        f"{out}: precision is 32-true, and was bf16-mixed before: results may differ"
    ]
    assert len(run_folder._environments(out)) == 2
    (out / "environment.json").write_text('[{"packages": 1e308, "decided": [1]}]')
    mark_resumed(out, GIVEN, [], 4, {}, {})
    assert len(run_folder._environments(out)) == 2


def test_a_damaged_environment_only_informs(tmp_path):
    (tmp_path / "environment.json").write_text("[" * 100_000)
    assert append_environment(tmp_path, {})["decided"]["threads"]
    assert len(run_folder._environments(tmp_path)) == 1


def test_an_amended_recipe_says_so_at_its_head(tmp_path):
    out = tmp_path / "run"
    prepare(out)
    before = (out / "recipe.yaml").read_text()
    mark_resumed(out, GIVEN, [], 4, {}, {})
    assert (out / "recipe.yaml").read_text() == before
    for step, seed in ((4, 7), (6, 8)):
        mark_resumed(out, dataclasses.replace(GIVEN, seed=seed), [("seed", 0, seed)], step, {}, {})
    head = [line for line in (out / "recipe.yaml").read_text().splitlines() if line.startswith("#")]
    assert before.startswith("# A complete recipe for `bert pretrain`: another run with it repeats this one.\n")
    assert head[0].endswith("this run was changed while it ran, and another run with it does not repeat this one.")
    assert head[1:] == ["# Amended at step 4: seed 0 -> 7.", "# Amended at step 6: seed 0 -> 8."]


@pytest.mark.parametrize(
    "name",
    [
        "metrics.csv",
        "environment.json",
        "ready",
        "recipe.yaml",
        "model",
        "checkpoints",
        "tokenizer",
        "checkpoints/step-00000002",
    ],
)
def test_a_link_under_a_name_that_a_run_writes_is_refused(tmp_path, name):
    """The folder may be a stranger's, and the link lead to any file of the user."""
    out = tmp_path / "run"
    prepare(out)
    (tmp_path / "home").mkdir()
    (out / name).unlink(missing_ok=True)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to(tmp_path / "home")
    with pytest.raises(InputError, match="is a link, which may lead to any file"), owned(out):
        raise AssertionError


def test_links_of_the_users_own_are_no_matter(tmp_path):
    out = tmp_path / "run"
    prepare(out)
    (out / "data").symlink_to(tmp_path)
    (out / "model").mkdir()
    (out / "model" / "mine").symlink_to(tmp_path)
    with owned(out):
        pass


def test_a_recipe_of_the_users_does_not_make_their_folder_a_run(tmp_path):
    out = tmp_path / "run"
    fill(out, **{"recipe.yaml": "# mine", "metrics.csv": "mine"})
    before = tree(out)
    for overwrite in (False, True):
        with owned(out), pytest.raises(InputError, match="holds files that are not of a run"):
            with claimed(out, overwrite, GIVEN):
                raise AssertionError
    assert tree(out) == before


@pytest.mark.parametrize("name", ["given.yaml", "recipe.yaml"])
def test_a_group_that_is_none_in_a_file_of_the_run_is_one_line(tmp_path, name):
    prepare(tmp_path / "run")
    (tmp_path / "run" / name).write_text("stop: 3")
    with pytest.raises(InputError, match=f"{name}: `stop` is a group"):
        check_same(tmp_path / "run", GIVEN)


def test_a_command_may_ask_for_what_was_amended(tmp_path):
    out = tmp_path / "run"
    prepare(out)
    mark_resumed(out, OTHER, [("seed", 0, 7)], 4, {}, {})
    check_same(out, GIVEN)
    check_same(out, OTHER)


def test_what_is_prepared_when_a_signal_comes_is_there_for_the_same_command(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), owned(out), claimed(out, False, GIVEN):
        fill(out, **{"tokenizer__tokenizer.json": "{}"})
        raise KeyboardInterrupt
    with owned(out), claimed(out, False, GIVEN):
        assert (out / "tokenizer" / "tokenizer.json").read_text() == "{}"
