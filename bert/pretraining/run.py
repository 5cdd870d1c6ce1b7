"""`bert pretrain`: tokenizer → token store → batches → training → model folder, as one page of plain calls.

What a run makes lies in its folder: recipe.yaml (all fields; run it again and the same run happens), tokenizer/, store/ (where none was
given), checkpoints/, metrics.csv, environment.json, model/ (the result).
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bert.errors import InputError, InterruptedRun
from bert.model.encoder import count_parameters
from bert.model.heads import MaskedLM
from bert.model.operations import training_operations
from bert.model.structure import structure
from bert.pretraining.backend import settle_attention
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.forgetting import Loss, card_lines, measure_after, measure_before, report
from bert.pretraining.inputs import (
    check_inputs,
    identity,
    make_splits,
    make_streams,
    open_stores,
    prepare_inputs,
    text_sources,
    tokenizer_folder,
    validation_loader,
)
from bert.pretraining.module import LOG_COLUMNS, MaskedLMTraining
from bert.pretraining.phases import Phased, plan
from bert.pretraining.start import Start, begin, load_start
from bert.pretraining.stream import BatchStream, Split, StepLoader
from bert.text.store import TokenStore
from bert.text.tokenizer import Tokenizer
from bert.training import folder as run_folder
from bert.training.callbacks import TIME_COLUMNS, MetricsCsv, ProgressBar, StepLog, StopOnSignal
from bert.training.card import training_card
from bert.training.checkpoints import Checkpoints, WholeCheckpointIO, drop_behind, newest_whole
from bert.training.compiling import compiles
from bert.training.ranks import world_size
from bert.training.schedules import Progress
from bert.training.trainer import check_trainer_arguments, make_trainer

_COUNTED = 4_000_000
"""places whose tokens are counted for the first output bias, which takes less than a tenth of a second"""


def pretrain(
    recipe: PretrainRecipe,
    out: str | Path,
    overwrite: bool = False,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Run `recipe` in the folder `out`; returns the model folder.

    A folder that holds a run is refused, unless told to lose that run (`overwrite`) or to go on with it from its newest
    checkpoint (`resume`: then `recipe` is that of the run, but for budget, log, checkpoints and trainer). `say` is told what
    happens.

    Raises InputError for what the user can mend, `bert.errors.InterruptedRun` where a signal ended the run (it is saved).
    """
    out = run_folder.named(Path(out))
    check_trainer_arguments(recipe.trainer)
    ranks = world_size(recipe.trainer)
    split = make_splits(recipe, ranks)
    csv = MetricsCsv(out / "metrics.csv", [*LOG_COLUMNS, *TIME_COLUMNS])
    validate_every = recipe.validation.every_steps if recipe.data.held_out else None
    log, stop = StepLog(recipe.log.every_steps), StopOnSignal(validate_every)
    callbacks = [log, stop, Checkpoints(out / "checkpoints", recipe.checkpoint, validate_every)]
    if recipe.log.progress_bar:
        callbacks.append(ProgressBar(log))
    trainer = make_trainer(  # before anything is written: it refuses what this machine cannot do
        recipe.trainer,
        callbacks,
        loggers=[csv, *run_folder.extra_loggers(recipe.log, out)],
        plugins=[WholeCheckpointIO()],
        accumulation=split.at(0).accumulation,  # the module follows the phases from there
        validate_every_batches=validate_every and validate_every * split.at(0).accumulation,
    )
    if trainer.world_size != ranks:
        raise InputError(
            f"trainer.devices: {ranks} processes were expected and Lightning starts {trainer.world_size}: give a number"
        )
    if run_folder.is_rank_0():
        # a run goes on with the tokenizer and the store that it has
        start = None if resume else check_inputs(recipe, out)
        with run_folder.claimed(out, overwrite, resume):
            checkpoint = newest_whole(out / "checkpoints", warn=_warn) if resume else None
            _check_budget(recipe, checkpoint)
            recipe = prepare_inputs(recipe, out, say, start)
            if not resume:  # a run goes on with the attention that it has
                device = trainer.strategy.root_device
                compiled, _ = compiles(recipe.compile, device, recipe.stop.minutes, _operations(recipe))
                recipe = settle_attention(recipe, split, device, str(trainer.precision), compiled, say)
            if start is not None:
                model = begin_with(start, recipe, out, trainer.strategy.root_device, say)
            run_folder.mark_ready(out, recipe, command="bert pretrain")
    else:
        say = _silent
        recipe = run_folder.wait_until_ready(out, PretrainRecipe)
        checkpoint = newest_whole(out / "checkpoints", warn=say) if resume else None
    tokenizer = Tokenizer.load(tokenizer_folder(out))
    stores = open_stores(recipe, out, tokenizer)
    training, validation, message = make_streams(recipe, stores, tokenizer)
    if message:
        say(message)

    torch.manual_seed(recipe.seed)
    if recipe.start is None or resume:  # a resumed run has its weights in the checkpoint
        model = MaskedLM(recipe.encoder, recipe.head)
        if recipe.initialization == "structured":
            theta = plan(recipe).at(0).recipe.encoder.rope_theta  # that of the first phase, where there are phases
            structure(model, torch.from_numpy(training.at(0).token_counts(_COUNTED)), theta)
    elif not run_folder.is_rank_0():
        model, _ = begin(recipe, load_start(recipe), tokenizer)
    model.train()
    model.tokenizer = tokenizer
    model.encoder.backend, model.encoder.local_backend = recipe.attention, recipe.local_attention
    compiled, why = compiles(recipe.compile, trainer.strategy.root_device, recipe.stop.minutes, _operations(recipe))
    module = MaskedLMTraining(
        model, recipe.optimizer, recipe.schedule, recipe.stop, split, recipe.seed, identity(stores, tokenizer), compiled
    )
    if recipe.phases:
        module.rope_theta = plan(recipe).map(lambda phase: phase.recipe.encoder.rope_theta)
    begun = _step_of(checkpoint)
    if checkpoint and run_folder.is_rank_0():
        csv.cut(begun)
        drop_behind(checkpoint)

    loader = StepLoader(
        training,
        split,
        trainer.global_rank,
        first_step=lambda: int(module.progress.step),
        workers=recipe.data.workers,
        pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
        on_first_request=module.progress.start,
    )
    held_out = None if validation is None else validation_loader(validation, split.values[-1], trainer.global_rank)
    say(describe(recipe, model, training, trainer.precision, split))
    say(f"{'compiled' if compiled else 'not compiled'}: {why}")
    trainer.fit(module, loader, held_out, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=True)
    encoder = model.encoder  # what comes now may have another precision, and more documents in a row
    encoder.backend, encoder.local_backend, encoder.most_documents = "auto", None, None
    if stop.stopped_by:
        message = f"stopped at step {module.progress.step} and saved. Go on with: bert pretrain --resume {out}"
        raise InterruptedRun(message if run_folder.is_rank_0() else "", stop.stopped_by)
    if module.progress.step == begun:
        say(f"no step was left to do: the budget was used up at step {begun:,}; --stop.* gives more")
    return finish(module, recipe, out, stores, trainer.strategy.root_device, say)


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


