"""Errors that the launcher can report to no daemon go to its stderr, `launchers/<id>.err`.

Owns the one function that writes there. It never fails: the parent of all workers must outlive a full disk.
"""

from __future__ import annotations

import contextlib
import sys


def complain(text: str) -> None:
    """Write `text` as a line, if that is possible."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
