"""`bert finetune`: labeled rows → batches → training → the best model's folder, as one page of plain calls.

What a run makes lies in its folder: recipe.yaml (all fields; run it again and the same run happens), metrics.csv,
environment.json, model/ (the model that measured best on the dev set).
"""

import logging
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bert.errors import InputError, InterruptedRun
from bert.files import real_path
from bert.finetuning.batches import Batches, BatchLoader
from bert.finetuning.config import FinetuneRecipe
from bert.finetuning.inputs import TrainingData, check_files, prepare_data, resolved, window_maker
from bert.finetuning.metrics import in_words
from bert.finetuning.module import KeepBest, TaskTraining, log_columns
from bert.finetuning.tasks.index import TASKS, task_named
from bert.finetuning.tasks.task import Task, TaskModel
from bert.finetuning.windows import windows_file
from bert.hf.folder import open_folder, start
from bert.model.encoder import count_parameters
from bert.signals import Signals, handled
from bert.terminal import quiet
from bert.training import folder as run_folder
from bert.training.callbacks import TIME_COLUMNS, MetricsCsv, ProgressBar, StepLog, StopOnSignal
from bert.training.card import training_card
from bert.training.ranks import world_size
from bert.training.trainer import check_trainer_arguments, make_trainer

logger = logging.getLogger(__name__)

# Arguments of the Trainer that something else in a recipe decides.
_DECIDED = {
    **dict.fromkeys(("max_steps", "max_epochs", "max_time", "min_steps", "min_epochs", "fast_dev_run"), "epochs"),
    **dict.fromkeys(("limit_train_batches", "overfit_batches"), "data.limit"),
    **dict.fromkeys(("accumulate_grad_batches", "use_distributed_sampler"), "data.batch_size"),
    "limit_val_batches": "data.dev",
    "enable_checkpointing": "validation.every_steps",
    "reload_dataloaders_every_n_epochs": "data.train",
}


def finetune(
    task: str,
    recipe: FinetuneRecipe,
    out: str | Path,
    overwrite: bool = False,
    trust: bool = False,
) -> Path:
    """Run `recipe` in the folder `out`; returns the folder of the best model.

    `task` is the name of one: classify, multilabel, regression or tag. `overwrite` loses the run that `out` holds;
    without it such a folder is refused. What happens is logged by the loggers of `bert`. `trust` imports any class that
    the recipe describes.

    Raises InputError for what the user can mend, `bert.errors.InterruptedRun` where a signal ended the run (the best model so
    far stays).
    """
    learned, out = task_named(task), Path(out)
    check_trainer_arguments(recipe.trainer, _DECIDED, trust)
    check_files(recipe.data)
    _check_not_inside(recipe, out)
    out, first = run_folder.named(out), run_folder.is_rank_0()
    with handled() as signals, quiet(not first), run_folder.owned(out) if first else nullcontext():
        return _finetune(learned, recipe, out, overwrite, signals, trust)


def _finetune(task: Task, recipe: FinetuneRecipe, out: Path, overwrite: bool, signals: Signals, trust: bool) -> Path:
    """Prepare (rank 0 first) and train."""
    first, ranks = run_folder.is_rank_0(), world_size(recipe.trainer)
    log, stop = StepLog(recipe.log.every_steps), StopOnSignal(signals)
    with run_folder.claimed(out, overwrite, recipe, keeps=False) if first else nullcontext(out) as folder:
        if not first:
            # what objects `trainer` holds, no file tells
            recipe = replace(run_folder.wait_until_ready(out, FinetuneRecipe)[0], trainer=recipe.trainer)
        recipe, data, model = prepare(task, recipe)
        batches = Batches(data.train, recipe.data.batch_size, model.config.pad_id, recipe.seed, counts=task.counts)
        dev = Batches(data.dev, recipe.data.batch_size, model.config.pad_id, shuffled=False)
        keep = KeepBest(lambda trained: save_model(trained, recipe, data, out / "model"))
        csv = MetricsCsv(out / "metrics.csv", [*log_columns(task, data.baseline), *TIME_COLUMNS])
        trainer = make_trainer(  # before the recipe is written: it refuses what this machine cannot do
            recipe.trainer,
            [log, stop, keep, *([ProgressBar(log)] if recipe.log.progress_bar else [])],
            loggers=[csv, *run_folder.extra_loggers(recipe.log, out)],
            plugins=[],
            validate_every=recipe.validation.every_steps or batches.in_epoch,
            trust=trust,
            run_dir=out,
        )
        if trainer.world_size != ranks:
            raise InputError(
                f"trainer.devices: {ranks} processes were expected and Lightning starts {trainer.world_size}: give a number"
            )
        if first:
            decided = {"precision": str(trainer.precision)}
            run_folder.mark_ready(folder, out, recipe, f"bert finetune {task.name}", decided)
    steps = max(1, round(recipe.epochs * batches.in_epoch))
    module = TaskTraining(
        *(task, data.metrics, model.train(), recipe.optimizer, recipe.schedule, steps, recipe.seed, batches.in_epoch)
    )
    rank = trainer.global_rank
    logger.info(describe(recipe, model, steps, trainer.precision))

    def on_first_request() -> None:
        signals.install()  # Lightning has put its own handlers in their place
        module.progress.start()

    with suppress(SIGTERMException), signals.deferred():
        trainer.fit(
            module,
            BatchLoader(batches, rank, ranks, on_first_request=on_first_request),
            BatchLoader(dev, rank, ranks, steps=dev.in_epoch),
        )
    if stop.stopped_by:
        raise InterruptedRun(interrupted(task, module, keep, out) if first else "", stop.stopped_by)
    best, baseline = in_words(keep.best, task.scales), in_words(data.baseline, task.scales)
    logger.info(f"best: step {keep.best_step:,}, {best}   baseline: {baseline}")
    logger.info(f"model: {out / 'model'}   next: bert predict {out / 'model'} FILE --out {task.output}")
    return out / "model"


