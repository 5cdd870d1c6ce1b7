"""The streams of random numbers: one number each, for ever, and one user each."""

import re
from collections import Counter
from pathlib import Path

from bert.data.rng import Stream

PACKAGE = Path(__file__).parents[2] / "bert"


def test_streams_have_numbers_of_their_own_which_never_change() -> None:
    """`Stream(31)` and no alias: a name with the number of another would be that other."""
    numbers = {name: int(stream) for name, stream in Stream.__members__.items()}
    assert len(set(numbers.values())) == len(numbers)
    assert numbers == {
        "DOCUMENT_ORDER": 1,
        "SEQUENCE_ORDER": 2,
        "VALIDATION_SPLIT": 3,
        "MASKED_POSITIONS": 11,
        "MASK_KIND": 12,
        "MASK_REPLACEMENT": 13,
        "PRETRAINING_DROPOUT": 21,
        "SOURCE": 31,
        "PHASE_MASKS": 32,
        "EXAMPLE_ORDER": 41,
        "BATCH_ORDER": 42,
        "LENGTH_TIES": 43,
        "FINETUNING_DROPOUT": 44,
        "FOLDS": 45,
        "BENCH_MIXTURE": 51,
    }


def test_every_stream_is_used_in_one_file() -> None:
    users = Counter(
        name
        for file in PACKAGE.rglob("*.py")
        for name in set(re.findall(r"\bStream\.([A-Z_]+)", file.read_text(encoding="utf-8")))
        if file.name != "rng.py"
    )
    assert users == Counter(Stream.__members__.keys())
