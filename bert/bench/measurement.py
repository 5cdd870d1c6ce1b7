"""What is measured, how thoroughly, and where its results go; and rates measured in alternating rounds, because machines drift, and only
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
from bert.bench.results import Results, Value
from bert.bench.table import line_of, report
from bert.errors import require_positive
from bert.model.tuning import now
from bert.pretraining.config import PretrainRecipe
from bert.training.folder import environment

logger = logging.getLogger(__name__)

_WARM_UP = 3  # steps before anything is timed
_DIGESTED = 1_000_000  # tokens of a text that its digest is made of, beside the lengths of all documents


@dataclass
class Measurement:
    """A recipe on a text (`bert.bench.documents`), how thoroughly it is measured, and the results so far.

    With a folder `out` each finished result is kept there, and a measurement that was interrupted is resumed. The recipe is taken on one
    device, with a vocabulary that holds the text's and its padding id.
    """

    recipe: PretrainRecipe
    text: Text
    out: Path | None = None
    rounds: int = 5
    seconds: float = 3.0
    """of each timed run in a round"""
    results: Results = field(default_factory=lambda: Results(None, {}))
    product: Shape = CPU_SHAPES[0]
    """shape of the matrix product that is the fastest here: the peak that MFU is relative to"""

    def __post_init__(self) -> None:
        require_positive("bench", self, "rounds seconds")
        size = max(self.recipe.encoder.vocab_size, self.text.vocab_size)
        encoder = replace(self.recipe.encoder, vocab_size=size, pad_id=self.text.special_ids.pad)
        trainer = self.recipe.trainer | {"devices": 1, "num_nodes": 1}
        self.recipe = replace(self.recipe, encoder=encoder, trainer=trainer)

    def open(self, mode: str, given: Value | None = None, texts: Sequence[Text] = ()) -> None:
        """Open the results of `mode`; `given` and further `texts` are what they depend on besides."""
        effort = {"rounds": self.rounds, "seconds": self.seconds}
        self.results = Results(self.out, fingerprint(mode, self.recipe, (self.text, *texts)) | effort | (given or {}))

    def result(self, key: dict[str, Any], measure: Callable[[], Value]) -> Value:
        """The result of this key, as it stands there or measured now, and printed as a line."""
        value = self.results.measured(key, measure)
        logger.info(line_of(key | value))
        return value

    def report(self, summary: Value | None = None) -> dict[str, Any]:
        """Print and write all results; returns what metrics.json holds: they, the `summary`, and what they have to be read with."""
        store = self.text.store
        about: Value = {
            "environment": environment(),
            "precision": device_and_precision(self.recipe)[1],
            "recipe": plain(self.recipe),
            "text": {"documents": len(store), "tokens": store.num_tokens, "vocabulary": self.text.vocab_size},
        }
        return report(self.results, about | (summary or {}))


def fingerprint(mode: str, recipe: PretrainRecipe, texts: Sequence[Text]) -> dict[str, Any]:
    """What metrics depend on: the results of one folder have all of it in common."""
    here, stores = environment(), [text.store for text in texts]
    return {
        "mode": mode,
        "recipe": plain(recipe),
        "texts": [[len(store), store.num_tokens, digest(store.values[:_DIGESTED], store.lengths)] for store in stores],
        "device": str(device_and_precision(recipe)[0]),
        **{name: here[name] for name in ("commit", "packages", "cpu", "cuda_devices")},
    }


def plain(recipe: PretrainRecipe) -> dict[str, Any]:
    """The recipe without where its text lies, what ends it and what it writes: how it trains."""
    plain = asdict(recipe)
    for name in ("vocabulary", "stop", "log", "checkpoint", "initialize_from", "expand"):
        del plain[name]
    for name in ("corpus", "store", "tokenizer"):
        del plain["data"][name]
    return plain


def digest(*arrays: Any) -> str:
    """A short digest of the content of arrays."""
    return hashlib.blake2b(b"".join(np.ascontiguousarray(one).tobytes() for one in arrays), digest_size=8).hexdigest()


@dataclass(frozen=True)
class TimedRun:
    """Some steps of one side in one round."""

    seconds: float
    tokens: int
    """without padding"""
    positions: int
    """with padding"""

    @property
    def rate(self) -> float:
        """Tokens a second, padding not counted."""
        return self.tokens / self.seconds


@dataclass
class TimedSteps:
    """Optimizer steps that can be timed: `step` does one with a batch, which is ready on the device; `tokens` and `positions` are those of
    each batch, without and with padding."""

    step: Callable[[Any], None]
    batches: Sequence[Any]
    """of each step; after the last the first comes again"""
    tokens: Sequence[int]
    positions: Sequence[int]
    device: torch.device
    done: int = 0
    """steps so far"""

    def __post_init__(self) -> None:
        self.batches = [move_data_to_device(batch, self.device) for batch in self.batches]

    def run(self, steps: int) -> TimedRun:
        """Do and time `steps` further steps."""
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
    """Time steps of each side for about `seconds` a round; none is always the first. A list of runs for each side.

    Before the first round every side does a few steps that do not count: they compile, and fill caches. `between` is called once a round.
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
            sides[which].run(1)  # replaces what the other side left in the caches
            runs[which].append(sides[which].run(steps[which]))
    return runs


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum and maximum of the rounds, of one value a round."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
