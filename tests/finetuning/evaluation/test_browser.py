"""The page of an evaluation in headless Chromium: nothing sticks out, and the cells of confusions open their texts. Skips where it is
absent."""

import pytest

from bert.finetuning.evaluation.page import evaluation_page
from tests.browser import chromium, opened
from tests.finetuning.evaluation import reports
from tests.finetuning.evaluation.test_page import ALL, HOSTILE

pytestmark = pytest.mark.slow

PAGES = ALL | {
    "many": lambda: reports.report_of(reports.classify(2_000, [f"a long label with the number {number}" for number in range(20)])),
    "long labels": lambda: reports.report_of(reports.classify(300, [f"{n}{'x' * 400}" for n in range(30)])),
    "hostile": lambda: reports.report_of(reports.classify(300, [f"{HOSTILE}{number}" for number in range(3)])),
}  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module", params=PAGES)
def file(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(evaluation_page(PAGES[request.param]()), encoding="utf-8")
    return file


@pytest.fixture(params=[1280, 390])
def page(request, browser, file):
    """A page at one width; when a test is done, nothing was complained about, asked for, or too wide."""
    with opened(browser, file, request.param) as page:
        yield page


def test_nothing_sticks_out_with_everything_unfolded(page):
    width = page.viewport_size["width"]
    for summary in page.locator("details summary").all():
        summary.click()
    boxes = page.locator("figure, section, .scroll, .bars, .texts > li").evaluate_all(
        "nodes => nodes.map(node => node.getBoundingClientRect()).filter(box => box.width).map(box => [box.left, box.right])"
    )
    assert boxes
    assert all(left >= 0 and right <= width for left, right in boxes)


def test_a_cell_opens_its_texts_by_mouse_and_by_keyboard(page):
    cells = page.locator(".opener")
    if not cells.count():
        pytest.skip("no confusions")
    width = page.viewport_size["width"]
    cell, window = cells.first, page.locator("[popover]").first
    assert not window.is_visible()
    cell.click()
    assert window.is_visible()
    box = window.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["y"] + box["height"] <= page.viewport_size["height"]
    assert window.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert window.locator("li").count() > 0
    window.locator(".close").click()
    assert not window.is_visible()
    cell.focus()
    page.keyboard.press("Enter")
    assert window.is_visible()
    page.keyboard.press("Escape")
    assert not window.is_visible()
    assert cell.evaluate("node => node === document.activeElement")
