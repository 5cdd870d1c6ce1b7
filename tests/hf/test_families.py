"""Models of ours in transformers and theirs here: hidden states of every layer and logits, in fp32."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from bert.errors import InputError
from bert.export import load_any
from bert.hf.families import BERT, MODERNBERT, ROBERTA
from bert.hf.folder import start
from bert.hf.translate import family_of, read_config, write_config
from bert.model.config import DiscriminatorConfig, EncoderConfig, HeadConfig, TaskHeadConfig, task_head
from bert.model.encoder import Encoder
from bert.model.expansion import expand
from bert.model.heads import Discriminator, MaskedLM, SequenceClassifier, TokenClassifier
from bert.pretraining.vocabulary_transfer import Overlap, carry_over
from tests.hf.hf import LABELS, OWN, OWN_TASKS, SHAPES, TASKS, inputs, make, make_task, spread

NEAR = 1e-5
SHAPE_FILES = Path(__file__).parents[2] / "recipes" / "model"


def their_inputs(model: MaskedLM | SequenceClassifier | TokenClassifier) -> dict[str, torch.Tensor]:
    ids, mask, types = inputs()
    named = {"input_ids": ids, "attention_mask": mask}
    return named | {"token_type_ids": types} if model.config.token_types > 1 else named


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


def their_model(kind: str, task: str = "MaskedLM", **changes: object):
    transformers = pytest.importorskip("transformers")
    config_class = {"bert": transformers.BertConfig, "modernbert": transformers.ModernBertConfig}[kind]
    model_class = getattr(transformers, config_class.__name__.removesuffix("Config") + "For" + task)
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


AUTO = {
    SequenceClassifier: "AutoModelForSequenceClassification",
    TokenClassifier: "AutoModelForTokenClassification",
}


def assert_same_task(ours, theirs, batch: dict[str, torch.Tensor]) -> None:
    """Logits, loss and gradients of the two ends of the model; a tagger's padding is no matter."""
    tokens = torch.ones(3, dtype=torch.bool) if isinstance(ours, SequenceClassifier) else inputs()[1] > 0
    labels = torch.arange(tokens.numel()).view(tokens.shape) % 3
    labels[~tokens] = -100
    mine, other = ours(**batch, labels=labels), theirs(**batch, labels=labels)
    assert mine.logits.shape == other.logits.shape
    assert (mine.logits - other.logits)[tokens].abs().max() <= NEAR
    assert mine.loss.item() == pytest.approx(other.loss.item(), abs=NEAR)
    mine.loss.backward()
    other.loss.backward()
    last = theirs.classifier if isinstance(theirs.classifier, torch.nn.Linear) else theirs.classifier.out_proj
    assert torch.allclose(ours.head.output.weight.grad, last.weight.grad, atol=NEAR)
    words = theirs.get_input_embeddings().weight.grad[6:]  # they keep the row of the padding token as it is
    assert torch.allclose(ours.encoder.embeddings.tokens.weight.grad[6:], words, atol=NEAR)


