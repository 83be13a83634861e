"""Backups of a daemon that works: on a schedule and on demand, under load, cancelled, and shown by `status`.

A backup is compared with the log of changes of the living database: up to its sequence number both must be the same.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.background.tasks import BackgroundTasks
from stoker.config import Config
from stoker.config.settings import BackupSettings
from stoker.core.clock import SystemClock, wall_ms
from stoker.core.errors import BackupFailed
from stoker.store import backup as making
from stoker.store import changes
from stoker.store.backup_files import listed, make_directory, path_in
from stoker.store.database import open_writer
from stoker.store.directory import StateDirectory
from stoker.store.high_water import HighWater
from stoker.store.reserve import Reserve
from stoker.store.writer import Writer
from stoker.telemetry.otel import Telemetry
from stoker.upkeep import backups as of_upkeep
from stoker.upkeep.backups import Backups
from tests.support.clocks import SetClock
from tests.support.facts import until, until_async
from tests.support.past import leave_queued
from tests.support.work import end_of, shell, submit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.daemon import DaemonProcess

# The last state of each job, from the log of changes up to a sequence number.
FOLD = """
SELECT job_id, to_state FROM changes WHERE seq IN (SELECT max(seq) FROM changes WHERE job_id IS NOT NULL AND seq <= ?
    GROUP BY job_id) ORDER BY job_id
