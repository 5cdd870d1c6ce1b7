"""Pictures of measurements as PNG files: bars with their spread, curves over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bert.report.figures import INK, PAPER, QUIET
from bert.report.palette import MARKS, mark_of


@dataclass(frozen=True)
class Bar:
    """A figure with the least and the greatest of its rounds; bars of one group have one colour."""

    name: str
    value: float
    least: float
    greatest: float
    group: int = 0


def bars_png(
    file: str | Path, bars: Sequence[Bar], title: str, unit: str, level: tuple[str, float] | None = None
) -> None:
    """Draw bars from the top down, each with its spread; `level` is a named line to compare with."""
    figure = Figure(figsize=(9, 1.3 + 0.42 * max(1, len(bars))), dpi=160, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, bar in enumerate(bars):
        colour = MARKS[mark_of(bar.group)].light
        axes.barh(place, bar.value, color=colour, height=0.66, zorder=2)
        axes.plot([bar.least, bar.greatest], [place, place], color=INK, linewidth=1.4, zorder=3)
        axes.annotate(
            f"{bar.value:,.3g}" if bar.value < 100 else f"{bar.value:,.0f}",
            (max(bar.greatest, bar.value), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},  # the level does not cross it
        )
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    if level is not None:
        axes.axvline(level[1], color=QUIET, linewidth=1, linestyle="--", zorder=1)
        axes.annotate(
            level[0],
            (level[1], 1),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            color=QUIET,
            va="bottom",
            ha="center",
        )
    _plain(axes, title, unit, "")
    canvas.print_png(str(file))


def curves_png(
    file: str | Path,
    curves: Sequence[tuple[str, int, Sequence[Sequence[float]]]],
    title: str,
    across: str,
    up: str,
    doubling: bool = False,
) -> None:
    """Draw curves of (x, y) points: (name, group, points); those of one group have one colour and one name. `doubling`: equal
    steps to the right are doublings."""
    figure = Figure(figsize=(9, 5), dpi=160, facecolor=PAPER, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    named: set[str] = set()
    for name, group, points in curves:
        mark = MARKS[mark_of(group)]
        label = "_nolegend_" if name in named else name
        xs, ys = [point[0] for point in points], [point[1] for point in points]
        axes.plot(xs, ys, color=mark.light, marker=mark.marker, markersize=4, linewidth=1.5, label=label)
        named.add(name)
    if named:
        axes.legend(frameon=False)
    axes.grid(color=QUIET, alpha=0.2)
    if doubling:
        places = sorted({point[0] for _, _, points in curves for point in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:g}" for place in places])
    _plain(axes, title, across, up)
    canvas.print_png(str(file))


def _plain(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_facecolor(PAPER)
    axes.set_title(title, loc="left", color=INK, pad=14)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.tick_params(length=0, labelsize=8.5, colors=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
