"""Files of secrets are read alike by both services, and their errors name the file and the remedy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from config_rollback import settings as config_rollback_settings
from config_rollback.errors import SettingsError as ConfigRollbackSettingsError
from exporter.errors import SettingsError
from exporter.secret_files import read_secret, read_tokens
from tests.exporter.running import settings_for

TOKENS = ["an-ingest-token-1", "an-ingest-token-2"]
BOM = "\ufeff"


def tokens_of_the_exporter(file: Path) -> list[str]:
    """What the exporter takes from the file."""
    settings = settings_for(file.parent, ingest_tokens=None, ingest_tokens_file=file)
    return [token.get_secret_value() for token in settings.read_tokens()]


def tokens_of_config_rollback(file: Path) -> list[str]:
    """What config_rollback takes from the file."""
    settings = config_rollback_settings.load(
        {
            "CONFIG_ROLLBACK_STATE_DIR": "/x",
            "CONFIG_ROLLBACK_JWT_SECRET": "x" * 32,
            "CONFIG_ROLLBACK_SERVICE_TOKENS_FILE": str(file),
        }
    )
    return [token.get_secret_value() for token in settings.service_tokens]


READERS = pytest.mark.parametrize(
    ("read", "setting"),
    [
        (tokens_of_the_exporter, "EXPORTER_INGEST_TOKENS_FILE"),
        (tokens_of_config_rollback, "CONFIG_ROLLBACK_SERVICE_TOKENS_FILE"),
    ],
    ids=["exporter", "config_rollback"],
)
Read = Callable[[Path], list[str]]


@READERS
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(TOKENS),
        ",".join(TOKENS),
        f"{BOM}{TOKENS[0]}\r\n{TOKENS[1]}\r\n",
        f"\n {TOKENS[0]} , \n\n{TOKENS[1]}\t\n",
    ],
    ids=["lines", "commas", "a byte order mark and lines of Windows", "white space around them"],
)
def test_the_services_take_the_same_tokens_from_a_file(
    tmp_path: Path, read: Read, setting: str, text: str
) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(text.encode())
    assert read(file) == TOKENS


@READERS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "contains no token"),
        (b"an-ingest token-with-a-space", "without spaces: write one token a line"),
        (b"an-ingest-token-that-was-wr\nap", "at least 16 characters on one line"),
        ("ein-schönes-token".encode(), "visible ASCII"),
        (b"an-ingest-token\0-with-NUL", "visible ASCII"),
        ("an-ingest-token-1".encode("utf-16"), "it is not UTF-8"),
        (None, "No such file or directory"),
    ],
    ids=["nothing", "a space", "a line break", "no ASCII", "NUL", "UTF-16", "no file"],
)
def test_a_file_without_usable_tokens_is_named_and_shows_none(
    tmp_path: Path, read: Read, setting: str, content: bytes | None, message: str
) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises((SettingsError, ConfigRollbackSettingsError)) as caught:
        read(file)
    error = str(caught.value)
    assert error.startswith(f"{setting}: ")
    assert str(file) in error
    assert message in error
    assert "an-ingest" not in error


def test_a_secret_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{BOM}a secret of one line\r\n")
    assert read_secret(file) == "a secret of one line"
    file.write_text("a secret of\ntwo lines\n")
    with pytest.raises(
        ValueError, match=f"{file} has more than one line: write only the secret, on one line"
    ):
        read_secret(file)


def test_tokens_of_both_ways_of_writing_can_be_mixed(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKENS[0]}\n{TOKENS[1]},{TOKENS[0]}")
    assert read_tokens(file) == (*TOKENS, TOKENS[0])
