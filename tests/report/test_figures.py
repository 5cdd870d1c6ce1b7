"""PNG files: the right size, something on them, no warnings, and the text as it stands."""

import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bert.report import figures
from bert.report.palette import MARKS
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
    assert near(picture, MARKS[0].light) > 8 * one
    assert near(picture, MARKS[1].light) > 8 * one
    assert near(picture, MARKS[2].light) == 0


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
        directions=word.directions[:, :count],
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written."""
    written: list[Figure] = []
    monkeypatch.setattr(figures.FigureCanvasAgg, "print_png", lambda self, file: written.append(self.figure))
    return written


@pytest.mark.parametrize("size", [30, 90, 91, 365])
def test_labels_of_tokens_are_large_enough_to_read_and_it_is_said_if_some_are_left_out(
    drawn: list[Figure], size: int
) -> None:
    tokens = [f"token ({n})" for n in range(size)]
    remark = figures.heatmap_png("head.png", tokens, np.full((size, size), 1 / size), "head")
    labels = drawn[0].axes[0].get_yticklabels()
    assert min(label.get_fontsize() for label in labels) > 4.5
    assert [tokens.index(label.get_text()) for label in labels] == drawn[0].axes[0].get_yticks().tolist()
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    step = -(-size // 90)
    assert len(labels) == -(-size // step)
    said = f"{size} tokens: one label in {step} is drawn; for all of them give a text of at most 90 tokens."
    assert remark == (said if size > 90 else "")


def test_long_tokens_keep_their_numbers(drawn: list[Figure]) -> None:
    tokens = [f"internationalization ({n})" for n in (1, 2)]
    figures.heatmap_png("head.png", tokens, np.eye(2), "head")
    texts = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert [text[-3:] for text in texts] == ["(1)", "(2)"]
    assert max(map(len, texts)) == figures.LONGEST_TOKEN


@pytest.mark.parametrize(("groups", "length"), [(2, 3), (5, 22), (12, 9), (20, 50), (40, 4), (9, 400)])
def test_a_legend_names_every_group_inside_the_picture_and_beside_no_mark(
    drawn: list[Figure], groups: int, length: int
) -> None:
    names = [f"_{n} {'long ' * (length // 5)}"[: length + 3] for n in range(groups)]
    figures.layer_scatter_png("map.png", layer_map_of({name: ["an apple"] for name in names}, "apple"))
    (figure,) = drawn
    (legend,) = figure.legends
    box, axes = legend.get_window_extent(), figure.axes[0].get_window_extent()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y1 <= axes.y0 + 1
    named = [text.get_text().strip() for text in legend.get_texts()]
    assert len(set(named)) == groups
    assert all(name.startswith(f"_{n}") for n, name in enumerate(named))
    looks = {(h.get_marker(), h.get_markerfacecolor(), h.get_color()) for h in legend.legend_handles}
    assert len(looks) == groups
    titles = [text.get_window_extent() for text in figure.texts]
    assert all(title.x1 <= figure.bbox.width and title.y0 >= axes.y1 for title in titles)


def test_a_map_has_every_group_of_many_occurrences_and_one_scale_in_all_layers(
    drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bert.report.maps.MOST_MARKS", 40)
    word = layer_map_of({"usual": ["an apple"] * 300, "rare": ["an apple"]}, "apple")
    shrunk = replace(word, positions=word.positions * np.array([0.1, 1, 1, 1, 1])[:, None, None])
    for layer in (0, 1):
        figures.layer_scatter_png("map.png", shrunk, layer)
    for figure in drawn:
        assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [39, 1]
        assert figure.texts[1].get_text().endswith(" · 40 of 301 occurrences")
    first, second = (figure.axes[0] for figure in drawn)
    assert first.get_xlim() == pytest.approx(second.get_xlim())
    assert first.get_ylim() == pytest.approx(second.get_ylim())


def test_right_to_left_text_is_drawn_in_its_order_and_letters_that_join_are_kept_apart_where_written_so() -> None:
    """The word at the end of a title is drawn from right to left: as its letters reversed, forced from left to right."""

    def image(text: str) -> np.ndarray:
        figure = Figure(figsize=(2, 1), dpi=100)
        canvas = FigureCanvasAgg(figure)
        figure.text(0.1, 0.5, text, fontsize=20)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]

    word = "בנק"
    np.testing.assert_array_equal(image(f"layer 6: {word}"), image(f"layer 6: \u202d{word[::-1]}\u202c"))
    persian = "می\u200cخواهم"
    assert figures.Lettering([persian]).clean(persian) == persian
    assert figures.Lettering(["a\x00b\x1b"]).clean("a\x00b\x1b") == "ab"


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 tokens"):
        figures.heatmap_png(tmp_path / "head.png", ["a", "b", "c"], np.eye(2), "head")
    assert not (tmp_path / "head.png").exists()
