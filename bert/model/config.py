"""The shape of an encoder and of its head, as frozen dataclasses without torch: recipes and command lines read this file.

One configuration space contains the original Transformer encoder (Vaswani et al. 2017), BERT (Devlin et al. 2018), RoBERTa (Liu
et al. 2019), DistilBERT (Sanh et al. 2019), ELECTRA (Clark et al. 2020) and ModernBERT (Warner et al. 2024): each difference between
them is a field, never a class.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from bert.errors import InputError, did_you_mean, require

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
TaskActivation = Literal[Activation, "tanh"]
Backend = Literal["auto", "eager", "plain", "sdpa", "flex", "varlen"]
"""how attention is computed. auto: always supported and fast on this hardware. eager: the reference. plain: few tensor operations,
which a compiler fuses. sdpa: PyTorch's fused kernels with a mask. flex: a kernel generated for the layout, which skips blocks without
a visible key. varlen: FlashAttention over the documents of the sequences, without a mask (CUDA, bf16 or fp16)."""
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
"""Hugging Face's names for the meaning of the scores of a text"""
NUMBERS = PROBLEM_TYPES[2:]
"""problem types whose scores are numbers in their own unit, not log-odds"""
_SIZES = "vocab_size hidden_size num_layers num_heads intermediate_size max_length global_every".split()
_MOST, _MOST_LAYERS, _MOST_NUMBERS, _BELOW, _MOST_BEAMS = 2**31 - 1, 2_000, 2**40, 1e18, 1_000
"""upper limits, far beyond any model: of a size, of num_layers, of the number of parameters, of a floating-point field, and of beams"""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the encoder. The defaults are a small encoder of the ModernBERT family. Raises InputError for an invalid shape."""

    vocab_size: int = 30_528
    """entries of the embedding table; pretraining sets it from the tokenizer"""
    hidden_size: int = 256
    """width of a token's vector"""
    embedding_size: int | None = None
    """width of the embedding tables, projected to hidden_size after the embedding norm (ELECTRA); null: hidden_size"""
    num_layers: int = 4
    """number of Transformer blocks"""
    num_heads: int = 4
    """attention heads per layer; must divide hidden_size"""
    num_kv_heads: int | None = None
    """heads of keys and values, shared by groups of query heads (grouped-query attention); null: num_heads"""
    intermediate_size: int = 384
    """width inside the MLP (of one half, if gated)"""
    max_length: int = 512
    """longest input in tokens, special tokens included; a hard limit only with learned positions"""
    positions: Literal["learned", "sinusoidal", "rope", "none"] = "rope"
    """position encoding: a learned table, fixed sines, rotations of queries and keys, or none"""
    positions_skip_padding: bool = False
    """learned positions do not count padding and start at row pad_id + 1 of their table (RoBERTa)"""
    sinusoid_halves: bool = False
    """sinusoidal positions have their sines in the first half of the features, their cosines in the second (Marian), instead of in turn"""
    rope_theta: float = 160_000.0
    """base of the rotary wavelengths in global layers"""
    local_rope_theta: float = 10_000.0
    """base of the rotary wavelengths in local layers"""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """normalization of a token's vector"""
    norm_eps: float = 1e-5
    """added to the variance under the square root"""
    norm_bias: bool = False
    """give LayerNorm a bias"""
    norm_first: bool = True
    """normalize the input of a sublayer (pre-norm) instead of the sum after it (post-norm)"""
    embedding_norm: bool = True
    """normalize the sum of the embeddings"""
    embedding_scale: bool = False
    """multiply token embeddings by the square root of their width, as the original Transformer does"""
    first_attention_norm: bool = False
    """pre-norm only: also normalize before the attention of the first layer (ModernBERT does not, as its embeddings are normalized)"""
    final_norm: bool = True
    """normalize the output of the last layer (pre-norm only)"""
    qk_norm: bool = False
    """normalize queries and keys of each head (RMS, with a learned scale) before their product"""
    activation: Activation = "gelu"
    """nonlinearity of the MLP"""
    gated: bool = True
    """gated MLP: activation(a) * b, as in GeGLU and SwiGLU"""
    bias: bool = False
    """give the linear maps of attention and MLP a bias"""
    token_types: int = 0
    """number of token types (BERT: segments), each with an embedding; 0: none"""
    local_window: int | None = None
    """width w of sliding-window attention: token i sees token j if |i - j| <= w // 2; null: every layer is global"""
    global_every: int = 1
    """with local_window: layers 0, n, 2n, ... see the whole document, the others the window"""
    embedding_dropout: float = 0.0
    """dropout on the embeddings"""
    attention_dropout: float = 0.0
    """dropout on the attention weights"""
    hidden_dropout: float = 0.0
    """dropout on the output of a sublayer, before the residual sum"""
    mlp_dropout: float = 0.0
    """dropout between the two matrices of the MLP"""
    initializer_range: float = 0.02
    """standard deviation of the initial weights"""
    pad_id: int = 0
    """id of the padding token, which fills sequences to the same length and is not counted with positions_skip_padding"""

    def __post_init__(self) -> None:
        sizes = " ".join(_SIZES)
        whole = f"{sizes} num_kv_heads embedding_size local_window token_types pad_id"
        require("encoder", self, whole, lambda value: True, "a whole number")
        require("encoder", self, sizes, lambda value: value >= 1, "1 or more")
        require("encoder", self, whole, lambda value: value <= _MOST, f"at most {_MOST}")
        require("encoder", self, "num_layers", lambda value: value <= _MOST_LAYERS, f"at most {_MOST_LAYERS}")
        positive = f"a positive number below {_BELOW:g}"  # NaN is none
        names = "norm_eps initializer_range rope_theta local_rope_theta"
        require("encoder", self, names, lambda value: 0 < value < _BELOW, positive)
        for name in ("positions", "norm", "activation"):
            _check_choice("encoder", self, name)
        dropouts = "embedding_dropout attention_dropout hidden_dropout mlp_dropout"
        require("encoder", self, dropouts, lambda value: 0 <= value < 1, "a probability from 0 to below 1")
        require("encoder", self, "embedding_size", lambda value: value >= 1, "1 or more, or null for hidden_size")
        require("encoder", self, "token_types", lambda value: value >= 0, "0 for none, or their number")
        everywhere = "2 or more, or null for global attention everywhere"
        require("encoder", self, "local_window", lambda value: value >= 2, everywhere)
        self._check_combinations()

    def _check_combinations(self) -> None:
        size, heads, kv_heads = self.hidden_size, self.num_heads, self.num_kv_heads
        if size % heads:
            raise InputError(f"encoder.hidden_size {size} is not a multiple of encoder.num_heads {heads}: give one")
        if kv_heads is not None and (kv_heads < 1 or heads % kv_heads):
            raise InputError(f"encoder.num_kv_heads {kv_heads} is not a divisor of encoder.num_heads {heads}: give one")
        if self.positions == "rope" and self.head_size % 2:
            raise InputError(f"encoder.positions rope needs an even hidden_size / num_heads, not {self.head_size}")
        if self.positions == "sinusoidal" and self.embedding_width % 2:
            name = "hidden_size" if self.embedding_size is None else "embedding_size"
            raise InputError(f"encoder.positions sinusoidal needs an even encoder.{name}, not {self.embedding_width}")
        if self.positions_skip_padding and self.positions != "learned":
            raise InputError(f"encoder.positions_skip_padding needs positions learned, not {self.positions}: omit it")
        if self.sinusoid_halves and self.positions != "sinusoidal":
            raise InputError(f"encoder.sinusoid_halves needs positions sinusoidal, not {self.positions}: omit it")
        if self.local_window is not None and self.global_every == 1:
            raise InputError("encoder.global_every 1 makes every layer global: give 2 or more, or local_window null")
        if self.local_window is None and self.global_every != 1:
            raise InputError(f"encoder.global_every {self.global_every} needs encoder.local_window: give it a width")
        for name in ("final_norm", "first_attention_norm"):
            if not self.norm_first and getattr(self, name):
                raise InputError(f"encoder.{name} belongs to pre-norm: with encoder.norm_first false set {name} false")
        if self.norm == "rmsnorm" and self.norm_bias:
            raise InputError("encoder.norm rmsnorm has no bias: set encoder.norm_bias false")
        tables = self.vocab_size + self.token_types + (self.max_length if self.positions == "learned" else 0)
        layer = 2 * self.hidden_size * (self.hidden_size + self.intermediate_size)
        if (numbers := self.num_layers * layer + tables * self.embedding_width) > _MOST_NUMBERS:
            given = ", ".join(f"{name} {getattr(self, name)}" for name in _SIZES)
            raise InputError(f"encoder: {given} make {numbers} parameters: give sizes for at most {_MOST_NUMBERS}")
        if not 0 <= self.pad_id < self.vocab_size:
            raise InputError(f"encoder.pad_id {self.pad_id} is outside the vocabulary of {self.vocab_size}")

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def embedding_width(self) -> int:
        """Width of the embedding tables."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    def is_local(self, layer: int) -> bool:
        """Whether layer `layer` (from 0) sees only its window."""
        return self.local_window is not None and layer % self.global_every != 0


@dataclass(frozen=True)
class HeadConfig:
    """Shape of the masked-LM head: dense, activation and norm if `transform` is true, then the output matrix."""

    transform: bool = True
    """a dense layer, an activation and a norm before the output matrix (the original Transformer has none)"""
    activation: Activation = "gelu"
    """nonlinearity of the transform"""
    transform_bias: bool = False
    """bias of the dense layer of the transform"""
    output_bias: bool = True
    """a bias for each entry of the vocabulary"""
    tied: bool = True
    """the output matrix is the embedding matrix"""

    def __post_init__(self) -> None:
        _check_choice("head", self, "activation")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Shape of the decoder of a sequence-to-sequence model, and its special tokens."""

    decoder: EncoderConfig
    """shape of the decoder; a cross-attention stands in each of its blocks"""
    head: HeadConfig = field(default_factory=lambda: HeadConfig(transform=False, output_bias=False))
    """shape of the output layer"""
    shared: bool = True
    """the decoder has the embeddings of the encoder, positions included, and so has the output if `head.tied`"""
    start_id: int = 0
    """id of the token before the first one of a target"""
    end_id: int = 1
    """id of the token after the last one of a target"""
    problem_type: ClassVar[str] = "translation"
    """meaning of the scores, as in `TaskHeadConfig`"""

    def __post_init__(self) -> None:
        inside = f"an id of the vocabulary, from 0 to below {self.decoder.vocab_size}"
        require("head", self, "start_id end_id", lambda value: 0 <= value < self.decoder.vocab_size, inside)


