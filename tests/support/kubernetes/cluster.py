"""API server, controllers, scheduler, kubelet and network of a cluster of one node."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.commands import run
from tests.support.install import install
from tests.support.kubernetes import programs
from tests.support.kubernetes.sandbox import INSIDE, Sandbox
from tests.support.stacks import ROOT, wait_for

NODE = "node"
PAUSE = "docker.io/library/pause:test"
"""An image that does nothing, which holds a pod's network; to be loaded with the others."""
DNS_ADDRESS = "10.78.0.10"
"""Where pods ask for names; to be served."""
_PODS, _SERVICES = "10.77.0.0/16", "10.78.0.0/16"
_PLUGINS = "/usr/lib/cni"
_PACKAGES = {
    "containerd": "containerd",
    "etcd": "etcd-server",
    f"{_PLUGINS}/bridge": "containernetworking-plugins",
    "conntrack": "conntrack",
    "ipset": "ipset",
    "iptables": "iptables",
    "ip": "iproute2",
}
_CONTAINERD = """
version = 2
root = "{folder}/containerd"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{networks}"
"""
_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": _PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}


class Cluster:
    """A running cluster; its state is in the sandbox's folder."""

    def __init__(self, sandbox: Sandbox, folder_of_programs: Path) -> None:
        self._sandbox = sandbox
        self._programs = folder_of_programs
        self._folder = sandbox.folder
        self._kubeconfig = self._folder / "kubeconfig"
        self._socket = self._folder / "containerd.sock"
        path = f"{folder_of_programs}:{os.environ['PATH']}"
        self.environment = {**os.environ, "KUBECONFIG": str(self._kubeconfig), "PATH": path}
        """Where `kubectl` is, and which cluster it talks to."""
        self._start_control_plane()
        self._start_node()

    def run(self, *words: str | Path, cwd: Path = ROOT, stdin: str | None = None) -> str:
        """What a command printed that may call `kubectl`."""
        return run(*words, cwd=cwd, stdin=stdin, environment=self.environment)

    def kubectl(self, *words: str | Path, cwd: Path = ROOT, stdin: str | None = None) -> str:
        """What `kubectl` printed."""
        return self.run("kubectl", *words, cwd=cwd, stdin=stdin)

    def get(self, *words: str) -> Any:
        """What `kubectl get` knows of an object or a list."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def apply(self, objects: str) -> None:
        """Makes the objects of a YAML text; server-side, for some are too large for an annotation."""
        self.kubectl("apply", "--server-side", "-f", "-", stdin=objects)

    def add_disk(self, number: int) -> None:
        """A volume for a claim of up to 50 GiB, which is a folder."""
        folder = self._folder / "disks" / str(number)
        folder.mkdir(parents=True)
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
        spec = {
            "capacity": {"storage": "50Gi"},
            "accessModes": ["ReadWriteOnce"],
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        }
        metadata = {"name": f"disk-{number}"}
        disk = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}
        self.apply(yaml.safe_dump(disk))

    @contextmanager
    def port_forward(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """The URL, on loopback, of a port of a pod or Service, as `kubectl port-forward` gives it."""
        words = ["kubectl", "--namespace", namespace, "port-forward", target, f":{port}"]
        with subprocess.Popen(words, env=self.environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield "http://" + process.stdout.readline().split()[2]
            finally:
                process.terminate()

    def load(self, archive: Path) -> None:
        """Takes over images that `docker save` wrote."""
        address = ["--address", str(self._socket), "--namespace", "k8s.io"]
        self._sandbox.run("ctr", *address, "images", "import", archive)

    def _start_control_plane(self) -> None:
        signing = self._folder / "service-accounts.key"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL)
        signing.write_bytes(key.private_bytes(*form, serialization.NoEncryption()))
        tokens = self._folder / "tokens.csv"
        token = secrets.token_hex(16)
        tokens.write_text(f'{token},admin,admin,"system:masters"\n')
        certificates = self._folder / "certificates"
        self._write_kubeconfig(token)
        self._sandbox.start("etcd", "etcd", f"--data-dir={self._folder / 'etcd'}")
        self._sandbox.start(
            "kube-apiserver",
            self._programs / "kube-apiserver",
            f"--advertise-address={INSIDE}",
            f"--bind-address={INSIDE}",
            f"--cert-dir={certificates}",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--service-cluster-ip-range={_SERVICES}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}",
            "--kubelet-preferred-address-types=InternalIP",
        )
        wait_for("API server", 120, self._answers)
        self._start_with_kubeconfig(
            "kube-controller-manager",
            "--leader-elect=false",
            f"--service-account-private-key-file={signing}",
            f"--root-ca-file={certificates / 'apiserver.crt'}",
            "--use-service-account-credentials",
        )
        self._start_with_kubeconfig("kube-scheduler", "--leader-elect=false")

    def _start_with_kubeconfig(self, name: str, *words: str) -> None:
        self._sandbox.start(name, self._programs / name, f"--kubeconfig={self._kubeconfig}", *words)

    def _write_kubeconfig(self, token: str) -> None:
        cluster = {"server": f"https://{INSIDE}:6443", "insecure-skip-tls-verify": True}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": token}}],
        }
        self._kubeconfig.write_text(yaml.safe_dump(document))
        self._kubeconfig.chmod(0o600)

    def _answers(self) -> bool:
        command = ["kubectl", "get", "--raw", "/readyz"]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def _start_node(self) -> None:
        networks = self._folder / "networks"
        networks.mkdir()
        (networks / "pods.conflist").write_text(json.dumps(_NETWORK))
        containerd = self._folder / "containerd.toml"
        places = {"folder": self._folder, "socket": self._socket, "networks": networks}
        containerd.write_text(_CONTAINERD.format(**places, pause=PAUSE, plugins=_PLUGINS))
        self._sandbox.start("containerd", "containerd", "--config", containerd)
        wait_for("containerd", 30, self._socket.exists)
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": INSIDE,
            # Nobody but the API server reaches it.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._sandbox.cgroup}",
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "failSwapOn": False,
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "resolvConf": "/dev/null",
        }
        configuration = self._folder / "kubelet.yaml"
        configuration.write_text(yaml.safe_dump(kubelet))
        self._start_with_kubeconfig(
            "kubelet",
            f"--config={configuration}",
            f"--root-dir={self._folder / 'kubelet'}",
            f"--hostname-override={NODE}",
            f"--node-ip={INSIDE}",
        )
        self._start_with_kubeconfig(
            "kube-proxy",
            f"--hostname-override={NODE}",
            f"--cluster-cidr={_PODS}",
            "--proxy-mode=iptables",
            # The machine's own limits stay as they are.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )
        wait_for("node", 120, self._ready)
        # It enforces network policies, and nothing else.
        self._start_with_kubeconfig(
            "kube-router",
            f"--hostname-override={NODE}",
            f"--service-cluster-ip-range={_SERVICES}",
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
        )

    def _ready(self) -> bool:
        conditions = [state for node in self.get("nodes")["items"] for state in node["status"]["conditions"]]
        return any(state["type"] == "Ready" and state["status"] == "True" for state in conditions)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Builds and installs what is missing, starts a cluster whose state is in `folder`, and ends it."""
    assert os.geteuid() == 0, "a cluster of one's own needs root: run this target as root"
    missing = [package for program, package in _PACKAGES.items() if shutil.which(program) is None]
    if missing:
        install(missing)
    folder_of_programs = programs.ensure()
    sandbox = Sandbox(folder)
    try:
        yield Cluster(sandbox, folder_of_programs)
    finally:
        sandbox.end()
