"""Waiting for ends, watching changes, and reading them afterwards: wait, watch, history, why, list.

Owns the promise that a listener gets each change once and in order.
"""

from __future__ import annotations

import itertools
import sys
import threading
from binascii import a2b_base64
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import (
    InvalidParams,
    JobNotFound,
    QueueNotFound,
    StokerError,
    WaitTimeout,
    WorkflowNotFound,
)
from tests.support.facts import until
from tests.support.flows import flow_end, sent_flow, workflow_view
from tests.support.past import lengthen
from tests.support.work import Gate, attempts_of, changes, end_of, shell, state, submit, submit_many, submit_running

if TYPE_CHECKING:
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n[queues.stopped]\npaused = true\n"
OK = shell("exit 0")


# --- wait ---------------------------------------------------------------------------------------------------


def test_wait_when_for_all_then_it_answers_with_every_end_in_the_order_asked(
    client: stoker.Client, tmp_path: Path
) -> None:
    slow_gate = Gate(tmp_path / "slow")
    slow, quick = submit(client, slow_gate.spec("exit 3")), submit(client, OK)
    end_of(client, quick)
    slow_gate.open()

    ends = client.wait(slow, quick, slow)

    assert [(end["id"], end["exit_code"]) for end in ends] == [(slow, 3), (quick, 0), (slow, 3)]


def test_wait_when_for_any_then_the_first_end_answers(client: stoker.Client, gate: Gate) -> None:
    slow, quick = submit(client, gate.spec()), submit(client, OK)

    ends = client.wait(slow, quick, any_one=True)

    assert [end["id"] for end in ends] == [quick]


@pytest.mark.parametrize("any_one", [False, True])
def test_wait_when_nothing_ends_in_time_then_it_times_out_and_the_jobs_go_on(
    client: stoker.Client, gate: Gate, *, any_one: bool
) -> None:
    job = submit(client, gate.spec())

    with pytest.raises(WaitTimeout):
        client.wait(job, any_one=any_one, timeout_s=0.05)

    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")


def test_wait_when_the_job_is_held_meanwhile_then_it_answers_held(client: stoker.Client, shared: DaemonProcess) -> None:
    job = submit(client, OK, queue="stopped")
    answers: list[Any] = []

    def wait() -> None:
        with shared.client() as waiter:
            answers.extend(waiter.wait(job))

    waiting = threading.Thread(target=wait)
    waiting.start()
    client.call("job.hold", {"id": job})
    waiting.join()

    assert answers[0]["state"] == "held"


def test_wait_when_a_job_is_unknown_then_it_answers_at_once(client: stoker.Client, gate: Gate) -> None:
    job = submit(client, gate.spec())

    with pytest.raises(JobNotFound):
        client.wait(job, 555_555)


