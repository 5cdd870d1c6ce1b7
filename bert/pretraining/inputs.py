"""What a pretraining run reads: its text, tokenizer and store, checked before anything is written, made where they are missing.

Out come the streams of batches. `run.py` calls these in order.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bert.errors import InputError
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import Vocabulary
from bert.pretraining.start import Start, absolute, check_start, load_start, shape_of
from bert.pretraining.stream import BatchStream, SpecialIds, Split, StepLoader
from bert.text.corpus import find_corpus
from bert.text.packing import SPECIALS_PER_CHUNK, Documents, RowIndex, hold_out
from bert.text.prepare import prepare
from bert.text.store import TokenStore, open_store
from bert.text.tokenizer import Tokenizer
from bert.text.vocabulary import make_tokenizer
from bert.training.config import StopConfig

DEFAULT_STOP = StopConfig(minutes=20)
_VALIDATION_SEED = 2018  # the masks of held-out rows never change, whatever the seed of the run


def check_inputs(recipe: PretrainRecipe, out: Path) -> Start | None:
    """InputError for text, tokenizer and store that are not there or do not fit, before anything is written or overwritten.

    Returns what the run starts from, where it is not fresh weights.
    """
    data = recipe.data
    if data.corpus and data.store is not None:
        raise InputError(f"text and a store are given: leave out the text, or data.store {data.store}")
    if not data.corpus and data.store is None:
        raise InputError(
            "no text: give a file, a folder or a glob (bert pretrain texts/ --out RUN), or --store with --tokenizer"
        )
    tokenizer = None if data.tokenizer is None else Tokenizer.load(data.tokenizer)
    start = None
    if recipe.start is not None:
        start = load_start(recipe)
        tokenizer = check_start(recipe, start)
    if data.store is not None:
        if tokenizer is None:
            raise InputError("data.store needs data.tokenizer: give the one that the store was made with")
        open_store(data.store, tokenizer)
        return start
    find_corpus(data.corpus, data.layout, data.text_field)
    for text in data.corpus:
        if Path(text).is_dir() and out.resolve().is_relative_to(Path(text).resolve()):
            raise InputError(
                f"--out {out} lies in the folder of text {text}, which would be read as text: give another --out"
            )
    return start


def prepare_inputs(
    recipe: PretrainRecipe, out: Path, say: Callable[[str], None], start: Start | None = None
) -> PretrainRecipe:
    """Make what is missing in `out`: tokenizer and store. Returns the recipe with every open field decided."""
    data, vocabulary, folder = recipe.data, recipe.vocabulary, tokenizer_folder(out)
    encoder, head, validation = recipe.encoder, recipe.head, recipe.validation
    if not folder.exists():
        if start is not None:
            encoder, head = start.model.config, start.model.head_config
            tokenizer = check_start(recipe, start)
        else:
            tokenizer = None if data.tokenizer is None else Tokenizer.load(data.tokenizer)
        if tokenizer is not None:
            tokenizer.save(folder, model_max_length=encoder.max_length)
        else:
            make_tokenizer(data.corpus, folder, vocabulary.kind, vocabulary.size, data.layout, data.text_field, say=say)
    tokenizer = Tokenizer.load(folder)
    if data.store is not None:
        data = dataclasses.replace(data, store=absolute(data.store))
    elif not (out / "store").exists():
        prepare(data.corpus, tokenizer, out / "store", data.layout, data.text_field, say=say)
    if start is not None:
        encoder = shape_of(recipe, start, tokenizer)
        vocabulary = dataclasses.replace(vocabulary, add_words=absolute(vocabulary.add_words))
        validation = dataclasses.replace(validation, general=absolute(validation.general))
    elif recipe.start is None:
        encoder = dataclasses.replace(encoder, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    recipe = dataclasses.replace(
        recipe,
        data=data,
        vocabulary=vocabulary,
        encoder=encoder,
        head=head,
        validation=validation,
        start=absolute(recipe.start),
        stop=DEFAULT_STOP if recipe.stop == StopConfig() else recipe.stop,
    )
    store = open_store(store_folder(recipe, out), tokenizer)
    make_streams(recipe, store, tokenizer, cache=store_folder(recipe, out))  # refuses what is too small to train on
    return recipe


def tokenizer_folder(out: Path) -> Path:
    """Where a run keeps its tokenizer."""
    return out / "tokenizer"


def store_folder(recipe: PretrainRecipe, out: Path) -> Path:
    """Where a run's token store is."""
    return out / "store" if recipe.data.store is None else Path(recipe.data.store)


def make_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """What masking has to know of `tokenizer`."""
    maskable = np.ones(tokenizer.vocab_size, bool)
    maskable[list(tokenizer.special_ids)] = False
    return Vocabulary(tokenizer.mask_id, maskable, tokenizer.replacement_ids, tokenizer.word_starts)


def make_streams(
    recipe: PretrainRecipe, store: TokenStore, tokenizer: Tokenizer, cache: Path | None = None
) -> tuple[BatchStream, BatchStream | None, str]:
    """(training, validation or None, a message about the split) from a store; `cache` is a folder for row counts."""
    data = recipe.data
    room = data.row_length - SPECIALS_PER_CHUNK
    documents = Documents(store.starts, store.lengths)
    kept, held_out, message = hold_out(documents, store.hashes, data.held_out, room)
    if not len(kept):
        raise InputError(
            "the corpus is too small to train on: nothing is left beside the held-out text; give more text or data.held_out 0"
        )
    validation = fixed_rows(recipe, store, held_out, tokenizer, cache) if len(held_out) else None
    return _stream(recipe, store, kept, tokenizer, recipe.seed, cache), validation, message


def fixed_rows(
    recipe: PretrainRecipe, store: TokenStore, documents: Documents, tokenizer: Tokenizer, cache: Path | None = None
) -> BatchStream:
    """Rows to measure on, `validation.rows` of them at most: their masks never change."""
    stream = _stream(recipe, store, documents, tokenizer, _VALIDATION_SEED, cache)
    stream.last_row = min(recipe.validation.rows, stream.rows.rows_in_epoch(0))
    return stream


def _stream(
    recipe: PretrainRecipe, store: TokenStore, part: Documents, tokenizer: Tokenizer, seed: int, cache: Path | None
) -> BatchStream:
    data = recipe.data
    special_ids = SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    rows = RowIndex(part, data.row_length, data.window_documents, seed, cache)
    vocabulary = make_vocabulary(tokenizer)
    return BatchStream(store, rows, data.batch_rows, special_ids, vocabulary, recipe.masking, seed)


def validation_loader(validation: BatchStream, split: Split, rank: int) -> StepLoader:
    """All held-out rows once; the last batch is filled up with padding."""
    assert validation.last_row is not None
    return StepLoader(validation, split, rank, steps=-(-validation.last_row // split.batch_rows))


def identity(store: TokenStore, tokenizer: Tokenizer) -> dict[str, str]:
    """What a resumed run must find again: the tokenizer, and the text as the store knows it."""
    return {"tokenizer": tokenizer.hash, "text": str(store.info.get("fingerprint", {}).get("content", ""))}
