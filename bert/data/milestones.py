"""Milestones: the model folders that a pretraining run keeps on its way, each with a record of how far the run was."""

from dataclasses import dataclass
from pathlib import Path

from bert.errors import InputError
from bert.untrusted import read_json

MILESTONES, MILESTONE_FILE = "milestones", "milestone.json"
"""the folder of a run with its milestones, each named by its tokens, and the record in each"""


@dataclass(frozen=True)
class Milestone:
    """A model folder of a run that was not finished, and its record."""

    folder: Path
    step: int
    """optimizer steps done"""
    tokens: int
    """tokens seen by these steps, padding not counted"""
    loss: float
    """mean training loss, in nats, of the steps since the last row of the log"""


def milestones(run: str | Path) -> list[Milestone]:
    """The milestones in the run directory `run`, by tokens; none if it has kept none. Raises InputError for a damaged record."""
    found = []
    for file in Path(run).expanduser().glob(f"{MILESTONES}/[0-9]*/{MILESTONE_FILE}"):
        try:
            told = read_json(file)
            found.append(Milestone(file.parent, int(told["step"]), int(told["tokens"]), float(told["loss"])))
        except (OSError, ValueError, TypeError, LookupError, OverflowError) as error:
            raise InputError(f"{file}: is not the record of a milestone ({error}): remove the folder") from error
    return sorted(found, key=lambda milestone: milestone.tokens)
