"""`bert bench`: parse, call. Each mode has its own command line."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bert.bench import settings
from bert.commands.finetuning import add_data
from bert.commands.options import TRUST
from bert.errors import InputError, did_you_mean
from bert.flags import Parser, command_name, first_line
from bert.model.config import Backend

if TYPE_CHECKING:
    from bert.bench.documents import Text
    from bert.bench.measurement import Measurement
    from bert.pretraining.config import PretrainRecipe


_BACKENDS = "attention backends to measure"


def _bench(arguments: Sequence[str]) -> None:
    """Measure a training step against the peaks of this machine, and against the step of Hugging Face.

    Takes a run, or a recipe with --store and --tokenizer or with --tokens. With --out each finished result is saved, and the same
    command resumes where it was interrupted.

    $ bert bench steps runs/mine --out runs/bench
    $ bert bench compare --config mini-cpu --store runs/store --tokenizer runs/tokenizer --out runs/compare
    """
    mode = arguments[0] if arguments else ""
    if mode in ("-h", "--help"):
        parser = Parser(_bench, None, f"bert bench {'|'.join(MODES)} [RUN] [--config RECIPE] [--out DIR] …")
        for name, command in MODES.items():
            parser.add(name, first_line(command), metavar=name)
        parser.parse(arguments)
    if mode not in MODES:
        wrong = f"{mode} is not a mode of bert bench" if mode else "bert bench needs a mode"
        raise InputError(f"{wrong}: use one of {', '.join(MODES)}.{did_you_mean(mode, MODES)}")
    MODES[mode](arguments[1:])


def _steps(arguments: Sequence[str]) -> None:
    """Measure tokens a second and MFU of a recipe's step, by attention backend, compiled or not, next to the hardware peaks.

    $ bert bench steps runs/mine --out runs/bench
    $ bert bench steps --config mini-cpu --store runs/store --tokenizer runs/tokenizer --profile
    """
    parser = _parser(_steps)
    parser.add("--rounds", "number of rounds, each with a new measurement of the peaks", int, 5, at_least=1)
    parser.add("--backends", _BACKENDS, list[Backend], list(get_args(Backend)))
    parser.add("--profile", "also print the time of each operator", bool)
    options, measurement = _parse(parser, arguments)
    from bert.bench.steps import bench_steps

    bench_steps(measurement, options.backends, options.profile)


def _sweep(arguments: Sequence[str]) -> None:
    """Find the fastest micro-batch size, and the largest that fits, by doubling.

    $ bert bench sweep runs/mine
    $ bert bench sweep runs/mine --backends sdpa --smallest 4 --largest 256 --out runs/sweep
    """
    parser = _parser(_sweep)
    parser.add("--backends", _BACKENDS, list[Backend], list(get_args(Backend)))
    parser.add("--smallest", "first micro-batch size", int, 4)
    parser.add("--largest", "last micro-batch size, unless memory runs out before", int, 64)
    options, measurement = _parse(parser, arguments)
    from bert.bench.steps import bench_sweep

    bench_sweep(measurement, options.backends, options.smallest, options.largest)


def _compare(arguments: Sequence[str]) -> None:
    """Compare a recipe's step with the same masked LM in Hugging Face transformers, on three workloads.

    $ bert bench compare runs/mine --out runs/compare
    $ bert bench compare runs/mine --workloads full-sequences --rounds 9 --out runs/compare
    """
    parser = _parser(_compare)
    parser.add("--rounds", "number of rounds, each of which times both sides", int, 5, at_least=1)
    parser.add("--ragged", "stores or .npz files that give equal numbers of documents; default: the text", list[str])
    parser.add("--workloads", "kinds of batches to compare on", list[settings.Workload], list(settings.WORKLOADS))
    parser.add("--baseline-batch-size", "batch size of the baseline, in sequences or documents", int, at_least=1)
    _add_baseline(parser, "each")
    options, measurement = _parse(parser, arguments)
    from bert.bench.comparison import bench_compare

    pairs = [(workload, one) for workload in options.workloads for one in _settings(options, measurement.recipe)]
    ragged = [_text(name, measurement.recipe, measurement.text.vocab_size) for name in options.ragged]
    bench_compare(measurement, pairs, ragged, options.baseline_batch_size)


def _minutes(arguments: Sequence[str]) -> None:
    """Train a recipe and the same masked LM in Hugging Face transformers for the same minutes, and score both.

    $ bert bench minutes runs/mine --minutes 20 --masked masked.npz --out runs/minutes
    $ bert bench minutes runs/mine --minutes 10 --masked masked.npz --seeds 0 1 2 --out runs/minutes
    """
    parser = _parser(_minutes)
    parser.add("--minutes", "minutes to train each side", float, required=True)
    parser.add("--masked", ".npz of masked sequences to score on", required=True)
    parser.add("--seeds", "seeds, each used by each side", list[int], [0])
    parser.add("--sides", "sides to train", list[settings.Side], list(settings.SIDES))
    parser.add("--baseline-lr", "peak learning rate of the baseline", float, 2e-3)
    parser.add("--baseline-warmup", "share of the time in which its learning rate rises", float, 0.06)
    _add_baseline(parser, "the fastest")
    options, measurement = _parse(parser, arguments)
    from bert.bench.minutes import baseline_recipe, bench_minutes

    baseline = baseline_recipe(measurement.recipe, options.minutes, options.baseline_lr, options.baseline_warmup)
    tried = _settings(options, measurement.recipe)
    bench_minutes(measurement, baseline, tried, Path(options.masked), options.seeds, options.sides)


def _finetune(arguments: Sequence[str]) -> None:
    """Time fine-tuning by a recipe and by transformers' Trainer, in turn, with equal numbers of steps and validations.

    $ bert bench finetune classify --model runs/mine/model --train train.tsv --dev dev.tsv --out runs/speed
    $ bert bench finetune tag --model runs/mine/model --train train.conll --steps 200 --pairs 5 --out runs/speed
    """
    from bert.finetuning.config import FinetuneRecipe

    parser = Parser(_finetune, FinetuneRecipe, "bert bench finetune TASK --train FILE … --out DIR", "finetune")
    parser.prog = "bert bench finetune"
    add_data(parser)
    parser.add("--steps", "optimizer steps of each run; default: those of the recipe", int, at_least=1)
    parser.add("--pairs", "number of pairs of runs", int, 3, at_least=1)
    parser.add("--out", "folder for metrics.json, table.md and finished results", required=True)
    options = parser.parse(arguments)
    recipe = parser.recipe(options)
    from bert.bench.finetuning import bench_finetune

    bench_finetune(options.task, recipe, Path(options.out).expanduser(), options.steps, options.pairs)


MODES = {command_name(command): command for command in (_steps, _sweep, _compare, _minutes, _finetune)}
COMMANDS = (_bench,)


def _parser(command: Callable[[Sequence[str]], None]) -> Parser:
    """The command line of a mode, with the options that all modes, or all but `minutes`, share."""
    from bert.pretraining.config import PretrainRecipe

    mode, trains = command_name(command), command is _minutes
    prog = f"bert bench {mode}"
    parser = Parser(command, PretrainRecipe, f"{prog} [RUN] [--config RECIPE] [--GROUP.FIELD VALUE ...]")
    parser.prog = prog
    parser.add("run", "run directory: measure its recipe, store and tokenizer", required=False)
    parser.add("--tokenizer", "folder of a tokenizer, or a tokenizer.json", same_as="data.tokenizer")
    parser.add("--store", "token store to read in place of the recipe's texts")
    parser.add("--vocab-size", "vocabulary size of the measured model; default: that of the tokenizer", int, at_least=1)
    parser.add("--out", "folder for metrics.json, table.md, pictures and finished results", required=trains)
    parser.add("--trust", TRUST, bool)
    if not trains:  # training needs a store
        parser.add("--tokens", ".npz with values and offsets, in place of store and tokenizer")
        parser.add("--seconds", "approximate length of a timed run", float, 3.0)
    return parser


def _add_baseline(parser: Parser, default: str) -> None:
    parser.add("--baseline-attention", f"attention of transformers; default: {default}", settings.Attention)
    parser.add("--baseline-compile", f"compilation of the baseline; default: {default}", settings.Compile)


def _settings(options: Any, recipe: "PretrainRecipe") -> tuple[settings.BaselineSettings, ...]:
    """The settings of the baseline that the options select."""
    from bert.bench.machine import device_and_precision

    device = device_and_precision(recipe)[0].type
    return settings.baseline_settings(device, options.baseline_attention, options.baseline_compile)


def _parse(parser: Parser, arguments: Sequence[str]) -> "tuple[Any, Measurement]":
    """The options, and the measurement that they describe: the recipe with its vocabulary and inputs, on its text."""
    from bert.pretraining.config import ExpandConfig, VocabularyConfig

    options = parser.parse(arguments)
    run = None if options.run is None else Path(options.run)
    if run is not None and not (run / "recipe.yaml").exists():
        raise InputError(f"{run}: not a run to measure: it has no recipe.yaml")
    recipe = parser.recipe(options, *([] if run is None else [f"{run}/recipe.yaml"]))
    if recipe.initialize_from is not None:  # the recipe has the shape of the model, and the weights do not matter here
        recipe = replace(recipe, validation=replace(recipe.validation, general=None))
        recipe = replace(recipe, initialize_from=None, expand=ExpandConfig(), vocabulary=VocabularyConfig())
    trainer = {name: value for name, value in recipe.trainer.items() if name != "logger"}  # steps are not logged
    if options.trust:
        from bert.training.trainer import instantiated

        trainer = {name: instantiated(value) for name, value in trainer.items()}
    data, tokens = recipe.data, getattr(options, "tokens", None)
    if options.store:  # one text replaces those of the run
        data = replace(data, store=options.store, mixture={}, corpus=[])
    if run is not None and tokens is None:
        from bert.pretraining.inputs import text_sources, tokenizer_folder

        sources = text_sources(data, run)
        if len(sources) > 1:
            raise InputError(f"{run}: reads a mixture of {len(sources)} texts: select one with --store")
        tokenizer = options.tokenizer or str(tokenizer_folder(run))
        data = replace(data, corpus=[], store=str(sources[0].folder), tokenizer=tokenizer)
    if tokens is not None:
        data = replace(data, tokenizer=None)  # it may not be the tokenizer of these tokens
    elif data.store is None or data.tokenizer is None:
        other = ", or --tokens FILE.npz" if "--tokens" in parser.known else ""
        raise InputError(f"{parser.prog} needs a text: give a RUN, --store with --tokenizer{other}")
    recipe = replace(recipe, trainer=trainer, data=data)
    from bert.bench.documents import read_tokens
    from bert.bench.measurement import Measurement

    text = read_tokens(tokens) if tokens is not None else _text(str(data.store), recipe)
    size = options.vocab_size or text.vocab_size
    if size < text.vocab_size:
        raise InputError(f"--vocab-size {size}: must be at least {text.vocab_size}, the size of the tokenizer")
    out = None if options.out is None else Path(options.out).expanduser()
    recipe = replace(recipe, encoder=replace(recipe.encoder, vocab_size=size))
    effort = {name: value for name in ("rounds", "seconds") if (value := getattr(options, name, None)) is not None}
    return options, Measurement(recipe, text, out, **effort)


def _text(name: str, recipe: "PretrainRecipe", vocab_size: int | None = None) -> "Text":
    """The text of an .npz file, with a vocabulary of at least `vocab_size`, or of a store, by the tokenizer of the recipe."""
    from bert.bench.documents import read_tokens, text_of_store
    from bert.data.tokenizer import Tokenizer

    if name.endswith(".npz"):
        return read_tokens(name, vocab_size)
    if recipe.data.tokenizer is None:
        raise InputError(f"{name}: a store requires --tokenizer: add it, or give an .npz")
    return text_of_store(name, Tokenizer.load(recipe.data.tokenizer))
