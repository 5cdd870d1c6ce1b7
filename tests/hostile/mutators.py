"""The ways in which a file is made hostile. Each takes a file and a random source, changes the file in place and says how."""

import hashlib
import io
import json
import os
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import torch
import yaml

from tests.hostile.sandbox import CANARIES

Change = Callable[[Path, random.Random], str]

_KINDS = (
    ("config.json", ("json", "config")),
    ("tokenizer.json", ("json", "tokenizer")),
    ("store.json", ("json", "store")),
    ("modules.json", ("json", "modules")),
    ("*index.json", ("json", "index")),
    ("*.json", ("json",)),
    ("*.yaml", ("yaml",)),
    ("README.md", ("card",)),
    ("*.safetensors", ("safetensors",)),
    ("state.pt", ("pickle", "checkpoint")),
    ("*.bin", ("pickle",)),
    ("*.npz", ("npz",)),
    ("*.npy", ("npy",)),
    ("*.arrow", ("arrow",)),
    ("*.parquet", ("parquet",)),
    ("*.gz", ("gz",)),
    ("*.zst", ("zst",)),
    ("*.jsonl", ("lines", "jsonl")),
    ("*.tsv", ("lines", "table")),
    ("*.csv", ("lines", "table")),
    ("*", ("lines",)),
)


def kinds_of(file: Path) -> tuple[str, ...]:
    """What is in a file, by its name."""
    return next(kinds for pattern, kinds in _KINDS if fnmatch(file.name, pattern))


@dataclass(frozen=True)
class Mutator:
    """A way to change files of some kinds, and how often it is drawn."""

    name: str
    kinds: tuple[str, ...]
    change: Change
    weight: int = 1

    def fits(self, file: Path, named: bool) -> bool:
        """Whether it is for this file; `named`: the user names the file on the command line."""
        if self.name == "link":  # which of the user's own files leads where is the user's affair
            return not named
        return "*" in self.kinds or any(kind in self.kinds for kind in kinds_of(file))


# ── any file ──


def _bytes(file: Path, draw: random.Random) -> str:
    content = bytearray(file.read_bytes())
    how = draw.choice(("flip", "flips", "zeros", "high", "cut", "begin", "append", "insert", "length"))
    place = draw.randrange(len(content) + 1) if draw.random() < 0.6 else draw.randrange(min(64, len(content)) + 1)
    if how == "flip" and place < len(content):
        content[place] ^= 1 << draw.randrange(8)
    elif how == "flips":
        for _ in range(draw.randrange(2, 200)):
            if content:
                content[draw.randrange(len(content))] = draw.randrange(256)
    elif how in ("zeros", "high"):
        size = draw.choice((1, 2, 4, 8, 64, 1024))
        content[place : place + size] = (b"\0" if how == "zeros" else b"\xff") * len(content[place : place + size])
    elif how == "cut":
        del content[place:]
    elif how == "begin":
        del content[:place]
    elif how == "append":
        content += draw.choice((b"\0" * 4096, draw.randbytes(100), bytes(content), b"\n", b"PK\5\6" + b"\0" * 18))
    elif how == "insert":
        content[place:place] = draw.choice((b"\0", b"\xff\xfe", b"\x1b[31m", draw.randbytes(16), b"\r", b"\xf0\x9f"))
    else:
        number = draw.choice((2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1))
        packed = struct.pack("<Q", number)[: draw.choice((4, 8))]
        content[place : place + len(packed)] = packed
    file.write_bytes(content)
    return f"{how} at {place}"


def _file(file: Path, draw: random.Random) -> str:
    how = draw.choice(("empty", "gone", "folder", "swapped", "dangling", "loop", "unreadable"))
    if how == "swapped":
        others = sorted(path for path in file.parent.iterdir() if path.is_file() and path != file)
        if not others:
            how = "empty"
        else:
            other = draw.choice(others)
            file.write_bytes(other.read_bytes())
            return f"the content of {other.name}"
    if how == "unreadable":  # root reads it all the same
        file.chmod(0)
        return how
    file.unlink()
    if how == "empty":
        file.touch()
    elif how == "folder":
        file.mkdir()
        (file / "x").write_text("x")
    elif how in ("dangling", "loop"):
        file.symlink_to(file.name if how == "loop" else "nowhere")
    return how


def _link(file: Path, draw: random.Random) -> str:
    """A link to a file or a folder of the user's."""
    home = Path.cwd().parent.parent
    target = draw.choice((home / "projects" / "private.key", home / "private.json", home / "notes", Path("/etc/passwd")))
    if not target.exists():
        target = home / "projects" / "private.key"
    file.unlink()
    file.symlink_to(target)
    return f"a link to {target.name}"


# ── JSON and YAML ──


class _Raw(str):
    """Text that goes into JSON as it stands."""


