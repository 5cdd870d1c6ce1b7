"""Tables as text: nothing is cut off, however many columns there are."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bert.report.text import WIDTH, render, tables

CELL = st.text("abc苹9%", min_size=1, max_size=20)
COLUMN = st.tuples(st.sampled_from(["linear", "random encoder", "c"]), CELL, CELL, CELL)


@settings(deadline=None)
@given(st.lists(COLUMN, min_size=1, max_size=25))
def test_every_cell_is_shown_beside_the_first_column_in_at_most_120_columns(columns: list[tuple[str, ...]]) -> None:
    header = ["layer", *(f"{probe}\n{metric}" for probe, metric, *_ in columns)]
    rows = [[name, *(column[place] for column in columns)] for place, name in ((2, "first"), (3, "second"))]
    shown = tables(header, rows)
    text = render(*shown)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("layer") == text.count("first") == text.count("second") == len(shown)
    words = text.split()
    for row in (*rows, [part for name in header for part in name.split()]):
        for cell in row:
            assert words.count(cell) >= row.count(cell)
    assert "…" not in text
