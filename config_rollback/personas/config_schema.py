"""A product's own shape of a configuration: a JSON Schema in a file, in the place of `PersonaConfig`.

Any draft up to 2020-12, as `$schema` says. References reach no further than the file: nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema_rs

from config_rollback.errors import InvalidRequestError, SettingsError
from exporter.strict import check_json

VARIABLE = "CONFIG_ROLLBACK_CONFIG_SCHEMA_FILE"
MAX_DEPTH = 32
"""How deep a configuration may nest, whatever its schema allows: what reads it later may be recursive."""
MAX_PROBLEMS = 20
MAX_PROBLEM_LENGTH = 200


class ConfigSchema:
    """Checks configurations against the schema in a file; raises `SettingsError` if there is none."""

    def __init__(self, path: Path) -> None:
        try:
            document = path.read_bytes()
            check_json(document)
            schema = json.loads(document)
        except OSError as error:
            raise SettingsError(f"{VARIABLE}: cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise SettingsError(f"{VARIABLE}: {path} is not JSON: {error}") from None
        if not isinstance(schema, dict):
            raise SettingsError(f"{VARIABLE}: {path} is not a JSON Schema: it must be an object")
        try:
            self._validator = jsonschema_rs.validator_for(schema, mask="the value", offline=True)
        except jsonschema_rs.ValidationError as error:
            raise SettingsError(f"{VARIABLE}: {path} is not a JSON Schema: {error.message}") from None

    def validate(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration, unchanged. Raises `InvalidRequestError`, which names fields, not values."""
        if _deeper(config, MAX_DEPTH):
            raise InvalidRequestError(f"a configuration must not be nested more than {MAX_DEPTH} levels deep")
        plain = dict(config)
        problems = [
            {
                "field": ".".join(str(part) for part in ("config", *error.instance_path)),
                "problem": error.message[:MAX_PROBLEM_LENGTH],
            }
            for error in islice(self._validator.iter_errors(plain), MAX_PROBLEMS)
        ]
        if problems:
            raise InvalidRequestError("the configuration is not valid", errors=problems)
        return plain


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    within = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in within)
