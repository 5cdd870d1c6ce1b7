"""A page is one file that needs nothing else, and text from data stays text."""

import base64
import hashlib
import re
from typing import Any

import pytest

from bert.report import charts, maps
from bert.report.page import (
    Marked,
    Section,
    data,
    details,
    escape,
    heading,
    key_metrics,
    marked,
    note,
    number,
    opener,
    page,
    paragraph,
    table,
)
from bert.report.palette import MARKS
from tests.report.demo import demo_page, heads_of, layer_map_of
from tests.report.reader import Reader

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"><b onclick='x'>",
    "&amp; & &lt;",
    "<!--",
    "עברית ו-العربية",
    "🍎 👩‍👩‍👧",
    "a\u2028b",
    "{{7*7}} ${7*7} `x`",
]


def everything(text: str) -> str:
    """A page with the text in every place where data can stand."""
    sentence = Marked(f"{text} apple {text}", len(text) + 1, len(text) + 6)
    word = layer_map_of({text: [sentence.text, f"an apple {text}"], "other": ["apple"]}, "apple")
    named = maps.LayerMap(
        word.occurrences, word.groups, word.positions, [text] * 5, word.directions, {text: [0.1] * 5}, text
    )
    scored = charts.ScoredText([text, "b"], [-1.0, -2.0])
    parts = [
        paragraph(text),
        heading(text, text),
        note(text),
        details(text, paragraph(text)),
        table([text, text], [[text, text], [text, 1.0]]),
        marked(sentence),
        charts.line_chart({text: [(0.0, 1.0), (1.0, 2.0)]}, text, text),
        charts.bars([(text, 0.5, None, text)]),
        charts.fill_in(sentence, [(text, 0.5)]),
        charts.contexts(sentence, [(sentence, 0.5)], [0, 1]),
        charts.side_by_side(scored, scored),
        maps.layer_map(named),
        maps.attention_map([text, "b"], {text: heads_of(2)["layer 3, head 1"]}),
    ]
    metrics = key_metrics([(text, text, text)])
    return page(text, text, [Section(text, "".join(parts), text)], metrics=metrics, footer=text, language=text)


def leaves(value: Any) -> list[str]:
    """The texts in lists and dictionaries."""
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return leaves([*value, *value.values()]) if isinstance(value, dict) else [str(value)]


def tags(text: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(tag, tuple(sorted(attributes))) for tag, attributes in Reader(text).seen]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_data_is_never_markup(text: str) -> None:
    """The page has the same tags, attributes and scripts as one with a harmless text, and the hostile one is what a reader sees."""
    hostile, harmless = everything(text), everything("harmless")
    assert tags(hostile) == tags(harmless)
    read = Reader(hostile)
    assert read.scripts == Reader(harmless).scripts
    assert read.text.count(text) == Reader(harmless).text.count("harmless")
    assert any(text in leaf for leaf in leaves(read.data))


def test_data_comes_back_and_cannot_end_its_block() -> None:
    value = {"texts": HOSTILE, "numbers": [1.5, None, -2]}
    block = data(value)
    assert block.count("<") == 2  # its own tags
    assert Reader(block).data == [value]
    with pytest.raises(ValueError):
        data(float("nan"))


def test_half_a_surrogate_pair_does_not_stop_a_page_from_being_written() -> None:
    text = everything("\ud83c")
    assert Reader(text.encode("utf-8").decode("utf-8")).text.count("?")


def test_a_page_is_well_formed_and_its_links_lead_to_sections() -> None:
    read = Reader(demo_page())
    names = read.attributes("id")
    assert len(names) == len(set(names))
    assert {link[1:] for link in read.attributes("href") if link.startswith("#")} <= set(names)
    assert set(read.attributes("aria-labelledby")) <= set(names)
    assert [tag for tag, _ in read.seen].count("h1") == 1


