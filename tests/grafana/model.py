"""Reads the committed dashboards, provisioning and rules the way Grafana and Prometheus do."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "grafana" / "generated"
PROVISIONING = ROOT / "grafana" / "provisioning"

Json = dict[str, Any]

ODD_PERSONAS = (
    "concierge",
    'the "quoted" one & o\'hara, 100% sure?',
    "(draft) #1 [x] {y} ${window} ^a|b*+ c/d\\e консьерж 礼宾",
)
"""Names that a careless query or link breaks on."""


def dashboards() -> list[Json]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(GENERATED.glob("*.json"))]


def dashboard(uid: str) -> Json:
    (found,) = [model for model in dashboards() if model["uid"] == uid]
    return found


def panels() -> list[tuple[str, Json]]:
    """(name of the test case, panel) of all dashboards."""
    return [
        (f"{model['uid']}: {panel['title']}", panel) for model in dashboards() for panel in model["panels"]
    ]


def variables(model: Json) -> dict[str, Json]:
    return {variable["name"]: variable for variable in model["templating"]["list"]}


def expressions(model: Json) -> Iterator[tuple[str, str]]:
    """(where, PromQL with Grafana's variables) of every panel, annotation and variable."""
    for panel in model["panels"]:
        for target in panel.get("targets", []):
            yield f"{model['uid']}: {panel['title']} {target['refId']}", target["expr"]
    for annotation in model["annotations"]["list"]:
        yield f"{model['uid']}: annotation {annotation['name']}", annotation["expr"]
    for name, variable in variables(model).items():
        if variable["type"] == "query":
            yield f"{model['uid']}: variable {name}", variable_expression(variable["query"]["query"])


def variable_expression(query: str) -> str:
    """The PromQL inside `label_values(selector, label)` or `query_result(expression)`."""
    labels = re.fullmatch(r"label_values\((.+), *(\w+)\)", query)
    if labels:
        return f"group by ({labels[2]}) ({labels[1]})"
    result = re.fullmatch(r"query_result\((.+)\)", query)
    assert result, query
    return result[1]


def all_expressions() -> list[tuple[str, str]]:
    return [item for model in dashboards() for item in expressions(model)]


def interpolate(expr: str, values: Mapping[str, str]) -> str:
    """PromQL as Grafana sends it: `${x:regex}` escaped, `$x` as it is, `.*` for "All" unescaped."""

    def regex(match: re.Match[str]) -> str:
        value = values[match[1]]
        return value if value == ".*" else re.sub(r"[\\^$*+?.()|[\]{}/]", r"\\\g<0>", value)

    expr = expr.replace("$__rate_interval", "5m").replace("$__range", "5m")
    expr = re.sub(r"\$\{(\w+):regex\}", regex, expr)
    return re.sub(r"\$window\b", values["window"], expr)


def data_links(panel: Json) -> list[Json]:
    """Links of the panel's fields."""
    properties = [item for override in panel["fieldConfig"]["overrides"] for item in override["properties"]]
    return [link for item in properties if item["id"] == "links" for link in item["value"]]


def provisioned(kind: str) -> Json:
    """The provisioning file of `datasources` or `dashboards`."""
    loaded: Json = yaml.safe_load((PROVISIONING / kind / "driftback.yml").read_text(encoding="utf-8"))
    return loaded


@cache
def rules() -> list[Json]:
    """Every recording and alerting rule, to be looked at only."""
    files = [
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "rules").glob("*.yml"))
    ]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]
