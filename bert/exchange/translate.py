"""Config and parameters of a model, from our names to Hugging Face's and back: what runs the tables of `families`.

In: an `EncoderConfig` and a `HeadConfig` with our parameters, or a `config.json` and theirs. Out: the other of the two.
A model that fits no family keeps our own field and parameter names under `model_type: "bert-encoder"`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from bert.errors import InputError
from bert.exchange.families import ACTIVATIONS, FAMILIES, REQUIRED, THEIR_ACTIVATIONS, Family
from bert.model.config import EncoderConfig, HeadConfig

OWN_TYPE = "bert-encoder"


def family_of(config: EncoderConfig, head: HeadConfig | None) -> tuple[Family | None, list[str]]:
    """The family that computes what this model computes, or none and the fields that stand in the way of the nearest
    one.

    `head` is none for a bare encoder. Dropout is no obstacle: it has no part in what a trained model computes.
    """
    obstacles = [(_obstacles(family, config, head), family) for family in FAMILIES]
    fewest, family = min(obstacles, key=lambda pair: len(pair[0]))
    return (None, [f"{family.model_type} needs {line}" for line in fewest]) if fewest else (family, [])


def _obstacles(family: Family, config: EncoderConfig, head: HeadConfig | None) -> list[str]:
    mine = _named_fields(config, head)
    lines = []
    for name, value in family.fixed.items():
        if name in mine and mine[name] != value and not (name in family.zeros and mine[name] is False):
            lines.append(f"{name} {str(value).lower()}, not {str(mine[name]).lower()}")
    written: dict[str, str] = {}
    for key in family.keys:
        if key.ours in mine and not key.ours.endswith("_dropout"):
            first = written.setdefault(key.theirs, key.ours)
            if mine[first] != mine[key.ours]:
                lines.append(f"{key.ours} {mine[first]} as {first}, not {mine[key.ours]}")
    return lines


def _named_fields(config: EncoderConfig, head: HeadConfig | None) -> dict[str, Any]:
    mine = {f"encoder.{name}": value for name, value in asdict(config).items()}
    if config.kv_heads == config.num_heads:
        mine["encoder.num_kv_heads"] = None  # the same thing spelt out
    if head is not None:
        mine |= {f"head.{name}": value for name, value in asdict(head).items()}
    return mine


def write_config(
    family: Family | None, config: EncoderConfig, head: HeadConfig | None, token_ids: Mapping[str, int | None]
) -> dict[str, object]:
    """The content of `config.json`. `token_ids` has an id for each of their keys (`pad_token_id`, …) that is known."""
    kind = "Encoder" if head is None else "MaskedLM"
    keys: dict[str, object] = {"dtype": "float32", "torch_dtype": "float32"}  # transformers 5 and 4
    if family is None:
        keys |= {"architectures": [kind], "model_type": OWN_TYPE, "encoder": asdict(config)}
        return keys if head is None else keys | {"head": asdict(head)}
    mine = _named_fields(config, head)
    keys |= {"architectures": [family.architectures[kind]], "model_type": family.model_type}
    for key in family.keys:
        if key.ours in mine and key.theirs not in keys:
            value = mine[key.ours]
            keys[key.theirs] = ACTIVATIONS[value] if key.ours.endswith(".activation") else value
    keys |= family.more_keys(config)
    # An id that is not known is written as null: the default of transformers may lie outside a small vocabulary.
    return keys | {name: token_ids.get(name) for name in family.token_ids}


def read_config(keys: Mapping[str, Any]) -> tuple[Family | None, EncoderConfig, HeadConfig]:
    """Family and shape from the content of a `config.json`. Raises InputError, without the file's name, for what is not
    readable."""
    model_type = keys.get("model_type")
    if model_type == OWN_TYPE:
        return None, _make(EncoderConfig, keys.get("encoder", {})), _make(HeadConfig, keys.get("head", {}))
    family = next((family for family in FAMILIES if family.model_type == model_type), None)
    if family is None:
        known = ", ".join([*(family.model_type for family in FAMILIES), OWN_TYPE])
        raise InputError(f"model_type is {model_type}: this version reads {known}")
    for name, only in family.refused.items():
        if keys.get(name, only) != only:
            raise InputError(f"{name} is {keys[name]}: this version reads models with {name} {only}")
    mine: dict[str, Any] = dict(family.fixed)
    for key in family.keys:
        value = family.value(keys, key.theirs)
        if value is REQUIRED:
            raise InputError(f"key {key.theirs} is missing")
        if key.ours.endswith(".activation"):
            if value not in THEIR_ACTIVATIONS:
                raise InputError(f"{key.theirs} is {value}: this version reads {', '.join(THEIR_ACTIVATIONS)}")
            value = THEIR_ACTIVATIONS[value]
        # Two keys for one field are two switches (biases of attention, biases of the MLP): one on is on, the other part
        # is zeros.
        mine[key.ours] = (mine.get(key.ours, False) or value) if isinstance(value, bool) else value
    for name, value in family.more_fields(keys).items():
        mine[f"encoder.{name}"] = value
    mine["encoder.pad_id"] = keys.get("pad_token_id") or 0
    groups: dict[str, dict[str, Any]] = {"encoder": {}, "head": {}}
    for name, value in mine.items():
        group, _, field = name.partition(".")
        groups[group][field] = value
    return family, _make(EncoderConfig, groups["encoder"]), _make(HeadConfig, groups["head"])


def _make(kind: type, values: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    for name in values:
        if name not in known:
            raise InputError(f"key {name} is not a field of {kind.__name__}")
    try:
        return kind(**values)
    except TypeError as error:  # a string or null where a number belongs
        raise InputError(f"a value of the wrong type: {error}") from error


def write_parameters(
    family: Family | None, keys: Mapping[str, Any], ours: Mapping[str, Tensor], num_layers: int, with_head: bool
) -> dict[str, Tensor]:
    """Their parameters from ours (named `encoder.…`, `head.…`). `keys` is the `config.json` that goes beside them."""
    if family is None:
        return dict(ours)
    theirs: dict[str, Tensor] = {}
    for name, their_names, bias in _pairs(family, num_layers, with_head, family.prefix if with_head else ""):
        tensor = ours.get(name)
        weight = ours.get(name.removesuffix("bias") + "weight")
        if tensor is None and name == "encoder.embeddings.token_types.weight":
            tensor = torch.zeros(keys["type_vocab_size"], keys["hidden_size"])
        elif tensor is None and bias is True and name == "head.bias":
            tensor = torch.zeros(keys["vocab_size"])
        elif tensor is None and bias is True and name.endswith(".bias") and weight is not None:
            tensor = torch.zeros(weight.shape[0])
        if tensor is not None:
            theirs |= dict(zip(their_names, tensor.chunk(len(their_names))))
            if name == "head.bias" and not keys["tie_word_embeddings"]:
                theirs[family.output_bias] = tensor.clone()
    return theirs


def read_parameters(
    family: Family | None, keys: Mapping[str, Any], theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Our parameters for the names of `shapes` from theirs, then the names that are missing there and those that are
    left over.

    Heads that an encoder has no use for, and what old files are known to hold, do not count as left over.
    """
    with_head = any(name.startswith("head.") for name in shapes)
    if family is None:
        missing = [name for name in shapes if name not in theirs]
        spare = [name for name in theirs if name not in shapes and (with_head or not name.startswith("head."))]
        return {name: theirs[name] for name in shapes if name in theirs}, missing, spare
    theirs = {_modern_name(name): tensor for name, tensor in theirs.items()}
    prefix = family.prefix if any(name.startswith(family.prefix) for name in theirs) else ""
    ours: dict[str, Tensor] = {}
    missing, used = [], {family.output_bias}
    tied = family.value(keys, "tie_word_embeddings")
    for name, their_names, bias in _pairs(family, keys["num_hidden_layers"], True, prefix):
        used.update(their_names)
        if name not in shapes:
            continue
        if name == "head.bias" and not tied and family.output_bias in theirs:
            their_names = (family.output_bias,)
        absent = [their_name for their_name in their_names if their_name not in theirs]
        if not absent:
            ours[name] = torch.cat([theirs[their_name] for their_name in their_names])
        elif name.endswith(".bias") and isinstance(bias, str) and not family.value(keys, bias):
            ours[name] = torch.zeros(shapes[name])
        else:
            missing += absent
    spare = [name for name in theirs if name not in used and not any(part in name for part in family.unused)]
    if prefix and not with_head:
        spare = [name for name in spare if name.startswith(prefix)]
    return ours, missing, spare


def _pairs(
    family: Family, num_layers: int, with_head: bool, prefix: str
) -> Iterator[tuple[str, tuple[str, ...], bool | str]]:
    """(our parameter, theirs, whether they have it where it is a bias) for every row of the table."""
    for row in family.rows:
        for ours, theirs in row.expand(num_layers):
            yield f"encoder.{ours}", tuple(prefix + name for name in theirs), row.bias
    for row in family.head_rows if with_head else ():
        for ours, theirs in row.expand(num_layers):
            yield ours, theirs, row.bias


def _modern_name(name: str) -> str:
    """Files converted from TensorFlow in 2019 call a LayerNorm's weight gamma and its bias beta."""
    if name.endswith("LayerNorm.gamma"):
        return name.removesuffix("gamma") + "weight"
    return name.removesuffix("beta") + "bias" if name.endswith("LayerNorm.beta") else name
