"""A page in a browser: headless Chromium, driven by playwright. Skips where either is absent."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bert.report.charts import contexts
from bert.report.maps import attention_map, layer_map
from bert.report.page import Section
from bert.report.page import page as report_page
from tests.browser import chromium, opened
from tests.report.demo import crowded_page, demo_page, layer_map_of

pytestmark = pytest.mark.slow

WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(demo_page(), encoding="utf-8")
    return file


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser, file: Path) -> Iterator:
    """The page at one width; when a test is done, nothing was complained about, asked for, or too wide."""
    with opened(browser, file, request.param) as page:
        yield page


def expect(locator):
    """What playwright waits for. (`wait_for_function` evaluates text, which the page's policy forbids.)"""
    return pytest.importorskip("playwright.sync_api").expect(locator)


def chart(page, kind: str):
    return page.locator(f'[data-chart="{kind}"]').first


def styles(page, selector: str) -> list[str]:
    return page.locator(selector).evaluate_all("nodes => nodes.map(node => node.getAttribute('style'))")


def test_every_chart_is_seen_and_nothing_sticks_out(page) -> None:
    page.locator("details summary").click()
    width = page.viewport_size["width"]
    for node in page.locator("figure").all():
        box = node.bounding_box()
        assert box["width"] > 200
        assert box["height"] > 50
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    inside = page.locator(".plot .dot").evaluate_all(
        """dots => dots.every(dot => {
            const [a, b] = [dot.getBoundingClientRect(), dot.parentElement.getBoundingClientRect()];
            return a.x + a.width / 2 > b.x && a.x + a.width / 2 < b.right && a.y + a.height / 2 > b.y && a.y + a.height / 2 < b.bottom;
        })"""
    )
    assert inside


@pytest.mark.parametrize("width", WIDTHS)
def test_a_crowded_page_stays_as_wide_as_the_screen(browser, file: Path, width: int) -> None:
    crowded = file.with_name("crowded.html")
    crowded.write_text(crowded_page(), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 850})
    page.goto(crowded.as_uri())
    page.locator("details summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    rows, cells = (page.locator(f".heads > .{name}").bounding_box() for name in ("rows", "cells"))
    assert rows["height"] == pytest.approx(cells["height"], abs=1)
    page.close()


def test_the_slider_goes_through_the_layers_by_keyboard(page) -> None:
    word = chart(page, "layers")
    slider = word.locator("input[type=range]")
    slider.focus()
    seen = []
    slider.press("Home")
    for _ in range(5):
        seen.append((word.locator(".steer output").text_content(), word.locator(".dot").first.get_attribute("style")))
        slider.press("ArrowRight")
    assert [name for name, _ in seen] == ["embeddings", "layer 1", "layer 2", "layer 3", "layer 4"]
    assert len({style for _, style in seen}) == 5
    assert slider.get_attribute("aria-valuetext") == "layer 4"
    other = page.locator('[data-chart="layers"]').nth(1)
    assert other.locator(".steer output").text_content() == "layer 4"


def test_the_slider_is_drawn_by_mouse_and_steers_measures_and_cosines(page) -> None:
    word = chart(page, "layers")
    slider = word.locator("input[type=range]")
    slider.scroll_into_view_if_needed()
    before = word.locator(".values rect").nth(1).get_attribute("opacity")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert word.locator(".steer output").text_content() == "layer 2"
    assert word.locator(".measure output").all_text_contents() == ["0.20", "0.74"]
    assert word.locator(".values rect").nth(1).get_attribute("opacity") != before


def test_the_play_button_goes_to_the_last_layer_and_stops(page) -> None:
    word = chart(page, "layers")
    word.locator("input[type=range]").fill("2")
    word.locator(".play").click()
    expect(word.locator(".steer output")).to_have_text("layer 4")
    expect(word.locator(".play.on")).to_have_count(0)


def test_pointing_at_a_mark_shows_its_sentence(page) -> None:
    word = chart(page, "layers")
    dot = word.locator(".dot").nth(9)
    dot.hover(force=True)
    assert word.locator(".side .readout mark").first.text_content() == "Apple"
    assert "opened a new office" in word.locator(".side .readout").text_content()
    assert word.locator(".near li").count() == 3


def test_arrow_keys_walk_from_mark_to_mark(page) -> None:
    word = chart(page, "layers")
    word.locator('.dot[tabindex="0"]').focus()
    before = word.locator(".side .readout p").first.text_content()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert word.locator(".side .readout p").first.text_content() != before
    assert word.locator('.dot[tabindex="0"]').count() == 1


def test_the_legend_hides_and_shows_a_group(page) -> None:
    word = chart(page, "layers")
    key = word.locator(".key").first
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    assert word.locator(".dot.off").count() == 8
    word.locator(".dot:not(.off)").first.focus()
    for way in ("ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(way)
    assert page.evaluate("document.activeElement.dataset.group") == "1"  # a hidden mark is not walked to
    key.press("Enter")
    assert word.locator(".dot.off").count() == 0


def test_a_cell_tells_its_two_sentences_and_their_cosine(page) -> None:
    cosines = chart(page, "layers").locator(".cosines")
    cosines.locator(".values rect").nth(3).hover()
    text = cosines.locator(".readout").text_content()
    assert re.search(r"cosine \d\.\d\d in layer 4.*She cut.*The recipe", text)
    cosines.locator("svg.cells").focus()
    page.keyboard.press("ArrowDown")
    assert re.search(r"An apple fell.*The recipe", cosines.locator(".readout").text_content())


def test_the_curve_reads_its_values(page) -> None:
    curve = chart(page, "curve")
    curve.locator(".field").hover()
    assert re.fullmatch(
        r"step 6\d0: training text 2\.\d+, held-out text 2\.\d+", curve.locator(".readout").text_content()
    )
    before = curve.locator(".readout").text_content()
    curve.locator(".field").focus()
    page.keyboard.press("ArrowLeft")
    assert curve.locator(".readout").text_content() != before


def test_attention_changes_with_the_token_and_the_head(page) -> None:
    heads = chart(page, "attention")
    start = styles(page, ".chip")
    heads.locator(".chip").nth(3).hover()
    other = styles(page, ".chip")
    assert other != start
    heads.locator("select").select_option("2")
    assert styles(page, ".chip") != other
    first = heads.locator(".chip small").first.text_content()
    assert int(first.removesuffix(" %")) > 30  # a head that looks at the first token
    heads.locator(".chip").nth(3).focus()
    page.keyboard.press("ArrowRight")
    assert heads.locator('.chip[aria-pressed="true"] b').text_content() == "from"
    heads.locator(".values rect").nth(1).hover()
    assert re.fullmatch(r"\[CLS\] → the: \d+\.\d %", heads.locator(".readout").text_content())


def test_every_mark_names_its_nearest_occurrences(page) -> None:
    word = chart(page, "layers")
    for dot in word.locator(".dot").all():
        dot.dispatch_event("pointerenter")
        assert word.locator(".near li").count() == 3


def test_a_hollow_mark_is_hollow_and_a_filled_one_is_not(browser, file: Path) -> None:
    many = file.with_name("many.html")
    word = layer_map_of({f"group {n}": ["an apple"] * 2 for n in range(12)}, "apple")
    many.write_text(report_page("Many", "", [Section("Map", layer_map(word))]), encoding="utf-8")
    with opened(browser, many, 1280) as page:
        fills = page.locator(".key .symbol path").evaluate_all(
            "nodes => nodes.map(node => getComputedStyle(node).fill)"
        )
        assert len(set(fills[:8])) == 8
        assert len(set(fills[8:])) == 1
        assert fills[8] not in fills[:8]
        strokes = page.locator(".key .hollow path").evaluate_all(
            "nodes => nodes.map(node => getComputedStyle(node).stroke)"
        )
        assert strokes == fills[:4]


@pytest.mark.parametrize("width", WIDTHS)
def test_right_to_left_text_is_ordered_and_aligned_as_such_everywhere(browser, file: Path, width: int) -> None:
    texts = [f"ישבנו ליד הבנק הגדול, אמר John ב-{2020 + n}." for n in range(6)]
    word = layer_map_of({"נהר": texts[:3], "כסף": texts[3:]}, "הבנק")
    first = word.occurrences[0]
    cards = contexts(first, [(other, 0.5) for other in word.occurrences[1:3]], [0, 0, 0])
    tokens = ["[CLS]", "הבנק", "הגדול", "[SEP]"]
    heads = {"head": np.full((4, 4), 0.25)}
    other = file.with_name("rtl.html")
    body = layer_map(word) + cards + attention_map(tokens, heads)
    other.write_text(report_page("Contexts of הבנק", "", [Section("Map", body)]), encoding="utf-8")
    with opened(browser, other, width) as page:
        assert page.evaluate("getComputedStyle(document.querySelector('h1')).direction") == "ltr"
        for selector in (".side .readout p", ".contexts li .marked", ".contexts figcaption .marked"):
            # The text ends at the right edge of its box, which is as wide as the space that is left for it.
            text, box, parent = page.locator(selector).first.evaluate(
                """node => {
                    const range = document.createRange();
                    range.selectNodeContents(node);
                    const parent = node.parentElement.getBoundingClientRect();
                    return [range.getBoundingClientRect().right, node.getBoundingClientRect().right, parent.width];
                }"""
            )
            assert text == pytest.approx(box, abs=8)
            assert page.locator(selector).first.bounding_box()["width"] > 0.6 * parent
        page.locator(".heads .values rect").nth(6).hover()
        readout = page.locator(".attention .readout")
        assert readout.text_content() == "הבנק → הגדול: 25.0 %"
        rights = page.locator(".heads .rows span").evaluate_all(
            """spans => spans.map(span => {
                const range = document.createRange();
                range.selectNodeContents(span);
                return range.getBoundingClientRect().right;
            })"""
        )
        assert max(rights) - min(rights) < 2  # beside their rows, whatever their direction
        first_word, second_word = (readout.locator("bdi").nth(n).bounding_box()["x"] for n in (0, 1))
        assert first_word < second_word  # the arrow points from the query to the key


def test_a_link_leads_to_its_section_and_is_marked(page) -> None:
    page.locator("nav a").nth(3).click()
    expect(page.locator("nav a.here")).to_have_text("Neighbours in meaning")


def test_no_script_of_others_runs(browser, file: Path) -> None:
    """Even a script that got into the markup: the policy names the page's own by its hash."""
    evil = file.with_name("evil.html")
    text = file.read_text(encoding="utf-8")
    evil.write_text(
        text.replace(
            "<main>", "<main><script>document.title = 'evil'</script><img src=x onerror=\"document.title = 'evil'\">"
        )
    )
    page = browser.new_page()
    page.goto(evil.as_uri())
    page.wait_for_timeout(200)
    assert page.title() == "What a small BERT learned"
    page.close()


def test_a_page_can_be_read_without_its_script(browser, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".dot").count() == 28
    assert "layer 4" in page.locator(".steer output").first.text_content()
    context.close()


def test_a_page_follows_the_reader_into_the_dark(browser, file: Path) -> None:
    colors = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(file.as_uri())
        colors.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    light, dark = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors)
    assert light > 700
    assert dark < 120
