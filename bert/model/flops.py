"""FLOPs of a training step, counted from the shape of a model, for comparison with the peak of the hardware (MFU).

A multiply-add counts as two operations; the backward pass takes twice as many as the forward pass. Only matrix products count: those of
a layer for every token (in the last layer, queries, output projection and MLP for masked positions only), attention over the keys that
a token sees, the head for masked positions. Not counted: embedding lookups, norms, activations, softmax, the optimizer, and all work for
padding or for keys that are not visible.
"""

from bert.model.config import EncoderConfig, HeadConfig

BOTH_WAYS = 3  # the forward pass, and twice as much for the backward pass
PER_PRODUCT = 2  # a multiplication and an addition


def training_flops(
    config: EncoderConfig,
    head: HeadConfig,
    tokens: float,
    slots: float,
    visible: float,
    visible_local: float | None = None,
) -> float:
    """FLOPs, forward and backward, of `tokens` tokens of which `slots` are masked.

    `visible` is the mean number of keys that a token sees in a global layer, itself included; `visible_local` is that in a local layer,
    by default the same, but at most the width of the window.
    """
    width, inner = config.hidden_size, config.intermediate_size
    keys_and_values = 2 * config.kv_heads * config.head_size * width
    queries, out = width * width, width * width
    mlp = width * inner * (3 if config.gated else 2)
    if visible_local is None:
        visible_local = visible if config.local_window is None else min(visible, config.local_window // 2 * 2 + 1)
    products = 0.0
    for layer in range(config.num_layers):
        looking = slots if layer + 1 == config.num_layers else tokens  # positions with a query
        scores_and_sums = 2 * width * (visible_local if config.is_local(layer) else visible)
        products += tokens * keys_and_values + looking * (queries + scores_and_sums + out + mlp)
    if config.embedding_width != width:
        products += tokens * config.embedding_width * width
    if head.transform:
        products += slots * width * config.embedding_width
    products += slots * config.embedding_width * config.vocab_size
    return BOTH_WAYS * PER_PRODUCT * products