_TEXTS = ("", "..", "../../x", "../../../.bashrc", "/etc/passwd", "http://127.0.0.1:9/x", "~", "a\x1b[31mb\x07\r\x9bc", "\0")
_TEXTS = (*_TEXTS, "x" * 100_000, "object", "V0", "os.system", "ロ\u202e", "\ud800", "none", "1e400", "<script>")
_NUMBERS = (0, -1, 1, 3, 3000, 3_000_000, 2**31, 2**40, 2**62, 2**63, 2**64, 10**18, 1.5, 1e308, 0.0, -0.5, 1e-320)
_RAWS = ("NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400, "1" + "0" * 5000, "-0", "1E-400")
_CODE: tuple[Any, ...] = (
    {"class_path": "os.system", "init_args": {"command": "touch ../../owned"}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "../../owned"]}},
    {"class_path": f"{min(CANARIES)}.fly"},
    {"class_path": "evil.Run"},
    {"class_path": "shutil.rmtree", "init_args": {"path": "../../notes"}},
    {"class_path": "builtins.open", "init_args": {"file": "../../metrics.csv", "mode": "w"}},
    {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "../..", "name": "", "version": ""}},
    {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "../.."}},
    {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "../../notes"}},
    {"class_path": "lightning.pytorch.profilers.SimpleProfiler", "init_args": {"dirpath": "../..", "filename": "p"}},
    {"class_path": "pathlib.Path.unlink", "init_args": {"self": "../../metrics.csv"}},
    {"class_path": "lightning.pytorch.callbacks.Timer", "init_args": {"duration": {"class_path": "os.getpid"}}},
    {"class_path": ["os.system"], "init_args": "x"},
    {"class_path": "", "init_args": {}},
)


