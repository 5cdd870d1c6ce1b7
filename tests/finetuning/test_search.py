"""The search for learning rate and steps: it is successive halving, its scores are those of runs, and it leaves one whole run."""

import csv
import math
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.cli import main
from bert.finetuning import run as running
from bert.finetuning import search as searching
from bert.finetuning.config import DataConfig, FinetuneOptimizer, FinetuneRecipe
from bert.finetuning.run import prepare, trained_on
from bert.finetuning.search import Until, points_of, searched
from bert.finetuning.tasks.index import task_named
from bert.recipe import read_recipe
from bert.signals import handled
from bert.training.callbacks import NotFinite, StopOnSignal
from bert.training.folder import Launch
from tests import warm
from tests.conftest import run_quietly

from .synthetic import FAST, save_encoder, texts, write_texts
from .test_folds import recipe_of
from .test_resume import PROGRAM, log_of, report_of

CLASSIFY = task_named("classify")
SEARCH = ["--search=5", "--epochs=1.8", "--select=loss", "--head.dropout=0.3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    """A folder with an encoder, its rows, and the finished run `whole`, of nine steps by default, with a search."""
    folder = tmp_path_factory.mktemp("search")
    save_encoder(tiny_run, folder / "encoder")
    for name, count, seed in (("train", 40, 1), ("dev", 20, 2), ("test", 20, 3)):
        write_texts(folder / f"{name}.tsv", texts(count, seed))
    run_quietly(arguments(folder, folder / "whole", *SEARCH))
    return folder


def arguments(place, out, *extra):
    files = [f"--{name}={place / name}.tsv" for name in ("train", "dev", "test")]
    model = f"--model={place / 'encoder'}"
    return ["finetune", "classify", model, *files, f"--out={out}", *FAST, "--data.batch_size=8", *extra]


def table_of(run):
    """The rows of search.csv without their seconds."""
    with (run / "search.csv").open(newline="", encoding="utf-8") as stream:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(stream)]


def kept_of(run):
    (row,) = (row for row in table_of(run) if row["kept"] == "yes")
    return row


# ── the points, and successive halving ──


def test_the_points_are_three_rates_by_three_numbers_of_steps_and_the_recipe_is_the_first():
    recipe = FinetuneRecipe(optimizer=FinetuneOptimizer(lr=2.5e-4, muon_lr=0.02), epochs=3, search=1)
    points = points_of(recipe, 10)
    assert points[0].recipe == replace(recipe, search=None)
    rates = [(one.recipe.optimizer.lr, one.recipe.optimizer.muon_lr) for one in points[:3]]
    assert rates == [(2.5e-4, 0.02), (8.3e-5, 6.7e-3), (7.5e-4, 0.06)]  # to two digits
    assert [one.steps for one in points] == [30] * 3 + [15] * 3 + [60] * 3
    assert len({(one.recipe.optimizer.lr, one.steps) for one in points}) == 9
    assert [one.steps for one in points_of(replace(recipe, epochs=0.1), 10)][::3] == [1, 1, 2]


@given(st.floats(0.1, 20), st.integers(1, 300))
def test_a_run_of_a_point_has_its_number_of_steps(epochs, in_epoch):
    of = FinetuneOptimizer(lr=1e-3)
    for point in points_of(FinetuneRecipe(epochs=epochs, optimizer=of, search=1), in_epoch):
        assert round(point.recipe.epochs * in_epoch) == point.steps


def search(measure, folder, **fields):
    """(the recipe that is kept, the rows of the table) of a search of nine points with 90, 45 and 180 steps, in which
    `measure(recipe, step, deadline)` gives the accuracy; None: the training diverges or is not there in time."""

    def trained(recipe, items, step, until):
        if (score := measure(recipe, step, until.deadline)) is None:
            raise NotFinite("the loss is nan")
        return SimpleNamespace(validation={} if score is None else {"accuracy": score})

    data = SimpleNamespace(train=[None] * 300, task=CLASSIFY)
    optimizer = FinetuneOptimizer(lr=1e-4)
    recipe = FinetuneRecipe(data=DataConfig(batch_size=10), optimizer=optimizer, **{"epochs": 3, **fields})
    return searched(recipe, data, folder / "search.csv", trained), table_of(folder)


scores = st.none() | st.floats(0, 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(scores, scores), min_size=9, max_size=9))
def test_the_best_third_goes_on_and_the_best_of_these_is_kept(tmp_path_factory, table):
    """Against the definition. None: the training diverges."""
    of_point, seen = {}, []

    def measure(recipe, step, deadline):
        number = of_point.setdefault((recipe.optimizer.lr, recipe.epochs), len(of_point))
        steps = round(30 * recipe.epochs)
        assert step in (round(steps / 9), round(steps / 3))
        seen.append((number, step == round(steps / 3)))
        return table[number][step == round(steps / 3)]

    best, rows = search(measure, tmp_path_factory.mktemp("search"), search=60.0)
    first = [(number, score) for number, (score, _) in enumerate(table) if score is not None]
    three = [number for number, _ in sorted(first, key=lambda one: -one[1])[:3]]
    again = [(number, table[number][1]) for number in three if table[number][1] is not None]
    assert seen == [(number, False) for number in range(9)] + [(number, True) for number in three]
    kept = of_point[best.optimizer.lr, best.epochs]
    candidates = dict(again or first or [(0, None)])
    assert candidates[kept] == max(candidates.values(), key=lambda score: score or 0)
    for number, (row, (one, other)) in enumerate(zip(rows, table)):
        known = [one, other if number in three else None]
        if all(score is None for score, _ in table):
            continue  # no metric has a name
        assert [row["accuracy_at_1/9"], row["accuracy_at_1/3"]] == ["" if one is None else str(one) for one in known]
        assert row["kept"] == ("yes" if number == kept else "")


@pytest.mark.parametrize(
    ("seconds", "reached"),
    [
        (100, (1, 0)),  # the recipe itself is measured though it takes too long
        (25, (2, 0)),
        (6.5, (9, 0)),
        (5.4, (9, 2)),
        (4.9, (9, 3)),
    ],
)
def test_the_search_ends_with_its_minutes_and_says_how_far_it_came(tmp_path, monkeypatch, said, seconds, reached):
    clock = [1000.0]
    monkeypatch.setattr(searching.time, "monotonic", lambda: clock[0])

    def measure(recipe, step, deadline):
        assert clock[0] < deadline
        is_late = deadline < clock[0] + seconds
        clock[0] += deadline - clock[0] if is_late else seconds
        return None if is_late else clock[0] / 1e4  # each is better than the one before

    best, rows = search(measure, tmp_path, search=1.0)
    assert clock[0] <= 1000 + max(60, seconds)
    first, second = (sum(bool(row[f"accuracy_at_1/{divisor}"]) for row in rows) for divisor in (9, 3))
    assert (first, second) == reached
    found = max(rows, key=lambda row: (bool(row["accuracy_at_1/3"]), row["accuracy_at_1/3"] or row["accuracy_at_1/9"]))
    assert (found["kept"], float(found["learning_rate"])) == ("yes", best.optimizer.lr)
    lines = [
        f"search: {first} of 9 points measured at 1/9",
        f"search: {second} of {min(3, first)} points measured at 1/3",
    ]
    assert [line.partition(" of their")[0] for line in said if "points measured" in line] == lines


# ── in a run ──


def test_scores_are_those_of_runs_with_this_rate_and_number_of_steps(place, tmp_path):
    """Bit for bit: of the kept point, at both rungs, and of another one."""
    table = table_of(place / "whole")
    assert sum(bool(row["loss_at_1/3"]) for row in table) == 3
    other = next(row for row in table if row["kept"] != "yes")
    for number, row in enumerate([kept_of(place / "whole"), other]):
        steps = int(row["steps"])
        flags = [f"--optimizer.lr={row['learning_rate']}", f"--epochs={steps / 5}", "--validation.every_steps=1"]
        run_quietly(arguments(place, tmp_path / str(number), *SEARCH[2:], *flags))
        found = {row["step"]: row["dev_loss"] for row in log_of(tmp_path / str(number)) if row["dev_loss"]}
        assert len(found) == steps
        for divisor in (9, 3):
            assert row[f"loss_at_1/{divisor}"] in ("", found[str(max(1, round(steps / divisor)))])


def test_the_recipe_of_the_run_is_the_best_point_and_repeats_it_without_a_search(place, tmp_path, said):
    row, recipe = kept_of(place / "whole"), read_recipe(place / "whole" / "recipe.yaml", FinetuneRecipe)
    furthest = [float(one["loss_at_1/3"]) for one in table_of(place / "whole") if one["loss_at_1/3"]]
    assert float(row["loss_at_1/3"]) == min(furthest)
    assert (recipe.search, recipe.optimizer.lr) == (None, float(row["learning_rate"]))
    assert round(5 * recipe.epochs) == int(row["steps"])
    assert max(int(line["step"]) for line in log_of(place / "whole")) == int(row["steps"])
    run_quietly(["finetune", "classify", f"--config={place / 'whole' / 'recipe.yaml'}", f"--out={tmp_path / 'again'}"])
    assert not any(line.startswith("search") for line in said)
    assert_same(place / "whole", tmp_path / "again")


def assert_same(one, other):
    assert (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()
    assert log_of(one) == log_of(other)
    assert report_of(one) == report_of(other)


@pytest.mark.slow
def test_other_test_labels_and_more_seeds_make_the_same_search(place, tmp_path, said):
    rows = [(text, {"early": "late", "late": "other", "other": "early"}[label]) for text, label in texts(20, 3)]
    other = write_texts(tmp_path / "test.tsv", rows)
    run_quietly(arguments(place, tmp_path / "run", *SEARCH, "--seeds=2", f"--test={other}"))
    assert table_of(tmp_path / "run") == table_of(place / "whole")
    assert sum(line.startswith("search: learning rate") for line in said) == 12
    for seed in (0, 1):
        recipe = read_recipe(tmp_path / "run" / f"seed-{seed}" / "recipe.yaml", FinetuneRecipe)
        assert recipe.optimizer.lr == float(kept_of(place / "whole")["learning_rate"])
        assert not (tmp_path / "run" / f"seed-{seed}" / "search.csv").exists()


KILLS = {
    "in the search": 'before(run, "trained_on", send, lambda *given: given[4] == 6)',
    "before the table is there": 'before(__import__("bert.finetuning.search").finetuning.search, "write_table", send)',
    "before the recipe is there": 'before(run.run_folder, "mark_ready", send)',
    "in the run": 'before(TaskTraining, "training_step", send, lambda self, *_: self.trainer.loggers and at(8)(self))',
}


@pytest.mark.slow
@pytest.mark.parametrize("where", KILLS)
def test_a_search_that_is_killed_leaves_no_run_and_the_same_command_goes_on(place, tmp_path, where):
    command = arguments(place, tmp_path / "run", *SEARCH)
    assert warm.run(PROGRAM.format(patch=KILLS[where]), *command).returncode == -signal.SIGKILL
    has_begun = where == "in the run"
    assert [(tmp_path / "run" / name).exists() for name in ("recipe.yaml", "model")] == [has_begun, has_begun]
    again = warm.run(PROGRAM.format(patch=""), *command)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("search: learning rate") == (0 if has_begun else 12)
    assert table_of(tmp_path / "run") == table_of(place / "whole")
    assert_same(place / "whole", tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in (place / "whole").iterdir()}


def test_a_signal_ends_a_search_and_an_overwritten_run_stays(place, tmp_path, capsys, monkeypatch):
    class Stopping(StopOnSignal):
        def on_train_start(self, trainer, pl_module):
            if pl_module.progress.stop.steps == 18:
                self.signals.received = signal.SIGTERM
            super().on_train_start(trainer, pl_module)

    monkeypatch.setattr(running, "StopOnSignal", Stopping)
    out = tmp_path / "run"
    assert main(arguments(place, out, *SEARCH)) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("stopped: run the same command to continue\n")
    assert not out.exists()
    run_quietly(arguments(place, out, "--epochs=0.4"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(arguments(place, out, *SEARCH, "--overwrite")) == 128 + signal.SIGTERM
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def trained(place, folder, deadline=math.inf, **optimizer):
    """The module after a training of three steps, or to its deadline."""
    recipe = recipe_of(str(place / "encoder"), str(place / "train.tsv"), optimizer=FinetuneOptimizer(**optimizer))
    with handled() as signals:
        resolved, data = prepare(CLASSIFY, recipe)
        launch = Launch(folder, signals, False, lambda: None)
        return trained_on(launch, data, resolved, data.train, 3, Until(deadline))


def test_a_training_ends_at_its_deadline_without_scores_and_at_its_step_with_them(place, tmp_path):
    late, whole = trained(place, tmp_path, deadline=0.0), trained(place, tmp_path)
    assert (late.progress.step, late.validation) == (1, {})
    assert (whole.progress.step, set(whole.validation)) == (3, {"accuracy", "macro_f1", "mcc", "loss"})


def test_a_training_that_diverges_is_no_error_of_the_search_and_other_mistakes_are(place, tmp_path, capsys):
    with pytest.raises(NotFinite):
        trained(place, tmp_path, lr=1e30)
    assert main(arguments(place, tmp_path / "run", "--search=1", "--freeze=9")) == 2
    assert capsys.readouterr().err.endswith("\nbert: freeze is 9; must be at most 2, the layers of the model\n")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--search=0"], "search is 0.0: give more than 0"),
        (["--search=-2.5"], "search is -2.5: give more than 0"),
        (["--search=long"], "search is long: give a number or null"),
        (["--search=5", "--trainer.devices=2"], "search: 2 processes train; must be one: give trainer.devices 1"),
    ],
)
def test_searches_that_are_refused(place, tmp_path, capsys, flags, line):
    assert main(arguments(place, tmp_path / "run", *flags)) == 2
    assert capsys.readouterr().err == f"bert: {line}\n"
    assert not (tmp_path / "run").exists()
