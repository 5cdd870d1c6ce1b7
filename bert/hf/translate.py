"""Config and parameters of a model, from our names to those of Hugging Face and back, by the tables of `families` and `seq2seq`.

In one direction: an `EncoderConfig`, the config of a head and our parameters → a `config.json` and their parameters. A model
that fits no family keeps our own names of fields and parameters under `model_type: "bert-encoder"`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor

from bert.errors import InputError, did_you_mean
from bert.hf import seq2seq
from bert.hf.families import ACTIVATIONS, ENDINGS, GROUPS, REQUIRED, THEIR_ACTIVATIONS, Family, Kind
from bert.hf.families import FAMILIES as OF_ENCODERS
from bert.hf.labels import OWN_PROBLEM, labels_of, problem_type_of
from bert.model.config import (
    PROBLEM_TYPES,
    DiscriminatorConfig,
    EncoderConfig,
    HeadConfig,
    Seq2SeqConfig,
    TaskHeadConfig,
    task_head,
)
from bert.model.layers import sinusoids

FAMILIES = (*OF_ENCODERS, *seq2seq.FAMILIES)
OWN_TYPE = "bert-encoder"
ELSEWHERE = ("labels", "problem_type")
"""fields of a head with keys of their own"""
Head = HeadConfig | TaskHeadConfig | DiscriminatorConfig | Seq2SeqConfig | None
"""config of a head; None: a bare encoder"""
_OF_2019 = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$")
"""weight and bias in files converted from TensorFlow"""
_LAYER = re.compile(r"\blayers?\.(\d{1,5})\.")
_IN_EVERY_ENCODER = "encoder.layers.0.attention.out.weight"
_WRAPPERS = re.compile(r"\b(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
"""what DataParallel, torch.compile, FSDP, activation checkpointing and Lightning put into the names of parameters"""
BUFFERS = ("position_ids", "embeddings.token_type_ids")
"""parts of the names of buffers in old files, which hold consecutive numbers"""


def kind_of(head: Head) -> Kind:
    """The class of a model with this head."""
    if head is None:
        return "Encoder"
    if isinstance(head, Seq2SeqConfig):
        return "Seq2Seq"
    if isinstance(head, HeadConfig | DiscriminatorConfig):
        return "MaskedLM" if isinstance(head, HeadConfig) else "Discriminator"
    return "TokenClassifier" if head.pooling is None else "SequenceClassifier"


def kind_named(keys: Mapping[str, Any]) -> Kind:
    """The class of the model that a `config.json` names under `architectures`: a bare encoder if it names none, or one with
    a head that is not supported."""
    named = str(next(iter(keys.get("architectures") or ()), ""))
    for family in FAMILIES:
        for kind, theirs in family.architectures.items():
            if named in (kind, theirs):
                return kind
    if named.endswith("BertForPreTraining"):
        return "MaskedLM"
    # an architecture of another name with the `model_type` of a family
    return next((kind for kind, ending in ENDINGS.items() if named.endswith(ending)), "Encoder")


def _family_named(keys: Mapping[str, Any]) -> Family:
    """The family of a `config.json` of Hugging Face, by its architecture in old files without a `model_type`."""
    model_type = keys.get("model_type")
    architectures = keys.get("architectures") or ()
    for family in FAMILIES:
        if model_type == family.model_type:
            return family
        if model_type is None and set(architectures) & set(family.architectures.values()):
            return family
    known = [*(family.model_type for family in FAMILIES), OWN_TYPE]
    if model_type is None:
        raise InputError(f"no model_type: add it, one of {', '.join(known)}")
    near = did_you_mean(str(model_type), known)
    raise InputError(f"model_type is {model_type}: this version reads {', '.join(known)}.{near}")


def family_of(config: EncoderConfig, head: Head, model_type: str | None = None) -> tuple[Family | None, list[str]]:
    """The family that computes the same as this model, or None and the fields that differ from the nearest one.

    `head` is None for a bare encoder. `model_type` is that of the folder from which the model comes, which is preferred if it
    fits. Dropout is ignored: a trained model computes without it.
    """
    known = seq2seq.FAMILIES if isinstance(head, Seq2SeqConfig) else OF_ENCODERS
    preferred = sorted(known, key=lambda family: family.model_type != model_type)
    obstacles = [(_obstacles(family, config, head), family) for family in preferred]
    fewest, family = min(obstacles, key=lambda pair: len(pair[0]))
    return (None, [f"{family.model_type} needs {line}" for line in fewest]) if fewest else (family, [])


def _obstacles(family: Family, config: EncoderConfig, head: Head) -> list[str]:
    kind = kind_of(head)
    lines = [] if kind in family.architectures else [f"another head: it has no {kind}"]
    if isinstance(head, Seq2SeqConfig):
        if head.shared is not family.fixed.get("head.shared", head.shared):
            lines.append(f"head.shared {str(not head.shared).lower()}, not {str(head.shared).lower()}")
        sides = _differences(family, config, None), _differences(family, head.decoder, head.head)
        lines += [f"{side}: {line}" for side, some in zip(("encoder", "decoder"), sides) for line in some]
        return lines + seq2seq.unequal(family, config, head.decoder)
    if isinstance(head, TaskHeadConfig) and head.problem_type not in PROBLEM_TYPES:
        lines.append(f"{GROUPS[kind]}.problem_type {' or '.join(PROBLEM_TYPES)}, not {head.problem_type}")
    return lines + _differences(family, config, head)


def _differences(family: Family, config: EncoderConfig, head: Head) -> list[str]:
    """The fields with values that the family cannot have."""
    mine, lines = _named_fields(config, head), list[str]()
    for name, value in family.fixed.items():
        if name not in mine or mine[name] == value or (name in family.zeros and mine[name] is False):
            continue
        if not (name == "encoder.positions" and (mine[name], value) == ("sinusoidal", "learned")):  # also a table
            lines.append(f"{name} {str(value).lower()}, not {str(mine[name]).lower()}")
    written: dict[str, str] = {}
    for key in family.keys:
        if key.ours in mine and not key.ours.endswith("dropout"):
            first = written.setdefault(key.theirs, key.ours)
            if mine[first] != mine[key.ours]:
                lines.append(f"{key.ours} {mine[first]} as {first}, not {mine[key.ours]}")
    return lines


def _named_fields(config: EncoderConfig, head: Head) -> dict[str, Any]:
    mine = {f"encoder.{name}": value for name, value in asdict(config).items()}
    if config.kv_heads == config.num_heads:
        mine["encoder.num_kv_heads"] = None  # the same, written out
    if config.embedding_width == config.hidden_size:
        mine["encoder.embedding_size"] = None
    if head is not None:
        idle = {*ELSEWHERE}
        if isinstance(head, TaskHeadConfig) and not head.transform:
            idle |= {"activation", "transform_bias", "transform_norm", "first_dropout"}
        mine |= {f"{GROUPS[kind_of(head)]}.{name}": value for name, value in asdict(head).items() if name not in idle}
    return mine


def write_config(
    family: Family | None, config: EncoderConfig, head: Head, token_ids: Mapping[str, int | None]
) -> dict[str, Any]:
    """The content of `config.json`. `token_ids` has the known ids of special tokens by their keys (`pad_token_id`, …)."""
    kind = kind_of(head)
    keys: dict[str, Any] = {"dtype": "float32", "torch_dtype": "float32"}  # transformers 5 and 4
    if isinstance(head, TaskHeadConfig):
        keys |= {"id2label": {str(i): label for i, label in enumerate(head.labels)}}
        keys |= {"label2id": {label: i for i, label in enumerate(head.labels)}}
    if kind == "SequenceClassifier" and isinstance(head, TaskHeadConfig):
        keys["problem_type" if head.problem_type in PROBLEM_TYPES else OWN_PROBLEM] = head.problem_type
    if family is None:
        keys |= {"architectures": [kind], "model_type": OWN_TYPE, "encoder": asdict(config)}
        parts = {} if head is None else {name: value for name, value in asdict(head).items() if name not in ELSEWHERE}
        return keys | {"head": parts} if parts else keys
    keys |= {"architectures": [family.architectures[kind]], "model_type": family.model_type}
    if isinstance(head, Seq2SeqConfig):
        both = _write_keys(family, config, None, {}), _write_keys(family, head.decoder, head.head, {})
        special = {"decoder_start_token_id": head.start_id, "eos_token_id": head.end_id, "pad_token_id": config.pad_id}
        return seq2seq.joined(family, *both) | keys | special
    # An unknown id is written as null: the default of transformers may be outside a small vocabulary.
    return _write_keys(family, config, head, keys) | {name: token_ids.get(name) for name in family.token_ids}


def _write_keys(family: Family, config: EncoderConfig, head: Head, known: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an encoder with a head, beside those that are known."""
    mine, keys = _named_fields(config, head), {"pad_token_id": config.pad_id, **known}
    for key in family.keys:
        if key.ours in mine and key.theirs not in keys:
            value = mine[key.ours]
            keys[key.theirs] = ACTIVATIONS[value] if key.ours.endswith(".activation") else value
    return keys | family.more_keys(config)