def _odd_value(draw: random.Random, old: Any) -> Any:
    how = draw.randrange(10)
    if how < 3:
        return draw.choice(_NUMBERS) if not isinstance(old, str) or draw.random() < 0.5 else draw.choice(_TEXTS)
    if how < 5:
        return draw.choice(_TEXTS)
    if how < 7:
        return _Raw(draw.choice(_RAWS))
    if how == 7:
        size = draw.choice((50, 1000, 100_000))
        begin, end = draw.choice((("[", "]"), ('{"a":', "}")))
        return _Raw(begin * size + ("1" if begin != "[" else "") + end * size)
    if how == 8:
        return draw.choice((None, True, False, [], {}, [None], {"": None}, [[1]], [old], {"x": old}, [1] * 1000, "false"))
    return draw.choice(_CODE)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON value; of a long list or mapping some."""
    found = [path]
    inside = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    for key, child in inside[:20] + inside[-2:]:
        found += _places(child, (*path, key))
    return found


def _parent(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def _json_text(value: Any) -> str:
    """JSON in which raw texts stand as they are."""
    raws: list[str] = []

    def plain(node: Any) -> Any:
        if isinstance(node, _Raw):
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
    path = draw.choice(_places(value))
    how = draw.choice(("replace",) * 7 + ("delete", "duplicate", "unknown"))
    parent = _parent(value, path)
    shown = ".".join(map(str, path)) or "all of it"
    if not path or how == "replace":
        old = parent[path[-1]] if path else value
        new = _odd_value(draw, old)
        if path:
            parent[path[-1]] = new
        else:
            value = new
        return _json_text(value), f"{shown} is {str(new)[:60]!r}"
    if how == "delete":
        del parent[path[-1]]
        return _json_text(value), f"{shown} is gone"
    if how == "duplicate" and isinstance(parent, dict):
        old = json.dumps(parent.pop(path[-1]))
        twice = _Raw(f'{old}, {json.dumps(str(path[-1]))}: {_json_text(_odd_value(draw, None))}')
        parent[path[-1]] = twice
        return _json_text(value), f"{shown} stands twice"
    key = draw.choice(("x", "", "__class__", "auto_map", "a\x1bb", "name_or_path", "\ud800"))
    (value if isinstance(value, dict) else {})[key] = _odd_value(draw, None)
    return _json_text(value), f"key {key!r} is new"


def _json(file: Path, draw: random.Random) -> str:
    text, what = changed_value(json.loads(file.read_text(encoding="utf-8")), draw)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return what


def _json_whole(file: Path, draw: random.Random) -> str:
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


_WORK = ("steps", "tokens", "minutes", "every_minutes", "batch_rows", "rows", "epochs", "workers", "batch_examples", "limit")
"""keys of a recipe that ask for more work: a large number there is a wish, not an attack"""


def _yaml(file: Path, draw: random.Random) -> str:
    value = yaml.safe_load(file.read_text(encoding="utf-8"))
    for _ in range(50):
        text, what = changed_value(json.loads(json.dumps(value)), draw)
        if not any(f"{key} is {digit}" in what for key in _WORK for digit in ("'1", "'2", "'3", "'9")):
            break
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return what


def _yaml_code(file: Path, draw: random.Random) -> str:
    value = yaml.safe_load(file.read_text(encoding="utf-8"))
    trainer = value.setdefault("trainer", {})
    key = draw.choice(("profiler", "logger", "callbacks", "strategy", "plugins", "barebones", "accelerator", "model_registry"))
    code = draw.choice(_CODE)
    trainer[key] = [code] if key in ("callbacks", "plugins") or draw.random() < 0.3 else code
    if draw.random() < 0.2:
        trainer = value["trainer"] = code
    if draw.random() < 0.2:
        value[draw.choice(sorted(value))] = code
    file.write_text(json.dumps(value, indent=1))
    return f"trainer.{key} is {code}"


def _yaml_text(file: Path, draw: random.Random) -> str:
    text = file.read_text(encoding="utf-8")
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    cases = {
        "python tag": text + "trainer: !!python/object/apply:os.system ['touch ../../owned']\n",
        "python name": "seed: !!python/name:os.system\n",
        "python module": "trainer: {profiler: !!python/module:this }\n",
        "aliases": bomb + "data: {corpus: *a8}\n",
        "aliases in trainer": bomb + "trainer: *a8\n",
        "an alias in itself": "trainer: &a [*a]\n",
        "a mapping in itself": "data: &a {x: *a}\n",
        "nested": "data: " + "[" * 3000 + "]" * 3000 + "\n",
        "nested mappings": "data: " + "{a: " * 3000 + "}" * 3000 + "\n",
        "block nesting": "".join(f"{' ' * n}a:\n" for n in range(1500)),
        "merge": "base: &b {seed: 3}\n<<: *b\n<<: [1, 2]\n",
        "twice": f"{text}\nseed: 5\nseed: 6\n",
        "tabs": text.replace("  ", "\t"),
        "NUL": f"{text}\nseed: '\0'\n",
        "control": f'{text}\n"a\\eb\\a": "c\\x9bd"\n',
        "dates": "seed: 2020-01-01\ndata: {row_length: 2020-01-01 10:00:00}\n",
        "sexagesimal": "seed: 190:20:30:59:59:59\n",
        "binary": "seed: !!binary aGVsbG8=\n",
        "set": "data: !!set {a, b}\ntrainer: !!omap [a: 1]\n",
        "long number": f"seed: 1{'0' * 5000}\n",
        "documents": f"{text}---\nseed: 7\n",
        "list": "- a\n- b\n",
        "word": "recipe\n",
        "number": "17\n",
        "keys that are no text": "1: 2\nnull: 3\n[a]: 4\n",
        "complex key": "? {a: b}\n: c\n",
        "file for a group": "data: ../../private.json\ntrainer: ../../metrics.csv\n",
        "path": text + "start: ../../../notes\n",
        "strategy": text.replace("accelerator: cpu", "strategy: deepspeed"),
        "root": text.replace("accelerator: cpu", "default_root_dir: ../../notes"),
        "large": "# " + "x" * 3_000_000 + "\n" + text,
        "comments": "#\n" * 300_000 + text,
        "byte order mark": "\ufeff" + text,
    }
    what = draw.choice(sorted(cases))
    file.write_text(cases[what], encoding="utf-8")
    return what


def _card(file: Path, draw: random.Random) -> str:
    heads = {
        "nested": "x: " + "[" * 3000 + "]" * 3000,
        "tag": "license: !!python/object/apply:os.system ['touch ../../owned']",
        "aliases": "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b]\n"
        "d: &d [*c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d]\ntags: [*e, *e, *e, *e]",
        "recursive": "tags: &a [*a]",
        "list": "- a\n- b",
        "word": "word",
        "values": "license: [1, {a: b}]\ntags: 7\ndatasets: {a: 2020-01-01}\nbase_model: null",
        "control": 'license: "a\\e[31m\\a"',
        "keys": "1: 2\n[a, b]: 3\nnull: 4",
        "NUL": "license: a\0b",
        "long number": f"license: 1{'0' * 5000}",
        "large": "license: " + "x" * 3_000_000,
        "open": "license: mit",
        "binary": "license: !!binary aGVsbG8=\nx: !!set {a}",
        "marks": "license: \"---\"\ntags:\n- '---'\n---\n---",
        "surrogate": 'license: "\\ud800"',
    }
    what = draw.choice(sorted(heads))
    end = "" if what == "open" else "\n---\n"
    file.write_text(f"---\n{heads[what]}{end}\n# A model\n", encoding="utf-8")
    return what


# ── particular JSON files ──


def _config(file: Path, draw: random.Random) -> str:
    """A number of a model that is too large, or not one; labels by the million; code to load."""
    config = json.loads(file.read_text(encoding="utf-8"))
    numbers = [key for key, value in config.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    labels = {str(number): f"L{number}" for number in range(200_000)}
    how = draw.randrange(8)
    if how == 0:
        what = {"id2label": draw.choice((labels, {"0": None, "x": "y"}, {"0": "a\x1b"}, {"-1": "a"}, ["a"], {"0": "a", "7": "b"}))}
    elif how == 1:
        what = {"num_labels": draw.choice((3_000_000, 10**18, -1, "3", None))}
    elif how == 2:
        names = ("Encoder", "BertForMaskedLM", "SequenceClassifier", "../x", "", 7, None, ["a"], "BertForQuestionAnswering")
        what = {"architectures": [draw.choice(names)]}
    elif how == 3:
        what = {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, "model_type": draw.choice(("bert", "x", None))}
    elif how == 4:
        what = {"num_hidden_layers": draw.choice((3000, 3_000_000, 0, -1, 10**30)), "layer_types": draw.choice(([], ["x"], None))}
    else:
        what = {draw.choice(numbers or ["vocab_size"]): draw.choice(_NUMBERS) if draw.random() < 0.7 else _Raw(draw.choice(_RAWS))}
    file.write_text(_json_text(config | what), encoding="utf-8")
    return str(what)[:80]


def _tokenizer(file: Path, draw: random.Random) -> str:
    """Definitions on which `tokenizers` panics, grows without end or disagrees with itself."""
    value = json.loads(file.read_text(encoding="utf-8"))
    model, added = value["model"], value["added_tokens"]
    words = model.get("vocab")
    slow = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}
    template |= {"pair": template["single"], "special_tokens": {}}
    token = {"id": 20_000_000, "content": "far", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    long_list = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 3000}
    nested: Any = {"type": "Lowercase"}
    for _ in range(draw.choice((100, 2000))):
        nested = {"type": "Sequence", "normalizers": [nested]}
    first = min(words, key=words.get) if isinstance(words, dict) and words else "a"
    cases: dict[str, Any] = {
        "charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": draw.choice(("ALgCAACEAAAAAACAAQAAgMz8AgC4BQAA", "AAAA", "", "/////w=="))}},
        "template": {"post_processor": template},
        "slow split": {"pre_tokenizer": slow},
        "slow replace": {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}},
        "growing replace": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 50}] * 8}},
        "empty pattern": {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}},
        "bad regex": {"pre_tokenizer": slow | {"pattern": {"Regex": "(("}}},
        "empty regex": {"pre_tokenizer": slow | {"pattern": {"Regex": ""}}},
        "nested": {"normalizer": nested},
        "long list": {"normalizer": long_list},
        "far added": {"added_tokens": [*added, token]},
        "highest added": {"added_tokens": [*added, token | {"id": 2**32 - 1}]},
        "empty added": {"added_tokens": [*added, token | {"id": 300, "content": ""}]},
        "same added": {"added_tokens": [*added, *added]},
        "control added": {"added_tokens": [*added, token | {"id": len(words or ()), "content": "\x1b[31m"}]},
        "no added": {"added_tokens": []},
        "padding": {"padding": {"strategy": {"Fixed": draw.choice((10**9, 2**62))}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}},
        "truncation": {"truncation": {"max_length": 1, "stride": 5, "strategy": "LongestFirst", "direction": "Right"}},
        "no unk": {"model": model | {"unk_token": draw.choice(("[NONE]", "", None))}},
        "far id": {"model": model | {"vocab": dict(words) | {"zzz": draw.choice((20_000_000, 2**32 - 1))}} if isinstance(words, dict) else model},
        "same ids": {"model": model | {"vocab": dict.fromkeys(words, 7)} if isinstance(words, dict) else model},
        "without first": {"model": model | {"vocab": {k: v for k, v in words.items() if k != first}} if isinstance(words, dict) else model},
        "no words": {"model": model | {"vocab": {}}},
        "wrong type": {"model": model | {"type": draw.choice(("BPE", "Unigram", "WordLevel", "X", "WordPiece"))}},
        "unigram": {"model": {"type": "Unigram", "unk_id": draw.choice((0, 10**9, None)), "vocab": [["a", _Raw("NaN") if draw.random() < 0.3 else -1.0], ["[UNK]", -1e308], ["", 0.0]], "byte_fallback": True}},
        "merges": {"model": model | {"merges": [["a", "zzzz"], ["", ""]], "type": "BPE"}},
        "dropout": {"model": model | {"dropout": draw.choice((1.0, 2.0, -1.0)), "type": "BPE", "merges": model.get("merges", [])}},
        "longest word": {"model": model | {"max_input_chars_per_word": draw.choice((0, 2**62, 1))}},
        "prefix": {"model": model | {"continuing_subword_prefix": draw.choice(("", "x" * 100_000, "\ud83d"))}},
        "byte level": {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        "fixed length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        "metaspace": {"pre_tokenizer": {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"}},
        "no parts": {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None},
        "nothing": {"normalizer": {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}},
        "decoder": {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}] * 100}},
        "version": {"version": "9.9"},
    }  # fmt: skip
    what = draw.choice(sorted(cases))
    file.write_text(_json_text(value | cases[what]), encoding="utf-8", errors="surrogatepass")
    return what


def _modules(file: Path, draw: random.Random) -> str:
    """Paths that lead out of the folder."""
    paths = ("..", "../..", ".", "", "/", "../../notes", "1_Pooling/../..", "../private.key", "~", "1_Pooling/", "a\0b", 7, None)
    path = draw.choice((*paths, "config.json", "link", "x" * 5000, "1_Pooling\x1b[31m"))
    (file.parent / "link").symlink_to("../../../..", target_is_directory=True)
    modules = json.loads(file.read_text(encoding="utf-8"))
    module = {"idx": 1, "name": "1", "path": path, "type": draw.choice(("os.system", "sentence_transformers.models.Pooling"))}
    file.write_text(json.dumps(draw.choice(([module], [*modules, module], {"0": module}, [module] * 10_000))))
    return f"path is {str(path)[:40]!r}"


def _inside_link(file: Path, draw: random.Random) -> str:
    """A folder beside the model that holds a link to a private file, or is one."""
    pooling = file.parent / "1_Pooling"
    private = Path.cwd().parent / "private.key"
    if draw.random() < 0.5:
        (pooling / "x.json").symlink_to(private)
        return "1_Pooling/x.json is a link"
    shutil.rmtree(pooling)
    pooling.symlink_to(private.parent.parent / "notes", target_is_directory=True)
    return "1_Pooling is a link"


def _index(file: Path, draw: random.Random) -> str:
    index = json.loads(file.read_text(encoding="utf-8"))
    name = draw.choice(sorted(index["weight_map"]))
    outside = ("../model/model.safetensors", "/etc/passwd", "..", "evil.bin", "link.safetensors", "x.safetensors", "config.json", "", "a\x1b.bin")
    part = draw.choice(outside)
    (file.parent / "link.safetensors").symlink_to(Path.cwd().parent / "private.key")
    torch.save({"a": _Bomb("touch ../../owned")}, file.parent / "evil.bin")
    index["weight_map"][draw.choice((name, "surplus\x1b"))] = part
    file.write_text(json.dumps(index))
    return f"part {part!r}"


def _store(file: Path, draw: random.Random) -> str:
    info = json.loads(file.read_text(encoding="utf-8"))
    what: dict[str, Any] = draw.choice((
        {"dtype": draw.choice(("object", "O", "V0", "zz", "uint8", "int64", "float16", "uint32", "<u2", ">u2", "U4", "M8[s]", None, 7, ["uint16"], "uint16,uint16"))},
        {"tokens": draw.choice((0, 1, -1, 10**18, "9"))},
        {"documents": draw.choice((0, 1, -1, 10**18, "9", 2.5))},
        {"tokenizer": draw.choice((5, None, "", "x", ["a"]))},
        {"file_bytes": draw.choice(("9", -1, 0, 2**62, None, 1.5))},
        {"vocab_size": draw.choice((0, 10, 2**62, "x", None, -1))},
        {"fingerprint": draw.choice((None, [], "x", {"files": [{"path": "../../x\x1b"}]}, {"files": 3}))},
        {"format": draw.choice((0, 2, "1", True, 1.0, None, [1], "a\x1b"))},
        {"bytes": draw.choice((0, -1, "x", 10**400, None))},
    ))  # fmt: skip
    file.write_text(json.dumps(info | what))
    return str(what)[:80]


# ── weights ──

_TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "X9", "U16", "U64", "F4", "C64")


def _safetensors(file: Path, draw: random.Random) -> str:
    content = file.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    names = sorted(name for name in header if name != "__metadata__")
    name = draw.choice(names)
    begin, end = header[name]["data_offsets"]
    how = draw.choice(("type", "shape", "offsets", "header", "nan", "whole", "names", "metadata", "length", "order"))
    what: Any = ""
    if how == "type":
        what = header[name]["dtype"] = draw.choice(_TYPES)
        if draw.random() < 0.7:  # as many bytes as it needs
            width = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}.get(what, 1)
            data = data[:begin] + b"\1" * (end - begin) + data[end:] if draw.random() < 0.5 else data
            data += b"\0" * ((end - begin) // 4 * width)
            header[name]["data_offsets"] = [len(data) - (end - begin) // 4 * width, len(data)]
    elif how == "shape":
        shapes: tuple[Any, ...] = ([2**40], [2**32, 2**32], [0], [], [-1], [1.5], "x", [2**63], [2**62, 4], [1] * 100, [10**400])
        what = header[name]["shape"] = draw.choice(shapes)
    elif how == "offsets":
        offsets: tuple[Any, ...] = ([0, 2**62], [end, begin], [-4, 0], [0, 0], [begin, end + 4], ["0", "4"], [2**63, 2**63 + 4], [0], None)
        what = header[name]["data_offsets"] = draw.choice(offsets)
    elif how == "header":
        header = draw.choice(({}, [], {"__metadata__": {"format": "pt"}}, {name: header[name]}, {name: 7}, 7))
    elif how in ("nan", "whole"):
        number = draw.choice((float("nan"), float("inf"), -float("inf"), 3e38, 1e-45))
        if how == "nan":
            place = begin + 4 * draw.randrange(max(1, (end - begin) // 4))
            data = data[:place] + struct.pack("<f", number) + data[place + 4 :]
        else:
            data = struct.pack("<f", number) * (len(data) // 4)
        what = number
    elif how == "names":
        what = draw.choice(("a\x1b[31m", "x" * 100_000, "", "../x", "encoder.layers.999999999999999999999.x.weight"))
        header[what] = header.pop(name)
    elif how == "metadata":
        values: tuple[Any, ...] = (None, 7, {"format": 7}, {"format": "x\x1b"}, {"a": "x" * 1_000_000})
        what = header["__metadata__"] = draw.choice(values)
    elif how == "order":  # two names for the same bytes
        other = draw.choice(names)
        header[name]["data_offsets"] = header[other]["data_offsets"]
    text = json.dumps(header).encode()
    length = len(text)
    if how == "length":
        what = length = draw.choice((0, 1, 2**31, 2**62, 2**63, 2**64 - 1, len(text) + 5, 100_000_001))
    file.write_bytes(struct.pack("<Q", length) + text + data)
    return f"{how} of {name}: {str(what)[:60]}"


class _Bomb:
    """What runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def _odd_tensors(tensors: dict[str, Any], draw: random.Random) -> tuple[Any, str]:
    """What is no state dict of a model, or one with odd tensors."""
    names = sorted(name for name, value in tensors.items() if isinstance(value, torch.Tensor)) or sorted(tensors)
    name = draw.choice(names)
    old = tensors[name] if isinstance(tensors[name], torch.Tensor) else torch.zeros(4, 4)
    with_one: dict[str, Any] = {
        "expanded": torch.zeros(1).expand(2**33),
        "strided": torch.as_strided(torch.zeros(4), (2**20, 2**13), (0, 0)),
        "sparse": torch.zeros(4, 4).to_sparse(),
        "sparse large": torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (2**20, 2**20)),
        "complex": old.to(torch.complex64),
        "integers": old.to(torch.int64),
        "half": old.half(),
        "bool": old.bool(),
        "meta": torch.empty(2**40, device="meta"),
        "no axes": torch.tensor(1.0),
        "empty": torch.empty(0),
        "nan": old * float("nan"),
        "infinite": old.float() + float("inf"),
        "parameter": torch.nn.Parameter(old.float()),
        "turned": old.float().T if old.ndim == 2 else old,
        "nested list": [[old]],
        "number": 7,
        "text": "a\x1b[31m",
        "none": None,
        "code": _Bomb("touch ../../owned"),
        "array": np.zeros(3),
        "quantised": torch.quantize_per_tensor(old.float(), 0.1, 0, torch.qint8) if old.numel() else old,
    }
    what = draw.choice(sorted(with_one))
    return tensors | {name: with_one[what]}, f"{name} is {what}"


