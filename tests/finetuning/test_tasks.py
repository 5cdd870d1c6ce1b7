"""Tasks: what each reads, measures and says, against scikit-learn, SciPy, transformers and definitions; and no other file knows one."""

import ast
import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import scipy.stats
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error

import bert
from bert.cli import main
from bert.data.examples import Example
from bert.data.tagged import TaggedExample
from bert.errors import InputError
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluate import evaluate
from bert.finetuning.metrics import goodness, in_words, read
from bert.finetuning.predict import load_predictor
from bert.finetuning.tasks.index import TASKS, task_named, task_of
from bert.model import heads
from tests.conftest import run_quietly

from .synthetic import FAST, save_encoder, texts

PACKAGE = Path(bert.__file__).parent
CLASSIFY, MULTILABEL, REGRESSION, TAG = map(task_named, ("classify", "multilabel", "regression", "tag"))
LABELS = ("cold", "hot", "mild")
TAGS = ("B-WHO", "I-WHO", "O")


def measure(task, scores, labels, sizes=None, names=LABELS, examples=()):
    """The metrics of scores (N, C) and flat labels."""
    metrics = task.metrics(names, examples)
    task.update(metrics, scores, labels, sizes or [1] * len(scores))
    return read(metrics)


def of_ids(ids, classes=3):
    """Scores of which each row is the largest at an id."""
    return torch.nn.functional.one_hot(torch.tensor(ids), classes).float()


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ── metrics ──


@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_of_a_classifier_are_those_of_scikit_learn_over_all_updates(seed):
    scores, right = drawn(seed, 40, 3), drawn(seed + 9, 40, 3).argmax(-1)
    metrics = CLASSIFY.metrics(LABELS, [])
    for part in (slice(13), slice(13, None)):
        CLASSIFY.update(metrics, scores[part], right[part], [1])
    guessed = scores.argmax(-1)
    expected = {"accuracy": accuracy_score(right, guessed), "macro_f1": f1_score(right, guessed, average="macro")}
    expected["mcc"] = matthews_corrcoef(right, guessed)
    assert read(metrics) == pytest.approx(expected)
    CLASSIFY.update(metrics, of_ids(right.tolist()), right, [1])
    assert read(metrics) == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 1.0}  # what was read is counted no more


