"""Mostly static pictures of a page: curves, bars, predictions for a mask, nearest contexts, a good and a bad sentence.

Lines are drawn in an SVG that scales with the page; text is HTML above it, so that it keeps its size on a narrow screen.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise, zip_longest

from matplotlib.ticker import LogLocator, MaxNLocator

from bert.report.page import Marked, data, decimal, escape, marked, number
from bert.report.palette import mark_of

CONTEXT = 120  # characters on each side of a word
MOST_POINTS = 500  # of a curve: more than a screen can resolve
MOST_DOTS = 2_000
_KEYS = 'd="M1,4H23"', 'class="dots" d="M12,4h0"'  # in the legend: a line, a dot
_LONGEST = 5_000  # characters of a text that is shaded

Points = Sequence[tuple[float, float]]
ShadedText = tuple[str, Sequence[tuple[int, int, float]]]
"""a text and the weights of its words in order: (start, end, weight), in characters"""


@dataclass(frozen=True)
class ScoredText:
    """A sentence as tokens, with the log-probability of each under a model, in nats."""

    tokens: Sequence[str]
    scores: Sequence[float]

    @property
    def total(self) -> float:
        return float(sum(self.scores))


@dataclass(frozen=True)
class SpannedText:
    """A text and its spans in order: (start, end, type), in characters."""

    text: str
    spans: Sequence[tuple[int, int, str]]

    def part(self, start: int, end: int) -> "SpannedText":
        """The characters from `start` to before `end`, with the spans in them, and … where text is cut off."""
        before, after = "…" * (start > 0), "…" * (end < len(self.text))
        shift = len(before) - start
        inside = [(a + shift, b + shift, kind) for a, b, kind in self.spans if start <= a and b <= end]
        return SpannedText(f"{before}{self.text[start:end]}{after}", inside)


def spanned(texts: Sequence[SpannedText], types: Sequence[str] = ()) -> str:
    """Texts with their spans marked, in one color for each type; figures with the same `types` have the same colors."""
    kinds = list(dict.fromkeys([*types, *(kind for one in texts for _, _, kind in one.spans)]))
    lines = []
    for one in texts:
        ends = [0, *(end for _, end, _ in one.spans)]
        parts = (
            f'{escape(one.text[before:start])}<mark class="c{mark_of(kinds.index(kind)).color}">{escape(one.text[start:end])}'
            f"<small>{escape(kind)}</small></mark>"
            for before, (start, end, kind) in zip(ends, one.spans)
        )
        lines.append(f'<p dir="auto">{"".join(parts)}{escape(one.text[ends[-1] :])}</p>')
    return f'<figure class="card spanned">{"".join(lines)}</figure>'


def shaded(texts: Sequence[ShadedText], title: str, note: str) -> str:
    """A text, or a pair, with its words shaded: in one color if they speak for the prediction (`title`), in another if against it.

    The largest weight of the texts has the full color, one of less than a twentieth of it none. The first 5,000 characters are shown.
    """
    most = max((abs(weight) for _, words in texts for _, _, weight in words), default=0.0)
    lines = [f'<p dir="auto">{_shades(*one, most)}</p>' for one in texts]
    caption = f'<figcaption><b dir="auto">{escape(title)}</b> <small dir="auto">{escape(note)}</small></figcaption>'
    return f'<figure class="card shaded">{caption}{"".join(lines)}</figure>'


def _shades(text: str, words: Sequence[tuple[int, int, float]], most: float) -> str:
    line, end, text = "", 0, text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    for start, stop, weight in words:
        if stop <= _LONGEST and (share := _share(abs(weight), most)) >= 5:
            how = f'class="{"for" if weight > 0 else "against"}" style="--s:{share}%" title="{weight:+.3f}"'
            line += f"{escape(text[end:start])}<mark {how}>{escape(text[start:stop])}</mark>"
            end = stop
    return line + escape(text[end:])


def symbol(group: int) -> str:
    """The mark of a group as a small SVG in its color."""
    mark = mark_of(group)
    kind = " hollow" * mark.hollow
    return f'<svg class="symbol c{mark.color}{kind}" viewBox="-10 -10 20 20" aria-hidden="true"><path d="{mark.path}"/></svg>'


def _stroke(curve: int) -> tuple[str, str]:
    """The classes of the color and of the dashes of a curve; 16 curves are distinct."""
    return f"c{mark_of(curve).color}", f"d{(curve + curve // 8 * 2) % 4}"


def line_chart(
    series: Mapping[str, Points], x_label: str, y_label: str, dots: Sequence[str] = (), log: bool = False
) -> str:
    """Curves of (x, y) points by name, on the same axes; the pointer or the arrow keys show their values.

    `dots` are the names of series that are drawn as points, not as a curve. Points that are not finite are left out. `log`: the axis of x,
    all of which are above 0, is logarithmic.
    """
    curves = {name: _thinned([(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)],
                             MOST_DOTS if name in dots else MOST_POINTS) for name, points in series.items()}  # fmt: skip
    xs = [x for points in curves.values() for x, _ in points] or [0.0, 1.0]
    ys = [y for points in curves.values() for _, y in points] or [0.0, 1.0]
    whole = all(map(float.is_integer, xs))
    x_ticks = log_ticks(min(xs), max(xs)) if log else ticks(min(xs), max(xs), 6, whole)
    y_ticks = ticks(min(ys), max(ys), 5)
    x_range = (min(xs), max(xs)) if min(xs) < max(xs) else (x_ticks[0], x_ticks[-1])
    place: Callable[[float], float] = math.log if log else float
    y_range = (min(y_ticks[0], *ys), max(y_ticks[-1], *ys))

    def across(x: float) -> float:
        low, at, high = map(place, (x_range[0], x, x_range[1]))
        return round(100 * (at - low) / (high - low), 2)

    def down(y: float) -> float:
        return round(100 * (y_range[1] - y) / (y_range[1] - y_range[0]), 2)

    x_ticks = [x for x in x_ticks if x_range[0] <= x <= x_range[1]]
    grid = "".join(f'<i class="rule" style="top:{down(y)}%"><span>{_tick(y, y_ticks)}</span></i>' for y in y_ticks)
    grid += "".join(
        f'<i class="tick{" end" if across(x) > 95 else ""}" style="left:{across(x)}%"><span>{_tick(x, x_ticks)}</span></i>'
        for x in x_ticks
    )
    lines = "".join(
        # a line without length has round ends alone: a dot that keeps its shape where the field is stretched
        f'<path class="dots {_stroke(n)[0]}" d="{"".join(f"M{across(x)},{down(y)}h0" for x, y in points)}"/>'
        if name in dots
        else f'<polyline class="{" ".join(_stroke(n))}" points="{" ".join(f"{across(x)},{down(y)}" for x, y in points)}"/>'
        for n, (name, points) in enumerate(curves.items())
    )
    ends = [f" <output>{number(points[-1][1]) if points else '–'}</output>" * (not dots) for points in curves.values()]
    keys = "".join(
        f'<li class="{_stroke(n)[0]}"><svg class="stroke {_stroke(n)[1]}" viewBox="0 0 24 8" aria-hidden="true">'
        f'<path {_KEYS[name in dots]}/></svg><span dir="auto">{escape(name)}</span>{end}</li>'
        for n, (name, end) in enumerate(zip(curves, ends))
    )
    shown = [[[float(f"{value:.5g}") for value in point] for point in points] for points in curves.values()]
    numbers = {"x": x_label, "xr": x_range, "yr": y_range, "log": log, "curves": shown}
    summary = f"{y_label} over {x_label}: {', '.join(curves)}"
    return (
        f'<figure class="chart curve" data-chart="curve"><ul class="keys">{keys}</ul>'
        f'<div class="axis" dir="auto">{escape(y_label)}</div>'
        f'<div class="field" tabindex="0" role="application" aria-label="{escape(summary)}">{grid}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}</svg><i class="hair" hidden></i></div>'
        f'<div class="axis x" dir="auto">{escape(x_label)}</div><p class="readout" aria-live="polite">&nbsp;</p>{data(numbers)}</figure>'
    )


def _thinned(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most `most` evenly spaced points, and the last one."""
    stride = -(-len(points) // most) or 1
    kept = points[::stride]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def ticks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """About `about` round numbers, 1, 2 or 5 times a power of ten apart, that span `low` to `high`; whole ones on demand."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value
        room = max(0.5, 0.01 * abs(low))
        low, high = low - room, high + room
    return [
        float(f"{tick:.12g}") for tick in MaxNLocator(about, steps=[1, 2, 5, 10], integer=whole).tick_values(low, high)
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around `low` to `high`, both above 0; of less than two decades also 2 and 5 times these."""
    locator = LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,))
    return [*map(float, locator.tick_values(low, high))]


