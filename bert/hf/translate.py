"""Config and parameters of a model, from our names to Hugging Face's and back: what runs the tables of `families`.

In: an `EncoderConfig` and the config of a head with our parameters, or a `config.json` and theirs. Out: the other of
the two.
A model that fits no family keeps our own field and parameter names under `model_type: "bert-encoder"`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from bert.errors import InputError, did_you_mean
from bert.hf.families import FAMILIES
from bert.hf.table import ACTIVATIONS, ENDINGS, GROUPS, REQUIRED, THEIR_ACTIVATIONS, Family, Kind
from bert.model.config import PROBLEM_TYPES, DiscriminatorConfig, EncoderConfig, HeadConfig, TaskHeadConfig, task_head
from bert.model.layers import sinusoids

OWN_TYPE = "bert-encoder"
OWN_PROBLEM = "bert_problem_type"
"""in place of `problem_type`, where transformers would refuse it"""
ELSEWHERE = ("labels", "problem_type")
"""fields of a head that have keys of their own"""
_MOST_LABELS = 100_000
Head = HeadConfig | TaskHeadConfig | DiscriminatorConfig | None
"""config of a head; none: a bare encoder"""
BUFFERS = ("position_ids", "embeddings.token_type_ids")
"""parts of the names of what old files hold beside the parameters: numbers from 0 on, which everybody can count"""


def kind_of(head: Head) -> Kind:
    """The class of a model with this head."""
    match head:
        case None:
            return "Encoder"
        case HeadConfig():
            return "MaskedLM"
        case DiscriminatorConfig():
            return "Discriminator"
    return "TokenClassifier" if head.pooling is None else "SequenceClassifier"


def kind_named(keys: Mapping[str, Any]) -> Kind:
    """The class of the model that a `config.json` names under `architectures`: a bare encoder where it names none, or
    one with a head that has no place here."""
    named = str(next(iter(keys.get("architectures") or ()), ""))
    for family in FAMILIES:
        for kind, theirs in family.architectures.items():
            if named in (kind, theirs):
                return kind
    if named.endswith("BertForPreTraining"):
        return "MaskedLM"
    # of families that are read under the name of another
    return next((kind for kind, ending in ENDINGS.items() if named.endswith(ending)), "Encoder")


def _family_named(keys: Mapping[str, Any]) -> Family:
    """The family of a `config.json` of Hugging Face; old ones have no `model_type`, and their architecture tells."""
    model_type = keys.get("model_type")
    architectures = keys.get("architectures") or ()
    for family in FAMILIES:
        if model_type in (family.model_type, *family.aliases):
            return family
        if model_type is None and set(architectures) & set(family.architectures.values()):
            return family
    known = ", ".join([*(name for family in FAMILIES for name in (family.model_type, *family.aliases)), OWN_TYPE])
    if model_type is None:
        raise InputError(f"no model_type: add it, one of {known}")
    raise InputError(
        f"model_type is {model_type}: this version reads {known}.{did_you_mean(str(model_type), known.split(', '))}"
    )


def family_of(config: EncoderConfig, head: Head) -> tuple[Family | None, list[str]]:
    """The family that computes what this model computes, or none and the fields that stand in the way of the nearest
    one.

    `head` is none for a bare encoder. Dropout is no obstacle: it has no part in what a trained model computes.
    """
    obstacles = [(_obstacles(family, config, head), family) for family in FAMILIES]
    fewest, family = min(obstacles, key=lambda pair: len(pair[0]))
    return (None, [f"{family.model_type} needs {line}" for line in fewest]) if fewest else (family, [])


def _obstacles(family: Family, config: EncoderConfig, head: Head) -> list[str]:
    mine = _named_fields(config, head)
    kind = kind_of(head)
    lines = [] if kind in family.architectures else [f"another head: it has none of the class {kind}"]
    for name, value in family.fixed.items():
        if name not in mine or mine[name] == value or (name in family.zeros and mine[name] is False):
            continue
        if not (name == "encoder.positions" and (mine[name], value) == ("sinusoidal", "learned")):  # a table as well
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
        mine["encoder.num_kv_heads"] = None  # the same thing spelt out
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
    """The content of `config.json`. `token_ids` has an id for each of their keys (`pad_token_id`, …) that is known."""
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
    mine = _named_fields(config, head)
    keys |= {"architectures": [family.architectures[kind]], "model_type": family.model_type}
    for key in family.keys:
        if key.ours in mine and key.theirs not in keys:
            value = mine[key.ours]
            keys[key.theirs] = ACTIVATIONS[value] if key.ours.endswith(".activation") else value
    keys |= family.more_keys(config)
    # An id that is not known is written as null: the default of transformers may lie outside a small vocabulary.
    return keys | {name: token_ids.get(name) for name in family.token_ids}


def read_config(
    keys: Mapping[str, Any], kind: Kind, labels: Sequence[str] | None = None
) -> tuple[Family | None, EncoderConfig, Head]:
    """Family, shape and head of a model of class `kind` from the content of a `config.json`.

    With `labels` the head is one for a new task, such as the family gives a model with these keys; without, it is the
    folder's own. Raises InputError, without the file's name, for what is not readable.
    """
    if keys.get("model_type") == OWN_TYPE:
        config = _make(EncoderConfig, keys.get("encoder", {}))
        if labels is not None and kind_named(keys) != kind:
            return None, config, _own_task_head(config, kind, keys, labels)
        values = keys.get("head", {}) if kind_named(keys) == kind else {}
        return None, config, _make_head(kind, values, keys, labels)
    family = _family_named(keys)
    for name, only in family.refused.items():
        if keys.get(name, only) != only:
            raise InputError(f"{name} is {keys[name]}: this version reads models with {name} {only}")
    of_encoder = _read_group(family, "encoder", keys) | family.more_fields(keys)
    pad_id = keys.get("pad_token_id")
    config = _make(EncoderConfig, of_encoder | {"pad_id": family.pad_id if pad_id is None else pad_id})
    of_head = _read_group(family, GROUPS[kind], keys) if kind in GROUPS else {}
    return family, config, _make_head(kind, of_head, keys, labels)


def _own_task_head(config: EncoderConfig, kind: Kind, keys: Mapping[str, Any], labels: Sequence[str]) -> TaskHeadConfig:
    """A new head on a model of our own type: pre-norm, dense and activation are those of the head that the folder
    has."""
    head = task_head(config, labels, per_token=kind == "TokenClassifier")
    before = keys.get("head", {})
    shared = ("activation", "transform_bias") if config.norm_first and before.get("transform") else ()
    return replace(head, **{name: before[name] for name in shared})


def _read_group(family: Family, group: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ours that follow `group`, as far as they follow from one key each."""
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
        # Two keys for one field are two switches (biases of attention, biases of the MLP): one on is on, the other part
        # is zeros.
        mine[key.ours] = (mine.get(key.ours, False) or value) if isinstance(value, bool) else value
    return {name.removeprefix(f"{group}."): value for name, value in mine.items()}


