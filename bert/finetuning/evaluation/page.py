"""The page of an evaluation: the content of metrics.json for people, and the texts that the model gets wrong."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bert.data.encoding import encodable
from bert.errors import accessing
from bert.files import replaced
from bert.finetuning.evaluate import FEWEST, LabelMetrics
from bert.finetuning.evaluation.details import MOST_EXAMPLES, Chart, Confusion, Detail, Table
from bert.finetuning.evaluation.record import FILES, Report, predictions, without_nan
from bert.finetuning.metrics import Scale, numbered
from bert.report import page as html
from bert.report.charts import SpannedText, bars, line_chart, spanned
from bert.report.page import Section, escape

_MOST_TEXT, _MOST_NAME = 300, 60  # characters
_MOST_IN_MATRIX, _MOST_PAIRS = 20, 30  # labels in a matrix, confusions in a list
_MOST_BYTES = 1_800_000  # of the texts of all cells
_MOST_PARTS, _MOST_ROWS = 30, 100  # of the data, in a table of texts
_SHARE = Scale("share")


def write_report(report: Report, folder: str | Path) -> None:
    """Write the three files into a folder, each atomically, metrics.json last; an earlier report is replaced. Raises InputError."""
    rows = (encodable(json.dumps(row, ensure_ascii=False)) for row in predictions(report.evaluation))
    text = encodable(json.dumps(without_nan(report.record()), indent=1, ensure_ascii=False, allow_nan=False))
    folder = Path(folder)
    with accessing(folder, "written", "give another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in zip(reversed(FILES), ([evaluation_page(report)], rows, [text])):
            with replaced(folder / name) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
                stream.writelines(f"{line}\n" for line in lines)


def evaluation_page(report: Report) -> str:
    """The page as HTML."""
    details = [Section(one.title, _drawn(report, one), one.lead) for one in report.details]
    ends = [_calibration(report), _errors(report), _copies(report), _suspects(report), _comparison(report)]
    sections = [_metrics(report), _labels(report.evaluation.labels), *details, _slices(report), *ends]
    shown, title = [section for section in sections if section.body], f"{report.model} on {report.data}"
    footer = "The numbers are also in metrics.json, all predictions in predictions.jsonl."
    return html.page("Evaluation", title, shown, metrics=_headline(report), footer=footer)


def _headline(report: Report) -> str:
    of = report.evaluation
    scale, (value, interval) = of.scales[of.headline], report.score(of.headline)
    spread = f"{'mean ± standard deviation; ' * bool(report.seeds)}{interval}; {report.seed_count}"
    chosen = "; too good, since the model was chosen on these rows" * report.is_selected
    baseline = f"{scale.title} of the baseline", scale.shown(of.baseline[of.headline]), of.scored.task.baseline_words
    shown = [(scale.title, value, spread + chosen), baseline]
    if report.dev and not report.is_selected:
        name, best = report.dev["data"], scale.shown(report.dev[of.headline])
        shown.append((f"{scale.title} on {name}", best, "too good, since the model was chosen there"))
    return html.key_metrics([*shown, ("data", report.data, of.size)])


def _metrics(report: Report) -> Section:
    of, seeds = report.evaluation, report.seeds.get("seeds", ())
    over = ["mean ± sd", *(f"seed {one['seed']}" for one in seeds)] if seeds else []
    rows = []
    for name, value in of.metrics.items():
        scale = of.scales[name]
        row = [scale.title, scale.shown(value), scale.range(of.intervals[name]), scale.shown(of.baseline[name])]
        each = [report.score(name)[0], *(scale.shown(one[name]) for one in seeds)]
        rows.append(row + each * bool(seeds))
    lead = f"95 of 100 such intervals hold the value on all data of this kind. They come from resampling by {of.unit}."
    lead += " The value, and all that follows, is of the seed that is best on dev, whose model is kept." * bool(seeds)
    return Section("Metrics", html.table(["metric", "value", "95% interval", "baseline", *over], rows), lead)


def _labels(labels: Sequence[LabelMetrics]) -> Section:
    rows: list[list[Any]] = []
    for of in labels:
        shares: list[Any] = [f"{of.correct:,}/{of.predicted:,}", f"{of.correct:,}/{of.count:,}", None]
        for place, (name, bounds) in enumerate(of.intervals.items()):
            shares[place] = f"{getattr(of, name):.1%} ({_SHARE.range(bounds)})"
        rows.append([_cut(of.label), of.count, *shares])
    lead = f"95% intervals are in brackets; a label of less than {FEWEST} has counts instead: 3/7 is 3 of 7."
    return _listed("By label", ["label", "count", "precision", "recall", "F1"], rows, lead)


def _drawn(report: Report, detail: Detail) -> str:
    """What only a task of this kind shows, as HTML."""
    if isinstance(detail, Confusion):
        return _confusions(report, detail)
    if isinstance(detail, Chart):
        series = {_cut(name): points for name, points in detail.series.items()}
        return line_chart(series, detail.x, detail.y, dots=detail.dots)
    assert isinstance(detail, Table)
    return html.table(detail.header, [[_shown(cell) for cell in row] for row in detail.rows])


def _confusions(report: Report, detail: Confusion) -> str:
    """A matrix; of many labels a list of the most frequent confusions."""
    cells, names, totals, shown = detail.cells, [*map(_cut, detail.labels)], Counter[str](), {}
    for gold, _, count, _ in cells:
        totals[gold] += count
    if is_list := len(names) > _MOST_IN_MATRIX:
        cells = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -cell[2])[:_MOST_PAIRS]
    texts = [[f"<li>{_text(report, number)}</li>" for number in examples] for *_, examples in cells]
    size = sum(len(one.encode()) for of_cell in texts for one in of_cell)
    most = max(3, MOST_EXAMPLES * _MOST_BYTES // max(size, _MOST_BYTES))
    for number, (gold, said, count, _) in enumerate(cells):
        title, items = f"gold {_cut(gold)}, predicted {_cut(said)}: {count:,}", "".join(texts[number][:most])
        button = html.opener(f"{count:,}", title, f'<ol class="texts">{items}</ol>', f"cell-{number}")
        look = f'class="{"right" if gold == said else "wrong"}" style="--s:{count / totals[gold]:.0%}"'
        shown[gold, said] = html.Markup(f"<div {look}>{button}</div>")
    if is_list:
        pairs = [[*map(_cut, pair), button] for pair, button in shown.items()]
        return f'<div class="confusions">{html.table(["gold", "predicted", "times"], pairs)}</div>'
    rows = [[_cut(gold), *(shown.get((gold, said), "") for said in detail.labels)] for gold in detail.labels]
    return f'<div class="confusions matrix">{html.table(["gold ↓ predicted →", *names], rows)}</div>'


def _slices(report: Report) -> Section:
    scale, body = report.evaluation.scales[report.evaluation.headline], ""
    for name, parts in report.slices.items():
        beside = [f"{scale.shown(one.value)} of {one.count:,}" for one in parts]
        items = [(_cut(one.name), one.value, one.interval, text) for one, text in zip(parts, beside)]
        top = 1.0 if scale.percent else max(max(one.interval or (one.value,)) for one in parts)
        more = f"{len(parts) - _MOST_PARTS:,} more in metrics.json" * (len(parts) > _MOST_PARTS)
        body += html.heading(f"By {name}", more) + bars(items[:_MOST_PARTS], top)
    lead = f"A bar is the {scale.title} of a part, a line its 95% interval; parts of less than {FEWEST} have none."
    return Section("Parts of the data", body, lead)


def _calibration(report: Report) -> Section:
    if report.calibration is None:
        return Section("Calibration", "")
    tuned = report.tuned
    shown = {name: tuned[name] for name in ("before", "after")} if tuned else {"model": asdict(report.calibration)}
    names = {"ece": "ECE", "expected_ece": "ECE if calibrated", "nll": "NLL", "brier": "Brier score"}
    body = html.table(["", *shown], [[title, *(one[name] for one in shown.values())] for name, title in names.items()])
    if tuned:
        told = f"The temperature is {tuned['temperature']:.3g}. After: fitted to one half of the rows, measured on the other."
        body += html.note(told)
    charts = []
    for name, one in shown.items():
        points = [(confidence, accuracy) for confidence, accuracy, _ in one["bins"]]
        series = {name: points, "calibrated": [(0, 0), (1, 1)]}
        charts.append(line_chart(series, "confidence", "accuracy", dots=[name]))
    bins = [[name, *one] for name, side in shown.items() for one in side["bins"]]
    body += html.grid(charts) + html.details("Bins", html.table(["", "confidence", "accuracy", "decisions"], bins))
    told = "The share of errors among the most confident decisions; the lower on the left, the more does low confidence warn."
    curves = {name: one["risk_coverage"] for name, one in shown.items()}
    chart = line_chart(curves, "share of decisions, the most confident first", "errors among them")
    lead = "Of decisions with a confidence of 80% four of five should be right; ECE is the mean distance from that."
    return Section("Calibration", body + html.heading("Risk and coverage") + html.paragraph(told) + chart, lead)


def _errors(report: Report) -> Section:
    scored = report.evaluation.scored
    worst, ends = scored.worst(), np.cumsum([0, *scored.sizes])
    items = "".join(_error(report, number, slice(ends[number], ends[number + 1])) for number in worst)
    wrong = f"{scored.is_wrong.sum():,} of " if len(scored.choices()[0]) else ""  # a number is never exactly right
    lead = f"{wrong}{len(scored.sizes):,} predictions{' are wrong' * bool(wrong)}; these are the {len(worst)} of the largest loss."
    return Section("Worst errors", f'<ol class="texts errors">{items}</ol>' if worst else "", lead)


def _error(report: Report, number: int, units: slice) -> str:
    """A wrong prediction below what is right."""
    scored, example = report.evaluation.scored, report.evaluation.scored.examples[number]
    found = scored.task.prediction(example, scored.of_examples()[number], scored.labels).record(None)
    gold, has_spans = scored.task.gold(example, scored.labels), "spans" in found
    if has_spans:
        lines = _spans(report, scored.task.texts(example)[0], gold, found["spans"])
    else:
        said = next(found[key] for key in ("label", "labels", "value", "translation") if key in found)
        chances = [f"{_cut(name)} {p:.1%}" for name, p in Counter(found.get("probabilities", {})).most_common(3)]
        sides = {"gold": gold, "predicted": said} | ({"probabilities": tuple(chances)} if chances else {})
        lines = {name: html.paragraph(_said(side)) for name, side in sides.items()}
    body = "".join(f"<div><small>{name}</small>{line}</div>" for name, line in lines.items())
    text = _text(report, number, f", loss {scored.losses[number]:.2f}", not has_spans)
    return f"<li>{text}{body}{report.explanations.get(number, '')}</li>"


def _copies(report: Report) -> Section:
    asked, found = report.evaluation.scored.examples, sorted(report.copies, key=lambda one: -one.similarity)
    rows = [[asked[one.test].where, report.training[one.train].where, f"{one.similarity:.2f}", _beginning(report, one.test)]
            for one in found[:_MOST_ROWS]]  # fmt: skip
    lead = f"{numbered(len(found), 'text')} of {len(asked):,} stand in the training file too, exactly (1.00) or nearly."
    return _listed("Also in the training file", ["here", "there", "similarity", "text"], rows, lead)


def _suspects(report: Report) -> Section:
    """The labels that are likely wrong, the most suspect first."""
    rows = [[one.where, _cut(one.text, _MOST_TEXT), one.given, one.suggested, f"{one.score:.3f}"]
            for one in report.suspects[:_MOST_ROWS]]  # fmt: skip
    count = numbered(len(report.suspects), "label")
    lead = f"{count} of the training file, which models without these rows contradict. All are in label-errors.csv."
    return _listed("Suspect labels", ["where", "text", "given", "suggested", "quality"], rows, lead)


def _comparison(report: Report) -> Section:
    """Another model on the same rows, and the rows that only one of the two gets right."""
    compared, examples = report.compared, report.evaluation.scored.examples
    if compared is None:
        return Section("", "")
    body = html.commands("\n".join(compared.lines(report.evaluation.scales)))
    for whose, numbers in (("only this model", compared.only_first), (f"only {report.against}", compared.only_second)):
        rows = [[examples[number].where, _beginning(report, number)] for number in numbers[:_MOST_ROWS]]
        body += html.details(f"{whose} is right: {len(numbers):,}", html.table(["where", "text"], rows)) if rows else ""
    lead = "The first model is this one. p is the probability of a difference at least this large between equal models."
    return Section(f"Compared with {report.against}", body, lead)


def _listed(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]], lead: str) -> Section:
    return Section(title, html.table(header, rows) if rows else "", lead)


def _beginning(report: Report, number: int) -> str:
    scored = report.evaluation.scored
    return _cut(" / ".join(scored.task.texts(scored.examples[number])), _MOST_TEXT)


def _spans(report: Report, text: str, *sides: Sequence[Any]) -> dict[str, str]:
    """A text with its spans, gold and predicted, from a little before the first difference."""
    marked = [[(one["start"], one["end"], one["type"]) for one in side] for side in sides]
    first = min({*marked[0]} ^ {*marked[1]}, default=(0,))[0]
    start = max(0, first - _MOST_TEXT // 3) if len(text) > _MOST_TEXT else 0
    parts = [SpannedText(text, side).part(start, start + _MOST_TEXT) for side in marked]
    types = [one.label for one in report.evaluation.labels]
    return {name: spanned([part], types) for name, part in zip(("gold", "predicted"), parts)}


def _said(value: Any) -> str:
    """A label, labels or a number."""
    if isinstance(value, tuple):
        return ", ".join(map(_cut, value)) or "no label"
    return f"{value:.4g}" if isinstance(value, float) else _cut(value)


def _text(report: Report, number: int, more: str = "", is_whole: bool = True) -> str:
    """Where an example is and, if `is_whole`, the beginning of its texts."""
    scored = report.evaluation.scored
    example = scored.examples[number]
    texts = scored.task.texts(example) if is_whole else []
    parts = [html.paragraph(_cut(text, _MOST_TEXT // len(texts))) for text in texts]
    return f'<small dir="auto">{escape(Path(example.where).name + more)}</small>{"".join(parts)}'


def _shown(cell: Any) -> Any:
    """A cell of a table."""
    return _SHARE.shown(cell) if isinstance(cell, float) else _cut(cell) if isinstance(cell, str) else cell


def _cut(text: str, most: int = _MOST_NAME) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
