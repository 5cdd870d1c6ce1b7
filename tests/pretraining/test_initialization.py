"""A run from a model that exists: what it keeps of it, what it makes of it, and that the result is at home elsewhere."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from bert.cli import main
from bert.data.tokenizer import Tokenizer
from bert.hf.folder import start_masked_lm
from bert.model.config import EncoderConfig, HeadConfig, TaskHeadConfig
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM, SequenceClassifier
from bert.pretraining.config import PretrainRecipe
from bert.recipe import read_recipe

from ..conftest import TINY, run_quietly

FLAGS = [
    *(flag for flag in TINY if not flag.startswith(("--encoder", "--vocabulary", "--stop", "--checkpoint"))),
    "--validation.sequences=16",
]
BERT = EncoderConfig(
    vocab_size=256,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    intermediate_size=48,
    max_length=64,
    positions="learned",
    norm_first=False,
    norm_bias=True,
    final_norm=False,
    bias=True,
    gated=False,
    token_types=2,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_file):
    """A run that has learnt something: its model is better than a fresh one by far."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    run_quietly(["pretrain", str(text_file), "--out", str(run), *TINY, "--stop.steps=120", "--encoder.num_layers=2"])
    return run


@pytest.fixture
def encoder_folder(tmp_path, tiny_run):
    """A BERT encoder without a head, as MiniLM is one."""
    torch.manual_seed(1)
    encoder = Encoder(BERT)
    encoder.tokenizer = Tokenizer.load(tiny_run / "tokenizer")
    encoder.save(tmp_path / "encoder")
    return tmp_path / "encoder"


def losses_of(run):
    with (run / "metrics.csv").open() as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream) if row["loss"]]


def start_loss(run):
    """The loss on validation text with which training began."""
    with (run / "before-after" / "losses.tsv").open() as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["text"] == "validation text"]
    return {row["when"]: float(row["loss"]) for row in rows}


# ── the loader ──


def test_an_encoder_without_a_head_gets_that_of_its_family_from_the_seed(encoder_folder):
    torch.manual_seed(7)
    model, fresh = start_masked_lm(encoder_folder)
    torch.manual_seed(7)
    again, _ = start_masked_lm(encoder_folder)
    assert model.head_config == HeadConfig(transform_bias=True)
    assert {name.removeprefix("head.") for name in fresh} == set(model.head.state_dict())
    for name, tensor in Encoder.load(encoder_folder).state_dict().items():
        assert torch.equal(tensor, model.encoder.state_dict()[name])
    for name, tensor in model.head.state_dict().items():
        assert torch.equal(tensor, again.head.state_dict()[name])
    assert model.head.dense.weight.std() > 0.01


def test_a_whole_masked_lm_is_what_load_gives(tiny_run):
    model, fresh = start_masked_lm(tiny_run / "model")
    assert fresh == []
    for name, tensor in MaskedLM.load(tiny_run / "model").state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_what_a_folder_holds_of_the_head_is_kept(tmp_path):
    """A BERT file without the output bias, and the parts that a ModernBERT classifier shares with the masked LM."""
    from safetensors.torch import load_file, save_file

    model = MaskedLM(BERT, HeadConfig(transform_bias=True))
    torch.nn.init.normal_(model.head.norm.bias)
    model.save(tmp_path / "bert")
    tensors = load_file(tmp_path / "bert" / "model.safetensors")
    del tensors["cls.predictions.bias"]
    save_file(tensors, tmp_path / "bert" / "model.safetensors", {"format": "pt"})
    started, fresh = start_masked_lm(tmp_path / "bert")
    assert fresh == ["head.bias"]
    assert torch.equal(started.head.norm.bias, model.head.norm.bias)

    classifier = SequenceClassifier(EncoderConfig(vocab_size=64), TaskHeadConfig(("a", "b")))
    classifier.save(tmp_path / "modern")
    started, fresh = start_masked_lm(tmp_path / "modern")
    assert fresh == ["head.bias"]
    assert torch.equal(started.head.dense.weight, classifier.head.dense.weight)

    post_norm = dataclasses.replace(BERT, positions="rope", gated=True)  # of our own type: its dense layer is a pooler
    head = TaskHeadConfig(("a", "b"), activation="tanh", transform_norm=False)
    SequenceClassifier(post_norm, head).save(tmp_path / "own")
    assert "head.dense.weight" in start_masked_lm(tmp_path / "own")[1]


# ── runs ──


