"""Labelled rows: what a file holds is what comes out, and what is wrong with it is said with its line."""

import gzip
import io
import json
import sys
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bert.data.examples import Columns, read_examples
from bert.data.tagged import read_tagged
from bert.errors import InputError
from tests.conftest import DATA

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path | str, **options) -> list[tuple[str, str | None]]:
    return [(example.text, example.label) for example in read_examples(path, **options)]


def sentences(path: Path | str, **options) -> list[tuple[tuple[str, ...], tuple[str, ...] | None]]:
    return [(example.words, example.tags) for example in read_tagged(path, **options)]


def error_of(read, path: Path | str, **options) -> str:
    with pytest.raises(InputError) as caught:
        list(read(path, **options))
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{Path(path).parent}/", "")


# ── texts with one label ──

EXPECTED = [("an apple a day", "fruit"), ("Apple sells phones", "firm")]
TABLES = {
    "a.tsv": "text\tlabel\nan apple a day\tfruit\nApple sells phones\tfirm\n",
    "a.csv": "text,label\nan apple a day,fruit\nApple sells phones,firm\n",
    "semicolons.csv": "Label;Text\r\nfruit;an apple a day\r\nfirm;Apple sells phones\r\n",
    "a.jsonl": '{"text": "an apple a day", "label": "fruit"}\n\n{"label": "firm", "text": "Apple sells phones"}',
}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", TABLES)
def test_every_format_gives_the_same_rows(tmp_path, name, bom, compression):
    path = write(tmp_path / (name + compression), COMPRESS[compression](bom + TABLES[name].encode()))
    assert rows(path) == EXPECTED


def test_quoted_cells_hold_line_ends_delimiters_and_quotes_and_lines_are_counted_through_them(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\r\n"one,\r\ntwo ""three"""\t,a\r\n\r\n"four\n",b\r\nfive,c\r\n')
    path = write(path, path.read_text().replace("\t", ""))
    read = list(read_examples(path))
    assert [(e.text, e.label) for e in read] == [('one,\ntwo "three"', "a"), ("four", "b"), ("five", "c")]
    assert [e.where for e in read] == [f"{path}, line {n}" for n in (2, 5, 7)]


def test_a_stray_quote_in_a_tsv_file_is_a_character(tmp_path):
    path = write(tmp_path / "a.tsv", 'sentence\tlabel\n"a quote\t1\nb\t0\n')
    assert rows(path) == [('"a quote', "1"), ("b", "0")]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text\tlabel", Columns("text", None, "label")),
        ("id\tSentence\tSense", Columns("Sentence", None, "Sense")),
        ("label\tsentence1\tsentence2", Columns("sentence1", "sentence2", "label")),
        ("question1\tquestion2\tclass", Columns("question1", "question2", "class")),
        ("premise\thypothesis\tlabel", Columns("premise", "hypothesis", "label")),
        ("content\tsentence2\ttopic", Columns("content", None, "topic")),
        ("text\tpair\tcategory\tlabel", Columns("text", "pair", "label")),
    ],
)
def test_columns_are_found_by_usual_names(tmp_path, header, columns):
    path = write(tmp_path / "a.tsv", f"{header}\n" + "\t".join("x" * len(header.split("\t"))) + "\n")
    assert read_examples(path).columns == columns


def test_named_columns_go_before_usual_ones(tmp_path):
    path = write(tmp_path / "a.csv", "text,label,title,mood\na,b,c,d\n")
    (example,) = read_examples(path, text="title", pair="text", label="mood")
    assert (example.text, example.pair, example.label) == ("c", "a", "d")


def test_labels_of_json_are_strings(tmp_path):
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": "x", "label": y}) + "\n" for y in (0, 1, True, "z")))
    assert [label for _, label in rows(path)] == ["0", "1", "true", "z"]


