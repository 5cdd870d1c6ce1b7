"""What `bert finetune` can be told: the groups of a fine-tuning recipe. Plain dataclasses without torch."""

from dataclasses import dataclass, field
from typing import Any, Literal

from bert.errors import InputError, check_seed, check_values, require, require_positive
from bert.training.config import LogConfig, OptimizerConfig, ScheduleConfig

SEQUENCE_LENGTH = 128  # where neither the recipe nor the model says otherwise
SPECIALS = 2  # [CLS] and [SEP] of a row


@dataclass(frozen=True)
class WindowsConfig:
    """From a text to the rows that the model reads. One that is longer than a row goes through several, its windows."""

    sequence_length: int | None = None
    """places of a row at most, special tokens included; null: 128, or what the model takes if that is less"""
    stride: int | None = None
    """pieces from the begin of a window to that of the next; null: half of what a row holds"""

    def __post_init__(self) -> None:
        require("windows", self, "sequence_length", lambda value: value >= 8, "8 or more")
        require_positive("windows", self, "stride")
        room = None if self.sequence_length is None else self.sequence_length - SPECIALS
        if room is not None and self.stride is not None and self.stride > room:
            raise InputError(f"windows.stride {self.stride} would leave out pieces between windows of {room}: lower it")


@dataclass(frozen=True)
class DataConfig:
    """Labelled rows, and how they make batches."""

    train: str | None = None
    """file to learn from: .tsv, .csv or .jsonl with texts and labels; .conll, .conllu or .jsonl for tagging"""
    dev: str | None = None
    """file to measure on; null: a share of `train` is held out"""
    text: str | None = None
    """texts: their column; null: found by usual names"""
    pair: str | None = None
    """texts: column of a second sentence; null: found by usual names, or none"""
    label: str | None = None
    """texts: column of the label, the labels or the number; null: found by usual names"""
    separator: str = "|"
    """multilabel: what stands between the labels of a cell"""
    label_columns: list[str] = field(default_factory=list)
    """multilabel: columns of 0 and 1, one for each label, whose names are those of the labels; none: labels stand in one column"""
    words: str | None = None
    """tag: column of the words; null: the first, of .conllu `form`"""
    tags: str | None = None
    """tag: column of the tags; null: the last, of .conllu `upos`"""
    file_format: str | None = None
    """tsv, csv, jsonl, conll, conllu or txt; null: what the name of the file says"""
    limit: int | None = None
    """learn from so many examples at most, drawn by hash; null: from all"""
    validation_split: float = 0.1
    """share of `train`, chosen by hash, to measure on where there is no `dev`"""
    batch_size: int = 32
    """examples of one optimizer step, over all devices"""

    def __post_init__(self) -> None:
        require_positive("data", self, "limit batch_size")
        require("data", self, "separator", bool, "a character, or several")
        require("data", self, "validation_split", lambda value: 0 < value <= 0.5, "a share above 0, to 0.5")


@dataclass(frozen=True)
class TaskConfig:
    """The head that is put on the encoder."""

    dropout: float = 0.1
    """share of features that the head drops while it learns"""
    pooling: Literal["cls", "mean"] | None = None
    """texts: what stands for one, the vector of [CLS] or the mean of all; null: as the encoder's family does it"""

    def __post_init__(self) -> None:
        require("head", self, "dropout", lambda value: 0 <= value < 1, "a share from 0 to below 1")


@dataclass(frozen=True)
class FinetuneOptimizer(OptimizerConfig):
    """AdamW (Loshchilov and Hutter 2019), or Muon (Jordan et al. 2024) for hidden matrices and AdamW for the rest."""

    lr: float = 3e-4
    """highest learning rate of AdamW; for an encoder of 4 layers × 256 up to 1e-3, for one of 12 × 768 1e-4 or less"""


@dataclass(frozen=True)
class FinetuneSchedule(ScheduleConfig):
    """Learning rate through the run, as a share of its highest value. Progress is the share of the steps done."""

    warmup: float = 0.1
    """share of the run in which the learning rate rises from 0"""


@dataclass(frozen=True)
class ValidationConfig:
    """Measuring on the dev set. The model that measures best is the one that stays."""

    every_steps: int | None = None
    """steps between validations; null: after every epoch"""

    def __post_init__(self) -> None:
        require_positive("validation", self, "every_steps")


@dataclass(frozen=True)
class FinetuneRecipe:
    """Everything that decides a fine-tuning run."""

    model: str | None = None
    """folder of the model whose encoder is fine-tuned"""
    data: DataConfig = field(default_factory=DataConfig)
    """labeled rows and batches"""
    windows: WindowsConfig = field(default_factory=WindowsConfig)
    """rows of the model, windows over long texts"""
    head: TaskConfig = field(default_factory=TaskConfig)
    """the head that is put on the encoder"""
    optimizer: FinetuneOptimizer = field(default_factory=FinetuneOptimizer)
    """AdamW or Muon"""
    schedule: FinetuneSchedule = field(default_factory=FinetuneSchedule)
    """the learning rate through the run"""
    epochs: float = 3.0
    """times that every example is seen"""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """measuring on the dev set"""
    log: LogConfig = field(default_factory=LogConfig)
    """what to write down"""
    trainer: dict[str, Any] = field(default_factory=dict)
    """any argument of lightning.Trainer, as --trainer.devices 2 or --trainer.precision bf16-mixed"""
    seed: int = 0
    """decides the initial weights of the head, order and dropout"""

    def __post_init__(self) -> None:
        check_values(self, "")
        check_seed(self.seed, bits=63)
        if not self.epochs > 0:
            raise InputError(f"epochs is {self.epochs:g}: give more than 0")
