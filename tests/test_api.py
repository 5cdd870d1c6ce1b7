"""The Python API: every public name says what it is, its examples run, its types are known, a plain loop trains it."""

import doctest
import inspect
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import bert
from tests.probing.models import make_masked_lm

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "bert").rglob("*.py")
    if "    >>> " in file.read_text(encoding="utf-8")
)


def functions(name: str) -> list[tuple[str, object]]:
    """The public function of a name, or the methods and properties that its class defines in this package."""
    public = getattr(bert, name)
    if not inspect.isclass(public):
        return [(name, public)]
    found = []
    for attribute in dir(public):
        member = inspect.getattr_static(public, attribute)
        member = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if attribute.startswith("_") or not inspect.isfunction(member) or not member.__module__.startswith("bert."):
            continue
        found.append((f"{name}.{attribute}", member))
    return found


@pytest.mark.parametrize("name", bert.__all__)
def test_a_public_name_says_what_it_is_with_types_and_errors(name: str) -> None:
    public = getattr(bert, name)
    text = inspect.getdoc(public) or ""
    assert len(text) >= 40, f"{name} has no docstring of its own"
    if inspect.isfunction(public):
        assert "Raises InputError" in text, name
    for path, function in functions(name):
        assert inspect.getdoc(function), f"{path} has no docstring"
        signature = inspect.signature(function)
        bare = [p for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")]
        assert bare == [], f"{path}: {bare} has no type"
        assert signature.return_annotation is not signature.empty, f"{path} returns no type"
        tensors = "Tensor" in str(signature.return_annotation) or "NDArray" in str(signature.return_annotation)
        assert not tensors or re.search(r"\([A-Z\w]+,.*\)", inspect.getdoc(function) or ""), f"{path}: no shape"


def test_models_show_how_they_are_called() -> None:
    for name in ("Encoder", "MaskedLM", "SequenceClassifier", "TokenClassifier", "Tokenizer", "words", "attention"):
        assert ">>> " in (getattr(bert, name).__doc__ or ""), name


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings_run_as_they_stand(module: str) -> None:
    result = doctest.testmod(import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


CLASSIFIER = """
import torch
from bert import EncoderConfig, SequenceClassifier, TaskHeadConfig

torch.manual_seed(0)
config = EncoderConfig(vocab_size=64, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=48, max_length=16)
model = SequenceClassifier(config, TaskHeadConfig(labels=("few", "many"), pooling="mean"))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
losses = []
for step in range(40):
    ids = torch.randint(5, 64, (16, 12))
    labels = ((ids > 34).sum(dim=1) > 6).long()  # many high ids, or few
    loss = model(ids, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert sum(losses[-5:]) < 0.7 * sum(losses[:5]), losses
"""
MASKED_LM = """
import torch
from bert import EncoderConfig, MaskedLM

torch.manual_seed(0)
config = EncoderConfig(vocab_size=64, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=48, max_length=16)
model = MaskedLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
losses = []
for step in range(60):
    first = torch.randint(5, 10, (16, 1))
    ids = (first + torch.arange(12)) % 59 + 5  # each id follows from its neighbour
    masked = torch.rand(ids.shape) < 0.15
    labels = ids.where(masked, torch.tensor(-100))
    loss = model(ids.masked_fill(masked, 4), labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert sum(losses[-5:]) < 0.7 * sum(losses[:5]), losses
"""


def test_a_plain_loop_of_less_than_30_lines_trains_a_model_without_lightning() -> None:
    assert max(len(loop.strip().splitlines()) for loop in (CLASSIFIER, MASKED_LM)) < 30
    code = f"import sys\nsys.modules['lightning'] = None\n{CLASSIFIER}{MASKED_LM}\nassert 'datasets' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_runs_are_functions_of_recipes(
    text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], said
) -> None:
    from bert.finetuning.config import DataConfig as LabelledConfig
    from bert.finetuning.tasks.index import TASKS
    from bert.pretraining.config import DataConfig
    from bert.training.config import LogConfig, StopConfig

    shape = bert.EncoderConfig(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32, max_length=64)
    quiet, cpu = LogConfig(progress_bar=False), {"accelerator": "cpu", "precision": "32-true"}
    data = DataConfig(corpus=[str(text_file)], sequence_length=32, batch_size=8)
    recipe = bert.PretrainRecipe(data=data, encoder=shape, stop=StopConfig(steps=2), log=quiet, trainer=cpu)
    model = bert.pretrain(recipe, str(tmp_path / "run"))
    assert model == tmp_path / "run" / "model"
    assert said[-2].startswith("2 steps, ")
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "the cat sat\tcat\nthe dog ran\tdog\n" * 4)
    (tmp_path / "dev.tsv").write_text("text\tlabel\nthe cat ran\tcat\n")
    labelled = LabelledConfig(train=str(tmp_path / "train.tsv"), dev=str(tmp_path / "dev.tsv"))
    tuning = bert.FinetuneRecipe(model=str(model), data=labelled, epochs=1, log=quiet, trainer=cpu)
    with pytest.raises(bert.InputError, match=f"task is 'topics': give one of {', '.join(TASKS)}"):
        bert.finetune("topics", tuning, tmp_path / "topics")
    assert "steps" in capsys.readouterr().out  # shown without being asked for
    logging.getLogger("bert").setLevel(logging.WARNING)
    folder = bert.finetune("classify", tuning, str(tmp_path / "topics"))
    logging.getLogger("bert").setLevel(logging.INFO)
    assert bert.SequenceClassifier.load(folder).labels == ("cat", "dog")
    assert "steps" not in capsys.readouterr().out


