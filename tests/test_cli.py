"""The command as a process: what reaches the terminal, how it ends, and what a signal leaves behind."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bert import cli
from bert.cli import main
from bert.commands import benching
from bert.errors import InputError, RankError
from bert.flags import DOCUMENTATION, Parser, command_name
from bert.terminal import printable_output, raw

CONTROL = "\x1b[31m\x9b31m\x08\x7f\x07"
SHOWN = "␛[31m\N{REPLACEMENT CHARACTER}31m␈\N{REPLACEMENT CHARACTER}␇"


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}


def bert(*arguments: str, code: str = "") -> subprocess.CompletedProcess[bytes]:
    """`bert ARGUMENTS` in a process of its own; `code` runs before it."""
    program = f"import sys; sys.argv = ['bert', *sys.argv[1:]]\n{code}\nfrom bert.cli import run; run()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, env=environment(), timeout=120, check=False)


def has_control(output: bytes) -> bool:
    """Whether a terminal would obey something of it; a carriage return too."""
    text = output.decode("utf-8")
    return any((sign < " " and sign not in "\n\t") or "\x7f" <= sign <= "\x9f" for sign in text)


@pytest.mark.parametrize(
    "arguments",
    [
        (f"command{CONTROL}\r",),
        pytest.param(("score", f"no{CONTROL}\rfile.txt", "--model", f"m{CONTROL}"), marks=pytest.mark.slow),
        pytest.param(("pretrain", f"a{CONTROL}\r.txt", "--out", f"o{CONTROL}"), marks=pytest.mark.slow),
        ("pretrain", "--out", "x", f"--seed={CONTROL}"),
        pytest.param(("pretrain", "--out", "x", f"--trainer.{CONTROL}=1"), marks=pytest.mark.slow),
        ("pretrain", "--out", "x", f"--unknown{CONTROL}=1"),
        ("finetune", f"task{CONTROL}",),
    ],
)  # fmt: skip
def test_no_error_moves_the_cursor_of_a_terminal(arguments: tuple[str, ...]) -> None:
    result = bert(*arguments)
    assert (result.returncode, result.stderr.count(b"\n")) == (2, 1), result.stderr
    assert result.stderr.startswith(b"bert: ")
    assert not has_control(result.stdout + result.stderr)


def test_a_command_of_two_words_has_a_hyphen_and_its_own_width_in_the_overview(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def _linear_probe(arguments: list[str]) -> None:
        """Train a linear probe."""

    monkeypatch.setitem(cli.COMMANDS, command_name(_linear_probe), _linear_probe)
    assert main(["linear-probe"]) == 0
    assert main(["--help"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert "  linear-probe Train a linear probe." in lines
    assert {line[14] for line in lines} == {" "}
    assert " " not in {line[15] for line in lines}


@pytest.mark.parametrize(
    "text",
    [
        'seed: "{}"\n',
        '"{}": 1\n',
        '{{data: {{layout: "{}"}}}}\n',
        pytest.param('{{trainer: {{"{}": 1}}}}\n', marks=pytest.mark.slow),
    ],
)
def test_no_key_or_value_of_a_recipe_moves_the_cursor(tmp_path: Path, text: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text.format(r"\e[31m\x9b\x7f\b\a\r"), encoding="utf-8")
    result = bert("pretrain", "--config", str(file), "--out", str(tmp_path / "run"))
    assert (result.returncode, result.stderr.count(b"\n")) == (2, 1), result.stderr
    assert not has_control(result.stderr)
    assert "␛".encode() in result.stderr


def test_a_traceback_and_a_warning_do_not_move_the_cursor_either() -> None:
    code = f"""
import warnings
from bert import cli
def fails(arguments):
    warnings.warn({CONTROL!r} + "careful")
    raise RuntimeError({CONTROL!r} + "ours")
