"""The page of an evaluation says what metrics.json and predictions.jsonl say, whatever the texts and labels are."""

import json
import re
from dataclasses import replace
from html import unescape

import pytest

from bert.data.examples import Example
from bert.data.tagged import TaggedExample
from bert.finetuning.evaluation.comparison import Compared
from bert.finetuning.evaluation.label_errors import Suspect
from bert.finetuning.evaluation.overlap import Copy
from bert.finetuning.evaluation.page import evaluation_page, write_report
from bert.finetuning.tasks.index import task_named
from tests.finetuning.evaluation import reports
from tests.report.reader import Reader

HOSTILE = "</p><script>alert(1)</script>\"'&\u202egnol\u2069 \x00\x1b[2J \ud800 <img src=x onerror=alert(1)>"
ALL = {
    "classify": lambda: reports.report_of(reports.classify()),
    "crowded": lambda: reports.report_of(reports.classify(2_000, [f"label {n}" for n in range(40)])),
    "tuned": lambda: reports.report_of(reports.classify(), is_tuned=True),
    "multilabel": lambda: reports.report_of(reports.multilabel(), is_tuned=True),
    "regression": lambda: reports.report_of(reports.regression()),
    "tag": lambda: reports.report_of(reports.tag(), training=reports.tagged(50, seed=1)),
}


def text_of(markup):
    return unescape(re.sub(r"<[^>]*>", "", markup))


def sections(page):
    """The markup of each section by its title."""
    found = re.findall(r'<section id="[^"]*" [^>]*><h2 [^>]*>(.*?)</h2>(.*?)</section>', page, re.S)
    return {unescape(title): body for title, body in found}


def tables(markup):
    """The cells of each table, its header first."""
    found = []
    for one in re.findall(r"<table>(.*?)</table>", markup, re.S):
        rows = re.findall(r"<tr>(.*?)</tr>", one, re.S)
        found.append([[text_of(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)] for row in rows])
    return found


