"""`bert bench`: what this machine can do, what a recipe makes of it, and how a peer does beside it.

As functions: `bench` for a recipe and a text, `bench_arrays` for token ids in memory; neither needs `datasets`, `pyarrow` or
`pydantic`. Every figure is a median of rounds with its spread.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bert.bench.against import DOCUMENTS, Work, race
from bert.bench.cells import Cells
from bert.bench.documents import SPECIALS, Text, mixture, packed, text_of_arrays
from bert.bench.minutes import PeerTraining, compare_minutes
from bert.bench.ours import BACKENDS, OurSteps, steps_of
from bert.bench.peers import PeerSettings
from bert.bench.profile import profile_table
from bert.bench.steps import ceilings_cell, has_compiler, measure_steps, place
from bert.bench.sweep import sweep
from bert.bench.table import report
from bert.errors import InputError
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.score import read_masked
from bert.pretraining.stream import split_batch
from bert.training.folder import environment

Kind = Literal["steps", "sweep", "against"]
_DIGESTED = 1_000_000
"""tokens of a text that its name is made of, beside the lengths of all documents"""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how thoroughly."""

    kind: Kind = "steps"
    """steps: the recipe by backend, compiled or not; sweep: by micro-batch too; against: beside a peer"""
    rounds: int = 5
    seconds: float = 3.0
    """of each contender in a round"""
    backends: tuple[str, ...] = BACKENDS
    """ways to compute attention"""
    smallest: int = 4
    largest: int = 64
    """rows of a micro-batch, from and to, in a sweep"""
    bouts: tuple[tuple[Work, PeerSettings], ...] = ()
    """works against settings of the peer; none: all of both"""
    peer_rows: int | None = None
    """rows or documents of the peer's batch; null: the recipe's batch"""
    profile: bool = False
    """also say where the time of our step goes"""

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.seconds > 0:
            raise InputError(f"--rounds {self.rounds} --seconds {self.seconds:g}: give more than 0 of each")
        if not 1 <= self.smallest <= self.largest:
            raise InputError(f"--smallest {self.smallest} --largest {self.largest}: give 1 or more, the smaller first")


