"""The servers keep to the shapes of the contract."""

from typing import Any, get_type_hints

import pytest

from config_rollback.web.api import response_models
from driftback import contract
from exporter import wire


@pytest.mark.parametrize("name", ["HistogramDelta", "TokensDelta", "SeriesDelta", "Push"])
def test_the_exporter_takes_the_fields_that_clients_send_and_no_others(name: str) -> None:
    taken: Any = getattr(wire, name)
    assert set(taken.__struct_fields__) == get_type_hints(getattr(contract, name)).keys()


def test_a_configuration_has_the_fields_that_clients_read() -> None:
    assert get_type_hints(response_models.ActiveConfig) == get_type_hints(contract.ActiveConfig)
