"""What Hugging Face calls our fields and parameters: one two-way table for each family of architectures.

A `Family` has rows of (our name, their name) for the keys of `config.json` and for the parameters; `translate` reads them
in both directions. A new family is one more table, here or in a file of its own, and its name in `FAMILIES`; one
with the block of another is a `replace` of that. The names are those of transformers, models/bert, roberta, electra,
distilbert and modernbert.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bert.errors import InputError
from bert.model.config import EncoderConfig

Kind = Literal["Encoder", "MaskedLM", "SequenceClassifier", "TokenClassifier", "Discriminator", "Seq2Seq"]
"""one of our model classes"""
ENDINGS: dict[Kind, str] = {
    "Encoder": "Model",
    "MaskedLM": "ForMaskedLM",
    "SequenceClassifier": "ForSequenceClassification",
    "TokenClassifier": "ForTokenClassification",
}
"""endings of the equivalent classes of transformers"""
GROUPS: dict[Kind, str] = {"MaskedLM": "head", "SequenceClassifier": "classify", "TokenClassifier": "tag"}
GROUPS |= {"Discriminator": "discriminate", "Seq2Seq": "head"}
"""prefixes of the fields of the head of each class; fields of the encoder begin with `encoder.`"""

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu", "tanh": "tanh"}
THEIR_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_new": "gelu_tanh", "swish": "silu"}
REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """A field of ours and their key. A key may correspond to two fields of ours (the first one is written), and a field to
    two keys."""

    ours: str
    """`encoder.` or the group of a head, and the field"""
    theirs: str
    default: Any = REQUIRED
    """their value if the key is absent; None: the value of an earlier key of the same field"""


@dataclass(frozen=True)
class Row:
    """A parameter of ours and theirs; without an ending .weight or .bias it stands for both. {i} is the layer."""

    ours: str
    theirs: str | tuple[str, ...]
    """several if ours is theirs stacked, rows of the first on top; {prefix} is that of the family, if the file has it"""
    bias: bool | str = True
    """whether they have the bias: always, or if this key of their config says so. A missing one of ours is written as zeros"""

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
    """of the encoder's parameters in a model with a head"""
    architectures: Mapping[Kind, str]
    """our class → theirs; other classes do not exist in the family"""
    keys: tuple[Key, ...]
    fixed: Mapping[str, object]
    """fields with the only value that they can have"""
    rows: tuple[Row, ...]
    """of the encoder, without the prefix"""
    head_rows: Mapping[Kind, tuple[Row, ...]]
    """of the heads; a row of several heads is a part that they share"""
    output_bias: str
    """their name of the output bias in an untied model"""
    token_ids: tuple[str, ...] = ("pad_token_id",)
    """their keys for ids of special tokens"""
    pad_id: int = 0
    """id of the padding token if their config names none"""
    zeros: frozenset[str] = frozenset()
    """fields of `fixed` whose part, if a model lacks it, is written as zeros"""
    refused: Mapping[str, object] = field(default_factory=dict)
    """their keys with the only value that is read"""
    more_keys: Callable[[EncoderConfig], dict[str, object]] = lambda _: {}
    """their keys that follow from several fields of ours"""
    more_fields: Callable[[Mapping[str, Any]], dict[str, object]] = lambda _: {}
    """fields of ours that follow from several of their keys; may raise InputError"""

    def value(self, keys: Mapping[str, Any], name: str) -> Any:
        """The value of one of `keys` in a config.json, or its default."""
        return keys.get(name, next(key.default for key in self.keys if key.theirs == name))


def classes(name: str) -> dict[Kind, str]:
    """Our classes → those of transformers that begin with `name`."""
    return {kind: name + ending for kind, ending in ENDINGS.items()}


def key_for(theirs: str, default: Any, *ours: str) -> tuple[Key, ...]:
    """One of their keys for several fields of ours."""
    return tuple(Key(name, theirs, default) for name in ours)


def named(group: str, **values: object) -> dict[str, object]:
    """Values of the fields of a group, by full names."""
    return {f"{group}.{name}": value for name, value in values.items()}


def qkv(prefix: str, *names: str) -> Row:
    """The stacked projections of attention, from three of theirs."""
    return Row("layers.{i}.attention.qkv", tuple(prefix + name for name in names))


def masked_lm(prefix: str, dense: str, norm: str, weight: str, bias: str) -> tuple[Row, ...]:
    """The rows of a masked-LM head, from their names without `prefix`."""
    names = {"head.dense": dense, "head.norm": norm, "head.weight": weight, "head.bias": bias}
    return tuple(Row(ours, prefix + theirs) for ours, theirs in names.items())


def _bert_keys(config: EncoderConfig) -> dict[str, object]:
    return {"type_vocab_size": config.token_types or 2}  # BERT has two; the rows of a model without any are zeros


