"""What the probes found as pictures: a word in its contexts as one offline page or as a PNG."""

from pathlib import Path

import numpy as np

from bert.probing.words import Words
from bert.report.charts import contexts
from bert.report.figures import layer_scatter_png
from bert.report.maps import LayerMap, layer_map
from bert.report.page import Section, figure, grid, key_figures, page, table

MOST_POINTS = 200  # marks that a map has room for
SENTENCES = 6  # occurrences whose nearest contexts are shown


def map_of_words(words: Words) -> LayerMap:
    """The map of a word by layer: groups are the senses where they are given, else the clusters of the last layer.

    Of more than 200 occurrences every second, third, … is taken.
    """
    chosen = _spread(len(words.occurrences), MOST_POINTS)
    measures = {"corrected cosine": [one.mean_cosine - one.baseline for one in words.layers]}
    if all(one.senses is not None for one in words.layers):
        scores = [one.senses for one in words.layers if one.senses is not None]
        measures["sense accuracy"] = [one.accuracy for one in scores]
        measures["Rand index"] = [one.adjusted_rand for one in scores]
    else:
        measures["silhouette"] = [np.nan if one.silhouette is None else one.silhouette for one in words.layers]
    return LayerMap(
        [words.occurrences[place].marked for place in chosen],
        [_group(words, place) for place in chosen],
        np.stack([one.map[chosen] for one in words.layers]),
        [_name(one.number) for one in words.layers],
        measures,
        np.stack([one.cosines[np.ix_(chosen, chosen)] for one in words.layers]),
    )


def words_page(words: Words, model: str = "", source: str = "") -> str:
    """The page of a word: its map with a slider through the layers, figures by layer, nearest contexts."""
    word_map, last = map_of_words(words), words.layer()
    named = [(label, value) for label, value in (("model", model), ("sentences", source)) if value]
    figures = [
        ("occurrences", f"{words.found:,}", f"{len(words.occurrences):,} looked at"),
        ("mean cosine", figure(last.mean_cosine), f"layer {last.number}"),
        ("random tokens", figure(last.baseline), "where cosines begin there"),
    ]
    if last.senses is not None:
        figures.append(("senses told", f"{last.senses.accuracy:.0%}", "nearest centroid, leave-one-out"))
    shown = len(word_map.occurrences)
    few = f" {shown} of {len(words.occurrences):,} occurrences are drawn." if shown < len(words.occurrences) else ""
    return page(
        f"{words.word}, in context",
        "Every mark is one occurrence of the word. Marks that lie together have like vectors.",
        [
            Section(
                "Layer by layer", layer_map(word_map), f"Move the slider: the vectors move, the map turns little.{few}"
            ),
            Section("Nearest contexts", nearest_contexts(words), f"Cosines at layer {last.number}."),
            Section("Figures", _figures(words), "Cosines mean little without those of random tokens beside them."),
        ],
        figures=key_figures(figures),
        footer="   ".join(f"{label}: {value}" for label, value in named),
    )


def words_png(words: Words, file: Path, layer: int = -1) -> str:
    """Draw the map of a layer, the last one where not given. Returns a remark, empty where all is well."""
    positions = [one.number for one in words.layers]
    place = positions.index(words.layer(layer).number)
    return layer_scatter_png(file, map_of_words(words), place, f"{words.word}, {_name(positions[place])}")


def nearest_contexts(words: Words, sentences: int = SENTENCES) -> str:
    """Some occurrences, spread evenly, each with those whose vectors are nearest in the last layer."""
    names = list(dict.fromkeys(_group(words, place) for place in _spread(len(words.occurrences), MOST_POINTS)))
    group = {name: number for number, name in enumerate(names)}
    cards = []
    for place in _spread(len(words.occurrences), sentences):
        near = words.layer().nearest(place, 4)
        marks = [group.get(_group(words, other), -1) for other in (place, *(other for other, _ in near))]
        others = [(words.occurrences[other].marked, cosine) for other, cosine in near]
        cards.append(contexts(words.occurrences[place].marked, others, marks))
    return grid(cards)


def _figures(words: Words) -> str:
    senses = any(one.senses for one in words.layers)
    header = ["layer", "mean cosine", "random tokens", "corrected", "silhouette"]
    header += ["sense accuracy", "adjusted Rand"] if senses else []
    rows = []
    for one in words.layers:
        figures = [one.mean_cosine, one.baseline, one.mean_cosine - one.baseline, one.silhouette]
        figures += [one.senses.accuracy, one.senses.adjusted_rand] if one.senses else []
        rows.append([_name(one.number), *map(figure, figures)])
    return table(header, rows)


def _group(words: Words, place: int) -> str:
    sense = words.occurrences[place].sense if words.layers[-1].senses is not None else None
    return sense if sense is not None else f"cluster {words.layers[-1].clusters[place]}"


def _name(layer: int) -> str:
    return f"layer {layer}" if layer else "layer 0, the embeddings"


def _spread(total: int, most: int) -> list[int]:
    """At most `most` positions, evenly through `total`."""
    return sorted({place * total // min(total, most) for place in range(min(total, most))}) if total else []
