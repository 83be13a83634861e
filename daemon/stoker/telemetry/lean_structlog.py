"""structlog, imported without rich.

structlog loads rich wherever it is installed, for tracebacks that Stoker never prints: a quarter of the CPU time of a
daemon's start. Invariant: afterwards rich can be imported as before, as a handler of jobs may use it.
"""

from __future__ import annotations

import sys

if "rich" in sys.modules:
    import structlog
else:
    sys.modules["rich"] = None  # type: ignore[assignment] # the documented way to make an import fail
    try:
        import structlog
    finally:
        del sys.modules["rich"]

__all__ = ["structlog"]
