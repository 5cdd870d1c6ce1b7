"""The baseline computes the same as our model, on batches whose tokens are counted correctly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bert.bench.comparison import (
    Baseline,
    baseline_model,
    concatenated,
    full_batches,
    padded,
    score_baseline,
    workload_batches,
)
from bert.bench.documents import full_sequences, mixture
from bert.bench.settings import BaselineSettings
from bert.bench.steps import steps_of
from bert.errors import InputError
from bert.model.heads import MaskedLM
from bert.pretraining.score import score_masked

from .synthetic import LENGTH, RECIPES, SIZE, TEXT

RAGGED = mixture([TEXT], 64, LENGTH)
recipes = pytest.mark.parametrize("family", RECIPES)


def twin(recipe):
    """The model of the candidate, and the class that loads its weights into the baseline."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(1)
    candidate = MaskedLM(recipe.encoder, recipe.head).eval()
    return candidate, transformers.AutoModelForMaskedLM


def inputs_of(batch):
    """The tensors of a step of the baseline."""
    (inputs,) = batch.micro_batches
    return inputs


@pytest.mark.hf
@recipes
def test_on_full_sequences_the_baseline_has_the_loss_of_our_model_for_the_same_weights(family, tmp_path):
    recipe = RECIPES[family]
    candidate, auto = twin(recipe)
    candidate.save(tmp_path)
    baseline = Baseline(recipe, BaselineSettings())
    assert type(baseline.model).__name__ == {"bert": "BertForMaskedLM", "modernbert": "ModernBertForMaskedLM"}[family]
    baseline.model.load_state_dict(auto.from_pretrained(tmp_path).state_dict())
    baseline.model.eval()
    at_once = replace(recipe, data=replace(recipe.data, micro_batch_size=8))
    text = full_sequences(TEXT, LENGTH, 8)
    (((batch,), _, _),) = steps_of(text, at_once, 1)
    of_baseline = baseline.forward(next(full_batches(text, at_once)))
    mine = candidate(
        batch["input_ids"],
        document_ids=batch["document_ids"],
        masked_positions=batch["masked_positions"],
        labels=batch["labels"],
    )
    assert of_baseline.item() == pytest.approx(mine.loss.item(), abs=1e-5)


@pytest.mark.hf
@recipes
def test_on_padded_documents_the_baseline_has_the_loss_of_our_model_with_its_mask(family, tmp_path):
    recipe = RECIPES[family]
    candidate, auto = twin(recipe)
    candidate.save(tmp_path)
    baseline = Baseline(recipe, BaselineSettings("eager"))
    baseline.model.load_state_dict(auto.from_pretrained(tmp_path).state_dict())
    baseline.model.eval()
    batch = padded(RAGGED, recipe, 16, 1)[0]
    mine = candidate(**inputs_of(batch))
    assert baseline.forward(batch).item() == pytest.approx(mine.loss.item(), abs=1e-5)


@pytest.mark.hf
@recipes
def test_the_baseline_is_scored_as_ours_is(family, tmp_path):
    recipe = RECIPES[family]
    candidate, auto = twin(recipe)
    candidate.save(tmp_path / "model")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, SIZE, (6, LENGTH))
    labels = np.where(rng.random(ids.shape) < 0.2, ids, -100)
    np.savez(tmp_path / "masked.npz", input_ids=ids, labels=labels)
    mine = score_masked(candidate, tmp_path / "masked.npz", batch_size=4)
    of_baseline = score_baseline(auto.from_pretrained(tmp_path / "model"), tmp_path / "masked.npz", batch_size=4)
    assert (of_baseline.accuracy, of_baseline.targets) == (mine.accuracy, mine.targets)
    assert of_baseline.loss == pytest.approx(mine.loss, abs=1e-5)


