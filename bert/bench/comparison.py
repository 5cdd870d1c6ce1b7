"""The baseline, Hugging Face's masked LM of the same configuration, trained as its users train it; and the candidate beside it, in
alternating rounds: the ratio of their tokens a second, with the spread of the rounds.

Its config comes from the table of `bert.hf.families`, so that both models compute the same. It gets autocast to bf16 where the candidate
does, fused AdamW, clipping, the fastest attention and the compiler; `attention_mask` is left out where no sequence is padded, labels are a
table (B, T) with −100, and ModernBERT scores the masked positions alone (`sparse_prediction`).

Workloads: sequences without padding (the same sequences and masks for both); ragged documents that the baseline pads to the longest of a
batch; and ragged documents that it concatenates without masks. The candidate packs them.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bert.bench import machine
from bert.bench.candidate import Candidate, compiled, steps_of
from bert.bench.documents import Text, full_sequences, mixture, packed
from bert.bench.machine import device_and_precision
from bert.bench.measurement import Measurement, TimedSteps, spread
from bert.bench.results import OUT_OF_MEMORY, Value, attempt
from bert.bench.settings import BaselineSettings, Workload
from bert.bench.steps import begin, beside_peak
from bert.data.packing import SPECIALS_PER_CHUNK
from bert.errors import InputError
from bert.hf.translate import family_of, write_config
from bert.pretraining.backend import select_attention
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import IGNORED, mask_sequences
from bert.pretraining.phases import resolve_plan
from bert.pretraining.score import Score, read_masked
from bert.pretraining.stream import MicroBatch
from bert.training.compiling import expect_graphs
from bert.training.step import StepBatch

_FULL_STEPS = 8
DOCUMENTS = 4096
"""ragged documents that are measured on"""
Pairs = Sequence[tuple[Workload, BaselineSettings]]


class BaselineBatch(NamedTuple):
    """What one forward pass of the baseline sees."""

    input_ids: torch.Tensor  # (B, T)
    labels: torch.Tensor  # (B, T), −100 where nothing is predicted
    attention_mask: torch.Tensor | None  # (B, T), 0 for padding; none where nothing is padded

    @property
    def tokens(self) -> int:
        """Positions without padding."""
        return self.input_ids.numel() if self.attention_mask is None else int(self.attention_mask.sum())


Batches = tuple[list[StepBatch], list[BaselineBatch]]
"""the batches of one workload: steps of the candidate, batches of the baseline"""


def baseline_model(recipe: PretrainRecipe, attention: str) -> Any:
    """A `transformers` model for masked LM of the recipe's configuration, random initialization. InputError where it has none."""
    try:
        import transformers
    except ImportError:
        raise InputError("the baseline needs transformers: pip install 'bert[hf]'") from None
    family, obstacles = family_of(recipe.encoder, recipe.head)
    if family is None:
        raise InputError(f"no baseline: transformers has no such model: {'; '.join(obstacles)}")
    keys = write_config(family, recipe.encoder, recipe.head, {"pad_token_id": recipe.encoder.pad_id})
    config = transformers.CONFIG_MAPPING[family.model_type].from_dict(keys)
    if hasattr(config, "sparse_prediction"):
        config.sparse_prediction = True
    torch.manual_seed(recipe.seed)
    return transformers.AutoModelForMaskedLM.from_config(config, attn_implementation=attention).train()