def describe(
    recipe: PretrainRecipe,
    model: MaskedLM,
    training: Phased[BatchStream],
    precision: str,
    split: Phased[Split],
) -> str:
    """What is about to run, in a few lines."""
    parameters = count_parameters(model)
    rows, stop = training.at(0).rows, recipe.stop
    budget = [f"{value:g} {name}" for name, value in dataclasses.asdict(stop).items() if value is not None]
    lines = [
        f"encoder: {recipe.encoder.num_layers} layers × {recipe.encoder.hidden_size}, {parameters / 1e6:.1f} M parameters, {precision}",
        f"data: {rows.tokens / 1e6:.2f} M tokens in {rows.rows_in_epoch:,} rows of {rows.row_length} an epoch;"
        f" {split.at(0).describe()}",
        f"budget: {' or '.join(budget)}",
    ]
    begun = 0.0  # tokens that a phase finds spent
    for first, next_first, phase in plan(recipe).spans() if recipe.phases else ():
        inside, dealt = phase.recipe, split.at(first)
        theta = f", rotary θ {inside.encoder.rope_theta:g}" if inside.encoder.positions == "rope" else ""
        late = first >= (stop.steps or math.inf) or begun >= (stop.tokens or math.inf)
        lines.append(
            f"from step {first:,}: rows of {inside.data.row_length}, {dealt.describe()}, masking {inside.masking.rate:.0%}{theta}"
            + (": the budget ends before" if late else "")
        )
        begun += (next_first - first) * inside.data.batch_rows * inside.data.row_length
    return "\n".join(lines)


