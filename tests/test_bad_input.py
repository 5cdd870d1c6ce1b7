"""What a user can get wrong: one line that names the thing and the fix, exit code 2, and the folder as it was."""

import errno
import gzip
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bert import files
from bert.cli import COMMANDS, main
from bert.data.tokenizer import Tokenizer
from bert.training import checkpoints
from tests.conftest import TINY, make_text

NOT_ON_THE_HUB = (
    "the Hugging Face Hub cannot be reached and its cache on this machine has no model of this name: give the folder of a model,"
    " the one that holds config.json"
)

Refused = Callable[..., str]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below `folder`, with what is in it."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path, tiny_run: Path) -> Path:
    """The current folder, with text.txt, the finished run `run` and the other tokenizer `other`."""
    shutil.copy(text_file, tmp_path / "text.txt")
    shutil.copytree(tiny_run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert main(["tokenizer", "text.txt", "--out", "other", "--vocab-size", "192"]) == 0
    return tmp_path


@pytest.fixture
def refused(place: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail and returns its one line on standard error, without `bert: `."""

    def run(*arguments: str) -> str:
        before = snapshot(place)
        capsys.readouterr()
        code = main(list(arguments))
        errors = capsys.readouterr().err
        assert (code, errors.count("\n")) == (2, 1), errors
        assert errors.startswith("bert: ")
        assert errors.endswith("\n")
        assert snapshot(place) == before
        return errors.removeprefix("bert: ").removesuffix("\n")

    return run


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file grows beyond `limit` bytes: writing further fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


# ── the corpus ──

CORPUS_COMMANDS = {
    "pretrain": ["pretrain", "--out", "new", *TINY],
    "tokenizer": ["tokenizer", "--out", "new"],
    "prepare": ["prepare", "--out", "new", "--tokenizer", "run/tokenizer"],
}


@pytest.mark.parametrize("name", CORPUS_COMMANDS)
def test_a_corpus_that_cannot_be_read(refused: Refused, place: Path, name: str) -> None:
    command = CORPUS_COMMANDS[name]
    assert refused(*command, "gone.txt") == "gone.txt: no such file or folder; check the path"

    (place / "empty.txt").write_text("")
    expected = "empty.txt: the corpus holds no text; give files with at least a few documents"
    assert refused(*command, "empty.txt") == expected

    (place / "nothing").mkdir()
    assert refused(*command, "nothing").startswith("nothing: no readable file in it; known suffixes are .txt, ")

    (place / "latin.txt").write_bytes("Un café.\n\nUn été à Paris.\n".encode("latin-1"))
    expected = "latin.txt, line 1: not UTF-8 (byte 0xe9); convert the file: iconv -f ITS_ENCODING -t UTF-8 latin.txt"
    assert refused(*command, "latin.txt") == expected

    (place / "cut.txt.gz").write_bytes(gzip.compress(make_text().encode())[:-40])
    assert refused(*command, "cut.txt.gz") == (
        "cut.txt.gz: truncated or damaged (Compressed file ended before the end-of-stream marker was reached);"
        " download or compress the file again"
    )


@pytest.mark.parametrize("name", CORPUS_COMMANDS)
def test_a_corpus_that_is_not_what_it_seems(refused: Refused, place: Path, name: str) -> None:
    command = CORPUS_COMMANDS[name]
    assert (
        refused(*command, "")
        == "an empty name in the corpus: give a file or folder (is a variable of the shell unset?)"
    )
    fix = "a pipe can be read only once, and a corpus is read twice; write it to a file first"
    assert refused(*command, "-") == f"-: {fix}"

    (place / "wide.txt").write_bytes("A text of some words.\n".encode("utf-16-le"))
    fix = "convert the file: iconv -f UTF-16LE -t UTF-8 wide.txt"
    assert refused(*command, "wide.txt") == f"wide.txt: UTF-16LE, not UTF-8; {fix}"

    (place / "rows.json").write_text('[{"text": "one"}]')
    what = "not a JSON object but an array (jq -c '.[]' splits it)"
    assert refused(*command, "rows.json") == f'rows.json, line 1: {what}; each line must be like {{"text": "A text."}}'

    (place / "texts").mkdir()
    (place / "texts" / "page.html").write_text("<p>")
    assert refused(*command, "texts").endswith(
        "; left out for their suffix: 1 .html (name a file itself to read it as text)"
    )
    (place / "texts" / "a.txt").write_text(make_text())
    inside = [part if part != "new" else "texts/new" for part in command]
    assert refused(*inside, "texts") == "--out texts/new lies in the text texts: give another --out"
    message = refused(*command, "texts", "--exclude", "a.*", "--exclude", "b.*")
    assert message.startswith("texts: no readable file in it; ")


@pytest.mark.parametrize("name", CORPUS_COMMANDS)
def test_a_name_that_is_neither_a_file_nor_a_hub_data_set(refused: Refused, name: str) -> None:
    message = refused(*CORPUS_COMMANDS[name], "nobody/nothing")
    assert message.startswith("nobody/nothing: no such file or folder, and as a Hub data set it cannot be read (")
    assert message.endswith("); check the path, the name or the network")


@pytest.mark.parametrize(
    "command", [CORPUS_COMMANDS["prepare"], [*CORPUS_COMMANDS["pretrain"], "--tokenizer=run/tokenizer"]]
)
def test_a_corpus_of_one_repeated_line(refused: Refused, place: Path, command: list[str]) -> None:
    (place / "same.txt").write_text("The same line again and again.\n" * 200)
    flag = "--data.layout" if command[0] == "pretrain" else "--layout"
    assert re.fullmatch(
        r"the corpus is too small: 199 of its 200 documents are exact duplicates, \d\d tokens are left;"
        rf" give more text, or check {flag}",
        refused(*command, "same.txt"),
    )


@pytest.mark.parametrize(
    "command",
    [
        ["tokenizer", "text.txt", "--out", "new", "--vocab-size", "5000"],
        ["pretrain", "text.txt", "--out", "new", *TINY, "--vocabulary.size=5000"],
    ],
    ids=["tokenizer", "pretrain"],
)
def test_a_vocabulary_larger_than_the_corpus_supports(refused: Refused, command: list[str]) -> None:
    message = refused(*command)
    entries = message.split("the corpus supports ")[1].split(" ")[0]
    assert 100 < int(entries) < 300
    assert message == f"vocabulary size 5000: the corpus supports {entries} entries; give {entries} or more text"


def test_a_corpus_that_is_not_named(refused: Refused) -> None:
    assert refused("tokenizer", "--out", "new") == ("bert tokenizer needs CORPUS: see bert tokenizer --help")
    assert refused("words", "apple", "--model") == "--model requires a value"
    assert refused("tokenizer", "a.txt", "--cased=yes") == "--cased takes no value: remove what follows it"
    assert refused("fill", "a", "b", "--model", "run") == "b is not an argument of bert fill: remove it"
    assert refused("pretrain", "--out", "new") == (
        "no text: give a file or folder (bert pretrain texts/ --out RUN), or --store and --tokenizer"
    )
    assert refused("pretrain", "text.txt") == "--out RUN is missing: specify the run directory"


# ── tokenizer, store and model that do not belong together ──


def test_masked_rows_of_another_tokenizer(refused: Refused, place: Path) -> None:
    labels = np.full((2, 8), -100)
    labels[0, 1] = 300
    np.savez(place / "beyond.npz", input_ids=np.full((2, 8), 300), labels=labels)
    assert refused("evaluate", "run/model", "--masked", "beyond.npz") == (
        "beyond.npz: holds token id 300 and the model has 256 entries: it was made with another tokenizer"
    )
    np.savez(place / "long.npz", input_ids=np.full((1, 80), 7), labels=np.full((1, 80), 8))
    assert refused("evaluate", "run/model", "--masked", "long.npz") == (
        "long.npz: sequences of 80 tokens are longer than the model's 64"
    )
    (place / "text.npz").write_text("no arrays")
    message = refused("evaluate", "run/model", "--masked", "text.npz")
    assert message == "text.npz: not an .npz file: give one with input_ids and labels"
    assert refused("evaluate", "run/model", "--masked", "gone.npz") == "gone.npz: no such file"


def test_a_tokenizer_that_does_not_fit_the_model_folder(refused: Refused, place: Path) -> None:
    assert main(["tokenizer", "text.txt", "--out", "cased", "--vocab-size", "320", "--kind", "bpe"]) == 0
    shutil.copy(place / "cased" / "tokenizer.json", place / "run" / "model" / "tokenizer.json")
    assert refused("fill", "The [MASK].", "--model", "run/model") == (
        "run/model: the tokenizer has 320 tokens and config.json says vocab_size 256:"
        " give the tokenizer that the model was trained with"
    )


def test_a_store_of_another_tokenizer(refused: Refused) -> None:
    message = refused("pretrain", "--store", "run/store", "--tokenizer", "other", "--out", "new", *TINY)
    assert message.startswith("run/store: made with another tokenizer (")
    assert message.endswith("); prepare the text again with this tokenizer")
    message = refused("pretrain", "--store", "run/store", "--out", "new", *TINY)
    assert message == "data.store needs data.tokenizer: give the one that the store was made with"
    message = refused("pretrain", "--store", "run", "--tokenizer", "other", "--out", "new", *TINY)
    assert message == "run: no store.json: not a store, or an unfinished one; prepare the text again"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--from=gone"], f"gone: no such folder, and {NOT_ON_THE_HUB}"),
        (["--from=run"], "run: no config.json in it: give its model, run/model"),
        (
            ["--encoder.hidden_size=64"],
            "encoder and head come with --from run/model: leave both out (expand enlarges it)",
        ),
        (
            ["--data.sequence_length=128"],
            "data.sequence_length 128 is longer than the 64 tokens of --from run/model: lower it",
        ),
        (
            ["--store=foreign"],
            "foreign: made with another tokenizer ({other}) than the one given ({run});"
            " prepare the text again with this tokenizer",
        ),
    ],
    ids=["gone", "no model", "shape", "length", "store"],
)
def test_weights_to_start_from_that_do_not_fit(refused: Refused, place: Path, flags: list[str], message: str) -> None:
    assert main(["prepare", "text.txt", "--tokenizer", "other", "--out", "foreign"]) == 0
    hashes = {name: Tokenizer.load(place / name).hash[:8] for name in ("other", "run/tokenizer")}
    shapeless = [flag for flag in TINY if not flag.startswith(("--encoder", "--vocabulary"))]
    text = [] if flags[0].startswith("--store") else ["text.txt"]
    found = refused("pretrain", *text, "--out", "new", "--from", "run/model", *shapeless, *flags)
    assert found == message.format(other=hashes["other"], run=hashes["run/tokenizer"])


CHANGES_THAT_CANNOT_BE = [
    (["--add-words=gone.txt"], "gone.txt: no such file: give another path. Did you mean `chinese.txt`?"),
    (["--add-words=empty.txt"], "empty.txt: holds no words: give a text file with one word per line"),
    (["--add-words=pair.txt"], "pair.txt, line 2: 'new york' contains a space: give one word per line"),
    (
        ["--add-words=chinese.txt"],
        "chinese.txt: '苹果' is in a script without spaces, where it would be found inside other words: remove it"
        " (a single new character can be added)",
    ),
    (["--general=gone.txt"], "gone.txt: no such file: give a text file as --general, or leave it out"),
    (["--general=empty.txt"], "empty.txt: the corpus holds no text; give files with at least a few documents"),
    (["--expand.num_layers=0"], "expand.num_layers is 0: give more than 0"),
    (["--expand.hidden_size=16"], "expand.hidden_size is 16 and the model has 32: give as many or more"),
    (["--expand.intermediate_size=31"], "expand.intermediate_size is 31 and the model has 32: give as many or more"),
    (
        ["--expand.hidden_size=40"],
        "expand.hidden_size is 40: give a multiple of 16, the size of a head, as 48",
    ),
    (
        ["--vocabulary.size=512"],
        "vocabulary.size is 512 beside --from run/model, which brings its tokenizer: leave it out, or train one"
        " with --new-tokenizer",
    ),
    (
        ["--new-tokenizer", "--tokenizer=other"],
        "data.tokenizer other and vocabulary.retrain (--new-tokenizer) beside --from run/model: each makes another"
        " tokenizer; give one of them",
    ),
    (
        ["--store=run/store", "--add-words=pair.txt"],
        "data.store run/store beside vocabulary.add_words pair.txt: it is tokenized already; give the text",
    ),
    (
        ["--tokenizer=headless"],
        "headless/tokenizer.json: the vocabulary has no [MASK]; name its own in tokenizer_config.json (cls_token, …), or train"
        " one",
    ),
]


def test_changes_to_a_model_to_start_from_that_cannot_be(refused: Refused, place: Path) -> None:
    (place / "empty.txt").write_text(" \n\n")
    (place / "pair.txt").write_text("nanobot\nnew york\n")
    (place / "chinese.txt").write_text("苹果\n", encoding="utf-8")
    (place / "headless").mkdir()
    text = (place / "other" / "tokenizer.json").read_text().replace("[MASK]", "[MUSK]")
    (place / "headless" / "tokenizer.json").write_text(text)
    shapeless = [flag for flag in TINY if not flag.startswith(("--encoder", "--vocabulary"))]
    for flags, message in CHANGES_THAT_CANNOT_BE:
        corpus = [] if flags[0].startswith("--store") else ["text.txt"]
        assert refused("pretrain", *corpus, "--out", "new", "--from", "run/model", *shapeless, *flags) == message


def test_changes_to_a_model_without_a_model(refused: Refused) -> None:
    for flags, named in (
        (["--add-words=words.txt"], "vocabulary.add_words words.txt"),
        (["--new-tokenizer"], "vocabulary.retrain (--new-tokenizer)"),
        (["--general=text.txt"], "validation.general text.txt"),
        (["--expand.num_layers=2"], "expand"),
    ):
        message = f"{named} is for a run that starts from a model: give its folder as --from"
        assert refused("pretrain", "text.txt", "--out", "new", *TINY, *flags) == message


def test_words_beside_resume(refused: Refused, place: Path) -> None:
    (place / "words.txt").write_text("nanobot\n")
    shapeless = [flag for flag in TINY if not flag.startswith(("--encoder", "--vocabulary"))]
    begin = ["pretrain", "text.txt", "--from", "run/model", "--out", "next", "--validation.sequences=4", *shapeless]
    assert main(begin) == 0
    assert refused("pretrain", "--resume", "next", "--add-words", "words.txt") == (
        "vocabulary.add_words is words.txt and next was started with null: a resumed run keeps it; leave it out"
    )


def test_a_byte_level_tokenizer_takes_no_words(refused: Refused, place: Path) -> None:
    (place / "words.txt").write_text("nanobot\n")
    flags = [flag for flag in TINY if not flag.startswith("--vocabulary")]
    assert main(["tokenizer", "text.txt", "--out", "bytes", "--kind", "bpe", "--vocab-size", "320"]) == 0
    assert main(["pretrain", "text.txt", "--tokenizer", "bytes", "--out", "bytes-run", *flags]) == 0
    message = refused(
        "pretrain", "text.txt", "--from", "bytes-run/model", "--out", "new", "--add-words", "words.txt",
        "--data.sequence_length=32",
    )  # fmt: skip
    assert message.startswith("words.txt: a bpe tokenizer cannot add words, because the space before a word")


def test_a_run_whose_tokenizer_was_changed_is_not_resumed(refused: Refused, place: Path) -> None:
    shutil.copytree(place / "other", place / "run" / "tokenizer", dirs_exist_ok=True)
    message = refused("pretrain", "--resume", "run", "--stop.steps=6")
    assert message.startswith("run/store: made with another tokenizer (")


def test_folders_that_are_not_there(refused: Refused) -> None:
    assert refused("pretrain", "text.txt", "--tokenizer", "gone", "--out", "new", *TINY) == (
        "gone: no such tokenizer file or folder; train one first"
    )
    assert refused("fill", "The [MASK].", "--model", "gone") == f"gone: no such folder, and {NOT_ON_THE_HUB}"
    assert refused("fill", "The [MASK].", "--model", "./gone") == (
        "gone: no such folder: give the folder of a model, the one that holds config.json"
    )
    assert refused("evaluate", "run", "--masked", "x.npz") == "run: no config.json in it: give its model, run/model"


# ── keys, flags and values ──

ROWS_OF_8 = "data.batch_size 8 over 1 device is 8 sequences each, which data.micro_batch_size 7 does not divide"

WRONG_VALUES = [
    (
        "--encoder.hiden_size=32",
        "--encoder.hiden_size is not an option of bert pretrain. Did you mean `--encoder.hidden_size`?",
    ),
    ("--encoder.hidden_size=many", "encoder.hidden_size is many: give a whole number"),
    ("--encoder.hidden_size=0", "encoder.hidden_size is 0: give 1 or more"),
    ("--encoder.num_layers=-1", "encoder.num_layers is -1: give 1 or more"),
    ("--vocabulary.size=0", "vocabulary.size is 0: give more than 0"),
    ("--vocabulary.size=-64", "vocabulary.size is -64: give more than 0"),
    ("--data.sequence_length=0", "data.sequence_length is 0: give 8 or more"),
    (
        "--data.sequence_length=1024",
        "data.sequence_length 1024 is longer than encoder.max_length 64: lower the one or raise the other",
    ),
    ("--data.batch_size=0", "data.batch_size is 0: give more than 0"),
    ("--data.batch_size=-8", "data.batch_size is -8: give more than 0"),
    ("--data.micro_batch_size=0", "data.micro_batch_size is 0: give more than 0"),
    ("--data.micro_batch_size=7", f"{ROWS_OF_8}: give a divisor of 8"),
    ("--trainer.devices=3", "data.batch_size 8 does not divide over 3 devices: give a multiple of 3"),
    ("--trainer.devices=0", "trainer.devices is 0: give 1 or more, or -1 for all"),
    ("--trainer.devices=two", "trainer.devices is two: give a whole number"),
    ("--trainer.devises=2", "trainer.devises: Lightning's Trainer has no such argument. Did you mean `devices`?"),
    ("--trainer.max_steps=2", "trainer.max_steps is decided by stop.steps: set that instead"),
    (
        "--trainer.callbacks=[{class_path: gone.It}]",
        "trainer.callbacks is {'class_path': 'gone.It'}: give class_path, one of lightning.pytorch.callbacks.DeviceStatsMonitor,"
        " lightning.pytorch.callbacks.EarlyStopping, lightning.pytorch.callbacks.LearningRateMonitor, and init_args; or give --trust"
        " if you trust the recipe",
    ),
    ("--stop.steps=0", "stop.steps is 0: give more than 0"),
    ("--stop.minutes=-1", "stop.minutes is -1.0: give more than 0"),
    ("--masking.rate=1.5", "masking.rate is 1.5: give a share between 0 and 1"),
    ("--validation.sequences=0", "validation.sequences is 0: give more than 0"),
    ("--log.wandb=mine", "log.wandb needs the package wandb: pip install wandb"),
]


@pytest.mark.parametrize(("flag", "message"), WRONG_VALUES, ids=[flag for flag, _ in WRONG_VALUES])
def test_a_wrong_value_in_a_recipe(refused: Refused, monkeypatch: pytest.MonkeyPatch, flag: str, message: str) -> None:
    if "wandb" in flag:
        monkeypatch.setitem(sys.modules, "wandb", None)
        monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    assert refused("pretrain", "text.txt", "--out", "new", *TINY, flag) == message


def test_no_process_is_started_for_rows_that_do_not_divide(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **_: started.append(command))
    assert "give a multiple of 3" in refused("pretrain", "text.txt", "--out", "new", *TINY, "--trainer.devices=3")
    assert started == []


@pytest.mark.parametrize("flag", ["--trainer.accelerator=xpu9"])
def test_what_lightning_refuses_is_one_line_too(refused: Refused, flag: str) -> None:
    assert refused("pretrain", "text.txt", "--out", "new", *TINY, flag).startswith("trainer: ")
    assert refused("pretrain", "text.txt", "--out", "new", *TINY, "--trainer.precision=33") == (
        "trainer.precision is 33: give one of 32-true, bf16-mixed, 16-mixed, bf16-true, 16-true, 64-true"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encodr:\n  hidden_size: 32\n", "recipe.yaml: unknown key `encodr`. Did you mean `encoder`?"),
        (
            "encoder:\n  hiden_size: 32\n",
            "recipe.yaml: unknown key `encoder.hiden_size`. Did you mean `encoder.hidden_size`?",
        ),
        (
            "trainer:\n  devises: 2\n",
            "trainer.devises: Lightning's Trainer has no such argument. Did you mean `devices`?",
        ),
        ("trainer:\n  max_epochs: 2\n", "trainer.max_epochs is decided by stop.tokens: set that instead"),
        (
            "seed: 1\nencoder: [\n",
            "recipe.yaml, line 3: not valid YAML (expected the node content, but found '<stream end>'): fix this line",
        ),
    ],
)
def test_a_mistake_in_a_recipe_file(refused: Refused, place: Path, text: str, message: str) -> None:
    (place / "recipe.yaml").write_text(text)
    assert refused("pretrain", "text.txt", "--out", "new", *TINY, "--config", "recipe.yaml") == message


def test_a_recipe_file_that_is_not_there(refused: Refused) -> None:
    message = refused("pretrain", "text.txt", "--out", "new", "--config", "gone.yaml")
    assert message == "gone.yaml: no such recipe: give the path of a YAML file"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "pretrian",
            f"pretrian is not a command of bert: use one of {', '.join(COMMANDS)}. Did you mean `pretrain`?",
        ),
        ("fill --model=run/model --top=0 [MASK]", "--top 0: give 1 or more"),
        ("fill --model=run/model apples", "no [MASK] in 'apples': put [MASK] in place of the word to predict"),
        ("fill", "bert fill needs TEXT and --model: see bert fill --help"),
        ("tokenizer text.txt --out new --vocab-size 0", "vocabulary size 0: must be positive"),
        ("tokenizer text.txt --out new --vocab-size ten", "--vocab-size ten: give a whole number"),
        (
            "tokenizer text.txt --out new --vocab-sise 99",
            "--vocab-sise is not an option of bert tokenizer. Did you mean `--vocab-size`?",
        ),
        (
            "tokenizer text.txt --out new --vocab-size 256 --kind wordpeice",
            "kind 'wordpeice' is not known: use one of auto, wordpiece, bpe, unigram. Did you mean `wordpiece`?",
        ),
        (
            "tokenizer text.txt --out new --vocab-size 256 --layout line",
            "layout 'line' is not known: use one of auto, blank-lines, lines, file. Did you mean `lines`?",
        ),
        ("pretrain --out run --show-batch -1", "--show-batch -1: give 0 or more"),
        ("bench steps gone", "gone: not a run to measure: it has no recipe.yaml"),
        ("bench compare run --rounds 0", "--rounds 0: give 1 or more"),
        ("bench run", "run is not a mode of bert bench: use one of steps, sweep, compare, minutes, finetune."),
        ("pretrain --show-batch 1", "--show-batch 1: specify the run with --out"),
        ("pretrain --out gone --show-batch 1", "gone: not a run whose batches could be shown: it has no recipe.yaml"),
    ],
)
def test_a_wrong_command(refused: Refused, command: str, message: str) -> None:
    assert refused(*command.split()) == message


# ── folders that hold something already ──


@pytest.mark.parametrize("command", ["pretrain --resume run", "pretrain --out run --show-batch 1"])
def test_a_run_whose_recipe_was_edited_badly(refused: Refused, place: Path, command: str) -> None:
    file = place / "run" / "recipe.yaml"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("sequence_length:", "row_lenght:"), encoding="utf-8")
    expected = "run/recipe.yaml: unknown key `data.row_lenght`. Did you mean `data.sequence_length`?"
    assert refused(*command.split()) == expected
    file.write_text(text.replace("batch_size: 8", "batch_size: many"), encoding="utf-8")
    assert refused(*command.split()) == "run/recipe.yaml: data.batch_size is many: give a whole number"


def test_a_folder_that_holds_another_run_is_kept_byte_for_byte(refused: Refused, place: Path, text_file: Path) -> None:
    message = refused("pretrain", str(text_file), "--out", "run", *TINY, "--seed", "3")
    fix = "give another --out, --resume run to resume that run, or --overwrite to lose it"
    assert message == f"run: already holds a run, with seed 0, not 3: {fix}"
    message = refused("pretrain", "text.txt", "--out", "run", *TINY, "--seed", "3")
    assert message == (
        f'run: already holds a run, with data.corpus ["{text_file}"], not ["{place / "text.txt"}"]; seed 0, not 3: {fix}'
    )


def test_a_run_is_overwritten_only_when_told_so_and_only_for_inputs_that_are_there(
    refused: Refused, place: Path
) -> None:
    message = refused("pretrain", "gone.txt", "--out", "run", "--overwrite", *TINY)
    assert message == "gone.txt: no such file or folder; check the path"
    (place / "run" / "mine.txt").write_text("of the user")
    assert main(["pretrain", "text.txt", "--out", "run", "--overwrite", *TINY, "--stop.steps=1"]) == 0
    assert (place / "run" / "mine.txt").read_text() == "of the user"
    assert (place / "run" / "model" / "config.json").exists()


@pytest.mark.parametrize("more", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_a_folder_with_other_files_is_kept(refused: Refused, place: Path, more: list[str]) -> None:
    (place / "papers").mkdir()
    (place / "papers" / "thesis.txt").write_text("of three years")
    message = refused("pretrain", "text.txt", "--out", "papers", *TINY, *more)
    assert message == "papers: holds files that are not of a run: give another --out"
    message = refused("prepare", "text.txt", "--tokenizer", "other", "--out", "papers")
    assert message == "papers: holds something that is not a token store; give another --out"


def test_an_out_that_is_a_file(refused: Refused) -> None:
    assert refused("pretrain", "text.txt", "--out", "text.txt", *TINY) == "text.txt: is a file: give a folder as --out"
    message = refused("pretrain", "text.txt", "--out", "text.txt/run", *TINY)
    assert message == "text.txt/run: cannot be made (Not a directory): give another --out"


def test_a_tokenizer_that_is_there_is_kept(refused: Refused) -> None:
    message = refused("tokenizer", "text.txt", "--out", "other", "--vocab-size", "256")
    assert message == "other: already holds a tokenizer; give another --out, or --overwrite"


# ── going on with a run ──


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--resume gone", "gone: not a run to resume: it has no recipe.yaml"),
        ("--resume other", "other: not a run to resume: it has no recipe.yaml"),
        (
            "--resume run --config text.txt",
            "--config and --resume run: a run is resumed by its run/recipe.yaml; remove --config",
        ),
        (
            "--resume run --seed 3",
            "seed is 3 and run was started with 0: a resumed run keeps it; leave it out",
        ),
        (
            "--resume=run --data.batch_size=16",
            "data.batch_size is 16 and run was started with 8: a resumed run keeps it; leave it out",
        ),
        (
            "--resume run --tokenizer other",
            "data.tokenizer is other and run was started with null: a resumed run keeps it; leave it out",
        ),
        ("--resume run --out new", "--out new and --resume run: a run is resumed in its own directory; remove --out"),
    ],
)
def test_a_run_is_resumed_as_it_was(refused: Refused, arguments: str, message: str) -> None:
    assert refused("pretrain", *arguments.split()) == message


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_a_run_goes_on_with_the_text_that_it_was_started_with(place: Path, change: str) -> None:
    assert main(["pretrain", "text.txt", "--out", "new", *TINY]) == 0
    if change == "gone":
        (place / "text.txt").unlink()
    else:
        (place / "text.txt").write_text(make_text(seed=1))
    before = snapshot(place / "new" / "store")
    assert main(["pretrain", "--resume", "new", "--stop.steps=5"]) == 0
    assert snapshot(place / "new" / "store") == before


def test_a_tilde_is_ones_home_in_resume_and_show_batch(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(place))
    assert main(["pretrain", "--resume=~/run", "--out=~/run", "--stop.steps=5"]) == 0
    assert (place / "run" / "checkpoints" / "step-00000005").is_dir()
    assert main(["pretrain", "--out=~/run", "--show-batch=0"]) == 0
    assert not (place / "~").exists()


def test_a_wrong_key_of_a_phase_is_told_the_nearest_of_a_phase(refused: Refused) -> None:
    line = refused("pretrain", "text.txt", "--out", "new", "--phases", "[{tokens: 100, batch: 3}, {}]")
    assert line == "--phases: unknown key `phases.batch`. Did you mean `phases.batch_size`?"


def test_a_run_is_not_resumed_with_fewer_steps_than_it_has(refused: Refused) -> None:
    line = refused("pretrain", "--resume", "run", "--stop.steps=2")
    assert line == "--stop.steps 2: the run has done 4 steps: give more, or leave it out"


def test_a_finished_run_that_is_resumed_takes_no_further_step_and_says_so(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(place / "run")
    assert main(["pretrain", "--resume", "run"]) == 0
    assert (
        "nothing to do: the budget was already exhausted at step 4; raise it by --stop.steps" in capsys.readouterr().out
    )
    after = snapshot(place / "run")
    assert after.keys() == before.keys()
    assert after["metrics.csv"] == before["metrics.csv"]
    assert after["model/model.safetensors"] == before["model/model.safetensors"]


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


DAMAGES = {
    "truncated": (truncate, r"state.pt has {half} bytes instead of {whole}"),
    "flipped": (flip_a_byte, "state.pt does not match its hash"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_used(
    place: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    state = place / "run" / "checkpoints" / "step-00000004" / "state.pt"
    whole = state.stat().st_size
    DAMAGES[damage][0](state)
    capsys.readouterr()
    assert main(["pretrain", "--resume", "run", "--stop.steps=6"]) == 0
    why = DAMAGES[damage][1].format(half=whole // 2, whole=whole)
    expected = f"warning: run/checkpoints/step-00000004: {why}; the checkpoint before it is used\n"
    assert capsys.readouterr().err == expected
    assert [folder.name for folder in checkpoints.list_checkpoints(place / "run/checkpoints")][-1] == "step-00000006"
    steps = [line.split(",")[0] for line in (place / "run/metrics.csv").read_text().splitlines()[1:]]
    assert sorted(set(steps), key=int) == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_every_checkpoint_is_damaged_the_run_is_kept_and_refused(
    place: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    for state in (place / "run" / "checkpoints").glob("*/state.pt"):
        DAMAGES[damage][0](state)
    before = snapshot(place)
    capsys.readouterr()
    assert main(["pretrain", "--resume", "run", "--stop.steps=6"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"bert: run/checkpoints: every checkpoint is damaged \(step-00000004: state.pt .*; step-00000002: state.pt .*\):"
        " start the run again with --overwrite",
        line,
    )
    assert snapshot(place) == before


# ── near duplicates ──


def test_near_duplicates_that_cannot_be_looked_for(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["prepare", "text.txt", "--tokenizer", "other", "--out", "new"]
    message = refused(*command, "--jaccard", "0.9")
    assert message == "--jaccard 0.9 requires --dedup near: add that, or remove --jaccard"
    message = refused(*command, "--dedup", "near", "--jaccard", "1")
    assert message == "--jaccard is 1.0: give a similarity from 0.1 to 0.95"
    assert refused(*command, "--dedup", "fuzzy") == "--dedup fuzzy: give one of exact, near"
    monkeypatch.setitem(sys.modules, "datasketch", None)
    message = refused(*command, "--dedup", "near")
    assert message == "near duplicates need the package datasketch: pip install 'bert-kit[dedup]'"


# ── a disk without room ──


def test_no_room_for_a_tokenizer(refused: Refused) -> None:
    with full_disk(1000):
        message = refused("tokenizer", "text.txt", "--out", "new", "--vocab-size", "256")
    assert message.startswith("new: cannot be written (File too large); free the disk or choose another")


def test_no_room_for_a_store(refused: Refused) -> None:
    with full_disk(1000):
        message = refused("prepare", "text.txt", "--tokenizer", "other", "--out", "new")
    expected = "new: cannot be written (File too large); free the disk or give another --out"
    assert message == expected


def test_no_room_for_what_a_run_needs_before_it_trains(refused: Refused) -> None:
    with full_disk(1000):
        message = refused("pretrain", "text.txt", "--out", "new", *TINY)
    assert message == "new: cannot be written (File too large); free the disk or choose another --out"
    with full_disk(3000):
        message = refused("pretrain", "--store=run/store", "--tokenizer=run/tokenizer", "--out=new", *TINY)
    assert message.startswith("new/tokenizer: cannot be written (File too large); free the disk or choose another")


def test_no_room_for_a_checkpoint_leaves_the_ones_before(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(place / "run" / "checkpoints")
    capsys.readouterr()
    with full_disk(100_000):
        assert main(["pretrain", "--resume", "run", "--stop.steps=8"]) == 2
    errors = capsys.readouterr().err
    assert errors == (
        "bert: run/checkpoints/step-00000008: the checkpoint could not be written"
        " ([Errno 27] File too large): make room on this disk\n"
    )  # that of step 6 was a warning
    assert snapshot(place / "run" / "checkpoints") == before


def test_a_disk_that_fills_up_while_a_checkpoint_is_synced(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.sync

    def full(path: Path) -> None:
        if path.name == "state.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path)

    monkeypatch.setattr(files, "sync", full)
    before = snapshot(place / "run" / "checkpoints")
    capsys.readouterr()
    assert main(["pretrain", "--resume", "run", "--stop.steps=8"]) == 2
    assert capsys.readouterr().err == (
        "bert: run/checkpoints/step-00000008: the checkpoint could not be written"
        " ([Errno 28] No space left on device): make room on this disk\n"
    )
    assert snapshot(place / "run" / "checkpoints") == before


def test_no_room_for_the_model_leaves_none_and_the_run_can_be_finished(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    command = ["pretrain", "text.txt", "--out", "new", *TINY]
    with monkeypatch.context() as patch:
        patch.setattr("bert.hf.folder.save_file", full)
        capsys.readouterr()
        assert main(command) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("bert: ")
    assert errors.endswith("/new/model: the model could not be written: [Errno 28] No space left on device\n")
    assert not [path for path in (place / "new").iterdir() if "model" in path.name]
    assert main(["pretrain", "--resume", "new"]) == 0
    assert (place / "new" / "model" / "model.safetensors").exists()
    newest = checkpoints.list_checkpoints(place / "new" / "checkpoints")[-1]
    assert newest.name == "step-00000004"  # the budget was used up before: no step was added


# ── as real commands ──


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "tokeniser text.txt --out new",
            f"tokeniser is not a command of bert: use one of {', '.join(COMMANDS)}. Did you mean `tokenizer`?",
        ),
        ("prepare gone.txt --tokenizer other --out new", "gone.txt: no such file or folder; check the path"),
        (
            "quickstart --out run",
            "run: already holds a run: give another --out, or --overwrite to lose it",
        ),
    ],
)
def test_the_installed_command_says_the_same(place: Path, command: str, message: str) -> None:
    before = snapshot(place)
    arguments = [sys.executable, "-m", "bert", *command.split()]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=place, timeout=120, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"bert: {message}\n")
    assert snapshot(place) == before


def test_a_sample_where_no_folder_can_be_made(refused: Refused) -> None:
    line = refused("sample", "--out", "text.txt/sample")
    assert line == "--out text.txt/sample: cannot be written (Not a directory); give another folder"
