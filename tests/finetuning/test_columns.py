"""The columns of training: a model folder has them, and whoever reads labeled rows with it takes the same or says what differs."""

import json
import shutil
from dataclasses import replace

import pytest

from bert.cli import main
from bert.data.columns import Columns
from bert.errors import InputError
from bert.finetuning.config import DataConfig, WindowsConfig
from bert.finetuning.evaluate import evaluate
from bert.finetuning.predict import load_predictor
from bert.finetuning.windows import Settings
from tests.conftest import run_quietly

from .synthetic import FAST, save_encoder, sentences, texts


def write_rows(file, header, rows):
    file.write_text("".join("\t".join(row) + "\n" for row in [header, *rows]), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """Models of single texts (of a column `body` beside one that tells nothing), of pairs, of 0 and 1, and of words."""
    folder = tmp_path_factory.mktemp("columns")
    rows = [("the cat", text, label) for text, label in texts(60, 1)]
    words = [{"id": "x", "form": w, "kind": t, "tags": ["O"] * len(t)} for w, t in sentences(40, 1)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words))
    zeros = [(text, str(int(label == "late")), str(int(label == "early"))) for _, text, label in rows]
    files = {
        "single": (write_rows(folder / "single.tsv", ("text", "body", "label"), rows), ["classify", "--text", "body"]),
        "pairs": (write_rows(folder / "pairs.tsv", ("premise", "hypothesis", "label"), rows), ["classify"]),
        "zeros": (
            write_rows(folder / "zeros.tsv", ("text", "late", "early"), zeros),
            ["multilabel", "--label-columns", "late", "early"],
        ),
        "words": (str(folder / "words.jsonl"), ["tag", "--words", "form", "--tags", "kind"]),
    }
    model = save_encoder(tiny_run, folder / "encoder")
    for name, (file, flags) in files.items():
        command = ["finetune", *flags, "--model", model, "--train", file, "--dev", file, "--out", str(folder / name)]
        run_quietly([*command, *FAST, "--data.batch_size=8", "--epochs=12" if name == "single" else "--epochs=1"])
    return folder


def models(place):
    return {name: place / name / "model" for name in ("single", "pairs", "zeros", "words")}


def test_a_folder_has_the_columns_of_training(place):
    found = {name: load_predictor(folder).columns for name, folder in models(place).items()}
    assert found == {
        "single": Columns("body", None, "label"),
        "pairs": Columns("premise", "hypothesis", "label"),
        "zeros": Columns("text", label_columns=["late", "early"]),
        "words": Columns(words="form", tags="kind"),
    }


def test_evaluation_and_prediction_take_the_columns_of_training_and_flags_win(place, capsys):
    model, file = str(place / "single" / "model"), str(place / "single.tsv")
    outputs = []
    for flags in ([], ["--text", "body"], ["--text", "text"]):
        assert main(["evaluate", model, file, *flags]) == 0
        outputs.append(capsys.readouterr())
    assert outputs[0] == outputs[1]
    assert outputs[0].err == ""
    accuracies = [float(output.out.split("accuracy")[1].split("%")[0]) for output in outputs]
    assert accuracies[0] > accuracies[2]  # the column `text` tells nothing
    for name, suffix in (("zeros", "tsv"), ("words", "jsonl")):
        assert main(["evaluate", str(place / name / "model"), str(place / f"{name}.{suffix}")]) == 0
        assert main(["predict", str(place / name / "model"), str(place / f"{name}.{suffix}")]) == 0
    assert capsys.readouterr().err == ""


def test_other_columns_than_in_training_are_told(place, tmp_path, said):
    file = write_rows(tmp_path / "a.tsv", ("sentence", "topic"), [("the cat", "late")])
    predictor = load_predictor(place / "single" / "model")
    assert [example.text for example in predictor.read(file, DataConfig())] == ["the cat"]
    assert [line.removeprefix(f"{file}, line 1: ") for line in said] == [
        "no column 'body', the text in training; reading 'sentence'",
        "no column 'label', the label in training; reading 'topic'",
    ]
    said.clear()
    assert list(predictor.read(file, DataConfig(text="sentence"), labeled=False))
    assert said == []  # what was asked for, and a label that nobody needs


