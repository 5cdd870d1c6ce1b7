"""`bert evaluate`: looks at a folder's head and asks the wing that owns it."""

from collections.abc import Callable
from pathlib import Path

from bert.model.heads import MaskedLM
from bert.pretraining.score import Score, score_masked


def evaluate_masked(model: str | Path, masked: str | Path, say: Callable[[str], None] = print) -> Score:
    """Score the masked LM in the folder `model` on the masked rows of `masked`."""
    score = score_masked(MaskedLM.load(model), masked)
    say(f"loss {score.loss:.4f}  accuracy {score.accuracy:.2%}  over {score.targets:,} targets")
    return score
