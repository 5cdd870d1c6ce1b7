"""`bert bench`: what this machine can do, what a recipe makes of it, and how a peer does beside it.

As functions: `bench` for a recipe and a text, `bench_arrays` for token ids in memory; neither needs `datasets`, `pyarrow` or
`pydantic`. Every figure is a median of rounds with its spread.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from bert.bench.against import DOCUMENTS, race
from bert.bench.candidate import where_the_time_goes
from bert.bench.cells import Cells
from bert.bench.documents import SPECIALS, Text, mixture, text_of_arrays
from bert.bench.machine import place
from bert.bench.minutes import BaselineTraining, compare_minutes
from bert.bench.plan import Bench, Plan
from bert.bench.steps import measure_steps, peaks_result, sweep
from bert.bench.table import report
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.score import read_masked
from bert.training.folder import environment

__all__ = ["Plan", "bench", "bench_arrays", "bench_minutes"]
_DIGESTED = 1_000_000
"""tokens of a text that its name is made of, beside the lengths of all documents"""


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
        shape = f"{recipe.data.batch_size} sequences of {recipe.data.sequence_length} (--data.batch_size, --data.sequence_length)"
        say(f"the recipe's {len(recipe.phases)} phases are left aside: measured are {shape}")
    recipe = fitted(recipe, text)
    if plan.kind == "against" and len(plan.backends) == 1:  # ours; all of them are no choice
        recipe = replace(recipe, attention=plan.backends[0], local_attention=None)
    thoroughly = {"rounds": plan.rounds, "seconds": plan.seconds, "baseline_batch_size": plan.baseline_batch_size}
    cells = Cells(out, fingerprint(plan.kind, recipe, (text, *ragged)) | thoroughly)
    measured = Bench(recipe, text, plan, cells, say)
    product = peaks_result(measured)
    if plan.kind == "steps":
        measure_steps(measured, product)
    elif plan.kind == "sweep":
        sweep(measured)
    else:
        race(measured, product, mixture(ragged or [text], DOCUMENTS, recipe.data.sequence_length, recipe.seed))
    if plan.profile:
        say(where_the_time_goes(text, recipe))
    return report(cells, about(recipe, text), out, say)


def bench_minutes(
    recipe: PretrainRecipe,
    text: Text,
    training: BaselineTraining,
    masked: Path,
    out: Path,
    seeds: Sequence[int] = (0,),
    sides: Sequence[str] = ("peer", "ours"),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train the peer and ours for the same minutes with each seed and score both; see `bert.bench.minutes`. The recipe names
    its store and its tokenizer."""
    recipe = replace(fitted(recipe, text), phases=recipe.phases)  # ours is trained by the whole recipe
    scored_on = {"training": asdict(training), "masked": _digest(*read_masked(masked))}
    cells = Cells(out, fingerprint("minutes", recipe, [text]) | scored_on)
    summary = compare_minutes(Bench(recipe, text, Plan("against"), cells, say), training, masked, out, seeds, sides)
    for minutes in summary.get("minutes_until", []):
        said = f"after {minutes:.1f} minutes" if minutes is not None else "never"
        say(f"ours reaches the peer's final loss {said} (by curves that decay to the end of the budget)")
    return report(cells, about(recipe, text) | {"minutes": summary}, out, say)


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
    size = max(recipe.encoder.vocab_size, text.vocab_size)
    encoder = replace(recipe.encoder, vocab_size=size, pad_id=text.special_ids.pad)
    return replace(recipe, encoder=encoder, phases=[], trainer=recipe.trainer | {"devices": 1, "num_nodes": 1})


def fingerprint(kind: str, recipe: PretrainRecipe, texts: Sequence[Text]) -> dict[str, Any]:
    """What figures depend on: those of one folder have all of it in common."""
    here, stores = environment(), [text.store for text in texts]
    return {
        "kind": kind,
        "recipe": _plain(recipe),
        "texts": [[len(store), store.num_tokens, _digest(store.values[:_DIGESTED], store.lengths)] for store in stores],
        "device": str(place(recipe)[0]),
        **{name: here[name] for name in ("commit", "packages", "cpu", "cuda_devices")},
    }


def about(recipe: PretrainRecipe, text: Text) -> dict[str, Any]:
    """What figures have to be read with."""
    return {
        "environment": environment(),
        "precision": place(recipe)[1],
        "recipe": _plain(recipe),
        "text": {"documents": len(text.store), "tokens": text.store.num_tokens, "vocabulary": text.vocab_size},
    }


def _plain(recipe: PretrainRecipe) -> dict[str, Any]:
    """The recipe without where its text lies, what ends it and what it writes: how it trains."""
    plain = asdict(recipe)
    for name in ("vocabulary", "stop", "log", "checkpoint", "initialize_from", "expand"):
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
