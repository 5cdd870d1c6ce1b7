"""A recipe measured on this machine: real tokens a second and their share of the matrix rate, by attention backend, compiled or not."""

import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from bert.bench.ceilings import Ceilings, matrix_rate, measure_ceilings, model_shapes
from bert.bench.cells import Cells, Value
from bert.bench.documents import Text, packed
from bert.bench.ours import BACKENDS, OurSteps, operations_per_token, split_time, steps_of
from bert.bench.peak import forget_peak, peak
from bert.bench.rounds import Contender, Spread, Turn, alternate
from bert.errors import InputError
from bert.model.tuning import FAILURES
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import slots
from bert.pretraining.stream import Split, split_batch
from bert.training.compiling import compiles
from bert.training.trainer import make_trainer

OUT_OF_MEMORY = "out of memory"
PREPARED = 8
"""steps that lie ready; then the first comes again"""


def ceilings_cell(recipe: PretrainRecipe, device: torch.device, cells: Cells, seconds: float) -> Ceilings:
    """The ceilings of the device, and what the products of the model reach back to back."""

    def measure() -> Value:
        data = recipe.data
        rows = data.micro_batch_rows or data.batch_rows
        used = slots(recipe.masking.rate, data.row_length)
        shapes = model_shapes(recipe.encoder, recipe.head, rows, data.row_length, used)
        own = matrix_rate([shape for _, shape in shapes], torch.bfloat16, device, seconds)
        found = measure_ceilings(device, seconds)
        return {**asdict(found), "bf16": max(found.bf16, own), "own_shapes": own}  # a busy machine measures low

    value = cells.measured({"what": "ceilings"}, measure)
    shape = value["best_shape"]
    return Ceilings(value["bf16"], value["fp32"], (shape[0], shape[1], shape[2]), value["copy"], value["triad"])


def measure_steps(
    recipe: PretrainRecipe,
    text: Text,
    cells: Cells,
    ceilings: Ceilings,
    backends: tuple[str, ...] = BACKENDS,
    rounds: int = 5,
    seconds: float = 3.0,
    say: Callable[[str], None] = print,
) -> None:
    """A cell for each backend, compiled and not (as the recipe says, where it does)."""
    refused: dict[str, Value] = {}  # a backend that cannot be here says why; the compiler would not
    for backend, compiled in choices(recipe, backends):
        key = {"what": "step", "backend": backend, "compiled": compiled}
        measure = partial(step_cell, recipe, text, backend, compiled, ceilings, rounds, seconds)
        value = cells.measured(key, partial(dict, refused[backend]) if backend in refused else measure)
        if value.get("fails", OUT_OF_MEMORY) != OUT_OF_MEMORY:
            refused[backend] = value
        say(line_of(key, value))