cli.COMMANDS["fails"] = fails
"""
    result = bert("fails", code=code)
    assert result.returncode == 1
    assert f"{SHOWN}ours".encode() in result.stderr
    assert f"bert: {SHOWN}careful".encode() in result.stderr
    assert not has_control(result.stderr)


def test_what_is_printed_is_shown_and_what_is_data_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with printable_output():
        print(f"{CONTROL}text\tand\nmore")
        raw(sys.stdout).write(CONTROL)
    assert capsys.readouterr().out == f"{SHOWN}text\tand\nmore\n{CONTROL}"


def test_sentences_are_shown_and_the_table_of_a_file_holds_them_as_they_are(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.txt").write_text(f"the {CONTROL} cat\n", encoding="utf-8")
    capsys.readouterr()
    table = tmp_path / "t.tsv"
    assert main(["score", str(tmp_path / "s.txt"), "--model", str(tiny_run / "model"), "--out", str(table)]) == 0
    printed = capsys.readouterr().out
    assert "the" in printed
    assert not has_control(printed.encode())


def test_predictions_are_as_they_are_for_a_program_and_shown_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bert.finetuning.output import written

    for terminal, expected in ((False, CONTROL), (True, SHOWN)):
        with printable_output():
            monkeypatch.setattr(raw(sys.stdout), "isatty", lambda terminal=terminal: terminal)
            with written("-") as stream:
                stream.write(CONTROL)
        assert capsys.readouterr().out == expected


def replace_command(monkeypatch: pytest.MonkeyPatch, error: BaseException, name: str = "pretrain") -> None:
    def raises(arguments: object) -> None:
        raise error

    monkeypatch.setitem(cli.COMMANDS, name, raises)


RANKS = (
    {"RANK": "1"},
    {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0"},
    {"LOCAL_RANK": "1"},
    {"NODE_RANK": "1"},
)


@pytest.mark.parametrize("names", [{}, {"RANK": "0"}, {"RANK": "0", "LOCAL_RANK": "1"}, *RANKS])
def test_of_several_processes_the_first_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: dict[str, str]
) -> None:
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    for error, spoken in ((InputError("a"), names not in RANKS), (RankError("b"), True)):
        replace_command(monkeypatch, error)
        assert main(["pretrain"]) == 2
        assert capsys.readouterr().err == (f"bert: {error}\n" if spoken else "")
    replace_command(monkeypatch, InputError("c"), "score")  # one of several that do not work together
    assert main(["score"]) == 2
    assert capsys.readouterr().err == "bert: c\n"


def test_too_little_memory_is_a_line_and_a_fault_of_ours_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")):
        replace_command(monkeypatch, error)
        assert main(["pretrain"]) == 2
        assert capsys.readouterr().err == "bert: out of memory: use smaller batches, or less input\n"
    for ours in (OverflowError("ours"), RuntimeError("ours")):
        replace_command(monkeypatch, ours)
        with pytest.raises(type(ours)):
            main(["pretrain"])


def test_a_path_that_may_not_be_used_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_command(monkeypatch, PermissionError(13, "Permission denied", "closed/store"))
    assert main(["pretrain"]) == 2
    assert capsys.readouterr().err == "bert: closed/store: Permission denied; allow it, or give another path\n"


def test_a_line_that_quotes_megabytes_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_command(monkeypatch, InputError("x" * 1_000_000))
    assert main(["pretrain"]) == 2
    assert len(capsys.readouterr().err) < 3000


def started(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A command whose command `waits` prints `ready` and is told of a signal then."""
    program = f"import sys\nfrom bert import cli\n{code}\nsys.argv = ['bert', *sys.argv[1:]]\ncli.run()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_command_is_imported_ends_it_without_a_word(number: signal.Signals) -> None:
    program = f"""
import os, sys
class Trap:
    def find_spec(self, name, *_):
        if name == "bert.recipe": os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Trap())
import runpy
sys.argv = ["bert", "--version"]
runpy.run_module("bert", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_a_signal_ends_while_torch_is_imported_says_so_in_a_line(
    number: signal.Signals, tmp_path: Path
) -> None:
    program = f"""
import os, sys
class Trap:
    def find_spec(self, name, *_):
        if name == "torch": os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Trap())
import runpy
sys.argv = ["bert", "pretrain", "text.txt", "--out", "run"]
runpy.run_module("bert", run_name="__main__")
"""
    (tmp_path / "text.txt").write_text("The cat.\n")
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=60)
    line = "stopped before the start: run the same command again\n"
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", line)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


WAITS = """
import time
def waits(arguments):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("left in order")
cli.COMMANDS["waits"] = waits
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_command_that_a_signal_ends_says_so_by_its_code(number: signal.Signals) -> None:
    process = started(WAITS, "waits")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert (out, err) == (b"left in order\n", b"")


