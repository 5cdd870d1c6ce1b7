import subprocess
import sys
from importlib.util import find_spec

import pytest

_FAULTS = """
import resource, sys
import numpy as np
from bert.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("other C library")
    sys.exit()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(40 * 2**20, np.uint8)  # above what the library keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(pages())
"""


def _page_faults(what: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, what], capture_output=True, text=True, check=True)
    if "other C library" in done.stdout:
        pytest.skip("this C library has no mallopt")
    return int(done.stdout)


@pytest.mark.skipif(find_spec("resource") is None, reason="page faults are counted on Unix alone")
def test_blocks_that_were_freed_are_used_again_without_a_page_fault() -> None:
    assert _page_faults("keep") < 20  # of 20 blocks of 10,240 pages
    assert _page_faults("leave") > 200  # pages may be huge ones