def _pickle(file: Path, draw: random.Random) -> str:
    tensors = torch.load(file, weights_only=True)
    whole: dict[str, Any] = {
        "list": list(tensors.values()),
        "tensor": torch.zeros(3),
        "code": _Bomb("touch ../../owned"),
        "nested": {"state_dict": tensors},
        "module": torch.nn.Linear(2, 2),
        "numbered": dict(enumerate(tensors.values())),
        "nothing": {},
        "many names": {f"x{number}": torch.zeros(1) for number in range(3000)},
        "name": {("a\x1b[31m" if number == 0 else name): value for number, (name, value) in enumerate(tensors.items())},
    }
    how = draw.randrange(4)
    if how < 2:
        content, what = _odd_tensors(tensors, draw)
    else:
        what = draw.choice(sorted(whole))
        content = whole[what]
    torch.save(content, file, _use_new_zipfile_serialization=draw.random() < 0.8)
    if how == 3 and zipfile.is_zipfile(file):
        what = f"{what}, {_zip_claims(file, draw)}"
    return what


def _zip_claims(file: Path, draw: random.Random) -> str:
    """Members that are packed, that are far larger than the file, or that lie elsewhere."""
    with zipfile.ZipFile(file) as source:
        members = {name: source.read(name) for name in source.namelist()}
    how = draw.choice(("packed", "bomb", "path", "twice"))
    name = next((name for name in members if "/data/" in name), min(members))
    if how == "bomb":
        _write_zip_bomb(file, name, {other: content for other, content in members.items() if other != name})
        return "a bomb"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if how == "packed" else zipfile.ZIP_STORED) as target:
        for other, content in members.items():
            target.writestr("../../owned" if how == "path" and other == name else other, content)
    return how


