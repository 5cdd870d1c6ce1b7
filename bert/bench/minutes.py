"""Quality by the clock: the peer trained for so many minutes on the text that ours has, then ours by its recipe, scored alike.

The peer takes sequences of running tokens without padding, AdamW, a linear decay by the clock with warm-up: what won for ModernBERT in a
search; and its fastest attention, compiled or not, by timing before the clock runs. Curves are losses on the first sequences of the masked
file, taken while training; neither clock runs meanwhile.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from bert.bench.candidate import steps_of
from bert.bench.cells import Value
from bert.bench.documents import Text, full_sequences, packed
from bert.bench.machine import fresh_start, place
from bert.bench.peers import BaselineSettings, BaselineSteps, score_baseline, settings_of, whole
from bert.bench.plan import Bench
from bert.bench.rounds import Contender, spread
from bert.bench.steps import fastest
from bert.bench.table import POINTS
from bert.errors import InputError
from bert.model.heads import MaskedLM
from bert.model.tuning import now
from bert.pretraining.config import MaskingConfig, PretrainRecipe
from bert.pretraining.module import PretrainingModule
from bert.pretraining.run import pretrain
from bert.pretraining.score import read_masked, score_masked
from bert.training.config import ScheduleConfig, StopConfig
from bert.training.schedules import Progress, learning_rate_share

CURVE_SEQUENCES = 128
"""sequences of the masked file that a point is measured on"""
_TIMED_STEPS = 8
_PEER_TOKENS = 64_000_000  # running tokens that the peer sees before the first comes again


@dataclass(frozen=True)
class BaselineTraining:
    """How the peer is trained."""

    minutes: float
    lr: float = 2e-3
    warmup: float = 0.06
    rate: float = 0.15
    sequences: int = 32
    sequence_length: int = 128
    settings: tuple[BaselineSettings, ...] = ()
    """those that the fastest is taken of; none: all that a user would try on the device"""


def fastest_setting(bench: Bench, training: BaselineTraining) -> BaselineSettings:
    """The setting of the peer that makes most tokens a second here, a cell each; before any clock, as `bert pretrain` times attention.

    InputError where none of them runs.
    """
    settings = training.settings or settings_of(place(bench.recipe)[0])
    if len(settings) == 1:
        return settings[0]
    recipe, sequences = _peer_run(bench, training, _TIMED_STEPS * training.sequences, seed=0)
    batches = [whole(batch) for ((batch,), _, _) in steps_of(sequences, recipe, _TIMED_STEPS)]

    def contender(setting: BaselineSettings) -> Contender:
        return BaselineSteps(recipe, setting).contender(batches)

    ways = [(asdict(setting), partial(contender, setting)) for setting in settings]
    found = fastest(bench.cells, "peer setting", ways, min(1.0, 6 * training.minutes), (InputError,))
    if not bench.cells.ran("peer setting"):
        failed = next(cell for cell in bench.cells if cell["what"] == "peer setting")
        raise InputError(f"--against hf: the peer does not run here: {failed['fails']}")
    return settings[found]


def _peer_run(bench: Bench, training: BaselineTraining, sequences: int, seed: int) -> tuple[PretrainRecipe, Text]:
    """The recipe of the peer, and its text: sequences of running tokens without padding."""
    length, recipe = training.sequence_length, bench.recipe
    data = replace(recipe.data, sequence_length=length, batch_size=training.sequences, micro_batch_size=None)
    masking, optimizer = MaskingConfig(rate=training.rate), replace(recipe.optimizer, lr=training.lr)
    recipe = replace(recipe, data=data, phases=[], masking=masking, optimizer=optimizer, seed=seed)
    return recipe, full_sequences(bench.text, length, sequences, seed)


def train_baseline(
    bench: Bench, training: BaselineTraining, setting: BaselineSettings, seed: int, masked: Path, curve_file: Path
) -> Value:
    """Train and score the peer. The clock runs from the first request for a batch to the last step, as in `bert pretrain`."""
    sequences = max(
        training.sequences, min(bench.text.store.num_tokens, _PEER_TOKENS) // (training.sequence_length - 2)
    )
    recipe, text = _peer_run(bench, training, sequences, seed)
    peer, stream = BaselineSteps(recipe, setting), packed(text, recipe)
    schedule = ScheduleConfig(kind="linear", warmup=training.warmup)
    curve: list[tuple[float, float]] = []
    progress = Progress(StopConfig(minutes=training.minutes))
    progress.start()
    while not progress.finished():
        batch = whole(stream.micro_batch(int(progress.step))).on(peer.device)
        for group in peer.optimizer.param_groups:
            group["lr"] = training.lr * learning_rate_share(progress.share(), schedule)
        peer.step(batch)
        if progress.step % 20 == 0:
            now(peer.device)  # the clock is that of the device: steps do not run ahead of it
        progress.advance(batch.tokens, progress.elapsed())
        if progress.seconds >= 60 * training.minutes * (len(curve) + 1) / (POINTS + 1):
            begun = now(peer.device)
            curve.append((progress.seconds / 60, score_baseline(peer.model, curve_file).loss))
            progress.leave_out(now(peer.device) - begun)
    used = {"steps": int(progress.step), "tokens": progress.tokens, "seconds": progress.seconds}
    curve.append((progress.seconds / 60, score_baseline(peer.model, curve_file).loss))
    return {**asdict(score_baseline(peer.model, masked)), **used, "seed": seed, "setting": str(setting), "curve": curve}


class CurveCallback(L.Callback):
    """Scores the model of a run on a masked file, `points` times through the minutes of its budget: a line of JSON each in `out`."""

    def __init__(self, masked: str, seconds: float, out: str, points: int = POINTS) -> None:
        self.masked, self.seconds, self.out, self.points, self.taken = masked, seconds, Path(out), points, 0
        self.out.unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """After a step, where a point is due."""
        assert isinstance(pl_module, PretrainingModule)
        spent = pl_module.progress.elapsed()
        if spent >= self.seconds * (self.taken + 1) / (self.points + 1):
            begun = now(pl_module.device)
            loss = score_masked(pl_module.model, self.masked).loss
            pl_module.model.train()
            pl_module.progress.leave_out(now(pl_module.device) - begun)
            self.taken += 1
            with self.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([spent / 60, loss]) + "\n")


def train_ours(recipe: PretrainRecipe, out: Path, masked: Path, curve_file: Path, minutes: float, seed: int) -> Value:
    """`bert pretrain` by the recipe with this budget in the folder `out`, scored as the peer is. What was there is lost."""
    points = out.with_suffix(".jsonl")
    watching = CurveCallback(str(curve_file), 60 * minutes, str(points))
    trainer = recipe.trainer | {"callbacks": [*recipe.trainer.get("callbacks", []), watching]}
    told = replace(recipe, stop=StopConfig(minutes=minutes), seed=seed, trainer=trainer)
    model = MaskedLM.load(pretrain(told, out, overwrite=True))
    with (out / "metrics.csv").open(newline="", encoding="utf-8") as stream:
        last = [sequence for sequence in csv.DictReader(stream) if sequence["loss"]][
            -1
        ]  # behind it a validation may stand
    curve = [json.loads(line) for line in points.read_text(encoding="utf-8").splitlines()] if points.exists() else []
    used = {"steps": int(last["step"]), "tokens": float(last["tokens"]), "seconds": float(last["seconds"])}
    curve.append([used["seconds"] / 60, score_masked(model, curve_file).loss])
    return {**asdict(score_masked(model, masked)), **used, "seed": seed, "curve": curve}


def compare_minutes(
    bench: Bench, training: BaselineTraining, masked: Path, out: Path, seeds: Sequence[int], sides: Sequence[str]
) -> dict[str, Any]:
    """Each side with each seed, in turns; a cell each. Returns the losses, and for each seed the minutes after which ours is
    where the peer ends (by curves, whose learning rate decays to the end of the whole budget: an upper bound)."""
    curve_file = cut_masked(masked, out / "curve-sequences.npz")
    found: dict[str, list[Value]] = {side: [] for side in sides}
    torch.manual_seed(0)  # also refuses, before anything is trained, sequences that the model cannot take
    fresh = score_masked(MaskedLM(bench.recipe.encoder, bench.recipe.head), curve_file)

    def measure(side: str, seed: int) -> Value:
        fresh_start()
        if side == "ours":
            return train_ours(bench.recipe, out / f"ours-{seed}", masked, curve_file, training.minutes, seed)
        setting = fastest_setting(bench, training)
        fresh_start()
        return train_baseline(bench, training, setting, seed, masked, curve_file)

    for number, seed in enumerate(seeds):
        for side in sides if number % 2 == 0 else reversed(sides):
            key = {"what": "minutes", "side": side, "seed": seed}
            found[side].append(bench.told(key, partial(measure, side, seed)))
    summary: dict[str, Any] = {side: spread([value["loss"] for value in found[side]]) for side in sides}
    summary["random initialization"] = fresh.loss
    if set(sides) == {"peer", "ours"}:
        pairs = zip(found["ours"], found["peer"])
        summary["minutes_until"] = [minutes_until(ours["curve"], peer["curve"][-1][1]) for ours, peer in pairs]
    return summary


def cut_masked(masked: Path, file: Path, sequences: int = CURVE_SEQUENCES) -> Path:
    """The first sequences of a masked file as a file of their own."""
    input_ids, labels = read_masked(masked)
    np.savez(file, input_ids=input_ids[:sequences].numpy(), labels=labels[:sequences].numpy())
    return file


def minutes_until(curve: Sequence[Sequence[float]], loss: float) -> float | None:
    """The first minute at which a curve is at `loss` or below, in a line between its points; none where it never is."""
    for (minute, value), (later, lower) in pairwise(curve):
        if value <= loss:
            return minute
        if lower <= loss:
            return minute + (later - minute) * (value - loss) / (value - lower)
    return curve[-1][0] if curve and curve[-1][1] <= loss else None
