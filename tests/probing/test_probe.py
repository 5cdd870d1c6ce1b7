"""`bert probe`: each number beside its controls, on words whose labels are known to be in the vectors, or not."""

import csv
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from bert import cli
from bert.data.milestones import Milestone
from bert.errors import InputError
from bert.inference.embeddings import encoder_of
from bert.probing.geometry import mean_cosine
from bert.probing.pictures import probe_page
from bert.probing.probe import probe
from bert.probing.results import CKA, ProbeResult
from bert.probing.units import read_units
from bert.probing.vectors import vectors_of
from tests.browser import chromium, opened
from tests.probing.models import FIRM, FRUIT, make_masked_lm, sentence

SIZES = 40, 20


def write_conllu(file: Path, count: int, seed: int, roots: bool = False) -> Path:
    """Sentences of eight words. The part of speech follows from the word; the relation of nouns from the words beside them."""
    draw, lines = random.Random(seed), []
    for _ in range(count):
        sense, companions = draw.choice([("fruit", FRUIT), ("firm", FIRM)])
        words = sentence(draw.choice(["apple", "berry"]), companions, draw.randrange(10**6)).split()
        for number, word in enumerate(words, start=1):
            speech = "NOUN" if word in ("apple", "berry") else "X" if word in FRUIT + FIRM else "DET"
            relation = sense if speech == "NOUN" else "other"
            lines.append(f"{number}\t{word}\t_\t{speech}\t_\t_\t{number - 1}\t{relation}\t_\t_")
        lines.append("")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("probe")
    return write_conllu(folder / "train.conllu", SIZES[0], 1), write_conllu(folder / "dev.conllu", SIZES[1], 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_masked_lm().save(folder)
    return folder


@pytest.fixture(scope="module")
def result(files: tuple[Path, Path], model: Path) -> ProbeResult:
    return probe(files[0], "upos", [model], files[1], examples=[30], seeds=2)


def values(result: ProbeResult, probe: str, metric: str, layer: str = "0") -> list[float]:
    """Those of the probes that were trained on all units, by seed."""
    rows = [row for row in result.rows if (row.probe, row.metric, row.layer) == (probe, metric, layer)]
    return [row.value for row in rows if row.examples == max(one.examples for one in rows)]


def test_what_the_word_tells_is_in_layer_0_and_the_word_alone_knows_it(result: ProbeResult) -> None:
    subject = result.subjects[0]
    assert result.value(subject, "0", "linear", "accuracy") == 1
    assert values(result, "word type", "accuracy", "") == [1]
    assert result.value(subject, "mix", "linear", "accuracy") > 0.95
    assert result.value(subject, "0", "online code", "compression") > 2
    for metric in ("bits", "compression"):
        for row in result.found(subject, "0", "online code", metric):
            assert row.low < row.value < row.high


def test_the_control_task_is_memorized_in_layer_0_and_selectivity_is_the_difference(result: ProbeResult) -> None:
    for layer in ("0", "1", "2", "mix"):
        control, difference = (
            values(result, "control task", "accuracy", layer),
            values(result, "control task", "selectivity", layer),
        )
        assert len(control) == 2  # seeds
        (real, *_) = values(result, "linear", "accuracy", layer)
        assert difference == pytest.approx([real - one for one in control])
    assert np.mean(values(result, "control task", "accuracy")) > 0.95  # few words


def test_majority_counts_labels(result: ProbeResult, files: tuple[Path, Path]) -> None:
    labels = [[line.split("\t")[3] for line in file.read_text(encoding="utf-8").splitlines() if line] for file in files]
    most = max(sorted({*labels[0]}), key=labels[0].count)
    assert values(result, "majority", "accuracy", "") == pytest.approx([labels[1].count(most) / len(labels[1])])


def test_the_context_is_not_in_layer_0_nor_in_the_word(files: tuple[Path, Path], model: Path) -> None:
    found = probe(files[0], "deprel", [model], files[1], measures=["linear", "random"])
    (lexical,) = values(found, "word type", "accuracy", "")
    assert values(found, "linear", "accuracy")[0] == pytest.approx(lexical, abs=0.05)
    assert values(found, "linear", "accuracy", "2")[0] > lexical + 0.02
    assert len(values(found, "random encoder", "accuracy", "2")) == 1


def test_the_table_is_tidy_and_every_interval_holds_its_value(result: ProbeResult) -> None:
    rows = result.table()
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    keys = [(row.model, row.layer, row.probe, row.metric, row.examples, row.seed) for row in result.rows]
    assert len(set(keys)) == len(keys)
    assert all(row.low <= row.value <= row.high for row in result.rows if row.low is not None)
    assert {row.examples for row in result.rows} > {max(row.examples for row in result.rows)}  # the learning curve
    assert "word type: accuracy 100.0%" in str(result)
    assert "control task" in str(result)


def test_heads_are_probed_as_trees(tmp_path: Path, model: Path) -> None:
    """Each word hangs on the one before it, so that positions, which are in the embeddings, tell the tree."""
    found = probe(
        write_conllu(tmp_path / "t.conllu", 30, 3), "head", [model], write_conllu(tmp_path / "d.conllu", 10, 4)
    )
    assert {row.metric for row in found.rows} == {"UUAS", "DSpr.", "root accuracy", "NSpr."}
    assert {row.probe for row in found.rows} == {"structural", "random encoder", "chain"}
    assert values(found, "chain", "UUAS", "") == [1]
    assert values(found, "chain", "DSpr.", "") == [pytest.approx(1)]
    assert "random encoder" in probe_page(found)
    assert all(0 <= row.value <= 1 for row in found.rows if row.metric in ("UUAS", "root accuracy"))


def test_texts_have_a_bag_of_words_and_permuted_labels_beside_them(tmp_path: Path, model: Path) -> None:
    lines = [f"{sentence('apple', FRUIT if n % 2 else FIRM, n)}\t{'fruit' if n % 2 else 'firm'}" for n in range(120)]
    file = tmp_path / "texts.tsv"
    file.write_text("text\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    found = probe(file, "label", [model], measures=["linear", "control"])
    assert values(found, "bag of words", "accuracy", "") == [1]
    assert values(found, "linear", "accuracy")[0] > 0.9
    assert 0.1 < values(found, "control task", "accuracy")[0] < 0.9


def test_the_command_writes_a_page_a_table_and_json_and_keeps_the_vectors(
    files: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    arguments = [
        "probe",
        str(files[0]),
        "--dev",
        str(files[1]),
        "--label",
        "upos",
        "--model",
        str(model),
        "--out",
        str(out),
    ]
    assert cli.main([*arguments, "--measures", "linear", "--examples", "20,60"]) == 0
    assert "report.html" in capsys.readouterr().out
    with (out / "metrics.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["value"]) for row in rows] == [
        row["value"] for row in json.loads((out / "metrics.json").read_text())["rows"]
    ]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Learning curves" in page
    assert "word type" in page
    assert "Content-Security-Policy" in page
    assert len(list((out / "vectors").glob("*.npy"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_as_wide_as_the_screen_and_asks_for_nothing(
    files: tuple[Path, Path], model: Path, tmp_path: Path, width: int
) -> None:
    measures = ["linear", "control", "random", "similarity"]
    milestones = [
        Milestone(shutil.copytree(model, tmp_path / name), 1, tokens, 3.5) for name, tokens in (("a", 10), ("b", 20))
    ]
    found = probe(files[0], "upos", [], files[1], examples=[30], checkpoints=milestones, measures=measures)
    page = tmp_path / "page.html"
    page.write_text(probe_page(found), encoding="utf-8")
    with chromium() as browser, opened(browser, page, width) as shown:
        for text in ("Over training", "Learning curves", "Without a model", "Words that moved", "loss in nats"):
            assert shown.get_by_text(text).count() > 0, text
        assert shown.locator("table").count() >= 6
        assert shown.locator("body").evaluate("node => node.scrollWidth") <= width


def test_files_of_something_else_are_not_replaced(
    files: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Such as the log of a run."""
    log = tmp_path / "metrics.csv"
    log.write_text("step,loss\n")
    given = ["probe", str(files[0]), "--label", "upos", "--model", str(model), "--measures", "linear"]
    assert cli.main([*given, "--out", str(tmp_path)]) == 2
    assert "holds a metrics.csv of something else: give another folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]
    assert log.read_text() == "step,loss\n"


def test_mistakes_are_one_line(files: tuple[Path, Path], model: Path, capsys: pytest.CaptureFixture) -> None:
    given = ["probe", str(files[0]), "--model", str(model)]
    for arguments, message in (
        (["--label", "upso"], "upos"),
        (["--label", "upos", "--measures", "liner"], "measures has 'liner'; must be of linear, control, random, mdl"),
        (["--label", "upos", "--examples", "10,x"], "'x' is not a whole number above 0"),
        (["--label", "upos", "--pooling", "cls"], "pooling is cls; must be mean or first or last for words"),
    ):
        assert cli.main([*given, *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    with pytest.raises(InputError, match="3 sentences are too few"):
        probe(write_conllu(files[0].with_name("few.conllu"), 3, 5), "upos", [model])


def test_models_are_compared_layer_by_layer(files: tuple[Path, Path], model: Path) -> None:
    twin = shutil.copytree(model, model.with_name("twin"))
    found = probe(files[0], "upos", [model, twin], files[1], measures=["similarity"])
    first, second = found.subjects
    assert not {row.probe for row in found.rows} & {"linear", "majority"}  # not asked for
    vectors = vectors_of(encoder_of(model), read_units(files[1], "upos"))
    for layer in "12":
        assert values(found, CKA, f"layer {layer}", layer) == pytest.approx([1], abs=1e-3)
        expected = mean_cosine(vectors[int(layer)].astype(np.float32))
        assert found.value(first, layer, "similarity", "anisotropy") == pytest.approx(expected, abs=1e-4)
    assert values(found, CKA, "layer 1", "2")[0] < 0.999
    assert (
        values(found, "similarity", "self-similarity", "0") == [pytest.approx(1 - mean_of(found, first), abs=1e-3)] * 2
    )
    ((name, moved),) = found.moved.items()
    assert (name, {round(one.distance, 3) for one in moved}) == (second[0], {0})
    assert "moved most" in str(found)


def mean_of(found: ProbeResult, subject: tuple[str, int | None]) -> float:
    """The anisotropy of layer 0, where all occurrences of a word are equal."""
    value = found.value(subject, "0", "similarity", "anisotropy")
    assert value is not None
    return value


def test_hostile_words_and_labels_stay_text(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture) -> None:
    hostile = "<script>alert(1)</script>"
    lines = [
        f"{word}\t{label}"
        for n in range(60)
        for word, label in ((f"apple{hostile}", hostile), ("fall\x1b[31m", "b\x07"), ("", ""))
    ]
    file = tmp_path / "hostile.conll"
    file.write_text("\n".join(line if line.strip() else "" for line in lines) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    twin = shutil.copytree(model, tmp_path / "twin")
    given = ["probe", str(file), "--label", "tag", "--model", str(model), "--model", str(twin), "--out", str(out)]
    assert cli.main([*given, "--measures", "linear,similarity"]) == 0
    assert not any(ord(char) < 32 and char != "\n" for char in capsys.readouterr().out)
    assert hostile not in (out / "report.html").read_text(encoding="utf-8")
