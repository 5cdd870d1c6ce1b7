"""Schemes of tags: the spans that they mark, and the best of the legal sequences; both against brute force over all sequences."""

import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bert.finetuning.tags import SCHEMES, Span, Transitions, scheme_of, span_tags, spans
from bert.finetuning.tasks.tag import Tag


@pytest.mark.parametrize(
    ("scheme", "tags", "conlleval", "strict"),
    [
        ("IOB2", "B-X I-X O B-Y", [("X", 0, 2), ("Y", 3, 4)], None),
        ("IOB2", "O I-X I-X B-X", [("X", 1, 3), ("X", 3, 4)], [("X", 3, 4)]),
        ("IOB2", "B-X I-Y I-Y", [("X", 0, 1), ("Y", 1, 3)], [("X", 0, 1)]),
        ("IOB1", "I-X I-X B-X I-Y", [("X", 0, 2), ("X", 2, 3), ("Y", 3, 4)], None),
        ("IOB1", "O B-X I-X", [("X", 1, 3)], [("X", 2, 3)]),
        ("IOBES", "B-X E-X S-X S-X S-Y", [("X", 0, 2), ("X", 2, 3), ("X", 3, 4), ("Y", 4, 5)], None),
        ("IOBES", "B-X I-X O E-X S-X", [("X", 0, 2), ("X", 3, 4), ("X", 4, 5)], [("X", 4, 5)]),
        ("IOBES", "B-X E-X I-X E-X", [("X", 0, 2), ("X", 2, 4)], [("X", 0, 2)]),
        ("IOBES", "S-X I-X", [("X", 0, 1), ("X", 1, 2)], [("X", 0, 1)]),
        ("BILOU", "B-X I-X L-X U-Y", [("X", 0, 3), ("Y", 3, 4)], None),
        ("BILOU", "B-X U-X", [("X", 0, 1), ("X", 1, 2)], [("X", 1, 2)]),
        ("IOB2", "", [], None),
    ],
)
def test_spans_of_each_scheme(scheme, tags, conlleval, strict):
    assert spans(tags.split()) == [Span(*span) for span in conlleval]
    assert spans(tags.split(), scheme) == [Span(*span) for span in (conlleval if strict is None else strict)]


PATTERNS = {
    "IOB2": "B(?P<k>.)(I(?P=k))*",
    "IOBES": "S(?P<k>.)|B(?P<l>.)(I(?P=l))*E(?P=l)",
}


def by_pattern(tags: list[str], scheme: str) -> list[Span]:
    """The well-formed spans, read by a regular expression from two letters a tag."""
    written = "".join(f"{tag[0]}{tag[-1]}" for tag in tags)
    found = re.finditer(PATTERNS[scheme], written)
    return [
        Span(match["k"] or match["l" if scheme == "IOBES" else "k"], *(n // 2 for n in match.span())) for match in found
    ]


IOB = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), max_size=8)
IOBES = st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BIES" for t in "XY")]), max_size=8)


@given(IOB, IOBES)
def test_strict_spans_are_those_of_a_regular_expression(iob, iobes):
    assert spans(iob, "IOB2") == by_pattern(iob, "IOB2")
    assert spans(iobes, "IOBES") == by_pattern(iobes, "IOBES")


SEGMENTS = st.lists(st.tuples(st.sampled_from(["", "X", "Y"]), st.integers(1, 3)), max_size=5)


def write(segments: list[tuple[str, int]], scheme: str) -> list[str]:
    """Well-formed tags of segments of words, those without a type being outside."""
    tags: list[str] = []
    for number, (kind, length) in enumerate(segments):
        follows = number > 0 and segments[number - 1][0] == kind
        match scheme:
            case "IOB1":
                prefixes = ("B" if follows else "I") + "I" * (length - 1)
            case "IOB2":
                prefixes = "B" + "I" * (length - 1)
            case "IOBES":
                prefixes = "S" if length == 1 else "B" + "I" * (length - 2) + "E"
            case _:
                prefixes = "U" if length == 1 else "B" + "I" * (length - 2) + "L"
        tags += [f"{prefix}-{kind}" for prefix in prefixes] if kind else ["O"] * length
    return tags


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "IOBES", "BILOU"])
@given(gold=SEGMENTS)
def test_well_formed_tags_have_the_spans_that_they_were_written_for_in_both_modes(scheme, gold):
    tags = write(gold, scheme)
    starts = [sum(length for _, length in gold[:number]) for number in range(len(gold))]
    expected = [Span(kind, start, start + length) for start, (kind, length) in zip(starts, gold) if kind]
    assert spans(tags) == spans(tags, scheme) == expected


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-X I-X O B-X", "IOB2"),
        ("I-X I-X O I-Y B-Y", "IOB1"),
        ("B-X I-X I-Y", "IOB2"),  # one stray tag does not change what B does
        ("B-X E-X O S-Y", "IOBES"),
        ("B-X L-X O U-Y", "BILOU"),
        ("NOUN VERB", None),
        ("O B- O", None),
        ("O O", None),
    ],
)
def test_the_scheme_is_seen_from_the_tags(tags, scheme):
    assert scheme_of([tags.split()]) == scheme


