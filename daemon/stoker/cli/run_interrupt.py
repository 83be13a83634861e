"""What becomes of the job when `stoker run` is told to end.

Owns the rule, and the signals from before the job is handed over: Ctrl-C cancels the job, everything else (a second
Ctrl-C, SIGTERM, SIGHUP, a reader of the output that left) leaves it to the daemon and says so with its id. Never in
silence: whoever ends `run` hears whether there is a job. Loads nothing that `run` does not need before its submit.
"""

from __future__ import annotations

import os
import signal

from stoker.cli.kit import render
from stoker.cli.kit.connection import call
from stoker.core.errors import StokerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Self

    from stoker.cli.kit.parser import Given

INTERRUPTED = 130
BROKEN_PIPE = 141
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LeftJobRunning(BaseException):
    """`run` ends here, and its job does not; raised out of whatever was being done."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_status = 128 + signum


class RunInterrupt:
    """Signals while a job is handed over and followed. `job` is its id, once it has one."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._job: int | None = None
        self._asking = False
        self._pending: int | None = None
        self._key = ""
        self.cancelled = False

    def __enter__(self) -> Self:
        for signum in ENDING:
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and so do we
                signal.signal(signum, self._told)
        return self

    def __exit__(self, *_: object) -> None:
        for signum in ENDING:
            signal.signal(signum, signal.SIG_DFL)

    def asks(self, key: str) -> None:
        """The job is being sent: a first signal waits for the answer, which tells the id."""
        self._asking, self._key = True, key

    def unanswered(self) -> None:
        """It was not stored, or nobody knows: a signal that came meanwhile counts now."""
        self._asking = False
        if self._pending is not None:
            self._leave_without_job(self._pending)

    def stored(self, job: int) -> None:
        self._asking, self._job = False, job
        if self._pending is not None:
            self._leave(self._pending)

    def _told(self, signum: int, _frame: object) -> None:
        if self._job is not None:
            self._leave(signum)
        elif self._asking and self._pending is None:
            self._pending = signum
            render.note("the job is being handed over: waiting for the daemon's answer; again leaves without it")
        else:
            self._leave_without_job(signum)

    def _leave_without_job(self, signum: int) -> None:
        if self._asking:
            render.note("left before the daemon answered: the job may be stored")
            render.hint(f"the same command with --idempotency-key {self._key} gives its id, and runs it no second time")
        else:
            render.note("no job was stored")
        raise LeftJobRunning(signum)

    def _leave(self, signum: int) -> None:
        if signum == signal.SIGINT and not self.cancelled:
            self._cancel()
            return
        self.say_goodbye()
        raise LeftJobRunning(signum)

    def say_goodbye(self) -> None:
        render.note(f"job {self._job} is left to the daemon and goes on")
        render.hint(f"stoker logs -f {self._job}, or stoker cancel {self._job}")

    def _cancel(self) -> None:
        # On a connection of its own: the handler interrupts whatever the others are doing.
        self.cancelled = True
        render.note(f"cancelling job {self._job}; Ctrl-C again leaves it to the daemon")
        try:
            call(self._given, "job.cancel", {"id": self._job, "reason": "Ctrl-C"})
        except StokerError as failure:
            render.error(failure)

    def without_reader(self) -> NoReturn:
        """Nobody reads the output any more, as in `run | head -1`: end, from whatever thread."""
        try:
            self.say_goodbye()
        finally:
            os._exit(BROKEN_PIPE)
