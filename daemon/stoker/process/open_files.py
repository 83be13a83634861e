"""The soft limit of open files, for the daemon and for its launchers.

Thousands of clients may wait at once, each with a connection, so the daemon raises its own as far as the hard limit
allows. Launchers get the limit that the daemon was started with: programs that use select() break above 1024.
"""

from __future__ import annotations

import resource

WANTED = 32_768
_GIVEN = resource.getrlimit(resource.RLIMIT_NOFILE)


def take_more() -> None:
    """Raise the soft limit to WANTED, or as far as allowed."""
    soft, hard = _GIVEN
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def given() -> int:
    """The soft limit that the daemon was started with."""
    return _GIVEN[0]
