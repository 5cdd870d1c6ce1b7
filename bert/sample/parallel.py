"""Parallel sentences: those of the English grammar with their Chinese translations, the same for the same seed on every machine.

A translation is a function of the sentence, but not of its words alone: "bank" is 银行 or 河岸 by the words around it, and frames order
their parts in another way. Sentences of some frames are in the test files only.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from bert.sample.grammar import Domain, Hand, Slots, read_language
from bert.sample.make import WORD_SHARE, sentence_of, words_of
from bert.untrusted import parse_yaml

SIZES = 5_000, 300, 300
_PARTS = {"person": "people", "person2": "people", "verb": "verbs", "other": "things", "adjective": "adjectives"}
_PARTS |= {"place": "places", "thing": "things"}

Row = tuple[str, str]
"""an English sentence and its translation"""


@dataclass(frozen=True)
class Translations:
    """Parallel sentences without repetition."""

    train: tuple[Row, ...]
    test: tuple[Row, ...]
    """other sentences of the frames of training"""
    templates: tuple[Row, ...]
    """sentences of other frames"""


def make_translations(seed: int = 0) -> Translations:
    """The parallel sentences of a seed."""
    grammar, rng = read_language("en"), random.Random(f"{seed} translations")
    hands = {domain.name: Hand(rng, domain.both) for domain in grammar.domains}
    frames = dict(zip(_frames("train"), (*grammar.frames[0], *grammar.corpus_frames)))
    others = dict(zip(_frames("test"), grammar.frames[1]))
    rows: list[Row] = []
    for known, size in ((frames, SIZES[0] + SIZES[1]), (others, SIZES[2])):
        found: dict[str, str] = {}
        while len(found) < size:
            domain = rng.choice(grammar.domains)
            words = words_of(grammar, domain)
            word = rng.choice(words) if words and rng.random() < WORD_SHARE else None
            target, frame = rng.choice([*known.items()])
            slots = hands[domain.name].draw(frame, word)
            found[sentence_of(grammar, frame, slots, domain)[0]] = target.format_map(translated(slots, domain))
        rows += found.items()
    train, test = SIZES[0], SIZES[0] + SIZES[1]
    return Translations(tuple(rows[:train]), tuple(rows[train:test]), tuple(rows[test:]))


def translated(slots: Slots, domain: Domain) -> dict[str, str]:
    """The translations of the companions around a thing of a domain, by their slots."""
    senses = read_language("en").words.get(slots.thing, {})
    of_domain = _lexicon()["domains"][domain.name]
    known = {slot: of_domain[part].get(getattr(slots, slot), "") for slot, part in _PARTS.items()}
    of_sense = [sense for sense, name in senses.items() if name == domain.name]
    return known | ({"thing": _lexicon()["words"][slots.thing][of_sense[0]]} if of_sense else {})


def _frames(half: str) -> list[str]:
    """The Chinese frames of training, those of the corpus included, or of the test."""
    frames = _lexicon()["frames"]
    return [*frames[half], *(frames["corpus"] if half == "train" else ())]


@cache
def _lexicon() -> Mapping[str, Any]:
    found: Mapping[str, Any] = parse_yaml(files("bert.sample").joinpath("parallel.yaml").read_text(encoding="utf-8"))
    return found