def choices(recipe: PretrainRecipe, backends: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Every backend, not compiled and compiled; one of both where the recipe decides, or where there is no compiler."""
    for name in backends:
        if name not in BACKENDS:
            raise InputError(f"--backends {name}: give some of {', '.join(BACKENDS)}")
    for compiled in (False, True) if recipe.compile is None else (recipe.compile,):
        yield from ((backend, compiled) for backend in backends)


def step_cell(
    recipe: PretrainRecipe,
    text: Text,
    backend: str | None,
    compiled: bool,
    ceilings: Ceilings,
    rounds: int,
    seconds: float,
) -> Value:
    """Rate, share of the matrix rate, parts and memory of one way to run the step; `fails` where it does not run."""
    fresh_start()
    data = recipe.data
    split = split_batch(data.batch_rows, data.micro_batch_rows, 1)
    stream = packed(text, data.row_length, data.batch_rows, recipe.masking, recipe.seed)
    steps = steps_of(stream, split, 0, PREPARED)
    operations = operations_per_token(recipe, steps)
    try:
        ours = OurSteps(recipe, split, compiled, backend)
        (turns,), limits = beside_ceiling([ours.contender(steps)], ours, ceilings, rounds, seconds)
        parts = split_time(ours, stream, split, PREPARED)
        highest = peak(ours.device)
    except FAILURES as error:
        return failure(error)
    share = [operations * turn.rate / limit for turn, limit in zip(turns, limits)]
    return {
        "tokens_per_second": asdict(Spread.of([turn.rate for turn in turns])),
        "rounds": [turn.rate for turn in turns],
        "operations_per_token": operations,
        "share_of_matrix_rate": asdict(Spread.of(share)),
        "matrix_rate": statistics.median(limits),
        "fill": sum(turn.tokens for turn in turns) / sum(turn.positions for turn in turns),
        "seconds": asdict(parts),
        "peak_bytes": highest,
        "precision": ours.precision,
        "rows": [data.batch_rows, split.micro_batch_rows, data.row_length],
    }


def name_of(key: dict[str, Any]) -> str:
    """How the step of a cell ran."""
    return f"{key['backend']}{', compiled' if key['compiled'] else ''}"


def line_of(key: dict[str, Any], value: Value) -> str:
    """A finished cell in a line."""
    name = name_of(key)
    if "fails" in value:
        return f"{name}: does not run here: {value['fails']}"
    rate, share = value["tokens_per_second"], value["share_of_matrix_rate"]
    parts = value["seconds"]
    whole = sum(parts.values())
    return (
        f"{name}: {rate['median']:,.0f} tokens/s, {share['median']:.1%} of the matrix rate;"
        f" data {parts['data'] / whole:.1%}, forward {parts['forward'] / whole:.0%}, backward {parts['backward'] / whole:.0%},"
        f" optimiser {parts['optimizer'] / whole:.1%}; {value['peak_bytes'] / 2**30:.2f} GiB"
    )


def best_micro_batch(
    recipe: PretrainRecipe, text: Text, cells: Cells, seconds: float, least: int = 8
) -> tuple[PretrainRecipe, Split]:
    """The recipe with the micro-batch that runs fastest compiled: its own where it names one, else the batch, its half, … down
    to `least` rows."""
    data = recipe.data
    if data.micro_batch_rows is not None:
        return recipe, split_batch(data.batch_rows, data.micro_batch_rows, 1)
    sizes = [data.batch_rows]
    while sizes[-1] % 2 == 0 and sizes[-1] // 2 >= least:
        sizes.append(sizes[-1] // 2)

    def contender(rows: int) -> Contender:
        split = split_batch(data.batch_rows, rows, 1)
        stream = packed(text, data.row_length, data.batch_rows, recipe.masking, recipe.seed)
        return OurSteps(recipe, split, recipe.compile is not False).contender(steps_of(stream, split, 0, 2))

    found = {}
    for rows in sizes:
        cell = cells.measured({"what": "micro-batch", "rows": rows}, partial(rate, partial(contender, rows), seconds))
        found[rows] = cell.get("tokens_per_second", 0.0)
    rows = max(found, key=lambda size: found[size])
    return replace(recipe, data=replace(data, micro_batch_rows=rows)), split_batch(data.batch_rows, rows, 1)


def rate(make: Callable[[], Contender], seconds: float, fatal: tuple[type[Exception], ...] = ()) -> Value:
    """The median rate of one contender alone, in three rounds; `fails` where it does not run, but for what is `fatal`."""
    fresh_start()
    try:
        (turns,) = alternate([make()], 3, seconds)
    except fatal:
        raise
    except (*FAILURES, ImportError, OSError) as error:
        return failure(error)
    return {"tokens_per_second": statistics.median(turn.rate for turn in turns)}


def beside_ceiling(
    contenders: Sequence[Contender], ours: OurSteps, ceilings: Ceilings, rounds: int, seconds: float
) -> tuple[list[list[Turn]], list[float]]:
    """The turns of each contender, and the matrix rate of each round: it is measured again beside the steps that it is compared
    with."""
    limits: list[float] = []
    forget_peak(ours.device)
    turns = alternate(
        contenders,
        rounds,
        seconds,
        lambda: limits.append(matrix_rate([ceilings.best_shape], ours.dtype, ours.device, 0.2)),
    )
    return turns, limits


def fresh_start() -> None:
    """Nothing of an earlier cell: compiled code counts against the compiler's limits, and dead models hold memory."""
    torch._dynamo.reset()
    free_memory()


def free_memory() -> None:
    """Nothing of dead models."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def failure(error: BaseException) -> Value:
    """The cell of what does not run: what went wrong, short."""
    if is_out_of_memory(error):
        return {"fails": OUT_OF_MEMORY}
    lines = str(error).strip().splitlines()
    return {"fails": f"{type(error).__name__}: {lines[0][:160] if lines else ''}"}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was used up: of a GPU, or as PyTorch's allocators of a CPU say it."""
    said = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in said)


def place(recipe: PretrainRecipe) -> tuple[torch.device, str]:
    """Device and precision that the trainer group of the recipe takes here."""
    trainer = make_trainer(recipe.trainer, [], [], [], 1, None)
    return trainer.strategy.root_device, str(trainer.precision)


def has_compiler(device: torch.device) -> bool:
    """Whether the step can be compiled on this device."""
    try:
        return compiles(True, device, None, None)[0]
    except InputError:
        return False
