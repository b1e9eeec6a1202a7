"""Settings: what is refused, by the name of its variable."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from config_rollback.errors import SettingsError
from config_rollback.settings import load

GOOD = {"CONFIG_ROLLBACK_STATE_DIR": "/var/lib/driftback", "CONFIG_ROLLBACK_JWT_SECRET": "s" * 32}


def test_defaults() -> None:
    settings = load(GOOD)
    assert (settings.host, settings.port) == ("127.0.0.1", 9811)
    assert settings.database_url.get_secret_value() == "sqlite:////var/lib/driftback/config_rollback.db"
    assert settings.service_tokens == ()
    assert settings.external_url == "http://127.0.0.1:9811"
    assert not settings.secure


@pytest.mark.parametrize("folder", ["/srv/feature%2Flogin", "/srv/a?b=c", "/srv/a#b", "/srv/a b+c"])
def test_the_database_is_in_the_state_folder_whatever_it_is_called(folder: str) -> None:
    url = load(GOOD | {"CONFIG_ROLLBACK_STATE_DIR": folder}).database_url.get_secret_value()
    assert make_url(url) == URL.create("sqlite", database=f"{folder}/config_rollback.db")


@pytest.mark.parametrize(
    "text", ["a" * 16 + "," + "b" * 16, "a" * 16 + "\n" + "b" * 16 + "\n", "a" * 16 + " , " + "b" * 16]
)
def test_tokens_are_lines_or_commas(text: str, tmp_path: Path) -> None:
    inline = load({**GOOD, "CONFIG_ROLLBACK_SERVICE_TOKENS": text})
    file = tmp_path / "tokens"
    file.write_text(text)
    from_file = load({**GOOD, "CONFIG_ROLLBACK_SERVICE_TOKENS_FILE": str(file)})
    for settings in (inline, from_file):
        assert [token.get_secret_value() for token in settings.service_tokens] == ["a" * 16, "b" * 16]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ops", ("ops",)),
        ("sre-oncall, /ops", ("sre-oncall", "/ops")),
        ("CN=SRE on call,OU=Groups\n/ops\n", ("CN=SRE on call,OU=Groups", "/ops")),
    ],
)
def test_names_of_roles_are_lines_or_commas(text: str, names: tuple[str, ...]) -> None:
    settings = load({**GOOD, "CONFIG_ROLLBACK_JWT_OPS_ROLES": text, "CONFIG_ROLLBACK_OIDC_OPS_ROLES": text})
    assert settings.jwt_ops_roles == settings.oidc_ops_roles == names


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("f" * 40 + "\n")
    settings = load({"CONFIG_ROLLBACK_STATE_DIR": "/x", "CONFIG_ROLLBACK_JWT_SECRET_FILE": str(file)})
    assert settings.jwt_secret.get_secret_value() == "f" * 40


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "70000", "less than or equal to 65535"),
        ("PORT", "x", "valid integer"),
        ("DATABASE_URL", "nonsense", "CONFIG_ROLLBACK_DATABASE_URL: must be a URL such as"),
        ("DATABASE_URL", "mysql://x/y", "CONFIG_ROLLBACK_DATABASE_URL: must be a URL such as"),
        ("JWT_SECRET", "short", "at least 32 bytes"),
        ("JWT_SECRET_FILE", "/nonexistent", "both set"),
        ("SERVICE_TOKENS", "short", "at least 16 characters"),
        ("ALERTMANAGER_TOKENS_FILE", "/nonexistent", "cannot read /nonexistent"),
        ("EXTERNAL_URL", "ftp://x", "http or https"),
        ("EXTERNAL_URL", "http://x/?a=b", "no query"),
        ("PROMETHEUS_URL", "prometheus:9090", "http or https"),
        ("PROMETHEUS_ULR", "http://x", "no such setting"),
        ("RATE_LIMIT_USER", "many", "a rate such as 300/minute"),
        ("RATE_LIMIT_GLOBAL", "0/minute", "a rate such as 300/minute"),
        ("RATE_LIMIT_STORE", "memcached://x", "memory:// or a redis:// URL"),
        ("JWKS_URL", "file:///etc/passwd", "http or https"),
        ("JWT_OPS_ROLES", " , ", "must name at least one role"),
        ("JWT_MAX_LIFETIME_SECONDS", "0", "greater than or equal to 60"),
        ("JWT_ISSUER", "https://issuer.example", "together with CONFIG_ROLLBACK_JWKS_FILE or"),
        ("JWT_ISSUER", "driftback", "which is this service's own issuer"),
        ("JWKS_FILE", "keys.json", "set CONFIG_ROLLBACK_JWT_ISSUER together with"),
        ("OIDC_CLIENT_ID", "driftback", "CONFIG_ROLLBACK_OIDC_CLIENT_ID, or neither"),
        ("OIDC_CLIENT_SECRET", "hush", "needs CONFIG_ROLLBACK_OIDC_ISSUER"),
        ("OIDC_ISSUER", "issuer.example", "http or https"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, message: str) -> None:
    variable = f"CONFIG_ROLLBACK_{name}"
    with pytest.raises(SettingsError) as caught:
        load({**GOOD, variable: value})
    assert variable.removesuffix("_FILE") in caught.value.message
    assert message in caught.value.message


def test_a_place_for_the_database_is_needed() -> None:
    with pytest.raises(SettingsError, match="CONFIG_ROLLBACK_STATE_DIR or CONFIG_ROLLBACK_DATABASE_URL"):
        load({"CONFIG_ROLLBACK_JWT_SECRET": "s" * 32})


def test_secrets_never_print() -> None:
    secrets = ("j" * 40, "t" * 40, "sqlite:///pass-word.db", "redis://:word-of-redis@x", "hush-hush")
    settings = load(
        {
            "CONFIG_ROLLBACK_JWT_SECRET": secrets[0],
            "CONFIG_ROLLBACK_SERVICE_TOKENS": secrets[1],
            "CONFIG_ROLLBACK_DATABASE_URL": secrets[2],
            "CONFIG_ROLLBACK_RATE_LIMIT_STORE": secrets[3],
            "CONFIG_ROLLBACK_OIDC_CLIENT_SECRET": secrets[4],
            **OIDC,
        }
    )
    for secret in secrets:
        assert secret not in repr(settings) + str(settings) + settings.model_dump_json()
    with pytest.raises(SettingsError) as caught:
        load({**GOOD, "CONFIG_ROLLBACK_JWT_SECRET": "too-short-but-secret"})
    assert "too-short-but-secret" not in caught.value.message


OIDC = {
    "CONFIG_ROLLBACK_OIDC_ISSUER": "https://issuer.example/",
    "CONFIG_ROLLBACK_OIDC_CLIENT_ID": "driftback",
}
JWKS = {
    "CONFIG_ROLLBACK_JWKS_URL": "https://issuer.example/keys",
    "CONFIG_ROLLBACK_JWT_ISSUER": "https://issuer.example/",
    "CONFIG_ROLLBACK_JWT_AUDIENCE": "driftback-api",
}


def test_an_issuer_keeps_its_slash() -> None:
    settings = load({**GOOD, **OIDC, **JWKS})
    assert (settings.oidc_issuer, settings.jwt_issuer) == ("https://issuer.example/",) * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CONFIG_ROLLBACK_JWKS_FILE": "keys.json"}, "JWKS_URL are both set"),
        ({"CONFIG_ROLLBACK_JWT_AUDIENCE": "driftback"}, "JWT_AUDIENCE must differ from"),
    ],
)
def test_settings_that_do_not_go_together_are_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load({**GOOD, **OIDC, **JWKS, **changes})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(GOOD).port = 1


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    for name in ("HOST", "PORT", "EXTERNAL_URL", "PROMETHEUS_URL", "DATABASE_URL", "CONFIG_SCHEMA_FILE"):
        monkeypatch.setenv(f"CONFIG_ROLLBACK_{name}", "")
    settings = load()
    assert (settings.host, settings.port) == ("127.0.0.1", 9811)
    assert (settings.external_url, settings.prometheus_url) == ("http://127.0.0.1:9811", None)
    assert settings.config_schema_file is None
