"""The program `bert`: dispatches to a command, and turns a mistake of the user into one line and exit code 2."""

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

from bert import __version__, signals
from bert.commands import benching, embedding, exporting, finetuning, pretraining, probe, probing, whole
from bert.errors import InputError, InterruptedRun, RankError, did_you_mean
from bert.flags import DOCUMENTATION, command_name, examples, first_line, flag_of
from bert.terminal import printable_output
from bert.training.ranks import global_rank

_USES = {
    "See all of it": (whole,),
    "Pretrain": (pretraining,),
    "Fine-tune": (finetuning, exporting),
    "Probe": (probing, probe, embedding),
    "Measure": (benching,),
}
COMMANDS = {command_name(one): one for modules in _USES.values() for module in modules for one in module.COMMANDS}
_PARALLEL = ("pretrain", "finetune")  # commands that run in several processes at once
_LONGEST_LINE = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A mistake of the user is one line on standard error and code 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with signals.handled(), printable_output():
        try:
            return _command(arguments)
        except SystemExit as error:  # argparse after --help, or a signal
            return int(error.code or 0)
        except KeyboardInterrupt:
            return 130


def _command(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["help"] and len(arguments) > 1:  # `bert help pretrain`
        arguments = [arguments[1], "--help"]
    command, reports = arguments[0] if arguments else "help", True
    try:
        reports = command not in _PARALLEL or global_rank() == 0
        signals.is_run = command in _PARALLEL and reports
        if command in ("-h", "--help", "help"):
            print(_overview())
        elif command in ("-V", "--version"):
            print(f"bert {__version__}")
        elif command not in COMMANDS:
            near = did_you_mean(command, COMMANDS)
            raise InputError(f"{command} is not a command of bert: use one of {', '.join(COMMANDS)}.{near}")
        else:
            COMMANDS[command](arguments[1:])
    except (InputError, MemoryError, PermissionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error).__name__ != "OutOfMemoryError":  # torch's
            raise
        if reports or isinstance(error, RankError):
            line = "out of memory: use smaller batches, or less input"
            if isinstance(error, PermissionError):
                line = f"{error.filename}: {error.strerror}; allow it, or give another path"
            elif isinstance(error, InputError):
                line = " ".join(error.message(flag_of).split())
            print(f"bert: {line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + '…'}", file=sys.stderr)
        return 2
    except InterruptedRun as error:
        if str(error):  # rank 0 reports for all
            print(error, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `bert … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def run() -> None:
    """The console command. A warning of the package is shown as one line, without its place in the code."""
    plain = warnings.formatwarning

    def in_a_line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
        return f"bert: {message}\n" if category is UserWarning else plain(message, category, *place, **more)

    warnings.formatwarning = in_a_line
    with printable_output():
        try:
            code = main()
        except Exception:  # a bug of ours keeps its traceback
            traceback.print_exc()
            code = 1
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
    if code - 128 in signals.NUMBERS:  # a thread in native code must not keep the process alive
        os._exit(code)
    sys.exit(code)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    uses = {module.__name__: use for use, modules in _USES.items() for module in modules}
    lines = ["bert: pretrain, fine-tune and probe BERT-style encoders"]
    for use, commands in groupby(COMMANDS.values(), lambda command: uses.get(command.__module__, "Other")):
        group = list(commands)
        lines += ["", f"{use}, for example: {examples(group[0])[0]}" if examples(group[0]) else use]
        lines += [f"  {command_name(command):<{width}} {first_line(command)}" for command in group]
    lines += ["", "Options of a command, with examples: bert COMMAND --help", f"Documentation: {DOCUMENTATION}"]
    return "\n".join(lines)
