"""Results of the probes as pictures: a word in its contexts, as an offline page or as a PNG."""

from pathlib import Path

import numpy as np

from bert.probing import geometry
from bert.probing.results import ACCURACY, COMPARED, LOSS, UUAS, Curves, ProbeResult, Subject, cells
from bert.probing.words import COSINES, OF_SENSES, Words
from bert.report.charts import contexts, line_chart
from bert.report.figures import layer_scatter_png
from bert.report.maps import LayerMap, layer_map
from bert.report.page import Section, decimal, grid, key_metrics, page, paragraph, table
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

CONTROLS = "What random weights reach is the work of the words, their order and the probe."
OF_LABELS = f"What the control task reaches too is memory of words, not knowledge of the encoder. {CONTROLS}"
LAST = "The numbers in the legend are those of the last layer."
WHERE = {  # metric → how the layer was chosen
    ACCURACY: "In the layer in which the NLL on dev is lowest",
    UUAS: "In the layer in which the UUAS on dev is highest",
}


def probe_page(result: ProbeResult) -> str:
    """The page of a probe: its metrics over training, by layer and by number of examples, beside controls and baselines."""
    sections, metric = [], result.metric()
    if curves := result.over_training():
        last = [one for one in result.subjects if one[1] is not None][-1]
        note = f"{WHERE[metric]} at the last milestone ({result.best_layer(last)})."
        losses = {name: curves[name] for name in curves if name == LOSS}
        scores = {name: curves[name] for name in curves if name != LOSS}
        charts = _chart(scores, "tokens", metric, log=True) + _chart(losses, "tokens", "loss in nats", log=True)
        sections.append(Section("Over training", charts + table(["tokens", *curves], cells(curves)), note))
    sections += [_by_layer(result, one) for one in result.subjects]
    for one in result.subjects:
        if curves := result.curve(one):
            body = _chart(curves, "labelled units", metric, log=True) + table(["examples", *curves], cells(curves))
            note = f"{WHERE[metric]} ({result.best_layer(one)}). The numbers in the legend are those of all units."
            sections.append(Section(f"Learning curves, {result.name(one)}", body, note))
    for model in result.moved:
        note = "Words whose neighbors in the last layer differ most from those in the first model, by cosine distance."
        sections.append(
            Section(f"Words that moved, {result.name((model, None))}", table(*result.moved_most(model)), note)
        )
    if baselines := result.baselines():
        body = table(["baseline", "metric", "value"], baselines)
        sections.append(
            Section("Without a model", body, "What is scored without knowing a vector, with 95 % intervals.")
        )
    about = "What each layer knows, beside what is scored without knowing it."
    settings = table(["", ""], [*result.settings.items()])
    sections.append(Section("What was measured", settings + "".join(map(paragraph, result.notes))))
    return page(f"Probes of {result.label}", about, sections)


def _by_layer(result: ProbeResult, subject: Subject) -> Section:
    """The metrics of a model by layer as curves, beside constant baselines, and as tables."""
    layers = list(dict.fromkeys(row.layer for row in result.rows if row.layer.isdecimal()))
    curves = {name: [(int(layer), result.beside(subject, layer, name)) for layer in layers] for name in COMPARED}
    chart = _chart(curves, "layer", metric := result.metric())
    tables = [table([name.replace("\n", " ") for name in header], rows) for header, rows in result.by_layer(subject)]
    note = f"{OF_LABELS if metric == ACCURACY else CONTROLS} {LAST}" if chart else ""
    return Section(result.name(subject), chart + "".join(tables), note)


def _chart(curves: Curves, x_label: str, y_label: str, log: bool = False) -> str:
    """The means over seeds of the curves that have any; empty without."""
    points = {
        name: [(float(at), float(np.mean([row.value for row in rows]))) for at, rows in of if rows]
        for name, of in curves.items()
    }
    points = {name: of for name, of in points.items() if of}
    return line_chart(points, x_label, y_label, log=log) if points else ""
