"""Lets the daemon read what a worker of another user wrote to STOKER_OUTPUT, whatever the umask of the worker.

The launcher has the user's rights and no others, so a link that the user puts there leads to nothing but own files.
"""

from __future__ import annotations

import os
import stat

from .lean_stdlib import suppress
from .logs import FILE_MODE

PATH_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def share_output(work: str, run_id: str) -> None:
    """Let our group read the output of a run that has ended, if it has one and it is a file of our user."""
    with suppress(OSError):
        fd = os.open(f"{work}/{run_id}.output", PATH_ONLY)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.chmod(f"/proc/self/fd/{fd}", FILE_MODE)  # fchmod(2) takes no descriptor of O_PATH
        finally:
            os.close(fd)
