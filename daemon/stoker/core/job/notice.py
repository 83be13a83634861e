"""What a worker may say of itself, in the words of sd_notify(3), and what its silence means.

Owns the reading of a datagram (`read_notice`) and the judgement of a silence (`judge_silence`). Refuses sockets and
clocks. Invariants: words that are nobody's business here are passed over, as any program that speaks to systemd sends
them; what cannot be read says nothing at all; only `WATCHDOG=1` is a sign of life, as it is for systemd.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from stoker.core.job.model import Spec

MAX_NOTICE_BYTES = 4096  # what systemd takes of one
MAX_STATUS = 200  # characters: one line for people
_PERCENT = re.compile(r"(\d{1,3})(\.\d{1,9})?\Z", re.ASCII)


class Notice(Struct, frozen=True):
    """One datagram. None: it said nothing of that."""

    alive: bool = False
    ready: bool = False
    trigger: bool = False
    status: str | None = None
    progress: int | None = None


def read_notice(datagram: bytes) -> Notice | None:
    """None for what cannot be read: too long, no UTF-8, no assignments, a progress that is none."""
    if len(datagram) > MAX_NOTICE_BYTES:
        return None
    try:
        words = dict(_assignment(line) for line in datagram.decode().split("\n") if line)
        progress = _percent(words.get("X_STOKER_PROGRESS"))
    except ValueError:
        return None
    if not words:
        return None
    return Notice(
        alive=words.get("WATCHDOG") == "1",
        ready=words.get("READY") == "1",
        trigger=words.get("WATCHDOG") == "trigger",
        status=words["STATUS"][:MAX_STATUS] if "STATUS" in words else None,
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
    """What to do about it, and when to look again (milliseconds; None: never)."""

    look_in_ms: int | None
    warn: bool = False
    stop: bool = False


def judge_silence(spec: Spec, silent_ms: int) -> Silence:
    """A worker that owes signs of life has given none for `silent_ms`."""
    if silent_ms >= spec.unresponsive_kill_ms:
        return Silence(None, warn=True, stop=True)
    if silent_ms >= spec.unresponsive_warn_ms:
        return Silence(spec.unresponsive_kill_ms - silent_ms, warn=True)
    return Silence(min(spec.unresponsive_warn_ms, spec.unresponsive_kill_ms) - silent_ms)