def _tick(value: float, all_ticks: Sequence[float]) -> str:
    """The label of a tick, with as many decimals as the distance of two ticks requires, and M for millions."""
    step = min((b - a for a, b in pairwise(all_ticks)), default=1.0)
    unit, name = (1e6, " M") if max(map(abs, all_ticks)) >= 1e6 else (1.0, "")
    decimals = max(0, -math.floor(math.log10(step / unit) + 1e-9))
    return f"{value / unit:,.{decimals}f}{name}".replace("-", "\N{MINUS SIGN}")


Bar = tuple[str, float, tuple[float, float] | None, str]
"""a name, a value, its interval, and what is written beside them"""


def bars(items: Sequence[Bar], top: float = 1.0, hit: str | None = None) -> str:
    """Bars from 0, and their intervals as lines. A full bar is `top`; bars named `hit`, in any case, are marked."""
    rows = ""
    for name, value, bounds, text in items:
        low, high = (_share(end, top) for end in bounds or (value, value))
        kind = " class=hit" if hit is not None and name.casefold() == hit.casefold() else ""
        rows += (
            f'<li{kind}><span class="name" dir="auto">{escape(name)}</span><span class="bar"><i style="width:{_share(value, top)}%"></i>'
            f'<b style="left:{low}%;right:{100 - high:.1f}%"></b></span><output>{escape(text)}</output></li>'
        )
    return f'<ol class="bars">{rows}</ol>'


