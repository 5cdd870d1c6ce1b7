"""Pseudo-log-likelihood against one mask at a time, and against transformers."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from bert import score
from bert.errors import InputError
from bert.model.config import HeadConfig
from bert.model.encoder import Encoder
from bert.probing import sentences as module
from tests.hf.hf import BERT
from tests.probing.models import TEXTS, make_masked_lm

SENTENCES = [TEXTS[0], "the cat sat", "苹果公司发布了新手机。", "cat", "the [MASK] sat", "👍 \u200b"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_score_is_the_sum_over_one_mask_at_a_time(kind: str) -> None:
    model = make_masked_lm(kind, max_length=80)
    for one, text in zip(score(SENTENCES, model), SENTENCES, strict=True):
        ids = model.tokenizer.encode_with_offsets(text)[0]
        expected = []
        for place in range(1, len(ids) - 1):
            masked = [*ids[:place], model.tokenizer.mask_id, *ids[place + 1 :]]
            with torch.no_grad():
                expected.append(float(model(torch.tensor([masked])).logits[0, place].log_softmax(-1)[ids[place]]))
        assert one.sentence == text
        assert one.log_probabilities == pytest.approx(expected, abs=1e-4)
        assert one.score == pytest.approx(sum(expected), abs=1e-3)
        assert one.mean == pytest.approx(sum(expected) / len(expected), abs=1e-4)
        assert one.tokens == tuple(model.tokenizer.token(i) for i in ids[1:-1])


@pytest.mark.hf
@pytest.mark.parametrize("within_word", [False, True])
@pytest.mark.parametrize(
    ("kind", "shape"), [("wordpiece", BERT), ("wordpiece", {"local_window": 6, "global_every": 2}), ("bpe", {})]
)
def test_transformers_gives_the_same_scores(tmp_path: Path, kind: str, shape: dict, within_word: bool) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    head = HeadConfig(transform_bias=True) if shape is BERT else None
    model = make_masked_lm(kind, max_length=80, head=head, **shape)
    model.save(tmp_path / "model")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    within = 0
    texts = ["the cat sat on the mat", "ripest apples, freshly: the catsat softwares!", *TEXTS[:2]]
    for ours, text in zip(score(texts, tmp_path / "model", within_word=within_word), texts, strict=True):
        encoding = tokenizer(text, return_tensors="pt")
        ids, words = encoding["input_ids"], encoding.word_ids()  # a word of theirs: what the pre-tokenizer leaves whole
        expected = []
        for place in range(1, ids.shape[1] - 1):
            masked = ids.clone()
            masked[0, place] = tokenizer.mask_token_id
            for later in range(place + 1, ids.shape[1] - 1):
                if within_word and words[later] == words[place]:
                    masked[0, later] = tokenizer.mask_token_id
            with torch.no_grad():
                expected.append(float(theirs(input_ids=masked).logits[0, place].log_softmax(-1)[ids[0, place]]))
        assert ours.log_probabilities == pytest.approx(expected, abs=1e-4)
        assert ours.score == pytest.approx(sum(expected), abs=1e-3)
        within += sum(one == other is not None for one, other in pairwise(words))
    assert within > 5  # tokens inside words


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_within_words_nothing_changes_for_the_last_piece_and_for_chinese_characters(kind: str) -> None:
    model = make_masked_lm(kind, max_length=80)
    tokenizer = model.tokenizer
    for text in SENTENCES:
        plain, within = (score([text], model, within_word=choice)[0] for choice in (False, True))
        starts = [tokenizer.word_starts[i] for i in tokenizer.encode_with_offsets(text)[0][1:-1]]
        last = [place + 1 == len(starts) or bool(starts[place + 1]) for place in range(len(starts))]
        same = [a == pytest.approx(b, abs=1e-5) for a, b in zip(plain.log_probabilities, within.log_probabilities)]
        assert same == last, text
        if text.startswith("苹果") and kind == "wordpiece":
            assert all(last)
    assert "".join(tokenizer.token(i) for i in tokenizer.encode("苹果")[1:-1])


def test_copies_are_batched_run_once_and_only_masked_places_decoded() -> None:
    model = make_masked_lm()
    texts = ["the sweet apple", "the ripe apple", "the sweet apple"]  # all share `the [MASK] apple`
    ids = [model.tokenizer.encode_with_offsets(text)[0] for text in texts]
    copies = {(*row[:p], model.tokenizer.mask_id, *row[p + 1 :]) for row in ids for p in range(1, len(row) - 1)}
    decoded, last, calls = [], [], []
    model.head.register_forward_pre_hook(lambda _, given: decoded.append(given[0].shape))
    model.encoder.layers[-1].mlp.register_forward_pre_hook(lambda _, given: last.append(given[0].shape))
    model.encoder.register_forward_pre_hook(lambda _, given: calls.append(given[0].shape))
    scores = score(texts, model)
    assert scores[0] == scores[2]
    assert len(copies) < sum(len(row) - 2 for row in ids)
    assert sum(rows for rows, _ in calls) == len(copies)
    assert len(calls) == 1
    assert decoded == [(len(copies), model.config.hidden_size)]
    assert last == [(len(copies), 1, model.config.hidden_size)]


def test_the_company_of_a_sentence_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_masked_lm()
    alone = [score([text], model)[0] for text in SENTENCES]
    monkeypatch.setattr(module, "CHUNK_TOKENS", 200)  # several chunks
    for one, other in zip(score(SENTENCES, model), alone, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)


def test_a_sentence_longer_than_the_model_takes_is_seen_through_windows() -> None:
    model = make_masked_lm(max_length=12)
    text = " ".join(TEXTS[:3])
    ids = model.tokenizer.encode_with_offsets(text)[0]
    (one,) = score([text], model)
    assert len(one.tokens) == len(ids) - 2 > 12
    place = 15  # well inside: its window begins 5 places before it
    window = [2, *ids[place - 5 : place], model.tokenizer.mask_id, *ids[place + 1 : place + 5], 3]
    with torch.no_grad():
        expected = model(torch.tensor([window])).logits[0, 6].log_softmax(-1)[ids[place]]
    assert one.log_probabilities[place - 1] == pytest.approx(float(expected), abs=1e-4)


def test_a_model_that_has_learnt_a_sentence_prefers_it() -> None:
    model = make_masked_lm()
    good, bad = "the cat sat on the mat", "the mat sat on the cat"
    ids = torch.tensor([model.tokenizer.encode(good)])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for step in range(60):
        masked, labels = ids.clone(), torch.full_like(ids, -100)
        place = 1 + step % (ids.shape[1] - 2)
        labels[0, place], masked[0, place] = ids[0, place], model.tokenizer.mask_id
        optimizer.zero_grad()
        model(masked, labels=labels).loss.backward()
        optimizer.step()
    right, wrong = score([good, bad], model)
    assert right.score > wrong.score
    assert model.training


def test_unknown_tokens_are_counted_in_a_note(said: list[str]) -> None:
    model = make_masked_lm()
    score(["щ щ", "the cat"], model)
    assert said == ["2 of 4 tokens are unknown to the model ([UNK])"]
    score(["the cat", ""], model)
    assert len(said) == 1


def test_an_empty_sentence_has_no_tokens() -> None:
    (one,) = score([""], make_masked_lm())
    assert one.tokens == ()
    assert math.isnan(one.score)
    assert math.isnan(one.mean)


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    model = make_masked_lm()
    with pytest.raises(InputError, match=r"sentences is 'one'; must be Sequence\[str\]$"):
        score("one", model)
    with pytest.raises(InputError, match="Encoder predicts no tokens: give a MaskedLM"):
        score(["one"], model.encoder)
    model.encoder.save(tmp_path / "encoder")
    assert isinstance(Encoder.load(tmp_path / "encoder"), Encoder)
    with pytest.raises(InputError, match="an encoder without a masked-LM head"):
        score(["one"], tmp_path / "encoder")
    model.tokenizer = None
    with pytest.raises(InputError, match="this model has no tokenizer"):
        score(["one"], model)


def test_a_sentence_of_very_many_tokens_says_what_it_costs(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr("bert.probing.sentences.CHUNK_TOKENS", 100)
    score(["the cat sat on the", "the cat"], make_masked_lm())
    assert said == []
    score(["the cat sat on the cat sat", "the cat"], make_masked_lm())
    assert said[0].startswith("a sentence has ")
    assert said[0].endswith(" tokens: each is predicted in a run of its own")
