"""The peer: Hugging Face's masked LM of the same configuration, trained as its users train it.

Its config comes from the table of `bert.hf.families`, so that both models compute the same. It gets autocast to bf16 where ours
does, fused AdamW, clipping, the fastest attention and the compiler; `attention_mask` is left out where no sequence is padded, labels are
a table (B, T) with −100, and ModernBERT scores the masked places alone (`sparse_prediction`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from bert.bench.candidate import steps_of
from bert.bench.documents import Text, full_sequences, packed
from bert.bench.machine import place
from bert.bench.rounds import Contender
from bert.data.packing import SPECIALS_PER_CHUNK
from bert.errors import InputError
from bert.hf.translate import family_of, write_config
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import IGNORED, mask_sequences
from bert.pretraining.score import Score, read_masked
from bert.pretraining.stream import MicroBatch
from bert.training.step import StepBatch

Compile = Literal["no", "yes", "cuda-graphs"]
Work = Literal["full sequences", "concatenated", "padded"]
WORKS: tuple[Work, ...] = get_args(Work)  # the one of changing shapes last: the compiler remembers what it saw
_FULL_STEPS = 8


@dataclass(frozen=True)
class BaselineSettings:
    """How the peer runs."""

    attention: str = "sdpa"
    """name of the implementation in transformers"""
    compile: Compile = "no"
    """torch.compile, with CUDA graphs or without"""

    def __str__(self) -> str:
        return self.attention + {"no": "", "yes": ", compiled", "cuda-graphs": ", CUDA graphs"}[self.compile]


@dataclass(frozen=True)
class BaselineBatch:
    """What one forward pass of the peer sees."""

    input_ids: torch.Tensor  # (B, T)
    labels: torch.Tensor  # (B, T), −100 where nothing is asked
    attention_mask: torch.Tensor | None  # (B, T), 0 for padding; none where nothing is padded

    @property
    def tokens(self) -> int:
        """Places without padding."""
        return self.input_ids.numel() if self.attention_mask is None else int(self.attention_mask.sum())

    def on(self, device: torch.device) -> "BaselineBatch":
        mask = None if self.attention_mask is None else self.attention_mask.to(device)
        return BaselineBatch(self.input_ids.to(device), self.labels.to(device), mask)


Bout = tuple[list[StepBatch], list[BaselineBatch]]
"""the batches of one work: steps of ours, batches of the peer"""


def settings_of(
    device: torch.device, attention: str | None = None, compile: Compile | None = None
) -> tuple[BaselineSettings, ...]:
    """All settings that a user would try on this kind of device; `attention` and `compile`, where given, in each of them."""
    kinds: tuple[Compile, ...] = ("no", "yes") if device.type == "cpu" else ("no", "yes", "cuda-graphs")
    attentions: tuple[str, ...] = ("eager", "sdpa") if device.type == "cpu" else ("sdpa", "flash_attention_2")
    kinds, attentions = (compile,) if compile else kinds, (attention,) if attention else attentions
    return tuple(BaselineSettings(attention, kind) for kind in kinds for attention in attentions)


def baseline_model(recipe: PretrainRecipe, attention: str) -> Any:
    """A `transformers` model for masked LM of the recipe's configuration, random initialization. InputError where it has none."""
    try:
        import transformers
    except ImportError:
        raise InputError("--against hf needs transformers: pip install 'bert[hf]'") from None
    family, obstacles = family_of(recipe.encoder, recipe.head)
    if family is None:
        raise InputError(f"--against hf: transformers has no such model: {'; '.join(obstacles)}")
    keys = write_config(family, recipe.encoder, recipe.head, {"pad_token_id": recipe.encoder.pad_id})
    config = transformers.CONFIG_MAPPING[family.model_type].from_dict(keys)
    if hasattr(config, "sparse_prediction"):
        config.sparse_prediction = True
    torch.manual_seed(recipe.seed)
    return transformers.AutoModelForMaskedLM.from_config(config, attn_implementation=attention).train()


