"""Certificates for tests, and requests to a name that no DNS knows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from requests.adapters import HTTPAdapter

NAMES = ("rollback.example.org", "grafana.example.org")


def self_signed(certificate: Path, key: Path, names: Sequence[str] = NAMES) -> None:
    """Writes a certificate of `names`, which is its own authority, and its key (PEM)."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "driftback test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class _OnLoopback(HTTPAdapter):
    """Connects to loopback, and there asks for `host` and accepts its certificate alone."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, server_hostname=self._host, assert_hostname=self._host)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: bool | str, cert: Any = None
    ) -> tuple[Any, Any]:
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        return {**host, "host": "127.0.0.1", "port": self._port}, pool

    def add_headers(self, request: requests.PreparedRequest, **_: Any) -> None:
        request.headers.setdefault("Host", self._host)


def session(host: str, port: int, certificate: Path) -> requests.Session:
    """Requests to `https://<host>/…` go to this port of loopback, over TLS with `certificate`."""
    made = requests.Session()
    made.trust_env = False  # a CA bundle of the environment would win over `verify`
    made.verify = str(certificate)
    made.mount(f"https://{host}", _OnLoopback(host, port))
    return made
