"""The lexicon of a language, and how sentences are generated from it.

A *domain* is a field of life with its people, actions, things, qualities and places. An ambiguous word is a thing of two domains. All
frames fit all domains, so that a frame never reveals the domain of a sentence: only the *companions* do, the words of the domain around
the ambiguous word. Each list has a train half and a test half. Labeled training sentences are made of train frames and train halves only,
labeled test sentences of test frames and test halves. Only the unlabeled corpus mixes them: only a model that has read it can know that
the companions of a test sentence belong with those of the training sentences.

The lexicons are YAML files in this folder; `Language` is the code that differs between languages.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from importlib.resources import files
from itertools import chain

from bert.untrusted import parse_yaml

LANGUAGES = {"en": "english.yaml", "zh": "chinese.yaml"}
HOLE = "\0"  # stands for the thing while a frame is filled, to find its position


@dataclass(frozen=True)
class Companions:
    """Words around a thing of a domain."""

    people: tuple[str, ...]
    verbs: tuple[str, ...]
    """past forms that are also participles"""
    things: tuple[str, ...]
    adjectives: tuple[str, ...]
    places: tuple[str, ...]

    def __add__(self, other: "Companions") -> "Companions":
        return Companions(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other))))

    def words(self) -> tuple[str, ...]:
        return tuple(chain.from_iterable(astuple(self)))


@dataclass(frozen=True)
class Domain:
    """A field of life: its topic label, None if it has no topic, and its companions in two halves."""

    name: str
    topic: str | None
    train: Companions
    test: Companions

    @property
    def both(self) -> Companions:
        return self.train + self.test


@dataclass(frozen=True)
class Kind:
    """The names of a kind (PER, ORG, LOC) and their predicates, and nouns for `the … of NAME`, by half."""

    predicates: tuple[tuple[str, ...], tuple[str, ...]]
    nouns: tuple[tuple[str, ...], tuple[str, ...]]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    """names that are of this kind only"""


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


@dataclass(frozen=True)
class Language:
    """A lexicon and its frames. Pairs are (train, test)."""

    code: str
    domains: tuple[Domain, ...]
    words: Mapping[str, Mapping[str, str]]
    """ambiguous word → sense → domain"""
    proper: Mapping[str, str]
    """word → the domain in which it is a capitalized name"""
    bare: Sequence[str]
    """things without an article"""
    frames: tuple[tuple[str, ...], tuple[str, ...]]
    corpus_frames: tuple[str, ...]
    """frames for the corpus only"""
    kinds: Mapping[str, Kind]
    ambiguous_names: Mapping[str, Sequence[str]]
    """name → its possible kinds; O if it is also a common word"""
    name_frames: tuple[tuple[str, ...], tuple[str, ...]]
    """{X} {vp}, {n} of {X}, {tail}; the same with Y, vp2, n2 for a second name"""
    tails: tuple[tuple[str, ...], tuple[str, ...]]

    def domain(self, name: str) -> Domain:
        return next(domain for domain in self.domains if domain.name == name)

    def spell(self, word: str, domain: str) -> str:
        """The word as written in `domain`."""
        return word.capitalize() if self.proper.get(word) == domain else word

    def fill(self, frame: str, slots: Slots) -> str:
        """The sentence of `frame` and `slots`."""
        values = vars(slots) | {"thing": HOLE}
        if self.code == "en":
            bare = slots.thing.lower() in self.bare
            article = indefinite(slots.thing).split()[0]
            values |= {
                "the": "" if bare else "the ",
                "a thing": HOLE if bare else f"{article} {HOLE}",
                "a adjective thing": f"{slots.adjective if bare else indefinite(slots.adjective)} {HOLE}",
                "a person": indefinite(slots.person),
            }
        text = frame.format_map(values)
        # a thing at the start is capitalized when it is inserted
        return text[0].upper() + text[1:]

    def tokens(self, sentence: str) -> list[str]:
        """The words of a sentence, as in a CoNLL file."""
        return list(sentence) if self.code == "zh" else re.findall(r"\w+|[^\w\s]", sentence)

    def text(self, words: Sequence[str]) -> str:
        """The sentence of words."""
        return "".join(words) if self.code == "zh" else re.sub(r" (?=[.,])", "", " ".join(words))


def indefinite(phrase: str) -> str:
    """The phrase after `a` or `an`, by its first letter, which is correct for every word of the English lexicon (tested)."""
    return f"{'an' if phrase.lower().startswith(tuple('aeiou')) else 'a'} {phrase}"


@cache
def read_language(code: str) -> Language:
    """The language with a code of `LANGUAGES`, read from its file."""
    lexicon = parse_yaml(files("bert.sample").joinpath(LANGUAGES[code]).read_text(encoding="utf-8"))

    def companions(lists: Mapping[str, list[str]]) -> Companions:
        return Companions(**{part: tuple(words) for part, words in lists.items()})

    def halves(lists: Mapping[str, list[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return tuple(lists["train"]), tuple(lists["test"])

    def kind(train: Mapping[str, list[str]], test: Mapping[str, list[str]]) -> Kind:
        return Kind(**{part: (tuple(train[part]), tuple(test[part])) for part in train})

    return Language(
        code=code,
        domains=tuple(
            Domain(name, of.get("topic"), companions(of["train"]), companions(of["test"]))
            for name, of in lexicon["domains"].items()
        ),
        words=lexicon["words"],
        proper=lexicon.get("proper", {}),
        bare=lexicon.get("bare", ()),
        frames=halves(lexicon["frames"]),
        corpus_frames=tuple(lexicon["frames"]["corpus"]),
        kinds={name: kind(**of) for name, of in lexicon["kinds"].items()},
        ambiguous_names=lexicon["ambiguous_names"],
        name_frames=halves(lexicon["name_frames"]),
        tails=halves(lexicon["tails"]),
    )


class Deck:
    """Items in random order, without repetition until all have been drawn, so that every item is frequent."""

    def __init__(self, rng: random.Random, items: Sequence[str]) -> None:
        self._rng = rng
        self._items = items
        self._left: list[str] = []

    def draw(self, besides: str = "") -> str:
        """The next item other than `besides`."""
        if all(item == besides for item in self._left):
            self._left = self._rng.sample(self._items, len(self._items)) + self._left
        place = next(place for place in reversed(range(len(self._left))) if self._left[place] != besides)
        return self._left.pop(place)


class Hand:
    """A deck for each kind of companion."""

    def __init__(self, rng: random.Random, companions: Companions) -> None:
        self._decks = {name: Deck(rng, words) for name, words in vars(companions).items()}

    def draw(self, frame: str, thing: str | None = None) -> Slots:
        """Companions for the slots of `frame`, around `thing` or a thing that is drawn as well."""
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
