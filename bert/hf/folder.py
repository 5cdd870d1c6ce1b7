"""Model folders, in and out: `config.json`, `model.safetensors`, tokenizer files, `README.md`.

In: a model, or a folder that we or Hugging Face wrote. Out: the other of the two. Where Hugging Face has the
architecture the folder is in its words (`bert.hf.families`), so that it opens with `AutoModel…`. A folder appears
whole or not at all. Nothing is pickled.
"""

import json
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from bert.errors import InputError
from bert.files import put_files, replaced_folder
from bert.hf.card import CARD, model_card
from bert.hf.table import Family, Kind
from bert.hf.translate import (
    Head,
    family_of,
    kind_named,
    kind_of,
    read_config,
    read_parameters,
    unties,
    write_config,
    write_parameters,
)
from bert.hf.weights import WEIGHT_FILES, WEIGHTS, listed, read_tensors, weights_file
from bert.hub import local_folder
from bert.model.config import EncoderConfig, HeadConfig, TaskHeadConfig
from bert.model.encoder import Encoder
from bert.model.heads import (
    Discriminator,
    HeadedModel,
    MaskedLM,
    MaskedLMHead,
    SequenceClassifier,
    TaskHead,
    TokenClassifier,
)
from bert.untrusted import read_json

if TYPE_CHECKING:
    from bert.data.tokenizer import Tokenizer

Model = TypeVar("Model", bound=nn.Module)
TaskModel = TypeVar("TaskModel", bound=SequenceClassifier | TokenClassifier)
CLASSES: dict[Kind, type[Encoder] | type[HeadedModel]] = {"Encoder": Encoder, "MaskedLM": MaskedLM}
CLASSES |= {
    "SequenceClassifier": SequenceClassifier,
    "TokenClassifier": TokenClassifier,
    "Discriminator": Discriminator,
}
ARTICLES: dict[Kind, str] = {
    "Encoder": "an encoder",
    "MaskedLM": "a masked LM",
    "SequenceClassifier": "a classifier",
    "TokenClassifier": "a tagger",
    "Discriminator": "a discriminator",
}

CONFIG = "config.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"),  # of others
)
EXPORTED = ("onnx/model.onnx", "onnx/model_quantized.onnx", "torch/model.pt2")
OURS = (CONFIG, CARD, *WEIGHT_FILES, *TOKENIZER_FILES, *EXPORTED, *(f"{name}.data" for name in EXPORTED))
"""what stands in a folder for the model in it: `save` leaves none of an earlier model, not even as an exported program"""


