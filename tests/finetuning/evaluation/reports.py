"""Reports of all tasks from random scores, without a model."""

from dataclasses import replace

import numpy as np
import torch

from bert.data.examples import Example
from bert.data.tagged import TaggedExample
from bert.finetuning.evaluate import Evaluation
from bert.finetuning.evaluation.calibration import tune
from bert.finetuning.evaluation.record import Report
from bert.finetuning.evaluation.scored import Scored
from bert.finetuning.tasks.index import task_named
from bert.finetuning.tasks.task import flat
from tests.finetuning.synthetic import sentences

LABELS = ("early", "late", "other")
TAGS = ("B-WHAT", "B-WHO", "I-WHAT", "I-WHO", "O")


def scored_of(task, labels, examples, sharpness=2.0, seed=0):
    """Examples with scores that are right more often than not: larger by `sharpness` on average for what is right."""
    draw = torch.Generator().manual_seed(seed)
    right, sizes = flat(task, examples, labels), [len(one.words) if hasattr(one, "words") else 1 for one in examples]
    noise = torch.randn(sum(sizes), len(labels), generator=draw)
    if task.name == "regression":
        return Scored(task, labels, examples, right[:, None].float() + noise, sizes)
    several = task.name == "multilabel"
    there = right.view(-1, len(labels)) if several else torch.nn.functional.one_hot(right, len(labels))
    return Scored(task, labels, examples, noise + sharpness * (there - 0.5 * several), sizes)


def texts(count, seed=0):
    return [" ".join(words) for words, _ in sentences(count, seed)]


def classify(count=300, labels=LABELS, **options):
    draw = np.random.default_rng(0)
    share = np.arange(len(labels), 0, -1) ** 1.5
    found = draw.choice(len(labels), size=count, p=share / share.sum())
    examples = [
        Example(text, None, labels[number], f"dev.tsv, line {line}", {"source": f"source {line % 3}"})
        for line, (text, number) in enumerate(zip(texts(count), found), 2)
    ]
    return scored_of(task_named("classify"), labels, examples, **options)


def multilabel(count=300, labels=LABELS, **options):
    draw = np.random.default_rng(0)
    there = draw.random((count, len(labels))) < np.linspace(0.5, 0.1, len(labels))
    examples = [
        Example(text, None, tuple(label for label, has in zip(labels, row) if has), f"dev.tsv, line {line}")
        for line, (text, row) in enumerate(zip(texts(count), there), 2)
    ]
    return scored_of(task_named("multilabel"), labels, examples, **options)


def regression(count=300):
    draw = np.random.default_rng(0)
    examples = [
        Example(text, text, float(value), f"dev.tsv, line {line}")
        for line, (text, value) in enumerate(zip(texts(count), draw.integers(0, 6, count)), 2)
    ]
    return scored_of(task_named("regression"), ("value",), examples)


def tagged(count=200, seed=0):
    return [
        TaggedExample(tuple(words), tuple(tags), f"dev.conll, line {line}")
        for line, (words, tags) in enumerate(sentences(count, seed), 1)
    ]


def tag(count=200, sharpness=3.0, labels=TAGS):
    examples = tagged(count)
    return scored_of(task_named("tag").fitted(labels, examples), labels, examples, sharpness)


def report_of(scored, is_tuned=False, **more):
    """The report of scored examples, by length; `is_tuned`: after fitting a temperature and thresholds to them."""
    tuned = tune(scored) if is_tuned else None
    if tuned is not None:
        scored = replace(scored, task=tuned.task, scores=scored.scores / tuned.temperature)
        more |= {"tuned": tuned.report, "is_selected": True}
    evaluation = Evaluation(scored, np.arange(len(scored.sizes)), "text")
    return Report(evaluation, "runs/topics/model", "dev.tsv", **({"slices": {"length": evaluation.by_length()}} | more))
