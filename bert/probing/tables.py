"""What the probes say on a terminal, as text."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bert.probing import geometry

if TYPE_CHECKING:
    from bert.probing.attention import Attention
    from bert.probing.pairs import MinimalPairs
    from bert.probing.senses import Senses
    from bert.probing.sentences import SentenceScore
    from bert.probing.words import Layer, Words

WIDTH = 120
MATRIX_MOST = 12  # occurrences of which the whole matrix is shown


def render(*parts: Table | str) -> str:
    """Tables and lines as text of at most 120 columns, without colours. Lines are data: no markup is read in them."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, highlight=False, force_jupyter=False)
    for part in parts:
        console.print(Text(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Table:
    """A plain table; the first `left` columns are text, the others numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, name in enumerate(header):
        made.add_column(Text(name), justify="left" if place < left else "right", no_wrap=place > 0)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def tabbed(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lines with a tab between cells, for other programs: no cell has a tab or a line end, none is an empty one."""
    cells = (
        ["" if value is None else re.sub(r"[\t\r\n]+", " ", str(value)) for value in row] for row in (header, *rows)
    )
    return "".join("\t".join(line) + "\n" for line in cells)


def number(value: float | None, places: int = 2) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None or np.isnan(value) else f"{value:.{places}f}"


# ── words ──


def words_table(words: "Words") -> str:
    """Layer by layer, then the last layer's occurrences: their matrix where they are few, their clusters where many."""
    senses = any(layer.senses for layer in words.layers)
    header = ["layer", "cosine", "random", "corrected", "clusters", "silhouette"]
    header += ["of senses", "Rand", "accuracy", "within", "between"] if senses else []
    sample = "" if words.found == len(words.occurrences) else f", {len(words.occurrences):,} of them taken"
    parts: list[Table | str] = [f"{words.word}: {words.found:,} occurrences{sample}"]
    parts.append(
        "cosine: mean over pairs of occurrences; random: over pairs of random tokens; corrected: what is above that"
    )
    if senses:
        parts.append(
            "of senses: their silhouette; Rand: clusters against senses; accuracy: nearest centroid, leave-one-out"
        )
    parts.append(table(header, [_layer_row(layer, senses) for layer in words.layers], left=0))
    last = words.layer()
    few = len(words.occurrences) <= MATRIX_MOST
    parts.append("")
    parts += _matrix(words, last) if few else _clusters(words, last)
    return render(*parts)


def _layer_row(layer: "Layer", senses: bool) -> list[str]:
    row = [str(layer.number), number(layer.mean_cosine), number(layer.baseline)]
    row += [
        number(layer.mean_cosine - layer.baseline),
        str(len(set(layer.clusters.tolist()))),
        number(layer.silhouette),
    ]
    if senses and layer.senses is not None:
        scores = layer.senses
        row += [number(scores.silhouette), number(scores.adjusted_rand), f"{scores.accuracy:.1%}"]
        row += [number(scores.within), number(scores.between)]
    return row


def _matrix(words: "Words", layer: "Layer") -> list[Table | str]:
    cosines, n = layer.cosines, len(words.occurrences)
    rows = [
        [f"{place + 1:2} {one.context(18)}", *(number(value) for value in cosines[place]), str(layer.clusters[place])]
        for place, one in enumerate(words.occurrences)
    ]
    header = ["", *(str(place + 1) for place in range(n)), "cluster"]
    return [f"cosines at layer {layer.number} (random tokens: {number(layer.baseline)})", table(header, rows)]


def _clusters(words: "Words", layer: "Layer") -> list[Table | str]:
    directions = geometry.unit(layer.vectors)
    parts: list[Table | str] = [f"clusters at layer {layer.number}, each with the occurrences nearest to its middle"]
    for name in sorted(set(layer.clusters.tolist())):
        places = np.flatnonzero(layer.clusters == name)
        near = places[np.argsort(-(directions[places] @ directions[places].mean(axis=0)), kind="stable")][:3]
        senses = Counter(words.occurrences[place].sense or "" for place in places)
        told = ", ".join(f"{sense} {count}" for sense, count in senses.most_common(4) if sense)
        parts.append(f"cluster {name}: {len(places)} occurrences{f' ({told})' if told else ''}")
        parts += [f"    {words.occurrences[place].context(40)}" for place in near]
    return parts


# ── senses ──


def senses_table(senses: "Senses") -> str:
    """All methods over all words, then each word by the headline beside the controls."""
    overall = [
        [method, f"{senses.mean(method):.1%}", f"{senses.mean_f1(method):.1%}", f"{senses.micro(method):.1%}"]
        for method in senses.methods
    ]
    shown = [method for method in senses.methods if method in (*senses.controls, senses.headline)]
    by_word = [
        [
            one.word,
            str(one.senses),
            str(one.train),
            str(one.test),
            *(f"{one.scores[method].accuracy:.1%}" for method in shown),
            f"{one.scores[senses.headline].macro_f1:.1%}",
        ]
        for one in senses.words
    ]
    return render(
        table([f"{len(senses.words)} words", "accuracy", "macro-F1", "accuracy over all rows"], overall),
        "",
        table(
            ["word", "senses", "train", "test", *("\n".join(name.rsplit(" ", 1)) for name in shown), "macro-F1"],
            by_word,
        ),
        *senses.notes,
    )


# ── minimal pairs ──


def pairs_table(result: "MinimalPairs") -> str:
    """Accuracy of each phenomenon (or paradigm, where no pair names its phenomenon), and of all pairs."""
    phenomena, paradigms = result.groups("phenomenon"), result.groups("paradigm")
    groups = [*(phenomena or paradigms), result.overall]
    rows = [
        [group.name, f"{group.pairs:,}", f"{group.right:,}", f"{group.ties:,}", f"{group.accuracy:.1%}"]
        for group in groups
    ]
    ties = result.overall.ties
    remark = f"{ties:,} {'pair is a tie' if ties == 1 else 'pairs are ties'}: both scores are the same to 0.0001 nats; not right"
    name = "phenomenon" if phenomena else "paradigm" if paradigms else ""
    header = [name, "pairs", "right", "ties", "accuracy"]
    return render(table(header, rows), *([remark] if ties else []))


def pairs_listed(result: "MinimalPairs") -> str:
    """Every pair with both scores, and what share of them is right."""
    marks = {"right": "yes", "wrong": "no", "tie": "tie"}
    rows = [
        (f"{one.good.score:.2f}", f"{one.bad.score:.2f}", marks[one.verdict], one.pair.good, one.pair.bad)
        for one in result.pairs
    ]
    total = result.overall
    ties = f", and the same in {total.ties:,}" if total.ties else ""
    return tabbed(("good", "bad", "right", "good sentence", "bad sentence"), rows) + (
        f"accuracy {total.accuracy:.1%}: of {total.pairs:,} pairs the good sentence has the higher score in"
        f" {total.right:,}{ties}"
    )


def sentences_listed(scores: "Sequence[SentenceScore]") -> str:
    """Every sentence with the sum and the mean of its pieces; dashes where it has none."""
    rows = [(*((f"{one.score:.2f}", f"{one.mean:.2f}") if one.tokens else ("–", "–")), one.sentence) for one in scores]
    return tabbed(("score", "per token", "sentence"), rows).rstrip("\n")


# ── attention ──


def attention_table(attention: "Attention", layer: int, head: int, top: int = 3) -> str:
    """Where each token of a head looks, the places with most weight first."""
    weights = attention.weights[layer - 1, head]  # (T, T)
    rows = []
    for place, token in enumerate(attention.tokens):
        order = np.argsort(-weights[place], kind="stable")[:top]
        rows.append([token, "  ".join(f"{attention.tokens[other]} {weights[place, other]:.0%}" for other in order)])
    return render(f"layer {layer}, head {head}", table(["token", "looks at"], rows, left=2))
