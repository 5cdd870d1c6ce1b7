"""JSON with one thing changed: a value, a key, or all of it."""

import json
import random
from pathlib import Path
from typing import Any


class Raw(str):
    """Text that goes into JSON as it stands."""


_TEXTS = (
    "",
    "..",
    "../../x",
    "../../../.bashrc",
    "/etc/passwd",
    "http://127.0.0.1:9/x",
    "~",
    "a\x1b[31mb\x07\r\x9bc",
    "\0",
)
_TEXTS = (*_TEXTS, "x" * 100_000, "object", "V0", "os.system", "ロ\u202e", "\ud800", "none", "1e400", "<script>")
NUMBERS = (0, -1, 1, 3, 3000, 3_000_000, 2**31, 2**40, 2**62, 2**63, 2**64, 10**18, 1.5, 1e308, 0.0, -0.5, 1e-320)
RAWS = ("NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400, "1" + "0" * 5000, "-0", "1E-400")
CODE: tuple[Any, ...] = (
    {"class_path": "os.system", "init_args": {"command": "touch ../../owned"}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "../../owned"]}},
    {"class_path": "this.s"},
    {"class_path": "evil.Run"},
    {"class_path": "shutil.rmtree", "init_args": {"path": "../../notes"}},
    {"class_path": "builtins.open", "init_args": {"file": "../../metrics.csv", "mode": "w"}},
    {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "../..", "name": "", "version": ""},
    },
    {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "../.."}},
    {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "../../notes"}},
    {"class_path": "lightning.pytorch.profilers.SimpleProfiler", "init_args": {"dirpath": "../..", "filename": "p"}},
    {"class_path": "pathlib.Path.unlink", "init_args": {"self": "../../metrics.csv"}},
    {"class_path": "lightning.pytorch.callbacks.Timer", "init_args": {"duration": {"class_path": "os.getpid"}}},
    {"class_path": ["os.system"], "init_args": "x"},
    {"class_path": "", "init_args": {}},
)


def odd_value(draw: random.Random, old: Any) -> Any:
    how = draw.randrange(10)
    if how < 3:
        return draw.choice(NUMBERS) if not isinstance(old, str) or draw.random() < 0.5 else draw.choice(_TEXTS)
    if how < 5:
        return draw.choice(_TEXTS)
    if how < 7:
        return Raw(draw.choice(RAWS))
    if how == 7:
        size = draw.choice((50, 1000, 100_000))
        begin, end = draw.choice((("[", "]"), ('{"a":', "}")))
        return Raw(begin * size + ("1" if begin != "[" else "") + end * size)
    if how == 8:
        return draw.choice(
            (None, True, False, [], {}, [None], {"": None}, [[1]], [old], {"x": old}, [1] * 1000, "false")
        )
    return draw.choice(CODE)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON value; of a long list or mapping some."""
    found = [path]
    inside = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, child in inside[:20] + inside[-2:]:
        found += places(child, (*path, key))
    return found


def parent_of(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def json_text(value: Any) -> str:
    """JSON in which raw texts stand as they are."""
    raws: list[str] = []

    def plain(node: Any) -> Any:
        if isinstance(node, float) and "e" in repr(node) and "." not in repr(node):
            node = Raw(repr(node).replace("e", ".0e"))  # 1e-05 is text to YAML
        if isinstance(node, Raw):
            raws.append(node)
            return f"@raw{len(raws) - 1}@"
        if isinstance(node, dict):
            return {key: plain(child) for key, child in node.items()}
        return [plain(child) for child in node] if isinstance(node, list) else node

    text = json.dumps(plain(value), indent=1)
    for number, raw in enumerate(raws):
        text = text.replace(f'"@raw{number}@"', raw)
    return text


def changed_value(value: Any, draw: random.Random) -> tuple[str, str]:
    """(JSON text of `value` with one thing changed, what that is)."""
    path = draw.choice(places(value))
    how = draw.choice(("replace",) * 7 + ("delete", "duplicate", "unknown"))
    parent = parent_of(value, path)
    shown = ".".join(map(str, path)) or "all of it"
    if not path or how == "replace":
        old = parent[path[-1]] if path else value
        new = odd_value(draw, old)
        if path:
            parent[path[-1]] = new
        else:
            value = new
        return json_text(value), f"{shown} is {str(new)[:60]!r}"
    if how == "delete":
        del parent[path[-1]]
        return json_text(value), f"{shown} is gone"
    if how == "duplicate" and isinstance(parent, dict):
        old = json.dumps(parent.pop(path[-1]))
        twice = Raw(f"{old}, {json.dumps(str(path[-1]))}: {json_text(odd_value(draw, None))}")
        parent[path[-1]] = twice
        return json_text(value), f"{shown} stands twice"
    key = draw.choice(("x", "", "__class__", "auto_map", "a\x1bb", "name_or_path", "\ud800"))
    (value if isinstance(value, dict) else {})[key] = odd_value(draw, None)
    return json_text(value), f"key {key!r} is new"


def change_value(file: Path, draw: random.Random) -> str:
    text, what = changed_value(json.loads(file.read_text(encoding="utf-8")), draw)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return what


def change_all(file: Path, draw: random.Random) -> str:
    text = file.read_text(encoding="utf-8")
    cases = {
        "UTF-16": text.encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "twice": (text + text).encode(),
        "brackets": b"[" * 100_000,
        "objects": b'{"a":' * 100_000,
        "null": b"null",
        "number": b"7",
        "text": b'"text"',
        "list": f"[{text}]".encode(),
        "NaN": b"NaN",
        "open text": b'{"a": "' + b"x" * 1_000_000,
        "NUL": text.encode().replace(b":", b":\0", 1),
    }
    what = draw.choice(sorted(cases))
    file.write_bytes(cases[what])
    return what
