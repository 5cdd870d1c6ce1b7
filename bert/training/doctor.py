"""What looks wrong in a training, and what to try: findings about the curve of its loss, and the callback that logs them as warnings.

A model that ignores its input reaches the loss of a constant prediction at best: the entropy of the tokens (masked-LM) or of the labels,
the variance of the numbers. A healthy training starts near the loss of a uniform guess and passes this constant. The curve may be that of
any tool. The thresholds lie between the runs of `recipes/measure_doctor.py` that learn and those with a planted fault.
"""

import csv
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np

from bert.errors import InputError, first_line
from bert.training.callbacks import StepLog
from bert.untrusted import MOST_BYTES, read_json

logger = logging.getLogger(__name__)

_NAMES = (  # of the columns of `Curve`, in lower case
    "step global_step train/global_step trainer/global_step _step iteration".split(),
    "loss train_loss train/loss train_loss_step training_loss".split(),
    "learning_rate lr train/learning_rate train/lr lr-adamw".split(),
    "gradient_norm grad_norm train/grad_norm train/gradient_norm".split(),
)
_MOST_ROWS, _WATCHED = 200_000, 1_024
_FEWEST_ROWS, _FEWEST_STEPS = 5, 100
_SLOW_STEPS = 1_000  # of a usual rate; a small model at a low one may take 200 steps to the plateau
_NO_GRADIENT = 1e-6  # text of one token, which is learned by heart: 1e-4
_STUCK = 0.97  # share of the constant that a healthy run passes
_CREEPING = 0.25  # share of the way to it, in a quarter of the log
_ABOVE = 1.05  # times the constant, a loss has not reached it
_RISE, _LEVEL = 1.3, 0.2  # times its lowest level, and a loss besides, as losses near 0 vary
_FLAT = 0.98  # from the third quarter to the last; a good run: 0.92
_PLATEAU = 5.5  # the least loss of a masked-LM that has learned little
_EARLY, _FALLEN = 30, 0.6  # padding counted: 0.52 of the first loss at step 20; healthy runs: 0.86
_USUAL = (5e-6, 5e-3)  # highest learning rates of AdamW in healthy trainings

NOT_SEEN = "not seen"
"""the name of a finding that says what could not be looked at"""


class Finding(NamedTuple):
    """Something that looks wrong."""

    name: str
    """a fault, such as `rate too high`"""
    text: str
    """a line: what looks wrong, with the number that shows it, and what to try"""


class Expected(NamedTuple):
    """What is known about the loss of a training, in its unit."""

    constant: float
    """of the best prediction that ignores the input"""
    highest: float
    """above the loss of a guess, which a training begins with: a healthy one stays below"""
    rates: str
    """the fields of the learning rates, such as `optimizer.lr`"""
    usual: tuple[float, float]
    """the peak learning rates (AdamW's) between which healthy trainings have theirs"""
    is_early: bool = False
    """whether a healthy training passes the constant soon after its warm-up, and not only at its end"""


class Curve(NamedTuple):
    """The R rows of a log that have a loss, each array (R,); NaN where a row lacks a value."""

    step: np.ndarray
    loss: np.ndarray
    learning_rate: np.ndarray
    gradient_norm: np.ndarray


def curve_of(rows: Iterable[Mapping[str, Any]]) -> Curve:
    """The rows of a log with values of any kind, named as this package or another tool does."""
    table = []
    for number, row in enumerate(rows, start=1):
        named = {str(name).lower().rpartition(" - ")[2]: _number(value) for name, value in row.items()}
        found = [next((one for name in names if (one := named.get(name)) is not None), None) for names in _NAMES]
        if found[1] is not None and "train_runtime" not in named:  # the last row of Trainer has the mean of all
            table.append([number if found[0] is None else found[0], *found[1:]])
    return Curve(*np.array(table, float).reshape(-1, len(_NAMES)).T)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def read_curve(file: Path) -> Curve:
    """The log of any tool: .csv with a header, or Trainer's trainer_state.json. Raises InputError."""
    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            raise ValueError(f"no file, or one of more than {MOST_BYTES:,} bytes")
        if file.suffix == ".json":
            curve = curve_of(dict(row) for row in read_json(file)["log_history"])
        else:
            with file.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
                curve = curve_of(row for row, _ in zip(csv.DictReader(stream), range(_MOST_ROWS)))
    except (OSError, csv.Error, ValueError, LookupError, TypeError) as error:
        fix = "give a run directory, a .csv with a header, or trainer_state.json"
        raise InputError(f"{file}: cannot be read as a log ({first_line(error)}): {fix}") from error
    if not len(curve.loss):
        raise InputError(f"{file}: has no number in a column loss, train_loss or train/loss: rename yours")
    return curve


