"""Interactive pictures of a page: the occurrences of a word by layer, the cosines between them, the attention of heads.

Their initial state is drawn here, and can be read and printed without the script; the script updates it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bert.report.charts import symbol
from bert.report.page import Marked, data, decimal, escape
from bert.report.palette import MARKS, mark_of
from bert.report.strata import numbered, stratified

WIDE = 4 / 3  # width of a map over its height
MARGIN = 6  # percent of a map that is empty on each side
CONTEXT = 200  # characters on each side of a word
NEAR = 45  # the same in a list of nearest occurrences
MOST_NEAREST = 3
MOST_MARKS = 200  # in a map, unless there are more groups
MOST_CELLS = 48  # rows of a matrix
MOST_LABELS = 32  # of tokens beside the weights of a head
MOST_WEIGHTS = 120_000  # numbers in the heads of one picture, each of about three bytes


@dataclass(frozen=True)
class LayerMap:
    """The occurrences of a word, and their positions in each layer.

    `positions`: (L, N, 2), the 2-D maps of the layers. `groups`: (N,), the sense or cluster of each occurrence. `layers`: L names.
    `directions`: (L, N, D) vectors of length 1, for cosines. `measures`: by name L numbers, one for each layer, such as a silhouette.
    `caption`: what the map shows. Of many occurrences a sample is drawn; the nearest ones are those of all.
    """

    occurrences: Sequence[Marked]
    groups: Sequence[str]
    positions: np.ndarray
    layers: Sequence[str]
    directions: np.ndarray
    measures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    caption: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.layers), len(self.occurrences), 2)
        if self.positions.shape != shape or self.directions.shape[:2] != shape[:2] or len(self.groups) != shape[1]:
            raise ValueError(f"positions {self.positions.shape}, directions {self.directions.shape}: {shape} expected")
        if any(len(values) != shape[0] for values in self.measures.values()):
            raise ValueError(f"each measure needs {shape[0]} numbers, one a layer")

    def group_names(self) -> list[str]:
        """The groups in order of appearance, which is the order of their marks."""
        return list(dict.fromkeys(self.groups))

    def drawn(self) -> list[int]:
        """The occurrences that are drawn: all, or a sample in which every group has its share, and at least one.

        Those of the largest group come first, so that they do not cover the marks of small ones.
        """
        drawn = stratified(self.groups, max(MOST_MARKS, len(self.group_names())))
        return sorted(drawn, key=lambda index: -self.groups.count(self.groups[index]))


def layer_map(word: LayerMap, start: int = -1) -> str:
    """The map of a word's occurrences with a slider through the layers, a legend that hides groups, measures, and cosines.

    The pointer, a tap or the arrow keys show the sentence of a point, and the nearest ones of all occurrences. `start` is the initial
    layer.
    """
    layer, names, group_of = range(len(word.layers))[start], word.group_names(), numbered(word.groups)
    drawn = word.drawn()
    places = fitted(word.positions[:, drawn])
    items, near = _items(word, drawn, group_of)
    dots = "".join(
        f'<button type="button" class="dot" tabindex="{-1 if n else 0}" data-group="{group}" '
        f'style="left:{x:.2f}%;top:{y:.2f}%" aria-label="{escape(names[group])}: {escape("".join(text))}">{symbol(group)}</button>'
        for n, ((*text, group), (x, y)) in enumerate(zip(items, places[layer]))
    )
    legend = "".join(
        f'<li><button type="button" class="key" aria-pressed="true" data-group="{n}">{symbol(n)}<span dir="auto">{escape(name)}</span>'
        f"<output>{(group_of == n).sum()}</output></button></li>"
        for n, name in enumerate(names)
    )
    measures = "".join(_measure(name, values, layer) for name, values in word.measures.items())
    cosines, below = _layer_cosines(word, drawn, group_of, layer)
    all_measures = [[round(float(of), 4) if np.isfinite(of) else None for of in one] for one in word.measures.values()]
    content = {
        "layers": list(word.layers),
        "xy": places.round(2).reshape(len(word.layers), -1).tolist(),
        "items": items,
        "groups": names,
        "measures": all_measures,
        "near": near,
        "cosines": cosines,
    }
    repeated = f" Marks repeat after {len(MARKS)} groups." if len(names) > len(MARKS) else ""
    return (
        f'<figure class="chart layers" data-chart="layers">{_slider(word.layers, layer)}<div class="stage">'
        f'<div><div class="plot" role="group" aria-label="map of {len(drawn)} occurrences">{dots}</div>'
        f'<p class="caption" dir="auto">{escape(word.caption + repeated)}</p></div>'
        f'<div class="side"><ul class="legend">{legend}</ul><div class="measures">{measures}</div>'
        '<div class="readout" aria-live="polite"><p class="hint">Point at a mark to read its sentence.</p></div></div></div>'
        f"{below}{data(content)}</figure>"
    )


def _items(word: LayerMap, drawn: Sequence[int], group_of: np.ndarray) -> tuple[list[list], list[dict]]:
    """The text and group of each mark, then of what is nearest to one; for each layer and mark the nearest items and their cosines."""
    items = {index: item for item, index in enumerate(drawn)}
    near = []
    for directions in word.directions:  # (N, D)
        cosines = directions[drawn] @ directions.T  # (M, N)
        cosines[range(len(drawn)), drawn] = -np.inf
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(MOST_NEAREST, len(directions) - 1)]  # (M, 3)
        found = [items.setdefault(index, len(items)) for index in nearest.ravel().tolist()]
        percent = np.rint(100 * np.take_along_axis(cosines, nearest, axis=1)).astype(int)
        near.append({"items": found, "cosines": percent.ravel().tolist()})
    texts = [word.occurrences[index].context(CONTEXT if item < len(drawn) else NEAR) for index, item in items.items()]
    return [[*text.parts(), int(group_of[index])] for text, index in zip(texts, items)], near


def _slider(layers: Sequence[str], layer: int) -> str:
    """The slider through the layers and a play button; hidden if there is only one layer."""
    hidden = " hidden" if len(layers) == 1 else ""
    return (
        f'<div class="steer"{hidden}><button type="button" class="play" aria-label="play through the layers"></button>'
        f'<input type="range" min="0" max="{len(layers) - 1}" value="{layer}" aria-label="layer" '
        f'aria-valuetext="{escape(layers[layer])}"><output dir="auto">{escape(layers[layer])}</output></div>'
    )


def fitted(positions: np.ndarray) -> np.ndarray:
    """Positions (…, 2) in percent of the width and height of a map, on one scale for both axes and all layers, the y axis upward."""
    if not positions.size:
        return np.zeros(positions.shape)
    low, high = positions.reshape(-1, 2).min(0), positions.reshape(-1, 2).max(0)
    spread = max((high - low)[0] / WIDE, (high - low)[1]) or 1.0
    # Divided first: the midpoint of two points that are very close would be rounded to one of them.
    unit = ((positions - low) / spread - (high - low) / spread / 2) * (100 - 2 * MARGIN)
    return np.stack([50 + unit[..., 0] / WIDE, 50 - unit[..., 1]], -1)


def _measure(name: str, values: Sequence[float], layer: int) -> str:
    """The value of a measure in one layer, with small bars for all layers."""
    top = max(filter(np.isfinite, values), default=1.0) or 1.0
    columns = "".join(
        f'<i{" class=now" if n == layer else ""} style="height:{max(4, round(100 * value / top)) if np.isfinite(value) else 0}%"></i>'
        for n, value in enumerate(values)
    )
    value = decimal(values[layer])
    return f'<div class="measure"><span dir="auto">{escape(name)}</span><output>{value}</output><span class="spark">{columns}</span></div>'


def _layer_cosines(word: LayerMap, drawn: list[int], group_of: np.ndarray, layer: int) -> tuple[dict, str]:
    """The data with which the script redraws the cosines of a layer, and their initial state."""
    groups = group_of[drawn]
    order = sorted(stratified(groups.tolist(), MOST_CELLS), key=groups.__getitem__)
    shown = word.directions[:, np.array(drawn)[order]]
    values = np.clip(shown @ shown.transpose(0, 2, 1), -1, 1)
    percent = np.rint(100 * np.nan_to_num(values)).astype(int)
    picture = _cells(values[layer], groups[order].tolist())
    low, high = map(decimal, value_range(values[layer]))
    scale = f'<div class="scale"><output>{low}</output><i></i><output>{high}</output><span>stronger: more alike</span></div>'
    few = f" ({len(order)} of {len(group_of)} occurrences)" if len(order) < len(group_of) else ""
    title = f"<figcaption>Cosine between occurrences, by group{few}</figcaption>"
    content = {"order": order, "values": percent.reshape(len(percent), -1).tolist()}
    hint = '<div class="readout" aria-live="polite"><p class="hint">Point at a cell to compare two sentences.</p></div>'
    return content, f'<div class="cosines">{title}{picture}{scale}{hint}</div>'


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest off-diagonal value of (n, n): the values of the palest and the darkest cell."""
    others = values[~np.eye(len(values), dtype=bool)]
    others = others[np.isfinite(others)]
    return (float(others.min()), float(others.max())) if len(others) else (0.0, 1.0)


