"""Secrets in files: read alike by both services and the command line.

Every error is a ValueError that names the file and the remedy and shows nothing of the secret.
"""

from pathlib import Path

MIN_TOKEN_LENGTH = 16


def read_secret(path: Path) -> str:
    """The one line of a file, without the white space around it."""
    secret = _read(path).strip()
    if len(secret.splitlines()) > 1:
        raise ValueError(f"{path} has more than one line: write only the secret, on one line")
    return secret


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens of a file, see `split_tokens`."""
    text = _read(path)
    try:
        return split_tokens(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def split_tokens(text: str) -> tuple[str, ...]:
    """Tokens, one a line or separated by commas, in their order."""
    tokens = tuple(token.strip() for token in text.replace(",", "\n").splitlines() if token.strip())
    if not tokens:
        raise ValueError("contains no token: write at least one")
    for token in tokens:
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ValueError("a token must be visible ASCII without spaces: write one token a line")
        if len(token) < MIN_TOKEN_LENGTH:
            raise ValueError(f"a token must have at least {MIN_TOKEN_LENGTH} characters on one line")
    return tokens


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {path}: it is not UTF-8; save it as UTF-8") from None
