"""The recipe of `bert finetune` and its groups. Plain dataclasses without torch."""

from dataclasses import dataclass, field
from typing import Any, Literal

from bert.errors import InputError, check_seed, check_values, require, require_positive
from bert.model.config import EncoderConfig, TaskPooling
from bert.training.config import CheckpointConfig, LogConfig, OptimizerConfig, ScheduleConfig

SEQUENCE_LENGTH = 128  # unless the recipe or the model says otherwise
SPECIALS = 2  # [CLS] and [SEP]


@dataclass(frozen=True)
class WindowsConfig:
    """How texts become sequences of tokens. A text longer than a sequence is split into several, its windows."""

    sequence_length: int | None = None
    """maximum length of a sequence, special tokens included; null: 128, or the maximum length of the model if that is less"""
    stride: int | None = None
    """number of tokens between the starts of consecutive windows; null: half of the tokens in a window"""

    def __post_init__(self) -> None:
        require("windows", self, "sequence_length", lambda value: value >= 8, "8 or more")
        require_positive("windows", self, "stride")
        room = None if self.sequence_length is None else self.sequence_length - SPECIALS
        if room is not None and self.stride is not None and self.stride > room:
            raise InputError(f"windows.stride {self.stride} would skip tokens between windows of {room}: lower it")


@dataclass(frozen=True)
class DataConfig:
    """Labeled rows and batches."""

    train: str | None = None
    """training file: .tsv, .csv or .jsonl with texts and labels; .conll, .conllu or .jsonl for tagging; or a split of a data set on the
    Hugging Face Hub, owner/name:configuration:split"""
    dev: str | None = None
    """validation file, or a split on the Hub; null: a share of `train`"""
    test: str | None = None
    """test file, or a split on the Hub, on which the kept model is measured once, at the end; null: none"""
    text: str | None = None
    """column of the text; null: found by its usual names; for tagging only of predictions"""
    pair: str | None = None
    """texts: column of a second text; null: found by its usual names, if there is one"""
    label: str | None = None
    """texts: column of the label, the labels or the number; null: found by its usual names"""
    separator: str = "|"
    """multilabel: separator of the labels in a cell, | by default"""
    label_columns: list[str] = field(default_factory=list)
    """multilabel: columns of 0 and 1, named after the labels; none: all labels are in one column"""
    words: str | None = None
    """tag: column of the words; null: the first one, in .conllu files `form`"""
    tags: str | None = None
    """tag: column of the tags; null: the last one, in .conllu files `upos`"""
    file_format: str | None = None
    """tsv, csv, jsonl, conll, conllu or txt; null: by the suffix of the file"""
    limit: int | None = None
    """maximum number of training examples, chosen by hash; null: all"""
    validation_split: float = 0.1
    """share of `train`, stratified by label and chosen by hash, that is validated on if there is no `dev`"""
    batch_size: int = 32
    """examples in one optimizer step, over all devices"""

    def __post_init__(self) -> None:
        require_positive("data", self, "limit batch_size")
        require("data", self, "separator", bool, "a character, or several")
        require("data", self, "validation_split", lambda value: 0 < value <= 0.5, "a share above 0, to 0.5")


@dataclass(frozen=True)
class TaskConfig:
    """The task head on top of the encoder."""

    dropout: float = 0.1
    """dropout rate of the head"""
    pooling: TaskPooling | None = None
    """texts: the vector of a text, that of [CLS] or the mean of all; siamese, for pairs: each text is encoded alone, and the two
    means are compared; null: mean (pairs: siamese) in a folder of sentence-transformers that says mean, or else the default of the
    encoder's family"""
    probe_examples: int | None = None
    """examples to which a new output layer is fitted before the training, as a linear probe (Kumar et al. 2022); 0: it stays random;
    null: 1,000 for texts, 0 for tags"""
    decoder: str | None = None
    """translations: folder of the encoder whose layers and tokenizer the decoder starts with (Rothe et al. 2020); null: those of `model`"""
    vocab_size: int | None = None
    """translations without `model`: entries of the new vocabulary, of sources and targets; null: 8,192, or less for a small file"""

    def __post_init__(self) -> None:
        require("head", self, "dropout", lambda value: 0 <= value < 1, "a share from 0 to below 1")
        require("head", self, "probe_examples", lambda value: value >= 0, "0 or more")
        require_positive("head", self, "vocab_size")


@dataclass(frozen=True)
class LossConfig:
    """The loss of labels. Numbers have the squared error."""

    class_weights: Literal["balanced"] | None = None
    """balanced: all labels count equally, however rare; null: all examples do"""
    label_smoothing: float = 0.0
    """share of the target that is spread over all labels, or tokens (Szegedy et al. 2016)"""

    def __post_init__(self) -> None:
        require("loss", self, "label_smoothing", lambda value: 0 <= value < 1, "a share from 0 to below 1")


