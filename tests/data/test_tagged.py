"""Sentences with tags, and texts to tag: what a file holds is what comes out, and what is wrong with it is said with its line."""

import csv
import io
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert.data.columns import Columns
from bert.data.examples import Example
from bert.data.tagged import read_tagged
from tests.conftest import DATA
from tests.data.reading import COMPRESS, error_of, write
from tests.strategies import TEXTS, UTF8_TEXTS


def sentences(path: Path | str, **options) -> list[tuple[tuple[str, ...], tuple[str, ...] | None]]:
    return [(example.words, example.tags) for example in read_tagged(path, **options)]


def texts(path: Path | str, **options) -> list[str]:
    examples = list(read_tagged(path, needs_tags=False, **options))
    assert all(isinstance(example, Example) for example in examples)
    return [example.text for example in examples]


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


def test_words_that_python_takes_for_spaces_are_words(tmp_path):
    path = write(tmp_path / "a.conll", "\u3000\tO\na\u00a0b\tB-X\n\x85\tO\n \tO\n")
    assert sentences(path) == [(("\u3000", "a\u00a0b", "\x85", " "), ("O", "B-X", "O", "O"))]


def test_without_need_of_tags_plain_text_is_a_text_a_line(tmp_path):
    """As it is; its words are found later."""
    text = "Ann lives in Berlin .\n\n苹果发布了新手机\n我 住 北京\nI take vitamin B-12\n"
    assert texts(write(tmp_path / "a.txt", text)) == text.split("\n")[:-1]
    assert texts(write(tmp_path / "b.txt", "vitamin B-12\n")) == ["vitamin B-12"]
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


# ── texts to tag ──


@given(given=st.lists(TEXTS, min_size=1, max_size=4))
def test_texts_of_json_lines_are_as_they_are(tmp_path_factory, given):
    file = tmp_path_factory.mktemp("texts") / "a.jsonl"
    write(file, "".join(json.dumps({"n": n, "text": text}) + "\n" for n, text in enumerate(given)))
    read = list(read_tagged(file, needs_tags=False))
    assert [one.text for one in read] == given
    assert [one.row for one in read] == [{"n": n, "text": text} for n, text in enumerate(given)]
    lines = "".join(json.dumps({"body": text}) + "\r\n" for text in given)
    assert texts(write(file, lines), text="body") == given


@given(
    given=st.lists(UTF8_TEXTS.map(lambda text: text.replace("\0", "")), min_size=1, max_size=4),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_texts_in_cells_are_as_they_are(tmp_path_factory, given, end):
    file = tmp_path_factory.mktemp("texts") / "a.csv"
    stream = io.StringIO(newline="")
    table = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator=end)
    table.writerows([["id", "text"], *([str(n), text] for n, text in enumerate(given))])
    write(file, "\ufeff" + stream.getvalue())
    read = list(read_tagged(file, needs_tags=False))
    assert [one.row for one in read] == [{"id": str(n), "text": text} for n, text in enumerate(given)]
    assert [one.text for one in read] == given


