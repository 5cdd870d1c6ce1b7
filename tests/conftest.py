"""What tests share: a little generated text, one tiny pretraining run, and the folder of measurement data."""

import contextlib
import io
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bert.cli import main

DATA = Path(__file__).parents[2] / "shared" / "data"

TINY = [
    "--vocabulary.size=256",
    "--encoder.hidden_size=32",
    "--encoder.num_layers=1",
    "--encoder.num_heads=2",
    "--encoder.intermediate_size=32",
    "--encoder.max_length=64",
    "--data.row_length=32",
    "--data.batch_rows=8",
    "--stop.steps=4",
    "--checkpoint.every_steps=2",
    "--log.every_steps=1",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
]
"""flags of a run that takes a fraction of a second"""


def pytest_configure() -> None:
    """One thread: the models of tests are smaller than what a second one costs. No test reaches for the network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)


SUBJECTS = (
    "the cat",
    "a dog",
    "my friend",
    "the old man",
    "a young woman",
    "the teacher",
    "our neighbour",
    "the child",
)
VERBS = ("sees", "likes", "finds", "carries", "paints", "forgets", "remembers", "follows", "washes", "sells")
OBJECTS = ("the apple", "a red phone", "the river", "an old book", "the garden", "a letter", "the bridge", "some bread")
NAMES = tuple(
    first + last for first in ("Bel", "Dor", "Fin", "Gus", "Ler", "Mar", "Tam") for last in ("a", "ek", "inda", "osh")
)
PLACES = (
    "in the morning",
    "near the station",
    "after the rain",
    "on the hill",
    "by the sea",
    "at night",
    "in the city",
)


def make_text(documents: int = 120, seed: int = 0) -> str:
    """Documents of a few plain sentences, parted by blank lines: the same for the same seed."""
    draw = random.Random(seed)
    texts = []
    for _ in range(documents):
        sentences = [
            [draw.choice(words) for words in (NAMES, SUBJECTS, VERBS, OBJECTS, PLACES)]
            for _ in range(draw.randint(3, 9))
        ]
        texts.append(" ".join(f"{sentence[0]} and {' '.join(sentence[1:])}." for sentence in sentences))
    return "\n\n".join(texts) + "\n"


def run_quietly(arguments: Sequence[str]) -> None:
    """Run a command in this process that must succeed, without its output."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main(list(arguments))
    assert code == 0, f"bert {' '.join(arguments)}: exit code {code}\n{output.getvalue()}{errors.getvalue()}"


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of 120 documents. Do not write to it."""
    file = tmp_path_factory.mktemp("corpus") / "sentences.txt"
    file.write_text(make_text(), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """The folder of a finished run of 4 steps with checkpoints at 2 and 4. Copy it before you change it."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    run_quietly(["pretrain", str(text_file), "--out", str(run), *TINY])
    return run


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of measurement data that stands beside the repository."""
    if not DATA.is_dir():
        pytest.skip(f"no measurement data: {DATA} is absent")
    return DATA
