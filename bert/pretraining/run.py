"""`bert pretrain`: tokenizer → token store → batches → training → model folder, as one page of plain calls.

What a run makes lies in its folder: given.yaml (what was asked for), recipe.yaml (all fields; run it again and the same run happens),
tokenizer/, store/ (where none was given), checkpoints/, metrics.csv, environment.json, model/ (the result).
"""

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bert.errors import InputError, InterruptedRun
from bert.model.attention import AttentionOptions
from bert.model.flops import training_flops
from bert.model.heads import MaskedLM
from bert.model.structure import structure
from bert.pretraining.backend import attention_options, select_attention
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.forgetting import measure_after, measure_before, report
from bert.pretraining.initialization import InitialModel, initialize, load_initial
from bert.pretraining.inputs import (
    TrainingData,
    check_inputs,
    open_data,
    prepare_inputs,
    validation_loader,
    with_absolute_paths,
)
from bert.pretraining.module import PretrainingModule, check_fingerprint
from bert.pretraining.objective import log_columns, objective_named
from bert.pretraining.phases import Plan, resolve_plan
from bert.pretraining.stream import StepLoader
from bert.pretraining.summary import card_text, describe
from bert.recipe import differences, read_recipe
from bert.signals import Signals, handled, number_of
from bert.terminal import quiet
from bert.training import folder as run_folder
from bert.training.callbacks import TIME_COLUMNS, MetricsCsv, ProgressBar, StepLog, StopOnSignal
from bert.training.checkpoints import Checkpoints, WholeCheckpointIO, drop_later, newest_whole, prove, read_manifest
from bert.training.compiling import compiles
from bert.training.ranks import is_restart, world_size
from bert.training.trainer import check_trainer_arguments, make_trainer

logger = logging.getLogger(__name__)

_COUNTED = 4_000_000
"""positions whose tokens are counted for the first output bias, which takes less than a tenth of a second"""


_RESUMABLE = "trainer stop checkpoint log optimizer.lr optimizer.muon_lr attention local_attention compile".split()
"""groups and fields that may change when a run is resumed"""


def pretrain(
    recipe: PretrainRecipe,
    out: str | Path,
    overwrite: bool = False,
    resume: bool = False,
    trust: bool = False,
) -> Path:
    """Run `recipe` in the folder `out`; returns the model folder.

    A folder that holds the run of this very recipe is resumed from its newest checkpoint, or from the first step where it has none
    yet. One that holds another run is refused, unless told to lose that run (`overwrite`) or to resume it (`resume`: then `recipe`
    is that of the run, but for budget, log, checkpoints, trainer, learning rates, attention and compile). What happens is
    logged by the loggers of `bert`. `trust` imports any class that the recipe describes for the Trainer.

    Raises InputError for what the user can fix, `bert.errors.InterruptedRun` where a signal ended the run.
    """
    out = run_folder.named(Path(out))
    if resume and not (out / run_folder.RECIPE).exists():
        raise InputError(f"{out}: no run to resume here: it has no recipe.yaml")
    check_trainer_arguments(recipe.trainer, trust=trust)
    first = run_folder.is_rank_0()
    with handled() as signals, quiet(not first):
        try:
            if first:
                with run_folder.owned(out) as check:
                    equip = partial(_equip, out=out, signals=signals, trust=trust, check=check)
                    return _train(_prepare(recipe, out, overwrite, resume, equip))
            equip = partial(_equip, out=out, signals=signals, trust=trust, check=lambda: None)
            return _train(_follow(recipe, out, equip))
        except (KeyboardInterrupt, SystemExit) as error:
            if (number := number_of(error)) is None:
                raise
            ready = run_folder.holds_run(out) and not overwrite
            line = (
                f"stopped. Go on with: bert pretrain --resume {out}"
                if ready
                else "stopped before the first step: the same command goes on"
            )
            raise InterruptedRun(line if first else "", number) from None


@dataclass(frozen=True)
class _Equipment:
    """What trains a run."""

    signals: Signals
    trainer: L.Trainer
    ranks: int
    """processes that train it"""
    csv: MetricsCsv
    stop: StopOnSignal
    check: Callable[[], None]
    """raises where the folder is no longer that of the run"""

    @property
    def device(self) -> torch.device:
        """That of this process."""
        return self.trainer.strategy.root_device


