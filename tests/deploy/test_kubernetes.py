"""deploy/kubernetes is valid by the schemas of Kubernetes and of the Prometheus operator, is locked down, and
says the same as docker-compose.yml and the rule files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic_settings import BaseSettings

from config_rollback.settings import Settings as ConfigRollbackSettings
from deploy import build
from exporter.settings import Settings as ExporterSettings
from tests.support.kubernetes import programs

KUBERNETES_VERSION = "1.34"
OPERATOR_SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
COMPOSE: dict[str, Any] = yaml.safe_load((build.ROOT / "docker-compose.yml").read_text())["services"]


def _objects() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(build.KUBERNETES.rglob("*.yaml")):
        for item in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield f"{item['kind']} {item['metadata']['name']}", item


OBJECTS = dict(_objects())
NATIVE = [name for name, item in OBJECTS.items() if not item["apiVersion"].startswith("monitoring.")]
CUSTOM = [name for name in OBJECTS if name not in NATIVE]
WORKLOADS = {"exporter": "StatefulSet exporter", "config_rollback": "Deployment config-rollback"}


@cache
def _operator() -> Path:
    """The operator's source, where its schemas are; the Go proxy's copy never changes."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed: the operator's objects were not held against its schemas")
    module = programs.download(programs.OPERATOR)
    assert module["Sum"] == OPERATOR_SUM
    return Path(module["Dir"])


