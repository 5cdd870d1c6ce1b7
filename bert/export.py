"""`bert export`: a model for other tools as an ONNX file, a `torch.export` program or a Hugging Face folder.

Files appear complete or not at all and, if requested, only after verification: they are written to a separate folder, which
is renamed at the end.
"""

import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bert.errors import InputError, accessing
from bert.files import is_same, put_files, real_path, replaced_folder
from bert.finetuning.config import DataConfig
from bert.hf import program
from bert.hf.card import written_before
from bert.hf.folder import ALL_FILES, CLASSES, CONFIG, EXPORTED, SETTINGS, TABLES, head_of, read_keys, save
from bert.hf.program import Difference, OnnxModel
from bert.hf.translate import FAMILIES, family_of
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
    """Write the model of `folder` as ONNX to `folder`/onnx/model.onnx; with `out`, to `out`/onnx/model.onnx, with copies of
    config and tokenizer in `out`. Returns the path.

    `verify` compares it with the model before it appears. `int8` also writes model_quantized.onnx, and `measure` names a file
    of labeled examples (`data`: their columns) on which both are evaluated. Raises InputError.
    """
    if measure is not None and not int8:
        raise InputError(f"--eval {measure}: measures the effect of --quantize: add --quantize, or omit --eval")
    program.check_packages()
    folder = _local(folder, out)
    predictor, examples = (None, []) if measure is None else _predictor(folder, measure, data or DataConfig())
    model = predictor.model.to("cpu") if predictor else load_any(folder)
    lines = []
    with _place(folder, out, "onnx", (ONNX, INT8, TABLES)) as (fresh, place):
        opset = program.write_onnx(model, fresh / ONNX)
        lines.append(f"{place / ONNX}: {_size(fresh / ONNX)}, opset {opset}, {_signature(model)}")
        if verify:
            lines.append(_verified(program.compare(model, OnnxModel(fresh / ONNX, model).run), "onnxruntime"))
        put_files(fresh, _tables(model, folder))
        if int8:
            program.quantize(fresh / ONNX, fresh / INT8)
            share = _bytes(fresh / INT8) / _bytes(fresh / ONNX)
            lines.append(f"{place / INT8}: {_size(fresh / INT8)}, {share:.0%} of the fp32 file, int8")
        if predictor is not None and measure is not None:
            lines += _change(predictor, [fresh / ONNX, fresh / INT8], Path(measure).name, examples)
        elif int8 and hasattr(model, "labels"):
            lines.append("the effect of int8 was not measured: give labeled examples with --eval FILE")
    logger.info("\n".join(lines))
    return place / ONNX


def export_torch(folder: str | Path, out: str | Path | None = None, verify: bool = False) -> Path:
    """Write the model of `folder` as a `torch.export` program to `folder`/torch/model.pt2, or under `out` as
    `export_onnx` does. Returns the path. Raises InputError."""
    folder = _local(folder, out)
    model = load_any(folder)
    lines = []
    with _place(folder, out, "torch", (TORCH, TABLES)) as (fresh, place):
        program.write_torch(model, fresh / TORCH)
        lines.append(f"{place / TORCH}: {_size(fresh / TORCH)}, {_signature(model)}")
        put_files(fresh, _tables(model, folder))
        if verify:
            lines.append(_verified(program.compare(model, program.open_torch(fresh / TORCH)), "the program"))
    logger.info("\n".join(lines))
    return place / TORCH


def export_hf(folder: str | Path, out: str | Path, license: str | None = None) -> Path:
    """Write the model of `folder` to `out`, which must be empty or not exist, as a folder that Hugging Face transformers opens.
    Returns `out`.

    Its card has the data, recipe and metrics of the card in `folder`, and `license`. Raises InputError if no architecture of
    Hugging Face computes this model, naming the fields that differ.
    """
    folder, out = local_folder(folder), Path(out).expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: not empty: give an empty or a new folder")
    companions: dict[str, str | Path] = {**_companions(folder)}
    model = load_any(folder)
    head = None if isinstance(model, Encoder) else model.head_config
    family, obstacles = family_of(model.config, head, model.model_type)
    if family is None:
        what = f"no architecture of Hugging Face computes this model: {'; '.join(obstacles)}"
        raise InputError(f"{folder}: {what}: export it --to onnx or torch, or train one with these fields")
    save(model, out, card=written_before(folder, license), extra=companions | _tables(model, folder))
    logger.info(f"{out}: a Hugging Face folder, model_type {family.model_type}")
    return out


def _tables(model: Encoder | HeadedModel, source: Path) -> dict[str, str]:
    """A file that says which tag may follow which, if a tagger's labels have a scheme."""
    from bert.finetuning.predict import restored

    tables = restored(model, source)[0].tables(model.labels) if hasattr(model, "labels") else {}  # type: ignore[arg-type]
    return {TABLES: json.dumps(tables) + "\n"} if tables else {}


def load_any(folder: str | Path) -> Encoder | HeadedModel:
    """The model of a folder, with its head. Raises InputError for a head that is not supported, which would be lost."""
    folder = local_folder(folder)
    kind, _ = head_of(folder)
    named = next(iter(read_keys(folder).get("architectures") or ()), "Encoder")
    if kind == "Encoder" and named not in ("Encoder", *(family.architectures.get("Encoder") for family in FAMILIES)):
        fix = "save only the encoder, with Encoder.load(folder).save(another), and export that"
        raise InputError(f"{folder / CONFIG}: {named} has a head that cannot be exported: {fix}")
    if kind == "Seq2Seq":
        raise InputError(
            f"{folder}: a sequence-to-sequence model, which cannot be exported: predict with `bert predict`"
        )
    return CLASSES[kind].load(folder)


