"""PNG files: the right size, something on them, no warnings, and the text as it stands."""

import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from bert.report import figures
from tests.report.demo import APPLE, PINGGUO, heads_of, layer_map_of


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def pixels(file: Path) -> np.ndarray:
    """(height, width, 3) from 0 to 1."""
    return matplotlib.image.imread(file)[..., :3]


def near(picture: np.ndarray, color: str) -> int:
    """How many pixels have a color, nearly."""
    wanted = np.array([int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    return int((np.abs(picture - wanted).max(-1) < 0.02).sum())


def test_a_map_has_its_size_and_the_colors_of_its_groups(tmp_path: Path) -> None:
    file = tmp_path / "map.png"
    assert figures.layer_scatter_png(file, layer_map_of(APPLE, "apple"), -1, "apple, layer 4") == ""
    picture = pixels(file)
    assert picture.shape == (1056, 1440, 3)
    one = 16 * 8  # pixels of a mark, at the least
    assert near(picture, figures.MARKS[0].light) > 8 * one
    assert near(picture, figures.MARKS[1].light) > 8 * one
    assert near(picture, figures.MARKS[2].light) == 0


def test_chinese_is_drawn_where_a_font_is_installed_and_boxes_where_none_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = layer_map_of(PINGGUO, "苹果")
    if figures._chinese_fonts():
        assert figures.layer_scatter_png(tmp_path / "fonts.png", word) == ""
    monkeypatch.setattr(figures, "_chinese_fonts", lambda: ())
    remark = figures.layer_scatter_png(tmp_path / "boxes.png", word)
    assert "\n" not in remark
    assert "install Noto Sans CJK" in remark
    assert pixels(tmp_path / "boxes.png").std() > 0.01


@pytest.mark.parametrize(
    "text", ["$x_1$ costs \\$5", "$\\frac{", "_hidden", "a\nb\tc\x00", "👩‍👩‍👧 \ud83c", "עברית", ""]
)
def test_no_text_becomes_a_formula_or_stops_the_drawing(tmp_path: Path, text: str) -> None:
    word = layer_map_of({text: [f"{text} apple {text}"], "_": ["apple"]}, "apple")
    figures.layer_scatter_png(tmp_path / "map.png", word, 0, text)
    figures.heatmap_png(tmp_path / "head.png", [text, "b"], heads_of(2)["layer 3, head 1"], text)
    assert pixels(tmp_path / "map.png").std() > 0.01
    assert pixels(tmp_path / "head.png").std() > 0.01


def test_dollars_are_drawn_as_dollars(tmp_path: Path) -> None:
    """As a formula, `$a$` would be as wide as `a`."""
    widths = []
    for title in ("a", "$a$"):
        figures.heatmap_png(tmp_path / "head.png", ["x", "y"], np.eye(2), title)
        ink = pixels(tmp_path / "head.png").mean(-1) < 0.5
        first = ink.any(1).argmax()
        last = first + (~ink[first:].any(1)).argmax()  # the title's rows: up to the first empty one
        widths.append(int(ink[first:last].any(0).sum()))
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_maps_of_no_one_and_many_occurrences_are_drawn(tmp_path: Path, count: int) -> None:
    word = layer_map_of({"a": ["an apple"] * 300}, "apple")
    some = replace(
        word,
        occurrences=word.occurrences[:count],
        groups=word.groups[:count],
        positions=word.positions[:, :count],
        cosines=None,
    )
    figures.layer_scatter_png(tmp_path / "map.png", some)
    assert pixels(tmp_path / "map.png").shape == (1056, 1440, 3)


def test_the_darkest_cells_of_a_head_are_its_largest_weights(tmp_path: Path) -> None:
    file = tmp_path / "head.png"
    weights = np.array([[0.0, 1.0], [1.0, 0.0]])
    figures.heatmap_png(file, ["a", "b"], weights, "layer 1, head 1")
    picture = pixels(file).mean(-1)
    lowest, right = picture.shape[0], picture.shape[1]
    upper, lower = picture[int(0.3 * lowest)], picture[int(0.9 * lowest)]
    assert upper[int(0.9 * right)] < 0.5 < upper[int(0.2 * right)]
    assert lower[int(0.2 * right)] < 0.5 < lower[int(0.9 * right)]


def test_a_long_text_has_a_larger_picture_with_a_limit(tmp_path: Path) -> None:
    sizes = []
    for size in (5, 15, 40):
        figures.heatmap_png(tmp_path / "head.png", ["token"] * size, np.full((size, size), 1 / size), "head")
        sizes.append(pixels(tmp_path / "head.png").shape[0])
    assert sizes[0] < sizes[1] < sizes[2] == 14 * 160


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 tokens"):
        figures.heatmap_png(tmp_path / "head.png", ["a", "b", "c"], np.eye(2), "head")
    assert not (tmp_path / "head.png").exists()
