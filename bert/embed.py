"""Text in, what a model makes of it out: predictions for the masks of a sentence.

The pieces before and after a mask go through the model once; each mask then gets the likeliest tokens. Shared by all
wings; below it are the model and the tokenizer that came with its folder.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bert.errors import InputError

if TYPE_CHECKING:
    from bert.model.heads import MaskedLM
    from bert.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prediction:
    """A token that may stand behind a mask."""

    token: str
    """as a reader writes it: without the mark that some tokenizers have for the blank before a word"""
    id: int
    probability: float
    """among the whole vocabulary, from 0 to 1"""


@torch.inference_mode()
def fill(model: "MaskedLM", text: str, top: int = 5) -> list[list[Prediction]]:
    """The `top` likeliest tokens for each mask in `text`, likeliest first; never a special or an unused token.

    Dropout is off while it predicts. Raises InputError where the model has no tokenizer, the text no mask token or more
    tokens than the model takes, or `top` is less than 1.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(
            "this model has no tokenizer: load it from a folder with tokenizer.json, or set model.tokenizer"
        )
    if top < 1:
        raise InputError(f"top is {top}: give 1 or more")
    ids = tokenizer.encode(text)
    masks = [place for place, token in enumerate(ids) if token == tokenizer.mask_id]
    if not masks:
        raise InputError(
            f"no {tokenizer.mask_token} in {text!r}: put {tokenizer.mask_token} where a word is to be guessed"
        )
    if len(ids) > model.config.max_length:
        raise InputError(
            f"the text is {len(ids)} tokens long and the model takes {model.config.max_length}: give a shorter text"
        )
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        targets = torch.tensor(masks, device=device)
        logits = model(torch.tensor([ids], device=device), targets=targets).logits  # (masks, V)
    finally:
        model.train(training)
    probabilities = logits.float().softmax(dim=-1).cpu()
    words = torch.from_numpy(tokenizer.replacement_ids).long()  # what may be an answer
    values, places = probabilities[:, words].topk(min(top, len(words)), dim=-1)
    return [
        [
            Prediction(_readable(tokenizer, int(words[place])), int(words[place]), float(value))
            for value, place in zip(of_mask, at)
        ]
        for of_mask, at in zip(values, places)
    ]


def _readable(tokenizer: "Tokenizer", token_id: int) -> str:
    piece = tokenizer.token(token_id)
    return piece if tokenizer.kind == "wordpiece" else tokenizer.decode([token_id]).strip() or piece
