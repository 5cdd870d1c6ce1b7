"""A task: everything that distinguishes one downstream task from another, in one object.

Rows of a file → examples → labels as numbers, windows of tokens → scores → loss, metrics, predictions. A *unit* is what has a label: a
text, or a word of a sentence. N is the number of units, C the number of scores of each. The methods of the base class give each text one
of several labels; a task overrides what differs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from decimal import Decimal, InvalidOperation
from itertools import chain, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self
from unicodedata import category, normalize

import numpy as np
import torch
from scipy.stats import entropy
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.checkpoint import checkpoint
from torchmetrics import Metric

from bert.data.columns import LABELS, Columns
from bert.data.examples import Example, Examples, Parse, read_examples
from bert.data.files import unify
from bert.errors import InputError
from bert.finetuning.batches import Item, TaskBatch, collate, count_labels
from bert.finetuning.config import DataConfig, FinetuneRecipe
from bert.finetuning.evaluation.details import Detail, confusion
from bert.finetuning.evaluation.label_errors import Suspect, wrong_labels
from bert.finetuning.evaluation.per_example import Counts, PerExample, Totals, Values, f1, ratio
from bert.finetuning.initialization import with_new_head
from bert.finetuning.metrics import Scale, numbered, read
from bert.finetuning.windows import Window, WindowMaker
from bert.hf.folder import Source
from bert.inference.batching import Batch, Encoded, run_batches
from bert.model.decoder import Seq2Seq
from bert.model.heads import SequenceClassifier, TokenClassifier, mean_of_windows
from bert.model.loss import cross_entropy
from bert.training.step import LossTerms

TaskModel = SequenceClassifier | TokenClassifier
Names = Sequence[str]
Metrics = Mapping[str, Any]
_LOOK_ALIKE = str.maketrans(  # Cyrillic and Greek letters, a hyphen and a minus
    "АВЕКМНОРСТУХІЈЅаеорсухіјѕΑΒΕΖΗΙΚΜΝΟΡΤΥΧο\u2010\u2212", "ABEKMHOPCTYXIJSaeopcyxijsABEZHIKMNOPTYXo--"
)


@dataclass(frozen=True)
class Prediction:
    """What a task predicts for an example: a small dataclass of the module of the task."""

    explanation: Any = field(default=None, kw_only=True)
    """an `Explanation` if one was asked for"""

    def record(self, top: int | None) -> dict[str, Any]:
        """The values of a JSON object, of the `probabilities` only the `top` largest."""
        values = {name: value for name, value in asdict(self).items() if name != "explanation" or value is not None}
        return values if top is None else values | {"probabilities": dict(_largest(values["probabilities"], top))}

    def cells(self, top: int | None) -> Mapping[str, Any]:
        """The columns of a table."""
        return self.record(top)


@dataclass(frozen=True)
class LabelPrediction(Prediction):
    """One of several labels."""

    label: str
    """the most probable one"""
    probability: float
    """from 0 to 1"""
    probabilities: dict[str, float]
    """of all labels, the most probable first"""

    def cells(self, top: int | None) -> dict[str, str]:
        return ranked(self.probabilities, top or 1)


class Task:
    """A task. `model`, `problem_type` and `pipeline` are its names in Hugging Face; a model folder stores the first two."""

    name: ClassVar[str]
    model: ClassVar[type[SequenceClassifier | TokenClassifier | Seq2Seq]] = SequenceClassifier
    problem_type: ClassVar[str] = "single_label_classification"
    pipeline: ClassVar[str] = "text-classification"
    output: ClassVar[str] = "labels.tsv"
    """a name for a file of predictions"""
    formats: ClassVar[Sequence[str]] = ("tsv", "csv", "jsonl")
    """formats of a file of predictions, the usual one first"""
    has_top: ClassVar[bool] = True
    """whether it predicts probabilities of several labels"""
    scales: ClassVar[Mapping[str, Scale]]
    """how each metric is shown and compared, the headline first"""
    weights: ClassVar[Mapping[str, float]] = MappingProxyType({"loss": 1.0})
    """the loss terms by name, each with its weight in the loss"""
    label_names: ClassVar[Sequence[str]] = LABELS
    """usual names of the label column, the most likely first"""
    explains: ClassVar[bool] = True
    """whether words speak for or against its predictions: labels or numbers of whole texts"""
    bf16: ClassVar[bool | None] = None
    """compute predictions in bfloat16; none: if the hardware supports it natively"""
    rate: ClassVar[float] = 2.5e-5
    """the default learning rate for an encoder of the width 768"""
    steps: ClassVar[int] = 200
    """the fewest optimizer steps of a run, unless its recipe says how many"""
    baseline_words: ClassVar[str] = "the best constant prediction"
    """what the baseline of an evaluation is"""
    probe_examples: ClassVar[int] = 1_000
    """the examples to which a new output layer is fitted, unless its recipe says how many"""
    recipe_options: ClassVar[Sequence[str]] = (
        "loss.class_weights", "loss.label_smoothing", "label_errors", "head.pooling",
    )  # fmt: skip
    """the fields of `FinetuneRecipe` that this task and some others have"""
    parse: ClassVar[Parse | None] = None
    """parser of a label; none: the label is a name"""
    options: ClassVar[Sequence[str]] = ("text", "pair", "label")
    """the fields of `DataConfig` that this task and some others have"""

    # ── examples ──

    def read(self, file: str, data: DataConfig, labeled: bool = True, learned: Columns = Columns()) -> Examples:
        """The examples of a file, from the columns that `data` names, or those of training (`learned`); unless
        `labeled`, labels may be missing. Raises InputError."""
        given = data.text, data.pair, data.label
        return read_examples(file, *given, labeled, data.file_format, type(self).parse, self.label_names, learned)

    def names(self, example: Any) -> tuple[str, ...]:
        """The names of an example's labels."""
        return (example.label,)

    def outcomes(self, examples: Sequence[Any]) -> set[Any]:
        """The distinct values to predict."""
        return {name for example in examples for name in self.names(example)}

    def labels(self, examples: Sequence[Any]) -> tuple[str, ...]:
        """The names of the model's scores: the labels of `examples` in alphabetical order."""
        return tuple(sorted(self.outcomes(examples)))

    def classes(self, labels: Names) -> int:
        """The number of classes of a unit, between which a guess is made."""
        return len(labels)

    def numbers(self, example: Any, ids: Mapping[str, int]) -> tuple[float, ...]:
        """The labels of an example as numbers: the class id of each unit. `ids`: label name → class id."""
        return tuple(ids[name] for name in self.names(example))

    def item(self, example: Any, windows: list[Window], ids: Mapping[str, int]) -> Item:
        """An example as the model sees it."""
        return Item(windows, self.numbers(example, ids))

    def doubts(self, places: Mapping[str, str]) -> Iterator[str]:
        """Warnings about labels (`places`: where each stands first): of those that look alike or mean the same
        number."""
        first: dict[str | Decimal, str] = {}
        for label, where in places.items():
            if (twin := first.setdefault(printed(label), label)) != label:
                how = "only in case, spaces, look-alike characters or the notation of a number"
                yield f"{where}: the label {label!a} differs from {twin!a} ({places[twin]}) {how}; are they one?"

    def described(self, train: Sequence[Any], dev: Sequence[Any]) -> str:
        """A line about the labels of the training examples."""
        counts = Counter(name for example in train for name in self.names(example))
        most = [f"{name} {count:,}" for name, count in counts.most_common(12)]
        return f"labels: {', '.join(most)}" + f" and {len(counts) - 12} more" * (len(counts) > 12)

    def counted(self, sizes: Sequence[int]) -> str:
        """A count of examples, given the number of units of each."""
        return numbered(len(sizes), "example")

    # ── what is learned besides the weights ──

    def fitted(self, labels: Names, examples: Sequence[Any]) -> Self:
        """The task as these training examples determine it."""
        return self

    def settings(self) -> dict[str, Any]:
        """What `fitted` has learned, for a JSON file."""
        return {}

    def restored(self, settings: Mapping[str, Any], labels: Names) -> Self:
        """The task with these `settings`; empty ones are those of a model from elsewhere. Raises ValueError and TypeError if
        they are damaged."""
        return self

    def tables(self, labels: Names) -> dict[str, Any]:
        """What a program that is exported needs to decide as this task does; nothing by default."""
        return {}

    # ── model ──

    def windows(self, examples: Sequence[Any], maker: WindowMaker) -> list[list[Window]]:
        """The windows of each example."""
        return maker.from_texts([example.text for example in examples], [example.pair for example in examples])

    def begin(self, recipe: FinetuneRecipe, folder: Path) -> None:
        """Write the model from which a recipe without `model` starts to a folder. Raises InputError if the task needs a model."""
        raise InputError("no model to start from: give a model folder with --model")

    def start(self, source: Source, labels: Names, recipe: FinetuneRecipe, items: Sequence[Item]) -> Any:
        """The model before its training on `items`, from the folder of the recipe; random parameters are by `torch.manual_seed`."""
        return with_new_head(self, source, labels, recipe, items)

    def prepared(self, recipe: FinetuneRecipe, maker: WindowMaker) -> Self:
        """The task as it is done with the model that a recipe starts from. Raises InputError."""
        return self

    def bound(self, model: Any) -> Self:
        """The task as it is done with a model."""
        return self

    def initialize(self, model: TaskModel, items: Sequence[Item]) -> None:
        """Adjust the new head of a model to the training examples; nothing by default."""

    def logits(self, model: TaskModel, batch: TaskBatch) -> Tensor:
        """(R, C) or (R, T, C): the logits of the sequences of a batch.

        Twice `at_once` and more go through the model in parts, which are computed again in the backward pass (Chen et
        al. 2016, "Training Deep Nets with Sublinear Memory Cost"): memory hardly grows with the longest text."""
        inputs = [batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]]
        if len(batch["input_ids"]) < 2 * batch["at_once"]:
            return model(*inputs).logits
        parts = zip(*(repeat(None) if one is None else one.split(batch["at_once"]) for one in inputs))
        return torch.cat([checkpoint(lambda *part: model(*part).logits, *part, use_reentrant=False) for part in parts])

    def collate(self, items: Sequence[Item], pad_id: int, at_once: int | None = None) -> TaskBatch:
        """The micro-batch of some examples."""
        return collate(items, pad_id, at_once)

    def scores(self, model: TaskModel, batch: TaskBatch) -> Tensor:
        """(N, C): the scores of each unit of the batch; for a text the mean over its windows."""
        return mean_of_windows(self.logits(model, batch), batch["example_ids"], len(batch["sizes"]))

    def kept(self, logits: Tensor, window: Window) -> Tensor:
        """The logits of the units that a window labels, from those of the window, (C,) or (T, C)."""
        return logits

    def of_example(self, logits: Sequence[Tensor], windows: Sequence[Window]) -> Tensor:
        """(units, C): the scores of an example, from what `kept` gave for each of its windows."""
        return torch.stack(list(logits)).mean(0, keepdim=True)

    def outputs(self, model: TaskModel, examples: Sequence[Any], maker: WindowMaker, bf16: bool | None) -> list[Any]:
        """What the model computes for each example: the scores (units, C) of its units."""
        return list(window_scores(self, model, self.windows(examples, maker), bf16))

    def counts(self, items: Sequence[Item]) -> dict[str, int]:
        """The denominator of each loss term, by name: counted over the examples of a global batch, before any forward pass."""
        return count_labels(items)

    def loss(self, scores: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> LossTerms:
        """The loss terms of scores (N, C), as sums over what `counts` counts; `labels` are flat, with the values of `numbers`.
        `weights` (C,) and `smoothing`: see `cross_entropy`."""
        return LossTerms({"loss": cross_entropy(scores, labels, weights, smoothing)[0]}, self.weights)

    def class_weights(self, labels: Tensor, classes: int) -> Tensor:
        """(C,): the weights with which all classes count equally in the loss; their mean over the flat `labels` of a training file is 1.
        A class without an example has 0."""
        counts = labels.bincount(minlength=classes).float()
        return (len(labels) / (counts > 0).sum() / counts).where(counts > 0, 0.0)

    # ── metrics ──

    def metrics(self, labels: Names, examples: Sequence[Any]) -> dict[str, Metric]:
        """The metrics for these labels, the headline first: all of `scales`, or some of them. `examples` are labeled."""
        raise NotImplementedError

    def decide(self, scores: Tensor, sizes: Sequence[int]) -> Tensor:
        """The predictions from the scores (N, C) of examples with `sizes` units, in the form that metrics take."""
        return scores.argmax(-1)

    def update(self, metrics: Metrics, scores: Tensor, labels: Tensor, sizes: Sequence[int]) -> None:
        """Update the metrics with the scores (N, C) and the flat labels of examples with `sizes` units."""
        decided = self.decide(scores, sizes)
        for metric in metrics.values():
            metric.update(decided, labels.view_as(decided))

    def measure(self, metrics: Metrics, model: TaskModel, batch: TaskBatch, scores: Tensor) -> None:
        """Update the metrics with a batch of dev examples, whose `scores` are known."""
        self.update(metrics, scores, batch["labels"], batch["sizes"])

    def without_model(self, learned: Sequence[Any], asked: Sequence[Any], labels: Names) -> dict[str, float]:
        """The metrics on `asked` of predictions without a model, derived from the labels of `learned`."""
        metrics, scores = self.metrics(labels, learned), self.baseline(learned, asked, labels)
        self.update(metrics, torch.cat(scores), flat(self, asked, labels), [len(one) for one in scores])
        return read(metrics)

    def scored(self, labels: Names, examples: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Labeled examples with their outputs, as a `Scored` of this task's own; None if the outputs are scores (units, C)."""
        return None

    def per_example(self, scored: Any, decided: np.ndarray) -> PerExample:
        """The metrics of the weighted examples of a `Scored`, from what `decide` gives."""
        return Counts.of_classes(scored.labels, decided, scored.right.numpy(), scored.sizes, _classification)

    def choices(self, scores: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """The logits (M, C) of all decisions between C classes, and the right classes (M,), for calibration; M is 0 if there
        are none."""
        return scores, right

    def tuned(self, scores: Tensor, right: Tensor) -> Self:
        """The task with thresholds that are fitted to the scores (N, C) of a dev set, where it has some."""
        return self

    def constant(self, labels: Tensor, classes: int) -> Tensor:
        """(C,): the scores of the best constant prediction for flat labels; the first one of ties."""
        return one_hot(labels.bincount(minlength=classes).argmax(), classes).float()

    def baseline(self, learned: Sequence[Any], asked: Sequence[Any], labels: Names) -> list[Tensor]:
        """The scores (units, C) of each of `asked` without a model, derived from the labels of `learned`."""
        return [self.constant(flat(self, learned, labels), len(labels))[None]] * len(asked)

    def constant_loss(self, labels: np.ndarray, classes: int) -> float:
        """The loss of the best constant prediction: the entropy of the flat `labels`."""
        return float(entropy(np.bincount(labels.astype(int), minlength=classes)))

    def details(self, scored: Any, training: Sequence[Any] = ()) -> Sequence[Detail]:
        """What an evaluation shows of this task only: `scored` is a `Scored`, and `training` are the examples that the model learned
        from, if they are known."""
        return [confusion(scored.labels, np.stack([scored.right, scored.decided]), scored.losses, scored.sizes)]

    # ── predictions ──

    def example(self, text: Any, pair: str | None = None) -> Any:
        """An example without a label, as `read` gives it. Raises InputError if it is not one of this task."""
        if not isinstance(text, str) or not isinstance(pair, str | None):
            raise InputError(f"predict: {text if pair is None else pair!r} is not a text; give strings")
        return Example(unify(text).strip(), None if pair is None else unify(pair).strip())

    def probabilities(self, scores: Tensor) -> Tensor:
        """(N, C) → (N, C): the probabilities of the labels; the numbers themselves if numbers are predicted."""
        return scores.softmax(-1)

    def prediction(self, example: Any, scores: Tensor, labels: Names) -> Any:
        """The prediction from the scores (units, C) of an example."""
        values, classes = self.probabilities(scores)[0].sort(descending=True, stable=True)
        found = {labels[i]: round(p, 6) for i, p in zip(classes.tolist(), values.tolist())}
        return LabelPrediction(*next(iter(found.items())), found)

    def suspects(self, examples: list[Any], scores: Sequence[Tensor], labels: Names) -> list[Suspect]:
        """The labels of examples that are likely wrong, from scores (units, C) of models that have not seen them."""
        given, probabilities = flat(self, examples, labels), torch.cat([*scores]).double().softmax(-1)
        return wrong_labels(examples, given.numpy(), probabilities.numpy(), labels)

    def given(self, example: Any) -> dict[str, Any]:
        """The columns of the input, which a file of predictions repeats."""
        return example.row or {}

    def gold(self, example: Any, labels: Names) -> Any:
        """What is right for a labeled example, in the form of a prediction, for a JSON file."""
        return example.label

    def texts(self, example: Any) -> list[str]:
        """The texts of an example, as a page shows them."""
        return [text for text in (example.text, example.pair) if text is not None]

    def page(self, predictions: Sequence[Any], source: str, count: int) -> str:
        """An HTML page of the first predictions of `count`, which come from `source`. Raises InputError if the task has none."""
        raise InputError(f"--html shows spans, and {source} is for {self.name}; add --explain to show words")

    def usual_format(self, example: Any, on_terminal: bool) -> str:
        """The format of predictions for examples like this one."""
        return self.formats[0]


def window_scores(task: Task, model: TaskModel, windows: Sequence[list[Window]], bf16: bool | None) -> list[Tensor]:
    """The scores (units, C) of each example, given its windows."""
    flat = list(chain(*windows))

    def kept(output: Any, batch: Batch) -> list[Tensor]:
        logits = output.logits.float().cpu()  # (B, C) or (B, T, C)
        return [task.kept(one, flat[place]) for one, place in zip(logits, batch.positions)]

    inputs = [Encoded(window.ids, window.token_types) for window in flat]
    found = iter(run_batches(model, inputs, kept, bf16=bf16))
    return [task.of_example([next(found) for _ in one], one) for one in windows]


def ranked(probabilities: Mapping[str, float], top: int) -> dict[str, str]:
    """Columns `label`, `probability`, `label_2`, `probability_2`, … of the `top` most probable labels."""
    columns: dict[str, str] = {}
    for number, (label, p) in enumerate(_largest(probabilities, top), start=1):
        end = f"_{number}" * (number > 1)
        columns |= {f"label{end}": label, f"probability{end}": f"{p:.4f}"}
    return columns


def _largest(probabilities: Mapping[str, float], top: int) -> list[tuple[str, float]]:
    return sorted(probabilities.items(), key=lambda one: -one[1])[:top]


def _classification(totals: Totals) -> Values:
    """Accuracy, macro F1 over the labels that occur, and Matthews' correlation of several classes (Gorodkin 2004)."""
    correct, predicted, gold, _ = totals
    count, found = gold.sum(1), correct.sum(1)
    covariance = found * count - (predicted * gold).sum(1)
    spread = np.sqrt((count**2 - (predicted**2).sum(1)) * (count**2 - (gold**2).sum(1)))
    macro = ratio(np.nansum(f1(correct, predicted, gold), 1), (predicted + gold > 0).sum(1))
    return {"accuracy": ratio(found, count), "macro_f1": macro, "mcc": ratio(covariance, spread)}


def flat(task: Task, examples: Iterable[Any], labels: Names) -> Tensor:
    """The labels of examples as a flat tensor of numbers, as in a batch."""
    ids = {label: number for number, label in enumerate(labels)}
    return torch.tensor([number for example in examples for number in task.numbers(example, ids)])


def printed(label: str) -> str | Decimal:
    """What a label looks like or, if it is a number, means."""
    shown = (sign for sign in normalize("NFKC", label) if category(sign) != "Cf" and not "\ufe00" <= sign <= "\ufe0f")
    text = " ".join("".join(shown).translate(_LOOK_ALIKE).split())
    with suppress(InvalidOperation):
        if (number := Decimal(text)).is_finite():
            return number
    return text.casefold()


def first_of(names: Sequence[str], most: int) -> str:
    """The first names, and … if there are more."""
    return ", ".join([*names[:most], *["…"] * (len(names) > most)])
