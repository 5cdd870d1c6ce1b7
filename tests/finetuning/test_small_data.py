"""What helps with little, imbalanced or noisy data: layer-wise rates, frozen layers, class weights, smoothing, early ends, averages, and
a stratified dev set. Each against its definition or an independent implementation."""

import json
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.class_weight import compute_class_weight

from bert.cli import main
from bert.data.examples import Example
from bert.errors import InputError
from bert.finetuning.assess import assess
from bert.finetuning.batches import Batches, collate
from bert.finetuning.config import DataConfig, FinetuneOptimizer, FinetuneRecipe, ValidationConfig
from bert.finetuning.initialization import fit_output
from bert.finetuning.inputs import hold_out, resolved
from bert.finetuning.module import KeepBest, TaskTraining
from bert.finetuning.run import finetune
from bert.finetuning.tasks.index import task_named
from bert.model.encoder import Encoder
from bert.model.heads import SequenceClassifier
from bert.training.optimizers import make_optimizer, restore_highest_rates, set_learning_rate
from tests.conftest import run_quietly

from .synthetic import FAST, save_encoder, texts, write_texts
from .test_module import ITEMS, fit, make
from .test_run import rows_of

CLASSIFY = task_named("classify")
MAKER = SimpleNamespace(sequence_length=128, stride=63)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_run):
    folder = tmp_path_factory.mktemp("small")
    save_encoder(tiny_run, folder / "encoder")
    for name, count, seed in (("train", 40, 1), ("dev", 60, 2)):
        write_texts(folder / f"{name}.tsv", texts(count, seed))
    return folder


def arguments(place, out, *extra):
    files = ["--train", str(place / "train.tsv"), "--dev", str(place / "dev.tsv"), "--out", str(out)]
    return ["finetune", "classify", "--model", str(place / "encoder"), *files, *FAST, "--data.batch_size=8", *extra]


# ── which parameters learn, and how fast ──


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_layer_learns_more_slowly_the_deeper_it_lies(kind):
    config = FinetuneOptimizer(kind=kind, lr=1e-3, muon_lr=1e-2, layer_decay=0.5)
    module = make("classify")
    module.optimizer_config = config
    optimizer = make_optimizer(module.model, config, module.rate_share)
    restore_highest_rates(optimizer, config)  # as at the start of a resumed run
    set_learning_rate(optimizer, 0.1)
    rate = {id(one): (group["lr"], group["kind"]) for group in optimizer.param_groups for one in group["params"]}
    factors = {"encoder.embeddings": 0.125, "encoder.layers.0": 0.25, "encoder.layers.1": 0.5, "head": 1.0}
    seen = set()
    for name, parameter in module.model.named_parameters():
        factor = next((value for start, value in factors.items() if name.startswith(f"{start}.")), 1.0)
        found, by = rate[id(parameter)]
        assert found == pytest.approx(0.1 * factor * (1e-2 if by == "muon" else 1e-3)), name
        seen.add((by, factor))
    assert len(seen) == (4 if kind == "adamw" else 6)


@pytest.mark.parametrize(("asked", "fixed"), [("embeddings", ["embeddings"]), ("1", ["embeddings", "layers.0"])])
def test_frozen_layers_stay_as_they_are_and_the_others_learn(place, tmp_path, asked, fixed):
    run_quietly(arguments(place, tmp_path / "run", "--epochs=1", f"--freeze={asked}"))
    old = dict(Encoder.load(place / "encoder").named_parameters())
    model = SequenceClassifier.load(tmp_path / "run" / "model")
    for name, parameter in model.encoder.named_parameters():
        is_fixed = any(name.startswith(f"{one}.") for one in fixed)
        assert torch.equal(parameter, old[name]) == is_fixed, name


def test_more_layers_than_there_are_cannot_be_frozen(place, tmp_path, capsys):
    assert main(arguments(place, tmp_path / "run", "--freeze=3")) == 2
    assert "freeze is 3; must be at most 2" in capsys.readouterr().err
    for wrong in (0, -1):
        with pytest.raises(InputError, match="must be 1 or more layers, or embeddings"):
            FinetuneRecipe(freeze=wrong)


# ── where it starts ──


def vectors_of(module, items):
    """The vectors that the output layer reads, for all units in order, and their labels."""
    seen = []
    handle = module.model.head.output.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    for item in items:
        batch = collate([item], 0)
        with torch.no_grad():
            module.task.scores(module.model.eval(), batch)
        if module.task.name == "tag":
            seen[-1] = seen[-1].flatten(0, 1)[batch["word_positions"]]
        else:
            seen[-1] = seen[-1].mean(0, keepdim=True)
    handle.remove()
    return torch.cat(seen).double().numpy(), np.concatenate([item.labels for item in items])


