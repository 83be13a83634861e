"""The launcher's own log of errors: its stderr, which is `launchers/<id>.err`.

Writing there never fails: the parent of all workers must outlive a full disk.
"""

from __future__ import annotations

import sys

from .lean_stdlib import suppress

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec

    P = ParamSpec("P")


def log_error(text: str) -> None:
    """Write `text` as a line, if that is possible."""
    with suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def undo(call: Callable[P, object], *args: P.args, **kw: P.kwargs) -> None:
    """Call after a start, and only log an error: the worker may run already, so the start must not count as failed."""
    try:
        call(*args, **kw)
    except OSError as error:
        log_error(f"after a start: {error}")