@pytest.mark.hf
@pytest.mark.parametrize("name", TASKS)
def test_our_task_heads_open_there_with_the_same_numbers_and_labels(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = make_task(name)
    ours.save(tmp_path)
    auto = getattr(transformers, AUTO[type(ours)])
    theirs, report = auto.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.id2label == dict(enumerate(LABELS))
    assert theirs.config.label2id == {label: i for i, label in enumerate(LABELS)}
    rate = next(part.p for name, part in theirs.named_modules() if name in ("drop", "dropout", "classifier.dropout"))
    assert rate == ours.head_config.dropout
    assert_same_task(ours, theirs.eval(), their_inputs(ours))


THEIR_TASKS = [
    ("bert", "SequenceClassification", {}),
    ("bert", "SequenceClassification", {"classifier_dropout": 0.4, "hidden_dropout_prob": 0.2}),
    ("bert", "TokenClassification", {"hidden_dropout_prob": 0.2}),
    ("modernbert", "SequenceClassification", {"local_attention": 6}),
    ("modernbert", "SequenceClassification", {"classifier_pooling": "mean", "classifier_bias": True}),
    ("modernbert", "SequenceClassification", {"classifier_activation": "tanh", "norm_bias": True}),
    ("modernbert", "TokenClassification", {"classifier_pooling": "mean", "classifier_dropout": 0.3}),
]


@pytest.mark.hf
@pytest.mark.parametrize(("kind", "task", "changes"), THEIR_TASKS)
def test_their_task_heads_open_here_with_the_same_numbers_and_labels(
    kind: str, task: str, changes: dict, tmp_path: Path
) -> None:
    named = {"id2label": {0: "x", 1: "y", 2: "z"}, "label2id": {"x": 0, "y": 1, "z": 2}}
    theirs = their_model(kind, task, **named, **changes)
    theirs.save_pretrained(tmp_path)
    ours = (SequenceClassifier if task == "SequenceClassification" else TokenClassifier).load(tmp_path)
    assert ours.labels == ("x", "y", "z")
    rate = next(part.p for name, part in theirs.named_children() if name in ("drop", "dropout"))
    assert ours.head_config.dropout == rate
    assert_same_task(ours, theirs, their_inputs(ours))


@pytest.mark.hf
def test_their_labels_without_names_are_numbered(tmp_path: Path) -> None:
    """transformers writes no id2label for two classes that nobody named."""
    their_model("bert", "TokenClassification").save_pretrained(tmp_path / "two")
    assert "id2label" not in json.loads((tmp_path / "two" / "config.json").read_text())
    assert TokenClassifier.load(tmp_path / "two").labels == ("LABEL_0", "LABEL_1")
    their_model("bert", "SequenceClassification", num_labels=12).save_pretrained(tmp_path / "twelve")
    assert SequenceClassifier.load(tmp_path / "twelve").labels == tuple(f"LABEL_{i}" for i in range(12))


@pytest.mark.parametrize("name", [*TASKS, *OWN_TASKS])
def test_the_config_of_a_task_head_is_read_as_it_was_written(name: str) -> None:
    model = make_task(name)
    family, reasons = family_of(model.config, model.head_config)
    assert (family.model_type if family else "own") == name.split("-")[0]
    assert bool(reasons) == name.startswith("own")
    keys = json.loads(json.dumps(write_config(family, model.config, model.head_config, {"pad_token_id": 1})))
    head = model.head_config
    if name == "bert-bare-classify":  # a pooler without a bias has one of zeros there
        head = replace(head, transform_bias=True)
    assert read_config(keys, type(model).__name__)[2] == head


@pytest.mark.parametrize(
    ("encoder", "head", "reason"),
    [
        ("bert", {"pooling": "mean"}, "bert needs classify.pooling cls, not mean"),
        ("bert", {"transform_norm": True}, "bert needs classify.transform_norm false, not true"),
        ("bert", {"activation": "silu"}, "bert needs classify.activation tanh, not silu"),
        ("modernbert", {"transform": False}, "modernbert needs classify.transform true, not false"),
        ("modernbert", {"transform_norm": False}, "modernbert needs classify.transform_norm true, not false"),
        ("modernbert", {"transform": False, "pooling": None}, "modernbert needs tag.transform true, not false"),
    ],
)
def test_a_task_head_that_no_family_has_is_named(encoder: str, head: dict, reason: str) -> None:
    config = make(encoder).config
    changed = replace(task_head(config, LABELS), **head)
    assert family_of(config, changed) == (None, [reason])


@pytest.mark.parametrize("name", ["bert", "modernbert"])
@pytest.mark.parametrize("kind", ["SequenceClassifier", "TokenClassifier"])
def test_the_head_of_an_encoder_is_what_its_family_gives_a_config_without_keys_for_one(name: str, kind: str) -> None:
    model = make(name).encoder
    keys = write_config(family_of(model.config, None)[0], model.config, None, {})
    head = task_head(model.config, LABELS, per_token=kind == "TokenClassifier")
    assert read_config(keys, kind, LABELS)[2] == head


def test_a_tagger_without_a_transform_is_a_bert_whatever_its_idle_fields_say() -> None:
    bare = TaskHeadConfig(LABELS, transform=False, transform_bias=True, pooling=None)
    assert family_of(make("bert").config, bare)[0] is BERT


@pytest.mark.hf
def test_a_discriminator_goes_out_and_in(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for name in ("electra", "bert"):  # ELECTRA-base has embeddings as wide as its layers: a BERT but for the head
        ours = Discriminator(make(name).config)
        spread(ours)
        ours.eval().save(tmp_path / name / "first")
        theirs = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / name / "first").eval()
        assert type(theirs).__name__ == "ElectraForPreTraining"
        batch = their_inputs(ours)
        tokens = batch["attention_mask"] > 0
        with torch.no_grad():
            assert (ours(**batch).logits - theirs(**batch).logits)[tokens].abs().max() <= NEAR
        again = Discriminator.load(tmp_path / name / "first")
        again.save(tmp_path / name / "second")
        for file in (tmp_path / name / "first").iterdir():
            assert file.read_bytes() == (tmp_path / name / "second" / file.name).read_bytes()
        with pytest.raises(InputError, match="a discriminator, not a masked LM: give the folder of one"):
            MaskedLM.load(tmp_path / name / "first")
        Encoder.load(tmp_path / name / "first")
    family, reasons = family_of(make("modernbert").config, DiscriminatorConfig())
    assert family is None
    assert any("another head: it has no Discriminator" in reason for reason in reasons)


ALIASES = {"xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
"""other families with the block of RoBERTa → how their classes begin"""


@pytest.mark.hf
@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("ending", ["Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"])
def test_a_folder_keeps_its_model_type(alias: str, ending: str, tmp_path: Path) -> None:
    """Theirs, loaded and saved here, opens there as the same class with the same numbers."""
    transformers = pytest.importorskip("transformers")
    name = f"{ALIASES[alias]}{ending}"
    size = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 3}
    size |= {"intermediate_size": 40, "max_position_embeddings": 42, "pad_token_id": 1}
    config = getattr(transformers, f"{ALIASES[alias]}Config")(**size)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    load_any(tmp_path / "theirs").save(tmp_path / "ours")
    keys = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (keys["model_type"], keys["architectures"]) == (alias, [name])
    again = getattr(transformers, "Auto" + (ending if ending == "Model" else f"Model{ending}"))
    again = again.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert type(again) is type(theirs)
    ids, mask, _ = inputs()
    with torch.no_grad():
        mine, other = (model(ids, mask, return_dict=False)[0] for model in (again, theirs))  # not the pooler's output
    seen = slice(None) if ending == "ForSequenceClassification" else mask > 0
    assert torch.equal(mine[seen], other[seen])


def test_a_model_type_goes_with_the_model_as_long_as_it_fits(tmp_path: Path) -> None:
    model = make("roberta")
    assert model.model_type is None
    model.model_type = "camembert"
    model.save(tmp_path / "first")
    assert MaskedLM.load(tmp_path / "first").model_type == Encoder.load(tmp_path / "first").model_type == "camembert"
    tagger = start(TokenClassifier, tmp_path / "first", LABELS)
    assert tagger.model_type == "camembert"
    vocabulary = SimpleNamespace(vocab_size=91, pad_id=0)
    grown = carry_over(model, vocabulary, Overlap([[i % 90] for i in range(91)], np.arange(90), 90))  # type: ignore[arg-type]
    assert expand(grown, replace(grown.config, num_layers=6), 0).model_type == "camembert"
    assert family_of(model.config, model.head_config, "bert-encoder") == (ROBERTA, [])
    assert family_of(make("modernbert").config, HeadConfig(), "camembert") == (MODERNBERT, [])


@pytest.mark.parametrize("alias", ALIASES)
def test_other_names_of_a_family_are_read(alias: str, tmp_path: Path) -> None:
    model = make("roberta")
    model.save(tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(keys | {"model_type": alias, "architectures": ["XForMaskedLM"]}))
    ids, mask, _ = inputs()
    with torch.no_grad():
        assert torch.equal(MaskedLM.load(tmp_path)(ids, mask).logits, model(ids, mask).logits)
    del keys["model_type"]  # as in folders of 2019
    (tmp_path / "config.json").write_text(json.dumps(keys))
    assert MaskedLM.load(tmp_path).config == model.config


def test_why_the_original_transformer_cannot_go_out_and_that_sines_alone_are_no_reason() -> None:
    original = make("own-original")
    reasons = " ".join(family_of(original.config, original.head_config)[1])
    assert "embedding_norm true, not false" in reasons
    assert "positions" not in reasons
    assert family_of(make("bert-sinusoidal").config, None) == (BERT, [])


@pytest.mark.parametrize("file", sorted(SHAPE_FILES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shape_that_is_offered_goes_out_under_its_own_name(file: Path) -> None:
    config = EncoderConfig(**yaml.safe_load(file.read_text(encoding="utf-8")))
    name = file.stem.split("-")[0].replace("modern", "modernbert").replace("bertbert", "bert")
    head = HeadConfig(transform_bias=name != "modernbert")
    family, reasons = family_of(config, head)
    assert (family.model_type if family else "original") == name
    assert bool(reasons) == (name == "original")


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
        write_config(family, model.config, model.head_config, {"pad_token_id": model.config.pad_id}), "MaskedLM"
    )
    assert again_family is family
    if name.startswith("bert"):  # BERT has two token types and all biases: what we lack is written as zeros
        assert encoder == replace(model.config, token_types=2, bias=True, norm_bias=True, positions="learned")
        assert head == replace(model.head_config, transform_bias=True, output_bias=True)
    else:
        types = 1 if name.startswith("roberta") else model.config.token_types
        assert (encoder, head) == (replace(model.config, token_types=types), model.head_config)


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
