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
LOSS, NLL, DEV_NLL, ACCURACY = "loss", "NLL", "NLL on dev", "accuracy"
PARTS = (LINEAR, STRUCTURAL, CONTROL), (RANDOM,), (CODE,), (SIMILARITY,), (CKA,)
"""probes that share a table"""
SHARES = (ACCURACY, "selectivity", "UUAS", "root accuracy")
"""metrics that are shown in percent"""

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
        """The layer whose linear probe has the lowest NLL on dev, or whose structural probe the highest UUAS; empty without these."""
        layers = dict.fromkeys(row.layer for row in self.rows if row.layer.isdecimal())
        for probe, metric, sign in (LINEAR, DEV_NLL, 1), (LINEAR, NLL, 1), (STRUCTURAL, "UUAS", -1):
            values = {layer: self.value(subject, layer, probe, metric) for layer in layers}
            if known := {layer: sign * value for layer, value in values.items() if value is not None}:
                return min(known, key=lambda layer: known[layer])
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

    def curve(self, subject: Subject) -> dict[str, list[tuple[int, list[Row]]]]:
        """The accuracies of the linear probe of the best layer and of its controls by number of examples; none without several."""
        layer, one = self.best_layer(subject), {LINEAR: subject, RANDOM: subject, CONTROL: subject}
        of = {name: (one.get(name, ("", None)), layer * (name in one), name, ACCURACY)
              for name in (LINEAR, RANDOM, CONTROL, WORD_TYPE, BAG, MAJORITY)}  # fmt: skip
        known = {name: self._found[key] for name, key in of.items() if key in self._found}
        counts = sorted({row.examples for rows in known.values() for row in rows})
        if len(counts) < 2:
            return {}
        return {name: [(n, [row for row in rows if row.examples == n]) for n in counts] for name, rows in known.items()}

    def baselines(self) -> list[list[str]]:
        """What answers without a model score, trained on all units: probe, metric, value."""
        keys = dict.fromkeys((row.probe, row.metric) for row in self.rows if not row.model)
        return [[*key, shown(self.found(("", None), "", *key))] for key in keys]

    def __str__(self) -> str:
        """The settings; for each model the metrics by layer and by number of examples; the baselines."""
        parts: list[Table | str] = ["; ".join(f"{name}: {value}" for name, value in self.settings.items()), ""]
        for subject in self.subjects:
            parts.append(f"{self.label}, {self.name(subject)}")
            for header, rows in self.by_layer(subject):
                parts += [*tables(header, rows, left=0), ""]
            if curve := self.curve(subject):
                cells = [[f"{n:,}", *map(shown, rows)] for n, *rows in columns(curve)]
                parts += [*tables([f"examples,\nlayer {self.best_layer(subject)}", *curve], cells, left=0), ""]
            if words := self.moved.get(subject[0]):
                rows = [
                    [one.type, str(one.count), f"{one.distance:.2f}", ", ".join(one.before), ", ".join(one.after)]
                    for one in words
                ]
                header = ["moved most", "occurrences", "distance", "nearest in the first model", "nearest here"]
                parts += [*tables(header, rows), ""]
        lines = [f"{probe}: {metric} {value}" for probe, metric, value in self.baselines()]
        return render(*parts, *lines, *self.notes)


def columns(curve: Mapping[str, Sequence[tuple[int, list[Row]]]]) -> Iterator[tuple]:
    """Of each number of examples that number and the rows of each curve."""
    for points in zip(*curve.values()):
        yield points[0][0], *(rows for _, rows in points)


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
