"""Pictures of a page that stand still, or nearly: curves, bars, guesses for a mask, nearest contexts, a right and a wrong sentence.

Lines are drawn in an SVG that stretches with the page, letters stand in HTML above it, so that they keep their size on a narrow screen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise, zip_longest

from bert.report.page import Marked, data, escape, figure, marked, number
from bert.report.palette import MARKS, mark_of

CONTEXT = 120  # characters that are shown at each side of a word
MOST_POINTS = 500  # of a curve: more than a screen parts

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class ScoredText:
    """A sentence as tokens, and what the model gives each: a log probability, in nats."""

    tokens: Sequence[str]
    scores: Sequence[float]

    @property
    def total(self) -> float:
        return float(sum(self.scores))


def symbol(group: int) -> str:
    """The mark of a group as a small picture in its color."""
    n = mark_of(group)
    return f'<svg class="symbol c{n}" viewBox="-10 -10 20 20" aria-hidden="true"><path d="{MARKS[n].path}"/></svg>'


def line_chart(
    series: Mapping[str, Points], x_label: str, y_label: str, levels: Mapping[str, float] | None = None
) -> str:
    """Curves of (x, y) points by name, over one pair of axes; a pointer or the arrow keys read their values.

    `levels` are named horizontal lines to compare with, such as a baseline. Points that are not finite are left out.
    """
    curves = {name: _thinned([(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)])
              for name, points in series.items()}  # fmt: skip
    levels = levels or {}
    xs = [x for points in curves.values() for x, _ in points] or [0.0, 1.0]
    ys = [y for points in curves.values() for _, y in points] + list(levels.values()) or [0.0, 1.0]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 6), ticks(min(ys), max(ys), 5)
    x_range = (min(xs), max(xs)) if min(xs) < max(xs) else (x_ticks[0], x_ticks[-1])
    y_range = (min(y_ticks[0], *ys), max(y_ticks[-1], *ys))

    def across(x: float) -> float:
        return round(100 * (x - x_range[0]) / (x_range[1] - x_range[0]), 2)

    def down(y: float) -> float:
        return round(100 * (y_range[1] - y) / (y_range[1] - y_range[0]), 2)

    x_ticks = [x for x in x_ticks if x_range[0] <= x <= x_range[1]]
    grid = "".join(f'<i class="rule" style="top:{down(y)}%"><span>{_tick(y, y_ticks)}</span></i>' for y in y_ticks)
    grid += "".join(
        f'<i class="tick{" end" if across(x) > 95 else ""}" style="left:{across(x)}%"><span>{_tick(x, x_ticks)}</span></i>'
        for x in x_ticks
    )
    grid += "".join(
        f'<i class="level" style="top:{down(y)}%"><span dir="auto">{escape(name)} {number(y)}</span></i>'
        for name, y in levels.items()
    )
    lines = "".join(
        f'<polyline class="c{mark_of(n)} d{n % 4}" points="{" ".join(f"{across(x)},{down(y)}" for x, y in points)}"/>'
        for n, points in enumerate(curves.values())
    )
    keys = "".join(
        f'<li class="c{mark_of(n)}"><svg class="stroke d{n % 4}" viewBox="0 0 24 8" aria-hidden="true"><path d="M1,4H23"/></svg>'
        f'<span dir="auto">{escape(name)}</span> <output>{number(points[-1][1]) if points else "–"}</output></li>'
        for n, (name, points) in enumerate(curves.items())
    )
    shown = [[[_short(x), _short(y)] for x, y in points] for points in curves.values()]
    numbers = {"x": x_label, "xr": x_range, "yr": y_range, "curves": shown}
    summary = f"{y_label} over {x_label}: {', '.join(curves)}"
    return (
        f'<figure class="chart curve" data-chart="curve"><ul class="keys">{keys}</ul>'
        f'<div class="axis" dir="auto">{escape(y_label)}</div>'
        f'<div class="field" tabindex="0" role="application" aria-label="{escape(summary)}">{grid}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{lines}</svg><i class="hair" hidden></i></div>'
        f'<div class="axis x" dir="auto">{escape(x_label)}</div><p class="readout" aria-live="polite">&nbsp;</p>{data(numbers)}</figure>'
    )


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` of them, evenly; the last one is kept."""
    stride = -(-len(points) // MOST_POINTS) or 1
    kept = points[::stride]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart), about so many, that hold `low` and `high` between them."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value
        room = max(0.5, 0.01 * abs(low))
        low, high = low - room, high + room
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(factor * power / rough)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.15g}") for k in range(first, last + 1)]


