"""What a run that starts from a model gains on its text, and what it loses elsewhere: masked-LM losses before and after.

Two texts are measured: validation sequences of the run's own, and a general sample. The masked tokens are the same before and after. Where
the vocabulary changes they cannot be: then the model as it came is measured with its own tokenizer, and losses a token do not compare.
Loss × tokens / bytes does: nats a byte of the text, were every token hidden as those are that were.

All of it lies in RUN/before-after/: losses.tsv, and the tokens of the samples, so that a resumed run measures on the same.
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from bert.data.corpus import find_corpus
from bert.data.packing import Documents
from bert.data.store import TokenStore, document_hash
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import sample_documents
from bert.errors import InputError
from bert.files import replaced
from bert.model.heads import MaskedLM
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.initialization import InitialModel
from bert.pretraining.inputs import TrainingData, fixed_sequences
from bert.pretraining.score import score_stream
from bert.pretraining.stream import BatchStream, Source
from bert.untrusted import read_arrays

logger = logging.getLogger(__name__)

NEW, GENERAL = "validation text", "general sample"
BEFORE, START, AFTER = "as it came", "at the start", "after"
BUNDLED = {name: Path(__file__).parents[1] / "sample" / f"{name.lower()}.txt.gz" for name in ("English", "Chinese")}
_CHARACTERS_A_TOKEN = 8  # more than a token has: so many characters fill the sequences


@dataclass(frozen=True)
class Loss:
    """A row of losses.tsv."""

    text: str
    when: str
    tokenizer: str
    """the first digits of its hash"""
    loss: float
    """nats a hidden token"""
    accuracy: float
    targets: int
    nats_per_byte: float | None
    """none where the bytes of the text are not known"""


def measure_before(initial: InitialModel, model: MaskedLM, data: TrainingData, device: torch.device) -> None:
    """Measure the model as it came and, where it has been changed, `model`, with which training begins. Writes
    RUN/before-after/."""
    folder = _folder(data.folder)
    folder.mkdir(exist_ok=True)
    changed = data.tokenizer.hash != initial.tokenizer.hash
    texts, line = general_sample(data.recipe, initial.tokenizer)
    logger.info(line)
    samples = {GENERAL: texts}
    if changed:
        samples |= _validation_texts(data)
    for name, sample in samples.items():
        _keep(folder, name, sample, data.tokenizer)
    losses = []
    for name, stream, bytes_a_token in _streams(data):
        if not changed:
            losses.append(_measure(initial.model, name, BEFORE, stream, data.tokenizer, bytes_a_token, device))
        elif name in samples:
            store, own_bytes = _tokenised(samples[name], initial.tokenizer)
            own = fixed_sequences(
                data.recipe, data.plan, [store], [Documents(store.starts, store.lengths)], initial.tokenizer
            )
            losses.append(_measure(initial.model, name, BEFORE, own, initial.tokenizer, own_bytes, device))
        if model is not initial.model:
            losses.append(_measure(model, name, START, stream, data.tokenizer, bytes_a_token, device))
    _write(folder, losses)


def measure_after(model: MaskedLM, data: TrainingData, device: torch.device) -> list[Loss]:
    """Measure what came of it, on the same sequences; all losses, in their order. Empty where nothing was measured before."""
    if not (_folder(data.folder) / "losses.tsv").exists():
        return []
    losses = [loss for loss in read_losses(data.folder) if loss.when != AFTER]
    for name, stream, bytes_a_token in _streams(data):
        losses.append(_measure(model, name, AFTER, stream, data.tokenizer, bytes_a_token, device))
    _write(_folder(data.folder), losses)
    return losses


def read_losses(run: Path) -> list[Loss]:
    """The rows of RUN/before-after/losses.tsv."""
    kinds = {"loss": float, "accuracy": float, "targets": int}
    file = _folder(run) / "losses.tsv"
    losses: list[Loss] = []
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t"):
                values: dict[str, object] = {key: kinds.get(key, str)(value) for key, value in row.items()}
                values["nats_per_byte"] = float(row["nats_per_byte"]) if row["nats_per_byte"] else None
                losses.append(Loss(**values))  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise InputError(f"{file}: not readable ({error}): remove the folder, and nothing is compared") from None
    return losses


def table(losses: Sequence[Loss]) -> list[list[str]]:
    """The losses as rows of cells, a header first: a text a row, a moment a column; with nats a byte where the tokenizer
    has changed."""
    moments = [when for when in (BEFORE, START, AFTER) if any(loss.when == when for loss in losses)]
    units = ["nats a token"]
    if len({loss.tokenizer for loss in losses}) > 1:
        units.append("nats a byte")
    rows = [["masked-LM loss", *moments]]
    for text in (NEW, GENERAL):
        found = {loss.when: loss for loss in losses if loss.text == text}
        for unit in units if found else []:
            cells = []
            for when in moments:
                loss = found.get(when)
                if unit == "nats a token":
                    cells.append("–" if loss is None else f"{loss.loss:.3f} ({loss.accuracy:.1%})")
                else:
                    value = None if loss is None else loss.nats_per_byte
                    cells.append("–" if value is None else f"{value:.3f}")
            rows.append([f"{text}, {unit}", *cells])
    return rows


def report(losses: Sequence[Loss]) -> list[str]:
    """The table for a terminal, and what to know of it."""
    rows = table(losses)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    if len({loss.tokenizer for loss in losses}) > 1:
        lines.append("(accuracy); the tokenizer has changed: compare nats a byte, not nats a token")
    return lines


def card_lines(losses: Sequence[Loss]) -> list[str]:
    """The table for a model card."""
    header, *rows = [f"| {' | '.join(row)} |" for row in table(losses)]
    return ["", "## Before and after", header, f"|{'---|' * len(table(losses)[0])}", *rows]


def _folder(out: Path) -> Path:
    return out / "before-after"


def general_sample(recipe: PretrainRecipe, tokenizer: Tokenizer) -> tuple[list[str], str]:
    """The general sample, spread over its file, and a line that says what it is. Without a file it is of the bundled
    sample, in the language of which `tokenizer` knows more."""
    size = recipe.validation.sequences * recipe.data.sequence_length * _CHARACTERS_A_TOKEN
    file = recipe.validation.general
    if file is not None:
        documents = find_corpus(file, recipe.data.layout, recipe.data.text_field).documents()
        return sample_documents(documents, size), f"general sample: {file}"
    corpora = [(name, list(find_corpus(file, "blank-lines").documents())) for name, file in BUNDLED.items()]
    name, texts = max(
        corpora, key=lambda corpus: _known_share(corpus[1][:50], tokenizer)
    )  # the first of equals: English
    line = f"general sample: {name} sentences of the bundled sample; give a text that matters to you as --general FILE"
    return sample_documents(texts, size), line


def _known_share(texts: Sequence[str], tokenizer: Tokenizer) -> float:
    ids = tokenizer.encode_documents(texts)[0]
    return float((ids != tokenizer.unk_id).mean()) if len(ids) else 0.0


def _validation_texts(data: TrainingData) -> dict[str, list[str]]:
    """The text of held-out documents, for another tokenizer. Nothing where it is not at hand: with a store or a mixture in the
    place of the text, or where parts of documents are held out."""
    recipe, validation = data.recipe, data.validation
    if (
        validation is None
        or data.message
        or not recipe.data.corpus
        or not isinstance(source := validation.sequences_at(0), Source)
    ):
        return {}
    (store,) = data.stores
    wanted = set(store.hashes[np.isin(store.starts, source.index.documents.starts)].tolist())
    room = recipe.validation.sequences * recipe.data.sequence_length * _CHARACTERS_A_TOKEN
    texts: list[str] = []
    for document in find_corpus(recipe.data.corpus, recipe.data.layout, recipe.data.text_field).documents():
        key = document_hash(document)
        if key in wanted:
            wanted.remove(key)
            texts.append(document)
            room -= len(document)
        if room <= 0 or not wanted:
            break
    return {NEW: texts}


def _tokenised(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[TokenStore, float]:
    """Texts as a store in memory, and the bytes of a token on average."""
    values, lengths = tokenizer.encode_documents(texts)
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    if not len(values):
        raise InputError("no token to hide in the text to measure on: give more text")
    return TokenStore.from_arrays(values, np.concatenate(([0], np.cumsum(lengths)))), size / len(values)


def _keep(folder: Path, name: str, texts: Sequence[str], tokenizer: Tokenizer) -> None:
    store, bytes_a_token = _tokenised(texts, tokenizer)
    offsets = np.append(store.starts, len(store.values))
    with replaced(folder / f"{name.replace(' ', '-')}.npz") as partial:
        np.savez(partial, values=store.values, offsets=offsets, bytes_a_token=bytes_a_token)


def _streams(data: TrainingData) -> list[tuple[str, BatchStream, float | None]]:
    """(text, sequences, bytes of a token) for the kept samples; for the run's own text its validation sequences, where none is kept."""
    streams: list[tuple[str, BatchStream, float | None]] = []
    for name in (NEW, GENERAL):
        file = _folder(data.folder) / f"{name.replace(' ', '-')}.npz"
        if file.exists():
            try:
                arrays = read_arrays(file, ("values", "offsets", "bytes_a_token"))
                if arrays["values"].dtype.kind != "u":
                    raise ValueError(f"values are {arrays['values'].dtype}")
                kept = TokenStore.from_arrays(arrays["values"], arrays["offsets"], vocab_size=data.tokenizer.vocab_size)
                bytes_a_token = float(arrays["bytes_a_token"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{file}: not a kept sample of tokenised text ({error}): remove it") from None
            sequences = fixed_sequences(
                data.recipe, data.plan, [kept], [Documents(kept.starts, kept.lengths)], data.tokenizer
            )
            streams.append((name, sequences, bytes_a_token))
        elif data.validation is not None:
            whole = data.stores[0].info.get("bytes") if len(data.stores) == 1 else None
            streams.append((name, data.validation, whole / data.stores[0].num_tokens if whole else None))
    return streams


def _measure(
    model: MaskedLM,
    text: str,
    when: str,
    stream: BatchStream,
    tokenizer: Tokenizer,
    bytes_a_token: float | None,
    device: torch.device,
) -> Loss:
    home = next(model.parameters()).device
    score = score_stream(model.to(device), stream)
    model.to(home)
    per_byte = score.loss / bytes_a_token if bytes_a_token else None
    return Loss(text, when, tokenizer.hash[:8], score.loss, score.accuracy, score.targets, per_byte)


def _write(folder: Path, losses: Sequence[Loss]) -> None:
    with replaced(folder / "losses.tsv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Loss)], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(loss) for loss in losses)
