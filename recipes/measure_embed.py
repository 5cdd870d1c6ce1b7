"""`bert.embed` beside a loop over Hugging Face's model, on sentences of real text: alternating rounds, ratios with their spread.

    python recipes/measure_embed.py --model FOLDER --text TEXT.txt.gz --sentences 2000 --rounds 5 --threads 2

Both read the same folder in bf16, ours and theirs with its sdpa kernels, and pool the mean of the tokens. The peer takes
batches of 32 texts padded to their longest: in the order given, and sorted by the number of tokens. Tokenising is in all times.
Each model gets one short round before the first that counts. Run it on an idle machine.
"""

import argparse
import gzip
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    """Measure, print a row a round, then the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", required=True, help="model folder that Hugging Face opens too")
    parser.add_argument("--text", type=Path, required=True, help=".txt or .txt.gz, a paragraph a line")
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="texts of a batch of the peer")
    parser.add_argument(
        "--cpu-time", action="store_true", help="time of the processor in place of the clock's: busy machines"
    )
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if options.threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)

    import torch
    import transformers

    from bert.embed import embed
    from bert.model.encoder import Encoder

    torch.set_num_threads(options.threads)
    texts = sentences(options.text, options.sentences)
    encoder = Encoder.load(options.model).eval()
    peer = transformers.AutoModel.from_pretrained(
        options.model, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)

    @torch.inference_mode()
    def theirs(texts: list[str], is_sorted: bool) -> torch.Tensor:
        encoded = tokenizer(texts, truncation=True)["input_ids"]
        order = sorted(range(len(texts)), key=lambda place: -len(encoded[place])) if is_sorted else range(len(texts))
        vectors = torch.empty(len(texts), peer.config.hidden_size)
        for start in range(0, len(order), options.batch):
            places = list(order[start : start + options.batch])
            inputs = tokenizer.pad({"input_ids": [encoded[place] for place in places]}, return_tensors="pt")
            hidden = peer(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            vectors[places] = ((hidden * mask).sum(1) / mask.sum(1)).float()
        return vectors

    ways: dict[str, Callable[[list[str]], torch.Tensor]] = {
        "ours": lambda texts: embed(encoder, texts, bf16=True),
        "peer": lambda texts: theirs(texts, False),
        "peer sorted": lambda texts: theirs(texts, True),
    }
    clock = time.process_time if options.cpu_time else time.perf_counter
    few = {name: way(texts[:100]) for name, way in ways.items()}
    for name, vectors in few.items():
        likeness = torch.cosine_similarity(vectors, embed(encoder, texts[:100], bf16=False)).min()
        print(f"{name}: least cosine with fp32 {likeness:.5f}")
    print(f"{len(texts)} sentences, {options.threads} threads; seconds a round:", ", ".join(ways), flush=True)
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            begun = clock()
            way(texts)
            took[name].append(clock() - begun)
        print("  ".join(f"{times[-1]:.3f}" for times in took.values()), flush=True)
    for name in ("peer", "peer sorted"):
        ratios = [other / ours for other, ours in zip(took[name], took["ours"])]
        print(f"{name} / ours: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


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
