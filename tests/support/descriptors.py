"""The open descriptors of a process."""

from __future__ import annotations

from pathlib import Path


def count_fds(pid: int | None = None) -> int:
    """Of this process if no `pid` is given."""
    return len(list(Path(f"/proc/{pid or 'self'}/fd").iterdir()))
