"""The doctor names planted faults, is silent on healthy curves, and changes nothing of a training."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert import cli
from bert.errors import InputError
from bert.training import doctor
from bert.training.doctor import Expected, Finding, curve_of, of_curve, read_curve, warn
from tests.conftest import TINY, make_text, run_quietly

# losses of runs on the sample (unigram entropy 6.07, 2,240 entries), at every 10th step
GOOD = [7.10, 6.14, 5.90, 5.48, 5.37, 5.13, 5.00, 4.80, 4.62, 4.50, 4.39, 4.31]
LOW = [7.76, 7.65, 7.53, 7.44, 7.41, 7.35, 7.33, 7.29, 7.28, 7.25, 7.24, 7.25]  # a hundredth of the learning rate
HIGH = [9.65, 8.28, 6.48, 6.17, 6.17, 6.11, 6.12, 6.06, 5.94, 5.74, 5.59, 5.52]  # 30 times
PADDED = [5.87, 3.08, 2.91]
SAMPLE = Expected(6.07, math.log(2240) + 0.5, "optimizer.lr", (1e-4, 5e-3), is_early=True)


def rows_of(losses: list[float], rate: float = 2e-3, norm: float = 1.0) -> list[dict[str, float]]:
    falling = [rate * (1 - number / len(losses)) for number in range(len(losses))]
    return [
        {"step": 10.0 * number, "loss": loss, "learning_rate": one, "gradient_norm": norm}
        for number, (loss, one) in enumerate(zip(losses, falling), start=1)
    ]


def names(losses: list[float], expected: Expected | None = None, finished: bool = True, **more: float) -> list[str]:
    return [one.name for one in of_curve(curve_of(rows_of(losses, **more)), expected, finished)]


# ── curves ──


def test_a_healthy_curve_is_silent_at_each_of_its_rows():
    for rows in range(len(GOOD) + 1):
        assert names(GOOD[:rows], SAMPLE, finished=False) == []
        assert names(GOOD[:rows], SAMPLE) == []
        assert names(GOOD[:rows]) == []


@pytest.mark.parametrize(
    ("losses", "rate", "norm", "name"),
    [
        (LOW, 2e-5, 3.0, "rate too low"),
        (HIGH, 6e-2, 0.2, "rate too high"),
        ([6.1] * 12, 0.06, 0.1, "rate too high"),
        ([6.1] * 100, 2e-3, 0.1, "stuck"),
        ([*GOOD[:6], math.nan, math.nan, math.nan], 2e-3, math.nan, "not finite"),
        (GOOD, 2e-3, 0.0, "frozen"),
    ],
)
def test_a_curve_with_a_planted_fault_is_named(losses: list[float], rate: float, norm: float, name: str):
    assert names(losses, SAMPLE, rate=rate, norm=norm) == [name]


@pytest.mark.parametrize(
    ("losses", "rate", "name"),
    [
        (LOW, 2e-6, "rate too low"),
        (LOW, 2e-4, "stuck"),
        ([0.70, 0.69, 0.695, 0.692, 0.694, 0.693, 0.693, 0.694, 0.692, 0.693], 1e-1, "rate too high"),
        ([*GOOD, 4.2, 6.9, 7.0, 7.1, 6.9, 7.2], 2e-3, "rate too high"),
        (PADDED, 2e-3, "padding counted"),
    ],
)
def test_a_log_of_another_tool_with_a_planted_fault_is_named(losses: list[float], rate: float, name: str):
    assert names(losses, rate=rate) == [name]


def test_a_training_in_its_warm_up_is_waited_for():
    rising = [row | {"learning_rate": 1e-7 * row["step"]} for row in rows_of(LOW)]
    assert list(of_curve(curve_of(rising), SAMPLE, is_finished=False)) == []
    assert [one.name for one in of_curve(curve_of(rising), SAMPLE)] == ["rate too low"]


def test_a_fine_tuning_is_judged_by_its_end():
    labels = Expected(0.69, 1.4, "optimizer.lr", (1e-5, 2e-3))
    assert names([0.69] * 12, labels, finished=False) == []
    assert names([0.69] * 12, labels, rate=1e-7) == ["rate too low"]
    assert names([0.69] * 6 + [0.5] * 3 + [0.3] * 3, labels) == []


@given(st.lists(st.floats(width=32), max_size=40), st.floats(width=32), st.booleans())
def test_any_curve_is_judged_without_an_error(losses: list[float], norm: float, finished: bool):
    for expected in (None, SAMPLE):
        for one in of_curve(curve_of(rows_of(losses, norm=norm)), expected, finished):
            assert "\n" not in one.text
            assert one.name


@given(st.floats(2, 9), st.floats(0.02, 0.2), st.integers(10, 60))
def test_a_loss_that_falls_steadily_is_silent(first: float, fall: float, rows: int):
    falling = [first * math.exp(-fall * row) for row in range(rows)]
    if falling[min(2, rows - 1)] > 0.6 * first or first < 5:
        assert names(falling) == []


# ── logs of other tools ──


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "header",
    ["step,loss", "global_step,train_loss", "Step,train/loss", "_step,bert-run - train/loss", "step,train_loss_step"],
)
def test_the_columns_of_other_tools_are_found_and_empty_cells_left_out(tmp_path: Path, header: str):
    text = f"{header},eval_loss\n10,7.5,\n10,,7.4\n20,7.0,\n"
    curve = read_curve(write(tmp_path / "log.csv", text))
    assert curve.step.tolist() == [10, 20]
    assert curve.loss.tolist() == [7.5, 7.0]
    assert np.isnan(curve.gradient_norm).all()


def test_the_history_of_trainer_is_read_without_the_mean_at_its_end(tmp_path: Path):
    log = [{"loss": 0.7, "grad_norm": 1.0, "learning_rate": 1e-5, "step": 10}, {"eval_loss": 0.6, "step": 10}]
    log += [{"train_loss": 0.65, "train_runtime": 3.0, "step": 10}]
    curve = read_curve(write(tmp_path / "trainer_state.json", json.dumps({"log_history": log})))
    assert (curve.loss.tolist(), curve.learning_rate.tolist()) == ([0.7], [1e-5])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step,loss\n",
        "a,b\n1,2\n",
        "step,loss\n1,=cmd|' /C calc'!A0\n",
        "step,loss\n1,x" + "9" * 200_000 + "\n",
        '"' + "x" * 200_000,
    ],
)
def test_a_csv_without_a_loss_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str):
    file = write(tmp_path / "log.csv", text)
    assert cli.main(["doctor", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"bert: {file}: ")


@pytest.mark.parametrize("cell", ["inf", "nan", "1e999", "\0", "-1" + "0" * 400, "1;2", "\x1b[2J"])
def test_hostile_cells_are_no_error_and_reach_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cell: str
):
    file = write(tmp_path / "log.csv", "step,loss,grad_norm\n" + f"{cell},{cell},{cell}\n" * 9 + f"1,0.5,{cell}\n")
    assert cli.main(["doctor", str(file)]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["[]", "{}", '{"log_history": 1}', '{"log_history": [1]}', "[" * 10_000])
def test_a_json_that_is_no_state_of_trainer_is_refused(tmp_path: Path, text: str):
    with pytest.raises(InputError, match="cannot be read as a log"):
        read_curve(write(tmp_path / "trainer_state.json", text))


def test_a_large_file_is_not_read(tmp_path: Path):
    file = tmp_path / "log.csv"
    with file.open("wb") as stream:
        stream.truncate(1 << 31)
    with pytest.raises(InputError, match="more than"):
        read_curve(file)


def test_what_is_neither_a_run_nor_a_log_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for path in (tmp_path, tmp_path / "nothing"):
        assert cli.main(["doctor", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


# ── runs ──


def doctor_of(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert cli.main(["doctor", str(path)]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_healthy_run_is_silent(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    (line,) = doctor_of(tiny_run, capsys)
    assert line == f"{tiny_run}: nothing looks wrong in its loss, its text and its masks"


def test_a_run_without_its_text_says_what_it_could_not_look_at(tmp_path: Path, tiny_run: Path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("recipe.yaml", "metrics.csv"):
        (run / name).write_bytes((tiny_run / name).read_bytes())
    first, last = doctor_of(run, capsys)
    assert first.startswith("not seen: the text was not looked at")
    assert "nothing looks wrong" in last


SENTENCE = (
    "The old man sees the river near the station and carries a letter to the teacher in the morning after the rain."
)


@pytest.mark.parametrize(
    ("text", "flags", "name"),
    [
        ("\n\n".join(f"{number}\n" + f"{SENTENCE}\n" * 3 for number in range(60)), [], "duplicated text"),
        ("\n\n".join("x " * (20 + number) for number in range(60)), [], "constant text"),
        ("\n\n".join(f"[CLS] {one} [SEP]" for one in make_text().split("\n\n")), [], "special tokens in text"),
        (make_text(), ["--masking.rate=0.001", "--data.sequence_length=64"], "almost nothing masked"),
    ],
)
def test_a_planted_fault_of_the_text_is_said_before_the_first_step_and_of_the_run(
    tmp_path: Path, said: list[str], capsys: pytest.CaptureFixture[str], text: str, flags: list[str], name: str
):
    run = tmp_path / "run"
    sizes = ["--vocabulary.size=null"]
    run_quietly(["pretrain", str(write(tmp_path / "text.txt", text)), "--out", str(run), *TINY, *flags, *sizes])
    lines = doctor_of(run, capsys)
    found = [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]
    assert len(found) == 1, lines
    assert said.count(found[0]) == 1
    assert said.index(found[0]) < next(number for number, line in enumerate(said) if line.startswith("validation: "))


def test_the_curve_is_watched_and_each_finding_said_once(tmp_path: Path, text_file: Path, said: list[str]):
    flags = [*TINY, "--stop.steps=16", "--optimizer.lr=3", "--optimizer.muon_lr=3"]
    run_quietly(["pretrain", str(text_file), "--out", str(tmp_path / "run"), *flags])
    assert sum(line.startswith("the loss is ") for line in said) == 1


def test_a_watched_run_is_bit_for_bit_one_that_is_not(
    tmp_path: Path, tiny_run: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bert.training.doctor.Watch.on_train_batch_end", lambda *_: None)
    monkeypatch.setattr("bert.pretraining.run.doubts", lambda _: ())
    run_quietly(["pretrain", str(text_file), "--out", str(tmp_path / "run"), *TINY])
    weights = "model/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (tiny_run / weights).read_bytes()
    logs = [list(csv.DictReader((run / "metrics.csv").open())) for run in (tmp_path / "run", tiny_run)]
    assert len(logs[0]) == len(logs[1]) > 0
    for one, other in zip(*logs):
        assert {name: one[name] for name in ("loss", "gradient_norm")} == {
            name: other[name] for name in ("loss", "gradient_norm")
        }


def test_a_check_that_fails_ends_no_training(said: list[str], monkeypatch: pytest.MonkeyPatch):
    def broken():
        yield Finding("one", "said")
        raise ZeroDivisionError

    warn(broken())
    assert said == ["said"]


def test_the_log_of_a_run_is_a_log_of_any_tool(tiny_run: Path):
    with (tiny_run / "metrics.csv").open() as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream) if row["loss"]]
    assert read_curve(tiny_run / "metrics.csv").loss.tolist() == losses
    assert doctor.__doc__
