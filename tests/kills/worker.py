"""A warm process: it has imported everything, and forks a child for each kill. It reads a task a line and writes a result a line.

`python -m tests.kills.worker`: {"proof": "kills", "operation": "SaveModel", "seed": 0, "exchange": true, "every": 8, "scratch": ...}
"""

import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import torch

from tests.kills.instants import STRUCTURAL, Recorder, counted, die, restore, watched
from tests.kills.operations import NEW, OLD, OPERATIONS, Operation, tokenizer_of
from tests.kills.trees import listed, lost, make_tree


def in_child(work: Callable[[], Any], log: Path) -> tuple[int, Any]:
    """(exit status as `os.waitstatus_to_exitcode` says it, what `work` returned) of a forked child; its output goes to `log`."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            with log.open("w") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            with os.fdopen(writing, "w") as pipe:
                json.dump(work(), pipe)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code, json.loads(answer) if code == 0 else log.read_text()[-2000:]


def prepared(operation: Operation, scratch: Path, seed: int) -> tuple[Path, dict[str, str]]:
    """A folder with the old version and files of the user's beside and in it, and a list of these."""
    template = scratch / "template"
    template.mkdir()
    code, said = in_child(lambda: operation.make(template, OLD), scratch / "log")
    assert code == 0, said
    before = set(listed(template))
    make_tree(template, seed, prefix="u")
    for number, inside in enumerate(operation.inside):
        make_tree(template / inside, seed + 1000 + number, prefix="u")
    return template, {path: what for path, what in listed(template).items() if path not in before}


def copied(template: Path, home: Path) -> Path:
    """A copy of a tree with its links, rights, times and twins."""
    subprocess.run(["cp", "-a", str(template), str(home)], check=True)
    return home


def removed(home: Path) -> None:
    """Remove a tree, whatever the rights in it."""
    for above, folders, _ in os.walk(home):
        for name in folders:
            if not os.path.islink(path := os.path.join(above, name)):
                os.chmod(path, 0o700)
    shutil.rmtree(home)


def kills(operation: Operation, scratch: Path, seed: int, exchange: bool, every: int) -> dict[str, Any]:
    """Kill the operation at its instants, all of them or every so many and those at renames; what was wrong then."""
    template, users = prepared(operation, scratch, seed)
    home, log, faults = scratch / "home", scratch / "log", []

    def make() -> list[str]:
        names: list[str] = []
        with watched(lambda name, over, arguments: names.append(name), exchange):
            operation.make(home, NEW)
        return names

    copied(template, home)
    code, names = in_child(make, log)
    assert code == 0, names
    expected = set(listed(home))
    faults += [f"not killed: lost {line}" for line in lost(users, listed(home))]
    removed(home)
    chosen = [at for at, name in enumerate(names) if at % every == seed % every or name in STRUCTURAL]
    for at in chosen:

        def killed(at: int = at) -> None:
            with watched(counted(at, die), exchange):
                operation.make(home, NEW)

        def looked_at() -> list[str]:
            # where the system cannot exchange, who opens it next puts it in its place
            found = [f"lost {line}" for line in lost(users, listed(home))] if exchange else []
            if operation.version(home) not in (OLD, NEW):  # it may complete what was cut
                found.append("neither version")
            found += [f"opened: lost {line}" for line in lost(users, listed(home))]
            operation.make(home, NEW)
            if operation.version(home) != NEW:
                found.append("run again: the old version")
            found += [f"run again: lost {line}" for line in lost(users, listed(home))]
            return found + [f"run again: left over: {path!r}" for path in sorted(set(listed(home)) - expected)]

        copied(template, home)
        where = f"instant {at} of {len(names)} ({names[at]}, {'after' if at % 2 else 'before'})"
        code, said = in_child(killed, log)
        if code != -signal.SIGKILL:
            faults.append(f"{where}: the operation was not killed: {code} {said}")
        code, said = in_child(looked_at, log)
        faults += [f"{where}: {fault}" for fault in (said if code == 0 else [f"not whole: {said}"])]
        removed(home)
    return {"instants": len(names), "tried": len(chosen), "faults": faults}


def power_cuts(operation: Operation, scratch: Path, seed: int, exchange: bool, every: int) -> dict[str, Any]:
    """What a power cut at each instant would leave must open; what is renamed must have been synced before, and its folder after."""
    template, users = prepared(operation, scratch, seed)
    home, log = scratch / "home", scratch / "log"
    copied(template, home)
    recorder = Recorder(home)
    with watched(recorder, exchange):
        operation.make(home, NEW)
    recorder.finish()
    removed(home)
    faults, seen = list(recorder.faults), set()
    for at, states in enumerate(recorder.durable):
        for model, state in enumerate(states):
            if (key := hash(tuple(state.items()))) in seen:
                continue
            seen.add(key)
            restore(state, home)
            last = at == len(recorder.durable) - 1
            code, said = in_child(lambda: operation.version(home), log)
            if code != 0 or said not in ((NEW,) if last else (OLD, NEW)):
                name = "the end" if last else recorder.names[at]
                faults.append(f"power cut at instant {at} ({name}), model {model}: no whole version: {said}")
            here = listed(home)
            faults += [
                f"power cut at instant {at}, model {model}: lost {path!r}"
                for path, what in users.items()
                if path not in here or (here[path].split()[-1] != what.split()[-1])
            ]
            removed(home)
    return {"instants": len(recorder.names), "tried": len(seen), "faults": faults}


def main() -> None:
    """Answer tasks until there are no more."""
    torch.set_num_threads(1)
    for version in (OLD, NEW):
        tokenizer_of(version)
    gc.collect()
    gc.freeze()  # so that children share what is here
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        scratch = Path(task.pop("scratch"))
        proof = {"kills": kills, "power cuts": power_cuts}[task.pop("proof")]
        operation = OPERATIONS[task.pop("operation")]()
        for module in operation.modules:
            importlib.import_module(module)
        try:
            result = proof(operation, scratch, **task)
        except Exception:
            result = {"instants": 0, "tried": 0, "faults": [traceback.format_exc()]}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