def _share(value: float, top: float) -> float:
    """The length of a bar, in percent of a full one."""
    return round(100 * min(max(value / top, 0.0), 1.0), 1) if top > 0 and math.isfinite(value) else 0.0


def fill_in(sentence: Marked, *guesses: Sequence[tuple[str, float]]) -> str:
    """A sentence whose word is masked, and the model's predictions with their probabilities: a list for each mask.

    Correct predictions are marked: the word, or its character if each character has its own mask.
    """
    before, word, after = sentence.context(CONTEXT).parts()
    parts = [word] if len(guesses) == 1 else list(word)
    shown = ([(name, share, None, f"{share:.1%}") for name, share in of_mask] for of_mask in guesses)
    lists = "".join(bars(of_mask, hit=part) for part, of_mask in zip(parts, shown))
    blanks = f'<span class="blank" title="{escape(word)}"></span>'
    return (
        f'<figure class="card"><figcaption dir="auto">{escape(before)}{blanks}{escape(after)}</figcaption>'
        f'<div class="masks">{lists}</div></figure>'
    )


def contexts(sentence: Marked, nearest: Sequence[tuple[Marked, float]], groups: Sequence[int] | None = None) -> str:
    """A word in its sentence and the contexts with the nearest vectors, with their cosines, the nearest first.

    `groups`: the group, and so the mark, of the sentence and of each of the contexts.
    """
    signs = [""] * (len(nearest) + 1) if groups is None else list(map(symbol, groups))
    rows = "".join(
        f"<li>{sign}{marked(other.context(CONTEXT))}<output>{decimal(cosine)}</output></li>"
        for sign, (other, cosine) in zip(signs[1:], nearest, strict=True)
    )
    return f'<figure class="card contexts"><figcaption>{signs[0]}{marked(sentence.context(CONTEXT))}</figcaption><ol>{rows}</ol></figure>'