class BaselineSteps:
    """The peer's model and optimiser by a recipe, on the device and in the precision of its trainer group."""

    def __init__(self, recipe: PretrainRecipe, settings: BaselineSettings, static: bool = True) -> None:
        """`static`: every batch has one shape."""
        self.device, precision = place(recipe)
        if precision not in ("bf16-mixed", "32-true"):
            raise InputError(f"trainer.precision {precision}: the peer runs in bf16-mixed or 32-true; give one of them")
        self.clip_norm, self._bf16 = recipe.optimizer.clip_norm, precision == "bf16-mixed"
        self.model = baseline_model(recipe, settings.attention).to(self.device)
        self._compute = self.model
        if settings.compile != "no":
            # The places that ModernBERT scores are a shape too: it is left to the compiler to find what stands still.
            fixed = static and not getattr(self.model.config, "sparse_prediction", False)
            mode = "reduce-overhead" if settings.compile == "cuda-graphs" else None
            self._compute = torch.compile(self.model, dynamic=False if fixed else None, mode=mode)
        of, fused = recipe.optimizer, self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=of.lr, betas=of.betas, eps=of.eps, weight_decay=of.weight_decay, fused=fused
        )

    def forward(self, batch: BaselineBatch) -> torch.Tensor:
        """The mean loss over the labels."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            loss: torch.Tensor = self._compute(**vars(batch), return_dict=True).loss
        return loss

    def step(self, batch: BaselineBatch) -> None:
        """One optimiser step."""
        self.forward(batch).backward()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def contender(self, batches: Sequence[BaselineBatch]) -> Contender:
        """Steps over batches that lie ready on the device."""
        ready, places = [batch.on(self.device) for batch in batches], [batch.input_ids.numel() for batch in batches]
        return Contender(self.step, ready, [batch.tokens for batch in batches], places, self.device)


def make_bout(work: Work, recipe: PretrainRecipe, text: Text, ragged: Text, baseline_batch_size: int) -> Bout:
    """The batches of a work. The peer has batches of `baseline_batch_size` sequences or documents; `ragged` documents fit a sequence."""
    data = recipe.data
    if work == "full sequences":
        full = full_sequences(
            text, data.sequence_length, _FULL_STEPS * max(data.batch_size, baseline_batch_size), recipe.seed
        )
        theirs = replace(recipe, data=replace(data, batch_size=baseline_batch_size, micro_batch_size=None))
        peer = [whole(batch) for ((batch,), _, _) in steps_of(full, theirs, _FULL_STEPS)]
        return steps_of(full, recipe, _FULL_STEPS), peer
    steps = max(1, packed(ragged, recipe).sequences_at(0).sequences_in_epoch // data.batch_size)
    ours = steps_of(ragged, recipe, steps)
    if work == "padded":
        return ours, padded(ragged, recipe, baseline_batch_size, max(1, len(ragged.store) // baseline_batch_size))
    return ours, concatenated(ragged, recipe, baseline_batch_size, steps)


def whole(batch: MicroBatch) -> BaselineBatch:
    """Sequences of ours as the peer takes them: the same masked ids, and a label for each position. No position may be padding."""
    assert bool((batch["document_ids"] > 0).all()), "the peer would see padding as tokens"
    ids, used = batch["input_ids"], batch["labels"] != IGNORED
    labels = torch.full_like(ids, IGNORED)
    labels[used.nonzero()[:, 0], batch["masked_positions"][used]] = batch["labels"][used]
    return BaselineBatch(ids, labels, None)


def padded(text: Text, recipe: PretrainRecipe, documents: int, count: int) -> list[BaselineBatch]:
    """`count` batches of `documents` documents in the order of the text, each cut to what a sequence holds, padded to the longest
    of its batch."""
    special, store, batches = text.special_ids, text.store, []
    for first in range(0, count * documents, documents):
        which = np.arange(first, first + documents) % len(store)
        pieces = [store.document(int(n))[: recipe.data.sequence_length - SPECIALS_PER_CHUNK] for n in which]
        lengths = np.array([len(piece) + SPECIALS_PER_CHUNK for piece in pieces])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, special.pad, np.int64)
        ids[mask] = np.concatenate([[special.cls, *piece, special.sep] for piece in pieces])
        batches.append(_masked(ids, torch.from_numpy(mask.astype(np.int64)), text, recipe, first))
    return batches


def concatenated(text: Text, recipe: PretrainRecipe, sequences: int, count: int) -> list[BaselineBatch]:
    """`count` batches of `sequences` full sequences: all documents with their special tokens one after the other, chopped, without
    a mask between them, as `group_texts` of run_mlm makes them. What is left over at the end is dropped; documents that do not
    fill a batch begin again."""
    special, places = text.special_ids, sequences * recipe.data.sequence_length
    running = np.concatenate([[special.cls, *text.store.document(n), special.sep] for n in range(len(text.store))])
    whole_batches = max(1, len(running) // places)
    chopped = np.resize(running, (whole_batches, sequences, recipe.data.sequence_length)).astype(np.int64)
    return [_masked(ids, None, text, recipe, number * sequences) for number, ids in enumerate(chopped[:count])]


def _masked(
    ids: np.ndarray, mask: torch.Tensor | None, text: Text, recipe: PretrainRecipe, first: int
) -> BaselineBatch:
    """Sequences with the masking of the recipe, that of the sequences of a run from `first` on."""
    masked = mask_sequences(ids, first + np.arange(len(ids)), recipe.seed, recipe.masking, text.vocabulary)
    labels = np.full(ids.shape, IGNORED, np.int64)
    used = masked.labels != IGNORED
    labels[np.nonzero(used)[0], masked.positions[used]] = masked.labels[used]
    return BaselineBatch(torch.from_numpy(masked.input_ids), torch.from_numpy(labels), mask)


@torch.inference_mode()
def score_baseline(model: Any, file: str | Path, batch_size: int = 32) -> Score:
    """Score a model of transformers in fp32 on a masked file, through its logits; see `bert.pretraining.score`."""
    input_ids, labels = read_masked(file)
    training, device = model.training, next(model.parameters()).device
    model.eval()
    loss, right, targets = 0.0, 0, 0
    for ids, marks in zip(input_ids.split(batch_size), labels.split(batch_size)):
        asked = marks >= 0
        originals = marks[asked]
        logits = model(input_ids=ids.to(device)).logits[asked.to(device)].float().cpu()
        loss += float(torch.nn.functional.cross_entropy(logits, originals, reduction="sum"))
        right += int((logits.argmax(-1) == originals).sum())
        targets += len(originals)
    model.train(training)
    return Score(loss / targets, right / targets, targets)
