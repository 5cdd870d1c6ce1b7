"""What Hugging Face calls our fields and parameters: one two-way table a family.

A family is rows of (our name, their name), for the keys of `config.json` and for the parameters; `translate` reads them
in both directions. Another family is one more table, named in `FAMILIES`. Names are those of transformers, models/bert
and models/modernbert.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bert.errors import InputError
from bert.model.config import EncoderConfig

Kind = Literal["Encoder", "MaskedLM", "SequenceClassifier", "TokenClassifier"]
"""a model class of ours"""
GROUPS: dict[Kind, str] = {"MaskedLM": "head", "SequenceClassifier": "classify", "TokenClassifier": "tag"}
"""before the fields of the head of each class; those of the encoder stand behind `encoder.`"""

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


@dataclass(frozen=True)
class Family:
    """One architecture of Hugging Face as a table."""

    model_type: str
    prefix: str
    """before the encoder's parameters in a model with a head"""
    architectures: Mapping[Kind, str]
    """our class → theirs"""
    keys: tuple[Key, ...]
    fixed: Mapping[str, object]
    """fields that they can have in one way only"""
    zeros: frozenset[str]
    """fields of `fixed` where a model that lacks the part is written with zeros in its place"""
    refused: Mapping[str, object]
    """their keys with the only value that ours can have"""
    token_ids: tuple[str, ...]
    """their keys for ids of special tokens"""
    rows: tuple[Row, ...]
    """of the encoder, without the prefix"""
    head_rows: Mapping[Kind, tuple[Row, ...]]
    """of the heads; a row that is in several heads is a part that they share"""
    output_bias: str
    """their name of the output bias, beside the output matrix, in an untied model"""
    unused: tuple[str, ...]
    """parts of the names of parameters that old files hold and nothing reads"""
    more_keys: Callable[[EncoderConfig], dict[str, object]]
    """their keys that follow from several fields of ours"""
    more_fields: Callable[[Mapping[str, Any]], dict[str, object]]
    """the same in the other direction; may raise InputError"""

    def value(self, keys: Mapping[str, Any], name: str) -> Any:
        """What a config.json says of one of `keys`, or what they take where it does not."""
        return keys.get(name, next(key.default for key in self.keys if key.theirs == name))


def _bert_keys(config: EncoderConfig) -> dict[str, object]:
    return {"type_vocab_size": config.token_types or 2}  # BERT has two; the rows of a model without any are zeros


def _modernbert_keys(config: EncoderConfig) -> dict[str, object]:
    """Local and global layers in the spelling of transformers 4 and in that of 5."""
    window = (
        config.local_window if config.local_window is not None else 2 * config.max_length
    )  # no use where all are full
    kinds = ["sliding_attention" if config.is_local(layer) else "full_attention" for layer in range(config.num_layers)]
    return {
        "local_attention": window,
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": config.local_rope_theta,
        "layer_types": kinds,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": config.rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": config.local_rope_theta},
        },
    }


def _modernbert_fields(keys: Mapping[str, Any]) -> dict[str, object]:
    layers = keys["num_hidden_layers"]
    every, kinds = keys.get("global_attn_every_n_layers", 3), keys.get("layer_types")
    if kinds is not None:
        local = [kind == "sliding_attention" for kind in kinds]
        fitting = [n for n in (every, *range(1, layers + 1)) if local == [i % n != 0 for i in range(layers)]]
        if not fitting:
            raise InputError(
                f"layer_types {kinds}: only layers 0, n, 2n, ... may be full_attention, and the others not"
            )
        every = fitting[0]
    rope = keys.get("rope_parameters") or {}
    thetas = []
    for kind, old, default in (
        ("full_attention", "global_rope_theta", 160_000.0),
        ("sliding_attention", "local_rope_theta", 10_000.0),
    ):
        parameters = rope.get(kind) or {}
        if parameters.get("rope_type", "default") != "default":
            raise InputError(
                f"rope_parameters.{kind}.rope_type is {parameters['rope_type']}: only default is known here"
            )
        thetas.append(parameters.get("rope_theta", keys.get(old, default)))
    has_local = every > 1 and layers > 1
    return {
        "local_window": keys.get("local_attention", 128) if has_local else None,
        "global_every": every if has_local else 1,
        "rope_theta": float(thetas[0]),
        "local_rope_theta": float(thetas[0] if thetas[1] is None else thetas[1]),  # null: as in global layers
    }


