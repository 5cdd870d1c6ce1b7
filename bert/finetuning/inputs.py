"""What a fine-tuning run reads: labelled rows, checked before anything is written, and turned into rows of the model.

Labels are those of the training file, sorted: a label's place is its class id, and config.json keeps the names.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from bert.data.examples import Example, Examples, TaggedExample, read_examples, read_tagged
from bert.errors import InputError, did_you_mean
from bert.finetuning.batches import Item
from bert.finetuning.config import DataConfig, FinetuneRecipe, WindowsConfig
from bert.finetuning.figures import baseline
from bert.finetuning.metrics import Scheme, scheme_of
from bert.finetuning.windows import Window, WindowMaker, resolve_windows
from bert.model.encoder import Encoder
from bert.model.heads import HeadedModel

Task = Literal["classify", "tag"]
Labelled = Example | TaggedExample
Thing = TypeVar("Thing")
_CHUNK = 1024  # examples that are tokenized together


@dataclass(frozen=True)
class TrainingData:
    """Everything that is learned from and measured on."""

    labels: tuple[str, ...]
    """sorted; the place of a label is its class id"""
    train: list[Item]
    dev: list[Item]
    dev_name: str
    """the dev file, or how much of the training file was held out"""
    scheme: Scheme | None
    """how tags mark spans; none where they do not"""
    baseline: dict[str, float]
    """the figures on `dev` that a guess without a model has"""


def check_files(data: DataConfig) -> None:
    """InputError where no file is given, or one that cannot be read twice."""
    if data.train is None:
        raise InputError("no examples to learn from: give a file as --train")
    for name, file in (("train", data.train), ("dev", data.dev)):
        if file == "-":
            raise InputError(f"--{name} -: a run reads its examples more than once: give a file")


def read_labelled(task: Task, file: str, data: DataConfig, needs_label: bool = True) -> Iterable[Labelled]:
    """The rows of a file, with the columns of the recipe."""
    if task == "classify":
        return read_examples(file, data.text, data.pair, data.label, needs_label, data.file_format)
    return read_tagged(file, data.words, data.tags, needs_label, data.file_format)


def prepare_data(task: Task, data: DataConfig, maker: WindowMaker, say: Callable[[str], None]) -> TrainingData:
    """Read, check and tokenize the files of a recipe, and say what was found. Raises InputError."""
    check_files(data)
    assert data.train is not None
    read = read_labelled(task, data.train, data)
    train = list(read)
    if isinstance(read, Examples):
        columns = read.columns
        second = f" and {columns.pair!r}" if columns.pair else ""
        say(f"columns: {columns.text!r}{second} → {columns.label!r}")
    labels = tuple(sorted({label for example in train for label in labels_of(example)}))
    if not labels:
        raise no_words(data.train)
    if len(labels) < 2:
        raise InputError(
            f"{data.train}: one label only, {labels[0]!r}: there is nothing to tell apart; give examples of two or more"
        )
    scheme = scheme_of(labels_of(example) for example in train) if task == "tag" else None
    if data.dev is not None:
        dev = list(read_labelled(task, data.dev, data))
        _check_known(dev, labels, data.train)
        if not any(map(labels_of, dev)):
            raise no_words(data.dev)
        dev_name = Path(data.dev).name
    else:
        train, dev = _hold_out(train, data)
        dev_name = f"{data.validation_split:.0%} of {Path(data.train).name}"
        say(f"no --dev: {len(dev):,} of {len(dev) + len(train):,} examples, chosen by hash, are held out to measure on")
    if data.limit is not None and data.limit < len(train):
        train = sorted(train, key=_hash)[: data.limit]
        say(f"data.limit: {data.limit:,} examples, chosen by hash, are learned from")
    found = TrainingData(
        labels,
        make_items(train, maker, labels),
        make_items(dev, maker, labels),
        dev_name,
        scheme,
        baseline(_with_words(train), _with_words(dev), labels, task == "tag", scheme),
    )
    for name, examples, items in (("train", train, found.train), ("dev", dev, found.dev)):
        say(f"{name}: {_described(task, examples, items)}")
    learned = Counter(label for example in train for label in labels_of(example))
    say(f"labels: {_with_counts(learned)}")
    return found


def no_words(file: str) -> InputError:
    """The error for a file of tagged sentences that are all empty."""
    return InputError(f"{file}: no sentence has a word: give at least one")


def window_maker(windows: WindowsConfig, model: Encoder | HeadedModel, source: str) -> WindowMaker:
    """How texts become rows for the model of the folder `source`. InputError where rows are longer than it takes, and where it has no
    tokenizer."""
    tokenizer, encoder = model.tokenizer, model.config
    if tokenizer is None:
        raise InputError(f"{source}: holds no tokenizer: put the tokenizer.json that it was trained with beside it")
    windows = resolve_windows(windows, encoder.max_length)
    assert windows.sequence_length is not None
    assert windows.stride is not None
    if windows.sequence_length > encoder.max_length:
        raise InputError(
            f"windows.sequence_length {windows.sequence_length} is longer than the {encoder.max_length} tokens that"
            f" {source} takes: lower it"
        )
    return WindowMaker(tokenizer, windows.sequence_length, windows.stride, encoder.token_types > 1)


def labels_of(example: Labelled) -> tuple[str, ...]:
    """The label of a text, or the tag of each word; empty where there are none."""
    if isinstance(example, TaggedExample):
        return example.tags or ()
    return () if example.label is None else (example.label,)


def _with_words(examples: Sequence[Labelled]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """(words, labels) of each example; a classifier's baseline looks at no words."""
    return [(example.words if isinstance(example, TaggedExample) else (), labels_of(example)) for example in examples]


