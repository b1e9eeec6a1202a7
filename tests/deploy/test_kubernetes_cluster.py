"""deploy/kubernetes runs the whole loop on a cluster, by the commands of docs/deployment.md.

`make kubernetes-test`; needs root, and Go for what Debian does not have.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import yaml

from tests.support.deployment_page import PAGE as DEPLOYMENT
from tests.support.deployment_page import Access, access, as_written, copy_checkout, documented
from tests.support.docker import BASE, IMAGE, engine, foreign_images, program_image, stand_ins
from tests.support.kubernetes import programs
from tests.support.kubernetes.cluster import PAUSE, Cluster
from tests.support.kubernetes.cluster import cluster as make_cluster
from tests.support.stacks import DRIFTBACK, ROOT, wait_for
from tests.support.whole_loop import whole_loop

pytestmark = pytest.mark.soak

SURROUNDINGS = Path(__file__).parent / "cluster"
ALERTMANAGER_VERSION = "0.25.0"
"""The stand-in's: the operator writes flags and configuration for the version that the object names."""
# Asks every 20 ms, each time by a new connection, and prints how often it got what.
POLL = """
import collections, sys, time, urllib.request
answers, end = collections.Counter(), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
            answers[str(answer.status)] += 1
    except OSError as error:
        answers[str(error)] += 1
    time.sleep(0.02)
print(dict(answers))
"""


def _bundle() -> str:
    """The operator with its definitions and rights."""
    source = Path(programs.download(programs.OPERATOR)["Dir"])
    return (source / "bundle.yaml").read_text()


def _images(folder: Path) -> Path:
    """Everything that the cluster runs, in one archive: there is no registry."""
    built = programs.ensure()
    reloader, operator = re.findall(
        r"(?:--prometheus-config-reloader=|image: )(\S+/prometheus-\S+)$", _bundle(), re.M
    )
    prometheus = next(image for image in foreign_images() if image.startswith("prom/prometheus:"))
    made = {"coredns:test": "coredns", operator: "operator", reloader: "prometheus-config-reloader"}
    with engine(folder) as docker:
        stand_ins(docker, folder)
        docker.build(ROOT, IMAGE)
        # Debian's does not find its targets in Kubernetes.
        for image, name in (made | {prometheus: "prometheus"}).items():
            program_image(docker, image, built / name)
        pause = f'FROM {BASE}\nENTRYPOINT ["/usr/bin/sleep", "infinity"]\n'
        docker.run("docker", "build", "--tag", PAUSE, "-", stdin=pause)
        archive = folder / "images.tar"
        docker.run("docker", "save", "--output", archive, BASE, IMAGE, PAUSE, *made, *foreign_images())
    return archive


def _surroundings(started: Cluster, checkout: Path) -> None:
    """What the page takes for granted: names, disks, the operator, PostgreSQL and Redis."""
    started.kubectl("apply", "-f", SURROUNDINGS / "dns.yaml")
    for number in range(6):
        started.add_disk(number)
    for namespace in ("monitoring", "database"):
        started.kubectl("create", "namespace", namespace)
    started.apply(_bundle().replace("namespace: default", "namespace: monitoring"))
    secret = ["create", "secret", "generic", "postgres", "--from-file=secrets/"]
    started.kubectl("-n", "database", *secret, cwd=checkout)
    roles = ["create", "configmap", "roles", "--from-file=roles.sql=deploy/postgres-roles.sql"]
    started.kubectl("-n", "database", *roles, cwd=checkout)
    started.kubectl("apply", "-f", SURROUNDINGS / "databases.yaml")
    for database in ("postgres", "redis"):
        words = ["rollout", "status", "--timeout=3m", f"deployment/{database}"]
        started.kubectl("-n", "database", *words)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_checkout(tmp_path_factory.mktemp("kubernetes") / "main")
    subprocess.run(["make", "secrets"], cwd=folder, check=True)
    for name in ("database_url", "database_owner_url"):
        path = folder / "secrets" / name
        path.chmod(0o600)
        path.write_text(path.read_text().replace("@postgres:", "@postgres.database.svc:"))
    (folder / "secrets" / "rate_limit_store").write_text("redis://redis.database.svc:6379/0")
    return folder


