"""recipes/LOG.md: the table of claims on top leads to every section, and its lines are readable."""

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LOG = ROOT / "recipes" / "LOG.md"
COLUMNS = ["claim", "value", "spread", "date", "section"]
LONGEST = 140  # columns of a line of prose


class Section(NamedTuple):
    level: int
    title: str
    slug: str
    date: str


def outside_fences(text: str) -> Iterator[str]:
    fenced = False
    for line in text.split("\n"):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield line


def slug_of(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = [one for one in title.lower() if one in "-_ " or unicodedata.category(one)[0] in "LMN"]
    return "".join(kept).strip().replace(" ", "-")


def sections(text: str) -> list[Section]:
    """All headings; the date of one is that of the dated heading that it belongs to, or empty."""
    found: list[Section] = []
    date = ""
    for line in outside_fences(text):
        if heading := re.fullmatch(r"(#{1,6}) (.+)", line):
            level, title = len(heading[1]), heading[2]
            if level <= 2:
                dated = re.match(r"\d{4}-\d\d-\d\d(?= · )", title)
                date = dated[0] if dated else ""
            found.append(Section(level, title, slug_of(title), date))
    return found


def claims(text: str) -> list[list[str]]:
    """The cells of the first table, its header and the line below it included."""
    lines = text.split("\n")
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    last = next(number for number in range(first, len(lines)) if not lines[number].startswith("|"))
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[first:last]]


TEXT = LOG.read_text(encoding="utf-8")
SECTIONS = sections(TEXT)
HEADER, _, *CLAIMS = claims(TEXT)


def targets() -> list[str]:
    links = [re.fullmatch(r"\[[^\]]+\]\(#([^)]+)\)", row[-1]) for row in CLAIMS]
    assert None not in links, [row for row, link in zip(CLAIMS, links, strict=True) if link is None]
    return [link[1] for link in links if link]


def test_the_table_of_claims_comes_after_the_title_and_one_paragraph() -> None:
    before = TEXT[: TEXT.index("\n|")].strip().split("\n\n")
    assert len(before) == 2
    assert before[0].startswith("# ")


def test_every_claim_has_the_five_columns() -> None:
    assert HEADER == COLUMNS
    assert [row for row in CLAIMS if len(row) != len(COLUMNS) or not all(row)] == []


def test_anchors_are_unique_as_github_would_otherwise_number_them() -> None:
    slugs = [section.slug for section in SECTIONS]
    assert sorted(set(slugs)) == sorted(slugs)


def test_every_claim_leads_to_a_section_of_its_date() -> None:
    dates = {section.slug: section.date for section in SECTIONS}
    wrong = [
        row for row, target in zip(CLAIMS, targets(), strict=True) if dates.get(target, "no such heading") != row[3]
    ]
    assert wrong == []


def test_every_dated_section_is_linked_from_the_table() -> None:
    """A section with sub-headings by each of these."""
    linked, end = set(targets()), Section(1, "", "", "")
    innermost = [one for one, after in pairwise([*SECTIONS, end]) if one.date and after.level <= one.level]
    assert [section.title for section in innermost if section.slug not in linked] == []
    assert [section.date for section in innermost] == sorted((s.date for s in innermost), reverse=True)  # newest first


def test_no_line_of_prose_is_long() -> None:
    prose = [line for line in outside_fences(TEXT) if not line.startswith(("|", "#"))]
    assert [line for line in prose if len(line) > LONGEST] == []
