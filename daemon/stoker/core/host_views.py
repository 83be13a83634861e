"""How the host is shown, for type checkers and editors. Never imported at run time.

Owns the parts of `system.status` about its load, and about what jobs can wait for, as TypedDicts; see `core.views`.
"""

from __future__ import annotations

from typing import TypedDict


class PressureView(TypedDict):
    """The load of the host; `causes`: the gauges for which jobs are throttled."""

    levels: dict[str, float]
    throttled: bool
    causes: list[str]
    since: int | None
    throttle_events: int


class FactView(TypedDict):
    holds: bool
    words: str


class HostView(TypedDict):
    """The conditions about the host that jobs can wait for."""

    idle: FactView
    charging: FactView


class FilesView(TypedDict):
    """The paths for which jobs wait. `untold`: how many of them are polled, and `why` the first one is.

    `hanging`: some mount points at which looks hang.
    """

    paths: int
    untold: int
    why: str | None
    hanging: list[str]


class ShortageView(TypedDict):
    error: str | None
    since: int | None
    next_try_in_ms: int