def _checkpoint(file: Path, draw: random.Random) -> str:
    """A state that the manifest vouches for."""
    state = torch.load(file, weights_only=True)
    values = [path for path in _places(state) if path]
    path = draw.choice(values) if draw.random() < 0.7 else (draw.choice(sorted(state)),)
    parent = _parent(state, path)
    key = draw.choice(("state_dict", "optimizer_states"))
    if draw.random() < 0.3 and isinstance(state.get(key), dict):
        state[key], what = _odd_tensors(state[key], draw)
    elif isinstance(parent, (dict, list)):
        new = _odd_value(draw, None)
        parent[path[-1]] = str(new) if isinstance(new, _Raw) else new
        what = f"{'.'.join(map(str, path))} is {str(new)[:60]!r}"
    else:
        what = "as it was"
    torch.save(state, file)
    content = file.read_bytes()
    manifest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "global_step": 4}
    (file.parent / "manifest.json").write_text(json.dumps(manifest))
    return what


# ── arrays ──


def _odd_array(array: np.ndarray, draw: random.Random) -> tuple[np.ndarray, str]:
    cases: dict[str, Any] = {
        "objects": np.array([_Bomb("touch ../../owned"), None], dtype=object),
        "fewer": array[:1],
        "no rows": array[:0],
        "one axis": array.ravel(),
        "three axes": array[None],
        "no axes": np.array(7),
        "negative": array - 10_000,
        "large": array + 2**40,
        "largest": np.full_like(array, np.iinfo(np.int64).max),
        "smallest": np.full_like(array, np.iinfo(np.int64).min),
        "real": array + 0.5,
        "nan": array * np.nan,
        "infinite": array + np.inf,
        "complex": array.astype(complex),
        "text": array.astype(str),
        "bytes": array.astype("S8"),
        "bool": array.astype(bool),
        "dates": array.astype("M8[s]"),
        "record": np.zeros(array.shape, dtype=[("a", "i4"), ("b", "O" if draw.random() < 0.3 else "f4")]),
        "backwards": array.astype(">i8"),
        "falling": array[::-1],
        "zeros": np.zeros_like(array),
        "unsigned": array.astype(np.uint64) + np.uint64(2**63),
        "long": np.resize(array, (*array.shape[:-1], 5000)) if array.ndim else array,
        "void": np.zeros(array.shape, dtype="V8"),
    }
    what = draw.choice(sorted(cases))
    return cases[what], what


