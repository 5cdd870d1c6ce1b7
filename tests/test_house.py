"""The house, drawn from its imports: arrows run down or sideways inside a folder, and what must be light is light."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import bert
from bert.cli import VERBS
from bert.commands import benching

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bert"

# The floors from the top down. A name is a folder of bert/ or a file in it. Rooms on one floor do not know each other, save for the
# files on the lowest one.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("quickstart", "bench", "evaluate", "export"),
    ("pretraining", "finetuning", "probing"),
    ("embed",),
    ("inference",),
    ("report",),
    ("training",),
    ("hf",),
    ("model", "data"),
    (
        "flags",
        "recipe",
        "errors",
        "files",
        "locks",
        "memory",
        "signals",
        "terminal",
        "untrusted",
        "hub",
        "sample",
        "__init__",
    ),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LOWEST = len(FLOORS) - 1
LONGEST_FILE = 450

# Methods of model classes that may reach up: (module, method) → where to.
DOORS = {
    ("bert.model.encoder", "embed"): "bert.embed",
    ("bert.model.encoder", "load"): "bert.hf.folder",
    ("bert.model.encoder", "save"): "bert.hf.folder",
    ("bert.model.heads", "fill"): "bert.embed",
}

LIGHT = (
    "bert",
    "bert.errors",
    "bert.recipe",
    "bert.model.config",
    "bert.training.config",
    "bert.training.schedules",
    "bert.pretraining.config",
    "bert.finetuning.config",
)


@dataclass(frozen=True)
class Arrow:
    """`source` imports `target`, in the function `inside` or at module level."""

    source: str
    target: str
    line: int
    inside: str | None

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}: imports {self.target}"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", None), getattr(test, "attr", None))


def imports_of(module: str) -> list[Arrow]:
    """Every import of a file that is carried out, inside functions too; those for type checkers are not."""
    arrows: list[Arrow] = []

    def visit(node: ast.AST, inside: str | None) -> None:
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for child in node.orelse:
                visit(child, inside)
            return
        if isinstance(node, ast.Import):
            arrows.extend(Arrow(module, alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: write the whole name of what is imported"
            arrows.extend(
                Arrow(module, home_of(node.module or "", alias.name), node.lineno, inside) for alias in node.names
            )
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = node.name
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(FILES[module].read_text(encoding="utf-8")), None)
    return arrows


def home_of(module: str, name: str) -> str:
    """The module that `from module import name` really loads."""
    if f"{module}.{name}" in FILES:
        return f"{module}.{name}"
    return bert._HOMES.get(name, module) if module == "bert" else module


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


ARROWS = [arrow for module in FILES for arrow in imports_of(module)]
HOUSE = [arrow for arrow in ARROWS if arrow.target.split(".")[0] == "bert"]


def wrong(arrow: Arrow) -> str:
    """Why an arrow is not on the map, or an empty string."""
    source, target = room_of(arrow.source), room_of(arrow.target)
    for room in (source, target):
        if room not in FLOOR:
            return f"{arrow}: the room {room} is not on the map"
    if arrow.inside and DOORS.get((arrow.source, arrow.inside)) == arrow.target:
        return ""
    if source == target or FLOOR[source] < FLOOR[target]:
        return ""
    if FLOOR[source] == FLOOR[target]:
        return "" if FLOOR[source] == LOWEST else f"{arrow}: from room to room on one floor"
    return f"{arrow}: up"


def circles(edges: set[tuple[str, str]]) -> list[str]:
    """Modules that reach themselves."""
    reach: dict[str, set[str]] = {}
    for source, target in edges:
        reach.setdefault(source, set()).add(target)

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for target in reach.get(waiting.pop(), set()) - found:
                found.add(target)
                waiting.append(target)
        return found

    return sorted(module for module in reach if module in reachable(module))


def run_python(code: str, *arguments: str) -> str:
    """The output of a fresh interpreter; it must succeed."""
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_import_runs_down_or_sideways_inside_one_folder() -> None:
    assert [message for message in map(wrong, HOUSE) if message] == []


def test_the_map_refuses_what_it_should() -> None:
    for source, target in [
        ("bert.model.heads", "bert.data.tokenizer"),
        ("bert.data.store", "bert.model.config"),
        ("bert.pretraining.run", "bert.finetuning.run"),
        ("bert.training.folder", "bert.embed"),
        ("bert.hf.folder", "bert.training.folder"),
        ("bert.recipe", "bert.model.config"),
        ("bert.embed", "bert.pretraining.score"),
        ("bert.evaluate", "bert.bench"),
        ("bert.model.heads", "bert.embed"),
        ("bert.data.store", "bert.nowhere"),
    ]:
        assert wrong(Arrow(source, target, 1, None)), (source, target)
    assert wrong(Arrow("bert.model.heads", "bert.embed", 1, "forward"))  # a door is a door for its own method alone
    assert circles({("a", "b"), ("b", "c"), ("c", "b")}) == ["b", "c"]


def test_no_circle_of_imports() -> None:
    down = {(a.source, a.target) for a in HOUSE if not (a.inside and (a.source, a.inside) in DOORS)}
    assert circles(down) == []


def test_doors_are_methods_of_three_lines_that_import_inside_the_call() -> None:
    seen = set()
    for module in {module for module, _ in DOORS}:
        for node in ast.parse(FILES[module].read_text(encoding="utf-8")).body:
            for method in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(method, ast.FunctionDef) and (module, method.name) in DOORS:
                    body = method.body[1:] if ast.get_docstring(method) else method.body
                    assert len(body) <= 3, f"{module}.{node.name}.{method.name} is more than a door"
                    assert isinstance(body[0], ast.ImportFrom)
                    assert body[0].module == DOORS[module, method.name]
                    seen.add((module, method.name))
    assert seen == set(DOORS)


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    lazy = {
        "datasets",
        "pyarrow",
        "pydantic",
        "transformers",
        "peft",
        "sentence_transformers",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "huggingface_hub",
    }
    at_once = [str(arrow) for arrow in ARROWS if arrow.inside is None and arrow.target.split(".")[0] in lazy]
    assert at_once == []


def test_packages_know_only_what_their_floor_needs() -> None:
    allowed = {  # package → rooms that may import it, anywhere in a file
        "torch": {
            "model",
            "hf",
            "training",
            "embed",
            "inference",
            "pretraining",
            "finetuning",
            "probing",
            "bench",
            "quickstart",
        },
        "lightning": {"training", "pretraining", "finetuning", "bench"},
        "datasets": {"data"},
        "pyarrow": {"data"},
        "tokenizers": {"data"},
        "pydantic": {"recipe"},
        "argparse": {"flags"},
        "transformers": {"bench"},
        "onnx": {"hf"},
        "onnxruntime": {"hf"},
        "sentence_transformers": {"hf"},
        "peft": set(),
    }
    outside = [
        str(arrow)
        for arrow in ARROWS
        if room_of(arrow.source) not in allowed.get(arrow.target.split(".")[0], {room_of(arrow.source)})
    ]
    assert outside == []


def test_packages_have_empty_init_files() -> None:
    filled = [str(file) for file in PACKAGE.rglob("*/__init__.py") if file.read_text(encoding="utf-8").strip()]
    assert filled == []


def test_every_folder_is_a_package() -> None:
    folders = {file.parent for file in FILES.values()}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_file_holds_two_ideas() -> None:
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in FILES.items()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_public_names_resolve() -> None:
    for name in bert.__all__:
        assert getattr(bert, name).__name__ == name
    assert set(bert.__all__) == set(bert._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'Encodr'"):
        bert.Encodr  # noqa: B018


def test_recipes_and_configs_load_without_torch() -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    for heavy in ('torch', 'lightning', 'datasets', 'pyarrow', 'pydantic', 'tokenizers'):\n"
        "        assert heavy not in sys.modules, f'{name} loads {heavy}'\n"
    )
    run_python(code, *LIGHT)


@pytest.mark.parametrize("verb", [None, *VERBS, *(f"bench {mode}" for mode in benching.MODES)], ids=str)
def test_help_is_instant_because_it_loads_no_torch(verb: str | None) -> None:
    code = (
        "import sys\n"
        "from bert.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(sorted({'torch', 'lightning', 'datasets', 'pyarrow', 'transformers'} & set(sys.modules)))\n"
    )
    output = run_python(code, *(verb.split() if verb else []), "--help")
    assert output.splitlines()[-1] == "[]"
    assert f"usage: bert {verb}" in output if verb else all(f"  {name} " in output for name in VERBS)


def test_training_and_its_measurement_run_from_numpy_arrays_without_datasets_pyarrow_and_pydantic() -> None:
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("datasets", "pyarrow", "pydantic"):
            raise ModuleNotFoundError(f"{name} is not here")
sys.meta_path.insert(0, Blocker())
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)

import numpy as np
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.pretraining.config import MaskingConfig
from bert.pretraining.masking import Vocabulary
from bert.pretraining.sources import Source
from bert.pretraining.phases import Phase, Plan as Phases
from bert.pretraining.stream import BatchStream, SpecialIds
from bert.data.packing import SequenceIndex, Documents
from bert.data.store import TokenStore

lengths = np.full(40, 9)
values = np.arange(lengths.sum()) % 20 + 5
sequences = SequenceIndex(Documents(np.cumsum(lengths) - lengths, lengths), 16, 8, 0, None)
vocabulary = Vocabulary(4, np.arange(25) >= 5, np.arange(5, 25), np.ones(25, bool))
store = TokenStore.from_arrays(values, np.concatenate(([0], np.cumsum(lengths))))
phases = Phases((Phase(0, 0, 16, 4, 4, 0.35, 0, 1e4),))
stream = BatchStream({16: Source(store, sequences)}, phases, SpecialIds(2, 3, 0), vocabulary, MaskingConfig())
batch = stream.micro_batch(3)
shape = EncoderConfig(vocab_size=25, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, max_length=16)
model = MaskedLM(shape)
model(batch["input_ids"], document_ids=batch["document_ids"], masked_positions=batch["masked_positions"], labels=batch["labels"]).loss.backward()

from bert.bench.documents import text_of_arrays
from bert.bench.measurement import Measurement
from bert.bench.steps import bench_steps
from bert.pretraining.config import DataConfig, PretrainRecipe

recipe = PretrainRecipe(data=DataConfig(sequence_length=16, batch_size=4), encoder=shape, compile=False, trainer={"accelerator": "cpu"})
said = []
text = text_of_arrays(values, np.concatenate(([0], np.cumsum(lengths))), 25)
found = bench_steps(Measurement(recipe, text, rounds=1, seconds=0.01, say=said.append), ["sdpa"])
assert len(found["results"]) > 1
print("trained and measured")
"""
    floor_of_arrays = [name for name in FILES if name.startswith("bert.model")]
    wing = [
        "bert.data.packing",
        "bert.pretraining.stream",
        "bert.pretraining.sources",
        "bert.pretraining.module",
        "bert.bench.steps",
        "bert.bench.comparison",
        "bert.bench.minutes",
    ]
    assert run_python(code, *floor_of_arrays, *wing).endswith("trained and measured\n")
