"""The task `translate`: what it learns, says and refuses, beside sacrebleu and the definition of its loss."""

import csv
import json
import math
import random
import warnings
from dataclasses import replace

import pytest
import sacrebleu
import torch

from bert.cli import main
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer
from bert.finetuning.config import FinetuneOptimizer, FinetuneRecipe
from bert.finetuning.evaluate import evaluate
from bert.finetuning.inputs import DataConfig
from bert.finetuning.predict import load_predictor
from bert.hf.folder import start_seq2seq
from bert.inference.generation import generate
from bert.model.config import EncoderConfig, Seq2SeqConfig
from bert.model.decoder import Seq2Seq
from tests import warm
from tests.conftest import run_quietly

from .synthetic import save_encoder
from .test_resume import PROGRAM, assert_same_run

NOUNS = {
    "cat": "猫",
    "dog": "狗",
    "bird": "鸟",
    "tree": "树",
    "house": "房子",
    "river": "河",
    "moon": "月亮",
    "bread": "面包",
}
COLORS = {"red": "红", "green": "绿", "white": "白", "black": "黑", "blue": "蓝"}
SMALL = [
    "--encoder.hidden_size=64",
    "--encoder.num_heads=2",
    "--encoder.num_layers=1",
    "--encoder.intermediate_size=64",
]
SMALL += ["--encoder.hidden_dropout=0", "--encoder.embedding_dropout=0"]
FAST = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--log.progress_bar=false", "--log.every_steps=1"]


def rows(count, seed=0):
    """Two nouns with colors, and their translation."""
    draw, made = random.Random(seed), {}
    while len(made) < count:
        parts = [(draw.choice([*COLORS]), draw.choice([*NOUNS])) for _ in range(2)]
        text = " and ".join(f"the {color} {noun}" for color, noun in parts)
        made[text] = "和".join(f"{COLORS[color]}{NOUNS[noun]}" for color, noun in parts) + "。"
    return [*made.items()]


