from __future__ import annotations

from pathlib import Path

from driftback_server.stack.secrets import SecretFiles


def test_secrets_are_for_the_owner_only_and_differ(tmp_path: Path) -> None:
    files = SecretFiles.create(tmp_path)
    made = [files.jwt_secret, files.ingest_token, files.service_token, files.alertmanager_token]
    assert [oct(path.stat().st_mode & 0o777) for path in made] == ["0o600"] * 4
    assert len({path.read_text() for path in made}) == 4
    assert all(len(path.read_text().strip()) >= 43 for path in made), "256 bits in base64"


def test_a_second_start_keeps_them(tmp_path: Path) -> None:
    first = SecretFiles.create(tmp_path).jwt_secret.read_text()
    assert SecretFiles.create(tmp_path).jwt_secret.read_text() == first