def _companions(folder: Path, more: Sequence[str] = ()) -> dict[str, Path]:
    """The files of a folder, by name, that are copied with its model: `more`, the windows of fine-tuning, and the modules of
    sentence-transformers after the encoder.

    Raises InputError for a link, which could lead to any file; links in the cache of the Hub are followed.
    """
    file, root = folder / "modules.json", real_path(folder)
    try:
        modules = [module["path"] for module in read_json(file) if module["path"] != ""] if file.exists() else []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: not a list of modules with paths ({error}): repair or remove it") from None
    if odd := [path for path in modules if not re.fullmatch(r"\d+_\w+", str(path))]:  # `..` leads out of the folder
        raise InputError(f"{file}: names {odd[0]!r}, not the folder of a module such as 1_Pooling: correct it")
    names = [*more, SETTINGS, file.name, "sentence_bert_config.json", "config_sentence_transformers.json"]
    for module in modules:
        kept = (path for path in (root / module).glob("*") if path.suffix in (".json", ".safetensors", ".bin"))
        names += [f"{module}/{path.name}" for path in kept]
    found = {name: Path(os.path.realpath(root / name)) for name in names if (root / name).is_file()}
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else None
    if links := [name for name in found if found[name] != root / name and found[name].parent != blobs]:
        raise InputError(f"{folder / links[0]}: a link to {found[links[0]]}: replace it by the file, or remove it")
    return found


def _local(folder: str | Path, out: str | Path | None) -> Path:
    """The folder of a model to export. Raises InputError if nothing may be written into it."""
    found = local_folder(folder)
    if out is None and found != Path(folder).expanduser():
        raise InputError(f"{folder}: in the cache of the Hugging Face Hub, which is not written to: give --out FOLDER")
    return found


@contextmanager
def _place(folder: Path, out: str | Path | None, part: str, files: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """A folder to write the files to, and their final folder: `folder`/`part`, or `out`/`part` with the other files that a
    reader needs in `out`."""
    names = [name for file in files for name in (file, f"{file}.data")]
    out = None if out is None or is_same(Path(out).expanduser(), folder) else Path(out).expanduser()
    target = folder / part if out is None else out
    if out is None and target.is_symlink():
        raise InputError(f"{target}: is a link, which may lead to any file: remove it")
    if out is not None and any(path.exists() and not path.is_dir() for path in (out, *out.parents)):
        raise InputError(f"--out {out}: is a file, or in one: give the path of a folder")
    if out is not None and (weights := next((name for name in WEIGHT_FILES if (out / name).exists()), None)):
        raise InputError(f"--out {out}: holds another model ({weights}): give a folder of its own")
    beside = (CONFIG, *ALL_FILES)
    copies = {} if out is None else _companions(folder, beside)
    there = next((name for name in copies if (target / name).exists()), None)
    if there is not None and not any((target / name).exists() for name in EXPORTED):  # not of an earlier export
        raise InputError(f"--out {target}: holds {there} already, which would be lost: give a folder of its own")
    ours = names if out is None else [*beside, *(f"{part}/{name}" for name in names)]
    with accessing(target, "written", "give another --out"), replaced_folder(target, ours) as fresh:
        put_files(fresh, copies)
        room = fresh if out is None else fresh / part
        room.mkdir(exist_ok=True)
        yield room, target if out is None else target / part


def _signature(model: Encoder | HeadedModel) -> str:
    return f"{', '.join(program.input_names(model))} → {program.output_name(model)}"


def _verified(differences: Sequence[Difference], what: str) -> str:
    largest = program.check(differences, what)
    shapes = ", ".join(f"{one.rows} × {one.length}" for one in differences)
    return f"verified: {what} differs by at most {largest:.1e} on {shapes} tokens, including padding"


def _predictor(folder: Path, file: str, data: DataConfig) -> "tuple[Predictor, list[Any]]":
    """The model and the examples for `--eval`, read before anything is written."""
    from bert.finetuning.predict import load_predictor  # imports Lightning, which takes seconds

    predictor = load_predictor(folder)
    return predictor, list(predictor.read(file, data))


def _change(predictor: "Predictor", files: Sequence[Path], name: str, examples: Sequence[Any]) -> list[str]:
    """A table of the metrics of both files on labeled examples, with the windows of `bert evaluate`."""
    from bert.finetuning.evaluate import evaluate_examples, metric_table

    results = []
    for file in files:
        model = cast("TaskModel", OnnxModel(file, predictor.model))  # with all that a predictor needs
        results.append(evaluate_examples(dataclasses.replace(predictor, model=model, bf16=False), examples))
    before, after = results
    table = metric_table({"fp32": before.metrics, "int8": after.metrics}, before.scales, change=True)
    return [f"{name}, {before.size}", table]


def _bytes(file: Path) -> int:
    return sum(path.stat().st_size for path in (file, Path(f"{file}.data")) if path.exists())


def _size(file: Path) -> str:
    return f"{_bytes(file) / 1e6:.1f} MB"
