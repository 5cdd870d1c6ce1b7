"""A stream over drawn token ids, and a tiny module trained on it: no files, no tokenizer, nothing but numpy, torch and Lightning."""

import lightning as L
import numpy as np
import torch

from bert.data.packing import Documents, SequenceIndex
from bert.data.rng import random_bits
from bert.data.store import TokenStore
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.pretraining.config import MaskingConfig
from bert.pretraining.inputs import make_splits
from bert.pretraining.masking import Vocabulary
from bert.pretraining.module import MaskedLMTraining
from bert.pretraining.phases import Phased, plan
from bert.pretraining.sources import Source
from bert.pretraining.stream import BatchStream, SpecialIds, StepLoader
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig

SIZE, LENGTH, SEQUENCES = 300, 24, 12
LENGTHS = random_bits(9, np.arange(80)).astype(np.int64) % 60 + 1
VALUES = (random_bits(8, np.arange(LENGTHS.sum())) % np.uint64(SIZE - 5)).astype(np.uint16) + 5
STORE = TokenStore.from_arrays(VALUES, np.concatenate(([0], np.cumsum(LENGTHS))))


DOCUMENTS = Documents(np.cumsum(LENGTHS) - LENGTHS, LENGTHS)
VOCABULARY = Vocabulary(4, np.arange(SIZE) >= 5, np.arange(5, SIZE), np.arange(SIZE) % 3 != 0)
IDS = SpecialIds(2, 3, 0)


def make_sequences(length=LENGTH, seed=0):
    return Source(STORE, SequenceIndex(DOCUMENTS, length, 16, seed))


def make_stream(seed=0, last_sequence=None, batch_size=SEQUENCES, **masking):
    return BatchStream(
        make_sequences(seed=seed), batch_size, IDS, VOCABULARY, MaskingConfig(**masking), seed, last_sequence
    )


def phased(recipe, ranks=1, sequences=make_sequences):
    """The streams and splits of the phases of a recipe over the drawn token ids."""
    phases = plan(recipe)
    by_length = {
        phase.recipe.data.sequence_length: sequences(phase.recipe.data.sequence_length) for phase in phases.values
    }

    def stream(phase):
        data, masking = phase.recipe.data, phase.recipe.masking
        return BatchStream(
            by_length[data.sequence_length], data.batch_size, IDS, VOCABULARY, masking, phase.mask_seed, phase=phase
        )

    return phases.map(stream), make_splits(recipe, ranks)


ENCODER = EncoderConfig(
    vocab_size=SIZE, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=32, max_length=LENGTH
)


def make_module(split, steps=4, dropout=0.0, **optimizer):
    torch.manual_seed(0)
    encoder = EncoderConfig(**{**ENCODER.__dict__, "hidden_dropout": dropout})
    return MaskedLMTraining(
        MaskedLM(encoder), OptimizerConfig(**optimizer), ScheduleConfig(), StopConfig(steps=steps), split, seed=5
    )


def fit(module, split, accelerator="cpu", precision="32-true", stream=None):
    trainer = L.Trainer(
        accelerator=accelerator,
        precision=precision,
        devices=1,
        max_epochs=-1,
        accumulate_grad_batches=Phased.always(split).at(0).accumulation,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, StepLoader(stream or make_stream(), split, first_step=lambda: int(module.progress.step)))
    return trainer
