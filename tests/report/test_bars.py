"""Pictures of measurements: a PNG file whatever the metrics are."""

import pytest

from bert.report.bars import Bar, bars_png, curves_png


@pytest.mark.parametrize("count", [0, 1, 30])
def test_bars_grow_with_their_number_and_are_a_png(tmp_path, count):
    bars_png(
        tmp_path / "a.png",
        [Bar(f"setting {n}", {"median": n + 1.0, "min": n, "max": n + 2.0}, n) for n in range(count)],
        "title",
        "times",
        ("level", 1.0),
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("doubling", [False, True])
def test_curves_of_any_length_are_a_png(tmp_path, doubling):
    curves_png(
        tmp_path / "a.png",
        [("candidate", 0, [(1, 2), (2, 1)]), ("candidate", 0, []), ("baseline", 1, [(1, 3)])],
        "title",
        "minutes",
        "nats",
        doubling,
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
