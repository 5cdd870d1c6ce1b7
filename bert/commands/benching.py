"""`bert bench`: parse, call. Each mode is a command of its own."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bert.bench import settings
from bert.commands.options import TRUST
from bert.errors import InputError, did_you_mean
from bert.flags import Parser, command_name, first_line
from bert.model.config import Backend

if TYPE_CHECKING:
    from bert.bench.documents import Text
    from bert.bench.measurement import Measurement
    from bert.pretraining.config import PretrainRecipe


def _bench(arguments: Sequence[str]) -> None:
    """Measure a training step against this machine's peaks, and against Hugging Face's.

    Takes a run, or a recipe with --store and --tokenizer or with --tokens. With --out each finished result is kept, and the same
    command resumes where it was interrupted."""
    mode = arguments[0] if arguments else ""
    if mode in ("-h", "--help"):
        parser = Parser(_bench, None, f"bert bench {'|'.join(MODES)} [RUN] [--config RECIPE.yaml] [--out DIR] …")
        for name, command in MODES.items():
            parser.add(name, first_line(command))
        parser.parse(arguments)
    if mode not in MODES:
        wrong = f"{mode} is not a mode of bert bench" if mode else "bert bench needs a mode"
        raise InputError(f"{wrong}: use one of {', '.join(MODES)}.{did_you_mean(mode, MODES)}")
    MODES[mode](arguments[1:])


def _steps(arguments: Sequence[str]) -> None:
    """Tokens a second and MFU of a recipe's step by attention backend, compiled or not, beside measured hardware peaks."""
    parser = _parser(_steps)
    parser.add("--rounds", "rounds; in each, the peak is measured again", int, 5, at_least=1)
    parser.add("--backends", "ways to compute attention", list[Backend], list(get_args(Backend)))
    parser.add("--profile", "also print which operators the time of the step goes to", bool)
    options, measurement = _parse(parser, arguments)
    from bert.bench.steps import bench_steps

    bench_steps(measurement, options.backends, options.profile)


def _sweep(arguments: Sequence[str]) -> None:
    """Try micro-batches, sizes doubled: the fastest, and the largest that fits."""
    parser = _parser(_sweep)
    parser.add("--backends", "ways to compute attention", list[Backend], list(get_args(Backend)))
    parser.add("--smallest", "sequences to begin with", int, 4)
    parser.add("--largest", "sequences to end with, unless memory ends it before", int, 64)
    options, measurement = _parse(parser, arguments)
    from bert.bench.steps import bench_sweep

    bench_sweep(measurement, options.backends, options.smallest, options.largest)


def _compare(arguments: Sequence[str]) -> None:
    """Compare a recipe's step with that of Hugging Face's masked LM of the same configuration, on three workloads."""
    parser = _parser(_compare)
    parser.add("--rounds", "rounds; in each, both sides are timed", int, 5, at_least=1)
    parser.add("--ragged", "stores or .npz files, equal numbers of documents of each; not given: the text", list[str])
    parser.add("--workloads", "batches to compare on", list[settings.Workload], list(settings.WORKLOADS))
    parser.add("--baseline-batch-size", "sequences or documents of the baseline's batch", int, at_least=1)
    _add_baseline(parser, "each")
    options, measurement = _parse(parser, arguments)
    from bert.bench.comparison import bench_compare

    pairs = [(workload, one) for workload in options.workloads for one in _settings(options, measurement.recipe)]
    ragged = [_text(name, measurement.recipe, measurement.text.vocab_size) for name in options.ragged]
    bench_compare(measurement, pairs, ragged, options.baseline_batch_size)


def _minutes(arguments: Sequence[str]) -> None:
    """Train a recipe and Hugging Face's masked LM of the same configuration for the same minutes, and score both."""
    parser = _parser(_minutes)
    parser.add("--minutes", "train both for this long", float, required=True)
    parser.add("--masked", ".npz of masked sequences to score on", required=True)
    parser.add("--seeds", "each side with each of them", list[int], [0])
    parser.add("--sides", "which to train", list[settings.Side], list(settings.SIDES))
    parser.add("--baseline-lr", "the baseline's highest learning rate", float, 2e-3)
    parser.add("--baseline-warmup", "share of the time in which it rises", float, 0.06)
    _add_baseline(parser, "the fastest")
    options, measurement = _parse(parser, arguments)
    from bert.bench.minutes import baseline_recipe, bench_minutes

    baseline = baseline_recipe(measurement.recipe, options.minutes, options.baseline_lr, options.baseline_warmup)
    tried = _settings(options, measurement.recipe)
    bench_minutes(measurement, baseline, tried, Path(options.masked), options.seeds, options.sides)


MODES = {command_name(command): command for command in (_steps, _sweep, _compare, _minutes)}
COMMANDS = (_bench,)


