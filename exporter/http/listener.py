"""The listening socket of a service, and room for the connections that it takes."""

import resource
import socket

BACKLOG = 1024
"""Connections that may come at once: asyncio accepts them all before it asks whether there is room."""
MAX_LEAVING = 128
"""Connections whose last answer is sent, and that wait for their peers to close."""
SPARE = 256
"""File descriptors beside those of connections: the journal, pools of database connections, libraries."""


class ListenError(Exception):
    """The service cannot listen on the configured address. The message names the settings and the remedy."""


def listen(host: str, port: int, max_connections: int, prefix: str) -> socket.socket:
    """A socket that listens there, with room for as many connections. `::` is every address, IPv4's too.

    `prefix` is that of the settings' names. Raises ListenError.
    """
    _provide_descriptors(max_connections, f"{prefix}MAX_CONNECTIONS")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # With its protocol named, for else asyncio leaves Nagle's algorithm on: 40 ms per answer.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ListenError(f"{prefix}HOST: cannot listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(
            f"{prefix}HOST, {prefix}PORT: cannot listen on {host} port {port}: {error.strerror}"
        ) from None
    return listener


def _provide_descriptors(connections: int, setting: str) -> None:
    """Raise the process's own (soft) limit of open files so far that many connections fit.

    Without room a server could not even take a connection to refuse it, or open its files.
    """
    needed = connections + MAX_LEAVING + BACKLOG + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ListenError(
                f"{setting}: {connections} connections need {needed} open files, and this process may have "
                f"{hard}: allow fewer connections or raise the limit (ulimit -Hn, LimitNOFILE)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
