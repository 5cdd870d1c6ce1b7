"""What is measured of a classifier or a tagger, and what anybody gets without a model.

The first figure is the headline, by which the best model is known: accuracy, for tags that mark spans (B-PER, I-PER, O)
the span F1 as conlleval counts it.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from bert.finetuning.metrics import Scheme, SpanF1
from bert.model.heads import IGNORED

Tags = Sequence[str]


def make_figures(labels: Sequence[str], tagging: bool, scheme: Scheme | None = None) -> dict[str, Metric]:
    """The figures for these labels, the headline first. `scheme` is that of the tags; none: they mark no spans."""
    accuracy = MulticlassAccuracy(len(labels), average="micro", ignore_index=IGNORED)
    if not tagging:
        return {"accuracy": accuracy, "macro_f1": MulticlassF1Score(len(labels), average="macro", ignore_index=IGNORED)}
    if scheme is None:
        return {"accuracy": accuracy}
    return {
        "span_f1": SpanF1(labels, "conlleval"),
        "strict_span_f1": SpanF1(labels, "strict", scheme),
        "accuracy": accuracy,
    }


def update(figures: Mapping[str, Any], labels: Sequence[str], guessed: Sequence[Tags], right: Sequence[Tags]) -> None:
    """Count examples, each with the labels that it was given and those that are right: one, or one a word."""
    ids = {label: number for number, label in enumerate(labels)}
    flat = [torch.tensor([ids[label] for tags in side for label in tags]) for side in (guessed, right)]
    for figure in figures.values():
        if isinstance(figure, SpanF1):
            figure.update(guessed, right)
        elif len(flat[0]):
            figure.update(*(side.to(figure.device) for side in flat))


def read(figures: Mapping[str, Any]) -> dict[str, float]:
    """The values, 0 to 1; the counts are 0 again."""
    values = {}
    for name, figure in figures.items():
        value = figure.compute()
        values[name] = float(value["f1"] if isinstance(value, dict) else value)
        figure.reset()
    return values


def in_words(figures: dict[str, float]) -> str:
    """`accuracy 91.2%, macro F1 90.8%`."""
    return ", ".join(f"{name.replace('_', ' ').replace('f1', 'F1')} {value:.1%}" for name, value in figures.items())


def baseline(
    learned: Sequence[tuple[Sequence[str], Tags]],
    asked: Sequence[tuple[Sequence[str], Tags]],
    labels: Tags,
    tagging: bool,
    scheme: Scheme | None = None,
) -> dict[str, float]:
    """The figures on `asked` of a guess without a model, from (words, labels) of examples.

    Classify: the most frequent label for every text. Tag: for each word the tag that it most often has in `learned`, for
    an unknown word the most frequent of all.
    """
    overall = Counter(label for _, of_example in learned for label in of_example)
    most_frequent = _most_frequent(overall)
    of_word: dict[str, Counter[str]] = defaultdict(Counter)
    if tagging:
        for words, tags in learned:
            for word, tag in zip(words, tags):
                of_word[word][tag] += 1
    best = {word: _most_frequent(counts) for word, counts in of_word.items()}
    guessed = [[best.get(word, most_frequent) for word in words] if tagging else [most_frequent] for words, _ in asked]
    figures = make_figures(labels, tagging, scheme)
    update(figures, labels, guessed, [tags for _, tags in asked])
    return read(figures)


def _most_frequent(counts: Counter[str]) -> str:
    """Of equally frequent labels the first in the alphabet, whatever the order of the file."""
    return min(counts, key=lambda label: (-counts[label], label))
