"""What a pretraining run reads: its text, tokenizer and store, checked before anything is written, made where they are missing.

Out come the streams of batches. `run.py` calls these in order.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import has_magic
from pathlib import Path
from typing import TypeVar

import numpy as np

from bert.data.corpus import find_corpus
from bert.data.packing import SPECIALS_PER_CHUNK, Documents, SequenceIndex, split_validation
from bert.data.prepare import prepare, text_has_changed
from bert.data.store import TokenStore, holds_store, open_store
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import make_tokenizer
from bert.errors import InputError
from bert.files import real_path
from bert.pretraining.config import DataConfig, PretrainRecipe
from bert.pretraining.initialization import InitialModel, check_initial, load_initial, shape_of
from bert.pretraining.masking import Vocabulary
from bert.pretraining.phases import Plan, resolve_plan
from bert.pretraining.stream import BatchStream, Mixture, Source, SpecialIds, StepLoader
from bert.training.config import StopConfig

logger = logging.getLogger(__name__)

DEFAULT_STOP = StopConfig(minutes=20)
_VALIDATION_SEED = 2018  # the masks of held-out sequences never change, whatever the seed of the run


@dataclass(frozen=True)
class TrainingData:
    """What a run is trained and measured on, opened once."""

    recipe: PretrainRecipe
    """with every open field decided"""
    folder: Path
    """of the run"""
    tokenizer: Tokenizer
    stores: list[TokenStore]
    """one for each source of the text"""
    plan: Plan
    training: BatchStream
    validation: BatchStream | None
    """none where nothing is held out"""
    message: str
    """about the split, where something is to be said of it"""

    @property
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find again: the tokenizer, and the text as the stores know it."""
        contents = [str(store.info.get("fingerprint", {}).get("content", "")) for store in self.stores]
        return {"tokenizer": self.tokenizer.hash, "text": " ".join(contents)}


def open_data(recipe: PretrainRecipe, out: Path, ranks: int = 1) -> TrainingData:
    """The data of the run in the folder `out`, dealt out over `ranks`. InputError where it is damaged, or too small to train on."""
    tokenizer = Tokenizer.load(tokenizer_folder(out))
    stores = [open_store(source.folder, tokenizer) for source in text_sources(recipe.data, out)]
    plan = resolve_plan(recipe, ranks)
    return TrainingData(recipe, out, tokenizer, stores, plan, *make_streams(recipe, plan, stores, tokenizer))


def check_inputs(recipe: PretrainRecipe, out: Path) -> InitialModel | None:
    """InputError for text, tokenizer and store that are not there or do not fit, before anything is written or overwritten.

    Returns what the run starts from, where it is not random initialization.
    """
    data = recipe.data
    check_apart(out, "the text", *data.corpus, *data.mixture)
    check_apart(out, "data.tokenizer", data.tokenizer)
    check_apart(out, "data.store", data.store)
    check_apart(out, "initialize_from", recipe.initialize_from)
    check_apart(out, "vocabulary.add_words", recipe.vocabulary.add_words)
    check_apart(out, "validation.general", recipe.validation.general)
    if data.corpus and data.store is not None:
        raise InputError(f"text and a store are given: leave out the text, or data.store {data.store}")
    if not data.corpus and data.store is None and not data.mixture:
        raise InputError(
            "no text: give a file, a folder or a glob (bert pretrain texts/ --out RUN), or --store with --tokenizer"
        )
    tokenizer = None if data.tokenizer is None else Tokenizer.load(data.tokenizer)
    initial = None
    if recipe.initialize_from is not None:
        initial = load_initial(recipe)
        tokenizer = check_initial(recipe, initial)
    for source in text_sources(data, out):
        if source.text:
            find_corpus(source.text, data.layout, data.text_field)
        elif tokenizer is None:
            if data.mixture and recipe.initialize_from is not None:  # its vocabulary is trained on text
                raise InputError(
                    f"data.mixture: {source.folder} is tokenised already and vocabulary.retrain given: give the text"
                )
            what = f"data.mixture: the store {source.folder}" if data.mixture else "data.store"
            raise InputError(f"{what} needs data.tokenizer: give the one that the store was made with")
        else:
            open_store(source.folder, tokenizer)
        for text in source.text:
            if Path(text).is_dir() and real_path(out).is_relative_to(real_path(Path(text))):
                raise InputError(
                    f"--out {out} lies in the folder of text {text}, which would be read as text: give another --out"
                )
    return initial