def test_without_need_of_labels_they_may_lack_and_plain_text_is_a_row_a_line(tmp_path):
    assert rows(write(tmp_path / "a.txt", "one\n\n two \u2028three"), needs_label=False) == [
        ("one", None),
        ("", None),  # an empty sentence is a row: predictions stand beside it
        ("two \u2028three", None),
    ]
    assert rows(write(tmp_path / "a.csv", "text\none\n"), needs_label=False) == [("one", None)]
    assert rows(write(tmp_path / "b.csv", "text,label\none,\ntwo,x\n"), needs_label=False) == [
        ("one", None),
        ("two", "x"),
    ]
    assert rows(write(tmp_path / "a.jsonl", '{"text": "one"}\n'), needs_label=False) == [("one", None)]


def test_standard_input_is_read_as_it_comes(monkeypatch):
    class Typed(io.BytesIO):
        """Gives one line at a time and says when it was asked for."""

        def read1(self, size: int = -1) -> bytes:
            return self.readline()

    source = Typed("one\ntwo 苹果\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(source))
    read = iter(read_examples("-", needs_label=False))
    assert next(read).text == "one"
    assert source.tell() == len(b"one\n")
    assert next(read).where == "standard input, line 2"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text\tlabel\na\tb\n")))
    assert rows("-", file_format="tsv") == [("a", "b")]


def test_reading_takes_constant_memory(tmp_path):
    path = tmp_path / "a.tsv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"text\tlabel\n")
        for number in range(40_000):
            file.write(f"{number} {'word ' * 200}\t{number % 3}\n".encode())  # 40 MB
    tracemalloc.start()
    assert sum(1 for _ in read_examples(path)) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: holds no examples; give a file with at least one"),
        ("a.csv", "text,label\n", "a.csv: holds no examples; give a file with at least one"),
        ("a.jsonl", "\n", "a.jsonl: holds no examples; give a file with at least one"),
        (
            "a.tsv",
            "a good film\t1\na bad film\t0\n",
            "a.tsv, line 1: no column is known as the text; there are: a good film, 1. Name it by `text`, or, if this line is data "
            "and not a header, add a header above it",
        ),
        ("a.csv", "text,y\na,b\n", "a.csv, line 1: no column is known as the label; there are: text, y. Name it by `label`, or"),
        ("a.csv", "text,label\na,x\nb, \n", "a.csv, line 3: the label in column 'label' is empty; fill it in or remove the row"),
        (
            "a.csv",
            "text,label\n\na,b\nHello, you,b\n",
            "a.csv, line 4: 3 cells, the header has 2; repair this line (put cells with a delimiter in quotes)",
        ),
        (
            "a.tsv",
            "text\tlabel\na\n",
            "a.tsv, line 2: 1 cells, the header has 2; repair this line (a .tsv has no quotes: keep tabs and line ends out of cells)",
        ),
        (
            "a.csv",
            'text,label\n"a,b\nc,d\n',
            "a.csv, line 2: not a readable row (unexpected end of data); close its quotes, write \" inside them as \"\"",
        ),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text"\n', "a.jsonl, line 2: not valid JSON (Expecting ':' delimiter); each line"),
        ("a.csv", "text,label,label\na,b,c\n", "a.csv, line 1: two columns are named 'label': give each a name of its own"),
        ("a.csv", 'text,label\na,"b\nc"\n', "a.csv, line 2: column 'label' holds 'b\\nc'; replace its tab or line end by a space"),
        (
            "a.tsv",
            "text   label\na   b\n",
            "a.tsv, line 1: no column is known as the text; there are: text   label. Name it by `text`, or, if this line is data and"
            " not a header, add a header above it; only one column: a .tsv separates columns by tabs",
        ),
        ("a.jsonl", "1\n", 'a.jsonl, line 1: not a JSON object; each line must be like {"text": "A text.", "label": "a label"}'),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"txt": "a", "label": 1}\n',
            "a.jsonl, line 2: no column 'text'; there are: txt, label. Did you mean `txt`?",
        ),
        (
            "a.jsonl",
            '{"text": false, "label": 1}\n',
            "a.jsonl, line 1: column 'text' holds true or false, not text; repair this row or name another column",
        ),
        ("a.jsonl", '{"text": "a", "label": null}\n', "a.jsonl, line 1: the label in column 'label' is empty; fill it in"),
        ("a.jsonl", '{"text": "a", "label": [1]}\n', "a.jsonl, line 1: column 'label' holds a list, not a label; name another"),
        ("a.csv", b"text,label\na,b\n\xff\xfe,c\n", "a.csv, line 3: not UTF-8 (byte 0xff); convert the file: iconv"),
        ("a.csv.gz", gzip.compress(b"text,label\na,b\n" * 99, mtime=0)[:-9], "a.csv.gz: truncated or damaged ("),
        ("a.txt", "one\n", "a.txt: plain text has no labels; give a .tsv, .csv or .jsonl file with a label column"),
        ("a.xlsx", "PK", "a.xlsx: no known suffix (.tsv, .csv, .jsonl, .ndjson, .json, .txt, .text); save it as CSV in UTF-8"),
        ("a.dat", "x", "a.dat: no known suffix (.tsv, .csv, .jsonl, .ndjson, .json, .txt, .text); rename it or give `file_format`: csv"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, name, content, message):
    assert error_of(read_examples, write(tmp_path / name, content)).startswith(message)


