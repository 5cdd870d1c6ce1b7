"""What counts as a corpus, how each format and compression is read, and what is said of a bad one."""

import csv
import gzip
import io
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from bert.data import corpus as corpus_module
from bert.data import files
from bert.data.corpus import find_corpus
from bert.data.files import READERS, read_lines
from bert.errors import InputError

ENWIKI = Path(__file__).parents[3] / "shared" / "data" / "enwiki" / "valid.txt.gz"
DOCUMENTS = ["One line.\nA second, of the same document.", "苹果 is an apple.", 'Третий, with a "quote" and, commas']


def as_table(delimiter: str) -> bytes:
    text = io.StringIO()
    options = {"quoting": csv.QUOTE_NONE, "quotechar": None} if delimiter == "\t" else {}
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", **options)
    rows = DOCUMENTS if delimiter == "," else [document.replace("\n", " ") for document in DOCUMENTS]
    writer.writerows([["id", "text"], *([i, row] for i, row in enumerate(rows))])
    return text.getvalue().encode()


FORMATS = {
    "a.txt": "\n\n".join(DOCUMENTS).encode(),
    "a.jsonl": "\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(DOCUMENTS)).encode(),
    "a.csv": as_table(","),
    "a.tsv": as_table("\t"),
}
COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_documents(corpus, notes=None, **options):
    return find_corpus(corpus, **options).documents(notes)


