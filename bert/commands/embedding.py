"""`bert embed`: parse, call, print; and vectors as files for other programs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from bert.commands.options import output
from bert.errors import InputError
from bert.flags import Parser

logger = logging.getLogger(__name__)

MOST_CHARACTERS = 1 << 28  # of an array of texts: 1 GB


def _embed(arguments: Sequence[str]) -> None:
    """Write the vector of each text, or of each word in its context, to a file for other programs.

    $ bert embed texts.txt --model runs/mine/model --out texts.npz
    $ bert embed texts.jsonl --model runs/mine/model --words --layer 4 --out words.parquet
    """
    texts = "texts: .txt, one a line; .jsonl, .tsv or .csv with the column sentence or text; - for standard input"
    pooling = "of texts mean or cls, by default as the model folder says; of words mean (default), first or last token"
    parser = Parser(_embed)
    parser.add("texts", texts)
    parser.add("--model", "model folder", required=True)
    parser.add("--out", "file to write, .npz, .parquet or .tsv", required=True, metavar="FILE")
    parser.add("--layer", "layer, where 0 is the embeddings and -1 the last", int, -1)
    parser.add("--pooling", pooling, Literal["mean", "cls", "first", "last"])
    parser.add("--words", "a vector for each word of the texts, split at spaces, punctuation and ideographs", bool)
    options = parser.parse(arguments)
    out = output("--out", options.out, (".npz", ".parquet", ".tsv"), inputs=[options.texts, options.model])
    from bert.probing.rows import read_rows
    from bert.probing.vectors import embedded

    lines = [row.sentence for row in read_rows(options.texts, keep_empty=True)]
    columns, vectors = embedded(lines, options.model, options.words, options.layer, options.pooling)
    empty = sum(not line.strip() for line in lines)
    if empty and not options.words:
        logger.warning(f"{options.texts}: empty texts: {empty:,}; their vectors are those of special tokens alone")
    out(lambda file: write_vectors(file, columns, vectors))
    what = "words" if options.words else "texts"
    print(f"{options.out}: vectors of {len(vectors):,} {what}, {vectors.shape[1]:,} dimensions each")


def write_vectors(file: Path, columns: Mapping[str, list[Any]], vectors: Any) -> None:
    """Write columns of N rows and their vectors, (N, D) or (N, L, D), by the suffix of the file: .npz, an array for each column and
    `vectors`; .parquet, with a column `vector` of lists; .tsv, with D columns `v0`, `v1`, …, or without vectors if they have layers.
    Nothing is pickled."""
    if file.suffix.lower() == ".npz":
        import numpy as np

        longest = max((len(one) for of in columns.values() for one in of if isinstance(one, str)), default=0)
        if longest * len(vectors) > MOST_CHARACTERS:  # NumPy makes each text as long as the longest
            raise InputError(
                f"{file.suffix} would hold {longest:,} characters for each of {len(vectors):,} texts: give .parquet"
            )
        cells: Any = {name: np.array(["" if one is None else one for one in of]) for name, of in columns.items()}
        with file.open("wb") as stream:  # a name would get .npz after .NPZ
            np.savez(stream, vectors=vectors, **cells)
    elif file.suffix.lower() == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({**columns, "vector": list(vectors)}), file)
    else:
        from bert.report.text import tabbed

        numbers = {f"v{at}": vectors[:, at] for at in range(vectors.shape[1])} if vectors.ndim == 2 else {}
        file.write_text(tabbed([*columns, *numbers], zip(*columns.values(), *numbers.values())), encoding="utf-8")


COMMANDS = (_embed,)
