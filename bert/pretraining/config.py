"""What `bert pretrain` can be told: the groups of a pretraining recipe. Plain dataclasses without torch."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bert.errors import InputError, check_seed, check_values, require, require_positive
from bert.model.config import Backend, EncoderConfig, HeadConfig
from bert.training.config import CheckpointConfig, LogConfig, OptimizerConfig, ScheduleConfig, StopConfig

_MOST_WORKERS = 256  # a recipe may come from a stranger, and each is a process


@dataclass(frozen=True)
class VocabularyConfig:
    """The tokenizer that is trained on the corpus where none is given; or what becomes of that of `initialize_from`."""

    kind: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    """WordPiece (lower-cased), byte-level BPE, or Unigram"""
    size: int | None = None
    """entries, brought up to a multiple of 64; null: 8192, or what a small corpus supports"""
    retrain: bool = False
    """with initialize_from: train a tokenizer on the corpus in place of that of the model; shared tokens keep their vectors"""
    add_words: str | None = None
    """with initialize_from: file with a word a line; each that is new becomes one token, from the mean of its old tokens"""

    def __post_init__(self) -> None:
        require_positive("vocabulary", self, "size")


@dataclass(frozen=True)
class DataConfig:
    """From text to batches."""

    corpus: list[str] = field(default_factory=list)
    """text: files, globs, folders or a Hub data set"""
    layout: Literal["auto", "blank-lines", "lines", "file"] = "auto"
    """what separates documents in .txt files: blank lines, every line, or the file; auto looks at the file"""
    text_field: str = "text"
    """column of .jsonl, .csv, .tsv and .parquet files that holds the text"""
    tokenizer: str | None = None
    """folder of a tokenizer, or a tokenizer.json; null: one is trained on the corpus"""
    store: str | None = None
    """token store made by `bert prepare`; null: RUN/store"""
    mixture: dict[str, float] = field(default_factory=dict)
    """in place of corpus and store: sources with weights, {enwiki/: 0.7, books/: 0.3}; a source is text or a token store, a weight its
    share of the sequences; weights need not add up to 1"""
    sequence_length: int = 128
    """positions of a sequence, special tokens included"""
    batch_size: int = 32
    """sequences of one optimiser step, over all devices"""
    micro_batch_size: int | None = None
    """sequences of one forward pass on one device; null: as many as a step needs of it"""
    window_documents: int = 4096
    """documents that are packed together"""
    validation_split: float = 0.01
    """share of documents, chosen by hash, kept for validation"""
    workers: int = 0
    """processes that load batches; 0: in the training process, which is fastest on few cores"""

    def __post_init__(self) -> None:
        require_positive("data", self, "batch_size micro_batch_size window_documents")
        require("data", self, "sequence_length", lambda value: value >= 8, "8 or more")
        require("data", self, "validation_split", lambda value: 0 <= value <= 0.5, "a share from 0 to 0.5")
        require("data", self, "workers", lambda value: 0 <= value <= _MOST_WORKERS, f"0 to {_MOST_WORKERS}")
        if self.mixture:
            self._check_mixture()

    def _check_mixture(self) -> None:
        for name, value in (("text", " ".join(self.corpus)), ("data.store", self.store)):
            if value:
                raise InputError(
                    f"{name} {value} beside data.mixture: make it a source of the mixture, or leave it out"
                )
        if len(self.mixture) == 1:
            source = next(iter(self.mixture))
            raise InputError(
                f"data.mixture holds {source} alone: give a second source, or this one as text or data.store"
            )
        for source, weight in self.mixture.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise InputError(f"data.mixture: the weight of {source} is {weight}: give more than 0, or leave it out")


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens are masked, and what replaces them."""

    rate: float = 0.35
    """share of the tokens of a sequence that become targets"""
    mask_share: float = 0.8
    """share of the targets that become [MASK]"""
    random_share: float = 0.1
    """share of the targets that become a random token; the rest stay as they are"""
    whole_words: bool = False
    """hide all pieces of a word or none"""

    def __post_init__(self) -> None:
        require("masking", self, "rate", lambda value: 0 < value < 1, "a share between 0 and 1")
        require("masking", self, "mask_share random_share", lambda value: 0 <= value <= 1, "a share from 0 to 1")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise InputError(
                f"masking.mask_share {self.mask_share} and masking.random_share {self.random_share} are more than 1 together: lower one"
            )


