"""A stream over drawn token ids, and a tiny module trained on it: no files, no tokenizer, nothing but numpy, torch and Lightning."""

import lightning as L
import numpy as np
import torch

from bert.data.packing import Documents, SequenceIndex
from bert.data.rng import random_bits
from bert.data.store import TokenStore
from bert.model.config import EncoderConfig, HeadConfig
from bert.pretraining.config import MaskingConfig
from bert.pretraining.masking import Vocabulary
from bert.pretraining.module import PretrainingModule
from bert.pretraining.objectives.masked_lm import MaskedLanguageModeling
from bert.pretraining.phases import Phase, Plan, divide, resolve_plan
from bert.pretraining.stream import BatchStream, Source, SpecialIds, StepLoader
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


def one_phase(batch_size=SEQUENCES, micro_batch_size=None, ranks=1, seed=0, rate=MaskingConfig().rate, length=LENGTH):
    """The plan of a run without phases."""
    return Plan(
        (Phase(0, 0, length, batch_size, divide(batch_size, micro_batch_size, ranks), rate, seed, 10_000.0, ranks),)
    )


def make_stream(seed=0, last_sequence=None, batch_size=SEQUENCES, micro_batch_size=None, ranks=1, **masking):
    config = MaskingConfig(**masking)
    plan = one_phase(batch_size, micro_batch_size, ranks, seed, config.rate)
    return BatchStream({LENGTH: make_sequences(seed=seed)}, plan, IDS, VOCABULARY, config, last_sequence)


def phased(recipe, ranks=1, sequences=make_sequences):
    """The stream of the phases of a recipe over the drawn token ids."""
    plan = resolve_plan(recipe, ranks)
    by_length = {length: sequences(length) for length in plan.lengths}
    return BatchStream(by_length, plan, IDS, VOCABULARY, recipe.masking)


ENCODER = EncoderConfig(
    vocab_size=SIZE, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=32, max_length=LENGTH
)


def make_module(steps=4, dropout=0.0, plan=None, compiled=False, **optimizer):
    torch.manual_seed(0)
    encoder = EncoderConfig(**{**ENCODER.__dict__, "hidden_dropout": dropout})
    objective = MaskedLanguageModeling(compiled)
    model = objective.build(encoder, HeadConfig())
    configs = OptimizerConfig(**optimizer), ScheduleConfig(), StopConfig(steps=steps)
    return PretrainingModule(model, objective, *configs, seed=5, plan=plan)


def fit(module, stream=None, accelerator="cpu", precision="32-true", **settings):
    trainer = L.Trainer(
        accelerator=accelerator,
        precision=None if "plugins" in settings else precision,
        devices=1,
        **{"max_epochs": -1, "logger": False, "enable_checkpointing": False, **settings},
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    loader = StepLoader(stream or make_stream(), module.objective.counts, first_step=lambda: int(module.progress.step))
    trainer.fit(module, loader)
    return trainer
