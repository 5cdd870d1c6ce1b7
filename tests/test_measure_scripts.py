"""The scripts behind the metrics of recipes/LOG.md run: here the one for the path from text to batches, on a tiny store."""

import importlib.util
from pathlib import Path

from bert.data.store import open_store
from bert.data.tokenizer import Tokenizer


def test_batches_are_measured_from_any_store(tiny_run: Path) -> None:
    spec = importlib.util.spec_from_file_location("measure_data", Path(__file__).parents[1] / "recipes/measure_data.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    tokenizer = Tokenizer.load(tiny_run / "tokenizer")
    fill, speed = script.measure_batches(open_store(tiny_run / "store", tokenizer), tokenizer, 32, 4, seconds=0.01)
    assert 0.9 < fill <= 1
    assert speed > 0