def _make_head(kind: Kind, values: Mapping[str, Any], keys: Mapping[str, Any], labels: Sequence[str] | None) -> Head:
    if kind == "Encoder":
        return None
    if kind == "MaskedLM":
        return cast(HeadConfig, _make(HeadConfig, values))
    if kind == "Discriminator":
        return cast(DiscriminatorConfig, _make(DiscriminatorConfig, values))
    if labels is not None:
        return cast(TaskHeadConfig, _make(TaskHeadConfig, {**values, "labels": tuple(labels)}))
    names = _labels(keys)
    values = {**values, "labels": names}
    if kind == "SequenceClassifier":
        values["problem_type"] = _problem_type(keys, names)
    return cast(TaskHeadConfig, _make(TaskHeadConfig, values))


def _problem_type(keys: Mapping[str, Any], labels: Sequence[str]) -> str:
    """What the scores of a text mean; in a file that does not say so what transformers makes of the number of labels."""
    problem = keys.get(OWN_PROBLEM) or keys.get("problem_type")
    if problem is None:
        return "regression" if len(labels) == 1 else "single_label_classification"
    if not isinstance(problem, str) or (OWN_PROBLEM not in keys and problem not in PROBLEM_TYPES):
        raise InputError(f"problem_type is {problem}: this version reads {', '.join(PROBLEM_TYPES)}")
    if not {"regression": len(labels) == 1, "single_label_classification": len(labels) != 1}.get(problem, True):
        raise InputError(f"problem_type is {problem} and id2label names {len(labels)} classes: correct one of them")
    return problem


