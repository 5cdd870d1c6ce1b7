"""Names of the Hugging Face Hub: the cache where it has them, one line where it has not. Nothing is fetched here."""

import subprocess
import sys
from pathlib import Path

import pytest

from bert.errors import InputError
from bert.hub import local_folder
from tests.hf.hf import make


def run_offline(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command with a cache of its own and no network."""
    import os

    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "bert", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def put_in_cache(cache: Path, name: str) -> None:
    """What huggingface_hub leaves on disk when it has fetched a model."""
    commit = "0" * 40
    home = cache / f"models--{name.replace('/', '--')}"
    make("bert").save(home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)


@pytest.mark.parametrize("name", ["someone/some-bert", "some-bert"])
def test_a_name_that_is_in_the_cache_opens_offline(name: str, tmp_path: Path) -> None:
    put_in_cache(tmp_path, name)
    result = run_offline(tmp_path, "fill", "a [MASK]", "--model", name)
    assert "this model has no tokenizer" in result.stderr  # it was opened, and has none
    assert result.returncode == 2


@pytest.mark.parametrize("command", [["fill", "a [MASK]"], ["attend", "a b"], ["evaluate"]])
def test_a_name_that_is_nowhere_is_one_line_offline(command: list[str], tmp_path: Path) -> None:
    arguments = (
        [*command, "someone/some-bert"] if command[0] == "evaluate" else [*command, "--model", "someone/some-bert"]
    )
    result = run_offline(tmp_path, *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert "someone/some-bert: no such folder, and the Hugging Face Hub cannot be reached" in result.stderr


def test_folders_and_what_looks_like_a_path_are_never_looked_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("bert.hub._from_hub", lambda name: pytest.fail(f"{name} was looked up"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs", "runs/mine", "./model", "/nowhere/model", "a/b/c", "..", "", "~/model", "runs/mine/model"):
        assert local_folder(path) == Path(path).expanduser()
    with pytest.raises(InputError, match=r"runs/mine: no such folder: give the folder of a model"):
        from bert import MaskedLM

        MaskedLM.load("runs/mine")
