"""What looks wrong in a fine-tuning, and what to try: findings about its labels, its loss and its metrics."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.model_selection import KFold, cross_val_score
from sklearn.naive_bayes import MultinomialNB

from bert.errors import InputError
from bert.finetuning.config import FinetuneRecipe, LossConfig
from bert.finetuning.evaluation.record import METRICS
from bert.finetuning.finish import BEST, REPORT, read_marker
from bert.finetuning.inputs import seen_texts
from bert.finetuning.tasks.index import task_named
from bert.finetuning.tasks.task import Task, flat
from bert.recipe import read_recipe
from bert.training.doctor import NOT_SEEN, Expected, Finding, of_curve, read_curve
from bert.training.folder import RECIPE

_MOST_ROWS, _FEWEST_ROWS, _LONGEST = 1_000, 40, 200
_SHIFTED, _SIGMAS = 0.05, 4  # by which a shift is better; planted: 0.2 of texts, 0.4 of words
_HIGHEST = 1.5  # times the loss of a guess; 200 times the learning rate: 2.2, healthy runs at their beginning: 1.1
_FEWEST, _RARE = 10, 0.03  # units of a label that is never predicted, and their share


def expected(task: Task, recipe: FinetuneRecipe, examples: Sequence[Any], labels: Sequence[str]) -> Expected | None:
    """What is known about the loss; None if the labels have weights or are smoothed, or depend on a model that is not at hand."""
    right = flat(task, examples, labels)
    if recipe.loss != LossConfig() or not len(right):
        return None
    constant = task.constant_loss(right.double().numpy(), len(labels))
    freeze = "" if recipe.freeze is None else f"a lower freeze than {recipe.freeze}, and "
    return Expected(
        constant, _HIGHEST * max(constant, math.log(task.classes(labels))), f"{freeze}optimizer.lr", (5e-6, 2e-3)
    )


def of_labels(examples: Sequence[Any]) -> Iterator[Finding]:
    """Labels that fit the text of the previous or the next row better, by naive Bayes on character n-grams of half of the rows, asked on
    the other half. In tagging, a row is a word."""
    parts = (
        zip(one.words, one.tags) if hasattr(one, "words") else [(one.key[:_LONGEST], one.label)] for one in examples
    )
    rows = [*islice(chain.from_iterable(parts), _MOST_ROWS)]
    if len(rows) < _FEWEST_ROWS:
        return
    texts, labels = zip(*rows)
    if not isinstance(labels[0], float) and len(set(labels)) > len(labels) / 2:  # translations
        return
    given = np.array(labels) > np.median(labels) if isinstance(labels[0], float) else np.array([*map(str, labels)])
    how = {"analyzer": "char_wb", "ngram_range": (3, 4), "norm": None, "alternate_sign": False}
    vectors = HashingVectorizer(n_features=1 << 15, **how).transform(texts)
    halves, model = KFold(2, shuffle=True, random_state=0), MultinomialNB(alpha=0.5)
    right = {shift: cross_val_score(model, vectors, np.roll(given, shift), cv=halves).mean() for shift in (0, 1, -1)}
    best, where = max(right, key=lambda shift: right[shift]), {1: "previous", -1: "next"}
    if right[best] > right[0] + max(_SHIFTED, _SIGMAS * (0.5 / len(rows)) ** 0.5):
        what = f"naive Bayes is right for {right[0]:.0%} of the labels, for {right[best]:.0%} of those of the {where[best]} row"
        yield Finding("labels shifted", f"{what}: the labels are shifted against the text; join both by an id")


def of_report(record: Mapping[str, Any]) -> Iterator[Finding]:
    """Labels that are never predicted; `record` is the content of report/metrics.json."""
    labels = record.get("labels", [])
    fewest = max(_FEWEST, _RARE * sum(one["count"] for one in labels))
    if never := [one for one in labels if not one["predicted"] and one["count"] >= fewest]:
        names = ", ".join(f"{one['label']!r} ({one['count']:,} rows)" for one in never[:5])
        fix = "give more epochs, another optimizer.lr, or loss.class_weights balanced"
        yield Finding("never predicted", f"never predicted on {record['data']}: {names}; {fix}")


def examine(run: Path) -> Iterator[Finding]:
    """What looks wrong in the run directory `run`: its rows, if they are still there, its logs and its report. Raises InputError."""
    recipe, known = read_recipe(run / RECIPE, FinetuneRecipe), None
    task, data = task_named(str(recipe.task)), recipe.data
    try:
        rows = task.read(str(data.train), data)
        train = list(rows)
        known = expected(task, recipe, train, task.labels(train))
        yield from of_labels(train)
        given = {"dev": data.dev, "test": data.test}
        asked = {name: list(task.read(file, data, learned=rows.columns)) for name, file in given.items() if file}
        yield from (Finding("dev among train", text) for text in seen_texts(train, asked))
    except InputError as error:
        yield Finding(NOT_SEEN, f"the rows were not looked at ({error})")
    for folder in (run, *sorted(run.glob("seed-*"))):
        if (folder / "metrics.csv").exists():
            whose = f"{folder.name}: " * (folder != run)
            for one in of_curve(read_curve(folder / "metrics.csv"), known, (folder / BEST).exists()):
                yield one._replace(text=whose + one.text)
    with suppress(LookupError, TypeError, AttributeError, ValueError):  # a report of another version, or damaged
        yield from of_report(read_marker(run / REPORT / METRICS))