@dataclass(frozen=True)
class FinetuneOptimizer(OptimizerConfig):
    """AdamW (Loshchilov and Hutter 2019), or Muon (Jordan et al. 2024) for hidden matrices and AdamW for the rest."""

    lr: float | None = None  # type: ignore[assignment]  # `prepare` fills it in
    """peak learning rate of AdamW; null: by the encoder's width, for tagging 5e-5 at 768, 2e-4 at 384, 4.5e-4 at 256, half of that for
    texts, 9e-4 at 256 for translations, at most 1e-3"""
    layer_decay: float = 1.0
    """factor from the learning rate of a layer to that of the layer below; the head has `lr`, embeddings the lowest (Clark et al. 2020)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("optimizer", self, "layer_decay", lambda value: 0 < value <= 1, "above 0, to 1")


@dataclass(frozen=True)
class FinetuneSchedule(ScheduleConfig):
    """Learning rate over the run, as a share of its peak. Progress is the share of the steps done."""

    warmup: float = 0.1
    """share of the run in which the learning rate rises from 0"""


@dataclass(frozen=True)
class ValidationConfig:
    """Validation on the dev set. The best model is kept."""

    every_steps: int | None = None
    """steps between validations; null: after every epoch, of more than 20 epochs after every second, third, …"""
    select: str | None = None
    """metric by which the best model is chosen, such as macro_f1, or loss; null: the first one of the task"""
    patience: int | None = None
    """number of validations in a row without a better model after which the training ends; null: it does not end early"""
    average: int = 1
    """number of the best models whose weights are averaged at the end, if the average is not worse on the dev set"""

    def __post_init__(self) -> None:
        require_positive("validation", self, "every_steps patience average")


@dataclass(frozen=True)
class TransformerConfig(EncoderConfig):
    """Shape of a new encoder, and of a decoder that shares its embeddings. Positions are absolute, as cross-attention sees only what is in
    the vectors of the source."""

    num_layers: int = 3
    """number of Transformer blocks of each side"""
    positions: Literal["learned", "sinusoidal", "rope", "none"] = "sinusoidal"
    """position encoding: a learned table, fixed sines, rotations of queries and keys, or none"""
    embedding_norm: bool = False
    """normalize the sum of the embeddings"""
    embedding_scale: bool = True
    """multiply token embeddings by the square root of their width, as the original Transformer does"""
    embedding_dropout: float = 0.1
    """dropout on the embeddings"""
    hidden_dropout: float = 0.1
    """dropout on the output of a sublayer, before the residual sum"""
    initializer_range: float = 0.06
    """standard deviation of the initial weights"""


@dataclass(frozen=True)
class FinetuneRecipe:
    """Everything that determines a fine-tuning run."""

    model: str | None = None
    """folder of the model whose encoder is fine-tuned; null: translations can begin with a new encoder and decoder"""
    data: DataConfig = field(default_factory=DataConfig)
    """labeled rows and batches"""
    windows: WindowsConfig = field(default_factory=WindowsConfig)
    """sequences, and windows over long texts"""
    freeze: int | Literal["embeddings"] | None = None
    """lowest layers that are not trained: their number, embeddings in addition; or only the embeddings; null: all are trained"""
    head: TaskConfig = field(default_factory=TaskConfig)
    """the task head on top of the encoder"""
    encoder: TransformerConfig = field(default_factory=TransformerConfig)
    """translations without `model`: shape of the new encoder and decoder"""
    loss: LossConfig = field(default_factory=LossConfig)
    """the loss of labels"""
    optimizer: FinetuneOptimizer = field(default_factory=FinetuneOptimizer)
    """AdamW or Muon"""
    schedule: FinetuneSchedule = field(default_factory=FinetuneSchedule)
    """the learning rate over the run"""
    epochs: float | None = None
    """passes over the training examples; null: 3, or as many as make 200 optimizer steps, for translations 1,000"""
    search: float | None = None
    """minutes of a search for learning rate and number of steps on the dev set, before the run; null: none"""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """how often the model is validated"""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """when to save checkpoints; they are removed when the run has finished"""
    label_errors: bool = False
    """find training labels that are likely wrong, by five more trainings: RUN/label-errors.csv"""
    log: LogConfig = field(default_factory=LogConfig)
    """rows of RUN/metrics.csv, other loggers, and the progress bar"""
    trainer: dict[str, Any] = field(default_factory=dict)
    """any argument of lightning.Trainer, such as --trainer.devices 2 or --trainer.precision bf16-mixed"""
    seed: int = 0
    """seed of the head's initial weights, the order of examples, and dropout"""
    seeds: int = 1
    """number of runs, with seeds seed, seed + 1, …"""

    task: str | None = None
    """name of the task of this run"""
    run_id: str | None = None
    """identifies this run in its recipe.yaml and its checkpoints; a new run gets a new one"""

    def __post_init__(self) -> None:
        check_values(self, "")
        if self.seeds < 1:
            raise InputError(f"seeds is {self.seeds}; must be at least 1")
        if isinstance(self.freeze, int) and self.freeze < 1:
            raise InputError(f"freeze is {self.freeze}; must be 1 or more layers, or embeddings")
        check_seed(self.seed, bits=63)
        check_seed(self.seed + self.seeds - 1, bits=63)
        require_positive("", self, "epochs search")
