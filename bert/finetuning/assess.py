"""`bert evaluate`: a fine-tuned model, or the run directory of several seeds, and labeled rows → a report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bert.data.hub_rows import title_of
from bert.errors import InputError, check_arguments
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluate import Evaluation, evaluate
from bert.finetuning.evaluation.comparison import compare
from bert.finetuning.evaluation.record import Report
from bert.finetuning.evaluation.statistics import t_interval
from bert.finetuning.explanation import explain as explained
from bert.finetuning.predict import load_predictor
from bert.training.folder import holds_run


def assess(
    model: str | Path,
    file: str | Path,
    data: DataConfig,
    *,
    against: str | Path | None = None,
    group: str | None = None,
    slice: Sequence[str] = (),
    explain: bool = False,
) -> Report:
    """Measure a model on labeled rows, and compare it with another one.

    `model` and `against` are model folders, names on the Hub, or run directories, of which the kept model is measured, and then
    that of each seed. `group`: column whose equal values are resampled together; `slice`: columns by whose values the headline
    is shown; `explain` adds the words that speak for each of the worst errors. Raises InputError.
    """
    check_arguments(assess, locals())
    file, folders = str(file), model_folders(model)
    first = [evaluate(folder, file, data, group) for folder in folders.values()]
    parts = {"length": first[0].by_length()}
    for name in slice:
        parts["column length" if name == "length" else name] = first[0].by_column(name)
    seeds = over_seeds({seed: one for seed, one in zip(folders, first) if seed is not None})
    scored, why = first[0].scored, {}
    if explain:
        predictor = load_predictor(folders[None])
        why = {number: explained(predictor, scored.examples[number]).picture() for number in scored.worst()}
    report = Report(first[0], str(model), title_of(file), slices=parts, seeds=seeds, explanations=why)
    if against is None:
        return report
    others = [evaluate(folder, file, data, group) for folder in model_folders(against).values()]
    return replace(report, against=str(against), compared=compare(first, others))


def model_folders(model: str | Path) -> dict[int | None, Path]:
    """The folder of a model, or the kept model of a run directory, under None; then the model of each seed of the run."""
    run = Path(model).expanduser()
    if not (run / "model" / "config.json").exists():
        if holds_run(run):
            raise InputError(f"{run}: has no model yet: run the same command again to continue")
        return {None: Path(model)}
    seeds = {int(one.parent.name[5:]): one for one in run.glob("seed-*/model") if one.parent.name[5:].isdecimal()}
    return {None: run / "model", **dict(sorted(seeds.items()))}


def over_seeds(evaluations: Mapping[int, Evaluation]) -> dict[str, Any]:
    """The metrics of the models of several seeds, with mean, standard deviation and t interval of each; empty for less than two."""
    if len(evaluations) < 2:
        return {}
    values = [{"seed": seed, **one.metrics} for seed, one in evaluations.items()]
    spreads = {name: t_interval([one[name] for one in values]) for name in values[0] if name != "seed"}
    scales = next(iter(evaluations.values())).scales
    return {
        "seeds": values,
        "mean": {name: one.mean for name, one in spreads.items()},
        "sd": {name: one.sd for name, one in spreads.items()},
        "interval": {
            # of two seeds it may be wider than all that a share can be
            name: [max(one.low, 0.0), min(one.high, 1.0)] if scales[name].percent else [one.low, one.high]
            for name, one in spreads.items()
        },
    }
