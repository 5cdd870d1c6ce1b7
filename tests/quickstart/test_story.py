"""The report of the quickstart, from a model that has learned nothing: its pictures need numbers, not good ones."""

from pathlib import Path

import pytest
import torch

from bert.data.vocabulary import train_tokenizer
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.probing.attention import attention
from bert.probing.rows import Row
from bert.probing.senses import senses
from bert.probing.sentences import score
from bert.probing.words import words
from bert.quickstart.story import Filled, Findings, Line, write_story
from bert.report.charts import SpannedText
from bert.sample.make import Prompt, make_sample
from tests.report.reader import Reader

TAGGED = "Zoe Lee left <em>Rome</em> & co."
HOSTILE = 'The apple </script><script>alert("apple & co")</script> fell.'


@pytest.fixture(scope="module")
def findings() -> Findings:
    sample = make_sample("en")
    tokenizer = train_tokenizer(sample.corpus[:200], vocab_size=400)
    torch.manual_seed(0)
    shape = EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=16, max_length=64
    )
    model = MaskedLM(shape).eval()
    model.tokenizer = tokenizer
    rows = [Row(one.sentence, "", one.word, (one.start, one.end), one.sense) for one in sample.senses_test]
    apples = [row for row in rows if row.word == "apple"][::4]
    apples.append(Row(HOSTILE, "", "apple", (4, 9), apples[0].sense))
    prompt = Prompt("apple", "fruit", "She ate the [MASK] <b>quickly</b>.")
    good, bad = score(["She peeled the apple.", "She peeled the <i>river</i>."], model)
    return Findings(
        lines=(Line("topic of a text", "accuracy", 0.9, 0.4, "a bag of words", 0.3),),
        losses=((1e5, 5.0), (2e5, 3.5)),
        words=(words("apple", apples, model),),
        senses=senses(rows[:96], model, rows[:96]),
        tagged=(SpannedText(TAGGED, ((0, 7, "PERSON"), (13, 26, "<u>CITY"))),),
        filled=(Filled(prompt, tuple(map(tuple, model.fill(prompt.text)))),),
        attention=attention("The bank raised the interest.", model),
        pairs=((good, bad), (good, bad)),
        tokens=1e6,
        seconds=120.0,
    )


def test_the_story_is_one_offline_page_in_which_text_stays_text(findings: Findings, tmp_path: Path) -> None:
    page = write_story(findings, tmp_path / "report.html").read_text(encoding="utf-8")
    read = Reader(page)
    assert len(read.scripts) == 1
    assert all(target.startswith(("#", "data:")) for name in ("src", "href") for target in read.attributes(name))
    for written in ("<script>alert", "<b>quickly", "<i>river", "<em>Rome", "<u>CITY"):
        assert written not in page
    for told in (
        "topic of a text",
        "90.0%",
        "40.0%",
        "a bag of words",
        "<b>quickly",
        "Zoe Lee",
        "<em>Rome</em>",
        "<u>CITY",
    ):
        assert told in read.text
    assert page.count(">Zoe Lee<small>PERSON</small></mark> left <mark") == 1
    good, bad = findings.pairs[0]
    ahead = f"{abs(good.score - bad.score):.2f} nats"
    for told in ("what a language model is for", ahead):
        assert told in read.text
    for one in (*good.log_probabilities, *bad.log_probabilities):  # token by token
        assert f"{one:.2f}".replace("-", "\N{MINUS SIGN}") in read.text
    pointed_at = [part for block in read.data if "items" in block for item in block["items"] for part in item]
    assert HOSTILE[9:] in pointed_at  # what stands behind the word


def test_the_table_of_the_terminal_has_each_result_beside_its_controls(findings: Findings) -> None:
    (line,) = [line for line in findings.table().splitlines() if "topic of a text" in line]
    assert [cell.strip() for cell in line.strip("│ ").split("│")] == [
        "topic of a text",
        "accuracy",
        "90.0%",
        "40.0%",
        "30.0%",
        "a bag of words",
    ]


def test_the_table_is_the_same_text_in_a_notebook(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = findings.table()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert findings.table() == expected
