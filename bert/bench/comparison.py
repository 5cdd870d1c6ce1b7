"""The baseline, Hugging Face's masked LM of the same configuration, trained as its users train it; and its comparison with the candidate:
the ratio of their tokens/s over alternating rounds, with the spread of the rounds.

Its config comes from the table of `bert.hf.families`, so both models compute the same function. It uses bf16 autocast when the candidate
does, fused AdamW, gradient clipping, the fastest attention and torch.compile; `attention_mask` is omitted if no sequence is padded, labels
are a table (B, T) with −100, and ModernBERT computes logits at the masked positions only (`sparse_prediction`).

Workloads: sequences without padding (the same sequences and masks for both); documents of any length that the baseline pads to the
longest of a batch; and the same documents concatenated, without attention masks between them. The candidate packs them.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bert.bench import machine
from bert.bench.documents import Text, full_sequences, mixture, packed
from bert.bench.machine import device_and_precision
from bert.bench.measurement import Measurement, TimedSteps, spread
from bert.bench.results import OUT_OF_MEMORY, Value, attempt
from bert.bench.settings import BaselineSettings, Workload
from bert.bench.steps import Candidate, begin, beside_peak, compiled, steps_of
from bert.data.packing import SPECIALS_PER_CHUNK
from bert.errors import InputError
from bert.hf.translate import family_of, write_config
from bert.model.encoder import evaluating
from bert.pretraining.backend import select_attention
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.masking import IGNORED, mask_sequences
from bert.pretraining.phases import resolve_plan
from bert.pretraining.score import Score, read_masked
from bert.training.compiling import expect_graphs
from bert.training.step import StepBatch

_FULL_STEPS = 8
DOCUMENTS = 4096
"""number of ragged documents to measure on"""
Pairs = Sequence[tuple[Workload, BaselineSettings]]
Steps = list[StepBatch]


def baseline_model(recipe: PretrainRecipe, attention: str) -> Any:
    """A randomly initialized masked LM of `transformers` with the recipe's configuration. Raises InputError if it has none."""
    try:
        import transformers
    except ImportError:
        raise InputError("the baseline needs transformers: pip install 'bert-kit[hf]'") from None
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
    """The baseline's model and optimizer by a recipe, on the device and in the precision of its `trainer` group."""

    def __init__(self, recipe: PretrainRecipe, settings: BaselineSettings, static: bool = True) -> None:
        """`static`: all batches have the same shape."""
        self.device, precision = device_and_precision(recipe)
        if precision not in ("bf16-mixed", "32-true"):
            raise InputError(f"trainer.precision is {precision}; must be bf16-mixed or 32-true for the baseline")
        self.clip_norm, self._bf16 = recipe.optimizer.clip_norm, precision == "bf16-mixed"
        self.model = baseline_model(recipe, settings.attention).to(self.device)
        self._compute = self.model
        if settings.compile != "no":
            # The number of positions that ModernBERT scores varies: the compiler finds out which sizes are static.
            fixed = static and not getattr(self.model.config, "sparse_prediction", False)
            mode = "reduce-overhead" if settings.compile == "cuda-graphs" else None
            self._compute = torch.compile(self.model, dynamic=False if fixed else None, mode=mode)
        of, fused = recipe.optimizer, self.device.type in ("cpu", "cuda")
        groups = [{"params": list(self.model.parameters()), "highest_lr": of.lr}]
        self.optimizer = torch.optim.AdamW(groups, of.lr, of.betas, of.eps, of.weight_decay, fused=fused)

    def forward(self, batch: StepBatch) -> torch.Tensor:
        """The mean loss over the labels of its one micro-batch."""
        (inputs,) = batch.micro_batches
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            loss: torch.Tensor = self._compute(**inputs, return_dict=True).loss
        return loss

    def step(self, batch: StepBatch) -> None:
        """One optimizer step."""
        self.forward(batch).backward()
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()


