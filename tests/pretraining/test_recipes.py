"""Every pretraining recipe describes itself and parses, and the small ones run."""

from pathlib import Path

import pytest
import yaml

from bert.cli import main
from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.phases import resolve_plan
from bert.recipe import read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "pretrain").glob("*.yaml"))
SMALL = [path for path in RECIPES if "mini" in path.name]


def read(path):
    return read_recipe(path, PretrainRecipe)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_and_says_what_it_is(path):
    recipe = read(path)
    assert any(value is not None for value in vars(recipe.stop).values())
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("bert pretrain", "Source:", "Hardware:"):
        assert any(word in line for line in header), f"{path.name} does not say {word}"
    assert any("Expected:" in line or "not measured" in line for line in header)
    assert f"--config {path.stem} " in "\n".join(header)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_states_nothing_twice_and_fits_its_batches(path):
    stated = yaml.safe_load(path.read_text())
    recipe = read(path)
    resolve_plan(recipe, recipe.trainer.get("devices", 1))  # raises if a batch cannot be divided
    assert stated.get("encoder", {}).get("vocab_size") is None  # it comes from the tokenizer


def test_the_mini_recipe_has_the_default_encoder():
    assert read(next(path for path in RECIPES if path.name == "mini-cpu.yaml")).encoder == EncoderConfig()


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_small_recipe_runs_for_a_few_steps(path, tmp_path, text_file):
    arguments = ["pretrain", str(text_file), "--config", str(path), "--out", str(tmp_path / "run"), "--stop.steps", "2"]
    small = [
        "--data.sequence_length",
        "32",
        "--data.batch_size",
        "4",
        "--vocabulary.size",
        "null",
        "--validation.sequences",
        "4",
    ]
    assert main([*arguments, *small]) == 0
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_structured_weights_are_for_fresh_weights() -> None:
    with pytest.raises(
        InputError, match="initialization is structured beside --from a/model, which has trained weights: give random"
    ):
        PretrainRecipe(initialize_from="a/model", initialization="structured")
