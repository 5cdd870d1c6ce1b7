"""The inputs of a pretraining run: text, tokenizer and store, checked before anything is written and made if missing, and their batches."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from bert.data.corpus import find_corpus
from bert.data.packing import SPECIALS_PER_CHUNK, Documents, SequenceIndex, split_validation
from bert.data.prepare import prepare, text_has_changed
from bert.data.store import TokenStore, holds_store, open_store
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import make_tokenizer
from bert.errors import InputError
from bert.files import absolute, real_path
from bert.pretraining.config import DataConfig, PretrainRecipe
from bert.pretraining.initialization import InitialModel, check_initial, load_initial, shape_of
from bert.pretraining.masking import Vocabulary
from bert.pretraining.phases import Plan, resolve_plan
from bert.pretraining.stream import BatchStream, Mixture, Sequences, Source, SpecialIds
from bert.training.config import StopConfig

logger = logging.getLogger(__name__)

DEFAULT_STOP = StopConfig(minutes=20)
_COUNTED = 4_000_000
"""positions whose tokens are counted, which takes less than a tenth of a second"""
_VALIDATION_SEED = 2018  # validation sequences have the same masks whatever the seed of the run


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on and is validated on."""

    recipe: PretrainRecipe
    """with all fields resolved"""
    folder: Path
    """of the run"""
    tokenizer: Tokenizer
    stores: list[TokenStore]
    """one for each source of the text"""
    plan: Plan
    training: BatchStream
    validation: BatchStream | None
    """None without a validation split"""
    message: str
    """about the validation split, if it is unusual"""

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each token occurs in the first positions, (V,); 0 for tokens that are never masked."""
        return self.training.token_counts(_COUNTED)

    @property
    def fingerprint(self) -> dict[str, str]:
        """What must be the same when the run is resumed: the tokenizer, and the text as recorded in the stores."""
        contents = [str(store.info.get("fingerprint", {}).get("content", "")) for store in self.stores]
        return {"tokenizer": self.tokenizer.hash, "text": " ".join(contents)}


def open_data(recipe: PretrainRecipe, out: Path, ranks: int = 1) -> TrainingData:
    """The data of the run in `out`, divided among `ranks`. InputError if it is damaged, or too small to train on."""
    tokenizer = Tokenizer.load(tokenizer_folder(out))
    stores = [open_store(source.folder, tokenizer) for source in text_sources(recipe.data, out)]
    plan = resolve_plan(recipe, ranks)
    return TrainingData(recipe, out, tokenizer, stores, plan, *make_streams(recipe, plan, stores, tokenizer))


def check_inputs(recipe: PretrainRecipe, out: Path) -> InitialModel | None:
    """InputError if text, tokenizer or store are missing or do not fit, before anything is written or overwritten.

    Returns the model to initialize from; None for random initialization.
    """
    data = recipe.data
    read: list[tuple[str, str | None]] = [("the text", path) for path in (*data.corpus, *data.mixture)]
    read += [("data.tokenizer", data.tokenizer), ("data.store", data.store)]
    read += [("initialize_from", recipe.initialize_from), ("validation.general", recipe.validation.general)]
    read += [("vocabulary.add_words", recipe.vocabulary.add_words)]
    for name, path in read:  # a run fills or replaces its folder
        if path is not None and real_path(Path(path).expanduser()).is_relative_to(real_path(out)):
            raise InputError(f"{name} {path} lies in --out {out}: give another --out")
    if data.corpus and data.store is not None:
        raise InputError(f"text and a store are given: leave out the text, or data.store {data.store}")
    if not data.corpus and data.store is None and not data.mixture:
        raise InputError("no text: give a file or folder (bert pretrain texts/ --out RUN), or --store and --tokenizer")
    initial = None if recipe.initialize_from is None else load_initial(recipe)
    tokenizer = _given_tokenizer(recipe, initial)
    for source in text_sources(data, out):
        _check_source(recipe, source, tokenizer, out)
    return initial


def _given_tokenizer(recipe: PretrainRecipe, initial: InitialModel | None) -> Tokenizer | None:
    """The tokenizer of a run; None if it is trained on the text."""
    if initial is not None:
        return check_initial(recipe, initial)
    return None if recipe.data.tokenizer is None else Tokenizer.load(recipe.data.tokenizer)


def _check_source(recipe: PretrainRecipe, source: "TextSource", tokenizer: Tokenizer | None, out: Path) -> None:
    """InputError if text is missing or contains the run directory, or a store does not belong to the tokenizer."""
    data = recipe.data
    if source.text:
        find_corpus(source.text, data.layout, data.text_field, data.exclude, out)
    elif tokenizer is not None:
        open_store(source.folder, tokenizer)
    elif data.mixture and recipe.initialize_from is not None:
        raise InputError(f"data.mixture: {source.folder} is a store, and vocabulary.retrain needs text: give the text")
    else:
        what = f"data.mixture: the store {source.folder}" if data.mixture else "data.store"
        raise InputError(f"{what} needs data.tokenizer: give the one that the store was made with")


def prepare_inputs(
    recipe: PretrainRecipe, out: Path, initial: InitialModel | None = None, resume: bool = False, ranks: int = 1
) -> TrainingData:
    """Make the tokenizer and the store in `out` if they are missing, and resolve all fields of the recipe. A resumed run keeps its store;
    otherwise, a store left by an interrupted preparation must be of this text."""
    data, vocabulary, folder = recipe.data, recipe.vocabulary, tokenizer_folder(out)
    encoder, head = recipe.encoder, recipe.head
    if initial is not None:
        encoder, head = initial.model.config, initial.model.head_config

    # The tokenizer: given, or trained on the text.
    if not Tokenizer.has_files(folder):
        if (given := _given_tokenizer(recipe, initial)) is not None:
            given.save(folder, model_max_length=encoder.max_length)
        else:
            text = [name for source in text_sources(data, out) for name in source.text]
            make_tokenizer(text, folder, vocabulary.kind, vocabulary.size, data.layout, data.text_field, data.exclude)
    tokenizer = Tokenizer.load(folder)

    # The token store of each source.
    for source in text_sources(data, out):
        if source.text and resume and source.folder.exists():
            if text_has_changed(open_store(source.folder, tokenizer), source.text, data.exclude):
                logger.warning(f"the text of {out} has changed: the run continues with the text that it started with")
        elif source.text:
            prepare(source.text, tokenizer, source.folder, data.layout, data.text_field, exclude=data.exclude)

    # The shape of the model, and the budget.
    if initial is not None:
        encoder = shape_of(recipe, initial, tokenizer)
    elif recipe.initialize_from is None:
        encoder = replace(encoder, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    stop = DEFAULT_STOP if recipe.stop == StopConfig() else recipe.stop
    return open_data(replace(with_absolute_paths(recipe), encoder=encoder, head=head, stop=stop), out, ranks)


def tokenizer_folder(out: Path) -> Path:
    """The folder of the tokenizer of a run."""
    return out / "tokenizer"


@dataclass(frozen=True)
class TextSource:
    """A source of the text of a run, and the folder of its token store."""

    name: str
    """in a mixture; otherwise empty"""
    weight: float
    text: list[str]
    """files, folders, globs or Hub data sets; empty for an existing store"""
    folder: Path


def text_sources(data: DataConfig, out: Path) -> list[TextSource]:
    """The sources of the run in `out`: its text, its store, or the sources of its mixture in order."""
    if data.store is not None:
        return [TextSource("", 1.0, [], Path(data.store))]
    if not data.mixture:
        return [TextSource("", 1.0, data.corpus, out / "store")]
    sources = []
    for number, (name, weight) in enumerate(data.mixture.items()):
        path = Path(name).expanduser()
        text, folder = ([], path) if holds_store(name) else ([name], out / f"store-{number}")
        sources.append(TextSource(path.name, weight, text, folder))
    return sources


def make_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The properties of `tokenizer` that masking needs."""
    maskable = np.ones(tokenizer.vocab_size, bool)
    maskable[list(tokenizer.special_ids)] = False
    return Vocabulary(tokenizer.mask_id, maskable, tokenizer.replacement_ids, tokenizer.word_starts)


