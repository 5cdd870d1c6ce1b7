"""The metrics of fine-tuning and probing in LOG.md: finished results are saved row by row and not measured again.

    make measure DATA=path/to/data ENGLISH=runs/mini-enwiki/model CHINESE=runs/mini-zh/model KNOWN_GOOD=path/to/model

Encoders that are not given are skipped.

A result belongs to (task, encoder, seed). It runs the commands that a user would type, each in its own process, and appends the metrics to
OUT/figures.tsv; after an interruption the same command resumes with the next result. It ends with tables: mean ± standard deviation over
seeds.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).parent / "finetune"
COLUMNS = ["task", "encoder", "seed", "metric", "value", "seconds", "commit"]
SEEDS = (0, 1, 2)
KNOWN_GOOD_FLAGS = ("--optimizer.lr", "1e-4")  # wider and pretrained longer than the encoders that the recipes are for


@dataclass(frozen=True)
class Task:
    """A task to fine-tune on: the recipe of the same name, and its files."""

    name: str
    kind: str
    train: str
    dev: str
    control_seeds: int = 1
    """seeds of the randomly initialized control: more if the two are close"""


ENGLISH = (
    Task("sst2", "classify", "sst2/train.tsv.gz", "sst2/dev.tsv.gz", control_seeds=3),
    Task("ud-ewt-pos", "tag", "ud-ewt/train.conllu.gz", "ud-ewt/dev.conllu.gz"),
    Task("ner-en", "tag", "ner-en/train.conll.gz", "ner-en/dev.conll.gz"),
)
CHINESE = (
    Task("zh-cls", "classify", "zh-cls/train.tsv.gz", "zh-cls/dev.tsv.gz", control_seeds=3),
    Task("zh-ner", "tag", "zh-ner/train.conll.gz", "zh-ner/dev.conll.gz"),
)
SENSES = "coarsewsd20/train.jsonl.gz"


def main() -> None:
    """Measure missing results, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder of the measurement data")
    parser.add_argument("--english", type=Path, help="model folder of an English encoder")
    parser.add_argument("--chinese", type=Path, help="model folder of a Chinese encoder")
    parser.add_argument("--known-good", type=Path, help="model folder of a released English encoder, without a control")
    parser.add_argument("--out", type=Path, default=Path("runs/measure"), help="folder for results and run directories")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    figures = Figures(options.out / "figures.tsv")
    for model, name, tasks in (
        (options.english, "english", ENGLISH),
        (options.chinese, "chinese", CHINESE),
        (options.known_good, "known-good", ENGLISH[:1]),
    ):
        if model is not None:
            measure(figures, options, model, name, tasks)
    print(figures.tables())


def measure(figures: "Figures", options: argparse.Namespace, model: Path, name: str, tasks: tuple[Task, ...]) -> None:
    """All results of one encoder: three seeds of the pretrained one, the control seeds of the task for its randomly initialized twin, one
    seed of a released one."""
    released = name == "known-good"
    encoders = {name: model}
    if not released:
        encoders[f"{name}, random"] = random_twin(model, options.out / f"{name}-random")
    for task in tasks:
        for encoder, folder in encoders.items():
            count = 1 if released else len(SEEDS) if encoder == name else task.control_seeds
            for seed in SEEDS[:count]:
                if not figures.has(task.name, encoder, seed):
                    run = options.out / "runs" / f"{task.name}-{encoder.replace(', ', '-')}-{seed}"
                    began = time.monotonic()
                    found = finetune(task, folder, options.data, run, seed, KNOWN_GOOD_FLAGS if released else ())
                    figures.add(task.name, encoder, seed, found, time.monotonic() - began)
    if name != "chinese" and not figures.has("senses", name, 0):
        out, began = options.out / f"senses-{name}.json", time.monotonic()
        bert("senses", str(options.data / SENSES), "--model", str(model), "--out", str(out))
        figures.add("senses", name, 0, dict(sense_figures(json.loads(out.read_text()))), time.monotonic() - began)


def finetune(task: Task, model: Path, data: Path, run: Path, seed: int, flags: Sequence[str] = ()) -> dict[str, float]:
    """Fine-tune as a user would, and evaluate the model of the run."""
    from bert.finetuning.config import DataConfig
    from bert.finetuning.evaluate import evaluate

    given = {"config": RECIPES / f"{task.name}.yaml", "model": model, "train": data / task.train}
    given |= {"dev": data / task.dev, "out": run, "seed": seed}
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    bert("finetune", task.kind, *options, "--overwrite", *flags)
    found = evaluate(run / "model", str(data / task.dev), DataConfig())
    return found.metrics | {f"baseline {name}": value for name, value in found.baseline.items()}


def bert(*arguments: str) -> None:
    """One command of the package in its own process, with the output of this one."""
    print(f"bert {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "bert", *arguments], check=True)


def random_twin(model: Path, folder: Path) -> Path:
    """A model of the same shape and tokenizer with random initialization: the control."""
    if not folder.exists():
        from bert import Encoder
        from bert.probing.senses import random_like

        random_like(Encoder.load(model), seed=0).save(folder)
    return folder


def sense_figures(report: dict) -> Iterator[tuple[str, float]]:
    """(name, value) for every method of `bert senses`, over words and for "apple"."""
    for method, scores in report["overall"].items():
        for metric, value in scores.items():
            yield f"{method}: {metric}", value
    for row in report["words"]:
        if row["word"] == "apple":
            yield f"apple, {row['method']}: accuracy", row["accuracy"]


class Figures:
    """Finished results as rows of a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[dict[str, str]] = []
        if file.exists():
            with file.open(newline="", encoding="utf-8") as stream:
                self.rows = list(csv.DictReader(stream, delimiter="\t"))

    def has(self, task: str, encoder: str, seed: int) -> bool:
        """Whether this result is finished."""
        return any((row["task"], row["encoder"], row["seed"]) == (task, encoder, str(seed)) for row in self.rows)

    def add(self, task: str, encoder: str, seed: int, found: dict[str, float], seconds: float) -> None:
        """Append a finished result: a row for each of its metrics, all written at once."""
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        common = {"task": task, "encoder": encoder, "seed": str(seed), "seconds": f"{seconds:.0f}"}
        rows = [
            common | {"metric": metric, "value": f"{value:.6f}", "commit": commit.stdout.strip()}
            for metric, value in found.items()
        ]
        new = not self.file.exists()
        with self.file.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS, delimiter="\t")
            if new:
                writer.writeheader()
            writer.writerows(rows)
        self.rows += rows

    def tables(self) -> str:
        """Mean ± standard deviation over seeds, a line per task, metric and encoder."""
        cells: dict[tuple[str, str, str], list[float]] = {}
        for row in self.rows:
            cells.setdefault((row["task"], row["metric"], row["encoder"]), []).append(float(row["value"]))
        lines = ["| task | metric | encoder | mean ± sd | seeds |", "|---|---|---|---|---|"]
        for (task, metric, encoder), values in cells.items():
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            lines.append(f"| {task} | {metric} | {encoder} | {statistics.mean(values):.4f}{spread} | {len(values)} |")
        return "\n".join(lines)


if __name__ == "__main__":
    main()
