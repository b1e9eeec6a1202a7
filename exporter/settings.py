"""The exporter's settings: environment variables with the prefix EXPORTER_, validated once, then frozen."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from exporter.errors import SettingsError
from exporter.secret_files import read_tokens, split_tokens

PREFIX = "EXPORTER_"


class Settings(BaseSettings):
    """All settings. Tokens come inline or in a file, separated by commas or lines; all are valid."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on; `::` is every one, IPv4's too.")
    port: int = Field(9810, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    state_dir: Path = Field(description="Folder of the durable journal; one exporter at a time.")
    ingest_tokens: SecretStr | None = Field(None, description="Bearer tokens that may push.")
    ingest_tokens_file: Path | None = Field(
        None, description="File with those tokens, instead; SIGHUP reads it again."
    )
    policy_file: Path | None = Field(None, description="Label policy (YAML).")
    max_connections: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Connections that may be open at once. A client library keeps one open for each process.",
    )
    max_body_bytes: int = Field(
        4 * 1024**2, ge=1024, le=64 * 1024**2, description="Longest body taken, in bytes."
    )
    body_timeout_seconds: float = Field(10, gt=0, le=300, description="Time in which a body must arrive.")
    compact_bytes: int = Field(
        64 * 1024**2,
        ge=4096,
        description="Growth of the journal after which it is replaced by a snapshot, in bytes.",
    )

    @model_validator(mode="after")
    def _one_source_of_tokens(self) -> Self:
        if (self.ingest_tokens is None) == (self.ingest_tokens_file is None):
            raise ValueError("set exactly one of EXPORTER_INGEST_TOKENS and EXPORTER_INGEST_TOKENS_FILE")
        return self

    def read_tokens(self) -> tuple[SecretStr, ...]:
        """The ingest tokens in order. Raises SettingsError."""
        variable = "EXPORTER_INGEST_TOKENS_FILE" if self.ingest_tokens_file else "EXPORTER_INGEST_TOKENS"
        try:
            if self.ingest_tokens_file is not None:
                tokens = read_tokens(self.ingest_tokens_file)
            else:
                assert self.ingest_tokens is not None  # noqa: S101 (validated above; for the type checker)
                tokens = split_tokens(self.ingest_tokens.get_secret_value())
        except ValueError as error:
            raise SettingsError(f"{variable}: {error}") from None
        return tuple(map(SecretStr, tokens))


def load_settings() -> Settings:
    """Settings from the environment. Raises SettingsError, which names the variables and no values."""
    try:
        return Settings()  # type: ignore[call-arg]  # from the environment
    except ValidationError as error:
        raise SettingsError(
            "; ".join(_explain(e["loc"], e["msg"]) for e in error.errors(include_input=False))
        ) from None


def _explain(location: tuple[int | str, ...], message: str) -> str:
    if not location:
        return message.removeprefix("Value error, ")
    return f"{PREFIX}{str(location[0]).upper()}: {message}"
