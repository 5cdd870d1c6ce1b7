"""The temperature of a run, seen from outside: it is in the weights once, whatever opens the model, trains it further or killed the run."""

import json
import random
import shutil
import signal

import pytest
import torch
import transformers
from safetensors.torch import load_file

from bert.cli import main
from bert.finetuning import run as run_module
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluation.scored import score
from bert.finetuning.predict import load_predictor
from bert.finetuning.tasks.multilabel import TASK as MULTILABEL
from tests import warm
from tests.conftest import run_quietly

from .synthetic import FAST, save_encoder, sentences, texts, write_tagged, write_texts
from .test_resume import PROGRAM, report_of

TASKS = ("classify", "pairs", "multilabel", "tag", "regression")
FLAGS = [*FAST, "--data.batch_size=8", "--optimizer.lr=5e-3", "--epochs=6"]
BF16 = "bert.inference.batching.cpu_multiplies_bf16"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A folder with an encoder and, for each task, a finished run `run`, and its model before calibration, `raw`."""
    folder = tmp_path_factory.mktemp("calibrated")
    save_encoder(tiny_run, folder / "encoder")
    finish = run_module.finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BF16, lambda: True)
        for task in TASKS:
            (folder / task).mkdir()
            for seed, (name, count) in enumerate((("train", 120), ("dev", 90), ("test", 40))):
                write_rows(file_of(folder, task, name), task, count, seed)
            patch.setattr(run_module, "finish", keeping_raw(finish, folder / task / "raw"))
            run_quietly(arguments(folder, task, folder / task / "run"))
    return folder


@pytest.fixture(autouse=True)
def _in_bfloat16(monkeypatch):
    """Predictions are computed in bfloat16 on every machine, as in the runs of `place`."""
    monkeypatch.setattr(BF16, lambda: True)


def file_of(place, task, name):
    return place / task / f"{name}.{'conll' if task == 'tag' else 'tsv'}"


def write_rows(file, task, count, seed):
    """Rows to learn from, and others of which half have labels by chance: a model is too sure. Two in five labels of several are missing
    in those to learn from: their probabilities are too low."""
    draw, is_train = random.Random(seed), file.stem == "train"

    def noisy(label, others):
        return label if is_train or draw.random() < 1 / 2 else draw.choice(others)

    rows = [(text, noisy(label, ["early", "late", "other"])) for text, label in texts(count, seed)]
    if task == "tag":
        tagged = [(words, [noisy(tag, ["B-WHO", "B-WHAT"]) for tag in tags]) for words, tags in sentences(count, seed)]
        write_tagged(file, tagged)
    elif task == "pairs":
        lines = [f"{text}\t{draw.choice(rows)[0]}\t{label}\n" for text, label in rows]
        file.write_text("sentence1\tsentence2\tlabel\n" + "".join(lines), encoding="utf-8")
    elif task == "multilabel":
        write_texts(file, [(text, "" if is_train and draw.random() < 0.4 else label) for text, label in rows])
    else:
        write_texts(file, [(text, str(len(text)) if task == "regression" else label) for text, label in rows])


def keeping_raw(finish, raw):
    def keeping(out, *rest):
        shutil.copytree(out / "model", raw)
        finish(out, *rest)

    return keeping


def arguments(place, task, out, *extra):
    files = [part for name in ("train", "dev", "test") for part in (f"--{name}", str(file_of(place, task, name)))]
    flags = ["--model", str(place / "encoder"), *files, *FLAGS, *extra, "--out", str(out)]
    return ["finetune", "classify" if task == "pairs" else task, *flags]


def settings_of(model):
    return json.loads((model / "windows.json").read_text())


def theirs(model, task, examples):
    """The logits (N, C) that transformers computes in fp32, of the first token of each word in a tagger."""
    cls = getattr(transformers, f"AutoModelFor{'Token' if task == 'tag' else 'Sequence'}Classification")
    tokenizer, opened = transformers.AutoTokenizer.from_pretrained(model), cls.from_pretrained(model).eval()
    found = []
    for one in examples:
        text = [[*one.words]] if task == "tag" else [one.text] if one.pair is None else [one.text, one.pair]
        given = tokenizer(*text, is_split_into_words=task == "tag", return_tensors="pt")
        with torch.no_grad():
            logits = opened(**given).logits[0]
        words = given.word_ids(0)
        starts = [i for i, word in enumerate(words) if word is not None and words[i - 1] != word]
        found.append(logits[starts] if task == "tag" else logits[None])
    return torch.cat(found)


@pytest.mark.parametrize("task", TASKS)
def test_an_export_gives_the_logits_of_training_divided_by_the_temperature_once(place, task, tmp_path):
    run, hf = place / task / "run", tmp_path / "hf"
    assert main(["export", str(run / "model"), "--to", "hf", "--out", str(hf)]) == 0
    predictor, temperature = load_predictor(run / "model", bf16=False), settings_of(run / "model")["temperature"]
    assert (abs(temperature - 1) > 0.02) == (task != "regression")
    assert settings_of(place / task / "raw")["temperature"] is None
    predictor.model.save(tmp_path / "again")
    assert settings_of(hf) == settings_of(tmp_path / "again") == settings_of(run / "model")
    examples = list(predictor.read(str(file_of(place, task, "test")), DataConfig()))
    expected = theirs(place / task / "raw", task, examples) / temperature
    assert torch.allclose(theirs(hf, task, examples), expected, atol=1e-5)
    ours = torch.cat([scores for _, scores in predictor.scores(examples)])
    assert torch.allclose(predictor.task.probabilities(ours), predictor.task.probabilities(expected), atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_the_report_of_a_run_is_that_of_the_model_that_it_leaves(place, task, tmp_path):
    """To the last digit, also where bfloat16 rounds the divided weights differently."""
    run, file, out = place / task / "run", file_of(place, task, "test"), tmp_path / "out"
    assert main(["evaluate", str(run / "model"), str(file), "--report", str(out)]) == 0
    assert (out / "predictions.jsonl").read_text() == (run / "report" / "predictions.jsonl").read_text()
    measured = [json.loads((one / "metrics.json").read_text()) for one in (out, run / "report")]
    assert measured[0]["metrics"] == measured[1]["metrics"]
    assert measured[0]["calibration"] == measured[1]["calibration"]


def test_exported_thresholds_are_those_of_calibrated_probabilities(place, tmp_path):
    run, hf = place / "multilabel" / "run", tmp_path / "hf"
    assert main(["export", str(run / "model"), "--to", "hf", "--out", str(hf)]) == 0
    tables, predictor = json.loads((hf / "transitions.json").read_text()), load_predictor(run / "model", bf16=False)
    for name in ("dev", "test"):
        found = score(predictor, predictor.read(str(file_of(place, "multilabel", name)), DataConfig()))
        logits = theirs(hf, "multilabel", found.examples)
        assert torch.equal(logits.sigmoid() >= torch.tensor(tables["thresholds"]), found.decided.bool())
        if name == "dev":  # to which they were fitted, in the precision of a run
            usual = load_predictor(run / "model")
            fitted = score(usual, usual.read(str(file_of(place, "multilabel", name)), DataConfig()))
            expected = MULTILABEL.tuned(fitted.scores, fitted.right).thresholds
            assert tables["thresholds"] == pytest.approx(expected, abs=1e-3)
    assert tables["labels"] == [*found.labels]


@pytest.mark.parametrize("task", TASKS)
def test_training_further_begins_with_the_calibrated_layer_and_fits_again(place, task, tmp_path):
    """A learning rate of almost 0: only the calibration changes the output layer, by what windows.json says."""
    before, run = place / task / "run" / "model", tmp_path / "run"
    further = ["--model", str(before), "--epochs=0.1", "--optimizer.lr=1e-12", "--optimizer.weight_decay=0"]
    assert main(arguments(place, task, run, *further)) == 0
    old, new = (load_file(folder / "model.safetensors") for folder in (before, run / "model"))
    was, now = settings_of(before), settings_of(run / "model")
    assert now["temperature"] == pytest.approx(1, abs=0.01)  # it was calibrated on the same rows
    assert all(torch.allclose(new[name] * now["temperature"], old[name], atol=1e-6) for name in output_names(old))
    if task == "multilabel":
        assert now["task"]["thresholds"] == pytest.approx(was["task"]["thresholds"], abs=0.01)
    else:
        assert now["task"] == was["task"]


def output_names(state):
    return [name for name in state if name.startswith("classifier.")]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "multilabel"])
def test_a_run_that_is_killed_between_its_model_and_its_report_is_calibrated_once(place, task, tmp_path):
    whole, run = place / task / "run", tmp_path / "run"
    bf16 = "import bert.inference.batching as batching\nbatching.cpu_multiplies_bf16 = lambda: True\n"
    kill = (
        f'{bf16}before(__import__("bert.finetuning.evaluation.page").finetuning.evaluation.page, "write_report", send)'
    )
    stopped = warm.run(PROGRAM.format(patch=kill), *arguments(place, task, run))
    assert stopped.returncode == -signal.SIGKILL, stopped.stderr
    assert not (run / "report").exists()
    again = warm.run(PROGRAM.format(patch=bf16), *arguments(place, task, run))
    assert again.returncode == 0, again.stderr
    for name in ("model.safetensors", "windows.json", "README.md"):
        assert (run / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    assert report_of(run) == report_of(whole)
