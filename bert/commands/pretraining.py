"""`bert tokenizer`, `prepare`, `pretrain` and `fill`: parse, call, print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bert.commands.options import TRUST, add_corpus
from bert.errors import InputError
from bert.files import real_path
from bert.flags import Parser

_SHORT = {
    "--tokenizer": "data.tokenizer",
    "--store": "data.store",
    "--from": "initialize_from",
    "--add-words": "vocabulary.add_words",
    "--new-tokenizer": "vocabulary.retrain",
    "--general": "validation.general",
}
"""the fields of the recipe with a flag of their own; every other one has its name: --data.batch_size"""


def _tokenizer(arguments: Sequence[str]) -> None:
    """Train a tokenizer on your text."""
    parser = Parser(_tokenizer)
    add_corpus(parser)
    parser.add("--out", "folder to write", required=True)
    parser.add("--kind", "wordpiece (lower-cased), bpe (byte-level) or unigram", default="wordpiece")
    parser.add("--vocab-size", "entries; not given: 8192, or what a small corpus supports", int)
    parser.add("--cased", "wordpiece: keep case and accents", bool)
    sample = "learn from so many at most, spread over the corpus; not given: 100 million, for unigram 5"
    parser.add("--sample-characters", sample, int)
    parser.add("--overwrite", "replace a tokenizer that is there", bool)
    options = parser.parse(arguments)
    from bert.data.vocabulary import make_tokenizer

    make_tokenizer(
        *(options.corpus, options.out, options.kind, options.vocab_size, options.layout, options.text_field),
        sample_characters=options.sample_characters,
        lowercase=False if options.cased else None,
        overwrite=options.overwrite,
    )


def _prepare(arguments: Sequence[str]) -> None:
    """Turn text into a token store, once, for any number of runs."""
    parser = Parser(_prepare)
    add_corpus(parser)
    parser.add("--tokenizer", "folder of a tokenizer, or a tokenizer.json", required=True)
    parser.add("--out", "folder to write; reused when corpus and tokenizer are unchanged", required=True)
    left_out = "documents to leave out: those that came before word for word, or nearly so (MinHash; needs bert[dedup])"
    parser.add("--dedup", left_out, Literal["exact", "near"], "exact")
    share = "with --dedup near: share of their five-token runs that near duplicates have in common, 0.1 to 0.95; not given: 0.8"
    parser.add("--jaccard", share, float)
    options = parser.parse(arguments)
    if options.dedup == "exact" and options.jaccard is not None:
        raise InputError(f"--jaccard {options.jaccard} is for --dedup near: give that too, or leave it out")
    jaccard = None if options.dedup == "exact" else 0.8 if options.jaccard is None else options.jaccard
    from bert.data.prepare import prepare

    prepare(options.corpus, options.tokenizer, options.out, options.layout, options.text_field, jaccard)


def _pretrain(arguments: Sequence[str]) -> None:
    """Pretrain an encoder on your text with masked-language-modeling.

    Makes a run folder with the model, the recipe, checkpoints and a log. Without a recipe it trains a small encoder of the ModernBERT
    family for 20 minutes."""
    from bert.pretraining.config import PretrainRecipe

    usage = "bert pretrain [CORPUS ...] --out RUN [--config RECIPE.yaml] [--GROUP.FIELD VALUE ...]"
    parser = Parser(_pretrain, PretrainRecipe, usage)
    parser.add("corpus", kind=list[str], required=False, same_as="data.corpus")
    parser.add("--out", "folder of the run")
    for flag, field in _SHORT.items():
        parser.add(flag, kind=bool if flag == "--new-tokenizer" else str, same_as=field)
    parser.add("--overwrite", "lose the run that --out holds", bool)
    parser.add("--resume", "go on with an interrupted run", metavar="RUN")
    parser.add("--show-batch", "print batch N, from 0, of the run in --out, and stop", int, metavar="N", at_least=0)
    parser.add("--trust", TRUST, bool)
    options = parser.parse(arguments)
    resumed, out, shown = _home(options.resume), _home(options.out), options.show_batch
    beside = f"beside --resume {resumed}"
    if resumed is not None:
        if "config" in dict(options.given):
            raise InputError(f"--config {beside}: a run is resumed by its {resumed}/recipe.yaml; leave --config out")
        if not (resumed / "recipe.yaml").exists():
            raise InputError(f"{resumed}: no run to resume here: it has no recipe.yaml")
        if options.overwrite:
            raise InputError(f"--overwrite {beside}: a run is either resumed or lost; leave one out")
        if out is not None and real_path(out) != real_path(resumed):
            raise InputError(f"--out {options.out} {beside}: a run is resumed where it is; leave --out out")
        out = resumed
    elif shown is not None:
        if out is None:
            raise InputError(f"--show-batch {shown}: name the run in --out")
        if not (out / "recipe.yaml").exists():
            raise InputError(f"{out}: no run here whose batches could be shown: it has no recipe.yaml")
    recipe = parser.recipe(options, *([] if resumed is None and shown is None else [f"{out}/recipe.yaml"]))
    if out is None:
        raise InputError("--out RUN is missing: name the folder that the run shall make")
    from bert.pretraining.run import pretrain
    from bert.pretraining.summary import show_batch

    if shown is not None:
        for line in show_batch(recipe, out, shown):
            print(line)
        return
    pretrain(recipe, out, overwrite=options.overwrite, resume=resumed is not None, trust=options.trust)


def _home(path: str | None) -> Path | None:
    """A path with its `~`, which a shell leaves alone after `=`, written out."""
    return None if path is None else Path(path).expanduser()


def _fill(arguments: Sequence[str]) -> None:
    """Guess the words behind [MASK] in a sentence."""
    parser = Parser(_fill)
    parser.add("text", 'a sentence with a mask, as "I ate an [MASK]."')
    parser.add("--model", "model folder", required=True)
    parser.add("--top", "guesses for each mask", int, 5, at_least=1)
    options = parser.parse(arguments)
    from bert.model.heads import MaskedLM

    for guesses in MaskedLM.load(options.model).fill(options.text, options.top):
        print("  ".join(f"{guess.token} {guess.probability:.1%}" for guess in guesses))


COMMANDS = (_pretrain, _tokenizer, _prepare, _fill)
