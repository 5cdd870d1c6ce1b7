"""A stream over drawn token ids, and a tiny module trained on it: no files, no tokenizer, nothing but numpy, torch and Lightning."""

import lightning as L
import numpy as np
import torch

from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.pretraining.config import MaskingConfig
from bert.pretraining.masking import Vocabulary
from bert.pretraining.module import MaskedLMTraining
from bert.pretraining.stream import BatchStream, SpecialIds, StepLoader
from bert.text.counter import draw
from bert.text.packing import Documents, RowIndex
from bert.text.store import TokenStore
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig

SIZE, LENGTH, ROWS = 300, 24, 12
LENGTHS = draw(9, np.arange(80)).astype(np.int64) % 60 + 1
VALUES = (draw(8, np.arange(LENGTHS.sum())) % np.uint64(SIZE - 5)).astype(np.uint16) + 5
STORE = TokenStore.from_arrays(VALUES, np.concatenate(([0], np.cumsum(LENGTHS))))


def make_stream(seed=0, last_row=None, batch_rows=ROWS, **masking):
    documents = Documents(np.cumsum(LENGTHS) - LENGTHS, LENGTHS)
    vocabulary = Vocabulary(4, np.arange(SIZE) >= 5, np.arange(5, SIZE), np.arange(SIZE) % 3 != 0)
    index = RowIndex(documents, LENGTH, 16, seed)
    return BatchStream(
        STORE, index, batch_rows, SpecialIds(2, 3, 0), vocabulary, MaskingConfig(**masking), seed, last_row
    )


ENCODER = EncoderConfig(
    vocab_size=SIZE, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=32, max_length=LENGTH
)


def make_module(split, steps=4, dropout=0.0, **optimizer):
    torch.manual_seed(0)
    encoder = EncoderConfig(**{**ENCODER.__dict__, "hidden_dropout": dropout})
    return MaskedLMTraining(
        MaskedLM(encoder), OptimizerConfig(**optimizer), ScheduleConfig(), StopConfig(steps=steps), split, seed=5
    )


def fit(module, split, accelerator="cpu", precision="32-true"):
    trainer = L.Trainer(
        accelerator=accelerator,
        precision=precision,
        devices=1,
        max_epochs=-1,
        accumulate_grad_batches=split.accumulation,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, StepLoader(make_stream(), split, first_step=lambda: int(module.progress.step)))
    return trainer
