"""Griffe extension: the examples of docstrings are shown as code."""

import re
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Puts each block of `>>>` lines and their output into a fence."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every object of the package."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^>>> (?:.+\n?)+", r"```pycon\n\g<0>\n```\n", obj.docstring.value)
