"""Models of ours in transformers and theirs here: hidden states of every layer and logits, in fp32."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bert.exchange.families import BERT, MODERNBERT
from bert.exchange.translate import family_of, read_config, write_config
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM
from tests.exchange.hf import OWN, SHAPES, inputs, make

NEAR = 1e-5


def their_inputs(model: MaskedLM) -> dict[str, torch.Tensor]:
    ids, mask, types = inputs()
    named = {"input_ids": ids, "attention_mask": mask}
    return named | {"token_type_ids": types} if model.config.token_types else named


def assert_same(ours, theirs) -> None:
    """Logits and every hidden state, where there are tokens: at padding each does as it likes."""
    tokens = inputs()[1] > 0
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    for mine, other in zip([*ours.hidden_states, ours.logits], [*theirs.hidden_states, theirs.logits]):
        assert (mine - other)[tokens].abs().max() <= NEAR


@pytest.mark.hf
@pytest.mark.parametrize("name", SHAPES)
def test_ours_opens_there_with_the_same_numbers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = make(name)
    ours.save(tmp_path / "ours")
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = their_inputs(ours)
    with torch.no_grad():
        assert_same(ours(**batch, output_hidden_states=True), theirs.eval()(**batch, output_hidden_states=True))


@pytest.mark.hf
@pytest.mark.parametrize("name", SHAPES)
def test_a_bare_encoder_opens_there_with_the_same_numbers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = make(name).encoder
    ours.save(tmp_path / "ours")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    ids, mask, _ = inputs()
    with torch.no_grad():
        difference = ours(ids, mask).last_hidden_state - theirs(ids, mask).last_hidden_state
    assert difference[mask > 0].abs().max() <= NEAR


def their_model(kind: str, **changes: object):
    transformers = pytest.importorskip("transformers")
    config_class, model_class = {
        "bert": (transformers.BertConfig, transformers.BertForMaskedLM),
        "modernbert": (transformers.ModernBertConfig, transformers.ModernBertForMaskedLM),
    }[kind]
    size = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    size |= {"intermediate_size": 40, "max_position_embeddings": 40, "pad_token_id": 0}
    if kind == "modernbert":
        size |= dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))
    config = config_class(**(size | changes))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = model_class(config)
    for parameter_name, parameter in model.named_parameters():
        scale = "orm.weight" in parameter_name
        torch.nn.init.normal_(parameter, mean=1.0 if scale else 0.0, std=0.15)
    return model.eval()


THEIRS = [
    ("bert", {}),
    ("bert", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6, "type_vocab_size": 3}),
    ("bert", {"tie_word_embeddings": False}),
    ("modernbert", {"local_attention": 6}),
    ("modernbert", {"layer_types": ["full_attention"] * 4, "norm_bias": True, "mlp_bias": True}),
    ("modernbert", {"attention_bias": True, "classifier_bias": True, "decoder_bias": False, "local_attention": 9}),
    ("modernbert", {"tie_word_embeddings": False, "hidden_activation": "silu", "classifier_activation": "gelu"}),
]


@pytest.mark.hf
@pytest.mark.parametrize(
    ("kind", "changes"), THEIRS, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_theirs_opens_here_with_the_same_numbers(kind: str, changes: dict, tmp_path: Path) -> None:
    theirs = their_model(kind, **changes)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = MaskedLM.load(tmp_path / "theirs")
    batch = their_inputs(ours)
    with torch.no_grad():
        other = theirs(**batch, output_hidden_states=True)
        assert_same(ours(**batch, output_hidden_states=True), other)
        encoder = Encoder.load(tmp_path / "theirs")
        vectors = encoder(**batch).last_hidden_state
    assert (vectors - other.hidden_states[-1])[inputs()[1] > 0].abs().max() <= NEAR


@pytest.mark.hf
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_their_bare_encoder_opens_here(kind: str, tmp_path: Path) -> None:
    whole = their_model(kind)
    theirs = whole.base_model
    theirs.save_pretrained(tmp_path / "theirs")
    ids, mask, _ = inputs()
    with torch.no_grad():
        difference = Encoder.load(tmp_path / "theirs")(ids, mask).last_hidden_state - theirs(ids, mask)[0]
    assert difference[mask > 0].abs().max() <= NEAR


@pytest.mark.hf
def test_old_and_new_spelling_of_modernbert_say_the_same(tmp_path: Path) -> None:
    """transformers 4 reads global_attn_every_n_layers and two thetas, 5 reads layer_types and rope_parameters."""
    pytest.importorskip("transformers")
    model = make("modernbert-local")
    keys = write_config(MODERNBERT, model.config, model.head_config, {})
    old = {key: value for key, value in keys.items() if key not in ("layer_types", "rope_parameters")}
    new_only = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta")
    new = {key: value for key, value in keys.items() if key not in new_only}
    assert read_config(old, "MaskedLM") == read_config(new, "MaskedLM") == (MODERNBERT, model.config, model.head_config)
    model.save(tmp_path)
    batch = their_inputs(model)
    from transformers import AutoModelForMaskedLM

    for spelling in (old, new):
        (tmp_path / "config.json").write_text(json.dumps(spelling))
        theirs = AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
        with torch.no_grad():
            assert_same(model(**batch, output_hidden_states=True), theirs(**batch, output_hidden_states=True))


@pytest.mark.parametrize("name", [*SHAPES, *OWN])
def test_a_config_is_read_as_it_was_written(name: str) -> None:
    model = make(name)
    family, reasons = family_of(model.config, model.head_config)
    assert (family.model_type if family else "own") == name.split("-")[0]
    assert bool(reasons) == name.startswith("own")
    again_family, encoder, head = read_config(
        write_config(family, model.config, model.head_config, {"pad_token_id": 0}), "MaskedLM"
    )
    assert again_family is family
    if name.startswith("bert"):  # BERT has two token types and all biases: what we lack is written as zeros
        assert encoder == replace(model.config, token_types=2, bias=True, norm_bias=True)
        assert head == replace(model.head_config, transform_bias=True, output_bias=True)
    else:
        assert (encoder, head) == (model.config, model.head_config)


@pytest.mark.parametrize(
    ("fields", "head", "reason"),
    [
        ({"qk_norm": True}, {}, "modernbert needs encoder.qk_norm false, not true"),
        ({"gated": False}, {}, "modernbert needs encoder.gated true, not false"),
        ({"first_attention_norm": True}, {}, "modernbert needs encoder.first_attention_norm false, not true"),
        ({"num_kv_heads": 1}, {}, "modernbert needs encoder.num_kv_heads none, not 1"),
        ({}, {"transform": False}, "modernbert needs head.transform true, not false"),
    ],
)
def test_what_no_family_computes_is_named_field_by_field(fields: dict, head: dict, reason: str) -> None:
    assert family_of(EncoderConfig(**fields), HeadConfig(**head)) == (None, [reason])


def test_a_bert_whose_head_has_another_activation_is_no_bert() -> None:
    bert = make("bert")
    head = replace(bert.head_config, activation="relu")
    family, reasons = family_of(bert.config, head)
    assert family is None
    assert reasons == ["bert needs head.activation gelu as encoder.activation, not relu"]
    assert family_of(bert.config, None) == (BERT, [])  # without the head it is


def test_key_value_heads_spelt_out_are_the_default() -> None:
    assert family_of(EncoderConfig(num_kv_heads=4), None)[0] is MODERNBERT


def test_dropout_is_no_obstacle() -> None:
    assert family_of(EncoderConfig(hidden_dropout=0.1), HeadConfig())[0] is MODERNBERT
