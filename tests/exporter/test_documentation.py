"""docs/exporter.md names every setting, error code, policy field and metric, and shows the default policy."""

import re
from pathlib import Path

import pytest

from exporter import catalogue
from exporter.answers import STATUS_AND_CODE
from exporter.limits import Policy, load_policy
from exporter.settings import PREFIX, Settings
from exporter.storage.journal import Fault

PAGE = (Path(__file__).parents[2] / "docs" / "exporter.md").read_text()
CODES = [code for _, code in STATUS_AND_CODE.values()] + ["internal_error"]


@pytest.mark.parametrize(
    "name",
    [
        *(f"{PREFIX}{field.upper()}" for field in Settings.model_fields),
        *CODES,
        *catalogue.OVERFLOWS,
        *catalogue.PUSH_RESULTS,
        *(fault.value for fault in Fault),
        *("policy_reloaded", "policy_kept", "exporter_cannot_start", "journal_recovered"),
        *("clock_jumped", *catalogue.JUMPS),
    ],
)
def test_a_name_is_documented(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("metric", catalogue.SELF_METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_documented_with_its_labels(metric: catalogue.Metric) -> None:
    labels = f"{{{','.join(metric.labels)}}}" if metric.labels else ""
    assert f"`{metric.name}{labels}`" in PAGE


def test_the_policy_on_the_page_is_the_default(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    (tmp_path / "policy.yaml").write_text(found[1])
    assert load_policy(tmp_path / "policy.yaml") == Policy()
    assert all(f"{field}:" in found[1] for field in Policy.__struct_fields__)