def test_a_column_a_format_or_a_file_that_is_not_there_is_named(tmp_path):
    path = write(tmp_path / "a.csv", "review,mood\na,b\n")
    assert error_of(read_examples, path, label="moods") == (
        "a.csv, line 1: no column 'moods' for `label`; there are: review, mood. Did you mean `mood`?"
    )
    assert "Did you mean `review`?" in error_of(read_examples, path, text="reviews", label="mood")
    assert error_of(read_examples, path, file_format="cvs") == (
        "a.csv: format 'cvs' is not known: use one of csv, jsonl, tsv, txt. Did you mean `csv`?"
    )
    assert (
        error_of(read_examples, tmp_path / "b.csv") == "b.csv: no such file: give another path. Did you mean `a.csv`?"
    )
    assert error_of(read_examples, tmp_path / "x.txt", text="body").startswith("x.txt: plain text has no column 'body'")


# ── sentences with tags ──

NAMES = [(("Ann", "Lee", "left"), ("B-PER", "I-PER", "O")), (("苹果", "#"), ("B-ORG", "O"))]
TAGGED = {
    "a.conll": "Ann\tB-PER\nLee\tI-PER\nleft\tO\n\n\n苹果\tB-ORG\n#\tO",
    "four.txt": "-DOCSTART- -X- -X- O\n\nAnn NNP B-NP B-PER\nLee NNP I-NP I-PER\nleft VBD B-VP O\n\n苹果 NNP B-NP B-ORG\n# # O O\n",
    "a.bio": "Ann  B-PER\r\nLee\t I-PER \r\nleft  O\r\n \r\n苹果 B-ORG\r\n# O\r\n",
    "a.jsonl": '{"words": ["Ann", "Lee", "left"], "tags": ["B-PER", "I-PER", "O"]}\n'
    '{"words": ["苹果", "#"], "tags": ["B-ORG", "O"]}\n',
    "hub.jsonl": '{"id": 0, "ner_tags": ["B-PER", "I-PER", "O"], "tokens": ["Ann", "Lee", "left"]}\n'
    '{"id": 1, "ner_tags": ["B-ORG", "O"], "tokens": ["苹果", "#"]}\n',
    "a.conllu": "# sent_id = 1\n# text = Ann Lee left\n1-2\tAnnLee\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tAnn\t_\tB-PER\tNNP\t_\t3\tnsubj\t_\t_\n2\tLee\t_\tI-PER\tNNP\t_\t1\tflat\t_\t_\n"
    "2.1\tsilent\t_\tX\t_\t_\t_\t_\t_\t_\n3\tleft\t_\tO\tVBD\t_\t0\troot\t_\t_\n\n"
    "1\t苹果\t_\tB-ORG\tNNP\t_\t0\troot\t_\t_\n2\t#\t_\tO\tSYM\t_\t1\tx\t_\t_\n\n",
}  # fmt: skip


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("needs_tags", [True, False])
@pytest.mark.parametrize("name", TAGGED)
def test_every_tagged_format_gives_the_same_sentences(tmp_path, name, needs_tags, compression):
    path = write(tmp_path / (name + compression), COMPRESS[compression](TAGGED[name].encode()))
    assert sentences(path, needs_tags=needs_tags) == NAMES