def test_a_run_from_an_encoder_says_what_is_fresh_and_keeps_the_family(encoder_folder, text_file, tmp_path, capsys):
    run = tmp_path / "run"
    command = ["pretrain", str(text_file), "--from", str(encoder_folder), "--out", str(run), *FLAGS, "--stop.steps=2"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        f"{encoder_folder} has no masked-LM head: random initialization of head.bias, head.dense, head.norm with seed 0"
        in lines
    )
    config = json.loads((run / "model" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("bert", ["BertForMaskedLM"])
    recipe = read_recipe(run / "recipe.yaml", PretrainRecipe)
    assert recipe.encoder == Encoder.load(encoder_folder).config
    assert recipe.initialize_from == str(encoder_folder)


@pytest.mark.hf
def test_transformers_opens_the_result_and_has_its_words(encoder_folder, text_file, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    run, words = tmp_path / "run", tmp_path / "words.txt"
    words.write_text("nanobot\ncovid-19\n")
    run_quietly(
        [
            "pretrain",
            str(text_file),
            "--from",
            str(encoder_folder),
            "--add-words",
            str(words),
            "--out",
            str(run),
            *FLAGS,
        ]
        + ["--stop.steps=2"]
    )
    ours = MaskedLM.load(run / "model")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(run / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    assert theirs.config.vocab_size == 258 == len(tokenizer)
    inputs = tokenizer(["The NANOBOT sees covid-19.", "the cat"], padding=True, return_tensors="pt")
    assert {256, 257} <= set(inputs["input_ids"][0].tolist())
    with torch.no_grad():
        logits = ours(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        expected = theirs(**inputs).logits
    seen = inputs["attention_mask"].bool()
    assert torch.allclose(logits[seen], expected[seen], atol=1e-5)


def test_packed_rows_of_a_bert_compute_what_each_chunk_gives_alone():
    """Learned positions begin anew in each chunk, and token types are 0."""
    torch.manual_seed(0)
    model = MaskedLM(BERT, HeadConfig(transform_bias=True)).eval()
    ids = torch.randint(5, 256, (1, 12))
    documents = torch.tensor([[1] * 5 + [2] * 7])
    with torch.no_grad():
        packed = model(ids, document_ids=documents).logits[0]
        alone = [model(part, token_type_ids=torch.zeros_like(part)).logits[0] for part in (ids[:, :5], ids[:, 5:])]
    assert torch.allclose(packed, torch.cat(alone), atol=1e-5)


def test_another_tokenizer_begins_better_than_fresh_weights(trained, text_file, tmp_path):
    fresh, other, new = tmp_path / "fresh", tmp_path / "other", tmp_path / "new"
    run_quietly(["tokenizer", str(text_file), "--out", str(tmp_path / "bpe"), "--kind", "bpe", "--vocab-size", "384"])
    bpe = ["--tokenizer", str(tmp_path / "bpe")]
    one_step = ["--stop.steps=1", "--schedule.warmup=0"]
    flags = [flag for flag in TINY if not flag.startswith(("--vocabulary", "--stop"))]
    run_quietly(["pretrain", str(text_file), *bpe, "--out", str(fresh), *flags, *one_step])
    start = ["--from", str(trained / "model")]
    run_quietly(["pretrain", str(text_file), *start, *bpe, "--out", str(other), *FLAGS, *one_step])
    assert losses_of(other)[0] < losses_of(fresh)[0] - 0.3
    more = ["--new-tokenizer", "--vocabulary.size=192", "--out", str(new)]
    run_quietly(["pretrain", str(text_file), *start, *FLAGS, *more, *one_step])
    assert MaskedLM.load(new / "model").config.vocab_size == 192
    assert losses_of(new)[0] < losses_of(fresh)[0] - 0.3
    assert set(start_loss(new)) == {"at the start", "after"}  # parts of documents are held out: no text for the old one


def test_a_expanded_model_begins_where_the_small_one_ended(trained, text_file, tmp_path):
    run = tmp_path / "run"
    expand = ["--expand.num_layers=3", "--expand.hidden_size=64", "--expand.intermediate_size=80", "--stop.steps=1"]
    run_quietly(["pretrain", str(text_file), "--from", str(trained / "model"), "--out", str(run), *FLAGS, *expand])
    config = MaskedLM.load(run / "model").config
    assert (config.num_layers, config.hidden_size, config.num_heads, config.intermediate_size) == (3, 64, 4, 80)
    losses = start_loss(run)
    assert losses["at the start"] == pytest.approx(losses["as it came"], abs=1e-4)
    assert losses["as it came"] < losses_of(trained)[0] - 1  # a fresh model is a uniform guess
    assert read_recipe(run / "recipe.yaml", PretrainRecipe).encoder == config


@pytest.mark.slow
def test_the_written_recipe_makes_the_same_run(trained, text_file, tmp_path):
    """With words and a larger shape, from another folder."""
    words, run, again = tmp_path / "words.txt", tmp_path / "run", tmp_path / "again"
    words.write_text("catdog\nthe\n")
    change = ["--add-words", str(words), "--expand.num_layers=3", "--stop.steps=2"]
    run_quietly(["pretrain", str(text_file), "--from", str(trained / "model"), "--out", str(run), *FLAGS, *change])
    run_quietly(["pretrain", "--config", str(run / "recipe.yaml"), "--out", str(again)])
    for file in ("model/model.safetensors", "before-after/losses.tsv", "model/tokenizer.json"):
        assert (run / file).read_bytes() == (again / file).read_bytes()


def test_words_that_are_all_known_are_said_and_change_nothing(trained, text_file, tmp_path, capsys):
    words, run = tmp_path / "words.txt", tmp_path / "run"
    words.write_text("the\nThe\n")
    command = ["pretrain", str(text_file), "--from", str(trained / "model"), "--out", str(run), *FLAGS]
    assert main([*command, "--add-words", str(words), "--stop.steps=1"]) == 0
    output = capsys.readouterr().out
    assert f"{words}: all 2 words are known to the tokenizer: none is added" in output
    assert Tokenizer.load(run / "model").hash == Tokenizer.load(trained / "tokenizer").hash
    quick = ["--rounds=1", "--seconds=0.02", "--compile=false", "--backends=sdpa"]
    assert main(["bench", "steps", str(run), *quick]) == 0  # what a run starts from is no matter of its speed


# ── interrupted, and on several processes ──

KILLED = """
import os, signal, sys
import bert.cli
from bert.pretraining.module import PretrainingModule
real = PretrainingModule.training_step
def step(self, batch, batch_idx):
    if self.progress.step == 5: os.kill(os.getpid(), signal.SIGKILL)
    return real(self, batch, batch_idx)
PretrainingModule.training_step = step
sys.exit(bert.cli.main(sys.argv[1:]))
"""


def changed(trained, text_file, folder):
    words = folder / "words.txt"
    words.write_text("catdog\nriverbed\n")
    change = [
        "--add-words",
        str(words),
        "--general",
        str(words),
        "--expand.hidden_size=48",
        "--checkpoint.every_steps=3",
    ]
    return ["pretrain", str(text_file), "--from", str(trained / "model"), *FLAGS, *change, "--stop.steps=8", "--out"]


def in_a_process(*command, code=0):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
def test_a_changed_model_that_is_killed_and_resumed_is_bit_identical(trained, text_file, tmp_path):
    """Without the folder it came from: a resumed run needs nothing but its own."""
    start = tmp_path / "start"
    shutil.copytree(trained, start)
    command = changed(start, text_file, tmp_path)
    in_a_process("-m", "bert", *command, str(tmp_path / "whole"))
    in_a_process("-c", KILLED, *command, str(tmp_path / "cut"), code=-signal.SIGKILL)
    shutil.rmtree(start)
    (tmp_path / "words.txt").unlink()
    in_a_process("-m", "bert", "pretrain", "--resume", str(tmp_path / "cut"))
    for file in ("model/config.json", "model/model.safetensors", "model/tokenizer.json", "before-after/losses.tsv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes(), file
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_begin_with_the_weights_of_one(trained, text_file, tmp_path, launcher):
    command = changed(trained, text_file, tmp_path)
    in_a_process("-m", "bert", *command, str(tmp_path / "one"))
    if launcher == "torchrun":
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "bert", *command, str(tmp_path / "two")]
        done = in_a_process(*launch)
    else:
        done = in_a_process("-m", "bert", *command, str(tmp_path / "two"), "--trainer.devices", "2")
    assert done.stdout.count("2 words are new") == 1
    assert max(abs(a - b) for a, b in zip(losses_of(tmp_path / "one"), losses_of(tmp_path / "two"), strict=True)) < 1e-5
    for when, loss in start_loss(tmp_path / "one").items():
        assert start_loss(tmp_path / "two")[when] == pytest.approx(loss, abs=1e-5)