def bench(
    recipe: PretrainRecipe,
    text: Text,
    plan: Plan,
    ragged: Sequence[Text] = (),
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure a recipe on a text; returns what metrics.json holds. With a folder `out` each finished cell is kept there, and
    a measurement that was interrupted goes on. `ragged` texts are mixed, as many documents of one as of another, for works with
    documents; where there are none those of `text` are taken."""
    if recipe.phases:
        say(
            f"the recipe's {len(recipe.phases)} phases are left aside: measured are {recipe.data.batch_rows} rows of"
            f" {recipe.data.row_length} (--data.batch_rows, --data.row_length)"
        )
    recipe = fitted(recipe, text)
    device, precision = place(recipe)
    backend = plan.backends[0] if plan.kind == "against" and len(plan.backends) == 1 else None  # of ours
    measured = {"rounds": plan.rounds, "seconds": plan.seconds, "peer_rows": plan.peer_rows, "backend": backend}
    cells = Cells(out, identity(plan.kind, recipe, (text, *ragged), device) | measured)
    ceilings = ceilings_cell(recipe, device, cells, min(0.3, plan.seconds))
    if plan.kind == "steps":
        measure_steps(recipe, text, cells, ceilings, plan.backends, plan.rounds, plan.seconds, say)
    elif plan.kind == "sweep":
        sweep(recipe, text, cells, plan.backends, plan.smallest, plan.largest, plan.seconds, say)
    else:
        documents = mixture(ragged or [text], DOCUMENTS, recipe.data.row_length, recipe.seed)
        bouts, rows = plan.bouts, plan.peer_rows
        race(recipe, text, documents, cells, ceilings, bouts, rows, backend, plan.rounds, plan.seconds, say)
    if plan.profile:
        say(where_the_time_goes(recipe, text))
    return report(cells, about(recipe, text, precision), out, say)


def bench_minutes(
    recipe: PretrainRecipe,
    text: Text,
    training: PeerTraining,
    masked: Path,
    out: Path,
    seeds: Sequence[int] = (0,),
    sides: Sequence[str] = ("peer", "ours"),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train the peer and ours for the same minutes with each seed and score both; see `bert.bench.minutes`. The recipe names
    its store and its tokenizer."""
    recipe = replace(fitted(recipe, text), phases=recipe.phases)  # ours is trained by the whole recipe
    device, precision = place(recipe)
    scored_on = {"training": dataclasses.asdict(training), "masked": _digest(*read_masked(masked))}
    cells = Cells(out, identity("minutes", recipe, [text], device) | scored_on)
    summary = compare_minutes(recipe, text, training, masked, out, cells, seeds, sides, say)
    for minutes in summary.get("minutes_until", []):
        said = f"after {minutes:.1f} minutes" if minutes is not None else "never"
        say(f"ours reaches the peer's final loss {said} (by curves that decay to the end of the budget)")
    return report(cells, about(recipe, text, precision) | {"minutes": summary}, out, say)


def bench_arrays(
    values: np.ndarray,
    offsets: np.ndarray,
    recipe: PretrainRecipe,
    plan: Plan,
    specials: Sequence[int] = SPECIALS,
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """`bench` on documents in memory: document i is `values[offsets[i] : offsets[i + 1]]`, ids below encoder.vocab_size;
    `specials` are the ids of [PAD], [UNK], [CLS], [SEP] and [MASK]."""
    text = text_of_arrays(values, offsets, recipe.encoder.vocab_size, specials)
    return bench(recipe, text, plan, out=out, say=say)


def fitted(recipe: PretrainRecipe, text: Text) -> PretrainRecipe:
    """The recipe on one device and without its phases, with a vocabulary that holds the text's and its padding id."""
    encoder = replace(
        recipe.encoder,
        vocab_size=max(recipe.encoder.vocab_size, text.vocab_size),
        pad_id=text.special_ids.pad,
    )
    return replace(recipe, encoder=encoder, phases=[], trainer={**recipe.trainer, "devices": 1, "num_nodes": 1})


def where_the_time_goes(recipe: PretrainRecipe, text: Text) -> str:
    """The profile of our step, compiled where it can be."""
    device, _ = place(recipe)
    split = split_batch(recipe.data.batch_rows, recipe.data.micro_batch_rows, 1)
    stream = packed(text, recipe.data.row_length, recipe.data.batch_rows, recipe.masking, recipe.seed)
    ours = OurSteps(recipe, split, recipe.compile is not False and has_compiler(device))
    return profile_table(ours, steps_of(stream, split, 0, 1)[0])


def identity(kind: str, recipe: PretrainRecipe, texts: Sequence[Text], device: torch.device) -> dict[str, Any]:
    """What figures depend on: those of one folder have all of it in common."""
    here = environment()
    return {
        "kind": kind,
        "recipe": _plain(recipe),
        "texts": [
            [len(text.store), text.store.num_tokens, _digest(text.store.values[:_DIGESTED], text.store.lengths)]
            for text in texts
        ],
        "device": str(device),
        **{name: here[name] for name in ("commit", "packages", "cpu", "cuda_devices")},
    }


def about(recipe: PretrainRecipe, text: Text, precision: str) -> dict[str, Any]:
    """What figures have to be read with."""
    return {
        "environment": environment(),
        "precision": precision,
        "recipe": _plain(recipe),
        "text": {"documents": len(text.store), "tokens": text.store.num_tokens, "vocabulary": text.vocab_size},
    }


def _plain(recipe: PretrainRecipe) -> dict[str, Any]:
    """The recipe without where its text lies, what ends it and what it writes: how it trains."""
    plain = dataclasses.asdict(recipe)
    for name in ("vocabulary", "stop", "log", "checkpoint", "start", "grow"):
        del plain[name]
    for name in ("corpus", "store", "tokenizer"):
        del plain["data"][name]
    return plain


def _digest(*arrays: Any) -> str:
    """A short name of the content of arrays."""
    content = hashlib.blake2b(digest_size=8)
    for array in arrays:
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()