def test_columns_of_words_and_tags_are_numbers_or_names(tmp_path):
    conll = write(tmp_path / "a.conll", TAGGED["four.txt"])
    assert sentences(conll, tags="2")[0] == (("Ann", "Lee", "left"), ("NNP", "NNP", "VBD"))
    assert sentences(conll, words="-1", tags="1")[1] == (("B-ORG", "O"), ("苹果", "#"))
    conllu = write(tmp_path / "a.conllu", TAGGED["a.conllu"])
    assert [tags for _, tags in sentences(conllu, tags="deprel")] == [("nsubj", "flat", "root"), ("root", "x")]
    assert [tags for _, tags in sentences(conllu, tags="XPOS")] == [("NNP", "NNP", "VBD"), ("NNP", "SYM")]


def test_a_sentence_is_named_by_its_first_line(tmp_path):
    path = write(tmp_path / "a.conllu", TAGGED["a.conllu"])
    assert [example.where for example in read_tagged(path)] == [f"{path}, line 4", f"{path}, line 9"]


def test_words_that_python_takes_for_blanks_are_words(tmp_path):
    path = write(tmp_path / "a.conll", "\u3000\tO\na\u00a0b\tB-X\n\x85\tO\n \tO\n")
    assert sentences(path) == [(("\u3000", "a\u00a0b", "\x85", " "), ("O", "B-X", "O", "O"))]


def test_without_need_of_tags_plain_text_is_a_sentence_a_line(tmp_path):
    text = "Ann lives in Berlin .\n\n苹果发布了新手机\n我 住 北京\nI take vitamin B-12\n"
    assert sentences(write(tmp_path / "a.txt", text), needs_tags=False) == [
        (("Ann", "lives", "in", "Berlin", "."), None),
        ((), None),
        (tuple("苹果发布了新手机"), None),
        (("我", "住", "北京"), None),
        (("I", "take", "vitamin", "B-12"), None),
    ]
    assert sentences(write(tmp_path / "b.txt", "vitamin B-12\n"), needs_tags=False) == [(("vitamin", "B-12"), None)]
    assert sentences(write(tmp_path / "a.conll", "Ann\nleft\n\nBob\n"), needs_tags=False) == [
        (("Ann", "left"), None),
        (("Bob",), None),
    ]


WORD = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff"), min_size=1, max_size=5
).filter(
    lambda w: w.strip(" ") and not w.startswith("# ")  # a comment
)
"""a byte order mark is dropped wherever it stands"""