def _npy_header(shape: str, descr: str = "<i8") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"


_CLAIMS = ("(281474976710656,)", "(4294967296, 4294967296)", "(-1,)", "(1.5,)", "('a',)", "(9223372036854775807,)", "()", "[3]", "(100000000,)")


def _npz(file: Path, draw: random.Random) -> str:
    with np.load(file) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    name = draw.choice(sorted(found))
    how = draw.randrange(10)
    if how < 7:
        found[name], what = _odd_array(found[name], draw)
        np.savez(file, **found)
        return f"{name}: {what}"
    if how == 7:
        _write_zip_bomb(file, f"{name}.npy", {f"{other}.npy": _npy(array) for other, array in found.items() if other != name})
        return f"{name}: a bomb"
    if how == 8:
        shape, descr = draw.choice(_CLAIMS), draw.choice(("<i8", "|O", "V0", "x", "|V1000000000"))
        with zipfile.ZipFile(file, "w") as target:
            for other, array in found.items():
                target.writestr(f"{other}.npy", _npy_header(shape, descr) + b"\0" * 64 if other == name else _npy(array))
        return f"{name} claims {shape} {descr}"
    surplus = {"../../owned": np.zeros(3), name: found[name]} if draw.random() < 0.5 else {name: found[name]}
    np.savez(file, **surplus)
    return f"{sorted(surplus)} alone"


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _npy_file(file: Path, draw: random.Random) -> str:
    if draw.random() < 0.2:
        shape = draw.choice(_CLAIMS)
        file.write_bytes(_npy_header(shape) + b"\0" * 64)
        return f"claims {shape}"
    array, what = _odd_array(np.load(file), draw)
    with file.open("wb") as stream:
        np.save(stream, array)
    return what


