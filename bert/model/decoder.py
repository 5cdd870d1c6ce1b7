"""The decoder and the whole Transformer: the vectors of a source text in, a score for each next token of a target out.

    target (B, T) → embeddings → block 0 → … → block L - 1 → final norm (pre-norm only) → output matrix → logits (B, T, V)
    each block: self-attention, which sees no later token; cross-attention to the encoder's vectors (B, S, D); MLP

The parts are those of the encoder, in the same space of configs: post-norm and pre-norm, learned, sinusoidal and rotary positions (of
self-attention), grouped queries, windows. Keys and values are kept between calls in a `Cache`, so that a new token costs one position.

Vaswani et al. 2017, "Attention Is All You Need"; any two encoders as encoder and decoder: Rothe et al. 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bert.errors import InputError, check_arguments
from bert.model.attention import AttentionOptions, Layout
from bert.model.config import Backend, EncoderConfig, GenerationConfig, Seq2SeqConfig
from bert.model.dropout import Dropout
from bert.model.encoder import Embeddings, EncoderOutput
from bert.model.heads import HeadOutput, MaskedLMHead, PredictingModel
from bert.model.layers import (
    MLP,
    Attention,
    KeyValueCache,
    RMSNorm,
    Shared,
    compute_dtype,
    initialize,
    make_norm,
    mix_heads,
    rotations,
)
from bert.model.loss import IGNORED, cross_entropy

_OF_EMBEDDINGS = "embedding_width positions sinusoid_halves positions_skip_padding embedding_scale embedding_norm token_types".split()
KeysValues = tuple[Tensor, Tensor]
"""(B, Hkv, S, Dh) each"""


@dataclass
class Seq2SeqOutput(HeadOutput):
    """The output of a sequence-to-sequence model. `logits` are (B, T, V); `hidden_states` and `attentions` are those of the decoder."""

    cross_attentions: tuple[Tensor, ...] | None = None
    """with `output_attentions`, a tensor (B, H, T, S) for each layer: the weight of source token j for target token i at [..., i, j]"""
    encoder: EncoderOutput | None = None
    """of the source"""


class Cache:
    """What the decoder has computed of the targets so far, and of their sources.

    Each source has `targets` targets of equal length, such as beams: all keep the keys and values of each of their tokens in the same
    memory, and `ancestors` says whose tokens a target continues. So none is copied when a target is continued twice.
    """

    def __init__(
        self, layers: int, room: int, memory: list[KeysValues], memory_mask: Tensor | None, targets: int = 1
    ) -> None:
        self.layers, self.targets = [KeyValueCache(room * targets) for _ in range(layers)], targets
        self.memory = memory
        """for each layer the keys and values of the source"""
        self.memory_layout = Layout(key_documents=memory_mask)
        self.ancestors: Tensor | None = None
        """(B, targets, slots) booleans, of several targets: true for the tokens that a target continues"""

    @property
    def length(self) -> int:
        """Tokens of a target so far."""
        return self.layers[0].length // self.targets

    def select(self, origins: Tensor) -> None:
        """Continue with the targets `origins` (B, targets) of each source, some perhaps several times."""
        if self.ancestors is not None:
            self.ancestors = rows_at(self.ancestors, origins)

    def add_targets(self, sources: int, device: torch.device) -> None:
        """Make place for one more token of each of several targets, which sees itself and what it continues."""
        own = torch.eye(self.targets, dtype=torch.bool, device=device).expand(sources, -1, -1)
        self.ancestors = own if self.ancestors is None else torch.cat((self.ancestors, own), dim=2)

    def numel(self) -> int:
        """Numbers that are kept of the targets."""
        return sum(layer.numel() for layer in self.layers)


class CrossAttention(nn.Module):
    """Multi-head attention with queries of the target, and keys and values of the source, projected by one matrix with the rows [K; V].

    Positions are not rotated: those of two texts have no distance.
    """

    def __init__(self, config: EncoderConfig, memory_size: int) -> None:
        super().__init__()
        self.head_size, self.dropout = config.head_size, config.attention_dropout
        self.q = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.kv = nn.Linear(memory_size, 2 * config.kv_heads * config.head_size, bias=config.bias)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.q_norm = RMSNorm(config.head_size, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_size, eps=config.norm_eps) if config.qk_norm else None

    def keys_values(self, memory: Tensor) -> KeysValues:
        """The vectors of the source (B, S, Dm) → (B, Hkv, S, Dh) twice."""
        k, v = self.kv(memory).unflatten(-1, (-1, self.head_size)).chunk(2, dim=2)
        k = k if self.k_norm is None else self.k_norm(k).to(v.dtype)
        return k.transpose(1, 2), v.transpose(1, 2)

    def forward(
        self, x: Tensor, memory: KeysValues, layout: Layout, backend: Backend, return_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) → (B, T, D), and the weights (B, H, T, S) on request."""
        k, v = memory
        q = self.q(x).unflatten(-1, (-1, self.head_size))
        q = q if self.q_norm is None else self.q_norm(q).to(v.dtype)
        dropout = self.dropout if self.training else 0.0
        mixed, weights = mix_heads(q.transpose(1, 2), k, v, layout, dropout, backend, return_weights)
        return self.out(mixed), weights


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention, then MLP, each added to the residual path; see `Block`."""

    def __init__(self, config: EncoderConfig, layer: int, memory_size: int) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        skip_norm = layer == 0 and config.norm_first and not config.first_attention_norm
        self.attention_norm = nn.Identity() if skip_norm else make_norm(config)
        self.attention = Attention(config)
        self.cross_attention_norm = make_norm(config)
        self.cross_attention = CrossAttention(config, memory_size)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self,
        x: Tensor,
        shared: Shared,
        memory: KeysValues,
        memory_layout: Layout,
        cache: KeyValueCache | None,
        backend: Backend,
        return_weights: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, T, D) → (B, T, D), and on request the weights (B, H, T, T) and (B, H, T, S)."""
        own = partial(self.attention, shared=shared, backend=backend, return_weights=return_weights, cache=cache)
        x, weights = self._add(x, self.attention_norm, own)
        across = partial(
            self.cross_attention, memory=memory, layout=memory_layout, backend=backend, return_weights=return_weights
        )
        x, cross_weights = self._add(x, self.cross_attention_norm, across)
        x, _ = self._add(x, self.mlp_norm, lambda inner: (self.mlp(inner), None))
        return x, weights, cross_weights

    def _add(
        self, x: Tensor, norm: nn.Module, sublayer: Callable[..., tuple[Tensor, Tensor | None]]
    ) -> tuple[Tensor, Tensor | None]:
        mixed, weights = sublayer(norm(x) if self.norm_first else x)
        x = x + self.dropout(mixed)
        return (x if self.norm_first else norm(x).to(x.dtype)), weights


