"""What both kinds of training say in the card of the model that they made: figures for the Hub, and the recipe."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from bert.hf.card import card_header, inherited, measured
from bert.recipe import differences


def training_card(
    text: Sequence[str], recipe: Any, task: str, data: str, figures: Mapping[str, float], base: str | None = None
) -> str:
    """The part of a model card that tells how the model came to be: `text`, then each field of `recipe` that is no default.

    `figures` were measured on `data`, in a `task` of the Hub's names; they go into the header. Of paths the last part is
    shown: where a file lay on this machine is nobody's matter. `base` is the model that the training began with.
    """
    fields = [f"{_shown_key(key)}: {_shown(value)}" for key, _, value in differences(type(recipe)(), recipe)]
    lines = [*text, "", "## Recipe", "what differs from the defaults of `bert`", "", "```yaml", *fields, "```"]
    header = measured(task, data, figures) | ({} if base is None else inherited(base))
    return card_header(**header) + "\n".join(lines) + "\n"


def _shown_key(key: str) -> str:
    """A source of a mixture is a key, and a path."""
    group, mixture, source = key.partition("data.mixture.")
    return group + mixture + PurePath(source).name if mixture else key


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_shown(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(_shown(part) for part in value)}]"
    return "null" if value is None else PurePath(value).name if isinstance(value, str) else str(value)
