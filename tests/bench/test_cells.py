"""Finished cells stay, unfinished ones are measured, and figures of two measurements never mix."""

import pytest

from bert.bench.cells import CELLS, Cells
from bert.errors import InputError

from .synthetic import Stop

WHAT = {"recipe": {"rows": [1, 2]}, "rounds": 3}


def test_an_interrupted_measurement_goes_on_with_the_next_cell(tmp_path):
    measured = []

    def measure(number):
        measured.append(number)
        if measured == [0, 1, 2]:
            raise Stop
        return {"rate": number / 3, "pair": (1, 2)}

    cells = Cells(tmp_path, WHAT)
    with pytest.raises(Stop):
        for number in range(4):
            cells.measured({"n": number}, lambda n=number: measure(n))
    with (tmp_path / CELLS).open("a") as stream:
        stream.write('{"key": {"n": 2}, "val')  # killed in the middle of a line
    again = Cells(tmp_path, WHAT)
    values = [again.measured({"n": number}, lambda n=number: measure(n)) for number in range(4)]
    assert measured == [0, 1, 2, 2, 3]
    assert values == [{"rate": number / 3, "pair": [1, 2]} for number in range(4)]
    assert [cell["n"] for cell in Cells(tmp_path, WHAT)] == [0, 1, 2, 3]


def test_cells_of_another_measurement_are_refused_and_left_alone(tmp_path):
    Cells(tmp_path, WHAT).measured({"n": 1}, dict)
    before = (tmp_path / CELLS).read_bytes()
    with pytest.raises(InputError, match="figures of another measurement"):
        Cells(tmp_path, WHAT | {"rounds": 4})
    assert (tmp_path / CELLS).read_bytes() == before


def test_what_failed_before_its_first_figure_is_in_nobodys_way(tmp_path):
    Cells(tmp_path, WHAT)
    Cells(tmp_path, WHAT | {"rounds": 4}).measured({"n": 1}, dict)
    with pytest.raises(InputError, match="figures of another measurement"):
        Cells(tmp_path, WHAT)


def test_what_failed_is_tried_again_by_the_next_command(tmp_path):
    cells = Cells(tmp_path, WHAT)
    for _ in range(2):
        assert cells.measured({"n": 1}, lambda: {"fails": "out of memory"}) == {"fails": "out of memory"}
    again = Cells(tmp_path, WHAT)
    assert again.measured({"n": 1}, lambda: {"rate": 1.0}) == {"rate": 1.0}
    assert list(Cells(tmp_path, WHAT)) == [{"n": 1, "rate": 1.0}]


def test_without_a_folder_cells_live_in_memory():
    cells = Cells(None, WHAT)
    assert cells.measured({"n": 1}, lambda: {"a": 1}) == cells.measured({"n": 1}, lambda: {"a": 2}) == {"a": 1}
