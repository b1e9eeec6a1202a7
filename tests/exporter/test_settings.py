"""Settings come from the environment, are checked once, and never show a secret."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from exporter.errors import PolicyError, SettingsError
from exporter.limits import load_policy
from exporter.settings import Settings, load_settings

TOKEN = "a-token-nobody-may-see"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPORTER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("EXPORTER_INGEST_TOKENS", TOKEN)


def tokens(settings: Settings) -> list[str]:
    return [token.get_secret_value() for token in settings.read_tokens()]


def test_defaults_listen_on_loopback(tmp_path: Path) -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.state_dir) == ("127.0.0.1", 9810, tmp_path)
    assert tokens(settings) == [TOKEN]


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOST", "PORT", "POLICY_FILE", "INGEST_TOKENS_FILE", "MAX_BODY_BYTES"):
        monkeypatch.setenv(f"EXPORTER_{name}", "")
    settings = load_settings()
    assert (settings.host, settings.port, settings.policy_file) == ("127.0.0.1", 9810, None)
    assert tokens(settings) == [TOKEN]


def test_tokens_from_a_file_keep_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("new-token-0123456789\n\nold-token-0123456789\n")
    monkeypatch.delenv("EXPORTER_INGEST_TOKENS")
    monkeypatch.setenv("EXPORTER_INGEST_TOKENS_FILE", str(tmp_path / "tokens"))
    assert tokens(load_settings()) == ["new-token-0123456789", "old-token-0123456789"]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("EXPORTER_PORT", "70000", "EXPORTER_PORT: "),
        ("EXPORTER_PORT", "http", "EXPORTER_PORT: "),
        ("EXPORTER_STATE_DIR", None, "EXPORTER_STATE_DIR: Field required"),
        ("EXPORTER_STATE_DIR", "", "EXPORTER_STATE_DIR: Field required"),
        ("EXPORTER_MAX_BODY_BYTES", "0", "EXPORTER_MAX_BODY_BYTES: "),
        ("EXPORTER_BODY_TIMEOUT_SECONDS", "0", "EXPORTER_BODY_TIMEOUT_SECONDS: "),
        ("EXPORTER_COMPACT_BYTES", "1", "EXPORTER_COMPACT_BYTES: "),
        (
            "EXPORTER_INGEST_TOKENS",
            None,
            "exactly one of EXPORTER_INGEST_TOKENS and EXPORTER_INGEST_TOKENS_FILE",
        ),
        (
            "EXPORTER_INGEST_TOKENS",
            "",
            "exactly one of EXPORTER_INGEST_TOKENS and EXPORTER_INGEST_TOKENS_FILE",
        ),
        (
            "EXPORTER_INGEST_TOKENS_FILE",
            "/x",
            "exactly one of EXPORTER_INGEST_TOKENS and EXPORTER_INGEST_TOKENS_FILE",
        ),
    ],
)
def test_an_error_names_the_variable_and_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None, message: str
) -> None:
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings()
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "value", [" , ", "short-secret-x", f"{TOKEN},short-secret-x", "sécret-sécret-sécret"]
)
def test_unusable_tokens_are_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EXPORTER_INGEST_TOKENS", value)
    with pytest.raises(SettingsError, match="EXPORTER_INGEST_TOKENS: ") as caught:
        load_settings().read_tokens()
    assert not any(part in str(caught.value) for part in ("short-secret", "sécret", TOKEN))


def test_a_token_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPORTER_INGEST_TOKENS")
    monkeypatch.setenv("EXPORTER_INGEST_TOKENS_FILE", "/nowhere/tokens")
    with pytest.raises(SettingsError, match="EXPORTER_INGEST_TOKENS_FILE: cannot read /nowhere/tokens"):
        load_settings().read_tokens()


def test_an_invalid_setting_does_not_print_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPORTER_STATE_DIR")
    with pytest.raises(ValidationError, match="state_dir") as caught:
        Settings.model_validate({"ingest_tokens": TOKEN})
    assert TOKEN not in str(caught.value)


def test_settings_are_frozen_and_do_not_print_tokens() -> None:
    settings = load_settings()
    assert TOKEN not in repr(settings) + str(settings) + repr(settings.read_tokens())
    with pytest.raises(ValidationError):
        settings.port = 1


def test_a_policy_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("journeys: {support: {out_of_scope: true}}\nreasons: [moon, other]\nmax_series: 3\n")
    policy = load_policy(path)
    assert policy.journeys["support"].out_of_scope
    assert (policy.reasons, policy.max_series) == (("moon", "other"), 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_series: 0", "max_series"),
        ("maximum: 1", "maximum"),
        ("journeys: {}", "no journey"),
        ("reasons: [timeout]", "'other'"),
        ("reasons: [other, other]", "twice"),
        ("{", "not a valid"),
        ("reasons: [other, 0300]", "0300 can be a number or text"),
        ("max_series: 0300", "0300 can be a number or text"),
        ("max_series: 10\nmax_series: 20", "line 2, column 1: the key 'max_series' occurs twice"),
        ("journeys: {chat: {}, chat: {out_of_scope: true}}", "the key 'chat' occurs twice"),
        ("[" * 5000 + "]" * 5000, "not a valid"),
        ("reasons: !!int a", "not a valid"),
        ('reasons: [other, "a\\0hb"]', "NUL"),
        ('reasons: [other, "\\ud800"]', "(surrogates|not a valid)"),
        ('journeys: {"a\\0b": {}}', "NUL"),
        ("journeys: {chat: {out_of_scope: yes}}", r"out_of_scope`: write true or false"),
        ("max_series: 1e999", "1e999 is larger than any number"),
    ],
)
def test_an_invalid_policy_is_refused_with_its_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=message) as caught:
        load_policy(path)
    assert caught.value.message.startswith("EXPORTER_POLICY_FILE: ")


def test_a_missing_policy_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"EXPORTER_POLICY_FILE: cannot read .*absent"):
        load_policy(tmp_path / "absent")
