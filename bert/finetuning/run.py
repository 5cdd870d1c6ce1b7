"""`bert finetune`: labeled rows → batches → training → the folder of the best model, as one page of plain calls.

The run directory holds given.yaml (the recipe as given), recipe.yaml (all fields; running it again reproduces the run), metrics.csv,
environment.json, checkpoints/ while it trains, model/ (the model that is best on the dev set), and best.json and metrics.json (see
`finish`). With several seeds, each has these in a folder of its own, seed-0/, seed-1/, ….
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import lightning as L
import torch

from bert.errors import InputError, InterruptedRun, check_arguments
from bert.files import real_path
from bert.finetuning.batches import Item
from bert.finetuning.card import card_text
from bert.finetuning.config import FinetuneRecipe
from bert.finetuning.doctor import expected, of_labels, of_report
from bert.finetuning.evaluation.record import METRICS
from bert.finetuning.finish import BEST, REPORT, finish, read_marker, write_best
from bert.finetuning.folds import folds_of, write_label_errors
from bert.finetuning.inputs import TrainingData, check_recipe, prepare, with_absolute_paths
from bert.finetuning.metrics import in_words, numbered
from bert.finetuning.module import (
    KeepBest,
    TaskTraining,
    fit_batches,
    log_columns,
    training_of,
    validate,
    validation_interval,
)
from bert.finetuning.search import searched
from bert.finetuning.tasks.index import task_named
from bert.finetuning.tasks.task import Task
from bert.model.encoder import count_parameters
from bert.recipe import read_recipe, read_yaml
from bert.training import folder as run_folder
from bert.training.callbacks import ProgressBar, StepLog, StopOnSignal
from bert.training.checkpoints import check_fingerprint, chosen_checkpoint, cut_back, newest_checkpoint, step_of
from bert.training.doctor import warn
from bert.training.folder import Launch, launched
from bert.training.ranks import is_restart, tell_others, world_size
from bert.training.trainer import check_trainer_arguments, equip, make_trainer

logger = logging.getLogger(__name__)

# Arguments of the Trainer that another field of the recipe determines.
_DECIDED = {
    **dict.fromkeys(("max_steps", "max_epochs", "max_time", "min_steps", "min_epochs", "fast_dev_run"), "epochs"),
    **dict.fromkeys(("limit_train_batches", "overfit_batches"), "data.limit"),
    **dict.fromkeys(("accumulate_grad_batches", "use_distributed_sampler"), "data.batch_size"),
    "limit_val_batches": "data.dev",
    "enable_checkpointing": "validation.every_steps",
    "reload_dataloaders_every_n_epochs": "data.train",
}
INITIAL = "initial"  # folder of the model of a run that starts without one
_OF_THE_RUN = ("callbacks", "logger", "profiler")  # arguments of the Trainer that folds leave out


def finetune(task: str, recipe: FinetuneRecipe, out: str | Path, overwrite: bool = False, trust: bool = False) -> Path:
    """Run `recipe` in the folder `out`, and return the folder of the best model.

    `task` is a name in `bert.finetuning.tasks.index.TASKS`. If `out` holds a run of the same task and recipe, it is resumed from its newest
    checkpoint, or its model is returned if it has finished. `overwrite` deletes a run in `out`; another run there is an error otherwise.
    Progress is logged by the loggers of `bert`. `trust` imports any class that the recipe names.

    Raises InputError for what the user can fix, and `bert.errors.InterruptedRun` if a signal ended the run.
    """
    check_arguments(finetune, locals())
    learned, recipe = task_named(task), replace(recipe, task=task)
    check_trainer_arguments(recipe.trainer, _DECIDED, trust)
    check_recipe(learned, recipe)
    _check_not_inside(recipe, Path(out))
    alone = [name for name in ("search", "label_errors") if getattr(recipe, name)]
    if alone and (ranks := world_size(recipe.trainer)) > 1:
        raise InputError(f"{alone[0]}: {ranks} processes train; must be one: give trainer.devices 1")
    out, first = run_folder.named(Path(out)), run_folder.is_rank_0()
    advice = f"run the same command{', without --overwrite if training had begun,' * overwrite} to continue"
    with launched(out, trust, lambda: f"stopped: {advice}") as launch:
        # Rank 0 prepares the run; the other ranks wait for it.
        is_held = first and _is_held(out, recipe, overwrite)
        if is_held and (headline := read_marker(out / REPORT / METRICS).get("summary")):
            tell_others(out / run_folder.READY, {})
            logger.info(f"{out}: this run has finished: {headline}")
            return out / "model"
        begin = partial(_begin, overwrite=overwrite) if first and not is_held else _take_up if first else _follow
        data, runs, checkpoint = begin(launch, learned, recipe)
        for folder, own in runs.items():
            if not read_marker(folder / BEST):
                _train(launch, data, folder, own, checkpoint, advice)
                checkpoint = None
        if torch.distributed.is_initialized():  # rank 0 measures alone
            torch.distributed.destroy_process_group()
        if first:
            trained = partial(trained_on, launch, data, recipe)
            found = write_label_errors(data, recipe.seed, out, trained) if recipe.label_errors else []
            finish(out, data, runs, found)
            warn(of_report(read_marker(out / REPORT / METRICS)))
        return out / "model"


Runs = dict[Path, FinetuneRecipe]
"""folder → recipe of the run with each seed"""
Prepared = tuple[TrainingData, Runs, Path | None]
"""the data, the runs, and the checkpoint from which the first of them that has not finished is resumed"""


def _is_held(out: Path, recipe: FinetuneRecipe, overwrite: bool) -> bool:
    """Whether `out` holds the run of `recipe`, which is to be resumed. InputError if it holds another one."""
    if not run_folder.holds_run(out) or (overwrite and not is_restart()):
        return False
    if "task" not in read_yaml(out / run_folder.RECIPE):  # a run of pretraining, or of an earlier version
        return False
    run_folder.check_same(out, with_absolute_paths(recipe), changes=False)
    return True


def _begin(launch: Launch, task: Task, recipe: FinetuneRecipe, overwrite: bool) -> Prepared:
    """Rank 0: prepare a new run."""
    out, command = launch.out, f"bert finetune {task.name}"
    with run_folder.claimed(out, overwrite, with_absolute_paths(recipe), keeps=False) as folder:
        recipe = replace(recipe, run_id=uuid4().hex)
        if recipe.model is None:
            task.begin(recipe, folder / INITIAL)
            # the shape is that of the folder from now on, also for a run by recipe.yaml
            head, default = replace(recipe.head, vocab_size=None), FinetuneRecipe().encoder
            recipe = replace(recipe, model=str(folder / INITIAL), head=head, encoder=default)
        recipe, data = prepare(task, recipe)
        warn(of_labels(data.examples))
        if recipe.label_errors:
            folds_of(data.examples, recipe.seed)  # raises for too few texts
        trainer, _, _ = equip(launch, out, recipe, [], None, None)  # raises if this machine lacks what is asked for
        if recipe.search:
            recipe = searched(recipe, data, folder / "search.csv", partial(trained_on, launch, data))
        for where, own in seed_runs(folder, recipe).items() if recipe.seeds > 1 else ():
            where.mkdir()
            run_folder.write_recipe(with_absolute_paths(own), where, command)
        run_folder.mark_ready(folder, out, with_absolute_paths(recipe), command, _decided(trainer))
    if recipe.model == str(folder / INITIAL):
        recipe = replace(recipe, model=str(out / INITIAL))
    return data, seed_runs(out, recipe), None


def _take_up(launch: Launch, task: Task, recipe: FinetuneRecipe) -> Prepared:
    """Rank 0: resume the run in the run directory. Nothing is changed before everything is checked."""
    out, held = launch.out, read_recipe(launch.out / run_folder.RECIPE, FinetuneRecipe)
    recipe, data = prepare(task, replace(held, trainer=recipe.trainer))
    runs = seed_runs(out, recipe)
    for folder in runs:
        check_fingerprint(read_marker(folder / BEST).get("fingerprint", {}), data.fingerprint)
    if not (waiting := [folder for folder in runs if not read_marker(folder / BEST)]):
        tell_others(out / run_folder.READY, {})
        return data, runs, None
    folder = waiting[0]
    checkpoint, manifest = newest_checkpoint(folder, runs[folder].run_id)
    check_fingerprint(manifest.get("fingerprint", {}), data.fingerprint)
    trainer, csv, _ = equip(launch, folder, recipe, log_columns(task, data.baseline), None, None)
    logger.info(f"{folder}: already holds this run, which is resumed")
    told = {} if checkpoint is None else {"checkpoint": checkpoint.name, "sha256": manifest["sha256"]}
    run_folder.mark_resumed(out, recipe, [], step_of(checkpoint), _decided(trainer), told)
    cut_back(folder, csv, checkpoint)
    return data, runs, checkpoint


def _follow(launch: Launch, task: Task, recipe: FinetuneRecipe) -> Prepared:
    """The other ranks: open the run that rank 0 has prepared, at the checkpoint that it has chosen."""
    held, told = run_folder.wait_until_ready(launch.out, FinetuneRecipe)
    recipe, data = prepare(task, replace(held, trainer=recipe.trainer))  # recipe.yaml has no objects for the Trainer
    runs = seed_runs(launch.out, recipe)
    waiting = [folder for folder in runs if not read_marker(folder / BEST)]
    return data, runs, chosen_checkpoint(waiting[0], told) if waiting else None


def seed_runs(out: Path, recipe: FinetuneRecipe) -> Runs:
    """The runs of a recipe: in `out` itself if there is one seed."""
    if recipe.seeds == 1:
        return {out: recipe}
    own = replace(recipe, seeds=1)
    seeds = range(recipe.seed, recipe.seed + recipe.seeds)
    return {out / f"seed-{seed}": replace(own, seed=seed, run_id=f"{own.run_id}-{seed}") for seed in seeds}


def _decided(trainer: L.Trainer) -> dict[str, Any]:
    """What is decided on each machine and affects the results."""
    return {"device": trainer.strategy.root_device.type, "precision": str(trainer.precision)}


def _train(
    launch: Launch, data: TrainingData, folder: Path, recipe: FinetuneRecipe, checkpoint: Path | None, advice: str
) -> None:
    """Train the run of one seed in `folder` to its end, from `checkpoint` on; `advice` tells how to continue after a signal."""
    task, (module, batches) = data.task, training_of(data, recipe, data.train)
    module.expected = expected(task, recipe, data.examples, data.labels)
    dev = replace(batches, items=data.dev, shuffled=False)
    often = recipe.validation
    keep = KeepBest(lambda trained: save_model(trained, recipe, data, folder / "model"), often.patience, often.average)
    columns, validate_every = log_columns(task, data.baseline), validation_interval(recipe, batches.in_epoch)
    trainer, _, stop = equip(launch, folder, recipe, columns, validate_every, checkpoint, keep)
    logger.info(describe(recipe, module, trainer.precision))
    fit_batches(launch, trainer, module, batches, dev, checkpoint)
    first = run_folder.is_rank_0()
    if stop.stopped_by:
        line = interrupted(task, module, keep, folder, advice)
        raise InterruptedRun(line if first else "", stop.stopped_by)
    keep.try_average(module, lambda: validate(launch, trainer, module, dev))
    best, baseline = in_words(keep.best, task.scales), in_words(data.baseline, task.scales)
    whose = f"{folder.name}: " * (folder != launch.out)
    logger.info(f"{whose}best: step {keep.best_step:,}, {best}   baseline: {baseline}")
    if first:
        write_best(folder, {"step": keep.best_step, "dev": keep.best, "fingerprint": data.fingerprint})


def trained_on(
    launch: Launch, data: TrainingData, recipe: FinetuneRecipe, items: Sequence[Item], every: int = 0, *more: L.Callback
) -> TaskTraining:
    """A training on `items`, at its end, without checkpoints and log; with validation `every` so many steps, 0 for none, and `more`
    callbacks."""
    module, batches = training_of(data, recipe, items)
    dev = replace(batches, items=data.dev, shuffled=False) if every else None
    log, stop = StepLog(recipe.log.every_steps), StopOnSignal(launch.signals, every)
    arguments = {name: value for name, value in recipe.trainer.items() if name not in _OF_THE_RUN}
    callbacks = [log, stop, *more, *([ProgressBar(log)] if recipe.log.progress_bar else [])]
    trainer = make_trainer(arguments, callbacks, loggers=[], plugins=[], validate_every=every or None)
    fit_batches(launch, trainer, module, batches, dev)
    if stop.stopped_by:
        raise InterruptedRun("stopped: run the same command to continue", stop.stopped_by)
    return module


def describe(recipe: FinetuneRecipe, module: TaskTraining, precision: str) -> str:
    """A line about the run that starts."""
    model, steps = module.model, module.progress.stop.steps or 0
    budget = f"{numbered(steps, 'step')} of {numbered(recipe.data.batch_size, 'example')}"
    config, size = model.config, f"{count_parameters(model) / 1e6:.1f} M parameters"
    shape = f"{config.num_layers} layers × {config.hidden_size}, {size}, {precision}"
    return f"{recipe.model}: {shape}; {budget} = {recipe.epochs:g} epoch{'s' * (recipe.epochs != 1)}"


def save_model(module: TaskTraining, recipe: FinetuneRecipe, data: TrainingData, folder: Path) -> None:
    """Write the folder of the best model so far."""
    step, measured = int(module.progress.step), module.validation
    text = card_text(recipe, data, step, measured, data.baseline, data.dev_name, len(data.dev))
    told = in_words(measured, module.task.scales)
    logger.info(f"epoch {module.epoch():.2f}, step {step:,}: {told}: the best so far")
    module.model.save(folder, card=text)


def _check_not_inside(recipe: FinetuneRecipe, out: Path) -> None:
    """Raises InputError if an input of the run is in the folder that it replaces."""
    data = recipe.data
    given = {"--model": recipe.model, "--train": data.train, "--dev": data.dev, "--test": data.test}
    for option, path in given.items():
        # a name on the Hub does not exist
        if path and Path(path).exists() and out.is_dir() and real_path(Path(path)).is_relative_to(real_path(out)):
            raise InputError(f"{option} {path} lies in --out {out}: give another --out")


def interrupted(task: Task, module: TaskTraining, keep: KeepBest, folder: Path, advice: str) -> str:
    """A line about a stopped run."""
    if not module.progress.step:
        return f"stopped before the first step: {advice}"
    best = f"step {keep.best_step}, {in_words(keep.best, task.scales)}"
    kept = f". {folder / 'model'} holds the best model so far: {best}" if keep.best else ""
    return f"stopped at step {int(module.progress.step)} and saved: {advice}{kept}"
