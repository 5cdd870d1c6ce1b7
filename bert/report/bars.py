"""Measurements as PNG files: bars with their spread, curves over time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bert.report.figures import INK, PAPER, QUIET, style
from bert.report.palette import mark_of

Curve = tuple[str, int, Sequence[Sequence[float]]]
"""name, group, (x, y) points"""


@dataclass(frozen=True)
class Bar:
    """A metric with its spread; the bars of a group have the same color."""

    name: str
    spread: Mapping[str, float]
    """median, min and max over the rounds"""
    group: int = 0


def bars_png(
    file: str | Path, bars: Sequence[Bar], title: str, unit: str, level: tuple[str, float] | None = None
) -> None:
    """Draw bars from top to bottom, each with its spread; `level` is a named reference line."""
    with _picture(file, 1.3 + 0.42 * max(1, len(bars)), title, unit, "") as axes:
        for position, bar in enumerate(bars):
            value, most = bar.spread["median"], bar.spread["max"]
            axes.barh(position, value, color=mark_of(bar.group).light, height=0.66, zorder=2)
            axes.plot([bar.spread["min"], most], [position, position], color=INK, linewidth=1.4, zorder=3)
            number = f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
            ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}  # hides the reference line behind the number
            beside: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(number, (most, position), **beside, fontsize=8.5, color=INK, bbox=ground)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        if level is not None:
            name, at = level
            axes.axvline(at, color=QUIET, linewidth=1, linestyle="--", zorder=1)
            axes.text(at, 1, name, transform=axes.get_xaxis_transform(), va="bottom", ha="center", size=8, color=QUIET)


def curves_png(
    file: str | Path, curves: Sequence[Curve], title: str, across: str, up: str, doubling: bool = False
) -> None:
    """Draw curves; those of a group have the same color and name. `doubling`: the x axis is logarithmic to base 2."""
    with _picture(file, 5, title, across, up) as axes:
        named: set[str] = set()
        for name, group, points in curves:
            label = "_nolegend_" if name in named else name
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            axes.plot(xs, ys, markersize=5, linewidth=1.5, label=label, **style(mark_of(group)))
            named.add(name)
        if named:
            axes.legend(frameon=False)
        axes.grid(color=QUIET, alpha=0.2)
        if doubling:
            ticks = sorted({point[0] for _, _, points in curves for point in points})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


@contextmanager
def _picture(file: str | Path, height: float, title: str, across: str, up: str) -> Iterator[Axes]:
    """The axes of a picture, which is written at the end of the `with`."""
    figure = Figure(figsize=(9, height), dpi=160, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot(facecolor=PAPER)
    yield axes
    axes.set_title(title, loc="left", color=INK, pad=14)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(str(file))