@pytest.mark.parametrize("name", ["classify", "tag", "multilabel", "regression"])
def test_the_output_layer_starts_as_the_linear_model_of_scikit_learn(name):
    module, items = make(name), ITEMS[name](30)
    vectors, labels = vectors_of(module, items)
    fit_output(module.model, module.task, Batches(items, 8, 0), 30)
    with torch.no_grad():
        scores = module.model.head.output(torch.tensor(vectors).float()).double()
    exact = LogisticRegression(C=1 / len(labels), tol=1e-8, max_iter=10_000)
    if name == "multilabel":
        columns = labels.reshape(-1, 3).T
        expected = np.stack([exact.fit(vectors, column).predict_proba(vectors)[:, 1] for column in columns], 1)
        found = scores.sigmoid()
    elif name == "regression":
        found, expected = scores[:, 0], Ridge(alpha=len(labels) / 2).fit(vectors, labels).predict(vectors)
    else:
        found, expected = scores.softmax(1), exact.fit(vectors, labels).predict_proba(vectors)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_probe_takes_the_first_examples_of_the_training_and_leaves_the_encoder_and_the_generator_alone():
    asked = []

    class Asked(Batches):
        def batch(self, step, rank=0, ranks=1):
            asked.append(step)
            return super().batch(step, rank, ranks)

    module, batches = make("classify"), Asked(ITEMS["classify"](40), 8, 0, seed=3)
    before = torch.random.get_rng_state()
    fit_output(module.model, module.task, batches, 12)
    assert torch.equal(before, torch.random.get_rng_state())
    assert asked == [0, 1]
    fresh = make("classify").model
    for name, parameter in module.model.named_parameters():
        assert torch.equal(parameter, fresh.get_parameter(name)) == (not name.startswith("head.output.")), name
        assert parameter.grad is None
    fit_output(fresh, module.task, batches, 0)
    assert torch.equal(fresh.head.output.weight, make("classify").model.head.output.weight)


# ── the loss ──


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_balanced_class_weights_are_those_of_scikit_learn(labels):
    found = CLASSIFY.class_weights(torch.tensor(labels), 5)
    classes = np.unique(labels)
    expected = torch.zeros(5)
    expected[classes] = torch.tensor(compute_class_weight("balanced", classes=classes, y=labels)).float()
    torch.testing.assert_close(found, expected)
    assert float(found[labels].mean()) == pytest.approx(1, abs=1e-5)


def test_a_label_and_its_absence_count_equally_if_there_are_several_labels():
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 1], [0, 0, 1]])
    weights = task_named("multilabel").class_weights(labels.flatten(), 3)
    assert weights.tolist() == [3, 3, 1]  # the last label is never absent
    found = task_named("multilabel").loss(torch.zeros(4, 3), labels.flatten(), weights, 0.0).sums["loss"]
    positive, negative = labels[:, :2].sum(0) * weights[:2], (1 - labels[:, :2]).sum(0)
    assert torch.equal(positive.float(), negative.float())
    assert float(found) == pytest.approx(np.log(2) * (3 + 3 + 3 + 3 + 4))


@pytest.mark.parametrize("name", ["classify", "tag"])
def test_weights_and_smoothing_change_the_loss_as_their_definitions_say(name):
    torch.manual_seed(0)
    scores, labels, weights = torch.randn(9, 3), torch.randint(3, (9,)), torch.tensor([0.5, 1.0, 4.0])
    found = task_named(name).loss(scores, labels, weights, 0.3).sums["loss"]
    log_p, target = scores.log_softmax(1), torch.full((9, 3), 0.1)
    target[range(9), labels] += 0.7
    assert float(found) == pytest.approx(-float((target * weights * log_p).sum()), rel=1e-5)


def test_smoothing_moves_targets_of_several_labels_towards_one_half():
    scores, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([1, 0])
    found = task_named("multilabel").loss(scores, labels, None, 0.2).sums["loss"]
    p = scores.sigmoid()[0].double()
    expected = -(0.9 * p[0].log() + 0.1 * (1 - p[0]).log() + 0.1 * p[1].log() + 0.9 * (1 - p[1]).log())
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_run_learns_with_the_weights_and_the_smoothing_of_its_recipe(place, tmp_path):
    losses = {}
    asked = {"plain": [], "weighted": ["--loss.class_weights=balanced"], "smoothed": ["--loss.label_smoothing=0.5"]}
    for name, flags in asked.items():
        run_quietly(arguments(place, tmp_path / name, "--epochs=1", "--head.dropout=0", *flags))
        losses[name] = float(rows_of(tmp_path / name)[0]["loss"])
    assert len(set(losses.values())) == 3


