"""The part about training in a model card: metrics for the Hub, and the recipe."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from bert.hf.card import card_header, inherited, measured
from bert.recipe import differences


def training_card(
    text: Sequence[str], recipe: Any, task: str, data: str, figures: Mapping[str, float], base: str | None = None
) -> str:
    """The part of a model card about training: `text`, then each field of `recipe` that differs from its default.

    `figures` are metrics on `data`, of a `task` as the Hub names it, for the header. Local paths are not published, only their last part.
    `base` is the model that training started from.
    """
    fields = [f"{_shown_key(key)}: {_shown(value)}" for key, _, value in differences(type(recipe)(), recipe)]
    lines = [*text, "", "## Recipe", "fields that differ from the defaults of `bert`", "", "```yaml", *fields, "```"]
    header = measured(task, data, figures) | ({} if base is None else inherited(base))
    return card_header(**header) + "\n".join(lines) + "\n"


def _shown_key(key: str) -> str:
    """A key; the source of a mixture is a path within it."""
    group, mixture, source = key.partition("data.mixture.")
    return group + mixture + PurePath(source).name if mixture else key


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_shown(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(_shown(part) for part in value)}]"
    return "null" if value is None else PurePath(value).name if isinstance(value, str) else str(value)
