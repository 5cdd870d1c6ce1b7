"""Results of the probes as pictures: a word in its contexts, as an offline page or as a PNG."""

from pathlib import Path
from typing import Any

import numpy as np

from bert.probing import geometry
from bert.probing.probe import LINEAR, METRICS, ProbeResult, Subject
from bert.probing.words import COSINES, OF_SENSES, Words
from bert.report.charts import contexts, line_chart
from bert.report.figures import layer_scatter_png
from bert.report.maps import LayerMap, layer_map
from bert.report.page import Section, decimal, grid, key_metrics, page, table
from bert.report.strata import numbered, stratified

SENTENCES = 6  # occurrences whose nearest contexts are shown, unless there are more groups
CAPTION = (
    "Each mark is an occurrence, at the first two principal components (PCA) of the direction of its vector. All layers have one scale."
    " Marks that are far apart have different vectors; marks that are close may differ in what the map leaves out."
)


def map_of_words(words: Words) -> LayerMap:
    """The map of a word by layer; groups are the senses if they are given, otherwise the clusters of the last layer."""
    last, groups = words.layers[-1], _groups(words)
    silhouettes = [geometry.silhouette(one.vectors, numbered(groups)) for one in words.layers]
    measures = {"corrected cosine": [one.mean_cosine - one.baseline for one in words.layers]}
    measures["silhouette of the colors"] = np.array(silhouettes, float).tolist()
    if last.senses is not None:
        measures["sense accuracy"] = [one.senses.accuracy for one in words.layers if one.senses]
        measures["most frequent sense"] = [words.most_frequent[1]] * len(words.layers)
        measures["adjusted Rand"] = [one.senses.adjusted_rand for one in words.layers if one.senses]
    measures["variance shown (PCA)"] = [geometry.share_of_variance(one.vectors, one.map) for one in words.layers]
    kind = "senses" if last.senses is not None else f"clusters of {_name(last.number)}, in all layers"
    return LayerMap(
        [one.marked for one in words.occurrences],
        groups,
        np.stack([one.map for one in words.layers]),
        [_name(one.number) for one in words.layers],
        np.stack([geometry.unit(one.vectors) for one in words.layers]),
        measures,
        f"{CAPTION} Colors and shapes are the {kind}.",
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
        sense, share = words.most_frequent
        metrics.append(("sense accuracy", f"{last.senses.accuracy:.1%}", "nearest centroid, leave-one-out"))
        metrics.append(("most frequent sense", f"{share:.1%}", f"the accuracy of always answering {sense}"))
    drawn = len(word_map.drawn())
    few = f" {drawn} of {taken:,} occurrences have a mark, a random sample from every group." if drawn < taken else ""
    slider = f"Move the slider to go through the layers; the maps are aligned.{few}"
    compared = f"Cosines at layer {last.number}, of {taken:,} occurrences."
    header, *rows = words.by_layer()
    sections = [
        Section("Layer by layer", layer_map(word_map), slider),
        Section("Nearest contexts", nearest_contexts(words), compared),
        Section("Metrics", table(header, rows), "; ".join([COSINES, *[OF_SENSES] * bool(last.senses)])),
    ]
    return page(
        f"Contexts of {words.word}",
        "One word, a vector for each of its occurrences.",
        sections,
        metrics=key_metrics(metrics),
        footer="   ".join(f"{label}: {value}" for label, value in named),
    )


def words_png(words: Words, file: Path, layer: int = -1) -> str:
    """Draw the map of a layer, by default the last one. Returns a remark for the user, which may be empty."""
    index = [one.number for one in words.layers].index(words.layer(layer).number)
    return layer_scatter_png(file, map_of_words(words), index, f"{_name(words.layers[index].number)}: {words.word}")


def nearest_contexts(words: Words, sentences: int = SENTENCES) -> str:
    """Occurrences from every group, each with the occurrences whose vectors are nearest in the last layer."""
    marks = numbered(_groups(words))
    cards = []
    for index in stratified(marks.tolist(), max(sentences, marks.max() + 1)):
        near = words.layer().nearest(index, 4)
        others = [(words.occurrences[other].marked, cosine) for other, cosine in near]
        signs = marks[[index, *(other for other, _ in near)]].tolist()
        cards.append(contexts(words.occurrences[index].marked, others, signs))
    return grid(cards)


def _groups(words: Words) -> list[str]:
    """The sense of each occurrence, or its cluster in the last layer."""
    if words.layers[-1].senses is not None:
        return [one.sense or "" for one in words.occurrences]
    return [f"cluster {number}" for number in words.layers[-1].clusters]


def _name(layer: int) -> str:
    return f"layer {layer}" if layer else "layer 0, the embeddings"


# ── probes ──

CURVES = {  # (probe, metric) → its name in a chart
    ("linear", "accuracy"): "linear probe",
    ("control task", "accuracy"): "the same on a control task",
    ("random encoder", "accuracy"): "the same on random weights",
    **{("structural", metric): name for metric, name in METRICS.items()},
    ("random encoder", "uuas"): "UUAS on random weights",
}
BY_LAYER = (
    "What the control task reaches too is memory of words, not knowledge of the encoder; what random weights reach is the work of the"
    " words and of the probe."
)
LAST_LAYER = "In the layer that is best in the end."


def probe_page(result: ProbeResult) -> str:
    """The page of a probe: its metrics over training, by layer and by number of examples, beside controls and baselines."""
    sections = [Section(result.name(one), _by_layer(result, one), BY_LAYER) for one in result.subjects]
    over_training = [one for one in result.subjects if one[1] is not None]
    if len(over_training) > 1:
        curves = {}
        for of, name in CURVES.items():
            if layer := result.best_layer(over_training[-1], *of):
                curves[f"{name}, layer {layer}"] = [(one[1], result.value(one, layer, *of)) for one in over_training]
        sections.insert(0, Section("Over training", line_chart(_known(curves), "tokens", "score"), LAST_LAYER))
    if counts := sorted({row.examples for row in result.rows if row.probe == LINEAR})[:-1]:
        linear, curves = ("linear", "accuracy"), {}
        for one in result.subjects:
            layer = result.best_layer(one, *linear) or ""
            curves[result.name(one)] = [
                (n, result.value(one, layer, *linear, n)) for n in (*counts, max(row.examples for row in result.rows))
            ]
        sections.append(
            Section("Learning curves", line_chart(_known(curves), "labelled units", "accuracy"), LAST_LAYER)
        )
    if baselines := [[row.probe, row.metric, row.value, row.low, row.high] for row in result.rows if not row.layer]:
        body = table(["baseline", "metric", "value", "low", "high"], baselines)
        sections.append(
            Section("Without a model", body, "What constant and lexical answers score, with 95 % intervals.")
        )
    about = "What each layer knows, beside what is scored without knowing it."
    return page(f"Probes of {result.label}", about, sections, footer="\n".join(result.notes))


def _by_layer(result: ProbeResult, subject: Subject) -> str:
    """The metrics of a model by layer as curves, beside constant baselines, and as a table."""
    layers = list(dict.fromkeys(row.layer for row in result.rows if row.layer.isdecimal()))
    curves = {
        name: [(int(layer), result.value(subject, layer, *of)) for layer in layers] for of, name in CURVES.items()
    }
    for row in result.rows:
        if not row.layer and row.metric in ("accuracy", "uuas"):
            curves[row.probe] = [(int(layer), row.value) for layer in layers]
    tables = [table([name.replace("\n", " ") for name in header], rows) for header, rows in result.by_layer(subject)]
    return line_chart(_known(curves), "layer", "score") + "".join(tables)


def _known(curves: dict[str, list[tuple[Any, float | None]]]) -> dict[str, list[tuple[float, float]]]:
    """The points that were measured, of curves that have any."""
    known = {name: [(float(x), y) for x, y in points if y is not None] for name, points in curves.items()}
    return {name: points for name, points in known.items() if points}
