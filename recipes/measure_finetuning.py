"""Measure fine-tuning on little data and on whole sets, beside transformers' Trainer with as many optimizer steps.

    python recipes/measure_finetuning.py run RESULTS.jsonl TASK DATA --model MODEL --rows 100 --seeds 0-9 [--FIELD VALUE ...]
    python recipes/measure_finetuning.py run RESULTS.jsonl TASK DATA --model MODEL --rows 100 --seeds 0-9 --peer --lr 1e-4 --steps 200
    python recipes/measure_finetuning.py table RESULTS.jsonl
    python recipes/measure_finetuning.py compare RESULTS.jsonl

TASK is one of the names in SETS, DATA the folder of measurement data. A seed draws the rows and the head. Half of the dev file, chosen by
hash, at most 250 rows of it with --rows, selects the model; the other half is the test set. A line of RESULTS is a run; those that are
there are not run again, so a command that was stopped goes on. `table` shows for each set, number of rows and setting: mean and standard
deviation over the seeds, and the worst run.
"""

import argparse
import gzip
import json
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bert.bench.finetuning import baseline_trainer, encoded
from bert.cli import main
from bert.finetuning.config import DataConfig, FinetuneOptimizer, FinetuneRecipe, WindowsConfig
from bert.finetuning.evaluation.record import METRICS
from bert.finetuning.finish import BEST
from bert.finetuning.inputs import prepare
from bert.finetuning.metrics import read as read_metrics
from bert.finetuning.tasks.index import task_named
from bert.model.hardware import cpu_multiplies_bf16
from bert.model.loss import IGNORED

MOST_DEV = 250
_STUCK = 2.0  # points above the score of a constant, to which a run has learned nothing


@dataclass(frozen=True)
class Set:
    """A set of the measurement data."""

    task: str
    train: str
    dev: str
    metric: str
    length: int = 64
    """of a sequence"""


SETS = {
    "sst2": Set("classify", "sst2/train_sentences.tsv.gz", "sst2/dev.tsv.gz", "accuracy"),
    "sst2-phrases": Set("classify", "sst2/train.tsv.gz", "sst2/dev.tsv.gz", "accuracy"),
    "ud-ewt": Set("tag", "ud-ewt/train.conllu.gz", "ud-ewt/dev.conllu.gz", "accuracy"),
    "ner-tweets": Set("tag", "ner-tweets/train.conll.gz", "ner-tweets/dev.conll.gz", "span_f1"),
    "mrpc": Set("classify", "pairs/train.tsv.gz", "pairs/dev.tsv.gz", "accuracy", 128),
    "stsb": Set("regression", "sts/train.tsv.gz", "sts/dev.tsv.gz", "spearman", 128),
    "zh-cls": Set("classify", "zh-cls/train.tsv.gz", "zh-cls/dev.tsv.gz", "accuracy", 128),
}


def units(file: Path) -> tuple[str, list[str]]:
    """The header of a table, empty for tagged sentences, and its rows or sentences."""
    text = gzip.decompress(file.read_bytes()).decode()
    if ".tsv" in file.name:
        header, *rows = text.rstrip("\n").split("\n")
        return f"{header}\n", [f"{row}\n" for row in rows]
    return "", [f"{sentence}\n\n" for sentence in text.strip().split("\n\n")]


def write_files(one: Set, data: Path, rows: int | None, seed: int, folder: Path) -> dict[str, str]:
    """Files of a run: `rows` training rows drawn by the seed, and both halves of the dev file."""
    header, train = units(data / one.train)
    if rows is not None:
        train = [train[number] for number in np.random.default_rng([seed, 29]).permutation(len(train))[:rows]]
    header, known = units(data / one.dev)
    halves = [[row for row in known if blake2b(row.encode()).digest()[0] % 2 == half] for half in (0, 1)]
    halves[0] = halves[0][: None if rows is None else MOST_DEV]
    suffix, files = Path(one.train).with_suffix("").suffix, {}
    for name, some in zip(("train", "dev", "test"), (train, *halves)):
        files[name] = str(folder / f"{name}{suffix}")
        Path(files[name]).write_text(header + "".join(some))
    return files


