"""Whether the host is idle, and whether it is charging: two facts for which jobs can wait (`idle`, `charging`).

Owns how long something must hold before it becomes a fact, and the words for it. Invariant: an unknown state is never a
fact, except that a host without a battery counts as charging.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from stoker.core.units import span

READINGS = 2  # of a supply in a row, before it counts: a loose plug bounces


class IdlePolicy(Struct, frozen=True, kw_only=True):
    """The host is idle if for `for_ms` the CPU was below `cpu_percent` and, with `input`, the sessions were unused."""

    cpu_percent: float
    for_ms: int
    input: bool


class InputState(Struct, frozen=True):
    """The sessions of the host. `idle` is None while that is not known, for which `problem` is the reason."""

    idle: bool | None = None
    problem: str | None = None


NOT_ASKED = InputState()  # no job waits for idle


class Idleness(Struct, frozen=True, kw_only=True):
    """`calm_since`: since when every known value has been calm (steady ms); None while one is not."""

    cpu: float | None = None
    input: InputState = NOT_ASKED
    calm_since: int | None = None
    holds: bool = False


class Battery(Struct, frozen=True):
    """`plugged`: whether the host has external power; None if its supplies do not report it. `percent`: its charge."""

    plugged: bool | None
    percent: float | None = None


class Power(Struct, frozen=True, kw_only=True):
    """`battery` is None on a host without one. `plugged`: how many readings in a row had external power."""

    battery: Battery | None = None
    plugged: int = 0
    holds: bool = False


def observe_idle(
    policy: IdlePolicy, before: Idleness, cpu: float | None, sessions: InputState, now_ms: int
) -> Idleness:
    """The idleness after one more sample. A single busy sample ends it, and the time begins anew."""
    busy = cpu is None or cpu >= policy.cpu_percent or (policy.input and sessions.idle is False)
    calm_since = None if busy else now_ms if before.calm_since is None else before.calm_since
    asked = not policy.input or sessions != NOT_ASKED
    holds = asked and calm_since is not None and now_ms - calm_since >= policy.for_ms
    return Idleness(cpu=cpu, input=sessions, calm_since=calm_since, holds=holds)


def observe_power(before: Power, battery: Battery | None) -> Power:
    """The power after one more reading."""
    if battery is None or not battery.plugged:
        return Power(battery=battery, holds=battery is None)
    plugged = before.plugged + 1
    return Power(battery=battery, plugged=plugged, holds=plugged >= READINGS)


def idle_words(policy: IdlePolicy, idleness: Idleness, now_ms: int) -> str:
    """`CPU 43 %, must be below 20 % for 1m00s; the sessions are in use`."""
    cpu = "CPU not measured yet" if idleness.cpu is None else f"CPU {idleness.cpu:.0f} %"
    limit = f"below {policy.cpu_percent:g} % for {span(policy.for_ms)}"
    if idleness.holds:
        words = f"{cpu}, {limit}"
    elif idleness.calm_since is None:
        words = f"{cpu}, must be {limit}"
    else:
        words = f"{cpu}, must be {limit}, has been for {span(now_ms - idleness.calm_since)}"
    return f"{words}; {_input_words(policy, idleness.input)}"


def _input_words(policy: IdlePolicy, sessions: InputState) -> str:
    if not policy.input:
        return "input does not count ([idle] input)"
    if sessions.idle is None:
        return f"CPU alone decides: {sessions.problem}" if sessions.problem else "sessions not checked yet"
    return "its sessions are unused" if sessions.idle else "its sessions are in use, must be unused"


def power_words(power: Power) -> str:
    """`running on battery, 61 %`."""
    battery = power.battery
    if battery is None:
        return "no battery, counts as charging" if power.holds else "not checked yet"
    state = {
        True: "on external power",
        False: "running on battery",
        None: "its power supplies do not report whether it charges",
    }
    percent = "" if battery.percent is None else f", {battery.percent:.0f} %"
    return f"{state[battery.plugged]}{percent}"


def forgotten(idleness: Idleness) -> Idleness:
    """After a gap without samples the calm begins anew."""
    return replace(idleness, calm_since=None, holds=False)
