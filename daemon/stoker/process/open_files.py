"""The soft limit of open files, for the daemon and for its launchers, and the daemon's first three descriptors.

Thousands of clients may wait at once, each with a connection, so the daemon raises its own as far as the hard limit
allows. Launchers get the limit that the daemon was started with: programs that use select() break above 1024.
"""

from __future__ import annotations

import os
import resource

WANTED = 32_768
_GIVEN = resource.getrlimit(resource.RLIMIT_NOFILE)


def open_standard_streams() -> None:
    """Open /dev/null for each of 0, 1 and 2 that is closed (`stokerd 2>&-`): the database must not become stderr."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the kernel gives the lowest free number, which is `fd`


def take_more() -> None:
    """Raise the soft limit to WANTED, or as far as allowed."""
    soft, hard = _GIVEN
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def given() -> int:
    """The soft limit that the daemon was started with."""
    return _GIVEN[0]
