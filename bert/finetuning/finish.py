"""The end of a run: the kept model of each seed is calibrated on the dev set and measured on the test set, and the report is written.

`best.json` in the folder of a run with one seed marks the end of its training, the report that of the whole run.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bert.data.hub_rows import title_of
from bert.files import (
    clear_workshop,
    clear_workshops,
    completed,
    keep_others,
    remove_folder,
    replace_text,
    replaced_folder,
)
from bert.finetuning.assess import over_seeds
from bert.finetuning.card import card_text
from bert.finetuning.config import FinetuneRecipe
from bert.finetuning.evaluate import Evaluation
from bert.finetuning.evaluation.calibration import tune
from bert.finetuning.evaluation.label_errors import Suspect
from bert.finetuning.evaluation.overlap import copies
from bert.finetuning.evaluation.record import Report
from bert.finetuning.evaluation.scored import score
from bert.finetuning.inputs import TrainingData
from bert.finetuning.metrics import goodness
from bert.finetuning.predict import load_predictor
from bert.finetuning.windows import Settings
from bert.hf.folder import OURS as MODEL_FILES
from bert.training.checkpoints import list_checkpoints
from bert.untrusted import read_json

logger = logging.getLogger(__name__)

BEST, REPORT = "best.json", "report"


def write_best(folder: Path, best: Mapping[str, Any]) -> None:
    """Mark the end of the training in `folder`: `best` is the `step` of the kept model, its metrics on `dev`, and the `fingerprint` of the
    run; what is fitted to the dev set follows as `tuned`. Its checkpoints, which are three times as large as the model, are removed."""
    replace_text(folder / BEST, json.dumps(best, indent=2) + "\n")
    _remove_checkpoints(folder)


def read_marker(file: Path) -> dict[str, Any]:
    """What has been written to BEST or to the metrics of the report; empty before that."""
    with suppress(OSError, ValueError):
        return dict(read_json(file))
    return {}


def finish(out: Path, data: TrainingData, runs: Mapping[Path, FinetuneRecipe], suspects: Sequence[Suspect]) -> None:
    """Calibrate and measure the kept model of each of `runs`, and write the report, which marks the end of the run in `out`."""
    from bert.finetuning.evaluation.page import write_report  # imports matplotlib

    folders, scales, dev = [*runs], data.task.scales, [read_marker(folder / BEST)["dev"] for folder in runs]
    measured = [_measured(folder, recipe, data) for folder, recipe in runs.items()]
    name = _measured_on(runs[folders[0]], data)
    best = max(range(len(folders)), key=lambda number: goodness(dev[number], scales))
    if len(folders) > 1:
        with replaced_folder(out / "model", MODEL_FILES) as fresh:
            keep_others(folders[best] / "model", fresh, ours=[])  # all of its files, as links
        logger.info(f"best of {len(folders)} seeds on {data.dev_name}: {folders[best].name}")
    evaluation, tuned = measured[best]
    seeds = over_seeds({recipe.seed: one for recipe, (one, _) in zip(runs.values(), measured)})
    learned, asked = ([one.key for one in side] for side in (data.examples, data.test_examples))
    if found := copies(learned, asked) if asked else []:
        where = "also stand in the training file, exactly or nearly"
        logger.warning(f"{len(found):,} of {len(asked):,} test texts {where}")
    report = Report(
        evaluation,
        str(out / "model"),
        name,
        is_selected=not data.test_examples,
        slices={"length": evaluation.by_length()},
        tuned=tuned,
        seeds=seeds,
        training=data.examples,
        dev={"data": data.dev_name, **dev[best]},
        copies=found,
        suspects=suspects,
    )
    write_report(report, out / REPORT)
    logger.info(f"{report.summary}\nreport: {out / REPORT / 'report.html'}")
    logger.info(f"model: {out / 'model'}   next: bert predict {out / 'model'} FILE --out {data.task.output}")


def _measured(folder: Path, recipe: FinetuneRecipe, data: TrainingData) -> tuple[Evaluation, dict[str, Any]]:
    """The evaluation of the kept model in `folder` on the test set, or on the dev set if there is none, after fitting its temperature and
    thresholds to the dev set, and what was fitted. The temperature becomes part of its weights."""
    _remove_checkpoints(folder)  # this and the next line: left by a run that was killed
    clear_workshop(completed(folder / "model"), MODEL_FILES)
    predictor = load_predictor(folder / "model")
    model, settings = predictor.model, Settings.read(predictor.model.settings)
    best = read_marker(folder / BEST)
    if "tuned" not in best:  # kept, as the weights after the division by the temperature would give other last digits
        tuned = tune(replace(score(predictor, data.dev_examples), task=data.task), recipe.seed)
        best["tuned"] = {"temperature": tuned.temperature, "task": tuned.task.settings(), "report": tuned.report}
        replace_text(folder / BEST, json.dumps(best, indent=2) + "\n")
    temperature, task = best["tuned"]["temperature"], data.task.restored(best["tuned"]["task"], data.labels)
    if settings.temperature is None and temperature != 1:
        with torch.no_grad():
            for parameter in model.head.output.parameters():
                parameter.div_(temperature)
    asked = replace(score(predictor, data.test_examples or data.dev_examples), task=task)
    evaluation = Evaluation(asked, np.arange(len(asked.sizes)))
    if settings.temperature is None:
        model.settings = replace(settings, task=task.settings(), temperature=temperature).written()
        name, headline = _measured_on(recipe, data), evaluation.headline
        scale, interval = evaluation.scales[headline], evaluation.intervals[headline]
        more = f"95% interval of the {scale.title}: {scale.range(interval)}. The model was chosen on {data.dev_name}."
        if temperature != 1:
            more += f" Probabilities are calibrated: logits are divided by {temperature:.3f}, which is in the weights."
        measured = evaluation.metrics, evaluation.baseline, name, len(asked.sizes), more
        model.save(folder / "model", card=card_text(recipe, data, best["step"], *measured))
    return evaluation, best["tuned"]["report"]


def _measured_on(recipe: FinetuneRecipe, data: TrainingData) -> str:
    return data.dev_name if recipe.data.test is None else title_of(recipe.data.test)


def _remove_checkpoints(folder: Path) -> None:
    clear_workshops(folder / "checkpoints", ["**"])
    for checkpoint in list_checkpoints(folder / "checkpoints"):
        remove_folder(checkpoint)
    with suppress(OSError):  # the user has files there
        (folder / "checkpoints").rmdir()