@given(st.lists(st.lists(st.tuples(WORD, st.sampled_from(["O", "B-X", "I-X"])), min_size=1, max_size=5), min_size=1))
def test_what_is_written_as_conll_or_jsonl_is_read_again(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("tagged")
    expected = [tuple(zip(*sentence)) for sentence in made]
    conll = "\n".join("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in made)
    if not conll.startswith("-DOCSTART-"):
        assert sentences(write(folder / "a.conll", conll)) == expected
    lines = "".join(json.dumps({"words": words, "tags": tags}) + "\n" for words, tags in expected)
    assert sentences(write(folder / "a.jsonl", lines)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "\n\n", "a.conll: holds no examples; give a file with at least one"),
        ("a.conll", "Ann\tB-PER\n\nleft\n", "a.conll, line 3: 1 columns, the lines before have 2; repair this line"),
        ("a.conll", "Ann\nleft\n", "a.conll, line 1: no tag beside 'Ann'; write one after a tab, O for a word outside of spans"),
        ("a.conll", "Ann\tO\nleft\t \n", "a.conll, line 2: no tag beside 'left'; write one after a tab"),
        ("a.conllu", "1\tAnn\tPROPN\n", "a.conllu, line 1: 3 columns, CoNLL-U has 10, separated by tabs; repair this line"),
        ("a.jsonl", '{"words": ["a", "b"], "tags": ["O"]}\n', "a.jsonl, line 1: 2 words and 1 tags; give each word one tag"),
        ("a.jsonl", '{"words": "a b", "tags": ["O"]}\n', "a.jsonl, line 1: column 'words' holds text, not a list; give one"),
        ("a.jsonl", '{"words": ["a"]}\n', "a.jsonl, line 1: no column is known as the tags; there are: words. Name it by `tags`"),
        ("a.jsonl", '{"words": ["a"], "tags": [""]}\n', "a.jsonl, line 1: no tag beside 'a'; write O for a word outside"),
        ("a.jsonl", '{"words": ["a\\tb"], "tags": ["O"]}\n', "a.jsonl, line 1: column 'words' holds 'a\\tb'; replace its tab or line end"),
        ("a.jsonl", '{"words": ["a", ""], "tags": ["O", "O"]}\n', "a.jsonl, line 1: column 'words' has an empty word; remove it"),
        ("a.conll", b"Ann\tO\n\xe9\tO\n", "a.conll, line 2: not UTF-8 (byte 0xe9); convert the file: iconv"),
        ("a.csv", "Ann,O\n", "a.csv: .csv is a format of texts, not of tagged words: use it for a task on texts"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tagged_sentences_is_said_with_its_line(tmp_path, name, content, message):
    assert error_of(read_tagged, write(tmp_path / name, content)).startswith(message)


def test_a_tagged_column_that_is_not_there_is_named(tmp_path):
    conll, conllu = (write(tmp_path / name, TAGGED[name]) for name in ("a.conll", "a.conllu"))
    assert (
        error_of(read_tagged, conll, tags="3")
        == "a.conll, line 1: no column 3 for 'tags'; there are 2, separated by tabs or spaces"
    )
    assert error_of(read_tagged, conll, tags="ner") == (
        "a.conll: 'tags' is 'ner': give the number of a column of the CoNLL file, 1 first, -1 last"
    )
    assert error_of(read_tagged, conllu, tags="pos").startswith(
        "a.conllu: CoNLL-U has no column 'pos'; there are: id, form"
    )
    assert error_of(read_tagged, conllu, tags="upso").endswith("Did you mean `upos`?")


# ── measurement data: its README gives the numbers ──

ZH_TYPES = set("address book company game government movie name organization position scene".split())


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "number", "labels", "pairs"),
    [
        ("sst2/train.tsv.gz", 67_348, 2, False),
        ("sst2/dev.tsv.gz", 872, 2, False),
        ("zh-cls/dev.tsv.gz", 1_161, 2, False),
        ("pairs/dev.tsv.gz", 500, 2, True),
        ("coarsewsd20/train.jsonl.gz", 23_370, 53, False),
    ],
)
def test_measurement_texts_have_the_rows_that_are_stated(name, number, labels, pairs):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is absent")
    read = list(read_examples(DATA / name))
    assert (len(read), len({example.label for example in read})) == (number, labels)
    assert all((example.pair is not None) == pairs for example in read)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "number", "words", "types"),
    [
        ("ner-en/train.conll.gz", 15_187, 350_685, {"PER", "ORG", "LOC", "MISC"}),
        ("ner-tweets/dev.conll.gz", 999, None, {"PER", "ORG", "LOC"}),
        ("zh-ner/train.conll.gz", 9_748, 364_597, ZH_TYPES),
        ("ud-ewt/train.conllu.gz", 12_544, 204_577, None),
        ("ud-ewt/dev.conllu.gz", 2_001, 25_147, None),
    ],
)  # fmt: skip
def test_measurement_sentences_have_the_words_that_are_stated(name, number, words, types):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is absent")
    read = list(read_tagged(DATA / name))
    assert len(read) == number
    assert words in (None, sum(len(example.words) for example in read))
    tags = {tag for example in read for tag in example.tags or ()}
    assert types is None or {tag.partition("-")[2] for tag in tags - {"O"}} == types


# ── words: what is no word, no tag, no comment ──

COMMENTED = "# a line of its own\n\n# sent 1\tsource=web\n# 17\nAnn\tB-PER\n#1\tO\n\n# 18\n#\tO\n#left\tO\n"


