"""Why a text gets its prediction: the words that speak for it, each with a weight, and a check of these weights.

Of a text of up to 64 words, the weight of a word is what the prediction loses without it (leave-one-out; Li et al. 2016, "Understanding
Neural Networks through Representation Erasure"). Of a longer one it is the sum over the tokens of the word by integrated gradients
(Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks"). The check compares what the prediction loses without the most
important words (comprehensiveness; DeYoung et al. 2020, "ERASER") and without random ones.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.func import functional_call

from bert.data.examples import Example
from bert.data.splitting import Splitter
from bert.errors import InputError
from bert.finetuning.batches import Item, collate
from bert.model.encoder import evaluating

Predictor = Any
"""that of `bert.finetuning.predict`, which imports this module"""
MOST_LEFT_OUT, STEPS = 64, 16
"""words of a text up to which each is left out once, and points of the integral for longer ones"""
SHARE, DRAWS = 0.2, 20
"""of the check: the share of the words that is left out, and the number of random draws"""
_TOKENS_AT_ONCE = 2048  # twice as many keep their activations; those of more are computed again


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text."""

    start: int
    end: int
    """`text[start:end]`, in characters"""
    text: str
    pair: bool
    """whether it is in the second text of a pair"""
    weight: float = 0.0
    """what it adds to the score; negative if it speaks against the label"""


@dataclass(frozen=True)
class Explanation:
    """The words that speak for a prediction."""

    label: str
    """the most probable label; `value` if a number is predicted"""
    score: float
    """its probability, or the number, in fp32"""
    text: str
    """in which the offsets of the words count: without space around it, and with newlines as `\\n`"""
    pair: str | None
    """likewise, the second text of a pair"""
    words: tuple[Word, ...]
    """in order"""
    drop: float
    """what the score loses without a fifth of the words, those with the largest weights; at least one"""
    random_drop: float
    """what it loses without as many random words: the mean of 20 draws, which the text determines"""
    is_better: bool
    """whether the first is more than the second"""

    def top(self, most: int = 5) -> str:
        """The words that speak most for the label, and whether they are better than random ones."""
        words = sorted(self.words, key=lambda word: -word.weight)[:most]
        found = ", ".join(f"{word.text} {word.weight:+.3f}" for word in words if word.weight > 0)
        return found if self.is_better or len(self.words) < 2 else f"{found} (no better than random words)".lstrip()

    def picture(self) -> str:
        """The texts with their words shaded, in HTML."""
        from bert.report.charts import shaded  # imports matplotlib

        texts = [(text, [(word.start, word.end, word.weight) for word in self.words if word.pair == number])
                 for number, text in enumerate([self.text, self.pair]) if text is not None]  # fmt: skip
        said = f"without the top words {-self.drop:+.3f}, without random words {-self.random_drop:+.3f}"
        said += ": no better than random words" * (not self.is_better)
        return shaded(texts, f"{self.label} {self.score:.3f}", said)