def _cells(values: np.ndarray, groups: Sequence[int]) -> str:
    """A square of cells, darker for higher values, with the colors of the groups on its left and upper side."""
    low, high = value_range(values)
    size = len(values)
    edge = max(0.3, size / 60)
    strips = "".join(
        f'<g class="c{mark_of(group).color}"><rect x="{-1.5 * edge:.2f}" y="{n}" width="{edge:.2f}" height="1"/>'
        f'<rect x="{n}" y="{-1.5 * edge:.2f}" width="1" height="{edge:.2f}"/></g>'
        for n, group in enumerate(groups)
    )
    box = f"{-1.5 * edge:.2f} {-1.5 * edge:.2f} {size + 1.5 * edge:.2f} {size + 1.5 * edge:.2f}"
    label = f'tabindex="0" role="img" aria-label="matrix of {size} by {size} values"'
    return _square((values - low) / ((high - low) or 1.0), box, label, f'<g class="strips">{strips}</g>')


def _square(values: np.ndarray, box: str, attributes: str, before: str = "") -> str:
    """Cells in the view `box`, from 0 (palest) to 1 (darkest), and the cursor of the script; `before` is markup."""
    cells = "".join(
        f'<rect x="{x}" y="{y}" width="1" height="1" opacity="{shade:.2f}"/>'
        for (y, x), shade in np.ndenumerate(np.clip(values, 0, 1))
    )
    return (
        f'<svg class="cells" viewBox="{box}" data-size="{len(values)}" {attributes}>{before}'
        f'<g class="values">{cells}</g><rect class="cursor" width="1" height="1" hidden/></svg>'
    )


