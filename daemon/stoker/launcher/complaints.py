"""What the launcher says on its stderr, `launchers/<id>.err`: only what nobody could be told otherwise."""

from __future__ import annotations

import contextlib
import sys


def complain(text: str) -> None:
    """Never fails: a full disk must not end the parent of all workers."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
