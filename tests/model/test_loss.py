import pytest
import torch
import torch.nn.functional as F

from bert.model.loss import IGNORED, linear_cross_entropy

POSITIONS, WIDTH, WORDS = 48, 24, 200


@pytest.fixture(params=["with a bias", "without"])
def inputs(request: pytest.FixtureRequest) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(POSITIONS, WIDTH), (WORDS, WIDTH), (WORDS,)][: 3 if request.param == "with a bias" else 2]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.fixture
def labels() -> torch.Tensor:
    labels = torch.randint(0, WORDS, (POSITIONS,), generator=torch.Generator().manual_seed(1))
    labels[::5] = IGNORED
    return labels


def reference(inputs: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """PyTorch's own, in the precision of the inputs, softmax in fp32 at least."""
    scores = F.linear(*inputs)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")


def with_gradients(loss, inputs: list[torch.Tensor], labels: torch.Tensor) -> list[torch.Tensor]:
    total = loss(inputs, labels)
    return [total.detach(), *torch.autograd.grad(3 * total, inputs)]


def ours(inputs: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    return linear_cross_entropy(*inputs, *[None] * (3 - len(inputs)), labels)


@pytest.mark.parametrize("compiled", [False, True])
def test_loss_and_gradients_are_those_of_pytorch(inputs, labels, compiled) -> None:
    torch._dynamo.reset()
    loss = torch.compile(ours, fullgraph=True, backend="aot_eager") if compiled else ours
    for one, other in zip(with_gradients(loss, inputs, labels), with_gradients(reference, inputs, labels), strict=True):
        torch.testing.assert_close(one, other)  # fp64: 1e-7


def test_its_gradients_are_its_differences(inputs, labels) -> None:
    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        return ours(list(inputs), labels[:6])

    few = [inputs[0][:6].detach().requires_grad_(), *(part.detach()[:20].requires_grad_() for part in inputs[1:])]
    labels[:6] = torch.tensor([0, 19, IGNORED, 3, 3, 7])
    assert torch.autograd.gradcheck(loss, few)


@pytest.mark.parametrize("with_bias", [True, False])
def test_in_bf16_its_gradients_are_as_near_to_the_truth_as_those_of_pytorch(labels, with_bias) -> None:
    squares = torch.zeros(2, 3)  # ours and theirs, by input: pooled over seeds
    for seed in range(8):
        torch.manual_seed(seed)
        shapes = [(POSITIONS, WIDTH), (WORDS, WIDTH), (WORDS,)][: 3 if with_bias else 2]
        rounded = [torch.randn(shape).bfloat16().requires_grad_() for shape in shapes]
        truth = with_gradients(reference, [part.detach().double().requires_grad_() for part in rounded], labels)
        both = with_gradients(ours, rounded, labels), with_gradients(reference, rounded, labels)
        assert both[0][0].dtype == torch.float32
        assert (both[0][0] - truth[0]).abs() <= 2**-9 * truth[0]
        for side, values in enumerate(both):
            for number, (value, exact) in enumerate(zip(values[1:], truth[1:], strict=True)):
                assert value.dtype == torch.bfloat16
                squares[side, number] += (value - exact).square().sum()
    # Products are rounded before the bias is added, not behind it: as many roundings, of other numbers.
    assert (squares[0].sqrt() <= 1.1 * squares[1].sqrt()).all(), squares.sqrt()


def test_where_nothing_is_asked_the_loss_is_0_and_so_are_its_gradients(inputs) -> None:
    for value in with_gradients(ours, inputs, torch.full((POSITIONS,), IGNORED)):
        assert not value.any()


def test_scores_beyond_the_range_of_exp_make_no_infinities(labels) -> None:
    hidden, matrix = torch.full((POSITIONS, WIDTH), 100.0), torch.randn(WORDS, WIDTH).mul(100).requires_grad_()
    total, gradient = with_gradients(lambda inputs, labels: ours([hidden, *inputs], labels), [matrix], labels)
    assert total.isfinite()
    assert gradient.isfinite().all()
