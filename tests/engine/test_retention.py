"""Retention in a real daemon: what goes, what stays because something refers to it, and what is told of it.

`purge` removes by hand what ended before a moment; the schedule is tested with times of a second.
"""

from __future__ import annotations

import select
import sqlite3
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import ChangesRemoved, DaemonUnreachable, JobNotFound, NotAllowed, WorkflowNotFound
from tests.support import flows
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.rpc import RawClient, request
from tests.support.work import Gate, end_of, shell, state, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import stoker

HELLO = shell("echo hello")
HOT = """
[retention]
keep = "1s"
keep_failed = "1s"
keep_last = 0
keep_changes = "1s"
keep_archives = "1s"
keep_keys = "1s"
every_ms = 200
"""


def purge(client: stoker.Client, **asked: Any) -> dict[str, int]:
    """Purge all that has ended, until nothing more goes; returns the sums."""
    before = int(time.time() * 1_000)
    until(lambda: int(time.time() * 1_000) > before, why="the next millisecond")
    total: dict[str, int] = {}
    more = True
    while more:
        answer = client.call("system.purge", {"before": before + 1, **asked})
        more = answer.pop("more", False)
        total = {name: total.get(name, 0) + value for name, value in answer.items()}
    return total


def gone(client: stoker.Client, job: int) -> bool:
    try:
        client.get(job)
    except JobNotFound as error:
        return "any more" in error.message
    return False


