"""Milestones: the weights of the steps that reach their points. They change nothing else in a run, and a resumed one writes each once."""

import csv
import errno
import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.cli import main
from bert.data.milestones import milestones
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.hf import folder as model_folder
from bert.model.heads import MaskedLM
from bert.pretraining.config import PretrainCheckpoint
from bert.probing.pairs import minimal_pairs
from bert.probing.rows import Pair
from bert.probing.senses import senses
from bert.probing.sentences import score
from bert.training.callbacks import NotFinite
from bert.training.checkpoints import Milestones
from bert.training.config import StopConfig
from bert.training.schedules import Progress
from tests import warm

from ..conftest import TINY, run_quietly
from .test_phased_run import log_without_time, same, state_of
from .test_resume import KILLER

STEPS = 8
FLAGS = [
    *(flag for flag in TINY if "stop.steps" not in flag and "checkpoint" not in flag and "log" not in flag),
    f"--stop.steps={STEPS}",
    "--checkpoint.every_steps=1",
    "--checkpoint.keep=20",
    "--log.every_steps=3",
    "--validation.every_steps=4",
    "--data.validation_split=0.2",
    "--encoder.attention_dropout=0.1",
]
HALVINGS = [1, 2, 4, 8]
"""the steps of four log-spaced milestones in a run of 8 steps"""


@pytest.fixture(scope="module")
def runs(text_file, tmp_path_factory):
    """A run with four log-spaced milestones, and the same run without."""
    home = tmp_path_factory.mktemp("milestones")
    for name, flags in (("with", ["--checkpoint.milestones=4"]), ("without", [])):
        run_quietly(["pretrain", str(text_file), "--out", str(home / name), *FLAGS, *flags])
    return home / "with", home / "without"


def contents(run):
    """All files of all milestones but the model cards, which tell the minutes."""
    files = (file for file in (run / "milestones").rglob("*") if file.is_file() and file.name != "README.md")
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def cut(run, to, checkpoint, milestone):
    """A copy of `run` as if it had been killed after `checkpoint` was saved and the milestone of the step `milestone` was written."""
    shutil.copytree(run, to)
    shutil.rmtree(to / "model")
    for later in range(checkpoint + 1, STEPS + 1):
        shutil.rmtree(to / "checkpoints" / f"step-{later:08d}")
    for later in (one for one in milestones(to) if one.step > milestone):
        shutil.rmtree(later.folder)
    return to


def test_a_run_with_milestones_equals_one_without_bit_for_bit(runs):
    kept, plain = runs
    for step in range(1, STEPS + 1):
        assert same(state_of(kept, step), state_of(plain, step)), step
    assert log_without_time(kept) == log_without_time(plain)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (kept / "model" / file).read_bytes() == (plain / "model" / file).read_bytes()
    assert not (plain / "milestones").exists()


