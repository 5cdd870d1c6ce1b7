"""What a measurement leaves: metrics.json with every cell, table.md, and pictures; the table is printed too."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from bert.bench.against import verdict
from bert.bench.cells import Cells, Value
from bert.bench.minutes import POINTS
from bert.bench.peers import PeerSettings
from bert.bench.rounds import Spread
from bert.bench.steps import name_of
from bert.bench.sweep import findings
from bert.files import replaced

METRICS, TABLE = "metrics.json", "table.md"


def report(cells: Cells, about: dict[str, Any], out: Path | None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Say the tables and, where there is a folder, write them, the pictures and metrics.json; returns what is in that."""
    text = "\n\n".join(tables(cells))
    say(text)
    content = {
        **about,
        "cells": [{**key, **value} for key, value in cells],
        "against_best_peer": verdict(cells),
        "sweep": findings(cells),
    }
    metrics: dict[str, Any] = json.loads(json.dumps(content))
    if out is not None:
        with replaced(out / METRICS) as partial:
            partial.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        with replaced(out / TABLE) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        say(f"all in {out}: {', '.join([METRICS, TABLE, *pictures(cells, out)])}")
    return metrics


def tables(cells: Cells) -> list[str]:
    """The tables of all kinds of cells that there are, as Markdown."""
    made = []
    kinds: dict[str, list[tuple[dict[str, Any], Value]]] = {}
    for key, value in cells:
        kinds.setdefault(key["what"], []).append((key, value))
    if "ceilings" in kinds:
        value = kinds["ceilings"][0][1]
        rows = [
            ("bf16 matrix rate, best of several products", f"{value['bf16'] / 1e12:,.3f} TFLOP/s"),
            ("bf16, the model's own products in a forward pass", f"{value['own_shapes'] / 1e12:,.3f} TFLOP/s"),
            ("fp32 matrix rate", f"{value['fp32'] / 1e12:,.3f} TFLOP/s"),
            ("memory, copy", f"{value['copy'] / 1e9:,.1f} GB/s"),
            ("memory, a = b + s · c", f"{value['triad'] / 1e9:,.1f} GB/s"),
        ]
        made.append(_markdown(("ceiling", "measured"), rows))
    if "step" in kinds:
        made.append(_markdown(_STEP_HEADER, (_step_row(key, value) for key, value in kinds["step"])))
    if "sweep" in kinds:
        header = ("attention", "compiled", "rows at once", "tokens/s", "peak GiB")
        made.append(
            _markdown(header, ((*_way(key), str(key["rows"]), *_sweep_row(value)) for key, value in kinds["sweep"]))
        )
        found = findings(cells)
        if found:
            fast, large = found["fastest"], found["largest"]
            most = "the largest that fits" if large["limit"] else "all sizes fit, the largest tried"
            made.append(
                f"fastest: {fast['rows']} rows at once, {name_of(fast)},"
                f" {fast['tokens_per_second']:,.0f} tokens/s; {most}: {large['rows']} rows"
            )
    if "against hf" in kinds:
        made.append(_markdown(_DUEL_HEADER, (_duel_row(key, value) for key, value in kinds["against hf"])))
        made += _verdict_lines(verdict(cells))
    if "minutes" in kinds:
        made.append(_markdown(_MINUTES_HEADER, (_minutes_row(key, value) for key, value in kinds["minutes"])))
    return made


_STEP_HEADER = (
    "attention", "compiled", "tokens/s", "of the matrix rate of its round", "data", "forward", "backward", "optimiser", "fill", "peak GiB"
)  # fmt: skip


def _step_row(key: dict[str, Any], value: Value) -> Sequence[str]:
    if "fails" in value:
        return (*_way(key), value["fails"], *("",) * 7)
    whole = sum(value["seconds"].values())
    parts = (f"{value['seconds'][part] / whole:.1%}" for part in ("data", "forward", "backward", "optimizer"))
    share = value["share_of_matrix_rate"]
    spread = f"{share['median']:.1%} ({share['least']:.1%}–{share['greatest']:.1%})"
    rate = f"{value['tokens_per_second']['median']:,.0f}"
    return (*_way(key), rate, spread, *parts, f"{value['fill']:.1%}", f"{value['peak_bytes'] / 2**30:.2f}")


