"""Little tasks over the words of the tiny run's corpus, and a tiny encoder with its tokenizer to learn them with."""

import random
from dataclasses import replace

from bert.data.tokenizer import Tokenizer
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder
from tests.conftest import OBJECTS, PLACES, SUBJECTS, VERBS, run_quietly

FAST = [
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
    "--log.progress_bar=false",
    "--log.every_steps=1",
    "--optimizer.lr=3e-3",
    "--head.probe_examples=0",
]
"""flags of a run that is small and the same everywhere; a probe of an encoder that has learned little would fit all examples at once"""


def sentences(count, seed=0):
    """Words and their tags: S-ubject, V-erb, O-bject and P-lace spans."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        words, tags = [], []
        for kind, choices in (("WHO", SUBJECTS), ("", VERBS), ("WHAT", OBJECTS), ("", PLACES)):
            part = draw.choice(choices).split()
            words += part
            tags += [f"{'I' if place else 'B'}-{kind}" for place in range(len(part))] if kind else ["O"] * len(part)
        made.append((words, tags))
    return made


def write_tagged(file, rows):
    file.write_text("".join("".join(f"{w}\t{t}\n" for w, t in zip(*row)) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def texts(count, seed=0):
    """Sentences with a label that follows from one word: is it about the morning, the night, or neither?"""
    made = []
    for words, _ in sentences(count, seed):
        text = " ".join(words)
        made.append((text, "early" if "morning" in text else "late" if "night" in text else "other"))
    return made


def long_texts(count, seed=0):
    """Texts of one to five sentences of which the last alone says which of two labels it is."""
    draw = random.Random(seed)
    fillers = [text for text, label in texts(200, seed) if label == "other"]
    made = []
    for number in range(count):
        cue, label = (("in the morning", "early"), ("at night", "late"))[number % 2]
        filler = [draw.choice(fillers) for _ in range(draw.randrange(5))]
        made.append((" ".join([*filler, draw.choice(SUBJECTS), draw.choice(VERBS), cue]), label))
    return made


def joined(rows, size=4):
    """Sentences that are several of `rows` in a line."""
    parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    return [([w for words, _ in part for w in words], [t for _, tags in part for t in tags]) for part in parts]


def write_texts(file, rows):
    file.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    return str(file)


def fine_tune_both(run, folder, examples, tagged, *flags, epochs=(1, 1)):
    """A classifier and a tagger from one fresh encoder, in `folder`/classify and `folder`/tag."""
    flags = ["--model", save_encoder(run, folder / "encoder"), *FAST, "--data.batch_size=8", *flags]
    files = write_texts(folder / "train.tsv", examples), write_tagged(folder / "train.conll", tagged)
    for task, file, count in zip(("classify", "tag"), files, epochs):
        run_quietly(["finetune", task, *flags, f"--epochs={count}", "--train", file, "--out", str(folder / task)])


def save_encoder(run, folder, **shape):
    """A bare encoder with fresh weights and the tokenizer of `run`."""
    import torch

    torch.manual_seed(0)
    tokenizer = Tokenizer.load(run / "tokenizer")
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64, "max_length": 64} | shape
    encoder = Encoder(EncoderConfig(vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, **sizes))
    encoder.tokenizer = tokenizer
    encoder.save(folder)
    return str(folder)


def save_random(run, folder, name, labels, settings=None):
    """A model for the task `name` with random weights that are large enough for predictions of all kinds."""
    import torch

    from bert.finetuning.tasks.index import task_named
    from bert.model.config import task_head

    torch.manual_seed(0)
    task, tokenizer = task_named(name), Tokenizer.load(run / "tokenizer")
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64, "max_length": 64}
    config = EncoderConfig(vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, **sizes)
    head = replace(task_head(config, labels, per_token=name == "tag"), problem_type=task.problem_type)
    model = task.model(config, head)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.tokenizer, model.settings = tokenizer, settings or {}
    model.eval().save(folder)
    return folder
