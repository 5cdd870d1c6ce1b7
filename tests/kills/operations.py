"""Operations that put a new version of something in the place of an old one. A new one is a class here and a line in `OPERATIONS`."""

import contextlib
import functools
import io
import os
import shutil
from pathlib import Path

import torch

import bert.export
from bert.cli import main
from bert.data.store import open_store
from bert.data.tokenizer import Tokenizer
from bert.data.vocabulary import train_tokenizer
from bert.files import completed
from bert.hf import program
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder
from bert.recipe import write_yaml
from bert.training.callbacks import MetricsCsv
from bert.training.checkpoints import WholeCheckpointIO, find_damage, list_checkpoints, newest_whole
from tests.conftest import TINY, make_text

OLD, NEW = 1, 2
SIZES = {OLD: 192, NEW: 256}
"""of vocabularies"""


class Operation:
    """Something is made in `home` as version OLD, then version NEW takes its place."""

    inside: tuple[str, ...] = ()
    """folders that the operation replaces, where files of the user's lie too"""
    slow = False
    """whether it takes seconds"""
    modules: tuple[str, ...] = ()
    """what it imports when it runs: a child that is forked should find it there"""

    def make(self, home: Path, version: int) -> None:
        """Make a version, over another where there is one."""
        raise NotImplementedError

    def version(self, home: Path) -> int:
        """The version that is there, opened as a user would open it. Raises where it is not whole."""
        raise NotImplementedError