def _zeros(container: int) -> bytes:
    """A deflated stream of 2 GiB of zeros, in a gzip (31) or raw (-15) form, but for its checksum."""
    packer = zlib.compressobj(9, zlib.DEFLATED, container)
    first = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    raw.compress(b"")
    block = raw.compress(bytes(1 << 24)) + raw.flush(zlib.Z_FULL_FLUSH)
    return first + block * 127 + b"\3\0"


def _write_zip_bomb(file: Path, name: str, others: dict[str, bytes]) -> None:
    """A member `name` of 2 GiB of zeros behind an honest header."""
    head = _npy_header("(268435454,)") if name.endswith(".npy") else b""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    content = begin + _zeros(-15)
    with zipfile.ZipFile(file, "w") as target:
        for other, plain in others.items():
            target.writestr(other, plain)
        info = zipfile.ZipInfo(name)
        target.writestr(info, content)
        info = target.getinfo(name)
    raw = bytearray(file.read_bytes())
    for signature, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):  # say that it is deflated, and how large it is
        at = raw.rindex(signature, 0, raw.rindex(name.encode()) if signature == b"PK\1\2" else raw.index(name.encode()))
        raw[at + place : at + place + 2] = struct.pack("<H", 8)
        size = at + place + 14
        raw[size : size + 4] = struct.pack("<I", min(2**32 - 1, len(head) + (1 << 31)))
    file.write_bytes(raw)


# ── stores and tables of Arrow ──


