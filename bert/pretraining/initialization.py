"""What a run starts from: the model of a folder, with another vocabulary where the recipe says so, larger where it says so.

`load_initial` reads the folder, `check_initial` says which tokenizer comes of it, before anything is written, and `initialize` makes the
first weights. Each is a function of recipe and folder alone, so that all ranks come to the same weights.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bert.data.corpus import find_corpus
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import add_words, read_words
from bert.errors import InputError
from bert.hf.folder import start_masked_lm
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.expansion import expand, larger
from bert.model.heads import MaskedLM
from bert.pretraining.config import PretrainRecipe, check_phase_fits
from bert.pretraining.vocabulary_transfer import carry_over, overlap


@dataclass(frozen=True)
class InitialModel:
    """The model of a folder, as it came."""

    folder: str
    model: MaskedLM
    """in eval mode"""
    tokenizer: Tokenizer
    """the one that its vocabulary belongs to"""
    fresh: tuple[str, ...]
    """parameters of the masked-LM head that the folder does not hold"""

    def describe(self, seed: int) -> list[str]:
        """A line where parts of the model are no part of the folder."""
        if not self.fresh:
            return []
        parts = dict.fromkeys(name.rpartition(".")[0] if name.count(".") > 1 else name for name in self.fresh)
        whole = len(self.fresh) == len(self.model.head.state_dict())
        what = "has no masked-LM head: its" if whole else "lacks a part of its masked-LM head:"
        return [
            f"{self.folder} {what} {', '.join(parts)} {'start' if len(parts) > 1 else 'starts'} fresh, from seed {seed}"
        ]


def load_initial(recipe: PretrainRecipe) -> InitialModel:
    """Read the folder `recipe.initialize_from`. InputError where it holds no model, or no tokenizer and none is given."""
    folder = str(recipe.initialize_from)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model, fresh = start_masked_lm(folder)
    if model.tokenizer is None:
        if recipe.data.tokenizer is None:
            raise InputError(f"{folder}: holds no tokenizer: give the one that it was trained with as --tokenizer")
        model.tokenizer = Tokenizer.load(recipe.data.tokenizer)
    tokenizer = model.tokenizer
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"{recipe.data.tokenizer}: has {tokenizer.vocab_size} entries and --from {folder} has {model.config.vocab_size}:"
            " give the tokenizer that it was trained with"
        )
    return InitialModel(folder, model, tokenizer, tuple(fresh))


def check_initial(recipe: PretrainRecipe, initial: InitialModel) -> Tokenizer | None:
    """The tokenizer of a run that is initialized from `initial`; none where it is yet to be trained on the corpus.

    InputError for what does not fit the model: a shape of its own, rows that are too long, words that cannot be added,
    sizes to expand to.
    """
    config = initial.model.config
    tokenizer: Tokenizer | None = initial.tokenizer
    if recipe.vocabulary.add_words is not None:
        file = recipe.vocabulary.add_words
        tokenizer = add_words(initial.tokenizer, read_words(file), source=file)[0]
    elif recipe.vocabulary.retrain:
        tokenizer = None
    elif recipe.data.tokenizer is not None:
        tokenizer = Tokenizer.load(recipe.data.tokenizer)
    general = recipe.validation.general
    if general is not None:
        if not Path(general).expanduser().is_file():
            raise InputError(f"{general}: no such file: give a text file as --general, or leave it out")
        # refuses a file without text
        next(find_corpus(general, recipe.data.layout, recipe.data.text_field).documents())
    shape = shape_of(recipe, initial, tokenizer)
    asked = recipe.encoder
    if tokenizer is None:
        asked = replace(asked, vocab_size=shape.vocab_size, pad_id=shape.pad_id)
    untouched = recipe.encoder == EncoderConfig() or asked == shape
    if not untouched or recipe.head not in (HeadConfig(), initial.model.head_config):
        raise InputError(
            f"encoder and head come with --from {initial.folder}: leave both groups out (expand makes the model larger)"
        )
    in_use = not recipe.phases or any(phase.sequence_length is None for phase in recipe.phases)
    if in_use and recipe.data.sequence_length > config.max_length:
        raise InputError(
            f"data.sequence_length {recipe.data.sequence_length} is longer than the {config.max_length} tokens of"
            f" --from {initial.folder}: lower it"
        )
    for number, phase in enumerate(recipe.phases, start=1):
        check_phase_fits(number, phase, config)
    return tokenizer


def shape_of(recipe: PretrainRecipe, initial: InitialModel, tokenizer: Tokenizer | None) -> EncoderConfig:
    """The shape of the model that `initialize` makes; `tokenizer` none: as far as it is known. A vocabulary that stays the same
    may be padded, another one is not."""
    expanded = larger(
        initial.model.config, recipe.expand.num_layers, recipe.expand.hidden_size, recipe.expand.intermediate_size
    )
    if tokenizer is None or tokenizer.hash == initial.tokenizer.hash:
        return expanded
    return replace(expanded, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)


def initialize(recipe: PretrainRecipe, initial: InitialModel, tokenizer: Tokenizer) -> tuple[MaskedLM, list[str]]:
    """The first weights of a run, in eval mode, and lines that say how they came to be."""
    model, lines = initial.model, initial.describe(recipe.seed)
    if tokenizer.hash != initial.tokenizer.hash:
        rows = overlap(initial.tokenizer, tokenizer)
        model = carry_over(model, tokenizer, rows)
        if recipe.vocabulary.add_words is None:
            unknown = f", {rows.unknown:,} as the mean of all" if rows.unknown else ""
            lines.append(
                f"tokenizer: {rows.kept:,} of {tokenizer.vocab_size:,} pieces keep their rows, {rows.from_pieces:,} start as"
                f" the mean of their old pieces{unknown}"
            )
    if recipe.vocabulary.add_words is not None:
        lines.append(_describe_words(recipe.vocabulary.add_words, initial.tokenizer, tokenizer))
    shape = shape_of(recipe, initial, tokenizer)
    if shape != model.config:
        lines.append(f"expanded from {_sizes(model.config)} to {_sizes(shape)}")
        model = expand(model, shape, recipe.seed)
    model.tokenizer = tokenizer
    return model, lines


def _describe_words(file: str, old: Tokenizer, new: Tokenizer) -> str:
    given, added = len(read_words(file)), new.vocab_size - old.vocab_size
    if not added:
        return f"{file}: all {given:,} words are known to the tokenizer: none is added"
    known = f"; {given - added:,} known or given twice" if given > added else ""
    return (
        f"{file}: {added:,} words are new (ids {old.vocab_size} to {new.vocab_size - 1}) and start as the mean of their old"
        f" pieces{known}"
    )


def _sizes(config: EncoderConfig) -> str:
    return f"{config.num_layers} layers × {config.hidden_size} ({config.intermediate_size} in the MLP)"
