"""Lightning's loop with everything that a run has around it, against the bare loop over the same steps."""

import statistics
from collections.abc import Callable
from typing import Any

import lightning as L

from bert.bench.ours import OurSteps, on
from bert.bench.rounds import Spread
from bert.model.tuning import now
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.stream import BatchStream, Split, StepLoader
from bert.signals import Signals
from bert.training.callbacks import StepLog, StopOnSignal
from bert.training.trainer import make_trainer

_WARM_UP = 3  # steps at the start of a round that are not counted


def compare_loops(
    recipe: PretrainRecipe, stream: BatchStream, split: Split, steps: int, rounds: int, say: Callable[[str], None]
) -> Spread:
    """Lightning's loop over the bare loop, in time a step, not compiled: one ratio a round of `steps` steps."""
    ratios, waits = [], []
    for number in range(rounds):
        times: dict[str, float] = {}
        for loop in ("bare", "lightning") if number % 2 else ("lightning", "bare"):  # neither is always the first
            loader = StepLoader(stream, split, steps=steps + _WARM_UP)
            if loop == "bare":
                times[loop], waited = _bare(recipe, loader, split)
                waits.append(waited)
            else:
                times[loop] = _lightning(recipe, loader, split, steps + _WARM_UP)
        ratios.append(times["lightning"] / times["bare"])
    spread = Spread.of(ratios)
    say(
        f"Lightning's loop over the bare loop: {spread.median:.3f} ({spread.least:.3f} to {spread.greatest:.3f} in {rounds}"
        f" rounds of {steps} steps); the bare loop waits {statistics.median(waits):.1%} of a step for data"
    )
    return spread


def _bare(recipe: PretrainRecipe, loader: StepLoader, split: Split) -> tuple[float, float]:
    """Median seconds of a step without Lightning, and the share of them that it waited for data."""
    ours = OurSteps(recipe, split, compiled=False)
    whole, data = [], []
    begun, waited = now(ours.device), 0.0
    for number, batch in enumerate(loader):
        ours.forward(on(ours.device, batch)).backward()
        if (number + 1) % split.accumulation:
            continue
        ours.update()
        ended = now(ours.device)
        whole.append(ended - begun)
        data.append(loader.waited - waited)
        begun, waited = ended, loader.waited
    step = statistics.median(whole[_WARM_UP:])
    return step, statistics.median(data[_WARM_UP:]) / step


def _lightning(recipe: PretrainRecipe, loader: StepLoader, split: Split, steps: int) -> float:
    """Median seconds of the same steps in the Trainer, with the callbacks of a run."""
    stamps = _Stamps()
    callbacks = [StepLog(recipe.log.every_steps), StopOnSignal(Signals()), stamps]
    trainer = make_trainer(recipe.trainer, callbacks, [], [], split.accumulation, None)
    trainer.fit(OurSteps(recipe, split, compiled=False, steps=steps).module, loader)
    whole = [later - earlier for earlier, later in zip(stamps.times, stamps.times[1:])]
    return statistics.median(whole[_WARM_UP - 1 :])


class _Stamps(L.Callback):
    """The time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """After a micro-batch; the last of a step counts."""
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self.times.append(now(trainer.strategy.root_device))
