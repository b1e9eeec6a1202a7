"""Characters that nobody sees: shown by their number, and found in names and reasons."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_rollback.visible import hidden_in_prose, is_hidden, visible, without_hidden


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Answer.\n\tKindly.", "Answer.\n\tKindly."),
        ("naïve 日本語 שלום 🚀 £5", "naïve 日本語 שלום 🚀 £5"),
        ("a\x1b[2K\r\x07\x85", "a<U+001B>[2K<U+000D><U+0007><U+0085>"),
        ("a\u200bb\u2060\ufeff\xad", "a<U+200B>b<U+2060><U+FEFF><U+00AD>"),
        ("\u202eabc\u2066", "<U+202E>abc<U+2066>"),
        ("no\U000e0074\U000e007f", "no<U+E0074><U+E007F>"),
        ("❤\ufe0f a\U000e0100 👩\u200d🚀", "❤<U+FE0F> a<U+E0100> 👩<U+200D>🚀"),
        ("\u2028\u2029", "<U+2028><U+2029>"),
        ("a\xa0b\u3000c\u200ad", "a<U+00A0>b<U+3000>c<U+200A>d"),
        ("\u3164\u115f\u034f\u2800", "<U+3164><U+115F><U+034F><U+2800>"),
        ("<U+200B>", "<U+003C>U+200B>"),
        ("a < b, <U>, <U+12>", "a < b, <U>, <U+12>"),
    ],
)
def test_what_nobody_sees_is_shown_by_its_number(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text() | st.lists(st.sampled_from(["<", "U+200B>", "\u200b", "<U+003C>", "U+003C>"])).map("".join))
def test_no_two_texts_look_alike(text: str) -> None:
    shown = visible(text)
    assert not any(is_hidden(character) for character in shown if character not in "\n\t")
    back, rest = "", shown
    while rest:
        if rest.startswith("<U+") and (end := rest.find(">")) in range(7, 10) and _hexadecimal(rest[3:end]):
            back, rest = back + chr(int(rest[3:end], 16)), rest[end + 1 :]
        else:
            back, rest = back + rest[0], rest[1:]
    assert back == text


def _hexadecimal(digits: str) -> bool:
    return all(digit in "0123456789ABCDEF" for digit in digits)


def test_what_unicode_draws_as_nothing_is_hidden() -> None:
    formats = [
        c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in ("Cc", "Cf", "Cs")
    ]
    selectors = [*range(0xFE00, 0xFE10), *range(0x180B, 0x1810), *range(0xE0000, 0xE1000)]
    assert all(map(is_hidden, [*formats, *map(chr, selectors)]))
    assert not any(map(is_hidden, " aé日🚀\u0301\ue000"))


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("plain\r\n\twith breaks", []),
        ("क्\u200dष 👩\u200d❤\ufe0f\u200d👨 ⚠\ufe0f", []),
        ("a\u200db", ["\u200d"]),
        ("a\ufe0f", ["\ufe0f"]),
        ("é\ufe0f\u200d\u200d", ["\u200d"]),
        ("é\u200b", ["\u200b"]),
        ("\u202ee\U000e0041\x1b", ["\u202e", "\U000e0041", "\x1b"]),
    ],
    ids=["breaks", "scripts and emoji", "joiner in ASCII", "selector in ASCII", "run", "space", "others"],
)
def test_prose_has_the_joiners_that_its_script_needs_and_nothing_else_hidden(
    text: str, hidden: list[str]
) -> None:
    assert hidden_in_prose(text) == hidden
    assert hidden_in_prose(without_hidden(text)) == []
    assert (without_hidden(text) == text) == (hidden == [])
