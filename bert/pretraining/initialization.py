"""Initialization from a model folder, with another vocabulary or a larger shape if the recipe says so.

`load_initial` reads the folder, `check_initial` determines the tokenizer before anything is written, and `initialize` makes the initial
weights. All depend on the recipe and the folder alone, so that all ranks get the same weights.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from bert.data.corpus import find_corpus
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import add_words, read_words
from bert.errors import InputError
from bert.hf.folder import start_masked_lm
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.expansion import expand, larger
from bert.model.heads import MaskedLM
from bert.model.layers import without_memory
from bert.pretraining.config import PretrainRecipe, check_lengths
from bert.pretraining.objective import objective_named
from bert.pretraining.vocabulary_transfer import carry_over, overlap

logger = logging.getLogger(__name__)


class InitialModel(NamedTuple):
    """The model in a folder, unchanged."""

    folder: str
    model: MaskedLM
    """in eval mode"""
    tokenizer: Tokenizer
    """the tokenizer of its vocabulary"""
    fresh: tuple[str, ...]
    """parameters of the masked-LM head that are not in the folder and are initialized randomly"""


def load_initial(recipe: PretrainRecipe) -> InitialModel:
    """Read the folder `recipe.initialize_from`. InputError if it holds no model, or if there is no tokenizer for it."""
    folder, given = str(recipe.initialize_from), recipe.data.tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model, fresh = start_masked_lm(folder)
    if model.tokenizer is None:
        if given is None:
            raise InputError(f"{folder}: holds no tokenizer: give the one that it was trained with as --tokenizer")
        model.tokenizer = Tokenizer.load(given)
    tokenizer, entries = model.tokenizer, model.config.vocab_size
    if tokenizer.vocab_size > entries:
        both = f"has {tokenizer.vocab_size} entries and --from {folder} has {entries}"
        raise InputError(f"{given}: {both}: give the tokenizer that it was trained with")
    return InitialModel(folder, model, tokenizer, tuple(fresh))


def check_initial(recipe: PretrainRecipe, initial: InitialModel) -> Tokenizer | None:
    """The tokenizer of a run that is initialized from `initial`; None if it will be trained on the corpus.

    InputError for what does not fit the model: an objective that trains another class of model, another shape, sequences that are too
    long, words that cannot be added, sizes that it cannot be expanded to.
    """
    with without_memory():
        trained = objective_named(recipe.objective).build(initial.model.config, initial.model.head_config)
    if type(trained) is not MaskedLM or trained.state_dict().keys() != initial.model.state_dict().keys():
        raise InputError(f"objective {recipe.objective} trains no plain masked LM: leave out --from {initial.folder}")
    tokenizer: Tokenizer | None = initial.tokenizer
    if (file := recipe.vocabulary.add_words) is not None:
        tokenizer = add_words(initial.tokenizer, read_words(file), source=file)[0]
    elif recipe.vocabulary.retrain:
        tokenizer = None
    elif recipe.data.tokenizer is not None:
        tokenizer = Tokenizer.load(recipe.data.tokenizer)
    if (general := recipe.validation.general) is not None:
        if not Path(general).expanduser().is_file():
            raise InputError(f"{general}: no such file: give a text file as --general, or leave it out")
        # Refuses a file without text.
        next(find_corpus(general, recipe.data.layout, recipe.data.text_field).documents())
    shape, asked = shape_of(recipe, initial, tokenizer), recipe.encoder
    if tokenizer is None:
        asked = replace(asked, vocab_size=shape.vocab_size, pad_id=shape.pad_id)
    untouched = recipe.encoder == EncoderConfig() or asked == shape
    if not untouched or recipe.head not in (HeadConfig(), initial.model.head_config):
        raise InputError(f"encoder and head come with --from {initial.folder}: leave both out (expand enlarges it)")
    config = initial.model.config
    check_lengths(recipe, config, f"the {config.max_length} tokens of --from {initial.folder}: lower it")
    return tokenizer


def shape_of(recipe: PretrainRecipe, initial: InitialModel, tokenizer: Tokenizer | None) -> EncoderConfig:
    """The shape of the model that `initialize` makes; without `tokenizer`, as far as it is known. Only an unchanged vocabulary may be
    padded."""
    sizes = recipe.expand
    expanded = larger(initial.model.config, sizes.num_layers, sizes.hidden_size, sizes.intermediate_size)
    if tokenizer is None or tokenizer.hash == initial.tokenizer.hash:
        return expanded
    return replace(expanded, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)


def initialize(recipe: PretrainRecipe, initial: InitialModel, tokenizer: Tokenizer) -> MaskedLM:
    """The model with the initial weights of a run, in eval mode. Logs how they were made."""
    model, words = initial.model, recipe.vocabulary.add_words
    if initial.fresh:
        logger.info(_describe_fresh(initial, recipe.seed))
    if tokenizer.hash != initial.tokenizer.hash:
        rows = overlap(initial.tokenizer, tokenizer)
        model = carry_over(model, tokenizer, rows)
        if words is None:
            kept = f"{rows.kept:,} of {tokenizer.vocab_size:,} tokens keep their vectors"
            unknown = f", {rows.unknown:,} as the mean of all" if rows.unknown else ""
            logger.info(f"tokenizer: {kept}, {rows.averaged:,} start as the mean of their old tokens{unknown}")
    if words is not None:
        logger.info(_describe_words(words, initial.tokenizer, tokenizer))
    shape = shape_of(recipe, initial, tokenizer)
    if shape != model.config:
        logger.info(f"expanded from {_sizes(model.config)} to {_sizes(shape)}")
        model = expand(model, shape, recipe.seed)
    model.tokenizer = tokenizer
    return model


def _describe_fresh(initial: InitialModel, seed: int) -> str:
    parts = dict.fromkeys(name.rpartition(".")[0] if name.count(".") > 1 else name for name in initial.fresh)
    whole = len(initial.fresh) == len(initial.model.head.state_dict())
    what = "has no masked-LM head" if whole else "lacks a part of its masked-LM head"
    return f"{initial.folder} {what}: random initialization of {', '.join(parts)} with seed {seed}"


def _describe_words(file: str, old: Tokenizer, new: Tokenizer) -> str:
    given, added = len(read_words(file)), new.vocab_size - old.vocab_size
    if not added:
        return f"{file}: all {given:,} words are known to the tokenizer: none is added"
    known = f"; {given - added:,} known or given twice" if given > added else ""
    ids = f"ids {old.vocab_size} to {new.vocab_size - 1}"
    return f"{file}: {added:,} words are new ({ids}) and start as the mean of their old tokens{known}"


def _sizes(config: EncoderConfig) -> str:
    return f"{config.num_layers} layers × {config.hidden_size} ({config.intermediate_size} in the MLP)"
