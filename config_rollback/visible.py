"""Shows invisible characters, and those that change how others are drawn, because people decide by the text.

Two versions of a prompt may differ by nothing else, and a model reads them all. Configurations may hold them,
for scripts and emoji need joiners; names and reasons are refused with them.
"""

from __future__ import annotations

import re
import unicodedata

# Control, format (joiners, tags, directions of writing), surrogates, line and paragraph separators.
_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# What Unicode calls ignorable by default, in other categories: fillers, variation selectors, what is not
# assigned yet; and the Braille cell without dots.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)
# What may have to be shown, and the beginning of what would be read as a character that is shown.
_SUSPECT = re.compile(r"[^\n\t -~]|<(?=U\+[0-9A-F]{4,6}>)")
# A letter or emoji with the selector and the joiner that its script may need behind it; or any character.
_WRITTEN = re.compile("[^\x00-\x7f\u200c\u200d\ufe0e\ufe0f][\ufe0e\ufe0f]?[\u200c\u200d]?|.", re.DOTALL)


def visible(text: str) -> str:
    """The text with `<U+200B>` for each character that is not seen; spaces of other widths are among them.

    Different texts stay different: what reads like such a mark is marked itself. Line breaks (LF) and tabs
    stay.
    """
    return _SUSPECT.sub(_shown, text)


def is_hidden(character: str) -> bool:
    """Whether it is drawn as nothing, or directs how others are drawn."""
    return unicodedata.category(character) in _CATEGORIES or _BLANK.match(character) is not None


def hidden_in_prose(text: str) -> list[str]:
    """Its hidden characters, but not line breaks, tabs, and the joiners that scripts and emoji need."""
    return [found[0] for found in _WRITTEN.findall(text) if _is_stray(found[0])]


def without_hidden(text: str) -> str:
    """The text without what `hidden_in_prose` finds."""
    return "".join(found for found in _WRITTEN.findall(text) if not _is_stray(found[0]))


def code_point(character: str) -> str:
    """Its number as Unicode writes it: `U+200B`."""
    return f"U+{ord(character):04X}"


def _is_stray(character: str) -> bool:
    return character not in "\n\r\t" and is_hidden(character)


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    if character != "<" and unicodedata.category(character) != "Zs" and not is_hidden(character):
        return character
    return f"<{code_point(character)}>"
