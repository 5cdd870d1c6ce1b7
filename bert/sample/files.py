"""The sample as files for the commands."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bert.sample.make import SenseRow, Tagged, make_sample
from bert.sample.parallel import make_translations

SHOWN = ("apple", "苹果")  # words with a file of their sentences


def write_sample(folder: Path, languages: Sequence[str] = ("en", "zh"), seed: int = 0) -> list[Path]:
    """Write one sample of all `languages` to `folder`, and return the files.

    corpus.txt (documents separated by empty lines), topics-train.tsv and topics-test.tsv (text, label), tags-train.conll and
    tags-test.conll (word, tag), senses-train.jsonl and senses-test.jsonl (word, sentence, start, end, sense; positions in characters),
    pairs.jsonl (good, bad), prompts.jsonl (word, sense, text), and sentences-WORD.txt, with one occurrence a line. Of both languages also
    translations-train.tsv, translations-test.tsv and translations-templates.tsv (text, translation).
    """
    samples = [make_sample(language, seed) for language in languages]
    files = {"corpus.txt": "\n\n".join(text for sample in samples for text in sample.corpus) + "\n"}
    for part in ("train", "test"):
        topics = [row for sample in samples for row in getattr(sample, f"topics_{part}")]
        files[f"topics-{part}.tsv"] = _lines("\t".join(row) for row in [("text", "label"), *topics])
        tags = [row for sample in samples for row in getattr(sample, f"tags_{part}")]
        files[f"tags-{part}.conll"] = "\n".join(_conll(row) for row in tags)
        senses = [row for sample in samples for row in getattr(sample, f"senses_{part}")]
        files[f"senses-{part}.jsonl"] = _jsonl(senses)
    files["pairs.jsonl"] = _jsonl([pair for sample in samples for pair in sample.pairs])
    files["prompts.jsonl"] = _jsonl([prompt for sample in samples for prompt in sample.prompts])
    rows: list[SenseRow] = [row for sample in samples for row in sample.senses_train + sample.senses_test]
    if {"en", "zh"} <= {*languages}:
        for part, pairs in vars(make_translations(seed)).items():
            files[f"translations-{part}.tsv"] = _lines("\t".join(row) for row in [("text", "translation"), *pairs])
    for word in SHOWN:
        lines = [row.sentence for row in rows if row.word == word]
        if lines:
            files[f"sentences-{word}.txt"] = _lines(lines)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode("utf-8"))  # bytes: the same newlines on every platform
    return [folder / name for name in files]


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _jsonl(rows: Iterable[Any]) -> str:
    return _lines(json.dumps(asdict(row), ensure_ascii=False) for row in rows)


def _conll(row: Tagged) -> str:
    return _lines(f"{word}\t{tag}" for word, tag in zip(*row, strict=True))
