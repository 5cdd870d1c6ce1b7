"""The layers of the package: each folder imports what lies below it, and what must be light is light."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import bert
from bert.cli import COMMANDS
from bert.commands import benching

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bert"

# A folder of bert/, or a file in it → the ones that it may import. All of them may import what is in BASE, whose files may import one
# another. What is not named here is not allowed, so that layers are a partial order: pretraining and finetuning do not know each other.
BASE = {"errors", "files", "flags", "hub", "recipe", "signals", "terminal", "untrusted"}
LAYERS: dict[str, set[str]] = {
    "data": set(),
    "model": set(),
    "hf": {"data", "model"},
    "report": set(),
    "inference": {"data", "model"},
    "training": {"data", "model", "hf"},
    "pretraining": {"data", "model", "hf", "training"},
    "finetuning": {"data", "model", "hf", "report", "training", "inference"},
    "probing": {"data", "model", "inference", "report"},
    "bench": {"data", "model", "hf", "report", "training", "pretraining", "finetuning"},
    "export": {"model", "hf", "finetuning"},
    "sample": set(),
    "quickstart": {"data", "model", "report", "training", "pretraining", "finetuning", "probing", "sample"},
    "commands": {"data", "model", "report", "training", "pretraining", "finetuning", "probing", "bench"},
    "cli": {"training", "commands", "__init__"},
    "__main__": {"cli"},
    "__init__": {
        "data",
        "model",
        "hf",
        "pretraining",
        "finetuning",
        "probing",
    },  # for type checkers: names are imported when asked for
}
LAYERS["commands"] |= {"hf", "export", "quickstart", "sample"}
LONGEST_FILE = 450

# Methods of model classes that import from a layer above when they are called: (module, method) → what they import.
UPWARD = {
    ("bert.model.encoder", "embed"): "bert.inference.embeddings",
    ("bert.model.encoder", "load"): "bert.hf.folder",
    ("bert.model.encoder", "save"): "bert.hf.folder",
    ("bert.model.heads", "fill"): "bert.inference.embeddings",
    ("bert.model.heads", "predict"): "bert.finetuning.predict",
}

# Types of an attribute that a layer above sets, so that a user's editor knows it: for type checkers alone.
TYPES = {("bert.model.encoder", "bert.data.tokenizer"), ("bert.model.heads", "bert.data.tokenizer")}

LIGHT = (
    "bert",
    "bert.errors",
    "bert.recipe",
    "bert.model.config",
    "bert.training.config",
    "bert.training.schedules",
    "bert.pretraining.config",
    "bert.finetuning.config",
    "bert.finetuning.tasks.index",
)


@dataclass(frozen=True)
class Import:
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


def imports_of(module: str) -> list[Import]:
    """Every import of a file, inside functions and for type checkers too."""
    imports: list[Import] = []

    def visit(node: ast.AST, inside: str | None) -> None:
        if isinstance(node, ast.Import):
            imports.extend(Import(module, alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: write the whole name of what is imported"
            imports.extend(
                Import(module, home_of(node.module or "", alias.name), node.lineno, inside) for alias in node.names
            )
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = node.name
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(FILES[module].read_text(encoding="utf-8")), None)
    return imports


def home_of(module: str, name: str) -> str:
    """The module that `from module import name` really loads."""
    if f"{module}.{name}" in FILES:
        return f"{module}.{name}"
    return bert._HOMES.get(name, module) if module == "bert" else module


def layer_of(module: str) -> str:
    """The folder of bert/ that holds a module, or its file there."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


IMPORTS = [found for module in FILES for found in imports_of(module)]
OWN = [found for found in IMPORTS if found.target.split(".")[0] == "bert"]


def wrong(found: Import) -> str:
    """Why an import is not on the map, or an empty string."""
    source, target = layer_of(found.source), layer_of(found.target)
    for layer in (source, target):
        if layer not in LAYERS and layer not in BASE:
            return f"{found}: {layer} is not in LAYERS"
    before = FILES[found.source].read_text(encoding="utf-8").splitlines()[found.line - 2]
    if (found.source, found.target) in TYPES and before.startswith("if TYPE_CHECKING:"):
        return ""
    if found.inside and UPWARD.get((found.source, found.inside)) == found.target:
        return ""
    allowed = source == target or target in BASE | LAYERS.get(source, set())
    return "" if allowed else f"{found}: {source} may not import {target}"


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


