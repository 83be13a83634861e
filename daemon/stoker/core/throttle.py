"""From samples of the host to pressure: whether queues of class `low` are throttled, and by which gauges; and how many
jobs a queue with a floor may run then.

Owns smoothing and hysteresis: a gauge becomes a cause above its `throttle` level and stays one until it falls below
`resume`. Levels are percent, 0 to 100.

Invariants: a smoothed level stays within the range of its samples; a gauge that cannot be read is never a cause,
because such a throttling would never end.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec import Struct

from stoker.core.errors import InvalidParams


class Gauge(StrEnum):
    """The values name causes in logs and in `stoker status`."""

    CPU = "cpu"
    MEMORY = "memory"
    CPU_SOME = "cpu_some"
    IO_FULL = "io_full"
    MEMORY_FULL = "memory_full"


NEVER = 100.0
# The kernel averages stall times itself; to smooth them again would only delay them.
SMOOTHED = frozenset({Gauge.CPU, Gauge.MEMORY})


class Sample(Struct, frozen=True, kw_only=True):
    """One measurement of the host; the gauges in percent. None: not measured, or not supported by this kernel."""

    cpu: float | None = None
    memory: float | None = None
    cpu_some: float | None = None
    io_full: float | None = None
    memory_full: float | None = None
    memory_free_bytes: int | None = None


class Band(Struct, frozen=True):
    """Pressure begins above `throttle` (100: never) and ends below `resume`. Percent, resume <= throttle."""

    throttle: float
    resume: float


class ThrottlePolicy(Struct, frozen=True, kw_only=True):
    """The bands of the gauges that count, and the weight of the newest sample, in (0, 1]."""

    bands: dict[Gauge, Band]
    smoothing: float


class Pressure(Struct, frozen=True, kw_only=True):
    """The state of the throttle. `since` (ms) is the last change of `throttled`, `events` counts its beginnings."""

    levels: dict[Gauge, float] = {}
    causes: tuple[Gauge, ...] = ()
    since: int | None = None
    events: int = 0

    @property
    def throttled(self) -> bool:
        return bool(self.causes)

    def level(self, gauge: Gauge) -> float | None:
        """The smoothed level in percent, None while it is unknown."""
        return self.levels.get(gauge)


def observe(policy: ThrottlePolicy, before: Pressure, sample: Sample, at_ms: int) -> tuple[Pressure, bool]:
    """The pressure after one more sample, and whether `throttled` changed."""
    levels = _levels(policy, before, sample)
    causes = tuple(gauge for gauge in levels if _is_cause(policy, before, gauge, levels[gauge]))
    after = msgspec.structs.replace(before, levels=levels, causes=causes)
    if after.throttled == before.throttled:
        return after, False
    return msgspec.structs.replace(after, since=at_ms, events=before.events + after.throttled), True


class Narrowing(Struct, frozen=True):
    """How many jobs of a queue may run at once under pressure, and since when (steady ms)."""

    limit: int
    since: int


def check_floor(floor: int | None, ceiling: int | None, path: str = "min_running") -> None:
    """Refuse a floor above the limit of the queue. `path`: the one of the two that was set. Raises InvalidParams."""
    if floor is None or ceiling is None or floor <= ceiling:
        return
    messages = {
        "min_running": f"min_running: {floor} is above max_running, which is {ceiling}",
        "max_running": f"max_running: {ceiling} is below min_running, which is {floor}",
    }
    raise InvalidParams(messages[path], hint="set both in one command, or min_running to none", path=path)


def narrow(
    before: Narrowing | None, floor: int, ceiling: int, running: int, at_ms: int, step_ms: int, *, throttled: bool
) -> Narrowing | None:
    """The next limit of a queue with a floor; None while it needs none below its `ceiling`.

    Under pressure half of what runs, without it one more, as TCP does to a congested path. Steps are at least `step_ms`
    apart: running jobs go on, so a step takes time to show.
    """
    if before is not None and at_ms < before.since + step_ms:
        return before
    if throttled:
        limit = max(floor, min(running, ceiling if before is None else before.limit) // 2)
        return before if before is not None and limit >= before.limit else _below(ceiling, limit, at_ms)
    return None if before is None else _below(ceiling, before.limit + 1, at_ms)


def _below(ceiling: int, limit: int, at_ms: int) -> Narrowing | None:
    return Narrowing(limit, at_ms) if limit < ceiling else None


def _levels(policy: ThrottlePolicy, before: Pressure, sample: Sample) -> dict[Gauge, float]:
    levels = {}
    for gauge in Gauge:
        value: float | None = getattr(sample, gauge.value)
        if value is None:
            continue
        old = before.levels.get(gauge, value)
        weight = policy.smoothing if gauge in SMOOTHED else 1.0
        levels[gauge] = old * (1 - weight) + value * weight
    return levels


def _is_cause(policy: ThrottlePolicy, before: Pressure, gauge: Gauge, level: float) -> bool:
    band = policy.bands.get(gauge)
    if band is None or band.throttle >= NEVER:  # a reload can set this while the gauge is a cause
        return False
    return level >= band.resume if gauge in before.causes else level > band.throttle
