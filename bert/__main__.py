"""The program `bert`, also as `python -m bert`: signals are handled before anything else is imported."""

import os
import sys

from bert import signals


def run() -> None:
    """The console command.

    Idle OpenMP threads sleep, unless the environment says otherwise: as soon as another process is busy, threads that spin take a
    core away from the thread they wait for. OpenMP reads the variable when torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with signals.handled():
            from bert import cli

            cli.run()
    except KeyboardInterrupt:  # during the import
        sys.exit(130)


if __name__ == "__main__":
    run()