@pytest.mark.parametrize("needs_tags", [True, False])
def test_comments_before_a_sentence_are_no_words_and_hashtags_are(tmp_path, needs_tags):
    path = write(tmp_path / "a.conll", COMMENTED)
    assert sentences(path, needs_tags=needs_tags) == [(("Ann", "#1"), ("B-PER", "O")), (("#", "#left"), ("O", "O"))]
    ids = write(tmp_path / "ids.conll", COMMENTED.replace("B-PER", "3").replace("O", "0"))
    assert sentences(ids, tags="2")[-1][0] == ("#", "#left")
    ids.write_text(ids.read_text().replace("\t", " "))
    assert sentences(ids, tags="2")[-1][0] == ("#", "#", "#left")  # # 18 looks like the words of a file of numbers


@pytest.mark.parametrize("blank", [" ", "\t"])
def test_comments_take_any_number_of_cells_but_that_of_the_words(tmp_path, blank):
    words = "".join(f"{blank.join((word, 'x', 'O'))}\n" for word in ("#", "a", "b"))
    for comment in ("#", "# id", "# 1 2 3 4", "#begin document (a); part 000"):
        assert sentences(write(tmp_path / "a.conll", f"{comment}\n{words}")) == [(("#", "a", "b"), ("O",) * 3)]
    assert error_of(read_tagged, write(tmp_path / "b.conll", f"{words}# of the next\n")).startswith("b.conll, line 4: ")
    no_tag = write(tmp_path / "c.conll", f"{words}\n#left\n")  # a word without its tag, which is not lost
    assert error_of(read_tagged, no_tag).startswith("c.conll, line 5: 1 columns, the lines before have 3")


def test_a_comment_with_a_blank_where_words_have_a_tab_is_no_word(tmp_path):
    path = write(tmp_path / "a.conll", "# newdoc\n# text = #\n#\tO\na\tO\n\n# newpar\nb\tO\n")
    assert sentences(path) == [(("#", "a"), ("O", "O")), (("b",), ("O",))]


def test_tags_in_json_lines_have_no_blanks_around_them(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"words": ["Ann"], "tags": [" B-PER "]}\n{"words": ["a"], "tags": [" "]}\n')
    assert next(iter(read_tagged(path))).tags == ("B-PER",)
    assert "line 2: no tag beside 'a'" in error_of(read_tagged, path)


@pytest.mark.parametrize("needs_tags", [True, False])
def test_an_empty_last_column_is_left_out_and_an_empty_word_refused(tmp_path, needs_tags):
    path = write(tmp_path / "a.conll", "Ann\tB-PER\t\t\nleft\tO\t\t\n\nBob\tB-PER\t\t\n")
    expected = [(("Ann", "left"), ("B-PER", "O")), (("Bob",), ("B-PER",))]
    assert sentences(path, needs_tags=needs_tags) == expected
    assert sentences(path, tags="2", needs_tags=needs_tags) == expected
    late = write(tmp_path / "late.conll", "Ann\tB-PER\nleft\tO\n\tO\n")
    assert error_of(read_tagged, late, needs_tags=needs_tags) == (
        "late.conll, line 3: the word is empty; remove the tab before it, or name the column of the words by `words`"
    )


@pytest.mark.parametrize("number", ["3", "0.2181", "-1", "1e-5", "0,5"])
def test_a_number_is_no_tag_unless_its_column_is_named(tmp_path, number):
    path = write(tmp_path / "a.conll", f"Ann\tB-PER\t{number}\nleft\tO\t{number}\n")
    assert error_of(read_tagged, path) == (
        f"a.conll, line 1: the tag of 'Ann' is the number {number}; name the column of the tags by `tags` (-1: the last)"
    )
    assert sentences(path, tags="2") == [(("Ann", "left"), ("B-PER", "O"))]
    assert sentences(path, tags="-1") == [(("Ann", "left"), (number,) * 2)]
    assert sentences(path, needs_tags=False)[0][0] == ("Ann", "left")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("The cat sleeps on the mat.\tpet\nShares fell again today.\tmoney\n", "line 1: 'The cat sleeps on the mat.' is no word"),
        ("Token\tNER_tags\nAnn\tB-PER\n", "line 1: the names of columns, not a word and its tag; remove it"),
        ("Word POS\nAnn NNP\n", "line 1: the names of columns, not a word and its tag; remove it"),
    ],
)  # fmt: skip
def test_tables_are_not_read_as_words(tmp_path, content, message):
    for needs_tags in (True, False):
        assert message in error_of(read_tagged, write(tmp_path / "a.tsv", content), needs_tags=needs_tags)


