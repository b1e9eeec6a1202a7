from __future__ import annotations

import socket

import pytest

from driftback_server.stack.errors import PortTakenError
from driftback_server.stack.ports import LOOPBACK, Ports


def test_an_offset_moves_every_port() -> None:
    assert Ports().shifted(100).prometheus == 9190
    assert Ports().shifted(100).url("exporter") == "http://127.0.0.1:9910"


@pytest.mark.parametrize("offset", [60_000, -5_000])
def test_an_offset_out_of_range_names_the_option(offset: int) -> None:
    with pytest.raises(ValueError, match=r"--port-offset .* outside 1 to 65535"):
        Ports().shifted(offset)


def test_a_taken_port_is_named_with_what_needs_it() -> None:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        taken = server.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"port {taken} \(for grafana\).*--port-offset"):
            Ports(grafana=taken).require_free(["grafana"])


def test_a_port_that_is_not_needed_may_be_taken() -> None:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        Ports(grafana=server.getsockname()[1]).require_free([])
