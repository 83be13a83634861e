"""What the launcher says on its stderr, `launchers/<id>.err`: only what nobody could be told otherwise.

Owns the one function that writes there. Refuses to fail: the parent of all workers outlives a full disk.
"""

from __future__ import annotations

import contextlib
import sys


def complain(text: str) -> None:
    """Say `text` on a line of its own, if that is possible."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
