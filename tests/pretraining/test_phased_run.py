"""`bert pretrain` with phases and a mixture, from the outside: resumed at any step it is the same run, and it can be looked at."""

import csv
import json
import shutil

import pytest
import torch

from bert.cli import main
from bert.data.prepare import prepare
from bert.model.heads import MaskedLM
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.inputs import open_data
from bert.recipe import read_recipe
from bert.training.callbacks import TIME_COLUMNS

from ..conftest import TINY, make_text, run_quietly

STEPS = 9
# Steps 0 to 2 are 2 micro-batches of 16 positions, 3 and 4 are 3 of 32 positions, from 5 on 1 of 16 positions with another rotary base.
PHASES = (
    "[{tokens: 384, sequence_length: 16, micro_batch_size: 4, mask_rate: 0.3},"
    " {tokens: 768, batch_size: 12, micro_batch_size: 4}, {sequence_length: 16, rope_theta: 500}]"
)
FLAGS = [
    *(flag for flag in TINY if "stop.steps" not in flag and "checkpoint" not in flag),
    f"--stop.steps={STEPS}",
    "--checkpoint.every_steps=1",
    "--checkpoint.keep=20",
    "--validation.every_steps=3",
    "--validation.sequences=24",
    "--data.validation_split=0.3",
    "--encoder.attention_dropout=0.1",
]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, tiny_run):
    """Text in two files, and the second as a store with the tokenizer of the tiny run."""
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "news.txt").write_text(make_text(60, seed=1))
    (folder / "books.txt").write_text(make_text(50, seed=2))
    prepare(folder / "books.txt", tiny_run / "tokenizer", folder / "books-store")
    return folder


@pytest.fixture(scope="module")
def run(corpora):
    mixture = f"{{{corpora / 'news.txt'}: 3, {corpora / 'books.txt'}: 1}}"
    run_quietly(["pretrain", "--data.mixture", mixture, "--phases", PHASES, "--out", str(corpora / "run"), *FLAGS])
    return corpora / "run"


def log_without_time(folder):
    with (folder / "metrics.csv").open() as stream:
        return [{key: value for key, value in row.items() if key not in TIME_COLUMNS} for row in csv.DictReader(stream)]


def state_of(folder, step):
    state = torch.load(folder / "checkpoints" / f"step-{step:08d}" / "state.pt", weights_only=True)
    for clock in ("seconds", "first_seconds"):
        state["progress"].pop(clock)
    parts = ("state_dict", "optimizer_states", "progress", "learning_rate", "global_step", "open_log_row", "loops")
    return {part: state[part] for part in parts}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("step", [2, 3, 4, 5, 6, STEPS])
def test_a_run_resumed_before_at_and_after_a_boundary_is_bit_identical(run, tmp_path, step):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "model")
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(again / "checkpoints" / f"step-{later:08d}")
    run_quietly(["pretrain", "--resume", str(again)])
    for later in range(step + 1, STEPS + 1):
        assert same(state_of(again, later), state_of(run, later)), later
    assert log_without_time(again) == log_without_time(run)
    for file in ("model.safetensors", "config.json"):
        assert (again / "model" / file).read_bytes() == (run / "model" / file).read_bytes()


def test_the_log_has_every_step_and_every_validation_once(run):
    sequences = log_without_time(run)
    assert [int(sequence["step"]) for sequence in sequences if sequence["loss"]] == list(range(1, STEPS + 1))
    assert [int(sequence["step"]) for sequence in sequences if sequence["val_loss"]] == [3, 6, 9]


def test_the_model_has_the_rotary_base_of_the_last_phase(run):
    assert MaskedLM.load(run / "model").config.rope_theta == 500
    assert json.loads((run / "model" / "config.json").read_text())["global_rope_theta"] == 500


@pytest.mark.parametrize("stop", [["--stop.steps", "3"], ["--stop.steps", "null", "--stop.tokens", "400"]])
def test_a_phase_that_the_budget_does_not_reach_is_pointed_out(corpora, tmp_path, capsys, stop):
    text = str(corpora / "news.txt")
    assert main(["pretrain", text, "--phases", PHASES, "--out", str(tmp_path / "run"), *FLAGS, *stop]) == 0
    first, second, third = (line for line in capsys.readouterr().out.splitlines() if line.startswith("from step"))
    if "--stop.tokens" in stop:  # one step of the second phase
        assert not second.endswith("the budget ends before")
    else:
        assert second.startswith("from step 3: ")
        assert second.endswith("the budget ends before")
    assert third.endswith("the budget ends before")
    assert not first.endswith("the budget ends before")


