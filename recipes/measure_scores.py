"""Measure the statistics of scores on real predictions: coverage of intervals, size and power of tests.

    python recipes/measure_scores.py intervals PREDICTIONS.npz ... [--rows 500]
    python recipes/measure_scores.py tests FIRST.npz SECOND.npz [--rows 872]
    python recipes/measure_scores.py seeds RUNS.npz [--rows 872] [--seeds 5]

A file has `labels` (E,), and `probabilities` or `logits` (E, C), where C = 1 for regression; for a tagger those of all words, `sizes`,
the number of words of each sentence (1 everywhere for texts), and `names` of the tags. Runs with several seeds are (runs, E, C). The
predictions are the population: a trial draws rows from it with replacement.

`intervals`: the share of trials whose interval contains the value of the population. `tests`: the share of trials with p < 0.05 after
the predictions for each row are swapped with probability 1/2 (size), and after the second model is made worse by 3 points at random
rows (power, beside that of McNemar's test by the normal approximation of Connor 1987). `seeds`: the share of trials with p < 0.05
between two groups of runs of one recipe, also of the multi-bootstrap as published (Sellam et al. 2022).
"""

import argparse
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from bert.finetuning.evaluation.statistics import Measure, intervals, mcnemar, multi_bootstrap, randomization_test
from bert.finetuning.tags import spans

MeasureOf = Callable[[np.ndarray], Measure]
"""what a table (E, columns), one row for each example, is measured by"""
DIFFERENCE = 0.03


def classification(classes: int) -> MeasureOf:
    """Accuracy, macro-F1 and MCC (Gorodkin 2004) of a table of gold and predicted classes."""

    def of(table: np.ndarray) -> Measure:
        cells = np.eye(classes**2)[table[:, 0] * classes + table[:, 1]]

        def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
            confusion = (weights @ cells).reshape(-1, classes, classes)
            total, gold, predicted = confusion.sum((1, 2)), confusion.sum(2), confusion.sum(1)
            correct = np.diagonal(confusion, axis1=1, axis2=2)
            with np.errstate(invalid="ignore"):
                f1 = np.nan_to_num(2 * correct / (gold + predicted)).mean(1)
                variances = (total**2 - (gold**2).sum(1)) * (total**2 - (predicted**2).sum(1))
                mcc = (total * correct.sum(1) - (gold * predicted).sum(1)) / variances**0.5
                return {"accuracy": correct.sum(1) / total, "macro F1": f1, "MCC": mcc}

        return measure

    return of


def span_f1(table: np.ndarray) -> Measure:
    """Span F1 of a table of numbers of correct, predicted and gold spans."""

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        correct, predicted, gold = (weights @ table).T
        with np.errstate(invalid="ignore"):
            return {"span F1": 2 * correct / (predicted + gold)}

    return measure


def spearman(table: np.ndarray) -> Measure:
    """Spearman's correlation of a table of gold and predicted numbers, with mean ranks of ties."""
    values = [np.unique(column, return_inverse=True)[1] for column in table.T]

    def ranks(weights: np.ndarray, value: np.ndarray) -> np.ndarray:  # (B, E), centered
        order = np.argsort(value, kind="stable")
        counts = np.add.reduceat(weights[:, order], np.flatnonzero(np.diff(value[order], prepend=-1)), axis=1)
        return (counts.cumsum(1) - counts / 2 - weights.sum(1, keepdims=True) / 2)[:, value]

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        gold, predicted = (ranks(weights, value) for value in values)
        variances = (weights * gold**2).sum(1) * (weights * predicted**2).sum(1)
        with np.errstate(invalid="ignore"):
            return {"Spearman": (weights * gold * predicted).sum(1) / variances**0.5}

    return measure


def load(path: str) -> tuple[list[np.ndarray], MeasureOf]:
    """The table of each run, and its measure."""
    file = np.load(path)
    labels, scores = file["labels"], file["probabilities" if "probabilities" in file else "logits"]
    scores = scores.reshape(-1, *scores.shape[-2:])  # (runs, E, C)
    if scores.shape[2] == 1:
        return [np.stack([labels, run[:, 0]], 1) for run in scores], spearman
    if "sizes" not in file or (file["sizes"] == 1).all():
        return [np.stack([labels, run.argmax(1)], 1) for run in scores], classification(scores.shape[2])
    ends, names = file["sizes"].cumsum()[:-1], file["names"].astype(object)
    gold = [set(spans(names[tags])) for tags in np.split(labels, ends)]
    found = [[set(spans(names[tags])) for tags in np.split(run.argmax(1), ends)] for run in scores]
    counts = [[(len(a & b), len(b), len(a)) for a, b in zip(gold, run)] for run in found]
    return [np.array(run, float) for run in counts], span_f1


