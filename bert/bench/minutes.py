"""Quality by the clock: the baseline trained for a number of minutes on the text of the candidate, then the candidate by its recipe, both
scored in the same way.

The baseline trains on full sequences of consecutive tokens, with AdamW, a warm-up and a linear decay over the time, the settings that won
for ModernBERT in a search, and with its fastest attention, compiled or not, timed before the clock starts. Curves are losses on the first
sequences of the masked file, measured during training; both clocks stop meanwhile.
"""

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device

from bert.bench.comparison import Baseline, full_batches, score_baseline
from bert.bench.documents import Text, full_sequences
from bert.bench.machine import fresh_start
from bert.bench.measurement import Measurement, TimedSteps, alternate, digest, plain, spread
from bert.bench.results import Value, attempt
from bert.bench.settings import SIDES, BaselineSettings, Side
from bert.errors import InputError, option
from bert.model.heads import MaskedLM
from bert.model.tuning import now
from bert.pretraining.config import MaskingConfig, PretrainRecipe
from bert.pretraining.module import PretrainingModule
from bert.pretraining.run import pretrain
from bert.pretraining.score import Score, read_masked, score_masked
from bert.training.config import ScheduleConfig, StopConfig
from bert.training.optimizers import set_learning_rate
from bert.training.schedules import Progress, learning_rate_share

logger = logging.getLogger(__name__)

POINTS = 20
"""points of a curve before the last"""
CURVE_SEQUENCES = 128
"""sequences of the masked file that each point is measured on"""
_TIMED_STEPS = 8
_BASELINE_TOKENS = 64_000_000  # in an epoch of the baseline, at most


def baseline_recipe(
    recipe: PretrainRecipe, minutes: float, lr: float = 2e-3, warmup: float = 0.06, batch_size: int = 32
) -> PretrainRecipe:
    """How the baseline is trained: the model of the recipe on full sequences of at most 128 tokens, 15 % of them masked, with AdamW and a
    linear decay over `minutes`."""
    length, schedule = min(128, recipe.encoder.max_length), ScheduleConfig(kind="linear", warmup=warmup)
    data = replace(recipe.data, sequence_length=length, batch_size=batch_size, micro_batch_size=None)
    recipe = replace(recipe, data=data, phases=[], masking=MaskingConfig(rate=0.15), stop=StopConfig(minutes=minutes))
    return replace(recipe, optimizer=replace(recipe.optimizer, lr=lr), schedule=schedule)


def fastest_setting(
    measurement: Measurement, recipe: PretrainRecipe, settings: Sequence[BaselineSettings]
) -> BaselineSettings:
    """The setting of the baseline with the most tokens/s on this machine, timed before any clock starts; each is a result. Raises
    InputError if none of them runs."""
    if len(settings) == 1:
        return settings[0]
    data, seconds = recipe.data, min(1.0, 6 * (recipe.stop.minutes or 1))
    text = full_sequences(measurement.text, data.sequence_length, _TIMED_STEPS * data.batch_size)
    batches = list(islice(full_batches(text, recipe), _TIMED_STEPS))

    def measure(setting: BaselineSettings) -> Value:
        fresh_start()
        baseline = Baseline(recipe, setting)
        (runs,) = alternate([TimedSteps(baseline.step, batches, baseline.device)], 3, seconds)
        return {"tokens_per_second": statistics.median(run.rate for run in runs)}

    for setting in settings:
        key = {"kind": "baseline setting", **asdict(setting)}
        measurement.results.measured(key, partial(attempt, measure, setting, fatal=(InputError,)))
    tried = measurement.results.of("baseline setting", failed=True)
    best = max(tried, key=lambda result: result.get("tokens_per_second", 0.0))
    if "error" in best:
        raise InputError(f"the baseline does not run here: {best['error']}")
    return BaselineSettings(best["attention"], best["compile"])


class Curve(L.Callback):
    """The losses of a model during training, evenly spaced over `minutes`, and its final score; the clock of the run stops meanwhile. As a
    callback it follows a run of `bert pretrain`.

    `score` scores a model on a masked file: on `points_file` during training, on `masked` at the end.
    """

    def __init__(self, score: Callable[[Any, Path], Score], masked: Path, points_file: Path, minutes: float) -> None:
        self.score, self.masked, self.points_file, self.minutes = score, masked, points_file, minutes
        self.points: list[tuple[float, float]] = []
        self.progress = Progress(StopConfig())

    def follow(self, progress: Progress, model: Any, device: torch.device) -> None:
        """After a step: score the model if a point is due."""
        self.progress = progress
        if progress.seconds >= 60 * self.minutes * (len(self.points) + 1) / (POINTS + 1):
            start = now(device)
            self.points.append((progress.seconds / 60, self.score(model, self.points_file).loss))
            progress.leave_out(now(device) - start)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """After each step in Lightning."""
        assert isinstance(pl_module, PretrainingModule)
        self.follow(pl_module.progress, pl_module.model, pl_module.device)
        pl_module.model.train()

    def result(self, model: Any) -> Value:
        """The final score of the trained model, the budget that its run used, and the whole curve."""
        minutes, used = self.progress.seconds / 60, {"steps": int(self.progress.step), "tokens": self.progress.tokens}
        curve = [*self.points, (minutes, self.score(model, self.points_file).loss)]
        return {**asdict(self.score(model, self.masked)), **used, "minutes": minutes, "curve": curve}


