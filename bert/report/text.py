"""Results as text: tables and lines for a terminal, and tab-separated lines for other programs."""

import io
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import isnan

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 120


def render(*parts: Table | str) -> str:
    """Tables and lines as text of at most 120 columns, without colors. Markup in lines is not interpreted."""
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, highlight=False, force_jupyter=False)
    for part in parts:
        console.print(Text(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Table:
    """A plain table; the first `left` columns are aligned left, the others right."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, name in enumerate(header):
        made.add_column(Text(name), justify="left" if column < left else "right", no_wrap=column > 0)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def tables(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[Table]:
    """A `table` whose columns may not fit side by side, as several, each with the first column. Columns whose names have the same first
    line stay together."""
    widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) + 3 for column in zip(header, *rows)]
    groups, used = [[0]], widths[0]
    for _, block in groupby(range(1, len(header)), key=lambda column: header[column].split("\n")[0]):
        columns = list(block)
        if used + sum(widths[column] for column in columns) > WIDTH and len(groups[-1]) > 1:
            groups, used = [*groups, [0]], widths[0]
        for column in columns:
            if used + widths[column] > WIDTH and len(groups[-1]) > 1:
                groups, used = [*groups, [0]], widths[0]
            groups[-1].append(column)
            used += widths[column]
    return [table([header[at] for at in group], [[row[at] for at in group] for row in rows], left) for group in groups]


def tabbed(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Tab-separated lines for other programs: tabs and newlines in cells become spaces, none is empty."""

    def cell(value: object) -> str:
        return "" if value is None else re.sub(r"[\t\r\n]+", " ", str(value))

    return "".join("\t".join(map(cell, row)) + "\n" for row in (header, *rows))


def decimals(value: float | None) -> str:
    """A number with two decimals, or a dash for none."""
    return "–" if value is None or isnan(value) else f"{value:.2f}"
