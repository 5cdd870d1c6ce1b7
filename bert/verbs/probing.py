"""`bert words`, `senses`, `score` and `attend`: parse, call, print."""

from collections.abc import Callable, Sequence

VERBS: dict[str, Callable[[Sequence[str]], None]] = {}
