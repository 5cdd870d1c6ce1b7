"""An objective is one file: two terms with denominators and columns of their own, exact however a batch is dealt out."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bert.cli import main
from bert.errors import InputError
from bert.model.encoder import Encoder
from bert.model.heads import MaskedLM
from bert.pretraining.config import DataConfig, PretrainRecipe
from bert.pretraining.initialization import check_initial, load_initial
from bert.pretraining.module import PretrainingModule
from bert.pretraining.objective import OBJECTIVES, log_columns, objective_named
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from tests.conftest import TINY

from .synthetic import ENCODER, SEQUENCES, fit, make_stream
from .toy_objective import Toy

TOY = "tests.pretraining.toy_objective"
RUN = f"""
import sys
from bert.pretraining.objective import OBJECTIVES
OBJECTIVES["toy"] = {TOY!r}
from bert.pretraining import run
run.compiles = lambda *_: (True, "as requested")
from bert.cli import main
sys.exit(main(sys.argv[1:]))
"""


def train(micro_batch_size, steps):
    torch.manual_seed(0)
    configs = OptimizerConfig(), ScheduleConfig(), StopConfig(steps=steps)
    module = PretrainingModule(MaskedLM(ENCODER), Toy(), *configs, seed=5)
    fit(module, make_stream(micro_batch_size=micro_batch_size))
    return module


def test_each_term_is_divided_by_its_own_count_in_the_global_batch():
    """By hand, over the whole first batch at once: micro-batches have unequal shares of both counts."""
    torch.manual_seed(0)
    model, stream = MaskedLM(ENCODER), make_stream()
    with torch.no_grad():
        sums = Toy().loss(model, stream.micro_batch(0)).sums
    counts = Toy().counts(stream.batch(0))
    assert counts["masked_lm"] != counts["length"]
    row = train(SEQUENCES // 4, steps=1).read_log()
    for name in ("masked_lm", "length"):
        assert row[name] == pytest.approx(float(sums[name]) / counts[name], rel=1e-5)
    assert row["loss"] == pytest.approx(row["masked_lm"] + 0.5 * row["length"], rel=1e-6)


def test_accumulation_gives_the_weights_of_whole_batches():
    weights = [
        torch.cat([p.detach().flatten() for p in train(size, steps=4).model.parameters()]) for size in (SEQUENCES, 3, 1)
    ]
    assert torch.allclose(weights[0], weights[1], atol=2e-5)
    assert torch.allclose(weights[0], weights[2], atol=2e-5)


def test_columns_of_the_log_follow_the_terms():
    assert log_columns(Toy())[2:5] == ["loss", "learning_rate", "gradient_norm"]
    assert set(log_columns(Toy())) >= {"masked_lm", "length", "val_masked_lm", "val_length"}
    assert "masked_lm" not in log_columns(objective_named("masked_lm"))  # its one term is the loss itself


def test_a_wrong_name_is_one_line_that_says_the_nearest():
    with pytest.raises(InputError, match=r"objective is 'masked-lm': give one of masked_lm.* Did you mean `masked_lm`"):
        objective_named("masked-lm")


def rows_of(run):
    with (run / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def run_toy(text_file, out, *flags):
    program = out.with_suffix(".py")  # a file, which Lightning starts again for a second process
    program.write_text(RUN)
    command = [sys.executable, str(program), "pretrain", str(text_file), "--out", str(out), *TINY, "--objective", "toy"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*command, *flags], capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return rows_of(out)


def test_a_run_by_a_second_objective_logs_resumes_and_exports(text_file, tmp_path):
    rows = run_toy(text_file, tmp_path / "run")
    trained = [row for row in rows if row["loss"]]
    assert len(trained) == 4
    for row in trained:
        assert float(row["loss"]) == pytest.approx(float(row["masked_lm"]) + 0.5 * float(row["length"]), rel=1e-5)
    assert float(rows[-1]["val_length"]) > 0
    assert "val_length" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert MaskedLM.load(tmp_path / "run" / "model").config.num_layers == 1
    run_toy(text_file, tmp_path / "part", "--stop.steps", "2", "--checkpoint.every_steps", "2")
    command = [sys.executable, "-c", RUN, "pretrain", "--resume", str(tmp_path / "part"), "--stop.steps", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "not compiled: the objective toy decides\n" in done.stdout
    started = json.loads((tmp_path / "part" / "environment.json").read_text())
    assert [one["decided"]["compiled"] for one in started] == [False, False]
    assert done.stdout.endswith(f"model: {tmp_path / 'part' / 'model'}\n")  # no command is suggested
    assert "toy" not in OBJECTIVES  # added in other processes only


class OwnLM(MaskedLM):
    """A class of its own, with the parameters of a masked LM."""


def with_another_part(*configs):
    model = MaskedLM(*configs)
    model.length = torch.nn.Linear(configs[0].hidden_size, 1)
    return model


@pytest.mark.parametrize("build", [OwnLM, with_another_part, lambda encoder, head: Encoder(encoder)])
def test_an_objective_of_another_model_does_not_start_from_a_masked_lm(
    build, text_file, tiny_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(OBJECTIVES, "toy", TOY)
    monkeypatch.setattr(Toy, "build", lambda self, *configs: build(*configs))
    model = str(tiny_run / "model")
    command = ["pretrain", str(text_file), "--out", str(tmp_path / "run"), "--from", model, "--objective", "toy"]
    assert main(command) == 2
    line = f"bert: objective toy trains no plain masked LM: leave out --from {model}\n"
    assert capsys.readouterr().err == line
    assert not any(tmp_path.iterdir())


def test_an_objective_of_a_masked_lm_starts_from_one(tiny_run, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "toy", TOY)
    data = DataConfig(sequence_length=32)
    recipe = PretrainRecipe(data=data, initialize_from=str(tiny_run / "model"), objective="toy")
    initial = load_initial(recipe)
    assert check_initial(recipe, initial) is initial.tokenizer


@pytest.mark.slow
def test_two_processes_reach_the_terms_of_one(text_file, tmp_path):
    one = run_toy(text_file, tmp_path / "one")
    two = run_toy(text_file, tmp_path / "two", "--trainer.devices", "2", "--data.micro_batch_size", "2")
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "masked_lm", "length", "val_masked_lm", "val_length"):
            assert (a[name] == b[name] == "") or float(a[name]) == pytest.approx(float(b[name]), rel=1e-5)
