"""Strangers' files are data: every loader over mutated files, each case in a child process that is watched.

`loaders.py` lists what is read and by which command, `mutators.py` the ways in which a file is made hostile, `inputs.py` makes the
good files, `sandbox.py` runs one case and judges it, `campaign.py` runs many. A case is a loader and a number:

    python -m tests.hostile                          1,000 cases, dealt out over the loaders
    python -m tests.hostile --cases 10000            the long form
    python -m tests.hostile fill/bert 17             that case alone, with what it printed
"""