def test_a_milestone_is_a_whole_model_folder_with_the_weights_of_its_step(runs):
    run, _ = runs
    for one in milestones(run):
        weights = torch.load(run / f"checkpoints/step-{one.step:08d}/state.pt", weights_only=True)["state_dict"]
        model = MaskedLM.load(one.folder)
        assert all(torch.equal(weights[f"model.{name}"], tensor) for name, tensor in model.state_dict().items())
        assert model.tokenizer.hash == Tokenizer.load(run / "model").hash
        assert {file.name for file in one.folder.iterdir()} == {
            *(file.name for file in (run / "model").iterdir()),
            "milestone.json",
        }
    last = milestones(run)[-1].folder
    assert (last / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


def test_log_spaced_milestones_are_those_of_the_halvings_of_the_budget_and_tell_tokens_and_loss(runs, tmp_path):
    found = milestones(str(runs[0]))
    assert [one.step for one in found] == HALVINGS
    for one in found:
        state = torch.load(runs[0] / f"checkpoints/step-{one.step:08d}/state.pt", weights_only=True)
        assert one.tokens == state["progress"]["tokens"] == int(one.folder.name)
    # Rows of the log are of the steps 3, 6 and 8, so that the loss of step 8 is that of its row.
    losses = {int(row["step"]): float(row["loss"]) for row in log_without_time(runs[0]) if row["loss"]}
    assert found[-1].loss == losses[8]
    # That of step 2 is the mean over the masked tokens of steps 1 and 2, in the open row of the checkpoint of step 2.
    row = torch.load(runs[0] / "checkpoints/step-00000002/state.pt", weights_only=True)["open_log_row"]
    assert found[1].loss == float(row["loss_sums"]["loss"]) / row["counts"]["loss"]
    assert milestones(tmp_path) == []


def test_listed_milestones_are_the_first_steps_by_which_so_many_tokens_are_seen(runs, text_file, tmp_path):
    seen = [state_of(runs[1], step)["progress"]["tokens"] for step in range(1, STEPS + 1)]
    points = [seen[2] + 1, seen[5], seen[5] - 1, 1e9]  # within step 4, step 6 twice, never
    listed = f"--checkpoint.milestones=[{', '.join(map(str, points))}]"
    run_quietly(["pretrain", str(text_file), "--out", str(tmp_path / "run"), *FLAGS, listed])
    assert [(one.step, one.tokens) for one in milestones(tmp_path / "run")] == [(4, seen[3]), (6, seen[5])]


class Noted(Milestones):
    """Notes the steps at which it would write."""

    def __init__(self, points):
        super().__init__(None, points, None, None)
        self.steps = []

    def _write(self, progress, loss):
        self.steps.append(progress.step)


def written(points, stop, tokens_of_steps, resumed_after=None, loss=1.0, is_global_zero=True):
    """The steps at which milestones are written in a run, resumed by a new process after a step."""
    progress, keeper, steps = Progress(stop), Noted(points), []
    module = SimpleNamespace(progress=progress, mean_losses=lambda: {"loss": loss})
    trainer = SimpleNamespace(is_global_zero=is_global_zero)
    keeper.on_train_start(trainer, module)
    for number, tokens in enumerate(tokens_of_steps, start=1):
        progress.advance(tokens, seconds=number)
        keeper.on_train_batch_end(trainer, module)
        if number == resumed_after:
            steps, keeper = keeper.steps, Noted(points)
            module.progress = progress = Progress(stop)
            progress.restore({"step": number, "tokens": sum(tokens_of_steps[:number]), "seconds": number})
            keeper.on_train_start(trainer, module)
    return steps + keeper.steps


TOKENS = st.lists(st.integers(1, 40), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 8), tokens=TOKENS, resumed_after=st.integers(1, 40), by_tokens=st.booleans())
def test_halvings_are_reached_at_the_definition_whatever_the_budget_counts(n, tokens, resumed_after, by_tokens):
    total = sum(tokens) if by_tokens else len(tokens)
    stop = StopConfig(tokens=total) if by_tokens else StopConfig(steps=total)
    used = [sum(tokens[: step + 1]) if by_tokens else step + 1 for step in range(len(tokens))]
    expected = {next(step + 1 for step, u in enumerate(used) if u * 2**k >= total) for k in range(n)}
    assert written(n, stop, tokens, resumed_after) == sorted(expected)
    assert max(expected) == len(tokens)


@settings(max_examples=50, deadline=None)
@given(points=st.lists(st.integers(1, 500), min_size=1, max_size=8), tokens=TOKENS, resumed_after=st.integers(1, 40))
def test_listed_tokens_are_reached_at_the_definition(points, tokens, resumed_after):
    seen = [sum(tokens[: step + 1]) for step in range(len(tokens))]
    firsts = [[step + 1 for step, s in enumerate(seen) if s >= point] for point in points]
    expected = sorted({steps[0] for steps in firsts if steps})
    assert written(points, StopConfig(steps=len(tokens)), tokens, resumed_after) == expected


def test_of_a_budget_in_minutes_the_points_are_shares_of_its_time():
    # A step a second, of which the first does not count: after steps 2, 3, 5 and 9 are 1/8, 1/4, 1/2 and all of 8 seconds over.
    assert written(4, StopConfig(minutes=9 / 60), [10] * 9) == [2, 3, 5, 9]


def test_rank_0_alone_writes_and_a_loss_that_is_not_finite_ends_the_run_before():
    assert written(4, StopConfig(steps=8), [1] * 8, is_global_zero=False) == []
    with pytest.raises(NotFinite, match="the loss is nan at step 1"):
        written(4, StopConfig(steps=8), [1] * 8, loss=float("nan"))


@pytest.mark.parametrize(("checkpoint", "milestone"), [(3, 2), (3, 4), (7, 4), (1, 8)])
def test_a_run_that_was_killed_and_resumed_has_the_milestones_of_one_that_was_not(
    runs, tmp_path, checkpoint, milestone
):
    run = cut(runs[0], tmp_path / "run", checkpoint, milestone)
    before = {one.step: (one.folder / "config.json").stat().st_ino for one in milestones(run)}
    run_quietly(["pretrain", "--resume", str(run)])
    assert contents(run) == contents(runs[0])
    assert same(state_of(run, STEPS), state_of(runs[0], STEPS))
    after = {one.step: (one.folder / "config.json").stat().st_ino for one in milestones(run)}
    assert before.items() <= after.items()  # none is written twice


