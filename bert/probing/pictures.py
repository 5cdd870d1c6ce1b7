"""Results of the probes as pictures: a word in its contexts, as an offline page or as a PNG."""

from pathlib import Path

import numpy as np

from bert.probing.words import Words
from bert.report.charts import contexts
from bert.report.figures import layer_scatter_png
from bert.report.maps import LayerMap, layer_map
from bert.report.page import Section, decimal, grid, key_metrics, page, table

MOST_POINTS = 200  # in a map
SENTENCES = 6  # occurrences whose nearest contexts are shown


def map_of_words(words: Words) -> LayerMap:
    """The map of a word by layer; groups are the senses if they are given, otherwise the clusters of the last layer.

    Of more than 200 occurrences, every second, third, … is shown.
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
        [words.occurrences[index].marked for index in chosen],
        [_group(words, index) for index in chosen],
        np.stack([one.map[chosen] for one in words.layers]),
        [_name(one.number) for one in words.layers],
        measures,
        np.stack([one.cosines[np.ix_(chosen, chosen)] for one in words.layers]),
    )


def words_page(words: Words, model: str = "", source: str = "") -> str:
    """The page of a word: its map with a slider through the layers, its nearest contexts, and metrics by layer."""
    word_map, last, taken = map_of_words(words), words.layer(), len(words.occurrences)
    named = [(label, value) for label, value in (("model", model), ("sentences", source)) if value]
    unknown = f", {words.unknown:,} unknown to the model ([UNK])" if words.unknown else ""
    metrics = [
        ("occurrences", f"{words.found:,}", f"{taken:,} compared{unknown}"),
        ("mean cosine", decimal(last.mean_cosine), f"layer {last.number}"),
        ("random tokens", decimal(last.baseline), "the baseline of cosines in this layer"),
    ]
    if last.senses is not None:
        metrics.append(("sense accuracy", f"{last.senses.accuracy:.0%}", "nearest centroid, leave-one-out"))
    shown = len(word_map.occurrences)
    few = f" {shown} of {taken:,} occurrences are shown." if shown < taken else ""
    slider = f"Move the slider to go through the layers; the maps are aligned.{few}"
    sections = [
        Section("Layer by layer", layer_map(word_map), slider),
        Section("Nearest contexts", nearest_contexts(words), f"Cosines at layer {last.number}."),
        Section("Metrics", _metrics(words), "Compare cosines with those of random tokens."),
    ]
    return page(
        f"{words.word}, in context",
        "Every mark is one occurrence of the word. Marks close together have similar vectors.",
        sections,
        metrics=key_metrics(metrics),
        footer="   ".join(f"{label}: {value}" for label, value in named),
    )


def words_png(words: Words, file: Path, layer: int = -1) -> str:
    """Draw the map of a layer, by default the last one. Returns a remark for the user, which may be empty."""
    number = words.layer(layer).number
    index = [one.number for one in words.layers].index(number)
    return layer_scatter_png(file, map_of_words(words), index, f"{words.word}, {_name(number)}")


def nearest_contexts(words: Words, sentences: int = SENTENCES) -> str:
    """Evenly spread occurrences, each with the occurrences whose vectors are nearest in the last layer."""
    names = list(dict.fromkeys(_group(words, index) for index in _spread(len(words.occurrences), MOST_POINTS)))
    group = {name: number for number, name in enumerate(names)}
    cards = []
    for index in _spread(len(words.occurrences), sentences):
        near = words.layer().nearest(index, 4)
        marks = [group.get(_group(words, other), -1) for other in (index, *(other for other, _ in near))]
        others = [(words.occurrences[other].marked, cosine) for other, cosine in near]
        cards.append(contexts(words.occurrences[index].marked, others, marks))
    return grid(cards)


def _metrics(words: Words) -> str:
    senses = any(one.senses for one in words.layers)
    header = ["layer", "mean cosine", "random tokens", "corrected", "silhouette"]
    header += ["sense accuracy", "adjusted Rand"] if senses else []
    rows = []
    for one in words.layers:
        metrics = [one.mean_cosine, one.baseline, one.mean_cosine - one.baseline, one.silhouette]
        metrics += [one.senses.accuracy, one.senses.adjusted_rand] if one.senses else []
        rows.append([_name(one.number), *map(decimal, metrics)])
    return table(header, rows)


def _group(words: Words, index: int) -> str:
    sense = words.occurrences[index].sense if words.layers[-1].senses is not None else None
    return sense if sense is not None else f"cluster {words.layers[-1].clusters[index]}"


def _name(layer: int) -> str:
    return f"layer {layer}" if layer else "layer 0, the embeddings"


def _spread(total: int, most: int) -> list[int]:
    """At most `most` indices, evenly spread over `total`."""
    count = min(total, most)
    return [index * total // count for index in range(count)]
