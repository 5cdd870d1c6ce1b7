"""Words in context: thresholds and probes that are tested on other words than they are trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert import cli
from bert.errors import InputError
from bert.probing.rows import read_contexts
from bert.probing.wic import threshold, wic
from tests.probing.models import FIRM, FRUIT, make_masked_lm, sentence

WORDS = ("apple", "berry", "the", "is", "of", "mat")


def write(file: Path, count: int = 60) -> Path:
    """A word in two sentences of one sense, or of two."""
    lines = []
    for n in range(count):
        word, same, sense = WORDS[n % len(WORDS)], n % 4 < 2, (FRUIT, FIRM)[n % 2]
        first, second = sentence(word, sense, n), sentence(word, sense if same else (FIRM, FRUIT)[n % 2], n + 1000)
        row = {"word": word, "sentence1": first, "sentence2": second, "same": same}
        for side, text in (("1", first), ("2", second)):
            start = f"{text} ".index(f"of the {word} ") + len("of the ")
            row |= {f"start{side}": start, f"end{side}": start + len(word)}
        lines.append(json.dumps(row))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=20))
def test_no_threshold_is_more_accurate(rows: list[tuple[int, bool]]) -> None:
    cosines, same = np.array([value for value, _ in rows], float), np.array([one for _, one in rows])
    best = max(((cosines >= at) == same).mean() for at in [*cosines, np.inf])
    assert ((cosines >= threshold(cosines, same)) == same).mean() == best


def test_senses_that_show_in_the_context_are_found_beside_the_constant_answer(tmp_path: Path) -> None:
    found = wic(write(tmp_path / "wic.jsonl", 240), make_masked_lm())
    assert (found.rows, found.words) == (240, len(WORDS))
    scores = {(one.method, one.layer): one for one in found.scores}
    assert scores["majority", None].accuracy == 0.5
    assert max(scores["cosine", layer].accuracy for layer in (1, 2)) > 0.6
    assert all(one.low <= one.accuracy <= one.high for one in found.scores)
    assert "a constant answer: 50.0%" in str(found)
    assert len(found.table()) == 1 + 4 * 3
    for layer in (1, 2):  # the words and the probe suffice here: without the control the model would get the credit
        assert scores["linear", layer].accuracy <= scores["random encoder, linear", layer].accuracy + 0.05


def test_a_word_is_never_answered_by_what_was_trained_on_it(tmp_path: Path) -> None:
    """A word with the labels reversed does not profit from its own rows: it is answered as the others are labelled."""
    file = write(tmp_path / "wic.jsonl", 240)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    plain = wic(file, make_masked_lm(), layers=2)
    file.write_text(
        "\n".join(json.dumps(row | {"same": row["same"] != (row["word"] == "apple")}) for row in rows), encoding="utf-8"
    )
    reversed_ = wic(file, make_masked_lm(), layers=2)
    share = sum(row["word"] == "apple" for row in rows) / len(rows)
    accuracy = {
        found: next(one.accuracy for one in found.scores if one.method == "cosine") for found in (plain, reversed_)
    }
    assert accuracy[reversed_] < accuracy[plain] + 0.01
    assert accuracy[plain] - accuracy[reversed_] < share


def test_the_command_reads_such_a_file_and_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_masked_lm().save(tmp_path / "model")
    file = write(tmp_path / "wic.jsonl")
    assert cli.main(["senses", str(file), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out.tsv")]) == 0
    assert "a constant answer" in capsys.readouterr().out
    assert (tmp_path / "out.tsv").read_text(encoding="utf-8").startswith("method\tlayer\taccuracy")
    assert cli.main(["senses", str(file), "--model", str(tmp_path / "model"), "--seeds", "2"]) == 2
    assert "--seeds is not used with a file of words in context" in capsys.readouterr().err
    table = tmp_path / "bad.tsv"
    table.write_text("word\tsentence1\tsentence2\tlabel\nbank\tthe bank\tbanks\tmaybe\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: label is 'maybe'; must be true or false"):
        read_contexts(table)
    table.write_text("word\tsentence1\tsentence2\tlabel\nbank\tthe bank\tshore\tT\n", encoding="utf-8")
    with pytest.raises(InputError, match="bank does not occur in sentence2: give start2 and end2"):
        read_contexts(table)
    table.write_text("word\tsentence1\tsentence2\tlabel\nbank\tthe bank\ttwo banks\tT\n", encoding="utf-8")
    (one,) = read_contexts(table) or []
    assert (one.second.span, one.same) == ((4, 9), True)
    with pytest.raises(InputError, match="5 words or more"):
        wic([one], make_masked_lm())
