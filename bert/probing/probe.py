"""What each layer of an encoder knows about a label, each number beside its controls.

    labelled words or texts → one pass of the encoder, kept on disk → probes of every layer → a table with one metric a row

A probe can learn a task that the encoder knows nothing of. Beside its accuracy there are therefore that of constant and of lexical answers,
of the same probe on layer 0 and on an encoder of random weights, of a control task that can only be memorized, and the length of the
labels' code, which also counts how hard the probe was to train.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import nn

from bert.errors import InputError, check_arguments, check_seed, option
from bert.inference.embeddings import encoder_of
from bert.model.encoder import Encoder
from bert.probing import controls, similarity
from bert.probing.linear import Fit, Labels, Predictions, Vectors, fit, fit_layers, fit_mix
from bert.probing.mdl import code_length
from bert.probing.senses import random_like
from bert.probing.structural import Trees, evaluate_distances, structural
from bert.probing.units import Units, read_units
from bert.probing.vectors import selected, vectors_of
from bert.report.text import render, table

logger = logging.getLogger(__name__)

Measure = Literal["linear", "control", "random", "mdl", "structural", "similarity"]
LINEAR, MIX, CONTROL, RANDOM, CODE = "linear", "mix", "control task", "random encoder", "online code"
STRUCTURAL, SIMILARITY, CKA = "structural", "similarity", "CKA with the first model"
HELD_OUT = 5  # every fifth sentence is a dev sentence, if there is no dev file
MOST_COMPARED = 4_096  # units whose layers are compared by CKA
MOVED = 10  # words that are named as those that moved most

METRICS = {"uuas": "UUAS", "dspr": "DSpr.", "root": "root accuracy", "nspr": "NSpr."}
"""of the structural probe"""
Subject = tuple[str, int | None]
"""a model, and the tokens that it has seen, if it is a checkpoint"""


@dataclass(frozen=True)
class Row:
    """One metric of one probe."""

    model: str
    tokens: int | None
    """tokens that a checkpoint had seen; none for a finished model"""
    layer: str
    """its number, where 0 is the embeddings; mix; empty for a baseline without a model"""
    probe: str
    metric: str
    value: float
    low: float | None = None
    """95 % interval, by resampling sentences"""
    high: float | None = None
    examples: int = 0
    """labelled units that it was trained on"""
    seed: int = 0


@dataclass(frozen=True)
class ProbeResult:
    """The metrics of all probes. Prints as a table by layer."""

    label: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """the words that moved most between the first model and each other one"""

    def table(self) -> list[dict[str, object]]:
        """A tidy table: one metric a row, for files and for `pandas.DataFrame`."""
        return [vars(row) for row in self.rows]

    @cached_property
    def subjects(self) -> list[Subject]:
        """The models, in order."""
        return list(dict.fromkeys((row.model, row.tokens) for row in self.rows if row.layer))

    @staticmethod
    def name(subject: Subject) -> str:
        """The end of the path of a model, and the tokens that it has seen."""
        model, tokens = subject
        return "/".join(Path(model).parts[-2:]) + ("" if tokens is None else f", {tokens:,} tokens")

    def value(self, subject: Subject, layer: str, probe: str, metric: str, examples: int | None = None) -> float | None:
        """A metric of the probe that was trained on so many units, by default all: the mean over seeds; none if it was not measured."""
        own = self._found.get((subject, layer, probe, metric), [])
        count = max((row.examples for row in own), default=0) if examples is None else examples
        values = [row.value for row in own if row.examples == count]
        return float(np.mean(values)) if values else None

    def best_layer(self, subject: Subject, probe: str, metric: str) -> str | None:
        """The layer with the highest value of a metric; none if it was not measured."""
        values = {
            layer: self.value(subject, layer, probe, metric) for layer in dict.fromkeys(row.layer for row in self.rows)
        }
        known = {layer: value for layer, value in values.items() if value is not None and layer.isdecimal()}
        return max(known, key=lambda layer: known[layer], default=None)

    @cached_property
    def _found(self) -> dict[tuple[Subject, str, str, str], list[Row]]:
        found: dict[tuple[Subject, str, str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault(((row.model, row.tokens), row.layer, row.probe, row.metric), []).append(row)
        return found

    def by_layer(self, subject: Subject) -> Iterator[tuple[list[str], list[list[str]]]]:
        """A header and, for each layer of a model, its metrics as text: those of the probes, of similarity, of CKA."""
        own = [row for row in self.rows if (row.model, row.tokens) == subject and row.layer]
        for apart in ("", SIMILARITY, CKA):
            some = [row for row in own if row.probe == apart or (not apart and row.probe not in (SIMILARITY, CKA))]
            columns = list(dict.fromkeys((row.probe, row.metric) for row in some))
            cells = [
                [layer, *(_shown(metric, self.value(subject, layer, probe, metric)) for probe, metric in columns)]
                for layer in dict.fromkeys(row.layer for row in some)
            ]
            if cells:
                yield ["layer", *(f"{probe}\n{METRICS.get(metric, metric)}" for probe, metric in columns)], cells

    def baselines(self) -> list[str]:
        """What answers without a model score, one line each."""
        return [
            f"{row.probe}: {METRICS.get(row.metric, row.metric)} {_shown(row.metric, row.value)}"
            for row in self.rows
            if not row.layer
        ]

    def __str__(self) -> str:
        """For each model the metrics by layer, then the baselines."""
        parts: list[Table | str] = []
        for subject in self.subjects:
            parts.append(f"{self.label}, {self.name(subject)}")
            for header, rows in self.by_layer(subject):
                parts += [table(header, rows, left=0), ""]
        return render(*parts, *self.baselines(), *self.notes)


def _shown(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"{value:.1%}"
        if metric in ("accuracy", "selectivity", "uuas", "root")
        else f"{value:,.3f}"
        if value < 1000
        else f"{value:,.0f}"
    )


@dataclass(frozen=True)
class _Split:
    """Labelled units, and the number of the class of each."""

    units: Units
    labels: Labels

    def part(self, keep: NDArray[np.bool_]) -> "_Split":
        """The units that are kept; all of them without a copy."""
        return self if keep.all() else _Split(self.units.select(keep), self.labels[keep])


@dataclass(frozen=True)
class _Plan:
    """What is measured, and on which units."""

    train: _Split
    dev: _Split
    test: _Split
    classes: int
    measures: Sequence[Measure]
    examples: Sequence[int]
    seeds: Sequence[int]
    pooling: str
    folder: Path | None
    bf16: bool | None


def probe(
    train: str | Path,
    label: str,
    models: Sequence[str | Path | nn.Module],
    dev: str | Path | None = None,
    test: str | Path | None = None,
    *,
    text: str | None = None,
    pooling: str = "mean",
    measures: Sequence[Measure] = ("linear", "control", "random", "mdl"),
    examples: Sequence[int] = (),
    seeds: int = 1,
    tokens: Sequence[int | None] = (),
    folder: Path | None = None,
    bf16: bool | None = None,
) -> ProbeResult:
    """Probe every layer of models for a label of words or texts.

    `train`, `dev` and `test` are files of `bert.probing.units.read_units`, in which `label` is a column. Without `dev` every fifth sentence
    of `train` takes its place. Regularization is chosen on `dev`; metrics are those on `test`, or on `dev` if there is none. With the label
    `head` the structural probe alone is trained. `pooling`: of the tokens of a word or text, see `vectors_of`. `examples`: also train on
    this many units, for learning curves. `seeds`: number of control tasks, random encoders, samples and orders of the code. `tokens`: those
    that each model has seen, if they are checkpoints. `folder` keeps vectors for the next call.

    Raises InputError for files without the label, one class, unknown measures, and models without a tokenizer.
    """
    check_arguments(probe, locals())
    check_seed(seeds)
    read = [None if file is None else read_units(file, label, text) for file in (train, dev, test)]
    plan = _plan(read, measures, examples, range(seeds), pooling, folder, bf16)
    rows = list(_baselines(plan) if plan.train.units.heads is None else _chain(plan.test))
    notes = list[str]()
    first: tuple[Vectors, Units] | None = None
    for number, model in enumerate(models):
        name = str(model) if isinstance(model, str | Path) else f"model {number + 1}"
        base = Row(name, tokens[number] if tokens else None, "", "", "", 0.0, examples=len(plan.train.labels))
        encoder = encoder_of(model)
        data = _vectors(encoder, plan, f"vectors of {name}")
        rows += _of_model(encoder, data, plan, base)
        if "similarity" in plan.measures:
            own, units = data[2][0], data[2][1].units
            first = first or (own, units)
            if units.owners.tolist() != first[1].owners.tolist() or units.spans != first[1].spans:
                raise InputError(
                    f"{name}: its tokenizer drops other words than that of the first model; probe it alone"
                )
            rows += _similarity(own, None if number == 0 else first[0], units, base)
            notes += [] if number == 0 else _moved(own, first[0], units, name)
    return ProbeResult(label, tuple(rows), tuple(notes))


def _plan(
    read: Sequence[Units | None],
    measures: Sequence[Measure],
    examples: Sequence[int],
    seeds: Sequence[int],
    pooling: str,
    folder: Path | None,
    bf16: bool | None,
) -> _Plan:
    """The splits, with a class number for each label, and what can be measured on them."""
    if wrong := [one for one in measures if one not in get_args(Measure)]:
        raise InputError(f"measures has {wrong[0]!r}; must be of {', '.join(get_args(Measure))}")
    train, dev, test = read
    assert train is not None
    if dev is None:
        held_out = train.owners % HELD_OUT == HELD_OUT - 1
        if held_out.all() or not held_out.any():
            raise InputError(
                f"{len({*train.owners.tolist()})} sentences are too few to hold some out: give {option('dev')}"
            )
        train, dev = train.select(~held_out), train.select(held_out)
    names = {
        name: number for number, name in enumerate(sorted({*train.labels, *dev.labels, *(test.labels if test else ())}))
    }
    splits = [_Split(one, np.array([names[label] for label in one.labels])) for one in (train, dev, test or dev)]
    trees = train.heads is not None
    chosen: list[Measure] = [
        one for one in measures if one in ("random", "similarity") or trees == (one == "structural")
    ]
    if trees and "structural" not in chosen:
        chosen.append("structural")
    return _Plan(splits[0], splits[1], splits[2], len(names), chosen, examples, seeds, pooling, folder, bf16)


def _baselines(plan: _Plan) -> Iterator[Row]:
    """What answers without a model score on the test units."""
    base = Row("", None, "", "", "", 0.0, examples=len(plan.train.labels))
    known, asked = plan.train, plan.test
    answers = {"majority": controls.majority(known.labels, asked.labels, plan.classes)}
    if known.units.spans is None:
        predicted = controls.bag_of_words(known.units.types, known.labels, asked.units.types)
        yield from _accuracy(replace(base, probe="bag of words"), predicted == asked.labels, asked.units.owners)
    else:
        types = (known.units.types, known.labels), (asked.units.types, asked.labels)
        answers["word type"] = controls.per_type_majority(*types[0], *types[1], plan.classes)
    for name, found in answers.items():
        yield from _scores(replace(base, probe=name), found, asked)


def _of_model(encoder: Encoder, data: "_Data", plan: _Plan, base: Row) -> Iterator[Row]:
    """The metrics of all probes of one encoder."""
    if "structural" in plan.measures:
        yield from _structural(data, plan, base, STRUCTURAL)
        for seed, control in _random(encoder, plan):
            yield from _structural(control, replace(plan, seeds=[seed]), base, RANDOM)
        return
    device = next(encoder.parameters()).device
    fits = _fit(data, plan, device)
    yield from _linear(data, plan, base, fits, LINEAR)
    (train, known), (dev, asked), (test, wanted) = data
    best = min(fits, key=lambda one: one.dev.mean_nll).probe.c
    mix = fit_mix(train, known.labels, dev, asked.labels, plan.classes, best, device)
    yield from _scores(replace(base, layer=MIX, probe=LINEAR), _predictions(mix, test, wanted), wanted)
    if "control" in plan.measures:
        yield from _control(data, plan, base, fits, device)
    if "mdl" in plan.measures:
        for layer in range(len(train)):
            for seed in plan.seeds:
                code = code_length(train[layer], known.labels, known.units.owners, plan.classes, seed, device=device)
                row = replace(base, layer=str(layer), probe=CODE, seed=seed)
                yield replace(row, metric="bits", value=code.bits)
                yield replace(row, metric="compression", value=code.compression)
    for count in plan.examples:
        for seed in plan.seeds:
            few = _sample(known.units.owners, count, seed)
            part = (train[:, few], known.part(few)), data[1], data[2]
            own = replace(base, examples=int(few.sum()), seed=seed)
            yield from _linear(part, plan, own, _fit(part, plan, device), LINEAR)
    for seed, control in _random(encoder, plan):
        yield from _linear(control, plan, replace(base, seed=seed), _fit(control, plan, device), RANDOM)


_Data = tuple[tuple[Vectors, _Split], tuple[Vectors, _Split], tuple[Vectors, _Split]]
"""(L, N, D) vectors and units of train, dev and test"""


def _vectors(encoder: Encoder, plan: _Plan, progress: str) -> _Data:
    """The vectors of all splits, without the units that have none."""

    def of(split: _Split) -> tuple[Vectors, _Split]:
        vectors, keep = vectors_of(encoder, split.units, plan.pooling, plan.folder, plan.bf16, progress)
        if keep.all():
            return vectors, split
        if split.units.heads is not None:  # a tree is left out as a whole
            keep = ~np.isin(split.units.owners, split.units.owners[~keep])
        return selected(vectors, keep), split.part(keep)

    dev = of(plan.dev)
    return of(plan.train), dev, dev if plan.test is plan.dev or plan.test.units is plan.dev.units else of(plan.test)


def _random(encoder: Encoder, plan: _Plan) -> Iterator[tuple[int, _Data]]:
    """The vectors of an encoder of the same shape with random weights, for each seed, if they are measured."""
    for seed in plan.seeds if "random" in plan.measures else ():
        yield seed, _vectors(random_like(encoder, seed), plan, f"vectors of a random encoder, seed {seed}")


def _fit(data: _Data, plan: _Plan, device: torch.device) -> list[Fit]:
    (train, known), (dev, asked), _ = data
    return fit_layers(train, known.labels, dev, asked.labels, plan.classes, device=device)


def _linear(data: _Data, plan: _Plan, base: Row, fits: Sequence[Fit], name: str) -> Iterator[Row]:
    """The metrics of a probe for each layer."""
    test, wanted = data[2]
    for layer, one in enumerate(fits):
        yield from _scores(replace(base, layer=str(layer), probe=name), _predictions(one, test[layer], wanted), wanted)


def _control(data: _Data, plan: _Plan, base: Row, fits: Sequence[Fit], device: torch.device) -> Iterator[Row]:
    """The accuracy of the same probe, with the same C, on labels that say nothing, and the difference."""
    (train, known), _, (test, wanted) = data
    real = [_predictions(one, test[layer], wanted).accuracy for layer, one in enumerate(fits)]
    for seed in plan.seeds:
        if known.units.spans is None:
            labels, asked = (controls.permuted(one.labels, seed) for one in (known, wanted))
        else:
            labels, asked = controls.control_labels(known.units.types, wanted.units.types, known.labels, seed)
        for layer, one in enumerate(fits):
            control = fit(train[layer], labels, test[layer], asked, plan.classes, one.probe.c, device).dev
            own = replace(base, layer=str(layer), probe=CONTROL, seed=seed)
            yield from _accuracy(own, control.correct, wanted.units.owners)
            yield replace(own, metric="selectivity", value=real[layer] - control.accuracy)


def _trees(vectors: Vectors, units: Units) -> Trees:
    assert units.heads is not None
    return Trees(vectors, units.owners, units.heads, units.punctuation)


def _chain(test: _Split) -> Iterator[Row]:
    """The scores of the distance |i - j| between words i and j."""
    trees = _trees(np.zeros((len(test.labels), 1)), test.units)
    places = (np.arange(length) for length in trees.lengths)
    uuas, dspr, _ = evaluate_distances((abs(place[:, None] - place) for place in places), trees)
    for metric, value in (("uuas", uuas), ("dspr", dspr)):
        yield Row("", None, "", "chain", metric, value)


def _structural(data: _Data, plan: _Plan, base: Row, name: str) -> Iterator[Row]:
    """The structural probe of each layer."""
    (train, known), _, (test, wanted) = data
    for layer in range(len(train)):
        for seed in plan.seeds:
            found = structural(_trees(train[layer], known.units), _trees(test[layer], wanted.units), seed=seed)
            own = replace(base, layer=str(layer), probe=name, seed=seed)
            for metric in METRICS:
                yield replace(own, metric=metric, value=getattr(found, metric))


def _similarity(own: Vectors, first: Vectors | None, units: Units, base: Row) -> Iterator[Row]:
    """Anisotropy and self-similarity of each layer, and its CKA with each layer of the first model."""
    types = np.array(units.types)
    for layer, vectors in enumerate(own):
        at = replace(base, layer=str(layer), probe=SIMILARITY)
        for standardize, suffix in ((False, ""), (True, ", standardized")):
            if len({*units.types}) == len(types):
                yield replace(at, metric=f"anisotropy{suffix}", value=similarity.anisotropy(vectors, standardize))
                continue
            found = similarity.self_similarity(vectors, types, standardize)
            yield replace(at, metric=f"anisotropy{suffix}", value=found.anisotropy)
            yield replace(at, metric=f"self-similarity{suffix}", value=found.adjusted)
    if first is not None:
        step = -(-len(types) // MOST_COMPARED)
        for layer, values in enumerate(similarity.cka(own[:, ::step], first[:, ::step])):
            for other, value in enumerate(values):
                at = replace(base, layer=str(layer), probe=CKA, examples=len(types[::step]))
                yield replace(at, metric=f"layer {other}", value=float(value))


def _moved(own: Vectors, first: Vectors, units: Units, name: str) -> Iterator[str]:
    """A line with the words that moved most between the last layers of the first model and of this one."""
    types = np.array(units.types)
    if units.spans is not None and len({*units.types}) > 2:
        found = similarity.moved(first[-1], own[-1], types, MOVED)
        words = ", ".join(f"{one.type} {one.distance:.2f}" for one in found)
        yield f"moved most between the first model and {name}, last layers, as cosine distance of neighbors: {words}"


def _predictions(one: Fit, vectors: Vectors, wanted: _Split) -> Predictions:
    return Predictions.of(one.probe.log_probabilities(vectors), wanted.labels)


def _scores(base: Row, found: Predictions, wanted: _Split) -> Iterator[Row]:
    """The accuracy of predictions, with its interval, and their NLL in nats."""
    yield from _accuracy(base, found.correct, wanted.units.owners)
    yield replace(base, metric="NLL", value=found.mean_nll)


def _accuracy(base: Row, correct: NDArray[np.bool_], groups: NDArray[np.integer]) -> Iterator[Row]:
    low, high = controls.interval(correct, groups)
    yield replace(base, metric="accuracy", value=float(correct.mean()), low=low, high=high)


def _sample(owners: NDArray[np.integer], count: int, seed: int) -> NDArray[np.bool_]:
    """Units of randomly drawn sentences, at least `count` of them, or all."""
    sentences, sizes = np.unique(owners, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sentences))
    taken = order[: int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1]
    return np.isin(owners, sentences[taken])
