"""Speed of decoding relative to transformers' `generate`: the same random weights (Marian), sources and beams, in turn.

    python recipes/measure_generation.py LAYERS WIDTH [--rounds 5] [--tokens 64] [--threads 2]

32 sources of 32 tokens; targets never end, so that both compute as many tokens. Prints tokens of all targets a second, medians over rounds,
and the ratio in each round. The targets of both are compared.
"""

import argparse
import statistics
import tempfile
import time

import torch
import transformers as hf

from bert.inference.generation import GenerationConfig, generate
from bert.model.decoder import Seq2Seq

SOURCES, VOCABULARY, END, PAD = 32, 8_000, 0, 7_999


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("layers", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    heads, length = options.width // 64, options.tokens + 1
    both = {f"{side}_{name}": value for side in ("encoder", "decoder")
            for name, value in (("layers", options.layers), ("attention_heads", heads), ("ffn_dim", 4 * options.width))}  # fmt: skip
    ids = {"pad_token_id": PAD, "decoder_start_token_id": PAD, "eos_token_id": END, "forced_eos_token_id": None}
    shape = {
        "vocab_size": VOCABULARY,
        "d_model": options.width,
        "max_position_embeddings": 256,
        "scale_embedding": True,
    }
    theirs = hf.MarianMTModel(hf.MarianConfig(**both, **ids, **shape)).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = Seq2Seq.load(folder)
    sources = torch.randint(1, PAD, (SOURCES, 32))
    mask = torch.ones_like(sources)
    for beams in (1, 4):
        config = GenerationConfig(num_beams=beams, max_length=length, bad_words=[[END]])
        how = {"num_beams": beams, "max_length": length, "min_length": length, "do_sample": False, "use_cache": True}
        rates: list[tuple[float, float]] = []
        for _ in range(options.rounds + 1):
            begin = time.perf_counter()
            found = generate(ours, sources, mask, config)
            middle = time.perf_counter()
            with torch.inference_mode():
                expected = theirs.generate(input_ids=sources, attention_mask=mask, **how)
            end = time.perf_counter()
            rates.append((SOURCES * options.tokens / (middle - begin), SOURCES * options.tokens / (end - middle)))
        equal = sum(some[0].ids == row[1:] for some, row in zip(found, expected.tolist()))
        ratios = [one / other for one, other in rates[1:]]  # the first round warms up
        mine, other = (statistics.median(side) for side in zip(*rates[1:]))
        print(
            f"{options.layers} × {options.width}, {beams} beams: {mine:,.0f} and {other:,.0f} tokens/s, ratio"
            f" {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}); {equal} of {SOURCES} targets equal",
            flush=True,
        )


if __name__ == "__main__":
    main()
