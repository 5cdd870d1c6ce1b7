"""Marks are told apart by everyone: by shape and filling, and where these are equal, by colors that no eye takes for one."""

from itertools import combinations

import numpy as np
import pytest

from bert.report.palette import MARKS, mark_of

# Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency": severity 1, linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(color: str, vision: str) -> np.ndarray:
    """A color in CIELAB, as seen."""
    srgb = np.array([int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    xyz = np.array(to_xyz) @ seen / [0.9505, 1, 1.0888]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_sixteen_marks_are_told_apart_without_color() -> None:
    assert len({(mark.path, mark.hollow) for mark in MARKS[:16]}) == 16
    assert len({(mark.marker, mark.hollow) for mark in MARKS[:16]}) == 16


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("screen", ["light", "dark"])
def test_marks_of_one_shape_have_colors_that_differ_for_every_eye(screen: str, vision: str) -> None:
    pairs = [(a, b) for a, b in combinations(MARKS, 2) if (a.path, a.hollow) == (b.path, b.hollow)]
    assert pairs
    for a, b in pairs:
        assert a.marker == b.marker
        assert np.linalg.norm(lab(getattr(a, screen), vision) - lab(getattr(b, screen), vision)) > 10


def test_a_number_of_a_color_is_that_color_and_marks_repeat_after_the_last() -> None:
    assert {mark.color: (mark.light, mark.dark) for mark in MARKS} == {
        n: (MARKS[n].light, MARKS[n].dark) for n in range(8)
    }
    assert mark_of(len(MARKS) + 5) is MARKS[5]