MODEL = make_masked_lm()
SENTENCES = ["the cat sat", "a cat"]
CALLS: dict[str, Callable] = {
    "words word": lambda value: bert.words(value, SENTENCES, MODEL),
    "words sentences": lambda value: bert.words("cat", value, MODEL),
    "words model": lambda value: bert.words("cat", SENTENCES, value),
    "words also": lambda value: bert.words("cat", SENTENCES, MODEL, also=value),
    "words seed": lambda value: bert.words("cat", SENTENCES, MODEL, seed=value),
    "senses rows": lambda value: bert.senses(value, MODEL),
    "score sentences": lambda value: bert.score(value, MODEL),
    "score model": lambda value: bert.score(SENTENCES, value),
    "attention text": lambda value: bert.attention(value, MODEL),
    "attention model": lambda value: bert.attention("the cat", value),
    "embed texts": lambda value: MODEL.encoder.embed(value),
    "embed layer": lambda value: MODEL.encoder.embed(SENTENCES, layer=value),
    "fill text": lambda value: MODEL.fill(value),
    "fill top": lambda value: MODEL.fill("the [MASK]", value),
    "load folder": lambda value: bert.MaskedLM.load(value),
    "save folder": lambda value: MODEL.save(value),
    "load path": lambda value: bert.Tokenizer.load(value),
    "encode text": lambda value: MODEL.tokenizer.encode(value),
    "encode_documents texts": lambda value: MODEL.tokenizer.encode_documents(value),
    "pretrain recipe": lambda value: bert.pretrain(value, "out"),
    "pretrain out": lambda value: bert.pretrain(bert.PretrainRecipe(), value),
    "finetune task": lambda value: bert.finetune(value, bert.FinetuneRecipe(), "out"),
    "finetune recipe": lambda value: bert.finetune("classify", value, "out"),
    "Encoder config": lambda value: bert.Encoder(value),
    "SentenceModule model": lambda value: bert.SentenceModule(value),
}
OF_NO_KIND = (
    None,
    1.5,
    True,
    b"text",
    {"text": "a"},
    {"text"},
    object(),
    ["a", None],
    [["a"]],
    [{"sentence": "a cat"}],
)


@pytest.mark.parametrize("call", CALLS)
def test_an_argument_of_another_kind_is_an_input_error_that_names_it(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in OF_NO_KIND:
        with pytest.raises(bert.InputError, match=rf"^{call.split()[1]}(\[[01]\])? is .*; must be \S.*$"):
            CALLS[call](value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("pretrain recipe", "recipe is 'texts/'; must be PretrainRecipe"),
        ("finetune recipe", "recipe is 'texts/'; must be FinetuneRecipe"),
        ("embed texts", r"texts is 'texts/'; must be Iterable\[str\]"),
        ("words sentences", r"sentences is 'texts/'; must be Sequence\[str\] \| Sequence\[Row\] \| Path"),
        ("Encoder config", "config is 'texts/'; must be EncoderConfig"),
        ("words model", "texts: no such folder"),
    ],
)
def test_a_path_in_place_of_what_is_in_it_is_refused(call: str, message: str) -> None:
    with pytest.raises(bert.InputError, match=f"^{message}"):
        CALLS[call]("texts/")


USER = """
from pathlib import Path

import torch
from bert import Encoder, EncoderConfig, MaskedLM, SequenceClassifier, Tokenizer, score, words

def vectors(folder: str) -> torch.Tensor:
    encoder = Encoder.load(folder)
    reveal_type(encoder)
    reveal_type(encoder(torch.zeros(1, 2, dtype=torch.long)).last_hidden_state)
    reveal_type(encoder.tokenizer)
    return encoder.embed(["An apple a day."])

def guess(folder: Path) -> str:
    guesses = MaskedLM.load(folder).fill("An [MASK].")
    reveal_type(guesses[0][0].probability)
    return guesses[0][0].token

def classify(folder: str) -> tuple[str, ...]:
    model = SequenceClassifier.load(folder)
    reveal_type(model.forward(torch.zeros(1, 2, dtype=torch.long)).logits)
    return model.labels

reveal_type(EncoderConfig().hidden_size)
reveal_type(Tokenizer.load("x").encode("a"))
reveal_type(score(["a"], "x")[0].score)
reveal_type(words("apple", ["An apple."], "x"))
EncoderConfig(hidden_size="wide")
"""


@pytest.mark.slow
def test_types_reach_a_user_s_script(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(USER)
    environment = os.environ | {"MYPYPATH": str(ROOT), "PYTHONPATH": ""}
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--ignore-missing-imports"]
    done = subprocess.run([*command, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    revealed = [line.split("Revealed type is ")[1].strip('"') for line in lines if "Revealed type" in line]
    tensor = "torch._tensor.Tensor"
    assert revealed == [
        "bert.model.encoder.Encoder",
        tensor,
        "bert.data.tokenizer.Tokenizer | None",
        "float",
        tensor,
        "int",
        "list[int]",
        "float",
        "bert.probing.words.Words",
    ]
    errors = [line for line in lines if ": error: " in line]
    assert len(errors) == 1, errors
    assert '"hidden_size" to "EncoderConfig" has incompatible type "str"; expected "int"' in errors[0]
