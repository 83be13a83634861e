"""Failed starts that show a shortage of the host, in memory and in the log.

Owns the two log events, for its begin and its end; `core.shortage` decides.
"""

from __future__ import annotations

from stoker.core.shortage import NO_SHORTAGE, start_failed
from stoker.engine.turn import LogLine, Turn
from stoker.telemetry.events import LogEvent


def note_failed_start(turn: Turn, error: str | None) -> None:
    """A start failed because the host lacked something."""
    before = turn.memory.shortage
    turn.memory.shortage = start_failed(before, error, turn.now)
    if turn.memory.shortage.lasts and not before.lasts:
        turn.effects.append(LogLine(LogEvent.HOST_SHORTAGE, {"error": error}))


def end_shortage(turn: Turn) -> None:
    """A start succeeded."""
    before, turn.memory.shortage = turn.memory.shortage, NO_SHORTAGE
    if before.lasts:
        turn.effects.append(LogLine(LogEvent.HOST_SHORTAGE_OVER, {"since": before.since}))
