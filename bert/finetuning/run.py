"""`bert finetune`: labeled rows → batches → training → the folder of the best model, as one page of plain calls.

The run directory holds recipe.yaml (all fields; running it again reproduces the run), metrics.csv, environment.json and model/ (the
model that is best on the dev set).
"""

import logging
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bert.errors import InputError, InterruptedRun, check_arguments
from bert.files import real_path
from bert.finetuning.batches import Batches, BatchLoader
from bert.finetuning.config import FinetuneRecipe
from bert.finetuning.inputs import TrainingData, check_files, prepare_data, resolved, window_maker
from bert.finetuning.metrics import in_words, numbered
from bert.finetuning.module import KeepBest, TaskTraining, log_columns
from bert.finetuning.tasks.index import TASKS, task_named
from bert.finetuning.tasks.task import Task, TaskModel
from bert.finetuning.windows import Settings
from bert.hf.folder import Source, head_of, open_folder, start
from bert.model.encoder import count_parameters
from bert.signals import Signals, handled
from bert.terminal import quiet
from bert.training import folder as run_folder
from bert.training.callbacks import TIME_COLUMNS, MetricsCsv, ProgressBar, StepLog, StopOnSignal
from bert.training.card import training_card
from bert.training.ranks import world_size
from bert.training.trainer import check_trainer_arguments, make_trainer

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


def finetune(task: str, recipe: FinetuneRecipe, out: str | Path, overwrite: bool = False, trust: bool = False) -> Path:
    """Run `recipe` in the folder `out`, and return the folder of the best model.

    `task` is a name in `bert.finetuning.tasks.index.TASKS`. `overwrite` deletes a run in `out`, which is an error otherwise. Progress is
    logged by the loggers of `bert`. `trust` imports any class that the recipe names.

    Raises InputError for what the user can fix, and `bert.errors.InterruptedRun` if a signal ended the run (the best model so far is
    kept).
    """
    check_arguments(finetune, locals())
    learned, out = task_named(task), Path(out)
    check_trainer_arguments(recipe.trainer, _DECIDED, trust)
    check_files(learned, recipe.data)
    _check_not_inside(recipe, out)
    out, first = run_folder.named(out), run_folder.is_rank_0()
    with handled() as signals, quiet(not first), run_folder.owned(out) if first else nullcontext():
        return _finetune(learned, recipe, out, overwrite, signals, trust)


def _finetune(task: Task, recipe: FinetuneRecipe, out: Path, overwrite: bool, signals: Signals, trust: bool) -> Path:
    """Prepare the run, on rank 0 first, and train."""
    first, ranks = run_folder.is_rank_0(), world_size(recipe.trainer)
    log, stop = StepLog(recipe.log.every_steps), StopOnSignal(signals)
    with run_folder.claimed(out, overwrite, recipe, keeps=False) if first else nullcontext(out) as folder:
        if not first:
            # recipe.yaml does not contain the objects in `trainer`
            recipe = replace(run_folder.wait_until_ready(out, FinetuneRecipe)[0], trainer=recipe.trainer)
        recipe, data, model = prepare(task, recipe)
        task = data.task
        model.settings = Settings(recipe.windows, data.columns, task.settings()).written()
        batches = Batches(data.train, recipe.data.batch_size, model.config.pad_id, recipe.seed, counts=task.counts)
        dev = Batches(data.dev, recipe.data.batch_size, model.config.pad_id, shuffled=False)
        keep = KeepBest(lambda trained: save_model(trained, recipe, data, out / "model"))
        csv = MetricsCsv(out / "metrics.csv", [*log_columns(task, data.baseline), *TIME_COLUMNS])
        trainer = make_trainer(  # before the recipe is written: it raises if this machine lacks what is asked for
            recipe.trainer,
            [log, stop, keep, *([ProgressBar(log)] if recipe.log.progress_bar else [])],
            loggers=[csv, *run_folder.extra_loggers(recipe.log, out)],
            plugins=[],
            validate_every=recipe.validation.every_steps or batches.in_epoch,
            trust=trust,
            run_dir=out,
        )
        if trainer.world_size != ranks:
            started = f"{ranks} processes were expected and Lightning starts {trainer.world_size}"
            raise InputError(f"trainer.devices: {started}: give a number")
        if first:
            decided = {"precision": str(trainer.precision)}
            run_folder.mark_ready(folder, out, recipe, f"bert finetune {task.name}", decided)
    steps = max(1, round(recipe.epochs * batches.in_epoch))
    how = recipe.optimizer, recipe.schedule, steps, recipe.seed, batches.in_epoch
    module = TaskTraining(task, data.metrics, model.train(), *how)
    logger.info(describe(recipe, model, steps, trainer.precision))

    def on_first_request() -> None:
        signals.install()  # Lightning has replaced our handlers
        module.progress.start()

    training = BatchLoader(batches, trainer.global_rank, ranks, on_first_request=on_first_request)
    validation = BatchLoader(dev, trainer.global_rank, ranks, steps=dev.in_epoch)
    with suppress(SIGTERMException), signals.deferred():
        trainer.fit(module, training, validation)
    if stop.stopped_by:
        raise InterruptedRun(interrupted(task, module, keep, out) if first else "", stop.stopped_by)
    best, baseline = in_words(keep.best, task.scales), in_words(data.baseline, task.scales)
    logger.info(f"best: step {keep.best_step:,}, {best}   baseline: {baseline}")
    logger.info(f"model: {out / 'model'}   next: bert predict {out / 'model'} FILE --out {task.output}")
    return out / "model"


