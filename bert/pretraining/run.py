"""`bert pretrain`: tokenizer → token store → batches → training → model folder, as one page of plain calls.

What a run makes lies in its folder: given.yaml (what was asked for), recipe.yaml (all fields; run it again and the same run happens),
tokenizer/, store/ (where none was given), checkpoints/, metrics.csv, environment.json, model/ (the result).
"""

import math
import sys
from collections.abc import Callable, Sequence
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
from bert.model.heads import MaskedLM
from bert.model.operations import training_operations
from bert.model.structure import structure
from bert.pretraining.backend import settle_attention
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.forgetting import measure_after, measure_before, report
from bert.pretraining.inputs import (
    check_inputs,
    identity,
    make_splits,
    make_streams,
    open_stores,
    prepare_inputs,
    tokenizer_folder,
    validation_loader,
    with_absolute_paths,
)
from bert.pretraining.module import LOG_COLUMNS, MaskedLMTraining, check_identity
from bert.pretraining.phases import Phased, plan
from bert.pretraining.start import Start, begin, load_start
from bert.pretraining.stream import Split, StepLoader
from bert.pretraining.summary import card_text, describe
from bert.recipe import differences, read_recipe
from bert.signals import Signals, handled, number_of
from bert.text.store import TokenStore
from bert.text.tokenizer import Tokenizer
from bert.training import folder as run_folder
from bert.training.callbacks import TIME_COLUMNS, MetricsCsv, ProgressBar, StepLog, StopOnSignal
from bert.training.checkpoints import Checkpoints, WholeCheckpointIO, drop_behind, newest_whole, prove, read_manifest
from bert.training.compiling import compiles
from bert.training.ranks import is_restart, world_size
from bert.training.trainer import check_trainer_arguments, make_trainer

_COUNTED = 4_000_000
"""places whose tokens are counted for the first output bias, which takes less than a tenth of a second"""


_RESUMABLE = (
    "trainer",
    "stop",
    "checkpoint",
    "log",
    "optimizer.lr",
    "optimizer.muon_lr",
    "attention",
    "local_attention",
    "compile",
)
"""groups and fields that may change when a run is resumed"""


def pretrain(
    recipe: PretrainRecipe,
    out: str | Path,
    overwrite: bool = False,
    resume: bool = False,
    say: Callable[[str], None] = print,
    trust: bool = False,
) -> Path:
    """Run `recipe` in the folder `out`; returns the model folder.

    A folder that holds the run of this very recipe is resumed from its newest checkpoint, or from the first step where it has none
    yet. One that holds another run is refused, unless told to lose that run (`overwrite`) or to resume it (`resume`: then `recipe`
    is that of the run, but for budget, log, checkpoints, trainer, learning rates, attention and compile). `say` is told what happens.
    `trust` imports any class that the recipe describes for the Trainer.

    Raises InputError for what the user can fix, `bert.errors.InterruptedRun` where a signal ended the run.
    """
    out = run_folder.named(Path(out))
    if resume and not (out / run_folder.RECIPE).exists():
        raise InputError(f"{out}: no run to resume here: it has no recipe.yaml")
    check_trainer_arguments(recipe.trainer, trust=trust)
    first = run_folder.is_rank_0()
    with handled() as signals:
        try:
            if first:
                with run_folder.owned(out) as check:
                    equip = partial(_equip, out=out, signals=signals, trust=trust, check=check)
                    return _train(_prepare(recipe, out, overwrite, resume, equip, say), say)
            return _train(_follow(recipe, out, partial(_equip, out=out, signals=signals, trust=trust)), _silent)
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
class _Run:
    """A run that is prepared, and what trains it."""

    recipe: PretrainRecipe
    out: Path
    signals: Signals
    trainer: L.Trainer
    split: Phased[Split]
    csv: MetricsCsv
    stop: StopOnSignal
    check: Callable[[], None]
    """raises where the folder is no longer that of the run"""
    checkpoint: Path | None = None
    """the one that it goes on from"""
    model: MaskedLM | None = None
    """its first weights, where they are made already"""