def test_single_texts_and_pairs_are_not_taken_for_each_other(place, tmp_path, capsys):
    single = write_rows(tmp_path / "single.tsv", ("premise", "label"), [("the cat", "late")])
    (tmp_path / "plain.txt").write_text("the cat\n")
    pairs = write_rows(tmp_path / "pairs.tsv", ("body", "text2", "label"), [("the cat", "the dog", "late")])
    by_name = write_rows(tmp_path / "usual.tsv", ("sentence1", "sentence2", "label"), [("the cat", "the dog", "late")])
    missing = "no second text, and training had pairs ('premise' and 'hypothesis'); give a file with a column for it"
    surplus = "is a second text, and training had single texts ('body'); remove this column"
    for command in ("predict", "evaluate"):
        for name, file, flags, message in (
            ("pairs", single, [], missing),
            ("single", pairs, ["--pair", "text2"], surplus),
            ("single", by_name, [], surplus),
        ):
            assert main([command, str(place / name / "model"), file, *flags]) == 2
            output = capsys.readouterr()
            assert message in output.err
            assert output.out == ""
    assert main(["predict", str(place / "pairs" / "model"), str(tmp_path / "plain.txt")]) == 2
    assert capsys.readouterr().err.startswith(f"bert: {tmp_path}/plain.txt: {missing}")
    assert main(["predict", str(place / "single" / "model"), str(tmp_path / "plain.txt")]) == 0


def test_a_dev_set_has_the_columns_of_the_training_file(place, tmp_path, capsys):
    command = ["finetune", "classify", "--model", str(place / "encoder"), "--out", str(tmp_path / "run"), *FAST]
    files = ["--train", str(place / "pairs.tsv"), "--dev", str(place / "single.tsv")]
    assert main([*command, *files]) == 2
    assert "no second text, and training had pairs" in capsys.readouterr().err


def test_numbers_of_columns_are_those_of_conll_files_alone(place, tmp_path):
    rows = sentences(3, 1)
    text = "".join("".join(f"1\t{w}\t{t}\tx\n" for w, t in zip(*row)) + "\n" for row in rows)
    (tmp_path / "a.conll").write_text(text)
    (tmp_path / "a.jsonl").write_text(json.dumps({"tokens": rows[0][0], "tags": rows[0][1]}) + "\n")
    predictor = load_predictor(place / "words" / "model")
    for learned, given in (
        (Columns(words="2", tags="3"), {}),
        (Columns(words="form", tags="kind"), {"words": "2", "tags": "3"}),
    ):
        found = list(predictor.task.read(str(tmp_path / "a.conll"), DataConfig(**given), learned=learned))
        assert [(list(one.words), list(one.tags)) for one in found] == rows
        (one,) = predictor.task.read(str(tmp_path / "a.jsonl"), DataConfig(), learned=learned)
        assert (list(one.words), list(one.tags)) == rows[0]


def test_other_names_of_words_and_tags_are_told(place, tmp_path, said):
    (tmp_path / "a.jsonl").write_text('{"tokens": ["Ann"], "tags": ["O"]}\n')
    (tmp_path / "a.conllu").write_text("1\tAnn\t_\tO\t_\t_\t_\t_\t_\t_\n")
    predictor = load_predictor(place / "words" / "model")
    for name, words, tags in (("a.jsonl", "tokens", "tags"), ("a.conllu", None, "upos")):
        said.clear()
        assert len(list(predictor.read(str(tmp_path / name), DataConfig()))) == 1
        told = (
            [f"no column 'form', which training had; reading {words!r}"] if words else []
        )  # CoNLL-U has a column `form`
        told += [f"no column 'kind', which training had; reading {tags!r}"]
        assert said == [f"{tmp_path / name}: {line}" for line in told]
    said.clear()
    assert len(list(predictor.read(str(tmp_path / "a.jsonl"), DataConfig(words="tokens", tags="tags")))) == 1
    assert said == []