@pytest.fixture(scope="module")
def cluster(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    archive = _images(tmp_path_factory.mktemp("docker"))
    with make_cluster(folder) as started:
        started.load(archive)
        archive.unlink()
        _surroundings(started, checkout)
        try:
            for command in documented("Kubernetes"):
                as_written(command, started.run, checkout)
            version = json.dumps({"spec": {"version": ALERTMANAGER_VERSION}})
            words = ["patch", "alertmanager", "driftback", "--type=merge", "--patch", version]
            started.kubectl("-n", "monitoring", *words)
            started.kubectl("create", "namespace", "team")
            started.kubectl("label", "namespace", "team", "driftback-client=true")
            examples = ["create", "configmap", "examples", "--from-file=examples/"]
            started.kubectl("-n", "team", *examples, cwd=checkout)
            tokens = ["--from-file=secrets/ingest_token", "--from-file=secrets/service_token"]
            started.kubectl("-n", "team", "create", "secret", "generic", "driftback", *tokens, cwd=checkout)
            started.kubectl("apply", "-f", SURROUNDINGS / "clients.yaml")
            wait_for("every pod", 300, lambda: _all_ready(started), pause=2)
            yield started
        finally:
            print(started.kubectl("get", "pods", "--all-namespaces", "--output=wide"))


def _all_ready(cluster: Cluster) -> bool:
    pods = cluster.get("pods", "--all-namespaces")["items"]
    ready = [
        any(
            state["type"] == "Ready" and state["status"] == "True"
            for state in pod["status"].get("conditions", [])
        )
        for pod in pods
    ]
    return len(ready) == 14 and all(ready)


@pytest.fixture(scope="module")
def config_rollback(cluster: Cluster) -> Iterator[str]:
    with cluster.port_forward("driftback", "service/config-rollback", 9811) as url:
        yield url


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster) -> Iterator[str]:
    with cluster.port_forward("monitoring", "service/prometheus-operated", 9090) as url:
        yield url


@pytest.fixture(scope="module")
def alertmanager(cluster: Cluster) -> Iterator[str]:
    with cluster.port_forward("monitoring", "service/alertmanager-operated", 9093) as url:
        yield url


@pytest.fixture(scope="module")
def made(cluster: Cluster, checkout: Path) -> Access:
    return access("kubectl", lambda command: as_written(command, cluster.run, checkout))


def _query(prometheus: str, query: str, label: str = "instance") -> dict[str, float]:
    """Values by one label."""
    answer = requests.get(f"{prometheus}/api/v1/query", params={"query": query}, timeout=10).json()
    return {row["metric"][label]: float(row["value"][1]) for row in answer["data"]["result"]}


@pytest.fixture(scope="module")
def personas(config_rollback: str, checkout: Path) -> None:
    """Their first versions, published as the page on personas says."""
    secret = str(checkout / "secrets" / "jwt_secret")
    environment = {**os.environ, "DRIFTBACK_URL": config_rollback, "CONFIG_ROLLBACK_JWT_SECRET_FILE": secret}
    for name in ("concierge", "coach"):
        file = checkout / "examples" / "personas" / f"{name}.yaml"
        subprocess.run([DRIFTBACK, "persona", "publish", file, "--yes"], env=environment, check=True)


@pytest.mark.usefixtures("personas")
def test_the_whole_loop_runs_in_a_cluster(
    cluster: Cluster, config_rollback: str, prometheus: str, alertmanager: str, made: Access
) -> None:
    up = 'up{job=~"exporter|config_rollback"} == 1'
    wait_for("two exporters and two config_rollback", 180, lambda: len(_query(prometheus, up)) == 4, pause=2)
    chosen = ["-n", "driftback", "--selector", "app.kubernetes.io/name=config_rollback"]
    with ExitStack() as stack:
        replicas = [
            stack.enter_context(cluster.port_forward("driftback", f"pod/{pod['metadata']['name']}", 9811))
            for pod in cluster.get("pods", *chosen)["items"]
        ]
        assert len(replicas) == 2
        alert = whole_loop(config_rollback, alertmanager, made.headers, replicas)
    link = made.login_link
    assert link.startswith("https://rollback.example.org/login?")
    page = requests.get(link.replace("https://rollback.example.org", config_rollback), timeout=10)
    assert "login-button" in page.text
    assert not {"prometheus_replica", "driftback_url", "grafana_url"} & alert["labels"].keys()
    assert alert["annotations"]["rollback_url"].startswith("https://rollback.example.org/rollback/concierge?")


