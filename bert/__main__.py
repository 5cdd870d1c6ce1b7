"""The program `bert`, also as `python -m bert`: signals are handled before anything else is imported."""

import os
import sys

from bert import signals


def run() -> None:
    """The console command.

    An OpenMP thread that waits for the others spins for some microseconds and then sleeps, unless the environment says otherwise. By
    default it spins for milliseconds, and takes a core away from the thread it waits for as soon as another process is busy; with
    OMP_WAIT_POLICY=passive it sleeps at once, which costs a compiled step on an idle machine several percent (recipes/LOG.md). The
    variable is read when torch is loaded, by GNU's OpenMP, which PyTorch has on Linux.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        with signals.handled():
            from bert import cli

            cli.run()
    except KeyboardInterrupt:  # during the import
        sys.exit(130)


if __name__ == "__main__":
    run()
