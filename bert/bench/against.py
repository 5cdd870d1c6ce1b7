"""Ours and the peer on the same documents, in turns: how many times as many real tokens a second, with the spread of the rounds.

Works: rows without padding (the same rows and masks for both); ragged documents that the peer pads to the longest of a batch, and
that it concatenates without masks. Ours packs them. A cell is one work against one setting of the peer.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import torch

from bert.bench.ceilings import Ceilings
from bert.bench.cells import Cells, Value
from bert.bench.documents import Text, packed, whole_rows
from bert.bench.ours import OurSteps, operations_per_token, steps_of
from bert.bench.peak import peak
from bert.bench.peers import Compile, PeerBatch, PeerSettings, PeerSteps, concatenated, padded, settings_of, whole
from bert.bench.rounds import Spread
from bert.bench.steps import (
    OUT_OF_MEMORY,
    beside_ceiling,
    best_micro_batch,
    failure,
    free_memory,
    fresh_start,
    has_compiler,
    place,
)
from bert.errors import InputError
from bert.model.tuning import FAILURES
from bert.pretraining.backend import settle_attention
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.phases import Phased
from bert.pretraining.stream import MicroBatch, Split

Work = Literal["full rows", "concatenated", "padded"]
WORKS: tuple[Work, ...] = get_args(Work)  # the one of changing shapes last: the compiler remembers what it saw
DOCUMENTS = 4096
"""ragged documents that are measured on"""
_FULL_STEPS = 8


@dataclass(frozen=True)
class Bout:
    """The batches of one work: steps of ours, batches of the peer."""

    ours: Sequence[Sequence[MicroBatch]]
    peer: Sequence[PeerBatch]

    @property
    def positions_over_tokens(self) -> float:
        """Places that the peer computes for each real token."""
        return sum(batch.input_ids.numel() for batch in self.peer) / sum(batch.tokens for batch in self.peer)


def make_bout(work: Work, recipe: PretrainRecipe, split: Split, text: Text, ragged: Text, peer_rows: int) -> Bout:
    """The batches of a work. The peer has batches of `peer_rows` rows or documents; `ragged` documents fit a row."""
    data, masking, seed = recipe.data, recipe.masking, recipe.seed
    if work == "full rows":
        full = whole_rows(text, data.row_length, _FULL_STEPS * max(data.batch_rows, peer_rows), seed)
        stream = packed(full, data.row_length, data.batch_rows, masking, seed)
        theirs = packed(full, data.row_length, peer_rows, masking, seed)
        all_rows = Split(peer_rows, peer_rows)
        peer = [whole(theirs.micro_batch(step, all_rows)) for step in range(_FULL_STEPS)]
        return Bout(steps_of(stream, split, 0, _FULL_STEPS), peer)
    stream = packed(ragged, data.row_length, data.batch_rows, masking, seed)
    steps = max(1, stream.rows.rows_in_epoch // data.batch_rows)
    ours = steps_of(stream, split, 0, steps)
    if work == "padded":
        return Bout(ours, padded(ragged, recipe, peer_rows, max(1, len(ragged.store) // peer_rows)))
    return Bout(ours, concatenated(ragged, recipe, peer_rows, steps))


def all_bouts(
    recipe: PretrainRecipe,
    works: Sequence[Work] = WORKS,
    attention: str | None = None,
    compile: Compile | None = None,
) -> tuple[tuple[Work, PeerSettings], ...]:
    """Each work against each setting of the peer that the device of the recipe has; `attention` and `compile` leave those alone."""
    settings = settings_of(place(recipe)[0], attention, compile)
    return tuple((work, setting) for work in works for setting in settings)


def race(
    recipe: PretrainRecipe,
    text: Text,
    ragged: Text,
    cells: Cells,
    ceilings: Ceilings,
    bouts: Sequence[tuple[Work, PeerSettings]] = (),
    peer_rows: int | None = None,
    backend: str | None = None,
    rounds: int = 5,
    seconds: float = 3.0,
    say: Callable[[str], None] = print,
) -> None:
    """A cell for each bout, a work and a setting of the peer; none given: all works in all settings of the device.

    Both sides use AdamW, fused. Ours is compiled unless the recipe says no, and takes the micro-batch of the recipe, or the
    fastest one where it names none. The peer takes `peer_rows` a step, not given as many as a batch of ours, and half of them
    where it has no room, and half of those, …
    """
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, kind="adamw"))
    recipe, split = best_micro_batch(recipe, text, cells, min(1.0, seconds))
    torch._dynamo.config.recompile_limit = 64  # several models of one class in a process
    device, precision = place(recipe)
    ours: OurSteps | None = None

    @lru_cache(maxsize=1)
    def bout(work: Work, rows: int) -> Bout:
        return make_bout(work, recipe, split, text, ragged, rows)

    for work, setting in bouts or all_bouts(recipe):
        key = {"what": "against hf", "work": work, "attention": setting.attention, "compile": setting.compile}

        def measure(work: Work = work, setting: PeerSettings = setting) -> Value:
            nonlocal ours
            rows = peer_rows or recipe.data.batch_rows
            try:
                if ours is None:  # made once, and only where something is left to measure
                    fresh_start()
                    compiled = recipe.compile is not False and has_compiler(device)
                    settled = settle_attention(recipe, Phased.always(split), device, precision, compiled, say)
                    ours = OurSteps(settled, split, compiled, backend)
                ours.contender(bout(work, rows).ours).turn(1)  # what fails here is ours, and no fault of the peer
            except FAILURES as error:
                return {**failure(error), "side": "ours"}
            while True:
                value = duel(recipe, ours, bout(work, rows), work, setting, ceilings, rounds, seconds)
                if value.get("fails") != OUT_OF_MEMORY or rows == 1:
                    return value
                rows //= 2  # the most that the peer has room for
                free_memory()

        value = cells.measured(key, measure)
        say(line_of(key, value))


def duel(
    recipe: PretrainRecipe,
    ours: OurSteps,
    bout: Bout,
    work: Work,
    setting: PeerSettings,
    ceilings: Ceilings,
    rounds: int,
    seconds: float,
) -> Value:
    """Ours against the peer in one setting; `fails` where the peer does not run so."""
    try:
        peer = PeerSteps(recipe, setting, ours.device, ours.precision, static=work != "padded", seed=recipe.seed)
        contenders = [ours.contender(bout.ours), peer.contender(bout.peer)]
        (mine, theirs), limits = beside_ceiling(contenders, ours, ceilings, rounds, seconds)
    except InputError:
        raise
    except (*FAILURES, ImportError, OSError) as error:
        return {**failure(error), "side": "peer"}
    operations = operations_per_token(recipe, bout.ours)
    rates = {"ours": [turn.rate for turn in mine], "peer": [turn.rate for turn in theirs]}
    spreads = {name: Spread.of(rate) for name, rate in rates.items()}
    return {
        "ratio": asdict(Spread.of([a / b for a, b in zip(rates["ours"], rates["peer"])])),
        "tokens_per_second": {name: asdict(spread) for name, spread in spreads.items()},
        "share_of_matrix_rate": {
            name: statistics.median(operations * rate / limit for rate, limit in zip(rates[name], limits))
            for name in rates
        },
        "matrix_rate": statistics.median(limits),
        "peer_positions_over_tokens": bout.positions_over_tokens,
        "our_positions_over_tokens": sum(turn.positions for turn in mine) / sum(turn.tokens for turn in mine),
        "rounds": rates,
        "peak_bytes": peak(ours.device),
        "peer_rows": len(bout.peer[0].input_ids),
        "rows": [recipe.data.batch_rows, ours.split.micro_batch_rows, recipe.data.row_length],
        "precision": ours.precision,
    }


def verdict(cells: Cells) -> dict[str, Any]:
    """By work, the ratio against the best setting of the peer, and for padded documents the demand: 0.95 × the ratio without
    padding × the places that the peer computes for each real token."""
    best: dict[str, dict[str, Any]] = {}
    for key, value in cells:
        if key["what"] == "against hf" and "ratio" in value:
            mine = {"ratio": value["ratio"], "against": str(PeerSettings(key["attention"], key["compile"]))}
            mine["peer_positions_over_tokens"] = value["peer_positions_over_tokens"]
            before = best.get(key["work"])
            if before is None or mine["ratio"]["median"] < before["ratio"]["median"]:
                best[key["work"]] = mine
    if "full rows" in best and "padded" in best:
        ragged = best["padded"]
        ragged["demand"] = 0.95 * best["full rows"]["ratio"]["median"] * ragged["peer_positions_over_tokens"]
    return best


def line_of(key: dict[str, Any], value: Value) -> str:
    """A finished cell in a line."""
    name = f"{key['work']}, {PeerSettings(key['attention'], key['compile'])}"
    if "fails" in value:
        return f"{name}: {'the peer' if value['side'] == 'peer' else 'ours'} does not run so here: {value['fails']}"
    rates = value["tokens_per_second"]
    return (
        f"{name}: {Spread(**value['ratio'])} × the peer; {rates['ours']['median']:,.0f} against"
        f" {rates['peer']['median']:,.0f} tokens/s, which computes {value['peer_positions_over_tokens']:.2f} places a token"
    )
