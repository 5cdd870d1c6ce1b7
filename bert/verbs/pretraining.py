"""`bert tokenizer`, `prepare`, `pretrain` and `fill`: parse, call, print."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from bert.errors import InputError
from bert.recipe import add_recipe, build, parse, values_of
from bert.verbs.options import TRUST, add_corpus, last, verb_parser


def _tokenizer(arguments: Sequence[str]) -> None:
    """Train a tokenizer on your text."""
    parser = verb_parser("tokenizer", _tokenizer)
    add = parser.add_argument
    add_corpus(parser, required=True)
    add("--out", type=str, required=True, help="folder to write")
    add("--kind", type=str, default="wordpiece", help="wordpiece (lower-cased), bpe (byte-level) or unigram")
    add("--vocab-size", type=int | None, default=None, help="entries; not given: 8192, or what a small corpus supports")
    add("--cased", action="store_true", help="wordpiece: keep case and accents")
    add(
        "--sample-characters",
        type=int | None,
        default=None,
        help="learn from so many at most, spread over the corpus; not given: 100 million, for unigram 5",
    )
    add("--overwrite", action="store_true", help="replace a tokenizer that is there")
    options = parse(parser, arguments)
    from bert.text.vocabulary import make_tokenizer

    make_tokenizer(
        options.corpus,
        options.out,
        options.kind,
        options.vocab_size,
        options.layout,
        options.text_field,
        options.sample_characters,
        lowercase=False if options.cased else None,
        overwrite=options.overwrite,
    )


def _prepare(arguments: Sequence[str]) -> None:
    """Turn text into a token store, once, for any number of runs."""
    parser = verb_parser("prepare", _prepare)
    add = parser.add_argument
    add_corpus(parser, required=True)
    add("--tokenizer", type=str, required=True, help="folder of a tokenizer, or a tokenizer.json")
    add("--out", type=str, required=True, help="folder to write; reused when corpus and tokenizer are unchanged")
    add(
        "--dedup",
        type=Literal["exact", "near"],
        default="exact",
        help="documents to leave out: those that came before word for word, or nearly so (MinHash; needs bert[dedup])",
    )
    add(
        "--jaccard",
        type=float,
        default=0.8,
        help="with --dedup near: share of their five-token runs that near duplicates have in common, 0.1 to 0.95",
    )
    options = parse(parser, arguments)
    near = options.jaccard if options.dedup == "near" else None
    if near is None and values_of(arguments, "--jaccard"):
        raise InputError(f"--jaccard {options.jaccard} is for --dedup near: give that too, or leave it out")
    from bert.text.prepare import prepare

    prepare(options.corpus, options.tokenizer, options.out, options.layout, options.text_field, near)


def _pretrain(arguments: Sequence[str]) -> None:
    """Pretrain an encoder on your text with masked-language-modeling.

    Makes a run folder with the model, the recipe, checkpoints and a log. Without a recipe it trains a small encoder of the ModernBERT
    family for 20 minutes."""
    from bert.pretraining.config import PretrainRecipe

    parser = verb_parser("pretrain", _pretrain)
    add = parser.add_argument
    add("corpus", nargs="*", type=str, help="files, globs, folders or a Hub data set; the same as --data.corpus")
    add("--out", type=str | None, default=None, help="folder of the run")
    add("--tokenizer", type=str | None, default=None, help="the same as --data.tokenizer")
    add("--store", type=str | None, default=None, help="the same as --data.store")
    add("--from", type=str | None, default=None, help="go on from this model folder; the same as --start")
    add("--add-words", type=str | None, default=None, help="with --from; the same as --vocabulary.add_words")
    add("--new-tokenizer", action="store_true", help="with --from; --vocabulary.retrain true")
    add("--general", type=str | None, default=None, help="with --from; the same as --validation.general")
    add("--overwrite", action="store_true", help="lose the run that --out holds")
    add("--resume", type=str | None, default=None, metavar="RUN", help="go on with an interrupted run")
    add("--show-batch", type=int | None, default=None, metavar="N", help="print batch N of the run in --out, and stop")
    add("--trust", action="store_true", help=TRUST)
    add_recipe(parser, PretrainRecipe)
    parser.usage = "bert pretrain [CORPUS ...] --out RUN [--config RECIPE.yaml] [--GROUP.FIELD VALUE ...]"
    resumed = _home(last(values_of(arguments, "--resume")))
    if resumed is not None:
        if values_of(arguments, "--config"):
            raise InputError(
                f"--config beside --resume: the recipe of a resumed run is {resumed}/recipe.yaml; leave --config out"
            )
        if not (Path(resumed) / "recipe.yaml").exists():
            raise InputError(f"{resumed}: no run to resume here: it has no recipe.yaml")
    shown = last(values_of(arguments, "--show-batch"))
    run = resumed or (None if shown is None else _home(last(values_of(arguments, "--out"))))
    if resumed is not None and "--overwrite" in arguments:
        raise InputError("--overwrite beside --resume: a run is either gone on with or lost; leave one out")
    if shown is not None:
        if run is None:
            raise InputError(f"--show-batch {shown}: name the run in --out")
        if not (Path(run) / "recipe.yaml").exists():
            raise InputError(f"{run}: no run here whose batches could be shown: it has no recipe.yaml")
    if run is not None:
        arguments = ["--config", str(Path(run) / "recipe.yaml"), *arguments]
    options = parse(parser, arguments, PretrainRecipe)
    for shortcut in ("corpus", "tokenizer", "store"):
        if options[shortcut]:
            options.data[shortcut] = options[shortcut]
    if options["from"]:
        options["start"] = options["from"]
    if options.add_words is not None:
        options.vocabulary["add_words"] = options.add_words
    if options.new_tokenizer:
        options.vocabulary["retrain"] = True
    if options.general is not None:
        options.validation["general"] = options.general
    recipe = build(PretrainRecipe, parser.instantiate(options))
    if (
        resumed is not None
        and options.out is not None
        and Path(_home(options.out) or "").resolve() != Path(resumed).resolve()
    ):
        raise InputError(f"--out {options.out} beside --resume {resumed}: a run goes on where it is; leave --out out")
    if (named := resumed or options.out) is None:
        raise InputError("--out RUN is missing: name the folder that the run shall make")
    out = Path(named).expanduser()
    from bert.pretraining.run import pretrain
    from bert.pretraining.summary import show_batch

    if options.show_batch is not None:
        if options.show_batch < 0:
            raise InputError(f"--show-batch {options.show_batch}: batches are numbered from 0")
        show_batch(recipe, out, options.show_batch)
        return
    pretrain(recipe, out, overwrite=options.overwrite, resume=resumed is not None, trust=options.trust)


def _home(path: str | None) -> str | None:
    """A path with its `~`, which a shell leaves alone behind `=`, written out."""
    return None if path is None else str(Path(path).expanduser())


def _fill(arguments: Sequence[str]) -> None:
    """Guess the words behind [MASK] in a sentence."""
    parser = verb_parser("fill", _fill)
    add = parser.add_argument
    add("text", type=str, help='a sentence with a mask, as "I ate an [MASK]."')
    add("--model", type=str, required=True, help="model folder")
    add("--top", type=int, default=5, help="guesses for each mask")
    options = parse(parser, arguments)
    if options.top < 1:
        raise InputError(f"--top is {options.top}: give 1 or more")
    from bert.model.heads import MaskedLM

    for guesses in MaskedLM.load(options.model).fill(options.text, options.top):
        print("  ".join(f"{guess.token} {guess.probability:.1%}" for guess in guesses))


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "pretrain": _pretrain,
    "tokenizer": _tokenizer,
    "prepare": _prepare,
    "fill": _fill,
}
