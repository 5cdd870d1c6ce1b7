"""Programs run in children of a process that has imported everything once: a fresh process each, without its seconds of imports."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_MODULES = "bert.cli bert.pretraining.run bert.pretraining.forgetting datasets tokenizers pyarrow.ipc"


def run(
    program: str,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: int = 300,
) -> "subprocess.CompletedProcess[str]":
    """What `subprocess.run([sys.executable, "-c", program, *arguments])` gives, with `environment` over that of this process."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [f"{folder}/{name}" for name in ("out", "err")]
        request = {"program": program, "arguments": [*map(str, arguments)], "streams": streams, "timeout": timeout}
        request |= {"environment": os.environ | dict(environment or {}), "cwd": str(cwd or Path.cwd())}
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        output, errors = (Path(stream).read_text(encoding="utf-8", errors="replace") for stream in streams)
    if code is None:
        raise subprocess.TimeoutExpired(program, timeout, output, errors)
    return subprocess.CompletedProcess(["-c", program, *arguments], code, output, errors)


@cache
def _server() -> "subprocess.Popen[str]":
    # Libraries that would start threads when they are imported; and one thread for torch, as in conftest.py: a model that was
    # trained with more is not the same to the last bit.
    environment = os.environ | {
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warm"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    atexit.register(server.kill)
    return server


def _serve() -> None:
    for name in _MODULES.split():
        __import__(name)
    threads = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    assert len(threads - {"jemalloc_bg_thd"}) == 1, f"no thread may live in a process that forks: {threads}"
    for line in sys.stdin:
        request = json.loads(line)
        if (child := os.fork()) == 0:
            os._exit(_carry_out(request))
        print(json.dumps(_code_of(child, request["timeout"])), flush=True)


def _code_of(child: int, timeout: float) -> int | None:
    """The exit code of the child; none where it took too long."""
    late = False

    def kill(*_: Any) -> None:
        nonlocal late
        late = True
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    status = os.waitpid(child, 0)[1]
    signal.setitimer(signal.ITIMER_REAL, 0)
    return None if late else os.waitstatus_to_exitcode(status)


def _carry_out(request: Mapping[str, Any]) -> int:
    """In the child: run the program as Python would run it; its exit code."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    for number, stream in enumerate([os.devnull, *request["streams"]]):
        descriptor = os.open(stream, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    sys.argv = ["-c", *request["arguments"]]
    code = _code(lambda: exec(compile(request["program"], "<string>", "exec"), {"__name__": "__main__"}))
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
    _serve()