def read_config(
    keys: Mapping[str, Any], kind: Kind, labels: Sequence[str] | None = None
) -> tuple[Family | None, EncoderConfig, Head]:
    """Family, shape and head of a model of class `kind` from the content of a `config.json`.

    With `labels` the head is a new one, as the family has it for a model with these keys; without, it is that of the
    folder. Raises InputError, without the name of the file, for unsupported values, and TypeError and the like for values of
    other types.
    """
    if keys.get("model_type") == OWN_TYPE:
        config = _make(EncoderConfig, keys.get("encoder", {}))
        if labels is not None and kind_named(keys) != kind:
            return None, config, _own_task_head(config, kind, keys, labels)
        values = keys.get("head", {}) if kind_named(keys) == kind else {}
        return None, config, _make_head(kind, values, keys, labels)
    family = _family_named(keys)
    sides = (keys, keys)
    if family in seq2seq.FAMILIES:
        sides = seq2seq.sides(family, keys)
    config = _encoder_config(family, sides[0])
    of_head = _read_group(family, GROUPS[kind], sides[1]) if kind in GROUPS else {}
    of_head.pop("shared", None)
    if kind == "Seq2Seq":
        ids = {name: keys.get(theirs) for name, theirs in seq2seq.SPECIAL.items()}
        if absent := [theirs for name, theirs in seq2seq.SPECIAL.items() if ids[name] is None]:
            raise InputError(f"key {absent[0]} is missing or null: give an id of the vocabulary")
        decoder = _encoder_config(family, sides[1])
        shared = family.fixed["head.shared"]
        return family, config, Seq2SeqConfig(decoder, _make(HeadConfig, of_head), shared, **ids)  # type: ignore[arg-type]
    return family, config, _make_head(kind, of_head, keys, labels)


