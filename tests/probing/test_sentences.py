"""Pseudo-log-likelihood against one mask at a time, and against transformers."""

import math
from pathlib import Path

import pytest
import torch

from bert import score
from bert.errors import InputError
from bert.model.encoder import Encoder
from bert.probing import sentences as module
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
def test_transformers_gives_the_same_score(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = make_masked_lm()
    model.save(tmp_path / "model")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer("the cat sat on the mat", return_tensors="pt")["input_ids"]
    total = 0.0
    for place in range(1, ids.shape[1] - 1):
        masked = ids.clone()
        masked[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            total += float(theirs(input_ids=masked).logits[0, place].log_softmax(-1)[ids[0, place]])
    (ours,) = score(["the cat sat on the mat"], tmp_path / "model")
    assert ours.score == pytest.approx(total, abs=1e-4)


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


def test_an_empty_sentence_has_no_pieces() -> None:
    (one,) = score([""], make_masked_lm())
    assert one.tokens == ()
    assert math.isnan(one.score)
    assert math.isnan(one.mean)


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    model = make_masked_lm()
    with pytest.raises(InputError, match="score takes a list of sentences"):
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
