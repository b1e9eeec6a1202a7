"""File descriptors of the process: one for each connection, and some for files and databases."""

import resource

SPARE = 256
"""Descriptors beside those of connections: the journal, pools of database connections, libraries."""


class TooFewDescriptorsError(Exception):
    """The process may not open enough files. The message tells how many it needs, and the remedy."""


def provide(connections: int) -> None:
    """Raise the process's own (soft) limit so far that many connections fit. Raises TooFewDescriptorsError.

    Without room a server could not even take a connection to refuse it, or open its files.
    """
    needed = connections + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise TooFewDescriptorsError(
                f"{connections} connections need {needed} open files, and this process may have {hard}: "
                "allow fewer connections or raise the limit (ulimit -Hn, LimitNOFILE)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
