"""`bert pretrain` from the outside: what it leaves, what it says, and what a run folder is good for."""

import csv
import dataclasses
import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import bert
from bert.cli import main
from bert.data.store import TokenStore, open_store
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer
from bert.errors import InputError
from bert.model.heads import MaskedLM
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.inputs import make_streams
from bert.pretraining.objectives.masked_lm import MaskedLanguageModeling
from bert.pretraining.phases import resolve_plan
from bert.pretraining.summary import _shown
from bert.recipe import read_recipe

from ..conftest import TINY, run_quietly


def rows_of(run):
    with (run / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_run_folder_holds_what_is_promised(tiny_run):
    present = {path.name for path in tiny_run.iterdir()}
    assert {"recipe.yaml", "tokenizer", "store", "checkpoints", "metrics.csv", "environment.json", "model"} <= present
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= {
        path.name for path in (tiny_run / "model").iterdir()
    }
    (environment,) = json.loads((tiny_run / "environment.json").read_text())
    assert environment["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert environment["packages"]["bert-kit"] == bert.__version__
    assert environment["cpu"]["cores"] >= 1


def test_the_log_has_a_row_a_step_and_a_last_validation(tiny_run):
    rows = rows_of(tiny_run)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 4]
    assert all(0 < float(row["loss"]) < 10 for row in rows[:4])
    assert float(rows[4]["val_perplexity"]) == pytest.approx(np.exp(float(rows[4]["val_loss"])), rel=1e-5)
    assert 0 <= float(rows[4]["val_accuracy"]) <= 1


def test_the_first_loss_is_that_of_a_uniform_guess(tiny_run):
    """ln V and a little: more than 0.2 above it at the first step is a bug (research on initialisation)."""
    recipe = read_recipe(tiny_run / "recipe.yaml", PretrainRecipe)
    assert float(rows_of(tiny_run)[0]["loss"]) == pytest.approx(np.log(recipe.encoder.vocab_size), abs=0.2)


@pytest.fixture(scope="module")
def structured_run(text_file, tmp_path_factory):
    """A run like `tiny_run` from structured weights."""
    run = tmp_path_factory.mktemp("structured") / "run"
    run_quietly(["pretrain", str(text_file), "--out", str(run), *TINY, "--initialization=structured"])
    return run


def test_the_first_loss_of_structured_weights_is_the_entropy_of_the_tokens(structured_run):
    recipe = read_recipe(structured_run / "recipe.yaml", PretrainRecipe)
    tokenizer = Tokenizer.load(structured_run / "tokenizer")
    stream = make_streams(recipe, resolve_plan(recipe), [open_store(structured_run / "store", tokenizer)], tokenizer)[0]
    counts = stream.token_counts(10**9)
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * np.log(shares)).sum()
    assert float(rows_of(structured_run)[0]["loss"]) == pytest.approx(entropy, abs=0.2)
    assert entropy < np.log(recipe.encoder.vocab_size) - 0.5  # else the line above says nothing


def test_the_model_of_a_run_is_that_of_its_last_checkpoint(tiny_run):
    model = MaskedLM.load(tiny_run / "model")
    state = torch.load(tiny_run / "checkpoints" / "step-00000004" / "state.pt", weights_only=True)["state_dict"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state[f"model.{name}"])
    assert model.tokenizer.hash == Tokenizer.load(tiny_run / "tokenizer").hash


def test_the_card_tells_how_the_model_came_to_be(tiny_run):
    card = (tiny_run / "model" / "README.md").read_text()
    assert "sentences.txt" in card
    assert "4 steps" in card
    assert "stop.steps: 4" in card  # the recipe, as far as it is no default
    assert str(tiny_run.parent) not in card
    figures = {result.metric_type for result in ModelCard.load(tiny_run / "model" / "README.md").data.eval_results}
    assert figures == {"loss", "accuracy", "perplexity"}
    assert "Validation text" in card


