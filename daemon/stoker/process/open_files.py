"""How many files the daemon may open, and what those that it starts are given.

Owns the soft limit of open files: thousands of clients may wait at once, each with a connection, so the daemon takes
what the hard limit allows. Its launchers get back what the daemon was started with: programs that use select() break
above 1024.
"""

from __future__ import annotations

import resource

WANTED = 32_768
_GIVEN = resource.getrlimit(resource.RLIMIT_NOFILE)


def take_more() -> None:
    """Raise the soft limit as far as it is wanted and allowed."""
    soft, hard = _GIVEN
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def given() -> int:
    """The soft limit that the daemon was started with, for those that it starts."""
    return _GIVEN[0]
