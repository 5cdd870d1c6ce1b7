"""Heads: from the vectors of an encoder to a score for each entry of the vocabulary, or for each class of a task.

    masked LM    hidden (N, D) → dense, activation, norm (where `transform`) → · output matrix (V, E)ᵀ + bias → (N, V)
    classifier   hidden (B, T, D) → pooling (B, D) → dense, activation, norm → dropout → output → mean of windows (N, C)
    tagger       hidden (B, T, D) → dense, activation, norm (where `transform`) → dropout → output → (B, T, C)
    discriminator (ELECTRA)  hidden (B, T, D) → dense, activation → output → (B, T)

The output matrix of the masked LM is the embedding matrix unless told otherwise (Press and Wolf 2017). With `masked_positions`,
only the masked positions are decoded: at 15 % masking that saves most of the head's work, and nothing else in the model
depends on the other positions' scores. Task heads are those of BERT (Devlin et al. 2018) and ModernBERT (Warner et al.
2024) as points of `TaskHeadConfig`. C is the number of classes,
N that of masked_positions or of examples.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.errors import InputError
from bert.model.config import NUMBERS, DiscriminatorConfig, EncoderConfig, HeadConfig, TaskActivation, TaskHeadConfig
from bert.model.dropout import Dropout
from bert.model.encoder import Encoder, EncoderOutput, FolderModel
from bert.model.layers import activate, compute_dtype, gather_positions, initialize, make_norm, output_std
from bert.model.loss import LOSSES, Loss, binary_cross_entropy, cross_entropy, linear_cross_entropy

if TYPE_CHECKING:
    from bert.data.tokenizer import Tokenizer


@dataclass
class HeadOutput:
    """What a model with a head gives. The losses are none where no labels were given."""

    logits: Tensor
    """masked LM: (B, T, V), or (B, K, V) where `masked_positions` were given; classifier: (N, C); tagger: (B, T, C);
    discriminator: (B, T)"""
    loss: Tensor | None = None
    """mean over the labelled positions (cross-entropy, or that of the problem); 0 where there are none"""
    loss_sum: Tensor | None = None
    """sum over the labelled positions, fp32: what adds up over micro-batches and ranks"""
    num_labels: Tensor | None = None
    """number of labelled positions"""
    hidden_states: tuple[Tensor, ...] | None = None
    """see `EncoderOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """see `EncoderOutput`"""


class MaskedLMHead(nn.Module):
    """Scores of the vocabulary. `weight` is here only where it is not the embedding matrix."""

    def __init__(self, config: EncoderConfig, head: HeadConfig) -> None:
        super().__init__()
        self.activation, width = head.activation, config.embedding_width
        if not head.transform and width != config.hidden_size:
            raise InputError(
                f"head.transform false leaves vectors of {config.hidden_size} and encoder.embedding_size is {width}:"
                " set head.transform true"
            )
        self.dense = nn.Linear(config.hidden_size, width, bias=head.transform_bias) if head.transform else None
        self.norm = make_norm(config, width) if head.transform else nn.Identity()
        self.weight = None if head.tied else nn.Parameter(torch.empty(config.vocab_size, width))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if head.output_bias else None
        initialize(self, config.initializer_range, output_std(config))
        if self.weight is not None:
            std = config.initializer_range
            nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, hidden: Tensor, embedding_matrix: Tensor) -> Tensor:
        """(..., D) and (V, E) → (..., V)."""
        matrix = embedding_matrix if self.weight is None else self.weight
        return F.linear(self.transform(hidden), matrix, self.bias)

    def loss_sum(self, hidden: Tensor, output_matrix: Tensor, labels: Tensor) -> Tensor:
        """The summed cross-entropy of `forward`'s scores, a scalar: (N, D), (V, E) and labels (N,), see `linear_cross_entropy`."""
        hidden = self.transform(hidden)
        dtype = compute_dtype(hidden)
        bias = None if self.bias is None else self.bias.to(dtype)
        return linear_cross_entropy(hidden.to(dtype), output_matrix.to(dtype), bias, labels)

    def transform(self, hidden: Tensor) -> Tensor:
        """(..., D) → (..., E): the vectors that the output matrix is multiplied with."""
        return hidden if self.dense is None else _transform(hidden, self.dense, self.activation, self.norm)


class TaskHead(nn.Module):
    """Scores of the classes of a task, from vectors that are pooled already."""

    def __init__(self, config: EncoderConfig, head: TaskHeadConfig) -> None:
        super().__init__()
        self.activation, self.is_number = head.activation, head.problem_type in NUMBERS
        self.dense = (
            nn.Linear(config.hidden_size, config.hidden_size, bias=head.transform_bias) if head.transform else None
        )
        self.norm = make_norm(config) if head.transform and head.transform_norm else nn.Identity()
        self.first_dropout, self.dropout = Dropout(head.first_dropout), Dropout(head.dropout)
        self.output = nn.Linear(config.hidden_size, len(head.labels))
        initialize(self, config.initializer_range, output_std(config))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) → (..., C)."""
        if self.dense is not None:
            hidden = _transform(self.first_dropout(hidden), self.dense, self.activation, self.norm)
        hidden = self.dropout(hidden)
        if self.is_number and torch.is_autocast_enabled(hidden.device.type):  # bfloat16 has three digits
            with torch.autocast(hidden.device.type, enabled=False):
                return self.output(hidden.float())
        return self.output(hidden)


def _transform(hidden: Tensor, dense: nn.Linear, activation: TaskActivation, norm: nn.Module) -> Tensor:
    """(..., D) → (..., D), or (..., E) in a masked LM."""
    return norm(activate(dense(hidden), activation).to(dense.weight.dtype))  # a norm computes in fp32 under autocast


class HeadedModel(FolderModel):
    """What every model with a head has: an encoder and its tokenizer."""

    head_config: HeadConfig | TaskHeadConfig | DiscriminatorConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)

    @property
    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer that came with the folder, none for a randomly initialized model."""
        return self.encoder.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: "Tokenizer | None") -> None:
        self.encoder.tokenizer = tokenizer


@dataclass(frozen=True)
class Prediction:
    """A token that may replace a mask."""

    token: str
    """as a reader writes it: without the mark that some tokenizers have for the space before a word"""
    id: int
    probability: float
    """among the whole vocabulary, from 0 to 1"""


class MaskedLM(HeadedModel):
    """An encoder that predicts masked tokens; `MaskedLM.load` opens a folder, `fill` guesses.

    >>> import torch
    >>> from bert import EncoderConfig, MaskedLM
    >>> model = MaskedLM(EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48))
    >>> ids = torch.tensor([[2, 17, 4, 3]])  # 4 is the mask
    >>> output = model(ids, labels=torch.tensor([[-100, -100, 8, -100]]))
    >>> output.logits.shape, output.loss.shape  # (B, T, V) and a mean
    (torch.Size([1, 4, 64]), torch.Size([]))
    >>> model(ids, masked_positions=torch.tensor([[2]])).logits.shape  # those positions alone: (B, K, V)
    torch.Size([1, 1, 64])
    """

    head_config: HeadConfig

    def __init__(self, config: EncoderConfig, head: HeadConfig | None = None) -> None:
        super().__init__(config)
        self.head_config = head or HeadConfig()
        self.head = MaskedLMHead(config, self.head_config)

    @property
    def output_matrix(self) -> Tensor:
        """(V, E): the embedding matrix itself where the head is tied."""
        return self.encoder.embeddings.tokens.weight if self.head.weight is None else self.head.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        labels: Tensor | None = None,
        masked_positions: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> HeadOutput:
        """Scores of the vocabulary for tokens (B, T), and the loss where there are `labels`. The masks, and what is
        refused by an InputError, are those of `Encoder.forward`.

        `labels` (B, T) holds original ids, -100 where nothing is asked. With `masked_positions` (B, K), indices into
        each sequence, and `labels` (B, K) only those positions are decoded, which saves most of the last layer too. A label of -100
        marks an index that is not in use, so that K is the same for every sequence and shapes stay static.
        """
        output = self.encoder(
            *(input_ids, attention_mask, token_type_ids, document_ids, output_hidden_states, output_attentions),
            masked_positions=None if output_hidden_states else masked_positions,
        )
        hidden = output.last_hidden_state  # (B, T, D), or (B, K, D)
        if masked_positions is not None and output_hidden_states:  # the last layer was computed whole
            hidden = gather_positions(hidden, masked_positions)
        logits = self.head(hidden, self.encoder.embeddings.tokens.weight)
        return _with_loss(logits, output, labels, cross_entropy)

    def loss_sum(self, input_ids: Tensor, document_ids: Tensor, masked_positions: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of `forward`, a scalar, of tokens (B, T) at the `masked_positions` (B, K) of each sequence.

        That is all a compiled step should give: scores among its results would get a gradient too, a table of zeros that
        the backward pass fills, reads and adds.
        """
        hidden = self.encoder(
            input_ids, document_ids=document_ids, masked_positions=masked_positions
        ).last_hidden_state  # (B, K, D)
        return self.head.loss_sum(hidden.flatten(0, 1), self.output_matrix, labels.flatten())

    def fill(self, text: str, top: int = 5) -> list[list[Prediction]]:
        """The likeliest tokens for each mask in the text; see `bert.inference.embeddings.fill`."""
        from bert.inference.embeddings import fill

        return fill(self, text, top)


class SequenceClassifier(HeadedModel):
    """An encoder that gives a text, or a pair of texts, scores: of several classes, or one number, as
    `TaskHeadConfig.problem_type` has it.

    >>> import torch
    >>> from bert import EncoderConfig, SequenceClassifier, TaskHeadConfig
    >>> config = EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    >>> model = SequenceClassifier(config, TaskHeadConfig(labels=("good", "bad"), pooling="mean"))
    >>> ids = torch.tensor([[2, 17, 8, 3], [2, 9, 3, 0]])
    >>> output = model(ids, attention_mask=(ids != 0).long(), labels=torch.tensor([0, 1]))
    >>> output.logits.shape  # (N, C): an example a row
    torch.Size([2, 2])
    >>> model.labels
    ('good', 'bad')
    """

    head_config: TaskHeadConfig

    def __init__(self, config: EncoderConfig, head: TaskHeadConfig) -> None:
        super().__init__(config)
        if head.pooling is None:
            raise InputError("head.pooling is none, which makes a tagger: give cls or mean for a classifier")
        self.head_config = head
        self.head = TaskHead(config, head)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.head_config.labels

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        labels: Tensor | None = None,
        example_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> HeadOutput:
        """Scores of the classes, (N, C), for rows of tokens (B, T), and the loss where there are `labels`: class ids (N,)
        with -100 where nothing is asked; of multi-label classification 0 and 1 (N, C); of a regression numbers (N,).
        The masks, and what is refused, are those of `Encoder.forward`; a row holds one document.

        `example_ids` (B,), from 0 and ascending, says which rows are windows of one example: its logits are the mean
        over them. Without it each row is an example. With labels, N is their number (a slot without a row gets zeros),
        and nothing waits for the device.
        """
        output = self.encoder(
            input_ids, attention_mask, token_type_ids, document_ids, output_hidden_states, output_attentions
        )
        hidden = output.last_hidden_state  # (B, T, D)
        if self.head_config.pooling == "cls":
            pooled = hidden[:, 0]  # (B, D)
        else:
            pooled = _mean(hidden, attention_mask if document_ids is None else document_ids > 0)
        logits = self.head(pooled)  # (B, C)
        if example_ids is not None:
            examples = int(example_ids[-1]) + 1 if labels is None else labels.shape[0]
            logits = mean_of_windows(logits, example_ids, examples)
        problem = self.head_config.problem_type
        if labels is not None and problem not in LOSSES:
            raise InputError(
                f"head.problem_type {problem} has no loss here: leave labels out, and compute it of the logits"
            )
        return _with_loss(logits, output, labels, LOSSES.get(problem, cross_entropy))


class _TokenModel(HeadedModel):
    """A head that scores each token by itself."""

    head: TaskHead

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> HeadOutput:
        """The scores of tokens (B, T), of the shape that the class gives, and the loss where there are `labels` (B, T), -100
        where nothing is asked (as at padding). The masks, and what is refused, are those of `Encoder.forward`."""
        output = self.encoder(
            input_ids, attention_mask, token_type_ids, document_ids, output_hidden_states, output_attentions
        )
        logits = self.head(output.last_hidden_state)  # (B, T, C)
        return self._scored(logits, output, labels)

    def _scored(self, logits: Tensor, output: EncoderOutput, labels: Tensor | None) -> HeadOutput:
        return _with_loss(logits, output, labels, cross_entropy)


class TokenClassifier(_TokenModel):
    """An encoder that gives each token one of several labels: logits (B, T, C), labels (B, T) of class ids, -100 also at all
    tokens of a word but the one that stands for it.

    >>> import torch
    >>> from bert import EncoderConfig, TaskHeadConfig, TokenClassifier
    >>> config = EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    >>> model = TokenClassifier(config, TaskHeadConfig(labels=("O", "B-PER", "I-PER")))
    >>> model(torch.tensor([[2, 17, 8, 3]])).logits.shape  # (B, T, C)
    torch.Size([1, 4, 3])
    """

    head_config: TaskHeadConfig

    def __init__(self, config: EncoderConfig, head: TaskHeadConfig) -> None:
        super().__init__(config)
        self.head_config = replace(head, pooling=None)  # each token keeps its own vector
        self.head = TaskHead(config, self.head_config)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.head_config.labels


class Discriminator(_TokenModel):
    """An encoder that says of each token whether another stood there before, replaced-token detection: logits (B, T) are the
    log-odds that a token was replaced, labels (B, T) 1 for one that was and 0 for one that was always there.

    Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators".
    """

    head_config: DiscriminatorConfig

    def __init__(self, config: EncoderConfig, head: DiscriminatorConfig | None = None) -> None:
        super().__init__(config)
        self.head_config = head or DiscriminatorConfig()
        activation = self.head_config.activation
        shape = TaskHeadConfig(
            ("replaced",), activation=activation, transform_bias=True, transform_norm=False, pooling=None
        )
        self.head = TaskHead(config, shape)

    def _scored(self, logits: Tensor, output: EncoderOutput, labels: Tensor | None) -> HeadOutput:
        return _with_loss(logits.squeeze(-1), output, labels, binary_cross_entropy)  # (B, T)


def _with_loss(logits: Tensor, output: EncoderOutput, labels: Tensor | None, loss: Loss) -> HeadOutput:
    """The result of a head, with its losses where there are labels."""
    result = HeadOutput(logits, hidden_states=output.hidden_states, attentions=output.attentions)
    if labels is not None:
        result.loss_sum, result.num_labels = loss(logits, labels)
        result.loss = result.loss_sum / result.num_labels.clamp(min=1)
    return result


def _mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T, D) → (B, D), over the positions where `mask` (B, T) is not 0; zeros for a row without any."""
    if mask is None:
        return hidden.mean(dim=1)
    return (hidden * mask[..., None].to(hidden.dtype)).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def mean_of_windows(logits: Tensor, example_ids: Tensor, examples: int) -> Tensor:
    """(B, C) → (N, C) in fp32: the mean of the rows of each example; zeros for one without any."""
    sums = logits.new_zeros(examples, logits.shape[1], dtype=torch.float32)
    counts = logits.new_zeros(examples, 1, dtype=torch.float32)
    sums = sums.index_add(0, example_ids, logits.float())
    counts = counts.index_add(0, example_ids, counts.new_ones(len(example_ids), 1))
    return sums / counts.clamp(min=1)
