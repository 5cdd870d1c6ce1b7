"""The English lexicon: domains, ambiguous words, names and frames."""

import re
from collections.abc import Sequence

from bert.sample.grammar import HOLE, Language, Slots, domain, kind

DOMAINS = (
    domain(
        "fruit",
        "food",
        people="farmer, gardener, picker | grower, greengrocer, harvester",
        verbs="peeled, picked, sliced | chewed, squeezed, gathered",
        things="pear, plum, peach, cherry | lemon, melon, grape, mango",
        adjectives="ripe, juicy, sour | sweet, rotten, crunchy",
        places="in the orchard, near the vineyard, behind the hedge | in the greenhouse, in the grove, at the barn",
    ),
    domain(
        "kitchen",
        "food",
        people="cook, waiter, baker | chef, barista, hostess",
        verbs="poured, stirred, heated | sipped, boiled, served",
        things="soup, sauce, tea, pudding | stew, cocktail, curry, porridge",
        adjectives="hot, creamy, bitter | steaming, delicious, salty",
        places="in the kitchen, at the cafe, in the bakery | at the diner, in the canteen, at the bistro",
    ),
    domain(
        "computer",
        "technology",
        people="programmer, engineer, hacker | developer, technician, administrator",
        verbs="installed, updated, tested | upgraded, configured, connected",
        things="laptop, printer, server, router | monitor, modem, scanner, browser",
        adjectives="digital, wireless, compatible | electronic, portable, virtual",
        places="in the laboratory, at the helpdesk, at the workstation | in the startup, at the hackathon, in the datacenter",
    ),
    domain(
        "machine",
        "technology",
        people="mechanic, welder, builder | foreman, machinist, electrician",
        verbs="operated, repaired, greased | welded, assembled, dismantled",
        things="drill, pump, gear, lever | bulldozer, piston, valve, forklift",
        adjectives="rusty, hydraulic, metallic | mechanical, industrial, oily",
        places="in the factory, in the workshop, at the quarry | at the shipyard, in the foundry, at the sawmill",
    ),
    domain(
        "animal",
        "nature",
        people="zookeeper, hunter, biologist | ranger, veterinarian, zoologist",
        verbs="fed, tamed, chased | rescued, captured, sheltered",
        things="fox, wolf, deer, rabbit | squirrel, owl, otter, hedgehog",
        adjectives="wild, furry, hungry | nocturnal, frightened, playful",
        places="in the zoo, in the cave, in the forest | in the jungle, in the reserve, in the wilderness",
    ),
    domain(
        "river",
        "nature",
        people="hiker, angler, boatman | fisherman, camper, canoeist",
        verbs="explored, crossed, mapped | reached, admired, surveyed",
        things="shore, stream, pond, waterfall | lagoon, brook, meadow, creek",
        adjectives="muddy, grassy, shallow | mossy, sandy, rocky",
        places="by the river, near the bridge, below the dam | in the valley, beside the reeds, near the marsh",
    ),
    domain(
        "money",
        "money",
        people="accountant, investor, auditor | economist, treasurer, cashier",
        verbs="audited, financed, taxed | insured, refinanced, valued",
        things="account, loan, fund, mortgage | budget, pension, portfolio, dividend",
        adjectives="profitable, costly, taxable | solvent, lucrative, financial",
        places="in the treasury, at the auction, in the exchange | at the ministry, in the vault, at the brokerage",
    ),
    domain(
        "sport",
        "sports",
        people="coach, athlete, golfer | umpire, goalkeeper, champion",
        verbs="swung, gripped, raised | wielded, aimed, tossed",
        things="racket, javelin, paddle, mallet | dumbbell, puck, discus, kettlebell",
        adjectives="lightweight, Olympic, lucky | professional, sturdy, balanced",
        places="in the stadium, on the court, at the tournament | in the gymnasium, on the pitch, at the championship",
    ),
    domain(
        "music",
        "art",
        people="violinist, composer, drummer | conductor, pianist, guitarist",
        verbs="tuned, played, recorded | amplified, strummed, mastered",
        things="violin, flute, cello, trumpet | harp, clarinet, banjo, trombone",
        adjectives="melodic, acoustic, wooden | harmonic, resonant, orchestral",
        places="in the orchestra, at the concert, in the opera | in the choir, at the rehearsal, in the conservatory",
    ),
    domain(
        "office",
        None,
        people="lawyer, clerk, judge | notary, attorney, secretary",
        verbs="verified, forged, approved | registered, notarized, authenticated",
        things="contract, letter, permit, certificate | envelope, treaty, passport, petition",
        adjectives="legal, official, valid | binding, confidential, lawful",
        places="in the embassy, at the tribunal, in the archive | in the courthouse, at the consulate, in the registry",
    ),
)