def test_the_validation_figures_are_those_of_the_validation_split_rows(tiny_run):
    """Computed once more from the model folder, densely."""
    recipe = read_recipe(tiny_run / "recipe.yaml", PretrainRecipe)
    model = MaskedLM.load(tiny_run / "model").eval()
    _, validation_split, _ = make_streams(
        recipe, resolve_plan(recipe), [open_store(tiny_run / "store")], model.tokenizer
    )
    loss, right, count = 0.0, 0, 0
    for step in range(-(-validation_split.last_sequence // recipe.data.batch_size)):
        batch = validation_split.micro_batch(step)
        with torch.no_grad():
            logits = model(batch["input_ids"], document_ids=batch["document_ids"]).logits
        for scores, positions, labels in zip(logits, batch["masked_positions"].tolist(), batch["labels"].tolist()):
            for position, label in zip(positions, labels):
                if label >= 0:
                    loss -= float(scores[position].log_softmax(-1)[label])
                    right += int(scores[position].argmax() == label)
                    count += 1
    assert float(rows_of(tiny_run)[-1]["val_loss"]) == pytest.approx(loss / count, rel=1e-4)
    assert float(rows_of(tiny_run)[-1]["val_accuracy"]) == pytest.approx(right / count)


def test_no_token_of_the_validation_split_is_trained_on(tiny_run):
    recipe = read_recipe(tiny_run / "recipe.yaml", PretrainRecipe)
    store = open_store(tiny_run / "store")
    training, validation_split, _ = make_streams(
        recipe, resolve_plan(recipe), [store], Tokenizer.load(tiny_run / "tokenizer")
    )
    positions = [
        {place for start, length in zip(part.starts, part.lengths) for place in range(start, start + length)}
        for part in (stream.sequences_at(0).index.documents for stream in (training, validation_split))
    ]
    assert not positions[0] & positions[1]
    assert len(positions[0]) + len(positions[1]) == store.num_tokens


@pytest.mark.parametrize(
    ("what", "fix"),
    [("text", "train a tokenizer on it"), ("validation split", "give more text, or data.validation_split 0")],
)
def test_a_loss_over_no_token_is_refused_before_the_run(tiny_run, what, fix):
    """Where all is [UNK], nothing is masked, and a mean loss of 0 would be a perplexity of 1."""
    recipe, tokenizer = read_recipe(tiny_run / "recipe.yaml", PretrainRecipe), Tokenizer.load(tiny_run / "tokenizer")
    store, plan = open_store(tiny_run / "store"), resolve_plan(recipe)
    _, validation, _ = make_streams(recipe, plan, [store], tokenizer)
    part = validation.sequences_at(0).index.documents if what == "validation split" else store
    if what == "text":
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, validation_split=0.0))
    for known in (False, True):  # nothing of that part is known, or one token
        values = store.values.copy()
        for start, length in zip(part.starts, part.lengths):
            values[start : start + length] = tokenizer.unk_id
        values[part.starts[0]] = tokenizer.replacement_ids[0] if known else tokenizer.unk_id
        documents = [values[start : start + length] for start, length in zip(store.starts, store.lengths)]
        offsets = np.concatenate(([0], np.cumsum(store.lengths)))
        changed = TokenStore.from_arrays(np.concatenate(documents), offsets, store.hashes)
        with nullcontext() if known else pytest.raises(InputError) as caught:
            make_streams(recipe, plan, [changed], tokenizer)
        if not known:
            message = f"no token of the {what} can be masked, as each is [UNK] or a special token: {fix}"
            assert str(caught.value) == message


def test_metrics_of_no_token_are_no_numbers():
    values = MaskedLanguageModeling().summarize(torch.zeros(3))
    assert np.isnan(list(values.values())).all()


