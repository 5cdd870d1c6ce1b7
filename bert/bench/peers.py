"""The peer: Hugging Face's masked LM of the same configuration, trained as its users train it.

Its config comes from the table of `bert.exchange.families`, so that both models compute the same. It gets autocast to bf16 where ours
does, fused AdamW, clipping, the fastest attention and the compiler; `attention_mask` is left out where no row is padded, labels are
a table (B, T) with −100, and ModernBERT scores the masked places alone (`sparse_prediction`).
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bert.bench.documents import Text
from bert.bench.rounds import Contender
from bert.errors import InputError
from bert.exchange.translate import family_of, write_config
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import NO_TARGET, mask_rows
from bert.pretraining.score import Score, read_masked
from bert.pretraining.stream import MicroBatch
from bert.text.packing import SPECIALS_PER_CHUNK

Compile = Literal["no", "yes", "cuda-graphs"]


@dataclass(frozen=True)
class PeerSettings:
    """How the peer runs."""

    attention: str = "sdpa"
    """name of the implementation in transformers"""
    compile: Compile = "no"
    """torch.compile, with CUDA graphs or without"""

    def __str__(self) -> str:
        return self.attention + {"no": "", "yes": ", compiled", "cuda-graphs": ", CUDA graphs"}[self.compile]


@dataclass(frozen=True)
class PeerBatch:
    """What one forward pass of the peer sees."""

    input_ids: torch.Tensor  # (B, T)
    labels: torch.Tensor  # (B, T), −100 where nothing is asked
    attention_mask: torch.Tensor | None  # (B, T), 0 for padding; none where nothing is padded
    tokens: int

    def on(self, device: torch.device) -> "PeerBatch":
        mask = None if self.attention_mask is None else self.attention_mask.to(device)
        return PeerBatch(self.input_ids.to(device), self.labels.to(device), mask, self.tokens)


def settings_of(
    device: torch.device, attention: str | None = None, compile: Compile | None = None
) -> list[PeerSettings]:
    """All settings that a user would try on this kind of device; `attention` and `compile`, where given, in each of them."""
    kinds: tuple[Compile, ...] = ("no", "yes") if device.type == "cpu" else ("no", "yes", "cuda-graphs")
    attentions: tuple[str, ...] = ("eager", "sdpa") if device.type == "cpu" else ("sdpa", "flash_attention_2")
    kinds, attentions = (compile,) if compile else kinds, (attention,) if attention else attentions
    return [PeerSettings(attention, kind) for kind in kinds for attention in attentions]


def peer_model(recipe: PretrainRecipe, attention: str, seed: int) -> Any:
    """A `transformers` model for masked LM of the recipe's configuration, fresh weights. InputError where it has none."""
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
    torch.manual_seed(seed)
    return transformers.AutoModelForMaskedLM.from_config(config, attn_implementation=attention).train()


class PeerSteps:
    """The peer's model and optimiser, on a device."""

    def __init__(
        self,
        recipe: PretrainRecipe,
        settings: PeerSettings,
        device: torch.device,
        precision: str,
        static: bool = True,
        seed: int = 0,
    ) -> None:
        """`static`: every batch has one shape."""
        if precision not in ("bf16-mixed", "32-true"):
            raise InputError(f"trainer.precision {precision}: the peer runs in bf16-mixed or 32-true; give one of them")
        self.device, self.clip_norm, self._bf16 = device, recipe.optimizer.clip_norm, precision == "bf16-mixed"
        self.model = peer_model(recipe, settings.attention, seed).to(device)
        self._compute = self.model
        if settings.compile != "no":
            # The places that ModernBERT scores are a shape too: it is left to the compiler to find what stands still.
            fixed = static and not getattr(self.model.config, "sparse_prediction", False)
            mode = "reduce-overhead" if settings.compile == "cuda-graphs" else None
            self._compute = torch.compile(self.model, dynamic=False if fixed else None, mode=mode)
        optimizer = recipe.optimizer
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )

    def forward(self, batch: PeerBatch) -> torch.Tensor:
        """The mean loss over the labels."""
        bf16 = torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else contextlib.nullcontext()
        with bf16:
            output = self._compute(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, return_dict=True
            )
        loss: torch.Tensor = output.loss
        return loss

    def update(self) -> None:
        """What follows the backward pass."""
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, batch: PeerBatch) -> None:
        """One optimiser step."""
        self.forward(batch).backward()
        self.update()

    def contender(self, batches: Sequence[PeerBatch]) -> Contender:
        """Steps over batches that lie ready on the device."""
        ready = [batch.on(self.device) for batch in batches]
        return Contender(
            lambda number: self.step(ready[number]),
            [batch.tokens for batch in batches],
            [batch.input_ids.numel() for batch in batches],
            self.device,
        )