def _equip(
    recipe: PretrainRecipe,
    checkpoint: Path | None = None,
    *,
    out: Path,
    signals: Signals,
    trust: bool,
    check: Callable[[], None] = lambda: None,
) -> _Run:
    """What trains a run, before anything is written: InputError for what this machine cannot do."""
    ranks = world_size(recipe.trainer)
    split = make_splits(recipe, ranks)
    csv = MetricsCsv(out / "metrics.csv", [*LOG_COLUMNS, *TIME_COLUMNS])
    validate_every = recipe.validation.every_steps if recipe.data.held_out else None
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
        accumulation=split.at(0).accumulation,  # the module follows the phases from there
        validate_every_batches=validate_every and validate_every * split.at(0).accumulation,
        trust=trust,
        run_dir=out,
    )
    if trainer.world_size != ranks:
        raise InputError(
            f"trainer.devices: {ranks} processes were expected and Lightning starts {trainer.world_size}: give a number"
        )
    return _Run(recipe, out, signals, trainer, split, csv, stop, check, checkpoint)


def _prepare(
    recipe: PretrainRecipe,
    out: Path,
    overwrite: bool,
    resume: bool,
    equip: Callable[..., _Run],
    say: Callable[[str], None],
) -> _Run:
    """Rank 0's part: the run in the folder `out` made or taken up again, and the other ranks told of it."""
    given = replace(with_absolute_paths(recipe), run_id=None)
    if resume or (run_folder.holds_run(out) and (not overwrite or is_restart())):
        held = _with_objects(read_recipe(out / run_folder.RECIPE, PretrainRecipe), recipe)
        if not resume:
            run_folder.check_same(out, given)
            say(f"{out}: holds this run already, which is resumed")
        return _take_up(held, recipe if resume else held, out, equip, say)
    start = check_inputs(recipe, out)
    recipe = replace(recipe, run_id=uuid4().hex)
    run = equip(recipe)
    device = run.trainer.strategy.root_device
    with run_folder.claimed(out, overwrite, given) as folder:

        def heard(line: str) -> None:
            say(line.replace(str(folder), str(out)))

        recipe = prepare_inputs(recipe, folder, heard, start)
        compiled, _ = compiles(recipe.compile, device, recipe.stop.minutes, _operations(recipe))
        recipe = settle_attention(recipe, run.split, device, str(run.trainer.precision), compiled, heard)
        model = None if start is None else begin_with(start, recipe, folder, device, heard)
        run = replace(run, recipe=recipe, model=model)
        run_folder.mark_ready(folder, out, recipe, "bert pretrain", _decided(run))
    return run


def _take_up(
    held: PretrainRecipe,
    recipe: PretrainRecipe,
    out: Path,
    equip: Callable[..., _Run],
    say: Callable[[str], None],
) -> _Run:
    """The run of the recipe `held` goes on by `recipe`. Nothing of it changes before all is checked."""
    recipe = replace(recipe, run_id=held.run_id)
    changed = list(differences(held, recipe))
    for key, before, now in changed:
        if key not in _RESUMABLE and key.split(".")[0] not in _RESUMABLE:
            raise InputError(
                f"{key} is {now} and {out} was started with {before}: a run is resumed as it was; leave it out"
            )
    checkpoint = newest_whole(out / "checkpoints", _warn, held.run_id)
    manifest = {} if checkpoint is None else read_manifest(checkpoint)
    _check_budget(recipe, checkpoint)
    run = equip(recipe, checkpoint)
    recipe = prepare_inputs(recipe, out, say, resume=True)
    tokenizer = Tokenizer.load(tokenizer_folder(out))
    check_identity(manifest.get("identity", {}), identity(open_stores(recipe, out, tokenizer), tokenizer))
    run = replace(run, recipe=recipe)
    told = {} if checkpoint is None else {"checkpoint": checkpoint.name, "sha256": manifest["sha256"]}
    run_folder.mark_resumed(out, recipe, changed, _step_of(checkpoint), _decided(run), told)
    run.csv.cut(_step_of(checkpoint))
    if checkpoint is None:
        say(f"{out}: has no checkpoint yet: it begins with its first step, by what is prepared")
    else:
        drop_behind(checkpoint)
    return run


