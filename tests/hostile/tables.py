"""Hostile Arrow and parquet files."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet


def odd_arrow(file: Path, draw: random.Random) -> str:
    """A file of another schema, or with other numbers, whose size store.json knows."""
    table = pyarrow.ipc.open_stream(file.read_bytes()).read_all().combine_chunks()
    ids, hashes = table.column("input_ids").chunk(0), table.column("hash").chunk(0)
    values = ids.values.to_numpy().copy()
    offsets = ids.offsets.to_numpy().copy()
    options = None
    how = draw.choice(
        (
            "names",
            "int64",
            "compressed",
            "offsets",
            "no batch",
            "no rows",
            "large ids",
            "nulls",
            "hash",
            "order",
            "large list",
            "fixed list",
            "view",
            "cut",
            "flip",
            "half",
            "floats",
            "surplus",
            "text",
            "tiny batches",
        )
    )
    columns = {"input_ids": ids, "hash": hashes}
    if how == "names":
        columns = {draw.choice(("ids", "input_ids\x1b", "")): ids, "hash": hashes}
    elif how == "int64":
        columns["input_ids"] = pyarrow.ListArray.from_arrays(ids.offsets, pyarrow.array(values.astype(np.int64)))
    elif how == "floats":
        columns["input_ids"] = pyarrow.ListArray.from_arrays(ids.offsets, pyarrow.array(values.astype(np.float16)))
    elif how == "compressed":
        options = pyarrow.ipc.IpcWriteOptions(compression=draw.choice(("lz4", "zstd")))
    elif how == "offsets":
        offsets[draw.randrange(len(offsets))] = draw.choice((-5, 2**31 - 1, 10**6, 0))
        buffers = [None, pyarrow.py_buffer(offsets), None, ids.values.buffers()[1]]
        columns["input_ids"] = pyarrow.ListArray.from_buffers(ids.type, len(ids), buffers[:2], children=[ids.values])
    elif how == "large ids":
        values[draw.randrange(len(values))] = np.iinfo(values.dtype).max
        columns["input_ids"] = pyarrow.ListArray.from_arrays(ids.offsets, pyarrow.array(values))
    elif how == "nulls":
        mask = np.zeros(len(values), bool)
        mask[::7] = True
        columns["input_ids"] = pyarrow.ListArray.from_arrays(ids.offsets, pyarrow.array(values, mask=mask))
    elif how == "hash":
        columns["hash"] = draw.choice(
            (hashes.cast(pyarrow.string()), pyarrow.nulls(len(hashes)), hashes.cast(pyarrow.float64(), safe=False))
        )
    elif how == "order":
        columns = {"hash": hashes, "input_ids": ids}
    elif how == "large list":
        columns["input_ids"] = ids.cast(pyarrow.large_list(ids.values.type))
    elif how == "fixed list":
        columns["input_ids"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.resize(values, 4 * len(ids))), 4)
    elif how == "view":
        columns["input_ids"] = pyarrow.ListViewArray.from_arrays(offsets[:-1], np.diff(offsets), ids.values)
    elif how == "surplus":
        columns["text"] = pyarrow.array(["x"] * len(ids))
    elif how == "text":
        columns["input_ids"] = pyarrow.array(["x"] * len(ids))
    table = pyarrow.table(columns)
    if how in ("half", "no rows"):
        table = table.slice(0, len(ids) // 2 if how == "half" else 0)
    with (
        pyarrow.OSFile(str(file), "wb") as target,
        pyarrow.ipc.new_stream(target, table.schema, options=options) as writer,
    ):
        if how != "no batch":
            writer.write_table(table, max_chunksize=1 if how == "tiny batches" else None)
    content = bytearray(file.read_bytes())
    if how == "cut":
        del content[draw.randrange(len(content)) :]
    elif how == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
    info = json.loads((file.parent / "store.json").read_text(encoding="utf-8"))
    (file.parent / "store.json").write_text(json.dumps(info | {"file_bytes": len(content)}))
    return how


def odd_parquet(file: Path, draw: random.Random) -> str:
    texts = pyarrow.parquet.read_table(file).column("text").to_pylist()
    broken = pyarrow.StringArray.from_buffers(
        2, pyarrow.py_buffer(np.array([0, 4, 8], np.int32)), pyarrow.py_buffer(b"abc\xffdef\xfe")
    )
    how = draw.choice(
        (
            "invalid",
            "numbers",
            "bytes",
            "nested",
            "nulls",
            "names",
            "codec",
            "bomb",
            "no rows",
            "struct",
            "large",
            "view",
            "dictionary",
            "decimal",
            "twice",
            "types",
        )
    )
    columns: dict[str, Any] = {"text": texts}
    options: dict[str, Any] = {}
    if how == "invalid":
        columns = {"text": broken}
    elif how == "numbers":
        columns = {"text": list(range(100))}
    elif how == "bytes":
        columns = {"text": pyarrow.array([b"\xff\xfe"] * 50)}
    elif how == "nested":
        columns = {"text": [["a", "b"]] * 50}
    elif how == "struct":
        columns = {"text": [{"text": "a"}] * 50}
    elif how == "nulls":
        columns = {"text": pyarrow.array([None] * 50, pyarrow.string())}
    elif how == "names":
        columns = {draw.choice(("content", "text\x1b[31m", "", "Text")): texts}
    elif how == "codec":
        options = {"compression": draw.choice(("gzip", "brotli", "zstd", "lz4", "snappy"))}
    elif how == "bomb":
        columns = {"text": ["a" * (200 << 20)]}
        options = {"compression": "zstd"}
    elif how == "no rows":
        columns = {"text": pyarrow.array([], pyarrow.string())}
    elif how == "large":
        columns = {"text": pyarrow.array(texts, pyarrow.large_string())}
    elif how == "view":
        columns = {"text": pyarrow.array(texts, pyarrow.string_view())}
    elif how == "dictionary":
        columns = {"text": pyarrow.array(["one text of many"] * 1_000_000).dictionary_encode()}
    elif how == "decimal":
        columns = {"text": pyarrow.array([1, 2], pyarrow.decimal128(10, 2))}
    elif how == "types":
        columns = {
            "text": pyarrow.array(
                [0, 1], draw.choice((pyarrow.date32(), pyarrow.timestamp("ns"), pyarrow.duration("s")))
            )
        }
    table = pyarrow.table(columns)
    if how == "twice":
        table = table.append_column("text", pyarrow.array(texts))
    pyarrow.parquet.write_table(table, file, **options)
    return how
