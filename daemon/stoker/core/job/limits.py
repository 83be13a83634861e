"""What may bound an attempt and what really does: the words for both.

Owns `Limits`, what was asked, and `Bounds`, what is in force, by which mechanism and how far. Refuses to measure and
to set. Invariant: a limit that neither a cgroup nor an rlimit keeps is told to be kept by none.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Per-job resource limits; None leaves the daemon's own limit in force."""

    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    processes: int | None = None
    open_files: int | None = None
    file_size_bytes: int | None = None

    def __bool__(self) -> bool:
        return self != NO_LIMITS

    def said(self) -> dict[str, int]:
        """Those that are not None."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


NO_LIMITS = Limits()


class Bounds(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is in force: `cgroup` for the whole tree, `rlimit` for each process (`processes`: for the whole user)."""

    cgroup: Limits = NO_LIMITS
    rlimit: Limits = NO_LIMITS


def describe(wanted: Limits, bounds: Bounds | None) -> dict[str, dict[str, Any]] | None:
    """Each limit that was asked for: `by` cgroup, rlimit or none, how far it goes (`value`), and what was `wanted`.

    None when nothing was asked for, or when nobody knows what is in force (yet).
    """
    if not wanted or bounds is None:
        return None
    in_force = {name: ("rlimit", value) for name, value in bounds.rlimit.said().items()}
    in_force |= {name: ("cgroup", value) for name, value in bounds.cgroup.said().items()}
    told = {name: (*in_force.get(name, ("none", None)), value) for name, value in wanted.said().items()}
    return {name: {"by": by, "value": value, "wanted": asked} for name, (by, value, asked) in told.items()}
