"""`bert bench`: parse, call."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert.errors import InputError
from bert.recipe import add_recipe, build, parse
from bert.verbs.options import TRUST, verb_parser

_ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
_COMPILE = ("no", "yes", "cuda-graphs")

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from bert.bench.documents import Text
    from bert.bench.run import Plan
    from bert.pretraining.config import PretrainRecipe


def _bench(arguments: Sequence[str]) -> None:
    """Measure a training step against this machine's limits, and against Hugging Face's.

    Takes a run, or a recipe with --store and --tokenizer or with --tokens. With --out each finished figure is kept, and the same command
    goes on where it was interrupted."""
    from bert.pretraining.config import GrowConfig, PretrainRecipe, VocabularyConfig

    parser = verb_parser("bench", _bench)
    _add_options(parser)
    add_recipe(parser, PretrainRecipe)
    parser.usage = (
        "bert bench [RUN] [--config RECIPE.yaml] [--against hf | --sweep] [--out DIR] [--GROUP.FIELD VALUE ...]"
    )
    options = parse(parser, arguments, PretrainRecipe)
    if options.against not in (None, "hf"):
        raise InputError(f"--against {options.against}: give hf")
    if options.run is not None:
        if not (Path(options.run) / "recipe.yaml").exists():
            raise InputError(f"{options.run}: no run here to measure: it has no recipe.yaml")
        options = parse(parser, ["--config", str(Path(options.run) / "recipe.yaml"), *arguments], PretrainRecipe)
    _check(options)
    for name in ("tokenizer", "store"):
        if options[name]:
            options.data[name] = options[name]
    if options.store:
        options.data.mixture, options.data.corpus = {}, []  # one text in place of those of the run
    recipe: PretrainRecipe = build(PretrainRecipe, parser.instantiate(options))
    if recipe.start is not None:  # the weights are no matter here, the shape of the run is in its recipe
        general = replace(recipe.validation, general=None)
        recipe = replace(recipe, start=None, grow=GrowConfig(), vocabulary=VocabularyConfig(), validation=general)
    trainer = {name: value for name, value in recipe.trainer.items() if name != "logger"}  # a bench has no log of steps
    if options.trust:
        from bert.training.trainer import instantiated

        trainer = {name: instantiated(value) for name, value in trainer.items()}
    recipe = replace(recipe, trainer=trainer)
    recipe, text, ragged = _texts(options, recipe)
    from bert.bench.run import bench, bench_minutes

    out = None if options.out is None else Path(options.out).expanduser()
    if options.minutes is not None:
        from bert.bench.minutes import PeerTraining
        from bert.bench.peers import settings_of
        from bert.bench.steps import place

        assert out is not None
        settings = tuple(settings_of(place(recipe)[0], options.peer_attention, options.peer_compile))
        row_length = min(PeerTraining.row_length, recipe.encoder.max_length)
        training = PeerTraining(
            options.minutes, options.peer_lr, options.peer_warmup, row_length=row_length, settings=settings
        )
        bench_minutes(recipe, text, training, Path(options.masked), out, options.seeds, options.sides)
        return
    plan = _plan(options, recipe)
    bench(recipe, text, plan, ragged, out)


def _add_options(parser: "ArgumentParser") -> None:
    add = parser.add_argument
    add("run", nargs="?", type=str | None, default=None, help="folder of a run: its recipe, store and tokenizer")
    add("--tokenizer", type=str | None, default=None, help="the same as --data.tokenizer")
    add("--store", type=str | None, default=None, help="the same as --data.store")
    add("--tokens", type=str | None, default=None, help=".npz with values and offsets, in place of store and tokenizer")
    add(
        "--vocab-size",
        type=int | None,
        default=None,
        help="measure with so many entries; not given: as many as the tokenizer has",
    )
    add("--out", type=str | None, default=None, help="folder for metrics.json, table.md, pictures and finished figures")
    add("--trust", action="store_true", help=TRUST)
    add("--rounds", type=int, default=5, help="rounds; in each, everything that is compared takes its turn")
    add("--seconds", type=float, default=3.0, help="of a turn, about")
    add("--backends", nargs="+", type=str, default=[], help="ways to compute attention; not given: all there are")
    add("--profile", action="store_true", help="also say which operators the time of our step goes to")
    add("--sweep", action="store_true", help="try micro-batches: the fastest, and the largest that fits")
    add(
        "--smallest",
        type=int | None,
        default=None,
        help="with --sweep: rows to begin with, 4 if not given; each next size is the double",
    )
    add(
        "--largest",
        type=int | None,
        default=None,
        help="with --sweep: rows to end with, 64 if not given, where memory does not end it before",
    )
    add("--against", type=str | None, default=None, help="hf: Hugging Face's masked LM of the same configuration")
    add(
        "--ragged",
        nargs="+",
        type=str,
        default=[],
        help="with --against: stores or .npz files, as many documents of each; not given: the documents of the text",
    )
    add("--works", nargs="+", type=str, default=[], help="with --against: some of full-rows, concatenated, padded")
    add(
        "--peer-attention",
        type=str | None,
        default=None,
        help="with --against: one implementation of transformers; not given: each, with --minutes the fastest",
    )
    add(
        "--peer-compile",
        type=str | None,
        default=None,
        help="with --against: no, yes or cuda-graphs alone; not given: each, with --minutes the fastest",
    )
    add("--peer-rows", type=int | None, default=None, help="with --against: rows or documents of the peer's batch")
    add("--minutes", type=float | None, default=None, help="with --against: train both so long and score them")
    add("--masked", type=str | None, default=None, help="with --minutes: .npz of masked rows to score on")
    add("--seeds", nargs="+", type=int, default=[0], help="with --minutes: each side with each of them")
    add("--sides", nargs="+", type=str, default=["peer", "ours"], help="with --minutes: peer, ours or both")
    add("--peer-lr", type=float, default=2e-3, help="with --minutes: the peer's highest learning rate")
    add("--peer-warmup", type=float, default=0.06, help="with --minutes: share of the time in which it rises")


def _check(options: Any) -> None:
    """What may stand together."""
    if options.peer_compile not in (None, *_COMPILE):
        raise InputError(f"--peer-compile {options.peer_compile}: give {_or(_COMPILE)}")
    if options.peer_attention not in (None, *_ATTENTION):
        raise InputError(f"--peer-attention {options.peer_attention}: give {_or(_ATTENTION)}")
    if not options.peer_lr > 0:
        raise InputError(f"--peer-lr {options.peer_lr:g}: give more than 0")
    if not 0 <= options.peer_warmup < 1:
        raise InputError(f"--peer-warmup {options.peer_warmup:g}: give a share from 0 to less than 1")
    if options.peer_rows is not None and options.peer_rows < 1:
        raise InputError(f"--peer-rows {options.peer_rows}: give 1 or more")
    for name in ("ragged", "works", "peer_attention", "peer_compile", "peer_rows"):
        if options[name] and options.against is None:
            raise InputError(f"--{name.replace('_', '-')} is for a comparison: give --against hf")
    for name in ("smallest", "largest"):
        if options[name] is not None and not options.sweep:
            raise InputError(f"--{name} {options[name]} is for a sweep: give --sweep")
    if options.sweep and options.against:
        raise InputError("--sweep beside --against: one measures our step alone; leave one out")
    if options.minutes is None:
        return
    if options.against is None:
        raise InputError(f"--minutes {options.minutes:g}: trains beside a peer: give --against hf")
    if not options.minutes > 0:
        raise InputError(f"--minutes {options.minutes:g}: give more than 0")
    for name in ("masked", "out"):
        if options[name] is None:
            raise InputError(f"--minutes {options.minutes:g} needs --{name}: give it")
    if wrong := [side for side in options.sides if side not in ("peer", "ours")]:
        raise InputError(f"--sides {wrong[0]}: give peer, ours or both")
    if options.tokens is not None:
        raise InputError("--tokens beside --minutes: ours is trained from a store: give --store and --tokenizer")


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _texts(options: Any, recipe: "PretrainRecipe") -> "tuple[PretrainRecipe, Text, list[Text]]":
    """The recipe with its vocabulary and its inputs, the text, and ragged texts."""
    from bert.bench.documents import read_tokens, text_of_store
    from bert.text.tokenizer import Tokenizer

    data = recipe.data
    if options.run is not None and options.tokens is None:
        from bert.pretraining.inputs import text_sources, tokenizer_folder

        run = Path(options.run)
        sources = text_sources(data, run)
        if len(sources) > 1:
            raise InputError(f"{run}: reads a mixture of {len(sources)} texts: give one of them as --store")
        data = replace(
            data, corpus=[], store=str(sources[0].folder), tokenizer=options.tokenizer or str(tokenizer_folder(run))
        )
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
    if options.vocab_size is not None and options.vocab_size < text.vocab_size:
        raise InputError(
            f"--vocab-size {options.vocab_size}: the tokenizer has {text.vocab_size} entries: give as many"
        )
    encoder = replace(recipe.encoder, vocab_size=options.vocab_size or text.vocab_size, pad_id=text.special_ids.pad)
    return replace(recipe, data=data, encoder=encoder), text, ragged


def _plan(options: Any, recipe: "PretrainRecipe") -> "Plan":
    from bert.bench.against import WORKS, all_bouts
    from bert.bench.ours import BACKENDS
    from bert.bench.run import Plan

    named = {work.replace(" ", "-"): work for work in WORKS}
    if wrong := [work for work in options.works if work not in named]:
        raise InputError(f"--works {wrong[0]}: give some of {', '.join(named)}")
    if wrong := [name for name in options.backends if name not in BACKENDS]:
        raise InputError(f"--backends {wrong[0]}: give some of {', '.join(BACKENDS)}")
    works = [named[work] for work in options.works] or WORKS
    return Plan(
        kind="sweep" if options.sweep else "against" if options.against else "steps",
        rounds=options.rounds,
        seconds=options.seconds,
        backends=tuple(options.backends) or BACKENDS,
        smallest=Plan.smallest if options.smallest is None else options.smallest,
        largest=Plan.largest if options.largest is None else options.largest,
        bouts=all_bouts(recipe, works, options.peer_attention, options.peer_compile) if options.against else (),
        peer_rows=options.peer_rows,
        profile=options.profile,
    )


VERBS: dict[str, Callable[[Sequence[str]], None]] = {"bench": _bench}
