"""Heads: from the vectors of an encoder to a score for each entry of the vocabulary, or for each class of a task.

    masked LM    hidden (N, D) → dense, activation, norm (if `transform`) → · output matrix (V, E)ᵀ + bias → (N, V)
    classifier   hidden (B, T, D) → pooling (B, D or 2D) → dense, activation, norm → dropout → output → mean over windows (N, C)
    tagger       hidden (B, T, D) → dense, activation, norm (if `transform`) → dropout → output → (B, T, C)
    discriminator (ELECTRA)  hidden (B, T, D) → dense, activation → output → (B, T)

C is the number of classes, N the number of masked positions or of examples. The output matrix of the masked LM is the embedding matrix
by default (Press and Wolf 2017). With `masked_positions`, only those positions are decoded: with 15 % of the tokens masked, that saves
most of the head's work, and no other part of the model depends on the scores of other positions. Task heads are those of BERT (Devlin
et al. 2018) and ModernBERT (Warner et al. 2024) as points of `TaskHeadConfig`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.errors import InputError
from bert.model.config import NUMBERS, DiscriminatorConfig, EncoderConfig, HeadConfig, TaskActivation, TaskHeadConfig
from bert.model.dropout import Dropout
from bert.model.encoder import Encoder, EncoderOutput, FolderModel
from bert.model.layers import activate, compute_dtype, gather_positions, initialize, make_norm
from bert.model.loss import LOSSES, Loss, binary_cross_entropy, cross_entropy, linear_cross_entropy

if TYPE_CHECKING:
    from bert.data.tokenizer import Tokenizer


@dataclass
class HeadOutput:
    """The output of a model with a head. The losses are None if no labels were given."""

    logits: Tensor
    """masked LM: (B, T, V), or (B, K, V) with `masked_positions`; classifier: (N, C); tagger: (B, T, C); discriminator: (B, T)"""
    loss: Tensor | None = None
    """mean over the labeled positions (cross-entropy, or the loss of the problem type); 0 if there are none"""
    loss_sum: Tensor | None = None
    """sum over the labeled positions in fp32, which can be added over micro-batches and ranks"""
    num_labels: Tensor | None = None
    """number of labeled positions"""
    hidden_states: tuple[Tensor, ...] | None = None
    """see `EncoderOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """see `EncoderOutput`"""


class MaskedLMHead(nn.Module):
    """Scores for the vocabulary. `weight` is None if the head is tied to the embedding matrix."""

    def __init__(self, config: EncoderConfig, head: HeadConfig) -> None:
        super().__init__()
        self.activation, width = head.activation, config.embedding_width
        if not head.transform and width != config.hidden_size:
            raise InputError(f"head.transform false needs encoder.embedding_size null, not {width}: set transform true")
        self.dense = nn.Linear(config.hidden_size, width, bias=head.transform_bias) if head.transform else None
        self.norm = make_norm(config, width) if head.transform else nn.Identity()
        self.weight = None if head.tied else nn.Parameter(torch.empty(config.vocab_size, width))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if head.output_bias else None
        initialize(self, config)
        if self.weight is not None:
            std = config.initializer_range
            nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, hidden: Tensor, embedding_matrix: Tensor) -> Tensor:
        """(..., D) and (V, E) → (..., V)."""
        matrix = embedding_matrix if self.weight is None else self.weight
        return F.linear(self.transform(hidden), matrix, self.bias)

    def loss_sum(self, hidden: Tensor, output_matrix: Tensor, labels: Tensor) -> Tensor:
        """The summed cross-entropy of the scores of `forward`, (): (N, D), (V, E), labels (N,). See `linear_cross_entropy`."""
        hidden = self.transform(hidden)
        dtype = compute_dtype(hidden)
        bias = None if self.bias is None else self.bias.to(dtype)
        return linear_cross_entropy(hidden.to(dtype), output_matrix.to(dtype), bias, labels)

    def transform(self, hidden: Tensor) -> Tensor:
        """(..., D) → (..., E): the vectors that are multiplied with the output matrix."""
        return hidden if self.dense is None else _transform(hidden, self.dense, self.activation, self.norm)


class TaskHead(nn.Module):
    """Scores for the classes of a task, from pooled vectors or from the vectors of single tokens."""

    def __init__(self, config: EncoderConfig, head: TaskHeadConfig) -> None:
        super().__init__()
        self.activation, self.is_number = head.activation, head.problem_type in NUMBERS
        width = config.hidden_size
        pooled = 2 * width if head.pooling == "siamese" else width
        self.dense = nn.Linear(pooled, width, bias=head.transform_bias) if head.transform else None
        self.norm = make_norm(config) if head.transform and head.transform_norm else nn.Identity()
        self.first_dropout, self.dropout = Dropout(head.first_dropout), Dropout(head.dropout)
        self.output = nn.Linear(width if head.transform else pooled, len(head.labels))
        initialize(self, config)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D or 2D) → (..., C)."""
        if self.dense is not None:
            hidden = _transform(self.first_dropout(hidden), self.dense, self.activation, self.norm)
        hidden = self.dropout(hidden)
        if self.is_number and torch.is_autocast_enabled(hidden.device.type):  # bf16 keeps three digits
            with torch.autocast(hidden.device.type, enabled=False):
                return self.output(hidden.float())
        return self.output(hidden)


def _transform(hidden: Tensor, dense: nn.Linear, activation: TaskActivation, norm: nn.Module) -> Tensor:
    """(..., D) → (..., D), or (..., E) in a masked LM."""
    return norm(activate(dense(hidden), activation).to(dense.weight.dtype))  # a norm computes in fp32 under autocast


class HeadedModel(FolderModel):
    """The common part of all models with a head: an encoder and its tokenizer."""

    head_config: HeadConfig | TaskHeadConfig | DiscriminatorConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)

    @property
    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer from the model folder; None for a randomly initialized model."""
        return self.encoder.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: "Tokenizer | None") -> None:
        self.encoder.tokenizer = tokenizer

    @property
    def model_type(self) -> str | None:
        """Hugging Face's name of the family that the model was read as; None for a randomly initialized model."""
        return self.encoder.model_type

    @model_type.setter
    def model_type(self, model_type: str | None) -> None:
        self.encoder.model_type = model_type


@dataclass(frozen=True)
class Candidate:
    """A candidate token for a masked position."""

    token: str
    """as plain text, without the marker that some tokenizers use for the space before a word"""
    id: int
    probability: float
    """over the whole vocabulary, from 0 to 1"""


class MaskedLM(HeadedModel):
    """An encoder that predicts masked tokens. `MaskedLM.load` reads a model folder; `fill` predicts the masks of a text.

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
        """(V, E): the embedding matrix itself if the head is tied."""
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
        """Scores for the vocabulary at tokens (B, T), and the loss if there are `labels`. For the masks, and for what raises
        InputError, see `Encoder.forward`.

        `labels` (B, T) holds original ids, and -100 where there is no label. With `masked_positions` (B, K), indices into each
        sequence, and `labels` (B, K), only those positions are decoded, which also saves most of the last layer. A label of -100
        marks an unused index, so that K is the same for every sequence and shapes are static.
        """
        last = None if output_hidden_states else masked_positions  # hidden states need the last layer at all positions
        output = self.encoder(
            input_ids, attention_mask, token_type_ids, document_ids, output_hidden_states, output_attentions, last
        )
        hidden = output.last_hidden_state  # (B, T, D), or (B, K, D)
        if masked_positions is not None and output_hidden_states:
            hidden = gather_positions(hidden, masked_positions)
        logits = self.head(hidden, self.encoder.embeddings.tokens.weight)
        return _with_loss(logits, output, labels, cross_entropy)

    def loss_sum(self, input_ids: Tensor, document_ids: Tensor, masked_positions: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of `forward`, (), for tokens (B, T) at the `masked_positions` (B, K) of each sequence.

        A compiled step should return nothing else: scores among its results would get a gradient too, a table of zeros that the
        backward pass fills, reads and adds.
        """
        output = self.encoder(input_ids, document_ids=document_ids, masked_positions=masked_positions)
        hidden = output.last_hidden_state.flatten(0, 1)  # (B · K, D)
        return self.head.loss_sum(hidden, self.output_matrix, labels.flatten())

    def fill(self, text: str, top: int = 5) -> list[list[Candidate]]:
        """The `top` most probable tokens for each mask in the text, most probable first; never special or unused tokens.

        Several masks are predicted independently, while the others stay masked. Raises InputError if the text has no mask token,
        or more tokens than the model takes.
        """
        from bert.inference.embeddings import fill

        return fill(self, text, top)


class PredictingModel(HeadedModel):
    """A model that has learned a task."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.settings: dict[str, Any] = {}
        """what prediction needs besides the weights, such as the windows of training; `load` reads it, `save` keeps it"""

    labels: tuple[str, ...] = ()
    """names of the classes, in the order of the logits; empty if it predicts no classes"""

    def predict(
        self, texts: "Sequence[str | Sequence[str]]", pairs: Sequence[str] | None = None, explain: bool = False
    ) -> list[Any]:
        """The predictions for texts, or pairs of texts, of any length: labels with their probabilities, a number, spans, or a
        translation. A tagger also takes sentences as lists of words. `explain`, of a classifier, adds to each its `explanation`: the
        words that speak for it. Raises InputError."""
        from bert.finetuning.predict import predict_texts

        return predict_texts(self, texts, pairs, explain)  # type: ignore[arg-type]


class _TaskModel(PredictingModel):
    """An encoder with a head for the classes of a task, on one vector per sequence or on the vector of each token."""

    def __init__(self, config: EncoderConfig, head: TaskHeadConfig) -> None:
        super().__init__(config)
        self.pooling, self.labels = head.pooling, head.labels
        self.head = TaskHead(config, head)

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
        """Scores for tokens (B, T), and the loss if there are `labels`; the class describes both. A label of -100 is ignored. For the
        masks, and for what raises InputError, see `Encoder.forward`; a sequence that is pooled holds one document. `token_type_ids` are
        ignored by an encoder without token types; the pooling `siamese` needs them, 0 in the first text and 1 in the second.

        `example_ids` (B,), ascending from 0, for classifiers only: the example that each sequence is a window of. The logits of an
        example are the mean over its windows. By default each sequence is an example. With labels, N is their number (an example
        without a window gets zeros), and there is no host sync.
        """
        types = token_type_ids if self.config.token_types > 1 else None
        if self.pooling == "siamese":
            if token_type_ids is None:
                raise InputError("head.pooling is siamese, which compares two texts: give pairs of texts")
            present = attention_mask if document_ids is None else document_ids > 0
            texts = token_type_ids + 1  # each is a document of its own
            document_ids, attention_mask, types = texts if present is None else texts * present, None, None
        output = self.encoder(input_ids, attention_mask, types, document_ids, output_hidden_states, output_attentions)
        hidden = output.last_hidden_state  # (B, T, D)
        if self.pooling == "cls":
            hidden = hidden[:, 0]  # (B, D)
        elif self.pooling == "mean":
            hidden = _mean(hidden, attention_mask if document_ids is None else document_ids > 0)
        elif self.pooling == "siamese":
            assert document_ids is not None
            u, v = (F.rms_norm(_mean(hidden, document_ids.eq(text)), hidden.shape[-1:]) for text in (1, 2))
            hidden = torch.cat([(u - v).abs(), u * v], dim=-1)  # (B, 2D)
        logits = self.head(hidden)  # (B, C), or (B, T, C)
        if example_ids is not None:
            if self.pooling is None:
                raise InputError("example_ids are for classifiers, which pool a sequence: leave them out")
            examples = int(example_ids[-1]) + 1 if labels is None else labels.shape[0]
            logits = mean_of_windows(logits, example_ids, examples)
        return self._scored(logits, output, labels)

    def _scored(self, logits: Tensor, output: EncoderOutput, labels: Tensor | None) -> HeadOutput:
        return _with_loss(logits, output, labels, cross_entropy)


class SequenceClassifier(_TaskModel):
    """An encoder that scores a text, or a pair of texts: logits (N, C) for N examples and C classes, or C = 1 for a number, by
    `TaskHeadConfig.problem_type`. Labels are class ids (N,); 0 and 1 (N, C) for multi-label classification; numbers (N,) for regression.

    >>> import torch
    >>> from bert import EncoderConfig, SequenceClassifier, TaskHeadConfig
    >>> config = EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    >>> model = SequenceClassifier(config, TaskHeadConfig(labels=("good", "bad"), pooling="mean"))
    >>> ids = torch.tensor([[2, 17, 8, 3], [2, 9, 3, 0]])
    >>> output = model(ids, attention_mask=(ids != 0).long(), labels=torch.tensor([0, 1]))
    >>> output.logits.shape  # (N, C): one example per sequence
    torch.Size([2, 2])
    >>> model.labels
    ('good', 'bad')
    """

    head_config: TaskHeadConfig

    def __init__(self, config: EncoderConfig, head: TaskHeadConfig) -> None:
        if head.pooling is None:
            raise InputError("head.pooling is null, which makes a tagger: give cls or mean for a classifier")
        super().__init__(config, head)
        self.head_config = head

    def _scored(self, logits: Tensor, output: EncoderOutput, labels: Tensor | None) -> HeadOutput:
        problem = self.head_config.problem_type
        if labels is not None and problem not in LOSSES:
            raise InputError(f"head.problem_type {problem} has no loss: leave labels out, compute it from logits")
        return _with_loss(logits, output, labels, LOSSES.get(problem, cross_entropy))


class TokenClassifier(_TaskModel):
    """An encoder that gives each token one of several labels: logits (B, T, C), labels (B, T) of class ids, -100 also at every
    token of a word except the one that represents it.

    >>> import torch
    >>> from bert import EncoderConfig, TaskHeadConfig, TokenClassifier
    >>> config = EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48)
    >>> model = TokenClassifier(config, TaskHeadConfig(labels=("O", "B-PER", "I-PER")))
    >>> model(torch.tensor([[2, 17, 8, 3]])).logits.shape  # (B, T, C)
    torch.Size([1, 4, 3])
    """

    head_config: TaskHeadConfig

    def __init__(self, config: EncoderConfig, head: TaskHeadConfig) -> None:
        head = replace(head, pooling=None)  # each token keeps its own vector
        super().__init__(config, head)
        self.head_config = head


class Discriminator(_TaskModel):
    """An encoder for replaced-token detection: logits (B, T) are the log-odds that a token was replaced, labels (B, T) are 1 for a
    replaced token and 0 for an original one.

    Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators".
    """

    head_config: DiscriminatorConfig

    def __init__(self, config: EncoderConfig, head: DiscriminatorConfig | None = None) -> None:
        head = head or DiscriminatorConfig()
        shape = TaskHeadConfig(
            ("replaced",), activation=head.activation, transform_bias=True, transform_norm=False, pooling=None
        )
        super().__init__(config, shape)
        self.head_config = head

    def _scored(self, logits: Tensor, output: EncoderOutput, labels: Tensor | None) -> HeadOutput:
        return _with_loss(logits.squeeze(-1), output, labels, binary_cross_entropy)  # (B, T)


def _with_loss(logits: Tensor, output: EncoderOutput, labels: Tensor | None, loss: Loss) -> HeadOutput:
    """The output of a head, with its losses if there are labels."""
    result = HeadOutput(logits, hidden_states=output.hidden_states, attentions=output.attentions)
    if labels is not None:
        result.loss_sum, result.num_labels = loss(logits, labels)
        result.loss = result.loss_sum / result.num_labels.clamp(min=1)
    return result


def _mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T, D) → (B, D), over the positions where `mask` (B, T) is not 0; zeros if there are none."""
    if mask is None:
        return hidden.mean(dim=1)
    return (hidden * mask[..., None].to(hidden.dtype)).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def mean_of_windows(logits: Tensor, example_ids: Tensor, examples: int) -> Tensor:
    """(B, C) → (N, C) in fp32: the mean over the windows of each example; zeros for an example without windows."""
    sums = logits.new_zeros(examples, logits.shape[1], dtype=torch.float32)
    counts = logits.new_zeros(examples, 1, dtype=torch.float32)
    sums = sums.index_add(0, example_ids, logits.float())
    counts = counts.index_add(0, example_ids, counts.new_ones(len(example_ids), 1))
    return sums / counts.clamp(min=1)
