"""Hostile text: compressed, lines, JSON lines and tables."""

import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from tests.hostile.bombs import zeros, zstd_bomb, zstd_runs
from tests.hostile.values import NUMBERS, changed_value


def odd_gz(file: Path, draw: random.Random) -> str:
    return _compressed(file, draw, zlib.compressobj(9, zlib.DEFLATED, 31), "gz")


def odd_zst(file: Path, draw: random.Random) -> str:
    return _compressed(file, draw, None, "zst")


def _compressed(file: Path, draw: random.Random, packer: Any, suffix: str) -> str:
    def pack(text: bytes) -> bytes:
        return zlib.compress(text, 6, 31) if suffix == "gz" else zstandard.compress(text)

    plain = file.read_bytes()
    cases: dict[str, Callable[[], bytes]] = {
        "bomb": lambda: zeros(31) if suffix == "gz" else zstd_bomb(),
        "one frame bomb": lambda: zeros(31) if suffix == "gz" else zstd_runs(8192),
        "no text": lambda: pack(b""),
        "invalid": lambda: pack(b"ab\xff\xfe\n\ncd\n\n" * 50),
        "NUL": lambda: pack(b"a\0b\n\n" * 50),
        "frames": lambda: plain * 50,
        "rest": lambda: plain + b"garbage",
        "half": lambda: plain[: len(plain) // 2],
        "not packed": lambda: b"plain text\n\nmore of it\n\n",
        "window": lambda: zstd_runs(1, window=31) if suffix == "zst" else plain[:10],
        "lines": lambda: pack(b"\n" * 5_000_000),
        "one line": lambda: pack(b"word " * 1_000_000),
        "brackets": lambda: pack(b'{"text": ' + b"[" * 200_000 + b"\n"),
    }
    what = draw.choice(sorted(cases))
    file.write_bytes(cases[what]())
    return what


def odd_lines(file: Path, draw: random.Random) -> str:
    content = file.read_bytes()
    lines = content.splitlines(keepends=True) or [b"\n"]
    place = draw.randrange(len(lines))
    insert = {
        "control": b"the \x1b[31mred\x1b[0m \x07 \x08 apple \xc2\x9b31m\n",
        "return": b"a\rbert: all is well\n",
        "NUL": b"a\0b\n",
        "invalid": b"caf\xe9 \xff\n",
        "surrogate": b"\xed\xa0\x80\n",
        "long": b"word " * (2_000 if file.parent.name == "probes" else 300_000)
        + b"\n",  # a forward pass a token, there
        "long word": b"a" * 100_000 + b"\n",
        "quote": b'"open\n',
        "tabs": b"\t\t\t\t\t\t\n",
        "blank": b"   \n",
        "bidi": "\u202eabc\u2066\u2028\u2029\x85\n".encode(),
        "masks": b"[MASK] [CLS] [SEP] [PAD] [UNK] <mask>\n",
        "combining": ("a" + "\u0301" * 50_000 + "\n").encode(),
        "commas": b"," * 5000 + b"\n",
        "formula": b"=cmd|'/c calc'!A0\n",
        "script": b"<script>alert(1)</script><img src=x onerror=alert(1)>\n",
        "separators": b"a\x1cb\x1dc\x1ed\x0be\x0cf\n",
    }
    whole = {
        "UTF-16": content.decode("utf-8", "replace").encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + content,
        "carriage returns": content.replace(b"\n", b"\r"),
        "one line": content.replace(b"\n", b" "),
        "one": lines[0],
        "only": lines[-1],
        "turned": b"".join(reversed(lines)),
        "repeated": lines[place] * 500,
        "no newline": content.rstrip(b"\n") + b"\x00",
        "digits": b"".join(b"1" * draw.randrange(1, 400) + b"\n" for _ in range(50)),
        "blanks": b" \n" * 1000,
    }
    what = draw.choice(sorted([*insert, *whole, "cut line", "drop line", "glue"]))
    if what in whole:
        content = whole[what]
    else:
        if what == "cut line":
            lines[place] = lines[place][: draw.randrange(len(lines[place]) + 1)]
        elif what == "drop line":
            del lines[place]
        elif what == "glue":
            lines[place] = lines[place].rstrip(b"\n")
        else:
            lines[draw.choice((0, place, len(lines) - 1))] = insert[what]
        content = b"".join(lines)
    file.write_bytes(content)
    return what


def odd_json_line(file: Path, draw: random.Random) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    place = draw.randrange(len(lines))
    value = json.loads(lines[place])
    text, what = changed_value(value, draw)
    lines[place] = text.replace("\n", "")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
    return f"line {place + 1}: {what}"


def odd_cell(file: Path, draw: random.Random) -> str:
    """One cell of a table, or its header."""
    separator = "," if file.suffix == ".csv" else "\t"
    rows = [line.split(separator) for line in file.read_text(encoding="utf-8").splitlines()]
    row = 0 if draw.random() < 0.3 else draw.randrange(len(rows))
    column = draw.randrange(len(rows[row]))
    odd = (
        "",
        " ",
        "0",
        "-1",
        "99999999999999999999",
        "nan",
        "inf",
        "1e400",
        "a\x1b[31mb",
        "x" * 200_000,
        "\0",
        '"',
        '""',
        "'",
        "\\",
        "…",
    )
    how = draw.randrange(5)
    what: Any = ""
    if how < 2:
        what = rows[row][column] = draw.choice((*odd, *(str(number) for number in NUMBERS)))
    elif how == 2:
        what = rows[row][column] = draw.choice((rows[0][-1], "label", "text", "idx", "__class__", "=1+1"))
    elif how == 3:
        for cells in rows:
            del cells[min(column, len(cells) - 1)]
        what = "column gone"
    else:
        rows[row] += draw.choice(([""], ["surplus"] * 3, ["a\x9b"]))
        what = "more cells"
    file.write_text("\n".join(separator.join(cells) for cells in rows) + "\n", encoding="utf-8", newline="")
    return f"row {row + 1}, column {column + 1}: {str(what)[:40]!r}"
