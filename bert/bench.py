"""`bert bench`: where the time of a training step goes, measured on the batches of a run.

Rounds alternate between a bare loop over the training module's own parts and Lightning's loop with everything that a run has around it,
because machines drift: only ratios within a round count.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch

from bert.model.heads import MaskedLM
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.inputs import make_streams, open_stores, tokenizer_folder
from bert.pretraining.module import MaskedLMTraining
from bert.pretraining.stream import MicroBatch, Split, StepLoader, split_batch
from bert.text.tokenizer import Tokenizer
from bert.training.callbacks import StepLog, StopOnSignal
from bert.training.config import StopConfig
from bert.training.folder import read_recipe
from bert.training.optimizers import set_learning_rate
from bert.training.schedules import learning_rate_share
from bert.training.trainer import make_trainer

_WARM_UP = 3  # steps at the start of a round that are not counted


@dataclass(frozen=True)
class StepTimes:
    """Median seconds of one step and of its parts, and the real tokens of a step."""

    whole: float
    data: float
    optimizer: float
    tokens: float


def bench(run: Path, steps: int = 20, rounds: int = 5, say: Callable[[str], None] = print) -> float:
    """Measure the recipe of a run; says a table and returns Lightning's loop over the bare loop, median over rounds."""
    recipe: PretrainRecipe = read_recipe(run / "recipe.yaml", PretrainRecipe)
    recipe = replace(recipe, phases=[], trainer={**recipe.trainer, "devices": 1, "num_nodes": 1})
    split = split_batch(recipe.data.batch_rows, recipe.data.micro_batch_rows, 1)
    tokenizer = Tokenizer.load(tokenizer_folder(run))
    stream, _, _ = make_streams(recipe, open_stores(recipe, run, tokenizer), tokenizer)
    stop = StopConfig(steps=steps + _WARM_UP)
    bare: list[StepTimes] = []
    inside: list[StepTimes] = []
    loops = [(bare, _bare_loop), (inside, _lightning_loop)]
    for number in range(rounds):
        for measured, loop in loops if number % 2 else reversed(loops):  # neither is always the first
            torch.manual_seed(recipe.seed)
            module = MaskedLMTraining(
                MaskedLM(recipe.encoder, recipe.head), recipe.optimizer, recipe.schedule, stop, split, recipe.seed
            )
            measured.append(loop(module, StepLoader(stream, split, steps=steps + _WARM_UP), recipe, split))
    whole, data, optimizer, tokens = (
        statistics.median(getattr(times, part) for times in bare) for part in ("whole", "data", "optimizer", "tokens")
    )
    ratios = [a.whole / b.whole for a, b in zip(inside, bare)]
    ratio, data_recipe = statistics.median(ratios), recipe.data
    say(
        f"bare step {1000 * whole:.1f} ms: data {data / whole:.1%}, optimiser {optimizer / whole:.1%}, the rest forward and backward"
    )
    say(
        f"{tokens / whole:,.0f} tokens/s, {data_recipe.batch_rows} rows of {data_recipe.row_length} a step,"
        f" {torch.get_num_threads()} threads"
    )
    say(
        f"Lightning's loop over the bare loop: {ratio:.3f}"
        f" ({min(ratios):.3f} to {max(ratios):.3f} in {rounds} rounds of {steps} steps)"
    )
    return ratio


def _bare_loop(module: MaskedLMTraining, loader: StepLoader, recipe: PretrainRecipe, split: Split) -> StepTimes:
    """The steps of a run without Lightning: batch, forward, backward, clipping, learning rate, optimiser."""
    optimizer = module.configure_optimizers()
    trainer = make_trainer(recipe.trainer, [], [], [], split.accumulation, None)  # for its device and its precision
    precision = trainer.precision_plugin.forward_context
    device = trainer.strategy.root_device
    module.to(device)
    whole, data, update, tokens = [], [], [], []
    waited = 0.0
    begun = time.perf_counter()
    for number, batch in enumerate(_on(loader, device)):
        with precision():
            output = module.model(
                batch["input_ids"], document_ids=batch["document_ids"], targets=batch["targets"], labels=batch["labels"]
            )
        (output.loss_sum / batch["global_targets"]).backward()
        if (number + 1) % split.accumulation:
            continue
        before_update = _now(device)
        module.configure_gradient_clipping(optimizer)
        set_learning_rate(optimizer, learning_rate_share(number / 100, recipe.schedule))
        optimizer.step()
        optimizer.zero_grad()
        now = _now(device)
        whole.append(now - begun)
        update.append(now - before_update)
        data.append(loader.waited - waited)
        tokens.append(batch["global_tokens"])
        begun, waited = now, loader.waited
    return StepTimes(*(statistics.median(times[_WARM_UP:]) for times in (whole, data, update, tokens)))


def _lightning_loop(module: MaskedLMTraining, loader: StepLoader, recipe: PretrainRecipe, split: Split) -> StepTimes:
    """The same steps in the Trainer, with the callbacks of a run."""
    stamps = _Stamps()
    callbacks = [StepLog(recipe.log.every_steps), StopOnSignal(), stamps]
    trainer = make_trainer(recipe.trainer, callbacks, [], [], split.accumulation, None)
    trainer.fit(module, loader)
    whole = [later - earlier for earlier, later in zip(stamps.times, stamps.times[1:])]
    return StepTimes(statistics.median(whole[_WARM_UP:]), 0.0, 0.0, 0.0)


class _Stamps(L.Callback):
    """The time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """After a micro-batch; the last of a step counts."""
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self.times.append(_now(trainer.strategy.root_device))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _on(loader: StepLoader, device: torch.device) -> Iterator[MicroBatch]:
    for batch in loader:
        moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        yield MicroBatch(**moved)  # type: ignore[typeddict-item]
