"""Every fine-tuning recipe describes itself and parses, and its command line is valid; those of GLUE read its data sets."""

import re
import shlex
from pathlib import Path

import datasets
import pytest

from bert.data.columns import Columns
from bert.finetuning.config import FinetuneRecipe, WindowsConfig
from bert.finetuning.inputs import prepare_data, window_maker
from bert.finetuning.tasks.index import task_named
from bert.model.encoder import Encoder
from bert.recipe import read_recipe
from tests.data.hub import class_label, write_data_set

from .synthetic import save_encoder

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "finetune").glob("*.yaml"))
NLI = ("entailment", "not_entailment")
GLUE = {
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "qnli": (("question", "sentence"), NLI),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "rte": (("sentence1", "sentence2"), NLI),
    "sst2": (("sentence",), ("negative", "positive")),
    "stsb": (("sentence1", "sentence2"), ()),
    "wnli": (("sentence1", "sentence2"), NLI[::-1]),
}
"""columns of texts and names of labels on the card of nyu-mll/glue; the label of stsb is a number"""


def command_of(path):
    """The `bert finetune` command in the header of a recipe."""
    line = next(line for line in path.read_text().splitlines() if line.startswith("#") and "bert finetune" in line)
    return shlex.split(line.lstrip("# "))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_and_says_what_it_is(path):
    recipe, is_complete = read_recipe(path, FinetuneRecipe), path.stem.startswith("glue-")
    assert (recipe.model is not None) == (recipe.data.train is not None) == is_complete  # else given by the user
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("Source:", "Hardware:", "Time:", "Expected:"):
        assert any(word in line for line in header), f"{path.name} does not say {word}"
    command = command_of(path)
    tasks = {"pos|ner": "tag", "stsb": "regression", "transformer": "translate", "": "classify"}
    assert command[2] == next(task for pattern, task in tasks.items() if re.search(pattern, path.stem))
    assert command[command.index("--config") + 1] == path.stem
    needs_model = not is_complete and command[2] != "translate"
    assert ("--train" in command, "--model" in command) == (not is_complete, needs_model)


def test_there_is_one_for_each_measured_task_and_each_of_glue():
    names = ["ner-en", "sst2", "transformer-base", "ud-ewt-pos", "zh-cls", "zh-ner"]
    assert [path.stem for path in RECIPES] == [*(f"glue-{name}" for name in GLUE), *names]


@pytest.fixture(scope="module")
def maker(tiny_run, tmp_path_factory):
    encoder = Encoder.load(save_encoder(tiny_run, tmp_path_factory.mktemp("recipes") / "encoder"))
    return window_maker(WindowsConfig(sequence_length=24), encoder, "encoder")


@pytest.mark.parametrize("name", GLUE)
def test_a_recipe_of_glue_reads_the_columns_and_labels_of_its_data_set(name, tmp_path, monkeypatch, maker):
    texts, labels = GLUE[name]
    kinds = {column: {"dtype": "string"} for column in texts}
    kinds |= {"label": {"dtype": class_label(*labels) if labels else "float32"}, "idx": {"dtype": "int32"}}
    numbers = [0, 1, len(labels) - 1, 0, 1] if labels else [0.0, 3.8, 5.0, 2.25, 1.0]
    rows = [dict.fromkeys(texts, f"Text {row}.") | {"label": number, "idx": row} for row, number in enumerate(numbers)]
    unlabeled = [row | {"label": -1} for row in rows]
    dev = [f"validation{suffix}" for suffix in (("_matched", "_mismatched") if name == "mnli" else ("",))]
    splits = {"train": rows} | dict.fromkeys(dev, rows) | {"test": unlabeled}
    write_data_set(tmp_path / "nyu-mll" / "glue", {name: (kinds, splits)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    path = next(path for path in RECIPES if path.stem == f"glue-{name}")
    recipe, task = read_recipe(path, FinetuneRecipe), task_named(command_of(path)[2])
    data = prepare_data(task, recipe.data, maker)
    assert data.columns == Columns(*[*texts, None][:2], "label")
    assert data.labels == (tuple(sorted(labels)) or ("value",))
    expected = [(sorted(labels).index(labels[number]),) if labels else (number,) for number in numbers]
    assert [pytest.approx(item.labels) for item in data.train] == expected
    assert [pytest.approx(item.labels) for item in data.dev] == expected
    assert data.dev_name == f"nyu-mll/glue:{name}:{dev[0]}"
    published = {"batch_size": 32, "lr": 2e-5, "sequence_length": 128, "epochs": 5 if name in ("mrpc", "wnli") else 3}
    ours = vars(recipe) | vars(recipe.data) | vars(recipe.windows) | vars(recipe.optimizer)
    assert {key: ours[key] for key in published} == published
