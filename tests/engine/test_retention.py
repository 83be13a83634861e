"""A purge by hand: the jobs that it removes, those that stay because something refers to them, and the answers."""

from __future__ import annotations

import os
import select
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import ChangesRemoved, JobNotFound, NotAllowed, WorkflowNotFound
from tests.support import flows
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.purges import gone, just_now, log_of, purge
from tests.support.rpc import RawClient, request
from tests.support.work import Gate, end_of, shell, state, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import stoker
    from stoker.core.wire_types import ChangeShape

HELLO = shell("echo hello")
SETTINGS = "[queues.bulk]\n[queues.stopped]\npaused = true\n"


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
        assert [daemon.rows(f"SELECT count(*) FROM {table}") for table in ("attempts", "purged_jobs")] == [[(0,)]] * 2
        entries = daemon.rows("SELECT actor_uid, payload FROM changes WHERE cause = 'purged' ORDER BY seq")
        assert entries[0][0] == os.geteuid()
        assert f'"jobs":[[{jobs[0]},{jobs[2]}]]' in entries[0][1]
        assert '"note":"spring cleaning"' in entries[0][1]
        told_of = until(lambda: daemon.events("retention_purged"), why="the line of the log")
        assert told_of[0]["actor_uid"] == os.geteuid()
    assert (daemon.stop(), daemon.restart_quietly()) == (0, 0)


def test_purge_when_an_earlier_one_was_interrupted_then_it_deletes_what_that_gave_up(daemon: DaemonProcess) -> None:
    daemon.stop()
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db", isolation_level=None)) as connection:
        connection.execute("INSERT INTO meta VALUES ('changes_given_up', (SELECT max(seq) - 1 FROM changes))")
    daemon.start()

    with daemon.client() as client:
        assert purge(client, queue="default")["changes"] == 0

    assert daemon.rows("SELECT min(seq) > 1 FROM changes") == [(1,)]


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
        "system.purge", {"before": just_now(), "queue": "bulk", "states": ["succeeded"], "dry_run": True}
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


def test_purge_when_a_job_still_runs_then_its_history_says_that_entries_are_missing(
    client: stoker.Client, gate: Gate
) -> None:
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


def up_to_end(watched: Iterator[ChangeShape], job: int) -> Iterator[ChangeShape]:
    """The changes up to the success of a job."""
    for change in watched:
        yield change
        if (change["job"], change["to"]) == (job, "succeeded"):
            return


def test_watch_when_older_changes_were_removed_then_zero_is_all_that_are_left(client: stoker.Client) -> None:
    removed = submit(client, HELLO)
    end_of(client, removed)
    purge(client)
    job = submit(client, HELLO)
    end_of(client, job)

    # the end of a job can be read a moment before it is announced: then its change comes in the next notification
    left = list(up_to_end(client.watch(after=0), job))

    assert left[0]["seq"] > 1
    assert removed not in {change["job"] for change in left}
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
        assert daemon.rows("SELECT count(*) FROM purged_jobs") == [(800,)], "those that a later sweep tries again"
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
