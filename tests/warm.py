"""Programs run in children of a process that has imported everything once: a fresh process each, without its seconds of imports.

    run(program)  what `python -c program` gives
    commands()    a folder with `bert` and `python`, for scripts that find them on their PATH

These hand the server a request and their standard streams through a socket; it forks, and answers with the process ID and the exit code.
"""

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
_MODULES = (
    "bert.cli bert.pretraining.run bert.pretraining.forgetting bert.finetuning.run bert.finetuning.predict"
    " bert.finetuning.assess bert.probing.probe bert.quickstart.run datasets tokenizers pyarrow.ipc"
)
_BERT = "from bert.__main__ import run; run()"

# A client of the standard library alone, which starts in hundredths of a second. Signals go on to the program.
_CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
name, program, arguments = {name!r}, {bert!r}, sys.argv[1:]
if os.path.basename(sys.argv[0]) == "python":
    if arguments and arguments[0] not in ("-", "-c"):
        os.execv({python!r}, [{python!r}, *arguments])
    program = arguments[1] if arguments[:1] == ["-c"] else sys.stdin.read()
    name, arguments = "-c", arguments[2:]
request = dict(program=program, name=name, arguments=arguments, environment=dict(os.environ), cwd=os.getcwd())
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
socket.send_fds(server, [b"\\0"], [0, 1, 2])
server.sendall(json.dumps(request).encode())
server.shutdown(socket.SHUT_WR)
answers = server.makefile()
process = int(answers.readline())
passed_on = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
for number in passed_on:
    signal.signal(number, lambda number, _: os.kill(process, number))
code = int(answers.readline())
if code < 0:
    for number in (*passed_on, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def run(
    program: str,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: int = 300,
) -> "subprocess.CompletedProcess[str]":
    """What `subprocess.run([sys.executable, "-c", program, *arguments])` gives, with `environment` over that of this process."""
    command = [commands() / "python", "-c", program, *map(str, arguments)]
    where: dict[str, Any] = {"env": os.environ | dict(environment or {}), "cwd": cwd, "timeout": timeout}
    # Into files, because a pipe stays open as long as any child of a program that was killed.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, **where)
        for stream in (output, errors):
            stream.seek(0)
        said = [stream.read().decode(errors="replace") for stream in (output, errors)]
    return subprocess.CompletedProcess(done.args, done.returncode, *said)


@cache
def commands() -> Path:
    """A folder with `bert` and `python`, which is to come first in PATH."""
    path = _server()
    name = str(Path(sys.executable).parent / "bert")  # what Lightning starts further processes of a run by
    for command in ("bert", "python"):
        file = path.parent / command
        file.write_text(_CLIENT.format(python=sys.executable, name=name, bert=_BERT, path=str(path)))
        file.chmod(0o755)
    return path.parent


def _server() -> Path:
    """Start the server, which ends with this process; its socket."""
    # Libraries that would start threads when they are imported; and one thread for torch, as in conftest.py: a model that was
    # trained with more is not the same to the last bit.
    environment = os.environ | {
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    path = Path(tempfile.mkdtemp()) / "socket"
    atexit.register(shutil.rmtree, path.parent)
    command = [sys.executable, "-m", "tests.warm", str(path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    atexit.register(server.kill)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return path


def _serve(path: str) -> None:
    for name in _MODULES.split():
        __import__(name)
    threads = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    assert len(threads - {"jemalloc_bg_thd"}) == 1, f"no thread may live in a process that forks: {threads}"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that watch over a program
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        # Standard input, of which nothing comes, is closed when the process of the tests ends, however it does.
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            client, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _watch(client)
                os._exit(0)
            client.close()


def _watch(client: socket.socket) -> None:
    """Start a program, and tell the client its process ID and its exit code; it is killed if the client goes away."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile() as text:
        request = json.load(text)
    if (child := os.fork()) == 0:
        client.close()
        os._exit(_carry_out(request, streams))
    client.sendall(f"{child}\n".encode())
    either = select.poll()
    either.register(os.pidfd_open(child), select.POLLIN)
    either.register(client, 0)  # POLLHUP is always reported
    if client.fileno() in dict(either.poll()):
        os.kill(child, signal.SIGKILL)
        return
    client.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())


def _carry_out(request: Mapping[str, Any], streams: list[int]) -> int:
    """In the child: run the program as Python would run it; its exit code."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    sys.argv = [request["name"], *request["arguments"]]
    sys.modules["__main__"] = main = ModuleType("__main__")
    code = _code(lambda: exec(compile(request["program"], "<string>", "exec"), vars(main)))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _code(program: Callable[[], None]) -> int:
    try:
        program()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