def _with_objects(held: PretrainRecipe, given: PretrainRecipe) -> PretrainRecipe:
    """The recipe of a run, with the objects that `given` has for the Trainer: no file holds them."""
    return replace(held, trainer=dict(given.trainer) | held.trainer)


def _follow(given: PretrainRecipe, out: Path, equip: Callable[..., _Run]) -> _Run:
    """The other ranks' part: what rank 0 has prepared, and the checkpoint that it has chosen."""
    recipe, told = run_folder.wait_until_ready(out, PretrainRecipe)
    recipe = _with_objects(recipe, given)
    if "checkpoint" not in told:
        return equip(recipe)
    checkpoint = out / "checkpoints" / Path(told["checkpoint"]).name
    prove(checkpoint, told["sha256"])
    return equip(recipe, checkpoint)


def _decided(run: _Run) -> dict[str, Any]:
    """What is decided anew on each machine and changes what a run computes."""
    recipe, device = run.recipe, run.trainer.strategy.root_device
    compiled, _ = compiles(recipe.compile, device, recipe.stop.minutes, _operations(recipe))
    attention = {"attention": recipe.attention, "local_attention": recipe.local_attention}
    return {"device": device.type, "precision": str(run.trainer.precision), "compiled": compiled, **attention}


def _train(run: _Run, say: Callable[[str], None]) -> Path:
    """Train a prepared run, on every rank, to its end."""
    recipe, out, trainer, checkpoint = run.recipe, run.out, run.trainer, run.checkpoint
    tokenizer = Tokenizer.load(tokenizer_folder(out))
    stores = open_stores(recipe, out, tokenizer)
    training, validation, message = make_streams(recipe, stores, tokenizer)
    if message:
        say(message)

    torch.manual_seed(recipe.seed)
    if recipe.start is None or checkpoint is not None:  # a checkpoint has all weights
        model = MaskedLM(recipe.encoder, recipe.head)
        if recipe.initialization == "structured":
            theta = plan(recipe).at(0).recipe.encoder.rope_theta  # that of the first phase, where there are phases
            structure(model, torch.from_numpy(training.at(0).token_counts(_COUNTED)), theta)
    else:
        model = run.model or begin(recipe, load_start(recipe), tokenizer)[0]
    model.train()
    model.tokenizer = tokenizer
    model.encoder.backend, model.encoder.local_backend = recipe.attention, recipe.local_attention
    compiled, why = compiles(recipe.compile, trainer.strategy.root_device, recipe.stop.minutes, _operations(recipe))
    module = MaskedLMTraining(
        model,
        recipe.optimizer,
        recipe.schedule,
        recipe.stop,
        run.split,
        recipe.seed,
        identity(stores, tokenizer),
        compiled,
    )
    if recipe.phases:
        module.rope_theta = plan(recipe).map(lambda phase: phase.recipe.encoder.rope_theta)
    begun = _step_of(checkpoint)

    def on_first_request() -> None:
        run.signals.install()  # Lightning has put its own handlers in their place
        module.progress.start()

    loader = StepLoader(
        training,
        run.split,
        trainer.global_rank,
        first_step=lambda: int(module.progress.step),
        workers=recipe.data.workers,
        pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
        on_first_request=on_first_request,
    )
    held_out = None if validation is None else validation_loader(validation, run.split.values[-1], trainer.global_rank)
    say(describe(recipe, model, training, trainer.precision, run.split))
    say(f"{'compiled' if compiled else 'not compiled'}: {why}")
    with suppress(SIGTERMException), run.signals.deferred():
        trainer.fit(
            module, loader, held_out, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=True
        )
    encoder = model.encoder  # what comes now may have another precision, and more documents in a row
    encoder.backend, encoder.local_backend, encoder.most_documents = "auto", None, None
    if stopped_by := run.stop.stopped_by:
        at = f"at step {module.progress.step} and saved" if module.progress.step else "before the first step"
        message = f"stopped {at}. Go on with: bert pretrain --resume {out}"
        raise InterruptedRun(message if run_folder.is_rank_0() else "", stopped_by)
    if module.progress.step == begun:
        say(f"no step was left to do: the budget was used up at step {begun:,}; --stop.* gives more")
    return finish(module, recipe, out, stores, trainer.strategy.root_device, say, run.check)