def train_baseline(text: Text, recipe: PretrainRecipe, setting: BaselineSettings, curve: Curve) -> Value:
    """Train the baseline by `baseline_recipe` and score it. The clock runs from the first request for a batch to the last step, as in
    `bert pretrain`."""
    length = recipe.data.sequence_length
    sequences = max(recipe.data.batch_size, min(text.store.num_tokens, _BASELINE_TOKENS) // (length - 2))
    batches = full_batches(full_sequences(text, length, sequences, recipe.seed), recipe)
    baseline, progress = Baseline(recipe, setting), Progress(recipe.stop)
    progress.start()
    while not progress.finished():
        batch = move_data_to_device(next(batches), baseline.device)
        set_learning_rate(baseline.optimizer, learning_rate_share(progress.share(), recipe.schedule))
        baseline.step(batch)
        if progress.step % 20 == 0:
            now(baseline.device)  # wait for the device: otherwise the host runs ahead of the steps that it has queued
        progress.advance(batch.tokens, progress.elapsed())
        curve.follow(progress, baseline.model, baseline.device)
    return curve.result(baseline.model) | {"setting": str(setting)}


def train_candidate(recipe: PretrainRecipe, out: Path, curve: Curve) -> Value:
    """Run `bert pretrain` by the recipe in the run directory `out`, which is overwritten, and score the model."""
    trainer = recipe.trainer | {"callbacks": [*recipe.trainer.get("callbacks", []), curve]}
    run = replace(recipe, stop=StopConfig(minutes=curve.minutes), trainer=trainer)
    return curve.result(MaskedLM.load(pretrain(run, out, overwrite=True))) | {"setting": "recipe"}


def bench_minutes(
    measurement: Measurement,
    baseline: PretrainRecipe,
    settings: Sequence[BaselineSettings],
    masked: Path,
    seeds: Sequence[int] = (0,),
    sides: Sequence[Side] = SIDES,
) -> Value:
    """Train each side with each seed, alternating, for the same minutes, and score it on a masked file; the run directories are in the
    folder of the measurement. The baseline is trained by the recipe `baseline` (`baseline_recipe`) in the fastest of `settings`, the
    candidate by the whole recipe of the measurement, phases included, which names its store and tokenizer.

    Returns the content of metrics.json, with the losses, and for each seed the minutes after which the candidate reaches the final loss
    of the baseline (an upper bound: the learning rate of its curve decays to the end of the whole budget).
    """
    recipe, out, minutes = measurement.recipe, measurement.out, baseline.stop.minutes
    if out is None or minutes is None:
        raise InputError(f"bench minutes needs {option('out')}, the folder of its runs, and stop.minutes, their budget")
    given = {"baseline": plain(baseline), "minutes": minutes, "settings": [str(one) for one in settings]}
    measurement.open("minutes", given | {"masked": digest(*read_masked(masked))})
    points_file = cut_masked(masked, out / "curve-sequences.npz")
    torch.manual_seed(0)  # scoring also rejects, before any training, sequences that the model cannot take
    untrained = score_masked(MaskedLM(recipe.encoder, recipe.head), points_file)

    def measure(side: Side, seed: int) -> Value:
        if side == "candidate":
            fresh_start()
            curve = Curve(score_masked, masked, points_file, minutes)
            return train_candidate(replace(recipe, seed=seed), out / f"candidate-{seed}", curve)
        setting = fastest_setting(measurement, baseline, settings)
        curve = Curve(score_baseline, masked, points_file, minutes)
        fresh_start()
        return train_baseline(measurement.text, replace(baseline, seed=seed), setting, curve)

    found: dict[str, list[Value]] = {side: [] for side in sides}
    for number, seed in enumerate(seeds):
        for side in sides if number % 2 == 0 else reversed(sides):
            key = {"kind": "minutes", "name": f"{side}, seed {seed}", "side": side, "seed": seed}
            found[side].append(measurement.result(key, partial(measure, side, seed)))
    summary: dict[str, Any] = {side: spread([value["loss"] for value in found[side]]) for side in sides}
    summary["random initialization"] = untrained.loss
    if len(found) == 2:
        pairs = zip(found["candidate"], found["baseline"])
        summary["minutes_until"] = [minutes_until(one["curve"], other["curve"][-1][1]) for one, other in pairs]
        for minute in summary["minutes_until"]:
            when = "never reaches" if minute is None else f"takes {minute:.1f} minutes to reach"
            logger.info(f"the candidate {when} the baseline's final loss (its curve decays to the end of the budget)")
    return measurement.report({"minutes": summary})


def cut_masked(masked: Path, file: Path, sequences: int = CURVE_SEQUENCES) -> Path:
    """Write the first sequences of a masked file to a file of their own."""
    input_ids, labels = read_masked(masked)
    np.savez(file, input_ids=input_ids[:sequences].numpy(), labels=labels[:sequences].numpy())
    return file


def minutes_until(curve: Sequence[Sequence[float]], loss: float) -> float | None:
    """The first minute at which a curve is at or below `loss`, interpolated between its points; None if it never is."""
    for (minute, value), (later, lower) in pairwise(curve):
        if value <= loss:
            return minute
        if lower <= loss:
            return minute + (later - minute) * (value - loss) / (value - lower)
    return curve[-1][0] if curve and curve[-1][1] <= loss else None
