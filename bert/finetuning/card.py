"""The part of the card of a fine-tuned model about its training."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bert.data.hub_rows import title_of
from bert.finetuning.config import FinetuneRecipe
from bert.finetuning.inputs import TrainingData
from bert.finetuning.metrics import in_words, numbered
from bert.finetuning.tasks.index import TASKS
from bert.hf.card import training_card


def card_text(
    recipe: FinetuneRecipe,
    data: TrainingData,
    step: int,
    measured: Mapping[str, float],
    baseline: Mapping[str, float],
    data_name: str,
    count: int,
    more: str = "",
) -> str:
    """`measured` are the metrics of the model of a step on `count` examples of `data_name`, `baseline` those without a
    model; `more` is a paragraph about them."""
    assert recipe.data.train is not None
    assert recipe.model is not None
    task, windows, optimizer = data.task, recipe.windows, recipe.optimizer
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name in data.labels[:50]]
    epoch = step / -(-len(data.train) // recipe.data.batch_size)
    lines = [
        "## Fine-tuning",
        f"- from: {Path(recipe.model).parent.name}/{Path(recipe.model).name}",
        f"- data: {title_of(recipe.data.train)}, {numbered(len(data.train), 'example')}; step {step:,}"
        f" (epoch {epoch:.2f} of {recipe.epochs:g}); seed {recipe.seed}",
        f"- sequences of {windows.sequence_length} tokens, windows with a stride of {windows.stride} tokens;"
        f" {numbered(recipe.data.batch_size, 'example')} a step; {optimizer.kind}, learning rate {optimizer.lr:g},"
        f" {recipe.schedule.kind} schedule",
        f"- {task.name}, {TASKS[task.name]}: {', '.join(names)}{' …' if len(data.labels) > 50 else ''}",
        "",
        "## Measured",
        f"on {data_name}, {numbered(count, 'example')}: {in_words(measured, task.scales)}"
        f" (baseline: {in_words(baseline, task.scales)})",
    ]
    lines += [""] * bool(more) + [more] * bool(more)
    recipe = replace(recipe, task=None, run_id=None)
    return training_card(lines, recipe, task.pipeline, data_name, measured, base=recipe.model)
