"""A report as one self-contained HTML file: opening it fetches no font, script, style or picture.

Every function returns HTML as `str`. Arguments called `body` or `parts` are HTML from these functions; any other text may come from
anywhere (a corpus, a label, a file name) and is escaped. The content security policy of a page forbids every request, and names the hash
of its script, so that the browser runs no other.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

from bert.report.palette import MARKS
from bert.report.text import decimals
from bert.untrusted import printable


@dataclass(frozen=True)
class Section:
    """A section of a page: its title, its body in HTML, and an introduction in plain text."""

    title: str
    body: str
    lead: str = ""


class Markup(str):
    """HTML in a cell of a table."""


@dataclass(frozen=True)
class Marked:
    """A text with a marked word: `text[start:end]`, in characters."""

    text: str
    start: int
    end: int

    def parts(self) -> tuple[str, str, str]:
        """The text before the word, the word, and the text after it."""
        return self.text[: self.start], self.text[self.start : self.end], self.text[self.end :]

    def context(self, room: int) -> "Marked":
        """The word with at most `room` characters on each side, cut between words if they are separated by spaces, with an ellipsis."""
        before, word, after = self.parts()
        if len(before) > room:
            before = "…" + _whole_words(before[-room - 1 :])
        if len(after) > room:
            after = _whole_words(after[room::-1])[::-1] + "…"
        return Marked(before + word + after, len(before), len(before) + len(word))


def _whole_words(text: str) -> str:
    """The text after its first space, or without its first character if there is none, as in Chinese."""
    _, space, rest = text.partition(" ")
    return rest if space and rest.strip() else text[1:]


def escape(text: object) -> str:
    """Text escaped for markup and quoted attributes. Lone surrogates, which cannot be encoded, become `?`, and control characters
    visible symbols."""
    return html.escape(printable(str(text)).encode("utf-8", "replace").decode("utf-8"), quote=True)


def data(value: Any) -> str:
    """Data for the script, as a block that no text in it can close."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "replace").decode("utf-8")
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json">{text}</script>'


def number(value: float) -> str:
    """A number for people: three significant digits, thousands separators, a real minus sign."""
    if value == 0 or isinstance(value, int) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.1e}"
    return text.replace("-", "\N{MINUS SIGN}")


def decimal(value: float | None) -> str:
    """A number with two decimals and a real minus sign, or a dash for none."""
    return decimals(value).replace("-", "\N{MINUS SIGN}")


def page(
    title: str, subtitle: str, sections: Sequence[Section], *, metrics: str = "", footer: str = "", language: str = "en"
) -> str:
    """A whole page: title, key metrics, the sections with links to them, and a footer."""
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )
    links = (f'<li><a href="#section-{n}">{escape(one.title)}</a></li>' for n, one in enumerate(sections, 1))
    return Template(_asset("page.html")).substitute(
        language=escape(language), policy=policy, title=escape(title), subtitle=escape(subtitle), metrics=metrics,
        links="".join(links), chapters="\n".join(_chapter(n, section) for n, section in enumerate(sections, 1)),
        footer=escape(footer), style=f"{_colors()}\n{_asset('page.css')}", script=script,
    )  # fmt: skip


def _chapter(number: int, section: Section) -> str:
    lead = f'<p class="lead" dir="auto">{escape(section.lead)}</p>' if section.lead else ""
    name = f"section-{number}"
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title" dir="auto">{escape(section.title)}</h2>'
        f"{lead}\n{section.body}</section>"
    )


def _asset(name: str) -> str:
    return files("bert.report").joinpath(name).read_text(encoding="utf-8")


def _colors() -> str:
    """The colors of the marks as `.c0`, `.c1`, …, for light and dark screens."""
    light = "".join(f".c{mark.color}{{--c:{mark.light}}}" for mark in MARKS[:8])
    dark = "".join(f".c{mark.color}{{--c:{mark.dark}}}" for mark in MARKS[:8])
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}"


def key_metrics(metrics: Sequence[tuple[str, str, str]]) -> str:
    """The most important numbers: (label, value, note) each."""
    items = "".join(
        f'<div><dt dir="auto">{escape(label)}</dt><dd><b>{escape(value)}</b><span dir="auto">{escape(note)}</span></dd></div>'
        for label, value, note in metrics
    )
    return f'<dl class="metrics">{items}</dl>'


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f'<p dir="auto">{escape(text)}</p>'


def heading(text: str, note: str = "") -> str:
    """A small heading inside a section, with a remark in small print."""
    remark = f" <small>{escape(note)}</small>" if note else ""
    return f'<h3 dir="auto">{escape(text)}{remark}</h3>'


def note(text: str) -> str:
    """A note set apart from the text: a limitation, a warning, how to read a picture."""
    return f'<aside class="note" dir="auto">{escape(text)}</aside>'


def commands(text: str) -> str:
    """Lines to paste into a terminal; long ones scroll."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def opener(text: str, title: str, body: str, name: str) -> Markup:
    """A button that opens HTML in a window over the page; `name` is its id."""
    button = f'<button type="button" popovertarget="{name}" class='
    return Markup(
        f'{button}"opener" aria-label="{escape(title)}">{escape(text)}</button><div popover id="{name}">'
        f'{button}"close" aria-label="close">×</button><h3 dir="auto">{escape(title)}</h3>{body}</div>'
    )


def details(summary: str, body: str) -> str:
    """HTML that is collapsed at first."""
    return f'<details><summary dir="auto">{escape(summary)}</summary>{body}</details>'


def grid(parts: Sequence[str]) -> str:
    """Small pictures side by side, as many as fit."""
    return f'<div class="grid">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[object]], best: Sequence[tuple[int, int]] = ()) -> str:
    """A table with numbers aligned right; the cells at the (row, column) indices in `best` are marked."""
    numeric = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]

    def cell(row: int, column: int, value: object) -> str:
        names = ["n"] * numeric[column] + ["best"] * ((row, column) in best)
        kind = f' class="{" ".join(names)}"' if names else ""
        return f'<td{kind} dir="auto">{value if isinstance(value, Markup) else escape(_shown(value))}</td>'

    head = "".join(
        f'<th scope="col"{" class=n" if right else ""} dir="auto">{escape(name)}</th>'
        for name, right in zip(header, numeric, strict=True)
    )
    lines = ("".join(cell(r, c, value) for c, value in enumerate(row)) for r, row in enumerate(rows))
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}</tbody></table></div>"
    )


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _is_number(value: object) -> bool:
    """Whether a cell is a number, none, or a text such as `71.2 %` or `0.83 ± 0.01`."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return True
    text = str(value).strip().lstrip("+-\N{MINUS SIGN}")
    return (text[:1].isdigit() and not any(c.isalpha() for c in text)) or text in ("", "–")


def marked(sentence: Marked) -> str:
    """A sentence with its word highlighted."""
    before, word, after = (escape(part) for part in sentence.parts())
    return f'<span class="marked" dir="auto">{before}<mark>{word}</mark>{after}</span>'
