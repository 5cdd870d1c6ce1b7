"""The metrics of probes: a tidy table, and the same by layer and by number of examples, each beside its controls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from rich.table import Table

from bert.probing.similarity import Moved
from bert.report.text import render, tables

LINEAR, MIX, CONTROL, RANDOM, CODE = "linear", "mix", "control task", "random encoder", "online code"
STRUCTURAL, SIMILARITY, CKA = "structural", "similarity", "CKA with the first model"
MAJORITY, WORD_TYPE, BAG, CHAIN, PRETRAINING = "majority", "word type", "bag of words", "chain", "pretraining"
LOSS, NLL, DEV_NLL, ACCURACY, UUAS, DEV_UUAS = "loss", "NLL", "NLL on dev", "accuracy", "UUAS", "UUAS on dev"
DECISIVE = (LINEAR, DEV_NLL, min), (LINEAR, NLL, min), (STRUCTURAL, DEV_UUAS, max), (STRUCTURAL, UUAS, max)
"""by what the best layer is chosen: the first that was measured"""
PARTS = (LINEAR, STRUCTURAL, CONTROL), (RANDOM,), (CODE,), (SIMILARITY,), (CKA,)
"""probes that share a table"""
SHARES = (ACCURACY, "selectivity", UUAS, DEV_UUAS, "root accuracy")
"""metrics that are shown in percent"""

COMPARED, BASELINES = (
    (LINEAR, STRUCTURAL, RANDOM, CONTROL, WORD_TYPE, BAG, CHAIN, MAJORITY),
    (WORD_TYPE, BAG, CHAIN, MAJORITY),
)
Subject = tuple[str, int | None]
"""a model, and the tokens that it has seen, if it is a checkpoint"""


@dataclass(frozen=True)
class Row:
    """One metric of one probe."""

    model: str
    """its folder, or `model 1` for the first that is no folder; empty for a baseline without a model"""
    tokens: int | None
    """tokens that a checkpoint had seen; none for a finished model"""
    layer: str
    """its number, where 0 is the embeddings; mix; empty for what has no layer"""
    probe: str
    metric: str
    value: float
    low: float | None = None
    """95 % interval, by resampling sentences"""
    high: float | None = None
    examples: int = 0
    """labelled units that it was trained on"""
    scored: int = 0
    """units that the metric is of"""
    seed: int = 0


Curves = Mapping[str, Sequence[tuple[int, list[Row]]]]
"""by name the rows at each number of examples, or of tokens"""


@dataclass(frozen=True)
class ProbeResult:
    """The metrics of all probes. Prints as tables by layer."""

    label: str
    rows: tuple[Row, ...]
    settings: Mapping[str, object]
    """the files, their numbers of units, and what else was chosen"""
    notes: tuple[str, ...] = ()
    """what to know before any number is believed"""
    moved: Mapping[str, Sequence[Moved]] = field(default_factory=dict)
    """of each model the words that moved most since the first one, in the last layers"""

    def table(self) -> list[dict[str, object]]:
        """A tidy table: one metric a row, for files and for `pandas.DataFrame`."""
        return [vars(row) for row in self.rows]

    @cached_property
    def subjects(self) -> list[Subject]:
        """The models, in order."""
        return list(dict.fromkeys((row.model, row.tokens) for row in self.rows if row.model))

    def name(self, subject: Subject) -> str:
        """The end of the path of a model, as much as tells it from the others, and the tokens that it has seen."""
        model, tokens = subject
        others = [Path(one).parts for one, _ in self.subjects if one != model]
        own, size = Path(model).parts, 2
        while size < len(own) and any(other[-size:] == own[-size:] for other in others):
            size += 1
        return "/".join(own[-size:]) + ("" if tokens is None else f", {tokens:,} tokens")

    def found(self, subject: Subject, layer: str, probe: str, metric: str, examples: int | None = None) -> list[Row]:
        """The rows of a metric, one a seed, of the probe that was trained on so many units, by default all."""
        own = self._found.get((subject, layer, probe, metric), [])
        count = max((row.examples for row in own), default=0) if examples is None else examples
        return [row for row in own if row.examples == count]

    def value(self, subject: Subject, layer: str, probe: str, metric: str, examples: int | None = None) -> float | None:
        """The mean over seeds of a metric, see `found`; none if it was not measured."""
        values = [row.value for row in self.found(subject, layer, probe, metric, examples)]
        return float(np.mean(values)) if values else None

    def best_layer(self, subject: Subject) -> str:
        """The layer whose linear probe has the lowest NLL on dev, or whose structural probe the highest UUAS there; empty without these."""
        layers = dict.fromkeys(row.layer for row in self.rows if row.layer.isdecimal())
        for probe, metric, better in DECISIVE:
            values = {layer: self.value(subject, layer, probe, metric) for layer in layers}
            if known := {layer: value for layer, value in values.items() if value is not None}:
                return better(known, key=lambda layer: known[layer])
        return ""

    @cached_property
    def _found(self) -> dict[tuple[Subject, str, str, str], list[Row]]:
        found: dict[tuple[Subject, str, str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault(((row.model, row.tokens), row.layer, row.probe, row.metric), []).append(row)
        return found

    def by_layer(self, subject: Subject) -> Iterator[tuple[list[str], list[list[str]]]]:
        """For each part a header and, for each layer of a model, its metrics as text."""
        own = [row for row in self.rows if (row.model, row.tokens) == subject and row.layer]
        for together in PARTS:
            some = [row for row in own if row.probe in together]
            columns = list(dict.fromkeys((row.probe, row.metric) for row in some))
            cells = [
                [layer, *(shown(self.found(subject, layer, *column)) for column in columns)]
                for layer in dict.fromkeys(row.layer for row in some)
            ]
            if cells:
                yield ["layer", *("\n".join(column) for column in columns)], cells

    def metric(self) -> str:
        """The metric that is drawn: the accuracy, or the UUAS of trees."""
        return ACCURACY if any(row.probe == LINEAR for row in self.rows) else UUAS

    def curve(self, subject: Subject) -> Curves:
        """The metric of the best layer of a model and of its controls by number of examples; none without several."""
        layer = self.best_layer(subject)
        counts = sorted({row.examples for row in self.rows if row.metric == self.metric()})
        points = {n: {name: self.beside(subject, layer, name, n) for name in COMPARED} for n in counts}
        return _transposed(points) if len(counts) > 1 else {}

    def over_training(self) -> Curves:
        """The loss of milestones and the metric, in the layer that is best in the end, beside its controls; none without several."""
        kept = [one for one in self.subjects if one[1] is not None]
        if len(kept) < 2:
            return {}
        layer, points = self.best_layer(kept[-1]), dict[int, dict[str, list[Row]]]()
        for one in kept:
            points[one[1] or 0] = {LOSS: self.found(one, "", PRETRAINING, LOSS)}
            points[one[1] or 0] |= {name: self.beside(one, layer, name) for name in COMPARED}
        return _transposed(points)

    def beside(self, subject: Subject, layer: str, probe: str, examples: int | None = None) -> list[Row]:
        """The metric of a probe in a layer, or of a baseline."""
        where = (("", None), "") if probe in BASELINES else (subject, layer)
        return self.found(*where, probe, self.metric(), examples)

    def baselines(self) -> list[list[str]]:
        """What answers without a model score, trained on all units: probe, metric, value."""
        keys = dict.fromkeys((row.probe, row.metric) for row in self.rows if not row.model)
        return [[*key, shown(self.found(("", None), "", *key))] for key in keys]

    def moved_most(self, model: str) -> tuple[list[str], list[list[str]]]:
        """A header and a row for each of the words that moved most in a model."""
        header = ["moved most", "occurrences", "distance", "nearest in the first model", "nearest here"]
        return header, [
            [one.type, f"{one.count:,}", f"{one.distance:.2f}", ", ".join(one.before), ", ".join(one.after)]
            for one in self.moved[model]
        ]

    def __str__(self) -> str:
        """The settings; for each model the metrics by layer and by number of examples; the baselines."""
        parts: list[Table | str] = ["; ".join(f"{name}: {value}" for name, value in self.settings.items()), ""]
        for subject in self.subjects:
            parts.append(f"{self.label}, {self.name(subject)}")
            for header, rows in self.by_layer(subject):
                parts += [*tables(header, rows, left=0), ""]
            parts += _table(f"examples,\nlayer {self.best_layer(subject)}", self.curve(subject))
            if subject[0] in self.moved:
                parts += [*tables(*self.moved_most(subject[0])), ""]
        parts += _table("tokens", self.over_training())
        lines = [f"{probe}: {metric} {value}" for probe, metric, value in self.baselines()]
        return render(*parts, *lines, *self.notes)


def _transposed(points: Mapping[int, Mapping[str, list[Row]]]) -> Curves:
    """The curves that have a value, from the values at each point."""
    names = dict.fromkeys(name for of in points.values() for name, rows in of.items() if rows)
    return {name: [(at, of[name]) for at, of in points.items()] for name in names}


def cells(curves: Curves) -> list[list[str]]:
    """For each point the place and the value of each curve."""
    return [[f"{of[0][0]:,}", *(shown(rows) for _, rows in of)] for of in zip(*curves.values())]


def _table(place: str, curves: Curves) -> list[Table | str]:
    return [*tables([place, *curves], cells(curves), left=0), ""] if curves else []


def shown(rows: Sequence[Row]) -> str:
    """A metric as text: its value with its interval or, of several seeds, their mean and standard deviation; a dash if there are none."""
    if not rows:
        return "–"
    values, row = [row.value for row in rows], rows[0]
    if row.metric == "C":
        return ", ".join(f"{value:g}" for value in sorted({*values}))
    mean = float(np.mean(values))
    form = ".1%" if row.metric in SHARES else ",.3f" if abs(mean) < 1000 else ",.0f"
    ends = [float(np.std(values, ddof=1))] if len(rows) > 1 else [end for end in (row.low, row.high) if end is not None]
    about = "–".join(f"{end:{form}}".rstrip("%") for end in ends)
    return f"{mean:{form}}" + (f" ± {about}" if len(rows) > 1 else f" ({about})" if ends else "")
