"""What a measurement leaves: metrics.json with every cell, table.md, and pictures; the table is printed too.

A kind of cells is told by its columns: as rows of a table, and as a line when a cell is finished.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bert.bench.cells import OUT_OF_MEMORY, Cells, Value
from bert.files import replace_text

METRICS, TABLE = "metrics.json", "table.md"
POINTS = 20
"""points of a curve"""

Columns = dict[str, Callable[[Value], str]]
"""what stands under a header, as a function of a cell"""


def _part(name: str) -> Callable[[Value], str]:
    return lambda cell: f"{cell['seconds'][name] / sum(cell['seconds'].values()):.1%}"


def _spread(spread: dict[str, float], form: str = ".2f") -> str:
    return f"{spread['median']:{form}} ({spread['least']:{form}}–{spread['greatest']:{form}})"


_WAY: Columns = {"attention": lambda cell: cell["backend"], "compiled": lambda cell: ("no", "yes")[cell["compiled"]]}
_PEAK: Columns = {"peak GiB": lambda cell: f"{cell['peak_bytes'] / 2**30:.2f}"}
KINDS: dict[str, tuple[Columns, Columns]] = {  # how it ran, and what came of it
    "step": (
        _WAY,
        {
            "tokens/s": lambda cell: f"{cell['tokens_per_second']['median']:,.0f}",
            "of the matrix rate of its round": lambda cell: _spread(cell["mfu"], ".1%"),
            **{name: _part(name) for name in ("data", "forward", "backward")},
            "optimiser": _part("optimizer"),
            "fill": lambda cell: f"{cell['fill']:.1%}",
            **_PEAK,
        },
    ),
    "sweep": (
        {**_WAY, "sequences at once": lambda cell: str(cell["sequences"])},
        {"tokens/s": lambda cell: f"{cell['tokens_per_second']:,.0f}", **_PEAK},
    ),
    "against hf": (
        {"work": lambda cell: cell["work"], "the peer's setting": lambda cell: cell["setting"]},
        {
            "ours / peer": lambda cell: _spread(cell["ratio"]),
            "our tokens/s": lambda cell: f"{cell['tokens_per_second']['ours']['median']:,.0f}",
            "its tokens/s": lambda cell: f"{cell['tokens_per_second']['peer']['median']:,.0f}",
            "our share of the matrix rate": lambda cell: f"{cell['mfu']['ours']:.1%}",
            "its": lambda cell: f"{cell['mfu']['peer']:.1%}",
            "its places a token": lambda cell: f"{cell['peer_positions_over_tokens']:.3f}",
        },
    ),
    "minutes": (
        {
            "side": lambda cell: f"{cell['side']} ({cell['setting']})" if "setting" in cell else cell["side"],
            "seed": lambda cell: str(cell["seed"]),
        },
        {
            "loss": lambda cell: f"{cell['loss']:.3f}",
            "accuracy": lambda cell: f"{cell['accuracy']:.1%}",
            "M tokens": lambda cell: f"{cell['tokens'] / 1e6:.2f}",
            "steps": lambda cell: f"{cell['steps']:,}",
            "minutes": lambda cell: f"{cell['seconds'] / 60:.1f}",
        },
    ),
}


def name_of(cell: Value) -> str:
    """How the step of a cell ran."""
    if "work" in cell:
        return f"{cell['work']}, {cell['setting']}"
    if cell["what"] == "minutes":
        return f"{cell['side']}, seed {cell['seed']}"
    return f"{cell['backend']}{', compiled' if cell['compiled'] else ''}"


def line_of(cell: Value) -> str:
    """A finished cell in a line."""
    name = f"{cell['sequences']} sequences, {name_of(cell)}" if cell["what"] == "sweep" else name_of(cell)
    heads = [""] if "fails" in cell else [f" {head}" for head in KINDS[cell["what"]][1]]
    return f"{name}: {', '.join(figure + head for figure, head in zip(_figures(cell), heads))}"


def _figures(cell: Value) -> list[str]:
    if "fails" in cell:
        return [f"{cell['side'] + ' ' if 'side' in cell else ''}does not run here: {cell['fails']}"]
    return [show(cell) for show in KINDS[cell["what"]][1].values()]


def report(cells: Cells, about: dict[str, Any], out: Path | None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Say the tables and, where there is a folder, write them, the pictures and metrics.json; returns what is in that."""
    text = "\n\n".join(tables(cells))
    say(text)
    content = {**about, "cells": list(cells), "against_best_peer": verdict(cells), "sweep": findings(cells)}
    metrics: dict[str, Any] = json.loads(json.dumps(content))
    if out is not None:
        for name, written in ((METRICS, json.dumps(metrics, indent=2)), (TABLE, text)):
            replace_text(out / name, written + "\n")
        say(f"all in {out}: {', '.join([METRICS, TABLE, *pictures(cells, out)])}")
    return metrics