WORDS = {
    "apple": {"fruit": "fruit", "company": "computer"},
    "bank": {"money": "money", "river": "river"},
    "bat": {"animal": "animal", "club": "sport"},
    "spring": {"source": "river", "coil": "machine"},
    "mouse": {"animal": "animal", "device": "computer"},
    "java": {"coffee": "kitchen", "language": "computer"},
    "crane": {"bird": "animal", "machine": "machine"},
    "seal": {"animal": "animal", "stamp": "office"},
    "bass": {"fish": "animal", "instrument": "music"},
    "bow": {"weapon": "sport", "stick": "music"},
    "keyboard": {"instrument": "music", "device": "computer"},
    "date": {"fruit": "fruit", "day": "office"},
    "kiwi": {"fruit": "fruit", "bird": "animal"},
    "stock": {"broth": "kitchen", "share": "money"},
    "note": {"sound": "music", "bill": "money"},
    "file": {"papers": "office", "tool": "machine"},
}

TRAIN_FRAMES = (
    "the {person} {verb} {the}{thing} {place}.",
    "{place}, the {person} {verb} {the}{adjective} {thing}.",
    "yesterday the {person} {verb} {the}{thing} and the {other}.",
    "{the}{thing} was {adjective}, so the {person} {verb} it.",
    "nobody but the {person} {verb} {the}{thing} {place}.",
    "the {person} saw the {other} and {verb} {the}{thing}.",
)
TEST_FRAMES = (
    "this morning {a person} {verb} {the}{thing} {place}.",
    "it was the {person} who {verb} {the}{adjective} {thing}.",
    "{the}{thing} was {verb} by the {person} {place}.",
    "when the {person} arrived {place}, {the}{thing} looked {adjective}.",
    "we asked the {person} about {the}{thing} and the {other}.",
    "soon {the}{adjective} {thing} was {verb} {place}.",
)
CORPUS_FRAMES = (
    "the {person} has {a thing} {place}.",
    "every {person} wants {a adjective thing}.",
    "the {person} and the {person2} {verb} {the}{thing} together.",
    "there is {a adjective thing} {place}, next to the {other}.",
    "{the}{thing} and the {other} were {adjective}.",
    "{place}, the {person} likes the {other} more than {the}{adjective} {thing}.",
)

