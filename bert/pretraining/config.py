"""The groups of a pretraining recipe. Plain dataclasses without torch."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bert.errors import InputError, check_seed, check_values, require, require_positive
from bert.model.config import Backend, EncoderConfig, HeadConfig
from bert.training.config import CheckpointConfig, LogConfig, OptimizerConfig, ScheduleConfig, StopConfig

_MOST_WORKERS = 256  # a recipe may come from a stranger, and each is a process


@dataclass(frozen=True)
class VocabularyConfig:
    """The tokenizer to train on the corpus if none is given; or changes to the tokenizer of `initialize_from`."""

    kind: Literal["auto", "wordpiece", "bpe", "unigram"] = "auto"
    """WordPiece (lower-cased), byte-level BPE, or Unigram; auto: Unigram for scripts without spaces, otherwise WordPiece"""
    size: int | None = None
    """number of entries, rounded up to a multiple of 64; null: 8192, or what a small corpus supports"""
    retrain: bool = False
    """of a run from a model: train a tokenizer on the corpus to replace that of the model; shared tokens keep their vectors"""
    add_words: str | None = None
    """of a run from a model: file with one word per line; each new word becomes one token, initialized to the mean of its old tokens"""

    def __post_init__(self) -> None:
        require_positive("vocabulary", self, "size")


@dataclass(frozen=True)
class DataConfig:
    """Text and batches."""

    corpus: list[str] = field(default_factory=list)
    """text: files, globs, folders or a data set on the Hub"""
    layout: Literal["auto", "blank-lines", "lines", "file"] = "auto"
    """what separates documents in .txt files: blank lines, every line, or the file; auto detects it"""
    text_field: str = "text"
    """column or field that holds the text, in files with named ones, or meta.text in an object meta"""
    exclude: list[str] = field(default_factory=list)
    """names or paths of files and folders to leave out, such as '*.bak'"""
    tokenizer: str | None = None
    """tokenizer folder, or a tokenizer.json; null: train one on the corpus"""
    store: str | None = None
    """token store made by `bert prepare`; null: RUN/store"""
    mixture: dict[str, float] = field(default_factory=dict)
    """instead of corpus and store: sources with weights, {enwiki/: 0.7, books/: 0.3}; a source is text or a token store, a weight its share
    of the sequences; weights need not sum to 1"""
    sequence_length: int = 128
    """positions per sequence, special tokens included"""
    batch_size: int = 32
    """sequences per optimizer step, over all devices"""
    micro_batch_size: int | None = None
    """sequences per forward pass on one device; null: all that a step needs on that device"""
    window_documents: int = 4096
    """number of documents that are packed together"""
    validation_split: float = 0.01
    """share of the documents, chosen by hash, used for validation"""
    workers: int = 0
    """number of processes that load batches; 0: the training process loads them, which is fastest on few cores"""

    def __post_init__(self) -> None:
        require_positive("data", self, "batch_size micro_batch_size window_documents")
        require("data", self, "sequence_length", lambda value: value >= 8, "8 or more")
        require("data", self, "validation_split", lambda value: 0 <= value <= 0.5, "a share from 0 to 0.5")
        require("data", self, "workers", lambda value: 0 <= value <= _MOST_WORKERS, f"0 to {_MOST_WORKERS}")
        for name, value in (("text", " ".join(self.corpus)), ("data.store", self.store)) if self.mixture else ():
            if value:
                raise InputError(f"{name} {value} beside data.mixture: make it a source of the mixture or leave it out")
        if len(self.mixture) == 1:
            fix = "give a second source, or this one as text or data.store"
            raise InputError(f"data.mixture holds {next(iter(self.mixture))} alone: {fix}")
        for source, weight in self.mixture.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise InputError(f"data.mixture: the weight of {source} is {weight}: give more than 0, or leave it out")


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens are masked, and what replaces them."""

    rate: float = 0.35
    """share of the tokens of a sequence that are masked"""
    mask_share: float = 0.8
    """share of the masked tokens that become [MASK]"""
    random_share: float = 0.1
    """share of the masked tokens that become a random token; the others stay unchanged"""
    whole_words: bool = False
    """mask all tokens of a word or none"""

    def __post_init__(self) -> None:
        require("masking", self, "rate", lambda value: 0 < value < 1, "a share between 0 and 1")
        require("masking", self, "mask_share random_share", lambda value: 0 <= value <= 1, "a share from 0 to 1")
        if self.mask_share + self.random_share > 1 + 1e-9:
            shares = f"masking.mask_share {self.mask_share} and masking.random_share {self.random_share}"
            raise InputError(f"{shares} are more than 1 together: lower one")


@dataclass(frozen=True)
class PretrainOptimizer(OptimizerConfig):
    """AdamW (Loshchilov and Hutter 2019), or Muon (Jordan et al. 2024) for hidden matrices and AdamW for the rest."""

    kind: Literal["adamw", "muon"] | None = None  # type: ignore[assignment]
    """adamw: for all parameters; muon: for the matrices of the blocks, AdamW for the rest; null: muon with random initialization, adamw
    of a run from a model, which changes the weights less"""
    muon_lr: float = 0.015
    """highest learning rate of Muon"""
    muon_weight_decay: float = 0.2
    """decoupled weight decay of the matrices that Muon updates"""
    muon_block: int | None = 64
    """number of neurons (rows of matrices that read the residual path, columns of those that write to it) that Muon orthogonalizes
    together: fewer are cheaper; null: whole matrices"""


