"""Span F1: the results of the published scripts, an independent reading by regular expressions, and its properties."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.finetuning.metrics import SpanF1, numbered
from bert.finetuning.tags import spans

WORKED = """\
B-PER I-PER O B-LOC | B-PER I-PER O B-LOC
B-PER I-PER O O | I-PER I-PER O O
I-LOC I-LOC O | B-LOC I-LOC O
B-ORG I-ORG I-ORG | B-ORG I-LOC I-ORG
B-PER B-PER O | B-PER I-PER O
O O B-MISC I-MISC I-MISC I-MISC O | O B-MISC I-MISC I-MISC I-MISC I-MISC O
B-LOC I-PER O B-LOC | B-LOC B-PER O I-LOC
O O | B-ORG O
B-ORG | O
B-work-of-art I-work-of-art | I-work-of-art I-work-of-art"""
"""gold tags | predicted tags; many are ill-formed"""

# what conlleval.pl (version 2004-01-26) prints for them
CONLLEVAL = """\
precision:  57.14%; recall:  61.54%; FB1:  59.26
              LOC: precision:  80.00%; recall: 100.00%; FB1:  88.89  5
             MISC: precision:   0.00%; recall:   0.00%; FB1:   0.00  1
              ORG: precision:   0.00%; recall:   0.00%; FB1:   0.00  3
              PER: precision:  75.00%; recall:  60.00%; FB1:  66.67  4
      work-of-art: precision: 100.00%; recall: 100.00%; FB1: 100.00  1"""
# what seqeval 1.2.2 gives for them: classification_report(…, mode="strict", scheme=IOB2, digits=4)
SEQEVAL_STRICT = """\
         LOC     0.6667    0.6667    0.6667         3
        MISC     0.0000    0.0000    0.0000         1
         ORG     0.0000    0.0000    0.0000         2
         PER     0.3333    0.2500    0.2857         4
 work-of-art     0.0000    0.0000    0.0000         1
   micro     0.3333    0.2727    0.3000        11"""


def read(pairs: str) -> tuple[list[list[str]], list[list[str]]]:
    """Gold and predicted tags."""
    sides = [line.split("|") for line in pairs.splitlines()]
    return [gold.split() for gold, _ in sides], [predicted.split() for _, predicted in sides]


def score(gold, predicted, mode="conlleval", scheme="IOB2") -> dict[str, float]:
    metric = SpanF1({tag for tags in [*gold, *predicted] for tag in tags}, mode, scheme)
    metric.update(predicted, gold)
    return {name: float(value) for name, value in metric.compute().items()} | by_type(metric)


def by_type(metric: SpanF1) -> dict[str, float]:
    """What the counts of each type give."""
    found = {}
    for name, (correct, predicted, gold) in zip(metric.types, metric.counts.T.tolist()):
        shares = correct / max(1, predicted), correct / max(1, gold), 2 * correct / max(1, predicted + gold), gold
        found |= {f"{what}_{name}": share for what, share in zip(("precision", "recall", "f1", "gold"), shares)}
    return found


def test_conlleval_mode_prints_what_the_script_prints():
    scores = score(*read(WORKED))
    printed = [
        f"precision: {100 * scores['precision' + of]:6.2f}%; recall: {100 * scores['recall' + of]:6.2f}%; "
        f"FB1: {100 * scores['f1' + of]:6.2f}"
        for of in ("", "_LOC", "_MISC", "_ORG", "_PER", "_work-of-art")
    ]
    assert printed == [re.search(r"precision.*FB1: +[\d.]+", line).group() for line in CONLLEVAL.splitlines()]


def test_strict_mode_gives_what_seqeval_gives():
    scores = score(*read(WORKED), "strict")
    for line in SEQEVAL_STRICT.splitlines():
        name, *found, gold = line.split()
        of = "" if name == "micro" else f"_{name}"
        assert [f"{scores[what + of]:.4f}" for what in ("precision", "recall", "f1")] == found
        assert of == "" or scores[f"gold{of}"] == int(gold)


def test_the_published_example_of_conlleval_has_its_percentages():
    """https://www.clips.uantwerpen.be/conll2000/chunking/output.html: 459 phrases; found: 539; correct: 371."""
    metric = SpanF1(f"B-{kind}" for kind in ("ADJP", "ADVP", "NP", "PP", "SBAR", "VP"))
    correct, predicted, gold = [0, 5, 206, 89, 2, 69], [1, 11, 317, 107, 3, 100], [6, 8, 262, 90, 6, 87]
    metric.counts += metric.counts.new_tensor([correct, predicted, gold])
    metric._update_count = 1  # counts were set, not made by `update`
    scores = {name: round(100 * float(value), 2) for name, value in (metric.compute() | by_type(metric)).items()}
    published = """ADJP 0.00 0.00 0.00 ADVP 45.45 62.50 52.63 NP 64.98 78.63 71.16
    PP 83.18 98.89 90.36 SBAR 66.67 33.33 44.44 VP 69.00 79.31 73.80""".split()
    for kind, *found in zip(*[iter(published)] * 4):
        assert [scores[f"{what}_{kind}"] for what in ("precision", "recall", "f1")] == [float(f) for f in found]
    assert (scores["precision"], scores["recall"], scores["f1"]) == (68.83, 80.83, 74.35)


