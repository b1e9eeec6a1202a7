"""Settings of the service: read from `CONFIG_ROLLBACK_*` variables, validated once, frozen.

A secret is given inline or as the path of a file (`_FILE`), never both, and is never printed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import limits
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from config_rollback.errors import SettingsError
from config_rollback.signing import MINIMUM_SECRET_BYTES, OWN_ISSUER
from exporter.secret_files import read_secret, read_tokens, split_tokens

PREFIX = "CONFIG_ROLLBACK_"

_SECRETS = (
    "database_url",
    "jwt_secret",
    "service_tokens",
    "alertmanager_tokens",
    "rate_limit_store",
    "oidc_client_secret",
)

_TOKENS = ("service_tokens", "alertmanager_tokens")

TokenList = Annotated[tuple[SecretStr, ...], NoDecode]
"""Tokens, one per line or comma separated; all verify, so that one can be replaced without a gap."""
NameList = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """All settings of the service. Build with `load`, or by keyword in tests."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """Address to listen on; `::` is every one, IPv4's too."""
    port: int = Field(default=9811, ge=0, le=65535)
    """TCP port to listen on; 0 means any free port."""
    max_connections: int = Field(default=2048, ge=4, le=1_000_000)
    """Connections that may be open at once; three quarters of them may be polls that wait for a change."""
    state_dir: Path | None = None
    """Folder of the default SQLite database."""
    database_url: SecretStr = SecretStr("")
    """SQLAlchemy URL, percent-encoded; secret, because it may contain a password. By default the SQLite file
    `config_rollback.db` in the state folder."""
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
    config_schema_file: Path | None = None
    """JSON Schema that configurations are checked against, instead of the default shape."""
    prometheus_url: str | None = None
    """Prometheus' API, for KPIs and evidence; a rollback works without it."""
    external_url: str = "http://127.0.0.1:9811"
    """Where browsers reach this service: decides cookie flags and the origin that forms must come from."""
    alertmanager_url: str | None = None
    """Where browsers reach Alertmanager, for links."""
    grafana_url: str | None = None
    """Where browsers reach Grafana, for links."""

    rate_limit_user: str = "300/minute"
    """How often one person may call the API and the pages."""
    rate_limit_role: str = "1200/minute"
    """How often all people with one role together may call the API and the pages."""
    rate_limit_global: str = "2400/minute"
    """How often all people together may call the API and the pages."""
    rate_limit_store: SecretStr = SecretStr("memory://")
    """The store that counts calls, secret because it may contain a password. Replicas share `redis://…`.
    While it cannot be reached, each replica counts for itself."""
    rate_limit_store_file: Path | None = None

    keep_sessions_days: int = Field(default=30, ge=1, le=36_500)
    """How long ended logins stay in the database."""
    keep_idempotency_keys_days: int = Field(default=7, ge=1, le=36_500)
    """How long a retry with the same `Idempotency-Key` gets the first answer."""
    keep_alerts_days: int = Field(default=90, ge=1, le=36_500)
    """How long alerts stay in the inbox after Alertmanager last sent them."""

    jwks_file: Path | None = None
    """Public keys (RFC 7517) of an issuer of access tokens; read again while the service runs."""
    jwks_url: str | None = None
    """URL of the same key set, which the service fetches."""
    jwt_issuer: str | None = None
    """`iss` of its tokens."""
    jwt_audience: str | None = None
    """`aud` of its tokens: this service."""
    jwt_role_claim: str = "role"
    """The claim of its tokens that holds the role, a text or a list, or a path: `realm_access.roles`."""
    jwt_ops_roles: NameList = ("ops",)
    """The roles that count as `ops`, such as `sre-oncall,/ops`; one a line if a name contains a comma."""
    jwt_max_lifetime_seconds: int = Field(default=24 * 3600, ge=60, le=366 * 24 * 3600)
    """Longest lifetime of its tokens in seconds, from `iat` to `exp`."""

    oidc_issuer: str | None = None
    """OpenID provider for logins in a browser, exactly as its discovery document spells it."""
    oidc_client_id: str | None = None
    """The client ID of this service at the provider."""
    oidc_client_secret: SecretStr | None = None
    """Left out for a public client: PKCE is used either way."""
    oidc_client_secret_file: Path | None = None
    oidc_scopes: str = "openid"
    """Scopes asked for, separated by spaces."""
    oidc_role_claim: str = "role"
    """The claim of the ID token that holds the role, a text or a list, or a path: `realm_access.roles`."""
    oidc_ops_roles: NameList = ("ops",)
    """The roles that count as `ops`, such as `sre-oncall,/ops`; one a line if a name contains a comma."""
    oidc_subject_claim: str = "sub"
    """The claim that names a person in audit rows."""

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in _SECRETS:
            path = values.get(f"{name}_file")
            if path is None:
                continue
            if values.get(name):
                raise ValueError(f"{_variable(name)} and {_variable(name)}_FILE are both set: give one")
            read = read_tokens if name in _TOKENS else read_secret
            try:
                values[name] = read(Path(path))
            except ValueError as error:
                raise ValueError(f"{_variable(name)}_FILE: {error}") from None
        if not values.get("database_url"):
            if not values.get("state_dir"):
                raise ValueError(f"{_variable('state_dir')} or {_variable('database_url')} must be set")
            values["database_url"] = sqlite_url(Path(values["state_dir"]) / "config_rollback.db")
        return values

    @field_validator(*_TOKENS, mode="before")
    @classmethod
    def _split_tokens(cls, value: Any) -> Any:
        return split_tokens(value) if isinstance(value, str) else value

    @field_validator("jwt_ops_roles", "oidc_ops_roles", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            names = value.splitlines() if "\n" in value else value.split(",")
            value = tuple(name.strip() for name in names if name.strip())
        if not value:
            raise ValueError("must name at least one role")
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _check_secret(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value().encode()) < MINIMUM_SECRET_BYTES:
            raise ValueError(f"must have at least {MINIMUM_SECRET_BYTES} bytes")
        return secret

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, url: SecretStr) -> SecretStr:
        check_database_url(url.get_secret_value())
        return url

    @field_validator("rate_limit_user", "rate_limit_role", "rate_limit_global")
    @classmethod
    def _check_rate(cls, rate: str) -> str:
        try:
            amount = limits.parse(rate).amount
        except ValueError:
            amount = 0
        if amount < 1:
            raise ValueError("must be a rate such as 300/minute")
        return rate

    @field_validator("rate_limit_store")
    @classmethod
    def _check_store(cls, url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme not in ("memory", "redis", "rediss", "redis+unix"):
            raise ValueError("must be memory:// or a redis:// URL")
        return url

    @field_validator("oidc_issuer")
    @classmethod
    def _check_issuer(cls, url: str | None) -> str | None:
        cls._check_url(url)
        return url  # with its slash: the provider's spelling counts

    @model_validator(mode="after")
    def _check_groups(self) -> Settings:
        if self.jwks_file and self.jwks_url:
            raise ValueError(f"{_variable('jwks_file')} and {_variable('jwks_url')} are both set: give one")
        keys = self.jwks_file or self.jwks_url
        if self.jwt_issuer == OWN_ISSUER:
            raise ValueError(
                f"{_variable('jwt_issuer')} must not be {OWN_ISSUER}, which is this service's own issuer"
            )
        for name in ("jwt_issuer", "jwt_audience"):
            if bool(getattr(self, name)) != bool(keys):
                needed = f"{_variable('jwks_file')} or {_variable('jwks_url')}"
                raise ValueError(f"set {_variable(name)} together with {needed}")
        if bool(self.oidc_issuer) != bool(self.oidc_client_id):
            names = f"{_variable('oidc_issuer')} and {_variable('oidc_client_id')}"
            raise ValueError(f"set both {names}, or neither")
        if self.oidc_client_secret and not self.oidc_issuer:
            raise ValueError(f"{_variable('oidc_client_secret')} needs {_variable('oidc_issuer')}")
        if self.oidc_client_id and self.oidc_client_id == self.jwt_audience:
            # Every ID token of a browser's login would then pass as an access token.
            raise ValueError(f"{_variable('jwt_audience')} must differ from {_variable('oidc_client_id')}")
        return self

    @field_validator("external_url", "prometheus_url", "alertmanager_url", "grafana_url", "jwks_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
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


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite database; what means something in a URL is encoded."""
    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


def check_database_url(url: str) -> None:
    """Raises ValueError, without the URL, if it is not a URL or is for another kind of database."""
    try:
        backend = make_url(url).get_backend_name()
    except (ArgumentError, ValueError):
        backend = ""
    if backend not in ("sqlite", "postgres", "postgresql"):
        raise ValueError("must be a URL such as postgresql://user@host/name or sqlite:////folder/name.db")


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _describe(problem: Mapping[str, Any]) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "no such setting"
    location = problem["loc"]
    return f"{_variable(str(location[0]))}: {message}" if location else message