def save(
    model: Encoder | HeadedModel, folder: str | Path, card: str = "", extra: Mapping[str, str | Path] | None = None
) -> None:
    """Write `model` as a folder. `card` is what its `README.md` says after what follows from the model itself; where it
    begins with a YAML header between two lines of ---, as model cards do, its keys (license, datasets, …) go into that of
    the file. `extra` are texts to write, or files to copy, by their names in the folder.

    What an earlier model left in the folder is replaced, other files stay. Raises InputError where the folder cannot be
    written; whatever was there is then as it was. Warns of dropout rates that the family's `config.json` has no place
    for.
    """
    folder = Path(folder).expanduser().absolute()
    head: Head = None if isinstance(model, Encoder) else model.head_config
    family, obstacles = family_of(model.config, head)
    keys = write_config(family, model.config, head, _token_ids(model))
    _warn_of_lost_dropout(keys, model.config, folder)
    _check_names(model, folder)
    ours = {
        name if head else f"encoder.{name}": tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in model.state_dict().items()
    }
    theirs = write_parameters(family, model.config, head, keys, ours)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file stands where the model folder should be: give another path")
    of_task = head if isinstance(head, TaskHeadConfig) else None
    numbers = sum(tensor.numel() for tensor in theirs.values())
    try:
        with replaced_folder(folder, OURS) as fresh:
            (fresh / CONFIG).write_text(json.dumps(keys, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, fresh / WEIGHTS, {"format": "pt"})
            shutil.copymode(fresh / CONFIG, fresh / WEIGHTS)  # safetensors keeps it to the user alone
            if model.tokenizer is not None:
                inputs = ["input_ids", "token_type_ids", "attention_mask"]
                if keys.get("type_vocab_size", model.config.token_types) < 2:
                    inputs.remove("token_type_ids")
                model.tokenizer.write(fresh, model_max_length=model.config.max_length, model_input_names=inputs)
            text = model_card(kind_of(head), model.config, of_task, obstacles, numbers, card)
            (fresh / CARD).write_text(text, encoding="utf-8")
            put_files(fresh, extra or {})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: the model could not be written: {error}") from error


def _check_names(model: Encoder | HeadedModel, folder: Path) -> None:
    """Refuse a model that has other parameters than its class: whatever reads the folder would look for those in vain."""
    cls: Any = type(model)
    with torch.device("meta"):
        plain = cls(model.config) if isinstance(model, Encoder) else cls(model.config, model.head_config)
    surplus = [name for name in model.state_dict() if name not in plain.state_dict()]
    if surplus:
        fix = "merge adapters first (peft: merge_and_unload), or save them by themselves"
        raise InputError(f"{folder}: the model has parameters that are no part of its class: {listed(surplus)}: {fix}")


@dataclass(frozen=True)
class Source:
    """A model folder that is read; its weights and its encoder when they are asked for, once."""

    folder: Path
    keys: dict[str, Any]
    """of its config.json"""

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return read_tensors(self.folder)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder alone, with the tokenizer. Raises InputError as `load` does."""
        return _build(Encoder, self)[0]

    def config(self, kind: Kind, labels: Sequence[str] | None = None) -> tuple[Family | None, EncoderConfig, Head]:
        """Family, shape and head of a model of class `kind`; of a new head where `labels` are given."""
        try:
            return read_config(self.keys, kind, labels)
        except InputError as error:
            raise InputError(f"{self.folder / CONFIG}: {error}") from error
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:  # a list for a number
            raise InputError(f"{self.folder / CONFIG}: a value of the wrong type: {error}") from error

    def parameters(
        self, kind: Kind, shapes: Mapping[str, torch.Size]
    ) -> tuple[dict[str, Tensor], list[str], list[str]]:
        """Parameters for the names of `shapes` in fp32, the names that are missing, the names that are left over."""
        family, config, _ = self.config("Encoder")
        try:
            return read_parameters(family, kind, self.keys, self.tensors, shapes, config.num_layers)
        except InputError as error:
            raise InputError(f"{weights_file(self.folder)}: {error}") from error

    def as_masked_lm(self) -> "Source":
        """The same, with a config that tells the truth about the output matrix: an old file may hold another than the
        embedding matrix where the config says that they are one."""
        if not unties(self.config("Encoder")[0], self.keys, self.tensors):
            return self
        what = f"the output matrix is not the embedding matrix, as {CONFIG} says"
        warnings.warn(f"{self.folder}: {what}: read as untied", stacklevel=5)
        return Source(self.folder, self.keys | {"tie_word_embeddings": False})


def open_folder(folder: str | Path) -> Source:
    """A model folder to begin with, by its path or its name on the Hugging Face Hub. Raises InputError where it is none."""
    folder = local_folder(folder)
    return Source(folder, read_keys(folder))


def load(cls: type[Model], folder: str | Path) -> Model:
    """The model of class `cls` in a folder that we or Hugging Face wrote, in fp32 on the CPU, in eval mode.

    `folder` may be a name on the Hugging Face Hub. Raises InputError, naming file and fix, where the folder is not one or
    is of another task, a file is damaged, parameters are missing (a fresh head would answer at random), or the tokenizer
    has more tokens than the model. Warns of parameters that have no place in the model; the head that the folder names is
    none of them where a bare encoder is asked for.
    """
    source, kind = open_folder(folder), _kind(cls)
    _check_task(source, kind)
    model, spare = _build(cls, source)
    if spare:
        what = f"{len(spare)} parameters have no place in {ARTICLES[kind]} and were left out: {listed(spare)}"
        warnings.warn(f"{weights_file(source.folder)}: {what}", stacklevel=3)
    return model


def _build(cls: type[Model], source: Source) -> tuple[Model, list[str]]:
    """The model of a folder, and the names of the parameters that it has no place for."""
    kind = _kind(cls)
    if kind == "MaskedLM":
        source = source.as_masked_lm()
    _, config, head = source.config(kind)
    layers = len({number for name in source.tensors for number in re.findall(r"\blayers?\.(\d+)\.", name)})
    if config.num_layers > layers:  # before as many are built
        both = f"{config.num_layers} layers and {weights_file(source.folder).name} holds {layers}"
        raise InputError(f"{source.folder / CONFIG}: says {both}: the two files are not of one model")
    with torch.device("meta"):  # no random initialization: each is about to be read
        model: Any = cls(config) if head is None else cls(config, head)
    whole = head is not None
    shapes = {(name if whole else f"encoder.{name}"): tensor.shape for name, tensor in model.state_dict().items()}
    ours, missing, spare = source.parameters(kind, shapes)
    if missing:
        absent, of_head = shapes.keys() - ours.keys(), {name for name in shapes if name.startswith("head.")}
        raise _incomplete(source.folder, kind, missing, spare, only_head=absent == of_head)
    state = {name if whole else name.removeprefix("encoder."): tensor for name, tensor in ours.items()}
    model.load_state_dict(state, assign=True)  # the tensors of the file themselves: no copy
    model.tokenizer = _read_tokenizer(source.folder, config)
    return model.eval(), spare


def start(
    cls: type[TaskModel],
    folder: str | Path | Source,
    labels: Sequence[str],
    dropout: float | None = None,
    pooling: Literal["cls", "mean"] | None = None,
    problem_type: str = "single_label_classification",
) -> TaskModel:
    """A model with a new task head on the encoder of any model folder, in fp32 on the CPU, in eval mode.

    The head is the one that the family has for the class; `dropout` and `pooling` take the place of its own, and
    `problem_type` says what its scores mean. The encoder is that of `folder` itself where that is open already. Parts that
    it shares with the head in the folder are taken over (ModernBERT: dense and norm of the masked-LM head; BERT: the
    pooler), the rest is fresh: `torch.manual_seed` decides it. Raises InputError as `load` does.
    """
    labels = TaskHeadConfig(tuple(labels)).labels  # what is wrong with them is no matter of the folder
    source, kind = folder if isinstance(folder, Source) else open_folder(folder), _kind(cls)
    encoder = source.encoder  # before a head is built: what is wrong with the folder shows here
    family, config, head = source.config(kind, labels)
    assert isinstance(head, TaskHeadConfig)
    if pooling is not None and kind == "TokenClassifier":
        raise InputError(f"head.pooling is {pooling} for a tagger, which pools nothing: leave it out")
    if dropout is not None:
        one_rate = family is not None and any(key.ours == "classify.first_dropout" for key in family.keys)  # of both
        head = replace(head, dropout=dropout, first_dropout=dropout if one_rate else head.first_dropout)
    head = replace(head, pooling=pooling or head.pooling, problem_type=problem_type)
    with torch.device("meta"):  # its parts are about to be put in
        model: Any = cls(config, head)
    model.encoder, model.head = encoder, TaskHead(config, head)
    _take_over(source, kind, model.head, without="output")
    started: TaskModel = model.eval()
    return started


def start_masked_lm(folder: str | Path) -> tuple[MaskedLM, list[str]]:
    """A masked LM on the encoder of any model folder, in fp32 on the CPU, in eval mode; and the parameters of its head that
    are fresh.

    The head is the one that the family has; what the folder holds of it is taken over, the rest is fresh:
    `torch.manual_seed` decides it. Raises InputError as `load` does.
    """
    source = open_folder(folder).as_masked_lm()
    encoder = source.encoder
    _, config, head = source.config("MaskedLM")
    assert isinstance(head, HeadConfig)
    with torch.device("meta"):  # its parts are about to be put in
        model = MaskedLM(config, head)
    model.encoder, model.head = encoder, MaskedLMHead(config, head)
    return model.eval(), _take_over(source, "MaskedLM", model.head)


def _take_over(source: Source, kind: Kind, head: nn.Module, without: str | None = None) -> list[str]:
    """Load into a new head what a folder holds of it, the part `without` aside; returns the parameters that stay fresh."""
    shapes = {f"head.{name}": tensor.shape for name, tensor in head.state_dict().items()}
    family, config, _ = source.config("Encoder")
    if not (family or config.norm_first or kind_named(source.keys) == kind):
        return list(shapes)  # in our own type post-norm shares nothing
    shared = {name: shape for name, shape in shapes.items() if not name.startswith(f"head.{without}.")}
    ours, _, _ = source.parameters(kind, shared)
    head.load_state_dict({name.removeprefix("head."): tensor for name, tensor in ours.items()}, strict=False)
    return [name for name in shapes if name not in ours]


def head_of(folder: str | Path) -> tuple[Kind, Head]:
    """The class of the model in a folder and the config of its head, from its config.json alone: a bare encoder where that names
    a head that has no place here."""
    source = open_folder(folder)
    kind = kind_named(source.keys)
    return kind, source.config(kind)[2]


def _kind(cls: type[nn.Module]) -> Kind:
    for kind, known in CLASSES.items():
        if issubclass(cls, known):
            return kind
    raise TypeError(f"{cls.__name__} has no model folders")


def _check_task(source: Source, kind: Kind) -> None:
    """Refuse a folder whose head is for another task. A masked LM shows by its parameters that it is one, whatever the
    config names."""
    named, folder = kind_named(source.keys), source.folder
    if kind in (named, "Encoder") or {kind, named} == {"Encoder", "MaskedLM"}:
        return
    wrong, right = ARTICLES[named], ARTICLES[kind]
    if kind == "MaskedLM":
        fix = f"give the folder of one, such as RUN/model of a pretraining run, or open this one with {named}.load"
    elif kind == "Discriminator":
        fix = f"give the folder of one, as ELECTRA's, or open this one with {named}.load"
    else:
        fix = "fine-tune one from it"
    raise InputError(f"{folder}: {wrong}, not {right}: {fix}")


def read_keys(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json. Raises InputError where there is none, or no JSON object."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the folder of a model, the one that holds {CONFIG}")
    try:
        keys = read_json(folder / CONFIG)
    except FileNotFoundError:
        inner = folder / "model"
        fix = f"give its model, {inner}" if (inner / CONFIG).exists() else "give the folder of a model"
        raise InputError(f"{folder}: no {CONFIG} in it: {fix}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{folder / CONFIG}: not readable as JSON: {error}") from error
    if not isinstance(keys, dict):
        raise InputError(f"{folder / CONFIG}: not a JSON object")
    if not isinstance(keys.get("architectures") or [], list):
        raise InputError(f"{folder / CONFIG}: architectures is {keys['architectures']}: give a list of names")
    return keys


def _incomplete(folder: Path, kind: Kind, missing: Sequence[str], spare: Sequence[str], only_head: bool) -> InputError:
    """What to say of parameters that a folder lacks, and has too many; `only_head`: all of the head, and nothing else."""
    if kind == "MaskedLM" and only_head:
        fix = "open it with Encoder.load, or pretrain one from it"
        return InputError(f"{folder}: an encoder without a masked-LM head: {fix} (missing: {listed(missing)})")
    more = f"; {len(spare)} have no place: {listed(spare)}" if spare else ""
    return InputError(f"{weights_file(folder)}: {len(missing)} parameters are missing: {listed(missing)}{more}")


def _read_tokenizer(folder: Path, config: EncoderConfig) -> "Tokenizer | None":
    """The tokenizer of a folder, none where it has no files of one."""
    from bert.data.tokenizer import Tokenizer

    if not Tokenizer.has_files(folder):
        return None
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens and {CONFIG} says vocab_size"
            f" {config.vocab_size}: put the tokenizer beside the model that was trained with it"
        )
    return tokenizer


def _token_ids(model: Encoder | HeadedModel) -> dict[str, int | None]:
    tokenizer = model.tokenizer
    if tokenizer is None:
        return {"pad_token_id": model.config.pad_id}
    cls_id, sep_id = tokenizer.cls_id, tokenizer.sep_id
    around = {"bos_token_id": cls_id, "eos_token_id": sep_id, "cls_token_id": cls_id, "sep_token_id": sep_id}
    return {"pad_token_id": tokenizer.pad_id, **around}


def _warn_of_lost_dropout(keys: Mapping[str, Any], config: EncoderConfig, folder: Path) -> None:
    again = read_config(keys, "Encoder")[1]
    names = ("embedding_dropout", "attention_dropout", "hidden_dropout", "mlp_dropout")
    lost = [name for name in names if getattr(again, name) != getattr(config, name)]
    if lost:
        became = ", ".join(f"encoder.{n} {getattr(config, n)} (will read as {getattr(again, n)})" for n in lost)
        warnings.warn(f"{folder / CONFIG}: model_type {keys['model_type']} has no place for {became}", stacklevel=3)
