"""Finished results of a measurement: saved as one line of JSON each, so that an interruption costs one result, and reported as lines,
tables, pictures and metrics.json.

The columns of a kind of result define both the row in its table and the line that is printed when it is finished.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bert.errors import InputError, accessing, first_line, option
from bert.files import replace_text
from bert.model.tuning import FAILURES

logger = logging.getLogger(__name__)

RESULTS, METRICS, TABLE = "results.jsonl", "metrics.json", "table.md"
OUT_OF_MEMORY = "out of memory"
Value = dict[str, Any]
_RATIO = "{ratio[median]:.2f} ({ratio[min]:.2f}–{ratio[max]:.2f})"
_MFU = "{mfu[median]:.1%} ({mfu[min]:.1%}–{mfu[max]:.1%})"
_SHARES = "{share[data]:.1%} | {share[forward]:.1%} | {share[backward]:.1%} | {share[optimizer]:.1%}"
_RATES = "{tokens_per_second[candidate][median]:,.0f} | {tokens_per_second[baseline][median]:,.0f}"
KINDS: dict[str, tuple[int, str, str]] = {
    "peaks": (
        0,
        "bf16 matrix rate, TFLOP/s | the model's own products | fp32 matrix rate | memory copy, GB/s | memory triad a = b + s · c",
        "{bf16:,.3f} | {model_shapes:,.3f} | {fp32:,.3f} | {copy:,.1f} | {triad:,.1f}",
    ),
    "step": (
        2,
        "attention | compiled | tokens/s | MFU | data | forward | backward | optimizer | fill | peak GiB",
        f"{{backend}} | {{compile}} | {{tokens_per_second[median]:,.0f}} | {_MFU} | {_SHARES} | {{fill:.1%}} | {{peak_gib:.2f}}",
    ),
    "sweep": (
        3,
        "attention | compiled | micro-batch | tokens/s | peak GiB",
        "{backend} | {compile} | {sequences} | {tokens_per_second:,.0f} | {peak_gib:.2f}",
    ),
    "compare": (
        2,
        "workload | baseline | ratio | tokens/s | baseline tokens/s | MFU | baseline MFU | baseline positions/token",
        f"{{workload}} | {{setting}} | {_RATIO} | {_RATES} | {{mfu[candidate]:.1%}} | {{mfu[baseline]:.1%}}"
        " | {positions_per_token[baseline]:.3f}",
    ),
    "minutes": (
        3,
        "side | setting | seed | loss | accuracy | tokens | steps | minutes",
        "{side} | {setting} | {seed} | {loss:.3f} | {accuracy:.1%} | {tokens:,.0f} | {steps:,} | {minutes:.1f}",
    ),
    "finetune": (
        2,
        "task | baseline | ratio | seconds | baseline seconds | steps | validations | pairs",
        f"{{name}} | {{setting}} | {_RATIO} | {{seconds[0][median]:,.1f}} | {{seconds[1][median]:,.1f}} | {{steps}} | {{validations}}"
        " | {pairs}",
    ),
}
"""kind → number of leading columns that identify a result, followed by its metrics; header of its table; row"""


class Results:
    """The results of one measurement, in `folder`, or only in memory if there is none.

    `fingerprint` holds everything that a metric depends on except its key. Raises InputError if the folder holds results of another
    measurement or cannot be written.
    """

    def __init__(self, folder: Path | None, fingerprint: Mapping[str, Any]) -> None:
        self.folder = folder
        self._results: dict[str, dict[str, Value]] = {}
        if folder is None:
            return
        head, file = json.loads(json.dumps({"fingerprint": fingerprint})), folder / RESULTS
        lines = list(_whole_lines(file))
        if len(lines) > 1 and lines[0] != head:  # a file without results may be replaced
            raise InputError(
                f"{file}: holds results of another measurement: remove it, or give another {option('out')}"
            )
        # failed results are measured again: memory may be free now, or a package installed
        self._results = {_name(line["key"]): line for line in lines[1:] if "error" not in line["value"]}
        with accessing(file, "written", f"give another {option('out')}"):
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(file, "".join(json.dumps(line) + "\n" for line in (head, *self._results.values())))

    def measured(self, key: Mapping[str, Any], measure: Callable[[], Value]) -> Value:
        """The result of this key, measured and saved now unless it is already there."""
        name = _name(key)
        if name not in self._results:
            self._results[name] = json.loads(json.dumps({"key": key, "value": measure()}))
            if self.folder is not None:
                with (self.folder / RESULTS).open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(self._results[name]) + "\n")
        return self._results[name]["value"]

    def __iter__(self) -> Iterator[Value]:
        """All results, including their keys, in the order of measurement."""
        return (result["key"] | result["value"] for result in self._results.values())

    def of(self, kind: str, *, failed: bool = False) -> list[Value]:
        """The results of a kind; `failed` includes those that are only an error."""
        return [result for result in self if result["kind"] == kind and (failed or "error" not in result)]


def attempt(
    measure: Callable[..., Value], *given: Any, side: str = "", fatal: tuple[type[Exception], ...] = ()
) -> Value:
    """The result of `measure(*given)`, or a short error if it does not run, with the `side` of a comparison that failed. `fatal`
    exceptions are raised."""
    try:
        return measure(*given)
    except fatal:
        raise
    except (*FAILURES, ImportError, OSError) as error:
        reason = f"{type(error).__name__}: {first_line(error)[:160]}"
        return {"error": OUT_OF_MEMORY if is_out_of_memory(error) else reason} | ({"side": side} if side else {})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or by the messages of PyTorch's CPU allocators."""
    reasons = ("not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in reasons)


def _name(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _whole_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of the file, if it exists, without a last line that a kill cut short."""
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _cells(result: Value) -> list[str]:
    """A result as a row of the table of its kind."""
    count, _, row = KINDS[result["kind"]]
    forms = row.split(" | ")
    if "error" not in result:
        return [form.format_map(result) for form in forms]
    error = f"{result['side'] + ' ' if 'side' in result else ''}does not run here: {result['error']}"
    empty = [""] * (len(forms) - count - 1)
    return [*(form.format_map(result) for form in forms[:count]), error.replace("|", "/"), *empty]


def line_of(result: Value) -> str:
    """A finished result as a line."""
    count, header, _ = KINDS[result["kind"]]
    metrics = _cells(result)[count:]
    if "error" not in result:
        metrics = [f"{metric} {head}" for metric, head in zip(metrics, header.split(" | ")[count:])]
    return f"{result['name']}: {', '.join(filter(None, metrics))}"


def report(results: Results, about: Value) -> Value:
    """Print the tables and, if the results have a folder, write them there with the pictures and metrics.json; returns its content."""
    text, out = "\n\n".join(tables(results)), results.folder
    logger.info(text)
    content = {**about, "results": list(results), "best_baseline": best_baseline(results), "sweep": findings(results)}
    metrics: Value = json.loads(json.dumps(content))
    if out is not None:
        replace_text(out / METRICS, json.dumps(metrics, indent=2) + "\n")
        replace_text(out / TABLE, text + "\n")
        logger.info(f"written to {out}: {', '.join([METRICS, TABLE, *pictures(results, out)])}")
    return metrics


def tables(results: Results) -> list[str]:
    """A Markdown table for each kind of result, and the conclusions from a sweep or a comparison."""
    made = []
    for kind, (_, header, _) in KINDS.items():
        if of_kind := results.of(kind, failed=True):
            rule, rows = " | ".join(["---"] * (header.count("|") + 1)), [" | ".join(_cells(one)) for one in of_kind]
            made.append("\n".join(f"| {line} |" for line in (header, rule, *rows)))
    if found := findings(results):
        fast, large = found["fastest"], found["largest"]
        most = "the largest that fits" if large["limit"] else "all sizes fit, the largest tried"
        made.append(f"fastest: {line_of(fast)}; {most}: {large['sequences']} sequences")
    for workload, best in best_baseline(results).items():
        line = f"{workload}: {_RATIO} × the tokens/s of the baseline in its best setting ({{setting}})"
        goal = "; goal: {goal:.2f}, 0.95 × the ratio on full sequences × positions per token of the baseline"
        made.append((line + goal * ("goal" in best)).format_map(best))
    return made


def best_baseline(results: Results) -> Value:
    """By workload, the ratio to the baseline in its best setting, and for padded documents the goal: 0.95 × the ratio without padding ×
    the positions that the baseline computes per token."""
    best: Value = {}
    for one in sorted(results.of("compare"), key=lambda result: result["ratio"]["median"]):
        best.setdefault(one["workload"], {name: one[name] for name in ("ratio", "positions_per_token", "setting")})
    if "full-sequences" in best and "padded" in best:
        positions = best["padded"]["positions_per_token"]["baseline"]
        best["padded"]["goal"] = 0.95 * best["full-sequences"]["ratio"]["median"] * positions
    return best


def findings(results: Results) -> Value:
    """The fastest result of a sweep, and the largest micro-batch that ran, with its backend and compilation; `limit`: a larger one ran
    out of memory."""
    if not (ran := results.of("sweep")):
        return {}
    largest = max(ran, key=lambda result: (result["sequences"], result["tokens_per_second"]))
    failed = [one for one in results.of("sweep", failed=True) if one.get("error") == OUT_OF_MEMORY]
    named = {name: largest[name] for name in ("sequences", "backend", "compile")}
    limit = any(one["sequences"] > largest["sequences"] for one in failed)
    fastest = max(ran, key=lambda result: result["tokens_per_second"])
    return {"fastest": fastest, "largest": named | {"limit": limit}}


def pictures(results: Results, out: Path) -> list[str]:
    """Draw a picture for each kind of result; returns the file names."""
    from bert.report.bars import Bar, bars_png, curves_png

    steps, swept, compared, trained = (results.of(kind) for kind in ("step", "sweep", "compare", "minutes"))
    if steps:
        bars = [Bar(one["name"], one["mfu"], int(one["compile"] == "yes")) for one in steps]
        bars_png(out / "steps.png", bars, "MFU of a training step, relative to the measured matrix rate", "MFU")
    if swept:
        curves: dict[str, list[tuple[float, float]]] = {}
        for one in swept:
            way = f"{one['backend']}, compiled: {one['compile']}"
            curves.setdefault(way, []).append((one["sequences"], one["tokens_per_second"]))
        lines = [(way, number, points) for number, (way, points) in enumerate(curves.items())]
        curves_png(out / "sweep.png", lines, "tokens/s by micro-batch size", "sequences", "tokens/s", True)
    if compared:
        workloads = list(dict.fromkeys(one["workload"] for one in compared))
        bars = [Bar(one["name"], one["ratio"], workloads.index(one["workload"])) for one in compared]
        bars_png(out / "compare.png", bars, "tokens/s, candidate relative to baseline", "ratio", ("equal", 1.0))
    if trained:
        lines = [(one["side"], int(one["side"] == "baseline"), one["curve"]) for one in trained]
        curves_png(out / "minutes.png", lines, "masked-LM loss on fixed masks over training time", "minutes", "nats")
    drawn = {"steps.png": steps, "sweep.png": swept, "compare.png": compared, "minutes.png": trained}
    return [name for name, of_kind in drawn.items() if of_kind]