@dataclass(frozen=True)
class GenerationConfig:
    """How the targets of a sequence-to-sequence model are searched, by `bert.inference.generation`."""

    num_beams: int = 4
    """targets that are continued at the same time; 1: greedy, which takes the most probable token at each step"""
    max_length: int = 128
    """longest target in tokens, start and end included"""
    length_penalty: float = 1.0
    """α: the log-probability of a target of n tokens is divided by n^α or ((5 + n) / 6)^α, so that above 0 longer ones are preferred"""
    length_formula: Literal["power", "gnmt"] = "power"
    """by what the log-probability is divided. power: n^α, as in transformers. gnmt: ((5 + n) / 6)^α"""
    early_stopping: bool | Literal["never"] = False
    """when a source is done. true: as soon as it has num_beams targets with an end. false: when the best running one, if it ended here,
    would not be better than the worst of them. never: not before no continuation up to max_length could be better"""
    forced_start: int | None = None
    """id of the first token of every target, such as that of its language"""
    forced_end: int | None = None
    """id of the last token of targets that reach max_length"""
    bad_words: Sequence[Sequence[int]] = ()
    """sequences of token ids that no target contains"""
    num_return: int = 1
    """number of targets for each source, the best first"""

    def __post_init__(self) -> None:
        beams = f"from 1 to {_MOST_BEAMS}"
        require("generation", self, "num_beams num_return", lambda value: 1 <= value <= _MOST_BEAMS, beams)
        require("generation", self, "max_length", lambda value: 2 <= value <= _MOST, "2 or more")
        require("generation", self, "length_penalty", lambda value: abs(value) <= 50, "from -50 to 50")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise InputError(f"generation.early_stopping is {self.early_stopping!r}: give one of true, false, never")
        _check_choice("generation", self, "length_formula")
        require("generation", self, "forced_start forced_end", lambda value: 0 <= value <= _MOST, "the id of a token")
        require("generation", self, "bad_words", _are_ids, "lists of ids of tokens")
        if self.num_return > self.num_beams:
            both = f"num_return {self.num_return} is more than num_beams {self.num_beams}"
            raise InputError(f"generation.{both}: give as many beams")
        if any(not word for word in self.bad_words):
            raise InputError("generation.bad_words has an empty sequence: leave it out")


