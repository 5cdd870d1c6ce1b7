"""`bert bench`: parse, call."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from bert.commands.options import TRUST
from bert.errors import InputError
from bert.flags import Parser

_WORKS = Literal["full-sequences", "concatenated", "padded"]
_MODES = {"sweep": "a sweep: give --sweep", "against": "a comparison: give --against hf"}
_ATTENTION = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]

if TYPE_CHECKING:
    from bert.bench.documents import Text
    from bert.pretraining.config import PretrainRecipe


def _bench(arguments: Sequence[str]) -> None:
    """Measure a training step against this machine's limits, and against Hugging Face's.

    Takes a run, or a recipe with --store and --tokenizer or with --tokens. With --out each finished figure is kept, and the same command
    goes on where it was interrupted."""
    from bert.pretraining.config import ExpandConfig, PretrainRecipe, VocabularyConfig

    usage = "bert bench [RUN] [--config RECIPE.yaml] [--against hf | --sweep] [--out DIR] [--GROUP.FIELD VALUE ...]"
    parser = Parser(_bench, PretrainRecipe, usage)
    _add_options(parser)
    options = parser.parse(arguments)
    if options.run is not None and not (Path(options.run) / "recipe.yaml").exists():
        raise InputError(f"{options.run}: no run here to measure: it has no recipe.yaml")
    _check(options)
    recipe: PretrainRecipe = parser.recipe(options, *([] if options.run is None else [f"{options.run}/recipe.yaml"]))
    if options.store:  # one text in place of those of the run
        recipe = replace(recipe, data=replace(recipe.data, store=options.store, mixture={}, corpus=[]))
    if recipe.initialize_from is not None:  # the weights are no matter here, the shape of the run is in its recipe
        general = replace(recipe.validation, general=None)
        recipe = replace(
            recipe, initialize_from=None, expand=ExpandConfig(), vocabulary=VocabularyConfig(), validation=general
        )
    trainer = {name: value for name, value in recipe.trainer.items() if name != "logger"}  # a bench has no log of steps
    if options.trust:
        from bert.training.trainer import instantiated

        trainer = {name: instantiated(value) for name, value in trainer.items()}
    recipe, text, ragged = _texts(options, replace(recipe, trainer=trainer))
    from bert.bench.machine import place
    from bert.bench.minutes import BaselineTraining
    from bert.bench.peers import WORKS, settings_of
    from bert.bench.run import Plan, bench, bench_minutes

    out = None if options.out is None else Path(options.out).expanduser()
    settings = (
        settings_of(place(recipe)[0], options.baseline_attention, options.baseline_compile) if options.against else ()
    )
    if options.minutes is not None:
        assert out is not None
        length = min(BaselineTraining.sequence_length, recipe.encoder.max_length)
        rising = options.baseline_lr, options.baseline_warmup
        training = BaselineTraining(options.minutes, *rising, sequence_length=length, settings=settings)
        bench_minutes(recipe, text, training, Path(options.masked), out, options.seeds, options.sides)
        return
    works = [work.replace("-", " ") for work in options.works] or WORKS
    named = ("rounds", "seconds", "backends", "smallest", "largest", "baseline_batch_size", "profile")
    given = {name: value for name in named if (value := getattr(options, name)) not in (None, [])}
    kind: Any = "sweep" if options.sweep else "against" if options.against else "steps"
    plan = Plan(kind, bouts=tuple((work, setting) for work in works for setting in settings), **given)
    bench(recipe, text, plan, ragged, out)


def _add_options(parser: Parser) -> None:
    add = parser.add
    add("run", "folder of a run: its recipe, store and tokenizer", required=False)
    add("--tokenizer", "folder of a tokenizer, or a tokenizer.json", same_as="data.tokenizer")
    add("--store", "token store, in place of every text of the recipe")
    add("--tokens", ".npz with values and offsets, in place of store and tokenizer")
    add("--vocab-size", "measure with so many entries; not given: as many as the tokenizer has", int, at_least=1)
    add("--out", "folder for metrics.json, table.md, pictures and finished figures")
    add("--trust", TRUST, bool)
    add("--rounds", "rounds; in each, everything that is compared takes its turn", int, 5, at_least=1)
    add("--seconds", "of a turn, about", float, 3.0)
    add("--backends", "ways to compute attention; not given: all there are", list[str])
    add("--profile", "also say which operators the time of our step goes to", bool)
    add("--sweep", "try micro-batches: the fastest, and the largest that fits", bool)
    add("--smallest", "with --sweep: rows to begin with, 4 if not given; each next size is the double", int)
    add("--largest", "with --sweep: rows to end with, 64 if not given, where memory does not end it before", int)
    add("--against", "hf: Hugging Face's masked LM of the same configuration", Literal["hf"])
    ragged = "stores or .npz files, as many documents of each; not given: the documents of the text"
    add("--ragged", f"with --against: {ragged}", list[str])
    add("--works", f"with --against: some of {', '.join(get_args(_WORKS))}", list[_WORKS])
    fastest = "not given: each, with --minutes the fastest"
    add("--baseline-attention", f"with --against: one implementation of transformers; {fastest}", _ATTENTION)
    add("--baseline-compile", f"with --against: one way; {fastest}", Literal["no", "yes", "cuda-graphs"])
    add("--baseline-batch-size", "with --against: rows or documents of the peer's batch", int, at_least=1)
    add("--minutes", "with --against: train both so long and score them", float)
    add("--masked", "with --minutes: .npz of masked sequences to score on")
    add("--seeds", "with --minutes: each side with each of them", list[int], [0])
    add("--sides", "with --minutes: peer, ours or both", list[Literal["peer", "ours"]], ["peer", "ours"])
    add("--baseline-lr", "with --minutes: the peer's highest learning rate", float, 2e-3)
    add("--baseline-warmup", "with --minutes: share of the time in which it rises", float, 0.06)


def _check(options: Any) -> None:
    """What may stand together."""
    of_peer = dict.fromkeys(
        ("ragged", "works", "baseline_attention", "baseline_compile", "baseline_batch_size"), "against"
    )
    for name, needed in {**of_peer, "smallest": "sweep", "largest": "sweep"}.items():
        if (value := getattr(options, name)) not in (None, []) and not getattr(options, needed):
            told = f"--{name.replace('_', '-')} {' '.join(value) if isinstance(value, list) else value}"
            raise InputError(f"{told} is for {_MODES[needed]}")
    lr, warmup, train = options.baseline_lr, options.baseline_warmup, options.minutes is not None
    minutes = f"--minutes {options.minutes or 0:g}"
    from_store = "--tokens beside --minutes: ours is trained from a store: give --store and --tokenizer"
    for wrong, told in (
        (not lr > 0, f"--baseline-lr {lr:g}: give more than 0"),
        (not 0 <= warmup < 1, f"--baseline-warmup {warmup:g}: give a share from 0 to less than 1"),
        (options.sweep and options.against, "--sweep beside --against: one measures our step alone; leave one out"),
        (train and options.against is None, f"{minutes}: trains beside a peer: give --against hf"),
        (train and not options.minutes > 0, f"{minutes}: give more than 0"),
        (train and options.masked is None, f"{minutes} needs --masked: give it"),
        (train and options.out is None, f"{minutes} needs --out: give it"),
        (train and options.tokens, from_store),
    ):
        if wrong:
            raise InputError(told)


def _texts(options: Any, recipe: "PretrainRecipe") -> "tuple[PretrainRecipe, Text, list[Text]]":
    """The recipe with its vocabulary and its inputs, the text, and ragged texts."""
    from bert.bench.documents import read_tokens, text_of_store
    from bert.data.tokenizer import Tokenizer

    data = recipe.data
    if options.run is not None and options.tokens is None:
        from bert.pretraining.inputs import text_sources, tokenizer_folder

        run = Path(options.run)
        sources = text_sources(data, run)
        if len(sources) > 1:
            raise InputError(f"{run}: reads a mixture of {len(sources)} texts: give one of them as --store")
        tokenizer_of_run = options.tokenizer or str(tokenizer_folder(run))
        data = replace(data, corpus=[], store=str(sources[0].folder), tokenizer=tokenizer_of_run)
    tokenizer = None
    if options.tokens is not None:
        text = read_tokens(options.tokens)
    elif data.store is not None and data.tokenizer is not None:
        tokenizer = Tokenizer.load(data.tokenizer)
        text = text_of_store(data.store, tokenizer)
    else:
        raise InputError("bert bench needs a text: give a RUN, --store with --tokenizer, or --tokens FILE.npz")
    ragged = []
    for name in options.ragged:
        if name.endswith(".npz"):
            ragged.append(read_tokens(name, text.vocab_size))
        elif tokenizer is not None:
            ragged.append(text_of_store(name, tokenizer))
        else:
            raise InputError(f"--ragged {name}: a store needs --tokenizer and --store: give them, or an .npz")
    size = options.vocab_size or text.vocab_size
    if size < text.vocab_size:
        raise InputError(f"--vocab-size {size}: the tokenizer has {text.vocab_size} entries: give as many")
    encoder = replace(recipe.encoder, vocab_size=size, pad_id=text.special_ids.pad)
    return replace(recipe, data=data, encoder=encoder), text, ragged


VERBS = (_bench,)
