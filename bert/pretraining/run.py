"""`bert pretrain`: tokenizer → token store → batches → training → model folder. Read from `pretrain` downward.

The run directory holds given.yaml (the recipe as given), recipe.yaml (all fields resolved; running it repeats the run), tokenizer/, store/
(unless one was given), checkpoints/, milestones/ (if asked for), metrics.csv, environment.json and model/ (the result).
"""

import logging
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import lightning as L
import torch

from bert.errors import InputError, InterruptedRun, check_arguments
from bert.model.attention import AttentionOptions
from bert.model.heads import MaskedLM
from bert.model.structure import structure
from bert.pretraining.backend import attention_options, select_attention
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.forgetting import measure_after, measure_before, report
from bert.pretraining.initialization import initialize, load_initial
from bert.pretraining.inputs import TrainingData, check_inputs, open_data, prepare_inputs, with_absolute_paths
from bert.pretraining.module import PretrainingModule
from bert.pretraining.objective import Objective, log_columns, objective_named
from bert.pretraining.phases import flops_of, resolve_plan
from bert.pretraining.stream import StepLoader
from bert.pretraining.summary import card_text, describe, doubts, expected
from bert.recipe import differences, read_recipe, shown
from bert.training import checkpoints
from bert.training import folder as run_folder
from bert.training.callbacks import MetricsCsv, StopOnSignal
from bert.training.compiling import compiles
from bert.training.doctor import warn
from bert.training.folder import Launch, launched
from bert.training.ranks import is_restart, world_size
from bert.training.trainer import check_trainer_arguments, equip, fitting

logger = logging.getLogger(__name__)

_RESUMABLE = "trainer stop checkpoint log optimizer.lr optimizer.muon_lr attention local_attention compile".split()
"""groups and fields that may change when a run is resumed"""


def pretrain(
    recipe: PretrainRecipe, out: str | Path, overwrite: bool = False, resume: bool = False, trust: bool = False
) -> Path:
    """Run `recipe` in the run directory `out`. Returns the model folder.

    If `out` holds a run of the same recipe, it is resumed from its newest checkpoint, or from the first step if there is none. If it holds
    another run, pass `overwrite` to discard that run, or `resume` to resume it with `recipe`, which may differ from that of the run in
    budget, log, checkpoints, trainer, learning rates, attention and compile. Progress is logged by the loggers of `bert`. `trust` imports
    any class that the recipe describes for the Trainer.

    Raises InputError for what the user can fix, `bert.errors.InterruptedRun` if a signal ended the run.
    """
    check_arguments(pretrain, locals())
    out = run_folder.named(Path(out))
    if resume and not (out / run_folder.RECIPE).exists():
        raise InputError(f"{out}: no run to resume here: it has no recipe.yaml")
    check_trainer_arguments(recipe.trainer, trust=trust)

    def advice() -> str:
        if overwrite or not run_folder.holds_run(out):
            return "stopped before the first step: run the same command to continue"
        return f"stopped. Resume with: bert pretrain --resume {out}"

    with launched(out, trust, advice) as launch:
        run = _prepare(launch, recipe, overwrite, resume) if run_folder.is_rank_0() else _follow(launch, recipe)
        return _train(run)


@dataclass(frozen=True)
class _Run:
    """A run, prepared on this rank."""

    launch: Launch
    trainer: L.Trainer
    stop: StopOnSignal
    data: TrainingData
    checkpoint: Path | None = None
    """to resume from"""
    model: MaskedLM | None = None
    """with its initial weights, if they exist already"""

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        return self.trainer.strategy.root_device

    @property
    def precision(self) -> str:
        """As Lightning names it, such as bf16-mixed."""
        return str(self.trainer.precision)

    @cached_property
    def compiled(self) -> tuple[bool, str]:
        """Whether the step is compiled, and why."""
        recipe = self.data.recipe
        asked, why = compiles(recipe.compile, self.device, recipe.stop.minutes, flops_of(recipe, self.data.plan))
        compiled = objective_named(recipe.objective, asked).compiled
        return compiled, why if compiled == asked else f"the objective {recipe.objective} decides"

    def decided(self) -> dict[str, Any]:
        """What is decided on each machine and affects the results."""
        recipe = self.data.recipe
        chosen = {"attention": recipe.attention, "local_attention": recipe.local_attention}
        return {"device": self.device.type, "precision": self.precision, "compiled": self.compiled[0], **chosen}