def whole(batch: MicroBatch) -> PeerBatch:
    """Rows of ours as the peer takes them: the same masked ids, and the slots as a table of labels. No place may be padding."""
    documents = batch["document_ids"]
    assert bool((documents > 0).all()), "the peer would see padding as tokens"
    ids, used = batch["input_ids"], batch["labels"] != NO_TARGET
    labels = torch.full((ids.numel(),), NO_TARGET)
    labels[batch["targets"][used]] = batch["labels"][used]
    return PeerBatch(ids, labels.view_as(ids), None, ids.numel())


def padded(text: Text, recipe: PretrainRecipe, documents: int, count: int) -> list[PeerBatch]:
    """`count` batches of `documents` documents in the order of the text, each cut to what a row holds, padded to the longest
    of its batch."""
    data, special, store = recipe.data, text.special_ids, text.store
    batches = []
    for number in range(count):
        which = [(number * documents + place) % len(store) for place in range(documents)]
        pieces = [np.asarray(store.document(n))[: data.row_length - SPECIALS_PER_CHUNK] for n in which]
        lengths = np.array([len(piece) + SPECIALS_PER_CHUNK for piece in pieces])
        ids = np.full((documents, int(lengths.max())), special.pad, np.int64)
        for row, piece in enumerate(pieces):
            ids[row, : lengths[row]] = [special.cls, *piece, special.sep]
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        batches.append(_masked(ids, mask, text, recipe, number * documents))
    return batches


def concatenated(text: Text, recipe: PretrainRecipe, rows: int, count: int) -> list[PeerBatch]:
    """`count` batches of `rows` full rows: all documents with their special tokens one behind the other, chopped, without
    a mask between them, as `group_texts` of run_mlm makes them. What is left over at the end is dropped; documents that do not
    fill a batch begin again."""
    special, length = text.special_ids, recipe.data.row_length
    running = np.concatenate([[special.cls, *text.store.document(n), special.sep] for n in range(len(text.store))])
    running = running if len(running) >= rows * length else np.resize(running, rows * length)
    chopped = running[: len(running) // length * length].reshape(-1, length).astype(np.int64)
    batches = []
    for number in range(min(count, len(chopped) // rows)):
        ids = chopped[number * rows : (number + 1) * rows]
        batches.append(_masked(ids, None, text, recipe, number * rows))
    return batches


def _masked(ids: np.ndarray, mask: np.ndarray | None, text: Text, recipe: PretrainRecipe, first_row: int) -> PeerBatch:
    """Rows with the masking of the recipe."""
    numbers = first_row + np.arange(len(ids))
    masked = mask_rows(ids, numbers, recipe.seed, recipe.masking, text.vocabulary)
    labels = np.full(ids.shape, NO_TARGET, np.int64)
    used = masked.labels != NO_TARGET
    rows = np.broadcast_to(np.arange(len(ids))[:, None], used.shape)
    labels[rows[used], masked.places[used]] = masked.labels[used]
    tokens = ids.size if mask is None else int(mask.sum())
    tables = torch.from_numpy(masked.input_ids), torch.from_numpy(labels)
    return PeerBatch(*tables, None if mask is None else torch.from_numpy(mask.astype(np.int64)), tokens)


@torch.inference_mode()
def score_peer(model: Any, file: str | Path, batch_rows: int = 32) -> Score:
    """Score a model of transformers in fp32 on a masked file, through its logits; see `bert.pretraining.score`."""
    input_ids, labels = read_masked(file)
    training, device = model.training, next(model.parameters()).device
    model.eval()
    loss, right, targets = 0.0, 0, 0
    for ids, marks in zip(input_ids.split(batch_rows), labels.split(batch_rows)):
        asked = marks >= 0
        originals = marks[asked]
        logits = model(input_ids=ids.to(device)).logits[asked.to(device)].float().cpu()
        loss += float(torch.nn.functional.cross_entropy(logits, originals, reduction="sum"))
        right += int((logits.argmax(-1) == originals).sum())
        targets += len(originals)
    model.train(training)
    return Score(loss / targets, right / targets, targets)
