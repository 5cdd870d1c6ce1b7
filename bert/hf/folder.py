"""Reading and writing model folders: `config.json`, `model.safetensors`, tokenizer files, `README.md`.

Folders of Hugging Face are read too. If Hugging Face has the architecture, a folder is written with its names
(`bert.hf.families`) and opens with `AutoModel…`. A folder appears complete or not at all. Nothing is pickled.
"""

import json
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from bert.data.encoding import ALL_FILES, read_object, sentencepieces
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError, check_arguments
from bert.files import put_files, replaced_folder
from bert.hf import seq2seq, translate
from bert.hf.card import CARD, model_card
from bert.hf.families import Family, Kind
from bert.hf.seq2seq import GENERATION
from bert.hf.translate import Head, family_of, kind_named, kind_of, read_config
from bert.hf.weights import WEIGHT_FILES, WEIGHTS, listed, read_tensors, weights_file
from bert.hub import local_folder
from bert.model import heads
from bert.model.config import EncoderConfig, GenerationConfig, HeadConfig, Seq2SeqConfig, TaskHeadConfig, TaskPooling
from bert.model.decoder import Decoder, Seq2Seq
from bert.model.encoder import Encoder
from bert.model.heads import HeadedModel, MaskedLM, SequenceClassifier, TokenClassifier
from bert.model.layers import without_memory

Model = TypeVar("Model", bound=nn.Module)
TaskModel = TypeVar("TaskModel", bound=SequenceClassifier | TokenClassifier)
CLASSES: dict[Kind, type[Encoder] | type[HeadedModel]] = {"Encoder": Encoder, "MaskedLM": MaskedLM}
CLASSES |= {"SequenceClassifier": SequenceClassifier, "TokenClassifier": TokenClassifier}
CLASSES |= {"Discriminator": heads.Discriminator, "Seq2Seq": Seq2Seq}
ARTICLES: dict[Kind, str] = {"Encoder": "an encoder", "MaskedLM": "a masked LM", "SequenceClassifier": "a classifier"}
ARTICLES |= {"TokenClassifier": "a tagger", "Discriminator": "a discriminator"}
ARTICLES["Seq2Seq"] = "a sequence-to-sequence model"

CONFIG = "config.json"
SETTING_KEYS = ("sequence_length", "stride", "columns", "task", "temperature")
SETTINGS = "windows.json"  # what prediction with a fine-tuned model needs besides the weights
EXPORTED = ("onnx/model.onnx", "onnx/model_quantized.onnx", "torch/model.pt2")
TABLES = "transitions.json"  # of an exported tagger
TARGETS = "decoder"  # folder of the tokenizer of targets, if it is not that of sources
OURS = (
    CONFIG,
    CARD,
    SETTINGS,
    GENERATION,
    *WEIGHT_FILES,
    *ALL_FILES,
    *EXPORTED,
    *(f"{name}.data" for name in EXPORTED),
)
OURS += (TABLES, f"onnx/{TABLES}", f"torch/{TABLES}", *(f"{TARGETS}/{name}" for name in ALL_FILES))
"""all files of a model: `save` leaves none of an earlier one, not even as an exported program"""