def make_windows(examples: Sequence[Labelled], maker: WindowMaker) -> list[list[Window]]:
    """The rows of each example."""
    texts = [example for example in examples if isinstance(example, Example)]
    if texts:
        return maker.from_texts([example.text for example in texts], [example.pair for example in texts])
    return maker.from_sentences([example.words for example in examples if isinstance(example, TaggedExample)])


def make_items(examples: Iterable[Labelled], maker: WindowMaker, labels: Sequence[str]) -> list[Item]:
    """Examples with class ids instead of labels and rows instead of texts. A sentence without words is left out."""
    ids = {label: number for number, label in enumerate(labels)}
    items: list[Item] = []
    for chunk in chunks(examples):
        for example, windows in zip(chunk, make_windows(chunk, maker)):
            found = tuple(ids[label] for label in labels_of(example))
            if found:
                items.append(Item(windows, found))
    return items


def chunks(things: Iterable[Thing], size: int = _CHUNK) -> Iterator[list[Thing]]:
    """Lists of at most `size` things, in order."""
    iterator = iter(things)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _check_known(dev: Iterable[Labelled], labels: Sequence[str], train: str) -> None:
    known = set(labels)
    for example in dev:
        for place, label in enumerate(labels_of(example)):
            if label not in known:
                beside = f" of {example.words[place]!r}" if isinstance(example, TaggedExample) else ""
                raise InputError(
                    f"{example.where}: label {label!r}{beside} does not occur in {train}: repair it, remove the row, or give"
                    f" examples of it to learn from.{did_you_mean(label, labels)}"
                )


def _hold_out(examples: Sequence[Labelled], data: DataConfig) -> tuple[list[Labelled], list[Labelled]]:
    """(train, dev) by the hash of the text, so that equal texts stand on one side and the order of rows is no matter."""
    limit = int(data.validation_split * 2**64)
    hashes = [_hash(example) for example in examples]
    known = {label for example, drawn in zip(examples, hashes) if drawn >= limit for label in labels_of(example)}
    train: list[Labelled] = []
    dev: list[Labelled] = []
    for example, drawn in zip(examples, hashes):  # what alone has a label is learned from
        validation_split = drawn < limit and known.issuperset(labels_of(example))
        (dev if validation_split else train).append(example)
    if not dev or len({label for example in train for label in labels_of(example)}) < 2:
        raise InputError(
            f"{data.train}: {len(examples)} examples with {len(set(hashes))} different texts are too few to hold some out: give a second"
            " file as --dev, or more examples"
        )
    return train, dev


def _hash(example: Labelled) -> int:
    text = "\0".join(example.words) if isinstance(example, TaggedExample) else f"{example.text}\0{example.pair or ''}"
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _described(task: Task, examples: Sequence[Labelled], items: Sequence[Item]) -> str:
    """How much there is, and what does not fit in a row."""
    long = [item for item in items if len(item.windows) > 1]
    what = f"{len(items):,} examples" if task == "classify" else f"{len(items):,} sentences"
    if task == "tag":
        what += f", {sum(len(item.labels) for item in items):,} words"
    if len(items) < len(examples):
        what += f"; {len(examples) - len(items):,} without a word are left out"
    if long:
        what += f"; {len(long):,} longer than a row: {sum(len(item.windows) for item in long):,} windows"
    return what


def _with_counts(counts: Counter[str], most: int = 12) -> str:
    """The most frequent labels with their numbers."""
    parts = [f"{label} {count:,}" for label, count in counts.most_common(most)]
    return ", ".join(parts) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def resolved(recipe: FinetuneRecipe, maker: WindowMaker) -> FinetuneRecipe:
    """The recipe with every open field decided, as RUN/recipe.yaml keeps it."""
    windows = dataclasses.replace(recipe.windows, sequence_length=maker.sequence_length, stride=maker.stride)
    return dataclasses.replace(recipe, windows=windows)