def test_tokens_of_padded_batches_are_the_sum_of_their_masks():
    batches = padded(RAGGED, RECIPES["bert"], 16, 4)
    lengths = RAGGED.store.lengths + 2
    for number, batch in enumerate(batches):
        mine = lengths[number * 16 : (number + 1) * 16]
        input_ids, labels, mask = (inputs_of(batch)[name] for name in ("input_ids", "labels", "attention_mask"))
        assert batch.tokens == int(mask.sum()) == mine.sum()
        assert input_ids.shape == (16, mine.max())  # the longest of the batch, no longer
        assert ((input_ids == 0) == (mask == 0)).all()
        asked = (labels >= 0).sum(dim=1)
        assert (asked == np.maximum(1, np.rint(RECIPES["bert"].masking.rate * (mine - 2)))).all()
        assert batch.counts["loss"] == int(asked.sum())
        assert not (labels[mask == 0] >= 0).any()


def unmasked(batch):
    """The original token ids of a step of the baseline."""
    input_ids, labels = inputs_of(batch)["input_ids"], inputs_of(batch)["labels"]
    return torch.where(labels >= 0, labels, input_ids)


def test_concatenated_sequences_hold_all_documents_with_their_special_tokens_and_no_padding():
    batches = concatenated(RAGGED, RECIPES["bert"], 4, 100)
    running = np.concatenate([[2, *RAGGED.store.document(n), 3] for n in range(len(RAGGED.store))])
    restored = torch.cat([unmasked(batch) for batch in batches]).flatten().numpy()
    assert np.array_equal(restored, running[: len(restored)])
    assert len(running) - len(restored) < 4 * LENGTH
    for batch in batches:
        assert batch.tokens == inputs_of(batch)["input_ids"].numel()
        assert "attention_mask" not in inputs_of(batch)


def test_documents_that_do_not_fill_a_batch_of_concatenated_sequences_are_repeated():
    running = np.concatenate([[2, *RAGGED.store.document(n), 3] for n in range(len(RAGGED.store))])
    sequences = len(running) // LENGTH + 3
    (batch,) = concatenated(RAGGED, RECIPES["bert"], sequences, 100)
    restored = unmasked(batch).flatten().numpy()
    assert np.array_equal(restored, np.resize(running, sequences * LENGTH))


def test_both_sides_of_a_workload_see_the_same_tokens():
    recipe = RECIPES["modernbert"]
    steps, batches = workload_batches("full-sequences", recipe, TEXT, RAGGED, 8)
    assert len(steps) == len(batches) == 8
    for candidate, of_baseline in zip(steps, batches):
        inputs = inputs_of(of_baseline)
        assert torch.equal(torch.cat([micro["input_ids"] for micro in candidate.micro_batches]), inputs["input_ids"])
        assert candidate.counts["loss"] == of_baseline.counts["loss"] == int((inputs["labels"] >= 0).sum())
        assert of_baseline.tokens == inputs["input_ids"].numel()
    steps, batches = workload_batches("padded", recipe, TEXT, RAGGED, 8)
    positions = sum(inputs_of(batch)["attention_mask"].numel() for batch in batches)
    assert positions / sum(batch.tokens for batch in batches) > 1.1
    packed_tokens = sum(step.tokens for step in steps)
    assert packed_tokens <= sum(batch.tokens for batch in batches) <= packed_tokens + 8 * LENGTH  # the last, open step


@pytest.mark.hf
def test_the_baseline_scores_masked_positions_alone_where_it_can():
    pytest.importorskip("transformers", reason="transformers is not installed")
    assert baseline_model(RECIPES["modernbert"], "sdpa").sparse_prediction


@pytest.mark.hf
def test_an_architecture_that_the_baseline_lacks_is_refused_by_name():
    pytest.importorskip("transformers", reason="transformers is not installed")
    recipe = RECIPES["modernbert"]
    with pytest.raises(InputError, match=r"transformers has no such model: .*qk_norm"):
        baseline_model(replace(recipe, encoder=replace(recipe.encoder, qk_norm=True)), "sdpa")
