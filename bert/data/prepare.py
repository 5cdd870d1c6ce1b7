"""A corpus and a tokenizer become a token store, or the one that is there is used again."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bert.data.corpus import find_corpus
from bert.data.store import STORE_FILES, TokenStore, holds_store, open_store, read_info, replace_info
from bert.data.store_writer import StoreSummary, write_store
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError
from bert.files import clear_workshop, real_path
from bert.terminal import progress_bar

logger = logging.getLogger(__name__)


def prepare(
    corpus: Sequence[str | Path] | str | Path,
    tokenizer: Tokenizer | str | Path,
    out: str | Path,
    layout: str = "auto",
    text_field: str = "text",
    jaccard: float | None = None,
) -> TokenStore:
    """The store of a corpus at `out`, written unless the one there is of the same corpus.

    With `jaccard`, near duplicates from that similarity on are left out, see `bert.data.duplicates`.
    Raises InputError for what the corpus, the tokenizer or the folder get wrong.
    """
    tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(tokenizer)
    found = find_corpus(corpus, layout, text_field)
    out = Path(out).expanduser()
    old: dict[str, Any] = {}
    why = ""
    if holds_store(out):
        try:
            old = read_info(out)
        except InputError as error:
            why = str(error).removeprefix(f"{out}: ").split(";")[0]
    fingerprint = found.fingerprint(old.get("fingerprint"))
    if jaccard is not None:
        fingerprint |= {"near": jaccard, "content": f"{fingerprint['content']}-near-{jaccard}"}
    if old:
        if old["fingerprint"].get("content") != fingerprint["content"]:
            why = "the corpus or how it is read has changed"
        elif old["tokenizer"] != tokenizer.hash:
            why = f"the tokenizer has changed ({old['tokenizer'][:8]} to {tokenizer.hash[:8]})"
        else:
            try:
                store = open_store(out, tokenizer)
                clear_workshop(real_path(out), STORE_FILES)
                what = f"{len(store):,} documents, {store.num_tokens:,} tokens"
                logger.info(f"{out}: reused, corpus and tokenizer are unchanged ({what})")
                if old["fingerprint"] != fingerprint:  # touched or moved: look no further next time
                    replace_info(out, {**old, "fingerprint": fingerprint})
                return store
            except InputError as error:
                why = str(error).removeprefix(f"{out}: ").split(";")[0]
    if why:
        logger.info(f"{out}: {why}: writing the store again")
    with _progress(found.num_bytes) as (advance, progress):
        summary = write_store(found.documents(logger.info, advance), tokenizer, out, fingerprint, progress, jaccard)
    _log(out, summary, jaccard)
    return open_store(out, tokenizer)


def text_has_changed(store: TokenStore, corpus: Sequence[str]) -> bool:
    """Whether `corpus` holds another text than `store` was made of. A text that is gone or lies on a hub is not looked at."""
    known = store.info["fingerprint"]
    try:
        found = find_corpus(corpus, known.get("layout", "auto"), known.get("text_field", "text"))
        return not found.hub and found.fingerprint(known)["content"] != known.get("content")
    except (InputError, OSError):
        return False


def _log(out: Path, summary: StoreSummary, jaccard: float | None) -> None:
    unknown = summary.unknown / summary.tokens
    also = "" if jaccard is None else f" and {summary.near_duplicates:,} near ones"
    skipped = f"{summary.duplicates:,} exact duplicates{also} skipped, {unknown:.2%} [UNK]"
    rate = f"{summary.tokens / max(summary.seconds, 1e-9):,.0f} tokens/s"
    logger.info(f"{out}: {summary.documents:,} documents, {summary.tokens:,} tokens, {skipped}, {rate}")
    if unknown > 0.01:
        logger.warning(f"{unknown:.1%} of the tokens are [UNK]; train a tokenizer on text in this language")


@contextmanager
def _progress(num_bytes: int) -> Iterator[tuple[Callable[[float], None], Callable[[int, int], None]]]:
    """A bar on a terminal, a line every 15 s elsewhere: yields `advance(bytes)` and `progress(documents, tokens)`."""
    started = last = time.monotonic()
    seen = 0.0

    def advance(read: float) -> None:
        nonlocal seen
        seen += read
        count(read)

    def progress(documents: int, tokens: int) -> None:
        nonlocal last
        now = time.monotonic()
        done = f"{documents:,} documents, {tokens:,} tokens, {tokens / (now - started):,.0f} tokens/s"
        describe(done)
        if now - last >= 15 and not sys.stderr.isatty():
            last = now
            logger.info(f"tokenising: {f'{min(seen / num_bytes, 1):.0%}, ' if num_bytes else ''}{done}")

    with progress_bar("tokenising", num_bytes or None) as (count, describe):
        yield advance, progress