def _prepare(launch: Launch, recipe: PretrainRecipe, overwrite: bool, resume: bool) -> _Run:
    """Rank 0: prepare a new run, or resume the one in the run directory, and tell the other ranks."""
    out, given = launch.out, replace(with_absolute_paths(recipe), run_id=None)
    # The run is there already, which a restart by a launcher with `overwrite` does not discard again.
    if resume or (run_folder.holds_run(out) and (not overwrite or is_restart())):
        held = _with_objects(read_recipe(out / run_folder.RECIPE, PretrainRecipe), recipe)
        if not resume:
            run_folder.check_same(out, given)
            logger.info(f"{out}: already holds this run, which is resumed")
        return _take_up(launch, held, recipe if resume else held)

    # Check everything before anything is written.
    initial = check_inputs(recipe, out)
    recipe = replace(recipe, run_id=uuid4().hex)
    trainer, _, stop = _equip(launch, recipe)

    with run_folder.claimed(out, overwrite, given) as folder:
        data = prepare_inputs(recipe, folder, initial, ranks=trainer.world_size)
        run = _Run(launch, trainer, stop, data)
        recipe = select_attention(data.recipe, data.plan, run.device, run.precision, run.compiled[0])
        run = replace(run, data=replace(data, recipe=recipe))
        # Another model gives the initial weights: measure it now, for a comparison at the end.
        if initial is not None:
            model = initialize(recipe, initial, data.tokenizer)
            run = replace(run, model=model)
            measure_before(initial, model, run.data, run.device)
        run_folder.mark_ready(folder, out, recipe, "bert pretrain", run.decided())

    # With `overwrite`, the run was prepared in another folder, which has replaced `out` by now.
    return run if folder == out else replace(run, data=open_data(recipe, out, trainer.world_size))


def _take_up(launch: Launch, held: PretrainRecipe, recipe: PretrainRecipe) -> _Run:
    """Rank 0: resume the run of the recipe `held` with `recipe`. Nothing is changed before everything is checked."""
    out, recipe = launch.out, replace(recipe, run_id=held.run_id)
    changed = list(differences(held, recipe))
    for key, before, now in changed:
        if key not in _RESUMABLE and key.split(".")[0] not in _RESUMABLE:
            what = f"{key} is {shown(now)} and {out} was started with {shown(before)}"
            raise InputError(f"{what}: a resumed run keeps it; leave it out")

    # The newest undamaged checkpoint must be of this run, of the same text and tokenizer, and within the budget.
    checkpoint, manifest = checkpoints.newest_checkpoint(out, held.run_id)
    done, steps = checkpoints.step_of(checkpoint), recipe.stop.steps
    if steps is not None and steps < done:
        raise InputError(f"--stop.steps {steps}: the run has done {done:,} steps: give more, or leave it out")
    trainer, csv, stop = _equip(launch, recipe, checkpoint)
    data = prepare_inputs(recipe, out, resume=True, ranks=trainer.world_size)
    checkpoints.check_fingerprint(manifest.get("fingerprint", {}), data.fingerprint)
    run = _Run(launch, trainer, stop, data, checkpoint)

    # Amend the recipe, tell the other ranks, and remove what is later than the checkpoint.
    told = {} if checkpoint is None else {"checkpoint": checkpoint.name, "sha256": manifest["sha256"]}
    if changed:
        checkpoints.drop_later_milestones(out, done)
    run_folder.mark_resumed(out, data.recipe, changed, done, run.decided(), told)
    for key, before, now in changed:
        logger.info(f"changed from step {done:,} on: {key} {shown(before)} -> {shown(now)}")
    checkpoints.cut_back(out, csv, checkpoint)
    return run


def _follow(launch: Launch, given: PretrainRecipe) -> _Run:
    """The other ranks: open the run that rank 0 has prepared, at the checkpoint that it has chosen."""
    out = launch.out
    recipe, told = run_folder.wait_until_ready(out, PretrainRecipe)
    recipe, checkpoint = _with_objects(recipe, given), checkpoints.chosen_checkpoint(out, told)
    trainer, _, stop = _equip(launch, recipe, checkpoint)
    return _Run(launch, trainer, stop, open_data(recipe, out, trainer.world_size), checkpoint)


def _with_objects(held: PretrainRecipe, given: PretrainRecipe) -> PretrainRecipe:
    """The recipe of a run, with the objects for the Trainer in `given`, which no file can hold."""
    return replace(held, trainer=dict(given.trainer) | held.trainer)


def _equip(
    launch: Launch, recipe: PretrainRecipe, checkpoint: Path | None = None
) -> tuple[L.Trainer, MetricsCsv, StopOnSignal]:
    """The Trainer of a run, and two of its parts. Writes nothing. InputError for what this machine cannot do."""
    resolve_plan(recipe, world_size(recipe.trainer))  # refuses batches that do not divide
    validate_every = recipe.validation.every_steps if recipe.data.validation_split else None
    columns = log_columns(objective_named(recipe.objective))
    return equip(launch, launch.out, recipe, columns, validate_every, checkpoint)