def attention_map(tokens: Sequence[str], heads: Mapping[str, np.ndarray]) -> str:
    """The attention weights (T, T) of named heads, with a row for each query, which sums to 1.

    Pointing at a token colors the others by its weights; a list selects the head. If the heads have more numbers than a page should
    contain, the first ones are shown.
    """
    size = len(tokens)
    for name, weights in heads.items():
        if weights.shape != (size, size):
            raise ValueError(f"{name}: weights {weights.shape}, {size} tokens")
    names = list(heads)[: max(1, MOST_WEIGHTS // max(1, size * size))]
    first = heads[names[0]]
    options = "".join(f'<option value="{n}">{escape(name)}</option>' for n, name in enumerate(names))
    looking = 1 if size > 2 else 0
    chips = "".join(_chip(token, first[looking, n], n == looking) for n, token in enumerate(tokens))
    few = f" The first {len(names)} of {len(heads)} heads." if len(names) < len(heads) else ""
    numbers = [np.rint(1000 * np.nan_to_num(heads[name])).astype(int).ravel().tolist() for name in names]
    content = {"tokens": list(tokens), "heads": numbers}
    label = f'role="img" aria-label="weights of {size} by {size} tokens"'
    # the square root makes small weights visible
    cells = _square(np.sqrt(np.clip(first, 0, 1)), f"0 0 {size} {size}", label)
    step = -(-size // MOST_LABELS) or 1
    rows = "".join(f'<span dir="auto">{"" if n % step else escape(token)}</span>' for n, token in enumerate(tokens))
    return (
        f'<figure class="chart attention" data-chart="attention"><div class="glance"><div class="words">'
        f'<div class="steer"><label>Head <select>{options}</select></label></div>'
        f'<div class="chips" role="group" aria-label="tokens">{chips}</div>'
        f'<p class="readout" aria-live="polite">Choose a token to see its weights. Rows are queries, columns keys.{few}</p></div>'
        f'<div class="heads" style="--n:{size};--step:{step}"><div class="columns" aria-hidden="true">{rows}</div>'
        f'<div class="rows" aria-hidden="true">{rows}</div>{cells}</div></div>'
        f"{data(content)}</figure>"
    )


def _chip(token: str, weight: float, looks: bool) -> str:
    percent = f"{100 * weight:.0f}"
    return (
        f'<button type="button" class="chip" tabindex="{0 if looks else -1}" aria-pressed="{"true" if looks else "false"}" '
        f'style="--w:{percent}%"><b dir="auto">{escape(token)}</b><small>{percent} %</small></button>'
    )
