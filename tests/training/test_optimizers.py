"""AdamW against PyTorch's, Muon against its definition, and the state of both through a checkpoint bit for bit."""

import copy

import pytest
import torch
from torch.distributed.tensor import distribute_tensor

from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.training import optimizers
from bert.training.config import OptimizerConfig
from bert.training.optimizers import (
    make_optimizer,
    orthogonalize,
    parameter_groups,
    set_learning_rate,
)


def make_model(**fields):
    torch.manual_seed(0)
    return MaskedLM(
        EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, **fields)
    )


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_adamw_is_pytorchs():
    config = OptimizerConfig(kind="adamw", lr=1e-2, weight_decay=0.1, clip_norm=None)
    ours, theirs = make_model(), make_model()
    optimizer = make_optimizer(ours, config)
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim == 1]
    reference = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-2,
        betas=config.betas,
        eps=config.eps,
    )
    for step in range(5):
        for model, stepper in ((ours, optimizer), (theirs, reference)):
            give_gradients(model, step)
            stepper.step()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(a, b, atol=1e-6)


def test_orthogonalize_multiplies_fp32_where_the_processor_does_not_multiply_bf16(monkeypatch):
    torch.manual_seed(1)
    matrix = torch.randn(16, 48)
    monkeypatch.setattr(optimizers, "cpu_multiplies_bf16", lambda: True)
    fast = orthogonalize(matrix)
    monkeypatch.setattr(optimizers, "cpu_multiplies_bf16", lambda: False)
    exact = orthogonalize(matrix)
    assert (fast.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    assert 0 < (fast - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)])
