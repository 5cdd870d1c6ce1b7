"""Marian and two BERTs as encoder and decoder: hidden states, logits and folders, both ways."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bert.errors import InputError
from bert.hf.folder import start, start_masked_lm, start_seq2seq
from bert.model.config import EncoderConfig, GenerationConfig, HeadConfig, Seq2SeqConfig
from bert.model.decoder import Seq2Seq
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM, SequenceClassifier
from tests.encoders import make_encoder
from tests.hf.hf import SHAPES
from tests.model.test_transformer_claims import lively

pytestmark = pytest.mark.hf

SOURCE = torch.randint(5, 39, (3, 7), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0]])
TARGET = torch.randint(5, 39, (3, 6), generator=torch.Generator().manual_seed(2))
BERT = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 32, "initializer_range": 0.4}


def make(kind: str, **more):
    """A model of transformers with random weights; sides differ in depth, heads and, of BERTs, vocabulary."""
    import transformers as hf

    torch.manual_seed(0)
    if kind == "marian":
        sides = {"encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 2}
        sides |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 64, "vocab_size": 40, "d_model": 32, "init_std": 0.4}
        ids = {"pad_token_id": 39, "decoder_start_token_id": 39, "eos_token_id": 0, "forced_eos_token_id": None}
        shape = {"max_position_embeddings": 32, "scale_embedding": True, "activation_function": "swish"}
        model = hf.MarianMTModel(hf.MarianConfig(**(sides | ids | shape | more)))
        model.final_logits_bias.normal_()
        return model.eval()
    encoder = hf.BertConfig(vocab_size=40, num_hidden_layers=2, num_attention_heads=4, **BERT)
    seen = {"is_decoder": True, "add_cross_attention": True}
    decoder = hf.BertConfig(vocab_size=44, num_hidden_layers=3, num_attention_heads=2, **(BERT | seen | more))
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 2, 3, 0
    model = hf.EncoderDecoderModel(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


CASES = {
    "marian": ("marian", {}),
    "marian, relu, unscaled": ("marian", {"activation_function": "relu", "scale_embedding": False}),
    "encoder-decoder": ("encoder-decoder", {}),
    "encoder-decoder, untied": ("encoder-decoder", {"tie_word_embeddings": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_hidden_state_and_the_logits_are_those_of_transformers(case, tmp_path) -> None:
    kind, more = CASES[case]
    theirs = make(kind, **more)
    theirs.save_pretrained(tmp_path)
    ours = Seq2Seq.load(tmp_path)
    inputs = {"input_ids": SOURCE, "attention_mask": MASK, "decoder_input_ids": TARGET}
    with torch.no_grad():
        expected, found = (model(**inputs, output_hidden_states=True) for model in (theirs, ours))
        labels = theirs(input_ids=SOURCE, attention_mask=MASK, labels=TARGET)
        forced = ours(SOURCE, MASK, labels=TARGET)
    assert torch.allclose(expected.logits, found.logits, atol=1e-5)
    assert len(found.hidden_states) == 4
    for one, other in zip(expected.decoder_hidden_states, found.hidden_states, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert found.encoder is not None
    for one, other in zip(expected.encoder_hidden_states, found.encoder.hidden_states, strict=True):
        assert torch.allclose(one[MASK > 0], other[MASK > 0], atol=1e-5)
    assert labels.loss.item() == pytest.approx(forced.loss.item(), abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_folder_goes_there_and_back(case, tmp_path, recwarn) -> None:
    kind, more = CASES[case]
    theirs = make(kind, **more)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Seq2Seq.load(tmp_path / "theirs")
    ours.save(tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours")
    before, after = theirs.state_dict(), again.state_dict()
    differing = [name for name in before if not torch.equal(before[name], after[name])]
    unused = (
        "encoder.pooler.",
        "decoder.cls.predictions.bias",
    )  # the bias of an untied output is `predictions.decoder.bias`
    assert [name for name in differing if not name.startswith(unused)] == []
    back = Seq2Seq.load(tmp_path / "ours")
    assert (back.config, back.head_config, back.model_type) == (ours.config, ours.head_config, kind)
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), back.parameters(), strict=True))
    keys = json.loads((tmp_path / "ours" / "config.json").read_text())
    text = (tmp_path / "ours" / "README.md").read_text()
    assert re.search(
        r"2 layers of width 32, 4 heads; a decoder of 3 layers of width 32, 2 heads, a vocabulary of 4\d", text
    )
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id"):
        assert keys[name] == getattr(theirs.config, name)
    assert [str(one.message) for one in recwarn if "ignored" in str(one.message)] == []


def test_another_dropout_in_the_decoder_is_still_a_marian_and_said(tmp_path) -> None:
    make("marian").save_pretrained(tmp_path / "theirs")
    model = Seq2Seq.load(tmp_path / "theirs")
    decoder = replace(model.head_config.decoder, hidden_dropout=0.3, initializer_range=0.1)
    model.head_config = replace(model.head_config, decoder=decoder)
    with pytest.warns(UserWarning, match=r"cannot hold decoder\.hidden_dropout 0\.3 \(will be read as 0\.1\)"):
        model.save(tmp_path / "ours")
    assert Seq2Seq.load(tmp_path / "ours").model_type == "marian"


@pytest.mark.parametrize("kind", ["marian", "encoder-decoder"])
def test_the_encoder_of_a_pair_can_be_read_alone(kind, tmp_path, recwarn) -> None:
    make(kind).save_pretrained(tmp_path)
    pair, alone = Seq2Seq.load(tmp_path), Encoder.load(tmp_path)
    assert torch.equal(pair.encoder(SOURCE, MASK).last_hidden_state, alone(SOURCE, MASK).last_hidden_state)
    assert [str(one.message) for one in recwarn if "ignored" in str(one.message)] == []


@pytest.mark.parametrize("kind", ["marian", "encoder-decoder"])
def test_another_head_may_start_from_the_encoder(kind, tmp_path) -> None:
    make(kind).save_pretrained(tmp_path)
    masked_lm, random = start_masked_lm(tmp_path)
    classifier = start(SequenceClassifier, tmp_path, ["a", "b"])
    encoder = Seq2Seq.load(tmp_path).encoder
    for model in (masked_lm, classifier):
        assert all(map(torch.equal, model.encoder.parameters(), encoder.parameters()))
        assert model(SOURCE, MASK).logits.isfinite().all()
    assert random
    masked_lm.save(tmp_path / "again")
    assert torch.equal(MaskedLM.load(tmp_path / "again")(SOURCE, MASK).logits, masked_lm(SOURCE, MASK).logits)


def refused(tmp_path: Path, kind: str, change) -> str:
    make(kind).save_pretrained(tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    change(keys)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(keys))
    with pytest.raises(InputError) as caught:
        Seq2Seq.load(tmp_path)
    return str(caught.value).removeprefix(f"{tmp_path / 'config.json'}: ")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "marian",
            lambda keys: keys.update(share_encoder_decoder_embeddings=False),
            "share_encoder_decoder_embeddings is False: this version reads models with share_encoder_decoder_embeddings True",
        ),
        (
            "marian",
            lambda keys: keys.update(decoder_vocab_size=41),
            "decoder_vocab_size is 41: this version reads models with one vocabulary",
        ),
        ("marian", lambda keys: keys.pop("decoder_layers"), "key decoder_layers is missing"),
        ("marian", lambda keys: keys.update(decoder_layers=99), "says 99 layers and model.safetensors holds 3"),
        (
            "encoder-decoder",
            lambda keys: keys.update(decoder_start_token_id=None),
            "key decoder_start_token_id is missing or null: give an id of the vocabulary",
        ),
        ("marian", lambda keys: keys.pop("eos_token_id"), "key eos_token_id is missing or null"),
        ("marian", lambda keys: keys.update(eos_token_id=40), "head.end_id is 40: give an id of the vocabulary"),
        ("marian", lambda keys: keys.update(eos_token_id=[0]), "head.end_id is [0]: give an id of the vocabulary"),
        (
            "encoder-decoder",
            lambda keys: keys["decoder"].update(model_type="gpt2"),
            "decoder.model_type is gpt2: this version reads models of two BERTs",
        ),
        (
            "encoder-decoder",
            lambda keys: keys.update(encoder=3),
            "encoder.model_type is 3: this version reads models of two",
        ),
        (
            "encoder-decoder",
            lambda keys: keys["decoder"].update(add_cross_attention=False),
            "decoder: is_decoder or add_cross_attention is not true: it would not see the source",
        ),
        (
            "encoder-decoder",
            lambda keys: keys["decoder"].update(hidden_size=64),
            "the hidden_size of encoder and decoder differ: this version reads models with one",
        ),
    ],
)
def test_what_is_not_supported_is_refused(kind, change, message, tmp_path) -> None:
    assert refused(tmp_path, kind, change).startswith(message)


def test_a_folder_of_another_class_is_refused_with_the_way(tmp_path) -> None:
    make("marian").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a sequence-to-sequence model, not a masked LM"):
        MaskedLM.load(tmp_path)


def search_of(tmp_path: Path, content: str):
    make("marian").save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    return Seq2Seq.load(tmp_path).generation


def test_what_a_folder_says_of_the_search_is_read_as_transformers_does(tmp_path) -> None:
    assert search_of(tmp_path, '{"max_new_tokens": 9}') == GenerationConfig(num_beams=1, max_length=10)
    assert search_of(tmp_path, '{"num_beams": 6}') == GenerationConfig(num_beams=6, max_length=32)  # positions
    assert search_of(tmp_path, "{}") == GenerationConfig(num_beams=1, max_length=32)
    assert search_of(tmp_path, '{"length_formula": "gnmt", "num_beams": 2}').length_formula == "gnmt"
    asked = '{"do_sample": true, "no_repeat_ngram_size": 3, "min_length": 0, "repetition_penalty": 1.0, "top_k": 50}'
    with pytest.warns(
        UserWarning, match=r"^generation_config\.json: this version searches without do_sample, no_repeat_ngram_size$"
    ):
        search_of(tmp_path, asked)


@pytest.mark.parametrize("kind", ["marian", "encoder-decoder"])
def test_its_special_tokens_decide_as_in_transformers(kind, tmp_path) -> None:
    theirs = make(kind)
    theirs.generation_config.update(decoder_start_token_id=7, eos_token_id=9)
    theirs.save_pretrained(tmp_path)
    ours = Seq2Seq.load(tmp_path)
    assert (ours.head_config.start_id, ours.head_config.end_id) == (7, 9)
    keys = json.loads((tmp_path / "config.json").read_text())
    for name in ("decoder_start_token_id", "eos_token_id"):
        keys.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(keys))
    assert Seq2Seq.load(tmp_path).head_config == ours.head_config
    (tmp_path / "generation_config.json").write_text('{"decoder_start_token_id": 7, "eos_token_id": [3, 5]}')
    with pytest.raises(InputError, match=r"head\.end_id is \[3, 5\]: give an id of the vocabulary"):
        Seq2Seq.load(tmp_path)


def test_an_encoder_does_not_depend_on_a_description_of_a_search(tmp_path) -> None:
    encoder = make_encoder()
    encoder.save(tmp_path)
    (tmp_path / "generation_config.json").write_text("[")
    assert Encoder.load(tmp_path).config == encoder.config


def test_an_old_config_says_how_targets_are_searched(tmp_path) -> None:
    make("marian").save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert Seq2Seq.load(tmp_path).generation == GenerationConfig(max_length=32)
    keys = json.loads((tmp_path / "config.json").read_text())
    keys |= {"num_beams": 6, "max_length": 30, "bad_words_ids": [[39]], "forced_eos_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(keys))
    assert Seq2Seq.load(tmp_path).generation == GenerationConfig(6, 30, bad_words=[[39]], forced_end=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a JSON object; repair or remove it"),
        ('{"num_beams": 1e9}', "num_beams is 1000000000.0: give from 1 to 1000"),
        ('{"num_beams": "4"}', "num_beams is '4': give from 1 to 1000"),
        ('{"max_length": []}', r"max_length is \[\]: give 2 or more"),
        ('{"max_new_tokens": "x"}', "max_new_tokens is 'x': give 1 or more"),
        ('{"max_new_tokens": true}', "max_new_tokens is True: give 1 or more"),
        ('{"bad_words_ids": [3]}', r"bad_words_ids is \[3\]: give lists of ids of tokens"),
        ('{"forced_bos_token_id": -1}', "forced_bos_token_id is -1: give the id of a token"),
        ('{"early_stopping": "x"}', "early_stopping is 'x': give one of true, false, never"),
    ],
)
def test_a_damaged_description_of_the_search_is_named(content, message, tmp_path) -> None:
    with pytest.raises(InputError, match=rf"generation_config\.json: .*{message}"):
        search_of(tmp_path, content)


def test_a_folder_of_marian_with_its_own_tokenizers_takes_token_ids(tmp_path) -> None:
    theirs = make("marian")
    theirs.save_pretrained(tmp_path)
    for name in ("source.spm", "target.spm", "vocab.json"):
        (tmp_path / name).write_text("{}")
    with pytest.warns(UserWarning, match=r"source\.spm: the tokenizers of Marian are not read: give token ids"):
        ours = Seq2Seq.load(tmp_path)
    expected = theirs(SOURCE, MASK, TARGET).logits
    assert torch.allclose(expected, ours(SOURCE, MASK, decoder_input_ids=TARGET).logits, atol=1e-5)
    with pytest.raises(InputError, match="no tokenizer"):
        ours.predict(["a text"])


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_two_encoders_become_encoder_and_decoder(kind, tmp_path) -> None:
    """Without cross-attention, which is random, a target of one token has the scores that the masked LM gives this token alone: it sees
    nothing else in either."""
    shape, head = SHAPES[kind]
    sides = make_encoder(hidden_size=32, num_heads=4), make_encoder(**({"num_layers": 3} | shape | {"pad_id": 0}))
    first, second = (MaskedLM(one.config, HeadConfig(**part)) for one, part in zip(sides, ({}, head)))
    for name, model, side in zip("ab", (first, second), sides):
        lively(model)
        model.tokenizer = side.tokenizer
        model.save(tmp_path / name)
    model = start_seq2seq(tmp_path / "a", tmp_path / "b")
    tokenizer = second.tokenizer
    assert tokenizer is not None
    assert (model.head_config.start_id, model.head_config.end_id) == (tokenizer.cls_id, tokenizer.sep_id)
    assert all(map(torch.equal, model.encoder.parameters(), first.encoder.parameters()))
    model.save(tmp_path / "pair")
    target = torch.tensor([[7, 9]])
    again = Seq2Seq.load(tmp_path / "pair")
    same = (one(SOURCE, decoder_input_ids=target.repeat(3, 1)).logits for one in (model, again))
    assert torch.equal(*same)
    for block in model.decoder.layers:
        block.cross_attention.forward = lambda x, **_: (torch.zeros_like(x), None)  # type: ignore[union-attr, method-assign]
        block.cross_attention_norm = torch.nn.Identity()  # type: ignore[assignment]
    found = model(SOURCE[:1], decoder_input_ids=target[:, :1]).logits
    assert torch.allclose(found, second(target[:, :1]).logits, atol=1e-5)


def test_sides_of_different_vocabularies_keep_a_bias_of_zeros(tmp_path) -> None:
    size = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "max_length": 32}
    shape, head = SHAPES["bert"]
    encoder, decoder = (EncoderConfig(**(size | shape | {"vocab_size": words})) for words in (40, 44))
    model = lively(
        Seq2Seq(encoder, Seq2SeqConfig(decoder, HeadConfig(**(head | {"output_bias": False})), shared=False))
    )
    model.save(tmp_path)
    again = Seq2Seq.load(tmp_path)
    assert again.model_type == "encoder-decoder"
    same = (one(SOURCE, decoder_input_ids=TARGET).logits for one in (model, again))
    assert torch.equal(*same)


def test_a_decoder_without_a_tokenizer_is_refused(tmp_path) -> None:
    encoder = make_encoder()
    encoder.save(tmp_path / "a")
    encoder.tokenizer = None
    encoder.save(tmp_path / "b")
    with pytest.raises(InputError, match=r"no tokenizer: add the tokenizer\.json"):
        start_seq2seq(tmp_path / "a", tmp_path / "b")