def test_show_batch_prints_the_rows_that_the_run_saw(tiny_run, capsys):
    assert main(["pretrain", "--out", str(tiny_run), "--show-batch", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    recipe = read_recipe(tiny_run / "recipe.yaml", PretrainRecipe)
    tokenizer = Tokenizer.load(tiny_run / "tokenizer")
    training, _, _ = make_streams(recipe, resolve_plan(recipe), [open_store(tiny_run / "store")], tokenizer)
    batch, masked = training.micro_batch(3), training.batch(3).masked_tokens
    assert lines[0].startswith("batch 3: sequences from 24 ")
    assert f"{masked} masked" in lines[0]
    assert len(lines) == 9
    assert sum(line.count("‹") for line in lines[1:]) == masked
    first = [tokenizer.token(token) for token in batch["input_ids"][0].tolist()]
    assert lines[1].split()[1].split("‹")[0] == first[0]


def test_a_budget_in_minutes_decays_to_its_end(text_file, tmp_path):
    """The last learning rate is near 0, whenever the clock ran out."""
    run = tmp_path / "run"
    flags = [flag for flag in TINY if "stop.steps" not in flag]
    run_quietly(["pretrain", str(text_file), "--out", str(run), *flags, "--stop.minutes", "0.05"])
    rows = rows_of(run)
    assert float(rows[-2]["learning_rate"]) < 0.5 * 2e-3  # a machine that stalls in the last step reads an older clock
    assert float(rows[-1]["seconds"]) >= 3
    state = torch.load(sorted((run / "checkpoints").iterdir())[-1] / "state.pt", weights_only=True)
    assert state["learning_rate"] == float([row for row in rows if row["learning_rate"]][-1]["learning_rate"])
    assert state["progress"]["seconds"] >= 3


def test_a_budget_in_tokens_ends_with_the_step_that_reaches_it(text_file, tmp_path):
    run = tmp_path / "run"
    flags = [flag for flag in TINY if "stop.steps" not in flag]
    run_quietly(["pretrain", str(text_file), "--out", str(run), *flags, "--stop.tokens", "1000"])
    tokens = [int(row["tokens"]) for row in rows_of(run)]
    assert tokens[-1] >= 1000
    assert all(count < 1000 for count in tokens[:-2])


def test_tensorboard_by_recipe(text_file, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run_quietly(["pretrain", str(text_file), "--out", str(tmp_path / "run"), *TINY, "--log.tensorboard", "true"])
    assert list((tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.*"))


def test_a_package_that_a_logger_needs_is_named(text_file, tmp_path, capsys):
    pytest.importorskip("lightning")
    try:
        import wandb  # noqa: F401
    except ModuleNotFoundError:
        out = tmp_path / "run"
        assert main(["pretrain", str(text_file), "--out", str(out), *TINY, "--log.wandb", "project"]) == 2
        assert "pip install wandb" in capsys.readouterr().err
        assert not out.exists()
    else:
        pytest.skip("wandb is installed")


def test_a_run_starts_from_the_weights_of_another(tiny_run, text_file, tmp_path):
    run = tmp_path / "run"
    flags = [flag for flag in TINY if not flag.startswith(("--encoder", "--vocabulary", "--stop"))]
    start = str(tiny_run / "model")
    run_quietly(
        [
            "pretrain",
            str(text_file),
            "--from",
            start,
            "--out",
            str(run),
            *flags,
            "--stop.steps",
            "1",
            "--optimizer.lr",
            "1e-9",
        ]
    )
    before, after = MaskedLM.load(start), MaskedLM.load(run / "model")
    assert before.config == after.config
    for old, new in zip(before.parameters(), after.parameters()):
        assert torch.allclose(old, new, atol=1e-6)
    assert float(rows_of(run)[0]["loss"]) < float(rows_of(tiny_run)[0]["loss"])


def test_a_corpus_that_changed_under_a_run_is_noticed(tiny_run, text_file, tmp_path, capsys):
    """The store beside a run is the one it was started with, or the run is not resumed."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    info = json.loads((run / "store" / "store.json").read_text())
    info["fingerprint"]["content"] = "0" * 32
    (run / "store" / "store.json").write_text(json.dumps(info))
    assert main(["pretrain", "--resume", str(run), "--stop.steps", "6"]) == 2
    assert "the text of this run has changed since its checkpoint" in capsys.readouterr().err


def test_overwriting_with_a_bad_text_keeps_the_old_run(tiny_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    before = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good text\n\nbad \xff\xfe text\n")
    assert main(["pretrain", str(bad), "--out", str(run), "--overwrite", *TINY]) == 2
    assert "bad.txt" in capsys.readouterr().err
    assert {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "run"]


def test_the_resolved_recipe_states_every_field(tiny_run):
    written = yaml.safe_load((tiny_run / "recipe.yaml").read_text())
    assert written["encoder"]["vocab_size"] == 256
    assert written.keys() == PretrainRecipe.__dataclass_fields__.keys()


def test_fresh_weights_are_structured_where_a_recipe_says_so(tiny_run, structured_run):
    def common_part(run):
        vectors = MaskedLM.load(run / "model").encoder.embeddings.tokens.weight
        return float((vectors.mean(dim=0).norm() / vectors.norm(dim=1).mean()).detach())

    assert common_part(structured_run) > 0.3 > 0.2 > common_part(tiny_run)


def test_objects_that_a_recipe_describes_reach_the_trainer(text_file, tmp_path):
    """Early stopping, by a figure of the validation, ends the run before its budget."""
    (tmp_path / "recipe.yaml").write_text("""
validation: {every_steps: 1, sequences: 8}
trainer:
  callbacks:
  - class_path: lightning.pytorch.callbacks.EarlyStopping
    init_args: {monitor: val_loss, patience: 1, min_delta: 100.0}
""")
    run = tmp_path / "run"
    run_quietly(["pretrain", str(text_file), "--config", str(tmp_path / "recipe.yaml"), "--out", str(run), *TINY])
    steps = [int(row["step"]) for row in rows_of(run)]
    assert max(steps) == 2
    assert (run / "model").exists()
    assert "EarlyStopping" in (run / "recipe.yaml").read_text()


def test_the_written_recipe_names_its_text_in_any_folder(text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(text_file.parent)
    run_quietly(["pretrain", text_file.name, "--out", str(tmp_path / "run"), *TINY])
    monkeypatch.chdir(tmp_path)
    run_quietly(["pretrain", "--config", "run/recipe.yaml", "--out", "again"])
    models = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert models[0] == models[1]


def test_the_folder_one_is_in_is_refused_where_it_holds_other_files(text_file, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", str(text_file), "--out", "."]) == 2
    assert capsys.readouterr().err.count("holds files that are not of a run") == 1


def test_the_folder_one_is_in_becomes_a_run_and_is_overwritten(text_file, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    run_quietly(["pretrain", str(text_file), "--out", ".", *TINY])
    first = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    run_quietly(["pretrain", str(text_file), "--out", ".", "--overwrite", *TINY, "--seed=1"])
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weights_with_long_rows_and_a_padded_vocabulary_are_gone_on_with_and_resumed(tiny_run, text_file, tmp_path):
    model = MaskedLM.load(tiny_run / "model")
    padded = MaskedLM(dataclasses.replace(model.config, vocab_size=model.config.vocab_size + 64, max_length=1024))
    padded.tokenizer = model.tokenizer
    padded.save(tmp_path / "padded")
    run = tmp_path / "run"
    flags = [
        "--data.sequence_length",
        "600",
        "--data.batch_size",
        "2",
        "--trainer.accelerator",
        "cpu",
        "--trainer.precision",
        "32-true",
    ]
    run_quietly(
        ["pretrain", str(text_file), "--from", str(tmp_path / "padded"), "--out", str(run), *flags, "--stop.steps", "1"]
    )
    run_quietly(["pretrain", "--resume", str(run), "--stop.steps", "2"])
    assert MaskedLM.load(run / "model").config == padded.config


def test_without_validation_split_text_checkpoints_are_written_all_the_same(text_file, tmp_path):
    run = tmp_path / "run"
    run_quietly(
        [
            "pretrain",
            str(text_file),
            "--out",
            str(run),
            *TINY,
            "--data.validation_split",
            "0",
            "--validation.every_steps",
            "2",
        ]
    )
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]


def test_pieces_of_a_byte_level_vocabulary_are_shown_as_text():
    tokenizer = train_tokenizer(["the cat sat on the mat with 苹果 and 苹果 trees"] * 3, kind="bpe", vocab_size=300)
    shown = [_shown(tokenizer, token) for token in tokenizer.encode("the cats 苹果 sat")]
    assert shown == ["[CLS]", "the", "cat", "##s", "苹果", "sat", "[SEP]"]
    parts_of_a_character = [_shown(tokenizer, token) for token in tokenizer.encode("è")]
    assert parts_of_a_character == ["[CLS]", "␣", "Ã", "¨", "[SEP]"]