TaskPooling = Literal["cls", "mean", "siamese"]
"""How the tokens of a text become one vector: that of the first, or the mean without padding. siamese, for pairs: each text is encoded
alone, and |u − v| and u · v of both means, scaled to a root mean square of 1, are one vector of 2D (Conneau et al. 2017, "Supervised
Learning of Universal Sentence Representations"; Reimers and Gurevych 2019, "Sentence-BERT")."""


@dataclass(frozen=True)
class TaskHeadConfig:
    """Shape of a task head: pooling, then dense, activation and norm if `transform` is true, then dropout and the output matrix.

    The defaults are those of ModernBERT; `task_head` returns those of an encoder's family.
    """

    labels: tuple[str, ...]
    """names of the classes; the index of a name is the id of its class"""
    transform: bool = True
    """a dense layer and an activation before the output matrix"""
    activation: TaskActivation = "gelu"
    """nonlinearity of the transform"""
    transform_bias: bool = False
    """bias of the dense layer of the transform"""
    transform_norm: bool = True
    """a norm, of the encoder's kind, after the activation"""
    pooling: TaskPooling | None = "cls"
    """how a sequence becomes one vector, see `TaskPooling`; null: each token keeps its own (a tagger)"""
    first_dropout: float = 0.0
    """dropout before the transform (RoBERTa, ELECTRA)"""
    dropout: float = 0.0
    """dropout before the output matrix"""
    problem_type: str = "single_label_classification"
    """meaning of the scores of a text: one of `PROBLEM_TYPES`, or a task without a name in Hugging Face"""

    def __post_init__(self) -> None:
        if isinstance(self.labels, str):
            raise InputError(f"head.labels is {self.labels!r}: give several names, as ('good', 'bad')")
        if not self.labels:
            raise InputError("head.labels is empty: give the names of the classes")
        if twice := [label for label, times in Counter(self.labels).items() if times > 1]:
            raise InputError(f"head.labels names {twice[0]!r} twice: give each class once")
        _check_choice("head", self, "activation")
        known = get_args(TaskPooling)
        require("head", self, "pooling", lambda value: value in known, f"one of {', '.join(known)}")
        require("head", self, "first_dropout dropout", lambda value: 0 <= value < 1, "a probability from 0 to below 1")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of ELECTRA's discriminator head: dense and activation, then one number per token."""

    activation: Activation = "gelu"
    """nonlinearity of the transform"""

    def __post_init__(self) -> None:
        _check_choice("head", self, "activation")