def test_the_written_recipe_is_the_recipe_of_the_run(run):
    recipe = read_recipe(run / "recipe.yaml", PretrainRecipe)
    assert [phase.sequence_length for phase in recipe.phases] == [16, None, 16]
    assert list(recipe.data.mixture.values()) == [3, 1]


def test_validation_split_sequences_are_those_of_the_last_phase_from_every_source(run):
    data = open_data(read_recipe(run / "recipe.yaml", PretrainRecipe), run)
    training, validation_split = data.training, data.validation
    sequences = validation_split.sequences_at(0)
    assert sequences.sequence_length == 16
    assert validation_split.last_sequence == 24
    assert {sequences.source_of(sequence) for sequence in range(24)} == {0, 1}
    for one, other in zip(training.sequences_at(0).sources, sequences.sources):
        positions = [
            {place for start, length in zip(part.starts, part.lengths) for place in range(start, start + length)}
            for part in (one.index.documents, other.index.documents)
        ]
        assert not positions[0] & positions[1]
        assert len(positions[0]) + len(positions[1]) == one.store.num_tokens


@pytest.mark.parametrize(("step", "sequences", "first"), [(1, 8, 8), (3, 12, 0), (5, 8, 24)])
def test_show_batch_prints_the_sequences_of_any_phase_and_their_sources(run, capsys, step, sequences, first):
    assert main(["pretrain", "--out", str(run), "--show-batch", str(step)]) == 0
    lines = capsys.readouterr().out.splitlines()
    stream = open_data(read_recipe(run / "recipe.yaml", PretrainRecipe), run).training
    source, masked = stream.sequences_at(step), stream.batch(step).masked_tokens
    assert lines[0].startswith(f"batch {step}: sequences of {source.sequence_length} positions from {first} ")
    assert len(lines) == sequences + 1
    assert sum(line.count("‹") for line in lines[1:]) == masked
    names = ["news.txt:", "books.txt:"]
    assert [line.split()[1] for line in lines[1:]] == [
        names[source.source_of(first + sequence)] for sequence in range(sequences)
    ]


def test_a_source_may_be_a_store(corpora, tiny_run, tmp_path):
    """It is read where it is, whatever folder the run is resumed from; text beside it becomes a store of the run."""
    mixture = f"{{{corpora / 'news.txt'}: 1, {corpora / 'books-store'}: 1}}"
    flags = ["--tokenizer", str(tiny_run / "tokenizer"), "--out", str(tmp_path / "run"), *TINY]
    run_quietly(["pretrain", "--data.mixture", mixture, *flags])
    assert {path.name for path in (tmp_path / "run").glob("store*")} == {"store-0"}
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "news.txt 50%, books-store 50%" in card
    assert "data.mixture.books-store: " in card
    assert str(corpora) not in card


@pytest.mark.parametrize(
    ("mixture", "flags", "message"),
    [
        ("{A: 1}", [], "data.mixture holds A alone: give a second source, or this one as text or data.store"),
        ("{A: 1, B: 0}", [], "data.mixture: the weight of B is 0.0: give more than 0, or leave it out"),
        ("{A: 1, B: -2}", [], "data.mixture: the weight of B is -2.0: give more than 0, or leave it out"),
        ("{A: 1, B: .inf}", [], "--data.mixture.B is inf: give a finite number"),
        ("{A: 1, B: 1}", ["A"], "text A beside data.mixture: make it a source of the mixture, or leave it out"),
        (
            "{A: 1, B: 1}",
            ["--store", "B-store"],
            "data.store B-store beside data.mixture: make it a source of the mixture, or leave it out",
        ),
        ("{A: 1, ./A: 1}", [], "data.mixture names a source twice (A, ./A): give it once, with one weight"),
        ("{A: 1, gone.txt: 1}", [], "gone.txt: no such file or folder; check the path"),
        (
            "{A: 1, B-store: 1}",
            [],
            "data.mixture: the store B-store needs data.tokenizer: give the one that the store was made with",
        ),
        ("{A: 1, B-store: 1}", ["--tokenizer", "other"], "B-store: made with another tokenizer ("),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(corpora, run, tmp_path, monkeypatch, capsys, mixture, flags, message):
    shutil.copy(corpora / "news.txt", tmp_path / "A")
    shutil.copy(corpora / "books.txt", tmp_path / "B")
    shutil.copytree(corpora / "books-store", tmp_path / "B-store")
    shutil.copytree(run / "tokenizer", tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "--data.mixture", mixture, "--out", "run", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"bert: {message}")
    assert not (tmp_path / "run").exists()