def finish(
    module: MaskedLMTraining,
    recipe: PretrainRecipe,
    out: Path,
    stores: Sequence[TokenStore],
    device: torch.device,
    say: Callable[[str], None],
) -> Path:
    """Write the model folder (rank 0) and say how it went."""
    folder = out / "model"
    if run_folder.is_rank_0():
        figures, model = module.validation, module.model
        assert model.tokenizer is not None
        losses = measure_after(model, recipe, out, stores, model.tokenizer, device)
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


def card_text(
    recipe: PretrainRecipe, progress: Progress, figures: Mapping[str, float], losses: Sequence[Loss] = ()
) -> str:
    """The part of the model card that tells how the model came to be."""
    data, total = recipe.data, sum(recipe.data.mixture.values())
    texts = [Path(path).name for path in data.corpus]
    texts += [f"{Path(path).name} {weight / total:.0%}" for path, weight in data.mixture.items()]
    lines = [
        "## Training",
        f"- text: {', '.join(texts) or 'a token store'}",
        *([] if recipe.start is None else [f"- from the weights of {'/'.join(Path(recipe.start).parts[-2:])}"]),
        f"- {progress.step:,} steps, {progress.tokens / 1e6:.2f} M tokens, {progress.seconds / 60:.1f} minutes; seed {recipe.seed}",
        *(
            f"- from step {first:,}: rows of {phase.recipe.data.row_length}, {phase.recipe.data.batch_rows} a step;"
            f" masking {phase.recipe.masking.rate:.0%}"
            for first, _, phase in plan(recipe).spans()
            if first < progress.step
        ),
        f"- {recipe.optimizer.kind}, {recipe.schedule.kind} schedule",
    ]
    if figures and not losses:
        lines += [
            "",
            "## Held-out text",
            f"loss {figures['val_loss']:.3f} nats, accuracy {figures['val_accuracy']:.1%}, perplexity {figures['val_perplexity']:.1f}",
        ]
    lines += card_lines(losses)
    names = {name.removeprefix("val_"): value for name, value in figures.items()}
    return training_card(lines, recipe, "fill-mask", "held-out text", names, base=recipe.start)


def show_batch(recipe: PretrainRecipe, out: Path, number: int, say: Callable[[str], None] = print) -> None:
    """Print batch `number` of a run: its rows, with what was masked and what stood there."""
    tokenizer = Tokenizer.load(tokenizer_folder(out))
    stream = make_streams(recipe, open_stores(recipe, out, tokenizer), tokenizer)[0].at(number)
    batch = stream.micro_batch(number, Split(stream.batch_rows, stream.batch_rows))
    first, names = stream.first_row_of(number), [source.name for source in text_sources(recipe.data, out)]
    length = f" of {stream.rows.row_length} places" if recipe.phases else ""
    say(
        f"batch {number}: rows{length} from {first} ({stream.rows.locate(first)});"
        f" {batch['global_tokens']} tokens, {batch['global_targets']} targets"
    )
    originals = {int(place): int(label) for place, label in zip(batch["targets"], batch["labels"]) if label >= 0}
    for row, ids in enumerate(batch["input_ids"].tolist()):
        words = [names[stream.rows.source_of(first + row)] + ":"] if recipe.data.mixture else []
        for column, token in enumerate(ids):
            if batch["document_ids"][row, column] == 0:
                continue
            original = originals.get(row * stream.rows.row_length + column)
            words.append(
                _shown(tokenizer, token) + (f"‹{_shown(tokenizer, original)}›" if original is not None else "")
            )
        say(f"{row:4d}  {' '.join(words)}")


def _shown(tokenizer: Tokenizer, token_id: int) -> str:
    """A piece for a reader, of byte-level vocabularies too: `##` where no blank stands before it."""
    spelled = None if tokenizer.kind == "wordpiece" else tokenizer.spelling(token_id)
    if spelled is None:
        return tokenizer.token(token_id)
    blank, text = spelled
    return (text or "␣") if blank else f"##{text}"


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _silent(message: str) -> None:
    """Ranks other than 0 say nothing."""
