"""What a pretraining run reports: before its first step, for a batch, and in the card of its model."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
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
    parameters, recipe = count_parameters(model) / 1e6, data.recipe
    encoder, stop, sequences = recipe.encoder, recipe.stop, data.training.sequences_at(0)
    budget = [f"{value:g} {name}" for name, value in dataclasses.asdict(stop).items() if value is not None]
    lines = [
        f"encoder: {encoder.num_layers} layers × {encoder.hidden_size}, {parameters:.1f} M parameters, {precision}",
        f"data: {sequences.tokens / 1e6:.2f} M tokens in {sequences.sequences_in_epoch:,} sequences of"
        f" {sequences.sequence_length} per epoch; {data.plan.at(0).describe()}",
        f"budget: {' or '.join(budget)}",
    ]
    used = 0.0  # tokens before a phase
    for first, next_first, phase in data.plan.spans() if recipe.phases else ():
        theta = f", rotary θ {phase.rope_theta:g}" if encoder.positions == "rope" else ""
        late = first >= (stop.steps or math.inf) or used >= (stop.tokens or math.inf)
        lines.append(
            f"from step {first:,}: sequences of {phase.sequence_length}, {phase.describe()}, masking {phase.mask_rate:.0%}{theta}"
            + (": the budget ends before" if late else "")
        )
        used += (next_first - first) * phase.batch_size * phase.sequence_length
    return "\n".join(lines)


def card_text(
    data: TrainingData, objective: Objective, progress: Progress, metrics: dict[str, float], losses: Sequence[Loss] = ()
) -> str:
    """The part of the model card about training."""
    recipe, total = data.recipe, sum(data.recipe.data.mixture.values())
    texts = [Path(path).name for path in recipe.data.corpus]
    texts += [f"{Path(path).name} {weight / total:.0%}" for path, weight in recipe.data.mixture.items()]
    lines = ["## Training", f"- text: {', '.join(texts) or 'a token store'}"]
    if recipe.initialize_from is not None:
        lines.append(f"- from the weights of {'/'.join(Path(recipe.initialize_from).parts[-2:])}")
    lines.append(f"- {progress.describe()}; seed {recipe.seed}")
    lines += [
        f"- from step {first:,}: sequences of {phase.sequence_length}, {phase.batch_size} per step; masking {phase.mask_rate:.0%}"
        for first, _, phase in data.plan.spans()
        if first < progress.step
    ]
    lines.append(f"- {recipe.optimizer.kind}, {recipe.schedule.kind} schedule")
    if losses:
        lines += card_lines(losses)
    elif metrics:
        lines += ["", "## Validation text", objective.describe(metrics)]
    names = {name.removeprefix("val_"): value for name, value in metrics.items()}
    shown, base = dataclasses.replace(recipe, run_id=None), recipe.initialize_from
    return training_card(lines, shown, objective.pipeline, "validation text", names, base)


def show_batch(recipe: PretrainRecipe, out: Path, step: int) -> Iterator[str]:
    """Batch number `step` of a run, as lines: its sequences, with the masked tokens and the original ones."""
    data = open_data(recipe, out)
    phase, sequences, batch = data.plan.at(step), data.training.sequences_at(step), data.training.batch(step)
    first, names = phase.first_sequence_of(step), [source.name for source in text_sources(recipe.data, out)]
    length = f" of {phase.sequence_length} positions" if recipe.phases else ""
    where = f"sequences{length} from {first} ({sequences.locate(first)})"
    yield f"batch {step}: {where}; {batch.tokens} tokens, {batch.masked_tokens} masked"
    number = 0
    for micro in data.training.micro_batches(step):
        ids_and_positions = zip(micro["input_ids"].tolist(), micro["document_ids"], micro["masked_positions"].tolist())
        for (ids, chunks, positions), labels in zip(ids_and_positions, micro["labels"].tolist()):
            originals = {position: label for position, label in zip(positions, labels) if label >= 0}
            words = [names[sequences.source_of(first + number)] + ":"] if recipe.data.mixture else []
            for position in chunks.nonzero().flatten().tolist():
                original = originals.get(position)
                masked = "" if original is None else f"‹{_shown(data.tokenizer, original)}›"
                words.append(_shown(data.tokenizer, ids[position]) + masked)
            yield f"{number:4d}  {' '.join(words)}"
            number += 1


def _shown(tokenizer: Tokenizer, token_id: int) -> str:
    """A token for a reader, also of a byte-level vocabulary: `##` if there is no space before it."""
    spelled = None if tokenizer.kind == "wordpiece" else tokenizer.spelling(token_id)
    if spelled is None:
        return tokenizer.token(token_id)
    space, text = spelled
    return (text or "␣") if space else f"##{text}"
