"""What a pretraining run says of itself: before its first step, of a batch, and in the card of its model."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import nn

from bert.data.tokenizer import Tokenizer
from bert.model.encoder import count_parameters
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.forgetting import Loss, card_lines
from bert.pretraining.inputs import TrainingData, open_data, text_sources
from bert.pretraining.objective import Objective
from bert.training.card import training_card
from bert.training.schedules import Progress


def describe(data: TrainingData, model: nn.Module, precision: str) -> str:
    """What is about to run, in a few lines."""
    parameters, recipe = count_parameters(model), data.recipe
    sequences, stop = data.training.sequences_at(0), recipe.stop
    budget = [f"{value:g} {name}" for name, value in dataclasses.asdict(stop).items() if value is not None]
    lines = [
        f"encoder: {recipe.encoder.num_layers} layers × {recipe.encoder.hidden_size}, {parameters / 1e6:.1f} M parameters, {precision}",
        f"data: {sequences.tokens / 1e6:.2f} M tokens in {sequences.sequences_in_epoch:,} sequences of"
        f" {sequences.sequence_length} an epoch;"
        f" {data.plan.at(0).describe()}",
        f"budget: {' or '.join(budget)}",
    ]
    begun = 0.0  # tokens that a phase finds spent
    for first, next_first, phase in data.plan.spans() if recipe.phases else ():
        theta = f", rotary θ {phase.rope_theta:g}" if recipe.encoder.positions == "rope" else ""
        late = first >= (stop.steps or math.inf) or begun >= (stop.tokens or math.inf)
        lines.append(
            f"from step {first:,}: sequences of {phase.sequence_length}, {phase.describe()}, masking {phase.mask_rate:.0%}{theta}"
            + (": the budget ends before" if late else "")
        )
        begun += (next_first - first) * phase.batch_size * phase.sequence_length
    return "\n".join(lines)


def card_text(
    data: TrainingData,
    objective: Objective,
    progress: Progress,
    metrics: Mapping[str, float],
    losses: Sequence[Loss] = (),
) -> str:
    """The part of the model card that tells how the model came to be."""
    recipe, total = data.recipe, sum(data.recipe.data.mixture.values())
    texts = [Path(path).name for path in recipe.data.corpus]
    texts += [f"{Path(path).name} {weight / total:.0%}" for path, weight in recipe.data.mixture.items()]
    lines = [
        "## Training",
        f"- text: {', '.join(texts) or 'a token store'}",
        *(
            []
            if recipe.initialize_from is None
            else [f"- from the weights of {'/'.join(Path(recipe.initialize_from).parts[-2:])}"]
        ),
        f"- {progress.step:,} steps, {progress.tokens / 1e6:.2f} M tokens, {progress.seconds / 60:.1f} minutes; seed {recipe.seed}",
        *(
            f"- from step {first:,}: sequences of {phase.sequence_length}, {phase.batch_size} a step;"
            f" masking {phase.mask_rate:.0%}"
            for first, _, phase in data.plan.spans()
            if first < progress.step
        ),
        f"- {recipe.optimizer.kind}, {recipe.schedule.kind} schedule",
    ]
    if metrics and not losses:
        lines += ["", "## Validation text", objective.describe(metrics)]
    if losses:
        lines += card_lines(losses)
    names = {name.removeprefix("val_"): value for name, value in metrics.items()}
    return training_card(
        lines,
        dataclasses.replace(recipe, run_id=None),
        objective.pipeline,
        "validation text",
        names,
        base=recipe.initialize_from,
    )


def show_batch(recipe: PretrainRecipe, out: Path, number: int) -> Iterator[str]:
    """Batch `number` of a run in lines: its sequences, with what was masked and what stood there."""
    data = open_data(recipe, out)
    tokenizer, phase, sequences = data.tokenizer, data.plan.at(number), data.training.sequences_at(number)
    batch, micro_batches = data.training.batch(number), data.training.micro_batches(number)
    first, names = phase.first_sequence_of(number), [source.name for source in text_sources(recipe.data, out)]
    length = f" of {phase.sequence_length} positions" if recipe.phases else ""
    where = f"sequences{length} from {first} ({sequences.locate(first)})"
    yield f"batch {number}: {where}; {batch.tokens} tokens, {batch.masked_tokens} masked"
    number = first
    for micro in micro_batches:
        for ids, chunks, positions, labels in zip(
            micro["input_ids"].tolist(),
            micro["document_ids"],
            micro["masked_positions"].tolist(),
            micro["labels"].tolist(),
        ):
            originals = {position: label for position, label in zip(positions, labels) if label >= 0}
            words = [names[sequences.source_of(number)] + ":"] if recipe.data.mixture else []
            for position in chunks.nonzero().flatten().tolist():
                original = originals.get(position)
                masked = "" if original is None else f"‹{_shown(tokenizer, original)}›"
                words.append(_shown(tokenizer, ids[position]) + masked)
            yield f"{number - first:4d}  {' '.join(words)}"
            number += 1


def _shown(tokenizer: Tokenizer, token_id: int) -> str:
    """A piece for a reader, of byte-level vocabularies too: `##` where no blank stands before it."""
    spelled = None if tokenizer.kind == "wordpiece" else tokenizer.spelling(token_id)
    if spelled is None:
        return tokenizer.token(token_id)
    blank, text = spelled
    return (text or "␣") if blank else f"##{text}"