def test_prediction_needs_no_column_of_the_labels(place, tmp_path, said):
    """Not even that of training."""
    (tmp_path / "a.conll").write_text("1\tAnn\n2\tleft\n")
    predictor = replace(load_predictor(place / "words" / "model"), columns=Columns(words="2", tags="3"))
    (one,) = predictor.read(str(tmp_path / "a.conll"), DataConfig(), labeled=False)
    assert one.words == ("Ann", "left")
    with pytest.raises(InputError, match="line 1: no column 3 for 'tags'; there are 2"):
        list(predictor.read(str(tmp_path / "a.conll"), DataConfig()))
    (tmp_path / "a.csv").write_text("body,topic\nthe cat,x\n")
    assert list(load_predictor(place / "single" / "model").read(str(tmp_path / "a.csv"), DataConfig(), labeled=False))
    assert said == []


def test_a_column_of_labels_beside_columns_of_0_and_1_is_refused(place, capsys):
    model, file = str(place / "zeros" / "model"), str(place / "zeros.tsv")
    assert main(["evaluate", model, file, "--label", "late", "--label-columns", "late", "early"]) == 2
    assert capsys.readouterr().err == "bert: --label and --label-columns are both given; remove one\n"


def test_texts_may_be_in_a_column_with_a_usual_name_of_labels(place, tmp_path, capsys):
    model, rows = str(place / "single" / "model"), [("the cat", "late"), ("the dog", "early")]
    file = write_rows(tmp_path / "topics.tsv", ("topic", "category"), rows)
    for command in (["predict", model, file, "--out", str(tmp_path / "out.tsv")], ["evaluate", model, file]):
        assert main([*command, "--text", "topic"]) == 0
    alone = write_rows(tmp_path / "alone.tsv", ("label",), [("the cat",)])
    assert main(["predict", model, alone, "--text", "label", "--out", str(tmp_path / "out.tsv")]) == 0
    assert main(["evaluate", model, alone, "--text", "label"]) == 2
    assert "no column is known as the label" in capsys.readouterr().err


def test_a_folder_without_columns_reads_any(place, tmp_path):
    shutil.copytree(place / "pairs" / "model", tmp_path / "model")
    (tmp_path / "model" / "windows.json").unlink()
    assert load_predictor(tmp_path / "model").columns == Columns()
    assert evaluate(tmp_path / "model", str(place / "single.tsv"), DataConfig()).size == "60 examples"


@pytest.mark.parametrize(
    "columns",
    [
        '{"text": 1}',
        '{"text": ["a"]}',
        '{"other": "a"}',
        '{"label_columns": [1]}',
        '{"label_columns": 1}',
        '{"tags": "' + "x" * 10_001 + '"}',
        '"text"',
    ],
)
def test_columns_that_are_no_names_are_refused(place, tmp_path, columns):
    shutil.copytree(place / "single" / "model", tmp_path / "model")
    (tmp_path / "model" / "windows.json").write_text(f'{{"columns": {columns}}}')
    with pytest.raises(InputError, match=r"windows\.json: cannot be read"):
        load_predictor(tmp_path / "model")


def test_what_is_written_is_read():
    for columns in (Columns(), Columns("a", "b", None, ["c"]), Columns(words="-1", tags="2")):
        settings = Settings(WindowsConfig(64, 20), columns, {"scheme": "IOB1"})
        assert Settings.read(json.loads(json.dumps(settings.written()))) == settings


def test_swapped_arguments_are_told(place, capsys):
    assert main(["evaluate", str(place / "single.tsv"), str(place / "single" / "model")]) == 2
    assert capsys.readouterr().err == (
        f"bert: {place}/single.tsv: is a file: give the folder of a model, the one that holds config.json\n"
    )


@pytest.mark.parametrize("bad", ["a\tb", "a\nb"])
def test_a_label_that_breaks_a_line_of_predictions_is_refused(place, tmp_path, capsys, bad):
    shutil.copytree(place / "single" / "model", tmp_path / "model")
    keys = json.loads((tmp_path / "model" / "config.json").read_text())
    keys["id2label"]["0"] = bad
    keys["label2id"] = {label: int(number) for number, label in keys["id2label"].items()}
    (tmp_path / "model" / "config.json").write_text(json.dumps(keys))
    assert main(["predict", str(tmp_path / "model"), str(place / "single.tsv")]) == 2
    assert (
        f"config.json: id2label names {bad!r}: a tab or a line end cannot be part of a label" in capsys.readouterr().err
    )
