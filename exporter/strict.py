"""Reading JSON and YAML so that nothing is lost: a key that is given twice is refused, and text stays text.

YAML is read as version 1.2 (its core schema), not as 1.1: `no`, `1:30` and `2024-08-06` are text. A number
that JSON would spell otherwise (`0300`, `0x1F`, `.5`) is refused, for its writer may have meant text.
"""

import math
import re
from collections.abc import Callable, Hashable
from typing import Any, Final

import jiter
import yaml

_TAG: Final = "tag:yaml.org,2002:"
_STARTS_OF_NUMBERS: Final = "+-.0123456789"
_OTHER_NUMBERS: Final = (
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
PLAIN_SCALARS: Final = {
    f"{_TAG}null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    f"{_TAG}bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    f"{_TAG}int": (r"-?(0|[1-9][0-9]*)", list(_STARTS_OF_NUMBERS)),
    f"{_TAG}float": (r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", list(_STARTS_OF_NUMBERS)),
    "!number": (_OTHER_NUMBERS, list(_STARTS_OF_NUMBERS)),
}
"""By tag: the pattern of the plain scalars that are no text, and the characters that they begin with; the
first that matches counts. `!number` are those that JSON spells otherwise, or lacks."""
BREAKS: Final = {"\x85": r"\N", "\u2028": r"\L", "\u2029": r"\P"}
"""What YAML 1.1, and with it PyYAML, takes for line breaks, and how it is written in double quotes."""


def check_json(body: bytes) -> None:
    """Raise ValueError, with the place, if the text is not JSON (RFC 8259), or has a key twice in an object.

    What nests more than 200 deep, or holds an integer of more than 4300 digits, is refused too.
    """
    jiter.from_json(body, allow_inf_nan=False, cache_mode="keys", catch_duplicate_keys=True)


def read_yaml(text: str) -> Any:
    """The content of a document. Raise ValueError with the place of the error and the remedy."""
    for character, escape in BREAKS.items():
        before, found, _ = text.partition(character)
        if found:
            line = before.count("\n") + 1
            raise ValueError(
                f"line {line}: U+{ord(character):04X} would be lost: write {escape} between double quotes"
            )
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (makes plain values alone)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _Loader(yaml.BaseLoader):
    """Makes dict, list, str, int, float, bool and None; any other tag is refused."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        if not isinstance(node, yaml.MappingNode):  # `!!map [a]`
            raise _error(node, "this is not a mapping: remove the tag")
        found: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != f"{_TAG}str":
                raise _error(key_node, "a key must be text: write it in quotes")
            if key_node.value in found:
                raise _error(key_node, f"the key {key_node.value!r} occurs twice")
            found[key_node.value] = self.construct_object(value_node, deep=deep)
        return found


def _error(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _construct_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _construct_sequence(loader: _Loader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node)


def _construct_scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:
    text = _construct_text(loader, node)
    if not re.fullmatch(PLAIN_SCALARS[node.tag][0], text):  # `!!int 0300`
        raise _error(node, f"{text} does not match its tag: remove the tag, and write text in quotes")
    value = _MAKE[node.tag](text)
    if value == math.inf or value == -math.inf:
        raise _error(
            node, f"{text} is larger than any number that can be kept: write a smaller one, or quote it"
        )
    return value


def _refuse_number(_: _Loader, node: yaml.Node) -> None:
    raise _error(node, f"{node.value} can be a number or text: write the number as JSON does, or quote it")


def _refuse(_: _Loader, node: yaml.Node) -> None:
    raise _error(node, f"the tag {node.tag} is not known: remove it")


_MAKE: Final[dict[str, Callable[[str], Any]]] = {
    f"{_TAG}null": lambda _: None,
    f"{_TAG}bool": lambda text: text.lower() == "true",
    f"{_TAG}int": int,
    f"{_TAG}float": float,
}
for _tag, (_pattern, _starts) in PLAIN_SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _starts)
    _Loader.add_constructor(_tag, _construct_scalar)
_Loader.add_constructor("!number", _refuse_number)
_Loader.add_constructor(f"{_TAG}str", _construct_text)
_Loader.add_constructor(f"{_TAG}seq", _construct_sequence)
_Loader.add_constructor(f"{_TAG}map", _Loader.construct_mapping)
_Loader.add_constructor(None, _refuse)