def prepare_inputs(
    recipe: PretrainRecipe,
    out: Path,
    initial: InitialModel | None = None,
    resume: bool = False,
    ranks: int = 1,
) -> TrainingData:
    """Make what is missing in `out`: tokenizer and store. Every open field of the recipe is decided then. A run that is resumed
    keeps the store that it has; otherwise one that a killed preparation left must be of this text."""
    data, vocabulary, folder = recipe.data, recipe.vocabulary, tokenizer_folder(out)
    encoder, head = (
        (recipe.encoder, recipe.head) if initial is None else (initial.model.config, initial.model.head_config)
    )
    if not Tokenizer.has_files(folder):
        if initial is not None:
            tokenizer = check_initial(recipe, initial)
        else:
            tokenizer = None if data.tokenizer is None else Tokenizer.load(data.tokenizer)
        if tokenizer is not None:
            tokenizer.save(folder, model_max_length=encoder.max_length)
        else:
            text = [name for source in text_sources(data, out) for name in source.text]
            make_tokenizer(text, folder, vocabulary.kind, vocabulary.size, data.layout, data.text_field)
    tokenizer = Tokenizer.load(folder)
    for source in text_sources(data, out):
        if source.text and resume and source.folder.exists():
            if text_has_changed(open_store(source.folder, tokenizer), source.text):
                logger.warning(f"the text of {out} has changed: the run goes on with the text that it began with")
        elif source.text:
            prepare(source.text, tokenizer, source.folder, data.layout, data.text_field)
    if initial is not None:
        encoder = shape_of(recipe, initial, tokenizer)
    elif recipe.initialize_from is None:
        encoder = replace(encoder, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    stop = DEFAULT_STOP if recipe.stop == StopConfig() else recipe.stop
    return open_data(replace(with_absolute_paths(recipe), encoder=encoder, head=head, stop=stop), out, ranks)


def check_apart(out: Path, name: str, *paths: str | None) -> None:
    """InputError where one of `paths`, which a run reads, lies in the folder `out`, which it fills or replaces."""
    for path in paths:
        if path is not None and real_path(Path(path).expanduser()).is_relative_to(real_path(out)):
            raise InputError(f"{name} {path} lies in --out {out}: give another --out")


def tokenizer_folder(out: Path) -> Path:
    """Where a run keeps its tokenizer."""
    return out / "tokenizer"


@dataclass(frozen=True)
class TextSource:
    """A source of a run's text, and where its token store is."""

    name: str
    """of a source of a mixture; empty where there is but one"""
    weight: float
    text: list[str]
    """files, folders, globs or Hub data sets; empty: it is a store already"""
    folder: Path


def text_sources(data: DataConfig, out: Path) -> list[TextSource]:
    """What the run in the folder `out` reads: its text, its store, or the sources of its mixture in their order."""
    if data.store is not None:
        return [TextSource("", 1.0, [], Path(data.store))]
    if not data.mixture:
        return [TextSource("", 1.0, data.corpus, out / "store")]
    sources = []
    for number, (name, weight) in enumerate(data.mixture.items()):
        path = Path(name).expanduser()
        if holds_store(name):
            sources.append(TextSource(path.name, weight, [], path))
        else:
            sources.append(TextSource(path.name, weight, [name], out / f"store-{number}"))
    return sources


def make_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """What masking has to know of `tokenizer`."""
    maskable = np.ones(tokenizer.vocab_size, bool)
    maskable[list(tokenizer.special_ids)] = False
    return Vocabulary(tokenizer.mask_id, maskable, tokenizer.replacement_ids, tokenizer.word_starts)


def make_streams(
    recipe: PretrainRecipe, plan: Plan, stores: Sequence[TokenStore], tokenizer: Tokenizer
) -> tuple[BatchStream, BatchStream | None, str]:
    """(training, validation or None, a message about the split) from the stores of a run's sources.

    The validation split has sequences as long as those of the last phase; in a mixture each source gives text of its own to it, and the
    sequences are drawn from the sources by the same weights.
    """
    room = max(plan.lengths) - SPECIALS_PER_CHUNK
    kept: list[Documents] = []
    split: list[Documents] = []
    messages = []
    for source, store in zip(text_sources(recipe.data, Path()), stores, strict=True):
        training, validation, message = split_validation(
            Documents(store.starts, store.lengths), store.hashes, recipe.data.validation_split, room
        )
        if not len(training):
            raise InputError(
                f"{source.name or 'the corpus'} is too small to train on: nothing is left beside the validation split;"
                " give more text or data.validation_split 0"
            )
        kept.append(training)
        split.append(validation)
        messages += [f"{source.name}: {message}" if source.name else message] if message else []
    sequences = {length: _sequences(recipe.data, length, stores, kept, recipe.seed) for length in plan.lengths}
    training_stream = BatchStream(sequences, plan, special_ids(tokenizer), make_vocabulary(tokenizer), recipe.masking)
    fixed = fixed_sequences(recipe, plan, stores, split, tokenizer) if all(map(len, split)) else None
    return training_stream, fixed, "\n".join(messages)


def fixed_sequences(
    recipe: PretrainRecipe, plan: Plan, stores: Sequence[TokenStore], parts: Sequence[Documents], tokenizer: Tokenizer
) -> BatchStream:
    """Sequences to measure on, `validation.sequences` of them at most: their masks never change. `parts` are the documents of each
    store that they are made of. In a mixture a source that has few of them gives them again, under other masks."""
    last = replace(plan.phases[-1], first_step=0, first_sequence=0, mask_seed=_VALIDATION_SEED)
    sequences = _sequences(recipe.data, last.sequence_length, stores, parts, _VALIDATION_SEED)
    return BatchStream(
        {last.sequence_length: sequences},
        Plan((last,)),
        special_ids(tokenizer),
        make_vocabulary(tokenizer),
        recipe.masking,
        last_sequence=min(recipe.validation.sequences, sequences.sequences_in_epoch),
    )


def _sequences(
    data: DataConfig, sequence_length: int, stores: Sequence[TokenStore], parts: Sequence[Documents], seed: int
) -> Source | Mixture:
    sources = [
        Source(store, SequenceIndex(part, sequence_length, data.window_documents, seed, store.folder))
        for store, part in zip(stores, parts, strict=True)
    ]
    return sources[0] if len(sources) == 1 else Mixture(sources, list(data.mixture.values()), seed)


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """The ids that packing puts into sequences."""
    return SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)


