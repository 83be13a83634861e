"""Handing a job over: once, however often it takes to send it.

Owns the idempotency key of a submit, kept over every attempt, and what is known of the job when patience is over.
Refuses to try again where nothing would be another next time. Every submit pays for what is imported here.
"""

from __future__ import annotations

import os

from stoker.cli.kit import render
from stoker.cli.kit.connection import PASSING, PATIENCE_S, Patience, connect
from stoker.core.errors import DaemonUnreachable, JobNotFound, NoAnswer, StokerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stoker.cli.kit.parser import Given
    from stoker.cli.run_interrupt import RunInterrupt
    from stoker.rpc.client import Client
    from stoker.rpc.shapes import Submitted


def submit_once(given: Given, spec: dict[str, Any], interrupt: RunInterrupt | None = None) -> Submitted:
    """Store one job, once, however often that takes. Raises what it met last, and says then what is known of the job.

    `existing` in the answer means that somebody else stored it with the same key.
    """
    key = spec.get("idempotency_key")
    if key is None:  # an empty one is a mistake, which the daemon tells
        key = spec["idempotency_key"] = os.urandom(16).hex()
    patience: Patience | None = None
    sent = False
    while True:
        if interrupt:
            interrupt.asks(key)
        try:
            with connect(given) as client:
                client.patience_s = 0.0  # ours
                answer = _submit_or_find(client, spec, sent=sent)
        except StokerError as failure:
            if interrupt:
                interrupt.unanswered()
            sent = sent or failure.perhaps_done
            patience = patience or _patience_with(given, failure, sent=sent)
            if patience.over or not isinstance(failure, PASSING):
                raise _given_up(failure, key, sent=sent) from None
            patience.pause()
        else:
            return {**answer, "existing": False} if sent else answer


def _patience_with(given: Given, failure: StokerError, *, sent: bool) -> Patience:
    """Raises the failure where nobody is there, or nothing would be another next time."""
    if not isinstance(failure, PASSING) or not (sent or _is_there(given, failure)):
        raise failure
    render.note(f"{failure.message}; trying again")
    return Patience(PATIENCE_S if given["patience_ms"] is None else given["patience_ms"] / 1_000)


def _submit_or_find(client: Client, spec: dict[str, Any], *, sent: bool) -> Submitted:
    """A daemon that takes no more jobs can still tell whether this one was stored before."""
    rest = {name: value for name, value in spec.items() if name not in ("command", "args")}
    try:
        return client.submit(spec["command"], *spec.get("args", ()), **rest)
    except StokerError as failure:
        if not (sent or failure.perhaps_done) or isinstance(failure, DaemonUnreachable):
            raise
        try:
            return client.find(spec["idempotency_key"])
        except JobNotFound:
            failure.perhaps_done = False
            raise failure from None


def _is_there(given: Given, failure: StokerError) -> bool:
    """Whether the daemon lives, though it does not take this now: it answered, is silent, or holds its lock."""
    if not isinstance(failure, DaemonUnreachable) or isinstance(failure, NoAnswer):
        return True
    with connect(given) as client:
        return _is_locked(f"{client.socket_path}.lock")


def _is_locked(path: str) -> bool:
    """Asked of the kernel's list: to try the lock could keep the daemon from taking it."""
    try:
        inode = os.stat(path).st_ino  # noqa: PTH116 - pathlib is not loaded here
        with open("/proc/locks") as locks:  # noqa: PTH123
            return any("FLOCK" in line and f":{inode} " in line for line in locks)
    except OSError:
        return False


def _given_up(failure: StokerError, key: str, *, sent: bool) -> StokerError:
    if sent:
        told = "gave up; the job may be stored, no answer told"
        failure.hint = f"the same command with --idempotency-key {key} gives its id, and runs it no second time"
    else:
        told = "gave up; the job is not stored"
    failure.message = f"{failure.message}; {told}"
    return failure
