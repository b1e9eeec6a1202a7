"""`python -m grafana.build` writes the dashboards; `--check` says whether the files are current."""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.dashboards import DASHBOARDS
from rules.generated import Generated


def render() -> dict[str, str]:
    """File name → JSON text of every dashboard."""
    rendered = {}
    for dashboard in DASHBOARDS:
        model = json.loads(JSONEncoder().encode(dashboard()))
        for item in [*model["links"], *model["annotations"]["list"]]:
            # The SDK asks for the controls menu, where newer versions of Grafana hide links and annotations.
            del item["placement"]
        rendered[f"{model['uid']}.json"] = json.dumps(model, indent=2, ensure_ascii=False) + "\n"
    return rendered


FILES = Generated("grafana.build", Path(__file__).parent / "generated", render, "*.json")


if __name__ == "__main__":
    sys.exit(FILES.main())
