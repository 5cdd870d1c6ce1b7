"""`bert.inference` compared with a loop over Hugging Face's model, on sentences of real text: alternating rounds, ratios with their spread.

    python recipes/measure_embed.py --model FOLDER --text TEXT.txt.gz --sentences 2000 --rounds 7 --threads 2

Both read the same folder in bf16, the baseline with its sdpa kernels, and pool by the mean over tokens. The baseline uses batches of 32
texts, padded to the longest: in the given order, and sorted by the number of tokens. All times include tokenization. Each variant has its
own process, so that none affects the memory allocation of another; they take turns. Run it on an idle machine.
"""

import argparse
import gzip
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WAYS = ("ours", "baseline", "baseline sorted")


def main() -> None:
    """Measure, print one row per round, then the median ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", required=True, help="model folder that transformers can open")
    parser.add_argument("--text", type=Path, required=True, help=".txt or .txt.gz with one paragraph per line")
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="batch size of the baseline")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time instead of wall time, for a busy machine"
    )
    options = parser.parse_args()
    texts = sentences(options.text, options.sentences)
    # read by the workers when they start: the number of threads, and threads that sleep while they wait
    os.environ |= {
        "OMP_NUM_THREADS": str(options.threads),
        "RAYON_NUM_THREADS": str(options.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    context = multiprocessing.get_context("spawn")
    turns: dict[str, Connection] = {}
    for way in WAYS:
        turns[way], end = context.Pipe()
        context.Process(target=work, args=(end, way, texts, options), daemon=True).start()
    vectors = {way: turn.recv() for way, turn in turns.items()}
    for way in WAYS[1:]:
        print(f"{way}: lowest cosine with our vectors {cosine(vectors[way], vectors['ours']):.5f}")
    print(f"{len(texts)} sentences, {options.threads} threads; seconds a round: {', '.join(WAYS)}", flush=True)
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, turn in turns.items():
            turn.send(True)
            took[way].append(turn.recv())
        print("  ".join(f"{times[-1]:.3f}" for times in took.values()), flush=True)
    for turn in turns.values():
        turn.send(False)
    for way in WAYS[1:]:
        ratios = [other / ours for other, ours in zip(took[way], took["ours"])]
        print(f"{way} / ours: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def work(turn: Connection, way: str, texts: list[str], options: argparse.Namespace) -> None:
    """A worker process: sends the vectors of the first texts and then, at each turn, the seconds for all texts."""
    import torch

    torch.set_num_threads(options.threads)
    embed = ours(options.model) if way == "ours" else baseline(options.model, options.batch, way == "baseline sorted")
    turn.send(embed(texts[:200]).tolist())
    clock = time.process_time if options.cpu_time else time.perf_counter
    while turn.recv():
        begun = clock()
        embed(texts)
        turn.send(clock() - begun)


def ours(model: str) -> Callable[[list[str]], Any]:
    """Texts to vectors by this package."""
    from bert.inference.embeddings import embed
    from bert.model.encoder import Encoder

    encoder = Encoder.load(model)
    return lambda texts: embed(encoder, texts, bf16=True)


def baseline(model: str, batch: int, is_sorted: bool) -> Callable[[list[str]], Any]:
    """Texts to vectors by Hugging Face's model and tokenizer."""
    import torch
    import transformers

    network = transformers.AutoModel.from_pretrained(model, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    @torch.inference_mode()
    def embed(texts: list[str]) -> torch.Tensor:
        encoded = tokenizer(texts, truncation=True)["input_ids"]
        order = sorted(range(len(texts)), key=lambda index: -len(encoded[index])) if is_sorted else range(len(texts))
        vectors = torch.empty(len(texts), network.config.hidden_size)
        for start in range(0, len(order), batch):
            indices = list(order[start : start + batch])
            inputs = tokenizer.pad({"input_ids": [encoded[index] for index in indices]}, return_tensors="pt")
            mask = inputs["attention_mask"][..., None]
            hidden = network(**inputs).last_hidden_state
            vectors[indices] = ((hidden * mask).sum(1) / mask.sum(1)).float()
        return vectors

    return embed


def cosine(some: list[list[float]], others: list[list[float]]) -> float:
    """The lowest cosine of a vector with its counterpart."""
    import torch

    return float(torch.cosine_similarity(torch.tensor(some), torch.tensor(others)).min())


def sentences(file: Path, count: int) -> list[str]:
    """The first `count` sentences of at least four words."""
    found: list[str] = []
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for line in lines:
            found += [part for part in re.split(r"(?<=[.!?]) (?=[A-Z])", line.strip()) if part.count(" ") >= 3]
            if len(found) >= count:
                break
    return found[:count]


if __name__ == "__main__":
    main()
