"""Benchmark a GPU with one command within ten minutes: hardware peaks, base and small models by attention backend, and Hugging Face's.

    python recipes/gpu_bench.py tokens.npz --out runs/gpu

`tokens.npz` holds documents as token ids. Write it from any token store, on the machine that has the store:

    python -c "from bert.bench.documents import *; from bert.data.tokenizer import Tokenizer; \
        write_tokens('tokens.npz', text_of_store('runs/store', Tokenizer.load('runs/tokenizer')))"

Needs torch, lightning, numpy, tokenizers, pyyaml, matplotlib and, for the baseline, transformers; no datasets, pyarrow or pydantic. The
most important results come first, each finished result is saved, and if time runs out the same command resumes with those that are missing.
It ends with a table of all shapes and a profile of the one with the lowest MFU.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bert.bench.comparison import bench_compare
from bert.bench.documents import Text, read_tokens
from bert.bench.measurement import Measurement
from bert.bench.settings import BaselineSettings
from bert.bench.steps import BACKENDS, bench_steps, where_the_time_goes
from bert.errors import InputError
from bert.pretraining.config import PretrainRecipe
from bert.training.folder import read_recipe

RECIPES = Path(__file__).parent / "pretrain"
MINUTES = 9.5
RESERVED = 60.0  # seconds at the end for the profile


@dataclass(frozen=True)
class Shape:
    """A model and the sequences of its batch."""

    name: str
    recipe: PretrainRecipe
    baseline_batch_size: int

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.recipe.data.sequence_length}"


def shapes() -> Iterator[Shape]:
    """The base sizes at 512 and 1024 positions, then those of Ettin (17 M, 32 M and 68 M parameters) at 512."""
    bert, modern = (read_recipe(RECIPES / f"{name}.yaml", PretrainRecipe) for name in ("bert-base", "base"))
    modern = replace(
        modern, encoder=replace(modern.encoder, vocab_size=50_368)
    )  # that of its tokenizer, which is not needed here
    for length, sequences in ((512, 128), (1024, 64)):
        for name, recipe in (("bert-base", bert), ("modernbert-base", modern)):
            yield Shape(name, with_sequences(recipe, length, sequences), sequences // 2)
    for name, width, layers, inner in (("17m", 256, 7, 384), ("32m", 384, 10, 576), ("68m", 512, 19, 768)):
        size = {"hidden_size": width, "num_layers": layers, "num_heads": width // 64, "intermediate_size": inner}
        small = replace(modern, encoder=replace(modern.encoder, **size))
        yield Shape(f"modernbert-{name}", with_sequences(small, 512, 256), 128)


def with_sequences(recipe: PretrainRecipe, length: int, sequences: int) -> PretrainRecipe:
    """One micro-batch per step, no phases, no dropout on attention weights, AdamW, compiled."""
    encoder = replace(recipe.encoder, attention_dropout=0.0, max_length=max(length, recipe.encoder.max_length))
    data = replace(recipe.data, sequence_length=length, batch_size=sequences, micro_batch_size=sequences)
    optimizer = replace(recipe.optimizer, kind="adamw")
    return replace(recipe, encoder=encoder, data=data, optimizer=optimizer, phases=[], compile=True)


def stages(shape: Shape, text: Text, out: Path) -> list[Any]:
    """The measurements of a shape, the most important first: the comparison with the baseline with padding and in its best setting
    without, then the backends, then the other settings of the baseline."""

    def measurement(mode: str) -> Measurement:
        return Measurement(shape.recipe, text, out / shape.folder / mode, rounds=3, seconds=1.5)

    def compare(*pairs: tuple[Any, BaselineSettings]) -> Any:
        return lambda: bench_compare(measurement("compare"), pairs, baseline_batch_size=shape.baseline_batch_size)

    def steps(backend: Any) -> Any:
        return lambda: bench_steps(measurement("steps"), [backend])

    return [
        compare(("padded", BaselineSettings("sdpa")), ("concatenated", BaselineSettings("sdpa", "yes"))),
        # the newest are made for this hardware, eager comes last; the choice of auto is measured with the baseline
        *(steps(name) for name in reversed(BACKENDS) if name != "auto"),
        compare(("concatenated", BaselineSettings("sdpa", "cuda-graphs")), ("padded", BaselineSettings("sdpa", "yes"))),
        compare(*((workload, BaselineSettings("flash_attention_2")) for workload in ("concatenated", "padded"))),
        compare(("full-sequences", BaselineSettings("sdpa", "yes"))),
    ]


def main() -> None:
    """Measure missing results until time runs out, then print a summary; an error is one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tokens", type=Path, help=".npz with values and offsets")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder for all results")
    until = "time limit: no stage starts that would end later (default: %(default)s)"
    parser.add_argument("--minutes", type=float, default=MINUTES, help=until)
    names = [shape.folder for shape in shapes()]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SHAPE", help=", ".join(names))
    options = parser.parse_args()
    try:
        measure(options)
    except InputError as error:
        parser.error(str(error))


