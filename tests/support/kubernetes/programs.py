"""Kubernetes and what a cluster needs besides, none of it in Debian 12: built from their Go modules, once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support import prometheus_3

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "build" / "kubernetes"
KUBERNETES = "k8s.io/kubernetes@v1.34.4"
OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
# A module that replaces others by its own folders cannot be installed by name: one is made that names them.
_WITH_REPLACED = {
    KUBERNETES: (
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "kubectl",
        "kubelet",
    ),
    OPERATOR: ("operator", "prometheus-config-reloader"),
}
_FLAGS = (
    "-trimpath",
    f"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES.partition('@')[2]}",
)
_BY_NAME = {
    "coredns": "github.com/coredns/coredns@v1.12.4",
    "kube-router": "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@v2.1.0",
}


def ensure() -> Path:
    """The folder with all programs; what is not there takes about ten minutes on two cores."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for module, names in _WITH_REPLACED.items():
        if not _built(names):
            _build(module, names)
    for name, package in _BY_NAME.items():
        if not _built([name]):
            print(f"building {name}", flush=True)
            _go("install", *_FLAGS, package, cwd=Path("/"))
    shutil.copy2(prometheus_3.ensure() / "prometheus", FOLDER)
    return FOLDER


def download(module: str) -> dict[str, str]:
    """What the Go proxy says of a module, and in Dir where its source is; its copy never changes."""
    answer: dict[str, str] = json.loads(_go("mod", "download", "-json", module, cwd=Path("/")))
    return answer


def _built(names: Sequence[str]) -> bool:
    return all((FOLDER / name).is_file() for name in names)


def _go(*words: str, cwd: Path) -> str:
    assert shutil.which("go"), f"Kubernetes is built by Go; or put its programs into {FOLDER}"
    environment = os.environ | {"GOBIN": str(FOLDER), "CGO_ENABLED": "0"}
    done = subprocess.run(
        ["go", *words], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"go {' '.join(words)}:\n{(done.stdout + done.stderr)[-4000:]}"
    return done.stdout


def _build(module: str, names: Sequence[str]) -> None:
    print(f"building {', '.join(names)}", flush=True)
    path, _, version = module.partition("@")
    content = json.loads(_go("mod", "edit", "-json", f"{download(module)['Dir']}/go.mod", cwd=Path("/")))
    # Those of Kubernetes are published as v0 of the same number, those of the operator as the same.
    published = version.replace("v1.", "v0.", 1)
    replaced = [item["Old"]["Path"] for item in content["Replace"] if item["New"]["Path"].startswith("./")]
    packages = [f"{path}/cmd/{name}" for name in names]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lines = ["module programs", f"go {content['Go']}", f"require {path} {version}"]
        lines += [f"replace {name} => {name} {published}" for name in replaced]
        (folder / "go.mod").write_text("\n".join(lines))
        imports = "".join(f'import _ "{package}"\n' for package in packages)
        (folder / "programs.go").write_text(f"//go:build tools\n\npackage programs\n\n{imports}")
        _go("mod", "tidy", cwd=folder)
        _go("build", *_FLAGS, "-o", f"{FOLDER}/", *packages, cwd=folder)
