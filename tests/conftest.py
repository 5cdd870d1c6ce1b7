"""What tests share: a little generated text, one tiny pretraining run, and the folder of measurement data."""

import contextlib
import io
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from bert.cli import main
from bert.data.tokenizer import Tokenizer
from bert.model.config import EncoderConfig, task_head
from bert.model.heads import SequenceClassifier

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the Hub for anything, network or not

DATA = Path(__file__).parents[2] / "shared" / "data"

TINY = [
    "--vocabulary.size=256",
    "--encoder.hidden_size=32",
    "--encoder.num_layers=1",
    "--encoder.num_heads=2",
    "--encoder.intermediate_size=32",
    "--encoder.max_length=64",
    "--data.sequence_length=32",
    "--data.batch_size=8",
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


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the package logs during the test."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("bert").addHandler(handler)
    yield messages
    logging.getLogger("bert").removeHandler(handler)


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of temporary files that all processes of a test run share."""
    folder = factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


# In steps, because what minutes hold differs from machine to machine.
QUICKSTART = """
import sys
from bert import cli
from bert.quickstart import run
run.quickstart.__defaults__ = False, 60
sys.exit(cli.main(["quickstart"]))
"""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `bert quickstart` was run, by one process for all: what is in it is only read."""
    folder = shared_folder(tmp_path_factory) / "home"
    with FileLock(f"{folder}.lock"):
        if not (folder / "runs" / "quickstart" / "report.html").exists():
            folder.mkdir(exist_ok=True)
            # In a process of its own, with all its threads.
            command = [sys.executable, "-c", QUICKSTART]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=3600)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no process waits for the other's last test; last what a slow machine may have no time for."""
    places = {"quickstart/test_run.py": -2, "test_docs.py": -1, "bench/*.py": 1, "hostile/*.py": 2}
    items.sort(key=lambda item: next((place for name, place in places.items() if item.path.match(name)), 0))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """No slow test begins after BERT_TESTS_UNTIL, in seconds since 1970."""
    if "slow" in item.keywords and time.time() > float(os.environ.get("BERT_TESTS_UNTIL", "inf")):
        pytest.skip("no time left: run it by itself")


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


@dataclass(frozen=True)
class Exported:
    """What `bert export --to onnx --verify --quantize --eval` made of a classifier."""

    home: Path
    """the folder with rows.tsv and the model folder runs/topics/model"""
    lines: list[str]
    """what it printed"""

    @property
    def model(self) -> Path:
        return self.home / "runs" / "topics" / "model"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Exported:
    """A classifier of random weights with all that our own architectures can have, exported by the command. Do not write
    to it."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'bert-kit[onnx]'")
    tokenizer = Tokenizer.load(tiny_run / "model")
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 40}
    shape |= {"norm": "rmsnorm", "qk_norm": True, "local_window": 4, "global_every": 2, "max_length": 64}
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, **shape)  # type: ignore[arg-type]
    torch.manual_seed(0)
    head = replace(task_head(config, ("food", "nature", "sports")), pooling="mean")
    model = SequenceClassifier(config, head)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.tokenizer = tokenizer
    home = tmp_path_factory.mktemp("exported")
    model.save(home / "runs" / "topics" / "model")
    rows = [("The cat sees the apple.", "food"), ("A dog finds the river at night.", "nature"), ("My friend", "sports")]
    table = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows * 5)
    (home / "rows.tsv").write_text(table, encoding="utf-8")
    output = io.StringIO()
    flags = ["--to", "onnx", "--verify", "--quantize", "--eval", str(home / "rows.tsv")]
    with contextlib.redirect_stdout(output):
        assert main(["export", str(home / "runs" / "topics" / "model"), *flags]) == 0
    return Exported(home, output.getvalue().splitlines())


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of measurement data that stands beside the repository."""
    if not DATA.is_dir():
        pytest.skip(f"no measurement data: {DATA} is absent")
    return DATA