@dataclass(frozen=True)
class PretrainOptimizer(OptimizerConfig):
    """AdamW (Loshchilov and Hutter 2019), or Muon (Jordan et al. 2024) for hidden matrices and AdamW for the rest."""

    kind: Literal["adamw", "muon"] | None = None  # type: ignore[assignment]
    """adamw: for all parameters; muon: for the matrices of the blocks, AdamW for the rest; null: muon for random initialization;
    with initialize_from adamw, which moves them less"""
    muon_lr: float = 0.015
    """highest learning rate of Muon"""
    muon_weight_decay: float = 0.2
    """decoupled weight decay of the matrices that Muon updates"""
    muon_block: int | None = 64
    """Muon orthogonalises so many neurons (rows of what reads the residual path, columns of what writes to it) by themselves,
    which is cheaper; null: whole matrices"""


@dataclass(frozen=True)
class PhaseConfig:
    """A part of the run: how long it is, and what differs there from the rest of the recipe. What is null does not."""

    tokens: float | None = None
    """positions (sequences × sequence length) until the next phase, brought up to whole steps; the last phase has none"""
    sequence_length: int | None = None
    """in the place of data.sequence_length"""
    batch_size: int | None = None
    """in the place of data.batch_size"""
    micro_batch_size: int | None = None
    """in the place of data.micro_batch_size"""
    mask_rate: float | None = None
    """in the place of masking.rate"""
    rope_theta: float | None = None
    """in the place of encoder.rope_theta"""


@dataclass(frozen=True)
class ValidationConfig:
    """Loss, accuracy and perplexity on held-out sequences with masks that never change."""

    every_steps: int | None = None
    """steps between validations; null: at the end only"""
    sequences: int = 512
    """sequences to measure on, at most"""
    general: str | None = None
    """with initialize_from: text that is not the subject of the run, to see what is forgotten; null: the bundled sample"""

    def __post_init__(self) -> None:
        require_positive("validation", self, "every_steps sequences")