def tables(cells: Cells) -> list[str]:
    """The tables of all kinds of cells that there are, as Markdown."""
    made = []
    for value in cells.ran("ceilings"):
        rows = [
            ("bf16 matrix rate, best of several products", f"{value['bf16'] / 1e12:,.3f} TFLOP/s"),
            ("bf16, the model's own products in a forward pass", f"{value['own_shapes'] / 1e12:,.3f} TFLOP/s"),
            ("fp32 matrix rate", f"{value['fp32'] / 1e12:,.3f} TFLOP/s"),
            ("memory, copy", f"{value['copy'] / 1e9:,.1f} GB/s"),
            ("memory, a = b + s · c", f"{value['triad'] / 1e9:,.1f} GB/s"),
        ]
        made.append(_markdown(("ceiling", "measured"), rows))
    for what, (way, figures) in KINDS.items():
        if of_kind := [cell for cell in cells if cell["what"] == what]:
            told = ([*(show(cell) for show in way.values()), *_figures(cell)] for cell in of_kind)
            made.append(_markdown([*way, *figures], told))
        if what == "sweep" and (found := findings(cells)):
            fast, large = found["fastest"], found["largest"]
            most = "the largest that fits" if large["limit"] else "all sizes fit, the largest tried"
            made.append(
                f"fastest: {fast['sequences']} sequences at once, {name_of(fast)},"
                f" {fast['tokens_per_second']:,.0f} tokens/s; {most}: {large['sequences']} sequences"
            )
        if what == "against hf" and (best := verdict(cells)):
            made.append("\n".join(_verdict_line(work, found) for work, found in best.items()))
    return made


def _verdict_line(work: str, found: dict[str, Any]) -> str:
    goal = "; goal: {demand:.2f}, 0.95 × the ratio on full sequences × its places a token" if "demand" in found else ""
    return f"{work}: {_spread(found['ratio'])} × the peer at its best ({found['against']}){goal.format(**found)}"


def verdict(cells: Cells) -> dict[str, Any]:
    """By work, the ratio against the best setting of the peer, and for padded documents the demand: 0.95 × the ratio without
    padding × the places that the peer computes for each real token."""
    duels, best = cells.ran("against hf"), {}
    for work in dict.fromkeys(cell["work"] for cell in duels):
        cell = min((cell for cell in duels if cell["work"] == work), key=lambda cell: cell["ratio"]["median"])
        kept = {name: cell[name] for name in ("ratio", "peer_positions_over_tokens")}
        best[work] = kept | {"against": cell["setting"]}
    if "full sequences" in best and "padded" in best:
        ragged = best["padded"]
        ragged["demand"] = 0.95 * best["full sequences"]["ratio"]["median"] * ragged["peer_positions_over_tokens"]
    return best


def findings(cells: Cells) -> dict[str, Any]:
    """The fastest cell, and the largest micro-batch that ran, with its backend and compilation; `limit`: a larger one ran out of memory."""
    if not (ran := cells.ran("sweep")):
        return {}
    fastest = max(ran, key=lambda cell: cell["tokens_per_second"])
    largest = max(ran, key=lambda cell: (cell["sequences"], cell["tokens_per_second"]))
    more = [cell for cell in cells if cell["what"] == "sweep" and cell["sequences"] > largest["sequences"]]
    limit = any(cell.get("fails") == OUT_OF_MEMORY for cell in more)
    named = {name: largest[name] for name in ("sequences", "backend", "compiled")}
    return {"fastest": fastest, "largest": named | {"limit": limit}}


def pictures(cells: Cells, out: Path) -> list[str]:
    """Draw a picture for each kind of cells that there is; returns their names."""
    from bert.report.bars import Bar, bars_png, curves_png

    def bar(cell: Value, of: dict[str, float], group: int, unit: float = 1.0) -> Bar:
        return Bar(name_of(cell), unit * of["median"], unit * of["least"], unit * of["greatest"], group)

    drawn = []
    if steps := cells.ran("step"):
        drawn.append("steps.png")
        bars = [bar(cell, cell["mfu"], int(cell["compiled"]), 100) for cell in steps]
        bars_png(out / drawn[-1], bars, "a training step's share of the measured matrix rate", "per cent")
    if swept := cells.ran("sweep"):
        drawn.append("sweep.png")
        sizes: dict[str, list[tuple[float, float]]] = {}
        for cell in swept:
            sizes.setdefault(name_of(cell), []).append((cell["sequences"], cell["tokens_per_second"]))
        lines = [(name, number, points) for number, (name, points) in enumerate(sizes.items())]
        curves_png(
            out / drawn[-1], lines, "real tokens a second by micro-batch", "sequences at once", "tokens a second", True
        )
    if duels := cells.ran("against hf"):
        drawn.append("against.png")
        works = list(dict.fromkeys(cell["work"] for cell in duels))
        bars = [bar(cell, cell["ratio"], works.index(cell["work"])) for cell in duels]
        bars_png(out / drawn[-1], bars, "real tokens a second, ours over the peer's", "times", ("as fast", 1.0))
    if trained := cells.ran("minutes"):
        drawn.append("minutes.png")
        curves = [(cell["side"], int(cell["side"] == "peer"), cell["curve"]) for cell in trained]
        title = f"masked-LM loss on fixed masks, {POINTS} times through the budget and at its end"
        curves_png(out / drawn[-1], curves, title, "minutes", "nats")
    return drawn


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([*row, *[""] * (len(header) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