def test_orthogonalize_brings_singular_values_near_1_and_keeps_directions(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    result = orthogonalize(matrix).float()
    values = torch.linalg.svdvals(result)
    assert (
        values.min() > 0.5
    )  # Jordan et al.: the quintic leaves singular values within about 0.7 … 1.2, bf16 adds its own
    assert values.max() < 1.3
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ result @ vt.T  # diagonal, where the singular vectors are those of the matrix
    assert (rotated - torch.diag(rotated.diagonal())).abs().max() < 0.05


def test_muon_is_its_definition():
    config = OptimizerConfig(kind="muon", muon_lr=0.1, muon_momentum=0.9, muon_weight_decay=0.2, clip_norm=None)
    model = make_model()
    weight = model.encoder.layers[0].mlp.wo.weight
    before, momentum = weight.detach().clone(), torch.zeros_like(weight)
    optimizer = make_optimizer(model, config)
    for step in range(3):
        give_gradients(model, step)
        momentum = 0.9 * momentum + 0.1 * weight.grad
        update = 0.1 * weight.grad + 0.9 * momentum
        scale = max(1, weight.shape[0] / weight.shape[1]) ** 0.5
        before = before * (1 - 0.1 * 0.2) - 0.1 * scale * orthogonalize(update).float()
        optimizer.step()
    assert torch.allclose(weight, before, atol=1e-5)


def test_queries_keys_and_values_are_orthogonalized_apart():
    model = make_model(num_kv_heads=2)
    attention = model.encoder.layers[1].attention
    optimizer = make_optimizer(
        model, OptimizerConfig(kind="muon", muon_lr=0.1, muon_momentum=0.0, muon_weight_decay=0.0, clip_norm=None)
    )
    give_gradients(model, 3)
    before, gradient = attention.qkv.weight.detach().clone(), attention.qkv.weight.grad.clone()
    optimizer.step()
    step = (before - attention.qkv.weight.detach()) / 0.1
    for rows in (
        slice(0, 32),
        slice(32, 48),
        slice(48, 64),
    ):  # 4 query heads and 2 + 2 heads of keys and values, 8 features each
        expected = orthogonalize(gradient[rows]).float()
        scale = max(1, expected.shape[0] / expected.shape[1]) ** 0.5
        assert torch.allclose(step[rows], expected * scale, atol=1e-5)


def test_muon_in_blocks_orthogonalizes_the_neurons_of_each_block_by_themselves():
    model = make_model()
    layer = model.encoder.layers[0]
    config = OptimizerConfig(
        kind="muon", muon_lr=0.1, muon_momentum=0.0, muon_weight_decay=0.0, muon_block=16, clip_norm=None
    )
    optimizer = make_optimizer(model, config)
    give_gradients(model, 4)
    matrices = (layer.mlp.wi.weight, layer.mlp.wo.weight, layer.attention.out.weight, layer.attention.qkv.weight)
    before, gradients = zip(*((weight.detach().clone(), weight.grad.clone()) for weight in matrices))
    optimizer.step()
    wi, wo, out, qkv = ((old - new.detach()) / 0.1 for old, new in zip(before, matrices))
    of_wi, of_wo, of_out, of_qkv = gradients
    for start in range(0, 96, 16):  # two halves of 48 neurons, 32 wide: each half is taller than wide
        block = slice(start, start + 16)
        assert torch.allclose(wi[block], orthogonalize(of_wi[block]).float() * (48 / 32) ** 0.5, atol=2e-2)
        assert torch.allclose(qkv[block], orthogonalize(of_qkv[block]).float(), atol=2e-2)
    for start in range(0, 48, 16):
        block = slice(start, start + 16)
        assert torch.allclose(wo[:, block], orthogonalize(of_wo[:, block]).float(), atol=2e-2)
    for start in (0, 16):
        block = slice(start, start + 16)
        assert torch.allclose(out[:, block], orthogonalize(of_out[:, block]).float(), atol=2e-2)


def test_a_last_block_may_be_smaller():
    model = make_model()
    weight = model.encoder.layers[1].mlp.wo.weight  # 48 neurons, as columns
    config = OptimizerConfig(
        kind="muon", muon_lr=0.1, muon_momentum=0.0, muon_weight_decay=0.0, muon_block=20, clip_norm=None
    )
    optimizer = make_optimizer(model, config)
    give_gradients(model, 5)
    before, gradient = weight.detach().clone(), weight.grad.clone()
    optimizer.step()
    expected = torch.cat([orthogonalize(part) for part in gradient.split(20, dim=1)], dim=1)
    assert torch.allclose((before - weight.detach()) / 0.1, expected.float(), atol=2e-2)


def test_muon_gets_the_matrices_of_the_blocks_and_nothing_else():
    model = make_model()
    groups = parameter_groups(model, OptimizerConfig(kind="muon"))
    muon = {id(p) for group in groups if group["kind"] == "muon" for p in group["params"]}
    expected = {id(p) for p in model.encoder.layers.parameters() if p.ndim == 2}
    assert muon == expected
    everything = [id(p) for group in groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


def test_vectors_have_no_weight_decay():
    for group in parameter_groups(make_model(norm_bias=True, bias=True), OptimizerConfig(weight_decay=0.3)):
        assert group["weight_decay"] == (0.3 if group["params"][0].ndim > 1 else 0.0)
        assert len({p.ndim > 1 for p in group["params"]}) == 1


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_survives_a_checkpoint_bit_for_bit(kind, tmp_path):
    config = OptimizerConfig(kind=kind)
    model = make_model()
    optimizer = make_optimizer(model, config)
    for step in range(3):
        give_gradients(model, step)
        optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = copy.deepcopy(make_model())
    resumed.load_state_dict(saved["model"])
    other = make_optimizer(resumed, config)
    other.load_state_dict(saved["optimizer"])
    for step in range(3, 6):
        for one, stepper in ((model, optimizer), (resumed, other)):
            give_gradients(one, step)
            stepper.step()
    for a, b in zip(model.parameters(), resumed.parameters()):
        assert torch.equal(a, b)


def test_learning_rate_is_a_share_of_each_groups_highest():
    optimizer = make_optimizer(make_model(), OptimizerConfig(kind="muon", lr=1e-3, muon_lr=0.02))
    set_learning_rate(optimizer, 0.25)
    assert {group["kind"]: group["lr"] for group in optimizer.param_groups} == {"adamw": 0.25e-3, "muon": 0.005}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_state_of_a_checkpoint_goes_to_the_device_of_its_parameters(kind):
    """Checkpoints are read on the CPU. A device without memory stands for a GPU, where the fused AdamW wants all of it there."""
    model = make_model()
    optimizer = make_optimizer(model, OptimizerConfig(kind=kind))
    give_gradients(model, 0)
    optimizer.step()
    elsewhere = make_optimizer(make_model().to("meta"), OptimizerConfig(kind=kind))
    elsewhere.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    tensors = [tensor for state in elsewhere.state.values() for tensor in state.values()]
    assert len(tensors) > 10
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_muon_refuses_sharded_parameters_which_it_would_decay_and_never_move():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for before in (True, False):  # sharded before the optimizer is made, or after
            model = make_model()
            optimizer = None if before else make_optimizer(model, OptimizerConfig(kind="muon"))
            block = model.encoder.layers[0].mlp
            sharded = torch.nn.Parameter(distribute_tensor(block.wi.weight.detach(), mesh))
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["params"] = [sharded if p is block.wi.weight else p for p in group["params"]]
            block.wi.weight = sharded
            sharded.grad = torch.zeros_like(sharded)
            with pytest.raises(InputError, match=r"optimizer\.kind is muon, and the parameters are sharded"):
                make_optimizer(model, OptimizerConfig(kind="muon")) if optimizer is None else optimizer.step()
        make_optimizer(model, OptimizerConfig(kind="adamw"))
    finally:
        torch.distributed.destroy_process_group()
