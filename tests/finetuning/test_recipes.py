"""Every fine-tuning recipe describes itself and parses, and its command line is valid."""

import re
import shlex
from pathlib import Path

import pytest

from bert.finetuning.config import FinetuneRecipe
from bert.recipe import read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "finetune").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_and_says_what_it_is(path):
    recipe = read_recipe(path, FinetuneRecipe)
    assert recipe.model is None  # given by the user, like the files
    assert recipe.data.train is None
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Source:", "Hardware:", "Time:", "Expected:"):
        assert any(word in line for line in header), f"{path.name} does not say {word}"
    command = shlex.split(next(line for line in header if "bert finetune" in line).lstrip("# "))
    assert command[2] == ("tag" if re.search("pos|ner", path.stem) else "classify")
    assert command[command.index("--config") + 1] == path.stem


def test_there_is_one_for_each_measured_task():
    assert [path.stem for path in RECIPES] == ["ner-en", "sst2", "ud-ewt-pos", "zh-cls", "zh-ner"]
