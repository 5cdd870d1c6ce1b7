"""Model expansion by tiling: a larger masked LM from a smaller one, which computes nearly the same function.

Width: the features of the residual path, whole heads and the features of the MLP are repeated in order up to the new size (Li et al. 2023,
phi-1.5, and Warner et al. 2024, ModernBERT, tile in this way). The weights that read a repeated feature are divided among its copies, so
that the sum does not change; by unequal shares, because copies that are written and read alike would get the same gradients forever (Chen
et al. 2016, Net2Net; Wang et al. 2024, LEMON). For a multiple of the old width, norms see the same mean and variance and the function is
unchanged; otherwise it is close.

Depth: each layer is repeated in place, local layers from local ones and global from global (as in Rae et al. 2021, Gopher). The output of a
repetition starts at zero, so it passes its input on and learns from there (Wu et al. 2024, LLaMA Pro): a pre-norm model computes the old
function; a post-norm model normalizes again, and the added norms preserve size and mean.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bert.errors import InputError
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.model.layers import without_memory


def larger(
    config: EncoderConfig,
    num_layers: int | None = None,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
) -> EncoderConfig:
    """`config` with these sizes; None leaves a size unchanged. Heads keep their size: a wider model has more of them.

    Raises InputError for a smaller size, and for a width that is not a whole number of heads.
    """
    sizes = {"num_layers": num_layers, "hidden_size": hidden_size, "intermediate_size": intermediate_size}
    for name, size in sizes.items():
        if size is not None and size < (now := getattr(config, name)):
            raise InputError(f"expand.{name} is {size} and the model has {now}: give as many or more")
    width = hidden_size or config.hidden_size
    if width != config.hidden_size and config.embedding_width != config.hidden_size:
        widths = f"embeddings of {config.embedding_width} and layers of {config.hidden_size}"
        raise InputError(f"expand.hidden_size: a model with {widths} cannot be made wider: leave it out")
    group = config.num_heads // config.kv_heads * config.head_size  # heads that share keys and values stay together
    if width % group:
        unit, fix = "a head" if group == config.head_size else "a group of heads", -(-width // group) * group
        raise InputError(f"expand.hidden_size is {width}: give a multiple of {group}, the size of {unit}, as {fix}")
    # By the check above, a model that becomes wider has embeddings as wide as its layers.
    embeddings = config.embedding_size if width == config.hidden_size else None
    return replace(
        config,
        num_layers=num_layers or config.num_layers,
        hidden_size=width,
        embedding_size=embeddings,
        num_heads=width // config.head_size,
        num_kv_heads=None if config.num_kv_heads is None else width // group,
        intermediate_size=intermediate_size or config.intermediate_size,
    )


def expand(model: MaskedLM, config: EncoderConfig, seed: int = 0) -> MaskedLM:
    """A model of the larger shape `config`, which `larger` returns, from the weights of `model`; `seed` determines the shares.

    With the shape of `model` it is an exact copy.
    """
    old = model.config
    generator = torch.Generator().manual_seed(seed)
    width = _repeat(old.hidden_size, config.hidden_size)
    if old.positions == "sinusoidal":  # each feature has a wavelength: use the nearest one of the old width
        pairs = torch.arange(config.hidden_size // 2) * old.hidden_size // config.hidden_size
        width = torch.stack((2 * pairs, 2 * pairs + 1), dim=1).flatten()
    axes = _axes(old, config, width)
    layers = repeat_layers(old, config)
    source = model.state_dict()
    state: dict[str, Tensor] = {}
    with without_memory():
        expanded = MaskedLM(config, model.head_config)
    for name in expanded.state_dict():
        module, _, kind = _old_name(name, old, layers, source).rpartition(".")
        tensor = source.get(f"{module}.{kind}")
        if tensor is None:  # a norm that the first layer of the old model lacks
            tensor = torch.ones(old.hidden_size) if kind == "weight" else torch.zeros(old.hidden_size)
        a_norm = (width, None)  # a feature keeps its gain
        rows, columns = next((axes[end] for end in axes if module.endswith(end)), a_norm)
        if old.embedding_width != old.hidden_size and name.startswith(("encoder.embeddings.", "head.")):
            pass  # they have a separate width, which does not change
        elif ".embeddings." in name and not name.startswith("encoder.embeddings.norm."):
            tensor = tensor[:, width]
        else:
            tensor = tensor if rows is None else tensor[rows]
            tensor = tensor if columns is None or tensor.dim() == 1 else _share(tensor, columns, generator)
        state[name] = tensor.clone()
    for layer, (_, repeated) in enumerate(layers):
        if repeated:
            _silence(state, f"encoder.layers.{layer}", config)
    if old.embedding_scale:
        state["encoder.embeddings.tokens.weight"] *= (old.hidden_size / config.hidden_size) ** 0.5
    if model.head_config.tied and config.hidden_size != old.hidden_size:
        _share_output(state, model, config, width, generator)
    expanded.load_state_dict(state, assign=True)
    expanded.requires_grad_(True)
    expanded.tokenizer, expanded.model_type = model.tokenizer, model.model_type
    return expanded.eval()


def _axes(old: EncoderConfig, new: EncoderConfig, width: Tensor) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """Suffix of a module's name → the old rows and the old columns (input features) of its matrix. None: unchanged."""
    inner = _repeat(old.intermediate_size, new.intermediate_size)
    heads, kv_heads = _heads(old, new)
    kv_rows = old.num_heads * old.head_size + kv_heads
    stacked = torch.cat((heads, kv_rows, kv_rows + old.kv_heads * old.head_size))  # rows of [Q; K; V]
    gated = torch.cat((inner, inner + old.intermediate_size)) if old.gated else inner
    return {
        "attention.qkv": (stacked, width),
        "attention.out": (width, heads),
        "mlp.wi": (gated, width),
        "mlp.wo": (width, inner),
        "head.dense": (width, width),
        "head": (None, width),  # an untied output matrix
        "q_norm": (None, None),
        "k_norm": (None, None),
    }


