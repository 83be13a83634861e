"""Launchers of several daemons at once: each runs its own jobs, and ends after the last of them.

Owns restarts in a row, in order and by SIGKILL, with a survivor under the launcher of each life. Refuses to ask the
daemon alone: a launcher has left when its process is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.facts import until
from tests.support.torture import launchers
from tests.support.work import Gate, alive, end_of, kill9, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Callable

    import stoker
    from tests.support.daemon import DaemonProcess


def survivor(daemon: DaemonProcess, number: int) -> tuple[int, str, Gate]:
    """A job that outlives this daemon, its launcher, and its gate."""
    gate = Gate(daemon.home / f"gate{number}")
    with daemon.client() as client:
        job = submit_running(client, gate.spec(f"exit {number}", survive=True))
        return job, client.get(job)["attempts_list"][-1]["launcher"], gate


def standing(client: stoker.Client) -> dict[str, int]:
    """The number of runs of each launcher."""
    return {one["id"]: one["running"] for one in client.call("system.status")["launchers"]}


def test_launchers_when_the_daemon_restarted_thrice_then_each_ends_with_its_own_jobs(
    daemon: DaemonProcess,
) -> None:
    kept = []
    leaves: list[Callable[[], object]] = [daemon.kill9, daemon.stop, daemon.kill9]
    for number, leave in enumerate(leaves, start=1):
        kept.append(survivor(daemon, number))
        leave()
        daemon.start()
    pids = launchers(daemon.state_dir)

    with daemon.client() as client:
        during = standing(client)
        fresh = submit(client, shell("exit 9"))
        ends = [end_of(client, fresh)]
        under = client.get(fresh)["attempts_list"][-1]["launcher"]
        for number, (job, launcher, gate) in enumerate(kept, start=1):
            gate.open()
            ends.append(end_of(client, job))
            until(lambda pid=pids[launcher]: not alive(pid), why=f"the end of launcher {launcher}")  # type: ignore[misc]
            until(lambda left=4 - number: len(standing(client)) == left, why="that it has left")  # type: ignore[misc]
        codes = [client.get(job)["exit_code"] for job, _, _ in kept]
        adopted = [client.get(job)["attempts_list"][-1]["adopted"] for job, _, _ in kept]
        last = standing(client)

    expected = {launcher for _, launcher, _ in kept}
    assert during == dict.fromkeys(expected, 1) | {under: 0}
    assert (len(expected), under in expected, last) == (3, False, {under: 0})
    assert (ends, codes, adopted) == ([("failed", "exit")] * 4, [1, 2, 3], [3, 2, 1])
    until(lambda: len(daemon.events("launcher_left")) == len(expected), why="the lines of the log")
    assert {event["launcher"] for event in daemon.events("launcher_left")} == expected


def test_launcher_when_its_last_job_ends_without_a_daemon_then_it_reports_and_ends(
    daemon: DaemonProcess,
) -> None:
    early = survivor(daemon, 3)
    daemon.kill_and_start()
    late = survivor(daemon, 4)
    daemon.kill9()
    pids = launchers(daemon.state_dir)
    early[2].open()
    until(lambda: not alive(pids[early[1]]), why="the end of a launcher that has written its outcome down")

    daemon.start()
    with daemon.client() as client:
        ended, still = end_of(client, early[0]), standing(client)
        code = client.get(early[0])["exit_code"]
        late[2].open()
        then = end_of(client, late[0])

    assert (ended, code, then) == (("failed", "exit"), 3, ("failed", "exit"))
    assert (early[1] in still, still[late[1]]) == (False, 1)


def test_launcher_when_killed_beside_a_newer_one_then_only_its_attempts_end_unseen(
    daemon: DaemonProcess,
) -> None:
    old = survivor(daemon, 5)
    daemon.kill_and_start()
    new = survivor(daemon, 6)
    pids = launchers(daemon.state_dir)

    with daemon.client() as client:
        kill9(pids[old[1]])
        until(lambda: old[1] not in standing(client), why="the loss of a launcher")
        until(lambda: client.get(old[0])["attempts_list"][-1]["adopted"] == 2, why="an adoption without a launcher")
        for _, _, gate in (old, new):
            gate.open()
        ends = [end_of(client, old[0]), end_of(client, new[0])]

    assert ends == [("failed", "lost"), ("failed", "exit")]
