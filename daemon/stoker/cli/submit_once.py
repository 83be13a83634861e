"""Submitting a job exactly once, however often it must be sent.

Owns the idempotency key of a submit, which every attempt shares, when another attempt is made (`--patience`, for
batches too), the submits that `--block` makes until there is room, and the message about the job when patience is
over. An error that another attempt would not change is raised at once. Every submit pays for the imports of this
module.
"""

from __future__ import annotations

import os

from stoker.cli.kit import render
from stoker.cli.kit.connection import PATIENCE_S, TEMPORARY, Patience, connect
from stoker.core.errors import DaemonUnreachable, JobNotFound, NoAnswer, QueueFull, QuotaReached, StokerError

NO_ROOM = (QueueFull, QuotaReached)
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from stoker.cli.kit.parser import Given
    from stoker.cli.kit.queue_room import RoomWait
    from stoker.cli.run_interrupt import RunInterrupt
    from stoker.core.wire_types import Submitted
    from stoker.rpc.client import Client

    T = TypeVar("T")


def submit_once(given: Given, spec: dict[str, Any], interrupt: RunInterrupt | None = None) -> Submitted:
    """Store one job exactly once. When patience is over, raises the last error, which says whether the job is stored.

    `existing` in the answer means that an earlier command stored it with the same key.
    """
    key = spec.get("idempotency_key")
    if key is None:  # the daemon refuses an empty key
        key = spec["idempotency_key"] = new_key()
    attempts = SubmitAttempts(given)
    room = room_wait(given)
    while True:
        try:
            with connect(given) as client:
                client.patience_s = 0.0  # the pauses are made here
                answer = _submit_in_room(client, spec, attempts, room, interrupt)
        except StokerError as error:
            if interrupt:
                interrupt.submit_failed()
            if not attempts.pause_after(error):
                raise _given_up(error, key, sent=attempts.sent) from None
        else:
            return {**answer, "existing": False} if attempts.sent else answer


def new_key() -> str:
    return os.urandom(16).hex()


def room_wait(given: Given) -> RoomWait | None:
    """The wait for room that `--block` asks for."""
    if not given.get("block"):
        return None
    from stoker.cli.kit.queue_room import RoomWait  # noqa: PLC0415 - only for --block

    return RoomWait(given)


def in_room(
    room: RoomWait | None, client: Client, submit: Callable[[], T], full_up: Callable[[], None] | None = None
) -> T:
    """Submit; with `--block` as often as needed until there is room. `full_up` is called before each wait."""
    while True:
        try:
            return submit()
        except NO_ROOM as full:
            if room is None:
                raise
            if full_up is not None:
                full_up()
            room.wait(client, full)


class SubmitAttempts:
    """The attempts to submit once. `sent`: the daemon may have stored what an earlier attempt sent.

    `answered`: the daemon has answered before, so it is waited for even if it is not there now.
    """

    def __init__(self, given: Given, *, answered: bool = False) -> None:
        self.sent = False
        self._given = given
        self.answered = answered
        self._patience: Patience | None = None

    def pause_after(self, error: StokerError) -> bool:
        """Pause before another attempt. False if no further attempt shall be made.

        Raises the error of a first attempt if no daemon is there, or if another attempt would end the same way.
        """
        self.sent = self.sent or error.perhaps_done
        temporary = isinstance(error, TEMPORARY)
        if self._patience is None:
            if not temporary or not (self.sent or self.answered or _is_there(self._given, error)):
                raise error
            render.note(f"{error.message}; trying again")
            given_ms = self._given["patience_ms"]
            self._patience = Patience(PATIENCE_S if given_ms is None else given_ms / 1_000)
        if self._patience.over or not temporary:
            return False
        self._patience.pause()
        return True


def _submit_in_room(
    client: Client,
    spec: dict[str, Any],
    attempts: SubmitAttempts,
    room: RoomWait | None,
    interrupt: RunInterrupt | None,
) -> Submitted:
    def submit() -> Submitted:
        if interrupt:
            interrupt.begin_submit(spec["idempotency_key"])
        return _submit_or_find(client, spec, sent=attempts.sent)

    def full_up() -> None:
        if interrupt:  # no job is stored while the command waits: a signal ends it at once
            interrupt.submit_failed()
        attempts.answered = True

    return in_room(room, client, submit, full_up)


def _submit_or_find(client: Client, spec: dict[str, Any], *, sent: bool) -> Submitted:
    """Submit; if a daemon that accepts no jobs refuses, ask it whether an earlier attempt stored this job."""
    rest = {name: value for name, value in spec.items() if name not in ("command", "args")}
    try:
        return client.submit(spec["command"], *spec.get("args", ()), **rest)
    except StokerError as error:
        if not (sent or error.perhaps_done) or isinstance(error, DaemonUnreachable):
            raise
        try:
            return client.find(spec["idempotency_key"])
        except JobNotFound:
            error.perhaps_done = False
            raise error from None


def _is_there(given: Given, error: StokerError) -> bool:
    """Whether a daemon is there but cannot accept the job now: it answered, is silent, or holds its lock."""
    if not isinstance(error, DaemonUnreachable) or isinstance(error, NoAnswer):
        return True
    with connect(given) as client:
        return _is_locked(f"{client.socket_path}.lock")


def _is_locked(path: str) -> bool:
    """Reads the kernel's list of locks: trying the lock here could keep a starting daemon from taking it."""
    try:
        inode = os.stat(path).st_ino
        with open("/proc/locks") as locks:
            return any("FLOCK" in line and f":{inode} " in line for line in locks)
    except OSError:
        return False


def _given_up(error: StokerError, key: str, *, sent: bool) -> StokerError:
    if sent:
        outcome = "gave up; no answer came, so the job may be stored"
        error.hint = f"the same command with --idempotency-key {key} prints its id and does not run it twice"
    else:
        outcome = "gave up; the job is not stored"
    error.message = f"{error.message}; {outcome}"
    return error
