"""The data of a fine-tuning run: labeled rows, checked before anything is written, and turned into sequences of tokens.

The labels are those of the training file, sorted: the index of a label is its class id, and config.json stores the names.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from torchmetrics import Metric

from bert.data.columns import Columns
from bert.data.encoding import grouped
from bert.data.hub_rows import title_of
from bert.errors import InputError, did_you_mean, option, shortened
from bert.files import absolute, is_same
from bert.finetuning.batches import Item
from bert.finetuning.config import SEQUENCE_LENGTH, SPECIALS, DataConfig, FinetuneRecipe, WindowsConfig
from bert.finetuning.evaluation.overlap import normal_form
from bert.finetuning.metrics import LOSS, numbered
from bert.finetuning.tasks.index import TASKS, task_named
from bert.finetuning.tasks.task import Task, first_of, printed
from bert.finetuning.windows import WindowMaker
from bert.hf.folder import open_folder
from bert.model.config import TaskPooling
from bert.model.encoder import Encoder, weights_hash
from bert.model.heads import HeadedModel

logger = logging.getLogger(__name__)

_CHUNK = 1_000_000  # characters that are tokenized together, in at most 1,000 examples
_FEWEST = 50  # examples to validate on, without a warning
_WIDTH, _HIGHEST = 768, 1e-3  # the width of BERT base, for which `Task.rate` is, and the highest learning rate
_EPOCHS = 3


@dataclass(frozen=True)
class TrainingData:
    """The examples of a run, with their labels and metrics."""

    task: Task
    """with what it has learned from the training examples"""
    labels: tuple[str, ...]
    """sorted; the index of a label is its class id"""
    train: list[Item]
    dev: list[Item]
    dev_name: str
    """the dev file, or the share of the training file"""
    metrics: dict[str, Metric]
    """the metrics of the model, the headline first"""
    baseline: dict[str, float]
    """the metrics on `dev` of predictions without a model"""
    columns: Columns
    """those of the training file"""
    examples: Sequence[Any]
    """those of `train`, in its order"""
    dev_examples: Sequence[Any]
    """those of `dev`, as they were read"""
    test_examples: Sequence[Any]
    """those of the test file; empty if there is none"""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """identifies what a run reads"""


def prepare(task: Task, recipe: FinetuneRecipe) -> tuple[FinetuneRecipe, TrainingData]:
    """The recipe with every open field resolved, and its data. Raises InputError."""
    if recipe.model is None:
        raise InputError("no model to start from: give a model folder with --model")
    encoder = open_folder(recipe.model).encoder
    maker = window_maker(recipe.windows, encoder, recipe.model, recipe.head.pooling)
    data = prepare_data(task.prepared(recipe, maker), recipe.data, maker)
    if recipe.head.pooling == "siamese" and data.columns.pair is None:
        raise InputError(
            f"head.pooling siamese compares two texts: name the column of the second with {option('pair')}"
        )
    known = [*data.metrics, LOSS]
    if (select := recipe.validation.select) is not None and select not in known:
        near = did_you_mean(select, known)
        raise InputError(f"{option('select')} {select}: {task.name} has {', '.join(known)}.{near}")
    recipe = resolved(recipe, maker, task, encoder.config.hidden_size, len(data.train))
    return recipe, replace(data, fingerprint=_fingerprint(data, encoder))


def check_options(task: Task, data: DataConfig) -> None:
    """Raises InputError for a field of `data` that only other tasks use."""
    _check_users(task, "options", data)


def _check_users(task: Task, kind: str, given: DataConfig | FinetuneRecipe) -> None:
    """Raises InputError for a field of `given` that only other tasks name in their attribute `kind`."""
    users = {other: getattr(task_named(other), kind) for other in TASKS}
    for name in dict.fromkeys(chain(*users.values())):
        value = attrgetter(name)
        if name not in users[task.name] and value(given) != value(type(given)()):
            of = " and ".join(", ".join(other for other in users if name in users[other]).rsplit(", ", 1))
            raise InputError(f"{option(name)} is an option of {of}, not of {task.name}; remove it")


def check_recipe(task: Task, recipe: FinetuneRecipe) -> None:
    """Raises InputError as `check_files` does, and for options of the recipe that only other tasks use."""
    check_files(task, recipe.data)
    _check_users(task, "recipe_options", recipe)
    if recipe.model is not None and (recipe.encoder, recipe.head.vocab_size) != (FinetuneRecipe().encoder, None):
        raise InputError(f"encoder and head.vocab_size are for a run without {option('model')}: leave one of both out")


def check_files(task: Task, data: DataConfig) -> None:
    """Raises InputError if no file is given, or one that cannot be read twice, and for options of other tasks."""
    check_options(task, data)
    if data.train is None:
        raise InputError("no training examples: give a file with --train")
    for name, file in (("train", data.train), ("dev", data.dev), ("test", data.test)):
        if file == "-":
            raise InputError(f"--{name} -: a run reads its examples more than once: give a file")
        if name != "test" and file and data.test and (file == data.test or is_same(Path(file), Path(data.test))):
            raise InputError(f"--test {data.test}: is the file of --{name} too: give rows that the run has not seen")


def prepare_data(task: Task, data: DataConfig, maker: WindowMaker) -> TrainingData:
    """Read, check and tokenize the files of a recipe. Raises InputError."""
    check_files(task, data)
    assert data.train is not None
    rows = task.read(data.train, data)
    train = list(rows)
    if rows.columns != Columns():
        logger.info(f"columns: {rows.columns}")
    if few := too_few_labels(task, train):
        raise InputError(f"{data.train}: {few}")
    labels = task.labels(train)
    metrics = task.metrics(labels, train)
    places = places_of(task, train)
    unseen = f"does not occur in {data.train}: fix it, remove the row, or add training examples of it"

    def read_labeled(file: str) -> list[Any]:
        return list(checked(task, task.read(file, data, learned=rows.columns), labels, unseen))

    files = {"dev": data.dev, "test": data.test}
    given = {name: read_labeled(file) for name, file in files.items() if file is not None}
    for found in seen_texts(train, given):
        logger.warning(found)
    if data.dev is not None:
        dev, dev_name = given["dev"], title_of(data.dev)
    else:
        train, dev = hold_out(task, train, data.validation_split)
        _check_split(task, train, dev, data.train)
        dev_name = f"{data.validation_split:.0%} of {title_of(data.train)}"
        logger.info(f"no --dev: validating on {len(dev):,} of {len(dev) + len(train):,} examples, chosen by hash")
    for doubt in task.doubts(places):
        logger.warning(doubt)
    if found := too_few_labels(task, dev):
        logger.warning(f"{dev_name}: {found} in data.dev, or its score tells little")
    elif len(dev) < _FEWEST:
        worth = f"each is worth {100 / len(dev):.2g} points"
        more = "a larger data.validation_split" if data.dev is None else "more in data.dev"
        logger.warning(f"validation on {numbered(len(dev), 'example')} tells little, as {worth}: give {more}")
    if data.limit is not None and data.limit < len(train):
        train = sorted(train, key=_hash)[: data.limit]
        logger.info(f"data.limit: training on {numbered(data.limit, 'example')}, chosen by hash")
        if gone := sorted(places.keys() - places_of(task, train)):
            left = f"{len(gone):,} of {len(places):,} labels have no example left to learn from ({first_of(gone, 5)})"
            logger.warning(f"data.limit: {left}; raise it")
    learned, asked = (make_items(task, side, maker, labels) for side in (train, dev))
    logger.info(f"train: {_described(task, train, learned)}")
    logger.info(f"dev: {_described(task, dev, asked)}")
    fitted = task.fitted(labels, train)
    logger.info(fitted.described(train, dev))
    without = fitted.without_model(train, dev, labels)
    kept = [example for example in train if task.numbers(example, dict.fromkeys(labels, 0))]
    test = given.get("test", [])
    return TrainingData(fitted, labels, learned, asked, dev_name, metrics, without, rows.columns, kept, dev, test)


def seen_texts(train: Sequence[Any], given: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """Warnings about the examples of `given`, by the name of their file, whose texts are training texts too."""
    known = {normal_form(one.key) for one in train} if given else set()
    for name, asked in given.items():
        if seen := sum(normal_form(one.key) in known for one in asked):
            fix = "remove them from the training file"
            yield f"{seen:,} of {len(asked):,} {name} texts are training texts too: {fix}"


def too_few_labels(task: Task, examples: Sequence[Any]) -> str:
    """What is wrong with examples of less than two different labels, or numbers, and the fix; empty for others."""
    outcomes = task.outcomes(examples)
    found = (
        f"only one {task.label_names[0]}, {shortened(next(iter(outcomes)))}"
        if outcomes
        else f"no {task.label_names[0]}"
    )
    return f"{found}: give examples of two or more" if len(outcomes) < 2 else ""


def window_maker(
    windows: WindowsConfig, model: Encoder | HeadedModel, source: str, pooling: TaskPooling | None = None
) -> WindowMaker:
    """How texts become sequences for the model of the folder `source`, or for its encoder under a head with this `pooling`. Raises
    InputError if they are longer than the model's maximum length, and if it has no tokenizer."""
    tokenizer, encoder = model.tokenizer, model.config
    if tokenizer is None:
        raise InputError(f"{source}: no tokenizer: add the tokenizer.json that it was trained with")
    length = windows.sequence_length or min(SEQUENCE_LENGTH, encoder.max_length)
    if length > encoder.max_length:
        most = f"the maximum length of {source}, {encoder.max_length}"
        raise InputError(f"windows.sequence_length is {length}; must be at most {most}")
    stride = windows.stride or max(1, (length - SPECIALS) // 2)
    has_types = encoder.token_types > 1 and (pooling or getattr(model, "pooling", None)) != "siamese"
    return WindowMaker(tokenizer, length, stride, has_types)


def make_items(task: Task, examples: Iterable[Any], maker: WindowMaker, labels: Sequence[str]) -> list[Item]:
    """Examples with labels as numbers and texts as token ids. Sentences without words are left out."""
    ids = {label: number for number, label in enumerate(labels)}
    items: list[Item] = []
    for chunk in chunks(examples):
        for example, windows in zip(chunk, task.windows(chunk, maker)):
            if (item := task.item(example, windows, ids)).labels:
                items.append(item)
    return items


def chunks(examples: Iterable[Any]) -> Iterator[list[Any]]:
    """Consecutive lists of examples that are tokenized together: many if they are short."""
    return grouped(examples, lambda example: len(example.key) + _CHUNK // 1000, _CHUNK)


def checked(task: Task, examples: Iterable[Any], labels: Sequence[str], unknown: str) -> Iterator[Any]:
    """The examples. Raises InputError, naming the line and the nearest label, for a label that is not in `labels`; `unknown` is
    the rest of the message."""
    known = set(labels)
    for example in examples:
        for position, label in enumerate(task.names(example)):
            if label not in known:
                words = getattr(example, "words", ())
                beside = f" of {words[position]!r}" if words else ""
                twins = (f" Did you mean {one!a}?" for one in labels if printed(one) == printed(label))
                near = next(twins, did_you_mean(label, labels))
                raise InputError(f"{example.at(position)}: label {label!r}{beside} {unknown}.{near}")
        yield example


def places_of(task: Task, examples: Iterable[Any]) -> dict[str, str]:
    """Each label, and where it stands first."""
    places: dict[str, str] = {}
    for example in examples:
        for number, label in enumerate(task.names(example)):
            if label not in places:
                places[label] = example.at(number)
    return places


def hold_out(task: Task, examples: Sequence[Any], share: float) -> tuple[list[Any], list[Any]]:
    """(train, dev): `share` of the texts with each label are for dev, those with the lowest hashes, so that equal texts stay together and
    the order of examples does not matter. A text with several labels counts as one of its rarest. Of each label an example is for training.
    """
    hashes, names = [_hash(example) for example in examples], [set(task.names(example)) for example in examples]
    counts = Counter(chain.from_iterable(names))
    strata: dict[int, tuple[int, str]] = {}
    for text, labels in zip(hashes, names):
        rarest = min(((counts[label], label) for label in labels), default=(0, ""))
        strata[text] = min(rarest, strata.get(text, rarest))
    drawn, before = set[int](), 0
    for _, some in groupby(sorted(strata, key=lambda text: (strata[text], text)), key=lambda text: strata[text]):
        texts = [*some]
        begin, before = before, before + len(texts)
        drawn.update(texts[: round(before * share) - round(begin * share)])
    known = {label for text, labels in zip(hashes, names) if text not in drawn for label in labels}
    train, dev = list[Any](), list[Any]()
    for example, text, labels in zip(examples, hashes, names):
        (dev if text in drawn and known >= labels else train).append(example)
    return train, dev


def _check_split(task: Task, train: Sequence[Any], dev: Sequence[Any], file: str) -> None:
    """Raises InputError if there are no examples to validate on, or too few to learn from."""
    if dev and len(task.outcomes(train)) >= 2:
        return
    examples = [*train, *dev]
    found = f"{numbered(len(examples), 'example')} with {numbered(len(set(map(_hash, examples))), 'different text')}"
    second = "give a second file with --dev"
    why = f"{found} are too few to split: {second}, or more examples"
    counts = Counter(name for example in examples for name in task.names(example))
    once = list(counts.values()).count(1)
    if 2 < len(counts) < 2 * once:
        found = f"{once} of {len(counts)} labels stand once, so that none is left to validate on"
        why = f"{found}: is their column a number, an id or the text? Name another, or {second}"
    raise InputError(f"{file}: {why}")


def _hash(example: Any) -> int:
    return int.from_bytes(blake2b(example.key.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _described(task: Task, examples: Sequence[Any], items: Sequence[Item]) -> str:
    """The number of examples, and of those without tokens or with more than a sequence."""
    long = [len(item.windows) for item in items if len(item.windows) > 1]
    notes = {
        "without words left out": len(examples) - len(items),
        "without a token": sum(len(set(item.windows[0].ids)) <= SPECIALS for item in items),
        f"longer than a sequence: {sum(long):,} windows": len(long),
    }
    found = [f"{count:,} {note}" for note, count in notes.items() if count]
    return "; ".join([task.counted([len(item.labels) for item in items]), *found])


def resolved(recipe: FinetuneRecipe, maker: WindowMaker, task: Task, width: int, examples: int) -> FinetuneRecipe:
    """The recipe with every open field resolved, as written to RUN/recipe.yaml, for an encoder of `width` and so many training examples.

    Wider encoders need lower learning rates, and few examples more epochs, or the run ends before it has learned (Mosbach et al. 2021)."""
    windows = replace(recipe.windows, sequence_length=maker.sequence_length, stride=maker.stride)
    lr = recipe.optimizer.lr or min(_HIGHEST, float(f"{task.rate * (_WIDTH / width) ** 2:.2g}"))
    epochs = recipe.epochs or max(_EPOCHS, -(-task.steps // -(-examples // recipe.data.batch_size)))
    probe = task.probe_examples if recipe.head.probe_examples is None else recipe.head.probe_examples
    head, optimizer = replace(recipe.head, probe_examples=probe), replace(recipe.optimizer, lr=lr)
    return replace(recipe, windows=windows, head=head, optimizer=optimizer, epochs=float(epochs))


def _fingerprint(data: TrainingData, encoder: Encoder) -> dict[str, str]:
    """Hashes of the labels, the examples, and the weights that a run starts from."""
    digests = {name: blake2b(digest_size=16) for name in ("labels", "examples")}
    digests["labels"].update(repr(data.labels).encode("utf-8", "surrogatepass"))
    for item in (len(data.train), *data.train, *data.dev):
        digests["examples"].update(repr(item).encode())
    return {name: digest.hexdigest() for name, digest in digests.items()} | {"model": weights_hash(encoder)}


def with_absolute_paths(recipe: FinetuneRecipe) -> FinetuneRecipe:
    """`recipe` with paths that do not depend on the current directory."""
    files = {name: absolute(getattr(recipe.data, name)) for name in ("train", "dev", "test")}
    head = replace(recipe.head, decoder=absolute(recipe.head.decoder))
    return replace(recipe, model=absolute(recipe.model), head=head, data=replace(recipe.data, **files))
