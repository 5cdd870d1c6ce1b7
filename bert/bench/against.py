"""Ours and the peer on the same documents, in turns: how many times as many real tokens a second, with the spread of the rounds.

Works: sequences without padding (the same sequences and masks for both); ragged documents that the peer pads to the longest of a batch, and
that it concatenates without masks. Ours packs them. A cell is one work against one setting of the peer.
"""

import statistics
from dataclasses import asdict, replace
from functools import cache, lru_cache, partial

import torch

from bert.bench.candidate import Candidate, compiled
from bert.bench.cells import OUT_OF_MEMORY, Value, attempt
from bert.bench.documents import Text
from bert.bench.machine import Shape, free_memory, fresh_start, peak, place
from bert.bench.peers import WORKS, BaselineSettings, BaselineSteps, Bout, Work, make_bout, settings_of
from bert.bench.plan import Bench
from bert.bench.rounds import spread
from bert.bench.steps import beside_peak, best_micro_batch
from bert.errors import InputError
from bert.pretraining.backend import select_attention
from bert.pretraining.phases import resolve_plan

DOCUMENTS = 4096
"""ragged documents that are measured on"""


def race(bench: Bench, product: Shape, ragged: Text) -> None:
    """A cell for each bout of the plan, a work and a setting of the peer; none given: all works in all settings of the device.
    Each stands beside the rate of a matrix product.

    Both sides use AdamW, fused. Ours is compiled unless the recipe says no, and takes the micro-batch of the recipe, or the
    fastest one where it names none. The peer takes `baseline_batch_size` of the plan a step, not given as many as a batch of ours, and half
    of them where it has no room, and half of those, …
    """
    recipe = replace(bench.recipe, optimizer=replace(bench.recipe.optimizer, kind="adamw"))
    recipe = best_micro_batch(replace(bench, recipe=recipe))
    torch._dynamo.config.recompile_limit = 64  # several models of one class in a process

    @cache
    def ours() -> Candidate:  # made once, and only where something is left to measure
        fresh_start()
        device, precision = place(recipe)
        run = compiled(recipe, device)
        return Candidate(select_attention(run, resolve_plan(run), device, precision, bool(run.compile), bench.say))

    bout = lru_cache(maxsize=1)(lambda work, sequences: make_bout(work, recipe, bench.text, ragged, sequences))

    def measure(work: Work, setting: BaselineSettings) -> Value:
        sequences = bench.plan.baseline_batch_size or recipe.data.batch_size
        trial = attempt(lambda: vars(ours().contender(bout(work, sequences)[0]).turn(1)), "ours")
        if "fails" in trial:
            return trial  # what fails here is ours, and no fault of the peer
        while True:
            fight = partial(duel, bench, ours(), bout(work, sequences), work, setting, product)
            value = attempt(fight, "peer", (InputError,))
            if value.get("fails") != OUT_OF_MEMORY or sequences == 1:
                return value
            sequences //= 2  # the most that the peer has room for
            free_memory()

    everything = [(work, setting) for work in WORKS for setting in settings_of(place(recipe)[0])]
    for work, setting in bench.plan.bouts or everything:
        key = {"what": "against hf", "work": work, **asdict(setting), "setting": str(setting)}
        bench.told(key, partial(measure, work, setting))


def duel(bench: Bench, ours: Candidate, bout: Bout, work: Work, setting: BaselineSettings, product: Shape) -> Value:
    """Ours against the peer in one setting."""
    steps, batches = bout
    peer = BaselineSteps(ours.recipe, setting, static=work != "padded").contender(batches)
    turns, shares, common = beside_peak(bench, ours, steps, [peer], product)
    rates = {side: [turn.rate for turn in each] for side, each in zip(("ours", "peer"), turns)}
    return common | {
        "ratio": spread([a / b for a, b in zip(rates["ours"], rates["peer"])]),
        "tokens_per_second": {side: spread(rate) for side, rate in rates.items()},
        "mfu": {side: statistics.median(share) for side, share in zip(rates, shares)},
        "peer_positions_over_tokens": sum(peer.positions) / sum(peer.tokens),
        "our_positions_over_tokens": sum(turn.positions for turn in turns[0]) / sum(turn.tokens for turn in turns[0]),
        "rounds": rates,
        "peak_bytes": peak(ours.device),
        "baseline_batch_size": len(batches[0].input_ids),
    }
