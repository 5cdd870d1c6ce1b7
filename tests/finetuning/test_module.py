"""The training module: the loss of a step by its definition, whatever the padding, the order and the windows; the best model kept."""

from typing import ClassVar

import lightning as L
import pytest
import torch

from bert.data.rng import random_bits
from bert.errors import InputError
from bert.finetuning import batches as batches_module
from bert.finetuning.batches import Batches, BatchLoader, Item, collate, count_labels
from bert.finetuning.module import KeepBest, TaskTraining, log_columns
from bert.finetuning.tasks.classify import Classify
from bert.finetuning.tasks.index import task_named
from bert.finetuning.windows import Window
from bert.model.config import EncoderConfig, task_head
from bert.training.config import OptimizerConfig, ScheduleConfig
from bert.training.step import LossTerms, scaled_loss

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=32, max_length=24)
LABELS = ("a", "b", "c")


def row(number, length):
    return [2, *(5 + int(random_bits(7, number, place)[0] % 50) for place in range(length)), 3]


def text_items(count=20):
    return [
        Item(
            [Window(row(10 * number + window, 3 + number * 5 % 17)) for window in range(1 + number % 3)], (number % 3,)
        )
        for number in range(count)
    ]


def tag_items(count=20):
    items = []
    for number in range(count):
        length = 2 + number * 5 % 17
        words = tuple(range(length))
        items.append(
            Item([Window(row(number, length), None, words, tuple(w + 1 for w in words))], tuple(w % 3 for w in words))
        )
    return items


def number_items(count=20):
    return [Item(item.windows, (0.5 * number,)) for number, item in enumerate(text_items(count))]