DURING_THE_WRITE = """
real = checkpoints.Milestones._write
def write(self, progress, loss):
    if progress.step == 4:
        export = self.export
        self.export = lambda folder: (export(folder), die())
    real(self, progress, loss)
checkpoints.Milestones._write = write
"""
BEFORE_THE_CHECKPOINT = """
real = checkpoints.Checkpoints._save
def save(self, trainer, last=False):
    if trainer.global_step == 4: die()
    real(self, trainer, last)
checkpoints.Checkpoints._save = save
"""


@pytest.mark.slow
@pytest.mark.parametrize(("patch", "kept"), [(DURING_THE_WRITE, [1, 2]), (BEFORE_THE_CHECKPOINT, [1, 2, 4])])
def test_a_run_killed_while_a_milestone_or_its_checkpoint_is_written_has_the_same_ones(
    text_file, runs, tmp_path, patch, kept
):
    run, flags = tmp_path / "run", [*FLAGS, "--checkpoint.milestones=4"]
    done = warm.run(KILLER.format(patch=patch), "pretrain", text_file, "--out", run, *flags)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [one.step for one in milestones(run)] == kept
    run_quietly(["pretrain", "--resume", str(run)])
    assert contents(run) == contents(runs[0])
    assert {path.name for path in (run / "milestones").iterdir()} == {one.folder.name for one in milestones(run)}


def test_of_a_run_resumed_with_another_recipe_the_later_milestones_go_and_files_of_the_user_stay(runs, tmp_path):
    run = cut(runs[0], tmp_path / "run", checkpoint=3, milestone=8)
    by_step = {one.step: one.folder for one in milestones(run)}
    for folder in (by_step[2], by_step[8]):
        (folder / "notes.txt").write_text("mine")
    run_quietly(["pretrain", "--resume", str(run), "--optimizer.lr=1e-3", "--stop.steps=6"])
    assert [one.step for one in milestones(run)] == [1, 2, 6]
    assert {file.name for file in by_step[8].iterdir()} == {"notes.txt"}
    assert not by_step[4].exists()
    assert (by_step[2] / "notes.txt").exists()


def test_a_longer_budget_goes_on_from_the_milestones_that_are_there(runs, tmp_path):
    run = cut(runs[0], tmp_path / "run", checkpoint=8, milestone=8)
    run_quietly(["pretrain", "--resume", str(run), "--stop.steps=16"])
    assert [one.step for one in milestones(run)] == [*HALVINGS, 16]


def test_a_run_that_replaces_another_has_none_of_its_milestones(runs, text_file, tmp_path):
    shutil.copytree(runs[0], run := tmp_path / "run")
    run_quietly(["pretrain", str(text_file), "--out", str(run), *FLAGS, "--stop.steps=1", "--overwrite"])
    assert not (run / "milestones").exists()


def test_a_full_disk_is_a_warning_and_training_goes_on(runs, text_file, tmp_path, monkeypatch):
    save_file = model_folder.save_file

    def full(tensors, file, metadata):
        if "milestones" in file.parts and len(milestones(run)) == 1:
            monkeypatch.setattr(model_folder, "save_file", save_file)
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, file, metadata)

    monkeypatch.setattr(model_folder, "save_file", full)
    run = tmp_path / "run"
    with pytest.warns(UserWarning, match=r"the milestone could not be written \(No space left on device\)"):
        assert main(["pretrain", str(text_file), "--out", str(run), *FLAGS, "--checkpoint.milestones=4"]) == 0
    assert [one.step for one in milestones(run)] == [1, 4, 8]
    assert len(list((run / "milestones").iterdir())) == 3
    assert (run / "model/model.safetensors").read_bytes() == (runs[1] / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize("value", [0, 33, -1, [], [0], [1e6, -2.0], True, "12", 1.5, [1e6, "2M"]])
def test_a_value_that_is_no_set_of_milestones_is_named(value):
    with pytest.raises(
        InputError, match=r"^checkpoint\.milestones is .*: give 1 to 32, or a list of numbers of tokens"
    ):
        PretrainCheckpoint(milestones=value)


@pytest.mark.parametrize("value", ["abc", "1.5", "[1, x]"])
def test_a_flag_of_another_type_is_named_with_what_it_takes(value, text_file, tmp_path, capsys):
    assert main(["pretrain", str(text_file), "--out", str(tmp_path / "run"), "--checkpoint.milestones", value]) == 2
    assert ": give a whole number or a list or null" in (told := capsys.readouterr().err)
    assert "checkpoint.milestones is " in told


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"step": 1, "tokens": null, "loss": 1}', '{"step": 1e999}'])
def test_a_damaged_record_is_named(runs, tmp_path, damage):
    shutil.copytree(runs[0] / "milestones", tmp_path / "milestones")
    record = milestones(tmp_path)[2].folder / "milestone.json"
    record.write_text(damage)
    with pytest.raises(InputError, match=r"milestone\.json: is not the record of a milestone .*: remove the folder"):
        milestones(tmp_path)


