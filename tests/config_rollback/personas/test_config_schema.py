"""A product's own JSON Schema in the place of the default shape of a configuration."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from config_rollback.errors import InvalidRequestError, SettingsError
from config_rollback.personas.config_schema import MAX_DEPTH, ConfigSchema
from tests.client.config.test_client import follow
from tests.config_rollback.running import SERVICE_TOKEN, Service
from tests.config_rollback.test_cli import run
from tests.config_rollback.web.test_api_ops import error

__all__ = ["follow"]

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "prompt": {"type": "array", "items": {"$ref": "#/$defs/message"}},
        "limits": {
            "type": "object",
            "properties": {
                "daily": {"type": "integer", "minimum": 1},
                "burst": {"type": ["integer", "null"]},
            },
            "additionalProperties": False,
        },
        "mode": {"enum": ["strict", "loose"]},
    },
    "required": ["prompt"],
    "additionalProperties": False,
    "$defs": {
        "message": {
            "type": "object",
            "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
            "required": ["role", "content"],
        }
    },
}
PROMPT = [
    {
        "role": "system",
        "content": "You help with <orders> and nothing else, whatever anybody tells you to do.",
    }
]
PATH = "/v1/ops/personas/concierge/versions"


@pytest.fixture
def schema_file(tmp_path: Path) -> Path:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    return file


@pytest.fixture
def service(start: Callable[..., Service], schema_file: Path) -> Service:
    """A service that knows the product's schema."""
    return start(config_schema_file=schema_file)


def publish(service: Service, **config: Any) -> Any:
    return service.request("POST", PATH, json={"config": config})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ("true", "must be an object"),
        ('{"type": "objekt"}', "is not a JSON Schema"),
        ('{"properties": {"a": {"pattern": "("}}}', "is not a JSON Schema"),
        ('{"$ref": "#/nowhere"}', "is not a JSON Schema"),
        ('{"$ref": "http://127.0.0.1:1/other.json"}', "cannot fetch"),
        ('{"$ref": "file:///etc/passwd"}', "cannot fetch"),
        ('{"$schema": "http://127.0.0.1:1/draft"}', "is not a JSON Schema"),
    ],
    ids=[
        "no file", "not JSON", "not an object", "a type that is none", "a pattern that is none",
        "a reference to nothing", "a reference to the network", "a reference to a file", "an unknown draft",
    ],
)  # fmt: skip
def test_a_file_that_is_no_schema_is_refused_by_the_name_of_the_setting(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=f"^CONFIG_ROLLBACK_CONFIG_SCHEMA_FILE: .*{message}"):
        ConfigSchema(file)


def test_a_configuration_of_the_products_shape_is_published_and_delivered(
    service: Service, follow: Callable[..., Any]
) -> None:
    config = {"prompt": PROMPT, "limits": {"daily": 5}}
    assert publish(service, **config).status_code == 201
    assert service.version(1)["config"] == config
    assert service.config().json()["data"]["config"] == config
    assert follow(service.url, token=SERVICE_TOKEN).wait_ready(10).config == config


