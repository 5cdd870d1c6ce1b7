"""What each layer of an encoder knows about a label, each number beside its controls.

    labelled words or texts → one pass of the encoder, kept on disk → probes of every layer → a table with one metric a row

A probe can learn a task that the encoder knows nothing of. Beside its accuracy there are therefore that of constant and of lexical answers,
of the same probe on layer 0 and on an encoder of random weights, of a control task that can only be memorized, and the length of the
labels' code, which also counts how hard the probe was to train.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bert.data.milestones import Milestone
from bert.errors import InputError, check_arguments, check_seed, option
from bert.inference.embeddings import encoder_of
from bert.model.encoder import Encoder
from bert.probing import controls, similarity
from bert.probing.linear import Predictions, Vectors, fit, fit_layers, fit_mix
from bert.probing.mdl import code_length, in_random_order
from bert.probing.results import (
    ACCURACY,
    BAG,
    CHAIN,
    CKA,
    CODE,
    CONTROL,
    DEV_NLL,
    LINEAR,
    LOSS,
    MAJORITY,
    MIX,
    NLL,
    PRETRAINING,
    RANDOM,
    SIMILARITY,
    STRUCTURAL,
    WORD_TYPE,
    ProbeResult,
    Row,
)
from bert.probing.senses import random_like
from bert.probing.structural import Metrics, Trees, distance_metrics, structural
from bert.probing.units import Units, read_units
from bert.probing.vectors import has_tokens, vectors_of

logger = logging.getLogger(__name__)

Measure = Literal["linear", "control", "random", "mdl", "structural", "similarity"]
HELD_OUT = 5  # every fifth sentence is a dev sentence, if there is no dev file
CPU = torch.device("cpu")
FEW = 100  # units, below which a metric of them says little
MOST_COMPARED = 4_096  # units whose layers are compared by CKA
MOVED = 10  # words that are named as those that moved most


@dataclass(frozen=True)
class _Split:
    """N labelled units, the number of the class of each, and their vectors (L, N, D); without a model of no layers."""

    units: Units
    labels: NDArray[np.int64]
    vectors: Vectors

    @property
    def trees(self) -> bool:
        return self.units.heads is not None

    def layer(self, name: str) -> Vectors:
        """(N, D) vectors of a layer; (L, N, D) of all for their mix."""
        return self.vectors if name == MIX else self.vectors[int(name)]


@dataclass(frozen=True)
class _Task:
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
    device: torch.device = CPU

    def seen_by(self, encoder: Encoder, progress: str) -> "_Task":
        """The task with the vectors of an encoder."""

        def of(split: _Split) -> _Split:
            found = vectors_of(encoder, split.units, self.pooling, self.folder, self.bf16, progress)
            return replace(split, vectors=found)

        dev, device = of(self.dev), next(encoder.parameters()).device
        test = dev if self.test is self.dev else of(self.test)
        return replace(self, train=of(self.train), dev=dev, test=test, device=device)

    def sampled(self, base: Row, seed: int) -> Iterator[tuple["_Task", Row]]:
        """The task with each smaller number of train units, of sentences in random order."""
        train = self.train
        for count in self.examples:
            some = np.sort(in_random_order(train.units.owners, seed)[:count])
            keep = np.isin(np.arange(len(train.labels)), some)
            fewer = _Split(train.units.select(keep), train.labels[keep], train.vectors[:, keep])
            yield replace(self, train=fewer), replace(base, examples=count, seed=seed)


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
    splits = _with_tokens(_held_out(read), [(base.model, model) for base, model in subjects])
    measured = _measures(measures, splits[0].heads is not None)
    task, notes = _task(splits, measured, examples, seeds, pooling, folder, bf16)
    rows, moved = list(_baselines(task)), dict[str, list[similarity.Moved]]()
    first: Vectors | None = None
    for base, model in subjects:
        rows += [
            replace(base, probe=PRETRAINING, metric=LOSS, value=one.loss) for one in checkpoints if model is one.folder
        ]
        encoder = encoder_of(model)
        own = task.seen_by(encoder, f"vectors of {base.model}")
        rows += _of_model(encoder, own, replace(base, examples=len(task.train.labels), scored=len(task.test.labels)))
        if "similarity" in measured:
            vectors, units = own.test.vectors, own.test.units
            rows += _similarity(vectors, first, units, base)
            if first is not None and units.spans is not None and len({*units.types}) > 2:
                moved[base.model] = similarity.moved(first[-1], vectors[-1], np.array(units.types), MOVED)
            first = vectors if first is None else first
    where = "every fifth sentence of train" if dev is None else dev
    sizes = {
        "train": (train, task.train),
        "dev": (where, task.dev),
        **({} if test is None else {"test": (test, task.test)}),
    }
    kind = "texts" if task.train.units.spans is None else "words"
    told = {name: f"{file}, {len(split.labels):,} {kind}" for name, (file, split) in sizes.items()}
    told |= {"pooling": pooling, "seeds": str(seeds)}
    return ProbeResult(label, tuple(row for row in rows if isfinite(row.value)), told, tuple(notes), moved)


# ── what is asked ──


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


def _measures(measures: Sequence[Measure], trees: bool) -> list[Measure]:
    """What can be measured of what is asked for: of trees by the structural probe, of labels by all others. A control brings its probe."""
    known = get_args(Measure)
    wrong = [one for one in measures if one not in known]
    if wrong or not measures:
        held = f"has {wrong[0]!r}" if wrong else "is empty"
        raise InputError(f"{option('measures')} {held}; must be of {', '.join(known)}")
    own: Measure = "structural" if trees else "linear"
    if "structural" in measures and not trees:
        raise InputError("the structural probe is one of trees: give the label head, of a .conllu file")
    chosen: list[Measure] = [one for one in measures if one not in ("linear", "structural")]
    if trees:
        chosen = [one for one in chosen if one in ("random", "similarity")]
    if {"linear", "structural", "control", "random"} & {*measures}:
        chosen.append(own)
    return chosen


def _held_out(read: Sequence[Units | None]) -> list[Units]:
    """Train, dev and, if there are any, test units; dev is every fifth sentence of train if there are none."""
    train, dev, test = read
    assert train is not None
    if dev is None:
        is_dev = train.owners % HELD_OUT == HELD_OUT - 1
        if is_dev.all() or not is_dev.any():
            count = len({*train.owners.tolist()})
            raise InputError(f"{count} sentences are too few to hold some out: give {option('dev')}")
        train, dev = train.select(~is_dev), train.select(is_dev)
    splits = [train, dev, *([] if test is None else [test])]
    if len({split.spans is None for split in splits}) > 1:
        kinds = ["texts" if split.spans is None else "words" for split in splits]
        raise InputError(
            f"train has {kinds[0]}, dev {kinds[1]}{''.join(f', test {k}' for k in kinds[2:])}: give files of one kind"
        )
    return splits


def _with_tokens(splits: Sequence[Units], models: Sequence[tuple[str, str | Path | nn.Module]]) -> list[Units]:
    """The units that have tokens in all models; of a tree all words or none."""
    tokenizers = {}
    for name, model in models:
        if (tokenizer := encoder_of(model).tokenizer) is None:
            raise InputError(f"{name}: has no tokenizer: give a model folder with one, or set model.tokenizer")
        tokenizers[tokenizer.hash] = tokenizer
    kept = []
    for units in splits:
        keep = np.all([has_tokens(tokenizer, units) for tokenizer in tokenizers.values()], axis=0)
        if dropped := np.count_nonzero(~keep):
            logger.info(f"{dropped:,} of {len(keep):,} words are left out: the tokenizer drops their characters")
        if units.heads is not None:
            keep = ~np.isin(units.owners, units.owners[~keep])
        if not keep.any():
            raise InputError("no word of one of the files has tokens: the tokenizer drops all of their characters")
        kept.append(units if keep.all() else units.select(keep))
    return kept


def _task(
    splits: Sequence[Units],
    measures: Sequence[Measure],
    examples: Sequence[int],
    seeds: int,
    pooling: str,
    folder: str | Path | None,
    bf16: bool | None,
) -> tuple[_Task, list[str]]:
    """The splits with a class number for each label, those of train first, and what to know about them."""
    if seeds < 1:
        raise InputError(f"{option('seeds')} is {seeds}: give 1 or more")
    check_seed(seeds)
    if wrong := [count for count in examples if count < 1]:
        raise InputError(f"{option('examples')} has {wrong[0]}: give numbers from 1")
    train, test, notes = splits[0], splits[-1], list[str]()
    if examples and train.heads is not None:
        raise InputError(f"{option('examples')} is not used with the label head: leave it out")
    if too_many := [f"{count:,}" for count in examples if count >= len(train.labels)]:
        notes.append(f"train has {len(train.labels):,} units, no more for {', '.join(too_many)} examples")
    every = [
        *sorted({*train.labels}),
        *sorted({label for split in splits[1:] for label in split.labels} - {*train.labels}),
    ]
    number = {label: at for at, label in enumerate(every)}
    known, *others = (
        _Split(one, np.array([number[label] for label in one.labels]), np.zeros((0, len(one.labels), 0)))
        for one in splits
    )
    fewer = sorted({count for count in examples if count < len(train.labels)})
    kept = None if folder is None else Path(folder)
    task = _Task(known, others[0], others[-1], len(every), measures, fewer, range(seeds), pooling, kept, bf16)
    if train.heads is None and (new := np.count_nonzero(others[-1].labels >= len({*train.labels}))):
        notes.append(
            f"{new:,} of {len(test.labels):,} scored units have a label that train has not; they count as wrong"
        )
    seen = {*train.sentences}
    if again := sum(sentence in seen for sentence in test.sentences):
        notes.append(f"{again:,} of {len(test.sentences):,} scored sentences are also in train")
    if len(test.labels) < FEW:
        notes.append(f"{len(test.labels):,} units are scored, which is few: look at the intervals")
    return task, notes


# ── what is measured ──


def _baselines(task: _Task) -> Iterator[Row]:
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
        yield from _scores(
            replace(at, probe=MAJORITY), controls.majority(known.labels, asked.labels, own.classes), asked
        )
        if known.units.spans is None:
            predicted = controls.bag_of_words(known.units.types, known.labels, asked.units.types)
            yield from _accuracy(replace(at, probe=BAG), predicted == asked.labels, asked.units.owners)
        else:
            types = (known.units.types, known.labels), (asked.units.types, asked.labels)
            found = controls.per_type_majority(*types[0], *types[1], own.classes)
            yield from _scores(replace(at, probe=WORD_TYPE), found, asked)


def _of_model(encoder: Encoder, task: _Task, base: Row) -> Iterator[Row]:
    """The metrics of all probes of one encoder."""
    measure = _structural if task.train.trees else _linear
    if {"linear", "structural"} & {*task.measures}:
        yield from measure(task, base, task.seeds)
        for seed in task.seeds:
            for own, at in task.sampled(base, seed):
                yield from measure(own, at, [seed])
    if "mdl" in task.measures:
        train, classes = task.train, int(task.train.labels.max()) + 1
        for layer in range(len(train.vectors)):
            for seed in task.seeds:
                vectors, owners = train.vectors[layer], train.units.owners
                code = code_length(vectors, train.labels, owners, classes, seed, device=task.device)
                row = replace(base, layer=str(layer), probe=CODE, seed=seed, scored=len(train.labels))
                yield replace(row, metric="bits", value=code.bits)
                yield replace(row, metric="compression", value=code.compression)
    for seed in task.seeds if "random" in task.measures else ():
        blind = task.seen_by(random_like(encoder, seed), f"vectors of a random encoder, seed {seed}")
        for own, at in [(blind, replace(base, seed=seed)), *blind.sampled(base, seed)]:
            yield from measure(own, replace(at, probe=RANDOM), [seed])


def _linear(task: _Task, base: Row, seeds: Sequence[int]) -> Iterator[Row]:
    """The metrics of a probe for each layer and for their mix, and of the same probes, with the same C, on the control task of each seed.

    The probes of a random encoder, which is a control itself, have none.
    """
    train, dev, test = task.train, task.dev, task.test
    how = task.classes, task.device
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
            if train.units.spans is None:
                labels, asked = (controls.permuted(split.labels, seed) for split in (train, test))
            else:
                labels, asked = controls.control_labels(train.units.types, test.units.types, train.labels, seed)
            fit_one = fit_mix if layer == MIX else fit
            control = fit_one(train.layer(layer), labels, test.layer(layer), asked, how[0], one.probe.c, how[1]).dev
            own = replace(at, probe=CONTROL, seed=seed)
            yield from _accuracy(own, control.correct, test.units.owners)
            yield replace(own, metric="selectivity", value=real.accuracy - control.accuracy)


def _structural(task: _Task, base: Row, seeds: Sequence[int]) -> Iterator[Row]:
    """The structural probe of each layer."""
    for layer in range(len(task.train.vectors)):
        known, asked = (_trees(split, split.vectors[layer]) for split in (task.train, task.test))
        for seed in seeds:
            found = structural(known, asked, seed=seed, device=task.device)
            yield from _of_trees(replace(base, layer=str(layer), probe=base.probe or STRUCTURAL, seed=seed), found)


def _of_trees(base: Row, found: Metrics) -> Iterator[Row]:
    for metric, (value, low, high) in found.items():
        yield replace(base, metric=metric, value=value, low=low, high=high)


def _trees(split: _Split, vectors: Vectors) -> Trees:
    assert split.units.heads is not None
    return Trees(vectors, split.units.owners, split.units.heads, split.units.punctuation)


def _similarity(own: Vectors, first: Vectors | None, units: Units, base: Row) -> Iterator[Row]:
    """Anisotropy and self-similarity of each layer, and its CKA with each layer of the first model."""
    types = np.array(units.types)
    for layer, vectors in enumerate(own):
        at = replace(base, layer=str(layer), probe=SIMILARITY, scored=len(types))
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


def _scores(base: Row, found: Predictions, wanted: _Split) -> Iterator[Row]:
    """The accuracy of predictions, with its interval, and their NLL in nats."""
    yield from _accuracy(base, found.correct, wanted.units.owners)
    yield replace(base, metric=NLL, value=found.mean_nll)


def _accuracy(base: Row, correct: NDArray[np.bool_], groups: NDArray[np.integer]) -> Iterator[Row]:
    low, high = controls.interval(correct, groups)
    yield replace(base, metric=ACCURACY, value=float(correct.mean()), low=low, high=high)