def of_curve(curve: Curve, expected: Expected | None = None, is_finished: bool = True) -> Iterator[Finding]:
    """What looks wrong in a log. Without `expected`, nothing is known but the log; a run that is not finished may still begin to learn."""
    is_finite, norm = np.isfinite(curve.loss), curve.gradient_norm[np.isfinite(curve.gradient_norm)]
    curve = Curve(*(column[is_finite] for column in curve))
    if len(is_finite) and not is_finite[-3:].any():
        yield Finding("not finite", "the loss is not finite: give a lower learning rate, or a longer warm-up")
    elif len(norm) >= _FEWEST_ROWS and norm.max() < _NO_GRADIENT:
        why = "the parameters are frozen, or the loss does not depend on them; see requires_grad, and the optimizer's list"
        yield Finding("frozen", f"the gradient norm is {norm.max():.2g} in all rows: {why}")
    elif len(curve.loss):
        yield from _of_shape(curve) if expected is None else _of_level(curve, expected, is_finished)


def _of_level(curve: Curve, expected: Expected, is_finished: bool) -> Iterator[Finding]:
    """A loss above that of a guess, or one that does not pass the constant."""
    loss, constant, half = curve.loss, expected.constant, len(curve.loss) // 2
    worst = int(loss.argmax())
    if loss[worst] > expected.highest:
        what = f"the loss is {loss[worst]:.3g} at step {curve.step[worst]:g}, and at most {expected.highest:.3g} if it learns"
        yield Finding("rate too high", f"{what}: give {expected.rates} a third or less, or a longer warm-up")
        return
    is_rising, rate = curve.learning_rate[-1] > curve.learning_rate[half], curve.learning_rate.max()  # warm-up
    is_slow = expected.is_early and expected.usual[0] <= rate <= expected.usual[1]
    is_new = len(loss) < _FEWEST_ROWS or curve.step[-1] < (_SLOW_STEPS if is_slow else _FEWEST_STEPS)
    if is_new or not (is_finished or (expected.is_early and not is_rising)):
        return
    before, last = (float(part.mean()) for part in np.array_split(loss[half:], 2))
    if last > _STUCK * constant and before - last < max(_CREEPING * (last - constant), (1 - _STUCK) * constant):
        text = f"the loss stays at {last:.3g}, and is {constant:.3g} without a look at the input"
        yield _stuck(text, curve, expected.rates, expected.usual, last > _ABOVE * constant)


def _of_shape(curve: Curve) -> Iterator[Finding]:
    """A loss that falls at once, rises, or is flat."""
    loss, quarter = curve.loss, len(curve.loss) // 4
    early = loss[curve.step <= _EARLY].min(initial=math.inf)
    if loss[0] > 5 and early < _FALLEN * loss[0]:
        text = f"the loss falls from {loss[0]:.3g} to {early:.3g} within {_EARLY} steps, which no masked-LM can"
        yield Finding("padding counted", f"{text}: give padding the label -100, and look at a batch: is its text real?")
    if quarter < 2:
        return
    means = np.convolve(loss, np.ones(quarter) / quarter, "valid")
    last, before, lowest = float(means[-1]), float(means[-1 - quarter]), float(means.min())
    if last > _RISE * lowest + _LEVEL:
        text = f"the loss has risen from {lowest:.3g} to {last:.3g}"
        yield Finding("rate too high", f"{text}: give the learning rate a third, from before the rise on")
    elif last > _FLAT * before and (last > _PLATEAU or abs(last - math.log(2)) < 0.01):
        what = "a guess between two labels" if last < 1 else "the plateau of a masked-LM"
        text = f"the loss is flat at {last:.3g} ({before:.3g} before), {what}"
        yield _stuck(text, curve, "the learning rate", _USUAL)


def _stuck(text: str, curve: Curve, rates: str, usual: tuple[float, float], is_above: bool = False) -> Finding:
    """A loss that does not fall, by the learning rate; `is_above`: it has not even reached a constant prediction."""
    rate = float(np.nan_to_num(curve.learning_rate, nan=-1.0).max())
    if rate > usual[1]:
        return Finding("rate too high", f"{text}; the learning rate is {rate:.2g}: give {rates} a tenth")
    if is_above or 0 <= rate < usual[0]:
        return Finding("rate too low", f"{text}; the learning rate is {rate:.2g}: give {rates} ten times")
    return Finding("stuck", f"{text}: give {rates} three times, then a third, then more steps; look at a batch")


def warn(findings: Iterable[Finding], said: set[str] | None = None) -> None:
    """Log the findings whose names are not in `said` as warnings, and add them. A check never ends a training: what it raises is logged."""
    said = set() if said is None else said
    try:
        for one in findings:
            if one.name not in said:
                said.add(one.name)
                logger.warning(one.text)
    except Exception:  # of any kind
        logger.debug("a check of the training failed", exc_info=True)


class Watch(L.Callback):
    """Logs what looks wrong in the log, each finding once, on rank 0: at its rows 1, 2, 4, 8, …, and at its end. Reads the log alone."""

    def __init__(self, log: StepLog) -> None:
        self._log, self._said, self._rows = log, set[str](), list[dict[str, float]]()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Look at the rows, if there is a new one."""
        rows, step, is_finished = self._rows, pl_module.progress.step, pl_module.progress.finished()
        if trainer.is_global_zero and (is_finished or (step % self._log.every_steps == 0 and len(rows) < _WATCHED)):
            rows.append({"step": step} | self._log.latest)
            if is_finished or len(rows) & (len(rows) - 1) == 0:
                warn(of_curve(curve_of(rows), pl_module.expected, is_finished), self._said)
