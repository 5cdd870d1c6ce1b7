"""The marks of groups of points, on pages and in PNG files: a color, and for color-blind readers a shape, filled or hollow.

The colors are those of Okabe and Ito (Color Universal Design, 2008), with the two lightest darkened to be readable on white. Seen with
protanopia, deuteranopia or tritanopia, some of them look alike; marks of one shape never have two such colors.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """The mark of a group: its colors on a light and a dark background, an SVG path in a box from -10 to 10, matplotlib's marker."""

    color: int
    """number of the color: `.c0`, `.c1`, … on a page"""
    light: str
    dark: str
    path: str
    marker: str
    hollow: bool


_EIGHT = (
    ("#0072b2", "#5cb3ec", "M-7,0a7,7 0 1,0 14,0a7,7 0 1,0 -14,0", "o"),
    ("#d55e00", "#ff8f47", "M-6.2,-6.2H6.2V6.2H-6.2Z", "s"),
    ("#00855f", "#35c99d", "M0,-8L8,6.3H-8Z", "^"),
    ("#b8478f", "#ee94cb", "M0,-8.7L8.7,0L0,8.7L-8.7,0Z", "D"),
    ("#96740a", "#e6c34d", "M-2.7,-8H2.7V-2.7H8V2.7H2.7V8H-2.7V2.7H-8V-2.7H-2.7Z", "P"),
    ("#5a55c0", "#a9a4ff", "M0,8L8,-6.3H-8Z", "v"),
    ("#5d6670", "#aeb7c1", "M-8,-4.4L-4.4,-8L0,-3.6L4.4,-8L8,-4.4L3.6,0L8,4.4L4.4,8L0,3.6L-4.4,8L-8,4.4L-3.6,0Z", "X"),
    ("#2b8ca3", "#6fd3e8", "M8,0L-6.3,8V-8Z", ">"),
)  # fmt: skip
_SHIFTS = (0, 4, 2, 6)  # an odd one would give one shape two colors that look alike


MARKS = tuple(
    Mark(n % 8, *_EIGHT[n % 8][:2], *_EIGHT[(n + _SHIFTS[n // 16]) % 8][2:], hollow=n // 8 % 2 == 1) for n in range(64)
)


def mark_of(group: int) -> Mark:
    """The mark of group 0, 1, 2, …; after 64 groups, marks repeat."""
    return MARKS[group % len(MARKS)]