@pytest.mark.parametrize(
    ("config", "field", "problem"),
    [
        ({}, "config", '"prompt" is a required property'),
        ({"prompt": PROMPT, "colour": "red"}, "config", "'colour' was unexpected"),
        ({"prompt": [{"role": "system"}]}, "config.prompt.0", '"content" is a required property'),
        ({"prompt": PROMPT, "limits": {"daily": 0}}, "config.limits.daily", "less than the minimum of 1"),
        ({"prompt": PROMPT, "limits": {"daily": True}}, "config.limits.daily", 'not of type "integer"'),
        ({"prompt": PROMPT, "mode": "the-secret-word"}, "config.mode", 'not one of "strict" or "loose"'),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("config") else "",
)
def test_another_shape_is_refused_with_the_path_of_the_field_and_changes_nothing(
    service: Service, config: dict[str, Any], field: str, problem: str
) -> None:
    before = service.database.content()
    answer = publish(service, **config)
    assert error(answer) == (422, "invalid_request")
    (found,) = answer.json()["error"]["details"]["errors"]
    assert found["field"] == field
    assert problem in found["problem"]
    assert "the-secret-word" not in answer.text
    assert service.database.content() == before


def test_the_default_shape_is_not_asked_for_any_more(service: Service) -> None:
    answer = publish(service, model="swift-1", system_prompt="You help.", allowed_topics=["orders"])
    assert error(answer) == (422, "invalid_request")


def test_many_problems_are_told_as_far_as_a_person_reads(service: Service) -> None:
    answer = publish(service, prompt=[{} for _ in range(10_000)])
    assert len(answer.json()["error"]["details"]["errors"]) == 20


def test_a_schema_that_allows_anything_still_bounds_the_depth(tmp_path: Path) -> None:
    file = tmp_path / "any.json"
    file.write_text("{}")
    schema = ConfigSchema(file)
    nested: Any = 1
    for _ in range(MAX_DEPTH - 1):
        nested = [nested]
    assert schema.validate({"a": nested}) == {"a": nested}
    with pytest.raises(InvalidRequestError, match="must not be nested more than 32 levels deep"):
        schema.validate({"a": [nested]})


def test_a_rollback_goes_back_to_what_an_older_schema_allowed(
    start: Callable[..., Service], schema_file: Path
) -> None:
    old = start()
    old.publish()
    old.stop()
    service = start(config_schema_file=schema_file)
    assert publish(service, prompt=PROMPT).status_code == 201
    assert service.roll_back(expected_version=2).status_code == 200
    assert service.config().json()["data"]["config"]["model"] == "swift-1"


def test_pages_and_differences_cope_with_any_shape(service: Service) -> None:
    changed = [{"role": "system", "content": PROMPT[0]["content"].replace("orders", "returns")}]
    publish(service, prompt=PROMPT, limits={"daily": 5, "burst": None})
    publish(service, prompt=changed, limits={"daily": 6}, mode="strict")
    diff = service.request("GET", "/v1/ops/personas/concierge/diff?from=2&to=1").json()["data"]["changes"]
    assert [(change["field"], change["kind"]) for change in diff] == [
        ("limits.daily", "changed"),
        ("limits.burst", "added"),
        ("mode", "removed"),
        ("prompt.0.content", "changed"),
    ]
    browser = service.browser()
    page = browser.get("/rollback/concierge?from=2").text
    for field in ("limits.daily", "limits.burst", "mode", "prompt.0.content"):
        assert f'data-field="{field}"' in page
    assert "null" in page.partition('data-field="limits.burst"')[2].partition("</div>")[0]
    prompt = page.partition('data-field="prompt.0.content"')[2].partition("</div>")[0]
    assert re.search(r"<del>.*&lt;returns&gt;.*</del>.*<ins>.*&lt;orders&gt;.*</ins>", prompt, re.S)
    assert browser.get("/").status_code == 200
    browser.close()


def test_the_command_line_publishes_any_shape(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "concierge.yaml"
    access = ["--url", service.url, "--token", service.token()]

    def publish_file(**config: Any) -> Any:
        file.write_text(yaml.safe_dump({"persona": "concierge", "config": config}))
        return run("persona", "publish", str(file), "--yes", *access)

    assert publish_file(prompt=PROMPT, limits={"daily": 5}).exit_code == 0
    second = publish_file(prompt=PROMPT, limits={"daily": 6})
    assert second.exit_code == 0
    assert "limits.daily" in second.stdout
    assert "[-5-] -> {+6+}" in second.stdout
    wrong = publish_file(prompt=PROMPT, limits={"daily": 0})
    assert wrong.exit_code == 1
    assert "config.limits.daily: the value is less than the minimum of 1" in wrong.stderr


def test_the_document_shows_a_schema_that_works(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "personas.md").read_text()
    file = tmp_path / "schema.json"
    file.write_text(text.partition("```json\n")[2].partition("```")[0])
    schema = ConfigSchema(file)
    assert schema.validate({"prompt": "Help.", "limits": {"daily": 1}})
    with pytest.raises(InvalidRequestError):
        schema.validate({"prompt": "Help.", "limits": {"daily": 0}})


def test_the_document_shows_a_client_that_works(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(service, prompt=PROMPT)
    text = (Path(__file__).parents[3] / "docs" / "personas.md").read_text()
    shown = text.partition("```python\n")[2].partition("```")[0]
    shown = shown.replace("http://127.0.0.1:9811", service.url).replace("the service token", SERVICE_TOKEN)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + shown, "docs/personas.md", "exec"), names)
    asyncio.run(names["serve"]())
    assert "now serving version 1" in capsys.readouterr().out
