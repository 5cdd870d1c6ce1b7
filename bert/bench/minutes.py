"""Quality by the clock: the baseline trained for so many minutes on the text of the candidate, then the candidate by its recipe, scored
alike.

The baseline takes full sequences of consecutive tokens, AdamW, a linear decay by the clock with warm-up: what won for ModernBERT in a
search; and its fastest attention, compiled or not, by timing before the clock runs. Curves are losses on the first sequences of the masked
file, taken while training; neither clock runs meanwhile.
"""

import logging
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
from lightning.fabric.utilities import move_data_to_device

from bert.bench.comparison import Baseline, full_batch, full_batches, score_baseline
from bert.bench.documents import Text, full_sequences, packed
from bert.bench.machine import fresh_start
from bert.bench.measurement import Measurement, alternate, digest, plain, spread
from bert.bench.results import Value, attempt
from bert.bench.settings import SIDES, BaselineSettings, Side
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

logger = logging.getLogger(__name__)

POINTS = 20
"""points of a curve before its last"""
CURVE_SEQUENCES = 128
"""sequences of the masked file that a point is measured on"""
_TIMED_STEPS = 8
_BASELINE_TOKENS = 64_000_000  # tokens that the baseline sees before the first comes again


def baseline_recipe(
    recipe: PretrainRecipe,
    minutes: float,
    lr: float = 2e-3,
    warmup: float = 0.06,
    batch_size: int = 32,
    length: int = 128,
) -> PretrainRecipe:
    """How the baseline is trained: the model of the recipe on full sequences of at most `length` tokens, 15 % of them masked, with AdamW
    and a linear decay for `minutes`."""
    length, schedule = min(length, recipe.encoder.max_length), ScheduleConfig(kind="linear", warmup=warmup)
    data = replace(recipe.data, sequence_length=length, batch_size=batch_size, micro_batch_size=None)
    recipe = replace(recipe, data=data, phases=[], masking=MaskingConfig(rate=0.15), stop=StopConfig(minutes=minutes))
    return replace(recipe, optimizer=replace(recipe.optimizer, lr=lr), schedule=schedule)


def fastest_setting(
    measurement: Measurement, recipe: PretrainRecipe, settings: Sequence[BaselineSettings]
) -> BaselineSettings:
    """The setting of the baseline that makes most tokens a second here, a result each; before any clock, as `bert pretrain` times
    attention. InputError where none of them runs."""
    if len(settings) == 1:
        return settings[0]
    data, seconds = recipe.data, min(1.0, 6 * (recipe.stop.minutes or 1))
    text = full_sequences(measurement.text, data.sequence_length, _TIMED_STEPS * data.batch_size)
    batches = full_batches(text, recipe, _TIMED_STEPS)

    def measure(setting: BaselineSettings) -> Value:
        fresh_start()
        (runs,) = alternate([Baseline(recipe, setting).timed_steps(batches)], 3, seconds)
        return {"tokens_per_second": statistics.median(run.rate for run in runs)}

    for setting in settings:
        key = {"kind": "baseline setting", **asdict(setting)}
        measurement.results.measured(key, partial(attempt, partial(measure, setting), fatal=(InputError,)))
    tried = measurement.results.of("baseline setting", failed=True)
    best = max(tried, key=lambda result: result.get("tokens_per_second", 0.0))
    if "error" in best:
        raise InputError(f"the baseline does not run here: {best['error']}")
    return BaselineSettings(best["attention"], best["compile"])