def other_letters(tags, letters):
    return [tag if tag == "O" else letters.get(tag[0], tag[0]) + tag[1:] for tag in tags]


@pytest.mark.parametrize("letters", [{"I": "M"}, {"S": "W"}, {"I": "M", "S": "W"}, {"E": "L", "S": "U"}])
@pytest.mark.parametrize("hyphen", ["-", "_"])
@given(gold=SEGMENTS, guess=SEGMENTS)
def test_the_letters_and_the_hyphen_of_a_scheme_change_no_span(letters, hyphen, gold, guess):
    plain = [write(segments, "IOBES") for segments in (gold, guess)]
    lettered = [[tag.replace("-", hyphen) for tag in other_letters(tags, letters)] for tags in plain]
    for scheme in (None, "IOBES"):
        assert [spans(tags, scheme) for tags in lettered] == [spans(tags, scheme) for tags in plain]
    if any({tag[:1] for tag in tags} & set("MWEL") for tags in lettered):
        assert scheme_of(lettered) in ("IOBES", "BILOU")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O B-X I-X", "O B-X I-X"),
        ("O B_X M_X E_X S_X", "O B_X M_X E_X S_X"),
        ("O B-X I-X o", "O B-X I-X O"),
        ("B-X x", "B-X O"),
        ("B-X x y", ""),
        ("NOUN VERB X", ""),
        ("B E M S", "B E M S"),  # words of a sentence of Chinese
        ("B I O", "B I O"),
        ("B I O o", "B I O O"),
        ("S V O", ""),  # subject, verb, object
        ("B-X I O", "B-X O O"),
        ("O", ""),
    ],
)
def test_labels_that_mark_spans(labels, expected):
    assert span_tags(labels.split()) == expected.split()


def test_spans_without_a_type_are_of_one_type():
    assert spans("B E S O B M E".split(), "IOBES") == [Span("_", 0, 2), Span("_", 2, 3), Span("_", 4, 7)]


# ── which tag may follow which ──

PREFIXES = {"IOB1": "BI", "IOB2": "BI", "IOBES": "BIES", "BILOU": "BILU"}
LABELS = {scheme: ("O", *(f"{p}-{t}" for p in prefixes for t in "XY")) for scheme, prefixes in PREFIXES.items()}
LETTERS = {scheme: ("O", *prefixes) for scheme, prefixes in PREFIXES.items()}
BMES = ("B", "M", "E", "S")
"""the words of a sentence of Chinese: no O, no types"""
ALL = [*((scheme, labels) for many in (LABELS, LETTERS) for scheme, labels in many.items()), ("IOBES", BMES)]
by_scheme = pytest.mark.parametrize(("scheme", "labels"), ALL, ids=lambda value: "".join(value))


def is_legal(tags, scheme):
    """The definition: each tag but O is part of a well-formed span."""
    covered = {word for _, start, end in spans(tags, scheme) for word in range(start, end)}
    return covered == {word for word, tag in enumerate(tags) if tag != "O"}


def sequences(labels, length):
    return np.array(list(product(range(len(labels)), repeat=length)))


@by_scheme
def test_a_sequence_is_legal_exactly_if_its_well_formed_spans_cover_its_tags(scheme, labels):
    legal = Transitions(labels, scheme)
    for length in range(1, 5):
        every = sequences(labels, length)
        found = set(legal.illegal(every.ravel(), [length] * len(every)))
        right = {n for n, one in enumerate(every) if not is_legal([labels[i] for i in one], scheme)}
        assert found == right
        assert len(right) < len(every)


@by_scheme
@given(data=st.data())
def test_the_sentences_with_illegal_tags_are_told_among_others_and_empty_ones(scheme, labels, data):
    made = data.draw(st.lists(st.lists(st.sampled_from(range(len(labels))), max_size=4), max_size=6))
    classes, sizes = np.array([i for one in made for i in one], int), [len(one) for one in made]
    found = Transitions(labels, scheme).illegal(classes, sizes)
    assert found == [n for n, one in enumerate(made) if not is_legal([labels[i] for i in one], scheme)]


