"""The heads: what they decode or pool, what their loss is."""

from dataclasses import replace

import pytest
import torch

from bert.errors import InputError
from bert.model.config import EncoderConfig, HeadConfig, TaskHeadConfig, task_head
from bert.model.heads import MaskedLM, SequenceClassifier, TokenClassifier

SMALL = EncoderConfig(vocab_size=70, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, max_length=40)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, documents and labels (2, 20): a packed row and a padded one, five masked_positions."""
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


def test_the_loss_is_the_cross_entropy_of_the_labelled_positions(batch) -> None:
    ids, documents, labels = batch
    output = make()(ids, document_ids=documents, labels=labels)
    assert output.logits.shape == (2, 20, 70)
    log_probabilities = output.logits.detach().log_softmax(-1)
    by_hand = -sum(log_probabilities[r, p, labels[r, p]] for r, p in (labels != -100).nonzero().tolist())
    assert output.loss_sum.item() == pytest.approx(float(by_hand), rel=1e-6)
    assert int(output.num_labels) == 5
    assert output.loss.item() == pytest.approx(float(by_hand) / 5, rel=1e-6)


def test_targets_decode_those_positions_alone_with_the_same_loss_and_gradients(batch) -> None:
    ids, documents, labels = batch
    masked = torch.zeros(2, 4, dtype=torch.long)  # (B, K): 3 and 2 are in use, the others are 0
    their_labels = torch.full((2, 4), -100)
    for sequence, of_sequence in enumerate(labels):
        positions = (of_sequence != -100).nonzero().flatten()
        masked[sequence, : len(positions)] = positions
        their_labels[sequence, : len(positions)] = of_sequence[positions]
    whole, some = make(), make()
    everywhere = whole(ids, document_ids=documents, labels=labels)
    there = some(ids, document_ids=documents, labels=their_labels, masked_positions=masked)
    assert there.logits.shape == (2, 4, 70)
    assert torch.allclose(there.logits[their_labels != -100], everywhere.logits[labels != -100], atol=1e-5)
    assert there.loss_sum.item() == pytest.approx(everywhere.loss_sum.item(), rel=1e-6)
    assert int(there.num_labels) == 5
    everywhere.loss.backward()
    there.loss.backward()
    for ours, reference in zip(some.parameters(), whole.parameters()):
        assert torch.allclose(ours.grad, reference.grad, atol=1e-6)


def test_sums_over_micro_batches_add_up_to_the_loss_of_the_batch(batch) -> None:
    """A mean of means does not: the rows have 3 and 2 masked tokens."""
    ids, documents, labels = batch
    model = make().requires_grad_(False)
    parts = [model(ids[r : r + 1], document_ids=documents[r : r + 1], labels=labels[r : r + 1]) for r in (0, 1)]
    whole = model(ids, document_ids=documents, labels=labels).loss.item()
    assert float(sum(p.loss_sum for p in parts) / sum(p.num_labels for p in parts)) == pytest.approx(whole)
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
    assert (output.loss, output.loss_sum, output.num_labels) == (None, None, None)
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
    positions, their_labels = torch.tensor([[1, 9], [3, 0]]), torch.tensor([[3, 4], [5, -100]])
    model = make()
    torch._dynamo.reset()
    graph = torch.compile(model, fullgraph=True, backend="eager")
    ours = graph(ids, document_ids=documents, labels=their_labels, masked_positions=positions)
    assert torch.allclose(
        ours.loss, model(ids, document_ids=documents, labels=their_labels, masked_positions=positions).loss
    )


# Task heads

LABELS = ("no", "perhaps", "yes")
POST_NORM = {"norm_first": False, "final_norm": False, "positions": "learned"}


def classifier(head: TaskHeadConfig | None = None, **fields: object) -> SequenceClassifier:
    torch.manual_seed(1)
    config = replace(SMALL, **fields)
    model = SequenceClassifier(config, head or task_head(config, LABELS)).eval()
    return spread(model)


def tagger(head: TaskHeadConfig | None = None, **fields: object) -> TokenClassifier:
    torch.manual_seed(1)
    config = replace(SMALL, **fields)
    return spread(TokenClassifier(config, head or task_head(config, LABELS, per_token=True)).eval())


def spread(model):
    """Logits far from each other, so that a swapped row shows."""
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """ids and attention mask (5, 12) of rows of 12, 7, 1, 9 and 3 tokens."""
    ids = torch.randint(0, 70, (5, 12), generator=torch.Generator().manual_seed(0))
    return ids, (torch.arange(12) < torch.tensor([12, 7, 1, 9, 3])[:, None]).long()


def test_a_classifier_of_the_modernbert_kind_is_what_its_docstring_says(rows) -> None:
    for pooling in ("cls", "mean"):
        model = classifier(TaskHeadConfig(LABELS, pooling=pooling, transform_bias=True))
        ids, mask = rows
        hidden = model.encoder(ids, mask).last_hidden_state
        for row, length in enumerate(mask.sum(1).tolist()):
            pooled = hidden[row, 0] if pooling == "cls" else hidden[row, :length].mean(0)
            x = torch.nn.functional.gelu(model.head.dense.weight @ pooled + model.head.dense.bias)
            x = (x - x.mean()) / (x.var(unbiased=False) + SMALL.norm_eps).sqrt() * model.head.norm.weight
            by_hand = model.head.output.weight @ x + model.head.output.bias
            assert torch.allclose(model(ids, mask).logits[row], by_hand, atol=1e-4)


def test_a_classifier_of_the_bert_kind_is_a_pooler_and_a_matrix(rows) -> None:
    model = classifier(**POST_NORM)
    first = model.encoder(*rows).last_hidden_state[:, 0]
    assert torch.allclose(model(*rows).logits, model.head.output(torch.tanh(model.head.dense(first))), atol=1e-5)
    bare = tagger(**POST_NORM)
    hidden = bare.encoder(*rows).last_hidden_state
    assert torch.allclose(bare(*rows).logits, bare.head.output(hidden), atol=1e-5)
    assert bare(*rows).logits.shape == (5, 12, 3)


@pytest.mark.parametrize("token_types", [1, 2])
def test_siamese_compares_the_means_of_both_texts_each_encoded_alone(token_types: int, rows) -> None:
    model = classifier(TaskHeadConfig(LABELS, transform=False, pooling="siamese"), token_types=token_types)
    ids, mask = rows
    types = (torch.arange(12) >= torch.tensor([5, 3, 12, 1, 2])[:, None]).long() * mask  # the third has one text alone
    logits = model(ids, mask, types).logits
    for row in range(5):
        means = []
        for text in (0, 1):
            alone = ids[row, (mask[row] > 0) & (types[row] == text)]
            mean = model.encoder(alone[None]).last_hidden_state[0].mean(0) if len(alone) else torch.zeros(32)
            means.append(mean / (mean.square().mean() + 1e-7).sqrt())
        u, v = means
        by_hand = model.head.output.weight @ torch.cat([(u - v).abs(), u * v]) + model.head.output.bias
        assert torch.allclose(logits[row], by_hand, atol=1e-4)


def test_siamese_without_token_types_says_what_it_needs(rows) -> None:
    model = classifier(TaskHeadConfig(LABELS, transform=False, pooling="siamese"))
    with pytest.raises(InputError, match=r"head\.pooling is siamese, which compares two texts: give pairs of texts"):
        model(*rows)


@pytest.mark.parametrize("pooling", ["cls", "mean", "siamese"])
def test_padding_has_no_part_in_a_class(pooling: str, rows) -> None:
    model = classifier(TaskHeadConfig(LABELS, pooling=pooling))
    ids, mask = rows
    types = torch.zeros_like(ids)
    types[:, 4:] = 1
    logits = model(ids, mask, types).logits
    assert torch.allclose(logits, model(ids, None, types, document_ids=mask).logits, atol=1e-6)
    assert torch.allclose(logits, model(torch.where(mask > 0, ids, 5), mask, types).logits, atol=1e-6)
    longer = (torch.nn.functional.pad(some, (0, 4)) for some in (ids, mask, types))
    assert torch.allclose(logits, model(*longer).logits, atol=1e-5)
    alone = model(ids[1:2, :7], token_type_ids=types[1:2, :7]).logits[0]  # without a mask
    assert torch.allclose(logits[1], alone, atol=1e-5)
    assert model(ids, torch.zeros_like(mask), types).logits.isfinite().all()  # rows that only fill a batch


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("example_ids", [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [0, 1, 1, 3, 3]])
def test_the_logits_of_an_example_are_the_mean_over_its_windows(pooling: str, example_ids: list[int], rows) -> None:
    model = classifier(TaskHeadConfig(LABELS, pooling=pooling))
    alone = model(*rows).logits
    numbers = torch.tensor(example_ids)
    together = model(*rows, example_ids=numbers)
    assert together.logits.shape == (max(example_ids) + 1, 3)
    for example in range(max(example_ids) + 1):
        windows = alone[numbers == example]
        mean = windows.mean(0) if len(windows) else torch.zeros(3)  # example 2 of the last case has none
        assert torch.allclose(together.logits[example], mean, atol=1e-6)


def test_the_loss_of_examples_is_their_cross_entropy_and_adds_up(rows) -> None:
    model = classifier().requires_grad_(False)
    ids, mask = rows
    numbers, labels = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([2, 0, -100, 1])
    whole = model(ids, mask, labels=labels, example_ids=numbers)
    chances = whole.logits.log_softmax(-1)
    assert whole.loss_sum.item() == pytest.approx(-float(chances[0, 2] + chances[1, 0] + chances[3, 1]), rel=1e-5)
    assert int(whole.num_labels) == 3
    assert whole.loss.item() == pytest.approx(whole.loss_sum.item() / 3)
    first = model(ids[:3], mask[:3], labels=labels[:2], example_ids=numbers[:3])
    second = model(ids[3:], mask[3:], labels=labels[2:], example_ids=numbers[3:] - 2)
    assert (first.loss_sum + second.loss_sum).item() == pytest.approx(whole.loss_sum.item(), rel=1e-5)
    assert int(first.num_labels + second.num_labels) == 3


def test_a_tagger_asks_only_the_labelled_tokens(rows) -> None:
    model = tagger().requires_grad_(False)
    labels = torch.full((5, 12), -100)
    labels[0, 3], labels[1, 6], labels[4, 0] = 2, 0, 1
    output = model(*rows, labels=labels)
    chances = output.logits.log_softmax(-1)
    by_hand = -float(chances[0, 3, 2] + chances[1, 6, 0] + chances[4, 0, 1])
    assert output.loss_sum.item() == pytest.approx(by_hand, rel=1e-5)
    assert int(output.num_labels) == 3
    assert output.loss.item() == pytest.approx(by_hand / 3, rel=1e-5)


@pytest.mark.parametrize("make_model", [classifier, tagger])
def test_nothing_to_learn_gives_zero_gradients_and_something_reaches_all(make_model, rows) -> None:
    model = make_model()
    shape = (5,) if make_model is classifier else (5, 12)
    nothing = model(*rows, labels=torch.full(shape, -100))
    assert nothing.loss.item() == 0.0
    nothing.loss.backward()
    assert all((parameter.grad == 0).all() for parameter in model.parameters())
    model(*rows, labels=torch.ones(shape, dtype=torch.long)).loss.backward()
    assert all((parameter.grad != 0).any() for parameter in model.parameters())


@pytest.mark.parametrize("make_model", [classifier, tagger])
def test_the_loss_of_a_task_is_fp32_under_autocast(make_model, rows) -> None:
    model = make_model()
    labels = torch.ones(5 if make_model is classifier else (5, 12), dtype=torch.long)
    more = {"example_ids": torch.arange(5)} if make_model is classifier else {}
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*rows, labels=labels, **more)
    assert output.loss_sum.dtype == torch.float32
    assert output.loss.item() == pytest.approx(model(*rows, labels=labels, **more).loss.item(), rel=0.02)


def test_a_number_has_more_digits_under_autocast_than_bfloat16(rows) -> None:
    model = classifier(TaskHeadConfig(("year",), problem_type="regression"))
    torch.nn.init.constant_(model.head.output.bias, 2001.0)
    exact = model(*rows).logits
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(*rows).logits
    assert rounded.dtype == torch.float32
    assert torch.allclose(exact, rounded, atol=0.1)  # bfloat16 knows 2000 and 2008


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("multi_label_classification", torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]])),
        ("regression", torch.tensor([0.5, -2.0, 3.0, 0.0, 1.0])),
    ],
)
def test_the_loss_of_other_problems_is_their_definition(problem: str, labels: torch.Tensor, rows) -> None:
    names = ("value",) if problem == "regression" else LABELS
    model = classifier(TaskHeadConfig(names, problem_type=problem)).requires_grad_(False)
    output = model(*rows, labels=labels)
    if problem == "regression":
        by_hand = (output.logits[:, 0] - labels) ** 2
    else:
        probabilities = output.logits.sigmoid()
        by_hand = -torch.where(labels > 0, probabilities, 1 - probabilities).log()
    assert output.loss.item() == pytest.approx(by_hand.mean().item(), rel=1e-5)
    assert output.loss_sum.item() == pytest.approx(by_hand.sum().item(), rel=1e-5)
    assert int(output.num_labels) == labels.numel()


def test_a_problem_without_a_loss_says_so(rows) -> None:
    model = classifier(TaskHeadConfig(LABELS, problem_type="ordinal"))
    assert model(*rows).logits.shape == (5, 3)
    with pytest.raises(InputError, match=r"head\.problem_type ordinal has no loss: leave labels out"):
        model(*rows, labels=torch.zeros(5, dtype=torch.long))


def test_a_fresh_task_head_guesses_uniformly(rows) -> None:
    for fields in ({}, POST_NORM):
        config = replace(SMALL, **fields)
        torch.manual_seed(0)
        model = SequenceClassifier(config, task_head(config, [str(i) for i in range(20)])).eval()
        assert model(*rows, labels=torch.arange(5)).loss.item() == pytest.approx(2.996, abs=0.15)  # ln 20


def test_dropout_of_the_head_is_on_in_training_alone(rows) -> None:
    model = classifier(TaskHeadConfig(LABELS, dropout=0.5))
    assert torch.equal(model(*rows).logits, model(*rows).logits)
    model.train()
    assert not torch.equal(model(*rows).logits, model(*rows).logits)


def test_the_kind_of_a_model_and_its_pooling_agree() -> None:
    with pytest.raises(InputError, match="pooling is null, which makes a tagger: give cls or mean"):
        SequenceClassifier(SMALL, TaskHeadConfig(LABELS, pooling=None))
    assert TokenClassifier(SMALL, TaskHeadConfig(LABELS)).head_config.pooling is None
    assert tagger().labels == classifier().labels == LABELS


@pytest.mark.parametrize("pooling", ["mean", "siamese"])
def test_a_step_of_a_classifier_is_one_graph_for_dynamo(pooling: str, rows) -> None:
    model = classifier(TaskHeadConfig(LABELS, pooling=pooling))
    numbers, labels = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([2, 0, -100, 1])
    torch._dynamo.reset()
    graph = torch.compile(model, fullgraph=True, backend="eager")
    ids, mask = rows
    inputs = (ids, mask, (torch.arange(12) > 1).long().expand(5, 12))
    ours = graph(*inputs, labels=labels, example_ids=numbers)
    assert torch.allclose(ours.loss, model(*inputs, labels=labels, example_ids=numbers).loss)


@pytest.mark.parametrize("head", [HeadConfig(), HeadConfig(transform=False, tied=False, output_bias=False)])
def test_the_loss_alone_is_that_of_the_forward_pass_and_so_are_its_gradients(head: HeadConfig) -> None:
    torch.manual_seed(0)
    model = MaskedLM(
        EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48), head
    )
    ids, documents = torch.randint(5, 64, (2, 12)), torch.tensor([[1] * 7 + [2] * 5, [1] * 9 + [0] * 3])
    masked_positions, labels = torch.tensor([[1, 8, 0], [0, 4, 8]]), torch.tensor([9, 60, -100, 7, 8, 63])
    whole = model(ids, document_ids=documents, masked_positions=masked_positions, labels=labels).loss_sum
    alone = model.loss_sum(ids, documents, masked_positions, labels)
    torch.testing.assert_close(alone, whole)
    parameters = list(model.parameters())
    for one, other in zip(torch.autograd.grad(whole, parameters), torch.autograd.grad(alone, parameters), strict=True):
        torch.testing.assert_close(one, other)
