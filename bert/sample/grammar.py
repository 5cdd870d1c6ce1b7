"""What a language's lexicon is made of, and how a sentence comes out of it.

A *domain* is a field of life with its people, actions, things, qualities and places. An ambiguous word is one of the things of two
domains. All frames fit all domains, so that a frame never tells which domain a sentence is about: only the *companions* do, the words
of the domain around the ambiguous one. Each list has a train half and a test half. Labelled training sentences are made of train
frames and train halves alone, labelled test sentences of test frames and test halves; only the unlabelled corpus mixes them, and so
only who has read the corpus can know that the companions of a test sentence belong with those of the training sentences.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain

HOLE = "\0"  # stands for the thing while a frame is filled, so that its place is known


@dataclass(frozen=True)
class Companions:
    """Words that stand around a thing of a domain."""

    people: tuple[str, ...]
    verbs: tuple[str, ...]
    """past forms that are participles too"""
    things: tuple[str, ...]
    adjectives: tuple[str, ...]
    places: tuple[str, ...]

    def __add__(self, other: "Companions") -> "Companions":
        return Companions(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other))))

    def words(self) -> tuple[str, ...]:
        return tuple(chain.from_iterable(astuple(self)))


@dataclass(frozen=True)
class Domain:
    """A field of life: its topic label, None where it is in no topic, and its companions in two halves."""

    name: str
    topic: str | None
    train: Companions
    test: Companions

    @property
    def both(self) -> Companions:
        return self.train + self.test


def domain(name: str, topic: str | None, people: str, verbs: str, things: str, adjectives: str, places: str) -> Domain:
    """A domain from lists as `train words, … | test words, …`."""
    train, test = zip(*map(_halves, (people, verbs, things, adjectives, places)))
    return Domain(name, topic, Companions(*train), Companions(*test))


def _halves(words: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    train, test = (tuple(word.strip() for word in half.split(",")) for half in words.split("|"))
    return train, test


@dataclass(frozen=True)
class Kind:
    """What names of a kind (PER, ORG, LOC) do and have, by half: whole predicates, and nouns for `the … of NAME`."""

    predicates: tuple[tuple[str, ...], tuple[str, ...]]
    nouns: tuple[tuple[str, ...], tuple[str, ...]]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    """names that are of this kind alone"""


def kind(predicates: str, nouns: str, names: str) -> Kind:
    """A kind from lists as `train, … | test, …`."""
    return Kind(_halves(predicates), _halves(nouns), _halves(names))


@dataclass(frozen=True)
class Language:
    """A lexicon and its frames. Each pair is (train, test)."""

    code: str
    domains: tuple[Domain, ...]
    words: Mapping[str, Mapping[str, str]]
    """ambiguous word → sense → domain"""
    frames: tuple[tuple[str, ...], tuple[str, ...]]
    corpus_frames: tuple[str, ...]
    """frames that are in the corpus alone"""
    kinds: Mapping[str, Kind]
    ambiguous_names: Mapping[str, tuple[str, ...]]
    """name → the kinds that it can be of; O where it is also a plain word"""
    name_frames: tuple[tuple[str, ...], tuple[str, ...]]
    """{X} {vp}, {n} of {X}, {tail}; the same with Y, vp2, n2 for a second name"""
    tails: tuple[tuple[str, ...], tuple[str, ...]]
    spell: Callable[[str, str], str]
    """(word, domain) → the word as it is written there"""
    fill: Callable[[str, "Slots"], str]
    """frame and slots → sentence"""
    tokens: Callable[[str], list[str]]
    """sentence → words as a CoNLL file has them"""
    text: Callable[[Sequence[str]], str]
    """and back"""

    def domain(self, name: str) -> Domain:
        return next(domain for domain in self.domains if domain.name == name)


@dataclass(frozen=True)
class Slots:
    """One choice of companions around a thing."""

    thing: str
    person: str
    person2: str
    verb: str
    other: str
    adjective: str
    place: str


class Deck:
    """Items in random order, all of them before one comes again, so that every one is met often."""

    def __init__(self, rng: random.Random, items: Sequence[str]) -> None:
        self._rng = rng
        self._items = items
        self._left: list[str] = []

    def draw(self, besides: str = "") -> str:
        """The next item that is not `besides`."""
        if all(item == besides for item in self._left):
            self._left = self._rng.sample(self._items, len(self._items)) + self._left
        place = next(place for place in reversed(range(len(self._left))) if self._left[place] != besides)
        return self._left.pop(place)


class Hand:
    """A deck for each kind of companion."""

    def __init__(self, rng: random.Random, companions: Companions) -> None:
        self._decks = {name: Deck(rng, words) for name, words in vars(companions).items()}

    def draw(self, frame: str, thing: str | None = None) -> Slots:
        """Companions for the slots that `frame` has, around `thing` or one that is drawn as well."""
        thing = thing or self._decks["things"].draw()
        person = self._decks["people"].draw() if "person" in frame else ""
        return Slots(
            thing,
            person,
            self._decks["people"].draw(besides=person) if "person2" in frame else "",
            self._decks["verbs"].draw() if "verb" in frame else "",
            self._decks["things"].draw(besides=thing) if "other" in frame else "",
            self._decks["adjectives"].draw() if "adjective" in frame else "",
            self._decks["places"].draw() if "place" in frame else "",
        )
