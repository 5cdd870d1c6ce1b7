"""Pictures as PNG files: the occurrences of a word in one layer, the weights of one attention head.

Drawn with matplotlib's objects and its Agg canvas, without a window system and without changing the state of pyplot. Both functions
return a remark for the user: empty, or a line about characters that no installed font has.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, findSystemFonts, fontManager, get_font
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from bert.report.maps import LayerMap
from bert.report.palette import Mark, mark_of
from bert.report.strata import numbered

LATIN = "DejaVu Sans"  # comes with matplotlib
CHINESE = (
    "Noto Sans CJK, Source Han Sans, Noto Sans SC, WenQuanYi, PingFang, Hiragino Sans GB, Heiti, STHeiti, Microsoft YaHei,"
    " SimHei, Noto Serif CJK, Songti, SimSun, Droid Sans Fallback, Arial Unicode MS"
).split(", ")  # prefixes of the names of fonts with Chinese characters, the best first
BOX = "□"
INK, QUIET, PAPER = "#1d2329", "#5f6870", "#fcfbf8"
CONTEXT = 18  # characters of a label on each side of the word
LONGEST_TOKEN = 16
LONGEST_NAME = 60
MOST_TOKENS = 90  # of more, the labels would be less than 5 points high
MOST_LABELS = 60
_SIDES = ((8, 0, "left", "center"), (-8, 0, "right", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top"))


class Lettering:
    """The fonts for the texts of a picture, and the characters that none of them has.

    Inside `in_use()`, matplotlib takes each character from the first font of the family that has it, and no text for a formula.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.family = [LATIN]
        self.missing = {c for text in texts for c in _plain(text) if not _has(LATIN, c)}
        if self.missing:
            self.family += _chinese_fonts()
            self.missing = {c for c in self.missing if not any(_has(name, c) for name in self.family)}

    def in_use(self) -> AbstractContextManager[None]:
        return rc_context({"font.family": self.family, "text.parse_math": False})

    def clean(self, text: str) -> str:
        """The text in one line, with a box for each missing character."""
        return "".join(BOX if c in self.missing else c for c in _plain(text))

    def remark(self) -> str:
        if not self.missing:
            return ""
        some = "".join(sorted(self.missing)[:12])
        return f"No installed font has {some!r}: the picture shows boxes (for Chinese, install Noto Sans CJK)."


def _plain(text: str) -> str:
    """The text in one line, without control characters, but with those that join, part and order the letters beside them."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable() or c in "\u200c\u200d\u200e\u200f")


@cache
def _has(name: str, character: str) -> bool:
    return bool(get_font(findfont(name)).get_char_index(ord(character)))


@cache
def _chinese_fonts() -> tuple[str, ...]:
    """The installed font for each prefix in `CHINESE`, in order; of several the one with the shortest name."""
    # matplotlib caches the fonts of its first run
    for file in sorted(set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}):
        with suppress(OSError, RuntimeError):  # a broken font
            fontManager.addfont(file)
    names = sorted({font.name for font in fontManager.ttflist}, key=lambda name: (len(name), name))
    found = (next((name for name in names if name.startswith(beginning)), None) for beginning in CHINESE)
    return tuple(filter(None, found))


def style(mark: Mark) -> dict[str, Any]:
    """A mark as properties of matplotlib's lines."""
    inside, edge = (PAPER, mark.light) if mark.hollow else (mark.light, PAPER)
    return {"marker": mark.marker, "color": mark.light, "mfc": inside, "mec": edge, "mew": 1.2}


def layer_scatter_png(file: str | Path, word: LayerMap, layer: int = -1, title: str = "") -> str:
    """Draw the occurrences of a word in one layer, each with the mark of its group and, if there is room, its context."""
    drawn, title = word.drawn(), title or word.layers[layer]
    contexts = [word.occurrences[index].context(CONTEXT).text for index in drawn]
    names = [_shortened(name, LONGEST_NAME) for name in word.group_names()]
    points, groups = word.positions[layer][drawn], numbered(word.groups)[drawn]
    told = [f"{name} {of[layer]:.2f}" for name, of in word.measures.items() if np.isfinite(of[layer])]
    told += [f"{len(drawn)} of {len(word.groups):,} occurrences"] * (len(drawn) < len(word.groups))
    lettering = Lettering([*contexts, *names, title])
    with lettering.in_use():
        figure = Figure(figsize=(9, 6.6), dpi=160, facecolor=PAPER)
        canvas = FigureCanvasAgg(figure)
        legend = _legend(figure, [lettering.clean(name) for name in names])
        below = max(0.6, legend.get_window_extent().height / figure.dpi + 0.1)  # inches
        height = 6 + below
        figure.set_figheight(height)
        axes = figure.add_axes((0.03, below / height, 0.94, 5.2 / height))
        for n in dict.fromkeys(groups.tolist()):
            axes.plot(*points[groups == n].T, ls="", ms=8, zorder=3, **style(mark_of(n)))
        axes.set_axis_off()
        axes.update_datalim(word.positions.reshape(-1, 2))  # one scale for all layers
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.09)
        figure.text(0.03, 1 - 0.36 / height, lettering.clean(title), fontsize=15, color=INK)
        figure.text(0.03, 1 - 0.5 / height, lettering.clean(" · ".join(told)), size=8, color=QUIET, va="top", wrap=True)
        colors = [mark_of(group).light for group in groups]
        _label(axes, canvas, points, [lettering.clean(text) for text in contexts], colors)
        canvas.print_png(str(file))
    return lettering.remark()