def _roberta_keys(config: EncoderConfig) -> dict[str, object]:
    positions = config.max_length + config.pad_id + 1
    return {"type_vocab_size": config.token_types or 1, "max_position_embeddings": positions}


def _roberta_fields(keys: Mapping[str, Any]) -> dict[str, object]:
    """Their table of positions begins with rows 0 to the padding id, before that of the first token."""
    pad_id = keys.get("pad_token_id")
    before = (ROBERTA.pad_id if pad_id is None else pad_id) + 1
    if "max_position_embeddings" not in keys:
        raise InputError("key max_position_embeddings is missing")
    return {"max_length": keys["max_position_embeddings"] - before}


def _electra_keys(config: EncoderConfig) -> dict[str, object]:
    return _bert_keys(config) | {"embedding_size": config.embedding_width}


def _electra_fields(keys: Mapping[str, Any]) -> dict[str, object]:
    """Embeddings of the width of the layers are not projected."""
    width = ELECTRA.value(keys, "embedding_size")
    return {"embedding_size": None if width == keys.get("hidden_size") else width}


def _modernbert_keys(config: EncoderConfig) -> dict[str, object]:
    """Local and global layers in the spelling of transformers 4 and in that of 5."""
    window = 2 * config.max_length if config.local_window is None else config.local_window  # None: all are global
    thetas = {"full_attention": config.rope_theta, "sliding_attention": config.local_rope_theta}
    kinds = ["sliding_attention" if config.is_local(layer) else "full_attention" for layer in range(config.num_layers)]
    return {
        "local_attention": window,
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": config.local_rope_theta,
        "layer_types": kinds,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
    }


def _modernbert_fields(keys: Mapping[str, Any]) -> dict[str, object]:
    layers = keys["num_hidden_layers"]
    every, kinds = keys.get("global_attn_every_n_layers", 3), keys.get("layer_types")
    if kinds is not None:
        if len(kinds) != layers:
            raise InputError(f"num_hidden_layers is {layers} and layer_types has {len(kinds)}: correct one of them")
        known = "full_attention", "sliding_attention"
        local = [kind == known[1] if kind in known else None for kind in kinds]
        second = next((i for i, is_local in enumerate(local) if i and not is_local), len(local))
        fitting = [n for n in (every, second) if local == [i % n != 0 for i in range(layers)]]
        if not fitting:
            raise InputError("layer_types is not supported: only layers 0, n, 2n, ... may be full_attention")
        every = fitting[0]
    rope = keys.get("rope_parameters") or {}
    thetas = []
    both = ("full_attention", "global_rope_theta", 160_000.0), ("sliding_attention", "local_rope_theta", 10_000.0)
    for kind, old, default in both:
        parameters = rope.get(kind) or {}
        if parameters.get("rope_type", "default") != "default":
            found = parameters["rope_type"]
            raise InputError(f"rope_parameters.{kind}.rope_type is {found}: only default is supported")
        thetas.append(parameters.get("rope_theta", keys.get(old, default)))
    has_local = every > 1 and layers > 1
    return {
        "local_window": keys.get("local_attention", 128) if has_local else None,
        "global_every": every if has_local else 1,
        "rope_theta": float(thetas[0]),
        "local_rope_theta": float(thetas[0] if thetas[1] is None else thetas[1]),  # null: as in global layers
    }


