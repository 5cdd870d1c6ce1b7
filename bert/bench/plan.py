"""What is measured, how thoroughly, and where its cells go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bert.bench.cells import Cells, Value
from bert.bench.documents import Text
from bert.bench.peers import BaselineSettings, Work
from bert.bench.table import line_of
from bert.errors import InputError
from bert.model.config import Backend
from bert.pretraining.config import PretrainRecipe

Kind = Literal["steps", "sweep", "against"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


@dataclass(frozen=True)
class Plan:
    """What is measured, and how thoroughly."""

    kind: Kind = "steps"
    """steps: the recipe by backend, compiled or not; sweep: by micro-batch too; against: beside a peer"""
    rounds: int = 5
    seconds: float = 3.0
    """of each contender in a round"""
    backends: tuple[Backend, ...] = BACKENDS
    """ways to compute attention"""
    smallest: int = 4
    largest: int = 64
    """sequences of a micro-batch, from and to, in a sweep"""
    bouts: tuple[tuple[Work, BaselineSettings], ...] = ()
    """works against settings of the peer; none: all of both"""
    baseline_batch_size: int | None = None
    """sequences or documents of the peer's batch; null: the recipe's batch"""
    profile: bool = False
    """also say where the time of our step goes"""

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.seconds > 0:
            raise InputError(f"--rounds {self.rounds} --seconds {self.seconds:g}: give more than 0 of each")
        if not 1 <= self.smallest <= self.largest:
            raise InputError(f"--smallest {self.smallest} --largest {self.largest}: give 1 or more, the smaller first")
        if wrong := [name for name in self.backends if name not in BACKENDS]:
            raise InputError(f"--backends {wrong[0]}: give some of {', '.join(BACKENDS)}")


@dataclass(frozen=True)
class Bench:
    """A recipe and its text, a plan, and the cells that are measured by it."""

    recipe: PretrainRecipe
    text: Text
    plan: Plan
    cells: Cells
    say: Callable[[str], None] = print

    def told(self, key: dict[str, Any], measure: Callable[[], Value]) -> Value:
        """The cell of this key, as it stands there or measured now; it is said in a line."""
        value = self.cells.measured(key, measure)
        self.say(line_of(key | value))
        return value
