"""The good files, made once: what a case gets is a copy of some of them, and a command reads them without complaint."""

import contextlib
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import zstandard
from safetensors.torch import load_file, save_file

from bert.data.tokenizer import Tokenizer
from bert.hf.folder import save
from bert.model.config import EncoderConfig, HeadConfig, Seq2SeqConfig
from bert.model.decoder import Seq2Seq
from bert.model.heads import MaskedLM
from tests.conftest import TINY, make_text, run_quietly
from tests.data.folders import ROBERTA
from tests.encoders import as_published
from tests.hf.hf import SHAPES, spread
from tests.probing.models import sense_rows

SENTENCE = "the cat sees [MASK] aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"
"""for `bert fill`; the last word makes a regular expression that backtracks do so"""
SMALL = [*TINY, "--stop.steps=2", "--log.progress_bar=false"]
_CLASSES = (("food", "the cat sees the apple"), ("place", "a dog finds the river"))
_TAGGED = (("the", "O"), ("cat", "B-animal"), ("sees", "O"), ("Belinda", "B-name"))


def make_inputs(home: Path) -> None:
    """Write them all into `home`, which is the current folder meanwhile."""
    with contextlib.chdir(home):
        _write_texts(Path("texts"))
        _write_labelled(Path("labelled"))
        _write_probes(Path("probes"))
        run_quietly(["pretrain", "texts/a.txt", "--out", "run", *SMALL, "--stop.steps=4"])
        shutil.copytree("run/model", "model")
        shutil.copytree("run/tokenizer", "tokenizer")
        shutil.copytree("run/store", "store")
        _write_folders(Tokenizer.load("tokenizer"))
        _write_pairs_of_sides()
        run_quietly(["pretrain", "texts/a.txt", "--from", "model", "--out", "further", *_further(), "--stop.steps=4"])
        files = {
            "classify": "rows.tsv",
            "tag": "words.conll",
            "multilabel": "several.jsonl",
            "regression": "numbers.csv",
        }
        for task, file in files.items():
            flags = [
                "--epochs=1",
                "--trainer.accelerator=cpu",
                "--data.validation_split=0.2",
                "--windows.sequence_length=32",
            ]
            run_quietly(["finetune", task, "--model=model", f"--train=labelled/{file}", f"--out={task}-run", *flags])
            shutil.copytree(f"{task}-run/model", task)
        shutil.copytree("classify", "sentence")
        _make_sentence_folder(Path("sentence"))
        _write_recipes(Path("recipes"))
        _write_arrays(Path("arrays"))


def _further() -> list[str]:
    """The flags of a run that goes on from a model, which has the shape."""
    return [flag for flag in SMALL if not flag.startswith(("--vocabulary", "--encoder"))] + [
        "--validation.sequences=16"
    ]


def _write_texts(folder: Path) -> None:
    folder.mkdir()
    text = make_text()
    documents = text.strip().split("\n\n")
    lines = "".join(json.dumps({"text": document}) + "\n" for document in documents)
    table = "number\ttext\n" + "".join(f"{number}\t{document}\n" for number, document in enumerate(documents))
    plain = {"a.txt": text, "a.jsonl": lines, "a.tsv": table, "a.csv": table.replace("\t", ",")}
    for name, content in plain.items():
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "a.txt.zst").write_bytes(zstandard.compress(text.encode()))
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    pyarrow.parquet.write_table(pyarrow.table({"text": documents}), folder / "a.parquet")
    (folder / "words.txt").write_text("glorp\nzindle\n", encoding="utf-8")


