"""The command `bert`: finds the verb, runs it, and turns what the user got wrong into one line and exit code 2."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bert import __version__
from bert.errors import InputError, InterruptedRun, did_you_mean
from bert.verbs import benching, exporting, finetuning, pretraining, probing, whole
from bert.verbs.options import first_line

VERBS: dict[str, Callable[[Sequence[str]], None]] = (
    pretraining.VERBS | finetuning.VERBS | probing.VERBS | exporting.VERBS | benching.VERBS | whole.VERBS
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. What the user got wrong is one line on standard error and code 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(_overview())
            return 0
        if arguments[0] == "--version":
            print(f"bert {__version__}")
            return 0
        verb = arguments[0]
        if verb not in VERBS:
            raise InputError(f"{verb} is not a verb of bert: use one of {', '.join(VERBS)}.{did_you_mean(verb, VERBS)}")
        VERBS[verb](arguments[1:])
    except InputError as error:
        print(f"bert: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except InterruptedRun as error:
        if str(error):  # rank 0 speaks for all
            print(error, file=sys.stderr)
        return error.exit_code
    except SystemExit as error:  # argparse after --help and --print_config
        return int(error.code or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `bert … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def run() -> None:
    """The console command. What the package warns of is a line for the user, not for the programmer."""
    plain = warnings.formatwarning

    def in_a_line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
        return f"bert: {message}\n" if category is UserWarning else plain(message, category, *place, **more)

    warnings.formatwarning = in_a_line
    sys.exit(main())


def _overview() -> str:
    verbs = "\n".join(f"  {name:<10} {first_line(function)}" for name, function in VERBS.items())
    return f"bert: pretrain and use BERT-style encoders\n\n{verbs}\n\nbert VERB --help tells more."
