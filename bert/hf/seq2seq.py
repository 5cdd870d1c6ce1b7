"""What Hugging Face calls the parts of sequence-to-sequence models: tables as in `families`, and how a `config.json` holds two sides.

`marian` has some keys twice, for the encoder and for the decoder; `encoder-decoder` has a `config.json` for each side inside its own. The
names are those of transformers, models/marian and models/encoder_decoder.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bert.errors import InputError, shortened
from bert.hf.families import BERT, FIXED, RANGE, TIED, Family, Key, Row, key_for, named, qkv
from bert.model.config import EncoderConfig, GenerationConfig, Seq2SeqConfig

Keys = Mapping[str, Any]
_TWICE = ("layers", "attention_heads", "ffn_dim")
"""keys of `marian` that begin with `encoder_` and with `decoder_`"""
SPECIAL = {"start_id": "decoder_start_token_id", "end_id": "eos_token_id"}
"""fields of `Seq2SeqConfig`, and their keys"""
OF_ONE_ROW = ("final_logits_bias",)
"""parameters with an axis of length 1 before our own"""
COPIES = (
    "embed_positions.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "encoder.pooler.dense.",
)
"""parts of the names of what a file may hold beside the parameters: sines, copies of the shared matrix, a pooler that nothing uses"""
GENERATION = "generation_config.json"
_SEARCH = {name: name for name in ("num_beams", "max_length", "length_penalty", "length_formula", "early_stopping")}
_SEARCH |= {"forced_start": "forced_bos_token_id", "forced_end": "forced_eos_token_id", "bad_words": "bad_words_ids"}
"""fields of `GenerationConfig`, and their keys in `generation_config.json`"""
_NEUTRAL = dict.fromkeys(
    """do_sample min_length min_new_tokens no_repeat_ngram_size encoder_no_repeat_ngram_size diversity_penalty penalty_alpha constraints
    suppress_tokens begin_suppress_tokens sequence_bias exponential_decay_length_penalty force_words_ids forced_decoder_ids stop_strings
    renormalize_logits watermarking_config max_time""".split(),
    0,
) | {"repetition_penalty": 1, "num_beam_groups": 1, "guidance_scale": 1}
"""keys of what the search does not have, with the values that ask for nothing"""
_AS_DECODER = {"is_decoder": True, "add_cross_attention": True}


def _cross_attention(prefix: str, parts: tuple[str, str, str, str], norm: str) -> tuple[Row, ...]:
    """The rows of cross-attention, from their names of queries, keys, values and outputs."""
    q, k, v, out = (prefix + part for part in parts)
    own = "decoder.layers.{i}.cross_attention"
    return Row(f"{own}.q", q), Row(f"{own}.kv", (k, v)), Row(f"{own}.out", out), Row(f"{own}_norm", prefix + norm)


def _of_decoder(rows: tuple[Row, ...], before: str, after: str) -> tuple[Row, ...]:
    """The rows of an encoder as those of a decoder, whose names begin with `after` instead of `before`."""

    def moved(theirs: str) -> str:
        return after + theirs.removeprefix(before)

    names = [moved(row.theirs) if isinstance(row.theirs, str) else tuple(map(moved, row.theirs)) for row in rows]
    return tuple(Row(f"decoder.{row.ours}", theirs) for row, theirs in zip(rows, names))


_MARIAN_BLOCK = (
    qkv("encoder.layers.{i}.self_attn.", "q_proj", "k_proj", "v_proj"),
    Row("layers.{i}.attention.out", "encoder.layers.{i}.self_attn.out_proj"),
    Row("layers.{i}.attention_norm", "encoder.layers.{i}.self_attn_layer_norm"),
    Row("layers.{i}.mlp.wi", "encoder.layers.{i}.fc1"),
    Row("layers.{i}.mlp.wo", "encoder.layers.{i}.fc2"),
    Row("layers.{i}.mlp_norm", "encoder.layers.{i}.final_layer_norm"),
)
MARIAN = Family(
    model_type="marian",
    prefix="model.",
    architectures={"Seq2Seq": "MarianMTModel"},
    keys=(
        Key("encoder.vocab_size", "vocab_size"),
        Key("encoder.hidden_size", "d_model"),
        Key("encoder.num_layers", "encoder_layers"),
        Key("encoder.num_heads", "encoder_attention_heads"),
        Key("encoder.intermediate_size", "encoder_ffn_dim"),
        Key("encoder.max_length", "max_position_embeddings", 1024),
        Key("encoder.activation", "activation_function", "gelu"),
        Key("encoder.embedding_scale", "scale_embedding", False),
        *key_for("dropout", 0.1, "encoder.hidden_dropout", "encoder.embedding_dropout"),
        Key("encoder.attention_dropout", "attention_dropout", 0.0),
        Key("encoder.mlp_dropout", "activation_dropout", 0.0),
        replace(RANGE, theirs="init_std"),
        TIED,
    ),
    fixed={name: value for name, value in FIXED.items() if name != "encoder.embedding_scale"}
    | named("encoder", positions="sinusoidal", sinusoid_halves=True, norm_bias=True, norm_first=False, norm_eps=1e-5)
    | named("encoder", embedding_norm=False, final_norm=False, gated=False, bias=True, local_window=None, token_types=0)
    | named("head", transform=False, output_bias=True, shared=True, tied=True),
    zeros=frozenset({"encoder.norm_bias", "encoder.bias", "head.output_bias"}),
    refused={"share_encoder_decoder_embeddings": True, "tie_word_embeddings": True},
    rows=(Row("embeddings.tokens.weight", "shared.weight"), *_MARIAN_BLOCK),
    head_rows={
        "Seq2Seq": (
            *_of_decoder(_MARIAN_BLOCK, "encoder.", "{prefix}decoder."),
            *_cross_attention(
                "{prefix}decoder.layers.{i}.encoder_attn", (".q_proj", ".k_proj", ".v_proj", ".out_proj"), "_layer_norm"
            ),
            Row("head.bias", "final_logits_bias"),
        )
    },
    output_bias="",
    pad_id=58_100,
)
_CROSS = "decoder.bert.encoder.layer.{i}.crossattention."
ENCODER_DECODER = replace(
    BERT,
    model_type="encoder-decoder",
    prefix="encoder.",
    architectures={"Seq2Seq": "EncoderDecoderModel"},
    fixed={**BERT.fixed, "head.shared": False},
    head_rows={
        "Seq2Seq": (
            *_of_decoder(BERT.rows, "", "decoder.bert."),
            *_cross_attention(_CROSS, ("self.query", "self.key", "self.value", "output.dense"), "output.LayerNorm"),
            *(Row(row.ours, f"decoder.{row.theirs}") for row in BERT.head_rows["MaskedLM"]),
        )
    },
    output_bias=f"decoder.{BERT.output_bias}",
)
FAMILIES = (MARIAN, ENCODER_DECODER)
MODEL_TYPES = tuple(family.model_type for family in FAMILIES)


def sides(family: Family, keys: Keys) -> tuple[Keys, Keys]:
    """The content of a config.json as one for the encoder and one for the decoder, both as for an encoder. Raises InputError."""
    if family is MARIAN:
        if (size := keys.get("decoder_vocab_size")) not in (None, keys.get("vocab_size")):
            raise InputError(f"decoder_vocab_size is {size}: this version reads models with one vocabulary")
        if missing := [name for name in _TWICE if f"decoder_{name}" not in keys]:
            raise InputError(f"key decoder_{missing[0]} is missing")
        return keys, {**keys, **{f"encoder_{name}": keys[f"decoder_{name}"] for name in _TWICE}}
    both = keys.get("encoder"), keys.get("decoder")
    for name, side in zip(("encoder", "decoder"), both):
        if not isinstance(side, dict) or side.get("model_type") != BERT.model_type:
            found = side.get("model_type") if isinstance(side, dict) else side
            raise InputError(f"{name}.model_type is {found}: this version reads models of two BERTs")
    encoder, decoder = both
    if any(decoder.get(name) is not value for name, value in _AS_DECODER.items()):  # type: ignore[union-attr]
        raise InputError("decoder: is_decoder or add_cross_attention is not true: it would not see the source")
    if family.value(encoder, "hidden_size") != family.value(decoder, "hidden_size"):  # type: ignore[arg-type]
        raise InputError("the hidden_size of encoder and decoder differ: this version reads models with one")
    return encoder, {**decoder, **dict.fromkeys(_AS_DECODER, False)}  # type: ignore[dict-item, return-value]


def unequal(family: Family, encoder: EncoderConfig, decoder: EncoderConfig) -> list[str]:
    """The fields that must be those of both sides, and are not, as words after "it needs". A trained model computes without dropout."""
    both = [key.ours.removeprefix("encoder.") for key in MARIAN.keys if not key.theirs.startswith("encoder_")]
    names = ["hidden_size"] if family is not MARIAN else [name for name in both if hasattr(encoder, name)]
    return [
        f"the {name} of the encoder in the decoder"
        for name in names
        if getattr(encoder, name) != getattr(decoder, name) and not name.endswith(("dropout", "_range"))
    ]


def joined(family: Family, encoder: Keys, decoder: Keys) -> dict[str, Any]:
    """The keys of a config.json from those of both sides, the inverse of `sides`."""
    if family is MARIAN:
        twice = {f"decoder_{name}": decoder[f"encoder_{name}"] for name in _TWICE}
        whole: dict[str, Any] = {"is_encoder_decoder": True, "share_encoder_decoder_embeddings": True}
        whole |= {"decoder_vocab_size": encoder["vocab_size"], "forced_eos_token_id": None}
        return {**decoder, **encoder, **twice, **whole}
    named_bert = {"model_type": BERT.model_type}
    return {
        "is_encoder_decoder": True,
        "encoder": {**encoder, **named_bert},
        "decoder": {**decoder, **named_bert, **_AS_DECODER},
    }


def with_special_tokens(keys: dict[str, Any], generation: Keys) -> dict[str, Any]:
    """The content of a config.json with the special tokens of a `generation_config.json`, which decide, as in transformers."""
    return keys | {name: generation[name] for name in SPECIAL.values() if generation.get(name) is not None}


def read_generation(keys: Keys, longest: int) -> GenerationConfig:
    """How targets of at most `longest` tokens are searched, from the content of a `generation_config.json`, or of an old `config.json`
    that has its keys. Raises InputError. Warns of what the search does not have."""
    if other := [name for name, neutral in _NEUTRAL.items() if keys.get(name) not in (None, neutral)]:
        warnings.warn(f"{GENERATION}: this version searches without {', '.join(other)}", stacklevel=5)
    given = {ours: keys[theirs] for ours, theirs in _SEARCH.items() if keys.get(theirs) is not None}
    if (most := keys.get("max_new_tokens")) is not None:
        if type(most) is not int or most < 1:
            raise InputError(f"max_new_tokens is {shortened(most)}: give 1 or more")
        given["max_length"] = 1 + most  # with the start
    try:
        found = GenerationConfig(**{"num_beams": 1} | given)  # greedy by default, as in transformers
    except InputError as error:
        text = str(error)
        for ours, theirs in _SEARCH.items():
            text = text.replace(f"generation.{ours} ", f"{theirs} ")
        raise InputError(text) from None
    return replace(found, max_length=min(found.max_length, longest))


def describes_search(keys: Keys) -> bool:
    """Whether a config.json says how targets are searched, as old ones do."""
    return any(keys.get(name) is not None for name in _SEARCH.values())


def write_generation(config: GenerationConfig, head: Seq2SeqConfig) -> dict[str, Any]:
    """The content of a `generation_config.json`, the inverse of `read_generation`."""
    tokens = {theirs: getattr(head, ours) for ours, theirs in SPECIAL.items()} | {"pad_token_id": head.decoder.pad_id}
    fields = {theirs: getattr(config, ours) for ours, theirs in _SEARCH.items()}
    return tokens | {name: value for name, value in fields.items() if value not in (None, "power", ())}
