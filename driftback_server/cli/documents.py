"""Persona files that `publish` reads and `show` writes: YAML with `persona`, `config`, optionally `note`."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, field_validator

from config_rollback.personas import persona_config
from config_rollback.visible import visible
from exporter.strict import PLAIN_SCALARS, read_yaml


class Document(BaseModel):
    """A file to publish."""

    model_config = ConfigDict(extra="forbid", strict=True)

    persona: str
    config: dict[str, JsonValue]
    note: str = ""

    @field_validator("config")
    @classmethod
    def _check_numbers(cls, config: dict[str, JsonValue]) -> dict[str, JsonValue]:
        persona_config.canonical_json(config)  # ValueError: a number too large for a float
        return config


def read(file: Path) -> Document:
    """The document in a file. Raises ValueError, which names the file and the problem."""
    try:
        content = read_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: the file is not UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: must contain `persona`, `config` and, optionally, `note`")
    try:
        return Document.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{item['field']}: {item['problem']}" for item in persona_config.describe(error))
        raise ValueError(f"{file}: {problems}") from None


def written(document: Document, *, allow_unicode: bool = True) -> str:
    """The document as YAML, which `read` reads back exactly. Invisible characters are escapes.

    Without `allow_unicode` everything but ASCII is an escape, for terminals that cannot show it.
    """
    content = {"persona": document.persona, "note": document.note, "config": document.config}
    text = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode, width=float("inf")
    )
    return re.sub(r"[^\n\t -~]", _escaped, text)


def _escaped(match: re.Match[str]) -> str:
    character, number = match[0], ord(match[0])
    if visible(character) == character:
        return character
    return f"\\u{number:04X}" if number <= 0xFFFF else f"\\U{number:08X}"


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or our reader would take for another type, and text that needs an escape."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    needs_escape = any(_escaped(match) != match[0] for match in re.finditer(r"[^\n\t -~]", text))
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if needs_escape else None)


for _tag, (_pattern, _starts) in PLAIN_SCALARS.items():
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _starts)
_Dumper.add_representer(str, _represent_text)
