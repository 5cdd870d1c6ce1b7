"""The results of `bert quickstart` with their controls, and the data of its report."""

from dataclasses import dataclass

from rich.table import Table

from bert.model.heads import Prediction
from bert.probing.attention import Attention
from bert.probing.senses import Senses
from bert.probing.sentences import SentenceScore
from bert.probing.words import Words
from bert.report.text import render
from bert.sample.make import Prompt


@dataclass(frozen=True)
class Line:
    """A result and its controls, all from 0 to 1."""

    what: str
    measure: str
    value: float
    baseline: float
    baseline_is: str
    fresh: float
    """the same with a randomly initialized encoder"""

    def cells(self) -> tuple[str, ...]:
        """The line as a row of the table."""
        numbers = (f"{value:.1%}" for value in (self.value, self.baseline, self.fresh))
        return (self.what, self.measure, *numbers, self.baseline_is)


@dataclass(frozen=True)
class Filled:
    """The predictions for a masked word."""

    prompt: Prompt
    guesses: tuple[tuple[Prediction, ...], ...]
    """for each mask of the prompt, the most probable first"""


@dataclass(frozen=True)
class Findings:
    """The content of the report."""

    lines: tuple[Line, ...]
    losses: tuple[tuple[float, float], ...]
    """(tokens seen, masked-LM loss)"""
    words: tuple[Words, ...]
    senses: Senses
    filled: tuple[Filled, ...]
    attention: Attention
    pairs: tuple[tuple[SentenceScore, SentenceScore], ...]
    """(good, bad)"""
    tokens: float
    """number of tokens seen in pretraining"""
    seconds: float
    """wall time up to the report"""

    def table(self) -> str:
        """The results and their controls, for a terminal."""
        table = Table(title="Pretrained model vs. baselines", title_justify="left")
        for name in ("", "measured as", "pretrained", "baseline", "random init.", "the baseline is"):
            table.add_column(name, justify="right" if name in ("pretrained", "baseline", "random init.") else "left")
        for line in self.lines:
            table.add_row(*line.cells())
        return render(table)