@dataclass(frozen=True)
class _Run:
    """A run that is prepared."""

    equipment: _Equipment
    data: TrainingData
    compiled: tuple[bool, str]
    """whether the step is compiled, and why"""
    checkpoint: Path | None = None
    """the one that it goes on from"""
    model: MaskedLM | None = None
    """its first weights, where they are made already"""

    def decided(self) -> dict[str, Any]:
        """What is decided anew on each machine and changes what a run computes."""
        recipe, trainer = self.data.recipe, self.equipment.trainer
        chosen = {name: getattr(recipe, name) for name in ("attention", "local_attention")}
        device, precision = self.equipment.device.type, str(trainer.precision)
        return {"device": device, "precision": precision, "compiled": self.compiled[0], **chosen}


def _equip(
    recipe: PretrainRecipe,
    checkpoint: Path | None = None,
    *,
    out: Path,
    signals: Signals,
    trust: bool,
    check: Callable[[], None],
) -> _Equipment:
    """What trains a run, before anything is written: InputError for what this machine cannot do."""
    ranks = world_size(recipe.trainer)
    resolve_plan(recipe, ranks)  # refuses batches that do not divide
    csv = MetricsCsv(out / "metrics.csv", [*log_columns(objective_named(recipe.objective)), *TIME_COLUMNS])
    validate_every = recipe.validation.every_steps if recipe.data.validation_split else None
    log, stop = StepLog(recipe.log.every_steps), StopOnSignal(signals, validate_every)
    source = f"{recipe.run_id} {'' if checkpoint is None else read_manifest(checkpoint).get('sha256')}"
    callbacks = [log, stop, Checkpoints(out / "checkpoints", recipe.checkpoint, validate_every, source)]
    if recipe.log.progress_bar:
        callbacks.append(ProgressBar(log))
    trainer = make_trainer(
        recipe.trainer,
        callbacks,
        loggers=[csv, *run_folder.extra_loggers(recipe.log, out)],
        plugins=[WholeCheckpointIO(recipe.run_id, check)],
        validate_every=validate_every,
        trust=trust,
        run_dir=out,
    )
    if trainer.world_size != ranks:
        raise InputError(
            f"trainer.devices: {ranks} processes were expected and Lightning starts {trainer.world_size}: give a number"
        )
    return _Equipment(signals, trainer, ranks, csv, stop, check)


def _prepare(
    recipe: PretrainRecipe,
    out: Path,
    overwrite: bool,
    resume: bool,
    equip: Callable[..., _Equipment],
) -> _Run:
    """Rank 0's part: the run in the folder `out` made or taken up again, and the other ranks told of it."""
    given = replace(with_absolute_paths(recipe), run_id=None)
    if resume or (run_folder.holds_run(out) and (not overwrite or is_restart())):
        held = _with_objects(read_recipe(out / run_folder.RECIPE, PretrainRecipe), recipe)
        if not resume:
            run_folder.check_same(out, given)
            logger.info(f"{out}: holds this run already, which is resumed")
        return _take_up(held, recipe if resume else held, out, equip)
    initial = check_inputs(recipe, out)
    recipe = replace(recipe, run_id=uuid4().hex)
    equipment = equip(recipe)
    with run_folder.claimed(out, overwrite, given) as folder:
        data = prepare_inputs(recipe, folder, initial, ranks=equipment.ranks)
        compiled, device = _compiles(data, equipment), equipment.device
        precision = str(equipment.trainer.precision)
        recipe = select_attention(data.recipe, data.plan, device, precision, compiled[0])
        data = replace(data, recipe=recipe)
        model = None if initial is None else initialize_with(initial, data, device)
        run = _Run(equipment, data, compiled, model=model)
        run_folder.mark_ready(folder, out, recipe, "bert pretrain", run.decided())
    return run if folder == out else replace(run, data=open_data(recipe, out, equipment.ranks))