def _step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))


def _check_budget(recipe: PretrainRecipe, checkpoint: Path | None) -> None:
    """A recipe must not say of a run that it has fewer steps than it has."""
    done, steps = _step_of(checkpoint), recipe.stop.steps
    if steps is not None and steps < done:
        raise InputError(f"--stop.steps {steps}: the run has {done:,} steps behind it: give more, or leave it out")


def begin_with(
    start: Start, recipe: PretrainRecipe, out: Path, device: torch.device, say: Callable[[str], None]
) -> MaskedLM:
    """The first weights of a run from those of a model, with what both are worth written down."""
    tokenizer = Tokenizer.load(tokenizer_folder(out))
    stores = open_stores(recipe, out, tokenizer)
    model, lines = begin(recipe, start, tokenizer)
    for line in lines:
        say(line)
    measure_before(start, model, recipe, out, stores, tokenizer, device, say)
    return model


def _operations(recipe: PretrainRecipe) -> float | None:
    """Floating-point operations of a run with a budget in steps or tokens; none where it has neither."""
    left = math.inf if recipe.stop.tokens is None else recipe.stop.tokens
    end = math.inf if recipe.stop.steps is None else recipe.stop.steps
    if left == end == math.inf:
        return None
    operations = 0.0
    for first, next_first, phase in plan(recipe).spans():
        data, rate = phase.recipe.data, phase.recipe.masking.rate
        steps = max(0, min(end, next_first) - first)
        tokens = min(left, steps * data.batch_rows * data.row_length)
        operations += training_operations(recipe.encoder, recipe.head, tokens, rate * tokens, visible=data.row_length)
        left -= tokens
    return operations


def finish(
    module: MaskedLMTraining,
    recipe: PretrainRecipe,
    out: Path,
    stores: Sequence[TokenStore],
    device: torch.device,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> Path:
    """Write the model folder (rank 0) and say how it went. `check` raises where `out` is no longer that of the run."""
    folder = out / "model"
    if run_folder.is_rank_0():
        figures, model = module.validation, module.model
        assert model.tokenizer is not None
        check()
        model.save(folder, card=card_text(recipe, module.progress, figures))
        losses = measure_after(model, recipe, out, stores, model.tokenizer, device)
        if losses:  # the card tells of them; without them the model is there all the same
            model.save(folder, card=card_text(recipe, module.progress, figures, losses))
        for line in report(losses) if losses else []:
            say(line)
        if figures and not losses:  # one figure of held-out text is enough, on rows that are the same before and after
            say(
                f"held out: loss {figures['val_loss']:.3f}, accuracy {figures['val_accuracy']:.1%},"
                f" perplexity {figures['val_perplexity']:.1f}"
            )
        say(
            f"{module.progress.step:,} steps, {module.progress.tokens / 1e6:.2f} M tokens, {module.progress.seconds / 60:.1f} minutes"
        )
        say(f'model: {folder}   next: bert fill "… [MASK] …" --model {folder}')
    return folder


def _silent(message: str) -> None:
    """Ranks other than 0 say nothing."""


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