@pytest.mark.parametrize("flag", ["--loss.class_weights=balanced", "--loss.label_smoothing=0.1"])
def test_numbers_have_neither_weights_nor_smoothing(place, tmp_path, capsys, flag):
    file = tmp_path / "numbers.tsv"
    file.write_text("text\tscore\n" + "".join(f"the cat {number}\t{number % 5}\n" for number in range(40)))
    model, out = str(place / "encoder"), str(tmp_path / "run")
    assert main(["finetune", "regression", "--model", model, "--train", str(file), "--out", out, flag]) == 2
    assert "not of regression; remove it" in capsys.readouterr().err


# ── how long it learns, and which model is kept ──


class Scripted(TaskTraining):
    """Its dev metrics are `script`."""

    script = ()

    def on_validation_epoch_end(self):
        self.validation = {"accuracy": self.script[int(self.progress.step) - 1]}


def scripted(values, steps, **how):
    kind = type("Kind", (Scripted,), {"script": values})
    saved = []
    keep = KeepBest(lambda module: saved.append(int(module.progress.step)), **how)
    module = make("classify", steps=steps, kind=kind)
    return module, keep, saved


def test_patience_ends_a_training_after_as_many_validations_without_a_better_model():
    module, keep, saved = scripted([0.2, 0.5, 0.5, 0.4, 0.9, 0.1], 6, patience=2)
    fit(module, ITEMS["classify"](), callbacks=[keep], dev=ITEMS["classify"](4))
    assert (int(module.progress.step), saved) == (4, [1, 2])


def test_the_loss_decides_between_equal_scores():
    class WithLoss(TaskTraining):
        def on_validation_epoch_end(self):
            self.validation = {"accuracy": 1.0, "loss": [0.3, 0.1, 0.2, 0.1][int(self.progress.step) - 1]}

    saved = []
    keep = KeepBest(lambda module: saved.append(int(module.progress.step)))
    fit(make("classify", steps=4, kind=WithLoss), ITEMS["classify"](), callbacks=[keep], dev=ITEMS["classify"](4))
    assert saved == [1, 2]


@pytest.mark.parametrize(("measured", "is_kept"), [(0.8, True), (0.9, True), (0.7, False)])
def test_the_average_of_the_best_models_is_kept_unless_it_is_worse(measured, is_kept):
    module, keep, saved = scripted([0.5, 0.8, 0.3, 0.8], 4, average=3)
    states = []

    class Record(KeepBest):
        def on_validation_end(self, trainer, pl_module):
            states.append({name: one.clone() for name, one in pl_module.model.state_dict().items()})

    fit(module, ITEMS["classify"](), callbacks=[Record(lambda _: None), keep], dev=ITEMS["classify"](4))
    assert saved == [1, 2]
    keep.try_average(module, lambda: module.validation.update(accuracy=measured))
    best = [states[1], states[3], states[0]]
    for name, found in module.model.state_dict().items():
        torch.testing.assert_close(found, sum(one[name] for one in best) / 3)
    assert saved == [1, 2, *[4] * is_kept]
    assert keep.best == {"accuracy": measured if is_kept else 0.8}


def test_what_is_known_of_the_best_models_survives_a_checkpoint():
    module, keep, _ = scripted([0.5, 0.8, 0.3], 3, patience=4, average=2)
    fit(module, ITEMS["classify"](), callbacks=[keep], dev=ITEMS["classify"](4))
    other = KeepBest(lambda _: None, patience=4, average=2)
    other.load_state_dict(keep.state_dict())
    assert (other.best, other.best_step, other.waited) == ({"accuracy": 0.8}, 2, 1)
    assert [good for good, _ in other.top] == [[0.8], [0.5]]