@pytest.fixture(scope="module", params=ALL)
def written(request, tmp_path_factory):
    """The scales of the metrics, metrics.json, the rows of predictions.jsonl, and the sections of the page."""
    report, folder = ALL[request.param](), tmp_path_factory.mktemp("report") / "test"
    write_report(report, folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    Reader(page)
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").open(encoding="utf-8")]
    return (
        report.evaluation.scales,
        json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        rows,
        sections(page),
        page,
    )


def test_the_metrics_are_those_of_the_json(written):
    scales, record, _, parts, page = written
    (_, *rows), *_ = tables(parts["Metrics"])
    for (name, metric), row in zip(record["metrics"].items(), rows, strict=True):
        shown = (
            scales[name].shown(metric["value"]),
            scales[name].range(metric["interval"]),
            scales[name].shown(metric["baseline"]),
        )
        assert tuple(row) == (scales[name].title, *shown)
    head = text_of(page[: page.index("<main>")])
    of = record["metrics"][record["headline"]]
    for value in (of["value"], of["baseline"]):
        assert scales[record["headline"]].shown(value) in head
    assert f"95% interval {scales[record['headline']].range(of['interval'])}; 1 seed" in head
    assert ("chosen on these rows" in head) == record["selected"]


def test_the_labels_are_those_of_the_json_with_counts_for_rare_ones(written):
    _, record, _, parts, _ = written
    if not record["labels"]:
        assert "By label" not in parts
        return
    (_, *rows), *_ = tables(parts["By label"])
    for label, (name, count, *shares) in zip(record["labels"], rows, strict=True):
        assert (name, count) == (label["label"], f"{label['count']:,}")
        if label["count"] < 20:
            right = label["correct"]
            assert shares == [f"{right}/{label['predicted']}", f"{right}/{label['count']}", "–"]
        for key, share in zip(("precision", "recall", "f1"), shares if label["count"] >= 20 else ()):
            low, high = label["intervals"][key]
            assert share == f"{label[key]:.1%} ({low:.1%}–{high:.1%})".replace("%–", "–")


def test_the_details_are_those_of_the_json(written):
    _, record, _, parts, _ = written
    for detail in record["details"]:
        body = parts[detail["title"]]
        if detail["kind"] == "table":
            (header, *rows), *_ = tables(body)
            assert header == detail["header"]
            shown = [[f"{cell:.1%}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell for cell in row]
                     for row in detail["rows"]]  # fmt: skip
            assert rows == shown
        elif detail["kind"] == "chart":
            (numbers,) = Reader(body).data
            for points, drawn in zip(detail["series"].values(), numbers["curves"], strict=True):
                assert [tuple(point) for point in drawn] == [
                    tuple(float(f"{value:.5g}") for value in point) for point in points
                ]


def test_the_cells_of_confusions_have_the_counts_of_the_json_and_open_texts_of_their_kind(written):
    _, record, predictions, parts, _ = written
    for detail in (one for one in record["details"] if one["kind"] == "confusion"):
        opened = re.findall(
            r'aria-label="gold ([^"]*), predicted ([^"]*): ([^"]*)">.*?<ol class="texts">(.*?)</ol>',
            parts["Confusions"],
            re.S,
        )
        cells = {(gold, said): (count, examples) for gold, said, count, examples in detail["cells"]}
        if len(detail["labels"]) > 20:
            most = sorted((count for (gold, said), (count, _) in cells.items() if gold != said), reverse=True)[:30]
            assert [int(count) for *_, count, _ in opened] == most
        else:
            assert {(gold, said) for gold, said, *_ in opened} == {*cells}
        for gold, said, count, texts in opened:
            expected, examples = cells[gold, said]
            assert int(count.replace(",", "")) == expected
            assert texts.count("<li>") == min(20, expected)
            for number, item in zip(examples, texts.split("<li>")[1:]):
                row = predictions[number]
                assert (row["gold"], row["predicted"]["label"]) == (gold, said)
                assert row["where"] in item


def test_the_parts_of_the_data_are_those_of_the_json(written):
    scales, record, _, parts, _ = written
    scale = scales[record["headline"]]
    shown = [text_of(one) for one in re.findall(r"<output>(.*?)</output>", parts["Parts of the data"])]
    assert shown == [f"{scale.shown(part['value'])} of {part['count']:,}" for part in record["slices"]["length"]]


def test_the_calibration_is_that_of_the_json(written):
    _, record, _, parts, _ = written
    if record["calibration"] is None:
        assert "Calibration" not in parts
        return
    sides = (
        {name: record["tuned"][name] for name in ("before", "after")}
        if record["tuned"]
        else {"model": record["calibration"]}
    )
    summary, *_, bins = tables(parts["Calibration"])
    assert summary[0] == ["", *sides]
    for row, name in zip(summary[1:], ("ece", "expected_ece", "nll", "brier"), strict=True):
        assert [float(cell) for cell in row[1:]] == pytest.approx([side[name] for side in sides.values()], rel=5e-3)
    expected = [(name, *one) for name, side in sides.items() for one in side["bins"]]
    for row, (name, confidence, accuracy, count) in zip(bins[1:], expected, strict=True):
        assert (row[0], row[3]) == (name, f"{count:,}")
        assert [float(cell) for cell in row[1:3]] == pytest.approx([confidence, accuracy], rel=5e-3)
    curves = Reader(parts["Calibration"]).data[-1]["curves"]
    for drawn, side in zip(curves, sides.values(), strict=True):
        assert drawn == [[float(f"{value:.5g}") for value in point] for point in side["risk_coverage"]]


def test_the_worst_errors_are_the_wrong_predictions_with_the_largest_loss(written):
    *_, predictions, parts, _ = written
    wrong = sorted((row for row in predictions if row["wrong"]), key=lambda row: -row["loss"])
    shown = parts["Worst errors"].split("<li>")[1:]
    assert len(shown) == min(50, len(wrong))
    for row, item in zip(wrong, shown):
        head, *lines = [
            text_of(one)
            for one in re.findall(r"<small.*?</small>|<p.*?</p>", item, re.S)
            if one.startswith(("<small", "<p"))
        ]
        assert re.search(r"loss ([\d.]+)", head)[1] == f"{row['loss']:.2f}"
        for name, p in sorted(row["predicted"].get("probabilities", {}).items(), key=lambda one: -one[1])[:3]:
            assert f"{name} {p:.1%}" in lines[-1]


def test_a_tagger_s_errors_show_its_spans_below_the_right_ones():
    labels, words = ("B-PER", "I-PER", "O"), ("Ann", "Lee", "met", "Bo")
    example = TaggedExample(words, ("B-PER", "I-PER", "O", "B-PER"), "dev.conll, line 1")
    scored = reports.scored_of(task_named("tag"), labels, [example], sharpness=99)
    scored.scores[1] = scored.scores[2]
    text = sections(evaluation_page(reports.report_of(scored)))["Worst errors"]
    assert re.findall(r"<mark[^>]*>(.*?)<small>(.*?)</small>", text) == [
        ("Ann Lee", "PER"), ("Bo", "PER"), ("Ann", "PER"), ("Bo", "PER")]  # fmt: skip


def test_a_long_sentence_is_shown_where_it_is_wrong():
    words = [f"word{number}" for number in range(300)]
    scored = reports.scored_of(
        task_named("tag"), ("B-PER", "O"), [TaggedExample(tuple(words), ("O",) * 300)], sharpness=99
    )
    scored.scores[250] = scored.scores[250].flip(0)
    text = sections(evaluation_page(reports.report_of(scored)))["Worst errors"]
    assert re.search(r"…[^<]*word249 <mark[^>]*>word250<small>PER</small></mark> word251[^<]*…", text)
    assert max(map(len, re.findall(r"<p.*?</p>", text, re.S))) < 500


def test_several_seeds_are_the_headline():
    seeds = {"seeds": [{"seed": n, "accuracy": 0.8 + n / 100, "macro_f1": 0.7, "mcc": 0.5} for n in range(3)]}
    seeds |= {name: dict.fromkeys(("accuracy", "macro_f1", "mcc"), value)
              for name, value in (("mean", 0.81), ("sd", 0.01), ("interval", (0.785, 0.835)))}  # fmt: skip
    page = evaluation_page(reports.report_of(reports.classify(), seeds=seeds))
    head = text_of(page[: page.index("<main>")])
    assert "81.0% ± 1.0mean ± standard deviation; 95% t interval 78.5–83.5%; 3 seeds" in head
    assert "1 seed" not in head
    ((header, row, *_),) = tables(sections(page)["Metrics"])
    assert header[4:] == ["mean ± sd", "seed 0", "seed 1", "seed 2"]
    assert row[4:] == ["81.0% ± 1.0", "80.0%", "81.0%", "82.0%"]


def test_explanations_and_suspect_labels_are_on_the_page():
    report = reports.report_of(reports.classify())
    scored = report.evaluation.scored
    worst = int(max(scored.is_wrong.nonzero()[0], key=lambda number: scored.losses[number]))
    suspect = Suspect(0, "train.tsv, line 2", "A late bus", "early", "late", 0.1)
    page = evaluation_page(replace(report, explanations={worst: "<p>why</p>"}, suspects=[suspect]))
    assert "<p>why</p></li>" in sections(page)["Worst errors"].split("<li>")[1]
    assert [*sections(page)][-1] == "Suspect labels"
    assert tables(sections(page)["Suspect labels"])[0][1:] == [
        ["train.tsv, line 2", "A late bus", "early", "late", "0.100"]
    ]


@pytest.mark.parametrize("task", ["classify", "regression", "tag"])
def test_rows_of_a_comparison_and_copies_are_shown_with_their_texts_alone(task):
    report = reports.report_of(getattr(reports, task)(8))
    scored = report.evaluation.scored
    compared = Compared({}, [0, 1, 2], [3], None)
    copied = {"training": scored.examples, "copies": [Copy(4, 5, 0.9)]}
    page = sections(evaluation_page(replace(report, against="other", compared=compared, **copied)))
    shown = [row[-1] for title in ("Also in the training file", "Compared with other") for table in tables(page[title])
             for row in table[1:]]  # fmt: skip
    assert shown == [" / ".join(scored.task.texts(scored.examples[number])) for number in (4, 0, 1, 2, 3)]


def test_a_page_without_errors_has_no_list_of_them():
    assert "Worst errors" not in sections(evaluation_page(reports.report_of(reports.classify(sharpness=99))))


@pytest.mark.parametrize("task", ["classify", "multilabel", "regression", "tag"])
def test_hostile_texts_and_labels_are_only_read(task, tmp_path):
    labels = [f"{HOSTILE}{number}" for number in range(3)]
    if task == "tag":
        tags = [f"B-{label}" for label in labels]
        examples = [TaggedExample((HOSTILE, "b"), (tags[n % 3], "O"), HOSTILE) for n in range(60)]
        labels, training = [*tags, "O"], examples
    else:
        gold = {"classify": lambda n: labels[n % 3], "multilabel": lambda n: (labels[n % 3],), "regression": float}[
            task
        ]
        examples = [Example(HOSTILE, HOSTILE, gold(n), HOSTILE, {HOSTILE: HOSTILE}) for n in range(60)]
        labels, training = (labels if task != "regression" else ["value"]), ()
    report = reports.report_of(reports.scored_of(task_named(task), labels, examples), training=training)
    report = replace(report, model=HOSTILE, data=HOSTILE, slices={HOSTILE: report.evaluation.slices([HOSTILE] * 60)})
    write_report(report, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    read = Reader(page)
    assert len(read.scripts) == 1
    assert not any(name.startswith("on") for _, attributes in read.seen for name in attributes)
    assert "img" not in {tag for tag, _ in read.seen}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)
    assert "␀␛[2J" in read.text
    json.loads((tmp_path / "report" / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [2, 20, 150])
@pytest.mark.parametrize("sign", ["&", "字", "😀"])
def test_20000_long_texts_make_a_page_below_3_megabytes(labels, sign):
    scored = reports.classify(20_000, [f"label {number}" for number in range(labels)])
    examples = [replace(example, text=sign * 5_000) for example in scored.examples]
    page = evaluation_page(reports.report_of(replace(scored, examples=examples)))
    assert len(page.encode("utf-8")) < 3_000_000


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("task", ["classify", "multilabel", "regression", "tag"])
def test_one_example_makes_a_page(task, count):
    scored = getattr(reports, task)(count)
    Reader(evaluation_page(reports.report_of(scored, is_tuned=True)))
