"""Controls for probes: what is reached without the vectors, by memorizing words, and by chance.

Arrays in, numbers out. Control tasks and selectivity: Hewitt & Liang 2019, "Designing and Interpreting Probes with Control Tasks".
"""

import re
from collections.abc import Hashable, Sequence
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from bert.data.tokenizer import is_unspaced
from bert.probing.linear import Labels, Predictions

RESAMPLES = 1_000


# ── control tasks ──


def control_labels(splits: Sequence[Sequence[Hashable]], labels: Labels, seed: int) -> list[Labels]:
    """Labels of a control task on words: each word type has one random label, the same in all splits, of which train is the first.

    It is drawn from the distribution of the train labels (N,). A probe can only learn it by memorizing types; its accuracy on the real
    labels minus that on these is the selectivity of the probe (Hewitt & Liang 2019). The labels of a split do not depend on later ones.
    """
    numbers = {one: number for number, one in enumerate(dict.fromkeys(chain(*splits)))}
    drawn = np.random.default_rng(seed).choice(labels, size=len(numbers))
    return [drawn[[numbers[one] for one in types]] for types in splits]


def permuted(labels: Labels, seed: int) -> Labels:
    """The labels (N,) in random order: a control task on texts, whose accuracy is that of chance."""
    return np.random.default_rng(seed).permutation(labels)


# ── without vectors ──


def shares(labels: Labels, classes: int) -> NDArray[np.float64]:
    """(K,): the share of each class in the labels (N,); a class without labels has 1 / (N + K), as in a linear probe."""
    counts = np.bincount(labels, minlength=classes)
    rare = 1 / (len(labels) + classes)
    return np.where(counts > 0, counts / max(1, len(labels)) * (1 - rare * np.sum(counts == 0)), rare)


def majority(labels: Labels, dev_labels: Labels, classes: int) -> Predictions:
    """The most frequent train label for each dev unit (M,), with the NLL of the shares of the train labels (N,)."""
    known = np.log(shares(labels, classes))
    return Predictions.of(np.broadcast_to(known, (len(dev_labels), classes)), dev_labels)


def per_type_majority(
    train_types: Sequence[Hashable],
    labels: Labels,
    dev_types: Sequence[Hashable],
    dev_labels: Labels,
    classes: int,
) -> Predictions:
    """The most frequent train label of the word type of each dev unit, which knows the word and nothing of its context.

    A label k has probability (n_k + p_k) / (n + 1): n_k of the n train units of the type have it, and a share p_k of all train units. A
    new type thus has the most frequent label of all.
    """
    numbers = {one: number for number, one in enumerate(dict.fromkeys(train_types))}
    counts = np.zeros((len(numbers) + 1, classes))  # the last row: new types
    np.add.at(counts, (np.array([numbers[one] for one in train_types]), labels), 1)
    of_dev = [numbers.get(one, len(numbers)) for one in dev_types]
    smoothed = (counts + shares(labels, classes)) / (counts.sum(axis=1, keepdims=True) + 1)
    return Predictions.of(np.log(smoothed)[of_dev], dev_labels)


def bag_of_words(train: Sequence[str], labels: NDArray, test: Sequence[str]) -> NDArray:
    """The labels of test texts by a logistic regression on counts of words; in Chinese, of characters and pairs of characters.

    Texts without any words get the most frequent label, the first in order of ties.
    """
    counts = CountVectorizer(analyzer=_units)
    try:
        known = counts.fit_transform(train)
    except ValueError:  # no words at all
        names, sizes = np.unique(labels, return_counts=True)
        return np.full(len(test), names[sizes.argmax()])
    model = LogisticRegression(max_iter=1_000).fit(known, labels)
    return model.predict(counts.transform(test))


def _units(text: str) -> list[str]:
    units = []
    for run in re.findall(r"\w+", text.casefold()):
        units += [*run, *map("".join, pairwise(run))] if any(map(is_unspaced, run)) else [run]
    return units


# ── intervals ──


def interval(values: NDArray, groups: Labels, strata: NDArray | None = None, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean over units, such as an accuracy, by the bootstrap over groups (Efron 1979); nan without units.

    `values` (M,): whether each unit is correct, or another number. `groups` (M,): the sentence of each unit; 1,000 times as many
    sentences are drawn with replacement, because the words of one sentence are not independent. With `strata` (M,) it is the interval of
    the mean over the strata that are drawn of the means of their units. If all values are true, or all false, none can be drawn that
    differs: then it is that of Clopper and Pearson (1934) for so many groups.
    """
    if not len(values):
        return float("nan"), float("nan")
    if values.dtype == np.bool_ and len(alike := {*values.tolist()}) == 1:
        end = 0.025 ** (1 / len(np.unique(groups)))
        return (end, 1.0) if alike == {True} else (0.0, 1 - end)
    of, into = (
        np.unique(one, return_inverse=True)[1] for one in (groups, np.zeros(len(values)) if strata is None else strata)
    )
    sums = np.zeros((2, of.max() + 1, into.max() + 1))  # sum and number of units of each group in each stratum
    np.add.at(sums[0], (of, into), values)
    np.add.at(sums[1], (of, into), 1)
    kinds, counts = np.unique(
        np.concatenate([*sums], axis=1), axis=0, return_counts=True
    )  # equal groups are drawn together
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES) @ kinds
    total, number = np.split(drawn, 2, axis=1)
    means = np.divide(total, number, where=number > 0, out=np.full_like(total, np.nan))
    low, high = np.quantile(np.nanmean(means, axis=1), (0.025, 0.975))
    return float(low), float(high)
