"""Reports of results: a line and a row contain the same metrics."""

from bert.bench.results import Results, line_of, tables


def test_a_line_and_a_row_of_a_result_hold_the_same_metrics():
    key = {"kind": "minutes", "name": "baseline, seed 3", "side": "baseline", "seed": 3}
    value = {"loss": 5.25, "accuracy": 0.125, "tokens": 2.5e6, "steps": 1200, "minutes": 1.5, "setting": "sdpa"}
    results = Results(None, {})
    results.measured(key, lambda: value)
    said = "baseline, seed 3: 5.250 loss, 12.5% accuracy, 2,500,000 tokens, 1,200 steps, 1.5 minutes"
    assert line_of(key | value) == said
    assert tables(results)[0].splitlines()[-1] == "| baseline | sdpa | 3 | 5.250 | 12.5% | 2,500,000 | 1,200 | 1.5 |"


def test_what_does_not_run_says_why_in_both_and_which_side_failed():
    key = {"kind": "compare", "name": "padded, eager", "workload": "padded", "setting": "eager"}
    results = Results(None, {})
    results.measured(key, lambda: {"error": "out of memory", "side": "baseline"})
    assert line_of(next(iter(results))) == "padded, eager: baseline does not run here: out of memory"
    row = tables(results)[0].splitlines()[-1]
    assert row.startswith("| padded | eager | baseline does not run here: out of memory |")
    assert row.count("|") == 9