def test_native_work_that_is_left_behind_does_not_keep_the_process() -> None:
    """As training a tokenizer does: a thread that waits for no signal, which the end of an interpreter waits for."""
    code = WAITS.replace(
        "time.sleep(60)", "import threading; threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)"
    )
    process = started(code, "waits")
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert process.returncode == 143
    assert time.monotonic() - before < 40  # of the 60 seconds of the thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("writer", "writes"),
    [
        ("from bert.files import replaced", "with replaced(file) as partial"),
        pytest.param(
            "from bert.finetuning.output import written", "with written(str(file)) as stream", marks=pytest.mark.slow
        ),
    ],
)
def test_a_signal_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals, writer: str, writes: str) -> None:
    """In the two ways in which `score`, `words`, `predict` and others write their files."""
    file = tmp_path / "out.tsv"
    file.write_text("before")
    code = f"""
import time
from pathlib import Path
{writer}
file = Path({str(file)!r})
def waits(arguments):
    {writes}:
        {"partial.write_text('half')" if "partial" in writes else "stream.write('half'); stream.flush()"}
        print("ready", flush=True)
        time.sleep(60)
cli.COMMANDS["waits"] = waits
"""
    process = started(code, "waits")
    assert len(list(tmp_path.iterdir())) == 2
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out.tsv": "before"}


@pytest.mark.skipif(sys.platform != "linux", reason="the OpenMP of other systems does not tell its settings")
@pytest.mark.parametrize(
    ("given", "spins"), [({}, b"2000"), ({"OMP_WAIT_POLICY": "passive"}, b"0"), ({"GOMP_SPINCOUNT": "7"}, b"7")]
)
def test_threads_of_a_command_soon_sleep_while_they_wait_unless_the_user_says_otherwise(
    given: dict[str, str], spins: bytes
) -> None:
    """OpenMP, loaded with torch by a command, tells what it was told."""
    code = "from bert import __main__, cli; cli.run = lambda: __import__('torch'); __main__.run()"
    values = environment() | {"OMP_DISPLAY_ENV": "verbose"} | given
    for name in {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} - given.keys():
        values.pop(name, None)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=values, timeout=120, check=True)
    assert b"GOMP_SPINCOUNT = '" + spins + b"'" in result.stderr


def test_the_library_leaves_the_threads_of_a_program_as_they_are() -> None:
    code = "import os, bert.__main__, bert.cli; bert.EncoderConfig; assert not {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys()"
    values = {name: value for name, value in environment().items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    subprocess.run([sys.executable, "-c", code], env=values, timeout=120, check=True)


def shown_help(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main([*command.split(), "--help"]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("command", [*cli.COMMANDS, *(f"bench {mode}" for mode in benching.MODES)])
def test_help_begins_with_two_examples_that_the_command_accepts(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Accepted(Exception):
        pass

    def only_parse(self: Parser, arguments: list[str]) -> None:
        options = parse(self, arguments)
        if self.recipe_type is not None:
            self.recipe(options)
        raise Accepted

    parse = Parser.parse
    first, *examples, page, _ = shown_help(command, capsys)[:5]
    assert (first, page) == ("Examples:", f"Documentation: {DOCUMENTATION}reference/commands/{command.split()[0]}/")
    monkeypatch.setattr(Parser, "parse", only_parse)
    for example in examples:
        program, *arguments = shlex.split(example.partition(" < ")[0])
        assert program == "bert" and " ".join(arguments).startswith(command)  # noqa: PT018
        with pytest.raises(Accepted):
            main(arguments)


def test_the_overview_has_each_command_once_with_an_example_for_each_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines if line.startswith("  ")) == sorted(cli.COMMANDS)
    uses = [line.split(", for example: bert ") for line in lines if ", for example: " in line]
    assert [use for use, _ in uses] == ["See all of it", "Pretrain", "Fine-tune", "Probe", "Measure"]
    assert {example.split()[0] for _, example in uses} <= cli.COMMANDS.keys()


def test_help_of_a_command_and_the_version_have_short_forms(capsys: pytest.CaptureFixture[str]) -> None:
    for short, long in ((["help", "fill"], ["fill", "--help"]), (["-V"], ["--version"]), (["help"], ["--help"])):
        assert main(short) == 0
        shown = capsys.readouterr().out
        assert main(long) == 0
        assert shown == capsys.readouterr().out
