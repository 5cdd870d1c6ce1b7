"""The masked-LM head: from the vectors of an encoder to a score for each entry of the vocabulary.

    hidden (N, D) → dense, activation, norm (where `HeadConfig.transform`) → · output matrix (V, D)ᵀ + bias → logits (N,
    V)

The output matrix is the embedding matrix unless told otherwise (Press and Wolf 2017). With `targets`, only the masked
places are decoded: at 15 % masking that saves most of the head's work, and nothing else in the model depends on the
other places' scores.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.model.config import EncoderConfig, HeadConfig
from bert.model.encoder import Encoder
from bert.model.layers import activate, initialize, make_norm, output_std

if TYPE_CHECKING:
    from bert.embed import Prediction
    from bert.text.tokenizer import Tokenizer

IGNORED = -100
"""label of a place that is not a target"""


@dataclass
class HeadOutput:
    """What a model with a head gives. The losses are none where no labels were given."""

    logits: Tensor
    """(B, T, V), or (N, V) where `targets` were given"""
    loss: Tensor | None = None
    """cross-entropy, mean over the labelled places; 0 where there are none"""
    loss_sum: Tensor | None = None
    """cross-entropy, sum over the labelled places, fp32: what adds up over micro-batches and ranks"""
    num_targets: Tensor | None = None
    """number of labelled places"""
    hidden_states: tuple[Tensor, ...] | None = None
    """see `EncoderOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """see `EncoderOutput`"""


class MaskedLMHead(nn.Module):
    """Scores of the vocabulary. `weight` is here only where it is not the embedding matrix."""

    def __init__(self, config: EncoderConfig, head: HeadConfig) -> None:
        super().__init__()
        self.activation = head.activation
        self.dense = (
            nn.Linear(config.hidden_size, config.hidden_size, bias=head.transform_bias) if head.transform else None
        )
        self.norm = make_norm(config) if head.transform else nn.Identity()
        self.weight = None if head.tied else nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if head.output_bias else None
        initialize(self, config.initializer_range, output_std(config))
        if self.weight is not None:
            std = config.initializer_range
            nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, hidden: Tensor, embedding_matrix: Tensor) -> Tensor:
        """(..., D) and (V, D) → (..., V)."""
        if self.dense is not None:
            hidden = activate(self.dense(hidden), self.activation)
            hidden = self.norm(hidden.to(self.dense.weight.dtype))  # a norm computes in fp32 under autocast
        return F.linear(hidden, embedding_matrix if self.weight is None else self.weight, self.bias)


class MaskedLM(nn.Module):
    """An encoder that predicts the tokens behind masks."""

    def __init__(self, config: EncoderConfig, head: HeadConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.head_config = head or HeadConfig()
        self.encoder = Encoder(config)
        self.head = MaskedLMHead(config, self.head_config)

    @property
    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer that came with the folder, none for a fresh model."""
        return self.encoder.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: "Tokenizer | None") -> None:
        self.encoder.tokenizer = tokenizer

    @property
    def output_matrix(self) -> Tensor:
        """(V, D): the embedding matrix itself where the head is tied."""
        return self.encoder.embeddings.tokens.weight if self.head.weight is None else self.head.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        labels: Tensor | None = None,
        targets: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> HeadOutput:
        """Scores of the vocabulary for tokens (B, T), and the loss where there are `labels`. The masks are those of
        `Encoder`.

        `labels` (B, T) holds original ids, -100 where nothing is asked. With `targets` (N,), places in the flattened B
        · T, only those are decoded and `labels` is (N,), -100 for a slot that is not in use. N is what the caller makes
        it: shapes stay static.
        """
        output = self.encoder(
            input_ids, attention_mask, token_type_ids, document_ids, output_hidden_states, output_attentions
        )
        hidden = output.last_hidden_state  # (B, T, D)
        if targets is not None:
            hidden = hidden.flatten(0, 1).index_select(0, targets)  # (N, D)
        logits = self.head(hidden, self.encoder.embeddings.tokens.weight)
        result = HeadOutput(logits, hidden_states=output.hidden_states, attentions=output.attentions)
        if labels is not None:
            result.loss_sum = F.cross_entropy(
                logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            result.num_targets = (labels != IGNORED).sum()
            result.loss = result.loss_sum / result.num_targets.clamp(min=1)
        return result

    def fill(self, text: str, top: int = 5) -> "list[list[Prediction]]":
        """The likeliest tokens behind each mask in the text; see `bert.embed.fill`."""
        from bert.embed import fill

        return fill(self, text, top)

    @classmethod
    def load(cls, folder: str | Path) -> "MaskedLM":
        """The model of a folder with a masked-LM head, ours or Hugging Face's."""
        from bert.exchange.folder import load

        return load(cls, folder)

    def save(self, folder: str | Path, card: str = "") -> None:
        """Write a model folder; see `bert.exchange.folder.save`."""
        from bert.exchange.folder import save

        save(self, folder, card)