@given(
    given=st.lists(UTF8_TEXTS.map(lambda text: re.sub("[\0\r\n\t]", "", text) + "."), min_size=1, max_size=4),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_lines_are_texts_as_they_are_but_for_their_ends(tmp_path_factory, given, end):
    file = tmp_path_factory.mktemp("texts") / "a.txt"
    assert texts(write(file, "\ufeff" + "".join(text + end for text in given))) == given


def test_a_return_inside_a_line_and_a_second_mark_of_byte_order_are_characters(tmp_path):
    assert texts(write(tmp_path / "a.txt", "\ufeffa\rb\ufeff\r\n\ufeffc\r\r\n")) == ["a\rb\ufeff", "\ufeffc\r"]


@pytest.mark.parametrize("between", ["\t", " "])
@pytest.mark.parametrize(
    "end",
    ["\n", "\r\n"],
)
def test_words_with_tags_in_a_file_of_plain_text_are_read_as_in_others(tmp_path, between, end):
    """Where no text can be meant, line ends matter as little as in a .conll file."""
    lines = [f"Ann{between}B-PER", f"left{between}O", "", f"Bob{between}B-PER", ""]
    path = write(tmp_path / "a.txt", "\ufeff" + "".join(line + end for line in lines))
    assert sentences(path, needs_tags=False) == [(("Ann", "left"), ("B-PER", "O")), (("Bob",), ("B-PER",))]
    assert sentences(path) == sentences(path.rename(tmp_path / "a.conll"), needs_tags=False)


def test_texts_come_from_standard_input_too(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Ann\r\n\n苹果".encode()), encoding="utf-8"))
    assert texts("-") == ["Ann", "", "苹果"]


def test_the_text_of_objects_is_found_by_usual_names_unless_there_are_words(tmp_path):
    for name in ("text", "sentence", "Text"):
        assert texts(write(tmp_path / "a.jsonl", json.dumps({"id": 1, name: "Ann left"}) + "\n")) == ["Ann left"]
    both = write(tmp_path / "b.jsonl", '{"text": "Ann left", "words": ["Ann", "left"], "x": {"y": [1]}}\n')
    (one,) = read_tagged(both, needs_tags=False)
    assert one.words == ("Ann", "left")
    assert one.row == {"text": "Ann left", "words": ["Ann", "left"], "x": {"y": [1]}}
    (one,) = read_tagged(both, needs_tags=False, text="text")
    assert one.text == "Ann left"
    assert read_tagged(both, needs_tags=False, text="text").columns == Columns("text")


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", "id,body\n1,Ann\n", {"text": "bdy"}, "a.csv, line 1: no column 'bdy' for `text`; there are: id, body. Did"),
        ("a.jsonl", '{"text": "a"}\n{"txt": "b"}\n', {}, "a.jsonl, line 2: no column 'text'; there are: txt. Did you mean `txt`?"),
        ("a.jsonl", '{"text": ["a"]}\n', {}, "a.jsonl, line 1: column 'text' holds a list, not text"),
        ("a.jsonl", '{"id": 1}\n', {}, "a.jsonl, line 1: no column is known as the words; there are: id"),
        ("a.csv", "text\n", {}, "a.csv: holds no examples"),
        ("a.txt", "a\n\0b\n", {}, "a.txt, line 2: a NUL byte, not text"),
        ("a.xlsx", "PK", {}, "a.xlsx: no known suffix"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_texts_is_said_with_its_line(tmp_path, name, content, options, message):
    assert error_of(read_tagged, write(tmp_path / name, content), needs_tags=False, **options).startswith(message)


# ── what is no word, no tag, no comment ──

COMMENTED = "# a line of its own\n\n# sent 1\tsource=web\n# 17\nAnn\tB-PER\n#1\tO\n\n# 18\n#\tO\n#left\tO\n"


@pytest.mark.parametrize("needs_tags", [True, False])
def test_comments_before_a_sentence_are_no_words_and_hashtags_are(tmp_path, needs_tags):
    path = write(tmp_path / "a.conll", COMMENTED)
    assert sentences(path, needs_tags=needs_tags) == [(("Ann", "#1"), ("B-PER", "O")), (("#", "#left"), ("O", "O"))]
    ids = write(tmp_path / "ids.conll", COMMENTED.replace("B-PER", "3").replace("O", "0"))
    assert sentences(ids, tags="2")[-1][0] == ("#", "#left")
    ids.write_text(ids.read_text().replace("\t", " "))
    assert sentences(ids, tags="2")[-1][0] == ("#", "#", "#left")  # # 18 looks like the words of a file of numbers


@pytest.mark.parametrize("space", [" ", "\t"])
def test_comments_take_any_number_of_cells_but_that_of_the_words(tmp_path, space):
    words = "".join(f"{space.join((word, 'x', 'O'))}\n" for word in ("#", "a", "b"))
    for comment in ("#", "# id", "# 1 2 3 4", "#begin document (a); part 000"):
        assert sentences(write(tmp_path / "a.conll", f"{comment}\n{words}")) == [(("#", "a", "b"), ("O",) * 3)]
    assert error_of(read_tagged, write(tmp_path / "b.conll", f"{words}# of the next\n")).startswith("b.conll, line 4: ")
    no_tag = write(tmp_path / "c.conll", f"{words}\n#left\n")  # a word without its tag, which is not lost
    assert error_of(read_tagged, no_tag).startswith("c.conll, line 5: 1 columns, the lines before have 3")


def test_a_comment_with_a_space_where_words_have_a_tab_is_no_word(tmp_path):
    path = write(tmp_path / "a.conll", "# newdoc\n# text = #\n#\tO\na\tO\n\n# newpar\nb\tO\n")
    assert sentences(path) == [(("#", "a"), ("O", "O")), (("b",), ("O",))]


def test_tags_in_json_lines_have_no_spaces_around_them(tmp_path):
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
    assert texts(plain) == ["Ann\tcame home", "Bob left"]
    assert texts(write(tmp_path / "b.txt", "Ann\tleft\n")) == ["Ann\tleft"]
    assert [line.partition(", ")[2] for line in said] == ["line 1: tabs; sentences are read, one per line"] * 2
    conll = write(tmp_path / "c.txt", "Ann\tNNP\nleft\tVBD\n")
    assert sentences(conll, needs_tags=False) == [(("Ann", "left"), ("NNP", "VBD"))]
    assert said[2].endswith("line 1: tabs; words with their tags are read, one per line")
    assert sentences(write(tmp_path / "d.txt", "Ann\tB_PER\nleft\tO\n"), needs_tags=False)[0][0] == ("Ann", "left")
    assert len(said) == 3  # of tags there is no doubt


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


def test_what_are_no_tags_matters_only_where_tags_are_needed(tmp_path):
    tagged = write(tmp_path / "b.jsonl", '{"words": ["a", "b"], "tags": ["O"]}\n{"words": ["c"], "tags": null}\n')
    assert sentences(tagged, needs_tags=False) == [(("a", "b"), None), (("c",), None)]
    assert "line 1: 2 words and 1 tags" in error_of(read_tagged, tagged)


# ── measurement data: its README gives the numbers ──

ZH_TYPES = set("address book company game government movie name organization position scene".split())


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


def test_a_table_of_texts_that_is_read_as_words_is_doubted(tmp_path, said):
    file = write(tmp_path / "a.tsv", "id\ttext\n1\tAnn left.\n")
    assert [one.words for one in read_tagged(file, needs_tags=False)] == [("id", "1")]
    assert "a.tsv, line 1: read as words, one per line; if it is a table of texts, name their column" in said[0]
