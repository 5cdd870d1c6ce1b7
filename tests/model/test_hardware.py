"""bf16 where the hardware multiplies it, and freed memory that is used again."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from bert.model.hardware import best_precision, cpu_multiplies_bf16

_FAULTS = """
import resource, sys
import numpy as np
from bert.model.hardware import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("other C library")
    sys.exit()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(int(sys.argv[2])):
        np.ones(int(sys.argv[3]) * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(pages())
"""


@pytest.mark.parametrize(
    ("bf16", "amx", "precision"), [(True, False, "bf16-mixed"), (False, True, "bf16-mixed"), (False, False, "32-true")]
)
def test_bf16_on_a_cpu_is_a_matter_of_its_instructions(monkeypatch, bf16, amx, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert best_precision("cpu") == precision
    assert cpu_multiplies_bf16() == (precision == "bf16-mixed")


def _page_faults(what: str, blocks: int = 20, megabytes: int = 40) -> int:
    """While so many blocks come and go; those of 40 MB are above what the library keeps by itself."""
    command = [sys.executable, "-c", _FAULTS, what, str(blocks), str(megabytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    if "other C library" in done.stdout:
        pytest.skip("this C library has no mallopt")
    return int(done.stdout)


@pytest.mark.skipif(find_spec("resource") is None, reason="page faults are counted on Unix alone")
def test_blocks_that_were_freed_are_used_again_without_a_page_fault() -> None:
    assert _page_faults("keep") < 20  # of 20 blocks of 10,240 pages
    assert _page_faults("leave") > 200  # pages may be huge ones


@pytest.mark.slow
@pytest.mark.skipif(find_spec("resource") is None, reason="page faults are counted on Unix alone")
def test_more_than_two_gigabytes_at_once_are_kept_too() -> None:
    assert _page_faults("keep", blocks=3, megabytes=2100) < 20


_RESIDENT = """
import torch
from bert.model.hardware import keep_freed_memory, return_freed_memory
if not keep_freed_memory():
    print("other C library")
    raise SystemExit
def resident():
    return int(open("/proc/self/statm").read().split()[1])
some = [torch.ones(2**18) for _ in range(200)]  # of 1 MB
before, last = resident(), some[-1]
del some
kept = resident()
return_freed_memory()
print(before - kept, before - resident())
"""


def test_memory_that_was_kept_is_returned_on_request():
    done = subprocess.run([sys.executable, "-c", _RESIDENT], capture_output=True, text=True, check=True)
    if "other" in done.stdout:
        pytest.skip("not the C library of GNU")
    kept, returned = (int(pages) * 4 / 1024 for pages in done.stdout.split())
    assert kept < 20
    assert returned > 150
