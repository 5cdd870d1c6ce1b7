"""The training module: the loss of a step by its definition, whatever the padding, the order and the windows; the best model kept."""

import lightning as L
import pytest
import torch

from bert.data.rng import random_bits
from bert.finetuning.batches import Batches, BatchLoader, Item, collate
from bert.finetuning.module import KeepBest, TaskTraining
from bert.finetuning.windows import Window
from bert.model.config import EncoderConfig, task_head
from bert.model.heads import SequenceClassifier, TokenClassifier
from bert.training.config import OptimizerConfig, ScheduleConfig

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


def make(tagging, steps=4, dropout=0.0, seed=0, **optimizer):
    torch.manual_seed(0)
    kind = TokenClassifier if tagging else SequenceClassifier
    head = task_head(CONFIG, "tag" if tagging else "classify", LABELS)
    model = kind(EncoderConfig(**{**CONFIG.__dict__, "hidden_dropout": dropout}), head)
    return TaskTraining(model, OptimizerConfig(lr=1e-2, **optimizer), ScheduleConfig(), steps, seed)


def fit(module, items, tagging, size=8, callbacks=(), dev=None, **arguments):
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
    loader = BatchLoader(Batches(items, size, tagging, 0))
    asked = None
    if dev is not None:
        batches = Batches(dev, size, tagging, 0, shuffled=False)
        asked = BatchLoader(batches, steps=batches.in_epoch)
    trainer.fit(module, loader, asked)
    return trainer


def gradients(module, batches):
    module.model.zero_grad()
    targets = sum(batch["global_targets"] for batch in batches)
    for batch in batches:
        (module(batch).loss_sum / targets).backward()
    return torch.cat([p.grad.flatten() for p in module.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("tagging", [False, True])
def test_gradients_depend_on_neither_padding_nor_batching_nor_order(tagging):
    items = tag_items() if tagging else text_items()
    module = make(tagging)
    whole = gradients(module, [collate(items, tagging, 0)])
    shorter = gradients(module, [collate(items[number : number + 1], tagging, 0) for number in range(len(items))])
    backwards = gradients(module, [collate(items[::-1], tagging, 0)])
    padded = collate([*items, Item([Window(row(0, 22))], (0,) * (22 if tagging else 1))], tagging, 0)
    padded["labels"][padded["example_ids"] == len(items) if tagging else len(items)] = -100
    padded["global_targets"] = sum(len(item.labels) for item in items)
    assert torch.allclose(whole, shorter, atol=1e-6)
    assert torch.allclose(whole, backwards, atol=1e-6)
    assert torch.allclose(whole, gradients(module, [padded]), atol=1e-6)


def test_the_windows_of_an_example_may_come_in_any_order():
    items = text_items()
    turned = [Item(item.windows[::-1], item.labels) for item in items]
    module = make(False)
    assert torch.allclose(
        gradients(module, [collate(items, False, 0)]), gradients(module, [collate(turned, False, 0)]), atol=1e-6
    )


@pytest.mark.parametrize("tagging", [False, True])
def test_the_loss_of_a_step_is_its_definition(tagging):
    items = tag_items() if tagging else text_items()
    module = make(tagging, steps=1)
    numbers = Batches(items, 8, tagging, 0).numbers(0)
    total = count = 0
    with torch.no_grad():
        for item in (items[number] for number in numbers):
            logits = [module.model(torch.tensor([window.ids])).logits[0] for window in item.windows]
            scores = logits[0][1:-1] if tagging else torch.stack(logits).mean(0, keepdim=True)
            for vector, label in zip(scores, item.labels, strict=True):
                total -= float(vector.log_softmax(-1)[label])
                count += 1
    fit(module, items, tagging)
    assert module.read_log()["loss"] == pytest.approx(total / count, rel=1e-5)


def test_it_trains_in_a_users_own_trainer_and_stops_at_its_budget():
    module = make(False, steps=6)
    before = module.model.encoder.layers[0].mlp.wo.weight.detach().clone()
    trainer = fit(module, text_items(), False)
    assert trainer.global_step == module.progress.step == 6
    assert not torch.equal(before, module.model.encoder.layers[0].mlp.wo.weight)


def test_dropout_is_a_function_of_seed_and_step():
    weights = []
    for noise, seed in ((1, 0), (2, 0), (1, 1)):
        module = make(False, steps=3, dropout=0.3, seed=seed)
        torch.manual_seed(noise)  # what was drawn before does not matter
        fit(module, text_items(), False)
        weights.append(torch.cat([p.detach().flatten() for p in module.model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_figures_are_those_of_the_whole_dev_set():
    """Batches are of unequal size: a mean over batches would differ."""
    items = text_items(11)
    module = make(False, steps=1)
    fit(module, items, False, size=4, dev=items)
    module.model.eval()
    batch = collate(items, False, 0)
    with torch.no_grad():
        right = (module(batch).logits.argmax(-1) == batch["labels"]).float().mean()
    assert module.validation["accuracy"] == pytest.approx(float(right))


def test_the_best_model_is_kept_and_put_back():
    """Figures by a script: 0.2, 0.9, 0.9, 0.5. The second is the best; the third is no better."""
    script = iter([0.2, 0.9, 0.9, 0.5])
    saved = {}

    def save(module):
        saved[int(module.progress.step)] = {name: t.clone() for name, t in module.model.state_dict().items()}

    class Scripted(TaskTraining):
        def on_validation_epoch_end(self):
            self.validation = {"accuracy": next(script)}

    module = make(False, steps=4)
    module.__class__ = Scripted
    keep = KeepBest(save, restore=lambda trained: trained.model.load_state_dict(saved[keep.best_step]))
    fit(module, text_items(), False, callbacks=[keep], dev=text_items(4))
    assert list(saved) == [1, 2]
    assert keep.best_step == 2
    assert all(torch.equal(saved[2][name], tensor) for name, tensor in module.model.state_dict().items())