@dataclass(frozen=True)
class PhaseConfig:
    """A phase of the run: its length, and the fields that differ from the rest of the recipe; null: no difference."""

    tokens: float | None = None
    """positions (sequences × sequence length) until the next phase, rounded up to whole steps; null in the last phase"""
    sequence_length: int | None = None
    """replaces data.sequence_length"""
    batch_size: int | None = None
    """replaces data.batch_size"""
    micro_batch_size: int | None = None
    """replaces data.micro_batch_size"""
    mask_rate: float | None = None
    """replaces masking.rate"""
    rope_theta: float | None = None
    """replaces encoder.rope_theta"""


@dataclass(frozen=True)
class PretrainCheckpoint(CheckpointConfig):
    """When to save checkpoints. One is always saved at the end, and when the run is interrupted."""

    milestones: int | list[float] | None = None
    """model folders to keep on the way, in RUN/milestones/TOKENS, each from the first step by which so many tokens have been seen. A list:
    these numbers of tokens, padding not counted, such as [1e6, 2e6, 5e6]. A whole number n: after 1/2^(n-1), …, 1/4, 1/2 and all of the
    budget, whatever it counts; of points within one step, the step is kept once. null: none"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("checkpoint", self, "milestones", _fit_a_run, "1 to 32, or a list of numbers of tokens above 0")


def _fit_a_run(given: int | list[float]) -> bool:
    """Whether milestones are in a run: 1/2^31 of any run is less than a step."""
    return 0 < given <= 32 if isinstance(given, int) else min(given, default=0) > 0


@dataclass(frozen=True)
class ValidationConfig:
    """Loss, accuracy and perplexity on the validation split, with fixed masks."""

    every_steps: int | None = None
    """steps between validations; null: at the end only"""
    sequences: int = 512
    """largest number of validation sequences"""
    general: str | None = None
    """of a run from a model: text unrelated to the run, to measure what is forgotten; null: the bundled sample"""

    def __post_init__(self) -> None:
        require_positive("validation", self, "every_steps sequences")


@dataclass(frozen=True)
class ExpandConfig:
    """A larger model from the weights of `initialize_from`. Heads keep their size: a wider model has more of them."""

    num_layers: int | None = None
    """number of Transformer blocks; null: as in that model"""
    hidden_size: int | None = None
    """width of a token's vector; null: as in that model"""
    intermediate_size: int | None = None
    """width inside the MLP; null: as in that model"""

    def __post_init__(self) -> None:
        require_positive("expand", self, "num_layers hidden_size intermediate_size")


