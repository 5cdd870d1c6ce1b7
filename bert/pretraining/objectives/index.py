"""Which objectives there are: the one place where they are named. An objective is a module with a function `make`."""

from importlib import import_module

from bert.errors import InputError, did_you_mean
from bert.pretraining.objective import Objective

OBJECTIVES = {"masked_lm": "bert.pretraining.objectives.masked_lm"}
"""name in a recipe → module"""


def objective_named(name: str, compiled: bool = False) -> Objective:
    """The objective of this name; `compiled`: its loss and its evaluation are one graph each. InputError where there is none."""
    if name not in OBJECTIVES:
        raise InputError(f"objective is {name!r}: give one of {', '.join(OBJECTIVES)}.{did_you_mean(name, OBJECTIVES)}")
    objective: Objective = import_module(OBJECTIVES[name]).make(compiled)
    return objective
