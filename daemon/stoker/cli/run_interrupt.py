"""Signals during `stoker run`: which of them cancel the job, and which end only the command.

The first Ctrl-C cancels the job; a second one ends the command before the job has stopped. Anything else (SIGTERM,
SIGHUP, a reader of the output that is gone) ends only the command: the job goes on, and its id is printed on stderr. A
signal during the submit waits for the answer, so that the command can always say whether there is a job. If stderr has
no reader, messages are left out, and the rest is done. Loaded before the submit: keep it small.
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


class RunLeft(BaseException):
    """Ends `run` from a signal handler; the job, if there is one, goes on."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_status = 128 + signum


class RunInterrupt:
    """Handles signals from before the job is submitted until its end."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._job: int | None = None
        self._submitting = False
        self._pending: int | None = None
        self._key = ""
        self.cancelled = False

    def __enter__(self) -> Self:
        for signum in ENDING:
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup ignores SIGHUP, and so do we
                signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum in ENDING:
            signal.signal(signum, signal.SIG_DFL)

    def begin_submit(self, key: str) -> None:
        """The job is being sent: a first signal waits for the answer, which has the id."""
        self._submitting, self._key = True, key

    def submit_failed(self) -> None:
        """The submit was refused or its answer lost: handle a signal that came meanwhile."""
        self._submitting = False
        if self._pending is not None:
            self._leave_without_job(self._pending)

    def submit_answered(self, job: int) -> None:
        self._submitting, self._job = False, job
        if self._pending is not None:
            self._leave(self._pending)

    def _handle(self, signum: int, _frame: object) -> None:
        if self._job is not None:
            self._leave(signum)
        elif self._submitting and self._pending is None:
            self._pending = signum
            _note("the job is being submitted: waiting for the daemon's answer; a second signal leaves without it")
        else:
            self._leave_without_job(signum)

    def _leave_without_job(self, signum: int) -> None:
        if self._submitting:
            _note(
                "left before the daemon answered, so the job may be stored",
                f"the same command with --idempotency-key {self._key} prints its id and does not run it twice",
            )
        else:
            _note("no job was stored")
        _end(signum)

    def _leave(self, signum: int) -> None:
        if signum == signal.SIGINT and not self.cancelled:
            self._cancel()
            return
        self._print_goodbye()
        _end(signum)

    def _print_goodbye(self) -> None:
        job = self._job
        if self.cancelled:
            _note(f"left before job {job} had stopped", f"stoker wait {job}, or stoker why {job}")
        else:
            _note(f"job {job} goes on without this command", f"stoker logs -f {job}, or stoker cancel {job}")

    def _cancel(self) -> None:
        # On its own connection: the signal may have interrupted a request on another one.
        self.cancelled = True
        _note(f"cancelling job {self._job}; Ctrl-C again leaves at once")
        try:
            call(self._given, "job.cancel", {"id": self._job, "reason": "Ctrl-C"})
        except StokerError as error:
            if render.stderr_is_read():
                render.error(error)

    def reader_gone(self) -> NoReturn:
        """End the process because the reader of the output is gone, as in `run | head -1`. From any thread."""
        try:
            self._print_goodbye()
        finally:
            os._exit(BROKEN_PIPE)


def _note(text: str, hint: str | None = None) -> None:
    if render.stderr_is_read():
        render.note(text)
        if hint is not None:
            render.hint(hint)


def _end(signum: int) -> NoReturn:
    if not render.stderr_is_read():
        os._exit(128 + signum)  # the interpreter would flush stderr, and wait
    raise RunLeft(signum)
