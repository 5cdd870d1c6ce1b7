"""The command `bert`: finds the command, runs it, and turns what the user got wrong into one line and exit code 2."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from bert import __version__, signals
from bert.commands import benching, exporting, finetuning, pretraining, probing, whole
from bert.errors import InputError, InterruptedRun, RankError, did_you_mean
from bert.flags import command_name, first_line, flag_of
from bert.terminal import printable_output
from bert.training.ranks import global_rank

_MODULES = (pretraining, finetuning, probing, exporting, benching, whole)
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    command_name(command): command for one in _MODULES for command in one.COMMANDS
}

_PARALLEL = ("pretrain", "finetune")  # commands that several processes carry out together
_LONGEST_LINE = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. What the user got wrong is one line on standard error and code 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with signals.handled(), printable_output():
        try:
            return _command(arguments)
        except SystemExit as error:  # argparse after --help, or a signal
            return int(error.code or 0)
        except KeyboardInterrupt:
            return 130


def _command(arguments: Sequence[str]) -> int:
    command, speaks = arguments[0] if arguments else "help", True
    try:
        speaks = command not in _PARALLEL or global_rank() == 0
        if command in ("-h", "--help", "help"):
            print(_overview())
        elif command == "--version":
            print(f"bert {__version__}")
        elif command not in COMMANDS:
            raise InputError(
                f"{command} is not a command of bert: use one of {', '.join(COMMANDS)}.{did_you_mean(command, COMMANDS)}"
            )
        else:
            COMMANDS[command](arguments[1:])
    except (InputError, MemoryError) as error:
        if speaks or isinstance(error, RankError):
            memory = "not enough memory: give smaller batches, or less input"
            line = memory if isinstance(error, MemoryError) else " ".join(error.message(flag_of).split())
            print(f"bert: {line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + '…'}", file=sys.stderr)
        return 2
    except InterruptedRun as error:
        if str(error):  # rank 0 speaks for all
            print(error, file=sys.stderr)
        return error.exit_code
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
    with printable_output():
        try:
            code = main()
        except Exception:  # a fault of ours keeps its traceback
            traceback.print_exc()
            code = 1
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
    if code - 128 in signals.NUMBERS:  # what a thread still does in native code must not keep the process
        os._exit(code)
    sys.exit(code)


def _overview() -> str:
    commands = "\n".join(f"  {name:<10} {first_line(function)}" for name, function in COMMANDS.items())
    return f"bert: pretrain and use BERT-style encoders\n\n{commands}\n\nbert COMMAND --help tells more."
