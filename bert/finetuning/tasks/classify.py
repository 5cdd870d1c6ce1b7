"""One label for each text or pair of texts."""

from collections.abc import Sequence
from typing import Any

from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from bert.finetuning.metrics import percents
from bert.finetuning.tasks.task import Names, Task


class Classify(Task):
    """The headline is accuracy; macro F1 is the mean over labels, so that rare ones count as much as frequent ones."""

    name = "classify"
    scales = percents("accuracy", "macro F1")

    def metrics(self, labels: Names, examples: Sequence[Any]) -> dict[str, Metric]:
        accuracy = MulticlassAccuracy(len(labels), average="micro")
        return {"accuracy": accuracy, "macro_f1": MulticlassF1Score(len(labels), average="macro")}


TASK = Classify()
