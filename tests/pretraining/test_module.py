"""The training module: the loss of a step is a sum over targets divided by those of the global batch, however the batch is dealt out."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from bert.errors import InputError

from .synthetic import SEQUENCES, fit, make_module, make_stream


def test_it_trains_in_a_users_own_trainer_and_stops_at_its_budget():
    module = make_module(steps=6)
    before = module.model.encoder.layers[0].mlp.wo.weight.detach().clone()
    trainer = fit(module)
    assert trainer.global_step == 6
    assert module.progress.step == 6
    assert not torch.equal(before, module.model.encoder.layers[0].mlp.wo.weight)


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    """Micro-batches have different numbers of targets, so a mean of means would differ."""
    weights = []
    for micro_sequences in (SEQUENCES, 4, 1):
        module = make_module(steps=3)
        fit(module, make_stream(micro_batch_size=micro_sequences))
        weights.append(torch.cat([p.detach().flatten() for p in module.model.parameters()]))
    assert torch.allclose(weights[0], weights[1], atol=2e-5)
    assert torch.allclose(weights[0], weights[2], atol=2e-5)


def test_the_loss_of_a_step_is_its_definition():
    """Sum of the cross-entropy at the targets over their number, computed densely and by hand."""
    stream, module = make_stream(micro_batch_size=SEQUENCES // 2), make_module(steps=1)
    batches = stream.micro_batches(0)
    assert len(batches) == 2
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            logits = module.model(batch["input_ids"], document_ids=batch["document_ids"]).logits
            for scores, positions, labels in zip(logits, batch["masked_positions"], batch["labels"]):
                for position, label in zip(positions, labels):
                    if label >= 0:
                        total -= float(scores[position].log_softmax(-1)[label])
                        count += 1
    assert count == stream.batch(0).masked_tokens
    fit(module, stream)
    assert module.read_log()["loss"] == pytest.approx(total / count, rel=1e-5)


def test_dropout_is_a_function_of_seed_step_and_micro_batch():
    weights = []
    for noise in (1, 2):
        module = make_module(steps=3, dropout=0.3)
        torch.manual_seed(noise)  # what was drawn before does not matter
        fit(module)
        weights.append(torch.cat([p.detach().flatten() for p in module.model.parameters()]))
    assert torch.equal(weights[0], weights[1])


def test_gradients_are_clipped_to_their_longest():
    module = make_module(steps=1, clip_norm=1e-3)
    seen = []

    def look(optimizer, *_):
        gradients = torch.cat([p.grad.flatten() for p in module.model.parameters()])
        seen.append(float(torch.linalg.vector_norm(gradients)))

    real = module.configure_optimizers

    def watched():
        optimizer = real()
        optimizer.register_step_pre_hook(look)  # hooks run in their order: this one after the clipping
        return optimizer

    module.configure_optimizers = watched
    fit(module)
    assert seen == [pytest.approx(1e-3, rel=1e-3)]
    assert float(module.gradient_norm) > 1e-3


class RecordRates(L.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append(pl_module.learning_rate)


def test_learning_rates_follow_the_schedule():
    module = make_module(steps=10)
    rates = RecordRates()
    fit(module, callbacks=[rates])
    highest = module.optimizer_config.lr
    assert len(rates.seen) == 10
    assert rates.seen[0] == pytest.approx(highest * 0.05 / 0.06)  # the middle of step 1 of 10
    assert rates.seen[-1] == pytest.approx(highest * 0.05 / 0.94)
    assert rates.seen[-1] == module.trainer.optimizers[0].param_groups[0]["lr"]


@pytest.mark.parametrize(("what", "attribute"), [("loss", "sums"), ("gradient norm", "gradient_norm")])
def test_a_run_whose_loss_or_gradient_is_no_number_is_not_saved(what, attribute):
    module = make_module(steps=1)
    fit(module)
    module.on_save_checkpoint({})
    if attribute == "sums":
        module.sums = {"loss": torch.tensor(float("nan"))}
    else:
        module.trainer.optimizers[0].gradient_norm = torch.tensor(float("inf"))
    with pytest.raises(InputError, match=f"the {what} is (nan|inf) at step 1"):
        module.on_save_checkpoint({})


def test_a_checkpoint_names_the_family_of_the_model():
    module, checkpoint = make_module(steps=1), {"optimizer_states": [{}]}
    module.model.model_type = "camembert"
    fit(module)
    module.on_save_checkpoint(checkpoint)
    module.model.model_type = None  # as in a resumed run, which builds a model of the same shape
    module.on_load_checkpoint(checkpoint)
    assert module.model.model_type == "camembert"


def mixed_fp16(scale):
    """Half precision with a scaler of gradients on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    return MixedPrecision("16-mixed", "cpu", scaler=scaler)


def test_fp16_with_a_scaler_learns_what_fp32_learns_and_clips_unscaled_gradients():
    losses, norms = [], []
    for settings in ({}, {"plugins": [mixed_fp16(2.0**10)]}):
        module = make_module(steps=4, clip_norm=0.5)
        fit(module, make_stream(micro_batch_size=SEQUENCES // 2), **settings)
        norms.append(float(module.gradient_norm))
        losses.append(module.read_log()["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert norms[0] == pytest.approx(norms[1], rel=5e-2)


def test_a_step_that_the_scaler_skips_counts_and_changes_no_weight():
    module = make_module(steps=3)
    weights = []
    fit(
        module, plugins=[mixed_fp16(2.0**40)], callbacks=[RecordWeights(weights)]
    )  # gradients overflow until the scale is halved
    assert module.progress.step == 3
    assert module.trainer.global_step == 3
    assert torch.equal(weights[0], weights[1])
    assert module.trainer.precision_plugin.scaler.get_scale() < 2.0**40
    module.on_save_checkpoint({})  # and the run is saved


class RecordWeights(L.Callback):
    def __init__(self, weights):
        self.weights = weights

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.weights.append(pl_module.model.encoder.layers[0].mlp.wo.weight.detach().clone())


def test_it_obeys_a_users_trainer(tmp_path):
    """`max_steps`, `should_stop` and `ModelCheckpoint` of the user's count optimizer steps, whatever the accumulation."""
    stream = make_stream(micro_batch_size=SEQUENCES // 4)
    module = make_module(steps=100)
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1, filename="{step}")
    trainer = fit(module, stream, max_steps=5, max_epochs=None, callbacks=[saving], enable_checkpointing=True)
    assert trainer.global_step == module.progress.step == 5
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["step=2", "step=4"]

    class StopAfterThree(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 3

    module = make_module(steps=100)
    assert fit(module, stream, callbacks=[StopAfterThree()]).global_step == 3