def _labels(keys: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes. A file without any means LABEL_0, LABEL_1, … in transformers, two where it tells no number,
    and so it does here."""
    names = keys.get("id2label")
    if names is None:
        number = keys.get("num_labels", 2)
        if type(number) is not int or not 1 <= number <= _MOST_LABELS:
            raise InputError(f"num_labels is {number}: give the number of classes, from 1 to {_MOST_LABELS}")
        names = {str(i): f"LABEL_{i}" for i in range(number)}
    if not isinstance(names, dict) or len(names) > _MOST_LABELS or names.keys() != {str(i) for i in range(len(names))}:
        raise InputError('id2label does not number the classes "0", "1", "2", …, at most 100,000: give each its name')
    return tuple(str(names[str(i)]) for i in range(len(names)))


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
    family: Family | None, config: EncoderConfig, head: Head, keys: Mapping[str, Any], ours: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Their parameters from ours (named `encoder.…`, `head.…`). `keys` is the `config.json` that goes beside them.

    What they have and ours lacks is written as what it computes: token types and biases as zeros, fixed positions as
    their table.
    """
    if family is None:
        return dict(ours)
    kind = kind_of(head)
    fixed: dict[str, Tensor] = {}
    if "type_vocab_size" in keys:
        fixed["encoder.embeddings.token_types.weight"] = torch.zeros(keys["type_vocab_size"], config.embedding_width)
    if config.positions == "sinusoidal":
        fixed["encoder.embeddings.positions.weight"] = sinusoids(config.max_length, config.embedding_width)
    theirs: dict[str, Tensor] = {}
    prefix = "" if kind == "Encoder" else family.prefix
    for name, their_names, bias in _pairs(family, (kind,), config.num_layers, prefix):
        tensor = ours.get(name, fixed.get(name))
        weight = ours.get(name.removesuffix("bias") + "weight")
        if tensor is None and bias is True and name == "head.bias":
            tensor = torch.zeros(config.vocab_size)
        elif tensor is None and bias is True and name.endswith(".bias") and weight is not None:
            tensor = torch.zeros(weight.shape[0])
        if tensor is not None:
            theirs |= dict(zip(their_names, tensor.chunk(len(their_names))))
            if name == "head.bias" and not keys["tie_word_embeddings"]:
                theirs[family.output_bias] = tensor.clone()
    return theirs


def read_parameters(
    family: Family | None,
    kind: Kind,
    keys: Mapping[str, Any],
    theirs: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    num_layers: int,
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Our parameters for the names of `shapes` from theirs, in the words of `kind`; then the names that are missing
    there and those that are left over. What they hold is in fp32.

    Raises InputError, without the file's name, for tensors of another shape than `shapes`, for whole numbers where weights
    belong, and for NaN and infinity. The head that the config names does not count as left over where a bare encoder is
    asked for, nor do the buffers of old files.
    """
    with_head = kind != "Encoder"
    if family is None:
        missing = [name for name in shapes if name not in theirs]
        spare = [name for name in theirs if name not in shapes and (with_head or not name.startswith("head."))]
        here = {name: theirs[name] for name in shapes if name in theirs}
        differ = [
            f"{name} is {tuple(tensor.shape)} and config.json says {tuple(shapes[name])}"
            for name, tensor in here.items()
            if tensor.shape != shapes[name]
        ]
        _refuse(differ, [name for name, tensor in here.items() if not tensor.is_floating_point()])
        return {name: _checked(name, tensor) for name, tensor in here.items()}, missing, spare
    theirs = {_modern_name(name): tensor for name, tensor in theirs.items()}
    prefix = family.prefix if any(name.startswith(family.prefix) for name in theirs) else ""
    ours: dict[str, Tensor] = {}
    tied, missing = family.value(keys, "tie_word_embeddings"), []
    wrong, odd = [], []  # names, with both shapes; names
    for name, their_names, bias in _pairs(family, (kind,), num_layers, prefix):
        if name not in shapes:
            continue
        if name == "head.bias" and not tied and family.output_bias in theirs:
            their_names = (family.output_bias,)
        absent = [their_name for their_name in their_names if their_name not in theirs]
        if not absent:
            parts = [theirs[their_name] for their_name in their_names]
            first, *rest = shapes[name]
            wrong += [
                f"{their_name} is {tuple(part.shape)} and config.json says {tuple(shape)}"
                for their_name, part in zip(their_names, parts)
                if part.shape != (shape := torch.Size((first // len(parts), *rest)))
            ]
            odd += [their_name for their_name, part in zip(their_names, parts) if not part.is_floating_point()]
            if not wrong and not odd:
                parts = [_checked(their_name, part) for their_name, part in zip(their_names, parts)]
                ours[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
        elif name.endswith(".bias") and isinstance(bias, str) and not family.value(keys, bias):
            ours[name] = torch.zeros(shapes[name])
        else:
            missing += absent
    _refuse(wrong, odd)
    known = {name for _, names, _ in _pairs(family, (kind, kind_named(keys)), num_layers, prefix) for name in names}
    known.add(family.output_bias)
    spare = [name for name in theirs if name not in known and not any(part in name for part in BUFFERS)]
    return ours, missing, spare


def _refuse(wrong: Sequence[str], odd: Sequence[str]) -> None:
    if wrong:
        raise InputError(f"{'; '.join(wrong)}: the two files are not of one model")
    if odd:
        what = f"no floating-point numbers where weights belong: {', '.join(odd)}"
        raise InputError(f"{what}: quantised models are not read")


def _checked(name: str, tensor: Tensor) -> Tensor:
    """The weights in fp32. InputError where one of them is no number; a sum, which is one pass, shows that there is none."""
    tensor = tensor.float()
    if not (tensor.sum().isfinite() or tensor.isfinite().all()):  # a sum may also be too large
        raise InputError(f"{name} holds NaN or infinity: fetch it again, or give an earlier checkpoint")
    return tensor


def unties(family: Family | None, keys: Mapping[str, Any], theirs: Mapping[str, Tensor]) -> bool:
    """Whether the file of a model whose output matrix is said to be its embedding matrix holds another one.

    transformers takes the matrix of the file then, and so it is read here.
    """
    if family is None or not family.value(keys, "tie_word_embeddings"):
        return False
    names = {row.ours: str(row.theirs) for row in (*family.rows, *family.head_rows["MaskedLM"])}
    output = theirs.get(names["head.weight"])
    embedded = (theirs.get(prefix + names["embeddings.tokens.weight"]) for prefix in (family.prefix, ""))
    matrix = next((tensor for tensor in embedded if tensor is not None), None)
    return output is not None and matrix is not None and not torch.equal(output, matrix)


def _pairs(
    family: Family, kinds: Sequence[Kind], num_layers: int, prefix: str
) -> Iterator[tuple[str, tuple[str, ...], bool | str]]:
    """(our parameter, theirs, whether they have it where it is a bias) for the rows of the encoder, then of the heads of
    `kinds`."""
    for row in family.rows:
        for ours, theirs in row.expand(num_layers, prefix):
            yield f"encoder.{ours}", tuple(prefix + name for name in theirs), row.bias
    for row in (row for kind in kinds for row in family.head_rows.get(kind, ())):
        for ours, theirs in row.expand(num_layers, prefix):
            yield ours, theirs, row.bias


def _modern_name(name: str) -> str:
    """Files converted from TensorFlow in 2019 call a LayerNorm's weight gamma and its bias beta."""
    if name.endswith("LayerNorm.gamma"):
        return name.removesuffix("gamma") + "weight"
    return name.removesuffix("beta") + "bias" if name.endswith("LayerNorm.beta") else name
