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
"""short flags of fields; the flag of any other field is its name: --data.batch_size"""


def _tokenizer(arguments: Sequence[str]) -> None:
    """Train a tokenizer on your text.

    $ bert tokenizer texts/ --out runs/tokenizer
    $ bert tokenizer texts/ --out runs/bpe --kind bpe --vocab-size 1024 --exclude '*.bak'
    """
    parser = Parser(_tokenizer)
    add_corpus(parser)
    parser.add("--out", "folder to write", required=True)
    kinds = "wordpiece, bpe (byte-level), unigram; auto: unigram for scripts without spaces, otherwise wordpiece"
    parser.add("--kind", kinds, default="auto")
    parser.add("--vocab-size", "vocabulary size; default: 8192, or what a small corpus supports", int)
    parser.add("--cased", "auto and wordpiece: keep case", bool)
    parser.add("--strip-accents", "drop the accents of Latin and Greek letters", bool)
    sample = "characters to train on at most, spread over the corpus; default: 100 million, for unigram 5 million"
    parser.add("--sample-characters", sample, int)
    parser.add("--overwrite", "replace an existing tokenizer", bool)
    options = parser.parse(arguments)
    from bert.data.vocabulary import make_tokenizer

    read = options.layout, options.text_field, options.exclude
    given = options.corpus, options.out, options.kind, options.vocab_size, *read
    lowercase = False if options.cased else None
    make_tokenizer(*given, options.sample_characters, lowercase, options.strip_accents, options.overwrite)


def _prepare(arguments: Sequence[str]) -> None:
    """Tokenize a corpus into a token store that any number of runs can read.

    $ bert prepare texts/ --tokenizer runs/tokenizer --out runs/store
    $ bert prepare dump.jsonl.zst --text-field body --tokenizer runs/tokenizer --out runs/store --dedup near
    """
    parser = Parser(_prepare)
    add_corpus(parser)
    parser.add("--tokenizer", "folder of a tokenizer, or a tokenizer.json", required=True)
    parser.add("--out", "folder to write; kept as it is if corpus and tokenizer are unchanged", required=True)
    duplicates = "duplicates to leave out: exact copies, or near ones too (MinHash; needs bert-kit[dedup])"
    parser.add("--dedup", duplicates, Literal["exact", "near"], "exact")
    share = "with --dedup near: minimum Jaccard similarity of the five-token shingles of near duplicates, 0.1 to 0.95"
    parser.add("--jaccard", f"{share}; default: 0.8", float)
    options = parser.parse(arguments)
    if options.dedup == "exact" and options.jaccard is not None:
        raise InputError(f"--jaccard {options.jaccard} requires --dedup near: add that, or remove --jaccard")
    jaccard = None if options.dedup == "exact" else 0.8 if options.jaccard is None else options.jaccard
    from bert.data.prepare import prepare

    given = options.corpus, options.tokenizer, options.out, options.layout, options.text_field
    prepare(*given, jaccard, options.exclude)


def _pretrain(arguments: Sequence[str]) -> None:
    """Pretrain an encoder on your text.

    Writes a run directory with the model, the recipe, checkpoints and a log. The default recipe trains a small encoder of the
    ModernBERT family for 20 minutes.

    $ bert pretrain texts/ --out runs/mine
    $ bert pretrain texts/ --config mini-cpu --out runs/mine --stop.minutes 60
    """
    from bert.pretraining.config import PretrainRecipe

    usage = "bert pretrain [CORPUS ...] --out RUN [--config RECIPE] [--GROUP.FIELD VALUE ...]"
    parser = Parser(_pretrain, PretrainRecipe, usage)
    parser.add("corpus", kind=list[str], required=False, same_as="data.corpus")
    parser.add("--exclude", kind=list[str], metavar="PATTERN", same_as="data.exclude", repeated=True)
    parser.add("--out", "run directory to write; an interrupted run in it is resumed", metavar="RUN")
    for flag, field in _SHORT.items():
        parser.add(flag, kind=bool if flag == "--new-tokenizer" else str, same_as=field)
    parser.add("--overwrite", "delete the run in --out, and start again", bool)
    parser.add("--resume", "resume an interrupted run by its own recipe", metavar="RUN")
    parser.add("--show-batch", "print batch N, from 0, of the run in --out, and exit", int, metavar="N", at_least=0)
    parser.add("--trust", TRUST, bool)
    options = parser.parse(arguments)
    resumed, out, shown = _home(options.resume), _home(options.out), options.show_batch
    together = f"and --resume {resumed}"
    if resumed is not None:
        if "config" in dict(options.given):
            raise InputError(f"--config {together}: a run is resumed by its {resumed}/recipe.yaml; remove --config")
        if not (resumed / "recipe.yaml").exists():
            raise InputError(f"{resumed}: not a run to resume: it has no recipe.yaml")
        if options.overwrite:
            raise InputError(f"--overwrite {together} are mutually exclusive: remove one")
        if out is not None and real_path(out) != real_path(resumed):
            raise InputError(f"--out {options.out} {together}: a run is resumed in its own directory; remove --out")
        out = resumed
    elif shown is not None:
        if out is None:
            raise InputError(f"--show-batch {shown}: specify the run with --out")
        if not (out / "recipe.yaml").exists():
            raise InputError(f"{out}: not a run whose batches could be shown: it has no recipe.yaml")
    recipe = parser.recipe(options, *([] if resumed is None and shown is None else [f"{out}/recipe.yaml"]))
    if out is None:
        raise InputError("--out RUN is missing: specify the run directory")
    from bert.pretraining.run import pretrain
    from bert.pretraining.summary import show_batch

    if shown is not None:
        for line in show_batch(recipe, out, shown):
            print(line)
        return
    pretrain(recipe, out, overwrite=options.overwrite, resume=resumed is not None, trust=options.trust)


def _home(path: str | None) -> Path | None:
    """A path with its `~` expanded, which a shell does not do after `=`."""
    return None if path is None else Path(path).expanduser()


def _fill(arguments: Sequence[str]) -> None:
    """Predict the words at the [MASK] tokens of a sentence.

    $ bert fill "The picker peeled the [MASK]." --model runs/quickstart/pretrained/model
    $ bert fill "The [MASK] barked at the [MASK]." --model runs/mine/model --top 10
    """
    parser = Parser(_fill)
    parser.add("text", 'a sentence with a mask, such as "I ate an [MASK]."')
    parser.add("--model", "folder of a masked LM", required=True)
    parser.add("--top", "predictions for each mask", int, 5, at_least=1)
    options = parser.parse(arguments)
    from bert.model.heads import MaskedLM

    for guesses in MaskedLM.load(options.model).fill(options.text, options.top):
        print("  ".join(f"{guess.token} {guess.probability:.1%}" for guess in guesses))


COMMANDS = (_pretrain, _tokenizer, _prepare, _fill)