def validation_loader(validation: BatchStream, rank: int) -> StepLoader:
    """All sequences of the validation split once; the last batch is filled up with padding."""
    assert validation.last_sequence is not None
    return StepLoader(validation, rank=rank, steps=-(-validation.last_sequence // validation.plan.at(0).batch_size))


def with_absolute_paths(recipe: PretrainRecipe) -> PretrainRecipe:
    """`recipe` with its paths as they are meant in any folder. InputError where two sources of its mixture are one."""
    data, vocabulary, validation = recipe.data, recipe.vocabulary, recipe.validation
    if len({real_path(Path(source).expanduser()) for source in data.mixture}) < len(data.mixture):
        raise InputError(
            f"data.mixture names a source twice ({', '.join(data.mixture)}): give it once, with one weight"
        )
    return replace(
        recipe,
        data=replace(
            data,
            store=absolute(data.store),
            tokenizer=absolute(data.tokenizer),
            corpus=[absolute(name) for name in data.corpus],
            mixture={absolute(name): weight for name, weight in data.mixture.items()},
        ),
        vocabulary=replace(vocabulary, add_words=absolute(vocabulary.add_words)),
        validation=replace(validation, general=absolute(validation.general)),
        initialize_from=absolute(recipe.initialize_from),
    )


_Name = TypeVar("_Name", str, str | None)


def absolute(name: _Name) -> _Name:
    """A path or a glob that is meant in any folder, where it is one of this machine: a run is resumed and repeated from any folder."""
    if name is None:
        return name
    path = Path(name).expanduser()
    if path.exists():
        return str(real_path(path))
    return str(path.absolute()) if has_magic(name) else name