@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_of_several_labels_are_those_of_scikit_learn(seed):
    scores, right = drawn(seed, 40, 3), (drawn(seed + 9, 40, 3) > 0.5).long()
    guessed = (scores > 0).long()
    assert measure(MULTILABEL, scores, right.flatten()) == pytest.approx(
        {
            "micro_f1": f1_score(right, guessed, average="micro"),
            "macro_f1": f1_score(right, guessed, average="macro"),
            "exact_match": accuracy_score(right, guessed),  # of whole rows
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_of_numbers_are_those_of_scipy_and_scikit_learn_over_all_updates(seed):
    right = drawn(seed, 50).round(decimals=1)  # with ties
    scores = right[:, None] + drawn(seed + 9, 50, 1)
    metrics = REGRESSION.metrics(("value",), [])
    for part in (slice(13), slice(13, None)):
        REGRESSION.update(metrics, scores[part], right[part], [1])
    guessed = scores[:, 0].numpy()
    assert read(metrics) == pytest.approx(
        {
            "rmse": math.sqrt(mean_squared_error(right, guessed)),
            "pearson": scipy.stats.pearsonr(right, guessed)[0],
            "spearman": scipy.stats.spearmanr(right, guessed)[0],
        },
        abs=1e-5,
    )


def test_the_correlation_of_a_constant_is_0_and_says_nothing(recwarn):
    found = measure(REGRESSION, torch.full((4, 1), 2.0), torch.tensor([1.0, 2.0, 3.0, 2.0]))
    assert found == {"rmse": pytest.approx(math.sqrt(0.5)), "pearson": 0.0, "spearman": 0.0}
    assert not [warning for warning in recwarn if "variance" in str(warning.message)]


def test_accuracy_of_tags_counts_words_and_not_sentences():
    words = ("NOUN", "VERB")
    found = measure(TAG, of_ids([0, 1, 1, 1], 2), torch.tensor([1, 1, 1, 1]), [1, 3], words)
    assert found == {"accuracy": 0.75}


def test_tags_of_spans_are_led_by_the_span_f1():
    right = [TaggedExample(("a", "b", "c"), ("B-WHO", "I-WHO", "B-WHO"))]
    found = measure(TAG, of_ids([0, 2, 0]), torch.tensor([0, 1, 0]), [3], TAGS, right)
    assert found == {"span_f1": 0.5, "strict_span_f1": 0.5, "accuracy": pytest.approx(2 / 3)}


def test_a_span_ends_with_its_sentence():
    """Two sentences of a word each are not a span of two words."""
    ids = torch.tensor([0, 1])
    assert measure(TAG, of_ids([0, 1]), ids, [1, 1], TAGS)["strict_span_f1"] == 1.0
    assert measure(TAG, of_ids([0, 0]), ids, [1, 1], TAGS)["span_f1"] == 1.0  # conlleval: I begins a span as B does
    assert measure(TAG, of_ids([0, 0]), ids, [2], TAGS)["span_f1"] == 0.0


def test_metrics_are_said_in_their_format_and_compared_in_their_direction():
    assert in_words({"span_f1": 0.5, "strict_span_f1": 0.456, "accuracy": 1.0}, TAG.scales) == (
        "span F1 50.0%, strict span F1 45.6%, accuracy 100.0%"
    )
    numbers = {"rmse": 1234.5678, "pearson": 0.87654, "spearman": -0.5}
    assert in_words(numbers, REGRESSION.scales) == "RMSE 1,234.568, Pearson 0.877, Spearman -0.500"
    assert REGRESSION.scales["rmse"].difference(-0.25) == "-0.250"
    assert CLASSIFY.scales["accuracy"].difference(-0.0125) == "-1.2"
    better = {"rmse": 0.5, "pearson": 0.1, "spearman": 0.1}
    assert goodness(better, REGRESSION.scales) > goodness(numbers, REGRESSION.scales)
    assert goodness({"accuracy": 0.5, "macro_f1": 0.2}, CLASSIFY.scales) > goodness(
        {"accuracy": 0.5, "macro_f1": 0.1}, CLASSIFY.scales
    )


@pytest.mark.parametrize("name", TASKS)
def test_every_metric_has_a_scale_and_the_first_is_the_headline(name):
    task = task_named(name)
    metrics = task.metrics(TAGS, [TaggedExample((), TAGS)])
    assert list(metrics) == list(task.scales)


# ── what anybody gets without a model ──


def labelled(labels):
    return [Example("", None, label) for label in labels]


def test_without_a_model_a_text_gets_the_most_frequent_label_of_what_was_learned():
    learned, asked = labelled(["hot", "hot", "cold"]), labelled(["hot", "cold", "cold", "mild"])
    assert CLASSIFY.without_model(learned, asked, LABELS)["accuracy"] == 0.25


def test_of_equally_frequent_labels_the_first_in_the_alphabet_is_guessed_whatever_the_order():
    for order in (["hot", "cold"], ["cold", "hot"]):
        assert CLASSIFY.without_model(labelled(order), labelled(["cold"]), LABELS)["accuracy"] == 1.0


def test_without_a_model_a_text_gets_the_labels_that_half_of_all_have_or_else_the_most_frequent():
    learned = labelled([("hot", "mild"), ("hot", "mild"), ("hot",), ()])
    assert MULTILABEL.without_model(learned, labelled([("hot", "mild"), ()]), LABELS)["exact_match"] == 0.5
    rare = labelled([("hot",), ("hot",), ("cold",), (), ()])
    assert MULTILABEL.without_model(rare, labelled([("hot",)]), LABELS) == {
        "micro_f1": 1.0,
        "macro_f1": pytest.approx(1 / 3),
        "exact_match": 1.0,
    }


def test_without_a_model_a_text_gets_the_mean_of_the_numbers():
    found = REGRESSION.without_model(labelled([1.0, 2.0, 6.0]), labelled([3.0, 5.0]), ("value",))
    assert found == {"rmse": pytest.approx(math.sqrt(2)), "pearson": 0.0, "spearman": 0.0}


def test_without_a_model_a_word_gets_its_most_frequent_tag_and_an_unknown_one_that_of_all():
    learned = [
        TaggedExample(("bank", "banks", "bank"), ("NOUN", "VERB", "NOUN")),
        TaggedExample(("bank", "near"), ("VERB", "VERB")),
        TaggedExample((), ()),
    ]
    asked = [TaggedExample(("bank", "near", "new"), ("NOUN", "VERB", "VERB")), TaggedExample(("banks",), ("NOUN",))]
    assert TAG.without_model(learned, asked, ("NOUN", "VERB")) == {"accuracy": 0.75}


# ── what is read ──

SEVERAL = [("a b", ("hot", "cold")), ("c", ()), ("d", ("mild",))]
FORMS = {
    "list.jsonl": (
        "".join(json.dumps({"text": text, "labels": names}) + "\n" for text, names in SEVERAL),
        {},
    ),
    "cell.tsv": ("text\tlabels\na b\thot|cold\nc\t\nd\tmild\n", {}),
    "blanks.csv": ("text,label\na b,hot ; cold;\nc,\nd,mild\n", {"separator": ";"}),
    "columns.csv": ("text,hot,cold,mild\na b,1,1,0\nc,0,0,0\nd,0,0,1\n", {"label_columns": ["hot", "cold", "mild"]}),
    "columns.jsonl": (
        '{"text": "a b", "hot": true, "cold": 1, "mild": 0}\n{"text": "c", "hot": 0, "cold": 0, "mild": false}\n'
        '{"text": "d", "hot": 0.0, "cold": 0, "mild": 1.0}\n',
        {"label_columns": ["hot", "cold", "mild"]},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_several_labels_stand_in_a_list_in_a_cell_or_in_columns(name, tmp_path):
    content, options = FORMS[name]
    (tmp_path / name).write_text(content)
    found = list(MULTILABEL.read(str(tmp_path / name), DataConfig(**options)))
    assert [(example.text, example.label) for example in found] == SEVERAL
    assert [MULTILABEL.numbers(example, {"cold": 0, "hot": 1, "mild": 2}) for example in found] == [
        (1, 1, 0),
        (0, 0, 0),
        (0, 0, 1),
    ]
    unlabelled = list(MULTILABEL.read(str(tmp_path / name), DataConfig(), labeled=False))
    assert [example.text for example in unlabelled] == [text for text, _ in SEVERAL]


@pytest.mark.parametrize(
    ("task", "name", "content", "options", "message"),
    [
        ("multilabel", "a.csv", "text,x,y\na,1,0\nb,1,2\n", {"label_columns": ["x", "y"]}, "line 3: column 'y' holds '2'; write 1"),
        ("multilabel", "a.csv", "text,x,y\na,1,\n", {"label_columns": ["x", "y"]}, "line 2: column 'y' holds ''; write 1 where"),
        ("multilabel", "a.csv", "text,x,y\na,1,1\n", {"label_columns": ["x", "z"]}, "line 2: no column 'z'; there are: text, x"),
        ("multilabel", "a.jsonl", '{"text": "a", "labels": [["x"]]}\n', {}, "line 1: column 'labels' holds a list, not a label"),
        ("regression", "a.csv", "text,score\na,1\nb,high\n", {}, "line 3: column 'score' holds 'high', not a finite number"),
        ("regression", "a.csv", "text,score\na,nan\n", {}, "line 2: column 'score' holds 'nan', not a finite number; fix"),
        ("regression", "a.csv", "text,score\na,\n", {}, "line 2: column 'score' holds '', not a finite number"),
        ("regression", "a.jsonl", '{"text": "a", "score": true}\n', {}, "line 1: column 'score' holds True, not a finite"),
        ("regression", "a.jsonl", '{"text": "a", "score": 1e999}\n', {}, "line 1: column 'score' holds inf, not a finite"),
        ("regression", "a.jsonl", f'{{"text": "a", "score": 1{"0" * 400}}}\n', {}, "line 1: column 'score' holds 1000"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_said_with_its_line(task, name, content, options, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        list(task_named(task).read(str(tmp_path / name), DataConfig(**options)))
    assert str(caught.value).startswith(f"{tmp_path / name}, {message}")


def test_numbers_are_read_as_they_are_written(tmp_path):
    (tmp_path / "a.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t3.8\nc\td\t-1e2\n")
    read = list(REGRESSION.read(str(tmp_path / "a.tsv"), DataConfig()))
    assert [(one.text, one.pair, one.label) for one in read] == [("a", "b", 3.8), ("c", "d", -100.0)]


# ── whole runs ──


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A folder with an encoder, files and finished runs of the two tasks that have names and numbers of their own."""
    folder = tmp_path_factory.mktemp("tasks")
    encoder = save_encoder(tiny_run, folder / "encoder")
    for name, count, seed in (("train", 200, 1), ("dev", 40, 2)):
        rows = [(text, several(text), value(text)) for text, _ in texts(count, seed)]
        lines = (json.dumps({"text": text, "labels": labels, "score": score}) for text, labels, score in rows)
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    files = ["--train", str(folder / "train.jsonl"), "--dev", str(folder / "dev.jsonl")]
    for task in ("multilabel", "regression"):
        flags = [*FAST, "--epochs=12", "--data.batch_size=8", "--out", str(folder / task)]
        run_quietly(["finetune", task, "--model", encoder, *files, *flags])
    return folder


def several(text):
    """All, some or none of three labels, each of which follows from a word."""
    return [label for label, word in (("day", "morning"), ("cat", "cat"), ("dark", "night")) if word in text]


def value(text):
    return 2.5 + 1.5 * ("morning" in text) - 2 * ("night" in text)


def log_of(run, column):
    with (run / "metrics.csv").open(newline="") as stream:
        return [float(row[column]) for row in csv.DictReader(stream) if row[column]]


@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_the_folder_tells_the_task(place, name):
    model = place / name / "model"
    keys = json.loads((model / "config.json").read_text())
    assert task_of(model) is task_named(name)
    assert keys["problem_type"] == task_named(name).problem_type
    assert keys["id2label"] == ({"0": "value"} if name == "regression" else {"0": "cat", "1": "dark", "2": "day"})


def test_several_labels_and_a_number_are_learned(place):
    assert max(log_of(place / "multilabel", "dev_exact_match")) > 0.9
    errors = log_of(place / "regression", "dev_rmse")
    assert min(errors) < 0.3
    found = evaluate(place / "regression" / "model", str(place / "dev.jsonl"), DataConfig())
    assert found.metrics["rmse"] == pytest.approx(min(errors), abs=1e-4)  # the best is the smallest
    assert found.baseline["rmse"] > 0.5
    assert found.metrics["pearson"] > 0.95


@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_what_is_predicted_is_what_the_pipeline_of_transformers_says(place, name):
    transformers = pytest.importorskip("transformers")
    folder = place / name / "model"
    function = "none" if name == "regression" else "sigmoid"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.problem_type == task_named(name).problem_type
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    short = [text for text, _ in texts(12, 5)]
    theirs = pipeline(short, top_k=None, function_to_apply=function)
    for expected, (_, found) in zip(theirs, load_predictor(folder, bf16=False)(labelled_texts(short)), strict=True):
        ours = {"value": found.value} if name == "regression" else found.probabilities
        assert ours == pytest.approx({one["label"]: one["score"] for one in expected}, abs=1e-5)


def labelled_texts(texts):
    return [Example(text) for text in texts]


@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_the_loss_of_a_model_with_labels_is_that_of_transformers(place, name):
    transformers = pytest.importorskip("transformers")
    folder = place / name / "model"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ours = heads.SequenceClassifier.load(folder)
    ids = torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(0))
    labels = drawn(0, 4) if name == "regression" else (drawn(0, 4, 3) > 0).float()
    mask = torch.ones_like(ids)
    with torch.no_grad():
        expected = theirs(ids, mask, labels=labels).loss
        assert ours(ids, mask, labels=labels).loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_predictions_are_a_table_with_a_row_a_text(place, tmp_path):
    (tmp_path / "texts.txt").write_text("the cat sleeps at night\n\nthe dog sleeps\n")
    for name in ("multilabel", "regression"):
        command = ["predict", str(place / name / "model"), str(tmp_path / "texts.txt")]
        assert main([*command, "--out", str(tmp_path / f"{name}.tsv")]) == 0
    rows = [line.split("\t") for line in (tmp_path / "multilabel.tsv").read_text().splitlines()]
    assert rows[0] == ["labels", "cat", "dark", "day"]
    assert len(rows) == 4
    for chosen, *shares in rows[1:]:
        right = [label for label, share in zip(rows[0][1:], map(float, shares), strict=True) if share >= 0.5]
        assert chosen == "|".join(right)
    values = (tmp_path / "regression.tsv").read_text().splitlines()
    assert values[0] == "value"
    assert len([float(line) for line in values[1:]]) == 3


def test_evaluations_cards_and_messages_have_the_format_of_the_metrics(place, capsys):
    assert main(["evaluate", str(place / "regression" / "model"), str(place / "dev.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "40 examples"
    assert [line.split()[0] for line in lines[2:]] == ["RMSE", "Pearson", "Spearman"]
    assert "%" not in "".join(lines[2:])
    card = (place / "regression" / "model" / "README.md").read_text()
    assert re.search(r"on dev\.jsonl, 40 examples: RMSE \d\.\d{3}, Pearson [01]\.\d{3}, Spearman", card)
    assert "pipeline_tag: text-classification" in card
    assert main(["evaluate", str(place / "multilabel" / "model"), str(place / "dev.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:5]] == ["micro F1", "macro F1", "exact match"]
    assert [line.split()[0] for line in lines[-3:]] == ["cat", "dark", "day"]


def test_numbers_that_are_all_alike_and_labels_that_are_not_there_are_refused(place, tmp_path, capsys):
    (tmp_path / "same.tsv").write_text("text\tscore\tlabels\n" + "the cat\t1.5\t\nthe dog\t1.5\t\n" * 9)
    for name, found in (("regression", "only one score, 1.5"), ("multilabel", "no label")):
        flags = [
            "--model",
            str(place / "encoder"),
            "--train",
            str(tmp_path / "same.tsv"),
            "--out",
            str(tmp_path / "run"),
        ]
        assert main(["finetune", name, *flags]) == 2
        assert f"same.tsv: {found}: give examples of two or more" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multilabel", "regression"])
def test_two_processes_learn_and_measure_as_one_does(place, tmp_path, name):
    """13 examples a step of 40: the shares of the processes are unequal, and the last batch has none for one of them."""
    files = ["--train", str(place / "dev.jsonl"), "--dev", str(place / "dev.jsonl"), "--model", str(place / "encoder")]
    logs = []
    for devices in (1, 2):
        run = tmp_path / str(devices)
        flags = [*FAST, f"--trainer.devices={devices}", "--data.batch_size=13", "--epochs=2", "--head.dropout=0"]
        command = [sys.executable, "-m", "bert", "finetune", name, *files, "--out", str(run), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        logs.append(
            {column: log_of(run, column) for column in ("loss", *(f"dev_{m}" for m in task_named(name).scales))}
        )
    for column, values in logs[0].items():
        assert logs[1][column] == pytest.approx(values, abs=2e-3), column


# ── one place each ──


def test_every_task_is_named_once_and_its_file_is_there():
    files = {path.stem for path in (PACKAGE / "finetuning" / "tasks").glob("*.py")}
    assert files == {*TASKS, "__init__", "index", "task"}
    assert [task_named(name).name for name in TASKS] == list(TASKS)
    keys = {(task_named(name).model, task_named(name).problem_type) for name in TASKS}
    assert len(keys) == len(TASKS)  # by which a folder tells its task


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(InputError, match=r"task is 'regresion': give one of .*Did you mean `regression`\?"):
        task_named("regresion")


def test_the_help_lists_the_tasks(capsys):
    assert main(["finetune", "--help"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}: {what}" in output for name, what in TASKS.items())


HEADS = {task_named(name).model.__name__ for name in TASKS}


def knows_a_task(source: str) -> list[str]:
    """The comparisons of a file with the name of a task, and its `isinstance` on a model with a head."""
    found = []
    for node in ast.walk(ast.parse(source)):
        inner = list(ast.walk(node))
        if isinstance(node, ast.Compare | ast.MatchValue):
            named = [part.value for part in inner if isinstance(part, ast.Constant) and part.value in TASKS]
            found += [f"line {node.lineno}: compares with {name!r}" for name in named if isinstance(name, str)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            named = {getattr(part, "id", getattr(part, "attr", "")) for part in inner} & HEADS
            found += [f"line {node.lineno}: isinstance on {name}" for name in sorted(named)]
    return found


def test_no_file_outside_of_tasks_compares_with_a_task_or_asks_for_a_head():
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "tasks" and (lines := knows_a_task(path.read_text(encoding="utf-8")))
    }
    assert found == {}
    for source in (
        'x == "tag"',
        'x in ("classify", "y")',
        "isinstance(m, heads.TokenClassifier)",
        "isinstance(m, (A, SequenceClassifier))",
    ):
        assert knows_a_task(source)
    assert knows_a_task('match x:\n    case "tag":\n        pass')
    assert not knows_a_task('tasks = {"tag": 1}\nx == "tags"\nisinstance(m, Encoder)')