def _strict(schema: Any) -> Any:
    """The schema with unknown fields refused, which the API server would drop in silence."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(strict.get("properties"), dict) and strict.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    return strict


def _custom_schema(kind: str) -> Any:
    plural = kind.lower() + ("es" if kind.endswith("s") else "s")
    file = _operator() / "example" / "prometheus-operator-crd" / f"monitoring.coreos.com_{plural}.yaml"
    (version,) = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]["versions"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _validate(item: dict[str, Any]) -> None:
    if item["apiVersion"].startswith("monitoring."):
        jsonschema.Draft7Validator(_custom_schema(item["kind"])).validate(item)
    else:
        kubernetes_validate.validate(item, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_valid(name: str) -> None:
    _validate(OBJECTS[name])


def test_the_check_sees_a_wrong_field_in_either_kind() -> None:
    workload = json.loads(json.dumps(OBJECTS["StatefulSet exporter"]))
    workload["spec"]["template"]["spec"]["runAsNonRoot"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        _validate(workload)
    monitor = json.loads(json.dumps(OBJECTS["ServiceMonitor driftback-exporter"]))
    monitor["spec"]["endpoints"][0]["intervall"] = "15s"
    with pytest.raises(jsonschema.ValidationError):
        _validate(monitor)


def test_the_rules_of_the_operator_are_those_of_the_rule_files() -> None:
    groups = [
        group
        for stem in build.RULE_FILES
        for group in yaml.safe_load((build.ROOT / "rules" / f"{stem}.yml").read_text())["groups"]
    ]
    made = [group for name in CUSTOM if "Rule" in name for group in OBJECTS[name]["spec"]["groups"]]
    assert sorted(made, key=str) == sorted(groups, key=str)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_locked_down_and_probed(name: str) -> None:
    workload = OBJECTS[WORKLOADS[name]]["spec"]
    pod = workload["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} <= set(container["resources"])
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert user == COMPOSE[name]["user"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_what_compose_runs(name: str) -> None:
    (container,) = OBJECTS[WORKLOADS[name]]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == COMPOSE[name]["image"]
    assert container["args"] == COMPOSE[name]["command"]
    given = {entry["name"] for entry in container["env"]}
    for source in container.get("envFrom", []):
        given |= set(OBJECTS[f"ConfigMap {source['configMapRef']['name']}"]["data"])
    settings: dict[str, type[BaseSettings]] = {
        "exporter": ExporterSettings,
        "config_rollback": ConfigRollbackSettings,
    }
    assert given <= {f"{name}_{field}".upper() for field in settings[name].model_fields}
    # On PostgreSQL nothing is kept in a state folder.
    assert set(COMPOSE[name]["environment"]) - given <= {"CONFIG_ROLLBACK_STATE_DIR"}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_secret_that_a_setting_names_is_mounted(name: str) -> None:
    pod = OBJECTS[WORKLOADS[name]]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    named = {entry["value"] for entry in container["env"] if entry["name"].endswith("_FILE")}
    (volume,) = (volume["secret"] for volume in pod["volumes"] if volume["name"] == "secrets")
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "secrets")
    assert named == {f"{mount['mountPath']}/{item['path']}" for item in volume["items"]}
    assert {item["key"] for item in volume["items"]} <= set(COMPOSE[name]["secrets"])


def test_the_owner_migrates_before_the_service_starts_and_the_service_does_not_see_its_password() -> None:
    pod = OBJECTS[WORKLOADS["config_rollback"]]["spec"]["template"]["spec"]
    (first,), (container,) = pod["initContainers"], pod["containers"]
    compose = COMPOSE["migrate"]
    folder = "/run/secrets/driftback/"
    assert first["image"] == compose["image"]
    # In compose a dollar is written twice.
    script = first["args"][-1].replace(folder, "/run/secrets/").replace("$", "$$")
    assert [*first["args"][:-1], script] == compose["command"]
    assert first["securityContext"] == container["securityContext"]
    secret = {volume["name"]: volume["secret"]["items"] for volume in pod["volumes"] if "secret" in volume}
    assert [item["key"] for item in secret["owner"]] == compose["secrets"]
    mounted = {
        name: {mount["name"] for mount in c["volumeMounts"]}
        for name, c in (("first", first), ("then", container))
    }
    assert "owner" in mounted["first"]
    assert "secrets" not in mounted["first"]
    assert "owner" not in mounted["then"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_prometheus_finds_the_pods_under_the_job_that_the_rules_know(name: str) -> None:
    dashed = name.replace("_", "-")
    monitor = OBJECTS[f"ServiceMonitor driftback-{dashed}"]["spec"]
    service, workload = OBJECTS[f"Service {dashed}"], OBJECTS[WORKLOADS[name]]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == name
    pods = workload["spec"]["template"]
    assert service["spec"]["selector"].items() <= pods["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert port["name"] == monitor["endpoints"][0]["port"]
    (container,) = pods["spec"]["containers"]
    assert {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]
    policy = OBJECTS[f"NetworkPolicy driftback-{dashed}"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pods["metadata"]["labels"].items()


def test_the_prometheus_object_says_what_prometheus_yml_says() -> None:
    said = yaml.safe_load((build.ROOT / "prometheus" / "prometheus.yml").read_text())
    spec = OBJECTS["Prometheus driftback"]["spec"]
    for ours, theirs in (
        ("scrape_interval", "scrapeInterval"),
        ("evaluation_interval", "evaluationInterval"),
    ):
        assert spec[theirs] == said["global"][ours]
    assert spec["externalLabels"].keys() == said["global"]["external_labels"].keys()
    source = spec["additionalAlertRelabelConfigs"]
    relabelings = OBJECTS[f"Secret {source['name']}"]["stringData"][source["key"]]
    assert yaml.safe_load(relabelings) == said["alerting"]["alert_relabel_configs"]
    for kind, selector in (("PrometheusRule", "ruleSelector"), ("ServiceMonitor", "serviceMonitorSelector")):
        for name in CUSTOM:
            if name.startswith(kind):
                assert spec[selector]["matchLabels"].items() <= OBJECTS[name]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", ["Prometheus driftback", "Alertmanager driftback"])
def test_an_object_of_monitoring_runs_what_compose_runs(name: str) -> None:
    spec = OBJECTS[name]["spec"]
    service = COMPOSE[name.partition(" ")[0].lower()]
    assert spec["image"] == service["image"]
    assert spec["image"].endswith(f":v{spec['version']}")
    context = spec["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == service["user"]


def test_nothing_is_reached_unless_a_policy_says_so() -> None:
    deny = OBJECTS["NetworkPolicy driftback-default-deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(deny)
    for name in WORKLOADS.values():
        labels = OBJECTS[name]["spec"]["template"]["metadata"]["labels"]
        assert deny["podSelector"]["matchLabels"].items() <= labels.items()
