"""A lost connection to a launcher that lives stops nothing; a launcher that dies began nothing that it was not sent.

Owns the loss: a bare socket of the test says hello with the same epoch, so the launcher hangs up on the daemon; then
the socket is closed. (`ss -K` would need a kernel option.)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.process.connection import dial
from tests.support.facts import until
from tests.support.instance import Wire
from tests.support.work import (
    DeafWorker,
    Gate,
    alive,
    end_of,
    job_view,
    kill9,
    lines,
    running,
    shell,
    state,
    submit,
)

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess


def cut(daemon: DaemonProcess, launcher: str) -> None:
    """Let the launcher end the daemon's connection, by a newer hello."""
    mark = b"STOKER_INSTANCE="
    with daemon.client() as client:
        pid = next(one["pid"] for one in client.call("system.status")["launchers"] if one["id"] == launcher)
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    instance = next(entry.removeprefix(mark).decode() for entry in environ if entry.startswith(mark))
    wire = Wire(dial(daemon.state_dir, launcher))
    wire.hello(instance, epoch=int(launcher.split("-", maxsplit=1)[0]))
    wire.close()


def newest(client: stoker.Client, job: int) -> dict[str, Any]:
    attempt: dict[str, Any] = job_view(client, job)["attempts_list"][-1]
    return attempt


def test_connection_when_it_is_lost_and_the_launcher_lives_then_its_jobs_go_on(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        jobs = [submit(client, gate.spec("exit 3", survive=survive)) for survive in (False, True)]
        running(client, *jobs)
        launcher, pids = newest(client, jobs[0])["launcher"], [job_view(client, job)["pid"] for job in jobs]

        cut(daemon, launcher)
        until(lambda: daemon.events("launcher_back"), why="the connection to the launcher")
        until(lambda: daemon.events("recovery_planned")[1:], why="the plan for what it runs")
        client.call("system.health")  # answered after the next turn
        stops = [newest(client, job)["stop_reason"] for job in jobs]
        lived = [alive(pid) for pid in pids]
        gate.open()
        ends = [end_of(client, job) for job in jobs]
        attempts = [job_view(client, job)["attempts"] for job in jobs]

    assert (stops, lived) == ([None, None], [True, True])
    assert (ends, attempts) == ([("failed", "exit")] * 2, [1, 1])


def test_connection_when_it_is_lost_while_a_stop_is_under_way_then_the_stop_goes_on(
    daemon: DaemonProcess, deaf: DeafWorker
) -> None:
    with daemon.client() as client:
        job = deaf.submit(client, grace_ms=1_500)
        client.call("job.cancel", {"id": job})

        cut(daemon, newest(client, job)["launcher"])

        end = end_of(client, job)

    assert end == ("cancelled", "user")


def test_attempt_when_its_launcher_dies_before_it_was_sent_then_it_never_began(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    """The attempt waits for the file of its inputs, which cannot be written while their directory is missing."""
    work, away, ledger = daemon.state_dir / "work", tmp_path / "away", tmp_path / "ledger"
    with daemon.client() as client:
        pid = client.call("system.status")["launchers"][0]["pid"]
        needed = submit(client, shell("exit 0"))
        end_of(client, needed)
        work.rename(away)
        work.touch()
        job = submit(client, shell(f"echo START >> {ledger}", needs=[needed]))
        until(lambda: daemon.events("checkpoint_failed"), why="an attempt that waits for its inputs")

        kill9(pid)
        until(
            lambda: [one["pid"] != pid for one in client.call("system.status")["launchers"]] == [True],
            why="another launcher",
        )
        until(lambda: daemon.events("recovery_planned")[1:], why="the recovery of what the dead one had")
        during = (state(client, job), job_view(client, job)["attempts"])
        work.unlink()
        away.rename(work)
        end = end_of(client, job)
        attempts = job_view(client, job)["attempts"]

    assert (during, end, attempts) == (("running", 1), ("succeeded", "exit"), 2)
    assert lines(ledger) == ["START"]
