"""The bench runs a run's recipe in both loops and says what it measured. No time is asserted."""

from bert.cli import main


def test_bench_measures_a_run_without_changing_it(tiny_run, capsys):
    before = sorted(path.name for path in tiny_run.rglob("*"))
    assert main(["bench", str(tiny_run), "--steps", "2", "--rounds", "1"]) == 0
    output = capsys.readouterr().out
    for words in ("bare step", "data", "optimiser", "tokens/s", "Lightning's loop over the bare loop"):
        assert words in output
    assert sorted(path.name for path in tiny_run.rglob("*")) == before