def explained(predictor: Predictor, found: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Examples and their predictions, with explanations. Raises InputError if the model is a tagger."""
    return ((one, replace(prediction, explanation=explain(predictor, one))) for one, prediction in found)


def explain(predictor: Predictor, example: Example, most: int = MOST_LEFT_OUT, steps: int = STEPS) -> Explanation:
    """Which words of an example speak for its most probable label, or for a larger number.

    `most`: the number of words, of both texts of a pair, up to which each is left out once; beyond it, integrated gradients with `steps`
    points. Raises InputError if the model is a tagger."""
    task, predictor = predictor.task, replace(predictor, bf16=False)  # its three digits are too few for differences
    if not task.explains:
        raise InputError(f"--explain: {task.name} predicts no labels of whole texts; remove it")
    words = [Word(start, end, text[start:end], bool(number)) for number, text in enumerate(_texts(example))
             for start, end in Splitter().words(text)]  # fmt: skip

    def scores(examples: Iterable[Example]) -> Tensor:
        """(N, C): the probabilities of the labels, or the numbers."""
        return task.probabilities(torch.cat([scores for _, scores in predictor.scores(examples)]))

    (whole,) = scores([example])
    label = int(whole.argmax())
    count = min(len(words), max(1, round(SHARE * len(words))))
    draw = np.random.default_rng([*example.key.encode(errors="replace")])
    singles = [[word] for word in words] if len(words) <= most else []
    drawn = [[words[i] for i in draw.choice(len(words), count, replace=False)] for _ in range(DRAWS)]
    lost = (whole - scores(without(example, some) for some in [*singles, *drawn]))[:, label].tolist()
    weights = lost[: len(singles)] if len(words) <= most else by_gradients(predictor, example, words, label, steps)
    words = [replace(word, weight=round(weight, 6)) for word, weight in zip(words, weights, strict=True)]
    top = without(example, sorted(words, key=lambda word: -word.weight)[:count])
    drop, random_drop = round(float((whole - scores([top]))[0, label]), 6), round(sum(lost[-DRAWS:]) / DRAWS, 6)
    what = predictor.model.labels[label], round(float(whole[label]), 6), example.text, example.pair
    return Explanation(*what, tuple(words), drop, random_drop, drop > random_drop)


def without(example: Example, words: Iterable[Word]) -> Example:
    """An example without some of its words. Of the spaces around a word, those on one side are left out too."""
    texts = _texts(example)
    for word in sorted(words, key=lambda word: -word.start):
        before, after = texts[word.pair][: word.start], texts[word.pair][word.end :]
        texts[word.pair] = before + (after if before[-1:].strip() else after.lstrip())
    return replace(example, text=texts[0], pair=texts[1] if texts[1:] else None)


def _texts(example: Example) -> list[str]:
    return [example.text] if example.pair is None else [example.text, example.pair]


def by_gradients(predictor: Predictor, example: Example, words: list[Word], label: int, steps: int) -> list[float]:
    """The weight of each word by integrated gradients with respect to the word embeddings: all tokens of the text at once change
    from the embedding of [MASK] to their own. The weights sum to the score of the text minus that of such masks (completeness).

    A token belongs to the word in which it begins. The integral is a Gauss-Legendre quadrature."""
    model, task, maker = predictor.model, predictor.task, predictor.maker
    tokens = [(bool(number), start, token) for number, text in enumerate(_texts(example))
              for token, (start, _) in list(zip(*maker.tokenizer.encode_with_offsets(text)))[1:-1]]  # fmt: skip
    # an example for each point; ~n stands for the id of token n, which may be in several windows
    numbers = ([~n for n, token in enumerate(tokens) if token[0] == side] for side in range(len(_texts(example))))
    item = Item(maker.from_tokens(*numbers), ())
    batch = collate([item] * steps, model.config.pad_id, _TOKENS_AT_ONCE // len(item.windows[0].ids) or 1)
    table, offset = model.encoder.embeddings.tokens.weight.detach(), model.encoder.embeddings.first_position
    batch = move_data_to_device(batch, table.device)
    places, rows = batch["input_ids"].unique(return_inverse=True)  # (R,), (steps · windows, T)
    special = places[len(tokens) :].tolist()  # places ascend: the tokens from the last to the first, then special ones
    end = table[[*(token for *_, token in reversed(tokens)), *special]]  # (R, E)
    start = table[[maker.tokenizer.mask_id] * len(tokens) + special]
    # each example has rows of its own in the table of embeddings, after those whose ids would count as padding
    batch["input_ids"] = rows + offset + len(places) * batch["example_ids"][:, None]
    nodes, shares = torch.from_numpy(np.stack(np.polynomial.legendre.leggauss(steps))).to(table)  # on [-1, 1]
    path = (start + (1 + nodes[:, None, None]) / 2 * (end - start)).flatten(0, 1).requires_grad_()  # (steps · R, E)

    def run(*inputs: Tensor | None) -> Any:
        return functional_call(model, {"encoder.embeddings.tokens.weight": torch.cat([table[:offset], path])}, inputs)

    with evaluating(model), torch.enable_grad():
        (gradient,) = torch.autograd.grad(task.probabilities(task.scores(run, batch))[:, label] @ shares / 2, path)
    attributions = (end - start) * gradient.view(steps, *end.shape).sum(0)  # (R, E)
    weights, begins = [0.0] * len(words), [(word.pair, word.start) for word in words]
    for (*place, _), weight in zip(reversed(tokens), attributions.sum(-1).tolist()):
        weights[max(0, bisect_right(begins, tuple(place)) - 1)] += weight
    return weights


def explanation_page(found: Sequence[Any], source: str, count: int) -> str:
    """An HTML page of the first predictions of `count`, with explanations, which come from `source`."""
    from bert.report.page import Section, page

    lead = "Orange words speak for the prediction, blue ones against it. The check leaves out the top fifth of words."
    pictures = Section("Texts", "".join(one.explanation.picture() for one in found), lead)
    return page("Words that decide", f"{len(found):,} of {count:,} texts, {source}", [pictures])
