"""How much of the package a reader has to follow: files whose functions run in a fresh `bert pretrain`, and the way to the step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bert
from tests.conftest import TINY

MOST_FILES = 57
"""a ratchet: lower it where a change makes the path shorter, never raise it"""
SPINE = [
    "cli.py",
    "commands/pretraining.py",
    "pretraining/run.py",
    "pretraining/module.py",
    "training/module.py",
    "training/step.py",
]

COUNT = """
import inspect, json, sys, threading
from pathlib import Path
root, files, spine = sys.argv.pop(1) + "/", set(), []

def profile(frame, event, argument):
    code = frame.f_code
    # Bodies of modules and classes are no functions: they run when a file is imported.
    if event != "call" or not code.co_filename.startswith(root) or not code.co_flags & inspect.CO_OPTIMIZED:
        return
    caller = frame.f_back
    while caller and caller.f_code.co_filename.startswith(root) and caller.f_code.co_flags & inspect.CO_OPTIMIZED:
        caller = caller.f_back
    if caller is None or caller.f_code.co_name != "<module>" or caller.f_code.co_filename == "<string>":
        files.add(code.co_filename.removeprefix(root))
    if code.co_name == "optimizer_step" and not spine:
        while frame:
            name = frame.f_code.co_filename
            if name.startswith(root) and name.removeprefix(root) not in spine:
                spine.insert(0, name.removeprefix(root))
            frame = frame.f_back

threading.setprofile(profile)
sys.setprofile(profile)
from bert.cli import main
assert main(sys.argv[1:]) == 0
sys.setprofile(None)
print(json.dumps([sorted(files), spine]))
"""


def test_a_fresh_run_goes_through_few_files_and_straight_to_the_step(text_file, tmp_path):
    package = str(Path(bert.__file__).parent)
    command = [sys.executable, "-c", COUNT, package, "pretrain", str(text_file), "--out", str(tmp_path / "run"), *TINY]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    files, spine = json.loads(done.stdout.splitlines()[-1])
    assert spine == SPINE
    assert len(files) <= MOST_FILES, " ".join(files)
