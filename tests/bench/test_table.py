"""What is told of cells: a line and a row hold the same figures."""

from bert.bench.cells import Cells
from bert.bench.table import line_of, tables


def test_a_line_and_a_row_of_a_cell_say_the_same_figures():
    key = {"what": "minutes", "side": "peer", "seed": 3}
    value = {"loss": 5.25, "accuracy": 0.125, "tokens": 2.5e6, "steps": 1200, "seconds": 90.0, "setting": "sdpa"}
    cells = Cells(None, {})
    cells.measured(key, lambda: value)
    assert line_of(key | value) == "peer, seed 3: 5.250 loss, 12.5% accuracy, 2.50 M tokens, 1,200 steps, 1.5 minutes"
    assert tables(cells)[0].splitlines()[-1] == "| peer (sdpa) | 3 | 5.250 | 12.5% | 2.50 | 1,200 | 1.5 |"


def test_what_does_not_run_says_why_in_both_and_whose_fault_it_is():
    key = {"what": "against hf", "work": "padded", "setting": "eager"}
    cells = Cells(None, {})
    cells.measured(key, lambda: {"fails": "out of memory", "side": "peer"})
    assert line_of(next(iter(cells))) == "padded, eager: peer does not run here: out of memory"
    row = tables(cells)[0].splitlines()[-1]
    assert row.startswith("| padded | eager | peer does not run here: out of memory |")
    assert row.count("|") == 9
