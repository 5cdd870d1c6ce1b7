"""Quality by the clock: the baseline trained for so many minutes on the text of the candidate, then the candidate by its recipe, scored
alike.

The baseline takes full sequences of consecutive tokens, AdamW, a linear decay by the clock with warm-up: what won for ModernBERT in a
search; and its fastest attention, compiled or not, by timing before the clock runs. Curves are losses on the first sequences of the masked
file, taken while training; neither clock runs meanwhile.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from bert.bench.baseline import Baseline, full_batch, full_batches, score_baseline
from bert.bench.documents import Text, full_sequences, packed
from bert.bench.machine import device_and_precision, fresh_start
from bert.bench.measurement import Measurement, alternate, digest, spread
from bert.bench.results import Value, attempt
from bert.bench.settings import SIDES, BaselineSettings, BaselineTraining, Side, baseline_settings
from bert.errors import InputError
from bert.model.heads import MaskedLM
from bert.model.tuning import now
from bert.pretraining.config import MaskingConfig, PretrainRecipe
from bert.pretraining.module import PretrainingModule
from bert.pretraining.run import pretrain
from bert.pretraining.score import Score, read_masked, score_masked
from bert.training.config import ScheduleConfig, StopConfig
from bert.training.optimizers import set_learning_rate
from bert.training.schedules import Progress, learning_rate_share

POINTS = 20
"""points of a curve before its last"""
CURVE_SEQUENCES = 128
"""sequences of the masked file that a point is measured on"""
_TIMED_STEPS = 8
_BASELINE_TOKENS = 64_000_000  # tokens that the baseline sees before the first comes again


def fastest_setting(measurement: Measurement, training: BaselineTraining) -> BaselineSettings:
    """The setting of the baseline that makes most tokens a second here, a result each; before any clock, as `bert pretrain` times
    attention. InputError where none of them runs."""
    settings = training.settings or baseline_settings(device_and_precision(measurement.recipe)[0].type)
    if len(settings) == 1:
        return settings[0]
    recipe, text = _baseline_run(measurement, training, _TIMED_STEPS * training.batch_size, seed=0)
    batches = full_batches(text, recipe, _TIMED_STEPS)

    def measure(setting: BaselineSettings) -> Value:
        fresh_start()
        (runs,) = alternate([Baseline(recipe, setting).timed_steps(batches)], 3, min(1.0, 6 * training.minutes))
        return {"tokens_per_second": statistics.median(run.rate for run in runs)}

    for setting in settings:
        key = {"kind": "baseline setting", **asdict(setting)}
        measurement.results.measured(key, partial(attempt, partial(measure, setting), fatal=(InputError,)))
    tried = measurement.results.of("baseline setting", failed=True)
    best = max(tried, key=lambda result: result.get("tokens_per_second", 0.0))
    if "error" in best:
        raise InputError(f"the baseline does not run here: {best['error']}")
    return BaselineSettings(best["attention"], best["compile"])


def _baseline_run(
    measurement: Measurement, training: BaselineTraining, sequences: int, seed: int
) -> tuple[PretrainRecipe, Text]:
    """The recipe of the baseline, and its text: full sequences without padding."""
    length, recipe = training.sequence_length, measurement.recipe
    data = replace(recipe.data, sequence_length=length, batch_size=training.batch_size, micro_batch_size=None)
    masking, optimizer = MaskingConfig(rate=training.mask_rate), replace(recipe.optimizer, lr=training.lr)
    recipe = replace(recipe, data=data, phases=[], masking=masking, optimizer=optimizer, seed=seed)
    return recipe, full_sequences(measurement.text, length, sequences, seed)


class Curve(L.Callback):
    """Losses of a model in training by `score`, at equal distances through the seconds of its budget, each with its minute; the clock of
    the run stands still meanwhile. As a callback it follows a run of `bert pretrain`."""

    def __init__(self, score: Callable[[Any], Score], seconds: float) -> None:
        self.score, self.seconds = score, seconds
        self.points: list[tuple[float, float]] = []
        self.progress = Progress(StopConfig())

    def follow(self, progress: Progress, model: Any, device: torch.device) -> None:
        """After a step: score the model where a point is due."""
        self.progress = progress
        if progress.seconds >= self.seconds * (len(self.points) + 1) / (POINTS + 1):
            start = now(device)
            self.points.append((progress.seconds / 60, self.score(model).loss))
            progress.leave_out(now(device) - start)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """After a step of Lightning."""
        assert isinstance(pl_module, PretrainingModule)
        self.follow(pl_module.progress, pl_module.model, pl_module.device)
        pl_module.model.train()

    def result(self, model: Any, final: Score) -> Value:
        """The final score of the trained model, what its run used, and the curve to its end."""
        minutes, used = self.progress.seconds / 60, {"steps": int(self.progress.step), "tokens": self.progress.tokens}
        curve = [*self.points, (minutes, self.score(model).loss)]
        return {**asdict(final), **used, "minutes": minutes, "curve": curve}


def train_baseline(
    measurement: Measurement,
    training: BaselineTraining,
    setting: BaselineSettings,
    seed: int,
    masked: Path,
    curve_file: Path,
) -> Value:
    """Train and score the baseline. The clock runs from the first request for a batch to the last step, as in `bert pretrain`."""
    enough = min(measurement.text.store.num_tokens, _BASELINE_TOKENS) // (training.sequence_length - 2)
    recipe, text = _baseline_run(measurement, training, max(training.batch_size, enough), seed)
    baseline, stream = Baseline(recipe, setting), packed(text, recipe)
    for group in baseline.optimizer.param_groups:
        group["highest_lr"] = training.lr
    schedule = ScheduleConfig(kind="linear", warmup=training.warmup)
    curve = Curve(partial(score_baseline, file=curve_file), 60 * training.minutes)
    progress = Progress(StopConfig(minutes=training.minutes))
    progress.start()
    while not progress.finished():
        batch = full_batch(stream.micro_batch(int(progress.step))).on(baseline.device)
        set_learning_rate(baseline.optimizer, learning_rate_share(progress.share(), schedule))
        baseline.step(batch)
        if progress.step % 20 == 0:
            now(baseline.device)  # the clock is that of the device: steps do not run ahead of it
        progress.advance(batch.tokens, progress.elapsed())
        curve.follow(progress, baseline.model, baseline.device)
    return curve.result(baseline.model, score_baseline(baseline.model, masked)) | {"setting": str(setting)}


def train_candidate(
    recipe: PretrainRecipe, out: Path, masked: Path, curve_file: Path, minutes: float, seed: int
) -> Value:
    """`bert pretrain` by the recipe with this budget in the folder `out`, scored as the baseline is. Overwrites `out`."""
    curve = Curve(partial(score_masked, file=curve_file), 60 * minutes)
    trainer = recipe.trainer | {"callbacks": [*recipe.trainer.get("callbacks", []), curve]}
    run = replace(recipe, stop=StopConfig(minutes=minutes), seed=seed, trainer=trainer)
    model = MaskedLM.load(pretrain(run, out, overwrite=True))
    return curve.result(model, score_masked(model, masked)) | {"setting": "recipe"}


def bench_minutes(
    measurement: Measurement,
    training: BaselineTraining,
    masked: Path,
    seeds: Sequence[int] = (0,),
    sides: Sequence[Side] = SIDES,
) -> dict[str, Any]:
    """Train each side with each seed, alternating, for the same minutes, and score it on a masked file; runs lie in the folder of the
    measurement. The candidate
    is trained by the whole recipe, phases included, which names its store and its tokenizer.

    Returns what metrics.json holds, with the losses, and for each seed the minutes after which the candidate is where the baseline ends
    (by curves, whose learning rate decays to the end of the whole budget: an upper bound).
    """
    measurement.open("minutes", {"training": asdict(training), "masked": digest(*read_masked(masked))})
    if (out := measurement.out) is None:
        raise InputError("out is not given: name the folder of the runs")
    curve_file = cut_masked(masked, out / "curve-sequences.npz")
    torch.manual_seed(0)  # also refuses, before anything is trained, sequences that the model cannot take
    untrained = score_masked(MaskedLM(measurement.recipe.encoder, measurement.recipe.head), curve_file)

    def measure(side: Side, seed: int) -> Value:
        fresh_start()
        if side == "candidate":
            run = out / f"candidate-{seed}"
            return train_candidate(measurement.recipe, run, masked, curve_file, training.minutes, seed)
        setting = fastest_setting(measurement, training)
        fresh_start()
        return train_baseline(measurement, training, setting, seed, masked, curve_file)

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
        for minutes in summary["minutes_until"]:
            when = f"after {minutes:.1f} minutes" if minutes is not None else "never"
            measurement.say(f"the candidate reaches the baseline's final loss {when} (by curves that decay to the end)")
    return measurement.report({"minutes": summary})


def cut_masked(masked: Path, file: Path, sequences: int = CURVE_SEQUENCES) -> Path:
    """The first sequences of a masked file as a file of their own."""
    input_ids, labels = read_masked(masked)
    np.savez(file, input_ids=input_ids[:sequences].numpy(), labels=labels[:sequences].numpy())
    return file


def minutes_until(curve: Sequence[Sequence[float]], loss: float) -> float | None:
    """The first minute at which a curve is at `loss` or below, interpolated between its points; none where it never is."""
    for (minute, value), (later, lower) in pairwise(curve):
        if value <= loss:
            return minute
        if lower <= loss:
            return minute + (later - minute) * (value - loss) / (value - lower)
    return curve[-1][0] if curve and curve[-1][1] <= loss else None
