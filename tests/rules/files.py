"""Reads the rule files, their promtool tests and the PromQL in them."""

import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
RULES = CHECKOUT / "rules"
RULE_FILES = sorted(RULES.glob("*.yml"))
TEST_FILES = sorted((RULES / "tests").glob("*_test.yml"))
RUNBOOKS = RULES / "runbooks"

Rule = dict[str, Any]


def load(path: Path) -> Any:
    """The document, the caller's own."""
    return deepcopy(_parsed(path))


@cache  # a rule file takes a third of a second, and hundreds of tests look at it
def _parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> list[Rule]:
    """Every rule of every file, in file order, to be looked at only."""
    return [rule for path in RULE_FILES for group in _parsed(path)["groups"] for rule in group["rules"]]


def alerts() -> list[Rule]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    """Names of the recorded series."""
    return {rule["record"] for rule in rules() if "record" in rule}


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    """Every vector selector of a PromQL expression; raises ValueError where it does not parse."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return iter({id(selector): selector for selector in found}.values())


def annotation_queries(rule: Rule) -> Iterator[str]:
    """The PromQL that a rule's annotations look up, with a plain value for each label and number."""
    for text in rule.get("annotations", {}).values():
        for quoted in re.findall(r'printf "((?:[^"\\]|\\.)+)" (?:\$(?:labels\.\w+|value) )*\| query', text):
            yield quoted.replace('\\"', '"').replace("%q", '"x"').replace("%.3f", "0")


def runbook_queries(alert: str) -> list[str]:
    """The lines of the PromQL blocks of an alert's runbook."""
    text = (RUNBOOKS / f"{alert}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def duration(text: str) -> timedelta:
    """A Prometheus duration such as 26h30m."""
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    return sum(
        (timedelta(**{units[unit]: int(number)}) for number, unit in re.findall(r"(\d+)([dhms])", text)),
        timedelta(),
    )
