"""The command `bert`, and `python -m bert`: signals are handled before anything else is imported."""

import os
import sys

from bert import signals


def run() -> None:
    """The console command.

    Its idle OpenMP threads sleep, unless the environment says otherwise: threads that wait actively take a core away from the
    thread they wait for as soon as another process is busy. OpenMP reads the variable when torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with signals.handled():
            from bert import cli

            cli.run()
    except KeyboardInterrupt:  # while that was imported
        sys.exit(130)


if __name__ == "__main__":
    run()
