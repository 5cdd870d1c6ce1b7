"""The command `bert`, and `python -m bert`: signals are handled before anything else is imported."""

import sys

from bert import signals


def run() -> None:
    """The console command."""
    try:
        with signals.handled():
            from bert import cli

            cli.run()
    except KeyboardInterrupt:  # while that was imported
        sys.exit(130)


if __name__ == "__main__":
    run()