def _tick(value: float, all_ticks: Sequence[float]) -> str:
    """A tick's number with as many decimals as the distance of two ticks needs, millions as such."""
    step = min((b - a for a, b in pairwise(all_ticks)), default=1.0)
    unit, name = (1e6, " M") if max(map(abs, all_ticks)) >= 1e6 else (1.0, "")
    decimals = max(0, -math.floor(math.log10(step / unit) + 1e-9))
    return f"{value / unit:,.{decimals}f}{name}".replace("-", "\N{MINUS SIGN}")


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def bars(items: Sequence[tuple[str, float]], *, percent: bool = False, highest: float | None = None) -> str:
    """Named values as bars from 0; the longest is `highest`, or else the largest value."""
    top = highest if highest is not None else max((value for _, value in items), default=1.0)
    rows = (_bar(name, value, top, f"{100 * value:.1f} %" if percent else number(value)) for name, value in items)
    return f'<ol class="bars">{"".join(rows)}</ol>'


def _bar(name: str, value: float, top: float, shown: str, kind: str = "") -> str:
    return (
        f'<li{kind}><span class="name" dir="auto">{escape(name)}</span>'
        f'<span class="bar"><i style="width:{_share(value, top)}%"></i></span><output>{shown}</output></li>'
    )


def _share(value: float, top: float) -> float:
    """How much of the whole length a bar takes, in percent."""
    return round(100 * min(max(value / top, 0.0), 1.0), 1) if top > 0 and math.isfinite(value) else 0.0


def fill_in(sentence: Marked, *guesses: Sequence[tuple[str, float]]) -> str:
    """A sentence with a blank for its word, and what the model puts there, with probabilities: a list for each mask.

    What was guessed right is marked: the word itself, or its letter where each letter has a mask of its own.
    """
    before, word, after = sentence.context(CONTEXT).parts()
    parts = [word] if len(guesses) == 1 else list(word)
    lists = "".join(_guesses(part, of_mask) for part, of_mask in zip(parts, guesses))
    blanks = f'<span class="blank" title="{escape(word)}"></span>'
    return (
        f'<figure class="card"><figcaption dir="auto">{escape(before)}{blanks}{escape(after)}</figcaption>'
        f'<div class="masks">{lists}</div></figure>'
    )


def _guesses(right: str, guesses: Sequence[tuple[str, float]]) -> str:
    hits = (" class=hit" if guess.casefold() == right.casefold() else "" for guess, _ in guesses)
    rows = (_bar(guess, p, 1.0, f"{100 * p:.1f} %", hit) for (guess, p), hit in zip(guesses, hits))
    return f'<ol class="bars">{"".join(rows)}</ol>'


def contexts(sentence: Marked, nearest: Sequence[tuple[Marked, float]], groups: Sequence[int] | None = None) -> str:
    """A word in its sentence and the contexts in which its vector is nearest, with their cosines, nearest first.

    `groups`: the group of the sentence itself, then of each of the nearest; they give the marks.
    """
    groups = groups if groups is not None else [-1] * (len(nearest) + 1)
    signs = [symbol(group) if group >= 0 else "" for group in groups]
    rows = "".join(
        f"<li>{sign}{marked(other.context(CONTEXT))}<output>{figure(cosine)}</output></li>"
        for sign, (other, cosine) in zip(signs[1:], nearest, strict=True)
    )
    return f'<figure class="card contexts"><figcaption>{signs[0]}{marked(sentence.context(CONTEXT))}</figcaption><ol>{rows}</ol></figure>'


def versus(right: ScoredText, wrong: ScoredText) -> str:
    """A right sentence above a wrong one: each token in its log probability, the more surprising the darker, and the sums."""
    lowest = min((score for text in (right, wrong) for score in text.scores), default=-1.0)
    return (
        f'<figure class="card versus">{_scored(right, "✓", "right", lowest)}{_scored(wrong, "✗", "wrong", lowest)}'
        f"{_verdict(right, wrong)}</figure>"
    )


