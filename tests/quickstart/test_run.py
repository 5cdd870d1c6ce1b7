"""`bert quickstart` as a newcomer runs it: every result beats its controls, and the report is a page to explore."""

import json
import signal
from pathlib import Path

import pytest

from bert.cli import main
from tests.browser import chromium, opened

WIDTHS = [1280, 390]


def test_a_folder_in_use_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    assert main(["quickstart", "--out", str(tmp_path)]) == 2
    assert "holds files that are not of a run" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"]


def test_what_is_stopped_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bert.quickstart.run as quickstart
    from bert.errors import InterruptedRun

    def stopped(*_: object, **__: object) -> None:
        raise InterruptedRun("go on with bert pretrain --resume …", signal.SIGTERM)

    monkeypatch.setattr(quickstart, "pretrain", stopped)
    assert main(["quickstart", "--out", str(tmp_path / "q")]) == 143
    assert "start again with bert quickstart" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def quickstart(home: Path) -> Path:
    """The folder of a run."""
    return home / "runs" / "quickstart"


@pytest.mark.slow
def test_the_pretrained_encoder_beats_every_control_clearly(quickstart: Path) -> None:
    lines = json.loads((quickstart / "metrics.json").read_text())
    assert len(lines) == 6
    for line in lines:
        assert line["value"] > max(line["baseline"], line["random"]) + 0.1, line


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_answers_in_a_browser_and_asks_for_nothing(quickstart: Path, width: int) -> None:
    with chromium() as browser, opened(browser, quickstart / "report.html", width) as page:
        for name in ("apple", "苹果"):
            assert page.get_by_text(name).count() > 0
        sliders = page.locator("input[type=range]")
        assert sliders.count() == 2
        for slider in sliders.all():
            chart = slider.locator("xpath=ancestor::figure[1]")
            before = chart.locator(".dot").evaluate_all("dots => dots.map(dot => dot.getAttribute('style'))")
            slider.focus()
            page.keyboard.press("Home")
            after = chart.locator(".dot").evaluate_all("dots => dots.map(dot => dot.getAttribute('style'))")
            assert len(before) == len(after) > 10
            assert before != after
