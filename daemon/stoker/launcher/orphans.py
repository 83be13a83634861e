"""Signals to processes that this launcher did not start: those of runs whose launcher died.

The daemon has found and proven them, and is another user, which may not signal them. Each is pinned and compared with
what the daemon saw before it gets the signal, and the kernel lets us reach none of another user.
"""

from __future__ import annotations

import os

from . import kernel
from .process_tree import Delivery

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterable


def signal_orphans(processes: Iterable[tuple[int, int]], signum: int) -> Delivery:
    """Signal the processes, given by pid and start time. Raises OSError where the host lacks descriptors."""
    delivery = Delivery(signum)
    for pid, start_ticks in processes:
        try:
            pidfd = kernel.open_pidfd(pid)
        except ProcessLookupError:
            continue
        try:
            if kernel.read_stat(pid).start_ticks == start_ticks:
                delivery.send(pid, pidfd)
        except ProcessLookupError:
            continue
        finally:
            os.close(pidfd)
    return delivery
