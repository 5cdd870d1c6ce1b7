"""Measure a tagger on running text: against the words that it was given, without constraints, and against transformers.

    python recipes/measure_spans.py MODEL DEV.conll[.gz] [--speed]
    python recipes/measure_spans.py MODEL DEV.conllu[.gz] [--speed]

The text of CoNLL sentences is made of their words, separated by spaces; without spaces if most words are single characters. That of CoNLL-U
is made by `SpaceAfter=No`. Spans are compared in characters; parts of speech as in the CoNLL 2018 shared task (Zeman et al. 2018): a word
is aligned with a gold word of the same characters, and F1 counts the aligned words with the right tag. Intervals are of 2,000 paired
bootstrap samples of the sentences. `--speed` alternates text and words, seven times.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from bert.data.tagged import TaggedExample
from bert.finetuning.config import DataConfig
from bert.finetuning.predict import Predictor, load_predictor
from bert.finetuning.tags import spans
from bert.finetuning.tasks.tag import Tag, TagPrediction

SAMPLES = 2000


def joined(examples: Sequence[TaggedExample]) -> list[TaggedExample]:
    """The sentences with the spaces that their text has."""
    words = [word for example in examples for word in example.words]
    alone = sum(len(word) == 1 for word in words) > 0.95 * len(words)
    return [replace(one, joined=one.joined or (alone,) * len(one.words)) for one in examples]


def gold(example: TaggedExample, parts_of_speech: bool) -> set[tuple[int, int, str]]:
    """The spans of the tags of an example, or its words, in characters."""
    offsets, tags = example.located()[1], example.tags or ()
    if parts_of_speech:
        return {(start, end, tag) for (start, end), tag in zip(offsets, tags, strict=True)}
    return {(offsets[start][0], offsets[end - 1][1], kind) for kind, start, end in spans(tags)}


def counts(predictions: Sequence[TagPrediction], right: Sequence[set[tuple[int, int, str]]]) -> np.ndarray:
    """(N, 3): correct, predicted and gold spans of each text."""
    found = [{(span.start, span.end, span.type) for span in one.spans} for one in predictions]
    return np.array([(len(one & there), len(one), len(there)) for one, there in zip(found, right, strict=True)])


def f1(counted: np.ndarray) -> float:
    correct, predicted, there = counted.sum(0)
    return float(200 * correct / max(1, predicted + there))


def compared(first: np.ndarray, second: np.ndarray, what: str) -> None:
    """Print both scores, and their difference with its paired interval."""
    draws = np.random.default_rng(0).integers(0, len(first), (SAMPLES, len(first)))
    differences = [f1(second[draw]) - f1(first[draw]) for draw in draws]
    low, high = np.percentile(differences, [2.5, 97.5])
    change = f1(second) - f1(first)
    print(f"{what}: {f1(first):.2f} -> {f1(second):.2f}, {change:+.2f} (95 % of samples {low:+.2f} to {high:+.2f})")


def predictions(predictor: Predictor, examples: Sequence[Any]) -> list[TagPrediction]:
    return [prediction for _, prediction in predictor(examples)]


def against_transformers(predictor: Predictor, folder: str, texts: Sequence[str]) -> None:
    """Compare the spans with those of a pipeline, in texts whose words are those of the pipeline and whose tags are legal."""
    from transformers import AutoTokenizer, pipeline

    tokenizer, task, labels = AutoTokenizer.from_pretrained(folder), predictor.task, predictor.model.labels
    assert isinstance(task, Tag)
    what = {"model": folder, "tokenizer": tokenizer, "aggregation_strategy": "first", "device": "cpu"}
    theirs = pipeline("token-classification", **what)

    def predicted(learned: Tag) -> list[TagPrediction]:
        return predictions(replace(predictor, task=learned), [learned.example(text) for text in texts])

    of_pipeline = predicted(Tag(labels, task.scheme))  # words as in a model from elsewhere
    for name, splitter in (("words of the pipeline", None), ("words of training", task.splitter)):
        found, argmax = predicted(Tag(labels, task.scheme, splitter)), predicted(Tag(labels, None, splitter))
        legal = [one.tags == other.tags for one, other in zip(found, argmax, strict=True)]
        same_words = [one.offsets == other.offsets for one, other in zip(found, of_pipeline, strict=True)]
        taken = [number for number in range(len(texts)) if legal[number] and same_words[number]]
        equal = sum(are_equal(found[number], theirs(texts[number])) for number in taken)
        print(
            f"transformers, {name}: equal in {equal:,} of {len(taken):,} texts;"
            f" excluded: {1 - np.mean(legal):.1%} not legal, {1 - np.mean(same_words):.1%} of other words"
        )


def are_equal(ours: TagPrediction, theirs: Sequence[Any]) -> bool:
    """Whether two lists of spans are the same, with scores that differ by less than 0.002 (ours are rounded)."""
    if [(s.start, s.end, s.type) for s in ours.spans] != [(s["start"], s["end"], s["entity_group"]) for s in theirs]:
        return False
    return all(abs(one.score - float(other["score"])) < 2e-3 for one, other in zip(ours.spans, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("file")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    predictor = load_predictor(options.model, bf16=False)
    task = predictor.task
    assert isinstance(task, Tag)
    examples = joined(list(predictor.read(options.file, DataConfig())))
    parts_of_speech = ".conllu" in options.file
    right = [gold(example, parts_of_speech) for example in examples]
    texts = [example.located()[0] for example in examples]
    raw = [task.example(text) for text in texts]
    of_words, of_text = (predictions(predictor, some) for some in (examples, raw))
    print(
        f"{options.file}: {len(examples):,} sentences, {sum(len(one.words) for one in examples):,} words, {len(texts):,} texts"
    )
    assert all(span.text == one.text[span.start : span.end] for one in of_text for span in one.spans)
    compared(counts(of_words, right), counts(of_text, right), "given words -> text")
    if task.transitions is not None:
        free = replace(predictor, task=Tag(predictor.model.labels, None, task.splitter))
        compared(counts(predictions(free, examples), right), counts(of_words, right), "argmax -> legal, given words")
        compared(counts(predictions(free, raw), right), counts(of_text, right), "argmax -> legal, text")
        ids = {label: number for number, label in enumerate(predictor.model.labels)}
        illegal = sum(
            bool(task.transitions.illegal(np.array([ids[tag] for tag in one.tags], int), [len(one.tags)]))
            for one in of_text
        )
        print(f"illegal sequences: {illegal}")
        against_transformers(predictor, options.model, texts[:1000])
    if options.speed:
        seconds: dict[str, list[float]] = {"words": [], "text": []}
        for _ in range(7):
            for name in seconds:
                begin = time.perf_counter()
                predictions(predictor, examples if name == "words" else [task.example(text) for text in texts])
                seconds[name].append(time.perf_counter() - begin)
        ratios = [words / text for words, text in zip(*seconds.values())]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"sentences a second on text / on words: {median(ratios):.2f} ({shown})")


if __name__ == "__main__":
    main()
