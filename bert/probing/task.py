"""What a probe is asked: labelled units in three splits, a control task beside their labels, and what is to be measured.

files → units that have tokens in all models → classes, control tasks → the same with the vectors of a model, or fewer train units
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bert.errors import InputError, check_seed, option
from bert.inference.embeddings import encoder_of
from bert.model.encoder import Encoder
from bert.probing import controls
from bert.probing.linear import Labels, Vectors
from bert.probing.mdl import in_random_order
from bert.probing.results import MIX, Row
from bert.probing.units import Units
from bert.probing.vectors import has_tokens, vectors_of

logger = logging.getLogger(__name__)

Measure = Literal["linear", "control", "random", "mdl", "structural", "similarity"]
HELD_OUT = 5  # every fifth sentence is a dev sentence, if there is no dev file
CPU = torch.device("cpu")
FEW = 100  # units, below which a metric of them says little


@dataclass(frozen=True)
class Split:
    """N labelled units."""

    units: Units
    labels: Labels
    """(N,): the number of the class of each"""
    control: Mapping[int, Labels]
    """of each seed the labels (N,) of the control task"""
    vectors: Vectors
    """(L, N, D); without a model of no layers"""

    def part(self, keep: NDArray[np.bool_]) -> "Split":
        """The units to keep, (N,)."""
        control = {seed: labels[keep] for seed, labels in self.control.items()}
        return Split(self.units.select(keep), self.labels[keep], control, self.vectors[:, keep])

    @property
    def trees(self) -> bool:
        return self.units.heads is not None

    def layer(self, name: str) -> Vectors:
        """(N, D) vectors of a layer; (L, N, D) of all for their mix."""
        return self.vectors if name == MIX else self.vectors[int(name)]


@dataclass(frozen=True)
class Task:
    """What is measured, and on which units."""

    train: Split
    dev: Split
    test: Split
    classes: int
    measures: Sequence[Measure]
    examples: Sequence[int]
    seeds: Sequence[int]
    pooling: str
    folder: Path | None
    bf16: bool | None
    device: torch.device = CPU

    def seen_by(self, encoder: Encoder, progress: str) -> "Task":
        """The task with the vectors of an encoder."""

        def of(split: Split) -> Split:
            found = vectors_of(encoder, split.units, self.pooling, self.folder, self.bf16, progress)
            return replace(split, vectors=found)

        dev, device = of(self.dev), next(encoder.parameters()).device
        test = dev if self.test is self.dev else of(self.test)
        return replace(self, train=of(self.train), dev=dev, test=test, device=device)

    def sampled(self, base: Row, seed: int) -> Iterator[tuple["Task", Row]]:
        """The task with each smaller number of train units, of sentences in random order."""
        train = self.train
        for count in self.examples:
            some = np.sort(in_random_order(train.units.owners, seed)[:count])
            keep = np.isin(np.arange(len(train.labels)), some)
            yield replace(self, train=train.part(keep)), replace(base, examples=count, seed=seed)


def measures_of(measures: Sequence[Measure], trees: bool) -> list[Measure]:
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
        if not {"linear", "structural", "random", "similarity"} & {*measures}:
            raise InputError(f"{option('measures')}: {measures[0]!r} is not one of trees: give structural")
        chosen = [one for one in chosen if one in ("random", "similarity")]
    if {"linear", "structural", "control"} & {*measures} or {*measures} <= {"random"}:
        chosen.append(own)
    return chosen


def held_out_of(read: Sequence[Units | None]) -> list[Units]:
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


def with_tokens(splits: Sequence[Units], models: Sequence[tuple[str, str | Path | nn.Module]]) -> list[Units]:
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


def task_of(
    splits: Sequence[Units],
    measures: Sequence[Measure],
    examples: Sequence[int],
    seeds: int,
    pooling: str,
    folder: str | Path | None,
    bf16: bool | None,
) -> tuple[Task, list[str]]:
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
    labels = [np.array([number[label] for label in one.labels]) for one in splits]
    control: list[dict[int, Labels]] = [{} for _ in splits]
    for seed in range(seeds):
        if train.spans is None:
            drawn = [controls.permuted(one, seed) for one in labels]
        else:
            drawn = controls.control_labels([one.types for one in splits], labels[0], seed)
        for of, one in zip(control, drawn):
            of[seed] = one
    known, *others = (Split(*one, np.zeros((0, len(one[1]), 0))) for one in zip(splits, labels, control))
    fewer = sorted({count for count in examples if count < len(train.labels)})
    kept = None if folder is None else Path(folder)
    task = Task(known, others[0], others[-1], len(every), measures, fewer, range(seeds), pooling, kept, bf16)
    if {"linear", "mdl"} & {*measures} and (new := np.count_nonzero(others[-1].labels >= len({*train.labels}))):
        notes.append(
            f"{new:,} of {len(test.labels):,} scored units have a label that train has not; they count as wrong"
        )
    seen, scored = ([one.sentences[place] for place in np.unique(one.owners)] for one in (train, test))
    if again := sum(map({*seen}.__contains__, scored)):
        notes.append(f"{again:,} of {len(scored):,} scored sentences are also in train")
    if len({*train.labels}) > max(FEW, len(train.labels) / 2):
        notes.append(
            f"{len({*train.labels}):,} classes of {len(train.labels):,} units: a probe is a classifier, also of numbers"
        )
    if len(test.labels) < FEW:
        notes.append(f"{len(test.labels):,} units are scored, which is few: look at the intervals")
    return task, notes