class Baseline:
    """The baseline's model and optimizer by a recipe, on the device and in the precision of its trainer group."""

    def __init__(self, recipe: PretrainRecipe, settings: BaselineSettings, static: bool = True) -> None:
        """`static`: every batch has one shape."""
        self.device, precision = device_and_precision(recipe)
        if precision not in ("bf16-mixed", "32-true"):
            raise InputError(f"trainer.precision is {precision}: the baseline runs in bf16-mixed or 32-true: give one")
        self.clip_norm, self._bf16 = recipe.optimizer.clip_norm, precision == "bf16-mixed"
        self.model = baseline_model(recipe, settings.attention).to(self.device)
        self._compute = self.model
        if settings.compile != "no":
            # The positions that ModernBERT scores are a shape too: it is left to the compiler to find what is static.
            fixed = static and not getattr(self.model.config, "sparse_prediction", False)
            mode = "reduce-overhead" if settings.compile == "cuda-graphs" else None
            self._compute = torch.compile(self.model, dynamic=False if fixed else None, mode=mode)
        of, fused = recipe.optimizer, self.device.type in ("cpu", "cuda")
        groups = [{"params": list(self.model.parameters()), "highest_lr": of.lr}]
        self.optimizer = torch.optim.AdamW(groups, of.lr, of.betas, of.eps, of.weight_decay, fused=fused)

    def forward(self, batch: BaselineBatch) -> torch.Tensor:
        """The mean loss over the labels."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            loss: torch.Tensor = self._compute(**batch._asdict(), return_dict=True).loss
        return loss

    def step(self, batch: BaselineBatch) -> None:
        """One optimizer step."""
        self.forward(batch).backward()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def timed_steps(self, batches: Sequence[BaselineBatch]) -> TimedSteps:
        """Steps over these batches, to be timed."""
        positions = [batch.input_ids.numel() for batch in batches]
        return TimedSteps(self.step, batches, [batch.tokens for batch in batches], positions, self.device)


def workload_batches(workload: Workload, recipe: PretrainRecipe, text: Text, ragged: Text, batch_size: int) -> Batches:
    """The batches of a workload. Those of the baseline have `batch_size` sequences or documents; a sequence holds any `ragged` document."""
    data = recipe.data
    if workload == "full-sequences":
        full = full_sequences(text, data.sequence_length, _FULL_STEPS * max(data.batch_size, batch_size), recipe.seed)
        of_baseline = replace(recipe, data=replace(data, batch_size=batch_size, micro_batch_size=None))
        return steps_of(full, recipe, _FULL_STEPS), full_batches(full, of_baseline, _FULL_STEPS)
    steps = max(1, packed(ragged, recipe).sequences_at(0).sequences_in_epoch // data.batch_size)
    candidate = steps_of(ragged, recipe, steps)
    if workload == "padded":
        return candidate, padded(ragged, recipe, batch_size, max(1, len(ragged.store) // batch_size))
    return candidate, concatenated(ragged, recipe, batch_size, steps)


def full_batches(text: Text, recipe: PretrainRecipe, count: int) -> list[BaselineBatch]:
    """The first `count` steps of a run of one micro-batch a step over a text of full sequences, as the baseline takes them."""
    return [full_batch(batch) for ((batch,), _, _) in steps_of(text, recipe, count)]


def full_batch(batch: MicroBatch) -> BaselineBatch:
    """A micro-batch as the baseline takes it: the same masked ids, and a label for each position. No position may be padding."""
    assert bool((batch["document_ids"] > 0).all()), "the baseline would see padding as tokens"
    return _labeled(batch["input_ids"], batch["masked_positions"], batch["labels"])


def padded(text: Text, recipe: PretrainRecipe, documents: int, count: int) -> list[BaselineBatch]:
    """`count` batches of `documents` documents in the order of the text, each truncated to what a sequence holds, padded to the longest
    of its batch."""
    special, store, batches = text.special_ids, text.store, []
    for first in range(0, count * documents, documents):
        which = np.arange(first, first + documents) % len(store)
        tokens = [store.document(int(n))[: recipe.data.sequence_length - SPECIALS_PER_CHUNK] for n in which]
        lengths = np.array([len(document) + SPECIALS_PER_CHUNK for document in tokens])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, special.pad, np.int64)
        ids[mask] = np.concatenate([[special.cls, *document, special.sep] for document in tokens])
        batches.append(_masked(ids, torch.from_numpy(mask.astype(np.int64)), text, recipe, first))
    return batches


def concatenated(text: Text, recipe: PretrainRecipe, sequences: int, count: int) -> list[BaselineBatch]:
    """`count` batches of `sequences` full sequences: all documents with their special tokens concatenated and chunked, without a mask
    between them, as `group_texts` of run_mlm makes them. The remainder is dropped; documents that do not fill a batch are repeated."""
    special, length = text.special_ids, recipe.data.sequence_length
    tokens = np.concatenate([[special.cls, *text.store.document(n), special.sep] for n in range(len(text.store))])
    full = max(1, len(tokens) // (sequences * length))
    chunks = np.resize(tokens, (full, sequences, length)).astype(np.int64)
    return [_masked(ids, None, text, recipe, number * sequences) for number, ids in enumerate(chunks[:count])]


def _masked(
    ids: np.ndarray, mask: torch.Tensor | None, text: Text, recipe: PretrainRecipe, first: int
) -> BaselineBatch:
    """Sequences with the masking of the recipe, that of the sequences of a run from `first` on."""
    masked = mask_sequences(ids, first + np.arange(len(ids)), recipe.seed, recipe.masking, text.vocabulary)
    input_ids, positions, labels = map(torch.from_numpy, (masked.input_ids, masked.positions, masked.labels))
    return _labeled(input_ids, positions, labels, mask)


def _labeled(
    input_ids: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None
) -> BaselineBatch:
    """A batch with the labels (B, K) of masked positions (B, K) as a table (B, T)."""
    used, table = labels != IGNORED, torch.full_like(input_ids, IGNORED)
    table[used.nonzero()[:, 0], positions[used]] = labels[used]
    return BaselineBatch(input_ids, table, mask)


@torch.inference_mode()
def score_baseline(model: Any, file: str | Path, batch_size: int = 32) -> Score:
    """Score a model of transformers in fp32 on a masked file, through its logits; see `bert.pretraining.score`."""
    input_ids, labels = read_masked(file)
    training, device = model.training, next(model.parameters()).device
    model.eval()
    loss, right, targets = 0.0, 0, int((labels >= 0).sum())
    for ids, table in zip(input_ids.split(batch_size), labels.split(batch_size)):
        masked = table >= 0
        logits = model(input_ids=ids.to(device)).logits[masked.to(device)].float().cpu()
        loss += float(torch.nn.functional.cross_entropy(logits, table[masked], reduction="sum"))
        right += int((logits.argmax(-1) == table[masked]).sum())
    model.train(training)
    return Score(loss / targets, right / targets, targets)


def bench_compare(
    measurement: Measurement, pairs: Pairs, ragged: Sequence[Text] = (), baseline_batch_size: int | None = None
) -> dict[str, Any]:
    """A result for each pair of a workload and a setting of the baseline, beside the measured peaks of the hardware. Returns what
    metrics.json holds.

    Both sides use AdamW, fused. The candidate is compiled unless the recipe says no. The baseline takes `baseline_batch_size` sequences
    or documents a step, not given as many as a batch of the recipe, and half of them where memory does not suffice, and half of those, …
    `ragged` texts are mixed, equal numbers of documents of each; none given: the documents of the text.
    """
    begin(measurement, "compare", {"baseline_batch_size": baseline_batch_size}, ragged)
    recipe, text = measurement.recipe, measurement.text
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, kind="adamw"))
    documents = mixture(ragged or [text], DOCUMENTS, recipe.data.sequence_length, recipe.seed)
    device, precision = device_and_precision(recipe)
    expect_graphs(31)  # several models of one class in a process

    @cache
    def candidate() -> Candidate:  # made once, and only where something is left to measure
        machine.fresh_start()
        way = compiled(recipe, device)
        plan = resolve_plan(way)
        return Candidate(select_attention(way, plan, device, precision, bool(way.compile)))

    batches = lru_cache(maxsize=1)(lambda workload, size: workload_batches(workload, recipe, text, documents, size))

    def measure(workload: Workload, setting: BaselineSettings) -> Value:
        size = baseline_batch_size or recipe.data.batch_size
        trial = attempt(lambda: vars(candidate().timed_steps(batches(workload, size)[0]).run(1)), "candidate")
        if "error" in trial:
            return trial  # what fails here is the candidate, and not the baseline
        while True:
            both = partial(compare_pair, measurement, candidate(), batches(workload, size), setting)
            value = attempt(both, "baseline", (InputError,))
            if value.get("error") != OUT_OF_MEMORY or size == 1:
                return value
            size //= 2
            machine.free_memory()

    for workload, setting in pairs:
        names = {"name": f"{workload}, {setting}", "workload": workload, "setting": str(setting)}
        measurement.result({"kind": "compare", **names, **asdict(setting)}, partial(measure, workload, setting))
    return measurement.report()


def compare_pair(measurement: Measurement, candidate: Candidate, batches: Batches, setting: BaselineSettings) -> Value:
    """The candidate against the baseline in one setting."""
    steps, of_baseline = batches
    static = len({batch.input_ids.shape for batch in of_baseline}) == 1
    baseline = Baseline(candidate.recipe, setting, static).timed_steps(of_baseline)
    runs, mfu, common = beside_peak(measurement, candidate, steps, [baseline])
    rates = {side: [run.rate for run in each] for side, each in zip(("candidate", "baseline"), runs)}
    return common | {
        "ratio": spread([a / b for a, b in zip(rates["candidate"], rates["baseline"])]),
        "tokens_per_second": {side: spread(rate) for side, rate in rates.items()},
        "mfu": {side: statistics.median(each) for side, each in zip(rates, mfu)},
        "positions_per_token": {
            "candidate": sum(run.positions for run in runs[0]) / sum(run.tokens for run in runs[0]),
            "baseline": sum(baseline.positions) / sum(baseline.tokens),
        },
        "rounds": rates,
        "peak_gib": machine.peak_gib(candidate.device),
        "baseline_batch_size": len(of_baseline[0].input_ids),
    }
