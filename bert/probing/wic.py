"""Words in context: does a word mean the same in two sentences? Answers of a cosine, and of a linear probe, by layer.

    rows (word, two sentences, same or not) → two vectors a row and layer → threshold, probe → accuracy on words that neither has seen

The threshold and the probe are trained on other words than those that they are tested on. Pilehvar and Camacho-Collados 2019, "WiC: the
Word-in-Context Dataset for Evaluating Context-Sensitive Meaning Representations".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold
from torch import nn

from bert.errors import InputError, check_arguments, check_seed
from bert.inference.embeddings import encoder_of, resolve_layers, span_tokens, token_vectors, tokenizer_of
from bert.model.encoder import Encoder
from bert.probing.controls import interval
from bert.probing.geometry import Vectors, unit
from bert.probing.linear import fit_layers
from bert.probing.rows import TwoContexts, read_contexts, span_of
from bert.probing.senses import random_like
from bert.report.text import render, table

FOLDS = 5
_Folds = Sequence[tuple[NDArray[np.integer], NDArray[np.integer]]]
"""of each fold the rows that are trained on, and those that are answered"""
COSINE, LINEAR, RANDOM, MAJORITY = "cosine", "linear", "random encoder", "majority"


@dataclass(frozen=True)
class WicScore:
    """The accuracy of one method in one layer, on words that it was not trained on."""

    method: str
    layer: int | None
    accuracy: float
    low: float
    """95 % interval, by resampling words"""
    high: float


@dataclass(frozen=True)
class Wic:
    """Scores by method and layer. Prints as a table."""

    rows: int
    words: int
    scores: tuple[WicScore, ...]

    def table(self) -> list[dict[str, object]]:
        """One row a method and layer."""
        return [vars(one) for one in self.scores]

    summary = table

    def headlines(self) -> dict[str, float]:
        """The accuracy of each method in the last layer."""
        return {one.method: one.accuracy for one in self.scores}

    def __str__(self) -> str:
        """Methods by layer."""
        methods = [COSINE, f"{RANDOM}, {COSINE}", LINEAR, f"{RANDOM}, {LINEAR}"]
        by_layer = {(one.method, one.layer): one for one in self.scores}
        layers = dict.fromkeys(one.layer for one in self.scores if one.layer is not None)
        cells = [
            [
                str(layer),
                *(
                    f"{one.accuracy:.1%} ({one.low:.1%}–{one.high:.1%})"
                    for method in methods
                    if (one := by_layer[method, layer])
                ),
            ]
            for layer in layers
        ]
        constant = by_layer[MAJORITY, None].accuracy
        title = f"{self.rows:,} rows of {self.words:,} words; a constant answer: {constant:.1%}"
        return render(title, table(["layer", *(name.replace(", ", ",\n") for name in methods)], cells, left=0))


def wic(
    rows: Sequence[TwoContexts] | str | Path,
    model: nn.Module | str | Path,
    test_rows: Sequence[TwoContexts] | str | Path | None = None,
    layers: Sequence[int] | int | None = None,
    seed: int = 0,
    *,
    bf16: bool | None = False,
) -> Wic:
    """Measure by layer whether a word's vectors in two sentences tell if it means the same.

    `rows`, or those of a file (`bert.probing.rows.read_contexts`). `test_rows`: default is five folds of disjoint words. Test rows of
    words of `rows` are answered by a threshold and a probe that were trained without that word. `seed`: of the random encoder. `bf16`: as
    of `run_batches`, but that it rounds away what a random encoder knows of the context, which makes it too weak a control.

    Raises InputError for a file without these columns, for fewer than five words, and for invalid models and layers.
    """
    check_arguments(wic, locals())
    check_seed(seed)
    train, test = (_read(one) if isinstance(one, str | Path) else one for one in (rows, test_rows))
    assert train is not None
    every = [*train, *(test or [])]
    same, words = np.array([one.same for one in every]), np.array([one.word.casefold() for one in every])
    if len(set(words)) < FOLDS or same.all() or not same.any():
        raise InputError(f"rows must have {FOLDS} words or more, and both answers: give more of them")
    encoder = encoder_of(model)
    numbers = resolve_layers(encoder.config, layers)
    is_test = np.arange(len(every)) >= len(train) if test else np.ones(len(every), bool)
    folds = [
        (np.flatnonzero(~np.isin(words, words[held_out]) & (~is_test | (test is None))), held_out[is_test[held_out]])
        for _, held_out in GroupKFold(FOLDS).split(words, groups=words)
    ]
    folds = [(known, asked) for known, asked in folds if len(asked)]
    asked = np.concatenate([asked for _, asked in folds])
    groups = np.unique(words, return_inverse=True)[1]

    def score(method: str, layer: int | None, predicted: NDArray[np.bool_]) -> WicScore:
        correct = (predicted == same)[asked]
        return WicScore(method, layer, float(correct.mean()), *interval(correct, groups[asked]))

    scores = [score(MAJORITY, None, np.full(len(same), same[~is_test | (test is None)].mean() >= 0.5))]
    for own, name in ((encoder, ""), (random_like(encoder, seed), f"{RANDOM}, ")):
        for layer, first, second in _vectors(own, every, numbers, bf16):
            cosines = (unit(first) * unit(second)).sum(axis=1)
            features = np.concatenate([first, second, np.abs(first - second)], axis=1)
            scores.append(score(f"{name}{COSINE}", layer, _by_cosine(folds, cosines, same)))
            scores.append(score(f"{name}{LINEAR}", layer, _by_probe(folds, features, same, groups)))
    return Wic(len(asked), len(set(words[asked])), tuple(scores))


def threshold(cosines: Vectors, same: NDArray[np.bool_]) -> float:
    """The cosine from which on "same" is the most accurate answer; of equal ones the smallest."""
    order = np.argsort(cosines, kind="stable")
    right = np.concatenate(
        [[same.sum()], same.sum() + np.cumsum(np.where(same[order], -1, 1))]
    )  # with the first n below it
    ends = np.concatenate([cosines[order], [np.inf]])
    whole = np.concatenate([[True], np.diff(cosines[order]) > 0, [True]])  # not between equal cosines
    return float(ends[np.where(whole, right, -1).argmax()])


def _read(path: str | Path) -> list[TwoContexts]:
    if not (found := read_contexts(path)):
        raise InputError(f"{path}: no rows with sentence1 and sentence2: give a file as of WiC")
    return found


def _by_cosine(folds: _Folds, cosines: Vectors, same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,): the answers of thresholds."""
    found = np.zeros(len(same), bool)
    for known, asked in folds:
        found[asked] = cosines[asked] >= threshold(cosines[known], same[known])
    return found