def ours(one: Set, files: Mapping[str, str], model: str, seed: int, options: list[str], folder: Path) -> dict[str, Any]:
    """A run of this package with further options of `bert finetune`."""
    named = [f"--{name}={file}" for name, file in files.items()]
    fixed = [
        f"--model={model}",
        f"--seed={seed}",
        f"--windows.sequence_length={one.length}",
        f"--select={one.metric}",  # as for the peer
        "--log.progress_bar=false",
    ]
    if main(["finetune", one.task, *fixed, *named, f"--out={folder / 'run'}", *options]):
        raise SystemExit("the run failed")
    report = json.loads((folder / "run" / "report" / METRICS).read_text())
    best = json.loads((folder / "run" / BEST).read_text())
    test, constant = ({name: one[key] for name, one in report["metrics"].items()} for key in ("value", "baseline"))
    return {"dev": best["dev"], "test": test, "constant": constant, "kept": best["step"]}


def peer(
    one: Set, files: Mapping[str, str], model: str, seed: int, lr: float, steps: int, folder: Path
) -> dict[str, Any]:
    """A run of transformers' Trainer as its examples use it: linear warm-up and decay, the best checkpoint of ten on dev."""
    windows, optimizer = WindowsConfig(sequence_length=one.length), FinetuneOptimizer(lr=lr)
    recipe = FinetuneRecipe(model=model, data=DataConfig(**files), windows=windows, optimizer=optimizer, seed=seed)
    recipe, data = prepare(task_named(one.task), recipe)
    task, often = task_named(one.task), max(1, steps // 10)

    def measured(found: Any) -> dict[str, float]:
        scores, right = torch.tensor(found.predictions), torch.tensor(found.label_ids)
        sizes = [1] * len(right)
        if one.task == "tag":
            sizes = (right != IGNORED).sum(1).tolist()
            scores, right = scores[right != IGNORED], right[right != IGNORED]
        task.update(data.metrics, scores, right, sizes)
        return read_metrics(data.metrics)

    arguments = {
        "output_dir": str(folder), "max_steps": steps, "bf16": cpu_multiplies_bf16(), "use_cpu": True, "eval_steps": often,
        "save_strategy": "steps", "save_steps": often, "save_total_limit": 1, "save_only_model": True,
        "load_best_model_at_end": True, "metric_for_best_model": one.metric, "greater_is_better": True,
    }  # fmt: skip
    trainer = baseline_trainer(data, recipe, arguments)
    trainer.compute_metrics = measured
    trainer.train()
    ids = {label: number for number, label in enumerate(data.labels)}
    test = [encoded(task, example, ids, trainer.processing_class, one.length) for example in data.test_examples]
    return {name: measured(trainer.predict(some)) for name, some in (("dev", trainer.eval_dataset), ("test", test))}


def run(options: argparse.Namespace, rest: list[str]) -> None:
    """Run the seeds that RESULTS does not have yet."""
    one, results = SETS[options.set], Path(options.results)
    first, _, last = options.seeds.partition("-")
    what = {"set": options.set, "rows": options.rows, "side": "peer" if options.peer else "ours"}
    what["how"] = f"lr {options.lr:g}, {options.steps} steps" if options.peer else " ".join(rest)
    for seed in range(int(first), int(last or first) + 1):
        if any(line.items() >= {**what, "seed": seed}.items() for line in lines(results)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            files, begin = write_files(one, Path(options.data), options.rows, seed, Path(folder)), time.perf_counter()
            if options.peer:
                found = peer(one, files, options.model, seed, options.lr, options.steps, Path(folder))
            else:
                found = ours(one, files, options.model, seed, rest, Path(folder))
        line = {**what, "seed": seed, "seconds": round(time.perf_counter() - begin, 1), **found}
        with results.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def lines(results: Path) -> list[dict[str, Any]]:
    """The runs in a file of results."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def table(options: argparse.Namespace) -> None:
    """Print mean, standard deviation and failed runs of each setting."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for line in lines(Path(options.results)):
        cells[line["set"], line["rows"], line["side"], line["how"]].append(line)
    for (name, rows, side, how), some in sorted(cells.items(), key=lambda cell: [str(part) for part in cell[0]]):
        metric = SETS[name].metric
        dev, test = (np.array([line[part][metric] for line in some]) for part in ("dev", "test"))
        spread = f"{100 * test.std(ddof=1):5.2f}" if len(some) > 1 else "    –"
        print(
            f"{name:12} {rows or 'all':>5} {side} {len(some):3} seeds  dev {100 * dev.mean():5.1f}  test {100 * test.mean():5.1f} ±{spread}"
            f"  worst {100 * test.min():5.1f}  {np.median([line['seconds'] for line in some]):4.0f} s  {how}"
        )


def compare(options: argparse.Namespace) -> None:
    """Print the cells of both sides, ours with the defaults and the peer at the best of its settings on dev, and what they come to."""
    cells: dict[tuple[str, Any], dict[str, dict[str, dict[int, dict[str, Any]]]]] = defaultdict(dict)
    for line in lines(Path(options.results)):
        sides = cells[line["set"], line["rows"]].setdefault(line["side"], {})
        sides.setdefault(line["how"], {})[line["seed"]] = line
    both = []
    for (name, rows), sides in sorted(cells.items(), key=str):
        if not ("peer" in sides and "" in sides.get("ours", {})):
            continue
        metric = SETS[name].metric
        tried = {how: np.mean([one["dev"][metric] for one in some.values()]) for how, some in sides["peer"].items()}
        most = max(len(some) for some in sides["peer"].values())
        how = max(tried, key=lambda one: (tried[one], len(sides["peer"][one])))
        known = sides["ours"][""], sides["peer"][how]
        seeds = sorted(known[0].keys() & known[1].keys())
        test = np.array([[100 * side[seed]["test"][metric] for seed in seeds] for side in known])
        low = 100 * next(iter(sides["ours"][""].values()))["constant"][metric]
        stuck = (test < low + _STUCK).sum(1)
        both.append(test)
        (mean, other), (spread, others) = test.mean(1), test.std(1, ddof=1)
        ours_ = f"{mean:5.1f} ± {spread:4.2f} (worst {test[0].min():5.1f}, stuck {stuck[0]})"
        print(
            f"{name:12} {rows or 'all':>5} {len(seeds):2} of {most:2} seeds  {ours_}"
            f"  peer {other:5.1f} ± {others:4.2f} (worst {test[1].min():5.1f}, stuck {stuck[1]}; {how} of {len(tried)})"
        )
    draw = np.random.default_rng(0)

    def ratio(chosen: list[np.ndarray]) -> float:
        spreads = [test[:, seeds].std(1, ddof=1) for test, seeds in zip(both, chosen)]
        return float(np.exp(np.mean([np.log(ours / theirs) for ours, theirs in spreads])))

    drawn = [ratio([draw.integers(0, test.shape[1], test.shape[1]) for test in both]) for _ in range(5000)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    wins = sum(test[0].mean() >= test[1].mean() for test in both)
    every = ratio([np.arange(test.shape[1]) for test in both])
    print(
        f"mean at least the peer's: {wins} of {len(both)}; ratio of standard deviations {every:.2f} ({low:.2f} to {high:.2f})"
    )


def main_() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["run", "table", "compare"])
    parser.add_argument("results")
    parser.add_argument("set", choices=SETS, nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--steps", type=int)
    options, rest = parser.parse_known_args()
    logging.basicConfig(level=logging.WARNING)
    {"run": partial(run, rest=rest), "table": table, "compare": compare}[options.what](options)


if __name__ == "__main__":
    main_()