def _repeat(old: int, new: int) -> Tensor:
    """(new,): the old feature that each new one copies."""
    return torch.arange(new) % old


def _heads(old: EncoderConfig, new: EncoderConfig) -> tuple[Tensor, Tensor]:
    """Old features of the new queries and keys: whole heads, and each query head together with its key head."""
    feature, group = torch.arange(old.head_size), old.num_heads // old.kv_heads
    kv = _repeat(old.kv_heads, new.kv_heads)
    q = (kv[:, None] * group + torch.arange(group)).flatten()
    return tuple((head[:, None] * old.head_size + feature).flatten() for head in (q, kv))  # type: ignore[return-value]


def _old_name(name: str, old: EncoderConfig, layers: list[tuple[int, bool]], source: dict[str, Tensor]) -> str:
    """The parameter of the old model from which parameter `name` of the new one is made."""
    if not name.startswith("encoder.layers."):
        return name
    layer, _, rest = name.removeprefix("encoder.layers.").partition(".")
    from_layer = f"encoder.layers.{layers[int(layer)][0]}.{rest}"
    normed = old.embedding_norm and old.embedding_width == old.hidden_size
    if from_layer not in source and normed:  # the first layer reads normalized embeddings
        return f"encoder.embeddings.norm.{rest.rpartition('.')[2]}"
    return from_layer


def repeat_layers(old: EncoderConfig, new: EncoderConfig) -> list[tuple[int, bool]]:
    """For each layer of `new`, the layer of `old` that it copies, and whether it repeats an earlier one.

    The layers of `old` occur in their order, global layers at global positions, spread over the new depth.
    """
    kinds, positions = ([c.is_local(i) for i in range(c.num_layers)] for c in (old, new))
    plan: list[tuple[int, bool]] = []
    ahead = 0  # the next layer of `old` to place
    for place, kind in enumerate(positions):
        due = place * old.num_layers >= ahead * new.num_layers or not _fits(kinds[ahead:], positions[place + 1 :])
        if ahead < len(kinds) and kinds[ahead] == kind and due:
            plan.append((ahead, False))
            ahead += 1
        else:
            plan.append((next((i for i in reversed(range(ahead)) if kinds[i] == kind), ahead - 1), True))
    return plan


def _fits(kinds: list[bool], positions: list[bool]) -> bool:
    """Whether layers of these kinds can be placed in this order, with others in between."""
    rest = iter(positions)
    return all(kind in rest for kind in kinds)


def _share(tensor: Tensor, copies: Tensor, generator: torch.Generator) -> Tensor:
    """(N, old) → (N, new): column j is column copies[j] times a share; the shares of the copies of a column sum to 1."""
    parts = 0.5 + torch.rand(len(tensor), len(copies), generator=generator)
    sums = torch.zeros(len(tensor), int(copies.max()) + 1).index_add(1, copies, parts)
    single = torch.bincount(copies)[copies] == 1
    return tensor[:, copies] * torch.where(single, 1.0, parts / sums[:, copies])


def _silence(state: dict[str, Tensor], layer: str, config: EncoderConfig) -> None:
    """Make a layer pass on its input: its two sublayers write zeros, and a post-norm layer's norms restore the size and the mean of
    their input, the output of the norm before."""
    for name in state:
        if name.startswith((f"{layer}.attention.out.", f"{layer}.mlp.wo.")):
            state[name] = torch.zeros_like(state[name])
    if config.norm_first:
        return
    gain = state[f"{layer}.mlp_norm.weight"]
    shift = state.get(f"{layer}.mlp_norm.bias", torch.zeros_like(gain))
    size = (gain.square().mean() + shift.var(unbiased=False)).sqrt()
    for norm in ("attention_norm", "mlp_norm"):
        state[f"{layer}.{norm}.weight"] = torch.full_like(gain, float(size))
        if f"{layer}.{norm}.bias" in state:
            state[f"{layer}.{norm}.bias"] = torch.full_like(gain, float(shift.mean()))


def _share_output(
    state: dict[str, Tensor], model: MaskedLM, config: EncoderConfig, width: Tensor, generator: torch.Generator
) -> None:
    """Apply the shares to the norm before a tied output matrix, which cannot take them. InputError if there is no such norm."""
    old = model.config
    last = "encoder.final_norm" if old.norm_first else f"encoder.layers.{config.num_layers - 1}.mlp_norm"
    norm = "head.norm" if model.head_config.transform else last
    if f"{norm}.weight" not in state:
        raise InputError("expand.hidden_size: a tied output matrix with no norm before it cannot grow: leave it out")
    shares = _share(torch.ones(1, old.hidden_size), width, generator)[0]
    if old.embedding_scale:
        shares = shares * (config.hidden_size / old.hidden_size) ** 0.5
    for name in (f"{norm}.weight", f"{norm}.bias"):
        if name in state:
            state[name] = state[name] * shares
