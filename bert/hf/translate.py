"""The config of a model, from our names to those of Hugging Face and back, by the tables of `families` and `seq2seq`.

In one direction: an `EncoderConfig` and the config of a head → a `config.json`. A model that fits no family keeps our own names of fields
under `model_type: "bert-encoder"`. `parameters` does the same with weights.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from bert.errors import InputError, did_you_mean
from bert.hf import seq2seq
from bert.hf.families import ACTIVATIONS, ENDINGS, GROUPS, REQUIRED, THEIR_ACTIVATIONS, Family, Kind
from bert.hf.families import FAMILIES as OF_ENCODERS
from bert.model.config import (
    PROBLEM_TYPES,
    DiscriminatorConfig,
    EncoderConfig,
    HeadConfig,
    Seq2SeqConfig,
    TaskHeadConfig,
    task_head,
)

FAMILIES = (*OF_ENCODERS, *seq2seq.FAMILIES)
OWN_TYPE = "bert-encoder"
OWN_PROBLEM = "bert_problem_type"
"""replaces `problem_type` if transformers would refuse its value"""
ELSEWHERE = ("labels", "problem_type")
"""fields of a head with keys of their own"""
_MOST_LABELS = 100_000
Head = HeadConfig | TaskHeadConfig | DiscriminatorConfig | Seq2SeqConfig | None
"""config of a head; None: a bare encoder"""


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
    if kind == "Seq2Seq":
        of_head.pop("shared")
        special = {name: keys.get(f"{theirs}_token_id") for name, theirs in seq2seq.SPECIAL.items()}
        ids = {name: value for name, value in special.items() if value is not None}
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
    names = _labels(keys) if labels is None else tuple(labels)
    values = {**values, "labels": names}
    if kind == "SequenceClassifier" and labels is None:
        values["problem_type"] = _problem_type(keys, names)
    return _make(TaskHeadConfig, values)


def _problem_type(keys: Mapping[str, Any], labels: Sequence[str]) -> str:
    """The meaning of the scores of a text; by default, as in transformers, by the number of labels."""
    problem = keys.get(OWN_PROBLEM) or keys.get("problem_type")
    if problem is None:
        return "regression" if len(labels) == 1 else "single_label_classification"
    if not isinstance(problem, str) or (OWN_PROBLEM not in keys and problem not in PROBLEM_TYPES):
        raise InputError(f"problem_type is {problem}: this version reads {', '.join(PROBLEM_TYPES)}")
    if not {"regression": len(labels) == 1, "single_label_classification": len(labels) != 1}.get(problem, True):
        raise InputError(f"problem_type is {problem} and id2label names {len(labels)} classes: correct one of them")
    return problem


def _labels(keys: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes. By default, as in transformers: LABEL_0, LABEL_1, …, two if their number is not given."""
    names = keys.get("id2label")
    if names is None:
        number = keys.get("num_labels", 2)
        if type(number) is not int or not 1 <= number <= _MOST_LABELS:
            raise InputError(f"num_labels is {number}: give the number of classes, from 1 to {_MOST_LABELS}")
        names = {str(i): f"LABEL_{i}" for i in range(number)}
    if not isinstance(names, dict) or len(names) > _MOST_LABELS or names.keys() != {str(i) for i in range(len(names))}:
        raise InputError('id2label does not number the classes "0", "1", "2", …, at most 100,000: name each of them')
    labels = tuple(str(names[str(i)]) for i in range(len(names)))
    if odd := next((label for label in labels if re.search(r"[\t\r\n]", label)), None):
        raise InputError(f"id2label names {odd!r}: a tab or a line end cannot be part of a label: rename it")
    return labels


def _make(kind: type, values: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    for name in values:
        if name not in known:
            raise InputError(f"key {name} is not a field of {kind.__name__}")
    return kind(**values)