"""
CHANGES = "SELECT seq, cause, payload, hash FROM changes WHERE seq <= ? ORDER BY seq"


def rows(path: Path | str, sql: str, *parameters: int) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, parameters).fetchall()


def unpacked(path: str, to: Path) -> Path:
    """A copy of a backup, so that SQLite may make files beside it."""
    to.write_bytes(Path(path).read_bytes())
    return to


def test_backup_when_the_daemon_is_busy_then_it_is_the_state_at_its_seq(
    stopped_daemon: DaemonProcess, tmp_path: Path
) -> None:
    daemon, over = stopped_daemon, threading.Event()
    with daemon.start().client() as client:
        leave = [client.submit_many([{"command": "/bin/true"}] * 20) for _ in range(5)]
        assert len(leave) == 5

    def load() -> None:
        with daemon.client() as busy:
            while not over.is_set():
                busy.submit_many([{"command": "/bin/true"}] * 5)

    loads = [threading.Thread(target=load) for _ in range(2)]
    for each in loads:
        each.start()
    try:
        backups = [json.loads(daemon.cli("backup", "--json").stdout) for _ in range(5)]
    finally:
        over.set()
        for each in loads:
            each.join()

    assert len({one["seq"] for one in backups}) == len(backups), "the load changed something between any two"
    for one in backups:
        copy, living = unpacked(one["path"], tmp_path / "copy.db"), daemon.state_dir / "stoker.db"
        assert rows(copy, CHANGES, 1 << 60) == rows(living, CHANGES, one["seq"])
        assert rows(copy, "SELECT id, state FROM jobs ORDER BY id") == rows(living, FOLD, one["seq"])
        (tmp_path / "copy.db").unlink()


def test_backup_when_it_is_due_then_it_is_made_and_older_ones_go(stopped_daemon: DaemonProcess) -> None:
    daemon = stopped_daemon
    daemon.config.write_text('[backup]\nevery = "1s"\nkeep = 2\n')
    daemon.start()

    def only_the_newest_are_left() -> bool:
        left = [str(one.path) for one in listed(daemon.state_dir / "backups")]
        made = [line["path"] for line in daemon.events("backup_made")]
        return len(made) > 3 and left == made[-1:-3:-1]

    until(only_the_newest_are_left, why="the two newest of four backups or more")
    with daemon.client() as client:
        until(lambda: client.status()["backups"]["count"] == 2)
        status = client.status()["backups"]
    assert (status["every_ms"], status["error"]) == (1_000, None)


def test_backup_when_a_file_is_in_the_way_then_it_fails_and_the_daemon_goes_on(
    daemon: DaemonProcess,
) -> None:
    (daemon.state_dir / "backups").write_text("a file in the way")

    failed = daemon.cli("backup")

    assert (failed.returncode, "File exists" in failed.stderr) == (73, True), failed.stderr
    assert "hint: " in failed.stderr
    with daemon.client() as client:
        assert "File exists" in str(client.status()["backups"]["error"])
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
    assert "the last one FAILED" in daemon.cli("status").stdout
    assert daemon.logged("backup_failed")


def test_backup_when_the_file_is_named_then_it_is_whole_and_the_daemon_knows_it_not(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    result = daemon.cli("backup", "--to", "mine.db", "--json", cwd=tmp_path)

    backup = json.loads(result.stdout)
    assert backup["path"] == str(tmp_path / "mine.db")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.db", "mine.db.sha256"}
    assert json.loads(daemon.cli("backup", "ls", "--json").stdout)["backups"] == []
    assert "0 backups in" in daemon.cli("backup", "ls").stderr


def test_backup_when_no_daemon_runs_then_the_command_makes_it_itself(stopped_daemon: DaemonProcess) -> None:
    daemon = stopped_daemon
    with daemon.start().client() as client:
        end_of(client, submit(client, shell("exit 0")))
    daemon.kill9()  # so that its newest changes are still in the WAL
    before = {path: path.read_bytes() for path in daemon.state_dir.glob("stoker.db*")}

    command = daemon.cli("backup", "--state-dir", str(daemon.state_dir), "--json")
    shown = daemon.cli("backup", "ls", "--state-dir", str(daemon.state_dir))

    assert command.returncode == 0, command.stderr
    assert {path: path.read_bytes() for path in daemon.state_dir.glob("stoker.db*")} == before
    assert (
        json.loads(command.stdout)["seq"] == rows(daemon.state_dir / "stoker.db", "SELECT max(seq) FROM changes")[0][0]
    )
    assert Path(json.loads(command.stdout)["path"]).name in shown.stdout


def test_backup_when_a_daemon_runs_on_the_named_directory_then_that_daemon_makes_it(daemon: DaemonProcess) -> None:
    result = daemon.cli("--socket", "/nowhere", "backup", "--state-dir", str(daemon.state_dir))

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip() in [event["path"] for event in daemon.logged("backup_made")]


def test_backup_when_the_daemon_does_not_listen_yet_then_the_command_refuses(daemon: DaemonProcess) -> None:
    (daemon.state_dir / "lock").write_text(f"{daemon.pid}\n")

    result = daemon.cli("backup", "--state-dir", str(daemon.state_dir))

    assert (result.returncode, f"stokerd (pid {daemon.pid}) runs on" in result.stderr) == (75, True)


# --- given up -----------------------------------------------------------------------------------------------


@pytest.fixture
async def large(stopped_daemon: DaemonProcess) -> StateDirectory:
    """The state of a stopped daemon, of several megabytes."""
    stopped_daemon.start().stop()
    leave_queued(stopped_daemon.state_dir / "stoker.db", 20_000)
    directory = StateDirectory(stopped_daemon.state_dir)
    directory.remember()
    return directory


@pytest.fixture
async def writer(large: StateDirectory) -> AsyncIterator[Writer]:
    database = await open_writer(large.database)
    yield Writer(database, changes.GENESIS, Reserve(large.root / "reserve", 0), HighWater(large.root / "mark"))
    await database.close()


def test_backup_when_it_is_asked_by_one_line_and_read_to_its_end_then_it_is_there(daemon: DaemonProcess) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        connection.sendall(b'{"jsonrpc":"2.0","id":1,"method":"system.backup","params":{}}\n')
        connection.shutdown(socket.SHUT_WR)  # as socat does at the end of its input
        with connection.makefile("rb") as answers:
            first, *progress = [json.loads(line) for line in answers]

    assert first == {"jsonrpc": "2.0", "id": 1, "result": {"stream": 1}}
    assert progress[-1]["params"] == {"stream": 1, "end": True}
    (made,) = [one["params"]["backup"] for one in progress[:-1] if one["params"]["backup"] is not None]
    assert [str(one.path) for one in listed(daemon.state_dir / "backups")] == [made["path"]]


async def test_backup_when_its_client_hangs_up_then_it_is_given_up_and_nothing_is_left(
    large: StateDirectory, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_upkeep, "SHOWN_S", 0.0)
    monkeypatch.setattr(making, "STEP_PAGES", 1)  # thousands of steps
    verified: list[object] = []
    monkeypatch.setattr(making, "find_damage", verified.append)
    backups = Backups(Config(), large, writer, SystemClock(0), Telemetry(), BackgroundTasks())

    steps = backups.make()
    first = await anext(steps)
    await steps.aclose()

    assert first["backup"] is None
    await until_async(lambda: large.backups.is_dir() and not list(large.backups.iterdir()))
    assert (verified, backups.describe()["newest"]) == ([], None)


async def test_backup_when_the_clock_is_behind_then_one_is_made_and_the_next_comes_in_time(
    large: StateDirectory, writer: Writer
) -> None:
    make_directory(large.backups)
    path_in(large.backups, wall_ms() + 86_400_000, 9).touch()  # made while the clock was ahead
    clock = SetClock(0, wall=wall_ms())
    background = BackgroundTasks()
    backups = Backups(Config(backup=BackupSettings(every="1h")), large, writer, clock, Telemetry(), background)

    counts = []
    for minute in range(130):
        clock.steady = minute * 60_000
        backups.tick()
        await until_async(lambda: not background.is_running("backup"))
        counts.append(len(listed(large.backups)) - 1)

    assert [counts.index(number) for number in (1, 2, 3)] == [1, 61, 121]


async def test_backup_when_the_directory_was_replaced_then_no_backup_of_another_is_made(
    large: StateDirectory, writer: Writer
) -> None:
    backups = Backups(Config(), large, writer, SystemClock(0), Telemetry(), BackgroundTasks())
    large.database.rename(large.root / "away.db")
    large.database.write_bytes((large.root / "away.db").read_bytes())

    with pytest.raises(BackupFailed, match="was removed or replaced"):
        _ = [step async for step in backups.make()]

    assert backups.describe()["count"] == 0