@pytest.mark.usefixtures("personas")
def test_both_prometheus_found_the_rules(cluster: Cluster) -> None:
    for replica in (0, 1):
        with cluster.port_forward("monitoring", f"pod/prometheus-driftback-{replica}", 9090) as url:
            groups = requests.get(f"{url}/api/v1/rules", timeout=10).json()["data"]["groups"]
        written = {
            path.stem: yaml.safe_load(path.read_text())["groups"] for path in (ROOT / "rules").glob("*.yml")
        }
        expected = sorted((g["name"], len(g["rules"])) for group in written.values() for g in group)
        assert sorted((group["name"], len(group["rules"])) for group in groups) == expected
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


@pytest.mark.usefixtures("personas")
def test_an_exporter_goes_on_counting_after_its_pod_was_replaced(cluster: Cluster, prometheus: str) -> None:
    query = (
        "sum by (journal) (max by (journal, journey, persona, config_version) (conversation_messages_total))"
    )

    def counts() -> dict[str, float]:
        return _query(prometheus, query, label="journal")

    before = wait_for("messages", 180, counts, pause=1)
    started = _started(prometheus)
    cluster.kubectl("-n", "driftback", "delete", "pod", "exporter-0", "exporter-1")
    wait_for("exporters anew", 180, lambda: len(_started(prometheus).keys() - started.keys()) == 2, pause=1)
    after = counts()
    # A service may have gone to the exporter that had no message yet; the id of one that forgot is gone.
    assert all(after[journal] >= count for journal, count in before.items())


def _started(prometheus: str) -> dict[str, float]:
    """When each exporter's process started, by address: a new pod has a new one."""
    return _query(prometheus, 'process_start_time_seconds{job="exporter"}')


def test_nobody_is_refused_while_config_rollback_is_replaced(cluster: Cluster) -> None:
    url = "http://config-rollback.driftback.svc:9811/-/ready"
    poll = ["-n", "team", "exec", "client", "--", "python", "-c", POLL, url, "40"]
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(cluster.kubectl, *poll)
        (restart,) = re.findall(r"`kubectl (.* rollout restart .*)` refuses no call", DEPLOYMENT.read_text())
        for _ in range(2):
            cluster.kubectl(*restart.split())
            cluster.kubectl(*restart.replace("restart", "status --timeout=2m").split())
        assert set(ast.literal_eval(answers.result())) == {"200"}


def _reaches(cluster: Cluster, pod: str, host: str, port: int) -> bool:
    script = f"import socket; socket.create_connection(({host!r}, {port}), 5)"
    namespace, name = pod.split("/", 1)
    command = ["kubectl", "-n", namespace, "exec", name, "--", "python", "-c", script]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False)
    # The connection is refused; any other failure is none of the policy's.
    assert done.returncode == 0 or "ConnectionRefusedError" in done.stderr, done.stderr
    return done.returncode == 0


CONFIG_ROLLBACK = ("config-rollback.driftback.svc", 9811)
EXPORTER = ("exporter-0.exporter.driftback.svc", 9810)


@pytest.mark.parametrize(
    ("pod", "target", "reached"),
    [
        ("team/client", CONFIG_ROLLBACK, True),
        ("team/client", EXPORTER, True),
        ("team/stranger", CONFIG_ROLLBACK, False),
        ("team/stranger", EXPORTER, False),
        ("driftback/deployment/config-rollback", ("postgres.database.svc", 5432), True),
        ("driftback/deployment/config-rollback", ("redis.database.svc", 6379), True),
        ("driftback/deployment/config-rollback", ("prometheus-operated.monitoring.svc", 9090), True),
        ("driftback/deployment/config-rollback", ("alertmanager-operated.monitoring.svc", 9093), False),
        ("driftback/deployment/config-rollback", EXPORTER, False),
    ],
)
def test_the_network_policies_hold(
    cluster: Cluster, pod: str, target: tuple[str, int], reached: bool
) -> None:
    assert _reaches(cluster, pod, *target) is reached