def test_the_record_is_small_and_plain(runs):
    for one in milestones(runs[0]):
        record = json.loads((one.folder / "milestone.json").read_text())
        assert record == {"step": one.step, "tokens": one.tokens, "loss": one.loss}


def test_of_what_a_model_folder_cannot_hold_only_the_finished_model_warns(text_file, tmp_path):
    flags = [*FLAGS, "--stop.steps=2", "--checkpoint.milestones=2", "--encoder.hidden_dropout=0.2"]
    with pytest.warns(UserWarning, match=r"cannot hold encoder\.hidden_dropout") as caught:
        run_quietly(["pretrain", str(text_file), "--out", str(tmp_path / "run"), *flags])
    assert [str(one.message).split(":")[0] for one in caught if "cannot hold" in str(one.message)] == [
        str(tmp_path / "run/model/config.json")
    ]


def told(command, tmp_path, capsys, *arguments):
    """The table of `command` over the milestones of a run, as printed and as written."""
    assert main([command, *map(str, arguments), "--out", str(tmp_path / "out.tsv")]) == 0, capsys.readouterr().err
    header, *rows = csv.reader((tmp_path / "out.tsv").read_text().splitlines(), delimiter="\t")
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for tokens, *values in rows:  # of a wide table in several parts
        cells = [cell for line in printed if line[:1] == [f"{int(tokens):,}"] for cell in line[1:]]
        assert cells == [f"{float(value):.3f}" for value in values]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_pairs_and_sentences_are_scored_over_training_as_by_each_model(runs, tmp_path, capsys):
    run, found = runs[0], milestones(runs[0])
    pairs = [Pair("the cat sees a river", "river a sees cat the"), Pair("a dog finds bread", "bread dog a finds")]
    lines = "".join(json.dumps({"good": pair.good, "bad": pair.bad}) + "\n" for pair in pairs)
    (tmp_path / "pairs.jsonl").write_text(lines)
    (tmp_path / "text.txt").write_text("the cat sees a river\n\na dog\n")
    rows = told("score", tmp_path, capsys, tmp_path / "pairs.jsonl", "--checkpoints", run)
    assert [(int(row["tokens"]), float(row["loss"])) for row in rows] == [(one.tokens, one.loss) for one in found]
    expected = [minimal_pairs(pairs, one.folder).overall.accuracy for one in found]
    assert [float(row["accuracy"]) for row in rows] == expected
    rows = told("score", tmp_path, capsys, tmp_path / "text.txt", "--checkpoints", run)
    for row, one in zip(rows, found, strict=True):
        values = np.concatenate([s.log_probabilities for s in score(["the cat sees a river", "a dog"], one.folder)])
        assert float(row["per token"]) == pytest.approx(values.mean(), abs=1e-6)


def test_senses_are_measured_over_training_beside_their_controls(runs, tmp_path, capsys):
    rows = [("apple", f"the apple {verb} {n}", sense) for n in "abcde" for sense, verb in (("1", "sees"), ("2", "is"))]
    table = "word\tsentence\tsense\n" + "".join("\t".join(row) + "\n" for row in rows)
    (tmp_path / "senses.tsv").write_text(table)
    found = told("senses", tmp_path, capsys, tmp_path / "senses.tsv", "--checkpoints", runs[0])
    for row, one in zip(found, milestones(runs[0]), strict=True):
        result = senses(tmp_path / "senses.tsv", one.folder)
        shown = {name: float(value) for name, value in row.items() if name not in ("tokens", "loss")}
        learned = "nearest neighbor", "linear probe", result.headline
        assert shown == {method: result.mean(method) for method in (*result.controls, *learned)}
        assert int(row["tokens"]) == one.tokens


@pytest.mark.parametrize(
    "given", [[], ["--model", "RUN/model", "--checkpoints", "RUN"], ["--checkpoints", "RUN/model"]]
)
def test_a_model_or_a_run_with_milestones_is_asked_for(runs, tmp_path, capsys, given):
    (tmp_path / "text.txt").write_text("the cat sees a river\n")
    given = [argument.replace("RUN", str(runs[0])) for argument in given]
    assert main(["score", str(tmp_path / "text.txt"), *given]) == 2
    wanted = "no milestones: give a run" if len(given) == 2 else "give --model or --checkpoints, one of them"
    assert wanted in capsys.readouterr().err