def test_the_examples_of_seqevals_readme():
    gold, predicted = read(
        "O O O B-MISC I-MISC I-MISC O | O O B-MISC I-MISC I-MISC I-MISC O\nB-PER I-PER O | B-PER I-PER O"
    )
    for mode in ("conlleval", "strict"):
        scores = score(gold, predicted, mode)
        assert [scores[name] for name in ("f1", "f1_MISC", "f1_PER")] == [0.5, 0.0, 1.0]
    gold, predicted = read("B-NP I-NP O | I-NP I-NP O")
    assert score(gold, predicted)["f1"] == 1.0
    assert score(gold, predicted, "strict")["f1"] == 0.0


IOB = st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), max_size=8)


@pytest.mark.parametrize("mode", ["conlleval", "strict"])
@given(pairs=st.lists(st.tuples(IOB, IOB).map(lambda two: tuple(zip(*zip(*two)))).filter(bool), min_size=1))
def test_perfect_tags_score_one_and_exchange_swaps_precision_with_recall(mode, pairs):
    gold, predicted = [list(pair[0]) for pair in pairs], [list(pair[1]) for pair in pairs]
    assert score(gold, gold, mode)["f1"] == float(
        any(spans(tags, "IOB2" if mode == "strict" else None) for tags in gold)
    )
    there, back = score(gold, predicted, mode), score(predicted, gold, mode)
    assert (there["precision"], there["recall"], there["f1"]) == (back["recall"], back["precision"], back["f1"])


def test_counts_add_up_over_updates_and_processes():
    gold, predicted = read(WORKED)
    labels = {tag for tags in [*gold, *predicted] for tag in tags}
    first, second = SpanF1(labels), SpanF1(labels)
    for tags in zip(predicted[:4], gold[:4]):
        first.update([tags[0]], [tags[1]])
    second.update(predicted[4:], gold[4:])
    first.merge_state(second)
    assert {name: float(value) for name, value in first.compute().items()} | by_type(first) == score(gold, predicted)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="tag 'NOUN' is neither O nor"):
        SpanF1(["O", "NOUN"])
    with pytest.raises(ValueError, match="differ in number"):
        SpanF1(["O", "B-X"]).update([["O"]], [["O", "O"]])


def test_spans_without_a_type_are_counted_as_of_one_type():
    assert score(["B I O B".split()], ["B I O O".split()])["f1"] == pytest.approx(2 / 3)


def test_one_thing_is_no_plural():
    assert [numbered(count, "step") for count in (0, 1, 2, 1000)] == ["0 steps", "1 step", "2 steps", "1,000 steps"]
