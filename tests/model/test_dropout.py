"""Dropout: the hash against whole-number arithmetic in numpy, and what is dropped against the definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bert.model.dropout import Dropout, drop, hashed

KEY = st.integers(-(2**31), 2**31 - 1)


def by_numpy(numbers: np.ndarray, keys: tuple[int, int]) -> np.ndarray:
    """The same mixing in unsigned 64-bit numbers, cut to 32 bits after each product."""
    first, second = (np.uint64(key % 2**32) for key in keys)
    x = numbers.astype(np.uint64) ^ first
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x21F0AAAD)) & np.uint64(0xFFFFFFFF)
    x = ((x ^ (x >> np.uint64(15)) ^ second) * np.uint64(0x735A2D97)) & np.uint64(0xFFFFFFFF)
    return x ^ (x >> np.uint64(15))


@given(KEY, KEY, st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_the_hash_is_the_one_of_the_definition_and_one_to_one(first: int, second: int, count: int) -> None:
    keys = torch.tensor([first, second], dtype=torch.int32)
    found = hashed(torch.arange(count, dtype=torch.int32), keys).numpy().astype(np.int64) % 2**32
    assert np.array_equal(found.astype(np.uint64), by_numpy(np.arange(count), (first, second)))
    assert len(set(found.tolist())) == count


@pytest.mark.parametrize("count", [1, 17, 4099])  # also what is left over beside whole vectors
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_compiled_hash_is_the_same(device: str, count: int) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    keys = torch.tensor([-123_456_789, 2_000_000_011], dtype=torch.int32)
    number = torch.arange(count, dtype=torch.int32)
    found = torch.compile(hashed, fullgraph=True)(number.to(device), keys.to(device))
    assert torch.equal(found.cpu(), hashed(number, keys))


@pytest.mark.gpu
def test_uncompiled_on_a_gpu_it_is_the_dropout_of_pytorch() -> None:
    x = torch.randn(64, 32, device="cuda")
    torch.manual_seed(0)
    expected = F.dropout(x, 0.3)
    torch.manual_seed(0)
    assert torch.equal(drop(x, 0.3), expected)


def test_it_is_off_at_rate_0_and_outside_of_training() -> None:
    x = torch.randn(64, 32)
    assert drop(x, 0.0) is x
    assert Dropout(0.3).eval()(x) is x


@given(st.integers(0, 9), st.floats(1e-6, 1 - 1e-6))
@settings(max_examples=50, deadline=None)
def test_any_number_of_elements_and_any_rate_will_do(count: int, rate: float) -> None:
    found = drop(torch.ones(count, 1), rate)
    assert found.shape == (count, 1)
    assert ((found == 0) | (found == torch.tensor(1 / (1 - rate)))).all()


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize(("rate", "dtype"), [(0.1, torch.float32), (0.5, torch.bfloat16)])
def test_it_drops_a_share_and_scales_the_rest_forward_and_back(
    rate: float, dtype: torch.dtype, is_compiled: bool
) -> None:
    def twice(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return drop(x, rate), drop(x, rate)

    compiled = torch.compile(twice, fullgraph=True) if is_compiled else twice
    x = (torch.rand(600, 500) + 1).to(dtype).requires_grad_()
    torch.manual_seed(0)
    one, other = compiled(x)
    kept = one != 0
    assert torch.equal(one, torch.where(kept, x * (1 / (1 - rate)), 0))
    deviation = (rate * (1 - rate) / kept.numel()) ** 0.5
    assert abs((~kept).double().mean() - rate) < 5 * deviation
    for axis in (0, 1):  # no row and no column is treated apart
        shares = (~kept).double().mean(axis)
        assert abs(float(shares.std()) / (rate * (1 - rate) / kept.shape[axis]) ** 0.5 - 1) < 0.15
    for far in (1, 2, 3, 4):  # numbers that were drawn together, and not
        both = torch.stack([part.flatten().double() for part in (kept[:, far:], kept[:, :-far])])
        assert abs(torch.corrcoef(both)[0, 1]) < 5 / both.shape[1] ** 0.5
    for pair in ((kept, other != 0), (kept[1:], kept[:-1])):  # two positions; neighbors
        both = torch.stack([part.flatten().double() for part in pair])
        assert abs(torch.corrcoef(both)[0, 1]) < 5 / both.shape[1] ** 0.5
    (gradient,) = torch.autograd.grad(one.sum(), x)
    assert torch.equal(gradient, torch.where(kept, torch.tensor(1 / (1 - rate), dtype=dtype), 0))

    again, _ = compiled(x)
    assert not torch.equal(again, one)
    torch.manual_seed(0)
    assert torch.equal(compiled(x)[0], one)
