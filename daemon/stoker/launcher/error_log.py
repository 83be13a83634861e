"""The launcher's own log of errors: its stderr, which is `launchers/<id>.err`.

Writing there never fails: the parent of all workers must outlive a full disk.
"""

from __future__ import annotations

import contextlib
import sys


def log_error(text: str) -> None:
    """Write `text` as a line, if that is possible."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