def test_a_tab_in_plain_text_does_not_lose_words(tmp_path, said):
    plain = write(tmp_path / "a.txt", "Ann\tcame home\nBob left\n")
    assert [words for words, _ in sentences(plain, needs_tags=False)] == [("Ann", "came", "home"), ("Bob", "left")]
    assert [words for words, _ in sentences(write(tmp_path / "b.txt", "Ann\tleft\n"), needs_tags=False)] == [
        ("Ann", "left")
    ]
    assert [line.partition(", ")[2] for line in said] == ["line 1: tabs; sentences are read, one per line"] * 2
    conll = write(tmp_path / "c.txt", "Ann\tNNP\nleft\tVBD\n")
    assert sentences(conll, needs_tags=False) == [(("Ann", "left"), ("NNP", "VBD"))]
    assert said[2].endswith("line 1: tabs; words with their tags are read, one per line")
    assert sentences(write(tmp_path / "d.txt", "Ann\tB_PER\nleft\tO\n"), needs_tags=False)[0][0] == ("Ann", "left")
    assert len(said) == 3  # of tags there is no doubt


def test_ideographs_are_words_beside_other_scripts_and_separated_ones_stay(tmp_path):
    lines = ["他买了MacBook电脑。Very good!", "上海很远 。", "天气 很 好", "苹果", "Ann 住在很远的北京"]
    path = write(tmp_path / "a.txt", "".join(f"{line}\n" for line in lines))
    assert [words for words, _ in sentences(path, needs_tags=False)] == [
        ("他", "买", "了", "MacBook", "电", "脑", "。", "Very", "good!"),
        ("上", "海", "很", "远", "。"),
        ("天气", "很", "好"),
        ("苹", "果"),
        ("Ann", *"住在很远的北京"),
    ]


def test_each_word_knows_its_line(tmp_path):
    path = write(tmp_path / "a.conll", "# 1 2 3\nAnn\tO\nleft\tO\n\nBob\tO\n")
    assert [[one.at(0), one.at(len(one.words) - 1)] for one in read_tagged(path)] == [
        [f"{path}, line 2", f"{path}, line 3"],
        [f"{path}, line 5"] * 2,
    ]
    conllu = write(tmp_path / "a.conllu", TAGGED["a.conllu"])
    assert [one.at(len(one.words) - 1) for one in read_tagged(conllu)] == [f"{conllu}, line 7", f"{conllu}, line 10"]
    jsonl = write(tmp_path / "a.jsonl", TAGGED["a.jsonl"])
    assert [one.at(1) for one in read_tagged(jsonl)] == [f"{jsonl}, line 1", f"{jsonl}, line 2"]


def test_what_is_no_label_matters_only_where_labels_are_needed(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "one", "label": {"x": 1}}\n{"text": "two", "label": "b"}\n')
    assert rows(path, needs_label=False) == [("one", None), ("two", "b")]
    assert "line 1: column 'label' holds an object" in error_of(read_examples, path)
    tagged = write(tmp_path / "b.jsonl", '{"words": ["a", "b"], "tags": ["O"]}\n{"words": ["c"], "tags": null}\n')
    assert sentences(tagged, needs_tags=False) == [(("a", "b"), None), (("c",), None)]
    assert "line 1: 2 words and 1 tags" in error_of(read_tagged, tagged)


def test_null_is_an_empty_cell(tmp_path):
    assert rows(write(tmp_path / "a.jsonl", '{"text": null, "label": "a"}\n')) == [("", "a")]
    assert rows(write(tmp_path / "a.csv", "text,label\n,a\n")) == [("", "a")]
