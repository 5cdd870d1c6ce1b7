"""The model of a run before its training: the encoder of a folder with a new head, whose output layer is fitted to the vectors that the
encoder has already."""

import logging
from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from bert.finetuning.batches import Batches, Item
from bert.finetuning.config import FinetuneRecipe
from bert.hf.folder import Source, head_of, start

logger = logging.getLogger(__name__)

Task = Any
"""that of `bert.finetuning.tasks.task`, which imports this module"""


def with_new_head(
    task: Task, source: Source, labels: Sequence[str], recipe: FinetuneRecipe, items: Sequence[Item]
) -> Any:
    """The encoder of `source` with a head for `labels`: that of the folder, if it has the same task and labels, or a new one, adjusted to
    the training examples `items`."""
    head = recipe.head
    pairs = any(items[0].windows[0].token_types or ())
    model: Any = start(task.model, source, labels, head.dropout, head.pooling, task.problem_type, pairs)
    if model.pooling in ("mean", "siamese") and head.pooling is None:
        logger.info(
            f"head.pooling: {model.pooling}, as {source.folder} pools; give cls for a BERT that transformers can open"
        )
    if not keep_output(model, source, task):
        task.initialize(model, items)
        batches = Batches(items, recipe.data.batch_size, model.config.pad_id, recipe.seed)
        assert head.probe_examples is not None  # the recipe is resolved
        fit_output(model, task, batches, head.probe_examples, class_weights_of(task, labels, recipe, items))
    return model


def fit_output(model: Any, task: Task, batches: Batches, examples: int, class_weights: Tensor | None = None) -> None:
    """Fit the output layer to the vectors that the model has for the first `examples` of the training: fine-tuning that starts at a linear
    probe changes the encoder less than from a random head, and depends less on the seed (Kumar et al. 2022, "Fine-Tuning can Distort
    Pretrained Features and Underperform Out-of-Distribution"). The penalty, half the squared norm of the weights beside the mean loss, is
    high: a probe that were right for all examples would leave the encoder nothing to learn."""
    if not examples:
        return
    output, found = model.eval().head.output, list[tuple[Tensor, Tensor]]()
    model.head.output = torch.nn.Identity()
    with torch.no_grad():
        for step in range(min(batches.in_epoch, ceil(examples / batches.batch_size))):
            for batch in batches.batch(step).micro_batches:
                found.append((task.scores(model, batch), batch["labels"]))
    model.head.output = output
    vectors, labels = map(torch.cat, zip(*found))
    fit = torch.optim.LBFGS(output.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        fit.zero_grad()
        terms = task.loss(output(vectors), labels, class_weights)
        total: Tensor = output.weight.square().sum() / 2
        for name, summed in terms.sums.items():
            total = total + terms.weights[name] * summed / len(labels)
        total.backward()
        return total

    fit.step(objective)
    fit.zero_grad()


def class_weights_of(task: Task, labels: Sequence[str], recipe: FinetuneRecipe, items: Sequence[Item]) -> Tensor | None:
    """(C,): the weights of the labels in the loss, if the recipe asks for them."""
    if recipe.loss.class_weights is None:
        return None
    numbers = torch.tensor([label for item in items for label in item.labels])
    return task.class_weights(numbers, len(labels))


def keep_output(model: Any, source: Source, task: Task) -> bool:
    """Copy the output layer of a folder that has the same task and labels, in the order of the labels of `model`."""
    kind, head = head_of(source.folder)
    if kind != task.model.__name__:
        return False
    labels: list[str] = list(getattr(head, "labels", ()))
    is_same = getattr(head, "problem_type", "") == task.problem_type
    same_labels, same_pooling = sorted(labels) == sorted(model.labels), getattr(head, "pooling", "") == model.pooling
    kept = is_same and same_labels and same_pooling
    found = "another task" if not is_same else "other labels" if not same_labels else "the same labels"
    found += "" if same_pooling else " and another pooling"
    logger.info(f"{source.folder} has {found}: its output layer is {'' if kept else 'not '}kept")
    shapes = {f"head.output.{name}": tensor.shape for name, tensor in model.head.output.named_parameters()}
    for name, tensor in source.parameters(kind, shapes)[0].items() if kept else ():
        model.get_parameter(name).data.copy_(tensor[[labels.index(label) for label in model.labels]])
    return kept
