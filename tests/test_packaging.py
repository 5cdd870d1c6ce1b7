"""The package as its metadata says."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import bert
from bert.cli import main
from bert.flags import DOCUMENTATION

ROOT = Path(__file__).parents[1]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = METADATA["project"]


def pinned() -> dict[str, str]:
    """The versions of constraints.txt by normalised name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def test_the_version_is_the_same_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    """`bert.__version__` is its only source; the CHANGELOG has an entry for it, and CITATION.cff cites it."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bert {bert.__version__}\n"
    assert (PROJECT["name"], PROJECT["dynamic"]) == ("bert-kit", ["readme", "version"])
    assert METADATA["tool"]["hatch"]["version"]["path"] == "bert/__init__.py"
    assert f"\n## {bert.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (bert.__version__, PROJECT["license"])


def test_the_addresses_are_the_same_everywhere() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    urls = PROJECT["urls"]
    assert f"site_url: {DOCUMENTATION}\n" in site
    assert f"repo_url: {urls['Source']}\n" in site
    assert urls["Documentation"] == DOCUMENTATION


def test_every_dependency_is_pinned_above_its_floor() -> None:
    from packaging.requirements import Requirement

    versions = pinned()
    extras = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    for text in [*PROJECT["dependencies"], *extras]:
        requirement = Requirement(text)
        if requirement.name != "bert-kit":
            version = versions[requirement.name.lower().replace("_", "-")]
            assert requirement.specifier.contains(version), f"{text}, and constraints.txt pins {version}"


def test_the_changelog_names_every_command() -> None:
    from bert.cli import COMMANDS

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [command for command in COMMANDS if f"`bert {command}`" not in text] == []


def run(command: list[str], folder: Path, path: str = "") -> str:
    """The output of a command in an environment without this repository."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment_outside_the_repository(tmp_path: Path) -> None:
    """Made from the sdist: `bert quickstart`, `import bert` and recipes by name."""
    pytest.importorskip("build", reason="the package build is not installed")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)], tmp_path)
    (wheel,), (source,) = (
        (tmp_path / "dist").glob(f"bert_kit-{bert.__version__}{end}") for end in ("-*.whl", ".tar.gz")
    )
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    inside = ("bert", "docs", "notebooks", "recipes", "tests")
    tracked = run(["git", "ls-files", *inside], ROOT).split() if (ROOT / ".git").exists() else []
    assert {*tracked, "README.md", "LICENSE", "CITATION.cff", "mkdocs.yml", "constraints.txt"} <= packed
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
    assert re.findall(r"\]\((?!https://)[^)]*\)", metadata) == []  # links that would be dead on the package index
    assert "](https://raw.githubusercontent.com/bert-kit/bert-kit/main/docs/apple.png)" in metadata
    run([sys.executable, "-m", "venv", str(tmp_path / "env")], tmp_path)
    here, empty = tmp_path / "env" / "bin", tmp_path / "elsewhere"
    empty.mkdir()
    run([str(here / "pip"), "install", "--quiet", "-c", str(ROOT / "constraints.txt"), str(wheel)], empty)
    installed = run([str(here / "python"), "-c", "import bert; print(bert.__version__, bert.__file__)"], empty).split()
    assert installed[0] == bert.__version__
    assert Path(installed[1]).is_relative_to(tmp_path / "env")
    senses = ["senses", "rows.tsv", "--model", "m"]
    for command, name in ((["pretrain"], "mini-cpu"), (["finetune", "classify"], "sst2"), (senses, "coarsewsd20")):
        (recipe,) = (ROOT / "recipes").glob(f"*/{name}.yaml")
        expected = run([sys.executable, "-m", "bert", *command, "--config", str(recipe), "--print-config"], ROOT)
        assert run(["bert", *command, "--config", name, "--print-config"], empty, str(here)) == expected
    printed = run(["bert", "pretrain", "--encoder", "bert-tiny", "--print-config"], empty, str(here))
    assert yaml.safe_load(printed)["encoder"]["num_layers"] == 2
    assert "good sentence of a pair" in run(["bert", "quickstart"], empty, str(here))
    assert (empty / "runs" / "quickstart" / "report.html").exists()