def workload_batches(
    workload: Workload, recipe: PretrainRecipe, text: Text, ragged: Text, batch_size: int
) -> tuple[Steps, Steps]:
    """The batches of a workload: those of the candidate, and those of the baseline with `batch_size` sequences or documents each. Every
    `ragged` document fits a sequence."""
    data = recipe.data
    if workload == "full-sequences":
        full = full_sequences(text, data.sequence_length, _FULL_STEPS * max(data.batch_size, batch_size), recipe.seed)
        of_baseline = replace(recipe, data=replace(data, batch_size=batch_size, micro_batch_size=None))
        return steps_of(full, recipe, _FULL_STEPS), list(itertools.islice(full_batches(full, of_baseline), _FULL_STEPS))
    steps = max(1, packed(ragged, recipe).sequences_at(0).sequences_in_epoch // data.batch_size)
    candidate = steps_of(ragged, recipe, steps)
    if workload == "padded":
        return candidate, padded(ragged, recipe, batch_size, max(1, len(ragged.store) // batch_size))
    return candidate, concatenated(ragged, recipe, batch_size, steps)


def full_batches(text: Text, recipe: PretrainRecipe) -> Iterator[StepBatch]:
    """The steps of a run over a text of full sequences, without end, with the masks of the run. No position may be padding."""
    stream = packed(text, recipe)
    for step in itertools.count():
        batch = stream.batch(step)
        assert (batch.document_ids > 0).all(), "the baseline would see padding as tokens"
        yield _masked(batch.input_ids, None, text, recipe, step * recipe.data.batch_size)


def padded(text: Text, recipe: PretrainRecipe, documents: int, count: int) -> Steps:
    """`count` batches of `documents` documents in the order of the text, each truncated to the sequence length and padded to the longest
    of its batch."""
    special, store, batches = text.special_ids, text.store, []
    for first in range(0, count * documents, documents):
        which = np.arange(first, first + documents) % len(store)
        tokens = [store.document(int(n))[: recipe.data.sequence_length - SPECIALS_PER_CHUNK] for n in which]
        lengths = np.array([len(document) + SPECIALS_PER_CHUNK for document in tokens])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.full_like(mask, special.pad)
        ids[mask > 0] = np.concatenate([[special.cls, *document, special.sep] for document in tokens])
        batches.append(_masked(ids, mask, text, recipe, first))
    return batches


def concatenated(text: Text, recipe: PretrainRecipe, sequences: int, count: int) -> Steps:
    """`count` batches of `sequences` full sequences: all documents with their special tokens, concatenated and chunked without masks
    between them, as in `group_texts` of run_mlm. The remainder is dropped; documents that do not fill a batch are repeated."""
    special, length = text.special_ids, recipe.data.sequence_length
    tokens = np.concatenate([[special.cls, *text.store.document(n), special.sep] for n in range(len(text.store))])
    full = max(1, len(tokens) // (sequences * length))
    chunks = np.resize(tokens, (full, sequences, length)).astype(np.int64)
    return [_masked(ids, None, text, recipe, number * sequences) for number, ids in enumerate(chunks[:count])]


def _masked(ids: np.ndarray, mask: np.ndarray | None, text: Text, recipe: PretrainRecipe, first: int) -> StepBatch:
    """A step of the baseline on sequences (B, T), masked as a run of the recipe masks its sequences from number `first` on. Labels are a
    table (B, T), −100 at positions that are not masked; `mask` (B, T) is 0 for padding, None without padding."""
    masked = mask_sequences(ids, first + np.arange(len(ids)), recipe.seed, recipe.masking, text.vocabulary)
    used, labels = masked.labels != IGNORED, np.full_like(ids, IGNORED)
    labels[used.nonzero()[0], masked.positions[used]] = masked.labels[used]
    inputs = {"input_ids": masked.input_ids, "labels": labels} | ({} if mask is None else {"attention_mask": mask})
    tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
    return StepBatch([tensors], {"loss": int(used.sum())}, ids.size if mask is None else int(mask.sum()))


@torch.inference_mode()
def score_baseline(model: Any, file: str | Path, batch_size: int = 32) -> Score:
    """Score a model of `transformers` in fp32 on a masked file, from its logits; see `bert.pretraining.score`."""
    input_ids, labels = read_masked(file)
    device, loss, right, targets = next(model.parameters()).device, 0.0, 0, int((labels >= 0).sum())
    with evaluating(model):
        for ids, table in zip(input_ids.split(batch_size), labels.split(batch_size)):
            masked = table >= 0
            logits = model(input_ids=ids.to(device)).logits[masked.to(device)].float().cpu()
            loss += float(torch.nn.functional.cross_entropy(logits, table[masked], reduction="sum"))
            right += int((logits.argmax(-1) == table[masked]).sum())
    return Score(loss / targets, right / targets, targets)


def bench_compare(
    measurement: Measurement, pairs: Pairs, ragged: Sequence[Text] = (), baseline_batch_size: int | None = None
) -> Value:
    """Compare candidate and baseline for each pair of a workload and a setting of the baseline, and measure the hardware peaks. Returns
    the content of metrics.json.

    Both sides use fused AdamW. The candidate is compiled unless the recipe says no. The baseline takes `baseline_batch_size` sequences or
    documents per step, by default the batch size of the recipe, halved for as long as it runs out of memory. The `ragged` texts are mixed,
    with equal numbers of documents of each; by default they are the documents of the text.
    """
    begin(measurement, "compare", {"baseline_batch_size": baseline_batch_size}, ragged)
    recipe, text = measurement.recipe, measurement.text
    recipe = replace(recipe, optimizer=replace(recipe.optimizer, kind="adamw"))
    documents = mixture(ragged or [text], DOCUMENTS, recipe.data.sequence_length, recipe.seed)
    device, precision = device_and_precision(recipe)
    expect_graphs(31)  # several models of one class in a process

    @cache
    def candidate() -> Candidate:  # only made if there is anything left to measure
        machine.fresh_start()
        way = compiled(recipe, device)
        return Candidate(select_attention(way, resolve_plan(way), device, precision, bool(way.compile)))

    batches = lru_cache(maxsize=1)(lambda workload, size: workload_batches(workload, recipe, text, documents, size))

    def measure(workload: Workload, setting: BaselineSettings, size: int) -> Value:
        steps, of_baseline = batches(workload, size)
        trial = attempt(lambda: vars(TimedSteps(candidate().step, steps, device).run(1)), side="candidate")
        if "error" in trial:
            return trial
        pair = measurement, candidate(), steps, of_baseline, setting
        value = attempt(compare_pair, *pair, side="baseline", fatal=(InputError,))
        if value.get("error") != OUT_OF_MEMORY or size == 1:
            return value
        machine.free_memory()
        return measure(workload, setting, size // 2)

    for workload, setting in pairs:
        names = {"name": f"{workload}, {setting}", "workload": workload, "setting": str(setting)}
        key = {"kind": "compare", **names, **asdict(setting)}
        measurement.result(key, partial(measure, workload, setting, baseline_batch_size or recipe.data.batch_size))
    return measurement.report()


def compare_pair(
    measurement: Measurement, candidate: Candidate, steps: Steps, of_baseline: Steps, setting: BaselineSettings
) -> Value:
    """The candidate on its steps against the baseline in one setting on its own steps."""
    shapes = {batch.micro_batches[0]["input_ids"].shape for batch in of_baseline}
    baseline = Baseline(candidate.recipe, setting, static=len(shapes) == 1)
    timed = TimedSteps(baseline.step, of_baseline, baseline.device)
    sides, common = beside_peak(measurement, candidate, steps, timed)
    found = {name: {"candidate": value, "baseline": sides[1][name]} for name, value in sides[0].items()}
    ratio = spread([a / b for a, b in zip(*found["rounds"].values())])
    mfu = {side: mfu["median"] for side, mfu in found["mfu"].items()}
    batch_size = len(of_baseline[0].micro_batches[0]["input_ids"])
    return common | found | {"ratio": ratio, "mfu": mfu, "baseline_batch_size": batch_size}
