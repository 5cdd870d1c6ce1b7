"""Model folders, in and out: `config.json`, `model.safetensors`, tokenizer files, `README.md`.

In: a model, or a folder that we or Hugging Face wrote. Out: the other of the two. Where Hugging Face has the
architecture the folder is in its words (`bert.exchange.families`), so that it opens with `AutoModel…`. A folder appears
whole or not at all. Nothing is pickled.
"""

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bert.errors import InputError
from bert.exchange.families import Family, Kind
from bert.exchange.translate import (
    Head,
    family_of,
    kind_named,
    kind_of,
    read_config,
    read_parameters,
    write_config,
    write_parameters,
)
from bert.files import sync
from bert.model.config import EncoderConfig, HeadConfig, TaskHeadConfig
from bert.model.encoder import Encoder
from bert.model.heads import HeadedModel, MaskedLM, MaskedLMHead, SequenceClassifier, TaskHead, TokenClassifier

if TYPE_CHECKING:
    from bert.text.tokenizer import Tokenizer

Model = TypeVar("Model", bound=nn.Module)
TaskModel = TypeVar("TaskModel", SequenceClassifier, TokenClassifier)
FolderTask = Literal["encoder", "masked-lm", "classify", "tag"]

TASKS: dict[Kind, FolderTask] = {
    "Encoder": "encoder",
    "MaskedLM": "masked-lm",
    "SequenceClassifier": "classify",
    "TokenClassifier": "tag",
}
ARTICLES: dict[Kind, str] = {
    "Encoder": "an encoder",
    "MaskedLM": "a masked LM",
    "SequenceClassifier": "a classifier",
    "TokenClassifier": "a tagger",
}

CONFIG, WEIGHTS, WEIGHTS_INDEX, CARD = "config.json", "model.safetensors", "model.safetensors.index.json", "README.md"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
CARDS: dict[Kind, tuple[str, str, str]] = {  # title, task of the Hub, class of transformers
    "Encoder": ("Encoder", "feature-extraction", "AutoModel"),
    "MaskedLM": ("Masked-language model", "fill-mask", "AutoModelForMaskedLM"),
    "SequenceClassifier": ("Text classifier", "text-classification", "AutoModelForSequenceClassification"),
    "TokenClassifier": ("Token classifier", "token-classification", "AutoModelForTokenClassification"),
}


