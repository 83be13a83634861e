"""Editing jobs that have not started: place in the queue, limits, and edits that are refused."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import AlreadyFinished, InvalidParams, JobNotFound, NotAllowed, QueueFull, QueueNotFound
from tests.support.daemon import DaemonProcess
from tests.support.facts import scales
from tests.support.work import changes, end_of, running, shell, submit

if TYPE_CHECKING:
    import stoker
    from tests.support.work import Gate

SETTINGS = "[daemon]\nmax_running = 1\n[queues.stopped]\npaused = true\n[queues.small]\nmax_queued = 1\npaused = true\n"
OK = shell("exit 0")
HOUR_MS = 3_600_000


def edit(client: stoker.Client, job: int, **fields: Any) -> str:
    state: str = client.call("job.edit", {"id": job, **fields})["state"]
    return state


def queued(client: stoker.Client) -> dict[str, int]:
    return {queue["name"]: queue["queued"] for queue in client.call("queue.list", {})["queues"]}


def test_edit_when_a_job_is_queued_then_all_fields_are_changed_in_one_audited_change(client: stoker.Client) -> None:
    job = submit(client, OK, queue="stopped", limits={"cpu_seconds": 60, "open_files": 99})

    state = edit(
        client, job, priority=5, name="film", timeout_ms=1_000, max_attempts=3, ttl_ms=HOUR_MS,
        limits={"memory_bytes": 1 << 30, "cpu_seconds": None}, reason="Ada waits for it",
    )  # fmt: skip
    after = client.get(job)

    assert state == "queued"
    assert (after["priority"], after["name"], after["timeout_ms"], after["max_attempts"]) == (5, "film", 1_000, 3)
    limits = {name: value for name, value in after["limits"].items() if value is not None}
    assert limits == {"memory_bytes": 1 << 30, "open_files": 99}
    assert after["expires_at"] is not None
    (change,) = changes(client, job, "edit")
    assert (change["note"], change["from"], change["to"]) == ("Ada waits for it", "queued", "queued")
    assert change["actor_uid"] is not None
    assert change["details"]["spec"]["priority"] == 5


def test_edit_when_the_priority_rises_then_the_job_starts_before_others(client: stoker.Client, gate: Gate) -> None:
    running(client, submit(client, gate.spec()))
    jobs = [submit(client, OK) for _ in range(3)]

    edit(client, jobs[2], priority=5)
    edit(client, jobs[0], priority=-5)
    gate.open()
    for job in jobs:
        end_of(client, job)

    started = sorted(jobs, key=lambda job: changes(client, job, "dispatched")[0]["seq"])
    assert started == [jobs[2], jobs[1], jobs[0]]


def test_edit_when_a_job_moves_to_an_open_queue_then_it_starts_there(client: stoker.Client) -> None:
    before = queued(client)
    job = submit(client, OK, queue="stopped")

    edit(client, job, queue="default")

    assert end_of(client, job) == ("succeeded", "exit")
    assert queued(client) == before


def test_edit_when_a_job_gets_a_near_deadline_then_it_expires(client: stoker.Client) -> None:
    job = submit(client, OK, queue="stopped")

    for in_ms in scales(300):
        with contextlib.suppress(InvalidParams):  # it has passed already
            edit(client, job, deadline=int(time.time() * 1_000) + in_ms)
            break

    assert end_of(client, job) == ("expired", "deadline")


def test_edit_when_the_daemon_starts_again_then_the_changes_are_still_there(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        job = submit(client, OK, queue="stopped")
        edit(client, job, priority=7, queue="small", name="kept")
    daemon.kill_and_start()
    with daemon.client() as client:
        after = client.get(job)

    assert (after["priority"], after["queue"], after["name"], after["state"]) == (7, "small", "kept", "queued")


def test_edit_when_an_attempt_is_open_or_all_is_over_then_it_is_refused(
    client: stoker.Client, gate: Gate, running_job: int
) -> None:
    with pytest.raises(NotAllowed, match="is running, so edit does not apply"):
        edit(client, running_job, priority=5)
    gate.open()
    end_of(client, running_job)
    with pytest.raises(AlreadyFinished):
        edit(client, running_job, priority=5)
    with pytest.raises(JobNotFound):
        edit(client, 99, priority=5)

    assert client.get(running_job)["priority"] == 0


@pytest.mark.parametrize(
    ("fields", "error", "path"),
    [
        ({"queue": "nope"}, QueueNotFound, "queue"),
        ({"queue": "small"}, QueueFull, None),
        ({"deadline": 1_700_000_000_000}, InvalidParams, "deadline"),
        ({"timeout_ms": 0}, InvalidParams, "timeout_ms"),
        ({"limits": {"memory_bytes": 1}}, InvalidParams, "limits.memory_bytes"),
        ({"command": "false"}, InvalidParams, "command"),
    ],
)
def test_edit_when_a_value_would_be_refused_at_a_submit_then_nothing_is_changed(
    client: stoker.Client, fields: dict[str, Any], error: type[Exception], path: str | None
) -> None:
    if queued(client)["small"] == 0:
        submit(client, OK, queue="small")
    job = submit(client, OK, queue="stopped")
    before = client.get(job)

    with pytest.raises(error) as refused:
        edit(client, job, priority=5, **fields)

    assert getattr(refused.value, "details", {}).get("path") == path
    assert client.get(job) == before
