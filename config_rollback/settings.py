"""Settings of the service: read from `CONFIG_ROLLBACK_*` variables, validated once, frozen.

A secret is given inline or as the path of a file (`_FILE`), never both, and is never printed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from config_rollback.errors import SettingsError

PREFIX = "CONFIG_ROLLBACK_"
MINIMUM_SECRET_BYTES = 32
"""RFC 7518, section 3.2: an HS256 key is at least as long as the hash."""
MINIMUM_TOKEN_LENGTH = 16

_SECRETS = ("database_url", "jwt_secret", "service_tokens", "alertmanager_tokens")

TokenList = Annotated[tuple[SecretStr, ...], NoDecode]
"""Tokens, one per line or comma separated; all verify, so that one can be replaced without a gap."""


class Settings(BaseSettings):
    """Everything the service can be told. Build with `load`, or by keyword in tests."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )

    host: str = "127.0.0.1"
    port: int = Field(default=9811, ge=0, le=65535)
    state_dir: Path | None = None
    """Folder of the default SQLite database."""
    database_url: SecretStr = SecretStr("")
    """SQLAlchemy URL, a secret as it may hold a password; by default `sqlite:///<state_dir>/config_rollback.db`."""
    database_url_file: Path | None = None
    jwt_secret: SecretStr = SecretStr("")
    """HS256 key, at least 32 bytes."""
    jwt_secret_file: Path | None = None
    service_tokens: TokenList = ()
    """Bearer tokens of the services that fetch configurations."""
    service_tokens_file: Path | None = None
    alertmanager_tokens: TokenList = ()
    """Bearer tokens of Alertmanager's webhook."""
    alertmanager_tokens_file: Path | None = None
    prometheus_url: str | None = None
    external_url: str = "http://127.0.0.1:9811"
    """Where browsers reach this service: decides cookie flags and the origin that forms must come from."""
    alertmanager_url: str | None = None
    grafana_url: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in _SECRETS:
            path = values.get(f"{name}_file")
            if path is None:
                continue
            if values.get(name):
                raise ValueError(f"{_variable(name)} and {_variable(name)}_FILE are both set: give one")
            try:
                values[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise ValueError(f"{_variable(name)}_FILE: cannot read {path}: {reason}") from None
        if not values.get("database_url"):
            if not values.get("state_dir"):
                raise ValueError(f"{_variable('state_dir')} or {_variable('database_url')} must be set")
            values["database_url"] = f"sqlite:///{Path(values['state_dir']) / 'config_rollback.db'}"
        return values

    @field_validator("service_tokens", "alertmanager_tokens", mode="before")
    @classmethod
    def _split_tokens(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(token.strip() for token in value.replace(",", "\n").splitlines() if token.strip())
        return value

    @field_validator("service_tokens", "alertmanager_tokens")
    @classmethod
    def _check_tokens(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(token.get_secret_value()) < MINIMUM_TOKEN_LENGTH for token in tokens):
            raise ValueError(f"every token needs at least {MINIMUM_TOKEN_LENGTH} characters")
        return tokens

    @field_validator("jwt_secret")
    @classmethod
    def _check_secret(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value().encode()) < MINIMUM_SECRET_BYTES:
            raise ValueError(f"needs at least {MINIMUM_SECRET_BYTES} bytes")
        return secret

    @field_validator("external_url", "prometheus_url", "alertmanager_url", "grafana_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http or https URL")
        if parts.query or parts.fragment:
            raise ValueError("must have no query or fragment")
        return url.rstrip("/")

    @property
    def secure(self) -> bool:
        """Whether browsers come over TLS."""
        return self.external_url.startswith("https://")


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the environment. Raises `SettingsError`, which names each variable that is wrong or unknown."""
    environ = os.environ if environ is None else environ
    given = {
        name.removeprefix(PREFIX).lower(): value for name, value in environ.items() if name.startswith(PREFIX)
    }
    try:
        return Settings(**{name: value for name, value in given.items() if value != ""})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(problem) for problem in error.errors())) from None


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _describe(problem: Mapping[str, Any]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "no such setting"
    location = problem["loc"]
    return f"{_variable(str(location[0]))}: {message}" if location else message
