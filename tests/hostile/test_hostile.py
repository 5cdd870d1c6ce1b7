"""Every loader over mutated files, in a process of its own that has imported everything once."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.loaders import LOADERS
from tests.hostile.mutators import MUTATORS, kinds_of

ROOT = Path(__file__).parents[2]
CASES = os.environ.get("BERT_HOSTILE_CASES", "1000")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="watches children by Linux's means")
def test_mutated_files_are_accepted_or_refused_in_one_line_and_nothing_else_happens(tmp_path: Path) -> None:
    """1,000 cases, or as many as BERT_HOSTILE_CASES says. What it prints says how each fault is replayed."""
    command = [sys.executable, "-m", "tests.hostile", "--cases", CASES, "--work", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_a_loader_has_a_name_of_its_own_and_every_mutator_has_files() -> None:
    names = [loader.name for loader in LOADERS]
    assert len(set(names)) == len(names)
    files = [file for loader in LOADERS for file in loader.files]
    kinds = {kind for file in files for kind in kinds_of(Path(file.replace("model*", "model.safetensors.index.json")))}
    for mutator in MUTATORS:
        assert "*" in mutator.kinds or kinds & set(mutator.kinds), mutator.name


@pytest.mark.parametrize("name", ["bytes", "file", "value", "whole"])
def test_a_mutation_is_the_same_for_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    mutator = next(mutator for mutator in MUTATORS if mutator.name == name)
    home = tmp_path / "home" / "projects" / "case"
    results = []
    for number in (1, 1, 2, 3, 4, 5, 6, 7):
        folder = home / str(len(results))
        folder.mkdir(parents=True)
        monkeypatch.chdir(folder)
        file = folder / "a.json"
        file.write_text('{"a": [1, 2, {"b": "c"}]}')
        said = mutator.change(file, random.Random(number))
        results.append((said, file.read_bytes() if file.is_file() and not file.is_symlink() else None))
    assert results[0] == results[1]
    assert len(set(results)) > 2