def _take_up(
    held: PretrainRecipe,
    recipe: PretrainRecipe,
    out: Path,
    equip: Callable[..., _Equipment],
) -> _Run:
    """The run of the recipe `held` goes on by `recipe`. Nothing of it changes before all is checked."""
    recipe = replace(recipe, run_id=held.run_id)
    changed = list(differences(held, recipe))
    for key, before, now in changed:
        if key not in _RESUMABLE and key.split(".")[0] not in _RESUMABLE:
            raise InputError(
                f"{key} is {now} and {out} was started with {before}: a run is resumed as it was; leave it out"
            )
    checkpoint = newest_whole(out / "checkpoints", logger.warning, held.run_id)
    manifest = {} if checkpoint is None else read_manifest(checkpoint)
    _check_budget(recipe, checkpoint)
    equipment = equip(recipe, checkpoint)
    data = prepare_inputs(recipe, out, resume=True, ranks=equipment.ranks)
    check_fingerprint(manifest.get("fingerprint", {}), data.fingerprint)
    run = _Run(equipment, data, _compiles(data, equipment), checkpoint)
    told = {} if checkpoint is None else {"checkpoint": checkpoint.name, "sha256": manifest["sha256"]}
    run_folder.mark_resumed(out, data.recipe, changed, _step_of(checkpoint), run.decided(), told)
    equipment.csv.cut(_step_of(checkpoint))
    if checkpoint is None:
        logger.info(f"{out}: has no checkpoint yet: it begins with its first step, by what is prepared")
    else:
        drop_later(checkpoint)
    return run


def _with_objects(held: PretrainRecipe, given: PretrainRecipe) -> PretrainRecipe:
    """The recipe of a run, with the objects that `given` has for the Trainer: no file holds them."""
    return replace(held, trainer=dict(given.trainer) | held.trainer)


def _follow(given: PretrainRecipe, out: Path, equip: Callable[..., _Equipment]) -> _Run:
    """The other ranks' part: what rank 0 has prepared, and the checkpoint that it has chosen."""
    recipe, told = run_folder.wait_until_ready(out, PretrainRecipe)
    recipe, checkpoint = _with_objects(recipe, given), None
    if "checkpoint" in told:
        checkpoint = out / "checkpoints" / Path(told["checkpoint"]).name
        prove(checkpoint, told["sha256"])
    equipment = equip(recipe, checkpoint)
    data = open_data(recipe, out, equipment.ranks)
    return _Run(equipment, data, _compiles(data, equipment), checkpoint)


def _compiles(data: TrainingData, equipment: _Equipment) -> tuple[bool, str]:
    """Whether the step is compiled, and why."""
    recipe = data.recipe
    return compiles(recipe.compile, equipment.device, recipe.stop.minutes, _flops(recipe, data.plan))