def save(
    model: Encoder | HeadedModel, folder: str | Path, card: str = "", extra: Mapping[str, str | Path] | None = None
) -> None:
    """Write `model` as a folder. `card` is appended to its `README.md`; if it begins with a YAML header between two lines of
    ---, as model cards do, its keys (license, datasets, …) are added to the header of the file. `extra` are texts to write, or
    files to copy, by their names in the folder.

    Files of an earlier model in the folder are replaced, others are kept. Raises InputError if the folder cannot be written,
    and leaves it as it was. Warns of dropout rates that `config.json` of the family cannot hold.
    """
    check_arguments(save, locals())
    folder = Path(folder).expanduser().absolute()
    head: Head = None if isinstance(model, Encoder) else model.head_config
    family, obstacles = family_of(model.config, head, model.model_type)
    keys = translate.write_config(family, model.config, head, _token_ids(model))
    _warn_of_lost_dropout(keys, model.config, head, folder)
    _check_names(model, folder)
    state = _as_whole(model).state_dict()
    ours = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state.items()}
    theirs = translate.write_parameters(family, model.config, head, keys, ours)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file: give the path of a folder")
    of_task = head if isinstance(head, TaskHeadConfig | Seq2SeqConfig) else None
    numbers = sum(tensor.numel() for tensor in theirs.values())
    try:
        with replaced_folder(folder, OURS) as fresh:
            (fresh / CONFIG).write_text(json.dumps(keys, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, fresh / WEIGHTS, {"format": "pt"})
            shutil.copymode(fresh / CONFIG, fresh / WEIGHTS)  # safetensors makes it readable for the user only
            if model.tokenizer is not None:
                inputs = ["input_ids", "token_type_ids", "attention_mask"]
                is_siamese = getattr(head, "pooling", None) == "siamese"
                if keys.get("type_vocab_size", model.config.token_types) < 2 and not is_siamese:
                    inputs.remove("token_type_ids")
                model.tokenizer.write(fresh, model_max_length=model.config.max_length, model_input_names=inputs)
            if targets := getattr(getattr(model, "decoder", None), "tokenizer", None):
                (fresh / TARGETS).mkdir(exist_ok=True)
                targets.write(fresh / TARGETS, model.config.max_length, ["input_ids"])
            text = model_card(kind_of(head), model.config, of_task, obstacles, numbers, card)
            (fresh / CARD).write_text(text, encoding="utf-8")
            settings = getattr(model, "settings", None)
            more = {SETTINGS: settings} if settings else {}
            if isinstance(head, Seq2SeqConfig):
                search: Any = model.generation
                more[GENERATION] = seq2seq.write_generation(search, head)
            put_files(fresh, {name: json.dumps(one) + "\n" for name, one in more.items()} | dict(extra or {}))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: the model could not be written: {error}") from error


def _check_names(model: Encoder | HeadedModel, folder: Path) -> None:
    """Refuse a model with parameters that its class does not have: they could not be loaded."""
    plain = _empty(type(model), model.config, None if isinstance(model, Encoder) else model.head_config)
    if surplus := [name for name in model.state_dict() if name not in plain.state_dict()]:
        fix = "merge adapters first (peft: merge_and_unload), or save them separately"
        raise InputError(f"{folder}: the model has parameters that its class has not: {listed(surplus)}: {fix}")


def _empty(cls: Any, config: EncoderConfig, head: Head) -> Any:
    """A model of class `cls` without memory for its parameters."""
    with without_memory():
        return cls(config) if head is None else cls(config, head)


def _as_whole(model: nn.Module) -> nn.Module:
    """A module with the parameters of `model`, those of a bare encoder under `encoder.`, as in models with a head."""
    return nn.ModuleDict({"encoder": model}) if isinstance(model, Encoder) else model


@dataclass(frozen=True)
class Source:
    """A model folder to read from; weights and encoder are read once, when first used."""

    folder: Path
    keys: dict[str, Any]
    """content of its config.json"""

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return translate.plain_names(self.config("Encoder")[0], self.keys, read_tensors(self.folder))

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder alone, with the tokenizer. Raises InputError as `load` does."""
        return _build(Encoder, self)[0]

    def config(self, kind: Kind, labels: Sequence[str] | None = None) -> tuple[Family | None, EncoderConfig, Head]:
        """Family, shape and head of a model of class `kind`; with `labels`, a new head."""
        try:
            return read_config(self.keys, kind, labels)
        except InputError as error:
            raise InputError(f"{self.folder / CONFIG}: {error}") from error
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:  # a list for a number
            raise InputError(f"{self.folder / CONFIG}: a value of the wrong type: {error}") from error

    def parameters(
        self, kind: Kind, shapes: Mapping[str, torch.Size]
    ) -> tuple[dict[str, Tensor], list[str], list[str]]:
        """Parameters for the names of `shapes` in fp32; the names that are missing; the names that are left over."""
        family = self.config("Encoder")[0]
        try:
            return translate.read_parameters(family, kind, self.keys, self.tensors, shapes)
        except InputError as error:
            raise InputError(f"{weights_file(self.folder)}: {error}") from error

    def as_masked_lm(self) -> "Source":
        """The same, as untied if the output matrix of an old file is not the embedding matrix, whatever the config says."""
        if not translate.unties(self.config("Encoder")[0], self.keys, self.tensors):
            return self
        what = f"the output matrix is not the embedding matrix, as {CONFIG} says"
        warnings.warn(f"{self.folder}: {what}: read as untied", stacklevel=5)
        return Source(self.folder, self.keys | {"tie_word_embeddings": False})


def open_folder(folder: str | Path) -> Source:
    """A model folder, by its path or its name on the Hugging Face Hub. Raises InputError if it is not one."""
    folder = local_folder(folder)
    return Source(folder, read_keys(folder))


def load(cls: type[Model], folder: str | Path) -> Model:
    """The model of class `cls` in a folder of ours or of Hugging Face, in fp32 on the CPU, in eval mode.

    `folder` may be a name on the Hugging Face Hub. Raises InputError, naming file and fix, if the folder is not a model or
    one of another task, a file is damaged, parameters are missing (a randomly initialized head would be useless), or the
    tokenizer has more tokens than the model. Warns of parameters that the model does not have; the head of the folder is
    ignored if a bare encoder is loaded.
    """
    check_arguments(load, locals())
    source, kind = open_folder(folder), _kind(cls)
    _check_task(source, kind)
    model, spare = _build(cls, source)
    if spare:
        what = f"{len(spare)} parameters are not part of {ARTICLES[kind]} and were ignored: {listed(spare)}"
        warnings.warn(f"{weights_file(source.folder)}: {what}", stacklevel=3)
    return model


def _build(cls: type[Model], source: Source) -> tuple[Model, list[str]]:
    """The model of a folder, and the names of the parameters that it does not have."""
    kind = _kind(cls)
    if kind == "MaskedLM":
        source = source.as_masked_lm()
    family, config, head = source.config(kind)
    layers = translate.count_layers(source.tensors)
    deepest = max(config.num_layers, head.decoder.num_layers) if isinstance(head, Seq2SeqConfig) else config.num_layers
    if deepest > layers:  # before they are allocated
        both = f"{deepest} layers and {weights_file(source.folder).name} holds {layers}"
        raise InputError(f"{source.folder / CONFIG}: says {both}: the two files are not of the same model")
    model = _empty(cls, config, head)
    shapes = {name: tensor.shape for name, tensor in _as_whole(model).state_dict().items()}
    ours, missing, spare = source.parameters(kind, shapes)
    if missing:
        absent, of_head = shapes.keys() - ours.keys(), {name for name in shapes if name.startswith("head.")}
        raise _incomplete(source.folder, kind, missing, spare, only_head=absent == of_head)
    _as_whole(model).load_state_dict(ours, assign=True)  # the tensors of the file, not copied
    pieces = sentencepieces(source.folder)
    if isinstance(head, Seq2SeqConfig) and pieces and not (source.folder / "tokenizer.json").exists():
        what = "the tokenizers of Marian are not read: give token ids, those of transformers' MarianTokenizer"
        warnings.warn(f"{source.folder / pieces[0]}: {what}", stacklevel=4)
    else:
        model.tokenizer = _read_tokenizer(source.folder, config)
    model.model_type = family and family.model_type
    if isinstance(head, Seq2SeqConfig):
        model.decoder.tokenizer = _read_tokenizer(source.folder / TARGETS, head.decoder)
        model.generation = _read_search(source, head.decoder, model.generation)
    if isinstance(head, TaskHeadConfig | Seq2SeqConfig):
        found = read_object(source.folder / SETTINGS)
        model.settings = {key: found[key] for key in SETTING_KEYS if key in found}  # which `save` writes again
    (model if isinstance(model, Encoder) else model.encoder).pooling = _pooling(source.folder) or "mean"
    return model.eval(), spare


def start(
    cls: type[TaskModel],
    folder: str | Path | Source,
    labels: Sequence[str],
    dropout: float | None = None,
    pooling: TaskPooling | None = None,
    problem_type: str = "single_label_classification",
    pairs: bool = False,
) -> TaskModel:
    """A model with a new task head on the encoder of any model folder, in fp32 on the CPU, in eval mode.

    The head is that of the family for the class; `dropout` and `pooling` override its own, and `problem_type` is the meaning
    of its scores. In a folder of sentence-transformers that pools by the mean, the head does so, too, or compares the means
    of two texts if it is for `pairs` (`siamese`, which has no transform). An open `folder` shares its encoder with the model.
    Parts that the new head has in common with that of the folder are copied (ModernBERT: dense and norm of the masked-LM
    head; BERT: the pooler), the others are initialized randomly, by `torch.manual_seed`. Raises InputError as `load` does.
    """
    labels = TaskHeadConfig(tuple(labels)).labels  # checked before the folder
    source, kind = folder if isinstance(folder, Source) else open_folder(folder), _kind(cls)
    encoder = source.encoder  # read before a head is built, for its errors
    family, config, head = source.config(kind, labels)
    assert isinstance(head, TaskHeadConfig)
    if pooling is not None and kind == "TokenClassifier":
        raise InputError(f"head.pooling is {pooling} for a tagger, which does not pool: omit it")
    if dropout is not None:
        one_rate = family is not None and any(key.ours == "classify.first_dropout" for key in family.keys)  # of both
        head = replace(head, dropout=dropout, first_dropout=dropout if one_rate else head.first_dropout)
    is_mean = head.pooling is not None and _pooling(source.folder) == "mean"  # trained for that, and not for [CLS]
    if is_mean or head.pooling == "siamese":
        head = replace(head, pooling="siamese" if pairs else "mean")
    head = replace(head, pooling=pooling or head.pooling, problem_type=problem_type)
    head = replace(
        head, transform=head.transform and head.pooling != "siamese"
    )  # no encoder was trained with one for 2D
    model = _empty(cls, config, head)
    model.encoder, model.head = encoder, heads.TaskHead(config, head)
    _take_over(source, kind, model.head, without="output")
    return model.eval()


def start_masked_lm(folder: str | Path) -> tuple[MaskedLM, list[str]]:
    """A masked LM on the encoder of any model folder, in fp32 on the CPU, in eval mode; and the parameters of its head that
    are initialized randomly.

    The head is that of the family; parameters that the folder holds are copied, the others are initialized randomly, by
    `torch.manual_seed`. Raises InputError as `load` does.
    """
    source = open_folder(folder).as_masked_lm()
    encoder = source.encoder
    _, config, head = source.config("MaskedLM")
    assert isinstance(head, HeadConfig)
    model = _empty(MaskedLM, config, head)
    model.encoder, model.head = encoder, heads.MaskedLMHead(config, head)
    return model.eval(), _take_over(source, "MaskedLM", model.head)


def start_seq2seq(encoder: str | Path, decoder: str | Path) -> Seq2Seq:
    """A sequence-to-sequence model on the encoders of any two model folders, or of one twice, in fp32 on the CPU, in eval mode (Rothe et
    al. 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks").

    The decoder has the embeddings, the blocks and, if the folder has one, the masked-LM head of `decoder`; its cross-attention is
    initialized randomly, by `torch.manual_seed`. Targets begin with the [CLS] of its tokenizer and end with [SEP]. Each side keeps its
    tokenizer. Raises InputError as `load` does, and if `decoder` has no tokenizer.
    """
    source, target = open_folder(encoder), open_folder(decoder).as_masked_lm()
    first, second, (_, config, head) = source.encoder, target.encoder, target.config("MaskedLM")
    if (tokenizer := second.tokenizer) is None:
        raise InputError(f"{target.folder}: no tokenizer: add the tokenizer.json that it was trained with")
    assert isinstance(head, HeadConfig)
    of_decoder = Seq2SeqConfig(config, head, shared=False, start_id=tokenizer.cls_id, end_id=tokenizer.sep_id)
    model = _empty(Seq2Seq, first.config, of_decoder)
    model.encoder = first
    model.decoder, model.head = Decoder(config, first.config.hidden_size, True), heads.MaskedLMHead(config, head)
    model.decoder.load_state_dict(second.state_dict(), strict=False)
    _take_over(target, "MaskedLM", model.head)
    if first.tokenizer is None or first.tokenizer.hash != tokenizer.hash:
        model.decoder.tokenizer = tokenizer
    return model.eval()


def _take_over(source: Source, kind: Kind, head: nn.Module, without: str | None = None) -> list[str]:
    """Load the parameters of a folder into a new head, except for its part `without`; returns the other parameters."""
    shapes = {f"head.{name}": tensor.shape for name, tensor in head.state_dict().items()}
    family, config, _ = source.config("Encoder")
    if not (family or config.norm_first or kind_named(source.keys) == kind):
        return list(shapes)  # in our own type, post-norm heads share nothing
    shared = {name: shape for name, shape in shapes.items() if not name.startswith(f"head.{without}.")}
    ours, _, _ = source.parameters(kind, shared)
    head.load_state_dict({name.removeprefix("head."): tensor for name, tensor in ours.items()}, strict=False)
    return [name for name in shapes if name not in ours]


def head_of(folder: str | Path) -> tuple[Kind, Head]:
    """The class of the model in a folder and the config of its head, from config.json alone: a bare encoder if it names a head
    that is not supported."""
    source = open_folder(folder)
    kind = kind_named(source.keys)
    return kind, source.config(kind)[2]


def _kind(cls: type[nn.Module]) -> Kind:
    for kind, known in CLASSES.items():
        if issubclass(cls, known):
            return kind
    raise TypeError(f"{cls.__name__} has no model folders")


def _check_task(source: Source, kind: Kind) -> None:
    """Refuse a folder with a head for another task. A masked LM is recognized by its parameters, whatever the config names."""
    named, folder = kind_named(source.keys), source.folder
    if kind in (named, "Encoder") or {kind, named} == {"Encoder", "MaskedLM"}:
        return
    examples = {"MaskedLM": "such as RUN/model of a pretraining run", "Discriminator": "such as ELECTRA's"}
    examples["Seq2Seq"] = "such as Marian's"
    fix = f"give the folder of one, {examples[kind]}, or open this one with {named}.load" if kind in examples else ""
    raise InputError(f"{folder}: {ARTICLES[named]}, not {ARTICLES[kind]}: {fix or 'fine-tune one from it'}")


def read_keys(folder: Path) -> dict[str, Any]:
    """The content of config.json in a folder. Raises InputError if there is none, or it is not a JSON object."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: give the folder of a model, the one that holds {CONFIG}")
    if not (folder / CONFIG).exists():
        inner = folder / "model"
        fix = f"give its model, {inner}" if (inner / CONFIG).exists() else "give the folder of a model"
        raise InputError(f"{folder}: no {CONFIG} in it: {fix}")
    keys = read_object(folder / CONFIG)
    if not isinstance(keys.get("architectures") or [], list):
        raise InputError(f"{folder / CONFIG}: architectures is {keys['architectures']}: give a list of names")
    return (
        seq2seq.with_special_tokens(keys, read_object(folder / GENERATION))
        if keys.get("model_type") in seq2seq.MODEL_TYPES
        else keys
    )


def _incomplete(folder: Path, kind: Kind, missing: Sequence[str], spare: Sequence[str], only_head: bool) -> InputError:
    """The error for missing parameters, and those left over; `only_head`: exactly those of the head are missing."""
    if kind == "MaskedLM" and only_head:
        fix = "open it with Encoder.load, or pretrain one from it"
        return InputError(f"{folder}: an encoder without a masked-LM head: {fix} (missing: {listed(missing)})")
    more = f"; {len(spare)} are left over: {listed(spare)}" if spare else ""
    return InputError(f"{weights_file(folder)}: {len(missing)} parameters are missing: {listed(missing)}{more}")


def _read_tokenizer(folder: Path, config: EncoderConfig) -> Tokenizer | None:
    """The tokenizer of a folder, None if it has no files of one."""
    if not Tokenizer.has_files(folder):
        return None
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size > config.vocab_size:
        both = f"the tokenizer has {tokenizer.vocab_size} tokens and {CONFIG} says vocab_size {config.vocab_size}"
        raise InputError(f"{folder}: {both}: give the tokenizer that the model was trained with")
    return tokenizer


def _read_search(source: Source, decoder: EncoderConfig, default: GenerationConfig) -> GenerationConfig:
    """How a folder says that targets are searched; `default` if it does not."""
    file, keys = source.folder / CONFIG, source.keys
    if (own := source.folder / GENERATION).exists():
        file, keys = own, read_object(own)
    elif not seq2seq.describes_search(keys):
        return default
    try:
        return seq2seq.read_generation(keys, decoder.max_length)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _pooling(folder: Path) -> str:
    """How sentence-transformers pools the vectors of the tokens of a text, by its own name: empty if the folder does not say."""
    files = folder.glob("*_Pooling/config.json") if (folder / "modules.json").exists() else ()
    keys = next(map(read_object, files), {})
    flags = [re.sub("pooling_mode_|_tokens?$", "", key) for key in keys if "pooling_mode_" in key and keys[key]]
    mode = keys.get("pooling_mode", flags)  # the flags are those of versions before 6
    return " and ".join(map(str, mode)) if isinstance(mode, list) else str(mode)


def _token_ids(model: Encoder | HeadedModel) -> dict[str, int | None]:
    tokenizer = model.tokenizer
    if tokenizer is None:
        return {"pad_token_id": model.config.pad_id}
    cls_id, sep_id = tokenizer.cls_id, tokenizer.sep_id
    around = {"bos_token_id": cls_id, "eos_token_id": sep_id, "cls_token_id": cls_id, "sep_token_id": sep_id}
    return {"pad_token_id": tokenizer.pad_id, **around}


def _warn_of_lost_dropout(keys: Mapping[str, Any], config: EncoderConfig, head: Head, folder: Path) -> None:
    sides = {"encoder": (config, read_config(keys, "Encoder")[1])}
    if isinstance(head, Seq2SeqConfig):
        again = read_config(keys, "Seq2Seq")[2]
        assert isinstance(again, Seq2SeqConfig)
        sides["decoder"] = head.decoder, again.decoder
    names = ("embedding_dropout", "attention_dropout", "hidden_dropout", "mlp_dropout")
    lost = [
        f"{side}.{name} {getattr(ours, name)} (will be read as {getattr(read, name)})"
        for side, (ours, read) in sides.items()
        for name in names
        if getattr(ours, name) != getattr(read, name)
    ]
    if lost:
        warnings.warn(f"{folder / CONFIG}: model_type {keys['model_type']} cannot hold {', '.join(lost)}", stacklevel=3)