@dataclass(frozen=True)
class PretrainRecipe:
    """All settings of a pretraining run. Every field is a key of a YAML file and a flag of `bert pretrain`."""

    data: DataConfig = field(default_factory=DataConfig)
    """text, tokenizer, sequences and batches"""
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """the tokenizer to train if none is given"""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """shape of the encoder; vocab_size and pad_id come from the tokenizer"""
    head: HeadConfig = field(default_factory=HeadConfig)
    """shape of the masked-LM head"""
    initialization: Literal["random", "structured"] = "random"
    """weights of a new model: random; or structured, which learns faster: the output bias starts with token frequencies, and with
    encoder.positions rope two heads of a middle layer start by attending to the previous and the next token, heads above to similar
    tokens, and all pass values on unchanged"""
    objective: str = "masked_lm"
    """name of the training objective"""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """which tokens are masked"""
    phases: list[PhaseConfig] = field(default_factory=list)
    """parts of the run, each with its length in tokens and its own sequence_length, batch_size, micro_batch_size, mask_rate or rope_theta:
    [{tokens: 1e6, sequence_length: 128}, {sequence_length: 512}]; none: one phase"""
    initialize_from: str | None = None
    """model folder whose weights, shape and tokenizer the run starts from; null: random initialization"""
    expand: ExpandConfig = field(default_factory=ExpandConfig)
    """of a run from a model: expand the model first"""
    compile: bool | None = None
    """compile the step (torch.compile, one graph with fixed shapes); null: if that pays off within the budget"""
    attention: Backend = "auto"
    """attention backend; auto: one that is fast on this hardware, timed at the start of a run with a compiled step (the choice is in
    recipe.yaml in the run directory). The last layer computes masked positions only: if a backend does not support that, such as varlen,
    auto is used there, and the run says so"""
    local_attention: Backend | None = None
    """the same for layers with a window (encoder.local_window); null: as attention, and timed separately if that is auto"""
    optimizer: PretrainOptimizer = field(default_factory=PretrainOptimizer)
    """AdamW or Muon"""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """the learning rate through the run"""
    stop: StopConfig = field(default_factory=StopConfig)
    """the budget; none given: 20 minutes"""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """validation"""
    checkpoint: PretrainCheckpoint = field(default_factory=PretrainCheckpoint)
    """when to save checkpoints, and models on the way"""
    log: LogConfig = field(default_factory=LogConfig)
    """what to log"""
    trainer: dict[str, Any] = field(default_factory=dict)
    """any argument of lightning.Trainer, such as --trainer.devices 2 or --trainer.precision bf16-mixed"""
    seed: int = 0
    """seed of initial weights, order, masks and dropout"""

    run_id: str | None = None
    """identifies this run in its recipe.yaml and its checkpoints; a new run gets a new one"""

    def __post_init__(self) -> None:
        check_values(self, "")
        check_seed(self.seed, bits=63)
        if self.optimizer.kind is None:
            kind: Literal["adamw", "muon"] = "muon" if self.initialize_from is None else "adamw"
            # The only way to resolve a field of a frozen dataclass; the recipe, and its file, then show what is used.
            object.__setattr__(self, "optimizer", replace(self.optimizer, kind=kind))
        self._check_phases()
        if self.initialize_from is not None:
            self._check_initialized()
            return
        encoder, vocabulary, general = self.encoder, self.vocabulary, self.validation.general
        check_lengths(self, encoder, f"encoder.max_length {encoder.max_length}: lower the one or raise the other")
        for name, is_given in {
            "vocabulary.retrain (--new-tokenizer)": vocabulary.retrain,
            f"vocabulary.add_words {vocabulary.add_words}": vocabulary.add_words is not None,
            f"validation.general {general}": general is not None,
            "expand": self.expand != ExpandConfig(),
        }.items():
            if is_given:
                raise InputError(f"{name} is for a run that starts from a model: give its folder as --from")

    def _check_phases(self) -> None:
        for number, phase in enumerate(self.phases, start=1):
            here, is_last = f"phases: phase {number}", number == len(self.phases)
            if is_last and phase.tokens is not None:
                raise InputError(f"{here} is the last and has tokens {phase.tokens:g}: leave them out, stop ends it")
            if not is_last and phase.tokens is None:
                raise InputError(f"{here} has no tokens: say how long it lasts, only the last phase may leave it open")
            for name in ("tokens", "batch_size", "micro_batch_size", "rope_theta"):
                if (value := getattr(phase, name)) is not None and not value > 0:
                    raise InputError(f"{here}: {name} is {value}: give a finite number above 0")
            if phase.sequence_length is not None and phase.sequence_length < 8:
                raise InputError(f"{here}: sequence_length is {phase.sequence_length}: give 8 or more")
            if phase.mask_rate is not None and not 0 < phase.mask_rate < 1:
                raise InputError(f"{here}: mask_rate is {phase.mask_rate}: give a share between 0 and 1")

    def _check_initialized(self) -> None:
        """InputError for fields that conflict with `initialize_from`, or among the ways to change its tokenizer."""
        vocabulary, plain, beside = self.vocabulary, VocabularyConfig(), f"beside --from {self.initialize_from}"
        if self.initialization == "structured":
            raise InputError(f"initialization is structured {beside}, which has trained weights: give random")
        ways = {
            f"data.tokenizer {self.data.tokenizer}": self.data.tokenizer is not None,
            "vocabulary.retrain (--new-tokenizer)": vocabulary.retrain,
            f"vocabulary.add_words {vocabulary.add_words}": vocabulary.add_words is not None,
        }
        chosen = [way for way, is_chosen in ways.items() if is_chosen]
        if len(chosen) > 1:
            raise InputError(f"{chosen[0]} and {chosen[1]} {beside}: each makes another tokenizer; give one of them")
        for name in ("kind", "size"):
            value = getattr(vocabulary, name)
            if value != getattr(plain, name) and not vocabulary.retrain:
                fix = "leave it out, or train one with --new-tokenizer"
                raise InputError(f"vocabulary.{name} is {value} {beside}, which brings its tokenizer: {fix}")
        if self.data.store is not None and (vocabulary.retrain or vocabulary.add_words is not None):
            raise InputError(f"data.store {self.data.store} beside {chosen[0]}: it is tokenized already; give the text")


def check_lengths(recipe: PretrainRecipe, encoder: EncoderConfig, limit: str) -> None:
    """InputError for sequences longer than `encoder.max_length`, described as `limit`, and for a rotary base without rotary positions."""
    lengths, positions = {}, encoder.positions
    if not recipe.phases or any(phase.sequence_length is None for phase in recipe.phases):
        lengths["data.sequence_length"] = recipe.data.sequence_length
    for number, phase in enumerate(recipe.phases, start=1):
        if phase.sequence_length is not None:
            lengths[f"phases: phase {number}: sequence_length"] = phase.sequence_length
        if phase.rope_theta is not None and positions != "rope":
            raise InputError(f"phases: phase {number}: rope_theta needs encoder.positions rope, not {positions}")
    for name, length in lengths.items():
        if length > encoder.max_length:
            raise InputError(f"{name} {length} is longer than {limit}")
