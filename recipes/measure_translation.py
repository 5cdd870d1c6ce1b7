"""Translation of the bundled sample: a new encoder and decoder by the defaults, beside a dictionary word by word.

    python recipes/measure_translation.py OUT [--seed 0] [--FIELD VALUE ...]

Trains on 5,000 pairs in OUT, and prints the share of exactly translated sentences of known frames and of frames that are not in the
training file, BLEU of both, the same for the dictionary, and the seconds of the whole command. A tenth of the pairs chooses the model.
Further options are those of `bert finetune`.
The dictionary gives each English word the Chinese text of up to four characters with the largest Dice coefficient.
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bert.cli import main
from bert.finetuning.config import DataConfig
from bert.finetuning.evaluate import evaluate
from bert.finetuning.evaluation.per_example import Counts, csr_array
from bert.finetuning.evaluation.scored import first
from bert.finetuning.evaluation.translation import formula, statistics
from bert.sample.files import write_sample
from bert.sample.parallel import make_translations

Row = tuple[str, str]


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[.,]", text.lower())


def dictionary(rows: Sequence[Row]) -> dict[str, str]:
    """Each word, and the text that occurs with it and not without it."""
    of_word, of_text, of_both = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for text, target in rows:
        found = {target[begin : begin + size] for size in range(1, 5) for begin in range(len(target) - size + 1)}
        of_word.update(set(words(text)))
        of_text.update(found)
        of_both.update((word, part) for word in set(words(text)) for part in found)
    best: dict[str, tuple[float, int, str]] = {}
    for (word, part), count in of_both.items():
        score = 2 * count / (of_word[word] + of_text[part]), len(part), part
        best[word] = max(best.get(word, score), score)
    return {word: part for word, (_, _, part) in best.items()}


def measured(found: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """BLEU, chrF and exact matches of translations."""
    counts = Counts((), csr_array(statistics(found, [target for _, target in rows], "zh")), formula)
    return first(counts.metrics([[1.0] * len(rows)]))  # type: ignore[arg-type]


def of_dictionary(train: Sequence[Row], rows: Sequence[Row]) -> dict[str, float]:
    """The metrics of translations word by word."""
    known = dictionary(train)
    return measured(["".join(known.get(word, "") for word in words(text)) for text, _ in rows], rows)


def run(options: argparse.Namespace, rest: list[str]) -> dict[str, dict[str, float]]:
    out = Path(options.out)
    write_sample(out / "sample")
    files = [f"--train={out}/sample/translations-train.tsv", f"--test={out}/sample/translations-test.tsv"]
    begin = time.perf_counter()
    if main(["finetune", "translate", *files, f"--out={out}/run", f"--seed={options.seed}", *rest]):
        raise SystemExit("the run failed")
    print(f"{time.perf_counter() - begin:.0f} seconds")
    sample, found = make_translations(), {}
    for name, rows in (("test", sample.test), ("templates", sample.templates)):
        one = evaluate(out / "run" / "model", f"{out}/sample/translations-{name}.tsv", DataConfig())
        found[name], found[f"{name}, dictionary"] = one.metrics, of_dictionary(sample.train, rows)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    for name, values in run(*parser.parse_known_args()).items():
        print(f"{name:24}", "  ".join(f"{metric} {value:.3f}" for metric, value in values.items()))
