"""AdamW, and Muon for hidden matrices with AdamW for the rest, as one optimizer with one state.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, computed with five Newton–Schulz steps, so
every direction of the matrix moves by the same amount. It is for the matrices inside the blocks; embeddings, norms, biases and the output
matrix use AdamW.
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

# Quintic coefficients of Jordan et al.: steep at 0, with singular values that end within 0.7 … 1.2.
_NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315


def orthogonalize(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Approximately the orthogonal factor UVᵀ in the singular value decomposition of `matrix` (…, M, N); computed in bf16, or in fp32 if
    the hardware does not multiply bf16."""
    a, b, c = _NEWTON_SCHULZ
    fast = matrix.device.type == "cuda" or (matrix.device.type == "cpu" and cpu_multiplies_bf16())
    x = matrix.to(torch.bfloat16 if fast else torch.float32).reshape(-1, *matrix.shape[-2:])
    transposed = x.size(-2) > x.size(-1)
    if transposed:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):  # aX + (bG + cG²)X with G = XXᵀ; fusing sums into products halves the time
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return (x.mT if transposed else x).reshape(matrix.shape)


class MuonAdamW(torch.optim.Optimizer):
    """Parameter groups of kind "muon" are updated by Muon, those of kind "adamw" by AdamW.

    A group of kind "muon" may have `parts`: the numbers of rows of the matrices that are stacked in one, such as Q, K and V in a fused
    projection. Each is orthogonalized separately, in blocks of `block` neurons, which are rows or columns by `axis`.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"weight_decay": 0.0})
        self.gradient_norm = torch.zeros(())
        """2-norm of the gradients in the last step, before clipping"""
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

    def _with_gradients(self, group: dict[str, Any], *names: str) -> list[torch.Tensor]:
        """The parameters of a group that have gradients; their state has tensors of the same shape under `names`."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update({name: torch.zeros_like(parameter) for name in names})
        return parameters

    def _muon(self, group: dict[str, Any]) -> None:
        if not (parameters := self._with_gradients(group, "momentum")):
            return
        _refuse_sharded(parameters)
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        # Blocks of the same shape are orthogonalized together: one call for all layers instead of one per matrix.
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
        if not (parameters := self._with_gradients(group, "exp_avg", "exp_avg_sq")):
            return
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        states = [self.state[parameter] for parameter in parameters]
        means, squares, counts = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        settings = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        settings |= {"beta1": group["betas"][0], "beta2": group["betas"][1]}
        settings |= {"fused": True, "amsgrad": False, "maximize": False}
        adamw(parameters, gradients, means, squares, [], counts, **settings)


def _refuse_sharded(parameters: Iterable[torch.Tensor]) -> None:
    """InputError for DTensors, as in FSDP2: parts of them are copies, so their update would be lost."""
    if any(hasattr(parameter, "device_mesh") for parameter in parameters):
        raise InputError("optimizer.kind is muon, and the parameters are sharded: give adamw, or the strategy ddp")


def parameter_groups(
    model: nn.Module, config: OptimizerConfig, rate_share: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """The parameter groups of `model`; vectors have no weight decay. `rate_share` gives the share of the learning rate for a parameter by
    its name. `highest_lr` is the highest learning rate of a group."""
    # Hidden matrix → numbers of rows of the matrices stacked in it, and the axis of its neurons. Parts of a block come after the block.
    hidden: dict[int, tuple[tuple[int, ...], int]] = {}
    for module in model.modules():
        if isinstance(module, Block):
            hidden |= {id(parameter): ((), 0) for parameter in module.parameters() if parameter.ndim == 2}
        elif isinstance(module, Attention):
            heads = (module.num_heads, module.kv_heads, module.kv_heads)
            hidden[id(module.qkv.weight)] = tuple(number * module.head_size for number in heads), 0
            hidden[id(module.out.weight)] = (), 1
        elif isinstance(module, MLP):
            hidden[id(module.wi.weight)] = (module.wi.out_features // 2,) * 2 if module.gated else (), 0
            hidden[id(module.wo.weight)] = (), 1
    # has weight decay → share of the rate → parameters
    by_adamw: dict[bool, dict[float, list[nn.Parameter]]] = {True: {}, False: {}}
    muon: dict[tuple[float, tuple[int, ...], int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        share = rate_share(name)
        if config.kind == "muon" and id(parameter) in hidden:
            muon.setdefault((share, *hidden[id(parameter)]), []).append(parameter)
        else:
            by_adamw[parameter.ndim > 1].setdefault(share, []).append(parameter)
    # With "fused", PyTorch loads the step counts of a checkpoint onto the device of their parameters.
    adamw_settings = {"kind": "adamw", "lr": config.lr, "betas": config.betas, "eps": config.eps, "fused": True}
    groups: list[dict[str, Any]] = [
        {"params": some, "share": share, "weight_decay": config.weight_decay * decays, **adamw_settings}
        for decays, by_share in by_adamw.items()
        for share, some in by_share.items()
    ]
    for (share, parts, axis), matrices in muon.items():
        settings = {"momentum": config.muon_momentum, "weight_decay": config.muon_weight_decay}
        shape = {"parts": parts, "axis": axis, "block": config.muon_block}
        groups.append({"params": matrices, "share": share, "kind": "muon", "lr": config.muon_lr, **shape, **settings})
    for group in groups:
        group["highest_lr"] = group["lr"] = group["lr"] * group["share"]
    return groups


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, rate_share: Callable[[str], float] = lambda name: 1.0
) -> MuonAdamW:
    """The optimizer of `config` for the parameters of `model`, see `parameter_groups`. It clips their gradients at the start of `step`,
    after a scaler has unscaled them, and keeps their norm as `gradient_norm`."""
    optimizer = MuonAdamW(parameter_groups(model, config, rate_share))

    def clip(*_: Any) -> None:
        optimizer.gradient_norm = clip_gradients(model, config.clip_norm)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def restore_highest_rates(optimizer: torch.optim.Optimizer, config: OptimizerConfig) -> None:
    """Set the highest learning rates of `config`: a checkpoint restores those from before the recipe was amended."""
    for group in optimizer.param_groups:
        highest = config.muon_lr if group["kind"] == "muon" else config.lr
        group["highest_lr"] = highest * group.get("share", 1.0)  # absent in checkpoints of earlier versions


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group to `share` of its highest learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest_lr"] * share


def clip_gradients(model: nn.Module, longest: float | None) -> torch.Tensor:
    """Clip the gradients of `model` to the 2-norm `longest` over all parameters, unless it is None. Returns their norm before clipping."""
    parameters = list(model.parameters())
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if longest is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, longest, norm)
    return norm