def test_nothing_leaves_the_page() -> None:
    text = demo_page()
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|fetch\(|XMLHttp|import\(|\bon[a-z]+=", text)
    links = [value for name in ("href", "action", "srcset") for value in Reader(text).attributes(name)]
    assert [link for link in links if not link.startswith(("#", "data:,"))] == []


def test_the_policy_allows_the_page_its_own_script_and_no_request() -> None:
    read = Reader(demo_page())
    policy = next(attributes["content"] for _, attributes in read.seen if attributes.get("http-equiv"))
    (script,) = read.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_script_puts_text_in_as_text() -> None:
    (script,) = Reader(demo_page()).scripts
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", script)


def test_the_colors_of_all_marks_are_on_the_page() -> None:
    text = demo_page()
    assert [mark for mark in MARKS if mark.light not in text or mark.dark not in text] == []


@pytest.mark.parametrize("ground", ["#ffffff", "#f3f1ea"])
def test_marks_stand_out_from_light_ground(ground: str) -> None:
    """A contrast of 3 to 1, which WCAG 2.1 asks of graphics."""
    assert [mark.light for mark in MARKS if contrast(mark.light, ground) < 3] == []


@pytest.mark.parametrize("ground", ["#1b1f24", "#22272c"])
def test_marks_stand_out_from_dark_ground(ground: str) -> None:
    assert [mark.dark for mark in MARKS if contrast(mark.dark, ground) < 3] == []


def contrast(one: str, other: str) -> float:
    """The ratio of relative luminances (WCAG 2.1)."""

    def luminance(color: str) -> float:
        parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_table_puts_numbers_right_and_marks_the_best() -> None:
    text = table(["task", "ours", "random"], [["topics", 0.98, "33.3 %"], ["names", 1234.0, None]], best=[(0, 1)])
    assert '<td class="n best" dir="auto">0.980</td>' in text
    assert '<td class="n" dir="auto">33.3 %</td>' in text
    assert '<td dir="auto">names</td>' in text
    assert "1,234" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0, "0"), (12345, "12,345"), (0.98765, "0.988"), (-2.5, "−2.50"), (1e-6, "1.0e−06"), (99.96, "100"), (1234.5, "1,234")],
)  # fmt: skip
def test_numbers_are_written_for_people(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_word_is_marked_where_it_stands_even_behind_an_emoji() -> None:
    sentence = Marked("🍎🍎 An <apple> a day", 6, 13)
    assert sentence.parts() == ("🍎🍎 An ", "<apple>", " a day")
    assert "🍎🍎 An <mark>&lt;apple&gt;</mark> a day" in marked(sentence)


def test_a_context_is_cut_between_words() -> None:
    text = "My grandmother from the far north bakes an apple cake every Sunday in winter."
    context = Marked(text, text.index("apple"), text.index("apple") + 5).context(18)
    assert context.text == "…north bakes an apple cake every Sunday…"
    assert context.parts()[1] == "apple"
    chinese = "我的奶奶每个星期天都会在厨房里面用很多新鲜的苹果做一个大蛋糕。"
    start = chinese.index("苹果")
    assert Marked(chinese, start, start + 2).context(18).text == "…" + chinese[start - 18 :]
    assert Marked(chinese, start, start + 2).context(99) == Marked(chinese, start, start + 2)


def test_a_cell_of_a_table_opens_markup() -> None:
    text = table(["gold", "times"], [["<b>", opener("3", 'gold "a"', "<p>why</p>", "cell-1")]])
    read = Reader(text)
    (window,) = [attributes for tag, attributes in read.seen if "popover" in attributes]
    assert window["id"] == "cell-1"
    assert [attributes["popovertarget"] for tag, attributes in read.seen if tag == "button"] == ["cell-1", "cell-1"]
    assert "<p>why</p>" in text
    assert '<td dir="auto">&lt;b&gt;</td>' in text
    assert read.attributes("aria-label") == ["table", 'gold "a"', "close"]


def test_control_characters_are_shown_as_symbols() -> None:
    assert escape("a\x00b\x1b[2J\x85\tc\n") == "a␀b␛[2J\ufffd\tc\n"
