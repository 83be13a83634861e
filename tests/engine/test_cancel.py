"""Cancel in every state, of the whole tree, also when the exit comes first.

Owns the answers of `job.cancel`, and the check that no process of the worker is left.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import AlreadyFinished, JobNotFound
from tests.support.facts import until
from tests.support.work import DeafWorker, Gate, alive, changes, end_of, lines, shell, submit, submit_running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n[queues.stopped]\npaused = true\n"
HOUR_MS = 3_600_000
OK = shell("exit 0")


def test_cancel_when_the_job_is_queued_then_it_ends_at_once(client: stoker.Client) -> None:
    job = submit(client, OK, queue="stopped")

    answer = client.cancel(job, reason="not today")

    assert (answer["state"], answer["reason"], answer["stopping"]) == ("cancelled", "user", False)
    (change,) = changes(client, job, "cancel")
    assert change["note"] == "not today"
    assert change["actor_uid"] == 0 or change["actor_uid"] == client.get(job)["owner_uid"]


@pytest.mark.parametrize("why", ["run_at", "needs", "backoff"])
def test_cancel_when_the_job_is_waiting_then_it_ends_at_once(client: stoker.Client, gate: Gate, why: str) -> None:
    specs = {
        "run_at": shell("exit 0", run_at=int(time.time() * 1000) + HOUR_MS),
        "needs": shell("exit 0", needs=[submit(client, gate.spec())]),
        "backoff": shell("exit 1", max_attempts=2, base_delay_ms=60_000),
    }
    job = submit(client, specs[why])
    until(lambda: client.why(job)["code"] == why, why=f"a job that waits for {why}")

    assert client.cancel(job)["state"] == "cancelled"


def test_cancel_when_the_job_is_held_then_it_ends_at_once(client: stoker.Client) -> None:
    job = submit(client, OK, queue="stopped")
    client.call("job.hold", {"id": job})

    assert client.cancel(job)["state"] == "cancelled"


def test_cancel_when_the_job_runs_then_it_is_stopped_by_sigterm(client: stoker.Client, running_job: int) -> None:
    pid = client.get(running_job)["pid"]

    answer = client.cancel(running_job)

    assert answer["stopping"] or answer["state"] == "cancelled"
    assert end_of(client, running_job) == ("cancelled", "user")
    assert client.get(running_job)["signal"] == 15
    assert not alive(pid)


def test_cancel_when_the_worker_exits_with_0_on_sigterm_then_the_job_is_cancelled(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "said"
    job = submit(client, shell(f"trap 'exit 0' TERM; echo ready > {ledger}; while :; do read _ < {gate.path}; done"))
    until(lambda: lines(ledger), why="the trap")

    client.cancel(job)

    assert end_of(client, job) == ("cancelled", "user")
    assert client.get(job)["exit_code"] == 0


def test_cancel_when_the_tree_ignores_sigterm_then_it_is_killed_after_the_grace(
    client: stoker.Client, deaf: DeafWorker
) -> None:
    child = deaf.script.replace("$$", r"\$$")
    job = submit(client, shell(f'setsid sh -c "{child}" & {deaf.script}'), grace_ms=200)
    until(lambda: len(lines(deaf.pids)) == 2, why="parent and child")

    answer = client.cancel(job)

    assert answer["stopping"]
    assert client.why(job)["code"] in ("stopping", "final")
    assert end_of(client, job) == ("cancelled", "user")
    assert client.get(job)["signal"] == 9
    assert [pid for pid in lines(deaf.pids) if alive(int(pid))] == []


def test_cancel_when_asked_twice_then_the_second_answer_says_that_it_is_stopping(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "said"
    job = submit(client, shell(f"trap '' TERM; echo > {ledger}; read _ < {gate.path}; :"), grace_ms=3_600_000)
    until(lambda: lines(ledger), why="the trap")

    first, second = client.cancel(job), client.cancel(job)

    gate.open()
    assert first["stopping"]
    assert second["stopping"]
    assert end_of(client, job) == ("cancelled", "user")
    assert len(changes(client, job, "cancel")) == 1


@pytest.mark.parametrize("then", ["exit 0", "exit 3"])
def test_cancel_when_the_job_has_finished_then_the_end_stands(client: stoker.Client, then: str) -> None:
    job = submit(client, shell(then))
    ended = end_of(client, job)

    with pytest.raises(AlreadyFinished) as refused:
        client.cancel(job)

    assert refused.value.details["state"] == ended[0]
    assert end_of(client, job) == ended


def test_cancel_when_there_is_no_such_job_then_it_is_job_not_found(client: stoker.Client) -> None:
    with pytest.raises(JobNotFound):
        client.cancel(424_242)


@pytest.mark.parametrize("first", ["exit", "cancel", "neither"])
def test_cancel_when_it_races_the_exit_then_either_stands_and_both_sides_agree(
    client: stoker.Client, tmp_path: Path, first: str
) -> None:
    """Either may win, except if the exit was seen before or the gate never opens."""
    for round_ in range(20):
        gate = Gate(tmp_path / f"gate{round_}")
        job = submit_running(client, gate.spec())
        if first != "cancel":
            gate.open()
        if first == "exit":
            end_of(client, job)
        answered = cancelled_or_late(client, job)
        if first == "cancel" and round_ % 2:
            gate.open()
        end, reason = end_of(client, job)

        assert (end, reason) in (("cancelled", "user"), ("succeeded", "exit"))
        assert answered in (end, "running")
        (attempt,) = client.history(job)["attempts"]
        assert attempt["stopped"] == (end == "cancelled")
        if first == "exit":
            assert end == "succeeded"
        if first == "cancel" and not round_ % 2:
            assert end == "cancelled"


def cancelled_or_late(client: stoker.Client, job: int) -> str:
    """The state in the answer to a cancel, or in its refusal if the end came first."""
    try:
        return client.cancel(job)["state"]
    except AlreadyFinished as late:
        return str(late.details["state"])


def main_has_ended(client: stoker.Client, job: int) -> bool:
    """Whether the main process of the job has started and ended."""
    view = client.get(job)
    return view["state"] != "running" or (view["pid"] is not None and not alive(view["pid"]))


def test_cancel_when_only_the_rest_of_the_tree_is_left_then_the_exit_stands(
    client: stoker.Client, deaf: DeafWorker
) -> None:
    script = f'sh -c "{deaf.script}" & while ! [ -e {deaf.pids} ]; do :; done; exit 0'
    job = submit(client, shell(script), grace_ms=500)
    until(lambda: lines(deaf.pids), why="the child that stays")
    until(lambda: main_has_ended(client, job), why="the end of the main process")

    with pytest.raises(AlreadyFinished):
        client.cancel(job)

    assert end_of(client, job) == ("succeeded", "exit")


def test_cancel_when_the_daemon_dies_within_the_grace_then_the_next_completes_it(
    daemon: DaemonProcess, deaf: DeafWorker
) -> None:
    with daemon.client() as client:
        job = deaf.submit(client, grace_ms=2_000, survive=True, on_orphan="requeue")
        client.cancel(job)
    daemon.kill_and_start()

    with daemon.client() as client:
        assert end_of(client, job) == ("cancelled", "user")
        assert len(client.history(job)["attempts"]) == 1
    assert not alive(int(lines(deaf.pids)[0]))
