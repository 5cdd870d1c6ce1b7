"""The input of a measurement, its effort, and its results; and rates measured in alternating rounds: the speed of a machine drifts, so only
what is measured within a round is compared."""

import hashlib
import logging
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device

from bert.bench.documents import Text
from bert.bench.machine import CPU_SHAPES, Shape, device_and_precision
from bert.bench.results import Results, Value, line_of, report
from bert.errors import require_positive
from bert.model.tuning import now
from bert.pretraining.config import PretrainRecipe
from bert.training.folder import environment
from bert.training.step import StepBatch

logger = logging.getLogger(__name__)

_WARM_UP = 3  # untimed steps at the start
_DIGESTED = 1_000_000  # tokens of a text that are part of its digest, with the lengths of all documents


@dataclass
class Measurement:
    """A recipe on a text (`bert.bench.documents`), how thoroughly it is measured, and the results so far.

    With a folder `out` each finished result is saved there, and an interrupted measurement is resumed. The recipe is run on one device,
    with a vocabulary that includes that of the text, and its padding id.
    """

    recipe: PretrainRecipe
    text: Text
    out: Path | None = None
    rounds: int = 5
    seconds: float = 3.0
    """length of each timed run in a round"""
    results: Results = field(default_factory=lambda: Results(None, {}))
    product: Shape = CPU_SHAPES[0]
    """shape of the fastest matrix product on this machine: the peak that MFU is relative to"""

    def __post_init__(self) -> None:
        require_positive("bench", self, "rounds seconds")
        size = max(self.recipe.encoder.vocab_size, self.text.vocab_size)
        encoder = replace(self.recipe.encoder, vocab_size=size, pad_id=self.text.special_ids.pad)
        trainer = self.recipe.trainer | {"devices": 1, "num_nodes": 1}
        self.recipe = replace(self.recipe, encoder=encoder, trainer=trainer)

    def open(self, mode: str, given: Value | None = None, texts: Sequence[Text] = ()) -> None:
        """Open the results of `mode`, which also depend on `given` and on further `texts`."""
        effort = {"rounds": self.rounds, "seconds": self.seconds}
        self.results = Results(self.out, fingerprint(mode, self.recipe, (self.text, *texts)) | effort | (given or {}))

    def result(self, key: Value, measure: Callable[[], Value]) -> Value:
        """The result of this key, measured now unless it is already there, and printed as a line."""
        value = self.results.measured(key, measure)
        logger.info(line_of(key | value))
        return value

    def report(self, summary: Value | None = None) -> Value:
        """Print and write all results. Returns the content of metrics.json: the results, the `summary`, and the conditions."""
        store = self.text.store
        about: Value = {
            "environment": environment(),
            "precision": device_and_precision(self.recipe)[1],
            "recipe": plain(self.recipe),
            "text": {"documents": len(store), "tokens": store.num_tokens, "vocabulary": self.text.vocab_size},
        }
        return report(self.results, about | (summary or {}))


def fingerprint(mode: str, recipe: PretrainRecipe, texts: Sequence[Text]) -> Value:
    """Everything that metrics depend on: all results in one folder share it."""
    here, stores = environment(), [text.store for text in texts]
    return {
        "mode": mode,
        "recipe": plain(recipe),
        "texts": [[len(store), store.num_tokens, digest(store.values[:_DIGESTED], store.lengths)] for store in stores],
        "device": str(device_and_precision(recipe)[0]),
        **{name: here[name] for name in ("commit", "packages", "cpu", "cuda_devices")},
    }


def plain(recipe: PretrainRecipe) -> Value:
    """How the recipe trains: its fields without the paths of its text, its budget and its output."""
    plain = asdict(recipe)
    for name in ("vocabulary", "stop", "log", "checkpoint", "initialize_from", "expand"):
        del plain[name]
    for name in ("corpus", "store", "tokenizer"):
        del plain["data"][name]
    return plain


def digest(*arrays: Any) -> str:
    """A short hash of the content of arrays."""
    return hashlib.blake2b(b"".join(np.ascontiguousarray(one).tobytes() for one in arrays), digest_size=8).hexdigest()


@dataclass(frozen=True)
class TimedRun:
    """Steps of one side in one round."""

    seconds: float
    tokens: int
    """without padding"""
    positions: int
    """with padding"""

    @property
    def rate(self) -> float:
        """Tokens/s, padding not counted."""
        return self.tokens / self.seconds


@dataclass
class TimedSteps:
    """Optimizer steps of one side that can be timed: `step` runs one on a batch. The batches are moved to the device, and repeated after
    the last."""

    step: Callable[[StepBatch], object]
    batches: Sequence[StepBatch]
    device: torch.device
    done: int = 0
    """steps so far"""

    def __post_init__(self) -> None:
        self.tokens = [batch.tokens for batch in self.batches]
        self.positions = [sum(micro["input_ids"].numel() for micro in batch.micro_batches) for batch in self.batches]
        self.batches = [move_data_to_device(batch, self.device) for batch in self.batches]

    def run(self, steps: int) -> TimedRun:
        """Run and time `steps` further steps."""
        numbers = [number % len(self.batches) for number in range(self.done, self.done + steps)]
        start = now(self.device)
        for number in numbers:
            self.step(self.batches[number])
        seconds = now(self.device) - start
        self.done += steps
        return TimedRun(seconds, sum(self.tokens[n] for n in numbers), sum(self.positions[n] for n in numbers))


def alternate(
    sides: Sequence[TimedSteps], rounds: int, seconds: float, between: Callable[[], None] = lambda: None
) -> list[list[TimedRun]]:
    """Time steps of each side for about `seconds` per round; no side is always first. Returns a list of runs for each side.

    Before the first round each side runs a few untimed steps, which compile and fill caches. `between` is called once per round.
    """
    steps = []
    for side in sides:
        side.run(_WARM_UP)
        steps.append(max(2, math.ceil(seconds / (side.run(2).seconds / 2))))
    runs: list[list[TimedRun]] = [[] for _ in sides]
    for number in range(rounds):
        between()
        order = range(len(sides))
        for which in order if number % 2 else reversed(order):
            sides[which].run(1)  # refills the caches after the other side
            runs[which].append(sides[which].run(steps[which]))
    return runs


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum of one value per round."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
