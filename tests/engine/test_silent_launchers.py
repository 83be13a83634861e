"""A launcher that hangs delays no other: the limits, starts and recoveries of other jobs go on in time.

Owns the silence, a SIGSTOP. With a patience of ten minutes the launcher is never called stuck, so the work that goes on
here does not wait for it.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stoker.core.clock import boot_ms
from tests.support.daemon import DaemonProcess
from tests.support.facts import scales, until
from tests.support.torture import launchers
from tests.support.work import Gate, alive, end_of, running, shell, state, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = "[launcher]\nstuck_ms = 600_000\n[queues.stopped]\npaused = true\n"
GAP_MS = 3_000


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def suspend(daemon: DaemonProcess, until_ms: int) -> None:
    """Stop the daemon until that time since boot."""
    with stopped(daemon.pid):
        until(lambda: boot_ms() >= until_ms, why="a pause of the daemon")


def test_limits_when_a_launcher_hangs_after_a_pause_then_those_of_other_jobs_hold(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        silent = submit_running(client, gate.spec(survive=True))
    daemon.kill_and_start()
    ((_, old), (_, _)) = sorted(launchers(daemon.state_dir).items(), key=lambda one: int(one[0].split("-")[0]))

    with daemon.client() as client, stopped(old):
        jobs = [
            submit(client, gate.spec(timeout_ms=500)),
            submit(client, shell("exit 0"), queue="stopped", ttl_ms=500),
        ]
        until(lambda: client.get(jobs[0])["pid"] or state(client, jobs[0]) == "failed")
        suspend(daemon, boot_ms() + 500 + GAP_MS)
        ends = [end_of(client, job) for job in jobs]
        still = state(client, silent)
    with daemon.client() as client:
        gate.open()
        end = end_of(client, silent)

    assert ends == [("failed", "timeout"), ("expired", "ttl")]
    assert (still, end) == ("running", ("succeeded", "exit"))


def test_limit_when_the_attempt_ended_in_time_during_a_pause_then_its_exit_stands(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    with daemon.client() as client:
        for limit_ms in scales(2_000):
            gate = Gate(tmp_path / f"gate.{limit_ms}")
            submitted = boot_ms()
            job = submit_running(client, gate.spec("exit 4", timeout_ms=limit_ms))
            pid = client.get(job)["pid"]
            with stopped(daemon.pid):
                gate.open()
                until(lambda: not alive(pid), why="the end of the worker")  # noqa: B023
                ended = boot_ms()
                pause_ms = limit_ms + GAP_MS
                until(lambda: boot_ms() >= ended + pause_ms, pause_ms, why="a pause of the daemon")  # noqa: B023
            end = end_of(client, job)
            if ended - submitted < limit_ms:
                break

    assert end == ("failed", "exit")


def test_start_when_a_launcher_hangs_then_the_others_are_recovered_without_it(
    daemon: DaemonProcess, gate: Gate
) -> None:
    jobs = []
    for _ in range(2):
        with daemon.client() as client:
            jobs.append(submit(client, gate.spec("exit 5", survive=True)))
            running(client, jobs[-1])
        daemon.kill_and_start()
    pids = launchers(daemon.state_dir)

    with daemon.client() as client:
        owners = [client.get(job)["attempts_list"][-1]["launcher"] for job in jobs]
    daemon.kill9()
    with stopped(pids[owners[0]]):
        daemon.start()
        with daemon.client() as client:
            fresh = end_of(client, submit(client, shell("exit 6")))
            during = [state(client, job) for job in jobs]
            adopted = [client.get(job)["attempts_list"][-1]["adopted"] for job in jobs]
    with daemon.client() as client:
        until(
            lambda: client.get(jobs[0])["attempts_list"][-1]["adopted"] == 3,
            why="the adoption of a late launcher's run",
        )
        gate.open()
        ends = [end_of(client, job) for job in jobs]

    assert (fresh, during, adopted) == (("failed", "exit"), ["running", "running"], [2, 2])
    assert ends == [("failed", "exit")] * 2


def test_cancel_when_the_launcher_was_always_silent_then_the_worker_is_stopped(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        job = submit_running(client, gate.spec(survive=True))
        pid = client.get(job)["pid"]
    ((_, launcher),) = launchers(daemon.state_dir).items()
    daemon.kill9()

    with stopped(launcher):
        daemon.start()
        with daemon.client() as client:
            client.call("job.cancel", {"id": job})
            until(lambda: not alive(pid), why="the end of the worker")
            during = state(client, job)
    with daemon.client() as client:
        end = end_of(client, job)

    assert (during, end) == ("running", ("cancelled", "user"))
