"""What a pretraining run reads: its text, tokenizer and store, checked before anything is written, made where they are missing.

Out come the streams of batches. `run.py` calls these in order.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bert.errors import InputError
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.heads import MaskedLM
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import Vocabulary
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


def check_inputs(recipe: PretrainRecipe, out: Path) -> None:
    """InputError for text, tokenizer and store that are not there or do not fit, before anything is written or overwritten."""
    data = recipe.data
    if data.corpus and data.store is not None:
        raise InputError(f"text and a store are given: leave out the text, or data.store {data.store}")
    if not data.corpus and data.store is None:
        raise InputError(
            "no text: give a file, a folder or a glob (bert pretrain texts/ --out RUN), or --store with --tokenizer"
        )
    tokenizer = None if data.tokenizer is None else Tokenizer.load(data.tokenizer)
    if recipe.start is not None:
        tokenizer = _check_start(recipe, tokenizer)
    if data.store is not None:
        if tokenizer is None:
            raise InputError("data.store needs data.tokenizer: give the one that the store was made with")
        open_store(data.store, tokenizer)
        return
    find_corpus(data.corpus, data.layout, data.text_field)
    for text in data.corpus:
        if Path(text).is_dir() and out.resolve().is_relative_to(Path(text).resolve()):
            raise InputError(
                f"--out {out} lies in the folder of text {text}, which would be read as text: give another --out"
            )


def _check_start(recipe: PretrainRecipe, given: Tokenizer | None) -> Tokenizer:
    """The weights that a run starts from bring their shape and their tokenizer: others beside them are refused."""
    model = MaskedLM.load(str(recipe.start))
    if recipe.encoder not in (EncoderConfig(), model.config) or recipe.head not in (HeadConfig(), model.head_config):
        raise InputError(f"encoder and head come with --from {recipe.start}: leave both groups out")
    tokenizer = model.tokenizer or given
    if tokenizer is None:
        raise InputError(f"{recipe.start}: holds no tokenizer: give the one that it was trained with as --tokenizer")
    if given is not None and given.hash != tokenizer.hash:
        raise InputError(
            f"{recipe.data.tokenizer}: another tokenizer ({given.hash[:8]}) than that of --from {recipe.start}"
            f" ({tokenizer.hash[:8]}): leave it out"
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"{recipe.data.tokenizer}: has {tokenizer.vocab_size} entries and --from {recipe.start} has {model.config.vocab_size}:"
            " give the tokenizer that it was trained with"
        )
    if recipe.data.row_length > model.config.max_length:
        raise InputError(
            f"data.row_length {recipe.data.row_length} is longer than the {model.config.max_length} tokens of --from {recipe.start}:"
            " lower it"
        )
    return tokenizer


def prepare_inputs(recipe: PretrainRecipe, out: Path, say: Callable[[str], None]) -> PretrainRecipe:
    """Make what is missing in `out`: tokenizer and store. Returns the recipe with every open field decided."""
    data, vocabulary, folder = recipe.data, recipe.vocabulary, tokenizer_folder(out)
    encoder, head = recipe.encoder, recipe.head
    if not folder.exists():
        started = None if recipe.start is None else MaskedLM.load(recipe.start)
        tokenizer = None if data.tokenizer is None else Tokenizer.load(data.tokenizer)
        if started is not None:
            encoder, head, tokenizer = started.config, started.head_config, started.tokenizer or tokenizer
        if tokenizer is not None:
            tokenizer.save(folder, model_max_length=encoder.max_length)
        else:
            make_tokenizer(data.corpus, folder, vocabulary.kind, vocabulary.size, data.layout, data.text_field, say=say)
    tokenizer = Tokenizer.load(folder)
    if data.store is not None:
        data = dataclasses.replace(data, store=str(Path(data.store).resolve()))  # a run is resumed from any folder
    elif not (out / "store").exists():
        prepare(data.corpus, tokenizer, out / "store", data.layout, data.text_field, say=say)
    if recipe.start is None:  # weights that are there keep their vocabulary, which may be padded
        encoder = dataclasses.replace(encoder, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    stop = DEFAULT_STOP if recipe.stop == StopConfig() else recipe.stop
    recipe = dataclasses.replace(recipe, data=data, encoder=encoder, head=head, stop=stop)
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
    special_ids = SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    vocabulary = make_vocabulary(tokenizer)

    def stream(part: Documents, seed: int, last_row: int | None = None) -> BatchStream:
        rows = RowIndex(part, data.row_length, data.window_documents, seed, cache)
        return BatchStream(store, rows, data.batch_rows, special_ids, vocabulary, recipe.masking, seed, last_row)

    validation = None
    if len(held_out):
        validation = stream(held_out, _VALIDATION_SEED)
        validation.last_row = min(recipe.validation.rows, validation.rows.rows_in_epoch(0))
    return stream(kept, recipe.seed), validation, message


def validation_loader(validation: BatchStream, split: Split, rank: int) -> StepLoader:
    """All held-out rows once; the last batch is filled up with padding."""
    assert validation.last_row is not None
    return StepLoader(validation, split, rank, steps=-(-validation.last_row // split.batch_rows))


def identity(store: TokenStore, tokenizer: Tokenizer) -> dict[str, str]:
    """What a resumed run must find again: the tokenizer, and the text as the store knows it."""
    return {"tokenizer": tokenizer.hash, "text": str(store.info.get("fingerprint", {}).get("content", ""))}
