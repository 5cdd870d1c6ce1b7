"""Finished results are kept, unfinished ones are measured, and results of two measurements never mix."""

import pytest

from bert.bench.results import RESULTS, Results
from bert.errors import InputError

from .synthetic import Stop

FINGERPRINT = {"recipe": {"sizes": [1, 2]}, "rounds": 3}


def test_an_interrupted_measurement_is_resumed_with_the_next_result(tmp_path):
    measured = []

    def measure(number):
        measured.append(number)
        if measured == [0, 1, 2]:
            raise Stop
        return {"rate": number / 3, "pair": (1, 2)}

    results = Results(tmp_path, FINGERPRINT)
    with pytest.raises(Stop):
        for number in range(4):
            results.measured({"n": number}, lambda n=number: measure(n))
    with (tmp_path / RESULTS).open("a") as stream:
        stream.write('{"key": {"n": 2}, "val')  # killed in the middle of a line
    again = Results(tmp_path, FINGERPRINT)
    values = [again.measured({"n": number}, lambda n=number: measure(n)) for number in range(4)]
    assert measured == [0, 1, 2, 2, 3]
    assert values == [{"rate": number / 3, "pair": [1, 2]} for number in range(4)]
    assert [result["n"] for result in Results(tmp_path, FINGERPRINT)] == [0, 1, 2, 3]


def test_results_of_another_measurement_are_refused_and_left_alone(tmp_path):
    Results(tmp_path, FINGERPRINT).measured({"n": 1}, dict)
    before = (tmp_path / RESULTS).read_bytes()
    with pytest.raises(InputError, match="results of another measurement"):
        Results(tmp_path, FINGERPRINT | {"rounds": 4})
    assert (tmp_path / RESULTS).read_bytes() == before


def test_what_failed_before_its_first_result_is_in_nobodys_way(tmp_path):
    Results(tmp_path, FINGERPRINT)
    Results(tmp_path, FINGERPRINT | {"rounds": 4}).measured({"n": 1}, dict)
    with pytest.raises(InputError, match="results of another measurement"):
        Results(tmp_path, FINGERPRINT)


def test_what_failed_is_tried_again_by_the_next_command(tmp_path):
    results = Results(tmp_path, FINGERPRINT)
    for _ in range(2):
        assert results.measured({"n": 1}, lambda: {"error": "out of memory"}) == {"error": "out of memory"}
    again = Results(tmp_path, FINGERPRINT)
    assert again.measured({"n": 1}, lambda: {"rate": 1.0}) == {"rate": 1.0}
    assert list(Results(tmp_path, FINGERPRINT)) == [{"n": 1, "rate": 1.0}]


def test_without_a_folder_results_live_in_memory():
    results = Results(None, FINGERPRINT)
    assert results.measured({"n": 1}, lambda: {"a": 1}) == results.measured({"n": 1}, lambda: {"a": 2}) == {"a": 1}