def _write_labelled(folder: Path) -> None:
    folder.mkdir()
    rows = [(f"{text} {number}", label) for number in range(12) for label, text in _CLASSES]
    (folder / "rows.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    (folder / "rows.csv").write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows))
    several = ({"text": text, "labels": [label, "any"][: number % 3]} for number, (text, label) in enumerate(rows))
    (folder / "several.jsonl").write_text("".join(json.dumps(row) + "\n" for row in several))
    numbers = (f'"{text}",{number / 4}\n' for number, (text, _) in enumerate(rows))
    (folder / "numbers.csv").write_text("text,score\n" + "".join(numbers))
    sentences = [[*_TAGGED, (str(number), "O")] for number in range(12)]
    (folder / "words.conll").write_text("\n".join("".join(f"{w} {t}\n" for w, t in s) for s in sentences))
    connlu = ("".join(f"{i}\t{w}\t_\t{t}{6 * chr(9) + '_'}\n" for i, (w, t) in enumerate(s, 1)) for s in sentences)
    (folder / "words.conllu").write_text("\n".join(connlu) + "\n")
    tagged = ({"words": [w for w, _ in s], "tags": [t for _, t in s]} for s in sentences)
    (folder / "words.jsonl").write_text("".join(json.dumps(sentence) + "\n" for sentence in tagged))


def _write_probes(folder: Path) -> None:
    folder.mkdir()
    rows = [
        {"word": row.word, "sentence": row.sentence, "sense": row.sense, "start": row.span[0], "end": row.span[1]}
        for row in sense_rows(6)
        if row.span is not None
    ]
    (folder / "senses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    header = list(rows[0])
    table = "\n".join("\t".join(str(row[name]) for name in header) for row in rows)
    (folder / "senses.tsv").write_text("\t".join(header) + "\n" + table + "\n")
    (folder / "sentences.txt").write_text("".join(f"{row['sentence']}\n" for row in rows))
    (folder / "pairs.tsv").write_text("good\tbad\n" + "the cat sees it\tthe cat see it\nwe go\twe goes\n" * 3)


def _write_folders(tokenizer: Tokenizer) -> None:
    """Model folders as others write them: BERT's with a vocab.txt, in one pickle and in parts, and RoBERTa's."""
    for name, files in (("bert", ("vocab.txt",)), ("roberta", ())):
        torch.manual_seed(0)
        encoder, head = SHAPES[name]
        roles = as_published(tokenizer)
        if name == "roberta":
            run_quietly(["tokenizer", "texts/a.txt", "--kind=bpe", "--vocab-size=320", "--out=bpe"])
            roles = Tokenizer.load("bpe")
        size = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 40, "max_length": 64}
        shape = size | encoder | {"vocab_size": roles.vocab_size}
        model = MaskedLM(EncoderConfig(**shape), HeadConfig(**head))
        spread(model)
        model.tokenizer = roles if files else None
        save(model, Path(name))
        if name == "roberta":
            _write_byte_pairs(Path("bpe/tokenizer.json"), Path(name))
        else:
            (Path(name) / "tokenizer.json").unlink()
            special = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
            options = special | {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
            (Path(name) / "tokenizer_config.json").write_text(json.dumps(options))
            (Path(name) / "special_tokens_map.json").write_text(json.dumps(special))
    tensors = load_file("bert/model.safetensors")
    shutil.copytree("bert", "parts")
    Path("parts/model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + (number % 2)}-of-00002.safetensors" for number, name in enumerate(names)}
    for part in sorted(set(places.values())):
        save_file({name: tensors[name] for name in names if places[name] == part}, Path("parts") / part)
    Path("parts/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    torch.save(tensors, "bert/pytorch_model.bin")
    Path("bert/model.safetensors").unlink()


def _write_pairs_of_sides() -> None:
    """Sequence-to-sequence models in the three forms of their folders."""
    size = {
        "vocab_size": 90,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 40,
        "max_length": 32,
    }
    post = {"norm_first": False, "final_norm": False, "gated": False, "bias": True, "norm_bias": True}
    sines = {"positions": "sinusoidal", "sinusoid_halves": True, "embedding_norm": False}
    bert, bert_head = SHAPES["bert"]
    forms = {
        "marian": (EncoderConfig(**(size | post | sines)), HeadConfig(transform=False), True),
        "encoder-decoder": (EncoderConfig(**(size | bert)), HeadConfig(**bert_head), False),
        "bert-encoder": (EncoderConfig(**size), HeadConfig(transform=False), True),
    }
    for name, (config, head, shared) in forms.items():
        torch.manual_seed(0)
        model = Seq2Seq(config, Seq2SeqConfig(config, head, shared))
        spread(model)
        save(model, Path(name))
        assert json.loads((Path(name) / "config.json").read_text())["model_type"] == name


def _write_byte_pairs(definition: Path, folder: Path) -> None:
    """RoBERTa's vocab.json and merges.txt out of a byte-level tokenizer of ours, its special tokens under RoBERTa's names."""
    model = json.loads(definition.read_text(encoding="utf-8"))["model"]
    roles = dict(zip(("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"), ROBERTA))
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    pieces = [*ROBERTA, *(piece for piece in pieces if piece not in roles)]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    merges = (" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))


def _make_sentence_folder(folder: Path) -> None:
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {}}))
    card = "---\nlicense: mit\ntags: [a, b]\ndatasets:\n- wiki\n---\n\n# A model\n\nWhat it is.\n"
    (folder / "README.md").write_text(card)


def _write_recipes(folder: Path) -> None:
    folder.mkdir()
    trainer = "trainer:\n  accelerator: cpu\n  precision: 32-true\n"
    (folder / "pretrain.yaml").write_text(
        "data:\n  sequence_length: 32\n  batch_size: 8\n  validation_split: 0.05\nencoder:\n  hidden_size: 32\n  num_layers: 1\n"
        "  num_heads: 2\n  intermediate_size: 32\n  max_length: 64\n  norm_eps: 1.0e-05\nmasking:\n  rate: 0.3\noptimizer:\n"
        "  kind: adamw\n  lr: 0.001\n  betas: [0.9, 0.98]\n  weight_decay: 0.01\nschedule:\n  warmup: 0.1\nstop:\n  steps: 2\n"
        f"checkpoint:\n  every_steps: 2\nlog:\n  every_steps: 1\n{trainer}seed: 1\n"
    )
    (folder / "finetune.yaml").write_text(
        "windows:\n  sequence_length: 32\n  stride: 16\ndata:\n  batch_size: 8\n  validation_split: 0.2\nhead:\n  dropout: 0.1\n"
        f"optimizer:\n  lr: 0.001\nepochs: 1.0\nlog:\n  every_steps: 1\n{trainer}seed: 1\n"
    )


def _write_arrays(folder: Path) -> None:
    folder.mkdir()
    draw = np.random.default_rng(0)
    ids = draw.integers(5, 200, (4, 16))
    labels = np.where(draw.random((4, 16)) < 0.3, ids, -100)
    np.savez(folder / "masked.npz", input_ids=np.where(labels >= 0, 4, ids), labels=labels)
    np.savez(folder / "tokens.npz", values=ids.ravel(), offsets=np.arange(0, 65, 16), vocab_size=np.array(256))


def quiet(function: Callable[[], object]) -> None:
    """Call a function without what it prints."""
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        function()
