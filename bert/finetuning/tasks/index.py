"""The list of tasks. A task is the module of its name in this folder.

Modules are imported on demand, so that `--help` loads no torch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bert.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from bert.finetuning.tasks.task import Task

TASKS = {
    "classify": "one label for each text or pair of texts",
    "multilabel": "any number of labels for each text or pair of texts",
    "regression": "a number for each text or pair of texts",
    "tag": "one label for each word",
    "translate": "a text for each text, such as its translation",
}
"""name → what is predicted"""


def task_named(name: str) -> "Task":
    """The task of this name. Raises InputError, naming the nearest one, if there is none."""
    if name not in TASKS:
        raise InputError(f"task is {name!r}: give one of {', '.join(TASKS)}.{did_you_mean(name, TASKS)}")
    task: Task = import_module(f"bert.finetuning.tasks.{name}").TASK
    return task


def task_of(folder: str | Path) -> "Task":
    """The task of the model in a folder, by the class and the `problem_type` of its head. Raises InputError if there is none."""
    from bert.hf.folder import ARTICLES, head_of

    kind, head = head_of(folder)
    if not hasattr(head, "problem_type"):
        raise InputError(f"{folder}: {ARTICLES[kind]} without a task head: fine-tune it with `bert finetune` first")
    return task_with(kind, head.problem_type, str(folder))  # type: ignore[union-attr]


def task_with(kind: str, problem_type: str, source: str) -> "Task":
    """The task with a model of class `kind` and a `problem_type`. Raises InputError if there is none."""
    for task in map(task_named, TASKS):
        if (task.model.__name__, task.problem_type) == (kind, problem_type):
            return task
    raise InputError(f"{source}: problem_type is {problem_type}; no task has it ({', '.join(TASKS)})")