class Curve(L.Callback):
    """Losses of a model in training by `score`, at equal distances through the minutes of its budget, each with its minute; the clock of
    the run stands still meanwhile. As a callback it follows a run of `bert pretrain`."""

    def __init__(self, score: Callable[[Any], Score], minutes: float) -> None:
        self.score, self.minutes = score, minutes
        self.points: list[tuple[float, float]] = []
        self.progress = Progress(StopConfig())

    def follow(self, progress: Progress, model: Any, device: torch.device) -> None:
        """After a step: score the model where a point is due."""
        self.progress = progress
        if progress.seconds >= 60 * self.minutes * (len(self.points) + 1) / (POINTS + 1):
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
    text: Text, recipe: PretrainRecipe, setting: BaselineSettings, masked: Path, curve_file: Path
) -> Value:
    """Train the baseline by `baseline_recipe` and score it. The clock runs from the first request for a batch to the last step, as in
    `bert pretrain`."""
    length, minutes = recipe.data.sequence_length, recipe.stop.minutes
    assert minutes is not None
    sequences = max(recipe.data.batch_size, min(text.store.num_tokens, _BASELINE_TOKENS) // (length - 2))
    stream = packed(full_sequences(text, length, sequences, recipe.seed), recipe)
    baseline, curve = Baseline(recipe, setting), Curve(partial(score_baseline, file=curve_file), minutes)
    progress = Progress(recipe.stop)
    progress.start()
    while not progress.finished():
        batch = move_data_to_device(full_batch(stream.micro_batch(int(progress.step))), baseline.device)
        set_learning_rate(baseline.optimizer, learning_rate_share(progress.share(), recipe.schedule))
        baseline.step(batch)
        if progress.step % 20 == 0:
            now(baseline.device)  # the clock is that of the device: steps do not run ahead of it
        progress.advance(batch.tokens, progress.elapsed())
        curve.follow(progress, baseline.model, baseline.device)
    return curve.result(baseline.model, score_baseline(baseline.model, masked)) | {"setting": str(setting)}


def train_candidate(recipe: PretrainRecipe, out: Path, minutes: float, masked: Path, curve_file: Path) -> Value:
    """`bert pretrain` by the recipe for `minutes` in the folder `out`, scored as the baseline is. Overwrites `out`."""
    curve = Curve(partial(score_masked, file=curve_file), minutes)
    trainer = recipe.trainer | {"callbacks": [*recipe.trainer.get("callbacks", []), curve]}
    run = replace(recipe, stop=StopConfig(minutes=minutes), trainer=trainer)
    model = MaskedLM.load(pretrain(run, out, overwrite=True))
    return curve.result(model, score_masked(model, masked)) | {"setting": "recipe"}


def bench_minutes(
    measurement: Measurement,
    baseline: PretrainRecipe,
    settings: Sequence[BaselineSettings],
    masked: Path,
    seeds: Sequence[int] = (0,),
    sides: Sequence[Side] = SIDES,
) -> dict[str, Any]:
    """Train each side with each seed, alternating, for the same minutes, and score it on a masked file; runs lie in the folder of the
    measurement. The baseline is trained by the recipe `baseline` (`baseline_recipe`) in the fastest of `settings`, the candidate by the
    whole recipe of the measurement, phases included, which names its store and its tokenizer.

    Returns what metrics.json holds, with the losses, and for each seed the minutes after which the candidate is where the baseline ends
    (by curves, whose learning rate decays to the end of the whole budget: an upper bound).
    """
    recipe, out, minutes = measurement.recipe, measurement.out, baseline.stop.minutes
    if out is None or minutes is None:
        raise InputError("out or stop.minutes is not given: name the folder of the runs and their budget")
    given = {"baseline": plain(baseline), "minutes": minutes, "settings": [str(one) for one in settings]}
    measurement.open("minutes", given | {"masked": digest(*read_masked(masked))})
    curve_file = cut_masked(masked, out / "curve-sequences.npz")
    torch.manual_seed(0)  # also refuses, before anything is trained, sequences that the model cannot take
    untrained = score_masked(MaskedLM(recipe.encoder, recipe.head), curve_file)

    def measure(side: Side, seed: int) -> Value:
        setting = fastest_setting(measurement, baseline, settings) if side == "baseline" else None
        fresh_start()
        if setting is None:
            run = out / f"candidate-{seed}"
            return train_candidate(replace(recipe, seed=seed), run, minutes, masked, curve_file)
        return train_baseline(measurement.text, replace(baseline, seed=seed), setting, masked, curve_file)

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
        for at in summary["minutes_until"]:
            when = f"after {at:.1f} minutes" if at is not None else "never"
            logger.info(f"the candidate reaches the baseline's final loss {when} (by curves that decay to the end)")
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
