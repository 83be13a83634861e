"""Safe mode: the switch, and the texts that say why the daemon changes nothing and what a person can do about it.

A failed recovery enters safe mode; only a new start of the daemon leaves it.
"""

from __future__ import annotations

from msgspec import Struct

from stoker.core.errors import SafeMode as Refusal
from stoker.core.errors import StokerError
from stoker.core.job.recovery import PlanInvalid, RowInvalid
from stoker.engine.dispatcher import Dispatcher
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log

NEXT_STEP = "stop the daemon; `stoker recover --dry-run` shows what cannot be decided"


class SafeModeState(Struct, frozen=True):
    """`why` it was entered, and the `next` step."""

    why: str
    next: str

    def refusal(self) -> Refusal:
        """The error for every request that would change something."""
        return Refusal(f"the daemon is in safe mode and changes nothing: {self.why}", hint="stoker status")


class SafeModeSwitch:
    """Entered when a recovery cannot be trusted: from then on no job starts, and requests that change are refused.

    Running attempts with a connected launcher are still settled.
    """

    def __init__(self, dispatcher: Dispatcher, timeout_ms: int) -> None:
        self._dispatcher = dispatcher
        self._timeout_ms = timeout_ms
        self.state: SafeModeState | None = None

    def enter(self, error: Exception) -> None:
        """`error`: what the recovery raised."""
        self.state = safe_mode(error, self._timeout_ms)
        log(LogEvent.RECOVERY_FAILED, error=error)
        log(LogEvent.SAFE_MODE_ENTERED, reason=self.state.why)
        self._dispatcher.close(self.state.why)


def safe_mode(error: Exception, timeout_ms: int) -> SafeModeState:
    """Safe mode after a recovery that raised `error`."""
    match error:
        case RowInvalid():
            return SafeModeState(f"the database contradicts itself: {error}", error.remedy)
        case PlanInvalid():
            return SafeModeState(f"the plan of the recovery is not valid: {error}", f"stop the daemon, {error.remedy}")
        case TimeoutError():
            why = f"recovery was not over within {timeout_ms} ms"
            return SafeModeState(why, "start the daemon again; if it needs that long, raise timeout_ms in [recovery]")
        case StokerError(hint=str(hint)):
            return SafeModeState(f"recovery failed: {error.message}", f"{hint}; then start the daemon again")
    return SafeModeState(f"recovery failed: {type(error).__name__}: {error}", NEXT_STEP)
