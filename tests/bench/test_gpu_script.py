"""The script for a GPU: its shapes match their names, and it measures, summarizes and resumes, here at a toy size on a CPU."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bert.bench.documents import write_tokens
from bert.model.encoder import Encoder, count_parameters

from .synthetic import RECIPES, TEXT


@pytest.fixture
def script():
    file = Path(__file__).parents[2] / "recipes" / "gpu_bench.py"
    spec = importlib.util.spec_from_file_location("gpu_bench", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shapes_have_the_parameters_and_sequences_of_their_names(script):
    millions = {
        "bert-base": 109,
        "modernbert-base": 149,
        "modernbert-17m": 17,
        "modernbert-32m": 32,
        "modernbert-68m": 68,
    }
    seen = []
    for shape in script.shapes():
        recipe = shape.recipe
        with torch.device("meta"):
            count = count_parameters(Encoder(recipe.encoder))
        assert count / 1e6 == pytest.approx(millions[shape.name], rel=0.06), shape.name
        assert shape.folder == f"{shape.name}-{recipe.data.sequence_length}"
        assert recipe.encoder.attention_dropout == 0
        assert recipe.encoder.max_length >= recipe.data.sequence_length
        assert recipe.trainer["precision"] == "bf16-mixed"
        seen.append(shape.folder)
    assert seen[:4] == ["bert-base-512", "modernbert-base-512", "bert-base-1024", "modernbert-base-1024"]
    assert len(seen) == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nowhere.npz"], "nowhere.npz: no such file"), (["t.npz", "--only", "bert-bse"], "choose from bert-base-512")],
)
def test_what_is_wrong_is_one_line(script, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr("sys.argv", ["gpu_bench.py", *arguments, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert said in capsys.readouterr().err.replace("'", "").splitlines()[-1]


@pytest.mark.hf
@pytest.mark.slow
def test_it_sums_up_what_it_measured_and_measures_the_rest_when_called_again(script, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    toys = [script.Shape(name, replace(recipe, compile=False), 8) for name, recipe in RECIPES.items()]
    monkeypatch.setattr(script, "shapes", lambda: iter(toys))
    monkeypatch.setattr(script, "RESERVED", 0.0)
    write_tokens(tmp_path / "tokens.npz", TEXT)
    command = ["gpu_bench.py", str(tmp_path / "tokens.npz"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", [*command, "--minutes", "0"])
    script.main()
    assert "skipped" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, "--minutes", "30"])
    script.main()
    output = capsys.readouterr().out
    assert "everything is measured" in output
    for name in RECIPES:
        assert f"| {name}-16 | as chosen |" in output
        assert f"| {name}-16 | sdpa |" in output
    assert "where the time goes in" in output
    assert "**matrix products**" in (tmp_path / "out" / "summary.md").read_text()