BERT = Family(
    model_type="bert",
    prefix="bert.",
    architectures={
        "Encoder": "BertModel",
        "MaskedLM": "BertForMaskedLM",
        "SequenceClassifier": "BertForSequenceClassification",
        "TokenClassifier": "BertForTokenClassification",
    },
    keys=(
        Key("encoder.vocab_size", "vocab_size"),
        Key("encoder.hidden_size", "hidden_size"),
        Key("encoder.num_layers", "num_hidden_layers"),
        Key("encoder.num_heads", "num_attention_heads"),
        Key("encoder.intermediate_size", "intermediate_size"),
        Key("encoder.max_length", "max_position_embeddings"),
        Key("encoder.token_types", "type_vocab_size", 2),
        Key("encoder.activation", "hidden_act", "gelu"),
        Key("head.activation", "hidden_act", "gelu"),
        Key("encoder.norm_eps", "layer_norm_eps", 1e-12),
        Key("encoder.hidden_dropout", "hidden_dropout_prob", 0.1),
        Key("encoder.embedding_dropout", "hidden_dropout_prob", 0.1),
        Key("encoder.attention_dropout", "attention_probs_dropout_prob", 0.1),
        Key("encoder.initializer_range", "initializer_range", 0.02),
        Key("head.tied", "tie_word_embeddings", True),
        Key("classify.dropout", "hidden_dropout_prob", 0.1),
        Key("classify.dropout", "classifier_dropout", None),
        Key("tag.dropout", "hidden_dropout_prob", 0.1),
        Key("tag.dropout", "classifier_dropout", None),
    ),
    fixed={
        "encoder.positions": "learned",
        "encoder.norm": "layernorm",
        "encoder.norm_bias": True,
        "encoder.norm_first": False,
        "encoder.embedding_norm": True,
        "encoder.embedding_scale": False,
        "encoder.final_norm": False,
        "encoder.first_attention_norm": False,
        "encoder.qk_norm": False,
        "encoder.num_kv_heads": None,
        "encoder.gated": False,
        "encoder.bias": True,
        "encoder.local_window": None,
        "head.transform": True,
        "head.transform_bias": True,
        "head.output_bias": True,
        "classify.transform": True,
        "classify.activation": "tanh",
        "classify.transform_bias": True,
        "classify.transform_norm": False,
        "classify.pooling": "cls",
        "tag.transform": False,
        "tag.pooling": None,
    },
    zeros=frozenset(
        {"encoder.norm_bias", "encoder.bias", "head.transform_bias", "head.output_bias", "classify.transform_bias"}
    ),
    refused={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    token_ids=("pad_token_id",),
    rows=(
        Row("embeddings.tokens.weight", "embeddings.word_embeddings.weight"),
        Row("embeddings.positions.weight", "embeddings.position_embeddings.weight"),
        Row("embeddings.token_types.weight", "embeddings.token_type_embeddings.weight"),
        Row("embeddings.norm", "embeddings.LayerNorm"),
        Row(
            "layers.{i}.attention.qkv",
            (
                "encoder.layer.{i}.attention.self.query",
                "encoder.layer.{i}.attention.self.key",
                "encoder.layer.{i}.attention.self.value",
            ),
        ),
        Row("layers.{i}.attention.out", "encoder.layer.{i}.attention.output.dense"),
        Row("layers.{i}.attention_norm", "encoder.layer.{i}.attention.output.LayerNorm"),
        Row("layers.{i}.mlp.wi", "encoder.layer.{i}.intermediate.dense"),
        Row("layers.{i}.mlp.wo", "encoder.layer.{i}.output.dense"),
        Row("layers.{i}.mlp_norm", "encoder.layer.{i}.output.LayerNorm"),
    ),
    head_rows={
        "MaskedLM": (
            Row("head.dense", "cls.predictions.transform.dense"),
            Row("head.norm", "cls.predictions.transform.LayerNorm"),
            Row("head.weight", "cls.predictions.decoder.weight"),
            Row("head.bias", "cls.predictions.bias"),
        ),
        "SequenceClassifier": (Row("head.dense", "{prefix}pooler.dense"), Row("head.output", "classifier")),
        "TokenClassifier": (Row("head.output", "classifier"),),
    },
    output_bias="cls.predictions.decoder.bias",
    unused=("pooler.", "cls.seq_relationship.", "position_ids", "embeddings.token_type_ids"),
    more_keys=_bert_keys,
    more_fields=lambda keys: {},
)

_MODERNBERT_HEAD = (
    Row("head.dense", "head.dense", bias="classifier_bias"),
    Row("head.norm", "head.norm", bias="norm_bias"),
)
MODERNBERT = Family(
    model_type="modernbert",
    prefix="model.",
    architectures={
        "Encoder": "ModernBertModel",
        "MaskedLM": "ModernBertForMaskedLM",
        "SequenceClassifier": "ModernBertForSequenceClassification",
        "TokenClassifier": "ModernBertForTokenClassification",
    },
    keys=(
        Key("encoder.vocab_size", "vocab_size"),
        Key("encoder.hidden_size", "hidden_size"),
        Key("encoder.num_layers", "num_hidden_layers"),
        Key("encoder.num_heads", "num_attention_heads"),
        Key("encoder.intermediate_size", "intermediate_size"),
        Key("encoder.max_length", "max_position_embeddings", 8192),
        Key("encoder.activation", "hidden_activation", "gelu"),
        Key("encoder.norm_eps", "norm_eps", 1e-5),
        Key("encoder.norm_bias", "norm_bias", False),
        Key("encoder.bias", "attention_bias", False),
        Key("encoder.bias", "mlp_bias", False),
        Key("encoder.embedding_dropout", "embedding_dropout", 0.0),
        Key("encoder.attention_dropout", "attention_dropout", 0.0),
        Key("encoder.mlp_dropout", "mlp_dropout", 0.0),
        Key("encoder.initializer_range", "initializer_range", 0.02),
        Key("head.activation", "classifier_activation", "gelu"),
        Key("head.transform_bias", "classifier_bias", False),
        Key("head.output_bias", "decoder_bias", True),
        Key("head.tied", "tie_word_embeddings", True),
        Key("classify.activation", "classifier_activation", "gelu"),
        Key("classify.transform_bias", "classifier_bias", False),
        Key("classify.pooling", "classifier_pooling", "cls"),
        Key("classify.dropout", "classifier_dropout", 0.0),
        Key("tag.activation", "classifier_activation", "gelu"),
        Key("tag.transform_bias", "classifier_bias", False),
        Key("tag.dropout", "classifier_dropout", 0.0),
    ),
    fixed={
        "encoder.positions": "rope",
        "encoder.norm": "layernorm",
        "encoder.norm_first": True,
        "encoder.embedding_norm": True,
        "encoder.embedding_scale": False,
        "encoder.final_norm": True,
        "encoder.first_attention_norm": False,
        "encoder.qk_norm": False,
        "encoder.num_kv_heads": None,
        "encoder.gated": True,
        "encoder.token_types": 0,
        "head.transform": True,
        "classify.transform": True,
        "classify.transform_norm": True,
        "tag.transform": True,
        "tag.transform_norm": True,
        "tag.pooling": None,
    },
    zeros=frozenset(),
    refused={},
    token_ids=("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"),
    rows=(
        Row("embeddings.tokens.weight", "embeddings.tok_embeddings.weight"),
        Row("embeddings.norm", "embeddings.norm", bias="norm_bias"),
        Row("layers.{i}.attention_norm", "layers.{i}.attn_norm", bias="norm_bias"),
        Row("layers.{i}.attention.qkv", "layers.{i}.attn.Wqkv", bias="attention_bias"),
        Row("layers.{i}.attention.out", "layers.{i}.attn.Wo", bias="attention_bias"),
        Row("layers.{i}.mlp_norm", "layers.{i}.mlp_norm", bias="norm_bias"),
        Row("layers.{i}.mlp.wi", "layers.{i}.mlp.Wi", bias="mlp_bias"),
        Row("layers.{i}.mlp.wo", "layers.{i}.mlp.Wo", bias="mlp_bias"),
        Row("final_norm", "final_norm", bias="norm_bias"),
    ),
    head_rows={
        "MaskedLM": (
            *_MODERNBERT_HEAD,
            Row("head.weight", "decoder.weight"),
            Row("head.bias", "decoder.bias", bias="decoder_bias"),
        ),
        "SequenceClassifier": (*_MODERNBERT_HEAD, Row("head.output", "classifier")),
        "TokenClassifier": (*_MODERNBERT_HEAD, Row("head.output", "classifier")),
    },
    output_bias="decoder.bias",
    unused=(),
    more_keys=_modernbert_keys,
    more_fields=_modernbert_fields,
)

FAMILIES = (BERT, MODERNBERT)
