"""One label for each word of a sentence: names, parts of speech.

If the labels mark spans (B-PER, I-PER, O), the headline is span F1 as computed by conlleval.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from bert.data.examples import TaggedExample, read_tagged
from bert.errors import InputError
from bert.finetuning.batches import TaskBatch
from bert.finetuning.config import DataConfig
from bert.finetuning.metrics import SpanF1, percents, scheme_of
from bert.finetuning.tasks.task import Guess, LabelMetrics, Metrics, Names, Task, TaskModel, flat
from bert.finetuning.windows import Window, WindowMaker
from bert.model.heads import TokenClassifier


class Tag(Task):
    """The label of a word is predicted at its first token, in the window that labels the word."""

    name = "tag"
    model = TokenClassifier
    pipeline = "token-classification"
    output = "tags.conll"
    scales = percents("span F1", "strict span F1", "accuracy")

    def read(self, file: str, data: DataConfig, labeled: bool = True) -> Iterator[TaggedExample]:
        any_word = not labeled
        for example in read_tagged(file, data.words, data.tags, labeled, data.file_format):
            any_word |= bool(example.words)
            yield example
        if not any_word:
            raise InputError(f"{file}: no words: give at least one sentence with a word")

    def names(self, example: TaggedExample) -> tuple[str, ...]:
        return example.tags or ()

    def counted(self, sizes: Sequence[int]) -> str:
        return f"{len(sizes):,} sentences, {sum(sizes):,} words"

    def windows(self, examples: Sequence[TaggedExample], maker: WindowMaker) -> list[list[Window]]:
        return maker.from_sentences([example.words for example in examples])

    def scores(self, model: TaskModel, batch: TaskBatch) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits  # (B, T, C)
        return logits.flatten(0, 1)[batch["word_positions"]]

    def of_example(self, logits: Sequence[Tensor], windows: Sequence[Window]) -> Tensor:
        words = torch.tensor([word for window in windows for word in window.words], dtype=torch.long)
        return torch.cat([one[list(window.starts)] for one, window in zip(logits, windows)])[words.argsort()]

    def metrics(self, labels: Names, examples: Sequence[TaggedExample]) -> dict[str, Metric]:
        accuracy: dict[str, Metric] = {"accuracy": MulticlassAccuracy(len(labels), average="micro")}
        of_labels = scheme_of((label,) for label in labels)  # none: some do not mark spans
        if of_labels is None:
            return accuracy
        scheme = scheme_of(map(self.names, examples)) or of_labels
        return {"span_f1": SpanF1(labels), "strict_span_f1": SpanF1(labels, "strict", scheme), **accuracy}

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


TASK = Tag()
