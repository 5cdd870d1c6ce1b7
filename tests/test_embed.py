"""`fill` on a tokenizer of eight words: what it answers, what it never answers, what it refuses."""

import numpy as np
import pytest
import torch

from bert.embed import fill
from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM


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
        ("she ate an apple", 5, r"no \[MASK\] in 'she ate an apple': put \[MASK\] where"),
        ("she ate an [MASK] an apple red", 5, "9 tokens long and the model takes 8"),
        ("she ate [MASK]", 0, "top is 0: give 1 or more"),
    ],
)
def test_what_cannot_be_answered_is_refused(model: MaskedLM, text: str, top: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fill(model, text, top)


def test_a_model_without_a_tokenizer_is_refused(model: MaskedLM) -> None:
    model.tokenizer = None
    with pytest.raises(InputError, match="this model has no tokenizer"):
        fill(model, "she ate [MASK]")
