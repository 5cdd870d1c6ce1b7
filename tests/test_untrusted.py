"""What strangers wrote is read with limits, and every refusal is a ValueError of a few words."""

import json
import os
import sys
import threading

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert import untrusted
from bert.untrusted import dump_yaml, parse_json, parse_yaml, printable, read_json, read_yaml_text


def test_a_pipe_that_nobody_writes_to_is_refused_and_one_that_is_written_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "_PATIENCE", 0.1)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(OSError, match="a pipe without a writer"):
        read_json(tmp_path / "config.json")
    monkeypatch.setattr(untrusted, "_PATIENCE", 10.0)
    writer = threading.Thread(target=(tmp_path / "config.json").write_text, args=('{"a": 1}',))
    writer.start()
    assert read_json(tmp_path / "config.json") == {"a": 1}
    writer.join()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=30, deadline=None)
@given(PLAIN)
def test_json_of_ordinary_size_is_read_as_it_is(value):
    assert parse_json(json.dumps(value)) == value


@settings(max_examples=30, deadline=None)
@given(PLAIN)
@example({"\x85": "a\u2028b\u2029 c"})
def test_yaml_of_ordinary_size_is_read_as_it_is(value):
    assert parse_yaml(dump_yaml(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "0E0",
        "1e5",
        "-1E+5",
        "+1e-5",
        ".5e3",
        "5.e3",
        "1_0e5",
        "1.5",
        "0x1F",
        "0b1",
        "017",
        "1_000",
        "1:30",
        ".inf",
        ".NaN",
    ]
    + [
        "yes",
        "No",
        "on",
        "OFF",
        "true",
        "~",
        "null",
        "",
        "2001-01-01",
        "2001-01-01 00:00:00",
        "<<",
        "=",
        "- a",
        "a: b",
        "# a",
    ],
)
def test_a_text_that_looks_like_something_else_stays_a_text(text):
    value = {"text": text, "list": [text], text: 1}
    assert parse_yaml(dump_yaml(value)) == value


@pytest.mark.parametrize(
    "text",
    ["", "{", "{'a': 1}", "[1,]", "\ufeff{}", '"\x00"', "[" * 100_000, '{"a":' * 65 + "1" + "}" * 65, "9" * 5000],
)
def test_what_is_no_json_or_too_deep_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_64_levels_are_read_and_65_are_not():
    assert parse_json("[" * 64 + "]" * 64)
    assert parse_yaml("[" * 64 + "]" * 64)
    for parse in (parse_json, parse_yaml):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse("[" * 65 + "]" * 65)
        with pytest.raises(ValueError, match="nested too deeply"):
            parse("[" * 1000 + "]" * 1000)


def test_files_are_read_up_to_a_size(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    monkeypatch.setattr(untrusted, "MOST_BYTES", 20)
    monkeypatch.setattr(untrusted, "_MOST_YAML_BYTES", 20)
    file.write_bytes(b'"' + b"a" * 18 + b'"')
    assert read_json(file) == "a" * 18
    assert read_yaml_text(file) == '"' + "a" * 18 + '"'
    file.write_bytes(b'"' + b"a" * 19 + b'"')
    for read in (read_json, read_yaml_text):
        with pytest.raises(ValueError, match="larger than 20 bytes"):
            read(file)
    with pytest.raises(ValueError, match="larger than 20 characters"):
        parse_yaml("a" * 21)


def test_an_endless_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "MOST_BYTES", 1000)
    (tmp_path / "zeros").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="larger than 1,000 bytes"):
        read_json(tmp_path / "zeros")


def test_a_file_that_is_not_utf_8_is_a_value_error_and_an_absent_one_an_os_error(tmp_path):
    (tmp_path / "a").write_bytes(b'"\xff"')
    for read in (read_json, read_yaml_text):
        with pytest.raises(ValueError):
            read(tmp_path / "a")
        with pytest.raises(OSError):
            read(tmp_path / "b")
        with pytest.raises(OSError):
            read(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [id]",
        "!!python/name:os.system",
        "!!python/object/new:os.system [id]",
        "!!python/module:os",
        "!object a",
    ],
)
def test_no_object_is_made_of_yaml(text):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(f"a: {text}")


def test_aliases_that_stand_for_too_many_values_are_refused():
    doubling = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    with pytest.raises(ValueError, match="its aliases stand for too many values"):
        parse_yaml(doubling)
    assert parse_yaml("a: &a [1, 2]\nb: *a")["b"] == [1, 2]


def test_merged_mappings_that_double_at_each_level_are_refused_before_they_fill_the_memory():
    doubling = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
    with pytest.raises(ValueError, match="its aliases stand for too many values"):
        parse_yaml(doubling)
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}")["b"] == {"x": 1, "y": 2}


def test_a_list_that_holds_itself_is_refused():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_yaml("&a [*a]")
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_yaml("&a !!pairs [b: *a]")


@pytest.mark.parametrize(
    "text",
    [
        '!!int ""',
        '!!float ""',
        "!!int a",
        "!!bool maybe",
        "!!timestamp a",
        "2001-99-99",
        "1" + ":59" * 200 + ".5",
        "9" * 5000,
    ],
)
def test_a_value_that_its_tag_cannot_be_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_yaml(f"a: {text}")


@pytest.mark.parametrize("text", ["a: [", "a: 'b", "\t- a", "a: 1\n b: 2", "? [a]\n: 1", "\x00", "*a", "<<: 1"])
def test_what_is_no_yaml_is_a_yaml_error(text):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


# ── text for a terminal ──


def test_no_control_character_but_tab_and_newline_is_left():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(every)
    assert len(shown) == len(every)
    for before, after in zip(every, shown):
        control = before < " " or "\x7f" <= before <= "\x9f"
        if control and before not in "\t\n":
            assert after.isprintable()
        else:
            assert after == before


def test_what_a_terminal_would_obey_shows_as_signs():
    assert printable("\x1b[2Jgone\r\x07\b\x7f\x9b31m") == "␛[2Jgone␍␇␈\ufffd\ufffd31m"
    assert printable("plain\ttext 苹果\n") == "plain\ttext 苹果\n"
