"""`python -m bert` is `bert`."""

from bert.cli import run

run()