def side_by_side(right: ScoredText, wrong: ScoredText) -> str:
    """A good and a bad sentence side by side, with a row for each token and the part in which one of them loses most.

    Tokens that both have share a row. The longer the bar, the less probable the token.
    """
    lowest = min((score for text in (right, wrong) for score in text.scores), default=-1.0)
    stretches = _aligned(right, wrong)
    sign = 1 if right.total > wrong.total else -1
    sums = [[sum(score for _, score in side) for side in stretch] for stretch in stretches]
    losses = [sign * (ours - theirs) for ours, theirs in sums]
    worst = max(range(len(stretches)), key=losses.__getitem__, default=None)
    lines, where = "", ""
    for index, (ours, theirs) in enumerate(stretches):
        kind = " class=here" if index == worst else ""
        for our, their in zip_longest(ours, theirs):
            lines += f"<li{kind}>{_side(our, lowest, 'right')}{_side(their, lowest, 'wrong')}</li>"
    if worst is not None and losses[worst] > 0:
        at = " ".join(token for token, _ in stretches[worst][sign == 1])  # of the less probable sentence
        lies = f"at “{escape(at)}”" if at else "where it is shorter"
        where = f" The largest loss, {decimal(losses[worst])}, is {lies}."
    return (
        f'<figure class="card versus sides"><ol><li class="head">{_top("✓", "right", right)}{_top("✗", "wrong", wrong)}</li>'
        f"{lines}</ol>{_verdict(right, wrong, where)}</figure>"
    )


_Scored = Sequence[tuple[str, float]]
"""tokens with their log-probabilities"""


def _aligned(right: ScoredText, wrong: ScoredText) -> list[tuple[_Scored, _Scored]]:
    """The tokens of both sentences, aligned: single tokens that are equal, and stretches that differ."""
    made: list[tuple[_Scored, _Scored]] = []
    ours, theirs = (list(zip(text.tokens, text.scores, strict=True)) for text in (right, wrong))
    for kind, begin, end, from_, to in SequenceMatcher(None, right.tokens, wrong.tokens, autojunk=False).get_opcodes():
        here, there = ours[begin:end], theirs[from_:to]
        made += [([a], [b]) for a, b in zip(here, there)] if kind == "equal" else [(here, there)]
    return made


def _side(cell: tuple[str, float] | None, lowest: float, name: str) -> str:
    if cell is None:
        return f'<span class="{name}"></span>'
    token, score = cell
    return (
        f'<span class="{name}" title="{100 * math.exp(score):.2g} %"><b dir="auto">{escape(token)}</b>'
        f'<i style="--w:{_share(-score, -lowest)}"></i><output>{decimal(score)}</output></span>'
    )


def _top(sign: str, name: str, text: ScoredText) -> str:
    return f'<span class="{name}"><b class="sign" aria-label="{name}">{sign}</b><output>{decimal(text.total)}</output></span>'


def _verdict(right: ScoredText, wrong: ScoredText, more: str = "") -> str:
    """The sentence that the model prefers, and by how much; `more` is markup."""
    ahead = right.total - wrong.total
    said = "good", f"The right one is {decimal(ahead)} nats more probable."
    if not ahead > 0:
        said = "bad", f"The model prefers the wrong one, by {decimal(-ahead)} nats."
    return f'<figcaption class="{said[0]}">{said[1]}{more}</figcaption>'
