"""`bert export`: a model for other tools: an ONNX file, a `torch.export` program, a Hugging Face folder.

What is written appears whole or not at all, and only where it was verified, if that was asked for: all happens in a
folder of its own, which is renamed at the end.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bert.errors import InputError
from bert.files import is_same, put_files, real_path, replaced_folder
from bert.finetuning.config import DataConfig
from bert.finetuning.windows import WINDOWS_FILE
from bert.hf.card import written_before
from bert.hf.families import FAMILIES
from bert.hf.folder import CLASSES, CONFIG, EXPORTED, TOKENIZER_FILES, head_of, read_keys, save
from bert.hf.onnx import OnnxModel, check_packages, quantize, write_onnx
from bert.hf.program import Difference, check, compare, input_names, open_torch, output_name, write_torch
from bert.hf.translate import family_of
from bert.hf.weights import WEIGHT_FILES
from bert.hub import local_folder
from bert.model.encoder import Encoder
from bert.model.heads import HeadedModel
from bert.untrusted import read_json

if TYPE_CHECKING:
    from bert.finetuning.predict import Predictor
    from bert.finetuning.tasks.task import TaskModel

logger = logging.getLogger(__name__)

ONNX, INT8, TORCH = "model.onnx", "model_quantized.onnx", "model.pt2"


def export_onnx(
    folder: str | Path,
    out: str | Path | None = None,
    verify: bool = False,
    int8: bool = False,
    measure: str | None = None,
    data: DataConfig | None = None,
) -> Path:
    """Write the model of `folder` as ONNX to `folder`/onnx/model.onnx; with `out`, to `out`/onnx/model.onnx beside copies
    of config and tokenizer. Returns the path.

    `verify` compares it with the model before it appears. `int8` writes model_quantized.onnx beside it, and `measure`
    names a file of labelled rows (`data`: their columns) on which both are measured. Raises InputError.
    """
    if measure is not None and not int8:
        raise InputError(f"--eval {measure}: measures what --quantize changes: add --quantize, or leave it out")
    check_packages()
    folder = _local(folder, out)
    predictor, examples = (None, []) if measure is None else _predictor(folder, measure, data or DataConfig())
    model = predictor.model.to("cpu") if predictor else load_any(folder)
    lines = []
    with _place(folder, out, "onnx", (ONNX, INT8)) as (fresh, place):
        opset = write_onnx(model, fresh / ONNX)
        lines.append(f"{place / ONNX}: {_size(fresh / ONNX)}, opset {opset}, {_signature(model)}")
        if verify:
            lines.append(_verified(compare(model, OnnxModel(fresh / ONNX, model).run), "onnxruntime"))
        if int8:
            quantize(fresh / ONNX, fresh / INT8)
            share = _bytes(fresh / INT8) / _bytes(fresh / ONNX)
            lines.append(f"{place / INT8}: {_size(fresh / INT8)}, {share:.0%} of the other, int8")
        if predictor is not None and measure is not None:
            lines += _change(predictor, [fresh / ONNX, fresh / INT8], Path(measure).name, examples)
        elif int8 and hasattr(model, "labels"):
            lines.append("what int8 changes is not measured: give labelled rows as --eval FILE")
    logger.info("\n".join(lines))
    return place / ONNX


def export_torch(folder: str | Path, out: str | Path | None = None, verify: bool = False) -> Path:
    """Write the model of `folder` as a `torch.export` program to `folder`/torch/model.pt2, or under `out` as
    `export_onnx` does. Returns the path. Raises InputError."""
    folder = _local(folder, out)
    model = load_any(folder)
    lines = []
    with _place(folder, out, "torch", (TORCH,)) as (fresh, place):
        write_torch(model, fresh / TORCH)
        lines.append(f"{place / TORCH}: {_size(fresh / TORCH)}, {_signature(model)}")
        if verify:
            lines.append(_verified(compare(model, open_torch(fresh / TORCH)), "the program"))
    logger.info("\n".join(lines))
    return place / TORCH


def export_hf(folder: str | Path, out: str | Path, license: str | None = None) -> Path:
    """Write the model of `folder` as a folder that Hugging Face transformers opens to `out`, which must be empty or not
    there. Returns `out`.

    Its card says what that of `folder` says of data, recipe and figures, and names `license`. Raises InputError where no
    architecture of theirs computes this model, naming every field in the way.
    """
    folder, out = local_folder(folder), Path(out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: already holds something: name a folder that is empty or not there")
    model, companions = load_any(folder), _companions(folder)
    family, obstacles = family_of(model.config, None if isinstance(model, Encoder) else model.head_config)
    if family is None:
        raise InputError(
            f"{folder}: no architecture of Hugging Face computes this model: {'; '.join(obstacles)}: export it --to onnx"
            " or torch, or train one with these fields"
        )
    save(model, out, card=written_before(folder, license), extra=companions)
    logger.info(f"{out}: a Hugging Face folder, model_type {family.model_type}")
    return out


def load_any(folder: str | Path) -> Encoder | HeadedModel:
    """The model of a folder, with the head that it has. InputError for a head that has no place here: without it
    another model would leave."""
    folder = local_folder(folder)
    kind, _ = head_of(folder)
    named = next(iter(read_keys(folder).get("architectures") or ()), "Encoder")
    if kind == "Encoder" and named not in ("Encoder", *(family.architectures["Encoder"] for family in FAMILIES)):
        raise InputError(
            f"{folder / CONFIG}: {named} has a head that cannot be exported: save the encoder alone, by"
            " Encoder.load(folder).save(another), and export that"
        )
    return CLASSES[kind].load(folder)


def _companions(folder: Path, more: Sequence[str] = ()) -> dict[str, Path]:
    """The files of a model folder, by name, that go along with its model: `more`, how long the rows were in fine-tuning, and
    what sentence-transformers does after the encoder.

    Raises InputError for a link, by which a file of another place would go along; those in the cache of the Hub are none.
    """
    file, root = folder / "modules.json", real_path(folder)
    try:
        modules = [module["path"] for module in read_json(file) if module["path"] != ""] if file.exists() else []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: not a list of modules with paths ({error}): repair or remove it") from None
    if odd := [path for path in modules if not re.fullmatch(r"\d+_\w+", str(path))]:  # `..` leads out of the folder
        raise InputError(f"{file}: names {odd[0]!r}, which is no module's folder, as 1_Pooling: correct it")
    names = [*more, WINDOWS_FILE, file.name, "sentence_bert_config.json", "config_sentence_transformers.json"]
    for module in modules:
        kept = (path for path in (root / module).glob("*") if path.suffix in (".json", ".safetensors", ".bin"))
        names += [f"{module}/{path.name}" for path in kept]
    found = {name: Path(os.path.realpath(root / name)) for name in names if (root / name).is_file()}
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else None
    if links := [name for name in found if found[name] != root / name and found[name].parent != blobs]:
        raise InputError(f"{folder / links[0]}: a link to {found[links[0]]}: put the file itself there, or remove it")
    return found


def _local(folder: str | Path, out: str | Path | None) -> Path:
    """The folder of a model to export. InputError where nothing may be written beside it."""
    found = local_folder(folder)
    if out is None and found != Path(folder).expanduser():
        raise InputError(
            f"{folder}: a model of the Hugging Face Hub, whose cache is not ours to fill: name a folder as --out"
        )
    return found


@contextmanager
def _place(folder: Path, out: str | Path | None, part: str, files: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """A folder to write the files in, and where they will be: `folder`/`part`, or `out`/`part` beside what else a
    reader needs."""
    names = [name for file in files for name in (file, f"{file}.data")]
    out = None if out is None or is_same(Path(out).expanduser(), folder) else Path(out).expanduser()
    target = folder / part if out is None else out
    if out is not None:
        _check_out(target)
    elif target.is_symlink():
        raise InputError(f"{target}: is a link, which may lead to any file: remove it")
    beside = (CONFIG, *TOKENIZER_FILES)
    copies = {} if out is None else _companions(folder, beside)
    there = next((name for name in copies if (target / name).exists()), None)
    if there is not None and not any((target / name).exists() for name in EXPORTED):  # of no earlier export
        raise InputError(f"--out {target}: holds {there} already, which would be lost: give a folder of its own")
    ours = names if out is None else [*beside, *(f"{part}/{name}" for name in names)]
    try:
        with replaced_folder(target, ours) as fresh:
            put_files(fresh, copies)
            room = fresh if out is None else fresh / part
            room.mkdir(exist_ok=True)
            yield room, target if out is None else target / part
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}): give another folder as --out"
        ) from error


def _check_out(out: Path) -> None:
    if any(path.exists() and not path.is_dir() for path in (out, *out.parents)):
        raise InputError(f"--out {out}: a file stands where the folder should be: give another path")
    for name in WEIGHT_FILES:
        if (out / name).exists():
            raise InputError(f"--out {out}: holds another model ({name}): give a folder of its own")


def _signature(model: Encoder | HeadedModel) -> str:
    return f"{', '.join(input_names(model.config))} → {output_name(model)}"


def _verified(differences: Sequence[Difference], what: str) -> str:
    largest = check(differences, what)
    shapes = ", ".join(f"{one.rows} × {one.length}" for one in differences)
    return f"verified: {what} differs by at most {largest:.1e} on {shapes} tokens, padding among them"


def _predictor(folder: Path, file: str, data: DataConfig) -> "tuple[Predictor, list[Any]]":
    """The model and the examples, for `--eval`; what is wrong with either shows before any work."""
    from bert.finetuning.predict import load_predictor  # loads Lightning: seconds that only --eval needs

    predictor = load_predictor(folder)
    return predictor, list(predictor.task.read(file, data))


def _change(predictor: "Predictor", files: Sequence[Path], name: str, examples: Sequence[Any]) -> list[str]:
    """A table: the metrics of both files on labelled rows, through the windows that `bert evaluate` uses."""
    from bert.finetuning.evaluate import evaluate_examples, metric_table

    before, after = (
        # It has what a predictor asks of a model: the call, config, labels.
        evaluate_examples(
            dataclasses.replace(predictor, model=cast("TaskModel", OnnxModel(file, predictor.model)), bf16=False),
            examples,
        )
        for file in files
    )
    table = metric_table({"fp32": before.metrics, "int8": after.metrics}, before.scales, change=True)
    return [f"{name}, {before.size}", table]


def _bytes(file: Path) -> int:
    return sum(path.stat().st_size for path in (file, Path(f"{file}.data")) if path.exists())


def _size(file: Path) -> str:
    return f"{_bytes(file) / 1e6:.1f} MB"