def bert_command(*arguments: object) -> None:
    """Run a command that must succeed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = main([str(argument) for argument in arguments])
    assert code == 0, output.getvalue()


@functools.cache
def tokenizer_of(version: int) -> Tokenizer:
    """Vocabularies of two sizes."""
    return train_tokenizer([make_text(20)], vocab_size=SIZES[version])


def encoder_of(version: int, vocab_size: int = 256) -> Encoder:
    """Encoders of one shape."""
    torch.manual_seed(version)
    shape = {"hidden_size": 8, "num_layers": 1, "num_heads": 2, "intermediate_size": 8, "max_length": 16}
    return Encoder(EncoderConfig(vocab_size=vocab_size, **shape))  # type: ignore[arg-type]


class SaveModel(Operation):
    """`Encoder.save` over an old model."""

    inside = ("model",)

    def make(self, home: Path, version: int) -> None:
        model = encoder_of(version)
        model.tokenizer = tokenizer_of(version)
        model.save(home / "model")

    def version(self, home: Path) -> int:
        model = Encoder.load(home / "model")
        version = next(one for one in (OLD, NEW) if model.tokenizer.vocab_size == SIZES[one])
        for name, tensor in encoder_of(version).state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), f"{name} of another version than the tokenizer"
        return version


class ExportBeside(Operation):
    """`bert export` into the folder of the model. What is written is short: the exporters themselves take seconds."""

    inside = ("model/torch",)
    out: str | None = None

    def make(self, home: Path, version: int) -> None:
        if not (home / "model").exists():
            SaveModel().make(home, OLD)
        writes, program.write_torch = program.write_torch, lambda model, file: file.write_bytes(b"%d" % version)
        try:
            out = None if self.out is None else home / self.out
            bert.export.export_torch(home / "model", out)
        finally:
            program.write_torch = writes

    def version(self, home: Path) -> int:
        assert SaveModel().version(home) == OLD
        if self.out is not None:
            completed(home / self.out)
            assert Tokenizer.load(home / self.out).vocab_size == SIZES[OLD]
            assert (home / self.out / "config.json").read_bytes() == (home / "model" / "config.json").read_bytes()
        folder = home / self.out if self.out else completed(home / "model" / "torch").parent
        return int((folder / "torch" / "model.pt2").read_bytes())


class ExportOut(ExportBeside):
    """`bert export --out`."""

    inside = ("exported", "exported/torch")
    out = "exported"


class Prepare(Operation):
    """`bert prepare` over an old store."""

    modules = ("datasets.arrow_writer", "pyarrow.ipc", "bert.data.prepare", "pydantic", "bert.commands.pretraining")

    def make(self, home: Path, version: int) -> None:
        if not (home / "tokenizer").exists():
            tokenizer_of(OLD).save(home / "tokenizer")
            for one in (OLD, NEW):
                (home / f"corpus{one}.txt").write_text(make_text(20 * one, seed=one), encoding="utf-8")
        flags = ["--tokenizer", home / "tokenizer", "--out", home / "store"]
        bert_command("prepare", home / f"corpus{version}.txt", *flags)

    def version(self, home: Path) -> int:
        store = open_store(home / "store", Tokenizer.load(home / "tokenizer"))
        assert all(len(store.document(index)) == store.lengths[index] for index in range(len(store)))
        assert store.num_tokens == store.info["tokens"]
        return {20: OLD, 40: NEW}[len(store)]


class TrainTokenizer(Operation):
    """`bert tokenizer --overwrite`."""

    inside, modules = ("tokenizer",), ("pydantic", "bert.commands.pretraining")

    def make(self, home: Path, version: int) -> None:
        (home / "corpus.txt").write_text(make_text(20), encoding="utf-8")
        flags = ["--out", home / "tokenizer", "--vocab-size", SIZES[version], "--overwrite"]
        bert_command("tokenizer", home / "corpus.txt", *flags)

    def version(self, home: Path) -> int:
        tokenizer = Tokenizer.load(home / "tokenizer")
        return next(one for one in (OLD, NEW) if tokenizer.vocab_size == SIZES[one])


class SaveCheckpoint(Operation):
    """A checkpoint is saved: a step that was not there, over what a killed run left of it, and the oldest is removed."""

    def make(self, home: Path, version: int) -> None:
        folder, saver = home / "checkpoints", WholeCheckpointIO()
        newest_whole(folder, print)  # as a run does before its first step
        state = {"global_step": version, "state_dict": {"weight": torch.full((100,), float(version))}}
        saver.save_checkpoint(state, folder / f"step-{version:08d}")
        if version == NEW and (old := folder / f"step-{OLD:08d}").exists():
            saver.remove_checkpoint(old)

    def version(self, home: Path) -> int:
        newest = newest_whole(home / "checkpoints", print)
        for checkpoint in list_checkpoints(home / "checkpoints"):
            assert not find_damage(checkpoint), f"{checkpoint}: {find_damage(checkpoint)}"
        return int(WholeCheckpointIO().load_checkpoint(newest)["global_step"])


class SaveCheckpointAgain(SaveCheckpoint):
    """A checkpoint is saved over one of the same step."""

    def make(self, home: Path, version: int) -> None:
        state = {"global_step": version, "state_dict": {"weight": torch.full((100,), float(version))}}
        WholeCheckpointIO().save_checkpoint(state, home / "checkpoints" / "step-00000007")


class WriteRecipe(Operation):
    """recipe.yaml is written anew."""

    def make(self, home: Path, version: int) -> None:
        from bert.pretraining.config import PretrainRecipe

        write_yaml(PretrainRecipe(seed=version), home / "recipe.yaml", "A recipe.")

    def version(self, home: Path) -> int:
        from bert.pretraining.config import PretrainRecipe
        from bert.recipe import read_recipe

        return int(read_recipe(home / "recipe.yaml", PretrainRecipe).seed)


class CutMetrics(Operation):
    """A resumed run drops the rows of metrics.csv that it writes again."""

    def make(self, home: Path, version: int) -> None:
        log = MetricsCsv(home / "metrics.csv", ["step", "loss"])
        if version == OLD:
            for step in range(200):
                log.log_metrics({"loss": 1.5}, step)
        else:
            log.cut(100)

    def version(self, home: Path) -> int:
        rows = (home / "metrics.csv").read_bytes().splitlines()
        assert rows == [b"step,loss", *(b"%d,1.5" % step for step in range(len(rows) - 1))]
        return {201: OLD, 102: NEW}[len(rows)]


class Pretrain(Operation):
    """`bert pretrain --overwrite`."""

    slow, inside, modules = True, ("run",), (*Prepare.modules, "bert.pretraining.run")

    def make(self, home: Path, version: int) -> None:
        (home / "corpus.txt").write_text(make_text(), encoding="utf-8")
        flags = [f"--seed={version}", *(["--overwrite"] if (home / "run").exists() else [])]
        bert_command("pretrain", home / "corpus.txt", "--out", home / "run", *TINY, *flags, "--log.progress_bar=false")

    def version(self, home: Path) -> int:
        from bert.pretraining.config import PretrainRecipe
        from bert.recipe import read_recipe

        found = read_recipe(home / "run" / "recipe.yaml", PretrainRecipe).seed
        if found == OLD or (home / "run" / "model").exists():
            Encoder.load(home / "run" / "model")
        return int(found)


class Finetune(Operation):
    """`bert finetune --overwrite`; a run of the new version that was killed is resumed by the same command without that option."""

    slow, inside, modules = True, ("run",), (*Prepare.modules, "bert.commands.finetuning", "bert.finetuning.run")
    flags: tuple[str, ...] = ("--epochs=1", "--checkpoint.every_steps=1")

    def make(self, home: Path, version: int) -> None:
        from tests.finetuning.synthetic import FAST

        if not (home / "model").exists():
            SaveModel().make(home, OLD)
            rows = [f"{text.strip()}\t{'ab'[number % 2]}\n" for number, text in enumerate(make_text(60).split("\n\n"))]
            (home / "rows.tsv").write_text("text\tlabel\n" + "".join(map(str.lstrip, rows)), encoding="utf-8")
        flags = ["--model", home / "model", "--train", home / "rows.tsv", "--out", home / "run", *self.flags]
        other = completed(home / "run").exists() and self.version(home) != version
        bert_command("finetune", "classify", *flags, f"--seed={version}", *["--overwrite"] * other, *FAST)

    def version(self, home: Path) -> int:
        from bert.finetuning.config import FinetuneRecipe
        from bert.model.heads import SequenceClassifier
        from bert.recipe import read_recipe

        found = read_recipe(home / "run" / "recipe.yaml", FinetuneRecipe).seed
        if found == OLD or completed(home / "run" / "model").exists():
            SequenceClassifier.load(home / "run" / "model")
        return int(found)


class FinetuneSeeds(Finetune):
    """The same with two seeds."""

    flags = ("--epochs=1", "--checkpoint.every_steps=1", "--seeds=2")


class DeletesFirst(Operation):
    """What must not be: the old version is removed before the new one is there. The proof has to see it."""

    inside = ("model",)

    def make(self, home: Path, version: int) -> None:
        if (home / "model").exists():
            shutil.rmtree(home / "model")
        (home / "model").mkdir()
        (home / "model" / "weights").write_text(str(version))

    def version(self, home: Path) -> int:
        return int((home / "model" / "weights").read_text())


class ForgetsToSync(DeletesFirst):
    """What must not be: neither the file is synced nor its folder."""

    inside = ()

    def make(self, home: Path, version: int) -> None:
        (home / "model").mkdir(exist_ok=True)
        (home / "model" / "new").write_text(str(version))
        os.replace(home / "model" / "new", home / "model" / "weights")


OPERATIONS: dict[str, type[Operation]] = {
    one.__name__: one
    for one in (
        SaveModel,
        ExportBeside,
        ExportOut,
        Prepare,
        TrainTokenizer,
        SaveCheckpoint,
        SaveCheckpointAgain,
        WriteRecipe,
        CutMetrics,
        Pretrain,
        Finetune,
        FinetuneSeeds,
        DeletesFirst,
        ForgetsToSync,
    )
}
