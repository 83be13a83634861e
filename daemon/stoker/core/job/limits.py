"""The limits that a job asks for (`Limits`) and those that the kernel enforces for its attempt (`Bounds`).

Invariant: a limit that neither a cgroup nor an rlimit enforces is shown as enforced by `none`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Per-job resource limits; None leaves the daemon's own limit in force."""

    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    processes: int | None = None
    open_files: int | None = None
    file_size_bytes: int | None = None

    def __bool__(self) -> bool:
        return self != NO_LIMITS

    def given(self) -> dict[str, int]:
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


NO_LIMITS = Limits()


class Bounds(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Limits in force: `cgroup` for the whole tree, `rlimit` for each process (`processes`: for the whole user)."""

    cgroup: Limits = NO_LIMITS
    rlimit: Limits = NO_LIMITS


def describe(wanted: Limits, bounds: Bounds | None) -> dict[str, dict[str, Any]] | None:
    """Each limit that was asked for (`wanted`), its `value` in force, and `by` what: cgroup, rlimit or none.

    None without a requested limit, or while the limits in force are unknown.
    """
    if not wanted or bounds is None:
        return None
    in_force = {name: ("rlimit", value) for name, value in bounds.rlimit.given().items()}
    in_force |= {name: ("cgroup", value) for name, value in bounds.cgroup.given().items()}
    rows = {name: (*in_force.get(name, ("none", None)), value) for name, value in wanted.given().items()}
    return {name: {"by": by, "value": value, "wanted": asked} for name, (by, value, asked) in rows.items()}