def drawn_scores(data, length, classes):
    """Few different values, so that there are ties and sums that are almost equal."""
    values = st.sampled_from([-3.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 2.0])
    flat = data.draw(st.lists(values, min_size=length * classes, max_size=length * classes))
    return np.array(flat).reshape(length, classes)


@by_scheme
@given(data=st.data(), length=st.integers(1, 4))
def test_the_best_tags_are_the_best_of_all_legal_ones(scheme, labels, data, length):
    """In steps of a quarter all sums are exact."""
    legal, scores = Transitions(labels, scheme), drawn_scores(data, length, len(labels))
    best = legal.best(scores)
    assert is_legal([labels[i] for i in best], scheme)
    every = sequences(labels, length)
    sums = scores[np.arange(length), every].sum(1)
    allowed = np.delete(np.arange(len(every)), legal.illegal(every.ravel(), [length] * len(every)))
    assert scores[np.arange(length), best].sum() == sums[allowed].max()
    if not legal.illegal(scores.argmax(1), [length]):
        assert scores[np.arange(length), best].sum() == scores.max(1).sum()


@by_scheme
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 30))
def test_where_the_most_probable_tags_are_legal_they_are_taken(scheme, labels, seed, length):
    draw = np.random.default_rng(seed)
    legal, scores = Transitions(labels, scheme), draw.normal(size=(length, len(labels)))
    right = legal.best(scores)
    scores[np.arange(length), right] = scores.max(1) + 0.1
    assert legal.best(scores).tolist() == scores.argmax(1).tolist() == right.tolist()


def test_without_any_legal_tags_the_most_probable_ones_are_taken():
    """B and I alone of IOBES: no span can end."""
    scores = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert Transitions(("B-X", "I-X"), "IOBES").best(scores).tolist() == [1, 0]
    assert Transitions(("I-X",), "IOB2").best(scores[:, :1]).tolist() == [0, 0]


@by_scheme
@given(seed=st.integers(0, 2**32 - 1), sizes=st.lists(st.integers(0, 6), max_size=6))
def test_a_tagger_never_decides_for_illegal_tags(scheme, labels, seed, sizes):
    scores = torch.randn((sum(sizes), len(labels)), generator=torch.Generator().manual_seed(seed))
    before = scores.clone()
    decided = Tag(span_tags(labels), scheme).decide(scores, sizes)
    assert torch.equal(scores, before)
    legal, alone = Transitions(labels, scheme), scores.argmax(-1).split(sizes)
    for number, (classes, most_probable) in enumerate(zip(decided.split(sizes), alone)):
        assert is_legal([labels[i] for i in classes], scheme)
        if number not in legal.illegal(scores.argmax(-1).numpy(), sizes):
            assert torch.equal(classes, most_probable)
    assert torch.equal(Tag(span_tags(labels), None).decide(scores, sizes), scores.argmax(-1))


def test_labels_that_mark_no_span_count_as_o():
    """`X` ends a span as O does, and I may not follow it."""
    task = Tag(span_tags(["O", "B-P", "I-P", "X"]), "IOB2")
    scores = torch.tensor([[0.0, 0.0, 0.0, 9.0], [0.0, 1.0, 2.0, 0.0]])
    assert task.decide(scores, [2]).tolist() == [3, 1]
    assert task.decide(scores, [1, 1]).tolist() == [3, 1]


@pytest.mark.parametrize(("scheme", "labels"), LABELS.items())
def test_the_tables_for_other_programs_are_those_of_single_steps(scheme, labels):
    written = Transitions(labels, scheme).written()
    assert np.shape(written["next"]) == (len(labels),) * 2
    follow = [[spans_follow(one, two, scheme) for two in labels] for one in labels]
    assert written["next"] == follow
    assert written["start"] == follow[0]  # as after O
    assert written["end"] == [row[0] for row in follow]  # as before O


def spans_follow(before, after, scheme):
    """1 if any legal sequence of at most four tags has these two side by side."""
    labels = LABELS[scheme]
    some = (
        [*left, before, after, *right]
        for left in [[], *([one] for one in labels)]
        for right in [[], *([one] for one in labels)]
    )
    return int(any(is_legal(tags, scheme) for tags in some))


def test_schemes_are_all_here():
    assert [*LABELS] == [*SCHEMES]
