"""Whether the host itself goes down: then nothing outlives the daemon, however long it would have.

Owns the one question to systemd. Refuses to wait for an answer: where there is no systemd, or none that answers in
time, the answer is no, and whoever ends the remaining processes does so without us.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

# sd_booted(3): systemd is the system manager where this directory exists.
BOOTED: Final = Path("/run/systemd/system")
# PID 1 answers in milliseconds; at a shutdown the bus between us and it may have gone first.
PATIENCE_S: Final = 2.0


def is_under_way() -> bool:
    """Blocks for some milliseconds: call it off the loop."""
    if not BOOTED.is_dir():
        return False
    ask = ["systemctl", "is-system-running"]
    try:
        told = subprocess.run(ask, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False)  # noqa: S603 - a fixed question
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.stdout.strip() == b"stopping"
