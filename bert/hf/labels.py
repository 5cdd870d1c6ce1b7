"""The classes of a task head in a `config.json` of Hugging Face: their names, and the meaning of the scores."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bert.errors import InputError
from bert.model.config import PROBLEM_TYPES

OWN_PROBLEM = "bert_problem_type"
"""replaces `problem_type` if transformers would refuse its value"""
_MOST_LABELS = 100_000


def problem_type_of(keys: Mapping[str, Any], labels: Sequence[str]) -> str:
    """The meaning of the scores of a text; by default, as in transformers, by the number of labels."""
    problem = keys.get(OWN_PROBLEM) or keys.get("problem_type")
    if problem is None:
        return "regression" if len(labels) == 1 else "single_label_classification"
    if not isinstance(problem, str) or (OWN_PROBLEM not in keys and problem not in PROBLEM_TYPES):
        raise InputError(f"problem_type is {problem}: this version reads {', '.join(PROBLEM_TYPES)}")
    if not {"regression": len(labels) == 1, "single_label_classification": len(labels) != 1}.get(problem, True):
        raise InputError(f"problem_type is {problem} and id2label names {len(labels)} classes: correct one of them")
    return problem


def labels_of(keys: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes. By default, as in transformers: LABEL_0, LABEL_1, …, two if their number is not given."""
    names = keys.get("id2label")
    if names is None:
        number = keys.get("num_labels", 2)
        if type(number) is not int or not 1 <= number <= _MOST_LABELS:
            raise InputError(f"num_labels is {number}: give the number of classes, from 1 to {_MOST_LABELS}")
        names = {str(i): f"LABEL_{i}" for i in range(number)}
    if not isinstance(names, dict) or len(names) > _MOST_LABELS or names.keys() != {str(i) for i in range(len(names))}:
        raise InputError('id2label does not number the classes "0", "1", "2", …, at most 100,000: name each of them')
    labels = tuple(str(names[str(i)]) for i in range(len(names)))
    if odd := next((label for label in labels if re.search(r"[\t\r\n]", label)), None):
        raise InputError(f"id2label names {odd!r}: a tab or a line end cannot be part of a label: rename it")
    return labels
