"""What a run that starts from a model gains on its text and forgets elsewhere: masked-LM losses before and after.

Two texts are measured: the validation split of the run, and a general sample, with the same masked tokens before and after. If the
vocabulary changes they cannot be the same: the original model is then measured with its own tokenizer, and losses per token are not
comparable. Loss × tokens / bytes is: nats per byte of the text, as if every token were masked like those that are.

RUN/before-after/ holds losses.tsv, and the tokens of the samples, so that a resumed run measures on the same ones.
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

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
_PER_TOKEN, _PER_BYTE = "nats per token", "nats per byte"
_CHARACTERS_A_TOKEN = 8  # more than a token has, so that this many characters fill the sequences


@dataclass(frozen=True)
class Loss:
    """A row of losses.tsv."""

    text: str
    when: str
    tokenizer: str
    """first digits of its hash"""
    loss: float
    """nats per masked token"""
    accuracy: float
    targets: int
    nats_per_byte: float | None
    """None if the number of bytes of the text is unknown"""


def measure_before(initial: InitialModel, model: MaskedLM, data: TrainingData, device: torch.device) -> None:
    """Measure the original model and, if it has been changed, `model`, with which training starts. Writes RUN/before-after/."""
    folder = _folder(data.folder)
    folder.mkdir(exist_ok=True)
    changed = data.tokenizer.hash != initial.tokenizer.hash

    # Keep the samples; with another tokenizer also the validation text, which the original model reads with its own.
    texts, line = general_sample(data.recipe, initial.tokenizer)
    logger.info(line)
    samples = {GENERAL: texts, **(_validation_texts(data) if changed else {})}
    for name, sample in samples.items():
        store, bytes_a_token = _tokenized(sample, data.tokenizer)
        with replaced(_sample_file(data.folder, name)) as partial:
            offsets = np.append(store.starts, len(store.values))
            np.savez(partial, values=store.values, offsets=offsets, bytes_a_token=bytes_a_token)

    losses = []
    for text in _texts(data):
        if not changed:
            losses.append(_measure(initial.model, text, BEFORE, device))
        elif text.name in samples:
            own = _text(data, text.name, *_tokenized(samples[text.name], initial.tokenizer), initial.tokenizer)
            losses.append(_measure(initial.model, own, BEFORE, device))
        if model is not initial.model:
            losses.append(_measure(model, text, START, device))
    _write(folder, losses)


def measure_after(model: MaskedLM, data: TrainingData, device: torch.device) -> list[Loss]:
    """Measure the trained model on the same sequences. Returns all losses in order; none if nothing was measured before."""
    folder = _folder(data.folder)
    if not (folder / "losses.tsv").exists():
        return []
    losses = [loss for loss in read_losses(data.folder) if loss.when != AFTER]
    losses += [_measure(model, text, AFTER, device) for text in _texts(data)]
    _write(folder, losses)
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
    """The losses as rows of cells with a header: one row per text, one column per moment; also per byte if the tokenizer has changed."""
    found = {(loss.text, loss.when): loss for loss in losses}
    moments = [when for when in (BEFORE, START, AFTER) if any(loss.when == when for loss in losses)]
    units = [_PER_TOKEN, _PER_BYTE] if _has_new_tokenizer(losses) else [_PER_TOKEN]
    rows = [["masked-LM loss", *moments]]
    for text in (NEW, GENERAL):
        for unit in units if any(loss.text == text for loss in losses) else []:
            rows.append([f"{text}, {unit}", *(_cell(found.get((text, when)), unit) for when in moments)])
    return rows


def _cell(loss: Loss | None, unit: str) -> str:
    if loss is not None and unit == _PER_TOKEN:
        return f"{loss.loss:.3f} ({loss.accuracy:.1%})"
    return "–" if loss is None or loss.nats_per_byte is None else f"{loss.nats_per_byte:.3f}"


def _has_new_tokenizer(losses: Sequence[Loss]) -> bool:
    return len({loss.tokenizer for loss in losses}) > 1


def report(losses: Sequence[Loss]) -> list[str]:
    """The table for a terminal, with a note on how to read it."""
    rows = table(losses)
    first, *widths = (max(map(len, column)) for column in zip(*rows))
    lines = ["  ".join([name.ljust(first), *map(str.rjust, cells, widths)]) for name, *cells in rows]
    if _has_new_tokenizer(losses):
        lines.append(f"(accuracy); the tokenizer has changed: compare {_PER_BYTE}, not {_PER_TOKEN}")
    return lines


def card_lines(losses: Sequence[Loss]) -> list[str]:
    """The table for a model card."""
    header, *rows = [f"| {' | '.join(row)} |" for row in table(losses)]
    return ["", "## Before and after", header, f"|{'---|' * len(table(losses)[0])}", *rows]


def _folder(out: Path) -> Path:
    return out / "before-after"


def _sample_file(out: Path, name: str) -> Path:
    return _folder(out) / f"{name.replace(' ', '-')}.npz"


def general_sample(recipe: PretrainRecipe, tokenizer: Tokenizer) -> tuple[list[str], str]:
    """The general sample, spread over its file, and a line that describes it. By default it is of the bundled sample, in the language that
    `tokenizer` knows better."""
    size, file = _sample_size(recipe), recipe.validation.general
    if file is not None:
        documents = find_corpus(file, recipe.data.layout, recipe.data.text_field).documents()
        return sample_documents(documents, size), f"general sample: {file}"
    corpora = [(name, list(find_corpus(file, "blank-lines").documents())) for name, file in BUNDLED.items()]
    # In a tie, the first: English.
    name, texts = max(corpora, key=lambda corpus: _known_share(corpus[1][:50], tokenizer))
    line = f"general sample: {name} sentences of the bundled sample; give a text that matters to you as --general FILE"
    return sample_documents(texts, size), line


def _sample_size(recipe: PretrainRecipe) -> int:
    """Characters that fill the sequences."""
    return recipe.validation.sequences * recipe.data.sequence_length * _CHARACTERS_A_TOKEN


def _known_share(texts: Sequence[str], tokenizer: Tokenizer) -> float:
    ids = tokenizer.encode_documents(texts)[0]
    return float((ids != tokenizer.unk_id).mean()) if len(ids) else 0.0


def _validation_texts(data: TrainingData) -> dict[str, list[str]]:
    """The text of the validation split, for another tokenizer. Empty if it is not available: with a store or a mixture instead of text, or
    if parts of documents are in the split."""
    recipe, source = data.recipe, data.validation and data.validation.sequences_at(0)
    if data.message or not recipe.data.corpus or not isinstance(source, Source):
        return {}
    (store,) = data.stores
    wanted = set(store.hashes[np.isin(store.starts, source.index.documents.starts)].tolist())
    texts, room = [], _sample_size(recipe)
    how = recipe.data.layout, recipe.data.text_field, recipe.data.exclude
    for document in find_corpus(recipe.data.corpus, *how).documents():
        key = document_hash(document)
        if key in wanted:
            wanted.remove(key)
            texts.append(document)
            room -= len(document)
        if room <= 0 or not wanted:
            break
    return {NEW: texts}


def _tokenized(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[TokenStore, float]:
    """Texts as a store in memory, and the mean number of bytes per token."""
    values, lengths = tokenizer.encode_documents(texts)
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    if not len(values):
        raise InputError("no token to mask in the text to measure on: give more text")
    return TokenStore.from_arrays(values, np.concatenate(([0], np.cumsum(lengths)))), size / len(values)


class _Text(NamedTuple):
    """A text to measure on."""

    name: str
    stream: BatchStream
    tokenizer: Tokenizer
    bytes_a_token: float | None


def _text(data: TrainingData, name: str, store: TokenStore, bytes_a_token: float, tokenizer: Tokenizer) -> _Text:
    documents = [Documents(store.starts, store.lengths)]
    return _Text(name, fixed_sequences(data.recipe, data.plan, [store], documents, tokenizer), tokenizer, bytes_a_token)


def _texts(data: TrainingData) -> list[_Text]:
    """The kept samples; for the run's own text, by default, its validation sequences."""
    texts: list[_Text] = []
    for name in (NEW, GENERAL):
        file = _sample_file(data.folder, name)
        if file.exists():
            try:
                arrays = read_arrays(file, ("values", "offsets", "bytes_a_token"))
                if arrays["values"].dtype.kind != "u":
                    raise ValueError(f"values are {arrays['values'].dtype}")
                kept = TokenStore.from_arrays(arrays["values"], arrays["offsets"], vocab_size=data.tokenizer.vocab_size)
                bytes_a_token = float(arrays["bytes_a_token"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{file}: not a kept sample of tokenized text ({error}): remove it") from None
            texts.append(_text(data, name, kept, bytes_a_token, data.tokenizer))
        elif data.validation is not None:
            whole = data.stores[0].info.get("bytes") if len(data.stores) == 1 else None
            mean = whole / data.stores[0].num_tokens if whole else None
            texts.append(_Text(name, data.validation, data.tokenizer, mean))
    return texts


def _measure(model: MaskedLM, text: _Text, when: str, device: torch.device) -> Loss:
    home = next(model.parameters()).device
    score = score_stream(model.to(device), text.stream)
    model.to(home)
    per_byte = score.loss / text.bytes_a_token if text.bytes_a_token else None
    return Loss(text.name, when, text.tokenizer.hash[:8], score.loss, score.accuracy, score.targets, per_byte)


def _write(folder: Path, losses: Sequence[Loss]) -> None:
    with replaced(folder / "losses.tsv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Loss)], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(loss) for loss in losses)