def query(daemon: DaemonProcess, sql: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{daemon.state_dir}/stoker.db?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def log_of(daemon: DaemonProcess, job: int) -> Path:
    return daemon.state_dir / "logs" / str(job // 1000) / str(job)


# --- by hand ------------------------------------------------------------------------------------------------


def test_purge_when_jobs_have_ended_then_their_rows_logs_and_changes_go(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        jobs = [submit(client, HELLO) for _ in range(3)]
        for job in jobs:
            end_of(client, job)
        assert log_of(daemon, jobs[0]).is_dir()

        removed = purge(client, reason="spring cleaning")

        assert (removed["jobs"], removed["workflows"], removed["needed"]) == (3, 0, 0)
        assert removed["changes"] > 0
        assert all(gone(client, job) for job in jobs)
        assert not any(log_of(daemon, job).exists() for job in jobs)
        assert [query(daemon, f"SELECT count(*) FROM {table}") for table in ("attempts", "purged_jobs")] == [[(0,)]] * 2
        entries = query(daemon, "SELECT actor_uid, payload FROM changes WHERE cause = 'purged' ORDER BY seq")
        assert entries[0][0] == 0
        assert f'"jobs":[[{jobs[0]},{jobs[2]}]]' in entries[0][1]
        assert '"note":"spring cleaning"' in entries[0][1]
        told_of = until(lambda: daemon.events("retention_purged"), why="the line of the log")
        assert told_of[0]["actor_uid"] == 0
    assert (daemon.stop(), daemon.restart_quietly()) == (0, 0)


def test_purge_when_queues_are_made_meanwhile_then_it_is_carried_out(
    client: stoker.Client, shared: DaemonProcess
) -> None:
    with RawClient(shared.socket) as raw:
        raw.say(b"".join(request("queue.set", number, name=f"before{number}") for number in range(200)))
        assert all("result" in raw.hear() for _ in range(200))
        raw.say(request("system.purge", before=int(time.time() * 1_000)))

        made = 0
        while not select.select([raw.socket], [], [], 0)[0]:
            client.call("queue.set", {"name": f"meanwhile{made}"})
            made += 1
        answer = raw.hear()

    assert "result" in answer, answer
    assert made > 0


def test_purge_when_only_asked_what_would_go_then_nothing_does(client: stoker.Client, shared: DaemonProcess) -> None:
    job = submit(client, HELLO, queue="bulk")
    end_of(client, job)
    last = client.status()["last_seq"]

    preview = client.call(
        "system.purge", {"before": int(time.time() * 1_000), "queue": "bulk", "states": ["succeeded"], "dry_run": True}
    )

    assert (preview["jobs"], preview["log_bytes"], preview["changes"]) == (1, 6, 0)
    assert client.status()["last_seq"] == last
    assert log_of(shared, job).is_dir()
    assert purge(client, queue="bulk", states=["failed"])["jobs"] == 0
    assert purge(client, queue="bulk", states=["succeeded"])["jobs"] == 1
    assert gone(client, job)


def test_purge_when_a_job_waits_for_one_then_that_one_stays(client: stoker.Client, gate: Gate) -> None:
    needed, other = submit(client, shell('echo word=hello >"$STOKER_OUTPUT"')), submit(client, HELLO)
    slow = submit_running(client, gate.spec())
    end_of(client, needed)
    end_of(client, other)
    reads = submit(client, shell('grep -q hello "$STOKER_INPUTS_FILE"'), needs=[needed, slow])

    removed = purge(client)

    assert removed["needed"] >= 1
    assert (gone(client, other), gone(client, needed)) == (True, False)
    gate.open()
    assert end_of(client, reads) == ("succeeded", "exit")
    purge(client)
    assert gone(client, needed)


def test_purge_when_a_running_job_has_read_its_need_then_a_retry_can_read_it_again(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    needed = submit(client, shell('echo word=hello >"$STOKER_OUTPUT"'))
    end_of(client, needed)
    script = f'read _ < {gate.path}; grep -q hello "$STOKER_INPUTS_FILE" && [ -e {tmp_path}/again ]'
    spec = shell(f"{script} || {{ touch {tmp_path}/again; exit 1; }}", max_attempts=2, base_delay_ms=1)
    runs = submit_running(client, spec, needs=[needed])

    purge(client)
    gate.open()

    assert end_of(client, runs) == ("succeeded", "exit")
    assert client.get(runs)["attempts"] == 2


def test_retry_when_a_needed_job_was_purged_then_it_is_refused_by_name(client: stoker.Client) -> None:
    needed = submit(client, shell("exit 0"), queue="bulk")
    end_of(client, needed)
    job = submit(client, shell("exit 1"), needs=[needed])
    end_of(client, job)
    purge(client, queue="bulk")

    with pytest.raises(NotAllowed, match=f"job {job} needs job {needed}, which was removed"):
        client.retry(job)

    assert client.get(job)["state"] == "failed"


def test_purge_when_a_workflow_is_open_then_all_its_steps_stay(client: stoker.Client, gate: Gate) -> None:
    opened = flows.sent_flow(client, {"a": HELLO, "b": {**gate.spec(), "needs": ["a"]}})
    first = flows.job_of(client, opened, "a")
    until(lambda: flows.step_states(client, opened) == {"a": "succeeded", "b": "running"}, why="its second step")

    purge(client)

    assert not gone(client, first)
    gate.open()
    assert flows.flow_end(client, opened) == "succeeded"
    assert purge(client)["steps"] == 2
    assert gone(client, first)
    with pytest.raises(WorkflowNotFound, match="any more"):
        flows.workflow_view(client, opened)


def test_purge_when_a_job_needs_a_step_then_the_whole_workflow_stays(client: stoker.Client, gate: Gate) -> None:
    ended = flows.sent_flow(client, {"a": HELLO, "b": HELLO})
    flows.flow_end(client, ended)
    submit_running(client, gate.spec(), needs=[flows.job_of(client, ended, "a")])

    purge(client)

    assert flows.step_states(client, ended) == {"a": "succeeded", "b": "succeeded"}


def test_purge_when_a_failed_workflow_goes_then_its_key_says_how_it_ended(client: stoker.Client) -> None:
    sent = flows.flow({"a": shell("exit 3"), "b": flows.step("exit 0", "a")})
    answer = flows.send(client, sent, idempotency_key="purged flow")
    assert flows.flow_end(client, answer["id"]) == "failed"
    purge(client)

    again = flows.send(client, sent, idempotency_key="purged flow")

    assert (again["id"], again["state"], again["existing"]) == (answer["id"], "failed", True)


def test_purge_when_a_job_goes_then_its_key_gives_the_same_answer(client: stoker.Client) -> None:
    job = submit(client, shell("exit 3"), idempotency_key="purged")
    end_of(client, job)
    purge(client)

    again = client.call("job.submit", {**shell("exit 3"), "idempotency_key": "purged"})

    assert (again["id"], again["state"], again["existing"]) == (job, "failed", True)
    with pytest.raises(JobNotFound, match=f"job {job} was submitted with this key, failed"):
        client.call("job.find", {"idempotency_key": "purged"})


def test_purge_when_a_job_still_runs_then_its_history_says_what_is_missing(client: stoker.Client, gate: Gate) -> None:
    job = submit_running(client, gate.spec())
    before = client.call("job.history", {"id": job})
    purge(client)
    seq = client.status()["last_seq"]

    after = client.call("job.history", {"id": job})

    assert (before["older_removed"], after["older_removed"]) == (False, True)
    with pytest.raises(ChangesRemoved, match="keep_changes"):
        next(client.stream("watch", {"after": 1}))
    with pytest.raises(ChangesRemoved):
        next(client.stream("watch", {"after": 1, "job": job}))
    gate.open()
    end = next(client.stream("watch", {"after": seq, "job": job}))
    assert end["changes"][0]["to"] == "succeeded"
    fresh = submit(client, HELLO)
    assert next(client.stream("watch", {"after": 0, "job": fresh}))["changes"][0]["cause"] == "submitted"


def test_watch_when_older_changes_were_removed_then_zero_is_all_that_are_left(client: stoker.Client) -> None:
    removed = submit(client, HELLO)
    end_of(client, removed)
    purge(client)
    job = submit(client, HELLO)
    end_of(client, job)

    left = next(client.stream("watch", {"after": 0}))["changes"]

    assert left[0]["seq"] > 1
    assert removed not in {change["job"] for change in left}
    assert [change["to"] for change in left if change["job"] == job][-1] == "succeeded"
    assert next(client.stream("watch", {"after": 0, "job": job}))["changes"][0]["cause"] == "submitted"


def test_purge_when_jobs_are_held_or_queued_then_no_age_makes_them_go(client: stoker.Client) -> None:
    queued = submit(client, HELLO, queue="stopped")
    held = submit(client, HELLO, queue="stopped")
    client.call("job.hold", {"id": held})

    purge(client)

    assert (state(client, queued), state(client, held)) == ("queued", "held")


def test_purge_when_a_skipped_job_goes_then_its_need_can_still_be_retried(client: stoker.Client) -> None:
    failed = submit(client, shell("exit 1"))
    end_of(client, failed)
    skipped = submit(client, HELLO, needs=[failed])
    assert state(client, skipped) == "skipped"

    purge(client, states=["skipped"])

    assert gone(client, skipped)
    client.call("job.retry", {"id": failed})
    assert end_of(client, failed) == ("failed", "exit")


def test_purge_when_what_a_job_needed_goes_then_the_skipped_job_stays_skipped(client: stoker.Client) -> None:
    failed = submit(client, shell("exit 1"))
    end_of(client, failed)
    skipped = submit(client, HELLO, needs=[failed])

    purge(client, states=["failed"])

    assert gone(client, failed)
    with pytest.raises(NotAllowed, match=f"job {skipped} needs job {failed}, which was removed"):
        client.retry(skipped)
    assert state(client, skipped) == "skipped"


def test_purge_when_many_logs_cannot_be_removed_then_those_behind_them_are(daemon: DaemonProcess) -> None:
    daemon.kill9()
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as database, database:
        rows = [(job,) for job in (*range(100, 900), 5_000)]
        assert database.executemany("INSERT INTO purged_jobs VALUES (?)", rows).rowcount == len(rows)
    log_of(daemon, 5_000).mkdir(parents=True)
    (daemon.state_dir / "logs" / "0").symlink_to(daemon.home)  # no link is followed
    daemon.start()

    with daemon.client() as client:
        purge(client)

        assert not log_of(daemon, 5_000).exists()
        assert query(daemon, "SELECT count(*) FROM purged_jobs") == [(800,)], "those that a later sweep tries again"
        assert until(lambda: daemon.events("retention_failed"), why="the line of the log")


def test_status_when_asked_then_it_says_what_state_and_logs_take(client: stoker.Client) -> None:
    job = submit(client, HELLO)
    end_of(client, job)
    measured = client.status()["usage"]["measured_at"]
    purge(client, queue="bulk")

    until(lambda: client.status()["usage"]["measured_at"] != measured, why="a measurement behind the purge")
    disk = client.status()["usage"]

    assert (disk["log_bytes"] or 0) >= len("hello\n")
    assert disk["database_bytes"] > 0
    assert disk["database_shrinks"]


SETTINGS = "[queues.bulk]\n[queues.stopped]\npaused = true\n"


# --- in pieces ----------------------------------------------------------------------------------------------

MANY = 100_000
ATTEMPTS = f"""
WITH RECURSIVE further(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM further WHERE n < {MANY})
INSERT INTO attempts (run_id, job_id, ordinal, launcher, created_at, ended_at, outcome)
SELECT printf('%d.%d.%016x', job_id, n, n), job_id, n, launcher, 0, 1, 'exit' FROM further, attempts
WHERE job_id = ? AND ordinal = 1
"""


def killed_in_a_purge(daemon: DaemonProcess) -> tuple[int, int]:
    """A job and a workflow that were purged, with most of the rows of their jobs left; the daemon is killed."""
    with daemon.client() as client:
        flow = flows.sent_flow(client, {"a": HELLO, "b": flows.step("exit 0", "a")})
        flows.flow_end(client, flow)
        step = flows.job_of(client, flow, "b")
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as connection, connection:
        connection.execute(ATTEMPTS, (step,))
    daemon.start()

    def purge_until_killed() -> None:
        with suppress(DaemonUnreachable), daemon.client() as client:
            purge(client)

    purging = threading.Thread(target=purge_until_killed)
    purging.start()
    until(lambda: 0 < query(daemon, "SELECT count(*) FROM attempts")[0][0] < MANY, why="the first piece")
    daemon.kill9()
    purging.join()
    assert 0 < query(daemon, "SELECT count(*) FROM attempts")[0][0] < MANY
    return flow, step


def test_purge_when_killed_between_two_pieces_then_all_of_it_is_gone_for_all(daemon: DaemonProcess) -> None:
    flow, step = killed_in_a_purge(daemon)

    daemon.start()  # its first pass begins a minute later

    with daemon.client() as client:
        assert gone(client, step)
        with pytest.raises(WorkflowNotFound, match="any more"):
            flows.workflow_view(client, flow)
        for method, ident in (("job.retry", step), ("job.history", step), ("workflow.retry", flow)):
            with pytest.raises((JobNotFound, WorkflowNotFound)):
                client.call(method, {"id": ident})
        assert client.list()["jobs"] == []
        assert query(daemon, "SELECT id FROM jobs WHERE id NOT IN (SELECT id FROM purging_jobs)") == []
        assert query(daemon, "SELECT count(*) FROM attempts")[0][0] > 0

        purge(client)

    for table in ("jobs", "attempts", "needs", "purging_jobs", "purged_jobs"):
        assert query(daemon, f"SELECT count(*) FROM {table}") == [(0,)]
    assert (daemon.stop(), daemon.restart_quietly()) == (0, 0)


def test_purge_when_killed_between_two_pieces_then_the_next_daemon_goes_on(daemon: DaemonProcess) -> None:
    _, step = killed_in_a_purge(daemon)
    daemon.config.write_text(HOT)

    daemon.start()

    until(lambda: query(daemon, "SELECT count(*) FROM attempts") == [(0,)], why="the end of its rows")
    until(lambda: not log_of(daemon, step).exists(), why="the end of its logs")


# --- by itself ----------------------------------------------------------------------------------------------


@pytest.fixture
def hot(stopped_daemon: DaemonProcess) -> Callable[[str], DaemonProcess]:
    """Starts a daemon that keeps things for a second, or as the settings say."""

    def started(more: str = "") -> DaemonProcess:
        stopped_daemon.config.write_text(HOT + more)
        return stopped_daemon.start()

    return started


def test_schedule_when_all_has_ended_long_ago_then_nothing_of_it_is_left(hot: Callable[..., DaemonProcess]) -> None:
    daemon = hot()
    with daemon.client() as client:
        jobs = [submit(client, HELLO, idempotency_key=f"k{number}") for number in range(40)]
        flow = flows.sent_flow(client, {"a": shell("exit 1"), "b": flows.step("exit 0", "a")})

        until(lambda: not client.list(limit=1)["jobs"], why="the end of every job")
        tables = ("workflows", "attempts", "idempotency", "checkpoints", "checkpoint_purges", "purged_jobs")
        until(lambda: not any(query(daemon, f"SELECT count(*) FROM {table}")[0][0] for table in tables), why="rows")
        until(lambda: not list((daemon.state_dir / "archive").iterdir()), why="the end of the archive")

        assert not list(daemon.state_dir.glob("logs/*/*"))
        assert submit(client, HELLO) > max(jobs)
        assert flows.sent_flow(client, {"a": HELLO}) > flow
        assert daemon.events("retention_failed") == []
    assert daemon.stop() == 0


def test_schedule_when_it_has_nothing_to_remove_then_it_records_nothing(hot: Callable[..., DaemonProcess]) -> None:
    daemon = hot()
    with daemon.client() as client:
        first = client.status()["usage"]["measured_at"]
        end_of(client, submit(client, HELLO))
        until(lambda: not client.list(limit=1)["jobs"], why="the end of the job")
        quiet = client.status()["last_seq"]

        measured = until(lambda: client.status()["usage"]["measured_at"], why="a pass")
        until(lambda: client.status()["usage"]["measured_at"] not in (first, measured), why="another pass")

        assert client.status()["last_seq"] == quiet


def test_schedule_when_queues_and_workflows_have_times_of_their_own_then_these_count(
    hot: Callable[..., DaemonProcess],
) -> None:
    daemon = hot(
        '[queues.slow]\n[retention.queues.slow]\nkeep = "forever"\n[retention.workflows.nightly]\nkeep_last = 1\n'
        '[queues.some]\n[retention.queues.some]\nkeep_failed = "forever"\n'
    )
    with daemon.client() as client:
        kept = submit(client, HELLO, queue="slow")
        failed = submit(client, shell("exit 1"), queue="some")
        others = [submit(client, HELLO), submit(client, HELLO, queue="some")]
        older = flows.sent_flow(client, {"a": HELLO}, name="nightly")
        flows.flow_end(client, older)
        newer = flows.sent_flow(client, {"a": HELLO}, name="nightly")

        until(lambda: all(gone(client, job) for job in others), why="the end of the others")
        until(lambda: query(daemon, "SELECT id FROM workflows") == [(newer,)], why="the end of the older workflow")

        assert (state(client, kept), state(client, failed)) == ("succeeded", "failed")


def test_schedule_when_a_daemon_died_behind_the_commit_then_the_next_removes_logs(
    stopped_daemon: DaemonProcess,
) -> None:
    daemon = stopped_daemon.start()
    with daemon.client() as client:
        job = submit(client, HELLO)
        end_of(client, job)
    assert daemon.stop() == 0
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as connection, connection:
        connection.execute("INSERT INTO purged_jobs VALUES (?)", (job,))
        connection.execute("DELETE FROM attempts")
        connection.execute("DELETE FROM jobs")
    assert log_of(daemon, job).is_dir()

    daemon.config.write_text(HOT)
    daemon.start()

    until(lambda: not log_of(daemon, job).exists(), why="the end of its log")
    until(lambda: query(daemon, "SELECT count(*) FROM purged_jobs") == [(0,)], why="the end of the list")


def test_reload_when_retention_gets_shorter_then_it_counts_at_once(stopped_daemon: DaemonProcess) -> None:
    daemon = stopped_daemon.start()
    with daemon.client() as client:
        job = submit(client, HELLO)
        end_of(client, job)
        daemon.config.write_text(HOT + '[retention.queues.default]\nkeep = "1s"\n')

        answer = client.call("system.reload")

        assert {"retention.keep", "retention.queues"} <= set(answer["changed"])
        assert answer["restart"] == []
        until(lambda: gone(client, job), why="the end of the job")