def test_wait_when_many_clients_wait_for_one_job_then_all_hear_of_its_end(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    job = submit(client, gate.spec("exit 5"))
    answers: list[Any] = []

    def wait() -> None:
        with shared.client() as waiter:
            answers.extend(waiter.wait(job))

    threads = [threading.Thread(target=wait) for _ in range(10)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join()

    assert [end["exit_code"] for end in answers] == [5] * 10


# --- watch --------------------------------------------------------------------------------------------------


def test_watch_when_begun_at_a_cursor_then_each_later_change_comes_once_in_order(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    cursor = client.status()["last_seq"]
    with shared.client() as watcher:
        stream = watcher.watch(after=cursor)
        jobs = [submit(client, OK) for _ in range(30)]
        client.wait(*jobs)
        last = client.status()["last_seq"]

        seen = list(itertools.islice(stream, last - cursor))

    assert [change["seq"] for change in seen] == list(range(cursor + 1, last + 1))
    for job in jobs:
        causes = [change["cause"] for change in seen if change["job"] == job]
        assert causes == ["submitted", "dispatched", "ended"]


def test_watch_when_resumed_across_a_restart_then_every_change_comes_exactly_once(
    daemon: DaemonProcess,
) -> None:
    with daemon.client() as client:
        first = [submit(client, OK) for _ in range(5)]
        seen = list(itertools.islice(client.watch(after=0), 7))
        client.wait(*first)
    daemon.kill_and_start()
    with daemon.client() as client:
        client.wait(*[submit(client, OK) for _ in range(5)])
        last = client.status()["last_seq"]

        seen += itertools.islice(client.watch(after=seen[-1]["seq"]), last - 7)

    assert [change["seq"] for change in seen] == list(range(1, last + 1))


def test_watch_when_for_one_job_then_only_its_changes_come(shared: DaemonProcess, client: stoker.Client) -> None:
    job = submit(client, OK, queue="stopped")
    with shared.client() as watcher:
        stream = watcher.watch(after=0, job=job)
        client.wait(submit(client, OK))
        client.cancel(job)

        seen = list(itertools.islice(stream, 2))

    assert [(change["job"], change["cause"]) for change in seen] == [(job, "submitted"), (job, "cancel")]


def test_watch_when_the_cursor_is_beyond_the_newest_change_then_it_is_refused(client: stoker.Client) -> None:
    with pytest.raises(InvalidParams) as refused:
        next(iter(client.watch(after=10**12)))

    assert refused.value.details["path"] == "after"


# --- history, why, list -------------------------------------------------------------------------------------


def test_history_when_a_job_has_changed_then_each_change_has_its_cause_and_actor(
    client: stoker.Client, gate: Gate
) -> None:
    job = submit(client, OK, queue="stopped")
    client.call("job.hold", {"id": job, "reason": "one moment"})
    client.call("job.release", {"id": job})
    client.cancel(job)
    client.retry(job)

    history = client.history(job)

    steps = [(change["cause"], change["from"], change["to"]) for change in history["changes"]]
    assert steps == [
        ("submitted", None, "queued"),
        ("hold", "queued", "held"),
        ("release", "held", "queued"),
        ("cancel", "queued", "cancelled"),
        ("retry", "cancelled", "queued"),
    ]
    assert all(change["actor_uid"] is not None for change in history["changes"])
    assert history["changes"][1]["note"] == "one moment"
    assert history["changes"][0]["details"]["spec"]["command"] == OK["command"]


def test_history_when_an_attempt_has_ended_then_it_shows_process_times_and_use(client: stoker.Client) -> None:
    job = submit(client, shell("echo hello; exit 2"))
    end_of(client, job)

    (attempt,) = attempts_of(client, job)

    assert attempt["run_id"].startswith(f"{job}.1.")
    assert attempt["pid"] > 1
    assert attempt["created_at"] <= attempt["started_at"] + 1
    assert attempt["started_at"] <= attempt["ended_at"] + 1
    assert (attempt["outcome"], attempt["exit_code"], attempt["log_bytes"]) == ("exit", 2, 6)
    assert attempt["max_rss_kib"] is None  # less than its launcher: unknown


def test_history_when_a_worker_took_more_memory_than_its_launcher_then_it_is_shown(client: stoker.Client) -> None:
    taken_kib = 100 * 1024
    hungry = {"command": sys.executable, "args": ["-ISc", f"b'x' * ({taken_kib} << 10)"]}
    job = submit(client, hungry)
    end_of(client, job)

    (attempt,) = attempts_of(client, job)

    assert taken_kib < attempt["max_rss_kib"] < 4 * taken_kib


def test_why_when_the_job_runs_or_has_ended_then_it_says_that(client: stoker.Client, gate: Gate) -> None:
    job = submit_running(client, gate.spec("exit 6"))

    assert client.why(job)["code"] == "running"
    gate.open()
    end_of(client, job)
    assert client.why(job)["code"] == "final"
    assert "exited with 6" in client.why(job)["message"]


def test_why_when_a_retry_is_to_come_then_it_says_when(client: stoker.Client) -> None:
    job = submit(client, shell("exit 1"), max_attempts=2, base_delay_ms=60_000)

    until(lambda: client.why(job)["code"] == "backoff", why="the first failure")

    blocker = client.why(job)
    assert 0 < blocker["details"]["wake_in_ms"] <= 66_000


def test_list_when_filtered_then_only_those_come_newest_first_and_the_cursor_goes_on(client: stoker.Client) -> None:
    jobs = [submit(client, OK, queue="stopped", name="listed", labels={"team": "blue"}) for _ in range(5)]
    client.cancel(jobs[0])

    page = client.list(name="listed", states=["queued"], queue="stopped", label="team=blue", limit=3)
    rest = client.list(name="listed", states=["queued"], limit=3, before=page["next"])

    assert [job["id"] for job in page["jobs"]] == jobs[:1:-1]
    assert [job["id"] for job in rest["jobs"]] == [jobs[1]]
    assert rest["next"] is None


def test_get_when_the_job_is_unknown_then_it_is_job_not_found(client: stoker.Client) -> None:
    for method in ("job.get", "job.history", "job.why"):
        with pytest.raises(JobNotFound):
            client.call(method, {"id": 777_777})


def test_watch_when_the_job_is_unknown_then_it_is_refused_and_not_waited_for(client: stoker.Client) -> None:
    with pytest.raises(JobNotFound):
        client.watch(after=0, job=777_777)


def test_watch_when_for_a_workflow_then_its_changes_and_those_of_its_steps_come(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    before = client.status()["last_seq"]
    workflow = sent_flow(client, {"a": OK, "b": {**OK, "needs": ["a"]}})
    with shared.client() as watcher:
        stream = watcher.watch(after=before, workflow=workflow)
        client.wait(submit(client, OK))
        first = next(stream)
        flow_end(client, workflow)
        seen = [first, *itertools.takewhile(lambda change: change["job"] or change["cause"] != "succeeded", stream)]

    own = [change["cause"] for change in seen if change["kind"] == "workflow"]
    steps = {step["job"] for step in workflow_view(client, workflow)["steps"]}
    assert own[0] == "submitted"
    assert {change["job"] for change in seen if change["kind"] == "job"} == steps
    assert [change["seq"] for change in seen] == sorted({change["seq"] for change in seen})


@pytest.mark.parametrize(
    ("wanted", "error"), [({"workflow": 777_777}, WorkflowNotFound), ({"job": 1, "workflow": 1}, InvalidParams)]
)
def test_watch_when_the_workflow_cannot_be_watched_then_it_is_refused(
    client: stoker.Client, wanted: dict[str, Any], error: type[StokerError]
) -> None:
    with pytest.raises(error, match="workflow"):
        client.watch(after=0, **wanted)


def test_list_when_the_queue_is_unknown_then_the_error_names_those_that_are_there(client: stoker.Client) -> None:
    with pytest.raises(QueueNotFound, match="default, stopped") as refused:
        client.list(queue="nowhere")

    assert refused.value.details["path"] == "queue"


def test_changes_when_a_job_runs_then_state_and_log_of_changes_agree(client: stoker.Client) -> None:
    job = submit(client, OK)
    end_of(client, job)

    assert changes(client, job)[-1]["to"] == state(client, job)


def test_last_seq_when_read_during_commits_then_a_watch_can_begin_at_it(
    client: stoker.Client,
) -> None:
    seen = []
    for _ in range(50):
        submit_many(client, [OK] * 10)  # commits are under way while it is asked
        last_seq = client.status()["last_seq"]
        client.watch(after=last_seq).close()  # type: ignore[attr-defined]
        seen.append(last_seq)

    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


# --- pages, and who is woken --------------------------------------------------------------------------------


def test_get_when_there_were_many_attempts_then_it_pages_from_the_newest(
    client: stoker.Client,
) -> None:
    job = submit(client, shell("exit 1"), max_attempts=5, base_delay_ms=0)
    end_of(client, job)

    newest = client.call("job.get", {"id": job, "limit": 2})
    older = client.call("job.get", {"id": job, "limit": 4, "before": newest["attempts_before"]})

    assert [attempt["ordinal"] for attempt in newest["attempts_list"]] == [4, 5]
    assert [attempt["ordinal"] for attempt in older["attempts_list"]] == [1, 2, 3]
    assert older["attempts_before"] is None


def test_history_when_read_in_pages_then_every_change_comes_once_and_in_order(client: stoker.Client) -> None:
    job = submit(client, shell("exit 1"), max_attempts=4, base_delay_ms=0)
    end_of(client, job)
    whole = [change["seq"] for change in client.history(job)["changes"]]

    page = client.call("job.history", {"id": job, "limit": 2})
    seen = [change["seq"] for change in page["changes"]]
    while page["next"] is not None:
        page = client.call("job.history", {"id": job, "limit": 2, "after": page["next"]})
        seen += [change["seq"] for change in page["changes"]]

    assert len(whole) > 4
    assert seen == whole


def test_log_when_the_next_attempt_is_followed_before_it_begins_then_it_comes(
    client: stoker.Client, shared: DaemonProcess, gate: Gate
) -> None:
    job = submit_running(client, gate.spec('echo "attempt $STOKER_ATTEMPT"; exit 1'), max_attempts=2, base_delay_ms=0)
    with shared.client() as follower:
        pieces = follower.stream("job.logs", {"id": job, "attempt": 2, "follow": True})
        gate.open()

        text = b"".join(a2b_base64(piece["data"]) for piece in pieces)

    assert text.endswith(b"attempt 2\n")
    assert b"attempt 1" not in text


def test_starts_when_people_search_a_long_table_then_they_are_not_behind_them(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        end_of(client, submit(client, OK))
    daemon.stop()
    lengthen(daemon.state_dir / "stoker.db", 400_000)
    daemon.start()
    searched: list[int] = []
    done = threading.Event()

    def search() -> None:
        with daemon.client() as person:
            while not done.is_set():
                person.list(search="no such text")
                searched.append(1)

    searches = [threading.Thread(target=search) for _ in range(8)]
    with daemon.client() as client:
        for thread in searches:
            thread.start()
        try:
            until(lambda: len(searched) >= 8, why="searches, one after the other")
            first = submit(client, OK)
            second = submit(client, OK, needs=[first])
            client.wait(second)
            healthy = client.call("system.health")["ok"]
        finally:
            done.set()
    for thread in searches:
        thread.join()

    assert healthy
