"""The training module: the loss of a step is a sum over targets divided by those of the global batch, however the batch is dealt out."""

import pytest
import torch

from bert.errors import InputError
from bert.pretraining.module import MaskedLMTraining
from bert.pretraining.stream import Split

from .synthetic import SEQUENCES, fit, make_module, make_stream


def test_it_trains_in_a_users_own_trainer_and_stops_at_its_budget():
    split = Split(SEQUENCES, SEQUENCES)
    module = make_module(split, steps=6)
    before = module.model.encoder.layers[0].mlp.wo.weight.detach().clone()
    trainer = fit(module, split)
    assert trainer.global_step == 6
    assert module.progress.step == 6
    assert not torch.equal(before, module.model.encoder.layers[0].mlp.wo.weight)


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    """Micro-batches have different numbers of targets, so a mean of means would differ."""
    weights = []
    for micro_sequences in (SEQUENCES, 4, 1):
        split = Split(SEQUENCES, micro_sequences)
        module = make_module(split, steps=3)
        fit(module, split)
        weights.append(torch.cat([p.detach().flatten() for p in module.model.parameters()]))
    assert torch.allclose(weights[0], weights[1], atol=2e-5)
    assert torch.allclose(weights[0], weights[2], atol=2e-5)


def test_the_loss_of_a_step_is_its_definition():
    """Sum of the cross-entropy at the targets over their number, computed densely and by hand."""
    split = Split(SEQUENCES, SEQUENCES // 2)
    module = make_module(split, steps=1)
    batches = [make_stream().micro_batch(0, split, micro=micro) for micro in range(2)]
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            logits = module.model(batch["input_ids"], document_ids=batch["document_ids"]).logits.flatten(0, 1)
            for place, label in zip(batch["targets"], batch["labels"]):
                if label >= 0:
                    total -= float(logits[place].log_softmax(-1)[label])
                    count += 1
    assert count == batches[0]["global_targets"]
    fit(module, split)
    assert module.read_log()["loss"] == pytest.approx(total / count, rel=1e-5)


def test_dropout_is_a_function_of_seed_step_and_micro_batch():
    split = Split(SEQUENCES, SEQUENCES)
    weights = []
    for noise in (1, 2):
        module = make_module(split, steps=3, dropout=0.3)
        torch.manual_seed(noise)  # what was drawn before does not matter
        fit(module, split)
        weights.append(torch.cat([p.detach().flatten() for p in module.model.parameters()]))
    assert torch.equal(weights[0], weights[1])


def test_gradients_are_clipped_to_their_longest():
    split = Split(SEQUENCES, SEQUENCES)
    module = make_module(split, steps=1, clip_norm=1e-3)
    seen = []

    def clip_and_look(optimizer, *args, **kwargs):
        MaskedLMTraining.configure_gradient_clipping(module, optimizer)
        seen.append(torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in module.model.parameters()])))

    module.configure_gradient_clipping = clip_and_look
    fit(module, split)
    assert float(seen[0]) == pytest.approx(1e-3, rel=1e-3)
    assert float(module.gradient_norm) > 1e-3


def test_learning_rates_follow_the_schedule_and_are_kept():
    split = Split(SEQUENCES, SEQUENCES)
    module = make_module(split, steps=10)
    fit(module, split)
    assert len(module.learning_rates) == 10
    assert module.learning_rates[0] == pytest.approx(0.05 / 0.06)  # the middle of step 1 of 10
    assert module.learning_rates[-1] == pytest.approx(0.05 / 0.94)


@pytest.mark.parametrize("scaler", [None, object()], ids=["bf16", "fp16 with a scaler"])
def test_a_step_that_a_scaler_leaves_out_for_its_gradients_is_saved_and_another_is_not(scaler):
    split = Split(SEQUENCES, SEQUENCES)
    module = make_module(split, steps=1)
    trainer = fit(module, split)
    trainer.precision_plugin.scaler = scaler
    module.gradient_norm = torch.tensor(float("inf"))
    if scaler is None:
        with pytest.raises(InputError, match="the gradient norm is inf at step 1"):
            module.on_save_checkpoint({})
    else:
        checkpoint = {}
        module.on_save_checkpoint(checkpoint)
        assert "open_log_row" in checkpoint
        module.loss_sum = module.loss_sum + float("nan")
        with pytest.raises(InputError, match="the loss is nan at step 1"):
            module.on_save_checkpoint({})