def test_every_import_is_one_that_its_layer_allows() -> None:
    assert [message for message in map(wrong, OWN) if message] == []


def test_the_layers_are_a_partial_order() -> None:
    assert circles({(layer, other) for layer, others in LAYERS.items() for other in others - {"__init__"}}) == []


def test_the_layers_refuse_what_they_should() -> None:
    for source, target in [
        ("bert.model.heads", "bert.data.tokenizer"),
        ("bert.data.store", "bert.model.config"),
        ("bert.pretraining.run", "bert.finetuning.run"),
        ("bert.pretraining.forgetting", "bert.sample.make"),
        ("bert.training.folder", "bert.inference.embeddings"),
        ("bert.report.page", "bert.training.folder"),
        ("bert.hf.folder", "bert.training.folder"),
        ("bert.recipe", "bert.model.config"),
        ("bert.inference.embeddings", "bert.pretraining.score"),
        ("bert.export", "bert.bench"),
        ("bert.model.heads", "bert.inference.embeddings"),
        ("bert.data.store", "bert.nowhere"),
    ]:
        assert wrong(Import(source, target, 1, None)), (source, target)
    assert wrong(Import("bert.model.heads", "bert.inference.embeddings", 1, "forward"))  # fill alone may
    assert circles({("a", "b"), ("b", "c"), ("c", "b")}) == ["b", "c"]


def test_imports_for_type_checkers_are_seen() -> None:
    assert ("bert.inference.batching", "bert.model.config") in {(found.source, found.target) for found in OWN}


def test_no_circle_of_imports() -> None:
    edges = {(found.source, found.target) for found in OWN if (found.source, found.inside) not in UPWARD}
    assert (
        circles(edges - {edge for edge in edges if edge[0] == "bert"}) == []
    )  # bert/__init__.py imports nothing by itself


def test_methods_that_import_upward_have_three_lines() -> None:
    seen = set()
    for module in {module for module, _ in UPWARD}:
        for node in ast.parse(FILES[module].read_text(encoding="utf-8")).body:
            for method in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(method, ast.FunctionDef) and (module, method.name) in UPWARD:
                    body = method.body[1:] if ast.get_docstring(method) else method.body
                    assert len(body) <= 3, f"{module}.{node.name}.{method.name} is too long"
                    assert isinstance(body[0], ast.ImportFrom)
                    assert body[0].module == UPWARD[module, method.name]
                    seen.add((module, method.name))
    assert seen == set(UPWARD)


LIBRARY = ("data", "model", "hf", "training", "inference", "report", "probing")
COMMAND_LINE = re.compile(rf"(?<![\w-])--[a-z][\w-]*(?![\w:-])|(?<![\w.-])bert ({'|'.join(COMMANDS)})\b")


def texts_of(module: str) -> list[tuple[int, str]]:
    """Every text in the code of a module, the parts of f-strings and the docstrings of functions, classes and fields too."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    first = tree.body[:1] if ast.get_docstring(tree) else []
    nodes = [node for statement in tree.body[len(first) :] for node in ast.walk(statement)]
    return [
        (node.lineno, node.value) for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_the_library_names_parameters_and_not_flags_or_commands() -> None:
    named = [
        f"{module}, line {line}: {text!r}"
        for module in FILES
        if layer_of(module) in LIBRARY
        for line, text in texts_of(module)
        if COMMAND_LINE.search(text)
    ]
    assert named == []
    for text in ("give another --out", "run `bert prepare` again"):
        assert COMMAND_LINE.search(text)
    for text in ("from bert import words", "non--linear", "bert-base", "a --- line", "--width:"):
        assert not COMMAND_LINE.search(text)


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
    at_once = [str(found) for found in IMPORTS if found.inside is None and found.target.split(".")[0] in lazy]
    assert at_once == []


def test_packages_are_imported_only_where_they_may_be() -> None:
    allowed = {  # package → layers that may import it, anywhere in a file
        "torch": {
            "model",
            "hf",
            "training",
            "inference",
            "pretraining",
            "finetuning",
            "probing",
            "bench",
            "quickstart",
        },
        "lightning": {"training", "pretraining", "finetuning", "bench"},
        "datasets": {"data"},
        "pyarrow": {"data", "commands"},
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
        str(found)
        for found in IMPORTS
        if layer_of(found.source) not in allowed.get(found.target.split(".")[0], {layer_of(found.source)})
    ]
    assert outside == []


def private_names(file: Path) -> list[str]:
    """Attributes, strings for getattr and imported names that begin with one underscore and belong to others."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        name, owner = "", ""
        if isinstance(node, ast.Attribute):
            name, owner = node.attr, getattr(node.value, "id", "")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            name, owner = str(getattr(node.args[1], "value", "")), getattr(node.args[0], "id", "")
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("bert"):
            name = next((alias.name for alias in node.names if is_private(alias.name)), "")
        if is_private(name) and owner not in ("self", "cls"):
            found.append(f"{file.name}, line {node.lineno}: {owner}.{name}")
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


