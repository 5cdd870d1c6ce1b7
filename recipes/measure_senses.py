"""Compare `bert senses --config coarsewsd20` with an independent computation of the published protocol by transformers.

    bert senses coarsewsd20.jsonl --model MODEL --config coarsewsd20 --out senses.json
    python recipes/measure_senses.py coarsewsd20.jsonl MODEL senses.json

Loureiro et al. 2021: each word between spaces is tokenized by itself; the vector of the target is the mean over its tokens; a sense is
the mean of its vectors in the training rows; a test row gets the sense with the largest cosine. Test rows are every fifth row of each
word and sense. Prints, for each method, the largest difference of the accuracies of a word, in points.
"""

import gzip
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer


def located(row: dict[str, Any], tokenizer: Any) -> tuple[list[int], int, int]:
    """The token ids of a sentence, and the first token of its target and the one after the last."""
    words = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in row["sentence"].split(" ")]
    begin = 1 + sum(map(len, words[: row["index"]]))
    ids = [tokenizer.cls_token_id, *(one for word in words for one in word), tokenizer.sep_token_id]
    return ids, begin, begin + len(words[row["index"]])


@torch.inference_mode()
def vectors(rows: list[dict[str, Any]], model: Any, tokenizer: Any) -> np.ndarray:
    """(n, layers, D) fp64 vectors of the targets, 16 sentences at a time."""
    places = [located(row, tokenizer) for row in rows]
    found: list[Any] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda row: len(places[row][0]))
    for some in (order[begin : begin + 16] for begin in range(0, len(order), 16)):
        width = max(len(places[row][0]) for row in some)
        ids = torch.tensor([places[row][0] + [tokenizer.pad_token_id] * (width - len(places[row][0])) for row in some])
        mask = torch.tensor([[1] * len(places[row][0]) + [0] * (width - len(places[row][0])) for row in some])
        states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        for number, row in enumerate(some):
            _, begin, end = places[row]
            found[row] = np.stack([state[number, begin:end].mean(0).double().numpy() for state in states])
    return np.stack(found)


def accuracies(rows: list[dict[str, Any]], model: Any, tokenizer: Any) -> list[float]:
    """Of one word in each layer, and in the sum of the last four."""
    seen, is_test = Counter[str](), []
    for row in rows:
        seen[row["sense"]] += 1
        is_test.append(seen[row["sense"]] % 5 == 0)
    layers = vectors(rows, model, tokenizer)
    layers = np.concatenate([layers, layers[:, -4:].sum(1, keepdims=True)], axis=1)
    test, gold = np.array(is_test), np.array([row["sense"] for row in rows])
    names, sizes = np.unique(gold[~test], return_counts=True)
    found = []
    for column in range(layers.shape[1]):
        one = layers[:, column]
        senses = np.stack([one[~test & (gold == name)].mean(0) for name in names])
        near = one[test] @ senses.T / np.linalg.norm(one[test], axis=1)[:, None] / np.linalg.norm(senses, axis=1)
        best = np.where(near > near.max(1, keepdims=True) - 1e-7, sizes, -1).argmax(1)  # ties: the more frequent
        found.append(float((names[best] == gold[test]).mean()))
    return found


def main(data: str, folder: str, ours: str) -> None:
    """Print the largest difference of each method."""
    content = Path(data).read_bytes()
    text = (gzip.decompress(content) if data.endswith(".gz") else content).decode()
    by_word = defaultdict(list)
    for row in map(json.loads, text.splitlines()):
        by_word[row["word"]].append(row)
    measured = json.loads(Path(ours).read_text())
    of = {(row["word"], row["method"]): row["accuracy"] for row in measured["words"]}
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    largest: dict[str, tuple[float, str]] = {}
    for word, rows in by_word.items():
        found = accuracies(rows, model, tokenizer)
        methods = [*(f"layer {layer}" for layer in range(len(found) - 1)), measured["headline"]]
        for method, accuracy in zip(methods, found):
            difference = 100 * abs(accuracy - of[word, method])
            largest[method] = max(largest.get(method, (0.0, "")), (difference, word))
        print(word, " ".join(f"{accuracy:.4f}" for accuracy in found), flush=True)
    for method, (difference, word) in largest.items():
        print(f"{method:12} largest difference {difference:.3f} points ({word})")


if __name__ == "__main__":
    main(*sys.argv[1:])
