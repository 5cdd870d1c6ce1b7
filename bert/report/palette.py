"""The eight marks of groups of points, on pages and in PNG files: a color, and a shape for color-blind readers.

The colors are those of Okabe and Ito (Color Universal Design, 2008), with the two lightest darkened to be readable on white.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """The mark of a group: its colors on a light and a dark background, an SVG path in a box from -10 to 10, matplotlib's marker."""

    light: str
    dark: str
    path: str
    marker: str


MARKS = (
    Mark("#0072b2", "#5cb3ec", "M-7,0a7,7 0 1,0 14,0a7,7 0 1,0 -14,0", "o"),
    Mark("#d55e00", "#ff8f47", "M-6.2,-6.2H6.2V6.2H-6.2Z", "s"),
    Mark("#00855f", "#35c99d", "M0,-8L8,6.3H-8Z", "^"),
    Mark("#b8478f", "#ee94cb", "M0,-8.7L8.7,0L0,8.7L-8.7,0Z", "D"),
    Mark("#96740a", "#e6c34d", "M-2.7,-8H2.7V-2.7H8V2.7H2.7V8H-2.7V2.7H-8V-2.7H-2.7Z", "P"),
    Mark("#5a55c0", "#a9a4ff", "M0,8L8,-6.3H-8Z", "v"),
    Mark(
        "#5d6670", "#aeb7c1", "M-8,-4.4L-4.4,-8L0,-3.6L4.4,-8L8,-4.4L3.6,0L8,4.4L4.4,8L0,3.6L-4.4,8L-8,4.4L-3.6,0Z", "X"
    ),
    Mark("#2b8ca3", "#6fd3e8", "M-8,0L-4,-7H4L8,0L4,7H-4Z", "h"),
)


def mark_of(group: int) -> int:
    """The number of the mark of group 0, 1, 2, …; from the ninth group on, marks repeat."""
    return group % len(MARKS)
