"""Recoveries cut off and begun again: the second finds what the first committed, and adds nothing to it.

Owns the kill that follows the commit of a recovery at once, with attempts of every kind that needs no living process
and with workers whose stop has only begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import past
from tests.support.batches import tables_of
from tests.support.facts import until
from tests.support.work import alive, changes, end_of, lines, shell, submit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.daemon import DaemonProcess

LIVES = 3
KEPT = ("jobs", "attempts", "changes")


def test_recovery_when_the_daemon_dies_right_after_it_then_the_next_changes_nothing(
    daemon: DaemonProcess,
) -> None:
    daemon.cli("queue", "pause", "default")  # else the jobs that are queued again would run
    daemon.kill9()
    runs = past.leave_open(daemon.state_dir / "stoker.db", past.kinds(2 * len(past.KINDS)))

    daemon.start()
    daemon.kill9()
    once = tables_of(daemon.state_dir / "stoker.db", KEPT)
    for _ in range(LIVES):
        daemon.start()
        daemon.kill9()

    assert len([change for change in once["changes"] if "ended" in change]) == len(runs)
    assert tables_of(daemon.state_dir / "stoker.db", KEPT) == once


def test_stop_when_the_daemon_is_killed_again_and_again_then_it_happens_once(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    ledger, never = tmp_path / "said", tmp_path / "never"
    stubborn = f"trap 'echo term >> {ledger}' TERM; echo $$ >> {ledger}; while [ ! -e {never} ]; do sleep 0.1; done"
    with daemon.client() as client:
        job = submit(client, shell(stubborn), grace_ms=60_000)
        until(lambda: lines(ledger), why="the trap")
    pid = int(lines(ledger)[0])

    for life in range(LIVES):
        daemon.kill_and_start()
        until(lambda life=life: lines(ledger).count("term") > life, why="the first step of the ladder")  # type: ignore[misc]

    assert alive(pid)
    with daemon.client() as client:
        assert len(changes(client, job, "stop_wanted")) == 1
        never.touch()
        assert end_of(client, job) == ("failed", "orphaned")
    assert not alive(pid)