@given(st.integers(1, 50_000), st.integers(1, 256))
def test_few_examples_get_as_many_epochs_as_make_200_steps(examples, size):
    recipe = resolved(FinetuneRecipe(data=DataConfig(batch_size=size)), MAKER, task_named("classify"), 256, examples)
    in_epoch = -(-examples // size)
    assert recipe.epochs * in_epoch >= 200 > (recipe.epochs - 1) * in_epoch or recipe.epochs == 3
    assert resolved(FinetuneRecipe(epochs=0.5), MAKER, task_named("classify"), 256, examples).epochs == 0.5


@pytest.mark.parametrize(
    ("width", "of_words", "of_texts"),
    [(1024, 2.8e-5, 1.4e-5), (768, 5e-5, 2.5e-5), (384, 2e-4, 1e-4), (256, 4.5e-4, 2.3e-4), (64, 1e-3, 1e-3)],
)
def test_the_learning_rate_follows_from_width_and_task(width, of_words, of_texts):
    for name, rate in [("tag", of_words), *((name, of_texts) for name in ("classify", "multilabel", "regression"))]:
        assert resolved(FinetuneRecipe(), MAKER, task_named(name), width, 100).optimizer.lr == rate
        given = FinetuneRecipe(optimizer=FinetuneOptimizer(lr=0.125))
        assert resolved(given, MAKER, task_named(name), width, 100).optimizer.lr == 0.125


def test_a_run_of_few_rows_takes_200_steps_with_20_validations_and_says_so_in_its_recipe(place, tmp_path, capsys):
    main(arguments(place, tmp_path / "run", "--data.batch_size=32", "--log.every_steps=1"))
    rows = rows_of(tmp_path / "run")
    assert rows[-1]["step"] == "200"
    assert [int(row["step"]) for row in rows if row["dev_loss"]] == [*range(10, 201, 10)]
    written = (tmp_path / "run" / "recipe.yaml").read_text()
    assert "epochs: 100.0" in written
    assert "200 steps of 32 examples = 100 epochs" in capsys.readouterr().out


def test_the_metric_that_decides_can_be_chosen(place, tmp_path, capsys):
    main(arguments(place, tmp_path / "run", "--epochs=1", "--select=macro_f1"))
    assert "best: step 5, macro F1" in capsys.readouterr().out
    run_quietly(arguments(place, tmp_path / "loss", "--epochs=3", "--select=loss"))
    rows = [(float(row["dev_loss"]), int(row["step"])) for row in rows_of(tmp_path / "loss") if row["dev_loss"]]
    assert json.loads((tmp_path / "loss" / "best.json").read_text())["step"] == min(rows)[1]
    assert main(arguments(place, tmp_path / "other", "--select=macro_f2")) == 2
    wrong = "--select macro_f2: classify has accuracy, macro_f1, mcc, loss. Did you mean `macro_f1`?"
    assert wrong in capsys.readouterr().err


def test_a_run_with_an_average_measures_the_model_that_it_keeps(place, tmp_path, caplog):
    """The dev score of the average is that of the weights in the folder."""
    run = tmp_path / "run"
    finetune("classify", recipe_of(place, average=3), run)
    best = json.loads((run / "best.json").read_text())["dev"]
    found = assess(str(run / "model"), str(place / "dev.tsv"), DataConfig()).evaluation.metrics
    assert found["accuracy"] == pytest.approx(best["accuracy"])
    assert "average of the 3 best models" in caplog.text


def recipe_of(place, average):
    data = DataConfig(train=str(place / "train.tsv"), dev=str(place / "dev.tsv"), batch_size=8)
    recipe = FinetuneRecipe(model=str(place / "encoder"), data=data, optimizer=FinetuneOptimizer(lr=3e-3), epochs=6)
    return replace(recipe, validation=ValidationConfig(average=average), trainer={"accelerator": "cpu"})


# ── the dev set ──


@given(
    st.dictionaries(st.integers(0, 999), st.sampled_from("aaaaaabbbc"), min_size=30, max_size=300),
    st.floats(0.05, 0.5),
    st.randoms(use_true_random=False),
)
def test_a_dev_set_has_its_share_of_each_label(labels, share, shuffled):
    examples = [Example(f"text {number}", label=label) for number, label in labels.items()] * 2
    shuffled.shuffle(examples)
    train, dev = hold_out(CLASSIFY, examples, share)
    assert not {one.text for one in train} & {one.text for one in dev}
    assert len(train) + len(dev) == len(examples)
    counts, found = Counter(labels.values()), Counter({one.text: one.label for one in dev}.values())
    for label, count in counts.items():
        assert abs(found[label] - share * count) <= 1
        assert found[label] < count
    _, again = hold_out(CLASSIFY, random.Random(0).sample(examples, len(examples)), share)
    assert {one.text for one in again} == {one.text for one in dev}