def save(model: Encoder | HeadedModel, folder: str | Path, card: str = "") -> None:
    """Write `model` as a folder. `card` is what its `README.md` says behind what follows from the model itself.

    What an earlier model left in the folder is replaced, other files stay. Raises InputError where the folder cannot be
    written; whatever was there is then as it was. Warns of dropout rates that the family's `config.json` has no place
    for.
    """
    folder = Path(folder).absolute()
    head: Head = None if isinstance(model, Encoder) else model.head_config
    family, obstacles = family_of(model.config, head)
    keys = write_config(family, model.config, head, _token_ids(model))
    _warn_of_lost_dropout(keys, model.config, folder)
    ours = {
        name if head else f"encoder.{name}": tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    theirs = write_parameters(family, kind_of(head), keys, ours, model.config.num_layers)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file stands where the model folder should be: give another path")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workshop:
            fresh = Path(workshop) / "model"
            fresh.mkdir()
            (fresh / CONFIG).write_text(json.dumps(keys, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, fresh / WEIGHTS, {"format": "pt"})
            if model.tokenizer is not None:
                inputs = ["input_ids", "token_type_ids", "attention_mask"]
                if not (model.config.token_types or (family and family.model_type == "bert")):
                    inputs.remove("token_type_ids")
                model.tokenizer.save(fresh, model_max_length=model.config.max_length, model_input_names=inputs)
            own_part = _card(model, family, obstacles, sum(tensor.numel() for tensor in theirs.values()))
            (fresh / CARD).write_text(own_part + (f"\n{card}" if card else ""), encoding="utf-8")
            _swap(fresh, folder, Path(workshop) / "before")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: the model could not be written: {error}") from error


def _swap(fresh: Path, folder: Path, before: Path) -> None:
    """Put the folder `fresh` in the place of `folder` by renaming; files of `folder` that are no part of a model move
    over."""
    for file in fresh.iterdir():
        sync(file)
    sync(fresh)
    if folder.exists():
        folder.rename(before)
        try:
            fresh.rename(folder)
        except OSError:
            before.rename(folder)
            raise
        for file in before.iterdir():
            ours = file.name in (CONFIG, WEIGHTS, WEIGHTS_INDEX, CARD, *TOKENIZER_FILES)
            if not ours and not (folder / file.name).exists():
                file.rename(folder / file.name)
        shutil.rmtree(before)
    else:
        fresh.rename(folder)
    sync(folder.parent)


def load(cls: type[Model], folder: str | Path) -> Model:
    """The model of class `cls` in a folder that we or Hugging Face wrote, in fp32 on the CPU, in eval mode.

    Raises InputError, naming file and fix, where the folder is not one or is of another task, a file is damaged,
    parameters are missing (a fresh head would answer at random), or the tokenizer has more tokens than the model. Warns
    of parameters that nothing here reads.
    """
    folder, kind = Path(folder), _kind(cls)
    keys = _read_keys(folder)
    _check_task(folder, keys, kind)
    family, config, head = _read_config(folder, keys, kind)
    with torch.device("meta"):  # no fresh weights: each is about to be read
        model: Any = cls(config) if head is None else cls(config, head)
    whole = head is not None
    shapes = {(name if whole else f"encoder.{name}"): tensor.shape for name, tensor in model.state_dict().items()}
    ours, missing, spare = read_parameters(family, kind, keys, _read_tensors(folder), shapes)
    _check(folder, kind, ours, missing, spare, shapes)
    model.to_empty(device="cpu")
    model.load_state_dict({name if whole else name.removeprefix("encoder."): tensor for name, tensor in ours.items()})
    if (folder / "tokenizer.json").exists():
        model.tokenizer = _read_tokenizer(folder, config)
    return model.eval()


def start(
    cls: type[TaskModel],
    folder: str | Path,
    labels: Sequence[str],
    dropout: float | None = None,
    pooling: Literal["cls", "mean"] | None = None,
) -> TaskModel:
    """A model with a new task head on the encoder of any model folder, in fp32 on the CPU, in eval mode.

    The head is the one that the family has for the task; `dropout` and `pooling` take the place of its own. Parts that
    it shares with the head in the folder are taken over (ModernBERT: dense and norm of the masked-LM head; BERT: the
    pooler), the rest is fresh: `torch.manual_seed` decides it. Raises InputError as `load` does.
    """
    folder, kind = Path(folder), _kind(cls)
    labels = TaskHeadConfig(tuple(labels)).labels  # what is wrong with them is no matter of the folder
    encoder = load(Encoder, folder)
    keys = _read_keys(folder)
    family, config, head = _read_config(folder, keys, kind, labels)
    assert isinstance(head, TaskHeadConfig)
    if pooling is not None and kind == "TokenClassifier":
        raise InputError(f"head.pooling is {pooling} for a tagger, which pools nothing: leave it out")
    head = replace(head, dropout=head.dropout if dropout is None else dropout, pooling=pooling or head.pooling)
    with torch.device("meta"):  # its parts are about to be put in
        model = cls(config, head)
    model.encoder, model.head = encoder, TaskHead(config, head)
    if family or config.norm_first or kind_named(keys) == kind:  # in our own type, too, post-norm shares nothing
        shapes = {f"head.{name}": tensor.shape for name, tensor in model.head.state_dict().items()}
        shared = {name: shape for name, shape in shapes.items() if not name.startswith("head.output.")}
        ours, _, _ = read_parameters(family, kind, keys, _read_tensors(folder), shared)
        _check(folder, kind, ours, [], [], shared)
        model.head.load_state_dict({name.removeprefix("head."): tensor for name, tensor in ours.items()}, strict=False)
    return model.eval()


def start_masked_lm(folder: str | Path) -> tuple[MaskedLM, list[str]]:
    """A masked LM on the encoder of any model folder, in fp32 on the CPU, in eval mode; and the parameters of its head that
    are fresh.

    The head is the one that the family has; what the folder holds of it is taken over, the rest is fresh:
    `torch.manual_seed` decides it. Raises InputError as `load` does.
    """
    folder = Path(folder)
    encoder = load(Encoder, folder)
    keys = _read_keys(folder)
    family, config, head = _read_config(folder, keys, "MaskedLM")
    assert isinstance(head, HeadConfig)
    with torch.device("meta"):  # its parts are about to be put in
        model = MaskedLM(config, head)
    model.encoder, model.head = encoder, MaskedLMHead(config, head)
    shapes = {f"head.{name}": tensor.shape for name, tensor in model.head.state_dict().items()}
    ours: dict[str, Tensor] = {}
    if family or config.norm_first or kind_named(keys) == "MaskedLM":  # in our own type, too, post-norm shares nothing
        ours, _, _ = read_parameters(family, "MaskedLM", keys, _read_tensors(folder), shapes)
        _check(folder, "MaskedLM", ours, [], [], shapes)
        model.head.load_state_dict({name.removeprefix("head."): tensor for name, tensor in ours.items()}, strict=False)
    return model.eval(), [name for name in shapes if name not in ours]


def task_of(folder: str | Path) -> FolderTask:
    """What the model of a folder is for, from the `architectures` of its config.json alone: an encoder where they name
    a head that has no place here."""
    return TASKS[kind_named(_read_keys(Path(folder)))]


def _kind(cls: type[nn.Module]) -> Kind:
    for known in (Encoder, MaskedLM, SequenceClassifier, TokenClassifier):
        if issubclass(cls, known):
            return known.__name__  # type: ignore[return-value]
    raise TypeError(f"{cls.__name__} has no model folders")


def _check_task(folder: Path, keys: Mapping[str, Any], kind: Kind) -> None:
    """Refuse a folder whose head is for another task. A masked LM shows by its parameters that it is one, whatever the
    config names."""
    named = kind_named(keys)
    if kind in (named, "Encoder") or {kind, named} == {"Encoder", "MaskedLM"}:
        return
    wrong, right = ARTICLES[named], ARTICLES[kind]
    if kind == "MaskedLM":
        fix = f"give the folder of one, such as RUN/model of `bert pretrain`, or open this one with {named}.load"
    else:
        fix = f"fine-tune one from it with `bert finetune {TASKS[kind]} --model {folder}`"
    raise InputError(f"{folder}: {wrong}, not {right}: {fix}")


def _read_config(
    folder: Path, keys: Mapping[str, Any], kind: Kind, labels: Sequence[str] | None = None
) -> tuple[Family | None, EncoderConfig, Head]:
    try:
        return read_config(keys, kind, labels)
    except InputError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from error


def _read_keys(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the folder of a model, the one that holds {CONFIG}")
    try:
        keys = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no {CONFIG} in it: give the folder of a model") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{folder / CONFIG}: not readable as JSON: {error}") from error
    if not isinstance(keys, dict):
        raise InputError(f"{folder / CONFIG}: not a JSON object")
    return keys


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the parts that its index names."""
    files = [WEIGHTS]
    if not (folder / WEIGHTS).exists() and (folder / WEIGHTS_INDEX).exists():
        index = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(folder / file)
        except FileNotFoundError:
            raise InputError(f"{folder}: no {file} in it: a model is read from safetensors files alone") from None
        except (SafetensorError, OSError) as error:
            raise InputError(f"{folder / file}: damaged or not a safetensors file: {error}") from error
    return tensors


def _check(
    folder: Path,
    kind: Kind,
    ours: Mapping[str, Tensor],
    missing: list[str],
    spare: list[str],
    shapes: Mapping[str, torch.Size],
) -> None:
    if missing:
        head = [name for name in shapes if name.startswith("head.")]
        if (
            kind == "MaskedLM"
            and not any(name in ours for name in head)
            and all(n in ours for n in shapes if n not in head)
        ):
            raise InputError(
                f"{folder}: an encoder without a masked-LM head: open it with Encoder.load, or pretrain one from it"
            )
        raise InputError(f"{folder / WEIGHTS}: {len(missing)} parameters are missing: {_some(missing)}")
    for name, tensor in ours.items():
        if tensor.shape != shapes[name]:
            raise InputError(
                f"{folder / WEIGHTS}: {name} is {tuple(tensor.shape)} and {CONFIG} says {tuple(shapes[name])}:"
                " the two files are not of one model"
            )
    if spare:
        warnings.warn(
            f"{folder / WEIGHTS}: {len(spare)} parameters have no place here and were left out: {_some(spare)}",
            stacklevel=4,
        )


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_tokenizer(folder: Path, config: EncoderConfig) -> "Tokenizer":
    from bert.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens and {CONFIG} says vocab_size"
            f" {config.vocab_size}: put the tokenizer beside the model that was trained with it"
        )
    return tokenizer


def _token_ids(model: Encoder | HeadedModel) -> dict[str, int | None]:
    tokenizer = model.tokenizer
    if tokenizer is None:
        return {"pad_token_id": model.config.pad_id}
    cls_id, sep_id = tokenizer.cls_id, tokenizer.sep_id
    return {
        "pad_token_id": tokenizer.pad_id,
        "bos_token_id": cls_id,
        "eos_token_id": sep_id,
        "cls_token_id": cls_id,
        "sep_token_id": sep_id,
    }


def _warn_of_lost_dropout(keys: Mapping[str, Any], config: EncoderConfig, folder: Path) -> None:
    again = read_config(keys, "Encoder")[1]
    names = ("embedding_dropout", "attention_dropout", "hidden_dropout", "mlp_dropout")
    lost = [name for name in names if getattr(again, name) != getattr(config, name)]
    if lost:
        became = ", ".join(f"encoder.{n} {getattr(config, n)} (will read as {getattr(again, n)})" for n in lost)
        warnings.warn(f"{folder / CONFIG}: model_type {keys['model_type']} has no place for {became}", stacklevel=3)


def _card(model: Encoder | HeadedModel, family: Family | None, obstacles: list[str], numbers: int) -> str:
    """A short model card: what it is and how to open it, with the header that the Hugging Face Hub reads."""
    config = model.config
    kind = _kind(type(model))
    title, task, auto = CARDS[kind]
    header = [*(["library_name: transformers"] if family else []), f"pipeline_tag: {task}", "tags:", "- bert"]
    lines = ["---", *header, "---", "", f"# {title}", ""]
    lines += [
        f"{config.num_layers} layers of width {config.hidden_size}, {config.num_heads} heads, a vocabulary of"
        f" {config.vocab_size}, up to {config.max_length} tokens; {numbers:,} parameters in `{WEIGHTS}`.",
        "",
    ]
    if isinstance(model, SequenceClassifier | TokenClassifier):
        lines += [f"{len(model.labels)} labels: {_some([f'`{label}`' for label in model.labels], most=30)}.", ""]
    lines += ["```python", f"from bert import {kind}", "", f'model = {kind}.load("path/to/this/folder")']
    if family:
        lines += ["", f"from transformers import {auto}", "", f'model = {auto}.from_pretrained("path/to/this/folder")']
    lines += ["```"]
    if not family:
        lines += ["", f"No architecture of Hugging Face transformers computes this: {'; '.join(obstacles)}."]
    return "\n".join(lines) + "\n"