FIXED: dict[str, object] = {"head.transform": True, "classify.transform": True, "tag.pooling": None}
FIXED |= named("encoder", embedding_size=None, positions_skip_padding=False, norm="layernorm", embedding_norm=True)
FIXED |= named("encoder", embedding_scale=False, first_attention_norm=False, qk_norm=False, num_kv_heads=None)
FIXED |= named("encoder", sinusoid_halves=False)
"""common to all families"""
POST_NORM = FIXED | {"head.transform_bias": True, "head.output_bias": True, "tag.transform": False}
POST_NORM |= named("encoder", positions="learned", norm_bias=True, norm_first=False, final_norm=False, gated=False)
POST_NORM |= named("encoder", bias=True, local_window=None)
POST_NORM |= named("classify", transform_bias=True, transform_norm=False, pooling="cls")
"""common to BERT and its descendants up to ELECTRA"""
BIASES = frozenset("encoder.norm_bias encoder.bias head.transform_bias head.output_bias".split())
BIASES |= {"classify.transform_bias"}
TIED = Key("head.tied", "tie_word_embeddings", True)
RANGE = Key("encoder.initializer_range", "initializer_range", 0.02)
KEYS = (
    Key("encoder.vocab_size", "vocab_size"),
    Key("encoder.hidden_size", "hidden_size"),
    Key("encoder.num_layers", "num_hidden_layers"),
    Key("encoder.num_heads", "num_attention_heads"),
    Key("encoder.intermediate_size", "intermediate_size"),
    *(TIED, RANGE),
)
BERT_KEYS = (
    *KEYS,
    Key("encoder.token_types", "type_vocab_size", 2),
    Key("encoder.activation", "hidden_act", "gelu"),
    Key("encoder.norm_eps", "layer_norm_eps", 1e-12),
    *key_for("hidden_dropout_prob", 0.1, "encoder.hidden_dropout", "encoder.embedding_dropout"),
    Key("encoder.attention_dropout", "attention_probs_dropout_prob", 0.1),
    *key_for("hidden_dropout_prob", 0.1, "classify.dropout", "tag.dropout"),
    *key_for("classifier_dropout", None, "classify.dropout", "tag.dropout"),
)
FIRST_DROPOUT = (  # the same rate before the dense layer of the classifier
    Key("classify.first_dropout", "hidden_dropout_prob", 0.1),
    Key("classify.first_dropout", "classifier_dropout", None),
)
POSITIONS = Key("encoder.max_length", "max_position_embeddings")
BERT_REFUSED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
BERT_ROWS = (
    Row("embeddings.tokens.weight", "embeddings.word_embeddings.weight"),
    Row("embeddings.positions.weight", "embeddings.position_embeddings.weight"),
    Row("embeddings.token_types.weight", "embeddings.token_type_embeddings.weight"),
    Row("embeddings.norm", "embeddings.LayerNorm"),
    qkv("encoder.layer.{i}.attention.self.", "query", "key", "value"),
    Row("layers.{i}.attention.out", "encoder.layer.{i}.attention.output.dense"),
    Row("layers.{i}.attention_norm", "encoder.layer.{i}.attention.output.LayerNorm"),
    Row("layers.{i}.mlp.wi", "encoder.layer.{i}.intermediate.dense"),
    Row("layers.{i}.mlp.wo", "encoder.layer.{i}.output.dense"),
    Row("layers.{i}.mlp_norm", "encoder.layer.{i}.output.LayerNorm"),
)
OUT_PROJ = (Row("head.dense", "classifier.dense"), Row("head.output", "classifier.out_proj"))
CLASSIFIER = (Row("head.output", "classifier"),)

BERT = Family(
    model_type="bert",
    prefix="bert.",
    architectures=classes("Bert"),
    keys=(*BERT_KEYS, POSITIONS, Key("head.activation", "hidden_act", "gelu")),
    fixed=POST_NORM | {"classify.activation": "tanh"},
    zeros=BIASES,
    refused=BERT_REFUSED,
    rows=BERT_ROWS,
    head_rows={
        "MaskedLM": masked_lm("cls.predictions.", "transform.dense", "transform.LayerNorm", "decoder.weight", "bias"),
        "SequenceClassifier": (Row("head.dense", "{prefix}pooler.dense"), *CLASSIFIER),
        "TokenClassifier": CLASSIFIER,
    },
    output_bias="cls.predictions.decoder.bias",
    more_keys=_bert_keys,
)

ROBERTA = Family(
    model_type="roberta",
    prefix="roberta.",
    architectures=classes("Roberta"),
    keys=(*BERT_KEYS, *FIRST_DROPOUT),
    fixed=POST_NORM
    | {"encoder.positions_skip_padding": True, "head.activation": "gelu", "classify.activation": "tanh"},
    zeros=BIASES,
    refused=BERT_REFUSED,
    token_ids=("pad_token_id", "bos_token_id", "eos_token_id"),
    pad_id=1,
    rows=BERT_ROWS,
    head_rows={
        "MaskedLM": masked_lm("lm_head.", "dense", "layer_norm", "decoder.weight", "bias"),
        "SequenceClassifier": OUT_PROJ,
        "TokenClassifier": CLASSIFIER,
    },
    output_bias="lm_head.decoder.bias",
    more_keys=_roberta_keys,
    more_fields=_roberta_fields,
)
XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta", architectures=classes("XLMRoberta"))
CAMEMBERT = replace(ROBERTA, model_type="camembert", architectures=classes("Camembert"))

ELECTRA = Family(
    model_type="electra",
    prefix="electra.",
    architectures=classes("Electra") | {"Discriminator": "ElectraForPreTraining"},
    keys=(
        *BERT_KEYS,
        *FIRST_DROPOUT,
        POSITIONS,
        Key("encoder.embedding_size", "embedding_size", 128),
        Key("discriminate.activation", "hidden_act", "gelu"),
    ),
    fixed={name: value for name, value in POST_NORM.items() if name != "encoder.embedding_size"}
    | {"head.activation": "gelu", "classify.activation": "gelu"},
    zeros=BIASES,
    refused=BERT_REFUSED,
    rows=(*BERT_ROWS, Row("embeddings.project", "embeddings_project")),
    head_rows={
        "MaskedLM": masked_lm(
            "generator_", "predictions.dense", "predictions.LayerNorm", "lm_head.weight", "lm_head.bias"
        ),
        "SequenceClassifier": OUT_PROJ,
        "TokenClassifier": CLASSIFIER,
        "Discriminator": (
            Row("head.dense", "discriminator_predictions.dense"),
            Row("head.output", "discriminator_predictions.dense_prediction"),
        ),
    },
    output_bias="generator_lm_head.bias",
    more_keys=_electra_keys,
    more_fields=_electra_fields,
)

