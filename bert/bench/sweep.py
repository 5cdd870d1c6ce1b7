"""The fastest way to run a recipe's step and the largest micro-batch that fits: sizes doubled, backends, compiled or not."""

from collections.abc import Callable
from functools import partial
from typing import Any

from bert.bench.cells import Cells, Value
from bert.bench.documents import Text, packed
from bert.bench.ours import BACKENDS, OurSteps, on, steps_of
from bert.bench.peak import forget_peak, peak
from bert.bench.steps import OUT_OF_MEMORY, choices, failure, fresh_start, name_of
from bert.model.tuning import FAILURES, now
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.stream import Split


def sweep(
    recipe: PretrainRecipe,
    text: Text,
    cells: Cells,
    backends: tuple[str, ...] = BACKENDS,
    smallest: int = 4,
    largest: int = 64,
    seconds: float = 2.0,
    say: Callable[[str], None] = print,
) -> None:
    """A cell for each backend, compiled or not, and micro-batch: `smallest` rows, twice as many, … up to `largest`, or until
    memory is used up."""
    for backend, compiled in choices(recipe, backends):
        rows = smallest
        while rows <= largest:
            key = {"what": "sweep", "backend": backend, "compiled": compiled, "rows": rows}
            measure = partial(sweep_cell, recipe, text, backend, compiled, rows, seconds)
            value = cells.measured(key, measure)
            say(line_of(key, value))
            if "fails" in value:
                break  # more rows need more memory, and what a backend cannot do it cannot do with more rows
            rows *= 2


def sweep_cell(recipe: PretrainRecipe, text: Text, backend: str, compiled: bool, rows: int, seconds: float) -> Value:
    """Real tokens a second of steps of the recipe's rows in micro-batches of `rows`, from the times of a micro-batch and of
    an update: so a step of a thousand rows costs no more to measure than one of ten."""
    fresh_start()
    data = recipe.data
    batch_rows = max(rows, data.batch_rows // rows * rows)
    split = Split(batch_rows, rows)
    stream = packed(text, data.row_length, rows, recipe.masking, recipe.seed)
    batches = [step[0] for step in steps_of(stream, Split(rows, rows), 0, 4)]
    tokens = sum(batch["global_tokens"] for batch in batches) / len(batches)
    try:
        ours = OurSteps(recipe, split, compiled, backend)
        forget_peak(ours.device)
        ready = [on(ours.device, batch) for batch in batches]
        for batch in ready[:3]:
            ours.forward(batch).backward()
            ours.update()
        micro: list[float] = []
        update: list[float] = []
        spent = 0.0
        while spent < seconds or len(micro) < 3:
            begun = now(ours.device)
            for batch in ready:
                ours.forward(batch).backward()
            between = now(ours.device)
            ours.update()
            ended = now(ours.device)
            micro.append((between - begun) / len(ready))
            update.append(ended - between)
            spent += ended - begun
        highest = peak(ours.device)
    except FAILURES as error:
        return failure(error)
    step = split.accumulation * sorted(micro)[len(micro) // 2] + sorted(update)[len(update) // 2]
    return {"tokens_per_second": split.accumulation * tokens / step, "peak_bytes": highest, "batch_rows": batch_rows}


def findings(cells: Cells) -> dict[str, Any]:
    """The fastest cell, and the largest micro-batch that ran, with its backend and compilation; `limit`: a larger one ran out of memory."""
    swept = [(key, value) for key, value in cells if key["what"] == "sweep"]
    ran = [(key, value) for key, value in swept if "fails" not in value]
    if not ran:
        return {}
    fastest, value = max(ran, key=lambda cell: cell[1]["tokens_per_second"])
    largest = max(ran, key=lambda cell: (cell[0]["rows"], cell[1]["tokens_per_second"]))[0]
    limit = any(value.get("fails") == OUT_OF_MEMORY and key["rows"] > largest["rows"] for key, value in swept)
    named = {name: largest[name] for name in ("rows", "backend", "compiled")}
    return {"fastest": fastest | value, "largest": named | {"limit": limit}}


def line_of(key: dict[str, Any], value: Value) -> str:
    """A finished cell in a line."""
    name = f"{key['rows']} rows, {name_of(key)}"
    if "fails" in value:
        return f"{name}: {value['fails']}"
    return f"{name}: {value['tokens_per_second']:,.0f} tokens/s, {value['peak_bytes'] / 2**30:.2f} GiB"
