"""AdamW, and Muon for hidden matrices with AdamW for the rest as one optimiser with one state.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, found by five Newton–Schulz steps, so that
every direction of the matrix moves by the same amount. It is meant for the matrices inside the blocks; embeddings, norms, biases and
the output go to AdamW.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

from bert.errors import InputError
from bert.model.hardware import cpu_multiplies_bf16
from bert.model.layers import MLP, Attention, Block
from bert.training.config import OptimizerConfig

_NEWTON_SCHULZ = (
    3.4445,
    -4.7750,
    2.0315,
)  # quintic coefficients of Jordan et al.: steep at 0, singular values end within 0.7 … 1.2


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The orthogonal factor of `matrix` (…, M, N), nearly: UVᵀ of its singular value decomposition, in bf16; in fp32 where the
    hardware does not multiply bf16."""
    a, b, c = _NEWTON_SCHULZ
    fast = matrix.device.type == "cuda" or (matrix.device.type == "cpu" and cpu_multiplies_bf16())
    x = matrix.to(torch.bfloat16 if fast else torch.float32).reshape(-1, *matrix.shape[-2:])
    transposed = x.size(-2) > x.size(-1)
    if transposed:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):  # aX + (bG + cG²)X with G = XXᵀ: the sums are part of the products, which halves the time
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return (x.mT if transposed else x).reshape(matrix.shape)


class MuonAdamW(torch.optim.Optimizer):
    """Parameter groups of kind "muon" are updated by Muon, those of kind "adamw" by AdamW.

    A group of kind "muon" may carry `parts`: the numbers of rows of the matrices that stand in one below the other, as Q, K and V do
    in a fused projection; each is orthogonalised by itself, in blocks of `block` neurons, which are its rows or columns by `axis`.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"weight_decay": 0.0})
        self.gradient_norm = torch.zeros(())
        """2-norm of the gradients in the last step, before they were clipped"""
        for group in groups:
            if group["kind"] == "muon":
                _refuse_sharded(group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["kind"] == "muon":
                self._muon(group)
            else:
                self._adamw(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        _refuse_sharded(parameters)
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters]
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        # Blocks of one shape are orthogonalised side by side: one call for all layers in the place of one for each matrix.
        of_shape: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor, float]]] = {}
        for parameter, update in zip(parameters, updates):
            rows = group["parts"] or [len(update)]
            for place, part in zip(parameter.split(rows), update.split(rows)):
                scale = max(1.0, part.size(0) / part.size(1)) ** 0.5
                size = group["block"] or part.size(group["axis"])
                blocks = part.split(size, dim=group["axis"])
                for where, block in zip(place.split(size, dim=group["axis"]), blocks):
                    of_shape.setdefault(block.shape, []).append((where, block, scale))
        for same in of_shape.values():
            steps = orthogonalize(torch.stack([block for _, block, _ in same]))
            for (where, _, scale), step in zip(same, steps):
                where.add_(step, alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any]) -> None:
        parameters, gradients, means, squares, counts = [], [], [], [], []
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            parameters.append(parameter)
            gradients.append(parameter.grad)
            means.append(state["exp_avg"])
            squares.append(state["exp_avg_sq"])
            counts.append(state["step"])
        if parameters:
            adamw(
                parameters,
                gradients,
                means,
                squares,
                [],
                counts,
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )


def _refuse_sharded(parameters: Iterable[torch.Tensor]) -> None:
    """InputError for DTensors, as of FSDP2: parts of them are copies, so that their update would be lost."""
    if any(hasattr(parameter, "device_mesh") for parameter in parameters):
        raise InputError(
            "optimizer.kind is muon, and the parameters are sharded over devices: give adamw, or the strategy ddp"
        )


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The parameters of `model` by treatment; vectors have no weight decay. Each group keeps its highest learning rate as `highest_lr`."""
    hidden: dict[
        int, tuple[tuple[int, ...], int]
    ] = {}  # hidden matrix → rows of those that stand in it, axis of its neurons
    for module in model.modules():
        if isinstance(module, Block):
            hidden |= {id(parameter): ((), 0) for parameter in module.parameters() if parameter.ndim == 2}
    for module in model.modules():
        if isinstance(module, Attention):
            heads = (module.num_heads, module.kv_heads, module.kv_heads)
            hidden[id(module.qkv.weight)] = tuple(number * module.head_size for number in heads), 0
            hidden[id(module.out.weight)] = (), 1
        elif isinstance(module, MLP):
            hidden[id(module.wi.weight)] = (module.wi.out_features // 2,) * 2 if module.gated else (), 0
            hidden[id(module.wo.weight)] = (), 1
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    muon: dict[tuple[tuple[int, ...], int], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if config.kind == "muon" and id(parameter) in hidden:
            muon.setdefault(hidden[id(parameter)], []).append(parameter)
        else:
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    # "fused" tells PyTorch, which loads the state of a checkpoint, to put the counts of steps on the device of their parameters.
    adamw_settings = {"kind": "adamw", "lr": config.lr, "betas": config.betas, "eps": config.eps, "fused": True}
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay, **adamw_settings},
        {"params": plain, "weight_decay": 0.0, **adamw_settings},
    ]
    for (parts, axis), matrices in muon.items():
        settings = {"momentum": config.muon_momentum, "weight_decay": config.muon_weight_decay}
        shape = {"parts": parts, "axis": axis, "block": config.muon_block}
        groups.append({"params": matrices, "kind": "muon", "lr": config.muon_lr, **shape, **settings})
    groups = [group for group in groups if group["params"]]
    for group in groups:
        group["highest_lr"] = group["lr"]
    return groups


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> MuonAdamW:
    """The optimizer of `config` for the parameters of `model`. It clips their gradients at the beginning of `step`, after a scaler has
    unscaled them, and keeps their norm as `gradient_norm`."""
    optimizer = MuonAdamW(parameter_groups(model, config))

    def clip(*_: Any) -> None:
        optimizer.gradient_norm = clip_gradients(model, config.clip_norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def restore_highest_rates(optimizer: torch.optim.Optimizer, config: OptimizerConfig) -> None:
    """Give the groups the highest learning rates of `config`: a checkpoint brings those of the run before its recipe was amended."""
    for group in optimizer.param_groups:
        group["highest_lr"] = config.muon_lr if group["kind"] == "muon" else config.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group to `share` of its highest learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest_lr"] * share


def clip_gradients(model: nn.Module, longest: float | None) -> torch.Tensor:
    """Shorten the gradients of `model` to the 2-norm `longest` over all parameters; null: not at all. Their norm before."""
    parameters = list(model.parameters())
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if longest is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, longest, norm)
    return norm