def task_head(config: EncoderConfig, labels: Sequence[str], per_token: bool = False) -> TaskHeadConfig:
    """The default head for texts, or for tokens (`per_token`), on an encoder of this shape.

    Post-norm encoders get the heads of BERT (Devlin et al. 2018): dense and tanh on the vector of the first token for texts, only the
    output matrix for tokens, dropout as in the encoder. Pre-norm encoders get those of ModernBERT (Warner et al. 2024): dense,
    activation and norm for both.
    """
    head = TaskHeadConfig(tuple(labels), pooling=None if per_token else "cls")
    if config.norm_first:
        return head
    head = replace(head, dropout=config.hidden_dropout)
    if per_token:
        return replace(head, transform=False)
    return replace(head, activation="tanh", transform_bias=True, transform_norm=False)


def _are_ids(words: Sequence[Sequence[int]]) -> bool:
    return all(0 <= token <= _MOST for word in words for token in word)


def _check_choice(group: str, config: Any, name: str) -> None:
    """InputError for a value that is not in the field's `Literal`, with the nearest one that is."""
    value, choices = getattr(config, name), get_args(get_type_hints(type(config))[name])
    if value not in choices:
        given = f"give one of {', '.join(choices)}.{did_you_mean(str(value), choices)}"
        raise InputError(f"{group}.{name} is {value}: {given}")
