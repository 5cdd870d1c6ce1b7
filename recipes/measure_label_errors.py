"""Plant wrong labels in a file, and measure how many of them `bert finetune --label-errors` finds.

    python recipes/measure_label_errors.py plant train_sentences.tsv.gz flipped.tsv     # 5 % of the labels flipped
    bert finetune classify --train flipped.tsv --dev dev.tsv --model ENCODER --out RUN --label-errors …
    python recipes/measure_label_errors.py measure flipped.tsv RUN

The same for a .conll file: of 5 % of the entities half get another type, a quarter are dropped, a quarter get another boundary. What was
planted is in OUT.json. Folds that are finished are measured; the others may follow.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax

from bert.data.examples import read_examples
from bert.data.tagged import TaggedExample, read_tagged
from bert.finetuning.evaluation.label_errors import quality
from bert.finetuning.tags import spans
from bert.finetuning.tasks.index import task_named

SHARE = 0.05


def plant_texts(file: str, out: str, draw: random.Random) -> list[dict]:
    """Flip the labels of two classes; what was planted are the numbers of the examples."""
    rows = list(read_examples(file))
    names = sorted({one.label for one in rows})
    chosen = set(draw.sample(range(len(rows)), round(SHARE * len(rows))))
    labels = [names[1 - names.index(one.label)] if n in chosen else one.label for n, one in enumerate(rows)]
    lines = (f"{one.text}\t{label}\n" for one, label in zip(rows, labels))
    Path(out).write_text("sentence\tlabel\n" + "".join(lines), encoding="utf-8")
    return [{"example": number} for number in sorted(chosen)]


def plant_spans(file: str, out: str, draw: random.Random) -> list[dict]:
    """Corrupt entities; what was planted are the words of each, before and after."""
    rows = [(one.words, list(one.tags)) for one in read_tagged(file)]
    there = [(n, span) for n, (_, tags) in enumerate(rows) for span in spans(tags)]
    types, planted = sorted({span.type for _, span in there}), []
    for index, (n, (kind, start, end)) in enumerate(draw.sample(there, round(SHARE * len(there)))):
        tags, how, new = rows[n][1], ("type", "drop", "type", "boundary")[index % 4], None
        if how == "type":
            new = draw.choice([one for one in types if one != kind]), start, end
        elif how == "boundary":
            places = [(start + 1, end), (start, end - 1)] * (end - start > 1)
            places += [(start - 1, end)] * (start > 0 and tags[start - 1] == "O")
            places += [(start, end + 1)] * (end < len(tags) and tags[end] == "O")
            how, new = (how, (kind, *draw.choice(places))) if places else ("drop", None)
        tags[start:end] = ["O"] * (end - start)
        if new:
            tags[new[1] : new[2]] = [f"{'I' if word else 'B'}-{new[0]}" for word in range(new[2] - new[1])]
        low, high = (min(start, new[1]), max(end, new[2])) if new else (start, end)
        planted.append({"example": n, "kind": how, "start": low, "end": high})
    sentences = ("".join(f"{word}\t{tag}\n" for word, tag in zip(*row)) + "\n" for row in rows)
    Path(out).write_text("".join(sentences), encoding="utf-8")
    return planted


def folds_of(run: str) -> dict[int, np.ndarray]:
    """The number of each example of the finished folds, and its scores."""
    found = {}
    for file in sorted(Path(run, "folds").glob("fold-*.npz")):
        fold = np.load(file)
        parts = np.split(fold["scores"].astype(float), np.cumsum(fold["sizes"])[:-1])
        found |= dict(zip(fold["examples"].tolist(), parts, strict=True))
    return dict(sorted(found.items()))


def measure(file: str, run: str) -> None:
    """Print the share of what was planted among the most suspect examples, or spans."""
    scores, planted = folds_of(run), json.loads(Path(f"{file}.json").read_text())
    is_tagged = "kind" in planted[0]
    examples = list(read_tagged(file) if is_tagged else read_examples(file))
    task = task_named("tag" if is_tagged else "classify")
    labels, numbers = task.labels(examples), [*scores]
    asked, planted = [examples[n] for n in numbers], [one for one in planted if one["example"] in scores]
    print(f"{len(asked):,} examples of the finished folds, {len(planted)} planted")
    if not is_tagged:
        right = np.array([labels.index(one.label) for one in asked])
        order = quality(right, softmax(np.concatenate([*scores.values()]), axis=1)).argsort(kind="stable")
        wrong = np.isin(numbers, [one["example"] for one in planted])[order]
        for share in (0.05, 0.10):
            found = wrong[: round(share * len(wrong))].sum()
            print(f"{share:.0%} most suspect: {found / wrong.sum():.1%} of the planted")
        return
    task = task.fitted(labels, examples)
    found = sorted(
        task.suspects(asked, [torch.tensor(one) for one in scores.values()], labels), key=lambda one: one.score
    )
    report("spans", [(numbers[one.example], *words_of(asked[one.example], one)) for one in found], planted)
    loss = [(-float(np.log(softmax(row)[labels.index(tag)])), n, word, word + 1)
            for n, one in zip(numbers, asked) for word, (row, tag) in enumerate(zip(scores[n], one.tags))]  # fmt: skip
    report("words by loss", [one[1:] for one in sorted(loss, reverse=True)], planted)


def words_of(example: TaggedExample, suspect) -> tuple[int, int]:
    """The words of a suspect part of a sentence, which counts in characters."""
    inside = [n for n, (start, end) in enumerate(example.located()[1]) if start >= suspect.start and end <= suspect.end]
    return inside[0], inside[-1] + 1


def report(name: str, ranked: list[tuple[int, int, int]], planted: list[dict]) -> None:
    """Print the share of the planted errors that overlap one of twice as many of the most suspect parts."""
    most = ranked[: 2 * len(planted)]
    hit = [any(n == one["example"] and a < one["end"] and one["start"] < b for n, a, b in most) for one in planted]
    kinds = ("type", "drop", "boundary")
    each = (f"{kind} {np.mean([h for h, one in zip(hit, planted) if one['kind'] == kind]):.2f}" for kind in kinds)
    print(f"{name}: {np.mean(hit):.1%} ({', '.join(each)})")


if __name__ == "__main__":
    command, first, second = sys.argv[1:]
    if command == "plant":
        plant = plant_spans if ".conll" in first else plant_texts
        Path(f"{second}.json").write_text(json.dumps(plant(first, second, random.Random(0))) + "\n")
    else:
        measure(first, second)