def error_of(*arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        list(read_documents(*arguments, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_and_compression_gives_the_same_documents(tmp_path, name, compression):
    path = write(tmp_path / (name + compression), COMPRESS[compression](FORMATS[name]))
    expected = [text.replace("\n", " ") for text in DOCUMENTS] if ".tsv" in name else DOCUMENTS
    assert list(read_documents(path)) == expected


def test_a_format_is_a_function_and_an_entry_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(files.READERS, ".vert", lambda file: (block.replace("|", "\n") for block in file.blocks()))
    write(tmp_path / "a.vert", "one|document")
    assert list(read_documents(tmp_path)) == ["one\ndocument"]
    assert ".vert" in files.known_suffixes()


def test_parquet_gives_the_same_documents(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": [1, 2, 3, 4], "text": [*DOCUMENTS, None]}), tmp_path / "a.parquet")
    assert list(read_documents(tmp_path)) == DOCUMENTS
    assert error_of(tmp_path, text_field="txt") == (
        f"{tmp_path}/a.parquet: no field 'txt'; there are: n, text. Name one by `text_field`. Did you mean `text`?"
    )
    assert "holds int64, not text" in error_of(tmp_path, text_field="n")


def test_several_compressed_members_in_one_file_are_one_text(tmp_path):
    for suffix in (".gz", ".zst"):
        parts = [COMPRESS[suffix](part) for part in (b"one\n\ntw", b"", b"o\n\nthree")]
        assert list(read_documents(write(tmp_path / f"a.txt{suffix}", b"".join(parts)))) == ["one", "two", "three"]


def test_newlines_bom_and_blanks_are_unified_and_empty_documents_dropped(tmp_path):
    text = "\ufeff one\r\nmore\r\n \t\r\n\r\n\u3000\r\n  two\u2028still two \n\n\n"
    assert list(read_documents(write(tmp_path / "a.txt", text))) == ["one\nmore", "two\u2028still two"]
    old_mac = write(tmp_path / "b.txt", "one\rmore\r\rtwo")
    assert list(read_documents(old_mac)) == ["one\nmore", "two"]
    rows = [{"text": "a\r\nb"}, {"text": None}, {"text": "  "}, {"text": "lone \ud800 surrogate"}]
    lines = write(tmp_path / "c.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, rows)))
    assert list(read_documents(lines)) == ["a\nb", "lone \ufffd surrogate"]


def test_layouts_are_obeyed(tmp_path):
    path = write(tmp_path / "a.txt", "one\ntwo\n\nthree\n")
    assert list(read_documents(path, layout="lines")) == ["one", "two", "three"]
    assert list(read_documents(path, layout="blank-lines")) == ["one\ntwo", "three"]
    assert list(read_documents(path, layout="file")) == ["one\ntwo\n\nthree"]


SENTENCES = "".join(f"This is sentence number {i}, and it ends here.\n" for i in range(20))
PARAGRAPHS = "".join(f"Paragraph {i} " + "goes on and on " * (5 + i % 7) + "\n" for i in range(20))
WRAPPED = (
    "".join(f"and the story number {i:3} of the wide grey sea goes on to the next\n" for i in range(20)) + "the end.\n"
)
WRAPPED_BOOK = "".join(
    f"{i:3} and the story of the wide grey sea goes on to the next of the lines\n" for i in range(200)
)
CHINESE_WRAPPED = "".join(
    f"第{i:03}行的文字一直写到这一行的末尾然后接着写下一行没有停顿也没有句号\n" for i in range(20)
)


@pytest.mark.parametrize(
    ("text", "documents", "said"),
    [
        (SENTENCES, 20, "no blank line, median line length 44 characters: read as one document per line"),
        (PARAGRAPHS, 20, "read as one document per line"),
        (WRAPPED, 1, "no blank line, hard-wrapped at 65 characters: read as a single document"),
        (CHINESE_WRAPPED, 1, "read as a single document"),
        (WRAPPED_BOOK + f"http://{'x' * 200}\n", 1, "hard-wrapped at 71 characters: read as a single document"),
        ("short\n" * 20, 20, "read as one document per line"),
        (
            "the same line again and again, of a length that could be wrapped\n" * 20,
            20,
            "read as one document per line",
        ),
        (
            SENTENCES + "\n" + SENTENCES,
            2,
            "blank lines in 1 of 39 gaps between lines: read as documents between blank lines",
        ),
        ("a single line", 1, ""),
    ],
)
def test_a_file_is_read_by_its_blank_lines_and_line_lengths_and_that_is_said(tmp_path, text, documents, said):
    path = write(tmp_path / "a.txt", text)
    notes: list[str] = []
    assert len(list(read_documents(path, notes=notes.append))) == documents
    assert len(notes) == bool(said)
    assert all(note.startswith(f"{path}: ") and said in note for note in notes)


def test_the_same_guess_is_said_once(tmp_path):
    for i in range(5):
        write(tmp_path / f"{i}.txt", SENTENCES)
    notes: list[str] = []
    assert len(list(read_documents(tmp_path, notes=notes.append))) == 100
    assert len(notes) == 1


def test_folders_are_read_recursively_in_order_and_each_file_once(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/b/c.txt.gz", "notes.md", ".hidden.txt", ".git/d.txt"):
        content = name.encode()
        write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    expected = ["a/b/c.txt.gz", "a/z.txt", "b.txt"]
    assert list(read_documents(tmp_path)) == expected
    assert list(read_documents([tmp_path / "b.txt", tmp_path, str(tmp_path / "*.txt")])) == [expected[2], *expected[:2]]
    assert sorted(read_documents(f"{tmp_path}/**/*.txt*")) == expected
    assert list(read_documents(tmp_path / "notes.md")) == ["notes.md"]  # named outright: read as text


def test_a_line_longer_than_a_block_and_a_character_across_blocks_stay_whole(tmp_path):
    long_line = "苹果" * 700_000  # 4.2 MB; 1 MB is no multiple of three bytes
    for suffix, compress in COMPRESS.items():
        path = write(tmp_path / f"a.txt{suffix}", compress(f"{long_line}\n\nend".encode()))
        assert list(read_documents(path)) == [long_line, "end"]


def test_reading_takes_constant_memory(tmp_path):
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for i in range(40_000):
            file.write(f"{i} {'word ' * 200}\n\n".encode())  # 40 MB
    tracemalloc.start()
    assert sum(1 for _ in read_documents(path)) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


def test_progress_adds_up_to_the_bytes_on_disk(tmp_path):
    write(tmp_path / "a.txt", SENTENCES)
    write(tmp_path / "b.txt.gz", gzip.compress(SENTENCES.encode()))
    write(tmp_path / "c.jsonl.zst", COMPRESS[".zst"](FORMATS["a.jsonl"]))
    found = find_corpus(tmp_path)
    read: list[int] = []
    list(found.documents(advance=read.append))
    assert sum(read) == found.num_bytes


def test_the_fingerprint_follows_the_content_not_the_place_or_the_time(tmp_path):
    write(tmp_path / "one" / "a.txt", SENTENCES)
    write(tmp_path / "one" / "b.txt", WRAPPED)
    first = find_corpus(tmp_path / "one").fingerprint()
    os.utime(tmp_path / "one" / "a.txt", ns=(1, 1))
    touched = find_corpus(tmp_path / "one").fingerprint(first)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    copied = find_corpus(tmp_path / "two").fingerprint()
    assert first["content"] == touched["content"] == copied["content"]
    assert touched["files"] != first["files"]

    write(tmp_path / "two" / "b.txt", WRAPPED.replace("sea", "bay"))
    write(tmp_path / "three" / "c.txt", SENTENCES)
    others = [
        find_corpus(tmp_path / "two"),
        find_corpus(tmp_path / "one", layout="lines"),
        find_corpus(tmp_path / "three"),
    ]
    contents = {other.fingerprint(first)["content"] for other in others}
    assert first["content"] not in contents
    assert len(contents) == 3


def test_files_that_look_unchanged_are_not_read_again(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", SENTENCES)
    known = find_corpus(tmp_path).fingerprint()
    monkeypatch.setattr(corpus_module, "_digest", lambda path: pytest.fail("read again"))
    assert find_corpus(tmp_path).fingerprint(known) == known


# ── bad input ──


def test_what_is_not_there_is_named(tmp_path):
    assert error_of(tmp_path / "no.txt") == f"{tmp_path}/no.txt: no such file or folder; check the path"
    assert error_of("no-such-file.txt") == "no-such-file.txt: no such file or folder; check the path"
    assert error_of(f"{tmp_path}/*.txt").startswith(
        f"{tmp_path}/*.txt: matches no readable file; known suffixes are .txt"
    )
    write(tmp_path / "a.pdf", "x")
    assert error_of(tmp_path) == (
        f"{tmp_path}: no readable file in it; known suffixes are {', '.join(READERS)}, each text format also with .gz or .zst;"
        " left out for their suffix: 1 .pdf (name a file itself to read it as text)"
    )
    assert error_of([]) == "no corpus was given: name files, globs, folders or a Hub data set"
    assert "Did you mean `lines`?" in error_of(tmp_path, layout="line")


def test_blank_lines_before_the_header_of_a_table_are_none(tmp_path):
    assert list(read_documents(write(tmp_path / "a.csv", "\ntext\nhello\n"))) == ["hello"]


def test_a_delimiter_without_quotes_cuts_no_text(tmp_path):
    path = write(tmp_path / "a.csv", "text,id\nHello, world,1\n")
    assert (
        error_of(path)
        == f"{path}, line 2: 3 cells, the header has 2; repair this line (put cells with a delimiter in quotes)"
    )


def test_the_file_that_is_meant_is_the_one_of_a_name_like_it(tmp_path):
    write(tmp_path / "zzz.csv", "text\nhello\n")
    with pytest.raises(InputError, match=r"give another path\.$"):
        list(read_lines(tmp_path / "train.csv"))
    write(tmp_path / "train.tsv", "text\nhello\n")
    with pytest.raises(InputError, match=r"Did you mean `train\.tsv`\?$"):
        list(read_lines(tmp_path / "train.csv"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_an_empty_corpus_is_refused(tmp_path, name):
    path = write(tmp_path / name, gzip.compress(b"\n \n") if name.endswith("gz") else b"")
    assert error_of(path) == f"{path}: the corpus holds no text; give files with at least a few documents"


@pytest.mark.parametrize("compression", COMPRESS)
def test_text_that_is_not_utf8_is_named_by_line_and_byte(tmp_path, compression):
    long_before = b"line\n" * 300_000  # the bad line lies in the second block
    content = long_before + "naïve".encode("latin1") + b"\nmore\n"
    path = write(tmp_path / f"a.txt{compression}", COMPRESS[compression](content))
    fix = f"convert the file: iconv -f ITS_ENCODING -t UTF-8 {path.name}"
    assert error_of(path) == f"{path}, line 300001: not UTF-8 (byte 0xef); {fix}"


def test_a_cut_character_at_the_end_is_not_utf8(tmp_path):
    path = write(tmp_path / "a.txt", "first\n苹".encode()[:-1])
    assert error_of(path).startswith(f"{path}, line 2: not UTF-8 (byte 0xe8)")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_a_truncated_compressed_file_is_refused(tmp_path, suffix, kept):
    whole = COMPRESS[suffix](os.urandom(300_000).hex().encode() + b"\n")
    path = write(tmp_path / f"a.txt{suffix}", whole[: int(len(whole) * kept)])
    message = error_of(path)
    assert message.startswith(f"{path}: truncated or damaged (")
    assert message.endswith("); download or compress the file again")


def test_a_bomb_of_zstd_is_read_in_parts_that_memory_holds(tmp_path):
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    with (tmp_path / "bomb.txt.zst").open("wb") as file:
        for _ in range(400):
            file.write(compressor.compress(b"a\n" * (1 << 19)))
        file.write(compressor.flush())
    size = (tmp_path / "bomb.txt.zst").stat().st_size
    assert size < 100_000  # for 400 MB
    with (tmp_path / "bomb.txt.zst").open("rb") as file:
        lengths = [len(chunk) for chunk in files._byte_chunks(tmp_path / "bomb.txt.zst", file)]
    assert sum(lengths) == 400 << 20
    assert max(lengths) <= (1 << 20) + files._ZSTD_AT_ONCE * (1 << 15)


def test_a_frame_of_zstd_that_wants_more_memory_than_its_own_command_takes_is_refused(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=28)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "a.txt.zst").write_bytes(compressor.compress(b"text\n" * 10) + compressor.flush())
    with pytest.raises(InputError, match=r"a\.txt\.zst: truncated or damaged \(.*too much memory"):
        list(read_documents(tmp_path / "a.txt.zst"))


def test_parquet_that_holds_no_utf8_or_says_what_is_not_so_is_one_line(tmp_path):
    offsets, content = np.array([0, 2, 4], np.int32).tobytes(), b"\xff\xfeok"
    text = pa.StringArray.from_buffers(2, pa.py_buffer(offsets), pa.py_buffer(content))
    pq.write_table(pa.table({"text": text}), tmp_path / "bad.parquet")
    message = f"{tmp_path}/bad.parquet: not a readable parquet file ('utf-8' codec can't decode byte 0xff in position 0"
    with pytest.raises(InputError) as caught:
        list(read_documents(tmp_path / "bad.parquet"))
    assert str(caught.value).startswith(message)
    pq.write_table(pa.table({"text": ["a text"] * 50}), tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    for place in range(0, len(good), 5):
        (tmp_path / "flip.parquet").write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        try:
            list(read_documents(tmp_path / "flip.parquet"))
        except InputError as error:
            lines = str(error).splitlines()
            assert len(lines) == 1


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_what_is_not_compressed_at_all_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"a.txt{suffix}", "plain text")
    assert error_of(path).startswith(f"{path}: truncated or damaged (")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\n\n{"text": \n',
            "a.jsonl, line 3: not valid JSON (Expecting value); each line must be one JSON object",
        ),
        ("a.jsonl", "1\n", 'a.jsonl, line 1: not a JSON object; each line must be like {"text": "A text."}'),
        (
            "a.jsonl",
            '{"text": "a"}\n{"txt": "b", "id": 1}\n',
            "a.jsonl, line 2: no field 'text'; there are: txt, id. Name one by `text_field`. Did you mean `txt`?",
        ),
        ("a.jsonl", '{"text": 3}\n', "a.jsonl, line 1: field 'text' holds int, not text; name another by `text_field`"),
        ("a.csv", "id,body\n1,x\n", "a.csv, line 1: no field 'text'; there are: id, body. Name one by `text_field`."),
        ("a.csv", "id,text\n1,x\n2\n", "a.csv, line 3: 1 cells, the header has 2; repair this line"),
        (
            "a.csv",
            'text\na\n"b\nc\nd\n',
            'a.csv, line 3: not a readable row (unexpected end of data); close its quotes, write " inside them as ""',
        ),
        ("a.parquet", "PAR1", "a.parquet: not a readable parquet file ("),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    assert error_of(path).startswith(str(path.with_name(message)))


# ── what a name stands for ──


def names_of(found) -> list[str]:
    return [path.name for path in found.files]


def test_linked_folders_are_entered_once_and_loops_end(tmp_path):
    for name in ("real/a.txt", "real/sub/b.txt", "beside/c.txt", "corpus/d.txt"):
        write(tmp_path / name, f"text of {name}")
    corpus = tmp_path / "corpus"
    (corpus / "one").symlink_to("../real")
    (corpus / "two").symlink_to(tmp_path / "real")  # the same folder again
    (tmp_path / "real" / "sub" / "up").symlink_to("..")
    (tmp_path / "real" / "around").symlink_to(corpus)
    (corpus / "e.txt").symlink_to("../beside/c.txt")
    found = find_corpus(corpus)
    assert names_of(found) == ["d.txt", "e.txt", "a.txt", "b.txt"]
    assert sorted(found.documents()) == [
        f"text of {name}" for name in ("beside/c.txt", "corpus/d.txt", "real/a.txt", "real/sub/b.txt")
    ]
    assert sorted(names_of(find_corpus(f"{corpus}/**/*.txt"))) == ["a.txt", "b.txt", "d.txt", "e.txt"]


def test_a_folder_that_a_glob_matches_is_read_as_when_it_is_named(tmp_path):
    for name in ("x/a.txt", "x/sub/b.txt", "x/note.md"):
        write(tmp_path / name, name)
    assert names_of(find_corpus(f"{tmp_path}/*")) == names_of(find_corpus(tmp_path / "x")) == ["a.txt", "b.txt"]


def test_a_folder_that_cannot_be_read_is_an_error_wherever_it_lies(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "sub" / "closed" / "b.txt", "text")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root can read all
    message = f"{tmp_path}/sub/closed: cannot be read (Permission denied); allow it, or exclude the folder"
    assert error_of(tmp_path) == message
    assert names_of(find_corpus(tmp_path, exclude=["closed"])) == ["a.txt"]
    write(tmp_path / "sub" / "open" / "c.txt", "text")
    for pattern in (f"{tmp_path}/sub/*/*.txt", f"{tmp_path}/s*/closed/*"):
        assert error_of(pattern) == message
    assert names_of(find_corpus(f"{tmp_path}/sub/*/*.txt", exclude=["closed"])) == ["c.txt"]


def test_files_of_unknown_suffix_are_counted_on_one_line(tmp_path):
    for name in (
        "a.txt",
        "x.md",
        "sub/y.md",
        "z.html",
        "b.txt.bz2",
        "wiki_00",
        "sub/wiki_01",
        ".hidden",
        ".git/config",
    ):
        write(tmp_path / name, "text")
    left = (
        "left out for their suffix: 2 .md, 2 without a suffix, 1 .bz2, 1 .html (name a file itself to read it as text)"
    )
    notes: list[str] = []
    assert list(read_documents(tmp_path, notes.append)) == ["text"]
    (note,) = notes
    assert sorted(note.split(": ", 2)[2].split(" (")[0].split(", ")) == sorted(
        left.split(": ")[1].split(" (")[0].split(", ")
    )
    assert note.startswith(f"{tmp_path}: left out for their suffix: 2 ")
    (tmp_path / "a.txt").unlink()
    assert "2 without a suffix" in error_of(f"{tmp_path}/sub/wiki*") or "1 without a suffix" in error_of(
        f"{tmp_path}/sub/wiki*"
    )
    assert list(read_documents(tmp_path / "wiki_00")) == ["text"]


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (["*.bak.txt"], ["a.txt", "c.txt", "d.txt"]),
        (["drafts"], ["a.txt", "b.bak.txt"]),
        (["drafts/"], ["a.txt", "b.bak.txt"]),
        (["drafts/old"], ["a.txt", "b.bak.txt", "c.txt"]),
        (["**/old/**"], ["a.txt", "b.bak.txt", "c.txt"]),
        (["old/*", "a.txt"], ["b.bak.txt", "c.txt"]),
        (["?.txt"], ["b.bak.txt"]),
    ],
)
def test_a_pattern_excludes_by_name_or_path(tmp_path, patterns, kept):
    for name in ("a.txt", "b.bak.txt", "drafts/c.txt", "drafts/old/d.txt"):
        write(tmp_path / "texts" / name, name)
    found = find_corpus(tmp_path / "texts", exclude=patterns)
    assert names_of(found) == kept
    assert found.notes == ()
    assert sorted(names_of(find_corpus(f"{tmp_path}/texts/*", exclude=patterns))) == sorted(kept)


def test_a_pattern_that_excludes_nothing_is_said(tmp_path):
    write(tmp_path / "a.txt", "text")
    assert find_corpus(tmp_path, exclude=["*.bak"]).notes == ("the pattern '*.bak' to exclude matches nothing",)


@pytest.mark.parametrize("name", ["", "a.txt", "*.txt"])
def test_a_corpus_of_which_all_is_excluded_is_not_said_to_have_no_known_suffix_alone(tmp_path, name):
    write(tmp_path / "a.txt", "text")
    with pytest.raises(InputError, match=r"readable file.*; what matches a pattern to exclude is not read"):
        find_corpus(f"{tmp_path}/{name}", exclude=["a.*"])


def test_a_file_named_twice_is_read_once_and_that_is_said(tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", "text")
    (tmp_path / "link.txt").symlink_to("a.txt")
    monkeypatch.chdir(tmp_path)
    found = find_corpus(["a.txt", "./a.txt", path, "link.txt"])
    assert found.files == (Path("a.txt"),)
    assert found.notes == ("files named or linked more than once: 3",)


@pytest.mark.parametrize("name", ["", " ", Path("-"), "-"])
def test_no_name_and_standard_input_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.txt", "text")
    assert error_of(["a.txt", name]).startswith(
        "an empty name in the corpus" if name in ("", " ") else "-: a pipe can be read only once"
    )


def test_a_pipe_is_refused_since_a_corpus_is_read_twice(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    fix = "a pipe can be read only once, and a corpus is read twice; write it to a file first"
    assert error_of(tmp_path / "pipe") == f"{tmp_path}/pipe: {fix}"


@pytest.mark.parametrize("name", ["gone.txt", "sub/gone.jsonl.gz"])
def test_a_link_to_nothing_is_no_file_that_is_left_out(tmp_path, name):
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "sub" / "b.txt", "text")
    (tmp_path / name).symlink_to("/nowhere")
    assert error_of(tmp_path) == f"{tmp_path / name}: a link to nothing, or not a file; remove it, or exclude it"


def test_a_link_to_nothing_without_a_known_suffix_may_be_to_a_folder_and_is_counted(tmp_path):
    write(tmp_path / "a.txt", "text")
    (tmp_path / "disk").symlink_to("/nowhere")
    (note,) = find_corpus(tmp_path).notes
    assert "left out for their suffix: 1 link to nothing (" in note


def test_a_name_that_is_not_utf8_is_a_name(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    write(Path(path), "text")
    fingerprint = find_corpus(tmp_path).fingerprint()
    assert json.dumps(fingerprint, ensure_ascii=False).encode()
    assert find_corpus(path).fingerprint(fingerprint) == fingerprint
    assert list(read_documents(path)) == ["text"]


@pytest.mark.parametrize("corpus", ["texts", "texts/", "texts/*", "*", "texts/**/*.json", "texts/a.txt texts", "link"])
@pytest.mark.parametrize("out", ["texts/out", "texts/deep/er/out"])
def test_an_output_inside_the_corpus_is_refused(tmp_path, monkeypatch, corpus, out):
    write(tmp_path / "texts" / "a.txt", "text")
    (tmp_path / "link").symlink_to("texts")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^`out` {out} lies in the text .*: give another `out`$"):
        find_corpus(corpus.split(), out=Path(out))
    for beside in ("out", "texts2/out"):
        if corpus != "*":
            assert corpus == "texts/**/*.json" or find_corpus(corpus.split(), out=Path(beside))
    assert find_corpus(["texts/a.txt", "texts/*.txt"], out=Path(out))


def test_a_text_field_that_no_file_has_is_said(tmp_path):
    write(tmp_path / "a.txt", "text")
    assert find_corpus(tmp_path, text_field="body").notes == (
        "the text field 'body' has no effect: plain text has no fields",
    )
    write(tmp_path / "b.csv", "body\nmore\n")
    assert find_corpus(tmp_path, text_field="body").notes == ()


# ── Hub ──


def test_a_hub_data_set_is_streamed_by_name(tmp_path, monkeypatch):
    import datasets

    rows = datasets.Dataset.from_dict({"body": [" one ", None, "two\r\nlines"]}).to_iterable_dataset()
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: calls.append((args, options)) or rows)
    monkeypatch.setattr(corpus_module, "hub_revision", lambda name: "abc")
    monkeypatch.chdir(tmp_path)
    assert list(read_documents("owner/some-name:config", text_field="body")) == ["one", "two\nlines"]
    assert calls == [(("owner/some-name", "config"), {"split": "train", "streaming": True, "revision": "abc"})]
    assert error_of("owner/some-name").startswith("owner/some-name (Hub data set): no field 'text'; there are: body.")


def test_the_hub_is_said_to_be_meant_and_its_rows_are_read_like_all(tmp_path, monkeypatch):
    import datasets

    rows = datasets.Dataset.from_dict({"meta": [{"text": "a\r\nb"}, {"text": None}], "n": [1, 2]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    monkeypatch.setattr(corpus_module, "hub_revision", lambda name: "abc")
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []
    assert list(read_documents("wiki", notes.append, text_field="meta.text")) == ["a\nb"]
    assert notes == ["wiki: no such file or folder; read as the data set of this name on the Hugging Face Hub"]
    assert "field 'n' holds int, not text" in error_of("wiki", text_field="n")
    (tmp_path / "texts").mkdir()
    assert error_of("texts/wiki") == "texts/wiki: no such file or folder; check the path"


def test_the_fingerprint_of_a_hub_data_set_is_its_revision_and_stays_offline(monkeypatch):
    found = find_corpus("owner/name-of-nothing")
    monkeypatch.setattr(corpus_module, "hub_revision", lambda name: "abc")
    online = found.fingerprint()

    def offline(name):
        raise InputError("offline")

    monkeypatch.setattr(corpus_module, "hub_revision", offline)
    assert found.fingerprint(online) == online
    with pytest.raises(InputError):
        found.fingerprint()
    monkeypatch.setattr(corpus_module, "hub_revision", lambda name: "def")
    assert found.fingerprint(online)["content"] != online["content"]


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    import huggingface_hub

    def refuse(self, name, timeout):
        raise ConnectionError("no network\nsecond line")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    assert error_of("textz") == (
        "textz: no such file or folder, and as a Hub data set it cannot be read "
        "(ConnectionError: no network); check the path, the name or the network"
    )


@pytest.mark.data
def test_enwiki_has_the_documents_that_its_blank_lines_say():
    if not ENWIKI.exists():
        pytest.skip(f"{ENWIKI} is absent")
    notes: list[str] = []
    documents = list(read_documents(ENWIKI, notes=notes.append))
    with gzip.open(ENWIKI, "rt", encoding="utf-8") as file:
        assert documents == file.read().strip().split("\n\n")
    said = "blank lines in 76 of 2,099 gaps between lines: read as documents between blank lines"
    assert notes == [f"{ENWIKI}: {said} (set the layout to change this)"]