class Decoder(nn.Module):
    """The blocks of a decoder of the shape `config`, for the vectors of an encoder of width `memory_size`.

    It has embeddings of its own if `own_embeddings`; otherwise it is called with those of the encoder.
    """

    def __init__(self, config: EncoderConfig, memory_size: int, own_embeddings: bool) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: Any = None
        """that of targets, unless it is the encoder's"""
        self.attention = AttentionOptions()
        self.embeddings = Embeddings(config) if own_embeddings else None
        self.layers = nn.ModuleList(DecoderBlock(config, layer, memory_size) for layer in range(config.num_layers))
        self.final_norm = make_norm(config) if config.final_norm else nn.Identity()
        initialize(self, config)

    def cache(
        self, memory: Tensor, memory_mask: Tensor | None = None, room: int | None = None, targets: int = 1
    ) -> Cache:
        """An empty cache for `targets` targets of at most `room` tokens (default: the `max_length` of the decoder) of each of the sources
        with the vectors `memory` (B, S, Dm) and the mask (B, S)."""
        of_source = [block.cross_attention.keys_values(memory) for block in self.layers]  # type: ignore[union-attr, operator]
        return Cache(len(self.layers), room or self.config.max_length, of_source, memory_mask, targets)

    def forward(
        self,
        input_ids: Tensor,
        embeddings: Embeddings,
        cache: Cache,
        keep: bool = True,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """The vectors (B, T, D) of target tokens (B, T) after those in the cache, to which they are added if `keep`; hidden states,
        attentions and cross-attentions on request. If the cache is of several targets of each source, the tokens are the newest of each,
        (B, targets)."""
        before, several = cache.length, cache.targets > 1
        length = before + (1 if several else input_ids.shape[1])
        if length > (most := self.config.max_length) and (self.config.positions == "learned" or keep):
            raise InputError(
                f"a target of {length} tokens is longer than the {most} that the decoder takes: shorten it"
            )
        positions = torch.arange(before, length, device=input_ids.device)[None]  # (1, T)
        if several:
            cache.add_targets(len(input_ids), input_ids.device)
        x = embeddings(input_ids, None, positions, length)  # (B, T, D)
        of_all = of_local = self._kind(False, positions, length, x, cache)
        if self.config.local_window is not None:
            of_local = self._kind(True, positions, length, x, cache)
        states, attentions, crossed = list[Tensor](), list[Tensor](), list[Tensor]()
        for layer, block in enumerate(self.layers):
            if output_hidden_states:
                states.append(x)
            local = self.config.is_local(layer)
            backend, own = self.attention.of_layer(local, chosen=False), cache.layers[layer] if keep else None
            x, weights, cross = block(
                x,
                of_local if local else of_all,
                cache.memory[layer],
                cache.memory_layout,
                own,
                backend,
                output_attentions,
            )
            if weights is not None and cross is not None:
                attentions.append(weights)
                crossed.append(cross)
        x = self.final_norm(x)
        both = (tuple(attentions), tuple(crossed)) if output_attentions else (None, None)
        return x, (*states, x) if output_hidden_states else None, *both

    def _kind(self, local: bool, positions: Tensor, length: int, x: Tensor, cache: Cache) -> Shared:
        """What all layers share, with a window (`local`) or without."""
        window = self.config.local_window if local else None
        if cache.ancestors is not None:
            ages = length - 1 - torch.arange(length, device=x.device).repeat_interleave(cache.targets)  # (slots,)
            layout = Layout(seen=cache.ancestors if window is None else cache.ancestors & (ages <= window // 2))
        elif positions.shape[1] == 1 and window is None:  # the newest token sees all others
            layout = Layout()
        else:
            begun = positions.shape[1] < length
            layout = Layout(causal=True, window=window, query_positions=positions.expand(len(x), -1) if begun else None)
        if self.config.positions != "rope":
            return Shared(layout, None)
        theta = self.config.local_rope_theta if local else self.config.rope_theta
        return Shared(layout, rotations(positions, self.config.head_size, theta, compute_dtype(x), length))


class Seq2Seq(PredictingModel):
    """An encoder and a decoder: the whole Transformer. `Seq2Seq.load` reads a model folder.

    >>> import torch
    >>> from bert import EncoderConfig, Seq2Seq, Seq2SeqConfig
    >>> config = EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    >>> model = Seq2Seq(config, Seq2SeqConfig(config))
    >>> source, target = torch.tensor([[2, 17, 8, 3]]), torch.tensor([[9, 12, 1]])
    >>> output = model(source, labels=target)  # the decoder reads the target after the start token
    >>> output.logits.shape, output.loss.shape  # (B, T, V) and a mean
    (torch.Size([1, 3, 64]), torch.Size([]))
    """

    head_config: Seq2SeqConfig  # type: ignore[assignment]

    def __init__(self, config: EncoderConfig, head: Seq2SeqConfig) -> None:
        check_arguments(Seq2Seq.__init__, locals())
        if head.shared and (config.vocab_size, config.hidden_size) != (
            head.decoder.vocab_size,
            head.decoder.hidden_size,
        ):
            raise InputError(
                "head.shared needs the vocab_size and hidden_size of the encoder: give it, or shared false"
            )
        of_table = ["max_length"] if config.positions == "learned" else []
        for name in (*_OF_EMBEDDINGS, *of_table) if head.shared else ():
            if getattr(config, name) != getattr(head.decoder, name):
                raise InputError(f"head.shared needs the {name} of the encoder: give it, or shared false")
        super().__init__(config)
        self.head_config = head
        self.generation = GenerationConfig(max_length=min(GenerationConfig.max_length, head.decoder.max_length))
        """how targets are searched; `load` reads it, `save` keeps it"""
        self.decoder = Decoder(head.decoder, config.hidden_size, not head.shared)
        self.head = MaskedLMHead(head.decoder, head.head)

    @property
    def target_tokenizer(self) -> Any:
        """The `Tokenizer` of targets: that of the decoder, or that of the encoder if the decoder has none."""
        return self.decoder.tokenizer or self.tokenizer

    @property
    def decoder_embeddings(self) -> Embeddings:
        """Those of the decoder, which may be the encoder's."""
        return self.encoder.embeddings if self.decoder.embeddings is None else self.decoder.embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> Seq2SeqOutput:
        """Scores for the next token at each token (B, T) of the target `decoder_input_ids`, given a source (B, S) and its mask.

        `labels` (B, T) are the next tokens, with -100 after the end; they give the loss, and by default the target: the start token, then
        the labels but the last (teacher forcing). Raises InputError without either, and as `Encoder.forward` does.
        """
        if decoder_input_ids is None:
            if labels is None:
                raise InputError("neither decoder_input_ids nor labels: give a target")
            decoder_input_ids = self.shifted(labels)
        if len(decoder_input_ids) != len(input_ids):
            raise InputError(f"{len(input_ids)} sources and {len(decoder_input_ids)} targets: give as many of both")
        source = self.encoder(input_ids, attention_mask, token_type_ids, None, output_hidden_states, output_attentions)
        cache = self.decoder.cache(source.last_hidden_state, attention_mask)
        wanted = output_hidden_states, output_attentions
        hidden, states, attentions, crossed = self.decoder(
            decoder_input_ids, self.decoder_embeddings, cache, False, *wanted
        )
        output = Seq2SeqOutput(self.scores(hidden), None, None, None, states, attentions, crossed, source)
        if labels is not None:
            output.loss_sum, output.num_labels = cross_entropy(output.logits, labels)
            output.loss = output.loss_sum / output.num_labels.clamp(min=1)
        return output

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's own has no return type

    def scores(self, hidden: Tensor) -> Tensor:
        """(B, T, D) → (B, T, V), or without the axis T: the logits of the vectors of the decoder."""
        return self.head(hidden, self.decoder_embeddings.tokens.weight)

    def shifted(self, labels: Tensor) -> Tensor:
        """(B, T) → (B, T): the start token, then the labels but the last; padding for those that are ignored."""
        start = labels.new_full((labels.shape[0], 1), self.head_config.start_id)
        target = torch.cat((start, labels[:, :-1]), dim=1)
        return target.masked_fill_(target == IGNORED, self.head_config.decoder.pad_id)


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """(B, n, S) at (B, m): (B, m, S)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[-1]))
