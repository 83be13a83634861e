"""The notices of workers, in the format of sd_notify(3), and what follows if a worker sends none.

Invariants: assignments that Stoker does not use are ignored, as programs written for systemd send them; a datagram
that cannot be read has no effect; only `WATCHDOG=1` is a sign of life, as for systemd.
"""

from __future__ import annotations

import re

from msgspec import Struct

from stoker.core.job.model import Spec

MAX_NOTICE_BYTES = 4096  # as systemd
MAX_STATUS = 200  # characters
_PERCENT = re.compile(r"(\d{1,3})(\.\d{1,9})?\Z", re.ASCII)


class Notice(Struct, frozen=True):
    """One datagram. None: it has no such assignment."""

    alive: bool = False
    ready: bool = False
    trigger: bool = False
    status: str | None = None
    progress: int | None = None


def read_notice(datagram: bytes) -> Notice | None:
    """None if it cannot be read: too long, not UTF-8, without assignments, or with a progress that is no percentage."""
    if len(datagram) > MAX_NOTICE_BYTES:
        return None
    try:
        fields = dict(_assignment(line) for line in datagram.decode().split("\n") if line)
        progress = _percent(fields.get("X_STOKER_PROGRESS"))
    except ValueError:
        return None
    if not fields:
        return None
    return Notice(
        alive=fields.get("WATCHDOG") == "1",
        ready=fields.get("READY") == "1",
        trigger=fields.get("WATCHDOG") == "trigger",
        status=fields["STATUS"][:MAX_STATUS] if "STATUS" in fields else None,
        progress=progress,
    )


def _assignment(line: str) -> tuple[str, str]:
    name, equals, value = line.partition("=")
    if not (name and equals) or "\0" in value:
        raise ValueError(line)
    return name, value


def _percent(text: str | None) -> int | None:
    if text is None:
        return None
    match = _PERCENT.match(text)
    if match is None or float(text) > 100:  # noqa: PLR2004 - percent
        raise ValueError(text)
    return int(match[1])


class Silence(Struct, frozen=True):
    """The consequences of a silence, and when to check again (milliseconds; None: never)."""

    check_in_ms: int | None
    warn: bool = False
    stop: bool = False


def judge_silence(spec: Spec, silent_ms: int) -> Silence:
    """A worker with a heartbeat has given no sign of life for `silent_ms`."""
    if silent_ms >= spec.unresponsive_kill_ms:
        return Silence(None, warn=True, stop=True)
    if silent_ms >= spec.unresponsive_warn_ms:
        return Silence(spec.unresponsive_kill_ms - silent_ms, warn=True)
    return Silence(min(spec.unresponsive_warn_ms, spec.unresponsive_kill_ms) - silent_ms)