DISTILBERT = Family(
    model_type="distilbert",
    prefix="distilbert.",
    architectures=classes("DistilBert"),
    keys=(
        Key("encoder.vocab_size", "vocab_size"),
        Key("encoder.hidden_size", "dim"),
        Key("encoder.num_layers", "n_layers"),
        Key("encoder.num_heads", "n_heads"),
        Key("encoder.intermediate_size", "hidden_dim"),
        Key("encoder.max_length", "max_position_embeddings", 512),
        *key_for("activation", "gelu", "encoder.activation", "head.activation"),
        *key_for("dropout", 0.1, "encoder.hidden_dropout", "encoder.embedding_dropout", "tag.dropout"),
        Key("encoder.attention_dropout", "attention_dropout", 0.1),
        Key("classify.dropout", "seq_classif_dropout", 0.2),
        *(TIED, RANGE),
    ),
    fixed=POST_NORM | {"encoder.token_types": 0, "encoder.norm_eps": 1e-12, "classify.activation": "relu"},
    zeros=BIASES,
    rows=(
        *(row for row in BERT_ROWS if row.ours.startswith("embeddings.") and "token_types" not in row.ours),
        qkv("transformer.layer.{i}.attention.", "q_lin", "k_lin", "v_lin"),
        Row("layers.{i}.attention.out", "transformer.layer.{i}.attention.out_lin"),
        Row("layers.{i}.attention_norm", "transformer.layer.{i}.sa_layer_norm"),
        Row("layers.{i}.mlp.wi", "transformer.layer.{i}.ffn.lin1"),
        Row("layers.{i}.mlp.wo", "transformer.layer.{i}.ffn.lin2"),
        Row("layers.{i}.mlp_norm", "transformer.layer.{i}.output_layer_norm"),
    ),
    head_rows={
        "MaskedLM": masked_lm("vocab_", "transform", "layer_norm", "projector.weight", "projector.bias"),
        "SequenceClassifier": (Row("head.dense", "pre_classifier"), *CLASSIFIER),
        "TokenClassifier": CLASSIFIER,
    },
    output_bias="vocab_projector.bias",
)

_MODERNBERT_DENSE = Row("head.dense", "head.dense", bias="classifier_bias")
_MODERNBERT_HEAD = (_MODERNBERT_DENSE, Row("head.norm", "head.norm", bias="norm_bias"))
MODERNBERT = Family(
    model_type="modernbert",
    prefix="model.",
    architectures=classes("ModernBert"),
    keys=(
        *KEYS,
        Key("encoder.max_length", "max_position_embeddings", 8192),
        Key("encoder.activation", "hidden_activation", "gelu"),
        Key("encoder.norm_eps", "norm_eps", 1e-5),
        Key("encoder.norm_bias", "norm_bias", False),
        Key("encoder.bias", "attention_bias", False),
        Key("encoder.bias", "mlp_bias", False),
        *(Key(f"encoder.{name}_dropout", f"{name}_dropout", 0.0) for name in ("embedding", "attention", "mlp")),
        *key_for("classifier_activation", "gelu", "head.activation", "classify.activation", "tag.activation"),
        *key_for("classifier_bias", False, "head.transform_bias", "classify.transform_bias", "tag.transform_bias"),
        Key("head.output_bias", "decoder_bias", True),
        Key("classify.pooling", "classifier_pooling", "cls"),
        *key_for("classifier_dropout", 0.0, "classify.dropout", "tag.dropout"),
    ),
    fixed=FIXED
    | named("encoder", positions="rope", norm_first=True, final_norm=True, gated=True, token_types=0)
    | {"classify.transform_norm": True, "tag.transform": True, "tag.transform_norm": True},
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
        "SequenceClassifier": (*_MODERNBERT_HEAD, *CLASSIFIER),
        "TokenClassifier": (*_MODERNBERT_HEAD, *CLASSIFIER),
    },
    output_bias="decoder.bias",
    more_keys=_modernbert_keys,
    more_fields=_modernbert_fields,
)

FAMILIES = (DISTILBERT, BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ELECTRA, MODERNBERT)
"""all families of encoders; a new model that fits several is written as the first of them"""
