"""A real config_rollback for the clients that follow it."""

from tests.config_rollback.conftest import (  # noqa: F401 (pytest takes fixtures and hooks by their names)
    clock,
    database,
    postgres,
    postgresql,
    pytest_generate_tests,
    service,
    sqlite,
    sqlite_template,
    start,
    start_on,
)
