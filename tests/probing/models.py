"""A small random encoder with a tokenizer, and sentences in which words have two senses that show in what stands beside them."""

import random

import torch

from bert.data.vocabulary import train_tokenizer
from bert.model.config import EncoderConfig, HeadConfig
from bert.model.heads import MaskedLM
from bert.probing.rows import Row

FRUIT = ("sweet", "ripe", "juicy", "green", "sour", "fresh")
FIRM = ("phone", "profit", "software", "screen", "market", "shares")
SENSES = {"apple": {"fruit": FRUIT, "firm": FIRM}, "berry": {"fruit": FRUIT, "firm": FIRM}}


def sentence(word: str, companions: tuple[str, ...], seed: int) -> str:
    draw = random.Random(seed)
    a, b, c = draw.sample(companions, 3)
    return f"the {a} {b} of the {word} is {c}"


def sense_rows(each: int = 10) -> list[Row]:
    """`each` rows a sense and word, the senses in turn."""
    rows = []
    for word, senses in SENSES.items():
        for number in range(each):
            for sense, companions in senses.items():
                text = sentence(word, companions, number)
                start = text.index(word)
                rows.append(Row(text, f"rows.jsonl, line {len(rows) + 1}", word, (start, start + len(word)), sense))
    return rows


TEXTS = [row.sentence for row in sense_rows()] + [
    "她在超市买了一个苹果。",
    "苹果公司发布了新手机。",
    "The cat sat on the mat.",
]


def make_masked_lm(
    kind: str = "wordpiece", max_length: int = 32, head: HeadConfig | None = None, **shape: object
) -> MaskedLM:
    """Weights far enough from the start that attention and layers matter."""
    tokenizer = train_tokenizer(TEXTS * 2, kind, {"wordpiece": 120, "bpe": 300, "unigram": 60}[kind])
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 32} | shape
    model = MaskedLM(EncoderConfig(vocab_size=tokenizer.vocab_size, max_length=max_length, **sizes), head)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    model.tokenizer = tokenizer
    return model.eval()