def prepare(task: Task, recipe: FinetuneRecipe) -> tuple[FinetuneRecipe, TrainingData, TaskModel]:
    """The recipe with every open field resolved, its data, and the model with a new head. Raises InputError."""
    if recipe.model is None:
        raise InputError("no model to start from: give a model folder with --model")
    folder = open_folder(recipe.model)
    maker = window_maker(recipe.windows, folder.encoder, recipe.model)
    data = prepare_data(task, recipe.data, maker)
    torch.manual_seed(recipe.seed)
    head = recipe.head
    model: TaskModel = start(task.model, folder, data.labels, head.dropout, head.pooling, task.problem_type)
    if not keep_output(model, folder, task):
        task.initialize(model, data.train)
    return resolved(recipe, maker), data, model


def keep_output(model: TaskModel, source: Source, task: Task) -> bool:
    """Copy the output layer of a folder that has the same task and labels, in the order of the labels of `model`."""
    kind, head = head_of(source.folder)
    if kind != task.model.__name__:
        return False
    labels: list[str] = list(getattr(head, "labels", ()))
    is_same = getattr(head, "problem_type", "") == task.problem_type
    kept = is_same and sorted(labels) == sorted(model.labels)
    found = "the same labels" if kept else "other labels" if is_same else "another task"
    logger.info(f"{source.folder} has {found}: its output layer is {'' if kept else 'not '}kept")
    shapes = {f"head.output.{name}": tensor.shape for name, tensor in model.head.output.named_parameters()}
    for name, tensor in source.parameters(kind, shapes)[0].items() if kept else ():
        model.get_parameter(name).data.copy_(tensor[[labels.index(label) for label in model.labels]])
    return kept


def describe(recipe: FinetuneRecipe, model: TaskModel, steps: int, precision: str) -> str:
    """A line about the run that starts."""
    budget = f"{numbered(steps, 'step')} of {numbered(recipe.data.batch_size, 'example')}"
    config, size = model.config, f"{count_parameters(model) / 1e6:.1f} M parameters"
    shape = f"{config.num_layers} layers × {config.hidden_size}, {size}, {precision}"
    return f"{recipe.model}: {shape}; {budget} = {recipe.epochs:g} epoch{'s' * (recipe.epochs != 1)}"


def save_model(module: TaskTraining, recipe: FinetuneRecipe, data: TrainingData, folder: Path) -> None:
    """Write the folder of the best model so far."""
    measured = in_words(module.validation, module.task.scales)
    logger.info(f"epoch {module.epoch():.2f}, step {int(module.progress.step):,}: {measured}: the best so far")
    module.model.save(folder, card=card_text(module, recipe, data))


def _check_not_inside(recipe: FinetuneRecipe, out: Path) -> None:
    """Raises InputError if an input of the run is in the folder that it replaces."""
    given = {"--model": recipe.model, "--train": recipe.data.train, "--dev": recipe.data.dev}
    for option, path in given.items():
        if path is not None and out.is_dir() and real_path(Path(path)).is_relative_to(real_path(out)):
            raise InputError(f"{option} {path} lies in --out {out}: give another --out")


def card_text(module: TaskTraining, recipe: FinetuneRecipe, data: TrainingData) -> str:
    """The part of the model card about the training."""
    assert recipe.data.train is not None
    assert recipe.model is not None
    task = module.task
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name in data.labels[:50]]
    measured, baseline = in_words(module.validation, task.scales), in_words(data.baseline, task.scales)
    lines = [
        "## Fine-tuning",
        f"- from: {Path(recipe.model).parent.name}/{Path(recipe.model).name}",
        f"- data: {Path(recipe.data.train).name}, {numbered(len(data.train), 'example')}; step {int(module.progress.step):,}"
        f" (epoch {module.epoch():.2f} of {recipe.epochs:g}); seed {recipe.seed}",
        f"- sequences of {recipe.windows.sequence_length} tokens, windows with a stride of {recipe.windows.stride} tokens;"
        f" {numbered(recipe.data.batch_size, 'example')} a step; {recipe.optimizer.kind}, learning rate {recipe.optimizer.lr:g},"
        f" {recipe.schedule.kind} schedule",
        f"- {task.name}, {TASKS[task.name]}: {', '.join(names)}{' …' if len(data.labels) > 50 else ''}",
        "",
        "## Measured",
        f"on {data.dev_name}, {numbered(len(data.dev), 'example')}: {measured} (baseline: {baseline})",
    ]
    return training_card(lines, recipe, task.pipeline, data.dev_name, module.validation, base=recipe.model)


def interrupted(task: Task, module: TaskTraining, keep: KeepBest, out: Path) -> str:
    """A line about a stopped run."""
    stopped = f"stopped at step {int(module.progress.step)}"
    if not keep.best:
        return f"{stopped}, before the first validation: {out} holds no model. Start again with --overwrite"
    return f"{stopped}. {out / 'model'} holds the best model so far: step {keep.best_step}, {in_words(keep.best, task.scales)}"
