"""Hostile configs, tokenizers, lists of modules and of parts, and store.json: JSON whose meaning is attacked."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch

from tests.hostile.bombs import Bomb
from tests.hostile.values import NUMBERS, RAWS, Raw, json_text


def odd_config(file: Path, draw: random.Random) -> str:
    """A number of a model that is too large, or not one; labels by the million; code to load."""
    config = json.loads(file.read_text(encoding="utf-8"))
    numbers = [key for key, value in config.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    labels = {str(number): f"L{number}" for number in range(200_000)}
    how = draw.randrange(8)
    if how == 0:
        what = {
            "id2label": draw.choice(
                (labels, {"0": None, "x": "y"}, {"0": "a\x1b"}, {"-1": "a"}, ["a"], {"0": "a", "7": "b"})
            )
        }
    elif how == 1:
        what = {"num_labels": draw.choice((3_000_000, 10**18, -1, "3", None))}
    elif how == 2:
        names = (
            "Encoder",
            "BertForMaskedLM",
            "SequenceClassifier",
            "../x",
            "",
            7,
            None,
            ["a"],
            "BertForQuestionAnswering",
        )
        what = {"architectures": [draw.choice(names)]}
    elif how == 3:
        what = {
            "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
            "model_type": draw.choice(("bert", "x", None)),
        }
    elif how == 4:
        what = {
            "num_hidden_layers": draw.choice((3000, 3_000_000, 0, -1, 10**30)),
            "layer_types": draw.choice(([], ["x"], None)),
        }
    else:
        what = {
            draw.choice(numbers or ["vocab_size"]): draw.choice(NUMBERS)
            if draw.random() < 0.7
            else Raw(draw.choice(RAWS))
        }
    file.write_text(json_text(config | what), encoding="utf-8")
    return str(what)[:80]


_CHARSMAPS = ("ALgCAACEAAAAAACAAQAAgMz8AgC4BQAA", "AAAA", "", "/////w==")


def odd_tokenizer(file: Path, draw: random.Random) -> str:
    """Definitions on which `tokenizers` panics, grows without end or disagrees with itself."""
    value = json.loads(file.read_text(encoding="utf-8"))
    model, added = value["model"], value["added_tokens"]
    words = model["vocab"]
    slow = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    }
    template |= {"pair": template["single"], "special_tokens": {}}
    token = {
        "id": 20_000_000,
        "content": "far",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    long_list = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 3000}
    depth = draw.choice((100, 2000))
    nested = Raw('{"type": "Sequence", "normalizers": [' * depth + '{"type": "Lowercase"}' + "]}" * depth)
    growing = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 50}
    padding = {"strategy": {"Fixed": draw.choice((10**9, 2**62))}, "direction": "Right"}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    scores = [["a", draw.choice((-1.0, Raw("NaN")))], ["[UNK]", -1e308], ["", 0.0]]
    unigram = {"type": "Unigram", "unk_id": draw.choice((0, 10**9, None)), "vocab": scores, "byte_fallback": True}
    cases: dict[str, Any] = {
        "charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": draw.choice(_CHARSMAPS)}},
        "template": {"post_processor": template},
        "slow split": {"pre_tokenizer": slow},
        "slow replace": {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}},
        "growing replace": {"normalizer": {"type": "Sequence", "normalizers": [growing] * 8}},
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
        "padding": {"padding": padding},
        "truncation": {"truncation": {"max_length": 1, "stride": 5, "strategy": "LongestFirst", "direction": "Right"}},
        "no unk": {"model": model | {"unk_token": draw.choice(("[NONE]", "", None))}},
        "far id": {"model": model | {"vocab": words | {"zzz": draw.choice((20_000_000, 2**32 - 1))}}},
        "same ids": {"model": model | {"vocab": dict.fromkeys(words, 7)}},
        "without first": {"model": model | {"vocab": dict(sorted(words.items(), key=lambda item: item[1])[1:])}},
        "no words": {"model": model | {"vocab": {}}},
        "wrong type": {"model": model | {"type": draw.choice(("BPE", "Unigram", "WordLevel", "X", "WordPiece"))}},
        "unigram": {"model": unigram},
        "merges": {"model": model | {"merges": [["a", "zzzz"], ["", ""]], "type": "BPE"}},
        "dropout": {
            "model": model
            | {"dropout": draw.choice((1.0, 2.0, -1.0)), "type": "BPE", "merges": model.get("merges", [])}
        },
        "longest word": {"model": model | {"max_input_chars_per_word": draw.choice((0, 2**62, 1))}},
        "prefix": {"model": model | {"continuing_subword_prefix": draw.choice(("", "x" * 100_000, "\ud83d"))}},
        "byte level": {
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        },
        "fixed length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        "metaspace": {"pre_tokenizer": {"type": "Metaspace", "replacement": "", "prepend_scheme": "always"}},
        "no parts": {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None},
        "nothing": {"normalizer": {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}},
        "decoder": {"decoder": {"type": "Sequence", "decoders": [{"type": "ByteLevel"}] * 100}},
        "version": {"version": "9.9"},
    }
    what = draw.choice(sorted(cases))
    file.write_text(json_text(value | cases[what]), encoding="utf-8", errors="surrogatepass")
    return what


def odd_modules(file: Path, draw: random.Random) -> str:
    """Paths that lead out of the folder."""
    paths = (
        "..",
        "../..",
        ".",
        "",
        "/",
        "../../notes",
        "1_Pooling/../..",
        "../private.key",
        "~",
        "1_Pooling/",
        "a\0b",
        7,
        None,
    )
    path = draw.choice((*paths, "config.json", "link", "x" * 5000, "1_Pooling\x1b[31m"))
    (file.parent / "link").symlink_to("../../../..", target_is_directory=True)
    modules = json.loads(file.read_text(encoding="utf-8"))
    module = {
        "idx": 1,
        "name": "1",
        "path": path,
        "type": draw.choice(("os.system", "sentence_transformers.models.Pooling")),
    }
    file.write_text(json.dumps(draw.choice(([module], [*modules, module], {"0": module}, [module] * 10_000))))
    return f"path is {str(path)[:40]!r}"


def link_inside(file: Path, draw: random.Random) -> str:
    """A folder beside the model that holds a link to a private file, or is one."""
    pooling = file.parent / "1_Pooling"
    private = Path.cwd().parent / "private.key"
    if draw.random() < 0.5:
        (pooling / "x.json").symlink_to(private)
        return "1_Pooling/x.json is a link"
    shutil.rmtree(pooling)
    pooling.symlink_to(private.parent.parent / "notes", target_is_directory=True)
    return "1_Pooling is a link"


def odd_index(file: Path, draw: random.Random) -> str:
    index = json.loads(file.read_text(encoding="utf-8"))
    name = draw.choice(sorted(index["weight_map"]))
    outside = (
        "../model/model.safetensors",
        "/etc/passwd",
        "..",
        "evil.bin",
        "link.safetensors",
        "x.safetensors",
        "config.json",
        "",
        "a\x1b.bin",
    )
    part = draw.choice(outside)
    (file.parent / "link.safetensors").symlink_to(Path.cwd().parent / "private.key")
    torch.save({"a": Bomb("touch ../../owned")}, file.parent / "evil.bin")
    index["weight_map"][draw.choice((name, "surplus\x1b"))] = part
    file.write_text(json.dumps(index))
    return f"part {part!r}"


_DTYPES: tuple[Any, ...] = (
    "object",
    "O",
    "V0",
    "zz",
    "uint8",
    "int64",
    "float16",
    "uint32",
    "<u2",
    ">u2",
    "U4",
    "M8[s]",
)
_DTYPES = (*_DTYPES, None, 7, ["uint16"], "uint16,uint16", {"names": ["a"], "formats": ["O"]})


def odd_store(file: Path, draw: random.Random) -> str:
    info = json.loads(file.read_text(encoding="utf-8"))
    what: dict[str, Any] = draw.choice(
        (
            {"dtype": draw.choice(_DTYPES)},
            {"tokens": draw.choice((0, 1, -1, 10**18, "9"))},
            {"documents": draw.choice((0, 1, -1, 10**18, "9", 2.5))},
            {"tokenizer": draw.choice((5, None, "", "x", ["a"]))},
            {"file_bytes": draw.choice(("9", -1, 0, 2**62, None, 1.5))},
            {"vocab_size": draw.choice((0, 10, 2**62, "x", None, -1))},
            {"fingerprint": draw.choice((None, [], "x", {"files": [{"path": "../../x\x1b"}]}, {"files": 3}))},
            {"format": draw.choice((0, 2, "1", True, 1.0, None, [1], "a\x1b"))},
            {"bytes": draw.choice((0, -1, "x", 10**400, None))},
        )
    )
    file.write_text(json.dumps(info | what))
    return str(what)[:80]
