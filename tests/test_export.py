"""`bert export`: whole, verified and measured, or not at all; and a file that runs without PyTorch and this package."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bert import export
from bert.cli import main
from bert.data.examples import Example
from bert.errors import InputError
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluate import evaluate
from bert.finetuning.predict import load_predictor
from bert.hf.folder import EXPORTED, start
from bert.model.heads import MaskedLM, SequenceClassifier, TokenClassifier
from tests.conftest import Exported
from tests.hf.hf import make
from tests.test_docs import DOCS, blocks

needs_onnx = pytest.mark.onnx
LABELS = ("food", "nature", "sports")
WITHOUT = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "bert", "transformers"):
            raise ModuleNotFoundError(f"{name} is not here")
sys.meta_path.insert(0, Blocker())
"""


def snapshot(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def classifier(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a classifier of random weights in the current folder, with a tokenizer."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = start(SequenceClassifier, tiny_run / "model", LABELS, pooling="mean")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save("runs/topics/model", card="## Fine-tuning\n- by hand\n\n## Measured\n- never\n")
    rows = [("The cat sees the apple.", "food"), ("A dog finds the river at night.", "nature"), ("My friend", "sports")]
    Path("rows.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows * 5))
    return Path("runs/topics/model")


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What writes ONNX files writes a word each, at once."""

    def write(model: object, file: Path) -> int:
        file.write_text("fp32")
        return 20

    monkeypatch.setattr(export.program, "check_packages", lambda: None)
    monkeypatch.setattr(export.program, "write_onnx", write)
    monkeypatch.setattr(export.program, "quantize", lambda file, out: out.write_text("int8"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail and returns its one line on standard error; nothing may change."""

    def run(*arguments: str) -> str:
        before = snapshot(tmp_path)
        capsys.readouterr()
        code = main(["export", *arguments])
        output, errors = capsys.readouterr()
        assert (code, errors.count("\n"), output) == (2, 1, ""), errors
        assert snapshot(tmp_path) == before
        return errors.removeprefix("bert: ").removesuffix("\n")

    return run


@needs_onnx
def test_an_export_says_what_it_wrote_how_near_it_is_and_what_int8_changes(exported: Exported) -> None:
    """The figures of fp32 are those of `bert evaluate`, which computes them in PyTorch."""
    right = evaluate(exported.model, str(exported.home / "rows.tsv"), DataConfig())
    lines, onnx = exported.lines, re.escape(str(exported.model / "onnx"))
    assert re.fullmatch(rf"{onnx}/model\.onnx: 0\.\d MB, opset \d\d, input_ids, attention_mask → logits", lines[0])
    assert re.match(r"verified: onnxruntime differs by at most \d\.\de-0[678] on 1 × 1, 1 × 64, ", lines[1])
    assert re.match(rf"{onnx}/model_quantized\.onnx: 0\.\d MB, \d\d% of the fp32 file, int8", lines[2])
    assert lines[3] == "rows.tsv, 15 examples"
    figures = {line[:16].strip().replace(" ", "_").lower(): line[16:].split() for line in lines[5:]}
    assert figures.keys() == {name.lower() for name in right.metrics}
    for name, value in right.metrics.items():
        fp32, int8, change = figures[name.lower()]
        assert fp32 == right.scales[name].shown(value)
        values = float(int8.rstrip("%")) - float(fp32.rstrip("%"))
        assert float(change) == pytest.approx(values, abs=0.11 if right.scales[name].percent else 0.0011)
    assert sorted(path.name for path in (exported.model / "onnx").iterdir()) == ["model.onnx", "model_quantized.onnx"]


@needs_onnx
def test_the_example_of_the_documentation_runs_without_pytorch_and_this_package_in_fifteen_lines(
    exported: Exported,
) -> None:
    page = blocks(DOCS / "how-to" / "cpu.md", "python")
    example = next(code for _, _, code in page if "onnxruntime" in code).replace("runs/served", "runs/topics/model")
    assert len([line for line in example.splitlines() if line]) <= 15
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + example],
        cwd=exported.home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    texts = re.findall(r'"(The [^"]*\.)"', example)
    assert len(texts) == 2
    found = load_predictor(exported.model, bf16=False)([Example(text, None, None, "") for text in texts])
    assert done.stdout == f"{[one.label for _, one in found]}\n"


def test_a_program_that_differs_is_not_written(
    classifier: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are the folders above it made."""
    model = SequenceClassifier.load(classifier)
    monkeypatch.setattr(export.program, "write_torch", lambda model, file: file.write_text("program"))
    monkeypatch.setattr(export.program, "open_torch", lambda file: lambda *inputs: model(*inputs).logits + 2e-4)
    command = [str(classifier), "--to", "torch", "--verify", "--out", "new/deep"]
    assert refused(*command).startswith(
        "--verify: the program differs from the model by 2.0e-04, more than 0.0001, on 1 sequences of 1 tokens"
    )
    monkeypatch.setattr(export.program, "open_torch", lambda file: lambda *inputs: model(*inputs).logits)
    assert main(["export", *command]) == 0
    assert sorted(path.name for path in Path("new/deep").iterdir())[:2] == ["config.json", "tokenizer.json"]
    assert os.listdir("new/deep/torch") == ["model.pt2"]
    assert os.listdir("new") == ["deep"]


def test_a_folder_of_its_own_has_config_and_tokenizer_and_no_weights(classifier: Path, stubs: None) -> None:
    Path("serve").mkdir()
    Path("serve/Dockerfile").write_text("mine")
    export.export_onnx(classifier, "serve", int8=True)
    export.export_onnx(classifier, "serve")
    tokenizer = [name for name in export.ALL_FILES if (classifier / name).exists()]
    assert "tokenizer.json" in tokenizer
    assert set(snapshot(Path("serve"))) == {"Dockerfile", "config.json", "onnx", "onnx/model.onnx", *tokenizer}
    for name in ("config.json", *tokenizer):
        assert (Path("serve") / name).read_bytes() == (classifier / name).read_bytes()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_an_export_replaces_no_file_that_no_export_wrote(classifier: Path, stubs: None, name: str) -> None:
    Path("serve").mkdir()
    Path("serve", name).write_text("mine")
    with pytest.raises(InputError, match=f"--out serve: holds {name} already, which would be lost"):
        export.export_onnx(classifier, "serve")
    assert snapshot(Path("serve")) == {name: b"mine"}


def test_an_export_beside_the_model_follows_no_link(classifier: Path, stubs: None, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (classifier / "onnx").symlink_to(tmp_path / "docs")
    with pytest.raises(InputError, match="onnx: is a link, which may lead to any file"):
        export.export_onnx(classifier)
    assert list((tmp_path / "docs").iterdir()) == []


def test_a_second_export_leaves_no_int8_of_the_first_and_other_files_alone(classifier: Path, stubs: None) -> None:
    export.export_onnx(classifier, int8=True)
    (classifier / "onnx" / "model_fp16.onnx").write_text("mine")
    export.export_onnx(classifier, classifier)  # --out MODEL is MODEL
    assert sorted(os.listdir(classifier / "onnx")) == ["model.onnx", "model_fp16.onnx"]
    assert SequenceClassifier.load(classifier).labels == LABELS


def test_what_int8_changes_is_measured_or_said_not_to_be(classifier: Path, stubs: None, said: list[str]) -> None:
    export.export_onnx(classifier, int8=True)
    assert said[0].endswith("the effect of int8 was not measured: give labeled examples with --eval FILE")


def test_a_hugging_face_folder_is_the_same_model_with_what_its_card_told(classifier: Path) -> None:
    assert main(["export", str(classifier), "--to", "hf", "--out", "there"]) == 0
    ids = torch.arange(6, 18).view(2, 6)
    right = SequenceClassifier.load(classifier)(ids).logits
    assert torch.equal(SequenceClassifier.load("there")(ids).logits, right)
    card = Path("there/README.md").read_text()
    assert card == (classifier / "README.md").read_text()
    assert card.count("## Fine-tuning") == 1
    assert card.endswith("## Measured\n- never\n")
    assert main(["export", str(classifier), "--to", "hf", "--out", "licensed", "--license", "cc-by-4.0"]) == 0
    licensed = Path("licensed/README.md").read_text()
    assert licensed == card.replace("license: unknown\n", "license: cc-by-4.0\n") != card


def test_what_decides_about_the_models_users_goes_along(classifier: Path, stubs: None) -> None:
    """How long rows were in fine-tuning, and what sentence-transformers does behind the encoder."""
    (classifier / "windows.json").write_text('{"sequence_length": 16, "stride": 7}')
    modules = [{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}]
    (classifier / "modules.json").write_text(json.dumps(modules))
    (classifier / "1_Pooling").mkdir()
    (classifier / "1_Pooling" / "config.json").write_text("{}")
    export.export_hf(classifier, "there")
    export.export_onnx(classifier, "serve")
    for name in ("windows.json", "modules.json", "1_Pooling/config.json"):
        for folder in ("there", "serve"):
            assert (Path(folder) / name).read_bytes() == (classifier / name).read_bytes()


def test_scores_that_transformers_has_no_name_for_are_not_exported_to_it(
    classifier: Path, tiny_run: Path, refused: Callable[..., str]
) -> None:
    start(SequenceClassifier, tiny_run / "model", LABELS, problem_type="ordinal").save("ordinal")
    message = refused("ordinal", "--to", "hf", "--out", "new")
    assert "modernbert needs classify.problem_type single_label_classification or multi_label" in message
    assert "regression, not ordinal: export it --to onnx or torch" in message


@pytest.mark.parametrize("to", ["hf", "onnx"])
@pytest.mark.parametrize(
    "path",
    ["..", ".", "../elsewhere", "/etc", "a/b", "1_Pooling/..", ".vscode", "onnx", "1_Pooling\n", 5, None, ["a"]],
    ids=str,
)
def test_a_modules_json_leads_nowhere_out_of_its_folder(
    path: object, to: str, classifier: Path, refused: Callable[..., str], stubs: None
) -> None:
    (classifier.parent / ".bashrc").write_text("of a stranger")
    Path("home").mkdir()
    Path("home/.bashrc").write_text("mine")
    (classifier / ".vscode").mkdir()
    (classifier / ".vscode" / "tasks.json").write_text("{}")
    (classifier / "modules.json").write_text(json.dumps([{"path": ""}, {"path": path}]))
    message = refused(str(classifier), "--to", to, "--out", "home/new")
    assert message.startswith(f"{classifier}/modules.json: names {path!r}, not the folder of a module")


@pytest.mark.parametrize("text", ["[" * 100_000, "[5]", '{"path": ".."}', "5", '[{"name": "x"}]', "[{"])
def test_a_damaged_modules_json_is_one_line(text: str, classifier: Path, refused: Callable[..., str]) -> None:
    (classifier / "modules.json").write_text(text)
    message = refused(str(classifier), "--to", "hf", "--out", "new")
    assert message.startswith(f"{classifier}/modules.json: not a list of modules with paths (")


@pytest.mark.parametrize(
    "name", ["windows.json", "tokenizer.json", "1_Pooling", "1_Pooling/config.json", "modules.json"]
)
def test_a_link_to_a_file_of_another_place_is_not_exported(
    name: str, classifier: Path, refused: Callable[..., str], stubs: None
) -> None:
    modules = '[{"path": ""}, {"path": "1_Pooling"}]'
    private = Path("private")
    private.mkdir()
    (private / "config.json").write_text(modules if name == "modules.json" else '{"key": "secret"}')
    if name == "tokenizer.json":
        (private / "config.json").write_bytes((classifier / name).read_bytes())
    (classifier / "modules.json").write_text(modules)
    (classifier / "1_Pooling").mkdir()
    link = classifier / name
    if name == "1_Pooling":
        link.rmdir()
    link.unlink(missing_ok=True)
    link.symlink_to(private.resolve() if name == "1_Pooling" else (private / "config.json").resolve())
    message = refused(str(classifier), "--to", "onnx", "--out", "new")
    assert f"{classifier}/{name}" in message
    assert f": a link to {private.resolve()}/config.json: replace it by the file" in message


def test_the_links_of_the_hubs_cache_are_exported_as_files(classifier: Path, stubs: None) -> None:
    (classifier / "windows.json").write_text('{"sequence_length": 16, "stride": 7}')
    snapshot, blobs = Path("models--a--b/snapshots/1f"), Path("models--a--b/blobs")
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in classifier.iterdir():
        shutil.copy(file, blobs / f"of-{file.name}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"of-{file.name}")
    export.export_hf(snapshot, "there")
    export.export_onnx(snapshot, "serve")
    for folder in ("there", "serve"):
        assert not (Path(folder) / "windows.json").is_symlink()
        assert (Path(folder) / "windows.json").read_bytes() == (classifier / "windows.json").read_bytes()
    (snapshot / "windows.json").unlink()
    (snapshot / "windows.json").symlink_to(Path("rows.tsv").resolve())
    with pytest.raises(InputError, match=r"windows\.json: a link to "):
        export.export_hf(snapshot, "elsewhere")


def test_an_export_takes_data_of_modules_alone_and_leaves_what_the_user_has_there(
    classifier: Path, stubs: None
) -> None:
    (classifier / "modules.json").write_text('[{"path": ""}, {"path": "1_Dense"}]')
    (classifier / "1_Dense").mkdir()
    for name in ("config.json", "*.json", "code.py"):
        (classifier / "1_Dense" / name).write_text("{}")
    for name in ("serve/1_Dense/mine.json", "serve/onnx/model_fp16.onnx", "serve/onnx/deep/notes.txt", "serve/torch/x"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("mine")
    export.export_onnx(classifier, "serve")
    made = {str(path.relative_to("serve")) for path in Path("serve").rglob("*") if path.is_file()}
    assert made >= {
        "1_Dense/mine.json",
        "onnx/model_fp16.onnx",
        "onnx/deep/notes.txt",
        "torch/x",
        "1_Dense/config.json",
    }
    assert "1_Dense/code.py" not in made
    assert Path("serve/1_Dense/mine.json").read_text() == "mine"


def test_what_a_save_takes_away_is_what_exports_write(classifier: Path, stubs: None) -> None:
    """And nothing else in the folders that they write to."""
    assert {f"onnx/{name}" for name in (export.ONNX, export.INT8)} | {f"torch/{export.TORCH}"} == set(EXPORTED)
    export.export_onnx(classifier, int8=True)
    mine = classifier / "onnx" / "model_fp16.onnx"
    mine.write_bytes(b"mine")
    SequenceClassifier.load(classifier).save(classifier)
    assert [path.name for path in (classifier / "onnx").iterdir()] == ["model_fp16.onnx"]
    assert mine.read_bytes() == b"mine"


@pytest.mark.hf
def test_a_hugging_face_folder_opens_in_transformers(classifier: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export.export_hf(classifier, "there")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained("there")
    ids = torch.arange(6, 18).view(2, 6)
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, SequenceClassifier.load(classifier)(ids).logits, atol=1e-5)


def test_a_model_that_hugging_face_has_not_is_refused_naming_every_field(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    make("own-rms").save(tmp_path / "own")
    message = refused(str(tmp_path / "own"), "--to", "hf", "--out", str(tmp_path / "there"))
    for field in ("norm", "num_kv_heads", "qk_norm"):
        assert f"encoder.{field} " in message, message


def test_a_head_that_has_no_place_here_is_not_dropped(tmp_path: Path, refused: Callable[..., str]) -> None:
    make("bert").encoder.save(tmp_path / "qa")
    config = tmp_path / "qa" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["BertForQuestionAnswering"]}))
    message = refused(str(tmp_path / "qa"), "--to", "torch")
    assert message.startswith(
        f"{config}: BertForQuestionAnswering has a head that cannot be exported: save only the encoder"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("MODEL --to tensorflow", "--to tensorflow: give one of onnx, torch, hf"),
        ("MODEL --to pytorch", "--to pytorch: give one of onnx, torch, hf. Did you mean `torch`?"),
        ("MODEL --to onx", "--to onx: give one of onnx, torch, hf. Did you mean `onnx`?"),
        ("gone --to onnx", "gone: no such folder, and the Hugging Face Hub "),
        (
            "runs/gone --to onnx",
            "runs/gone: no such folder: give the folder of a model, the one that holds config.json",
        ),
        ("rows.tsv --to torch", "rows.tsv: is a file: give the folder of a model, the one that holds config.json"),
        ("MODEL --to torch --quantize", "--quantize is for --to onnx, not torch: remove it"),
        ("MODEL --to hf --out new --verify", "--verify is for --to onnx and torch, not hf: remove it"),
        ("MODEL --to torch --eval rows.tsv", "--eval is for --to onnx, not torch: remove it"),
        (
            "MODEL --to onnx --eval rows.tsv",
            "--eval rows.tsv: measures the effect of --quantize: add --quantize, or omit --eval",
        ),
        ("MODEL --to onnx --quantize --eval gone.tsv", "gone.tsv: no such file"),
        ("MODEL --to onnx --license mit", "--license is for --to hf, not onnx: remove it"),
        ("MODEL --to hf", "--to hf writes a new folder: specify it with --out DIR"),
        ("MODEL --to hf --out runs", "--out runs: not empty: give an empty or a new folder"),
        ("MODEL --to hf --out MODEL", "--out MODEL: not empty: give an empty or a new folder"),
        (
            "MODEL --to onnx --out rows.tsv",
            "--out rows.tsv: is a file, or in one: give the path of a folder",
        ),
        (
            "MODEL --to onnx --out rows.tsv/new",
            "--out rows.tsv/new: is a file, or in one: give the path of a folder",
        ),
        (
            "MODEL --to onnx --out other",
            "--out other: holds another model (model.safetensors): give a folder of its own",
        ),
        (
            "other --to onnx --quantize --eval rows.tsv",
            "other: a masked LM without a task head: fine-tune it with `bert finetune` first",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    classifier: Path, refused: Callable[..., str], stubs: None, arguments: str, expected: str
) -> None:
    make("bert").save("other")
    given = refused(*arguments.replace("MODEL", str(classifier)).split())
    assert given.startswith(expected.replace("MODEL", str(classifier))), given


def test_a_missing_extra_is_one_line_with_the_command(
    classifier: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    assert refused(str(classifier), "--to", "onnx") == (
        "ONNX needs onnx and onnxruntime and onnxscript, which is not installed: pip install 'bert-kit[onnx]'"
    )


def test_a_full_disk_is_one_line_and_nothing_is_left(
    classifier: Path, refused: Callable[..., str], stubs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: object, file: Path) -> int:
        file.write_text("half")
        raise OSError(28, "No space left on device")

    export.export_onnx(classifier)
    monkeypatch.setattr(export.program, "write_onnx", full)
    assert refused(str(classifier), "--to", "onnx").startswith(
        "runs/topics/model/onnx: cannot be written (No space left on device); give another --out"
    )


def test_every_kind_of_model_is_loaded_with_its_head(tmp_path: Path) -> None:
    lm = make("modernbert")
    lm.save(tmp_path / "lm")
    lm.encoder.save(tmp_path / "encoder")
    start(TokenClassifier, tmp_path / "lm", LABELS).save(tmp_path / "tags")
    assert isinstance(export.load_any(tmp_path / "lm"), MaskedLM)
    assert type(export.load_any(tmp_path / "encoder")).__name__ == "Encoder"
    assert isinstance(export.load_any(tmp_path / "tags"), TokenClassifier)
    with pytest.raises(InputError, match="no such folder"):
        export.load_any(tmp_path / "gone")


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("kind", ["lm", "tags"])
def test_masked_lms_and_taggers_go_through_the_command_too(kind: str, tiny_run: Path, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    folder = tmp_path / kind
    (tmp_path / "rows.conll").write_text("The O\ncat B-X\nsees O\n\nA O\ndog B-X\n\n")
    if kind == "lm":
        shutil.copytree(tiny_run / "model", folder)
    else:
        torch.manual_seed(0)
        start(TokenClassifier, tiny_run / "model", ("B-X", "O")).save(folder)
    more = ["--eval", str(tmp_path / "rows.conll")] if kind == "tags" else []
    assert main(["export", str(folder), "--to", "onnx", "--verify", "--quantize", *more]) == 0
    assert sorted(os.listdir(folder / "onnx")) == ["model.onnx", "model_quantized.onnx"]
