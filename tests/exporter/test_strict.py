"""JSON and YAML: read without loss, or refused with the place."""

from typing import Any

import pytest

from exporter.strict import check_json, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("Off", "Off"),
        ("1:30", "1:30"),
        ("2024-08-06", "2024-08-06"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("'0300'", "0300"),
        ("!!str 300", "300"),
        ("=", "="),
        ("-0.5e-7", -0.5e-7),
        ("1e3", 1000.0),
        ("300", 300),
        ("true", True),
        ("~", None),
        ("", None),
        ('"a\\Nb"', "a\x85b"),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("[&x {a: 1}, *x]", [{"a": 1}, {"a": 1}]),
    ],
)
def test_yaml_is_read_as_its_version_1_2(text: str, value: Any) -> None:
    found = read_yaml(text)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' occurs twice"),
        ("a: {b: {c: 1, 'c': 2}}", "line 1, column 15: the key 'c' occurs twice"),
        ("a: 0300", "line 1, column 4: 0300 can be a number or text: write the number as JSON does, or"),
        ("a: 0x1F", "0x1F can be a number or text"),
        ("a: +5", "can be a number or text"),
        ("a: .5", "can be a number or text"),
        ("a: .inf", "can be a number or text"),
        ("a: -1e999", "line 1, column 4: -1e999 is larger than any number that can be kept"),
        ("a: !!int 0300", "0300 does not match its tag"),
        ("1: a", "line 1, column 1: a key must be text: write it in quotes"),
        ("[a]: 1", "a key must be text"),
        ("!!map [a]", "this is not a mapping"),
        ("!!binary aGk=", "the tag tag:yaml.org,2002:binary is not known"),
        ("!!python/name:os.system x", "is not known"),
        ("a: [1", "line 1, column 6: expected ',' or ']'"),
        ("a: &x [*x]", "recursive"),
        ("a\n b: c\x85d", "line 2: U+0085 would be lost: write \\N between double quotes"),
        ("'\u2028'", "U+2028 would be lost"),
        ("[" * 3000 + "]" * 3000, "it is nested too deeply"),
        ("a: \x1b", "unacceptable character"),
    ],
)
def test_what_yaml_would_lose_or_turn_into_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (its message is checked)
        read_yaml(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": 1,\n"a": 2}', "key .a. at line 2"),
        (b'[{"a": {"b": 1, "\\u0062": 2}}]', "key .b. at line 1"),
        (b"[" * 3000 + b"]" * 3000, "recursion limit"),
        (b"NaN", "line 1"),
        (b'"\\ud800"', "line 1"),
        (b"\xef\xbb\xbf{}", "line 1"),
        (b"", "EOF"),
    ],
    ids=lambda value: str(value[:30]),
)
def test_json_that_is_none_or_gives_a_key_twice_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_json(body)


def test_json_may_repeat_a_key_in_another_object() -> None:
    check_json(b'[{"a": {"a": 1}}, {"a": 1}]')
