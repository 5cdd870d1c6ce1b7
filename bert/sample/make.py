"""The sample: a corpus and labeled rows in English and Chinese from our own grammar, the same for the same seed on every machine.

`bert quickstart` uses it. `make_sample("en")` returns it, `write_sample(folder)` writes it to files for the commands. `bert.sample.grammar`
explains why a model must have read the corpus to do well on the test rows.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from bert.errors import InputError
from bert.sample.grammar import HOLE, LANGUAGES, Companions, Domain, Hand, Language, Slots, read_language

TRAIN, TEST = 0, 1
SENSE_ROWS = 12  # labeled sentences of a sense, both in train and in test
TOPIC_ROWS = (300, 150)  # labeled texts in train and test
TAG_ROWS = (300, 150)
UNSEEN_SHARE = 0.7  # of the names of one kind in tagged test rows that are in no tagged training row
PLAIN_SHARE = 0.15  # of the tagged rows without a name
PAIRS = 20
PROMPTS = 2  # masked sentences of a sense
DOCUMENTS = 1500
NAMES_SHARE = 0.3  # of the documents that are about names
WORD_SHARE = 0.3  # of the sentences of a domain that are about an ambiguous word
LONGEST_DOCUMENT = 6

Tagged = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class SenseRow:
    """An ambiguous word in a sentence: `sentence[start:end]` is the word as written there."""

    word: str
    sentence: str
    start: int
    end: int
    sense: str


@dataclass(frozen=True)
class Pair:
    """A good sentence, and the same with one word replaced by a word that does not fit."""

    good: str
    bad: str


@dataclass(frozen=True)
class Prompt:
    """A sentence in which [MASK] replaces a word: one for an English word, one for each Chinese character."""

    word: str
    sense: str
    text: str


@dataclass(frozen=True)
class Sample:
    """The sample of one language."""

    corpus: tuple[str, ...]
    """documents of 2 to 6 sentences"""
    topics_train: tuple[tuple[str, str], ...]
    """(text, topic)"""
    topics_test: tuple[tuple[str, str], ...]
    tags_train: tuple[Tagged, ...]
    """(words, BIO tags) with PER, ORG and LOC"""
    tags_test: tuple[Tagged, ...]
    senses_train: tuple[SenseRow, ...]
    senses_test: tuple[SenseRow, ...]
    pairs: tuple[Pair, ...]
    prompts: tuple[Prompt, ...]


def make_sample(language: str, seed: int = 0) -> Sample:
    """The sample of a language, "en" or "zh": for the same seed the same text on any platform and in any process.

    Raises InputError for other languages.
    """
    if language not in LANGUAGES:
        raise InputError(f"the sample has no language {language}: use {' or '.join(LANGUAGES)}")
    grammar = read_language(language)

    def rng(part: str) -> random.Random:
        return random.Random(f"{seed} {language} {part}")  # seeded by text: the parts do not influence each other

    senses_train, senses_test = (_senses(grammar, rng(f"senses {half}"), half) for half in (TRAIN, TEST))
    topics_train, topics_test = (_topics(grammar, rng(f"topics {half}"), half) for half in (TRAIN, TEST))
    tags_train, tags_test = (_tags(grammar, rng(f"tags {half}"), half) for half in (TRAIN, TEST))
    pairs = _pairs(grammar, rng("pairs"))
    labeled = {row.sentence for row in senses_train + senses_test} | {pair.good for pair in pairs}
    labeled |= {sentence for text, _ in topics_train + topics_test for sentence in sentences(text)}
    labeled |= {grammar.text(words) for words, _ in tags_train + tags_test}
    return Sample(
        corpus=_corpus(grammar, rng("corpus"), labeled),
        topics_train=topics_train,
        topics_test=topics_test,
        tags_train=tags_train,
        tags_test=tags_test,
        senses_train=senses_train,
        senses_test=senses_test,
        pairs=pairs,
        prompts=_prompts(grammar, rng("prompts")),
    )


def sentences(text: str) -> list[str]:
    """The sentences of a text of the sample, with their full stops."""
    stop = "。" if "。" in text else ". "
    parts = [part for part in text.split(stop) if part]
    return [part if part.endswith(".") else part + stop.strip() for part in parts]


def words_of(grammar: Language, domain: Domain) -> list[str]:
    """The ambiguous words among the things of `domain`."""
    return [word for word, senses in grammar.words.items() if domain.name in senses.values()]


def sentence_of(grammar: Language, frame: str, slots: Slots, domain: Domain) -> tuple[str, int]:
    """The sentence, and the position of its thing."""
    thing = grammar.spell(slots.thing, domain.name)
    text = grammar.fill(frame, slots)
    start = text.index(HOLE)
    thing = thing[0].upper() + thing[1:] if start == 0 else thing
    return text.replace(HOLE, thing), start


def _senses(grammar: Language, rng: random.Random, half: int) -> tuple[SenseRow, ...]:
    """Labeled sentences with the same frames for each sense: only companions distinguish the senses of a word."""
    rows = []
    frames = grammar.frames[half]
    for word, senses in grammar.words.items():
        for sense, name in senses.items():
            domain = grammar.domain(name)
            hand = Hand(rng, _half(domain, half))
            seen: set[str] = set()
            while len(seen) < SENSE_ROWS:
                frame = frames[len(seen) % len(frames)]
                sentence, start = sentence_of(grammar, frame, hand.draw(frame, word), domain)
                if sentence not in seen:
                    seen.add(sentence)
                    rows.append(SenseRow(word, sentence, start, start + len(word), sense))
    return tuple(rows)


def _half(domain: Domain, half: int) -> Companions:
    return domain.test if half else domain.train


def _topics(grammar: Language, rng: random.Random, half: int) -> tuple[tuple[str, str], ...]:
    """Texts of two sentences, balanced over topics, without ambiguous words."""
    topics = sorted({domain.topic for domain in grammar.domains if domain.topic})
    hands = {domain.name: Hand(rng, _half(domain, half)) for domain in grammar.domains}
    rows: dict[str, str] = {}
    while len(rows) < TOPIC_ROWS[half]:
        topic = topics[len(rows) % len(topics)]
        domain = rng.choice([domain for domain in grammar.domains if domain.topic == topic])
        frames = rng.sample(grammar.frames[half], 2)
        hand = hands[domain.name]
        text = _text(grammar, (sentence_of(grammar, frame, hand.draw(frame), domain)[0] for frame in frames))
        rows.setdefault(text, topic)
    return tuple(rows.items())


def _text(grammar: Language, parts: Iterable[str]) -> str:
    return ("" if grammar.code == "zh" else " ").join(parts)


def _tags(grammar: Language, rng: random.Random, half: int) -> tuple[Tagged, ...]:
    rows: dict[Tagged, None] = {}
    while len(rows) < TAG_ROWS[half]:
        if rng.random() < PLAIN_SHARE:
            rows.setdefault(_plain(grammar, rng, half))
        else:
            rows.setdefault(_named(grammar, rng, half))
    return tuple(rows)


def _plain(grammar: Language, rng: random.Random, half: int) -> Tagged:
    """A sentence without names, but with a word that can be a name."""
    doubtful = [name for name, kinds in grammar.ambiguous_names.items() if "O" in kinds]
    word = rng.choice(doubtful).lower()
    domain = grammar.domain(rng.choice([d for d in grammar.words[word].values() if d != "computer"]))
    frame = rng.choice(grammar.frames[half])
    slots = Hand(rng, _half(domain, half)).draw(frame, word)
    words = grammar.tokens(sentence_of(grammar, frame, slots, domain)[0])
    return tuple(words), ("O",) * len(words)


def _named(grammar: Language, rng: random.Random, half: int | None, only: str | None = None) -> Tagged:
    """A sentence about one or two names, of kind `only` if given; `half` None: from both halves."""
    frame = _pick(rng, grammar.name_frames, half)
    values: dict[str, str] = {"tail": _pick(rng, grammar.tails, half)}
    kinds = {}
    for name, suffix in (("X", ""), ("Y", "2")):
        kinds[name] = only or rng.choice(tuple(grammar.kinds))
        what = grammar.kinds[kinds[name]]
        doubtful = tuple(word for word, of in grammar.ambiguous_names.items() if kinds[name] in of)
        sure = _pick(rng, what.names, half if half is None or rng.random() < UNSEEN_SHARE else TRAIN)
        # fewer in the corpus: a model learns from unambiguous names what people, companies and places do
        values[name] = rng.choice(doubtful) if rng.random() < (0.3 if half is None else 0.5) else sure
        values[f"vp{suffix}"] = _pick(rng, what.predicates, half)
        values[f"n{suffix}"] = _pick(rng, what.nouns, half)
    if values["X"] == values["Y"] or values["vp"] == values["vp2"]:  # "Lima was foggy, but Lima was foggy."
        return _named(grammar, rng, half, only)
    return _tagged(grammar, frame, values, kinds)


def _pick(rng: random.Random, halves: tuple[tuple[str, ...], tuple[str, ...]], half: int | None) -> str:
    return rng.choice(halves[0] + halves[1] if half is None else halves[half])


def _tagged(grammar: Language, frame: str, values: dict[str, str], kinds: dict[str, str]) -> Tagged:
    """Words and tags of a frame about names, which is split at its names."""
    words: list[str] = []
    tags: list[str] = []
    rest = frame
    while rest:
        end = min((rest.find(f"{{{name}}}") for name in kinds if f"{{{name}}}" in rest), default=len(rest))
        plain = grammar.tokens(rest[:end].format_map(values))
        words += plain
        tags += ["O"] * len(plain)
        if end < len(rest):
            name = rest[end + 1]
            parts = grammar.tokens(values[name])
            words += parts
            tags += [f"B-{kinds[name]}"] + [f"I-{kinds[name]}"] * (len(parts) - 1)
        rest = rest[end + 3 :]
    words[0] = words[0][0].upper() + words[0][1:]
    return tuple(words), tuple(tags)


def _corpus(grammar: Language, rng: random.Random, labeled: set[str]) -> tuple[str, ...]:
    """Documents about one domain, or about names, without any of the labeled sentences."""
    frames = grammar.frames[TRAIN] + grammar.frames[TEST] + grammar.corpus_frames
    # a domain with many ambiguous words gets more documents, so that each word is frequent
    weights = [4 + len(words_of(grammar, domain)) for domain in grammar.domains]
    hands = {domain.name: Hand(rng, domain.both) for domain in grammar.domains}
    documents: dict[str, None] = {}
    while len(documents) < DOCUMENTS:
        length = rng.randint(2, LONGEST_DOCUMENT)
        domain = None if rng.random() < NAMES_SHARE else rng.choices(grammar.domains, weights)[0]
        only = rng.choice((*grammar.kinds, *grammar.kinds, None))  # most are about one kind of name
        parts: list[str] = []
        while len(parts) < length:
            if domain is None:
                sentence = grammar.text(_named(grammar, rng, None, only)[0])
            else:
                words = words_of(grammar, domain)
                word = rng.choice(words) if words and rng.random() < WORD_SHARE else None
                frame = rng.choice(frames)
                sentence = sentence_of(grammar, frame, hands[domain.name].draw(frame, word), domain)[0]
            if sentence not in labeled and sentence not in parts:
                parts.append(sentence)
        documents.setdefault(_text(grammar, parts))
    return tuple(documents)


def _pairs(grammar: Language, rng: random.Random) -> tuple[Pair, ...]:
    """Sentences with their thing replaced by one of another domain; in Chinese of the same length."""
    pairs: dict[Pair, None] = {}
    while len(pairs) < PAIRS:
        domain, other = rng.sample(grammar.domains, 2)
        frame = grammar.frames[TRAIN][0]
        slots = Hand(rng, domain.both).draw(frame)
        wrong = rng.choice(other.both.things)
        if grammar.code == "zh" and len(wrong) != len(slots.thing):
            continue
        good, start = sentence_of(grammar, frame, slots, domain)
        pairs.setdefault(Pair(good, good[:start] + wrong + good[start + len(slots.thing) :]))
    return tuple(pairs)


def _prompts(grammar: Language, rng: random.Random) -> tuple[Prompt, ...]:
    prompts = []
    for word, senses in grammar.words.items():
        mask = "[MASK]" * (len(word) if grammar.code == "zh" else 1)
        for sense, name in senses.items():
            for frame in grammar.frames[TRAIN][:PROMPTS]:
                text = grammar.fill(frame, Hand(rng, grammar.domain(name).both).draw(frame, word))
                prompts.append(Prompt(word, sense, text.replace(HOLE, mask)))
    return tuple(prompts)
