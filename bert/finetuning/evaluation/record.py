"""What the files of an evaluation say: metrics.json, predictions.jsonl, and report.html, in one folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from bert.errors import InputError, accessing, option
from bert.finetuning.evaluate import Evaluation, Slice
from bert.finetuning.evaluation.calibration import Calibration, calibration
from bert.finetuning.evaluation.comparison import Compared
from bert.finetuning.evaluation.details import Detail
from bert.finetuning.evaluation.label_errors import Suspect
from bert.finetuning.evaluation.overlap import Copy
from bert.finetuning.metrics import numbered
from bert.training.folder import holds_run

METRICS = "metrics.json"
FILES = (METRICS, "predictions.jsonl", "report.html")


@dataclass(frozen=True)
class Report:
    """An evaluation with everything that its page shows."""

    evaluation: Evaluation
    model: str
    data: str
    """the name of the file"""
    is_selected: bool = False
    """whether the model was chosen on these rows, so that its metrics are too good"""
    slices: Mapping[str, Sequence[Slice]] = field(default_factory=dict)
    """what the examples are divided by → the parts"""
    tuned: Mapping[str, Any] = field(default_factory=dict)
    """`Tuned.report`: what was fitted to the dev set"""
    seeds: Mapping[str, Any] = field(default_factory=dict)
    """the metrics of each of several seeds, and their mean and spread"""
    training: Sequence[Any] = ()
    """the examples that the model learned from, if they are known"""
    explanations: Mapping[int, str] = field(default_factory=dict)
    """number of an example → HTML that says which words speak for its prediction"""
    dev: Mapping[str, Any] = field(default_factory=dict)
    """the name of the dev set as `data`, and the metrics on it"""
    copies: Sequence[Copy] = ()
    """texts that stand in `training` too"""
    suspects: Sequence[Suspect] = ()
    """training labels that are likely wrong, the most suspect first"""
    against: str = ""
    """the other model of a comparison"""
    compared: Compared | None = None

    @property
    def summary(self) -> str:
        """`accuracy 91.2% (95% interval 89.0–93.1%) on test.tsv, 1 seed`, or with the spread over several seeds."""
        of, chosen = self.evaluation, ", on which the model was chosen" * self.is_selected
        value, interval = self.score(of.headline)
        return f"{of.scales[of.headline].title} {value} ({interval}) on {self.data}{chosen}, {self.seed_count}"

    @property
    def seed_count(self) -> str:
        """`1 seed`, `5 seeds`"""
        return numbered(len(self.seeds.get("seeds", [0])), "seed")

    def score(self, metric: str) -> tuple[str, str]:
        """The value of a metric and its interval, over the rows; of several seeds mean ± standard deviation, and that of the mean."""
        of, scale = self.evaluation, self.evaluation.scales[metric]
        if not self.seeds:
            return scale.shown(of.metrics[metric]), f"95% interval {scale.range(of.intervals[metric])}"
        mean, sd, interval = (self.seeds[key][metric] for key in ("mean", "sd", "interval"))
        value = f"{scale.shown(mean)} ± {scale.difference(sd).removeprefix('+')}"
        return value, f"95% t interval {scale.range(interval)}"

    def __str__(self) -> str:
        """The evaluation as text for a terminal."""
        parts = [str(self.evaluation), self.summary * bool(self.seeds)]
        parts += ["\n".join(self.compared.lines(self.evaluation.scales))] if self.compared else []
        return "\n\n".join(filter(None, parts))

    @cached_property
    def details(self) -> Sequence[Detail]:
        """What is shown of this task only."""
        return self.evaluation.scored.task.details(self.evaluation.scored, self.training)

    @cached_property
    def calibration(self) -> Calibration | None:
        """That of the decisions; none for regression."""
        return calibration(*self.evaluation.scored.choices()[:2])

    def record(self) -> dict[str, Any]:
        """The content of metrics.json. Shares are from 0 to 1; an interval is [low, high] or null."""
        of = self.evaluation
        metrics = {
            name: {"value": value, "interval": of.intervals[name], "baseline": of.baseline[name]}
            for name, value in of.metrics.items()
        }
        more = {"dev": {"selected": True, **self.dev}} if self.dev else {}
        if self.compared:
            more["comparison"] = {"against": self.against, **asdict(self.compared)}
        return {
            "summary": self.summary,
            "task": of.scored.task.name,
            "model": self.model,
            "data": self.data,
            "selected": self.is_selected,
            "examples": len(of.scored.sizes),
            "unit": of.unit,
            "units": int(of.groups.max()) + 1,
            "headline": of.headline,
            "metrics": metrics,
            "labels": [asdict(label) for label in of.labels],
            "slices": {name: [asdict(part) for part in parts] for name, parts in self.slices.items()},
            "details": [{"kind": type(one).__name__.lower(), **asdict(one)} for one in self.details],
            "calibration": self.calibration and asdict(self.calibration),
            "tuned": dict(self.tuned),
            "seeds": dict(self.seeds),
            **more,
        }


def without_nan(value: Any) -> Any:
    """JSON values with null for a number that is undefined, such as the p of a comparison in which nothing varies."""
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if value != value else value


def check_folder(folder: Path) -> None:
    """Make the folder of a report. Raises InputError if that cannot be, or a report would replace that of a run, or another file."""
    if holds_run(folder) or (folder / "config.json").exists():
        raise InputError(f"{option('report')} {folder}: is the folder of a run or a model; give another folder")
    there = [name for name in FILES if (folder / name).exists()]
    if there and (len(there) < len(FILES) or holds_run(folder.parent)):
        what = there[0] if len(there) < len(FILES) else "the report of a run"
        raise InputError(f"{option('report')} {folder}: would replace {what}; give another folder")
    with accessing(folder, "written", f"give another {option('report')}"):
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()  # raises if nothing can be written there


def predictions(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """A row for each example: where it is, its columns, the gold labels, and the prediction."""
    scored, task = evaluation.scored, evaluation.scored.task
    for example, scores, wrong, loss in zip(
        scored.examples, scored.of_examples(), scored.is_wrong, scored.losses, strict=True
    ):
        found = task.prediction(example, scores, scored.labels).record(None)
        gold = task.gold(example, scored.labels)
        yield {"where": example.where, "input": task.given(example), "gold": gold, "predicted": found,
               "wrong": bool(wrong), "loss": round(float(loss), 6)}  # fmt: skip
