"""The meaning of a launcher's messages in terms of core, and the outcome logs that launchers write.

Owns the one translation of messages into events and outcomes, and the reading side of `outcomes/<launcher>.log`: one
JSON object a line, an Exited each, written while no daemon was connected. It judges no outcome and changes no line.

Invariants: a torn last line was never promised (its launcher keeps the outcome and reports it again); any other line
that cannot be read is damage and raises; a file is removed only after its outcomes are committed.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from stoker.core.clock import wall_ms
from stoker.core.errors import CorruptRecord
from stoker.core.job import events as ev
from stoker.core.job.model import Identity, Outcome, OutcomeKind
from stoker.core.job.recovery import NEVER_STARTED
from stoker.files import NotRegular, paths_in, read_regular, sync
from stoker.foreign import PLACE, reached
from stoker.process.connection import AskTooLarge
from stoker.process.messages import Exited, HelloRefusal, LaunchRefused, Started
from stoker.process.run_roots import RunRoots, belongs_to, uid_of

# The signals by which a service manager, or an operating system that shuts down, ends processes.
ENDING = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
MAX_OF_USER = 64  # logs of one user that are read
DECODER = msgspec.json.Decoder(Exited)


def read_outcomes(roots: RunRoots) -> list[tuple[Path, list[Exited]]]:
    """Every outcome log with its outcomes; the stem of its path is the launcher's id. Raises CorruptRecord.

    Connect to the living launchers first: a launcher writes here only while no daemon is connected.
    """
    return [log for root in roots for log in _read_logs(root)]


def _read_logs(root: Path) -> Iterator[tuple[Path, list[Exited]]]:
    uid = PLACE.owner_of(f"{root}/")
    if uid is None:
        yield from ((path, _read(path)) for path in paths_in(root / "outcomes", ".log"))
        return
    with contextlib.suppress(OSError), reached(f"{root}/outcomes/") as directory:
        names = [name for name in os.listdir(directory) if uid_of(name.removesuffix(".log")) == uid]  # noqa: PTH208
        for name in names[:MAX_OF_USER]:
            # What a user has spoiled is as if it were not written: /proc tells of these runs.
            with contextlib.suppress(OSError, CorruptRecord):
                path = root / "outcomes" / name
                yield path, [exited for exited in _read(path) if belongs_to(exited.run_id, uid)]


def remove_outcomes(paths: Iterable[Path]) -> None:
    """Call after the commit of their outcomes. Durable: a log that came back would count again."""
    directories = set()
    for path in paths:
        if PLACE.owner_of(str(path)) is not None:
            with contextlib.suppress(OSError), reached(str(path)) as name:
                os.unlink(name)  # noqa: PTH108 - a name of a descriptor
            continue
        path.unlink(missing_ok=True)
        directories.add(path.parent)
    for directory in directories:
        sync(directory)


def began_of(started: Started, identity: Identity) -> ev.Began:
    return ev.Began(identity, started.at_boot_ms, started.bounds)


def refusal_of(refused: LaunchRefused) -> ev.Refused | ev.Ended | None:
    """The event of a refused launch; None if the launcher had the same order before."""
    if refused.why is HelloRefusal.LOG_EXISTS:
        return ev.Refused(why=f"{refused.error}: the disk is ahead of the database")
    return None if refused.why is HelloRefusal.DUPLICATE else ev.Ended(outcome=NEVER_STARTED)


def order_failed(error: OSError) -> Outcome:
    """The daemon itself could not make the launch order."""
    return Outcome(kind=OutcomeKind.NEVER_STARTED, transient=True, error=f"the daemon: {error}", ended_at=wall_ms())


def order_too_large(error: AskTooLarge) -> Outcome:
    """The job's own fault, so another try would fail in the same way."""
    hint = "pass large data by a file or by stdin"
    message = f"command, arguments and environment cannot be handed over: {error}; {hint}"
    return Outcome(kind=OutcomeKind.SPAWN_ERROR, error=message, ended_at=wall_ms())


def outcome_of(exited: Exited) -> Outcome:
    spawn_error = exited.spawn_error
    return Outcome(
        kind=_kind(exited),
        exit_code=exited.exit_code,
        signal=exited.signal,
        stopped=exited.stopped,
        shutdown=exited.shutdown,
        transient=spawn_error is not None and spawn_error.transient and not exited.declined,
        error=None if spawn_error is None else spawn_error.error,
        ended_at=exited.at_ms,
        user_ms=exited.user_ms,
        system_ms=exited.system_ms,
        max_rss_kib=exited.max_rss_kib,
        log_bytes=exited.log_bytes,
    )


def cut_short(outcome: Outcome) -> Outcome:
    """The same outcome while the service stops: death by a signal that was not ours counts as part of that."""
    if outcome.kind is OutcomeKind.SIGNAL and outcome.signal in ENDING and not outcome.stopped:
        return replace(outcome, shutdown=True)
    return outcome


def _read(path: Path) -> list[Exited]:
    try:
        lines = read_regular(path).split(b"\n")
    except NotRegular as error:
        raise CorruptRecord(f"{path}: {error.strerror}", hint="move it aside") from error
    whole, _torn = lines[:-1], lines[-1]
    return list({outcome.run_id: outcome for outcome in (_decode(path, line) for line in whole if line)}.values())


def _decode(path: Path, line: bytes) -> Exited:
    try:
        return DECODER.decode(line)
    except msgspec.DecodeError as error:
        raise CorruptRecord(f"{path}: not an outcome: {line[:200]!r}", hint="move the file aside") from error


def _kind(exited: Exited) -> OutcomeKind:
    if exited.declined or (exited.spawn_error is not None and exited.spawn_error.transient):
        return OutcomeKind.NEVER_STARTED
    if exited.spawn_error is not None:
        return OutcomeKind.SPAWN_ERROR
    if exited.oom:
        return OutcomeKind.OOM
    return OutcomeKind.SIGNAL if exited.signal is not None else OutcomeKind.EXIT