def prepare(task: Task, recipe: FinetuneRecipe) -> tuple[FinetuneRecipe, TrainingData, TaskModel]:
    """The recipe with every open field decided, its data, and the model with a new head. Raises InputError."""
    if recipe.model is None:
        raise InputError("no model to start from: give a model folder as --model")
    folder = open_folder(recipe.model)
    maker = window_maker(recipe.windows, folder.encoder, recipe.model)
    data = prepare_data(task, recipe.data, maker)
    torch.manual_seed(recipe.seed)
    head = recipe.head
    model: TaskModel = start(task.model, folder, data.labels, head.dropout, head.pooling, task.problem_type)
    task.initialize(model, data.train)
    return resolved(recipe, maker), data, model


def describe(recipe: FinetuneRecipe, model: TaskModel, steps: int, precision: str) -> str:
    """What is about to run, in a line."""
    config = model.config
    return (
        f"{recipe.model}: {config.num_layers} layers × {config.hidden_size}, {count_parameters(model) / 1e6:.1f} M parameters,"
        f" {precision}; {steps:,} steps of {recipe.data.batch_size} examples = {recipe.epochs:g} epochs"
    )


def save_model(module: TaskTraining, recipe: FinetuneRecipe, data: TrainingData, folder: Path) -> None:
    """Write the model folder: the best so far."""
    measured = in_words(module.validation, module.task.scales)
    logger.info(f"epoch {module.epoch():.2f}, step {int(module.progress.step):,}: {measured}: the best so far")
    module.model.save(folder, card=card_text(module, recipe, data), extra=windows_file(recipe.windows))


def _check_not_inside(recipe: FinetuneRecipe, out: Path) -> None:
    """What a run reads must not lie in the folder that it replaces."""
    given = {"--model": recipe.model, "--train": recipe.data.train, "--dev": recipe.data.dev}
    for option, path in given.items():
        if path is not None and out.is_dir() and real_path(Path(path)).is_relative_to(real_path(out)):
            raise InputError(f"{option} {path} lies in --out {out}: give another --out")


def card_text(module: TaskTraining, recipe: FinetuneRecipe, data: TrainingData) -> str:
    """The part of the model card that tells how the model came to be."""
    assert recipe.data.train is not None
    assert recipe.model is not None
    task = module.task
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name in data.labels[:50]]
    measured, baseline = in_words(module.validation, task.scales), in_words(data.baseline, task.scales)
    lines = [
        "## Fine-tuning",
        f"- from: {Path(recipe.model).parent.name}/{Path(recipe.model).name}",
        f"- learned from {Path(recipe.data.train).name}: {len(data.train):,} examples; step {int(module.progress.step):,}"
        f" (epoch {module.epoch():.2f} of {recipe.epochs:g}); seed {recipe.seed}",
        f"- rows of {recipe.windows.sequence_length}, windows {recipe.windows.stride} pieces apart;"
        f" {recipe.data.batch_size} examples a step; {recipe.optimizer.kind}, learning rate {recipe.optimizer.lr:g},"
        f" {recipe.schedule.kind} schedule",
        f"- {task.name}, {TASKS[task.name]}: {', '.join(names)}{' …' if len(data.labels) > 50 else ''}",
        "",
        "## Measured",
        f"on {data.dev_name}, {len(data.dev):,} examples: {measured} (baseline: {baseline})",
    ]
    return training_card(lines, recipe, task.pipeline, data.dev_name, module.validation, base=recipe.model)


def interrupted(task: Task, module: TaskTraining, keep: KeepBest, out: Path) -> str:
    """What a run that was stopped leaves behind."""
    stopped = f"stopped at step {int(module.progress.step)}"
    if not keep.best:
        return f"{stopped}, before the model was measured for the first time: {out} holds none. Begin anew with --overwrite"
    return f"{stopped}. {out / 'model'} holds the best model so far: step {keep.best_step}, {in_words(keep.best, task.scales)}"
