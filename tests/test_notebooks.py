"""The notebooks: short, kept with what their cells put out, and every cell runs."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_CODE_LINES = 39
MOST_BYTES = 300_000


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_are_five_notebooks_in_their_order() -> None:
    assert [notebook.name[:2] for notebook in NOTEBOOKS] == ["1-", "2-", "3-", "4-", "5-"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_short_and_shows_what_its_cells_put_out(notebook: Path) -> None:
    cells = code_cells(notebook)
    lines = [line.strip() for cell in cells for line in "".join(cell["source"]).split("\n")]
    assert len([line for line in lines if line and not line.startswith("#")]) <= MOST_CODE_LINES
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))  # run once, from the top
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []
    assert notebook.stat().st_size < MOST_BYTES
    text = notebook.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_opens_with_what_its_reader_will_be_able_to_do(notebook: Path) -> None:
    first = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    opening = first.split("\n\n")
    assert opening[0].startswith("# ")
    assert opening[1].startswith("After this notebook you will be able to")
    assert opening[2].startswith("* ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all notebooks: what an earlier one leaves, a later one takes."""
    return tmp_path_factory.mktemp("notebooks")


def execute(notebook: Path, folder: Path, cells: int | None = None, replaced: tuple[str, str] = ("", "")) -> None:
    """Run the first `cells` code cells, or all; raises where one fails."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"][:cells]
    assert replaced[0] in "".join(cell.source for cell in code)
    for cell in code:
        cell.source = cell.source.replace(*replaced)
    content.cells = code
    nbclient.NotebookClient(content, timeout=1800, resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_every_cell_of_a_notebook_runs(notebook: Path, folder: Path) -> None:
    execute(notebook, folder)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS[2:4], ids=lambda notebook: notebook.stem)
def test_a_notebook_makes_its_encoder_where_there_is_none(notebook: Path, tmp_path: Path) -> None:
    execute(notebook, tmp_path, cells=1, replaced=("steps=300", "steps=2"))
    assert (tmp_path / "runs" / "first" / "model" / "config.json").exists()
