"""What each layer of an encoder knows about a label, each number beside its controls.

    labelled words or texts → one pass of the encoder, kept on disk → probes of every layer → a table with one metric a row

A probe can learn a task that the encoder knows nothing of. Beside its accuracy there are therefore that of constant and of lexical answers,
of the same probe on layer 0 and on an encoder of random weights, of a control task that can only be memorized, and the length of the
labels' code, which also counts how hard the probe was to train.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite, log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy
from torch import nn

from bert.data.milestones import Milestone
from bert.errors import InputError, check_arguments
from bert.inference.embeddings import encoder_of
from bert.model.encoder import Encoder
from bert.probing import controls, similarity
from bert.probing.linear import Predictions, Vectors, fit, fit_layers, fit_mix
from bert.probing.mdl import code_length
from bert.probing.results import (
    ACCURACY,
    BAG,
    CHAIN,
    CKA,
    CODE,
    CONTROL,
    DEV_NLL,
    DEV_UUAS,
    LINEAR,
    LOSS,
    MAJORITY,
    MIX,
    NLL,
    PRETRAINING,
    RANDOM,
    SIMILARITY,
    STRUCTURAL,
    UUAS,
    WORD_TYPE,
    ProbeResult,
    Row,
)
from bert.probing.senses import random_like
from bert.probing.structural import Metrics, Trees, distance_metrics, fit_structural
from bert.probing.task import Measure, Split, Task, held_out_of, measures_of, task_of, with_tokens
from bert.probing.units import Units, read_units

MOST_COMPARED = 4_096  # units whose layers are compared by CKA
MOVED, OFTEN = 10, 3  # words that are named as those that moved most; occurrences that a word needs for that


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
    checkpoints: Sequence[Milestone] = (),
    folder: str | Path | None = None,
    bf16: bool | None = None,
) -> ProbeResult:
    """Probe every layer of models for a label of words or texts.

    `train`, `dev` and `test` are files of `bert.probing.units.read_units`, in which `label` is a column. Without `dev` every fifth sentence
    of `train` takes its place. Regularization is chosen on `dev`; metrics are those on `test`, or on `dev` if there is none. With the label
    `head` the structural probe takes the place of the linear one. `pooling`: of the tokens of a word or text, see `vectors_of`. `examples`:
    also train on so many units, for learning curves. `seeds`: number of control tasks, random encoders, samples and orders of the code.
    `checkpoints`: milestones of a pretraining run, probed after the models. Words of which the tokenizer of one model drops all characters
    are left out for all. `folder` keeps vectors for the next call.

    Raises InputError for files without the label, one class, words beside texts, unknown measures, and models without a tokenizer.
    """
    check_arguments(probe, locals())
    subjects = _subjects(models, checkpoints)
    read = [None if file is None else read_units(file, label, text) for file in (train, dev, test)]
    splits = with_tokens(held_out_of(read), [(base.model, model) for base, model in subjects])
    measured = measures_of(measures, splits[0].heads is not None)
    task, notes = task_of(splits, measured, examples, seeds, pooling, folder, bf16)
    rows, moved = list(_baselines(task)), dict[str, list[similarity.Moved]]()
    first: Vectors | None = None
    for base, model in subjects:
        encoder = encoder_of(model)
        own = task.seen_by(encoder, f"vectors of {base.model}")
        rows += _of_model(encoder, own, replace(base, examples=len(task.train.labels), scored=len(task.test.labels)))
        if "similarity" in measured:
            vectors, units = own.test.vectors, own.test.units
            rows += _similarity(vectors, first, units, base)
            if first is not None and (words := _moved(vectors, first, units)):
                moved[base.model] = words
            first = vectors if first is None else first
    rows += [Row(str(one.folder), one.tokens, "", PRETRAINING, LOSS, one.loss) for one in checkpoints]
    kind = "texts" if task.train.units.spans is None else "words"
    files = train, dev or "every fifth sentence of train", test
    splits_of = zip(("train", "dev", "test"), files, (task.train, task.dev, task.test))
    told = {name: f"{file}, {len(split.labels):,} {kind}" for name, file, split in splits_of if file is not None}
    told |= {"pooling": pooling, "seeds": str(seeds)}
    if compared := next((row.scored for row in rows if row.probe == CKA), None):
        told[CKA] = f"of {compared:,} units"
    return ProbeResult(label, tuple(row for row in rows if isfinite(row.value)), told, tuple(notes), moved)


def _subjects(
    models: Sequence[str | Path | nn.Module], checkpoints: Sequence[Milestone]
) -> list[tuple[Row, str | Path | nn.Module]]:
    """Each model with a row that names it."""
    names = [str(model) if isinstance(model, str | Path) else f"model {n}" for n, model in enumerate(models, start=1)]
    empty = Row("", None, "", "", "", 0.0)
    found: list[tuple[Row, str | Path | nn.Module]] = [
        (replace(empty, model=name), model) for name, model in zip(names, models)
    ]
    found += [(replace(empty, model=str(one.folder), tokens=one.tokens), one.folder) for one in checkpoints]
    if not found:
        raise InputError("there is no model: give one or more")
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InputError(f"{twice[0]}: is given twice: give each model once")
    return found


# ── what is measured ──


def _baselines(task: Task) -> Iterator[Row]:
    """What answers without a model score on the test units: on trees a chain, otherwise constant and lexical answers."""
    base = Row("", None, "", "", "", 0.0, examples=len(task.train.labels), scored=len(task.test.labels))
    if task.train.trees:
        trees = _trees(task.test, np.zeros((len(task.test.labels), 1)))
        places = (np.arange(length) for length in trees.lengths)
        yield from _of_trees(
            replace(base, probe=CHAIN), distance_metrics((abs(place[:, None] - place) for place in places), trees)
        )
        return
    if not {"linear", "mdl"} & {*task.measures}:
        return
    for own, at in [(task, base), *(one for seed in task.seeds for one in task.sampled(base, seed))]:
        known, asked = own.train, own.test
        found = controls.majority(known.labels, asked.labels, own.classes)
        yield from _scores(replace(at, probe=MAJORITY), found, asked)
        if own is task and "mdl" in task.measures:  # the length of the code that knows the shares of the classes alone
            shares = np.bincount(known.labels)
            compression = log(len(shares)) / float(entropy(shares))
            yield replace(at, probe=MAJORITY, metric="compression", value=compression, scored=len(known.labels))
        if known.units.spans is None:
            predicted = controls.bag_of_words(known.units.types, known.labels, asked.units.types)
            yield from _mean(replace(at, probe=BAG, metric=ACCURACY), predicted == asked.labels, asked)
        else:
            types = (known.units.types, known.labels), (asked.units.types, asked.labels)
            found = controls.per_type_majority(*types[0], *types[1], own.classes)
            yield from _scores(replace(at, probe=WORD_TYPE), found, asked)


def _of_model(encoder: Encoder, task: Task, base: Row) -> Iterator[Row]:
    """The metrics of all probes of one encoder."""
    measure = _structural if task.train.trees else _linear
    if {"linear", "structural"} & {*task.measures}:
        yield from measure(task, base, task.seeds)
        for seed in task.seeds:
            for own, at in task.sampled(base, seed):
                yield from measure(own, at, [seed])
    yield from _code(task, base, task.seeds)
    for seed in task.seeds if "random" in task.measures else ():
        blind = task.seen_by(random_like(encoder, seed), f"vectors of a random encoder, seed {seed}")
        if {"linear", "structural"} & {*task.measures}:
            for own, at in [(blind, replace(base, seed=seed)), *blind.sampled(base, seed)]:
                yield from measure(own, replace(at, probe=RANDOM), [seed])
        yield from _code(blind, replace(base, probe=RANDOM), [seed])
        if "similarity" in task.measures:
            yield from _similarity(blind.test.vectors, None, blind.test.units, replace(base, probe=RANDOM, seed=seed))


def _linear(task: Task, base: Row, seeds: Sequence[int]) -> Iterator[Row]:
    """The metrics of a probe for each layer and for their mix, and of the same probes, with the same C, on the control task of each seed.

    The probes of a random encoder, which is a control itself, have none.
    """
    train, dev, test = task.train, task.dev, task.test
    of_layers = fit_layers(train.vectors, train.labels, dev.vectors, dev.labels, task.classes, device=task.device)
    best = min(of_layers, key=lambda one: one.dev.mean_nll).probe.c
    fits = {str(layer): one for layer, one in enumerate(of_layers)}
    fits[MIX] = fit_mix(train.vectors, train.labels, dev.vectors, dev.labels, task.classes, best, task.device)
    for layer, one in fits.items():
        at = replace(base, layer=layer, probe=base.probe or LINEAR)
        real = one.dev
        if test is not dev:
            real = Predictions.of(one.probe.log_probabilities(test.layer(layer)), test.labels)
            yield replace(at, metric=DEV_NLL, value=one.dev.mean_nll, scored=len(dev.labels))
        yield from _scores(at, real, test)
        yield replace(at, metric="C", value=one.probe.c)
        for seed in seeds if "control" in task.measures and at.probe == LINEAR else ():
            splits = train.layer(layer), train.control[seed], test.layer(layer), test.control[seed]
            control = (fit_mix if layer == MIX else fit)(*splits, task.classes, one.probe.c, task.device).dev
            own = replace(at, probe=CONTROL, seed=seed)
            yield from _mean(replace(own, metric=ACCURACY), control.correct, test)
            yield from _mean(replace(own, metric="selectivity"), real.correct * 1.0 - control.correct, test)


def _code(task: Task, base: Row, seeds: Sequence[int]) -> Iterator[Row]:
    """The length of the code of the train labels by each layer, if it is measured."""
    train, classes = task.train, int(task.train.labels.max()) + 1
    for layer in range(len(train.vectors)) if "mdl" in task.measures else ():
        for seed in seeds:
            code = code_length(
                train.vectors[layer], train.labels, train.units.owners, classes, seed, device=task.device
            )
            row = replace(base, layer=str(layer), probe=base.probe or CODE, seed=seed, scored=len(train.labels))
            low, high = (len(train.labels) * end for end in controls.interval(code.of_units, train.units.owners))
            yield replace(row, metric="bits", value=code.bits, low=low, high=high)
            low, high = code.uniform_bits / high, code.uniform_bits / low
            yield replace(row, metric="compression", value=code.compression, low=low, high=high)


def _structural(task: Task, base: Row, seeds: Sequence[int]) -> Iterator[Row]:
    """The structural probe of each layer. Of each seed, the learning rate follows the loss on dev."""
    for layer in range(len(task.train.vectors)):
        known, held_out, asked = (_trees(split, split.vectors[layer]) for split in (task.train, task.dev, task.test))
        for seed in seeds:
            found = fit_structural(known, held_out, seed=seed, device=task.device)
            at = replace(base, layer=str(layer), probe=base.probe or STRUCTURAL, seed=seed)
            yield from _of_trees(at, found.metrics(asked))
            if task.test is not task.dev:
                value, low, high = found.metrics(held_out)[UUAS]
                yield replace(at, metric=DEV_UUAS, value=value, low=low, high=high, scored=len(task.dev.labels))


def _of_trees(base: Row, found: Metrics) -> Iterator[Row]:
    for metric, (value, low, high) in found.items():
        yield replace(base, metric=metric, value=value, low=low, high=high)


def _trees(split: Split, vectors: Vectors) -> Trees:
    assert split.units.heads is not None
    return Trees(vectors, split.units.owners, split.units.heads, split.units.punctuation)


def _similarity(own: Vectors, first: Vectors | None, units: Units, base: Row) -> Iterator[Row]:
    """Anisotropy and self-similarity of each layer, and its CKA with each layer of the first model."""
    types = np.array(units.types)
    for layer, vectors in enumerate(own):
        at = replace(base, layer=str(layer), probe=base.probe or SIMILARITY, scored=len(types))
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
                at = replace(base, layer=str(layer), probe=CKA, scored=len(types[::step]))
                yield replace(at, metric=f"layer {other}", value=float(value))


def _moved(own: Vectors, first: Vectors, units: Units) -> list[similarity.Moved]:
    """The words that moved most between the last layers of the first model and of this one; none of texts and of too few words."""
    counts = Counter(units.types)
    often = np.array([counts[one] >= OFTEN for one in units.types])
    if units.spans is None or sum(count >= OFTEN for count in counts.values()) < 3:
        return []
    return similarity.moved(first[-1][often], own[-1][often], np.array(units.types)[often], MOVED)


def _scores(base: Row, found: Predictions, wanted: Split) -> Iterator[Row]:
    """The accuracy of predictions and their NLL in nats."""
    yield from _mean(replace(base, metric=ACCURACY), found.correct, wanted)
    yield from _mean(replace(base, metric=NLL), found.nll, wanted)


def _mean(base: Row, values: NDArray, wanted: Split) -> Iterator[Row]:
    """The mean of values (N,) of units, with its interval."""
    low, high = controls.interval(values, wanted.units.owners)
    yield replace(base, value=float(values.mean()), low=low, high=high)
