"""Hostile YAML: recipes that name code, and the heads of model cards."""

import json
import random
from pathlib import Path

import yaml

from tests.hostile.values import CODE, changed_value, json_text

_WORK = (
    "steps",
    "tokens",
    "minutes",
    "every_minutes",
    "batch_size",
    "rows",
    "epochs",
    "workers",
    "batch_size",
    "limit",
)
"""keys of a recipe that ask for more work: a large number there is a wish, not an attack"""


def change_key(file: Path, draw: random.Random) -> str:
    value = yaml.safe_load(file.read_text(encoding="utf-8"))
    for _ in range(50):
        text, what = changed_value(json.loads(json.dumps(value)), draw)
        if not any(f"{key} is {digit}" in what for key in _WORK for digit in ("'1", "'2", "'3", "'9")):
            break
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return what


def name_code(file: Path, draw: random.Random) -> str:
    value = yaml.safe_load(file.read_text(encoding="utf-8"))
    trainer = value.setdefault("trainer", {})
    key = draw.choice(
        ("profiler", "logger", "callbacks", "strategy", "plugins", "barebones", "accelerator", "model_registry")
    )
    code = draw.choice(CODE)
    trainer[key] = [code] if key in ("callbacks", "plugins") or draw.random() < 0.3 else code
    if draw.random() < 0.2:
        trainer = value["trainer"] = code
    if draw.random() < 0.2:
        value[draw.choice(sorted(value))] = code
    file.write_text(json_text(value))
    return f"trainer.{key} is {code}"


def odd_yaml(file: Path, draw: random.Random) -> str:
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
        "dates": "seed: 2020-01-01\ndata: {sequence_length: 2020-01-01 10:00:00}\n",
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


def odd_card(file: Path, draw: random.Random) -> str:
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