DOCUMENTED = re.compile(r"_exit|_replace|_asdict|_foreach_\w+|_assert_async|_dynamo_marked_constant")
"""names that their libraries document with an underscore; of the last but one PyTorch has no other, for a check that does not wait for a
GPU; the last one is what a documented decorator sets, which imports the compiler (a test compares them)"""


def test_nothing_private_of_a_library_is_used() -> None:
    """What a class of ours keeps to itself is asked for in its own file, where the name is defined."""
    others = []
    for file in FILES.values():
        own = re.findall(r"^\s+(?:self\.|def )?(_[a-z]\w*)\b", file.read_text(encoding="utf-8"), re.M)
        for told in private_names(file):
            name = told.rsplit(".", 1)[1]
            if name not in own and not DOCUMENTED.fullmatch(name):
                others.append(told)
    assert others == []


def test_the_search_for_private_names_finds_them(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "from lightning.x import _Launcher\ntrainer.fit_loop._should_stop()\ngetattr(trainer, '_loop')\nself._fine = cls._too\n"
    )
    assert sorted(told.split(", ")[1] for told in private_names(file)) == [
        "line 1: ._Launcher",
        "line 2: ._should_stop",
        "line 3: trainer._loop",
    ]


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
    imports = [node for node in ast.walk(ast.parse(FILES["bert"].read_text())) if isinstance(node, ast.ImportFrom)]
    for_type_checkers = {alias.asname: node.module for node in imports for alias in node.names if alias.asname}
    assert for_type_checkers == bert._HOMES
    assert bert.__all__ == sorted(bert._HOMES)
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


@pytest.mark.parametrize("command", [None, *COMMANDS, *(f"bench {mode}" for mode in benching.MODES)], ids=str)
def test_help_is_instant_because_it_loads_no_torch(command: str | None) -> None:
    code = (
        "import sys\n"
        "from bert.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print(sorted({'torch', 'lightning', 'datasets', 'pyarrow', 'transformers'} & set(sys.modules)))\n"
    )
    output = run_python(code, *(command.split() if command else []), "--help")
    assert output.splitlines()[-1] == "[]"
    assert f"usage: bert {command}" in output if command else all(f"  {name} " in output for name in COMMANDS)


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
from bert.pretraining.stream import BatchStream, Source, SpecialIds
from bert.pretraining.phases import Phase, Plan as Phases
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
inputs = {name: batch[name] for name in ("input_ids", "document_ids", "masked_positions", "labels")}
model(**inputs).loss.backward()

from bert.bench.documents import text_of_arrays
from bert.bench.measurement import Measurement
from bert.bench.steps import bench_steps
from bert.pretraining.config import DataConfig, PretrainRecipe

recipe = PretrainRecipe(data=DataConfig(sequence_length=16, batch_size=4), encoder=shape, compile=False, trainer={"accelerator": "cpu"})
text = text_of_arrays(values, np.concatenate(([0], np.cumsum(lengths))), 25)
found = bench_steps(Measurement(recipe, text, rounds=1, seconds=0.01), ["sdpa"])
assert len(found["results"]) > 1
print("trained and measured")
"""
    model_files = [name for name in FILES if name.startswith("bert.model")]
    others = [
        "bert.data.packing",
        "bert.pretraining.stream",
        "bert.pretraining.module",
        "bert.bench.steps",
        "bert.bench.comparison",
        "bert.bench.minutes",
    ]
    assert run_python(code, *model_files, *others).endswith("trained and measured\n")
