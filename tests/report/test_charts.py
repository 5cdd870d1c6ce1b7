"""What charts show is what they were given."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.report import charts
from bert.report.page import Marked
from tests.report.reader import Reader

SENTENCE = Marked("She ate an apple.", 11, 16)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks_are_round_evenly_spaced_and_hold_the_values(low: float, width: float, about: int) -> None:
    values = charts.ticks(low, low + width, about)
    step = values[1] - values[0]
    slack = max(1e-6 * step, 2e-12 * max(abs(low), abs(low + width)))  # of MaxNLocator, far from zero: 12 digits
    assert values[0] <= low + slack
    assert values[-1] >= low + width - slack
    assert len(values) <= 2 * about + 3
    digits = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(digits - d) for d in (1, 2, 5, 10)) < 1e-3
    assert all(b - a == pytest.approx(step, rel=1e-3) for a, b in pairwise(values))


def test_a_curve_is_drawn_to_scale() -> None:
    """From (0, 4) to (10, 0): the corners of the field."""
    text = charts.line_chart({"loss": [(0, 4), (5, 3), (10, 0)]}, "step", "nats")
    assert 'points="0.0,0.0 50.0,25.0 100.0,100.0"' in text
    (numbers,) = Reader(text).data
    assert numbers["curves"] == [[[0, 4], [5, 3], [10, 0]]]


def test_a_logarithmic_axis_is_drawn_to_scale() -> None:
    text = charts.line_chart({"loss": [(1, 4), (10, 3), (100, 0)]}, "step", "nats", log=True)
    assert 'points="0.0,0.0 50.0,25.0 100.0,100.0"' in text
    assert re.findall(r'class="tick.*?left:([\d.]+)%"><span>([^<]*)', text) == [
        ("0.0", "1"),
        ("50.0", "10"),
        ("100.0", "100"),
    ]
    narrow = charts.line_chart({"loss": [(256, 4), (2_046, 0)]}, "step", "nats", log=True)
    assert re.findall(r'class="tick.*?<span>([^<]*)', narrow) == ["500", "1,000", "2,000"]


@given(st.floats(1e-3, 1e9))
def test_a_single_point_has_a_place_on_a_logarithmic_axis(x: float) -> None:
    (place,) = re.findall(r'points="([\d.]+),', charts.line_chart({"loss": [(x, 1)]}, "step", "nats", log=True))
    assert 0 <= float(place) <= 100


def test_the_legend_says_the_last_value_of_each_curve() -> None:
    read = Reader(charts.line_chart({"train": [(1, 3.0), (2, 2.5)], "test": [(2, 2.75)]}, "step", "nats"))
    assert re.search(r"train\s*2\.50.*test\s*2\.75", read.text)


def test_sixteen_curves_are_told_apart_by_color_and_dashes() -> None:
    text = charts.line_chart({f"run {n}": [(0, n), (1, n)] for n in range(16)}, "step", "nats")
    assert len(set(re.findall(r'<polyline class="(c\d d\d)"', text))) == 16
    assert re.findall(r'<li class="(c\d)"><svg class="stroke (d\d)"', text)[11] == ("c3", "d1")


@pytest.mark.parametrize(
    "points", [[], [(1.0, 2.0)], [(1.0, 2.0), (1.0, 2.0)], [(1.0, math.nan), (2.0, 5.0), (3.0, math.inf)]]
)
def test_curves_without_extent_are_drawn(points: list[tuple[float, float]]) -> None:
    text = charts.line_chart({"loss": points}, "step", "nats")
    Reader(text)
    assert "nan" not in text
    assert "inf" not in text


def test_a_long_curve_is_thinned_and_ends_where_it_ended() -> None:
    points = [(float(x), math.sin(x)) for x in range(12_345)]
    (numbers,) = Reader(charts.line_chart({"loss": points}, "step", "nats")).data
    assert len(numbers["curves"][0]) <= charts.MOST_POINTS + 1
    assert numbers["curves"][0][-1][0] == 12_344


def test_bars_are_as_long_as_their_values() -> None:
    values = [("a", 2.0, None, "2"), ("b", 0.5, None, "half"), ("c", -1.0, None, "-1")]
    assert re.findall(r"width:([\d.]+)%", charts.bars(values, 2.0)) == ["100.0", "25.0", "0.0"]
    assert re.findall(r"width:([\d.]+)%", charts.bars([("a", 0.25, None, "")])) == ["25.0"]
    assert "half" in Reader(charts.bars(values)).text


def test_the_hidden_word_is_marked_among_the_guesses_and_covered_in_the_sentence() -> None:
    read = Reader(charts.fill_in(SENTENCE, [("pear", 0.6), ("Apple", 0.4)]))
    rows = [attributes.get("class") for tag, attributes in read.seen if tag == "li"]
    assert rows == [None, "hit"]
    assert read.text.startswith("She ate an .")


def test_contexts_come_with_their_cosines_and_marks() -> None:
    other = Marked("Apple sells phones.", 0, 5)
    text = charts.contexts(SENTENCE, [(other, 0.875), (SENTENCE, -0.04)], [0, 1, 0])
    assert re.findall(r"symbol c(\d)", text) == ["0", "1", "0"]
    assert re.findall(r"<output>(.*?)</output>", text) == ["0.88", "−0.04"]
    assert "symbol" not in charts.contexts(SENTENCE, [(other, 0.5)])


def rows_of(text: str) -> list[tuple[list[str], list[str]]]:
    """(token and score of the right one, of the wrong one) a row of a comparison; nothing where a side has no token."""
    sides = re.findall(r'<li[^>]*><span class="right"(.*?)</span><span class="wrong"(.*?)</span></li>', text)
    return [tuple(re.findall(r"<(?:b|output)[^>]*>([^<]*)<", side) for side in row) for row in sides]


def test_a_comparison_puts_what_both_say_in_one_row_and_names_the_largest_loss() -> None:
    right = charts.ScoredText(["she", "ate", "##n", "fish", "."], [-1.0, -2.0, -0.5, -3.0, -1.0])
    wrong = charts.ScoredText(["she", "eight", "fish", "."], [-1.0, -8.0, -4.0, -2.5])
    text = charts.side_by_side(right, wrong)
    minus = "\N{MINUS SIGN}"
    assert rows_of(text)[1:] == [
        (["she", f"{minus}1.00"], ["she", f"{minus}1.00"]),
        (["ate", f"{minus}2.00"], ["eight", f"{minus}8.00"]),
        (["##n", f"{minus}0.50"], []),
        (["fish", f"{minus}3.00"], ["fish", f"{minus}4.00"]),
        ([".", f"{minus}1.00"], [".", f"{minus}2.50"]),
    ]
    assert "The right one is 8.00 nats more probable. The largest loss, 5.50, is at “eight”." in text
    assert len(re.findall("<li class=here>", text)) == 2  # as many rows as the longer side has tokens
    assert re.findall(r"--w:([\d.]+)", text)[:4] == ["12.5", "12.5", "25.0", "100.0"]
    turned = charts.side_by_side(wrong, right)
    assert "prefers the wrong one, by 8.00 nats. The largest loss, 5.50, is at “eight”." in turned
    shorter = charts.side_by_side(charts.ScoredText(["a", "b"], [-1.0, -1.0]), charts.ScoredText(["a"], [-5.0]))
    assert "is at “a”" in shorter
    assert 'title="37 %"' in shorter


def test_a_comparison_without_a_loss_or_a_token_names_none() -> None:
    same = charts.ScoredText(["a"], [-1.0])
    assert "largest loss" not in charts.side_by_side(same, same)
    assert "largest loss" not in charts.side_by_side(charts.ScoredText([], []), charts.ScoredText([], []))
    assert "The largest loss, 2.00, is at “<b>”." not in charts.side_by_side(charts.ScoredText(["<b>"], [-3.0]), same)


def test_words_are_shaded_by_their_share_of_the_largest_weight() -> None:
    """Half of it in half the color; less than a twentieth in none; both texts of a pair on one scale."""
    texts = [("<b>good</b>, bad", [(3, 7, 0.8), (13, 16, -0.4)]), ("fine so", [(0, 4, 0.04), (5, 7, 0.039)])]
    text = charts.shaded(texts, "yes & 0.9", "a <note>")
    marks = re.findall(r'<mark class="(for|against)" style="--s:([\d.]+)%" title="([-+.\d]+)">(.*?)</mark>', text)
    assert marks == [
        ("for", "100.0", "+0.800", "good"),
        ("against", "50.0", "-0.400", "bad"),
        ("for", "5.0", "+0.040", "fine"),
    ]
    assert Reader(text).text == "yes & 0.9 a <note><b>good</b>, badfine so"


def test_a_long_text_is_shaded_to_5000_characters() -> None:
    words = [(start, start + 3, 1.0) for start in range(0, 8_000, 4)]
    text = charts.shaded([("Ann " * 2_000, words)], "", "")
    assert Reader(text).text == " " + "Ann " * 1_250 + "…"
    assert text.count("<mark") == 1_250


def test_words_without_weights_are_not_shaded() -> None:
    assert "<mark" not in charts.shaded([("no words", []), ("zero", [(0, 4, 0.0)])], "", "")


def test_dots_are_drawn_to_scale_beside_a_curve_and_have_no_last_value() -> None:
    text = charts.line_chart(
        {"rows": [(0, 4), (10, 0)], "best": [(0, 0), (10, 4)]}, "right", "predicted", dots=["rows"]
    )
    assert 'd="M0.0,0.0h0M100.0,100.0h0"' in text
    assert 'points="0.0,100.0 100.0,0.0"' in text
    assert "<output>" not in text
    many = [(n, n % 7) for n in range(5_000)]
    assert [
        len(one) for one in Reader(charts.line_chart({"a": many, "b": many}, "x", "y", dots=["a"])).data[0]["curves"]
    ] == [1668, 501]


def test_bars_have_their_intervals_to_scale() -> None:
    text = charts.bars([("short", 0.5, (0.25, 0.75), "50% of 30"), ("<long>", 0.2, None, "20% of 3")], 1.0)
    assert '<i style="width:50.0%"></i><b style="left:25.0%;right:25.0%"></b></span><output>50% of 30</output>' in text
    assert '<i style="width:20.0%"></i><b style="left:20.0%;right:80.0%">' in text
    assert "&lt;long&gt;" in text
    Reader(charts.bars([("none", 0.0, None, "")], 0.0))


@given(st.text("ab ", max_size=30), st.data())
def test_a_part_of_a_text_has_the_spans_that_lie_in_it(text: str, data: st.DataObject) -> None:
    place = st.integers(0, len(text))
    spans = [(*sorted((data.draw(place), data.draw(place))), "X") for _ in range(3)]
    start, end = sorted((data.draw(place), data.draw(place)))
    part = charts.SpannedText(text, spans).part(start, end)
    assert part.text.strip("…") == text[start:end]
    assert (part.text.startswith("…"), part.text.endswith("…")) == (start > 0, end < len(text)) or start == end
    assert [part.text[a:b] for a, b, _ in part.spans] == [text[a:b] for a, b, _ in spans if start <= a and b <= end]


def test_figures_with_the_same_types_have_the_same_colors() -> None:
    one = charts.spanned([charts.SpannedText("Rome", [(0, 4, "LOC")])], ["PER", "LOC"])
    other = charts.spanned([charts.SpannedText("Ann, Rome", [(0, 3, "PER"), (5, 9, "LOC")])], ["PER", "LOC"])
    assert re.findall('class="(c.)">Rome', one) == re.findall('class="(c.)">Rome', other) == ["c1"]
