"""What `bert quickstart` finds: the results beside their controls, and what the report shows of the way there."""

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
    """A result beside its controls, all from 0 to 1."""

    what: str
    measure: str
    value: float
    baseline: float
    baseline_is: str
    fresh: float
    """the same way from an encoder with random initialization"""

    def cells(self) -> tuple[str, ...]:
        """The line as a row of a table."""
        numbers = (f"{value:.1%}" for value in (self.value, self.baseline, self.fresh))
        return (self.what, self.measure, *numbers, self.baseline_is)


@dataclass(frozen=True)
class Filled:
    """What the model puts in the place of a word."""

    prompt: Prompt
    guesses: tuple[tuple[Prediction, ...], ...]
    """for each mask of the prompt, the likeliest first"""


@dataclass(frozen=True)
class Findings:
    """Everything that the report tells."""

    lines: tuple[Line, ...]
    losses: tuple[tuple[float, float], ...]
    """(tokens seen, masked-LM loss)"""
    words: tuple[Words, ...]
    senses: Senses
    filled: tuple[Filled, ...]
    attention: Attention
    pairs: tuple[tuple[SentenceScore, SentenceScore], ...]
    """(right, wrong)"""
    tokens: float
    """seen in pretraining"""
    seconds: float
    """from the first line to the report"""

    def table(self) -> str:
        """The results beside their controls, for a terminal."""
        table = Table(title="pretrained here, beside what it must beat", title_justify="left")
        for name in ("", "measured as", "pretrained", "baseline", "random init.", "the baseline is"):
            table.add_column(name, justify="right" if name in ("pretrained", "baseline", "random init.") else "left")
        for line in self.lines:
            table.add_row(*line.cells())
        return render(table)
