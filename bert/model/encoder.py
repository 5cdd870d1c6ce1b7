"""The encoder: token ids in, one vector for each token in its context out.

    embeddings (B, T, D) → block 0 → … → block L - 1 → final norm (pre-norm only) → last_hidden_state (B, T, D)

Letters in the comments: B sequences, T tokens in each, D hidden_size, E width of the embedding tables, H heads, Dh = D / H, L layers,
V vocab_size. The original Transformer encoder, BERT, RoBERTa, DistilBERT, ELECTRA and ModernBERT are points of `EncoderConfig`; the code
below does not distinguish them by name. Masks and rotary tables are made once per batch, for global and for local layers.

Devlin et al. 2018; Warner et al. 2024, "Smarter, Better, Faster, Longer".
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.errors import InputError, check_arguments
from bert.model.attention import AttentionOptions, Layout
from bert.model.config import EncoderConfig
from bert.model.dropout import Dropout
from bert.model.layers import Block, Shared, compute_dtype, initialize, make_norm, path_dtype, rotations, sinusoids

if TYPE_CHECKING:  # the type of the attribute that `load` sets, for editors
    from bert.data.tokenizer import Tokenizer

Pooling = Literal["cls", "mean"]


@dataclass
class EncoderOutput:
    """The output of an encoder."""

    last_hidden_state: Tensor
    """(B, T, D), or (B, K, D) with `masked_positions`"""
    hidden_states: tuple[Tensor, ...] | None = None
    """with `output_hidden_states`, num_layers + 1 tensors (B, T, D): the embeddings, then the output of each layer, the last after the
    final norm"""
    attentions: tuple[Tensor, ...] | None = None
    """with `output_attentions`, num_layers tensors (B, H, T, T): the weight of key j for query i at [..., i, j]"""


class Embeddings(nn.Module):
    """Token, position and token-type embeddings: their sum, normalized and projected if the config says so."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_width
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.first_position = config.pad_id + 1 if config.positions_skip_padding else 0
        rows = self.first_position + config.max_length
        self.positions = nn.Embedding(rows, width) if config.positions == "learned" else None
        self.token_types = nn.Embedding(config.token_types, width) if config.token_types else None
        self.norm = make_norm(config, width) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.embedding_dropout)
        self.project = nn.Linear(width, config.hidden_size) if width != config.hidden_size else nn.Identity()

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None, positions: Tensor, length: int | None = None
    ) -> Tensor:
        """Ids (B, T), types (B, T) or None (all 0), positions (B or 1, T) below T or `length` → (B, T, D)."""
        x = self.tokens(input_ids)  # (B, T, E)
        if self.config.embedding_scale:
            x = x * self.config.embedding_width**0.5
        if self.token_types is not None:
            x = x + (self.token_types.weight[0] if token_type_ids is None else self.token_types(token_type_ids))
        if self.positions is not None:
            x = x + self.positions(positions + self.first_position)
        elif self.config.positions == "sinusoidal":
            length = input_ids.shape[1] if length is None else length
            how = self.config.embedding_width, self.config.sinusoid_halves
            if positions.shape[0] == 1:
                waves = sinusoids(positions, *how)
            else:  # each sequence has its own
                waves = sinusoids(torch.arange(length, device=positions.device), *how)[positions]
            x = x + waves.to(x.dtype)
        x = self.project(self.dropout(self.norm(x)))
        return x.to(path_dtype(x))