def _sweep_row(value: Value) -> Sequence[str]:
    if "fails" in value:
        return value["fails"], ""
    return f"{value['tokens_per_second']:,.0f}", f"{value['peak_bytes'] / 2**30:.2f}"


_DUEL_HEADER = (
    "work", "the peer's setting", "ours / peer", "our tokens/s", "its tokens/s", "our share of the matrix rate", "its", "its places a token"
)  # fmt: skip


def _duel_row(key: dict[str, Any], value: Value) -> Sequence[str]:
    way = (key["work"], str(PeerSettings(key["attention"], key["compile"])))
    if "fails" in value:
        return (*way, f"{value['side']}: {value['fails']}", *("",) * 5)
    rates, shares = value["tokens_per_second"], value["share_of_matrix_rate"]
    return (
        *way,
        str(Spread(**value["ratio"])),
        f"{rates['ours']['median']:,.0f}",
        f"{rates['peer']['median']:,.0f}",
        f"{shares['ours']:.1%}",
        f"{shares['peer']:.1%}",
        f"{value['peer_positions_over_tokens']:.3f}",
    )


def _verdict_lines(best: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        f"{work}: {Spread(**found['ratio'])} × the peer at its best ({found['against']})"
        + (
            f"; goal: {found['demand']:.2f}, 0.95 × the ratio on full rows × its places a token"
            if "demand" in found
            else ""
        )
        for work, found in best.items()
    ]
    return ["\n".join(lines)] if lines else []


_MINUTES_HEADER = ("side", "seed", "loss", "accuracy", "M tokens", "steps", "minutes")


def _minutes_row(key: dict[str, Any], value: Value) -> Sequence[str]:
    return (
        f"{key['side']} ({value['setting']})" if "setting" in value else key["side"],
        str(key["seed"]),
        f"{value['loss']:.3f}",
        f"{value['accuracy']:.1%}",
        f"{value['tokens'] / 1e6:.2f}",
        f"{value['steps']:,}",
        f"{value['seconds'] / 60:.1f}",
    )


def pictures(cells: Cells, out: Path) -> list[str]:
    """Draw a picture for each kind of cells that there is; returns their names."""
    from bert.report.bars import Bar, bars_png, curves_png

    steps, duels, curves = [], [], []
    works: list[str] = []
    sizes: dict[str, list[tuple[float, float]]] = {}
    for key, value in cells:
        if "fails" in value:
            continue
        match key["what"]:
            case "step":
                spread = Spread(**value["share_of_matrix_rate"])
                median, least, greatest = (100 * share for share in astuple(spread))
                steps.append(Bar(name_of(key), median, least, greatest, int(key["compiled"])))
            case "sweep":
                sizes.setdefault(name_of(key), []).append((key["rows"], value["tokens_per_second"]))
            case "against hf":
                if key["work"] not in works:
                    works.append(key["work"])
                name = f"{key['work']}: {PeerSettings(key['attention'], key['compile'])}"
                median, least, greatest = astuple(Spread(**value["ratio"]))
                duels.append(Bar(name, median, least, greatest, works.index(key["work"])))
            case "minutes":
                curves.append((key["side"], int(key["side"] == "peer"), value["curve"]))
    drawn = []
    if steps:
        bars_png(out / "steps.png", steps, "a training step's share of the measured matrix rate", "per cent")
        drawn.append("steps.png")
    if sizes:
        lines = [(name, number, points) for number, (name, points) in enumerate(sizes.items())]
        title = "real tokens a second by micro-batch"
        curves_png(out / "sweep.png", lines, title, "rows at once", "tokens a second", doubling=True)
        drawn.append("sweep.png")
    if duels:
        bars_png(out / "against.png", duels, "real tokens a second, ours over the peer's", "times", ("as fast", 1.0))
        drawn.append("against.png")
    if curves:
        title = f"masked-LM loss on fixed masks, {POINTS} times through the budget and at its end"
        curves_png(out / "minutes.png", curves, title, "minutes", "nats")
        drawn.append("minutes.png")
    return drawn


def _way(key: dict[str, Any]) -> tuple[str, str]:
    return key["backend"], "yes" if key["compiled"] else "no"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
