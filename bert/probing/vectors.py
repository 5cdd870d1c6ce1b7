"""Vectors of labelled units in all layers, from one pass over the encoder, in fp16 on disk.

    units → chunks → token vectors (words) or text vectors (texts) → FOLDER/KEY.npy, memory-mapped

The key is a hash of everything that the vectors depend on: the weights, the config, the tokenizer, the precision, the units without their
labels, and the pooling. The file is (L + 1, N, D); its own hash is in KEY.blake2b, and a file with another one is computed again.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b, file_digest
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from bert.data.splitting import Splitter
from bert.data.tokenizer import Tokenizer
from bert.errors import InputError, accessing
from bert.files import locked, replace_text, replaced
from bert.inference import embeddings
from bert.inference.batching import takes_bf16
from bert.model.encoder import Encoder, weights_hash
from bert.probing.units import Units
from bert.terminal import progress_bar

logger = logging.getLogger(__name__)

VERSION = 1
OF_WORDS = {"mean": slice(None), "first": slice(1), "last": slice(-1, None)}
"""pooling of words → which of the tokens of a word it is the mean of"""
_CHUNK = 1 << 28  # bytes of fp32 vectors that are computed at once
Shape = tuple[int, int, int]
Located = tuple[list[embeddings.Pieces], NDArray[np.bool_]]


def vectors_of(
    encoder: Encoder,
    units: Units,
    pooling: str = "mean",
    folder: Path | None = None,
    bf16: bool | None = None,
    progress: str | None = None,
) -> NDArray[np.float16]:
    """The vectors of N units in all layers, (L + 1, N, D) fp16, read-only, layer 0 the embeddings.
    That of a word without tokens, see `has_tokens`, is NaN.

    `pooling` is the `mean` of the tokens of a word, the `first` or the `last`; of texts `mean` or `cls`, as in `embed`. They are kept in
    `folder`, which is made, under a name that depends on all of these: asked for again, they are read from there. Without `folder` they
    are in a temporary file without a name, which goes with the array. A word in a sentence of more tokens than the model takes is seen
    in a window around it; a text is pooled over all of its windows. `bf16` is that of `bert.inference.batching.run_batches`.

    Raises InputError for an unknown pooling, for values beyond those of fp16, and if the folder has no room.
    """
    if folder is None:
        with TemporaryDirectory() as temporary:
            return vectors_of(encoder, units, pooling, Path(temporary), bf16, progress)
    bf16 = takes_bf16(next(encoder.parameters()).device, bf16)
    file = folder / f"{_key(encoder, units, pooling, bf16)}.npy"
    shape = encoder.config.num_layers + 1, len(units.labels), encoder.config.hidden_size
    vectors = _kept(file, shape)
    if vectors is None:
        with accessing(folder, "written", "make room, or give another folder"):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(file.with_suffix(".lock"), str(file)), progress_bar(progress, shape[1]) as (advance, _):
                with replaced(file) as partial:
                    _write(partial, _chunks(encoder, units, pooling, bf16, shape), shape, advance)
                with file.open("rb") as stream:
                    replace_text(file.with_suffix(".blake2b"), file_digest(stream, "blake2b").hexdigest())
        vectors = np.lib.format.open_memmap(file, mode="r")
    return vectors


def has_tokens(tokenizer: Tokenizer, units: Units) -> NDArray[np.bool_]:
    """(N,): whether each unit has tokens; a word of which the tokenizer drops all characters has none."""
    if units.spans is None:
        return np.ones(len(units.owners), np.bool_)
    texts = [units.sentences[owner] for owner in units.owners]
    return np.array([bool(own) for _, own in _tokens(tokenizer, texts, units.spans)])


def _key(encoder: Encoder, units: Units, pooling: str, bf16: bool) -> str:
    """The hash of everything that the vectors depend on, 32 hexadecimal digits."""
    of_model = weights_hash(encoder), encoder.config, embeddings.tokenizer_of(encoder).hash, bf16
    of_units = units.sentences, units.owners.tolist(), units.spans, pooling
    return blake2b(repr((VERSION, of_model, of_units)).encode(), digest_size=16).hexdigest()


def _kept(file: Path, shape: Shape) -> NDArray[np.float16] | None:
    """The vectors in a file; none, with a warning, if it is not what was written."""
    with suppress(OSError, ValueError), file.open("rb") as stream:
        vectors: NDArray[np.float16] = np.lib.format.open_memmap(file, mode="r")
        is_whole = file_digest(stream, "blake2b").hexdigest() == file.with_suffix(".blake2b").read_text()
        if is_whole and vectors.shape == shape and vectors.dtype == np.float16:
            return vectors
    if file.exists():
        logger.warning(f"{file}: damaged, or not a file of these vectors; they are computed again")
    return None


def _write(file: Path, chunks: Iterator[NDArray[np.float16]], shape: Shape, advance: Any) -> None:
    """Write the vectors (n, L + 1, D) of consecutive units. Raises InputError without room, OSError if the disk is full later."""
    layers, count, width = shape
    needed, free = 2 * layers * count * width, shutil.disk_usage(file.parent).free
    if needed > free:
        raise InputError(f"{file.parent}: vectors need {needed:,} bytes and {free:,} are free; make room")
    with file.open("wb") as out:
        np.lib.format.write_array_header_2_0(out, {"descr": "<f2", "fortran_order": False, "shape": shape})
        first, header = 0, out.tell()
        for vectors in chunks:
            for layer in range(layers):  # not through a map: a full disk would be a signal, not an error
                out.seek(header + 2 * width * (layer * count + first))
                out.write(vectors[:, layer].tobytes())
            first += len(vectors)
            advance(len(vectors))


def _chunks(encoder: Encoder, units: Units, pooling: str, bf16: bool, shape: Shape) -> Iterator[NDArray[np.float16]]:
    """(n, L + 1, D) vectors of consecutive units; NaN for words without tokens. Raises InputError for values beyond those of fp16."""
    layers, count, width = shape
    at_once = max(1, _CHUNK // (4 * layers * width))
    for some in (slice(first, first + at_once) for first in range(0, count, at_once)):
        texts = [units.sentences[owner] for owner in units.owners[some]]
        vectors = np.full((len(texts), layers, width), np.nan, np.float16)
        with np.errstate(over="ignore"):  # infinity
            if units.spans is None:
                vectors[:] = embeddings.embed(encoder, texts, pooling, range(layers), bf16=bf16)  # type: ignore[arg-type]
            else:
                pieces, known = _pieces(encoder, texts, units.spans[some], pooling)
                vectors[known] = embeddings.token_vectors(encoder, pieces, bf16=bf16)
        if len(beyond := np.flatnonzero(np.isinf(vectors).any(axis=(0, 2)))):
            raise InputError(f"layer {beyond[0]} has values beyond ±65,504, the largest in fp16: use another model")
        yield vectors


def _pieces(encoder: Encoder, texts: Sequence[str], spans: Sequence[tuple[int, int]], pooling: str) -> Located:
    """For each of n words that has tokens those of its text, of a long one a window around the word, and the positions of its own that
    are pooled; and whether each word has any, (n,)."""
    if pooling not in OF_WORDS:
        raise InputError(f"pooling is {pooling}; must be {' or '.join(OF_WORDS)} for words")
    tokenizer, room = embeddings.tokenizer_of(encoder), max(1, encoder.config.max_length - 2)
    pieces, found = list[embeddings.Pieces](), list[bool]()
    for ids, positions in _tokens(tokenizer, texts, spans):
        found.append(bool(positions))
        if own := positions[OF_WORDS[pooling]]:
            window, inside = embeddings.window_around(ids, own, room, step=max(1, room // 4))
            pieces.append((list(window), inside))
    return pieces, np.array(found, np.bool_)


def _tokens(
    tokenizer: Tokenizer, texts: Sequence[str], spans: Sequence[tuple[int, int]]
) -> Iterator[tuple[list[int], list[int]]]:
    """For each of n words the tokens of its text, and the positions of its own."""
    for text, group in groupby(zip(texts, spans), key=itemgetter(0)):
        ids, offsets = tokenizer.encode_with_offsets(text)
        for positions in embeddings.overlapping(offsets, [span for _, span in group]):
            yield ids, positions


def embedded(
    texts: Sequence[str],
    model: nn.Module | str | Path,
    words: bool = False,
    layer: int = -1,
    pooling: str | None = None,
) -> tuple[dict[str, list[Any]], NDArray[np.float32]]:
    """Columns of N rows, by name, and (N, D) fp32 vectors in one layer of a model or of the model in a folder.

    A row is a text, with the vector of `embed`; or, with `words`, a word of running text, split as by BERT, that has tokens, with the index
    of its text (`sentence`), its first character and its end, and the `mean` of its tokens (the default), the `first` or the `last`.
    Raises InputError for another pooling, and if there is no such layer."""
    encoder = embeddings.encoder_of(model)
    if not words:
        return {"text": [*texts]}, embeddings.embed(encoder, texts, pooling, layer).numpy()  # type: ignore[arg-type]
    split = Splitter().words
    places = [(owner, *span) for owner, text in enumerate(texts) for span in split(text)]
    of_words = [texts[owner] for owner, *_ in places]
    pieces, known = _pieces(encoder, of_words, [(start, end) for _, start, end in places], pooling or "mean")
    if not known.any():
        raise InputError("there are no words: the texts hold no characters that the tokenizer keeps")
    places = [place for place, found in zip(places, known) if found]
    words_alone = [texts[owner][start:end] for owner, start, end in places]
    columns = dict(zip(("word", "sentence", "start", "end"), (words_alone, *map(list, zip(*places)))))
    return columns, embeddings.token_vectors(encoder, pieces, [layer])[:, 0].numpy()