def duel(right: ScoredText, wrong: ScoredText) -> str:
    """A right and a wrong sentence side by side, a row a token: how surprised the model is, as bars, and where one loses most.

    Tokens that both have stand in one row. The longer the bar, the less probable the token.
    """
    lowest = min((score for text in (right, wrong) for score in text.scores), default=-1.0)
    stretches = _aligned(right, wrong)
    sign = 1 if right.total > wrong.total else -1
    sums = [[sum(score for _, score in side) for side in stretch] for stretch in stretches]
    losses = [sign * (ours - theirs) for ours, theirs in sums]
    worst = max(range(len(stretches)), key=lambda place: losses[place], default=None)
    lines, where = "", ""
    for place, (ours, theirs) in enumerate(stretches):
        kind = " class=here" if place == worst else ""
        for pair in zip_longest(ours, theirs):
            sides = (_side(cell, lowest, name) for cell, name in zip(pair, ("right", "wrong")))
            lines += f"<li{kind}>{''.join(sides)}</li>"
    if worst is not None and losses[worst] > 0:
        lost = stretches[worst][sign == 1]  # of the sentence that is behind
        at = " ".join(token for token, _ in lost)
        lies = f"at “{escape(at)}”" if at else "where it is shorter"
        where = f" The largest loss, {figure(losses[worst])}, is {lies}."
    return (
        f'<figure class="card versus duel"><ol><li class="head">{_top("✓", "right", right)}{_top("✗", "wrong", wrong)}</li>'
        f"{lines}</ol>{_verdict(right, wrong, where)}</figure>"
    )


_Scored = Sequence[tuple[str, float]]
"""tokens with their log probabilities"""


def _aligned(right: ScoredText, wrong: ScoredText) -> list[tuple[_Scored, _Scored]]:
    """The tokens of both in turn: one by one where both have the same, else a stretch of each."""
    made: list[tuple[_Scored, _Scored]] = []
    ours, theirs = (list(zip(text.tokens, text.scores, strict=True)) for text in (right, wrong))
    matcher = SequenceMatcher(a=right.tokens, b=wrong.tokens, autojunk=False)
    for kind, begin, end, from_, to in matcher.get_opcodes():
        if kind == "equal":
            made += [([a], [b]) for a, b in zip(ours[begin:end], theirs[from_:to])]
        else:
            made.append((ours[begin:end], theirs[from_:to]))
    return made


def _side(cell: tuple[str, float] | None, lowest: float, name: str) -> str:
    if cell is None:
        return f'<span class="{name}"></span>'
    token, score = cell
    return (
        f'<span class="{name}" title="{100 * math.exp(score):.2g} %"><b dir="auto">{escape(token)}</b>'
        f'<i style="--w:{_share(-score, -lowest)}"></i><output>{figure(score)}</output></span>'
    )


def _top(sign: str, name: str, text: ScoredText) -> str:
    return f'<span class="{name}"><b class="sign" aria-label="{name}">{sign}</b><output>{figure(text.total)}</output></span>'


def _verdict(right: ScoredText, wrong: ScoredText, more: str = "") -> str:
    """Which one the model prefers, and by how much; `more` is markup."""
    ahead = right.total - wrong.total
    said = "good", f"The right one is {figure(ahead)} nats more probable."
    if not ahead > 0:
        said = "bad", f"The model prefers the wrong one, by {figure(-ahead)} nats."
    return f'<figcaption class="{said[0]}">{said[1]}{more}</figcaption>'


def _scored(text: ScoredText, sign: str, name: str, lowest: float) -> str:
    tokens = "".join(
        f'<span class="token" style="--s:{_share(-score, -lowest)}%"><b dir="auto">{escape(token)}</b>'
        f"<small>{figure(score)}</small></span>"
        for token, score in zip(text.tokens, text.scores, strict=True)
    )
    return (
        f'<div class="scored {name}"><span class="sign" aria-label="{name}">{sign}</span><p dir="auto">{tokens}</p>'
        f"<output>{figure(text.total)}</output></div>"
    )
