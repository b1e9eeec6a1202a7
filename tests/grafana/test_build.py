"""The committed JSON is what the code writes."""

from grafana import build


def test_the_committed_dashboards_are_what_the_code_writes() -> None:
    assert build.FILES.differences(build.FILES.folder) == []