def several_items(count=20):
    """Labels of texts with all, some or none of three."""
    return [
        Item(item.windows, (number % 2, number % 3 // 2, int(number % 4 > 1)))
        for number, item in enumerate(text_items(count))
    ]


ITEMS = {"classify": text_items, "multilabel": several_items, "regression": number_items, "tag": tag_items}
"""the examples of each task; the loss of each by its definition is in `test_tasks`"""


def make(name, steps=4, dropout=0.0, seed=0, kind=TaskTraining, task=None, **optimizer):
    torch.manual_seed(0)
    task = task or task_named(name)
    labels = ("value",) if name == "regression" else LABELS
    head = task_head(CONFIG, labels, per_token=name == "tag")
    model = task.model(EncoderConfig(**{**CONFIG.__dict__, "hidden_dropout": dropout}), head)
    metrics = task.metrics(labels, [])
    return kind(task, metrics, model, OptimizerConfig(lr=1e-2, **optimizer), ScheduleConfig(), steps, seed)


def fit(module, items, size=8, callbacks=(), dev=None, counts=count_labels, **arguments):
    """In a user's own Trainer."""
    settings = {"limit_val_batches": 0} if dev is None else {"val_check_interval": 1, "check_val_every_n_epoch": None}
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        **settings,
        **arguments,
    )
    loader = BatchLoader(Batches(items, size, 0, counts=counts))
    asked = None
    if dev is not None:
        batches = Batches(dev, size, 0, shuffled=False)
        asked = BatchLoader(batches, steps=batches.in_epoch)
    trainer.fit(module, loader, asked)
    return trainer


def gradients(module, batches):
    module.model.zero_grad()
    targets = sum(len(batch["labels"]) for batch in batches)
    for batch in batches:
        (module.loss_terms(batch).sums["loss"] / targets).backward()
    return torch.cat([p.grad.flatten() for p in module.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ITEMS)
def test_gradients_depend_on_neither_padding_nor_batching_nor_order(name):
    items = ITEMS[name]()
    module = make(name)
    whole = gradients(module, [collate(items, 0)])
    shorter = gradients(module, [collate(items[number : number + 1], 0) for number in range(len(items))])
    backwards = gradients(module, [collate(items[::-1], 0)])
    padded = collate(items, 0)
    padded["input_ids"] = torch.nn.functional.pad(padded["input_ids"], (0, 2))
    padded["attention_mask"] = torch.nn.functional.pad(padded["attention_mask"], (0, 2))
    length = padded["input_ids"].shape[1]
    padded["word_positions"] = padded["word_positions"] // (length - 2) * length + padded["word_positions"] % (
        length - 2
    )
    assert torch.allclose(whole, shorter, atol=1e-6)
    assert torch.allclose(whole, backwards, atol=1e-6)
    assert torch.allclose(whole, gradients(module, [padded]), atol=1e-6)


@pytest.mark.parametrize("name", ITEMS)
def test_a_rank_without_examples_adds_nothing_and_measures_nothing(name):
    items = ITEMS[name](1)
    module = make(name)
    idle = Batches(items, 8, 0).batch(0, rank=1, ranks=2)
    loss = module.loss_terms(idle.micro_batches[0]).sums["loss"]
    assert float(loss) == 0
    loss.backward()
    assert all((p.grad == 0).all() for p in module.model.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in module.model.parameters())  # DDP waits for the gradients of all ranks
    module.validation_step(idle, 0)
    assert not any(metric.update_called for metric in module.metrics.values())
    module.validation_step(Batches(items, 8, 0).batch(0, rank=0, ranks=2), 0)
    assert all(metric.update_called for metric in module.metrics.values())


def test_the_windows_of_an_example_may_come_in_any_order():
    items = text_items()
    turned = [Item(item.windows[::-1], item.labels) for item in items]
    module = make("classify")
    assert torch.allclose(gradients(module, [collate(items, 0)]), gradients(module, [collate(turned, 0)]), atol=1e-6)


@pytest.mark.parametrize("name", ITEMS)
def test_the_loss_of_a_step_is_its_definition(name):
    items = ITEMS[name]()
    module = make(name, steps=1)
    numbers = Batches(items, 8, 0).numbers(0)
    total = count = 0
    with torch.no_grad():
        for item in (items[number] for number in numbers):
            logits = [module.model(torch.tensor([window.ids])).logits[0] for window in item.windows]
            scores = logits[0][1:-1] if name == "tag" else torch.stack(logits).mean(0, keepdim=True)
            if name == "multilabel":
                probabilities = scores[0].sigmoid()
                losses = [-(p if label else 1 - p).log() for p, label in zip(probabilities, item.labels, strict=True)]
            elif name == "regression":
                losses = [(scores[0, 0] - item.labels[0]) ** 2]
            else:
                losses = [-vector.log_softmax(-1)[label] for vector, label in zip(scores, item.labels, strict=True)]
            total += float(sum(losses))
            count += len(losses)
    fit(module, items)
    assert module.read_log()["loss"] == pytest.approx(total / count, rel=1e-5)


class TwoTerms(Classify):
    """The cross-entropy of all examples, and once more that of the examples of class 0: two terms with two denominators."""

    weights: ClassVar = {"all": 1.0, "first": 0.5}

    def counts(self, items):
        return {"all": len(items), "first": sum(item.labels == (0,) for item in items)}

    def loss(self, scores, labels, weights=None, smoothing=0.0):
        losses = torch.nn.functional.cross_entropy(scores, labels, reduction="none")
        return LossTerms({"all": losses.sum(), "first": losses[labels == 0].sum()}, self.weights)


def test_each_term_of_a_loss_is_divided_by_its_own_count_in_the_global_batch():
    """Neither rank has as many examples, or examples of class 0, as the other: means of means would differ."""
    task, items = TwoTerms(), text_items(7)
    module = make("classify", task=task)
    batches = Batches(items, 7, 0, counts=task.counts)
    shares = [batches.batch(0, rank, 2) for rank in range(2)]
    assert [share.counts for share in shares] == [{"all": 7, "first": 3}] * 2
    assert len({(share.micro_batches[0]["labels"] == 0).sum().item() for share in shares}) == 2
    for share in shares:
        scaled_loss(module.loss_terms(share.micro_batches[0]), share.counts).backward()
    summed = torch.cat([p.grad.flatten() for p in module.model.parameters()])
    module.model.zero_grad()
    whole = collate(items, 0)
    losses = torch.nn.functional.cross_entropy(task.scores(module.model, whole), whole["labels"], reduction="none")
    (losses.mean() + 0.5 * losses[whole["labels"] == 0].mean()).backward()
    assert torch.allclose(summed, torch.cat([p.grad.flatten() for p in module.model.parameters()]), atol=1e-6)

    one_step = make("classify", steps=1, task=task)
    fit(one_step, items, size=7, counts=task.counts)
    log = one_step.read_log()
    assert log["all"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert log["first"] == pytest.approx(float(losses[whole["labels"] == 0].mean()), rel=1e-5)
    assert log["loss"] == pytest.approx(log["all"] + 0.5 * log["first"])
    assert log_columns(task, ["accuracy"])[-4:] == ["all", "first", "dev_accuracy", "dev_loss"]
    assert "all" not in log_columns(Classify(), ["accuracy"])


def test_it_trains_in_a_users_own_trainer_and_stops_at_its_budget():
    module = make("classify", steps=6)
    before = module.model.encoder.layers[0].mlp.wo.weight.detach().clone()
    trainer = fit(module, text_items())
    assert trainer.global_step == module.progress.step == 6
    assert not torch.equal(before, module.model.encoder.layers[0].mlp.wo.weight)


def test_dropout_is_a_function_of_seed_and_step():
    weights = []
    for noise, seed in ((1, 0), (2, 0), (1, 1)):
        module = make("classify", steps=3, dropout=0.3, seed=seed)
        torch.manual_seed(noise)  # what was drawn before does not matter
        fit(module, text_items())
        weights.append(torch.cat([p.detach().flatten() for p in module.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_metrics_are_those_of_the_whole_dev_set():
    """Batches are of unequal size: a mean over batches would differ."""
    items = text_items(11)
    module = make("classify", steps=1)
    fit(module, items, size=4, dev=items)
    module.model.eval()
    batch = collate(items, 0)
    with torch.no_grad():
        right = (module.task.scores(module.model, batch).argmax(-1) == batch["labels"]).float().mean()
        loss = torch.nn.functional.cross_entropy(module.task.scores(module.model, batch), batch["labels"])
    assert module.validation["accuracy"] == pytest.approx(float(right))
    assert module.validation["loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "headline", "script"),
    [("classify", "accuracy", [0.2, 0.9, 0.9, 0.5]), ("regression", "rmse", [0.9, 0.2, 0.2, 0.5])],
)
def test_the_best_model_is_kept_by_the_direction_of_the_headline(name, headline, script):
    """The second is the best, of accuracies the largest and of errors the smallest; the third is no better."""
    values, saved = iter(script), []

    class Scripted(TaskTraining):
        def on_validation_epoch_end(self):
            self.validation = {headline: next(values)}

    keep = KeepBest(lambda module: saved.append(int(module.progress.step)))
    fit(make(name, steps=4, kind=Scripted), ITEMS[name](), callbacks=[keep], dev=ITEMS[name](4))
    assert saved == [1, 2]
    assert (keep.best_step, keep.best) == (2, {headline: script[1]})


# ── long texts ──


def long_items(name):
    """One example of 40 windows among short ones: more than go through the model at once."""
    items = ITEMS[name](6)
    (ids,) = [row(99, 20)]
    words = tuple(range(40)) if name == "tag" else ()
    windows = [Window(ids, None, (n,), (1 + n % 20,)) if words else Window(row(100 + n, 3 + n % 17)) for n in range(40)]
    labels = tuple(n % 3 for n in words) or items[2].labels
    return [*items, Item(windows, labels)]


@pytest.mark.parametrize("name", ITEMS)
def test_gradients_in_parts_are_those_of_one_pass(name, monkeypatch):
    monkeypatch.setattr(batches_module, "_TOKENS_AT_ONCE", 24)
    items = long_items(name)
    module = make(name).train()
    step = Batches(items, 7, 0, counts=module.task.counts).batch(0)
    assert len(step.micro_batches) > 1
    assert max(len(part["input_ids"]) for part in step.micro_batches) >= 40  # of the long example alone, in parts
    assert sorted(size for part in step.micro_batches for size in part["sizes"]) == sorted(collate(items, 0)["sizes"])
    seen = []
    module.model.register_forward_hook(lambda model, inputs, output: seen.append(len(inputs[0])))
    whole = gradients(module, [collate(items, 0)])
    assert max(seen) > 40
    seen.clear()
    parts = gradients(module, step.micro_batches)
    assert max(seen) < 2 * 7  # what the memory of a step depends on
    assert torch.allclose(whole, parts, atol=1e-6)
    with torch.no_grad():
        seen.clear()
        scores = [module.task.scores(module.model, part) for part in step.micro_batches]
    assert max(seen) < 2 * 7
    assert sum(map(len, scores)) == len(module.task.scores(module.model, collate(items, 0)))


def test_dropout_in_parts_is_the_same_in_both_passes(monkeypatch):
    """With other random numbers in the second pass the gradient would be that of another function."""
    monkeypatch.setattr(batches_module, "_TOKENS_AT_ONCE", 24)
    module = make("classify", dropout=0.5).train()
    (part,) = Batches([Item([Window(row(n, 9)) for n in range(12)], (1,))], 1, 0).batch(0).micro_batches
    assert part["at_once"] < 12
    parameter = module.model.head.output.bias
    hidden = module.model.encoder.layers[0].mlp.wo.weight

    def loss():
        torch.manual_seed(3)
        return module.loss_terms(part).sums["loss"]

    loss().backward()
    found, step = hidden.grad.clone(), torch.zeros_like(hidden)
    assert parameter.grad is not None
    position = divmod(int(found.abs().argmax()), found.shape[1])
    step[position] = 1e-2
    with torch.no_grad():
        hidden += step
        above = loss()
        hidden -= 2 * step
        below = loss()
    assert float((above - below) / 2e-2) == pytest.approx(float(found[position]), rel=0.02)


def test_examples_of_several_windows_stay_whole_and_batches_of_short_ones_in_one_part(monkeypatch):
    batches = Batches(text_items(30), 30, 0)
    assert len(batches.batch(0).micro_batches) == 1
    monkeypatch.setattr(batches_module, "_TOKENS_AT_ONCE", 1)
    many = Batches([Item([Window(row(n, 5))] * (1 + n % 9), (0,)) for n in range(30)], 10, 0)
    for number in range(3):
        step = many.batch(number)
        assert step.micro_batches[0]["at_once"] == 10
        assert all(len(part["input_ids"]) < 2 * 10 for part in step.micro_batches)
        assert sum(len(part["sizes"]) for part in step.micro_batches) == 10
        assert step.counts == {"loss": 10}


# ── a model that has diverged ──


def test_no_model_is_the_best_from_scores_that_are_not_finite():
    saved = []

    class Diverging(TaskTraining):
        def on_train_batch_end(self, *_):
            if self.progress.step == 2:
                self.model.head.output.bias.data.fill_(float("nan"))

    module = make("regression", steps=4, kind=Diverging)
    keep = KeepBest(lambda module: saved.append(int(module.progress.step)))
    with pytest.raises(
        InputError, match="the scores of the dev set are not finite at step 2: start again with a lower optim"
    ):
        fit(module, ITEMS["regression"](), callbacks=[keep], dev=ITEMS["regression"](4))
    assert saved == [1]
    assert keep.best_step == 1
