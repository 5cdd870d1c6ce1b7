"""One label for each word of a sentence: names, parts of speech.

If the labels mark spans (B-PER, I-PER, O), the headline is span F1 as computed by conlleval.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from bert.data.columns import Columns
from bert.data.examples import Examples, TaggedExample, read_tagged
from bert.data.rows import is_number
from bert.errors import InputError
from bert.finetuning.batches import TaskBatch
from bert.finetuning.config import DataConfig
from bert.finetuning.metrics import SpanF1, marks_span, numbered, percents, scheme_of, span_tags
from bert.finetuning.tasks.task import Guess, LabelMetrics, Metrics, Names, Task, TaskModel, flat
from bert.finetuning.windows import Window, WindowMaker
from bert.model.heads import TokenClassifier


class Tag(Task):
    """The label of a word is predicted at its first token, in the window that labels the word."""

    name = "tag"
    model = TokenClassifier
    pipeline = "token-classification"
    output = "tags.conll"
    options = ("words", "tags")
    scales = percents("span F1", "strict span F1", "accuracy")

    def read(self, file: str, data: DataConfig, labeled: bool = True, learned: Columns = Columns()) -> Examples:
        read = read_tagged(file, data.words, data.tags, labeled, data.file_format, learned)
        return Examples(read.columns, _with_words(file, read.rows)) if labeled else read

    def names(self, example: TaggedExample) -> tuple[str, ...]:
        return example.tags or ()

    def counted(self, sizes: Sequence[int]) -> str:
        return f"{numbered(len(sizes), 'sentence')}, {numbered(sum(sizes), 'word')}"

    def windows(self, examples: Sequence[TaggedExample], maker: WindowMaker) -> list[list[Window]]:
        return maker.from_sentences([example.words for example in examples])

    def scores(self, model: TaskModel, batch: TaskBatch) -> Tensor:
        return self.logits(model, batch).flatten(0, 1)[batch["word_positions"]]

    def of_example(self, logits: Sequence[Tensor], windows: Sequence[Window]) -> Tensor:
        words = torch.tensor([word for window in windows for word in window.words], dtype=torch.long)
        return torch.cat([one[list(window.starts)] for one, window in zip(logits, windows)])[words.argsort()]

    def metrics(self, labels: Names, examples: Sequence[TaggedExample]) -> dict[str, Metric]:
        accuracy: dict[str, Metric] = {"accuracy": MulticlassAccuracy(len(labels), average="micro")}
        tags = span_tags(labels)
        if not tags:
            return accuracy
        tag_of = dict(zip(labels, tags))
        in_text = scheme_of([tag_of[name] for name in self.names(example)] for example in examples)
        scheme = in_text or scheme_of((tag,) for tag in tags) or "IOB2"
        return {"span_f1": SpanF1(tags), "strict_span_f1": SpanF1(tags, "strict", scheme), **accuracy}

    def doubts(self, places: Mapping[str, str]) -> Iterator[str]:
        yield from super().doubts(places)
        if all(map(is_number, places)):
            yield f"{next(iter(places.values()))}: tags are numbers, so that there is no span F1; write their names"
        strays = [tag for tag in places if tag != "O" and not marks_span(tag)]
        if span_tags([*places]) or any(len(tag) > 1 for tag in places.keys() - strays):
            told = "counts as O in span F1" if span_tags([*places]) else "there is no span F1"
            yield from (f"{places[tag]}: the tag {tag!r} marks no span, as B-PER does; {told}" for tag in strays)

    def update(self, metrics: Metrics, scores: Tensor, labels: Tensor, sizes: Sequence[int]) -> None:
        decided = self.decide(scores)
        metrics["accuracy"].update(decided, labels)
        for metric in metrics.values():
            if isinstance(metric, SpanF1):
                sides = (side.split(list(sizes)) for side in (decided, labels))
                metric.update(*([[metric.tags[i] for i in one.tolist()] for one in side] for side in sides))

    def parts(self, metrics: Metrics, labels: Names, scores: Tensor, right: Tensor) -> list[LabelMetrics]:
        if "span_f1" not in metrics:
            return super().parts(metrics, labels, scores, right)
        found, names = metrics["span_f1"].compute(), ("gold", "precision", "recall", "f1")
        rows = {kind: [float(found[f"{name}_{kind}"]) for name in names] for kind in metrics["span_f1"].types}
        return [LabelMetrics(kind, int(count), *shares) for kind, (count, *shares) in rows.items()]

    def baseline(self, learned: Sequence[Any], asked: Sequence[Any], labels: Names) -> list[Tensor]:
        """The most frequent tag of a word; for an unknown word the most frequent tag of all."""
        found = defaultdict(list)
        classes = flat(self, learned, labels)
        for word, number in zip((word for example in learned for word in example.words), classes.tolist(), strict=True):
            found[word].append(number)
        of_word = {word: self.constant(torch.tensor(ids), len(labels)) for word, ids in found.items()}
        overall = self.constant(classes, len(labels))
        return [torch.stack([of_word.get(word, overall) for word in one.words]) for one in asked if one.words]

    def header(self, labels: Names) -> str:
        return ""

    def lines(self, example: TaggedExample, prediction: list[Guess]) -> str:
        words = zip(example.words, prediction, strict=True)
        return "".join(f"{word}\t{guess.label}\t{guess.probability:.4f}\n" for word, guess in words) + "\n"


def _with_words(file: str, examples: Iterator[TaggedExample]) -> Iterator[TaggedExample]:
    any_word = False
    for example in examples:
        any_word |= bool(example.words)
        yield example
    if not any_word:
        raise InputError(f"{file}: no words: give at least one sentence with a word")


TASK = Tag()
