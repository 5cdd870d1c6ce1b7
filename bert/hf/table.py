"""What a two-way table of names is: the rows and keys of a `Family`, and how a row becomes names of parameters.

The tables themselves stand in `families`; `translate` runs them in both directions.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bert.model.config import EncoderConfig

Kind = Literal["Encoder", "MaskedLM", "SequenceClassifier", "TokenClassifier", "Discriminator"]
"""a model class of ours"""
ENDINGS: dict[Kind, str] = {
    "Encoder": "Model",
    "MaskedLM": "ForMaskedLM",
    "SequenceClassifier": "ForSequenceClassification",
    "TokenClassifier": "ForTokenClassification",
}
"""of the classes of transformers that are the same"""
GROUPS: dict[Kind, str] = {
    "MaskedLM": "head",
    "SequenceClassifier": "classify",
    "TokenClassifier": "tag",
    "Discriminator": "discriminate",
}
"""before the fields of the head of each class; those of the encoder follow `encoder.`"""

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu", "tanh": "tanh"}
THEIR_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_new": "gelu_tanh", "swish": "silu"}
REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """A field of ours and their key. A key may stand for two fields of ours (the first one is written), and a field for
    two keys."""

    ours: str
    """`encoder.` or the group of a head, and the field"""
    theirs: str
    default: Any = REQUIRED
    """what they take where the key is absent; none: what an earlier key of the same field gives"""


@dataclass(frozen=True)
class Row:
    """A parameter of ours and theirs; without an ending .weight or .bias it means both. {i} is the layer."""

    ours: str
    theirs: str | tuple[str, ...]
    """several where ours is theirs stacked, rows of the first on top; {prefix} is the family's, where the file has it"""
    bias: bool | str = True
    """whether they have the bias: always, or where this key of their config says so. What ours lacks is written as
    zeros"""

    def expand(self, layers: int, prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(our parameter, theirs) for each layer, weight and bias."""
        for i in range(layers if "{i}" in self.ours else 1):
            ours, theirs = self.ours.format(i=i), (self.theirs,) if isinstance(self.theirs, str) else self.theirs
            whole = ours.endswith((".weight", ".bias"))
            for ending in ("",) if whole else (".weight", ".bias"):
                yield ours + ending, tuple(name.format(i=i, prefix=prefix) + ending for name in theirs)


def _nothing(_: object) -> dict[str, object]:
    return {}


@dataclass(frozen=True)
class Family:
    """One architecture of Hugging Face as a table."""

    model_type: str
    prefix: str
    """before the encoder's parameters in a model with a head"""
    architectures: Mapping[Kind, str]
    """our class → theirs; a class that is not here has no place in the family"""
    keys: tuple[Key, ...]
    fixed: Mapping[str, object]
    """fields that they can have in one way only"""
    rows: tuple[Row, ...]
    """of the encoder, without the prefix"""
    head_rows: Mapping[Kind, tuple[Row, ...]]
    """of the heads; a row that is in several heads is a part that they share"""
    output_bias: str
    """their name of the output bias, beside the output matrix, in an untied model"""
    token_ids: tuple[str, ...] = ("pad_token_id",)
    """their keys for ids of special tokens"""
    pad_id: int = 0
    """id of the padding token where their config names none"""
    zeros: frozenset[str] = frozenset()
    """fields of `fixed` where a model that lacks the part is written with zeros in its place"""
    refused: Mapping[str, object] = field(default_factory=dict)
    """their keys with the only value that ours can have"""
    aliases: tuple[str, ...] = ()
    """other values of their `model_type` that name the same computation and the same parameters"""
    more_keys: Callable[[EncoderConfig], dict[str, object]] = _nothing
    """their keys that follow from several fields of ours"""
    more_fields: Callable[[Mapping[str, Any]], dict[str, object]] = _nothing
    """the same in the other direction; may raise InputError"""

    def value(self, keys: Mapping[str, Any], name: str) -> Any:
        """What a config.json says of one of `keys`, or what they take where it does not."""
        return keys.get(name, next(key.default for key in self.keys if key.theirs == name))
