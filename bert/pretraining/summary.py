"""What a pretraining run says of itself: before its first step, of a batch, and in the card of its model."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bert.data.tokenizer import Tokenizer
from bert.model.encoder import count_parameters
from bert.model.heads import MaskedLM
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.forgetting import Loss, card_lines
from bert.pretraining.inputs import open_data, text_sources
from bert.pretraining.phases import Phased, plan
from bert.pretraining.stream import BatchStream, Split
from bert.training.card import training_card
from bert.training.schedules import Progress


def describe(
    recipe: PretrainRecipe, model: MaskedLM, training: Phased[BatchStream], precision: str, split: Phased[Split]
) -> str:
    """What is about to run, in a few lines."""
    parameters = count_parameters(model)
    sequences, stop = training.at(0).sequences, recipe.stop
    budget = [f"{value:g} {name}" for name, value in dataclasses.asdict(stop).items() if value is not None]
    lines = [
        f"encoder: {recipe.encoder.num_layers} layers × {recipe.encoder.hidden_size}, {parameters / 1e6:.1f} M parameters, {precision}",
        f"data: {sequences.tokens / 1e6:.2f} M tokens in {sequences.sequences_in_epoch:,} sequences of {sequences.sequence_length} an epoch;"
        f" {split.at(0).describe()}",
        f"budget: {' or '.join(budget)}",
    ]
    begun = 0.0  # tokens that a phase finds spent
    for first, next_first, phase in plan(recipe).spans() if recipe.phases else ():
        inside, dealt = phase.recipe, split.at(first)
        theta = f", rotary θ {inside.encoder.rope_theta:g}" if inside.encoder.positions == "rope" else ""
        late = first >= (stop.steps or math.inf) or begun >= (stop.tokens or math.inf)
        lines.append(
            f"from step {first:,}: sequences of {inside.data.sequence_length}, {dealt.describe()}, masking {inside.masking.rate:.0%}{theta}"
            + (": the budget ends before" if late else "")
        )
        begun += (next_first - first) * inside.data.batch_size * inside.data.sequence_length
    return "\n".join(lines)


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
            f"- from step {first:,}: sequences of {phase.recipe.data.sequence_length}, {phase.recipe.data.batch_size} a step;"
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
    return training_card(
        lines, dataclasses.replace(recipe, run_id=None), "fill-mask", "validation text", names, base=recipe.start
    )


def show_batch(recipe: PretrainRecipe, out: Path, number: int, say: Callable[[str], None] = print) -> None:
    """Print batch `number` of a run: its sequences, with what was masked and what stood there."""
    data = open_data(recipe, out)
    tokenizer, stream = data.tokenizer, data.training.at(number)
    batch = stream.micro_batch(number, Split(stream.batch_size, stream.batch_size))
    first, names = stream.first_sequence_of(number), [source.name for source in text_sources(recipe.data, out)]
    length = f" of {stream.sequences.sequence_length} positions" if recipe.phases else ""
    say(
        f"batch {number}: sequences{length} from {first} ({stream.sequences.locate(first)});"
        f" {batch['global_tokens']} tokens, {batch['global_targets']} targets"
    )
    originals = {int(place): int(label) for place, label in zip(batch["targets"], batch["labels"]) if label >= 0}
    for row, ids in enumerate(batch["input_ids"].tolist()):
        words = [names[stream.sequences.source_of(first + row)] + ":"] if recipe.data.mixture else []
        for column, token in enumerate(ids):
            if batch["document_ids"][row, column] == 0:
                continue
            original = originals.get(row * stream.sequences.sequence_length + column)
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