def _arrow(file: Path, draw: random.Random) -> str:
    """A file of another schema, or with other numbers, whose size store.json knows."""
    with pyarrow.memory_map(str(file)) as source:
        table = pyarrow.ipc.open_stream(source).read_all().combine_chunks()
    ids, hashes = table.column("input_ids").chunk(0), table.column("hash").chunk(0)
    values = ids.values.to_numpy().copy()
    offsets = ids.offsets.to_numpy().copy()
    options = None
    how = draw.choice(("names", "int64", "compressed", "offsets", "no batch", "no rows", "large ids", "nulls", "hash", "order",
                       "large list", "fixed list", "view", "cut", "flip", "half", "floats", "surplus", "text", "tiny batches"))  # fmt: skip
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
        columns["hash"] = draw.choice((hashes.cast(pyarrow.string()), pyarrow.nulls(len(hashes)), hashes.cast(pyarrow.float64(), safe=False)))
    elif how == "order":
        columns = {"hash": hashes, "input_ids": ids}
    elif how == "large list":
        columns["input_ids"] = ids.cast(pyarrow.large_list(ids.values.type))
    elif how == "fixed list":
        columns["input_ids"] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.resize(values, 4 * len(ids))), 4)
    elif how == "view":
        columns["input_ids"] = ids.cast(pyarrow.list_view(ids.values.type))
    elif how == "surplus":
        columns["text"] = pyarrow.array(["x"] * len(ids))
    elif how == "text":
        columns["input_ids"] = pyarrow.array(["x"] * len(ids))
    table = pyarrow.table(columns)
    if how in ("half", "no rows"):
        table = table.slice(0, len(ids) // 2 if how == "half" else 0)
    with pyarrow.OSFile(str(file), "wb") as target, pyarrow.ipc.new_stream(target, table.schema, options=options) as writer:
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


def _parquet(file: Path, draw: random.Random) -> str:
    texts = pyarrow.parquet.read_table(file).column("text").to_pylist()
    broken = pyarrow.StringArray.from_buffers(2, pyarrow.py_buffer(np.array([0, 4, 8], np.int32)), pyarrow.py_buffer(b"abc\xffdef\xfe"))
    how = draw.choice(("invalid", "numbers", "bytes", "nested", "nulls", "names", "codec", "bomb", "no rows", "struct", "large", "view",
                       "dictionary", "decimal", "twice", "types"))  # fmt: skip
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
        columns = {"text": pyarrow.array([0, 1], draw.choice((pyarrow.date32(), pyarrow.timestamp("ns"), pyarrow.duration("s"))))}
    table = pyarrow.table(columns)
    if how == "twice":
        table = table.append_column("text", pyarrow.array(texts))
    pyarrow.parquet.write_table(table, file, **options)
    return how


# ── compressed text ──


def _gz(file: Path, draw: random.Random) -> str:
    return _compressed(file, draw, zlib.compressobj(9, zlib.DEFLATED, 31), "gz")


def _zst(file: Path, draw: random.Random) -> str:
    return _compressed(file, draw, None, "zst")


def _compressed(file: Path, draw: random.Random, packer: Any, suffix: str) -> str:
    import zstandard

    def pack(text: bytes) -> bytes:
        return zlib.compress(text, 6, 31) if suffix == "gz" else zstandard.compress(text)

    plain = file.read_bytes()
    cases: dict[str, Callable[[], bytes]] = {
        "bomb": lambda: _zeros(31) if suffix == "gz" else _zstd_bomb(),
        "one frame bomb": lambda: _zeros(31) if suffix == "gz" else _zstd_runs(8192),
        "no text": lambda: pack(b""),
        "invalid": lambda: pack(b"ab\xff\xfe\n\ncd\n\n" * 50),
        "NUL": lambda: pack(b"a\0b\n\n" * 50),
        "frames": lambda: plain * 50,
        "rest": lambda: plain + b"garbage",
        "half": lambda: plain[: len(plain) // 2],
        "not packed": lambda: b"plain text\n\nmore of it\n\n",
        "window": lambda: _zstd_runs(1, window=31) if suffix == "zst" else plain[:10],
        "lines": lambda: pack(b"\n" * 5_000_000),
        "one line": lambda: pack(b"word " * 1_000_000),
        "brackets": lambda: pack(b'{"text": ' + b"[" * 200_000 + b"\n"),
    }
    what = draw.choice(sorted(cases))
    file.write_bytes(cases[what]())
    return what


def _zstd_bomb() -> bytes:
    import zstandard

    return zstandard.compress(bytes(1 << 26), 3) * 40


def _zstd_runs(blocks: int, window: int = 27) -> bytes:
    """A frame of blocks that each repeat one byte 128 KiB long: 4 bytes of file for them."""
    descriptor = bytes([0x00, (window - 10) << 3])
    block = (1 << 17) << 3 | 1 << 1
    body = block.to_bytes(3, "little") + b"a"
    last = (1 << 17 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"a"
    return b"\x28\xb5\x2f\xfd" + descriptor + body * blocks + last


# ── lines ──


def _lines(file: Path, draw: random.Random) -> str:
    content = file.read_bytes()
    lines = content.splitlines(keepends=True) or [b"\n"]
    place = draw.randrange(len(lines))
    insert = {
        "control": b"the \x1b[31mred\x1b[0m \x07 \x08 apple \xc2\x9b31m\n",
        "return": b"a\rbert: all is well\n",
        "NUL": b"a\0b\n",
        "invalid": b"caf\xe9 \xff\n",
        "surrogate": b"\xed\xa0\x80\n",
        "long": b"word " * 300_000 + b"\n",
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


def _jsonl(file: Path, draw: random.Random) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    place = draw.randrange(len(lines))
    value = json.loads(lines[place])
    text, what = changed_value(value, draw)
    lines[place] = text.replace("\n", "")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogatepass")
    return f"line {place + 1}: {what}"


def _table(file: Path, draw: random.Random) -> str:
    """One cell of a table, or its header."""
    separator = "," if file.suffix == ".csv" else "\t"
    rows = [line.split(separator) for line in file.read_text(encoding="utf-8").splitlines()]
    row = 0 if draw.random() < 0.3 else draw.randrange(len(rows))
    column = draw.randrange(len(rows[row]))
    odd = ("", " ", "0", "-1", "99999999999999999999", "nan", "inf", "1e400", "a\x1b[31mb", "x" * 200_000, "\0", '"', '""', "'", "\\", "…")
    how = draw.randrange(5)
    what: Any = ""
    if how < 2:
        what = rows[row][column] = draw.choice((*odd, *(str(number) for number in _NUMBERS)))
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


MUTATORS = (
    Mutator("bytes", ("*",), _bytes, 3),
    Mutator("file", ("*",), _file),
    Mutator("link", ("*",), _link),
    Mutator("value", ("json",), _json, 6),
    Mutator("whole", ("json",), _json_whole),
    Mutator("key", ("yaml",), _yaml, 8),
    Mutator("code", ("yaml",), _yaml_code, 6),
    Mutator("yaml", ("yaml",), _yaml_text, 6),
    Mutator("card", ("card",), _card, 3),
    Mutator("config", ("config",), _config, 6),
    Mutator("definition", ("tokenizer",), _tokenizer, 8),
    Mutator("modules", ("modules",), _modules, 6),
    Mutator("linked folder", ("modules",), _inside_link, 2),
    Mutator("parts", ("index",), _index, 4),
    Mutator("info", ("store",), _store, 8),
    Mutator("tensors", ("safetensors",), _safetensors, 6),
    Mutator("pickle", ("pickle",), _pickle, 6),
    Mutator("state", ("checkpoint",), _checkpoint, 6),
    Mutator("arrays", ("npz",), _npz, 10),
    Mutator("array", ("npy",), _npy_file, 6),
    Mutator("schema", ("arrow",), _arrow, 8),
    Mutator("parquet", ("parquet",), _parquet, 8),
    Mutator("packed", ("gz",), _gz, 4),
    Mutator("packed", ("zst",), _zst, 4),
    Mutator("lines", ("lines",), _lines, 6),
    Mutator("row", ("jsonl",), _jsonl, 6),
    Mutator("cell", ("table",), _table, 6),
)