def _train(run: _Run) -> Path:
    """Train a prepared run, on every rank, to its end."""
    data, equipment, checkpoint = run.data, run.equipment, run.checkpoint
    recipe, trainer = data.recipe, equipment.trainer
    if data.message:
        logger.info(data.message)

    torch.manual_seed(recipe.seed)
    compiled, why = run.compiled
    objective = objective_named(recipe.objective, compiled)
    if recipe.initialize_from is None or checkpoint is not None:  # a checkpoint has all weights
        model = objective.build(recipe.encoder, recipe.head)
        if recipe.initialization == "structured":
            counts = torch.from_numpy(data.training.token_counts(_COUNTED))
            structure(model, counts, data.plan.at(0).rope_theta)
    else:
        model = run.model or initialize(recipe, load_initial(recipe), data.tokenizer)[0]
    model.train()
    model.tokenizer = data.tokenizer
    model.encoder.attention = attention_options(recipe, equipment.device, str(trainer.precision))
    module = PretrainingModule(
        model,
        objective,
        recipe.optimizer,
        recipe.schedule,
        recipe.stop,
        recipe.seed,
        data.plan if recipe.phases else None,
        data.fingerprint,
    )
    begun = _step_of(checkpoint)

    def on_first_request() -> None:
        equipment.signals.install()  # Lightning has put its own handlers in their place
        module.progress.start()

    loader = StepLoader(
        data.training,
        objective.counts,
        trainer.global_rank,
        first_step=lambda: int(module.progress.step),
        workers=recipe.data.workers,
        pin_memory=equipment.device.type == "cuda",
        on_first_request=on_first_request,
    )
    validation = data.validation and validation_loader(data.validation, trainer.global_rank)
    logger.info(describe(data, model, trainer.precision))
    logger.info(f"{'compiled' if compiled else 'not compiled'}: {why}")
    with suppress(SIGTERMException), equipment.signals.deferred():
        try:
            trainer.fit(module, loader, validation, ckpt_path=checkpoint and str(checkpoint), weights_only=True)
        except Exception as error:
            if checkpoint is None or module.progress.is_running or isinstance(error, InputError):
                raise
            what = (str(error).splitlines() or [type(error).__name__])[0]  # of PyTorch or Lightning, which restore it
            raise InputError(f"{checkpoint}: is no checkpoint of this run ({what}): move it away") from error
    model.encoder.attention = (
        AttentionOptions()
    )  # what comes now may have another precision, and more documents in a row
    if stopped_by := equipment.stop.stopped_by:
        at = f"at step {module.progress.step} and saved" if module.progress.step else "before the first step"
        message = f"stopped {at}. Go on with: bert pretrain --resume {data.folder}"
        raise InterruptedRun(message if run_folder.is_rank_0() else "", stopped_by)
    if module.progress.step == begun:
        logger.info(f"no step was left to do: the budget was used up at step {begun:,}; --stop.* gives more")
    return finish(module, data, equipment.device, equipment.check)


def _step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))


def _check_budget(recipe: PretrainRecipe, checkpoint: Path | None) -> None:
    """A recipe must not say of a run that it has fewer steps than it has."""
    done, steps = _step_of(checkpoint), recipe.stop.steps
    if steps is not None and steps < done:
        raise InputError(f"--stop.steps {steps}: the run has {done:,} steps behind it: give more, or leave it out")


def initialize_with(initial: InitialModel, data: TrainingData, device: torch.device) -> MaskedLM:
    """The first weights of a run from those of a model, with what both are worth written down."""
    model, lines = initialize(data.recipe, initial, data.tokenizer)
    for line in lines:
        logger.info(line)
    measure_before(initial, model, data, device)
    return model


def _flops(recipe: PretrainRecipe, plan: Plan) -> float | None:
    """FLOPs of a run with a budget in steps or tokens; none where it has neither."""
    left = math.inf if recipe.stop.tokens is None else recipe.stop.tokens
    end = math.inf if recipe.stop.steps is None else recipe.stop.steps
    if left == end == math.inf:
        return None
    flops = 0.0
    for first, next_first, phase in plan.spans():
        steps = max(0, min(end, next_first) - first)
        tokens = min(left, steps * phase.batch_size * phase.sequence_length)
        masked = phase.mask_rate * tokens
        flops += training_flops(recipe.encoder, recipe.head, tokens, masked, visible=phase.sequence_length)
        left -= tokens
    return flops


def finish(
    module: PretrainingModule,
    data: TrainingData,
    device: torch.device,
    check: Callable[[], None],
) -> Path:
    """Write the model folder (rank 0) and say how it went. `check` raises where the folder is no longer that of the run."""
    folder = data.folder / "model"
    if run_folder.is_rank_0():
        model, objective = module.model, module.objective
        validation = objective.describe(module.validation) if module.validation else ""
        made = partial(card_text, data, objective, module.progress, module.validation)
        check()
        objective.export(model, folder, made())
        losses = measure_after(model, data, device) if data.recipe.initialize_from is not None else []
        if losses:  # the card tells of them; without them the model is there all the same
            objective.export(model, folder, made(losses))
        for line in report(losses) if losses else []:
            logger.info(line)
        if (
            validation and not losses
        ):  # one loss of validation text is enough, on sequences that are the same before and after
            logger.info(f"validation: {validation}")
        logger.info(
            f"{module.progress.step:,} steps, {module.progress.tokens / 1e6:.2f} M tokens, {module.progress.seconds / 60:.1f} minutes"
        )
        logger.info(f'model: {folder}   next: bert fill "… [MASK] …" --model {folder}')
    return folder