@dataclass(frozen=True)
class ExpandConfig:
    """A model larger than the one of `initialize_from`, from its weights. Heads keep their size, so that there are more of them."""

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
    """Everything that decides a pretraining run."""

    data: DataConfig = field(default_factory=DataConfig)
    """text, tokenizer, sequences and batches"""
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """the tokenizer to train where none is given"""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """shape of the encoder; vocab_size and pad_id come from the tokenizer"""
    head: HeadConfig = field(default_factory=HeadConfig)
    """shape of the masked-LM head"""
    initialization: Literal["random", "structured"] = "random"
    """weights of a new model: random; or structured, which learns sooner: the output bias begins with how often tokens come, and with
    encoder.positions rope two heads of a layer in the middle begin by looking at the token before and after, those above by
    looking at their like, and all pass on what they see"""
    objective: str = "masked_lm"
    """what is learned from the text; there is masked_lm"""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """which tokens become targets"""
    phases: list[PhaseConfig] = field(default_factory=list)
    """parts of the run with another tokens (how long), sequence_length, batch_size, micro_batch_size, mask_rate or rope_theta, as
    [{tokens: 1e6, sequence_length: 128}, {sequence_length: 512}]; none: one phase"""
    initialize_from: str | None = None
    """folder of a model whose weights, shape and tokenizer the run starts from; null: random initialization"""
    expand: ExpandConfig = field(default_factory=ExpandConfig)
    """with initialize_from: make the model larger first"""
    compile: bool | None = None
    """compile the step (torch.compile, one graph of fixed shapes); null: where that pays within the budget"""
    attention: Backend = "auto"
    """how attention is computed; auto: what this hardware is fast at, timed at the start of a run whose step is compiled
    (recipe.yaml in the folder of the run says what was chosen). The last layer computes masked positions alone: where a backend
    cannot, as varlen, auto does there, and the run says so"""
    local_attention: Backend | None = None
    """the same for layers with a window (encoder.local_window); null: as attention, and timed by themselves where that is auto"""
    optimizer: PretrainOptimizer = field(default_factory=PretrainOptimizer)
    """AdamW or Muon"""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """the learning rate through the run"""
    stop: StopConfig = field(default_factory=StopConfig)
    """the budget; none given: 20 minutes"""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """measuring on validation text"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """when to save"""
    log: LogConfig = field(default_factory=LogConfig)
    """what to write down"""
    trainer: dict[str, Any] = field(default_factory=dict)
    """any argument of lightning.Trainer, as --trainer.devices 2 or --trainer.precision bf16-mixed"""
    seed: int = 0
    """decides initial weights, order, masks and dropout"""

    run_id: str | None = None
    """what tells this run from others, in its recipe.yaml and its checkpoints; a new run gets a new one"""

    def __post_init__(self) -> None:
        check_values(self, "")
        check_seed(self.seed, bits=63)
        if self.optimizer.kind is None:
            kind: Literal["adamw", "muon"] = "muon" if self.initialize_from is None else "adamw"
            # The one way to settle a field of a frozen dataclass: whoever reads the recipe, its file too, sees what is done.
            object.__setattr__(self, "optimizer", replace(self.optimizer, kind=kind))
        if self.initialization == "structured" and self.initialize_from is not None:
            raise InputError(
                f"initialization structured is for random initialization, and --from {self.initialize_from} brings its own: give random"
            )
        asked = not self.phases or any(phase.sequence_length is None for phase in self.phases)
        if self.initialize_from is None and asked and self.data.sequence_length > self.encoder.max_length:
            raise InputError(
                f"data.sequence_length {self.data.sequence_length} is longer than encoder.max_length {self.encoder.max_length}:"
                " lower the one or raise the other"
            )
        self._check_phases()
        if self.initialize_from is not None:
            self._check_vocabulary()
            return
        vocabulary, general = self.vocabulary, self.validation.general
        for name, is_given in (
            ("vocabulary.retrain (--new-tokenizer)", vocabulary.retrain),
            (f"vocabulary.add_words {vocabulary.add_words}", vocabulary.add_words is not None),
            (f"validation.general {general}", general is not None),
            ("expand", self.expand != ExpandConfig()),
        ):
            if is_given:
                raise InputError(f"{name} is for a run that starts from a model: give its folder as --from")

    def _check_phases(self) -> None:
        for number, phase in enumerate(self.phases, start=1):
            here, tokens = f"phases: phase {number}", phase.tokens
            if number == len(self.phases) and tokens is not None:
                raise InputError(
                    f"{here} is the last and has tokens {tokens:g}: leave them out, stop says when it ends"
                )
            if number < len(self.phases) and tokens is None:
                raise InputError(f"{here} has no tokens: say how long it lasts, only the last phase may leave it open")
            for name in ("tokens", "batch_size", "micro_batch_size", "rope_theta"):
                if (value := getattr(phase, name)) is not None and not value > 0:
                    raise InputError(f"{here}: {name} is {value}: give a finite number above 0")
            if phase.sequence_length is not None and phase.sequence_length < 8:
                raise InputError(f"{here}: sequence_length is {phase.sequence_length}: give 8 or more")
            if phase.mask_rate is not None and not 0 < phase.mask_rate < 1:
                raise InputError(f"{here}: mask_rate is {phase.mask_rate}: give a share between 0 and 1")
            if self.initialize_from is None:  # otherwise the shape comes with the model
                check_phase_fits(number, phase, self.encoder)

    def _check_vocabulary(self) -> None:
        """What may stand together of the ways to change the tokenizer of `initialize_from`."""
        vocabulary, beside = self.vocabulary, f"--from {self.initialize_from}"
        ways = {
            f"data.tokenizer {self.data.tokenizer}": self.data.tokenizer is not None,
            "vocabulary.retrain (--new-tokenizer)": vocabulary.retrain,
            f"vocabulary.add_words {vocabulary.add_words}": vocabulary.add_words is not None,
        }
        chosen = [way for way, is_chosen in ways.items() if is_chosen]
        if len(chosen) > 1:
            raise InputError(
                f"{chosen[0]} and {chosen[1]} beside {beside}: each makes another tokenizer; give one of them"
            )
        plain = VocabularyConfig()
        for name in ("kind", "size"):
            value = getattr(vocabulary, name)
            if value != getattr(plain, name) and not vocabulary.retrain:
                raise InputError(
                    f"vocabulary.{name} is {value} beside {beside}, which brings its tokenizer: leave it out, or train"
                    " another tokenizer by --new-tokenizer"
                )
        if self.data.store is not None and (vocabulary.retrain or vocabulary.add_words is not None):
            raise InputError(
                f"data.store {self.data.store} beside {chosen[0]}: its text is tokenised already; give the text"
            )


def check_phase_fits(number: int, phase: PhaseConfig, encoder: EncoderConfig) -> None:
    """InputError where phase `number`, from 1, asks for what the encoder has not."""
    if phase.sequence_length is not None and phase.sequence_length > encoder.max_length:
        raise InputError(
            f"phases: phase {number}: sequence_length {phase.sequence_length} is longer than encoder.max_length {encoder.max_length}:"
            " lower the one or raise the other"
        )
    if phase.rope_theta is not None and encoder.positions != "rope":
        raise InputError(
            f"phases: phase {number} has a rope_theta and encoder.positions is {encoder.positions}: leave it out"
        )