def measure(options: argparse.Namespace) -> None:
    """Run the stages of the chosen shapes in turn until time runs out; then a table of all shapes and a profile."""
    start = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    text = read_tokens(options.tokens)
    chosen = [shape for shape in shapes() if shape.folder in options.only]
    logging.getLogger("bert").handlers = [logging.FileHandler(options.out / "log.txt", encoding="utf-8")]
    plans = [stages(shape, text, options.out) for shape in chosen]
    skipped, longest = 0, 0.0
    for stage in range(max(map(len, plans))):
        for shape, plan in zip(chosen, plans):
            started = time.monotonic()
            if started - start + longest > 60 * options.minutes - RESERVED:
                skipped += 1
                continue
            plan[stage]()
            took = time.monotonic() - started
            longest = max(longest, took)
            print(f"{shape.folder}, stage {stage + 1}: {took:.0f} s", flush=True)
    summary, lowest = summarized(chosen, options.out)
    (options.out / "summary.md").write_text(summary + "\n", encoding="utf-8")
    print(summary)
    print(f"skipped: {skipped} stages (run the same command again to resume)" if skipped else "everything is measured")
    for shape in chosen:
        if shape.folder == lowest and time.monotonic() - start < 60 * options.minutes:
            profile = f"\nwhere the time goes in {lowest}:\n\n{where_the_time_goes(text, Measurement(shape.recipe, text).recipe)}"
            print(profile)
            (options.out / "summary.md").write_text(f"{summary}\n{profile}\n", encoding="utf-8")


def summarized(chosen: list[Shape], out: Path) -> tuple[str, str]:
    """(table of all shapes, name of the shape whose best step has the lowest MFU)."""
    lines = [
        "| shape | attention | tokens/s | MFU | × best baseline, padded | × best baseline, concatenated |",
        "|---|---|---|---|---|---|",
    ]
    highest: dict[str, float] = {}
    for shape in chosen:
        compared = _read(out / shape.folder / "compare")
        best = compared.get("best_baseline", {})
        ratios = [
            f"{best[workload]['ratio']['median']:.2f} ({best[workload]['setting']})" if workload in best else "–"
            for workload in ("padded", "concatenated")
        ]
        rates = [
            ("as chosen", result["tokens_per_second"]["candidate"]["median"], result["mfu"]["candidate"])
            for result in compared.get("results", [])
            if result["kind"] == "compare" and "error" not in result
        ][:1]
        for result in _read(out / shape.folder / "steps").get("results", []):
            if result["kind"] == "step" and "error" in result:
                lines.append(f"| {shape.folder} | {result['backend']} | {result['error']} | | | |")
            elif result["kind"] == "step":
                rates.append((result["backend"], result["tokens_per_second"]["median"], result["mfu"]["median"]))
        for backend, rate, mfu in rates:
            lines.append(f"| {shape.folder} | {backend} | {rate:,.0f} | {mfu:.1%} | {ratios[0]} | {ratios[1]} |")
            highest[shape.folder] = max(mfu, highest.get(shape.folder, 0.0))
    return "\n".join(lines), min(highest, key=lambda name: highest[name]) if highest else ""


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "metrics.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


if __name__ == "__main__":
    main()
