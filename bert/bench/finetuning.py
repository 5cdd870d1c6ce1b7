"""Wall-clock of fine-tuning by a recipe, and by transformers' Trainer as its examples use it: on the same examples, with equal numbers of
optimizer steps and validations, in turn.

The Trainer pads the examples of a batch to the longest, truncates them to the sequence length of the recipe, measures only the loss of the
dev set, and runs in its fastest setting: fp32 or bf16, with examples in random order or grouped by length.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bert.bench.machine import device_and_precision
from bert.bench.measurement import spread
from bert.bench.results import Results, Value, report
from bert.errors import InputError, first_line
from bert.finetuning.config import FinetuneRecipe
from bert.finetuning.inputs import TrainingData, prepare
from bert.finetuning.module import steps_of, validation_interval
from bert.finetuning.run import trained_on
from bert.finetuning.tasks.index import task_named
from bert.finetuning.tasks.task import Task
from bert.model.loss import IGNORED
from bert.signals import handled
from bert.training.folder import Launch, environment

logger = logging.getLogger(__name__)


def encoded(task: Task, example: Any, ids: Mapping[str, int], tokenizer: Any, length: int | None) -> dict[str, Any]:
    """An example as the Trainer reads it, of at most `length` tokens. `ids`: label name → class id."""
    numbers, how = task.numbers(example, ids), {"truncation": True, "max_length": length}
    if not hasattr(example, "words"):
        found = tokenizer(example.text, example.pair, **how)
        return {**found, "labels": [*map(float, numbers)] if len(numbers) > 1 else numbers[0]}
    found = tokenizer(list(example.words), is_split_into_words=True, **how)
    words = pairwise([None, *found.word_ids()])
    return {**found, "labels": [IGNORED if word in (None, before) else numbers[word] for before, word in words]}


def baseline_trainer(data: TrainingData, recipe: FinetuneRecipe, arguments: Mapping[str, Any]) -> Any:
    """A Trainer for the model of the recipe on the examples of `data`, with the TrainingArguments of transformers' own examples, and with
    `arguments`. Raises InputError if transformers has no such model."""
    try:
        import transformers as hf

        hf.set_seed(recipe.seed)
        of_words = hf.AutoModelForTokenClassification, hf.DataCollatorForTokenClassification
        of_texts = hf.AutoModelForSequenceClassification, hf.DataCollatorWithPadding
        kind, collator = of_words if hasattr(data.examples[0], "words") else of_texts
        source, classes = str(recipe.model), len(data.labels)
        tokenizer = hf.AutoTokenizer.from_pretrained(source)
        model = kind.from_pretrained(source, num_labels=classes, problem_type=data.task.problem_type)
    except (ImportError, OSError, ValueError) as error:
        fix = "pip install 'bert-kit[hf]', and give a model that transformers has"
        raise InputError(f"{recipe.model}: no baseline ({first_line(error)}): {fix}") from error
    how = hf.TrainingArguments(
        learning_rate=recipe.optimizer.lr or 0.0, warmup_steps=0.1, weight_decay=0.01, seed=recipe.seed, report_to=[],
        per_device_train_batch_size=recipe.data.batch_size, per_device_eval_batch_size=64, disable_tqdm=True,
        dataloader_pin_memory=False, eval_strategy="steps", **arguments,
    )  # fmt: skip
    ids, length = {label: number for number, label in enumerate(data.labels)}, recipe.windows.sequence_length
    sides = (data.examples, data.dev_examples)
    train, dev = ([encoded(data.task, one, ids, tokenizer, length) for one in side] for side in sides)
    return hf.Trainer(model, how, collator(tokenizer), train, dev, tokenizer)


def seconds_of_baseline(data: TrainingData, recipe: FinetuneRecipe, arguments: Mapping[str, Any]) -> Value:
    """The seconds that a Trainer needs for its steps and validations. Nothing is saved."""
    with TemporaryDirectory() as folder:
        trainer = baseline_trainer(data, recipe, {**arguments, "output_dir": folder, "save_strategy": "no"})
        return {"seconds": trainer.train().metrics["train_runtime"]}


def seconds_of_candidate(data: TrainingData, recipe: FinetuneRecipe, every: int) -> Value:
    """Those of a training by the recipe, from the first request for a batch on, with validation `every` so many steps."""
    with handled() as signals:
        launch = Launch(Path(), signals, trust=False, check=lambda: None)
        return {"seconds": trained_on(launch, data, recipe, data.train, every).progress.elapsed()}


def bench_finetune(task: str, recipe: FinetuneRecipe, out: Path, steps: int | None = None, pairs: int = 3) -> Value:
    """Time `pairs` runs of each side in turn, of `steps` optimizer steps, by default those of the recipe, less those after the last
    validation; the baseline in the fastest of its settings, each of which is tried once. Returns the content of metrics.json: the ratio
    of the seconds, candidate to baseline, over the pairs."""
    recipe, data = prepare(task_named(task), recipe)
    in_epoch = -(-len(data.train) // recipe.data.batch_size)
    steps = steps or steps_of(recipe, in_epoch)
    every = min(steps, validation_interval(replace(recipe, epochs=steps / in_epoch), in_epoch))
    steps -= steps % every
    recipe = replace(recipe, epochs=steps / in_epoch)
    device, precision = device_and_precision(recipe)
    about = {"environment": environment(), "precision": precision, "recipe": asdict(recipe)}
    results = Results(out, about | {"device": str(device), "data": dict(data.fingerprint), "every": every})
    ways: dict[str, Callable[[], Value]] = {"candidate": partial(seconds_of_candidate, data, recipe, every)}
    how = {"max_steps": steps, "eval_steps": every, "use_cpu": device.type == "cpu"}
    for bf16, order in product((True, False), ("random", "group_by_length")):
        own = {"bf16": bf16, "train_sampling_strategy": order}
        ways[f"{'bf16' if bf16 else 'fp32'}, {order}"] = partial(seconds_of_baseline, data, recipe, how | own)

    def seconds(pair: int, way: str) -> float:
        found = results.measured({"kind": "training", "way": way, "pair": pair}, ways[way])["seconds"]
        logger.info(f"{way}: {found:,.1f} seconds")
        return float(found)

    best = min([*ways][1:], key=partial(seconds, 0))
    times = {way: list[float]() for way in ("candidate", best)}
    for pair in range(1, pairs + 1):
        for way in list(times)[:: (-1) ** pair]:
            times[way].append(seconds(pair, way))
    ratio, sides = spread([one / other for one, other in zip(*times.values())]), [*map(spread, times.values())]
    key = {"kind": "finetune", "name": task, "setting": best, "steps": steps, "validations": steps // every}
    results.measured(key | {"pairs": pairs}, lambda: {"ratio": ratio, "seconds": sides})
    return report(results, about)