def _by_probe(
    folds: _Folds, features: Vectors, same: NDArray[np.bool_], words: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """(N,): the answers of linear probes; C is chosen on every fifth of the words that a probe is trained on."""
    found = np.zeros(len(same), bool)
    for known, asked in folds:
        dev = np.unique(words[known], return_inverse=True)[1] % FOLDS == 0
        splits = [(features[None, some], same[some].astype(np.int64)) for some in (known[~dev], known[dev])]
        (best,) = fit_layers(*splits[0], *splits[1], classes=2)
        found[asked] = best.probe.log_probabilities(features[asked]).argmax(axis=1) == 1
    return found


def _vectors(
    encoder: Encoder, rows: Sequence[TwoContexts], layers: Sequence[int], bf16: bool | None
) -> Iterator[tuple[int, Vectors, Vectors]]:
    """For each layer the vectors (N, D) of the word in the first and in the second sentence of each row."""
    both = [side for one in rows for side in (one.first, one.second)]
    located = span_tokens(tokenizer_of(encoder), [row.sentence for row in both], [span_of(row) for row in both])
    vectors = token_vectors(encoder, located, layers, bf16, "vectors of words in context").numpy()
    for column, layer in enumerate(layers):
        yield layer, vectors[::2, column], vectors[1::2, column]