def _encoder_config(family: Family, keys: Mapping[str, Any]) -> EncoderConfig:
    for name, only in family.refused.items():
        if keys.get(name, only) != only:
            raise InputError(f"{name} is {keys[name]}: this version reads models with {name} {only}")
    fields_ = _read_group(family, "encoder", keys) | family.more_fields(keys)
    pad_id = keys.get("pad_token_id")
    return _make(EncoderConfig, fields_ | {"pad_id": family.pad_id if pad_id is None else pad_id})


def _own_task_head(config: EncoderConfig, kind: Kind, keys: Mapping[str, Any], labels: Sequence[str]) -> TaskHeadConfig:
    """A new head on a model of our own type: on pre-norm models, dense and activation are those of the folder's head."""
    head = task_head(config, labels, per_token=kind == "TokenClassifier")
    before = keys.get("head", {})
    shared = ("activation", "transform_bias") if config.norm_first and before.get("transform") else ()
    return replace(head, **{name: before[name] for name in shared})


def _read_group(family: Family, group: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ours in `group` that follow from one key each."""
    mine: dict[str, Any] = {name: value for name, value in family.fixed.items() if name.startswith(f"{group}.")}
    for key in family.keys:
        value = family.value(keys, key.theirs)
        if not key.ours.startswith(f"{group}.") or (value is None and key.default is None):
            continue
        if value is REQUIRED:
            raise InputError(f"key {key.theirs} is missing")
        if key.ours.endswith(".activation"):
            if value not in THEIR_ACTIVATIONS:
                raise InputError(f"{key.theirs} is {value}: this version reads {', '.join(THEIR_ACTIVATIONS)}")
            value = THEIR_ACTIVATIONS[value]
        # Two keys for one field are two switches (biases of attention, of the MLP): on if either is, with zeros for the other.
        mine[key.ours] = (mine.get(key.ours, False) or value) if isinstance(value, bool) else value
    return {name.removeprefix(f"{group}."): value for name, value in mine.items()}


def _make_head(kind: Kind, values: Mapping[str, Any], keys: Mapping[str, Any], labels: Sequence[str] | None) -> Head:
    if kind == "Encoder":
        return None
    if kind == "MaskedLM":
        return _make(HeadConfig, values)
    if kind == "Discriminator":
        return _make(DiscriminatorConfig, values)
    if kind == "Seq2Seq":
        parts = {"decoder": _make(EncoderConfig, values["decoder"]), "head": _make(HeadConfig, values["head"])}
        return _make(Seq2SeqConfig, {**values, **parts})
    names = labels_of(keys) if labels is None else tuple(labels)
    values = {**values, "labels": names}
    if kind == "SequenceClassifier" and labels is None:
        values["problem_type"] = problem_type_of(keys, names)
    return _make(TaskHeadConfig, values)


def _make(kind: type, values: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    for name in values:
        if name not in known:
            raise InputError(f"key {name} is not a field of {kind.__name__}")
    return kind(**values)


def write_parameters(
    family: Family | None, config: EncoderConfig, head: Head, keys: Mapping[str, Any], ours: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Their parameters from ours (named `encoder.…`, `head.…`). `keys` is the content of their `config.json`.

    Parts that our model lacks are written with the values that compute the same: zeros for token types and biases, the
    table for fixed positions.
    """
    if family is None:
        return dict(ours)
    kind = kind_of(head)
    fixed: dict[str, Tensor] = {}
    sides = {"encoder": (config, keys)}
    if isinstance(head, Seq2SeqConfig):
        both = seq2seq.sides(family, keys)
        sides = {"encoder": (config, both[0]), "decoder": (head.decoder, both[1])}
    for side, (shape, of_side) in sides.items():
        if "type_vocab_size" in of_side:
            types = torch.zeros(of_side["type_vocab_size"], shape.embedding_width)
            fixed[f"{side}.embeddings.token_types.weight"] = types
        if shape.positions == "sinusoidal":
            fixed[f"{side}.embeddings.positions.weight"] = sinusoids(
                torch.arange(shape.max_length), shape.embedding_width
            )
    vocabulary = head.head if isinstance(head, Seq2SeqConfig) else head
    theirs: dict[str, Tensor] = {}
    prefix = "" if kind == "Encoder" else family.prefix
    for name, their_names, bias in _pairs(family, (kind,), count_layers(ours), prefix):
        tensor = ours.get(name, fixed.get(name))
        weight = ours.get(name.removesuffix("bias") + "weight")
        if tensor is None and bias is True and name == "head.bias":
            tensor = torch.zeros((config if vocabulary is head else sides["decoder"][0]).vocab_size)
        elif tensor is None and bias is True and name.endswith(".bias") and weight is not None:
            tensor = torch.zeros(weight.shape[0])
        if tensor is not None:
            theirs |= dict(zip(their_names, tensor.chunk(len(their_names))))
            if (
                name == "head.bias"
                and isinstance(vocabulary, HeadConfig)
                and not vocabulary.tied
                and family.output_bias
            ):
                theirs[family.output_bias] = tensor.clone()
    return {name: tensor[None] if name in seq2seq.OF_ONE_ROW else tensor for name, tensor in theirs.items()}


def count_layers(names: Iterable[str]) -> int:
    """The number of layers of the parameters with these names, ours or theirs, of the deeper side."""
    return len({number for name in names for number in _LAYER.findall(name)})


def read_parameters(
    family: Family | None,
    kind: Kind,
    keys: Mapping[str, Any],
    theirs: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Our parameters for the names of `shapes` in fp32, from theirs, for a model of class `kind`; then the names that are
    missing, and the names that are left over.

    Raises InputError, without the name of the file, for tensors of other shapes, for integers in place of weights, and for
    NaN and infinity. The head that the config names is not left over when a bare encoder is read, nor are the buffers of old
    files.
    """
    if family is None:
        pairs: list[tuple[str, tuple[str, ...], bool | str]] = [(name, (name,), True) for name in shapes]
        spare = [
            name
            for name in theirs
            if name not in shapes and (kind != "Encoder" or not name.startswith(("head.", "decoder.")))
        ]
    else:
        prefix, num_layers = _prefix_of(family, theirs), count_layers(theirs)
        theirs = {
            name: part[0] if name in seq2seq.OF_ONE_ROW and part.dim() > 1 else part for name, part in theirs.items()
        }
        pairs = [pair for pair in _pairs(family, (kind,), num_layers, prefix) if pair[0] in shapes]
        of_head = seq2seq.sides(family, keys)[1] if family in seq2seq.FAMILIES else keys
        if not family.value(of_head, "tie_word_embeddings") and family.output_bias in theirs:
            untied = {"head.bias": (family.output_bias,)}
            pairs = [(name, untied.get(name, names), bias) for name, names, bias in pairs]
        known = {name for _, names, _ in _pairs(family, (kind, kind_named(keys)), num_layers, prefix) for name in names}
        known.add(family.output_bias)
        idle = (*BUFFERS, *(seq2seq.COPIES if family in seq2seq.FAMILIES else ()))
        spare = [name for name in theirs if name not in known and not any(part in name for part in idle)]
    ours: dict[str, Tensor] = {}
    missing: list[str] = []
    wrong, odd = [], []  # names, with both shapes; names
    for name, their_names, bias in pairs:
        parts = {their_name: theirs[their_name] for their_name in their_names if their_name in theirs}
        if len(parts) == len(their_names):
            shape = (shapes[name][0] // len(parts), *shapes[name][1:])
            for their_name, part in parts.items():
                if part.shape != shape:
                    wrong.append(f"{their_name} is {tuple(part.shape)} and config.json says {shape}")
                if not part.is_floating_point():
                    odd.append(their_name)
            if not wrong and not odd:
                weights = [_checked(their_name, part) for their_name, part in parts.items()]
                ours[name] = torch.cat(weights) if len(weights) > 1 else weights[0]
        elif family and name.endswith(".bias") and isinstance(bias, str) and not family.value(keys, bias):
            ours[name] = torch.zeros(shapes[name])
        else:
            missing += [their_name for their_name in their_names if their_name not in parts]
    if wrong:
        raise InputError(f"{'; '.join(wrong)}: the two files are not of the same model")
    if odd:
        raise InputError(f"integers in place of weights: {', '.join(odd)}: quantized models are not supported")
    return ours, missing, spare


def _checked(name: str, tensor: Tensor) -> Tensor:
    """The weights in fp32. Raises InputError for NaN and infinity, which their sum shows in one pass."""
    tensor = tensor.float()
    if not (tensor.sum().isfinite() or tensor.isfinite().all()):  # a sum may also be too large
        raise InputError(f"{name} holds NaN or infinity: fetch it again, or give an earlier checkpoint")
    return tensor


def plain_names(family: Family | None, keys: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file by the names that the model itself has: without what a program around it puts before or into
    them (`_orig_mod.`, `module.`, `model.`), and with the embedding matrix where only the output matrix tied to it is stored."""
    names = [_OF_2019.sub(lambda old: "weight" if old[0] == "gamma" else "bias", name) for name in tensors]
    inner = [_WRAPPERS.sub("", name) for name in names]
    pairs = () if family is None else _pairs(family, (), 1, "")
    part = next((theirs[0] for ours, theirs, _ in pairs if ours == _IN_EVERY_ENCODER), _IN_EVERY_ENCODER)
    around = [name.removesuffix(part) for name in inner if f".{name}".endswith(f".{part}")]
    if len(around) == 1:  # else there are several models, or none
        inner = [name.removeprefix(around[0].removesuffix(family.prefix if family else "")) for name in inner]
    plain = dict(zip(inner if len(set(inner)) == len(names) else names, tensors.values()))  # each name once
    if family is not None and "MaskedLM" in family.head_rows and family.value(keys, "tie_word_embeddings"):
        matrix, output, bias = _tied(family, plain)
        for name, other in ((matrix, output), (bias, family.output_bias)):
            plain |= {name: plain[other]} if name not in plain and other in plain else {}
    return plain


def _tied(family: Family, theirs: Mapping[str, Tensor]) -> tuple[str, str, str]:
    """Their names of the embedding matrix, the output matrix and the output bias."""
    names = {row.ours: str(row.theirs) for row in (*family.rows, *family.head_rows["MaskedLM"])}
    return _prefix_of(family, theirs) + names["embeddings.tokens.weight"], names["head.weight"], names["head.bias"]


def _prefix_of(family: Family, theirs: Mapping[str, Tensor]) -> str:
    """What the names of the encoder's parameters begin with: nothing in the file of a bare encoder."""
    return family.prefix if any(name.startswith(family.prefix) for name in theirs) else ""


def unties(family: Family | None, keys: Mapping[str, Any], theirs: Mapping[str, Tensor]) -> bool:
    """Whether a file holds an output matrix that differs from the embedding matrix, though the config says that they are tied.

    transformers uses the matrix of the file, and so does `read_parameters`.
    """
    if family is None or "MaskedLM" not in family.head_rows or not family.value(keys, "tie_word_embeddings"):
        return False
    matrix, output, _ = map(theirs.get, _tied(family, theirs))
    return output is not None and matrix is not None and not torch.equal(output, matrix)


def _pairs(
    family: Family, kinds: Sequence[Kind], num_layers: int, prefix: str
) -> Iterator[tuple[str, tuple[str, ...], bool | str]]:
    """(our parameter, theirs, whether they have it if it is a bias) for the rows of the encoder and of the heads of `kinds`."""
    for row in family.rows:
        for ours, theirs in row.expand(num_layers, prefix):
            yield f"encoder.{ours}", tuple(prefix + name for name in theirs), row.bias
    for row in (row for kind in kinds for row in family.head_rows.get(kind, ())):
        for ours, theirs in row.expand(num_layers, prefix):
            yield ours, theirs, row.bias
