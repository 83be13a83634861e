"""A disk so full that not even the reserve is left: nothing is decided or answered, and the daemon reports that.

Owns that state, made for certain: the reserve is given up first, then its room is taken. A test goes on once the daemon
says that it waits.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import DiskFull, StokerError
from stoker.engine.commands import PATIENCE_S
from stoker.upkeep.refusals import NO_ROOM
from tests.support.disks import fill
from tests.support.facts import until
from tests.support.work import Gate, end_of, shell, state, submit, submit_running

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess


def written(client: stoker.Client) -> object:
    """Commit something. A few commits may still fit into the last page."""
    return client.call("queue.pause", {"name": "default"})


def test_cancel_when_there_is_no_room_then_it_is_not_answered_and_others_are_refused(
    small_disk: DaemonProcess,
) -> None:
    gate, where = Gate(small_disk.home / "gate"), small_disk.state_dir
    answers: list[object] = []

    def cancel() -> None:
        with small_disk.client() as asking:
            try:
                answers.append(asking.cancel(job))
            except StokerError as error:
                answers.append(error.code)

    with small_disk.client() as client:
        job = submit_running(client, gate.spec(), survive=True)
        fill(where / "filler")
        until(lambda: written(client) and not (where / "reserve").exists(), why="the reserve to be given up")
        fill(where / "more")

        asked = threading.Thread(target=cancel)
        asked.start()
        until(lambda: client.status()["mode"] == NO_ROOM, why="a commit that waits for room")
        began = time.monotonic()
        with pytest.raises(DiskFull, match="until there is room"):
            client.call("queue.resume", {"name": "default"})
        until(lambda: time.monotonic() > began + PATIENCE_S + 0.5, why="the end of its patience")
        early = list(answers)
    small_disk.kill9()
    asked.join()
    (where / "more").unlink()
    (where / "filler").unlink()
    small_disk.start()

    with small_disk.client() as client:
        causes = [change["cause"] for change in client.history(job)["changes"]]
        gate.open()
        end = end_of(client, job)
    assert (early, answers) == ([], ["daemon_unreachable"])
    assert "cancel" not in causes
    assert end == ("succeeded", "exit")


def test_schedule_when_its_change_waits_for_room_then_it_is_shown_as_it_is_on_disk(small_disk: DaemonProcess) -> None:
    where = small_disk.state_dir
    long = shell(": " + "x" * 60_000)  # its row does not fit into the last free page
    answers: list[object] = []

    def pause() -> None:
        with small_disk.client() as asking:
            answers.append(asking.call("schedule.pause", {"name": "nightly"})["paused"])

    def shown() -> tuple[object, object]:
        (listed,) = client.call("schedule.list", {})["schedules"]
        return client.call("schedule.get", {"name": "nightly"})["paused"], listed["paused"]

    with small_disk.client() as client:
        client.call("schedule.add", {"name": "nightly", "timing": "every 24h", "job": long})
        fill(where / "filler")
        until(lambda: written(client) and not (where / "reserve").exists(), why="the reserve to be given up")
        fill(where / "more")

        asked = threading.Thread(target=pause)
        asked.start()
        until(lambda: client.status()["mode"] == NO_ROOM, why="a commit that waits for room")
        during = shown()
        (where / "more").unlink()
        (where / "filler").unlink()
        asked.join()

        assert (during, answers, shown()) == ((False, False), [True], (True, True))


def test_start_when_the_disk_is_full_then_it_starts_no_job_before_there_is_room(small_disk: DaemonProcess) -> None:
    gate, filler = Gate(small_disk.home / "gate"), small_disk.state_dir / "filler"
    with small_disk.client() as client:
        client.call("queue.pause", {"name": "default"})
        job = submit(client, gate.spec())
    small_disk.kill9()
    fill(filler)
    small_disk.start()

    with small_disk.client() as client:
        client.call("queue.resume", {"name": "default"})
        blocked, stood = client.why(job)["message"], state(client, job)
        filler.unlink()
        gate.open()
        end = end_of(client, job)
    assert "the disk is low: " in blocked
    assert (stood, end) == ("queued", ("succeeded", "exit"))


def test_submit_when_a_full_disk_becomes_fuller_then_the_error_has_the_free_space(small_disk: DaemonProcess) -> None:
    def refusal() -> str:
        return small_disk.cli("submit", "--patience", "0s", "true").stderr

    with small_disk.client() as client:
        free = client.status()["disk"]["free_bytes"]
    (small_disk.state_dir / "filler").write_bytes(bytes(free - 600_000))
    until(lambda: "are kept free ([disk] min_free_bytes)" in refusal(), why="the refusal of jobs")

    fill(small_disk.state_dir / "another")

    until(lambda: ": 0B are free, less than" in refusal(), why="the free space of now")


def test_backup_when_it_would_fill_the_disk_then_it_is_refused(
    small_disk: DaemonProcess,
) -> None:
    with small_disk.client() as client:
        end_of(client, submit(client, shell("exit 0")))
        filler = small_disk.state_dir / "filler"
        free = client.status()["disk"]["free_bytes"]
        filler.write_bytes(bytes(free - 2_050_000))  # jobs are accepted still, for a copy there is no room

        refused = small_disk.cli("backup")

        assert (refused.returncode, "are kept free" in refused.stderr) == (75, True), refused.stderr
        assert list((small_disk.state_dir / "backups").iterdir()) == []
        assert "are kept free" in str(client.status()["backups"]["error"])
        assert end_of(client, submit(client, shell("exit 0"))) == ("succeeded", "exit")
        filler.unlink()
        assert small_disk.cli("backup").returncode == 0
        assert client.status()["backups"]["error"] is None