def _train(run: _Run) -> Path:
    """Train a prepared run to its end, on every rank."""
    data, recipe = run.data, run.data.recipe
    if data.message:
        logger.info(data.message)
    compiled, why = run.compiled
    objective = objective_named(recipe.objective, compiled)
    model = _first_weights(run, objective)
    plan = data.plan if recipe.phases else None
    how = recipe.optimizer, recipe.schedule, recipe.stop, recipe.seed
    module = PretrainingModule(model, objective, *how, plan, data.fingerprint)
    logger.info(describe(data, model, run.precision))
    logger.info(f"{'compiled' if compiled else 'not compiled'}: {why}")
    if run_folder.is_rank_0():
        module.expected = expected(data)
        warn(doubts(data) if run.checkpoint is None else (), {"unknown tokens"})  # of which preparing has warned
    _fit(run, module)

    # Later forward passes may have another precision, and more documents per sequence.
    model.encoder.attention = AttentionOptions()
    step = module.progress.step
    if stopped_by := run.stop.stopped_by:
        at = f"at step {step} and saved" if step else "before the first step"
        message = f"stopped {at}. Resume with: bert pretrain --resume {data.folder}"
        raise InterruptedRun(message if run_folder.is_rank_0() else "", stopped_by)
    if step == checkpoints.step_of(run.checkpoint):
        what = f"the budget was already exhausted at step {step:,}"
        logger.info(f"nothing to do: {what}; raise it by --stop.steps, --stop.tokens or --stop.minutes")
    return finish(run, module)


def _first_weights(run: _Run, objective: Objective) -> MaskedLM:
    """The model in training mode with its initial weights, which a checkpoint replaces."""
    data, recipe = run.data, run.data.recipe
    torch.manual_seed(recipe.seed)
    if recipe.initialize_from is None or run.checkpoint is not None:
        model: MaskedLM = objective.build(recipe.encoder, recipe.head)
        if recipe.initialization == "structured":
            counts = torch.from_numpy(data.counts)
            structure(model, counts, data.plan.at(0).rope_theta)
    else:
        model = run.model or initialize(recipe, load_initial(recipe), data.tokenizer)
    model.train()
    model.tokenizer = data.tokenizer
    model.encoder.attention = attention_options(recipe, run.device, run.precision)
    return model


def _fit(run: _Run, module: PretrainingModule) -> None:
    """Train until the budget is used up or a signal comes."""
    data, rank, trainer = run.data, run.trainer.global_rank, run.trainer
    if points := data.recipe.checkpoint.milestones:
        keeper = checkpoints.Milestones(data.folder, points, partial(_export, data, module), run.launch.check)
        trainer.callbacks.insert(0, keeper)  # type: ignore[attr-defined]  # before all that ends a step
    loader = StepLoader(
        data.training,
        module.objective.counts,
        rank,
        first_step=lambda: int(module.progress.step),
        workers=data.recipe.data.workers,
        pin_memory=run.device.type == "cuda",
        on_first_request=partial(run.launch.begin, module.progress),
    )
    validation = data.validation and StepLoader(data.validation, rank=rank, steps=data.validation.steps)
    with fitting(run.launch, module, run.checkpoint):
        trainer.fit(module, loader, validation, ckpt_path=run.checkpoint and str(run.checkpoint), weights_only=True)


def _export(data: TrainingData, module: PretrainingModule, folder: Path) -> None:
    """Write the model of a milestone. Its card has no metrics: those of the last validation are of an earlier step."""
    module.objective.export(module.model, folder, card_text(data, module.objective, module.progress, {}))


def finish(run: _Run, module: PretrainingModule) -> Path:
    """Write the model folder and log the results, on rank 0. Returns the model folder."""
    data, objective, progress = run.data, module.objective, module.progress
    folder = data.folder / "model"
    if not run_folder.is_rank_0():
        return folder
    run.launch.check()

    # Write the model first, and its card again with the comparison: the model is there even if measuring fails.
    card = partial(card_text, data, objective, progress, module.validation)
    objective.export(module.model, folder, card())
    losses = measure_after(module.model, data, run.device) if data.recipe.initialize_from is not None else []
    if losses:
        objective.export(module.model, folder, card(losses))
        for line in report(losses):
            logger.info(line)
    elif module.validation:
        logger.info(f"validation: {objective.describe(module.validation)}")
    logger.info(progress.describe())
    following = objective.next_command and f"   next: {objective.next_command.format(folder=folder)}"
    logger.info(f"model: {folder}{following}")
    return folder
