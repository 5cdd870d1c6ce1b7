"""Measure explanations of a classifier: integrated gradients against leave-one-out on the same texts, and both against random words.

    python recipes/measure_explanations.py MODEL DEV.tsv[.gz] [--limit N] [--steps 16]

Prints, for the first N texts, the mean of what the score loses without the top words of each method (a fifth of all words, at least one)
and without random ones, the ratio to leave-one-out with a 95 % interval of 2,000 paired bootstrap samples of the texts, and the share of
the texts in which a method is better than random words. `used` is what `bert predict --explain` does: leave-one-out up to 64 words.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np

from bert.finetuning.config import DataConfig
from bert.finetuning.explanation import MOST_LEFT_OUT, STEPS, Explanation, explain
from bert.finetuning.predict import load_predictor

SAMPLES = 2000


def ratio(drops: np.ndarray, reference: np.ndarray) -> str:
    """The ratio of two means with its interval."""
    draws = np.random.default_rng(0).integers(0, len(drops), (SAMPLES, len(drops)))
    low, high = np.percentile(drops[draws].mean(1) / reference[draws].mean(1), [2.5, 97.5])
    return f"{drops.mean() / reference.mean():.3f} ({low:.3f} to {high:.3f})"


def show(name: str, found: Sequence[Explanation], reference: Sequence[Explanation]) -> None:
    """Print the figures of a method."""
    drops, of_random = (np.array([getattr(one, field) for one in found]) for field in ("drop", "random_drop"))
    better = np.mean([one.is_better for one in found])
    of_reference = np.array([one.drop for one in reference])
    print(
        f"{name}: drop {drops.mean():.4f}, random {of_random.mean():.4f}, of leave-one-out {ratio(drops, of_reference)},"
        f" better than random in {better:.1%} of {len(found):,} texts",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    predictor = load_predictor(options.model)
    examples = list(predictor.read(options.file, DataConfig(), labeled=False))[: options.limit]
    found: dict[str, list[Explanation]] = {"leave-one-out": [], "integrated gradients": []}
    seconds = dict.fromkeys(found, 0.0)
    for number, example in enumerate(examples, start=1):
        for name, most in zip(found, (10**9, 0)):
            begin = time.perf_counter()
            found[name].append(explain(predictor, example, most, options.steps))
            seconds[name] += time.perf_counter() - begin
        if number % 100 == 0 or number == len(examples):
            left_out, gradients = found.values()
            for name, some in found.items():
                show(f"{name}, {seconds[name] / number:.2f} s a text", some, left_out)
            show("used", [a if len(a.words) <= MOST_LEFT_OUT else b for a, b in zip(left_out, gradients)], left_out)


if __name__ == "__main__":
    main()