def _parser(command: Callable[[Sequence[str]], None]) -> Parser:
    """The command line of a mode, with what all modes, or all but `minutes`, have in common."""
    from bert.pretraining.config import PretrainRecipe

    mode, trains = command_name(command), command is _minutes
    parser = Parser(
        command, PretrainRecipe, f"bert bench {mode} [RUN] [--config RECIPE.yaml] [--GROUP.FIELD VALUE ...]"
    )
    parser.prog = f"bert bench {mode}"
    parser.add("run", "folder of a run: its recipe, store and tokenizer", required=False)
    parser.add("--tokenizer", "folder of a tokenizer, or a tokenizer.json", same_as="data.tokenizer")
    parser.add("--store", "token store, in place of every text of the recipe")
    parser.add("--vocab-size", "measure with so many entries; not given: those of the tokenizer", int, at_least=1)
    parser.add("--out", "folder for metrics.json, table.md, pictures and finished results", required=trains)
    parser.add("--trust", TRUST, bool)
    if not trains:  # it trains from a store
        parser.add("--tokens", ".npz with values and offsets, in place of store and tokenizer")
        parser.add("--seconds", "of a timed run, about", float, 3.0)
    return parser


def _add_baseline(parser: Parser, default: str) -> None:
    parser.add("--baseline-attention", f"one implementation of transformers; not given: {default}", settings.Attention)
    parser.add("--baseline-compile", f"one way; not given: {default}", settings.Compile)


def _settings(options: Any, recipe: "PretrainRecipe") -> tuple[settings.BaselineSettings, ...]:
    """The settings of the baseline that the options name."""
    from bert.bench.machine import device_and_precision

    device = device_and_precision(recipe)[0].type
    return settings.baseline_settings(device, options.baseline_attention, options.baseline_compile)


def _parse(parser: Parser, arguments: Sequence[str]) -> "tuple[Any, Measurement]":
    """The options, and what they measure: the recipe with its vocabulary and inputs, on its text."""
    from bert.pretraining.config import ExpandConfig, VocabularyConfig

    options = parser.parse(arguments)
    run = None if options.run is None else Path(options.run)
    if run is not None and not (run / "recipe.yaml").exists():
        raise InputError(f"{run}: no run here to measure: it has no recipe.yaml")
    recipe = parser.recipe(options, *([] if run is None else [f"{run}/recipe.yaml"]))
    if recipe.initialize_from is not None:  # the shape of the run is in its recipe, and the weights do not matter here
        general = replace(recipe.validation, general=None)
        recipe = replace(
            recipe, initialize_from=None, expand=ExpandConfig(), vocabulary=VocabularyConfig(), validation=general
        )
    trainer = {name: value for name, value in recipe.trainer.items() if name != "logger"}  # there is no log of steps
    if options.trust:
        from bert.training.trainer import instantiated

        trainer = {name: instantiated(value) for name, value in trainer.items()}
    data, tokens = recipe.data, getattr(options, "tokens", None)
    if options.store:  # one text in place of those of the run
        data = replace(data, store=options.store, mixture={}, corpus=[])
    if run is not None and tokens is None:
        from bert.pretraining.inputs import text_sources, tokenizer_folder

        sources = text_sources(data, run)
        if len(sources) > 1:
            raise InputError(f"{run}: reads a mixture of {len(sources)} texts: give one of them as --store")
        tokenizer = options.tokenizer or str(tokenizer_folder(run))
        data = replace(data, corpus=[], store=str(sources[0].folder), tokenizer=tokenizer)
    if tokens is not None:
        data = replace(data, tokenizer=None)  # which may be of other tokens
    elif data.store is None or data.tokenizer is None:
        other = ", or --tokens FILE.npz" if "--tokens" in parser.known else ""
        raise InputError(f"{parser.prog} needs a text: give a RUN, --store with --tokenizer{other}")
    recipe = replace(recipe, trainer=trainer, data=data)
    from bert.bench.documents import read_tokens
    from bert.bench.measurement import Measurement

    text = read_tokens(tokens) if tokens is not None else _text(str(data.store), recipe)
    size = options.vocab_size or text.vocab_size
    if size < text.vocab_size:
        raise InputError(f"--vocab-size {size}: the tokenizer has {text.vocab_size} entries: give as many")
    out = None if options.out is None else Path(options.out).expanduser()
    recipe = replace(recipe, encoder=replace(recipe.encoder, vocab_size=size))
    effort = {name: value for name in ("rounds", "seconds") if (value := getattr(options, name, None)) is not None}
    return options, Measurement(recipe, text, out, **effort)


def _text(name: str, recipe: "PretrainRecipe", vocab_size: int | None = None) -> "Text":
    """The text of an .npz file, with `vocab_size` entries at least, or of a store, by the tokenizer of the recipe."""
    from bert.bench.documents import read_tokens, text_of_store
    from bert.data.tokenizer import Tokenizer

    if name.endswith(".npz"):
        return read_tokens(name, vocab_size)
    if recipe.data.tokenizer is None:
        raise InputError(f"{name}: a store needs --tokenizer: give it, or an .npz")
    return text_of_store(name, Tokenizer.load(recipe.data.tokenizer))
