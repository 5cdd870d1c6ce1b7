"""What a reviewer would ask of `bert probe`: controls of every number, no silent gap, and mistakes in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bert import cli
from bert.data.milestones import Milestone
from bert.errors import InputError
from bert.inference.embeddings import encoder_of
from bert.probing.probe import probe
from bert.probing.results import ProbeResult
from bert.probing.units import read_units
from bert.probing.vectors import vectors_of
from tests.probing.models import FIRM, FRUIT, sentence
from tests.probing.test_probe import files, model, values, write_conllu

__all__ = ["files", "model"]  # fixtures


@pytest.fixture(scope="module")
def curves(files: tuple[Path, Path], model: Path) -> ProbeResult:
    measures = ["linear", "control", "random"]
    return probe(files[0], "upos", [model], files[1], measures=measures, examples=[20, 70, 5_000], seeds=3)


def at(result: ProbeResult, probe: str, count: int) -> list[float]:
    rows = [row for row in result.rows if (row.probe, row.metric, row.examples) == (probe, "accuracy", count)]
    return [row.value for row in rows if row.layer in ("", "1")]


def test_a_curve_has_its_controls_at_each_of_its_points_and_for_each_seed(curves: ProbeResult) -> None:
    for count in (20, 70):
        for name in ("linear", "random encoder", "control task", "majority", "word type"):
            assert len(at(curves, name, count)) == 3, (name, count)
    assert {row.examples for row in curves.rows} == {20, 70, 320}
    assert np.mean(at(curves, "word type", 20)) < np.mean(at(curves, "word type", 70)) <= 1
    (subject,) = curves.subjects
    curve = curves.curve(subject)
    assert [*curve] == ["linear", "random encoder", "control task", "word type", "majority"]
    for name, layer in (("linear", curves.best_layer(subject)), ("majority", "")):
        means = [curves.value(subject if layer else ("", None), layer, name, "accuracy", n) for n in (20, 70, 320)]
        assert [np.mean([row.value for row in rows]) for _, rows in curve[name]] == pytest.approx(means)
    assert "examples," in str(curves)
    assert "train has 320 units, no more for 5,000 examples" in curves.notes


def test_the_control_task_of_a_sample_is_that_of_all_units(files: tuple[Path, Path], model: Path) -> None:
    """A task drawn from the labels of a single unit would have one class, and be solved by everyone."""
    found = probe(files[0], "upos", [model], files[1], measures=["control"], examples=[1, 8], seeds=4)
    (subject,) = found.subjects
    for layer in "012":
        assert found.value(subject, layer, "control task", "accuracy", 1) < 0.75
    real, control = (found.found(subject, "1", name, "accuracy", 8) for name in ("linear", "control task"))
    differences = [row.value for row in found.found(subject, "1", "control task", "selectivity", 8)]
    assert differences == pytest.approx([one.value - other.value for one, other in zip(real, control, strict=True)])


def test_the_code_of_a_random_encoder_stands_beside_that_of_the_model(files: tuple[Path, Path], model: Path) -> None:
    found = probe(files[0], "deprel", [model], files[1], measures=["mdl", "random"])
    for layer in "12":
        assert (
            values(found, "online code", "compression", layer)[0]
            > values(found, "random encoder", "compression", layer)[0]
        )
    (marginal,) = values(found, "majority", "compression", "")
    assert 1 < marginal < values(found, "online code", "compression", "1")[0]


def test_held_out_sentences_are_no_sentences_of_train(tmp_path: Path, model: Path) -> None:
    lines = [f"{sentence('apple', FRUIT if n % 2 else FIRM, n)} number {n}\t{n % 2}" for n in range(100)]
    file = tmp_path / "texts.tsv"
    file.write_text("text\tlabel\n" + "\n".join(lines) + "\n", encoding="utf-8")
    assert not [note for note in probe(file, "label", [model], measures=["linear"]).notes if "also in train" in note]
    file.write_text("text\tlabel\n" + "\n".join([*lines, *lines[1:4], lines[1], lines[0]]) + "\n", encoding="utf-8")
    notes = probe(file, "label", [model], measures=["linear"]).notes
    assert "1 of 21 scored sentences are also in train" in notes


def test_trees_follow_dev_and_are_scored_on_test(tmp_path: Path, model: Path) -> None:
    train, dev, other, test = (write_conllu(tmp_path / f"{n}.conllu", 12, n) for n in range(4))
    one, two = (probe(train, "head", [model], file, test, measures=["structural"]) for file in (dev, other))
    for result in (one, two):
        assert {row.metric for row in result.rows} >= {"UUAS", "UUAS on dev"}
        layers = {layer: values(result, "structural", "UUAS on dev", layer)[0] for layer in "012"}
        assert layers[result.best_layer(result.subjects[0])] == max(layers.values())
    assert [row.value for row in one.rows] != [row.value for row in two.rows]


def test_samples_are_nested_and_as_large_as_asked_for(files: tuple[Path, Path], model: Path) -> None:
    """The probe on 20 words is the one on a file of these words."""
    units = read_units(files[0], "upos")
    found = probe(files[0], "upos", [model], files[1], measures=["mdl"], examples=[20, 70])
    sizes = {row.examples for row in found.rows if row.probe == "majority"}
    assert sizes == {20, 70, len(units.labels)}


def test_the_mix_and_the_code_stand_beside_what_they_are_compared_with(curves: ProbeResult) -> None:
    for name in ("linear", "random encoder", "control task"):
        assert values(curves, name, "accuracy", "mix")
    for row in curves.rows:
        assert (row.low is None) == (row.metric == "C")
        assert row.scored == 160
    assert {row.value for row in curves.rows if row.metric == "C"} <= {1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0}


def test_every_table_fits_a_terminal_and_names_its_layers(curves: ProbeResult, tmp_path: Path, model: Path) -> None:
    trees = [write_conllu(tmp_path / name, 20, seed) for seed, name in enumerate(("a.conllu", "b.conllu"))]
    for result in (curves, probe(trees[0], "head", [model], trees[1])):
        lines = str(result).splitlines()
        assert max(map(len, lines[1:])) <= 120
        assert sum(line.split()[:1] == ["layer"] for line in lines) >= 1
        for layer in "012":
            assert sum(line.split()[:1] == [layer] for line in lines) >= 1
    assert {row.probe for row in result.rows} == {"structural", "random encoder", "chain"}
    assert all(row.low - 1e-9 <= row.value <= row.high + 1e-9 for row in result.rows)


def test_labels_that_train_lacks_are_said_and_change_no_code(
    files: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "dev.conllu"
    other.write_text(files[1].read_text().replace("\tNOUN\t", "\tPROPN\t", 7), encoding="utf-8")
    codes = []
    for dev in (files[1], other):
        found = probe(files[0], "upos", [model], dev, measures=["mdl"])
        codes.append([row.value for row in found.rows if row.probe == "online code"])
    assert codes[0] == codes[1]
    assert "7 of 160 scored units have a label that train has not; they count as wrong" in found.notes


def test_c_is_the_one_that_scikit_learn_would_choose(files: tuple[Path, Path], model: Path) -> None:
    found = probe(files[0], "deprel", [model], files[1], measures=["linear"])
    units = [read_units(file, "deprel") for file in files]
    vectors = [vectors_of(encoder_of(model), one).astype(np.float32) for one in units]
    for layer in range(3):
        scaler = StandardScaler().fit(vectors[0][layer])
        x, z = (scaler.transform(one[layer]) for one in vectors)
        nll = {}
        for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0):
            theirs = LogisticRegression(C=c, max_iter=5_000).fit(x, units[0].labels)
            places = [[*theirs.classes_].index(label) for label in units[1].labels]
            nll[c] = -theirs.predict_log_proba(z)[np.arange(len(places)), places].mean()
        (c,) = values(found, "linear", "C", str(layer))
        assert nll[c] <= min(nll.values()) + 0.005  # fits that are compared stop early
        assert values(found, "linear", "NLL", str(layer))[0] == pytest.approx(nll[c], abs=0.01)


def test_a_test_file_is_scored_and_dev_alone_chooses(files: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    test = write_conllu(tmp_path / "test.conllu", 15, 9)
    three = probe(files[0], "deprel", [model], files[1], test, measures=["linear"])
    two = probe(files[0], "deprel", [model], files[1], measures=["linear"])
    for layer in "012":
        assert values(three, "linear", "NLL on dev", layer) == values(two, "linear", "NLL", layer)
        assert values(three, "linear", "C", layer) == values(two, "linear", "C", layer)
    assert three.best_layer(three.subjects[0]) == two.best_layer(two.subjects[0])
    assert {row.scored for row in three.rows if row.metric == "accuracy"} == {120}


def test_models_and_milestones_have_names_that_tell_them_apart(
    files: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    folders = [shutil.copytree(model, tmp_path / name / "run" / "model") for name in ("one", "two")]
    kept = [Milestone(folders[1], 1, 10, 3.5)]
    found = probe(files[0], "upos", [folders[0]], files[1], measures=["linear"], checkpoints=kept)
    assert [found.name(one) for one in found.subjects] == ["one/run/model", "two/run/model, 10 tokens"]
    assert [row.value for row in found.rows if row.metric == "loss"] == [3.5]
    assert not found.over_training()
    kept = [
        Milestone(folder, 1, tokens, loss) for folder, tokens, loss in ((folders[0], 10, 4.5), (folders[1], 1_000, 3.5))
    ]
    found = probe(files[0], "upos", [], files[1], measures=["linear", "random"], checkpoints=kept)
    curves = found.over_training()
    assert [*curves] == ["loss", "linear", "random encoder", "word type", "majority"]
    assert [(tokens, rows[0].value) for tokens, rows in curves["loss"]] == [(10, 4.5), (1_000, 3.5)]
    layer = found.best_layer(found.subjects[-1])
    assert curves["linear"][0][1] == found.found(found.subjects[0], layer, "linear", "accuracy")
    assert "tokens    loss" in str(found)


def test_words_without_tokens_are_left_out_of_probes_and_baselines(
    files: tuple[Path, Path], model: Path, tmp_path: Path
) -> None:
    lines = files[1].read_text(encoding="utf-8").split("\n")
    first = next(place for place, line in enumerate(lines) if line.startswith("1\t"))
    cells = lines[first].split("\t")
    lines[first] = "\t".join([cells[0], "\u200b", *cells[2:]])
    dev = tmp_path / "dev.conllu"
    dev.write_text("\n".join(lines), encoding="utf-8")
    found = probe(files[0], "upos", [model], dev, measures=["linear"])
    assert {row.scored for row in found.rows} == {159}
    dev.write_text("1\t\u200b\t_\tX\t_\t_\t0\troot\t_\t_\n2\t\u200b\t_\tY\t_\t_\t1\tx\t_\t_\n\n", encoding="utf-8")
    with pytest.raises(InputError, match="no word of one of the files has tokens"):
        probe(files[0], "upos", [model], dev)


def test_results_are_valid_json_and_no_metric_is_nan(files: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    """Sentences of four words have no DSpr., which is a mean over lengths from 5."""
    short = "".join(f"{n}\tapple\t_\tNOUN\t_\t_\t{n - 1}\tx\t_\t_\n" for n in range(1, 5)) + "\n"
    dev, out = tmp_path / "dev.conllu", tmp_path / "out"
    dev.write_text(short * 2, encoding="utf-8")
    given = ["probe", str(files[0]), "--dev", str(dev), "--label", "head", "--model", str(model), "--out", str(out)]
    assert cli.main([*given, "--measures", "structural"]) == 0
    content = json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert {row["metric"] for row in content["rows"]} == {"UUAS", "root accuracy"}
    assert content["settings"]["dev"] == f"{dev}, 8 words"
    assert "8 units are scored, which is few: look at the intervals" in content["notes"]


def test_sentences_of_train_among_those_that_are_scored_are_counted(files: tuple[Path, Path], model: Path) -> None:
    found = probe(files[0], "upos", [model], files[0], measures=["linear"])
    assert "40 of 40 scored sentences are also in train" in found.notes


def test_no_file_of_something_else_is_replaced(
    files: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "metrics.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(20)))
    given = ["probe", str(tmp_path / "metrics.csv"), "--label", "label", "--model", str(model), "--measures", "linear"]
    before = (tmp_path / "metrics.csv").read_text()
    assert cli.main([*given, "--out", str(tmp_path)]) == 2
    assert "holds a metrics.csv of something else" in capsys.readouterr().err
    assert cli.main([*given, "--out", str(tmp_path / "out")]) == 0
    assert cli.main([*given, "--out", str(tmp_path / "out")]) == 0  # again
    (tmp_path / "other.csv").write_text(before.replace("label", "kind"))
    other = ["probe", str(tmp_path / "other.csv"), "--label", "kind", *given[4:], "--out", str(tmp_path / "out")]
    assert cli.main(other) == 2
    assert (
        f"holds the probes of label: give another folder, and --vectors {tmp_path / 'out'}/vectors"
        in capsys.readouterr().err
    )
    assert cli.main([*other[:-1], str(tmp_path / "two"), "--vectors", str(tmp_path / "out" / "vectors")]) == 0
    assert [file.name for file in sorted((tmp_path / "two").iterdir())] == [
        "metrics.csv",
        "metrics.json",
        "report.html",
    ]
    assert len([*(tmp_path / "out" / "vectors").glob("*.npy")]) == 2  # those that were there
    shutil.copy(tmp_path / "metrics.csv", tmp_path / "out" / "metrics.csv")
    given[1] = str(tmp_path / "out" / "metrics.csv")
    assert cli.main([*given, "--out", str(tmp_path / "out")]) == 2
    assert "would overwrite the input" in capsys.readouterr().err
    assert (tmp_path / "out" / "metrics.csv").read_text() == before
    assert cli.main([*given, "--out", ""]) == 2
    assert "--out is empty" in capsys.readouterr().err


def texts(folder: Path) -> Path:
    lines = [f"{sentence('apple', FRUIT if n % 2 else FIRM, n)}\t{n % 2}" for n in range(20)]
    (folder / "texts.tsv").write_text("text\tlabel\n" + "\n".join(lines), encoding="utf-8")
    return folder / "texts.tsv"


def test_what_cannot_be_asked_is_said(files: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    tagged = tmp_path / "a.conll"
    tagged.write_text("a X\nb Y\n\n" * 9, encoding="utf-8")
    both = tmp_path / "both.tsv"
    both.write_text("text\ttag\n" + "a dog\tX\na cat\tY\n" * 9, encoding="utf-8")
    train: Callable[..., ProbeResult] = probe
    for arguments, more, message in (
        ((files[0], "upos", []), {}, "there is no model"),
        ((files[0], "upos", [model, model]), {}, "is given twice"),
        ((files[0], "upos", [model]), {"seeds": 0}, "is 0: give 1 or more"),
        ((files[0], "upos", [model]), {"examples": [0]}, "has 0: give numbers from 1"),
        ((files[0], "upos", [model]), {"measures": []}, "is empty; must be of linear"),
        ((files[0], "head", [model]), {"measures": ["mdl"]}, "'mdl' is not one of trees"),
        ((files[0], "upos=NOUN", [model]), {}, "upos has no features: give the name of the column, or feats=NOUN"),
        ((files[0], "upos", [model]), {"measures": ["structural"]}, "one of trees: give the label head"),
        ((files[0], "head", [model]), {"examples": [3]}, "not used with the label head"),
        ((files[0], "upos", [bare]), {}, "bare: has no tokenizer"),
        ((files[0], "upos", [model]), {"text": "form"}, "has no column of texts"),
        ((tagged, "upos", [model]), {}, "is 'upos'; must be tag, the last column, or the number of a column"),
        ((tagged, "tag", [model], both), {}, "train has words, dev texts: give files of one kind"),
    ):
        with pytest.raises(InputError, match=message):
            train(*arguments, **more)
    found = probe(files[0], "upos", [model], folder=str(tmp_path / "kept"), measures=["linear"])
    assert found.settings["dev"].startswith("every fifth sentence of train")
    assert len([*(tmp_path / "kept").glob("*.npy")]) == 2
