"""Maps and matrices: places to scale, shades by value, and no more than a page can hold."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from bert.report import maps
from bert.report.page import Marked
from bert.report.palette import MARKS
from tests.report.demo import APPLE, heads_of, layer_map_of
from tests.report.reader import Reader

WORD = layer_map_of(APPLE, "apple")


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=30))
@example([(0.0, 0.0), (0.0, 5e-324)])
def test_a_map_is_a_similarity_that_fits(points: list[tuple[float, float]]) -> None:
    """All points inside the margins; distances are kept up to one factor; up stays up."""
    positions = np.array(points)
    places = maps.fitted(positions)
    assert ((places >= maps.MARGIN - 1e-6) & (places <= 100 - maps.MARGIN + 1e-6)).all()
    across = places * [maps.WIDE, -1]  # in units of the height, up positive
    before, after = (np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (positions, across))
    if before.max() > 1e-6:
        assert after == pytest.approx(before * (after.max() / before.max()), abs=1e-6)
        highest = positions[:, 1].argmax()
        assert places[highest, 1] == pytest.approx(places[:, 1].min(), abs=1e-6)


def test_points_in_one_place_lie_in_the_middle() -> None:
    assert maps.fitted(np.ones((3, 2))).tolist() == [[50, 50]] * 3


def test_a_layer_map_holds_every_occurrence_layer_and_measure() -> None:
    text = maps.layer_map(WORD, start=2)
    (content,) = Reader(text).data
    assert text.count('class="dot"') == len(content["items"]) == 16
    assert content["layers"] == list(WORD.layers)
    assert np.array(content["xy"]).shape == (5, 32)
    assert content["groups"] == ["fruit", "company"]
    assert ["".join(item[:3]) for item in content["items"]] == [sentence.text for sentence in WORD.occurrences]
    assert {item[1].casefold() for item in content["items"]} == {"apple"}
    first = re.search(r'class="dot"[^>]*style="left:([\d.]+)%;top:([\d.]+)%"', text)
    assert first
    assert [float(first[1]), float(first[2])] == pytest.approx(content["xy"][2][:2], abs=0.011)
    assert 'value="2"' in text


def test_cosines_stand_by_group_and_are_those_given() -> None:
    mixed = replace(WORD, groups=["b", "a"] * 8)
    (content,) = Reader(maps.layer_map(mixed)).data
    order = content["cosines"]["order"]
    assert order == [*range(0, 16, 2), *range(1, 16, 2)]
    values = np.array(content["cosines"]["values"]).reshape(5, 16, 16) / 100
    expected = np.stack([cosine_similarity(layer) for layer in WORD.directions])
    assert values == pytest.approx(expected[:, order][:, :, order], abs=0.0051)


def alike(count: int, groups: list[str] | None = None) -> maps.LayerMap:
    """Occurrences in one layer."""
    directions = np.eye(count)[None]
    return maps.LayerMap(
        [WORD.occurrences[0]] * count, groups or ["one"] * count, np.zeros((1, count, 2)), ["1"], directions
    )


def test_of_many_occurrences_the_cosines_of_some_are_shown_and_it_is_said() -> None:
    count = 4 * maps.MOST_CELLS + 1
    text = maps.layer_map(alike(count, ["many"] * (count - 2) + ["one", "another"]))
    (content,) = Reader(text).data
    assert len(content["cosines"]["order"]) == maps.MOST_CELLS
    assert content["cosines"]["order"][-2:] == [count - 2, count - 1]
    assert f"({maps.MOST_CELLS} of {count} occurrences)" in text
    assert text.count('class="dot"') == count
    assert '<div class="steer" hidden>' in text  # one layer: nothing to steer


def test_a_layer_without_a_measure_says_so() -> None:
    text = maps.layer_map(replace(WORD, measures={"silhouette": [float("nan")] * 5}))
    (content,) = Reader(text).data
    assert content["measures"] == [[None] * 5]
    assert "<output>–</output>" in text


def test_a_map_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(5, 16, 2\) expected"):
        replace(WORD, positions=WORD.positions[:, :3])
    with pytest.raises(ValueError, match="5 numbers"):
        replace(WORD, measures={"silhouette": [1.0]})
    with pytest.raises(ValueError, match=r"directions \(5, 15, 12\)"):
        replace(WORD, directions=WORD.directions[:, 1:])


def test_shades_run_from_the_lowest_to_the_highest_value_off_the_diagonal() -> None:
    values = np.array([[1.0, 0.2, 0.6], [0.2, 1.0, 0.4], [0.6, 0.4, 1.0]])
    directions = np.linalg.cholesky(values)[None]  # whose products are these
    three = maps.LayerMap(WORD.occurrences[:3], ["one"] * 3, np.zeros((1, 3, 2)), ["layer 1"], directions)
    text = maps.layer_map(three)
    shades = [float(shade) for shade in re.findall(r'opacity="([\d.]+)"', text)]
    assert shades == [1, 0, 1, 0, 1, 0.5, 1, 0.5, 1]
    assert maps.value_range(values) == (0.2, 0.6)
    assert ">0.20</output>" in text
    assert ">0.60</output>" in text


@pytest.mark.parametrize(("count", "cells", "said"), [(1, 1, ""), (maps.MOST_CELLS + 1, maps.MOST_CELLS, "48 of 49")])
def test_cosines_of_one_occurrence_and_of_many_are_drawn(count: int, cells: int, said: str) -> None:
    text = maps.layer_map(alike(count))
    assert text.count('height="1" opacity') == cells**2
    assert said in text


def test_a_mark_names_the_nearest_of_all_occurrences_and_not_only_of_those_that_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(maps, "MOST_MARKS", 10)
    draw = np.random.default_rng(0)
    directions = normalize(draw.normal(size=(2 * 60, 5))).reshape(2, 60, 5)
    texts = [Marked(f"{'far ' * 40}row {n} apple", 164 + len(str(n)) + 1, 164 + len(str(n)) + 6) for n in range(60)]
    word = maps.LayerMap(texts, [f"g{n % 4}" for n in range(60)], draw.normal(size=(2, 60, 2)), ["0", "1"], directions)
    (content,) = Reader(maps.layer_map(word)).data
    drawn = word.drawn()
    assert len(drawn) == 10
    numbers = [int(item[0].split("row ")[1]) for item in content["items"]]
    assert numbers[:10] == drawn
    assert len(numbers) == len(set(numbers)) > 10
    assert [item[3] for item in content["items"]] == [n % 4 for n in numbers]
    for layer, near in enumerate(content["near"]):
        found = NearestNeighbors(n_neighbors=4, metric="cosine").fit(directions[layer])
        distances, indices = found.kneighbors(directions[layer][drawn])
        assert [numbers[item] for item in near["items"]] == indices[:, 1:].ravel().tolist()
        assert np.array(near["cosines"]) / 100 == pytest.approx(1 - distances[:, 1:].ravel(), abs=0.0051)


def test_all_layers_of_a_map_have_one_scale() -> None:
    text = maps.layer_map(replace(WORD, positions=WORD.positions * np.array([0, 1, 1, 1, 1e-3])[:, None, None]))
    (content,) = Reader(text).data
    places = np.array(content["xy"]).reshape(5, 16, 2) * [maps.WIDE, 1]
    ours, theirs = (np.linalg.norm(p - p.mean(1, keepdims=True), axis=-1) for p in (places, WORD.positions))
    for factor, layer in ((0, 0), (1, 1), (1, 3), (1e-3, 4)):
        assert ours[layer] == pytest.approx(factor * theirs[layer] * (ours[2] / theirs[2]).mean(), abs=0.02)


@pytest.mark.parametrize(("count", "said"), [(len(MARKS), False), (len(MARKS) + 1, True)])
def test_a_page_says_when_marks_repeat(count: int, said: bool) -> None:
    text = maps.layer_map(alike(count, [f"group {n}" for n in range(count)]))
    assert ("Marks repeat after 64 groups." in text) is said


def test_attention_shows_the_weights_of_every_head() -> None:
    tokens = ["[CLS]", "an", "apple", "[SEP]"]
    heads = heads_of(4)
    text = maps.attention_map(tokens, heads)
    (content,) = Reader(text).data
    assert content["tokens"] == tokens
    assert np.array(content["heads"]).reshape(4, 4, 4) / 1000 == pytest.approx(
        np.stack(list(heads.values())), abs=0.00051
    )
    assert text.count("<option") == 4
    assert [int(share) for share in re.findall(r"--w:(\d+)%", text)] == [
        round(100 * w) for w in heads["layer 3, head 1"][1]
    ]


def test_attention_of_too_many_heads_shows_the_first_and_says_so() -> None:
    size = 60
    heads = {f"head {n}": np.full((size, size), 1 / size) for n in range(100)}
    text = maps.attention_map(["a"] * size, heads)
    fits = maps.MOST_WEIGHTS // size**2
    assert text.count("<option") == fits < 100
    assert f"The first {fits} of 100 heads." in text


def test_of_many_tokens_the_grid_names_as_many_as_can_be_read() -> None:
    tokens = [f"token{n}" for n in range(100)]
    text = maps.attention_map(tokens, {"head": np.full((100, 100), 0.01)})
    rows = re.search(r'<div class="rows" aria-hidden="true">(.*?)</div>', text)
    assert rows
    names = re.findall(r"<span[^>]*>(.*?)</span>", rows[1])
    assert [name for name in names if name] == tokens[::4]
    assert names[::4] == tokens[::4]
    assert 'style="--n:100;--step:4"' in text
    assert all(f">{token}</b>" in text for token in tokens)  # beside the grid, all of them


def test_weights_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="3 tokens"):
        maps.attention_map(["a", "b", "c"], {"head": np.eye(2)})


def test_marks_of_small_groups_lie_above_those_of_large_ones() -> None:
    word = layer_map_of({"rare": ["an apple"], "usual": ["an apple"] * 9, "other": ["an apple"] * 3}, "apple")
    assert [word.groups[index] for index in word.drawn()] == ["usual"] * 9 + ["other"] * 3 + ["rare"]
    (content,) = Reader(maps.layer_map(word)).data
    assert [item[3] for item in content["items"]] == [1] * 9 + [2] * 3 + [0]