def write(file, some):
    file.write_text("text\ttranslation\n" + "".join(f"{a}\t{b}\n" for a, b in some), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A folder with files, an encoder, and a new translator that has learned them: `run`."""
    folder = tmp_path_factory.mktemp("translate")
    some = rows(860)
    for name, part in {"train": some[:800], "dev": some[800:830], "test": some[830:]}.items():
        write(folder / f"{name}.tsv", part)
    save_encoder(tiny_run, folder / "encoder")
    run_quietly(command(folder, folder / "run", *SMALL, "--epochs=16", "--test", str(folder / "test.tsv")))
    return folder


def command(folder, out, *more):
    files = ["--train", str(folder / "train.tsv"), "--dev", str(folder / "dev.tsv")]
    return ["finetune", "translate", *files, "--out", str(out), *FAST, "--optimizer.lr=3e-3", *more]


def metrics_of(run):
    return json.loads((run / "report" / "metrics.json").read_text(encoding="utf-8"))


def log_of(run):
    with (run / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


# ── a new model ──


def test_a_new_model_learns_to_translate(place):
    found = metrics_of(place / "run")
    assert found["headline"] == "bleu"
    assert found["metrics"]["exact_match"]["value"] > 0.9
    assert found["metrics"]["exact_match"]["baseline"] == 0  # the text itself
    assert not list((place / "run").rglob("*.ckpt"))


def test_the_reported_metrics_are_those_of_sacrebleu_on_the_predictions(place, tmp_path):
    run_quietly(
        ["predict", str(place / "run" / "model"), str(place / "test.tsv"), "--out", str(tmp_path / "out.jsonl")]
    )
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    found, right = [line["predicted_translation"] for line in lines], [line["translation"] for line in lines]
    values = {name: one["value"] for name, one in metrics_of(place / "run")["metrics"].items()}
    assert values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(found, [right], tokenize="zh").score)
    assert values["chrf"] == pytest.approx(sacrebleu.corpus_chrf(found, [right]).score)
    assert values["exact_match"] == sum(a == b for a, b in zip(found, right)) / len(right)


def teacher_forced(model, some):
    """The mean cross-entropy of all tokens of some targets, by the loss of the model, one by one."""
    total = count = 0
    for text, target in some:
        ids = [*model.target_tokenizer.encode(target)[1:-1], model.head_config.end_id]
        with torch.no_grad():
            output = model(torch.tensor([model.tokenizer.encode(text)]), labels=torch.tensor([ids]))
        total, count = total + float(output.loss_sum), count + len(ids)
    return total / count


def test_the_dev_loss_is_the_mean_over_tokens_given_those_before(place):
    kept = json.loads((place / "run" / "best.json").read_text())
    dev = rows(860)[800:830]
    assert kept["dev"]["loss"] == pytest.approx(teacher_forced(Seq2Seq.load(place / "run" / "model"), dev), rel=1e-3)


def test_the_loss_of_an_example_is_that_of_its_own_tokens(place):
    scored = evaluate(place / "run" / "model", str(place / "dev.tsv"), DataConfig()).scored
    model = Seq2Seq.load(place / "run" / "model")
    expected = [teacher_forced(model, [row]) for row in rows(860)[800:830]]
    assert scored.losses.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_first_step_has_the_smoothed_loss_of_a_new_model(place, tmp_path):
    losses = {}
    for smoothing in (0, 0.1):
        out = tmp_path / str(smoothing)
        run_quietly(command(place, out, *SMALL, "--epochs=1", f"--loss.label_smoothing={smoothing}"))
        losses[smoothing] = float(log_of(out)[0]["loss"])
    size = Seq2Seq.load(tmp_path / "0" / "model").config.vocab_size
    assert losses[0] == pytest.approx(math.log(size), abs=1.5)
    assert losses[0] != losses[0.1]


def test_seeds_begin_with_other_parameters_and_the_same_seed_with_the_same(place, tmp_path):
    weights = {}
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        run_quietly(command(place, tmp_path / name, *SMALL, "--epochs=1", f"--seed={seed}"))
        weights[name] = (tmp_path / name / "model" / "model.safetensors").read_bytes()
    assert weights["a"] == weights["b"] != weights["c"]
    run_quietly(command(place, tmp_path / "both", *SMALL, "--epochs=1", "--seeds=2"))
    both = [(tmp_path / "both" / f"seed-{seed}" / "model" / "model.safetensors").read_bytes() for seed in (0, 1)]
    assert both == [weights["a"], weights["c"]]


@pytest.mark.parametrize(
    "patch", ['before(TaskTraining, "training_step", send, at(17))', 'before(run, "finish", send)']
)
def test_a_killed_run_is_resumed_to_the_same_model(place, tmp_path, patch):
    more = [*SMALL, "--encoder.hidden_dropout=0.1", "--epochs=1", "--checkpoint.every_steps=5"]
    whole, killed = (command(place, tmp_path / name, *more) for name in ("whole", "killed"))
    assert warm.run(PROGRAM.format(patch=""), *whole).returncode == 0
    assert warm.run(PROGRAM.format(patch=patch), *killed).returncode != 0
    assert warm.run(PROGRAM.format(patch=""), *killed).returncode == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_the_written_recipe_makes_the_same_model_again(place, tmp_path):
    run_quietly(command(place, tmp_path / "run", *SMALL, "--epochs=1"))
    again = ["--config", str(tmp_path / "run" / "recipe.yaml"), "--out", str(tmp_path / "again")]
    run_quietly(["finetune", "translate", *again])
    both = [tmp_path / name / "model" / "model.safetensors" for name in ("run", "again")]
    assert both[0].read_bytes() == both[1].read_bytes()


# ── other models ──


@pytest.fixture(scope="module")
def chinese(tmp_path_factory):
    """An encoder with another vocabulary."""
    tokenizer = train_tokenizer([target for _, target in rows(100)], "wordpiece")
    config = EncoderConfig(tokenizer.vocab_size, 64, num_layers=1, num_heads=2, intermediate_size=64)
    from bert.model.encoder import Encoder

    model = Encoder(config)
    model.tokenizer = tokenizer
    folder = tmp_path_factory.mktemp("zh") / "encoder"
    model.save(folder)
    return folder


def test_two_encoders_keep_their_tokenizers(place, chinese, tmp_path):
    more = ["--model", str(place / "encoder"), "--head.decoder", str(chinese), "--epochs=3"]
    run_quietly(command(place, tmp_path / "run", *more))
    model = Seq2Seq.load(tmp_path / "run" / "model")
    assert model.target_tokenizer.hash == Tokenizer.load(chinese).hash != model.tokenizer.hash
    assert model.tokenizer.hash == Tokenizer.load(place / "encoder").hash
    losses = [float(row["loss"]) for row in log_of(tmp_path / "run") if row["loss"]]
    assert losses[-1] < losses[0] / 2
    [found] = model.predict(["the red cat and the white dog"])
    assert found.translation
    assert " " not in found.translation  # between Chinese characters
    model.save(tmp_path / "again")
    assert Seq2Seq.load(tmp_path / "again").predict(["the red cat and the white dog"]) == [found]


def test_one_encoder_on_both_sides_has_one_tokenizer(place, tmp_path):
    model = start_seq2seq(place / "encoder", place / "encoder")
    model.save(tmp_path / "model")
    assert Seq2Seq.load(tmp_path / "model").decoder.tokenizer is None
    assert not (tmp_path / "model" / "decoder").exists()


def test_a_translator_is_trained_further(place, tmp_path):
    run_quietly(command(place, tmp_path / "run", "--model", str(place / "run" / "model"), "--epochs=1"))
    assert float(log_of(tmp_path / "run")[0]["loss"]) < 1
    assert metrics_of(tmp_path / "run")["metrics"]["exact_match"]["value"] > 0.9


def test_predictions_are_those_of_generate(place):
    model = Seq2Seq.load(place / "run" / "model")
    text = "the green tree and the red house"
    [found] = model.predict([text])
    config = replace(model.generation, num_return=4)
    [hypotheses] = generate(model, torch.tensor([model.tokenizer.encode(text)]), None, config)
    texts = [model.tokenizer.decode(one.ids).strip() for one in hypotheses]
    assert [found.translation, *(text for text, _ in found.alternatives)] == texts
    assert found.score == pytest.approx(hypotheses[0].score, abs=1e-5)


def test_a_model_from_elsewhere_needs_no_settings(place, tmp_path):
    model = Seq2Seq.load(place / "run" / "model")
    before = model.predict(["the red cat and the white dog"])
    model.settings = {}
    model.save(tmp_path / "model")
    assert load_predictor(tmp_path / "model").task.bleu == ""
    assert Seq2Seq.load(tmp_path / "model").predict(["the red cat and the white dog"]) == before


def test_tables_have_as_many_translations_as_asked(place, tmp_path):
    for name, more in {"one.tsv": [], "three.tsv": ["--top", "3"]}.items():
        run_quietly(
            ["predict", str(place / "run" / "model"), str(place / "test.tsv"), "--out", str(tmp_path / name), *more]
        )
    one, three = (
        list(csv.DictReader((tmp_path / name).open(encoding="utf-8"), delimiter="\t"))
        for name in ("one.tsv", "three.tsv")
    )
    assert [*one[0]] == ["translation", "score"]
    assert [*three[0]] == [*one[0], "translation_2", "score_2", "translation_3", "score_3"]
    assert [row["translation"] for row in one] == [row["translation"] for row in three]
    assert all(float(row["score"]) >= float(row["score_2"]) >= float(row["score_3"]) for row in three)


# ── what is refused or truncated ──


def test_long_texts_are_truncated_with_a_warning(place, tmp_path, caplog):
    long = " and ".join(["the red cat"] * 40)
    file = write(tmp_path / "long.tsv", [(long, "猫" * 300), *rows(60)])
    arguments = command(place, tmp_path / "run", *SMALL, "--epochs=1", "--windows.sequence_length=16", "--train", file)
    with caplog.at_level("WARNING", logger="bert"):
        run_quietly(arguments)
    said = [record.getMessage() for record in caplog.records]
    assert said.count("texts of more than 16 tokens are truncated: split them into sentences") == 1
    assert any("1 of 61 targets are longer than 16 tokens and are truncated" in line for line in said)


def test_errors_name_what_to_do(place, tmp_path, capsys):
    model, out = str(place / "run" / "model"), ["--out", str(tmp_path / "x")]
    known = {
        "--label-errors is an option of classify": command(place, tmp_path / "x", "--label-errors"),
        "class_weights is an option of classify": command(place, tmp_path / "x", "--loss.class_weights=balanced"),
        "leave one of both out": command(place, tmp_path / "x", "--model", model, *SMALL),
        "has a decoder: leave it out": command(place, tmp_path / "x", "--model", model, "--head.decoder", model),
        "predicts no labels of whole texts": ["predict", model, str(place / "test.tsv"), *out, "--explain"],
        "cannot be exported": ["export", model, "--to", "onnx"],
        "give a model folder": [
            "finetune",
            "classify",
            "--train",
            str(place / "train.tsv"),
            "--label=translation",
            *out,
        ],
        "encoder is an option of translate": [
            "finetune",
            "classify",
            "--train",
            str(place / "train.tsv"),
            *SMALL,
            *out,
        ],
    }
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("text\tpair\ttranslation\na\tb\tc\nd\te\tf\n")
    known["is a second text"] = command(place, tmp_path / "x", "--train", str(pairs), *SMALL)
    for words, arguments in known.items():
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert not (tmp_path / "x").exists()


def test_damaged_settings_are_refused(place, tmp_path, capsys):
    model = Seq2Seq.load(place / "run" / "model")
    for task in ({"bleu": "intl"}, {"bleu": 3}, {"bleu": ["zh"]}):
        model.settings = {"task": task}
        model.save(tmp_path / "model")
        code = main(["predict", str(tmp_path / "model"), str(place / "test.tsv"), "--out", str(tmp_path / "o.tsv")])
        assert code == 2, task


def test_the_folder_of_a_translator_opens_as_an_encoder_without_a_warning(place):
    from bert.model.encoder import Encoder

    with warnings.catch_warnings(action="error"):
        Encoder.load(place / "run" / "model")


def test_the_recipe_is_not_changed_by_other_tasks():
    recipe = FinetuneRecipe(optimizer=FinetuneOptimizer(lr=1e-3))
    assert (recipe.encoder.positions, recipe.encoder.embedding_scale) == ("sinusoidal", True)
    assert Seq2SeqConfig(recipe.encoder).problem_type == "translation"


def test_a_search_that_may_write_nothing_is_refused(place, tmp_path, capsys):
    model = Seq2Seq.load(place / "run" / "model")
    words = [[word] for word in range(model.target_tokenizer.vocab_size)]
    model.generation = replace(model.generation, bad_words=words)
    model.save(tmp_path / "model")
    assert main(["predict", str(tmp_path / "model"), str(place / "test.tsv"), "--out", str(tmp_path / "o.tsv")]) == 2
    assert "bad_words_ids in generation_config.json forbid every target: remove some" in capsys.readouterr().err


def test_bleu_of_zero_has_no_interval_of_a_share(place, tmp_path, capsys):
    file = write(tmp_path / "other.tsv", [(text, "xyzw") for text, _ in rows(20)])
    assert main(["evaluate", str(place / "run" / "model"), file]) == 0
    bleu, exact = (line for line in capsys.readouterr().out.splitlines() if line.startswith(("BLEU", "exact")))
    assert bleu.split()[1:] == ["0.000", "0.000", "–"]
    assert exact.split()[-1].startswith("0.0–")
