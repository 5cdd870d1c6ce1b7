"""The parameters of a model, from our names to those of Hugging Face and back, by the tables of `families` and `seq2seq`.

A model that fits no family keeps our own names.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bert.errors import InputError
from bert.hf import seq2seq
from bert.hf.families import Family, Kind
from bert.hf.translate import Head, kind_named, kind_of
from bert.model.config import EncoderConfig, HeadConfig, Seq2SeqConfig
from bert.model.layers import sinusoids

_OF_2019 = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$")
"""weight and bias in files converted from TensorFlow"""
_LAYER = re.compile(r"\blayers?\.(\d{1,5})\.")
_IN_EVERY_ENCODER = "encoder.layers.0.attention.out.weight"
_WRAPPERS = re.compile(r"\b(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
"""what DataParallel, torch.compile, FSDP, activation checkpointing and Lightning put into the names of parameters"""
BUFFERS = ("position_ids", "embeddings.token_type_ids")
"""parts of the names of buffers in old files, which hold consecutive numbers"""


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
            fixed[f"{side}.embeddings.positions.weight"] = sinusoids(shape.max_length, shape.embedding_width)
    vocabulary = head.head if isinstance(head, Seq2SeqConfig) else head
    theirs: dict[str, Tensor] = {}
    prefix = "" if kind == "Encoder" else family.prefix
    for name, their_names, bias in _pairs(family, (kind,), _layers(ours), prefix):
        tensor = ours.get(name, fixed.get(name))
        weight = ours.get(name.removesuffix("bias") + "weight")
        if tensor is None and bias is True and name == "head.bias":
            tensor = torch.zeros(config.vocab_size)
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


def _layers(names: Iterable[str]) -> int:
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
        spare = [name for name in theirs if name not in shapes and (kind != "Encoder" or not name.startswith("head."))]
    else:
        prefix, num_layers = _prefix_of(family, theirs), _layers(theirs)
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
