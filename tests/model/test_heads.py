"""The masked-LM head: what it decodes, what its loss is."""

from dataclasses import replace

import pytest
import torch

from bert.model.config import EncoderConfig, HeadConfig
from bert.model.heads import MaskedLM

SMALL = EncoderConfig(vocab_size=70, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, max_length=40)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, documents and labels (2, 20): a packed row and a padded one, five targets."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 70, (2, 20), generator=generator)
    documents = torch.tensor([[1] * 9 + [2] * 11, [1] * 15 + [0] * 5])
    labels = torch.full((2, 20), -100)
    for row, place in ((0, 1), (0, 9), (0, 13), (1, 0), (1, 14)):
        labels[row, place] = ids[row, place]
    return ids, documents, labels


def make(head: HeadConfig | None = None, **fields: object) -> MaskedLM:
    torch.manual_seed(0)
    return MaskedLM(replace(SMALL, **fields), head).eval()


def test_the_loss_is_the_cross_entropy_of_the_labelled_places(batch) -> None:
    ids, documents, labels = batch
    output = make()(ids, document_ids=documents, labels=labels)
    assert output.logits.shape == (2, 20, 70)
    log_probabilities = output.logits.detach().log_softmax(-1)
    by_hand = -sum(log_probabilities[r, p, labels[r, p]] for r, p in (labels != -100).nonzero().tolist())
    assert output.loss_sum.item() == pytest.approx(float(by_hand), rel=1e-6)
    assert int(output.num_targets) == 5
    assert output.loss.item() == pytest.approx(float(by_hand) / 5, rel=1e-6)


def test_targets_decode_those_places_alone_with_the_same_loss_and_gradients(batch) -> None:
    ids, documents, labels = batch
    places = (labels.flatten() != -100).nonzero().flatten()
    slots = torch.cat([places, torch.zeros(3, dtype=torch.long)])  # three slots not in use point at place 0
    their_labels = torch.cat([labels.flatten()[places], torch.full((3,), -100)])
    whole, some = make(), make()
    everywhere = whole(ids, document_ids=documents, labels=labels)
    there = some(ids, document_ids=documents, labels=their_labels, targets=slots)
    assert there.logits.shape == (8, 70)
    assert torch.allclose(there.logits[:5], everywhere.logits.flatten(0, 1)[places], atol=1e-5)
    assert there.loss_sum.item() == pytest.approx(everywhere.loss_sum.item(), rel=1e-6)
    assert int(there.num_targets) == 5
    everywhere.loss.backward()
    there.loss.backward()
    for ours, reference in zip(some.parameters(), whole.parameters()):
        assert torch.allclose(ours.grad, reference.grad, atol=1e-6)


def test_sums_over_micro_batches_add_up_to_the_loss_of_the_batch(batch) -> None:
    """A mean of means does not: the rows have 3 and 2 targets."""
    ids, documents, labels = batch
    model = make().requires_grad_(False)
    parts = [model(ids[r : r + 1], document_ids=documents[r : r + 1], labels=labels[r : r + 1]) for r in (0, 1)]
    whole = model(ids, document_ids=documents, labels=labels).loss.item()
    assert float(sum(p.loss_sum for p in parts) / sum(p.num_targets for p in parts)) == pytest.approx(whole)
    assert float(sum(p.loss for p in parts) / 2) != pytest.approx(whole, rel=1e-4)


def test_no_targets_give_zero_loss_and_zero_gradients(batch) -> None:
    ids, documents, labels = batch
    model = make()
    output = model(ids, document_ids=documents, labels=torch.full_like(labels, -100))
    assert output.loss.item() == 0.0
    output.loss.backward()
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_without_labels_there_is_no_loss(batch) -> None:
    output = make()(batch[0], output_hidden_states=True, output_attentions=True)
    assert (output.loss, output.loss_sum, output.num_targets) == (None, None, None)
    assert len(output.hidden_states) == 3
    assert len(output.attentions) == 2


def test_the_loss_is_fp32_whatever_the_model_computes_in(batch) -> None:
    ids, documents, labels = batch
    model = make()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(ids, document_ids=documents, labels=labels)
    assert output.loss_sum.dtype == torch.float32
    assert make().bfloat16()(ids, document_ids=documents, labels=labels).loss_sum.dtype == torch.float32
    assert output.loss.item() == pytest.approx(model(ids, document_ids=documents, labels=labels).loss.item(), rel=0.01)


@pytest.mark.parametrize(
    ("head", "extra"),
    [
        (HeadConfig(), 32 * 32 + 32 + 70),  # dense, norm, output bias
        (HeadConfig(transform_bias=True), 32 * 32 + 32 + 32 + 70),
        (HeadConfig(transform=False), 70),
        (HeadConfig(output_bias=False), 32 * 32 + 32),
        (HeadConfig(tied=False), 32 * 32 + 32 + 70 + 70 * 32),
    ],
)
def test_a_head_has_the_parts_that_its_config_names(head: HeadConfig, extra: int, batch) -> None:
    model = make(head)
    numbers = {part: sum(p.numel() for p in part.parameters()) for part in (model, model.encoder)}
    assert numbers[model] - numbers[model.encoder] == extra
    ids, documents, labels = batch
    model(ids, document_ids=documents, labels=labels).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_tied_matrix_learns_from_both_ends(batch) -> None:
    """An id that never comes in still gets a gradient as an output; untied it gets none."""
    ids, documents, labels = batch
    absent = next(i for i in range(70) if i not in ids)
    for tied in (True, False):
        model = make(HeadConfig(tied=tied))
        model(ids, document_ids=documents, labels=labels).loss.backward()
        assert bool((model.encoder.embeddings.tokens.weight.grad[absent] != 0).any()) == tied


def test_a_fresh_model_guesses_uniformly(batch) -> None:
    """At the start the loss is near ln V: no entry of the vocabulary is preferred."""
    ids, documents, labels = batch
    loss = make(vocab_size=5000)(ids, document_ids=documents, labels=labels).loss
    assert loss.item() == pytest.approx(8.517, abs=0.3)


def test_the_forward_is_one_graph_for_dynamo(batch) -> None:
    ids, documents, _ = batch
    places, their_labels = torch.tensor([1, 9, 13, 0]), torch.tensor([3, 4, 5, -100])
    model = make()
    torch._dynamo.reset()
    graph = torch.compile(model, fullgraph=True, backend="eager")
    ours = graph(ids, document_ids=documents, labels=their_labels, targets=places)
    assert torch.allclose(ours.loss, model(ids, document_ids=documents, labels=their_labels, targets=places).loss)
