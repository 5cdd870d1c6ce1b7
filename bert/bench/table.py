"""What a measurement reports: metrics.json with every result, table.md, and pictures; the tables are printed too.

A kind of results is defined by its columns: as rows of a table, and as a line when a result is finished.
"""

import json
import logging
from pathlib import Path
from typing import Any

from bert.bench.results import OUT_OF_MEMORY, Results, Value
from bert.files import replace_text

logger = logging.getLogger(__name__)

METRICS, TABLE = "metrics.json", "table.md"
_RATIO = "{ratio[median]:.2f} ({ratio[min]:.2f}–{ratio[max]:.2f})"
_MFU = "{mfu[median]:.1%} ({mfu[min]:.1%}–{mfu[max]:.1%})"
_SHARES = "{share[data]:.1%} | {share[forward]:.1%} | {share[backward]:.1%} | {share[optimizer]:.1%}"
_RATES = "{tokens_per_second[candidate][median]:,.0f} | {tokens_per_second[baseline][median]:,.0f}"
KINDS: dict[str, tuple[int, str, str]] = {
    "peaks": (
        0,
        "bf16 matrix rate, TFLOP/s | the model's own products | fp32 matrix rate | memory copy, GB/s | memory a = b + s · c",
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
}
"""kind → how many columns tell how a result was measured, before its metrics; the header of its table; a row"""


def _cells(result: Value) -> list[str]:
    """The row of a result in the table of its kind."""
    count, _, row = KINDS[result["kind"]]
    forms = row.split(" | ")
    if "error" not in result:
        return [form.format_map(result) for form in forms]
    error = f"{result['side'] + ' ' if 'side' in result else ''}does not run here: {result['error']}"
    empty = [""] * (len(forms) - count - 1)
    return [*(form.format_map(result) for form in forms[:count]), error.replace("|", "/"), *empty]


def line_of(result: Value) -> str:
    """A finished result in a line."""
    count, header, _ = KINDS[result["kind"]]
    metrics = _cells(result)[count:]
    if "error" not in result:
        metrics = [f"{metric} {head}" for metric, head in zip(metrics, header.split(" | ")[count:])]
    return f"{result['name']}: {', '.join(filter(None, metrics))}"


def report(results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """Print the tables and, where there is a folder, write them, the pictures and metrics.json; returns what is in that."""
    text, out = "\n\n".join(tables(results)), results.folder
    logger.info(text)
    content = {**about, "results": list(results), "best_baseline": best_baseline(results), "sweep": findings(results)}
    metrics: dict[str, Any] = json.loads(json.dumps(content))
    if out is not None:
        for name, written in ((METRICS, json.dumps(metrics, indent=2)), (TABLE, text)):
            replace_text(out / name, written + "\n")
        logger.info(f"all in {out}: {', '.join([METRICS, TABLE, *pictures(results, out)])}")
    return metrics


def tables(results: Results) -> list[str]:
    """The tables of all kinds of results that there are, as Markdown."""
    made = []
    for kind, (_, header, _) in KINDS.items():
        if of_kind := results.of(kind, failed=True):
            lines = [
                header,
                " | ".join("---" for _ in header.split(" | ")),
                *(" | ".join(_cells(one)) for one in of_kind),
            ]
            made.append("\n".join(f"| {line} |" for line in lines))
    if found := findings(results):
        fast, large = found["fastest"], found["largest"]
        most = "the largest that fits" if large["limit"] else "all sizes fit, the largest tried"
        made.append(f"fastest: {line_of(fast)}; {most}: {large['sequences']} sequences")
    for workload, best in best_baseline(results).items():
        line = f"{workload}: {_RATIO} × the baseline in its best setting ({{setting}})"
        goal = "; goal: {goal:.2f}, 0.95 × the ratio on full sequences × positions per token of the baseline"
        made.append((line + goal * ("goal" in best)).format_map(best))
    return made


def best_baseline(results: Results) -> dict[str, Any]:
    """By workload, the ratio against the best setting of the baseline, and for padded documents the goal: 0.95 × the ratio without
    padding × the positions that the baseline computes for each token."""
    best: dict[str, Any] = {}
    for one in sorted(results.of("compare"), key=lambda result: result["ratio"]["median"]):
        best.setdefault(one["workload"], {name: one[name] for name in ("ratio", "positions_per_token", "setting")})
    if "full-sequences" in best and "padded" in best:
        positions = best["padded"]["positions_per_token"]["baseline"]
        best["padded"]["goal"] = 0.95 * best["full-sequences"]["ratio"]["median"] * positions
    return best


def findings(results: Results) -> dict[str, Any]:
    """The fastest result of a sweep, and the largest micro-batch that ran, with its backend and compilation; `limit`: a larger one ran
    out of memory."""
    if not (ran := results.of("sweep")):
        return {}
    largest = max(ran, key=lambda result: (result["sequences"], result["tokens_per_second"]))
    larger = [one for one in results.of("sweep", failed=True) if one["sequences"] > largest["sequences"]]
    named = {name: largest[name] for name in ("sequences", "backend", "compile")}
    limit = any(one.get("error") == OUT_OF_MEMORY for one in larger)
    fastest = max(ran, key=lambda result: result["tokens_per_second"])
    return {"fastest": fastest, "largest": named | {"limit": limit}}


def pictures(results: Results, out: Path) -> list[str]:
    """Draw a picture for each kind of results that there is; returns their names."""
    from bert.report.bars import Bar, bars_png, curves_png

    steps, swept, compared, trained = (results.of(kind) for kind in ("step", "sweep", "compare", "minutes"))
    if steps:
        bars = [Bar(one["name"], one["mfu"], int(one["compile"] == "yes")) for one in steps]
        bars_png(out / "steps.png", bars, "a training step's MFU, of the measured matrix rate", "MFU")
    if swept:
        curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for one in swept:
            curves.setdefault((one["backend"], one["compile"]), []).append((one["sequences"], one["tokens_per_second"]))
        lines = [(f"{way[0]}, compiled: {way[1]}", number, curves[way]) for number, way in enumerate(curves)]
        curves_png(out / "sweep.png", lines, "tokens a second by micro-batch", "sequences", "tokens a second", True)
    if compared:
        workloads = list(dict.fromkeys(one["workload"] for one in compared))
        bars = [Bar(one["name"], one["ratio"], workloads.index(one["workload"])) for one in compared]
        bars_png(out / "compare.png", bars, "tokens a second, candidate over baseline", "times", ("as fast", 1.0))
    if trained:
        lines = [(one["side"], int(one["side"] == "baseline"), one["curve"]) for one in trained]
        curves_png(out / "minutes.png", lines, "masked-LM loss on fixed masks by the clock", "minutes", "nats")
    drawn = {"steps.png": steps, "sweep.png": swept, "compare.png": compared, "minutes.png": trained}
    return [name for name, of_kind in drawn.items() if of_kind]