def make_streams(
    recipe: PretrainRecipe, plan: Plan, stores: Sequence[TokenStore], tokenizer: Tokenizer
) -> tuple[BatchStream, BatchStream | None, str]:
    """(training, validation or None, a message about the split) from the stores of a run's sources.

    Validation sequences are as long as those of the last phase. In a mixture, each source contributes a validation split of its own, and
    validation sequences are drawn from the sources by the same weights.
    """
    room = max(plan.lengths) - SPECIALS_PER_CHUNK
    splits, messages = [], []
    for source, store in zip(text_sources(recipe.data, Path()), stores, strict=True):
        documents = Documents(store.starts, store.lengths)
        training, validation, message = split_validation(documents, store.hashes, recipe.data.validation_split, room)
        if not len(training):
            name = source.name or "the corpus"
            raise InputError(f"{name} is too small for a validation split: give more text or data.validation_split 0")
        splits.append((training, validation))
        if message:
            messages.append(f"{source.name}: {message}" if source.name else message)
    kept, split = zip(*splits)
    sequences = {length: _sequences(recipe.data, length, stores, kept, recipe.seed) for length in plan.lengths}
    fixed = fixed_sequences(recipe, plan, stores, split, tokenizer) if all(map(len, split)) else None
    stream = _stream(recipe, sequences, plan, tokenizer)
    steps = -(-stream.sequences_at(0).sequences_in_epoch // plan.at(0).batch_size)
    _check_masks("text", stream, steps, "train a tokenizer on it")
    if fixed is not None:
        _check_masks("validation split", fixed, fixed.steps, "give more text, or data.validation_split 0")
    return stream, fixed, "\n".join(messages)


def _check_masks(name: str, stream: BatchStream, steps: int, fix: str) -> None:
    """InputError if the first `steps` steps of a stream mask nothing: there is nothing to learn, or to measure on."""
    if not any(stream.batch(step).masked_tokens for step in range(steps)):
        raise InputError(f"no token of the {name} can be masked, as each is [UNK] or a special token: {fix}")


def fixed_sequences(
    recipe: PretrainRecipe, plan: Plan, stores: Sequence[TokenStore], parts: Sequence[Documents], tokenizer: Tokenizer
) -> BatchStream:
    """At most `validation.sequences` sequences with fixed masks, for measuring, made of the documents `parts` of each store. In a mixture,
    documents of a small source may occur again, with other masks."""
    last = replace(plan.phases[-1], first_step=0, first_sequence=0, mask_seed=_VALIDATION_SEED)
    sequences = _sequences(recipe.data, last.sequence_length, stores, parts, _VALIDATION_SEED)
    count = min(recipe.validation.sequences, sequences.sequences_in_epoch)
    return _stream(recipe, {last.sequence_length: sequences}, Plan((last,)), tokenizer, count)


def _sequences(
    data: DataConfig, sequence_length: int, stores: Sequence[TokenStore], parts: Sequence[Documents], seed: int
) -> Sequences:
    sources = [
        Source(store, SequenceIndex(part, sequence_length, data.window_documents, seed, store.folder))
        for store, part in zip(stores, parts, strict=True)
    ]
    return sources[0] if len(sources) == 1 else Mixture(sources, list(data.mixture.values()), seed)


def _stream(
    recipe: PretrainRecipe, sequences: dict[int, Sequences], plan: Plan, tokenizer: Tokenizer, last: int | None = None
) -> BatchStream:
    ids = SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    return BatchStream(sequences, plan, ids, make_vocabulary(tokenizer), recipe.masking, last)


def with_absolute_paths(recipe: PretrainRecipe) -> PretrainRecipe:
    """`recipe` with paths that do not depend on the current directory. InputError if its mixture contains a source twice."""
    data, vocabulary, validation = recipe.data, recipe.vocabulary, recipe.validation
    if len({real_path(Path(source).expanduser()) for source in data.mixture}) < len(data.mixture):
        raise InputError(f"data.mixture names a source twice ({', '.join(data.mixture)}): give it once with one weight")
    corpus, mixture = map(absolute, data.corpus), {absolute(name): weight for name, weight in data.mixture.items()}
    store, tokenizer = absolute(data.store), absolute(data.tokenizer)
    return replace(
        recipe,
        data=replace(data, store=store, tokenizer=tokenizer, corpus=list(corpus), mixture=mixture),
        vocabulary=replace(vocabulary, add_words=absolute(vocabulary.add_words)),
        validation=replace(validation, general=absolute(validation.general)),
        initialize_from=absolute(recipe.initialize_from),
    )
