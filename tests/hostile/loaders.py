"""What is read, by which command, and which of the files are made hostile."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.inputs import SENTENCE, SMALL

MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md")
STORE = ("store.json", "data-00000-of-00001.arrow", "dataset_info.json", "state.json", "rows-*.npy")
RUN = ("recipe.yaml", "given.yaml", "environment.json", "metrics.csv", "ready")
RUN = (*RUN, "checkpoints/step-00000004/state.pt", "checkpoints/step-00000004/manifest.json")


@dataclass(frozen=True)
class Loader:
    """A command, or a function of a file, that reads what strangers wrote."""

    name: str
    command: tuple[str, ...]
    """arguments of `bert`; the inputs are below in/, results go to out/"""
    files: tuple[str, ...]
    """patterns of the files that are mutated, below in/"""
    needs: tuple[str, ...] = ()
    """files and folders of the good inputs beside those; not given: the first parts of `files`"""
    writes: tuple[str, ...] = ("out",)
    """folders that the command may write"""
    whole: bool = True
    """a refusal leaves nothing written"""
    finite: bool = False
    """figures come of it, and none of them is NaN or infinite"""
    calls: Callable[[Path], object] | None = None
    """instead of a command"""

    @property
    def inputs(self) -> set[str]:
        """The good inputs that a case gets."""
        return {pattern.split("/")[0] for pattern in self.files} | set(self.needs)

    def run(self) -> int:
        """Run the command as the console does; returns its exit code."""
        if self.calls is not None:
            return self._call()
        from bert.cli import run

        sys.argv = ["bert", *self.command]
        try:
            run()
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else 1 if error.code else 0
        return 0

    def _call(self) -> int:
        from bert.errors import InputError
        from bert.terminal import printable_output

        assert self.calls is not None
        with printable_output():  # as a command prints
            try:
                self.calls(Path("in") / self.files[0])
            except InputError as error:
                print(f"bert: {' '.join(str(error).split())}", file=sys.stderr)
                return 2
        return 0


def _tokens(file: Path) -> object:
    from bert.bench.documents import read_tokens  # what `bert bench --tokens` reads; the rest of it takes a minute

    return read_tokens(file)


def _sentence(file: Path) -> object:
    from bert.hf.sentence import SentenceModule

    return SentenceModule.load(file.parent).preprocess(["the cat"])


def _translate(file: Path) -> object:
    import torch

    from bert.inference.generation import GenerationConfig, generate
    from bert.model.decoder import Seq2Seq

    model = Seq2Seq.load(file.parent)
    return generate(model, torch.tensor([[5, 6, 7]]), config=GenerationConfig(num_beams=2, max_length=8))


def _in(folder: str, files: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{folder}/{file}" for file in files)


_PRETRAIN = ("pretrain", "--out=out/run", *SMALL, "--compile=false")  # a compiler needs more memory than a case has
_VOCABULARY = ("config.json", "tokenizer_config.json", "special_tokens_map.json")

LOADERS = (
    # ── model folders ──
    Loader("fill/own", ("fill", SENTENCE, "--model=in/model"), _in("model", MODEL), finite=True),
    Loader(
        "fill/bert",
        ("fill", SENTENCE, "--model=in/bert"),
        _in("bert", (*_VOCABULARY, "vocab.txt", "pytorch_model.bin")),
        finite=True,
    ),
    Loader(
        "fill/roberta",
        ("fill", SENTENCE.replace("[MASK]", "<mask>"), "--model=in/roberta"),
        _in("roberta", ("config.json", "tokenizer_config.json", "vocab.json", "merges.txt", "model.safetensors")),
        finite=True,
    ),
    Loader("fill/parts", ("fill", SENTENCE, "--model=in/parts"), _in("parts", ("model*", "config.json")), finite=True),
    *(
        Loader(f"seq2seq/{form}", (), _in(form, ("config.json", "model.safetensors")), calls=_translate)
        for form in ("marian", "encoder-decoder", "bert-encoder")
    ),
    Loader(
        "attend",
        ("attend", "the cat sees", "--model=in/model"),
        _in("model", ("config.json", "tokenizer.json")),
        finite=True,
    ),
    Loader(
        "predict/classify",
        ("predict", "in/classify", "in/labelled/rows.tsv", "--out=out/p.tsv"),
        _in("classify", (*MODEL, "windows.json")),
        ("labelled",),
        finite=True,
    ),
    Loader(
        "predict/tag",
        ("predict", "in/tag", "in/labelled/words.conll", "--out=out/p.conll"),
        _in("tag", (*MODEL, "windows.json")),
        ("labelled",),
        finite=True,
    ),
    Loader(
        "export/hf",
        ("export", "in/sentence", "--to=hf", "--out=out/e"),
        _in("sentence", (*MODEL, "windows.json", "modules.json", "1_Pooling/*", "*entence*.json")),
    ),
    Loader("sentence", (), ("sentence/sentence_bert_config.json", *_in("sentence", ("config.json",))), calls=_sentence),
    Loader(
        "finetune/start",
        ("finetune", "classify", "--model=in/bert", "--train=in/labelled/rows.tsv", "--out=out/run", "--epochs=1")
        + ("--trainer.accelerator=cpu", "--windows.sequence_length=32", "--data.validation_split=0.2"),
        _in("bert", (*_VOCABULARY, "vocab.txt", "pytorch_model.bin")),
        ("labelled",),
        whole=False,
    ),
    Loader(
        "pretrain/from",
        ("pretrain", "in/texts/a.txt", "--from=in/model", "--out=out/run")
        + tuple(flag for flag in SMALL if not flag.startswith(("--vocabulary", "--encoder")))
        + ("--validation.sequences=16",),
        _in("model", MODEL),
        ("texts",),
        whole=False,
    ),
    # ── recipes ──
    Loader(
        "pretrain/recipe",
        (
            "pretrain",
            "--config=in/recipes/pretrain.yaml",
            "--store=in/store",
            "--tokenizer=in/tokenizer",
            "--out=out/run",
        )
        + ("--stop.steps=2",),
        ("recipes/pretrain.yaml",),
        ("store", "tokenizer"),
        writes=("out", "in/store"),
        whole=False,
    ),
    Loader(
        "finetune/recipe",
        (
            "finetune",
            "classify",
            "--config=in/recipes/finetune.yaml",
            "--model=in/model",
            "--train=in/labelled/rows.tsv",
        )
        + ("--out=out/run", "--epochs=1"),
        ("recipes/finetune.yaml",),
        ("model", "labelled"),
        whole=False,
    ),
    # ── runs ──
    Loader(
        "resume",
        ("pretrain", "--resume=in/run", "--stop.steps=5", "--compile=false"),
        _in("run", RUN),
        writes=("in/run",),
        whole=False,
    ),
    Loader(
        "resume/further",
        ("pretrain", "--resume=in/further", "--stop.steps=5", "--compile=false"),
        _in("further", ("before-after/*", "recipe.yaml", "model/config.json", "tokenizer/tokenizer.json")),
        ("model",),
        writes=("in/further",),
        whole=False,
    ),
    Loader(
        "show-batch",
        ("pretrain", "--out=in/run", "--show-batch=0"),
        _in("run", ("recipe.yaml", "store/*", "tokenizer/*")),
        writes=("in/run",),
        whole=False,
    ),
    # ── stores ──
    Loader(
        "store",
        (*_PRETRAIN, "--store=in/store", "--tokenizer=in/tokenizer"),
        _in("store", STORE),
        ("tokenizer",),
        writes=("out", "in/store"),
        whole=False,
    ),
    Loader(
        "store/reused",
        ("prepare", "in/texts/a.txt", "--tokenizer=in/tokenizer", "--out=in/store"),
        _in("store", STORE),
        ("tokenizer", "texts"),
        writes=("in/store",),
        whole=False,
    ),
    # ── tokenizers ──
    Loader(
        "tokenizer/prepare",
        ("prepare", "in/texts/a.txt", "--tokenizer=in/tokenizer", "--out=out/store"),
        _in("tokenizer", ("tokenizer.json", "tokenizer_config.json", "vocab.txt")),
        ("texts",),
    ),
    Loader(
        "tokenizer/bpe",
        ("prepare", "in/texts/a.txt", "--tokenizer=in/bpe", "--out=out/store"),
        _in("bpe", ("tokenizer.json", "tokenizer_config.json")),
        ("texts",),
    ),
    Loader(
        "add-words",
        ("pretrain", "in/texts/a.txt", "--from=in/model", "--add-words=in/texts/words.txt", "--out=out/run")
        + tuple(flag for flag in SMALL if not flag.startswith(("--vocabulary", "--encoder")))
        + ("--validation.sequences=16",),
        ("texts/words.txt",),
        ("model",),
        whole=False,
    ),
    # ── arrays ──
    Loader(
        "masked",
        ("evaluate", "in/model", "--masked=in/arrays/masked.npz"),
        ("arrays/masked.npz",),
        ("model",),
        finite=True,
    ),
    Loader("tokens", (), ("arrays/tokens.npz",), calls=_tokens),
    # ── text ──
    *(
        Loader(
            f"text/{name}",
            ("prepare", f"in/texts/{name}", "--tokenizer=in/tokenizer", "--out=out/store"),
            (f"texts/{name}",),
            ("tokenizer",),
        )
        for name in ("a.txt", "a.jsonl", "a.tsv", "a.csv", "a.parquet", "a.txt.gz", "a.txt.zst", "a.jsonl.zst")
    ),
    Loader("text/vocabulary", ("tokenizer", "in/texts/a.txt", "--out=out/t", "--vocab-size=256"), ("texts/a.txt",)),
    # ── labelled rows, sentences and pairs ──
    *(
        Loader(
            f"evaluate/{name}",
            ("evaluate", f"in/{task}", f"in/labelled/{name}"),
            (f"labelled/{name}",),
            (task,),
        )
        for task, names in (
            ("classify", ("rows.tsv", "rows.csv", "rows.jsonl")),
            ("tag", ("words.conll", "words.conllu", "words.jsonl")),
            ("multilabel", ("several.jsonl",)),
            ("regression", ("numbers.csv",)),
        )
        for name in names
    ),
    Loader(
        "finetune/tagged",
        ("finetune", "tag", "--model=in/model", "--train=in/labelled/words.conll", "--out=out/run", "--epochs=1")
        + ("--trainer.accelerator=cpu", "--data.validation_split=0.2", "--windows.sequence_length=32"),
        ("labelled/words.conll",),
        ("model",),
        whole=False,
    ),
    Loader("score", ("score", "in/probes/sentences.txt", "--model=in/model"), ("probes/sentences.txt",), ("model",)),
    Loader("pairs", ("score", "in/probes/pairs.tsv", "--model=in/model"), ("probes/pairs.tsv",), ("model",)),
    *(
        Loader(
            f"words/{name}",
            ("words", "apple", f"--sentences=in/probes/{name}", "--model=in/model", "--html=out/w.html"),
            (f"probes/{name}",),
            ("model",),
        )
        for name in ("senses.jsonl", "sentences.txt")
    ),
    Loader("senses", ("senses", "in/probes/senses.tsv", "--model=in/model"), ("probes/senses.tsv",), ("model",)),
)
