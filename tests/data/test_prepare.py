"""A store is of the text that was read."""

from pathlib import Path

import pytest

from bert.data import prepare as preparation
from bert.data.prepare import prepare, text_has_changed
from bert.data.tokenizer import Tokenizer
from tests.conftest import make_text


@pytest.fixture
def tokenizer(tiny_run: Path) -> Tokenizer:
    return Tokenizer.load(tiny_run / "tokenizer")


def test_a_file_that_changes_while_it_is_read_is_said(tmp_path, monkeypatch, said, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text(make_text(), encoding="utf-8")
    write_store = preparation.write_store

    def append_meanwhile(documents, *arguments):
        def growing():
            yield next(documents)
            with path.open("a", encoding="utf-8") as file:
                file.write("\n\nOne more text by the sea.")
            yield from documents

        return write_store(growing(), *arguments)

    monkeypatch.setattr(preparation, "write_store", append_meanwhile)
    prepare(path, tokenizer, tmp_path / "store")
    assert said[-1] == f"{path}: changed while it was read; prepare it again, for its present text"
    monkeypatch.undo()
    said.clear()
    grown = prepare(path, tokenizer, tmp_path / "store")
    assert said[0] == f"{tmp_path}/store: the corpus or how it is read has changed: writing the store again"
    assert not any("while it was read" in line for line in said)
    assert len(grown) == 121


def test_what_is_excluded_is_neither_read_nor_a_change(tmp_path, said, tokenizer):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(make_text(), encoding="utf-8")
    (tmp_path / "texts" / "b.txt").write_text(make_text(seed=1), encoding="utf-8")
    store = prepare(tmp_path / "texts", tokenizer, tmp_path / "store", exclude=["b.*"])
    assert len(store) == 120
    assert not text_has_changed(store, [str(tmp_path / "texts")], ["b.*"])
    assert text_has_changed(store, [str(tmp_path / "texts")])