def _shortened(text: str, most: int) -> str:
    """The beginning and the end of a long text: names often differ in their last letters, equal tokens in their number."""
    return text if len(text) <= most else f"{text[: most - 7]}…{text[-6:]}"


def _legend(figure: Figure, names: Sequence[str]) -> Legend:
    """The marks and names of groups below a picture, in as many columns as fit."""
    marks = [Line2D([], [], ls="", ms=7.5, **style(mark_of(n))) for n in range(len(names))]
    labels = [f" {name}" for name in names]  # matplotlib omits labels that begin with an underscore
    for ncols in range(min(8, len(names)) or 1, 0, -1):
        legend = figure.legend(marks, labels, ncols=ncols, loc="lower left", frameon=False, labelcolor=INK, fontsize=10)
        if ncols == 1 or legend.get_window_extent().width < 0.96 * figure.bbox.width:
            break
        legend.remove()
    return legend


def _label(axes: Axes, canvas: FigureCanvasAgg, points: np.ndarray, texts: list[str], colors: list[str]) -> None:
    """Write each context right, left, above or below its point, if there is free space."""
    canvas.draw()
    renderer = canvas.get_renderer()
    marks = axes.transData.transform(points) if len(points) else np.zeros((0, 2))
    taken = [Bbox.from_bounds(x - 9, y - 9, 18, 18) for x, y in marks]
    inside = axes.get_window_extent(renderer)
    for point, text, color in zip(points, texts, colors):
        if len(taken) - len(marks) == MOST_LABELS:
            return
        for dx, dy, across, down in _SIDES:
            look: dict[str, Any] = {"ha": across, "va": down, "fontsize": 7.5, "color": color, "zorder": 4}
            label = axes.annotate(text, point, (dx, dy), textcoords="offset points", **look)
            box = label.get_window_extent(renderer)
            if inside.x0 <= box.x0 and box.x1 <= inside.x1 and not box.count_overlaps(taken):
                taken.append(box)
                break
            label.remove()


def heatmap_png(file: str | Path, tokens: Sequence[str], weights: np.ndarray, title: str) -> str:
    """Draw the weights (T, T) of an attention head, with a row for each query; for a short text with the percentage in each cell."""
    size = len(tokens)
    if weights.shape != (size, size):
        raise ValueError(f"weights {weights.shape}, {size} tokens")
    step = -(-size // MOST_TOKENS) or 1
    names = [_shortened(token, LONGEST_TOKEN) for token in tokens[::step]]
    lettering = Lettering([*names, title])
    side = min(max(4.8, 2 + 0.42 * size), 14)
    with lettering.in_use():
        figure = Figure(figsize=(side, side), dpi=160, facecolor=PAPER, layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(np.sqrt(np.clip(np.nan_to_num(weights), 0, 1)), cmap="Blues", vmin=0, vmax=1.05)
        axes.set_title(lettering.clean(title), loc="left", pad=14, color=INK)
        axes.xaxis.tick_top()
        names = [lettering.clean(name) for name in names]
        axes.set_xticks(range(0, size, step), names, rotation=90)
        axes.set_yticks(range(0, size, step), names)
        axes.tick_params(length=0, labelsize=min(11.0, 72 * side * 0.75 / max(len(names), 1) * 0.6), labelcolor=INK)
        axes.spines[:].set_visible(False)
        for row, column in np.ndindex(weights.shape) if size <= 16 else ():
            weight = float(weights[row, column])
            color = "white" if weight > 0.3 else INK
            axes.text(column, row, f"{100 * weight:.0f}", ha="center", va="center", fontsize=8, color=color)
        FigureCanvasAgg(figure).print_png(str(file))
    few = f"{size:,} tokens: one label in {step} is drawn; for all of them give a text of at most {MOST_TOKENS} tokens."
    return " ".join(filter(None, [few if step > 1 else "", lettering.remark()]))