class FolderModel(nn.Module):
    """The common part of all models: loading from a folder and saving to one."""

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model in a folder, ours or Hugging Face's, or under a name on the Hub: in fp32, on the CPU, in eval mode. It must have a
        head of this kind; `Encoder` ignores any head. Raises InputError if there is no such model."""
        from bert.hf.folder import load

        return load(cls, folder)

    def save(self, folder: str | Path, card: str = "", extra: Mapping[str, str | Path] | None = None) -> None:
        """Write a model folder, for `load` and for Hugging Face. Files of an earlier model in it are replaced, others are kept.

        `card` is appended to its `README.md`. `extra` are texts to write, or files to copy, by their names in the folder. Raises
        InputError if the folder cannot be written, and leaves it as it was.
        """
        from bert.hf.folder import save

        save(self, folder, card, extra)  # type: ignore[arg-type]


class Encoder(FolderModel):
    """A Transformer encoder of the shape `config`, randomly initialized; `Encoder.load` reads one from a folder.

    >>> import torch
    >>> from bert import Encoder, EncoderConfig
    >>> config = EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    >>> encoder = Encoder(config)
    >>> ids = torch.tensor([[2, 17, 8, 3], [2, 9, 3, 0]])  # (B, T), padded with 0
    >>> output = encoder(ids, attention_mask=(ids != 0).long(), output_hidden_states=True)
    >>> output.last_hidden_state.shape  # (B, T, D)
    torch.Size([2, 4, 32])
    >>> len(output.hidden_states)  # the embeddings, then each layer
    3
    """

    def __init__(self, config: EncoderConfig) -> None:
        check_arguments(Encoder.__init__, locals())
        super().__init__()
        self.config = config
        self.attention = AttentionOptions()
        self.tokenizer: Tokenizer | None = None  # set by `load`; not used in forward, not in the state dict
        self.model_type: str | None = None  # of the folder of Hugging Face that it was read from; set by `load`
        self.pooling = "mean"  # the default of `embed`; set by `load`
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.final_norm = make_norm(config) if config.final_norm else nn.Identity()
        initialize(self, config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        masked_positions: Tensor | None = None,
    ) -> EncoderOutput:
        """The vectors of tokens (B, T).

        `attention_mask` (B, T) is 1 for tokens and 0 for padding. For sequences of several chunks, `document_ids` (B, T) takes its
        place: it numbers the chunks of a sequence from 1, with 0 for padding. A token then sees its own chunk only and positions start
        at 0 in each, so the vectors of a chunk are those that it has alone. `token_type_ids` (B, T) are 0 by default. Attentions are
        computed by the `eager` backend. With `masked_positions` (B, K), positions in each sequence, the last layer computes only
        their vectors, (B, K, D), which saves most of its work.

        Raises InputError for ids that are not (B, T), masks of another shape, both masks at once, token types of a model without them,
        more tokens than learned positions, and masked_positions together with output_hidden_states.
        """
        if masked_positions is not None and output_hidden_states:
            raise InputError("masked_positions and output_hidden_states cannot be combined: give one of them")
        self._check(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, document_ids=document_ids)
        length = input_ids.shape[1]
        positions = torch.arange(length, device=input_ids.device)[None]  # (1, T)
        if document_ids is not None:
            positions = restarting_positions(document_ids)  # (B, T)
        elif self.config.positions_skip_padding:
            is_token = (input_ids != self.config.pad_id).long()
            positions = is_token.cumsum(1) * is_token - 1  # (B, T): -1 for padding, the row before the first position
        x = self.embeddings(input_ids, token_type_ids, positions)  # (B, T, D)

        documents, most = attention_mask, None
        if document_ids is not None:
            documents, most = document_ids, self.attention.most_documents
        of_all = self._kind(Layout(documents, documents, most_documents=most), positions, self.config.rope_theta, x)
        of_local = of_all
        if self.config.local_window is not None:
            layout = Layout(documents, documents, window=self.config.local_window, most_documents=most)
            of_local = self._kind(layout, positions, self.config.local_rope_theta, x)

        states: list[Tensor] = []  # filled on request only, as the list keeps the vectors of every layer alive
        attentions: list[Tensor] = []
        for layer, block in enumerate(self.layers):
            if output_hidden_states:
                states.append(x)
            local = self.config.is_local(layer)
            shared = of_local if local else of_all
            at = masked_positions if layer + 1 == len(self.layers) else None
            backend = self.attention.of_layer(local, chosen=at is not None)
            if at is not None:
                shared = shared._replace(layout=shared.layout.at(at))
            x, weights = block(x, shared, backend, output_attentions, at)
            if weights is not None:
                attentions.append(weights)
        x = self.final_norm(x)
        hidden_states = (*states, x) if output_hidden_states else None
        return EncoderOutput(x, hidden_states, tuple(attentions) if output_attentions else None)

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's own has no return type

    def make_room(self, documents: int) -> None:
        """Prepare for packed batches of up to `documents` documents, each run of padding counted as one: the `varlen` backend needs an
        upper bound. It adds a margin, so a compiled graph is recompiled only when that is exceeded."""
        if documents > (self.attention.most_documents or 0):
            self.attention = replace(self.attention, most_documents=documents * 5 // 4 + 64)

    def _kind(self, layout: Layout, positions: Tensor, theta: float, x: Tensor) -> Shared:
        if self.config.positions != "rope":
            return Shared(layout, None)
        return Shared(layout, rotations(positions, self.config.head_size, theta, compute_dtype(x)))

    def _check(self, input_ids: Tensor, **others: Tensor | None) -> None:
        if input_ids.dim() != 2:
            raise InputError(f"input_ids is {tuple(input_ids.shape)}: give (sequences, tokens), one as ids[None]")
        for name, other in others.items():
            if other is not None and other.shape != input_ids.shape:
                shapes = f"{tuple(other.shape)} and input_ids is {tuple(input_ids.shape)}"
                raise InputError(f"{name} is {shapes}: give one number per token")
        if others["attention_mask"] is not None and others["document_ids"] is not None:
            raise InputError("attention_mask and document_ids both define the padding: give one of them")
        if others["token_type_ids"] is not None and not self.config.token_types:
            raise InputError("token_type_ids given and encoder.token_types is 0: leave them out")
        length, most = input_ids.shape[1], self.config.max_length
        if self.config.positions == "learned" and length > most:
            what = f"the {most} learned positions of the model (encoder.max_length)"
            raise InputError(f"a sequence of {length} tokens is longer than {what}: truncate or split the text")

    def embed(
        self, texts: Iterable[str], pooling: Pooling | None = None, layer: int = -1, bf16: bool | None = False
    ) -> Tensor:
        """(N, D) fp32 vectors of N texts of any length, on the CPU.

        `pooling` is `mean` over the tokens, [CLS] and [SEP] included, or `cls`; by default that of the folder, or else the mean. `layer`
        counts from 0, the embeddings; -1 is the last one. A long text is cut into windows of nearly equal length, and its vector is the
        mean over all of them. Computed in batches of texts of similar length, in fp32 by default; in bf16, which is faster and
        about 1 % off, if `bf16` is True, or None and the hardware multiplies bf16."""
        from bert.inference.embeddings import embed

        return embed(self, texts, pooling, layer, bf16=bf16)


def restarting_positions(document_ids: Tensor) -> Tensor:
    """(B, T) positions of the tokens in their documents, from 0, for sequences of several documents. No loop, no host sync."""
    place = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    before = F.pad(document_ids, (1, 0), value=-1)[:, :-1]  # torch.export would bound T for a slice of T - 1
    begins = document_ids != before
    starts = torch.where(begins, place, 0)
    if torch.compiler.is_exporting():  # ONNX has no cummax
        return place - torch.where(place[:, :, None] >= place[:, None], starts[:, None], 0).amax(-1)
    return place - starts.cummax(dim=1).values  # without the start of the current document


def count_parameters(module: nn.Module) -> int:
    """Number of weights; a shared weight counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def weights_hash(module: nn.Module) -> str:
    """blake2b of all weights and buffers in order, 32 hexadecimal digits. Shapes are not part of it: they are the config's."""
    digest = blake2b(digest_size=16)
    for tensor in module.state_dict().values():
        digest.update(tensor.flatten().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode until the end of the `with`, then as before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
