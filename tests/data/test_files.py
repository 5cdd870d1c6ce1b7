"""What the bytes of a file are taken for: encodings, compressions and containers, line ends, layouts, and endless lines."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
import textwrap
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.data import files
from bert.data.corpus import find_corpus
from bert.data.files import read_lines
from bert.errors import InputError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def documents(path: Path, notes: list[str] | None = None, **options) -> list[str]:
    return list(find_corpus(path, **options).documents(None if notes is None else notes.append))


def error_of(path: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        documents(path, **options)
    return str(caught.value)


# ── encodings ──

ENGLISH = "Die Straße am Hafen\nis a long one.\n"
RUSSIAN = "Пристань стоит у реки.\nЛодки уходят рано утром.\n" * 4
HINDI = "नाव नदी के घाट पर है।\nवह सुबह चली जाती है।\n" * 4
CHINESE = "河边有一个码头\n船很早就开走了\n" * 4


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".txt.gz"])
@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN, HINDI, CHINESE, "word"])
@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_utf16_and_utf32_are_refused_by_name_with_or_without_a_mark(tmp_path, text, encoding, mark, suffix):
    content = f"{mark}{text}".encode(encoding)
    path = write(tmp_path / f"a{suffix}", gzip.compress(content) if suffix.endswith("gz") else content)
    fix = f"convert the file: iconv -f {encoding} -t UTF-8 {path.name}"
    assert error_of(path) == f"{path}: {encoding}, not UTF-8; {fix}"
    with pytest.raises(InputError, match=f"{encoding}, not UTF-8"):
        list(read_lines(path))


@pytest.mark.parametrize("before", ["", "a line\n" * 200_000])
@pytest.mark.parametrize("line", ["one\0word", "\0", "a b\0c d"])
def test_a_nul_byte_is_named_by_its_line(tmp_path, before, line):
    path = write(tmp_path / "a.txt", f"{before}first\n{line}\nlast\n")
    where = before.count("\n") + 2
    assert error_of(path) == f"{path}, line {where}: a NUL byte, not text; remove it: tr -d '\\000' < a.txt"


def test_a_byte_order_mark_is_dropped_wherever_files_were_joined(tmp_path):
    one, two = "\ufeffone\n\n".encode(), "\ufefftwo 字\n".encode()
    assert documents(write(tmp_path / "a.txt", one + two)) == ["one", "two 字"]
    rows = "\ufeff" + json.dumps({"text": "a\ufeffb"}) + "\n\ufeff" + json.dumps({"text": "c"}) + "\n"
    assert documents(write(tmp_path / "a.jsonl", rows)) == ["ab", "c"]
    assert list(read_lines(write(tmp_path / "b.txt", one + two))) == ["one\n", "\n", "two 字\n"]


# ── other formats ──


def tar_of(text: bytes, mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        entry = tarfile.TarInfo("inside.txt")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return buffer.getvalue()


def zip_of(text: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inside.txt", text)
    return buffer.getvalue()


TEXT = b"A text of several words.\n" * 30
FORMATS = {
    "a.txt.bz2": ("bzip2", bz2.compress(TEXT)),
    "a.txt.xz": ("xz", lzma.compress(TEXT)),
    "a.txt.lzma": ("lzma", lzma.compress(TEXT, lzma.FORMAT_ALONE)),
    "a.txt": ("gzip", gzip.compress(TEXT)),
    "a.tgz": ("gzip", tar_of(TEXT, "w:gz")),
    "a.tar": ("tar", tar_of(TEXT, "w")),
    "a.tar.gz": ("tar", tar_of(TEXT, "w:gz")),
    "b.txt.gz": ("tar", tar_of(TEXT, "w:gz")),
    "a.docx": ("zip", zip_of(TEXT)),
    "a.7z": ("7z", b"7z\xbc\xaf\x27\x1c\0\x04" + bytes(40)),
    "a.csv": ("bzip2", bz2.compress(b"text,label\na,b\n")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_an_archive_or_another_compression_is_refused_by_name(tmp_path, name):
    kind, content = FORMATS[name]
    path = write(tmp_path / name, content)
    fix = "unpack it, or convert it to text (.gz, .zst and .parquet are read if so named)"
    assert error_of(path) == f"{path}: {kind} data, not text; {fix}"


def test_a_parquet_file_under_another_name_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "rows.dat")
    assert "rows.dat: parquet data, not text" in error_of(tmp_path / "rows.dat")


@pytest.mark.parametrize("text", ["BZh, said the bee.\n", "PK and Rar! are words.\n", "7zip\n", "%PD\n", "]\n"])
def test_text_that_begins_like_another_format_is_text(tmp_path, text):
    assert documents(write(tmp_path / "a.txt", text)) == [text.strip()]


def test_the_tags_of_an_extractor_are_named_once(tmp_path):
    page = '<doc id="{0}" url="" title="T">\nTitle {0}\n\nA text of page {0}.\n</doc>\n'
    for name in ("wiki_00", "wiki_01"):
        write(tmp_path / f"{name}.txt", "".join(page.format(number) for number in range(3)))
    notes: list[str] = []
    documents(tmp_path, notes)
    assert sum("</doc>" in note for note in notes) == 1
    assert notes[0] == f"{tmp_path}/wiki_00.txt: lines <doc …> and </doc> of an extractor are read as text; remove them"


# ── lines ──


def test_a_lone_carriage_return_ends_no_line_where_others_have_newlines(tmp_path):
    path = write(tmp_path / "a.txt", b"progress 1%\rprogress 2%\r\nsecond\nthird\r\n")
    assert list(read_lines(path)) == ["progress 1% progress 2%\n", "second\n", "third\n"]
    assert list(read_lines(write(tmp_path / "mac.txt", b"one\rtwo\rthree"))) == ["one\n", "two\n", "three"]


@given(st.lists(st.text(st.sampled_from("ab \r\u2028\u0085字\x0c")), min_size=2, max_size=8))
def test_lines_are_those_that_other_programs_count(lines):
    text = "".join(f"{line}\n" for line in lines)
    (decoded,) = files._whole_lines(Path("a.txt"), iter([text.encode()]))
    if text.count("\r") <= len(lines):  # otherwise the file of an old Mac
        assert decoded.count("\n") == len(lines)


def test_a_pipe_is_read_by_what_reads_once(tmp_path):
    path = write(tmp_path / "a.txt", "one\ntwo\n")
    program = "import sys; from bert.data.files import read_lines; print(list(read_lines(sys.argv[1])))"
    program = program.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")
    shell = f'{sys.executable} -c "{program}" <(cat {path})'
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout == "['one\\n', 'two\\n']\n", result.stderr


# ── layouts ──


def sentences(end: str, count: int = 60) -> str:
    """One sentence a line, all of the same length."""
    words = ["گھاٹ کشتی دریا", "नाव नदी घाट", "ထမင်း စားပွဲ", "boat river quay"]
    return "".join(f"{number:03} {' '.join(words)} {number * 7:04}{end}\n" for number in range(count))


@pytest.mark.parametrize("end", ["۔", "।", "॥", "။", "።", "؟", "。", "｡", "։", "។", "།", ".)", "。」", "!»", "ที่ท่าเรือ"])
def test_the_ends_of_sentences_of_any_script_are_known(tmp_path, end):
    notes: list[str] = []
    assert len(documents(write(tmp_path / "a.txt", sentences(end)), notes)) == 60
    assert "read as one document per line" in notes[0]


def test_lines_of_equal_length_without_ends_of_sentences_are_one_wrapped_text(tmp_path):
    assert len(documents(write(tmp_path / "a.txt", sentences("")))) == 1


@pytest.mark.parametrize(
    ("gaps", "count", "layout"), [(1, 2, "lines"), (9, 10, "lines"), (10, 11, "blank"), (100, 11, "blank")]
)
def test_blank_lines_separate_documents_if_they_are_no_exceptions(tmp_path, gaps, count, layout):
    every = 2000 // (gaps + 1) if layout == "lines" else 2000 // count
    lines = [f"Sentence {number} ends{' here' * (number % 9)}." for number in range(2000)]
    parts = ["\n".join(lines[start : start + every]) for start in range(0, 2000, every)]
    notes: list[str] = []
    found = documents(write(tmp_path / "a.txt", "\n\n".join(parts) + "\n"), notes)
    assert len(found) == (2000 if layout == "lines" else len(parts))
    assert f"blank lines in {len(parts) - 1} of 1,999 gaps between lines" in notes[0]


def test_many_blank_lines_at_one_place_are_one_gap(tmp_path):
    lines = [f"Sentence {number} ends{' here' * (number % 9)}." for number in range(1000)]
    text = "\n".join(lines[:300]) + "\n" * 30 + "\n".join(lines[300:])
    assert len(documents(write(tmp_path / "a.txt", text))) == 1000


def test_a_wrapped_book_with_few_blank_lines_has_chapters(tmp_path):
    prose = [" ".join(f"the tide number {i * 997 + j} comes in and then" for j in range(900)) for i in range(3)]
    notes: list[str] = []
    found = documents(write(tmp_path / "a.txt", "\n\n\n".join(textwrap.fill(part, 70) for part in prose)), notes)
    assert [document.replace("\n", " ") for document in found] == prose
    assert "hard-wrapped at 70 characters: read as documents between blank lines" in notes[0]


@given(st.lists(st.text(st.sampled_from("ab \t\u3000\u2028.")), max_size=12), st.integers(1, 5))
def test_documents_between_blank_lines_are_those_of_the_definition(lines, size):
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    expected = [text for part in paragraphs if (text := "\n".join(part).strip())]
    blocks = [f"{line}\n" for line in lines]
    joined = ["".join(blocks[start : start + size]) for start in range(0, len(blocks), size)]

    class File:
        layout, path = "blank-lines", Path("a.txt")

        def blocks(self, most):
            return iter(joined)

    assert [text.strip() for text in files._read_text(File()) if text.strip()] == expected


# ── bounded memory ──


@pytest.mark.parametrize("layout", ["auto", "blank-lines", "lines", "file"])
@pytest.mark.parametrize("word", ["word ", "字码头"])
def test_an_endless_line_is_read_in_parts_of_whole_characters(tmp_path, monkeypatch, word, layout):
    monkeypatch.setattr(files, "_MOST_TEXT", 1 << 20)
    monkeypatch.setattr(files, "_CHUNK", 1 << 16)
    text = word * (6_000_000 // len(word.encode()))
    notes: list[str] = []
    path = write(tmp_path / "a.txt", text)
    tracemalloc.start()
    parts = [(len(part), part[:5], part[-5:]) for part in find_corpus(path, layout).documents(notes.append)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(length for length, _, _ in parts) <= 1.2 * (1 << 20)
    assert peak < 20e6
    assert len(parts) >= 4
    assert notes[-1] == f"{path}: a document of more than 1,048,576 bytes is read in parts"
    assert "".join(find_corpus(path, layout).documents()).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("layout", ["auto", "blank-lines", "file"])
def test_a_wrapped_text_without_an_end_is_read_in_parts(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(files, "_MOST_TEXT", 1 << 20)
    monkeypatch.setattr(files, "_CHUNK", 1 << 16)
    text = "".join(f"and the story number {i:6} of the wide grey sea goes on to the next\n" for i in range(60_000))
    notes: list[str] = []
    parts = documents(write(tmp_path / "a.txt", text), notes, layout=layout)
    assert "\n".join(parts) == text.strip()
    assert max(map(len, parts)) < 1.2 * (1 << 20)
    assert "is read in parts" in notes[-1]


def test_a_line_that_cannot_be_cut_is_refused_before_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST_LINE", 1 << 20)
    monkeypatch.setattr(files, "_CHUNK", 1 << 16)
    path = write(tmp_path / "a.json", '{"text": "a"}\n[' + '{"text": "b"}, ' * 200_000)
    assert error_of(path) == f"{path}, line 2: longer than 256 MiB; is it of another format?"


# ── parquet ──


def parquet(path: Path, columns: dict[str, object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
@pytest.mark.parametrize("dictionary", [False, True])
def test_columns_of_text_of_every_kind_are_read(tmp_path, kind, dictionary):
    texts = pa.array(["one", None, "two", "one"], kind)
    if dictionary and kind != pa.string_view():
        texts = texts.dictionary_encode()
    assert documents(parquet(tmp_path / "a.parquet", {"text": texts})) == ["one", "two", "one"]


def test_a_field_inside_a_column_is_named_by_its_path(tmp_path):
    rows = [{"text": "one", "of": {"body": "deep"}}, None, {"text": None, "of": {"body": "deeper"}}]
    path = parquet(tmp_path / "a.parquet", {"id": [1, 2, 3], "meta": rows})
    assert documents(path, text_field="meta.text") == ["one"]
    assert documents(path, text_field="meta.of.body") == ["deep", "deeper"]
    assert error_of(path, text_field="meta").startswith(f"{path}: field 'meta' holds struct<")
    there = "there are: id, meta.text, meta.of.body. Name one by `text_field`. Did you mean `meta.text`?"
    assert error_of(path) == f"{path}: no field 'text'; {there}"


def test_a_folder_in_place_of_a_file_of_lines_is_named_with_the_fix(tmp_path):
    with pytest.raises(InputError) as error:
        list(read_lines(tmp_path))
    assert str(error.value) == f"{tmp_path}: cannot be read (Is a directory); give a readable file"
