"""A power loss at any moment, under load and at the very first start: all that was answered is there afterwards.

Owns the cut (the file system under the state directory drops all that was not synced, everything on it dies), the
other boot that follows, and the control that must lose: the same cut under a daemon whose syncs do nothing. Refuses to
pass when nothing was cut, or when the control kept everything.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import DaemonUnreachable
from tests.support import disks, strace
from tests.support.audit import Audit
from tests.support.boots import Boots, Decoys
from tests.support.daemon import DaemonDied, DaemonProcess
from tests.support.disks import LOG_KEPT, LOG_LOST, Disk
from tests.support.facts import NeverCame, until
from tests.support.ledger import Ledger
from tests.support.strace import Point, Strace, draw, points
from tests.support.torture import Load, become_quiet, launchers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FAULTS = int(os.environ.get("STOKER_FAULTS", "0"))
CYCLES = 30 if FAULTS else 3
FIRST_STARTS = min(FAULTS, 100) or 2
CONTROLS = 5 if FAULTS else 1
UNTRACED = strace.why_not()
LASTING = ["mkdir", "pwrite64", "write", "ftruncate", "fdatasync", "fsync", "rename", "unlink"]

OPEN = "SELECT pid FROM attempts WHERE ended_at IS NULL AND pid IS NOT NULL"
KNOWN = "SELECT id FROM jobs"


@pytest.fixture(params=["ext4", "xfs"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    requested: str = request.param
    missing = disks.why_not(requested, tmp_path)
    if missing is not None:
        pytest.skip(missing)
    return requested


@pytest.fixture
def cut_off(stopped_daemon: DaemonProcess, kind: str) -> Iterator[PowerCuts]:
    """A daemon that was never started, on a disk of its own."""
    spare = Disk(stopped_daemon.home / "spare", kind, stopped_daemon.home / "elsewhere")
    with Disk(stopped_daemon.home / "image", kind, stopped_daemon.state_dir) as disk, spare:
        yield PowerCuts(stopped_daemon, disk, spare)
        stopped_daemon.kill_all()


class PowerCuts:
    """One daemon on one disk, and the counts of the power losses so far."""

    def __init__(self, daemon: DaemonProcess, disk: Disk, spare: Disk) -> None:
        self.daemon = daemon
        self.disk = disk
        self._disks = [disk, spare]
        self.ledger = Ledger(daemon.home / "ledger")
        self.fired: Counter[str] = Counter()
        self.killed_launchers: set[str] = set()

    def await_lines(self, more: int) -> None:
        """Wait for so many more lines of the ledger, or until nothing runs."""
        wanted = self.ledger.count() + more
        with suppress(NeverCame):
            until(lambda: self.ledger.count() >= wanted, timeout_s=0.5)

    def begin_to_start(self, lines: int) -> None:
        """Start a daemon and return in the middle of its start, after a number of log lines."""
        before = self._log_lines()
        process = self.daemon.spawn()
        until(lambda: self._log_lines() - before >= lines or process.poll() is not None, why="lines of log")

    def _log_lines(self) -> int:
        return self.daemon.stderr.read_bytes().count(b"\n")

    def cut(self, flag: int) -> None:
        """Cut disk and processes at the same moment: a daemon that noticed the loss of its disk could still react."""
        device = self.disk.where.stat().st_dev
        self.daemon.signal(signal.SIGSTOP)
        self.disk.lose_power(flag)
        self.killed_launchers |= launchers(self.daemon.state_dir).keys()
        self.daemon.kill_all()
        for disk in self._disks:
            disk.unmount()
        self._disks.reverse()  # device numbers change at each boot
        for disk in self._disks:
            disk.mount()
        self.fired["other device"] += self.disk.where.stat().st_dev != device
        self.fired["log kept" if flag == LOG_KEPT else "log lost"] += 1

    def read(self, question: str) -> list[int]:
        """Query a copy of the database, because opening it changes it."""
        copy = self.daemon.home / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copy(self.daemon.state_dir / f"stoker.db{suffix}", copy / f"stoker.db{suffix}")
        with closing(sqlite3.connect(copy / "stoker.db")) as connection:
            return [row[0] for row in connection.execute(question)]

    def start(self) -> dict[str, int]:
        """Start the daemon while decoys have the pids of the workers; returns the record of its recovery."""
        with Decoys(self.read(OPEN)) as decoys:
            self.daemon.start()
            with self.daemon.client() as client:
                did = until(lambda: _finished(client.status()["recovery"]), why="the end of the recovery")
            self.fired["strangers"] += len(decoys)
            assert decoys.signalled() == []
        return {name: did[name] for name in ("adopted", "stopped", "stuck", "swept") if did[name]}


def _finished(recovery: Mapping[str, object]) -> dict[str, Any]:
    return dict(recovery) if recovery["finished_at"] else {}


@pytest.mark.timeout(300 + 10 * CYCLES)
def test_promises_when_the_power_fails_under_load_then_all_are_kept(cut_off: PowerCuts, seed: int) -> None:
    dice, daemon, boots = random.Random(f"power {seed}"), cut_off.daemon, Boots(cut_off.daemon)
    load = Load(daemon, cut_off.ledger, seed)
    signalled = []

    daemon.start()
    boots.reboot()
    load.start()
    while cut_off.fired["lives"] < CYCLES and load.is_alive():
        cut_off.await_lines(dice.randrange(5, 50))
        cut_off.cut(dice.choice([LOG_KEPT, LOG_LOST]))
        if dice.random() < 0.2:
            cut_off.begin_to_start(dice.randrange(1, 6))
            cut_off.cut(dice.choice([LOG_KEPT, LOG_LOST]))
            cut_off.fired["starting"] += 1
        if dice.random() < 0.5:
            boots.reboot()
        signalled.append(cut_off.start())
        assert boots.seen_by(daemon.pid)
        cut_off.fired["lives"] += 1
    load.finish()
    become_quiet(daemon)
    with daemon.client() as client:
        client.call("system.drain", {"stop": True})
    status = daemon.wait()

    audit = Audit(daemon.state_dir / "stoker.db", cut_off.ledger, cut_off.killed_launchers)
    summary = f"{dict(cut_off.fired)}; {dict(load.done)}; {audit.summary()}"
    sys.stderr.write(f"\nSTOKER_SEED={seed} STOKER_FAULTS={FAULTS}: {summary}\n")
    assert status == 0
    assert audit.complaints() == []
    assert audit.unfinished() == []
    assert signalled == [{}] * CYCLES
    assert audit.summary()["outcomes"].get("unseen", 0) > 0
    assert load.done["answered"] > 0
    assert cut_off.fired["other device"] > 0


@pytest.mark.skipif(UNTRACED is not None, reason=str(UNTRACED))
@pytest.mark.timeout(300 + 10 * FIRST_STARTS)
def test_daemon_when_the_power_fails_at_its_first_start_then_the_next_one_starts(cut_off: PowerCuts, seed: int) -> None:
    dice, daemon, around = random.Random(f"first {seed}"), cut_off.daemon, Strace(cut_off.daemon)
    around.set(f"trace=openat,{','.join(LASTING)}")
    daemon.start()
    daemon.kill_all()
    drawn = draw(points(around.trace, "state/lock", LASTING), FIRST_STARTS, dice)
    sys.stderr.write(f"\nSTOKER_SEED={seed} STOKER_FAULTS={FAULTS}: {[tuple(point) for point in drawn]}\n")

    for point in drawn:
        _die_at(point, cut_off, around)
        cut_off.cut(dice.choice([LOG_KEPT, LOG_LOST]))
        around.set("trace=none")
        try:
            daemon.start()
        except DaemonDied as died:
            raise AssertionError(f"after a cut at {tuple(point)}: {died}") from died
        assert daemon.stop() == 0

    assert cut_off.fired["in time"] >= len(drawn) / 2


def _die_at(point: Point, cut_off: PowerCuts, around: Strace) -> None:
    """Cut the power during the first start, on an empty disk."""
    for path in cut_off.disk.where.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.sync()
    around.set(f"trace={point.syscall}", point.kill())
    try:
        cut_off.daemon.start()
    except (DaemonDied, DaemonUnreachable):
        cut_off.fired["in time"] += cut_off.daemon.wait() == -9


@pytest.mark.skipif(UNTRACED is not None, reason=str(UNTRACED))
@pytest.mark.timeout(300 + 10 * CONTROLS)
def test_answers_when_the_power_fails_and_syncs_did_nothing_then_jobs_are_lost(cut_off: PowerCuts, seed: int) -> None:
    dice, daemon, ledger = random.Random(f"control {seed}"), cut_off.daemon, cut_off.ledger
    around = Strace(daemon)
    lost: list[int] = []

    for number in range(CONTROLS):
        around.set("trace=fdatasync", "inject=fdatasync:retval=0")
        daemon.start()
        load = Load(daemon, ledger, seed + number)
        load.start()
        cut_off.await_lines(dice.randrange(2, 14))
        until(lambda: load.done["answered"] > 0, why="an answer")  # noqa: B023 - asked before the next round
        injected = around.injected()
        load.finish()
        cut_off.cut(dice.choice([LOG_KEPT, LOG_LOST]))
        assert injected > 0
        answered = {ids[0] for ids in ledger.answered.values()}
        ledger.answered.clear()
        lost += answered - _kept(cut_off)
        for path in daemon.state_dir.glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    sys.stderr.write(f"\nSTOKER_SEED={seed} STOKER_FAULTS={FAULTS}: without syncs {len(lost)} answered jobs are lost\n")
    assert lost != []


def _kept(cut_off: PowerCuts) -> set[int]:
    try:
        return set(cut_off.read(KNOWN))
    except sqlite3.Error:
        return set()  # there are not even tables
