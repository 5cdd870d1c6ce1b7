"""`bert evaluate` of a fine-tuned model: its figures on labelled rows, label by label, beside what the most frequent label gets."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sklearn.metrics import precision_recall_fscore_support

from bert.errors import InputError
from bert.finetuning import figures
from bert.finetuning.config import DataConfig
from bert.finetuning.inputs import labels_of, no_words, read_labelled
from bert.finetuning.metrics import SpanF1, scheme_of
from bert.finetuning.predict import Predictor, load_predictor


@dataclass(frozen=True)
class LabelFigures:
    """How well a label, or a type of span, is found."""

    label: str
    precision: float
    recall: float
    f1: float
    count: int
    """how often it stands in the data"""


@dataclass(frozen=True)
class Evaluation:
    """What a model does on labelled rows."""

    figures: dict[str, float]
    """the headline first"""
    baseline: dict[str, float]
    """the same for a guess that is always the most frequent label of the data"""
    labels: list[LabelFigures]
    examples: int
    words: int | None
    """tagging: how many words that are"""


def evaluate(folder: str | Path, file: str, data: DataConfig) -> Evaluation:
    """Measure the fine-tuned model of `folder` on the labelled rows of `file`. Raises InputError."""
    return evaluate_predictor(load_predictor(folder), file, data)


def evaluate_predictor(predictor: Predictor, file: str, data: DataConfig) -> Evaluation:
    """The same of a model that is open already."""
    known, tagging = predictor.model.labels, predictor.task == "tag"
    guessed: list[tuple[str, ...]] = []
    right: list[tuple[str, ...]] = []
    for example, guesses in predictor(read_labelled(predictor.task, file, data)):
        for label in labels_of(example):
            if label not in known:
                raise InputError(
                    f"{example.where}: label {label!r} is none of the model's ({', '.join(known[:20])}): repair it, or name"
                    " the column that has them"
                )
        right.append(labels_of(example))
        guessed.append(tuple(guess.label for guess in guesses))
    counts = Counter(label for labels in right for label in labels)
    if not counts:
        raise no_words(file)
    frequent = min(counts, key=lambda label: (-counts[label], label))
    spans_known = scheme_of((tag,) for tag in known) if tagging else None  # none: some of the model's tags mark no span
    measured = figures.make_figures(known, tagging, (scheme_of(right) or spans_known) if spans_known else None)
    figures.update(measured, known, guessed, right)
    spans = measured.get("span_f1")
    parts = _spans(spans) if isinstance(spans, SpanF1) else _labels(known, guessed, right)
    values = figures.read(measured)
    figures.update(measured, known, [[frequent] * len(labels) for labels in right], right)
    return Evaluation(values, figures.read(measured), parts, len(right), sum(counts.values()) if tagging else None)


def _spans(figure: SpanF1) -> list[LabelFigures]:
    values = {name: float(value) for name, value in figure.compute().items()}
    return [
        LabelFigures(
            kind,
            values[f"precision_{kind}"],
            values[f"recall_{kind}"],
            values[f"f1_{kind}"],
            int(values[f"gold_{kind}"]),
        )
        for kind in figure.types
    ]


def _labels(known: tuple[str, ...], guessed: list[tuple[str, ...]], right: list[tuple[str, ...]]) -> list[LabelFigures]:
    flat = [[label for labels in side for label in labels] for side in (right, guessed)]
    seen = [label for label in known if label in set(flat[0]) | set(flat[1])]
    precision, recall, f1, count = precision_recall_fscore_support(*flat, labels=seen, zero_division=0)
    return [
        LabelFigures(label, float(p), float(r), float(f), int(n))
        for label, p, r, f, n in zip(seen, precision, recall, f1, count)
    ]


def say_evaluation(evaluation: Evaluation, say: Callable[[str], None] = print) -> None:
    """Print an evaluation as a small table."""
    what = f"{evaluation.examples:,} {'examples' if evaluation.words is None else 'sentences'}"
    say(what if evaluation.words is None else f"{what}, {evaluation.words:,} words")
    say(f"{'':<16}{'model':>8}{'baseline':>10}")
    for name, value in evaluation.figures.items():
        say(f"{name.replace('_', ' ').replace('f1', 'F1'):<16}{value:>8.1%}{evaluation.baseline[name]:>10.1%}")
    width = max(len("label"), *(len(part.label) for part in evaluation.labels)) if evaluation.labels else 5
    say(f"\n{'label':<{width}}{'precision':>11}{'recall':>8}{'F1':>8}{'count':>9}")
    for part in evaluation.labels:
        say(f"{part.label:<{width}}{part.precision:>11.1%}{part.recall:>8.1%}{part.f1:>8.1%}{part.count:>9,}")
