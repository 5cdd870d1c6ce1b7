"""The package as its metadata says."""

import tomllib
from pathlib import Path

import pytest

import bert
from bert.cli import main

ROOT = Path(__file__).parents[1]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = METADATA["project"]


def pinned() -> dict[str, str]:
    """The versions of constraints.txt by normalised name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def test_the_version_is_the_same_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bert {PROJECT['version']}\n"
    assert bert.__version__ == PROJECT["version"]


def test_every_dependency_is_pinned_above_its_floor() -> None:
    from packaging.requirements import Requirement

    versions = pinned()
    extras = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    for text in [*PROJECT["dependencies"], *extras]:
        requirement = Requirement(text)
        if requirement.name != "bert":
            version = versions[requirement.name.lower().replace("_", "-")]
            assert requirement.specifier.contains(version), f"{text}, and constraints.txt pins {version}"


def test_the_changelog_names_every_command() -> None:
    from bert.cli import COMMANDS

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [command for command in COMMANDS if f"`bert {command}`" not in text] == []


def test_files_that_are_not_code_are_installed_too() -> None:
    listed = set(METADATA["tool"]["setuptools"]["package-data"]["bert"])
    package = ROOT / "bert"
    files = [file for file in package.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert {file.relative_to(package).as_posix() for file in files} == listed