KINDS = {
    "PER": kind(
        predicates="smiled, sang a lullaby, married a cousin, slept badly, was born in winter"
        " | laughed, kissed the baby, turned forty, caught a cold, forgot an umbrella",
        nouns="sister, husband, wedding | nephew, birthday, childhood",
        names="Anna, Peter, Maria, Thomas, Laura, Daniel, Anna Smith, Peter Baker, Laura Hill"
        " | Emma, Robert, Julia, Martin, Helen, Oscar, Emma Miller, Robert Cooper, Helen Smith",
    ),
    "ORG": kind(
        predicates="announced profits, hired two thousand workers, launched a product, raised prices, sued a competitor"
        " | dismissed managers, opened a subsidiary, lost customers, published quarterly earnings, merged with a supplier",
        nouns="shareholders, logo, workforce | headquarters, brand, management",
        names="Toyota, Siemens, Nokia, Intel, Sony, Philips, Northern Airlines, Bright Motors"
        " | Samsung, Pepsi, Adidas, Nestle, Bosch, Lego, Eastern Airlines, Silver Motors",
    ),
    "LOC": kind(
        predicates="was foggy and humid, had crowded streets, lay near the coast, elected a mayor, attracted tourists"
        " | was full of museums, got heavy snow, bordered a desert, had narrow alleys, welcomed visitors",
        nouns="climate, harbor, inhabitants | suburbs, airport, population",
        names="London, Berlin, Tokyo, Cairo, Rome, Dublin, New York, Lake Garda"
        " | Madrid, Oslo, Lima, Vienna, Prague, Athens, New Delhi, Lake Como",
    ),
}
AMBIGUOUS_NAMES = {
    "Jordan": ("PER", "LOC"),
    "Paris": ("PER", "LOC"),
    "Georgia": ("PER", "LOC"),
    "Victoria": ("PER", "LOC"),
    "Austin": ("PER", "LOC"),
    "Sydney": ("PER", "LOC"),
    "Washington": ("PER", "LOC"),
    "Lincoln": ("PER", "ORG"),
    "Ford": ("PER", "ORG"),
    "Disney": ("PER", "ORG"),
    "Morgan": ("PER", "ORG"),
    "Amazon": ("ORG", "LOC"),
    "Chelsea": ("ORG", "LOC"),
    "Phoenix": ("ORG", "LOC"),
    "Apple": ("ORG", "O"),
    "Java": ("LOC", "O"),
}
NAME_FRAMES = (
    (
        "{X} {vp}.",
        "the {n} of {X} {tail}.",
        "last week {X} {vp}, but {Y} {vp2}.",
        "the {n} of {X} {tail} and {Y} {vp2}.",
    ),
    (
        "we heard that {X} {vp}.",
        "again the {n} of {X} {tail}.",
        "{X} {vp} while {Y} {vp2}.",
        "{X} {vp} and the {n2} of {Y} {tail}.",
    ),
)
TAILS = (
    ("surprised everyone", "appeared on television", "impressed the reporters"),
    ("became famous", "made the news", "amused the readers"),
)

_BARE = {"java"}  # stands without an article
_PROPER = {("apple", "computer"), ("java", "computer")}


def indefinite(phrase: str) -> str:
    """The phrase behind `a` or `an`. Goes by letters, which is right for every word of this lexicon; a test looks at them."""
    return f"{'an' if phrase.lower().startswith(tuple('aeiou')) else 'a'} {phrase}"


def spell(word: str, domain: str) -> str:
    return word.capitalize() if (word, domain) in _PROPER else word


def fill(frame: str, slots: Slots) -> str:
    """The sentence that `frame` makes of `slots`."""
    bare = slots.thing.lower() in _BARE
    article = indefinite(slots.thing).split()[0]
    text = frame.format_map(
        {
            "the": "" if bare else "the ",
            "thing": HOLE,
            "a thing": HOLE if bare else f"{article} {HOLE}",
            "a adjective thing": f"{slots.adjective if bare else indefinite(slots.adjective)} {HOLE}",
            "a person": indefinite(slots.person),
            "person": slots.person,
            "person2": slots.person2,
            "verb": slots.verb,
            "other": slots.other,
            "adjective": slots.adjective,
            "place": slots.place,
        }
    )
    # a thing at the very start gets its capital where it is put in
    return text[0].upper() + text[1:]


def tokens(sentence: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", sentence)


def text(words: Sequence[str]) -> str:
    return re.sub(r" (?=[.,])", "", " ".join(words))


ENGLISH = Language(
    "en",
    DOMAINS,
    WORDS,
    (TRAIN_FRAMES, TEST_FRAMES),
    CORPUS_FRAMES,
    KINDS,
    AMBIGUOUS_NAMES,
    NAME_FRAMES,
    TAILS,
    spell,
    fill,
    tokens,
    text,
)
