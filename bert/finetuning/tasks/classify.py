"""One label for each text or pair of texts."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassMatthewsCorrCoef

from bert.finetuning.metrics import Scale, percents
from bert.finetuning.tasks.task import Names, Task


class Classify(Task):
    """The headline is accuracy. Macro F1 is the mean over labels, so that rare ones count as much as frequent ones; MCC, Matthews'
    correlation, is 0 for any constant prediction."""

    name = "classify"
    scales: ClassVar = percents("accuracy", "macro F1") | {"mcc": Scale("MCC", percent=False)}

    def metrics(self, labels: Names, examples: Sequence[Any]) -> dict[str, Metric]:
        count = len(labels)
        metrics = MulticlassAccuracy(count, average="micro"), MulticlassF1Score(count, average="macro")
        return dict(zip(self.scales, (*metrics, MulticlassMatthewsCorrCoef(count))))


TASK = Classify()