def coverage(path: str, rows: int, trials: int) -> None:
    """Intervals of 500 resamples."""
    (table, *_), measure_of = load(path)
    truth = {name: value[0] for name, value in measure_of(table)(np.ones((1, len(table)))).items()}
    found = defaultdict(list)
    for trial in range(trials):
        drawn = np.random.default_rng([trial, 1]).integers(0, len(table), rows)
        measured = intervals(measure_of(table[drawn]), np.arange(rows), resamples=500, seed=trial)
        for name, interval in measured.items():
            found[name].append(interval)
    print(f"{path}: {trials:,} samples of {rows} of {len(table):,} rows")
    for name, pairs in found.items():
        low, high = np.array(pairs).T
        below, above, width = (truth[name] < low).mean(), (truth[name] > high).mean(), np.nanmean(high - low)
        print(
            f"  {name} {truth[name]:.3f}: in {1 - below - above - np.isnan(low).mean():.1%} of the intervals,"
            f" below {below:.1%}, above {above:.1%}, no interval {np.isnan(low).mean():.1%}; mean width {width:.3f}"
        )


def worsened(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The table of the second model, made better or worse at random rows until its accuracy is DIFFERENCE below that of the first."""
    right, other = (table[:, 0] == table[:, 1] for table in (first, second))
    surplus = round(other.sum() - right.sum() + DIFFERENCE * len(first))
    rows = np.flatnonzero(other if surplus > 0 else ~other)
    changed, worse = np.random.default_rng(0).choice(rows, abs(surplus), replace=False), second.copy()
    gold = second[changed, 0]
    worse[changed, 1] = (gold + 1) % (1 + second.max()) if surplus > 0 else gold
    return worse


def paired(paths: list[str], rows: int, trials: int) -> None:
    """Size of the randomization test, of 1,000 rounds; for classification also of McNemar's test, and the power of both."""
    (first, second, *_), measure_of = [table for path in paths for table in load(path)[0]], load(paths[0])[1]
    classes = first.dtype.kind == "i" and measure_of is not span_f1
    worse = worsened(first, second) if classes else second
    for what, other in (("size", second), ("power", worse))[: 1 + classes]:
        rejected: dict[str, int] = defaultdict(int)
        for trial in range(trials):
            rng = np.random.default_rng([trial, 2])
            drawn, swap = rng.integers(0, len(first), rows), rng.integers(0, 2, (rows, 1)) * (what == "size")
            sides = np.where(swap, other[drawn], first[drawn]), np.where(swap, first[drawn], other[drawn])
            for name, (_, p) in randomization_test(
                measure_of(np.concatenate(sides)), np.arange(rows), 1000, trial
            ).items():
                rejected[name] += p < 0.05
            if classes:
                rejected["accuracy by McNemar"] += mcnemar(*(int(one.sum()) for one in only_right(*sides))) < 0.05
        print(f"{what}, {trials:,} samples of {rows} rows: {shares(rejected, trials)}")
    if classes:
        b, c = (one.mean() for one in only_right(first, worse))
        power = norm.cdf((abs(b - c) * rows**0.5 - norm.isf(0.025) * (b + c) ** 0.5) / (b + c - (b - c) ** 2) ** 0.5)
        print(f"power of McNemar's test in theory, {b:.1%} and {c:.1%} right by one model only: {power:.1%}")


def shares(counts: dict[str, int], trials: int) -> str:
    return ", ".join(f"{name} {count / trials:.1%}" for name, count in counts.items())


def only_right(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which examples only the first and only the second model gets right."""
    right, other = (table[:, 0] == table[:, 1] for table in (first, second))
    return right & ~other, other & ~right


def seeds(path: str, rows: int, trials: int, number: int) -> None:
    """Size of the test of recipes, with 500 resamples."""
    tables, measure_of = load(path)
    rejected = defaultdict(int)
    for trial in range(trials):
        rng = np.random.default_rng([trial, 3])
        drawn = rng.integers(0, len(tables[0]), rows)
        runs = [measure_of(tables[run][drawn]) for run in rng.permutation(len(tables))[: 2 * number]]
        sides = runs[:number], runs[number:]
        for name, result in multi_bootstrap(*sides, np.arange(rows), resamples=500, seed=trial).items():
            rejected[name] += result.p < 0.05
        for name, values in published(*sides, rows, rng).items():
            rejected[f"{name} as published"] += 2 * min((values <= 0).mean(), (values >= 0).mean()) < 0.05
    print(
        f"{path}: size, {trials:,} times {number} and {number} of {len(tables)} runs, {rows} rows: {shares(rejected, trials)}"
    )


def published(
    first: list[Measure], second: list[Measure], rows: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The differences in 500 resamples of seeds and rows (Sellam et al. 2022, for independent seeds)."""
    weights = rng.multinomial(rows, np.full(rows, 1 / rows), 500).astype(float)
    means = []
    for runs in (first, second):
        counts = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), 500)  # (500, runs)
        measured = [measure(weights) for measure in runs]
        means.append(
            {name: sum(counts[:, i] * one[name] for i, one in enumerate(measured)) / len(runs) for name in measured[0]}
        )
    return {name: means[0][name] - means[1][name] for name in means[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["intervals", "tests", "seeds"])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if options.what == "tests":
        paired(options.paths, options.rows or 872, options.trials)
    for path in options.paths:
        if options.what == "intervals":
            coverage(path, options.rows or 500, options.trials)
        elif options.what == "seeds":
            seeds(path, options.rows or 872, options.trials, options.seeds)


if __name__ == "__main__":
    main()
