"""What a pretraining run reports: before its first step, what looks wrong, for a batch, and in the card of its model."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import entropy
from torch import nn

from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.hf.card import training_card
from bert.model.encoder import count_parameters
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.forgetting import Loss, card_lines
from bert.pretraining.inputs import TrainingData, open_data, text_sources
from bert.pretraining.objective import Objective
from bert.recipe import read_recipe
from bert.training.doctor import NOT_SEEN, Expected, Finding, of_curve, read_curve
from bert.training.folder import RECIPE
from bert.training.schedules import Progress

_READ = 1 << 17  # positions
_HIGHER = 0.5  # nats above a uniform prediction; at 30 times the learning rate: 1.9
_RUN, _MOST_REPEATED = 13, 0.3  # tokens; share of their runs: Wikipedia 0.2 %, single phrases of reviews 7 %
_MOST_OF_ONE = 0.6  # share of the most frequent token; good text: 4 to 23 %
_LETTERS = 1.3  # characters of a token; English: 3.2
_WORD = (3, 15)  # tokens of a word; English: 1.3, and DNA is a single long word
_MOST_SPECIAL, _MOST_UNKNOWN, _FEWEST_MASKED = 1e-3, 0.05, 0.03  # shares of all tokens


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


def expected(data: TrainingData) -> Expected:
    """The loss of a masked-LM that knows only how often each token occurs, and the most that a healthy training begins with."""
    rates = "optimizer.lr" if data.recipe.optimizer.kind == "adamw" else "optimizer.lr and optimizer.muon_lr"
    highest = math.log(data.tokenizer.vocab_size) + _HIGHER
    return Expected(float(entropy(data.counts)), highest, rates, (5e-5, 5e-3), is_early=True)


def doubts(data: TrainingData) -> Iterator[Finding]:
    """What looks wrong in the text, its tokens and its masks, seen in a sample of the first epoch."""
    stream, tokenizer, counts = data.training, data.tokenizer, data.counts
    sequences, total = stream.sequences_at(0), int(counts.sum())
    number = min(max(1, _READ // sequences.sequence_length), sequences.sequences_in_epoch)
    rows, documents = sequences.read(0, number, stream.special_ids)
    ids = rows[documents > 0]
    yield from _special_tokens(ids, int(documents.max(1).sum()), tokenizer)
    if (share := counts.max() / total) > _MOST_OF_ONE:
        what = f"{share:.0%} of the text is the token {tokenizer.token(int(counts.argmax()))!r}"
        yield Finding("constant text", f"{what}: there is little to learn; see --show-batch 0, and give other text")
    elif (share := _repeated(ids, tokenizer.cls_id)) > _MOST_REPEATED:
        what = f"{share:.0%} of the runs of {_RUN} tokens stand in the text before, and so in the validation split"
        yield Finding("duplicated text", f"{what}: remove repeated lines, or run bert prepare --dedup near")
    words = total / max(1, counts[tokenizer.word_starts].sum())
    spelled = ((count, tokenizer.spelling(token)) for token, count in enumerate(counts.tolist()))
    if sum(count * len(one[1]) for count, one in spelled if one) < _LETTERS * total and _WORD[0] < words < _WORD[1]:
        what = f"a word has {words:.1f} tokens: the vocabulary consists of single letters"
        yield Finding("vocabulary of letters", f"{what}; leave out data.tokenizer, or give vocabulary.size 8192")
    batch = stream.batch(0)
    if (share := batch.masked_tokens / max(1, batch.tokens)) < _FEWEST_MASKED:
        text = f"{share:.1%} of the tokens are masked, and only these are learned from: give masking.rate 0.15 to 0.4"
        yield Finding("almost nothing masked", text)


def _special_tokens(ids: np.ndarray, chunks: int, tokenizer: Tokenizer) -> Iterator[Finding]:
    """Special tokens in the text, besides [CLS] and [SEP] of each of its chunks: as ids, or spelled out."""
    special = np.bincount(ids, minlength=tokenizer.vocab_size)
    special[[tokenizer.cls_id, tokenizer.sep_id]] -= chunks
    if (share := special[tokenizer.unk_id] / len(ids)) > _MOST_UNKNOWN:
        what = f"{share:.0%} of the tokens are [UNK], which are never learned"
        yield Finding("unknown tokens", f"{what}: leave out data.tokenizer, and one is trained on this text")
    for token in (one for one in tokenizer.special_ids if one != tokenizer.unk_id):
        spelled, _ = tokenizer.encode_documents([name := tokenizer.token(token)])
        is_there = (_windows(ids, len(spelled)) == spelled).all(1) if len(spelled) > 1 else np.zeros(1)
        if (count := int(special[token] + is_there.sum())) > _MOST_SPECIAL * len(ids):
            what = f"the text holds {name} {count:,} times in {len(ids):,} tokens"
            yield Finding("special tokens in text", f"{what}: give plain text; a run adds special tokens and padding")
            return


def _windows(ids: np.ndarray, width: int) -> np.ndarray:
    """(N, width): each run of so many tokens."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(ids, (0, width), constant_values=-1), width)


def _repeated(ids: np.ndarray, cls_id: int) -> float:
    """The share of the runs of 13 tokens inside chunks that stand earlier in `ids` too, by hash."""
    runs = _windows(ids, _RUN)[: max(0, len(ids) - _RUN)]
    hashes = runs[~(runs == cls_id).any(1)] @ (6364136223846793005 ** np.arange(_RUN, dtype=np.uint64)).astype(np.int64)
    return (len(hashes) - len(np.unique(hashes))) / max(1, len(hashes))


def examine(run: Path) -> Iterator[Finding]:
    """What looks wrong in the run directory `run`: its log, and its text if that is still there. Raises InputError."""
    recipe, known = read_recipe(run / RECIPE, PretrainRecipe), None
    try:
        data = open_data(recipe, run)
        known = expected(data)
        yield from doubts(data)
    except InputError as error:
        yield Finding(NOT_SEEN, f"the text was not looked at ({error})")
    if (log := run / "metrics.csv").exists():
        yield from of_curve(read_curve(log), known, (run / "model").exists())


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
