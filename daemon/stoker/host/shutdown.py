"""Asks systemd whether the host shuts down: then the workers end too, even those that would survive the daemon.

Without systemd, or if it does not answer in time, the answer is no; the host then ends the remaining processes itself.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

# sd_booted(3): systemd is the system manager where this directory exists.
BOOTED: Final = Path("/run/systemd/system")
# PID 1 answers in milliseconds; during a shutdown the bus to it may already be gone.
PATIENCE_S: Final = 2.0


def is_under_way() -> bool:
    """Blocks for some milliseconds: call it off the loop."""
    if not BOOTED.is_dir():
        return False
    ask = ["systemctl", "is-system-running"]
    try:
        result = subprocess.run(ask, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False)  # noqa: S603 - a fixed question
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.stdout.strip() == b"stopping"
