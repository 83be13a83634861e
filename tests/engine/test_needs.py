"""Needs: jobs that wait for the end of others.

Owns what each end of a needed job means for those who need it, also across retries, skips and restarts.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import InvalidParams, JobNotFound
from tests.support.facts import until
from tests.support.rpc import RawClient, request
from tests.support.work import changes, end_of, running, shell, state, submit

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

OK, FAILS = shell("exit 0"), shell("exit 1")
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("on", "then", "expected"),
    [
        ("ok", "exit 0", ("succeeded", "exit")),
        ("ok", "exit 1", ("skipped", "dependency")),
        ("failed", "exit 1", ("succeeded", "exit")),
        ("failed", "exit 0", ("skipped", "dependency")),
        ("any", "exit 0", ("succeeded", "exit")),
        ("any", "exit 1", ("succeeded", "exit")),
    ],
)
def test_need_when_the_needed_job_ends_then_the_other_goes_on_or_is_skipped(
    client: stoker.Client, gate: Gate, on: str, then: str, expected: tuple[str, str]
) -> None:
    needed = submit(client, gate.spec(then))
    job = submit(client, OK, needs=[{"job": needed, "on": on}])
    assert state(client, job) == "waiting"

    gate.open()

    assert end_of(client, job) == expected


@pytest.mark.parametrize(("on", "expected"), [("ok", "skipped"), ("failed", "succeeded"), ("any", "succeeded")])
def test_need_when_the_needed_job_had_failed_before_then_it_is_decided_at_the_submit(
    client: stoker.Client, on: str, expected: str
) -> None:
    needed = submit(client, FAILS)
    end_of(client, needed)

    job = submit(client, OK, needs=[{"job": needed, "on": on}])

    assert end_of(client, job)[0] == expected


def test_need_when_the_needed_job_is_cancelled_then_it_counts_as_failed(client: stoker.Client, gate: Gate) -> None:
    needed = submit(client, gate.spec(), grace_ms=100)
    running(client, needed)
    after_ok = submit(client, OK, needs=[needed])
    after_failed = submit(client, OK, needs=[{"job": needed, "on": "failed"}])

    client.cancel(needed)

    assert end_of(client, after_ok) == ("skipped", "dependency")
    assert end_of(client, after_failed) == ("succeeded", "exit")


def test_need_when_a_failed_job_is_skipped_by_a_person_then_later_dependents_go_on(client: stoker.Client) -> None:
    needed = submit(client, FAILS)
    end_of(client, needed)
    client.call("job.skip", {"id": needed, "reason": "not needed today"})

    job = submit(client, OK, needs=[needed])

    assert end_of(client, job) == ("succeeded", "exit")


def test_need_when_a_waiting_job_is_skipped_by_a_person_then_its_dependents_go_on(client: stoker.Client) -> None:
    needed = submit(client, OK, run_at=int(time.time() * 1000) + HOUR_MS)
    job = submit(client, OK, needs=[needed])

    client.call("job.skip", {"id": needed})

    assert end_of(client, job) == ("succeeded", "exit")


def test_needs_when_a_chain_breaks_then_everything_behind_it_is_skipped(client: stoker.Client, gate: Gate) -> None:
    first = submit(client, gate.spec("exit 1"))
    second = submit(client, OK, needs=[first])
    third = submit(client, OK, needs=[second])
    rescue = submit(client, OK, needs=[{"job": third, "on": "any"}])

    gate.open()

    assert end_of(client, second) == ("skipped", "dependency")
    assert end_of(client, third) == ("skipped", "dependency")
    assert end_of(client, rescue) == ("succeeded", "exit")


def test_needs_when_there_are_several_then_the_last_one_lets_the_job_go_and_why_names_those_open(
    client: stoker.Client, gate: Gate
) -> None:
    done, open_one = submit(client, OK), submit(client, gate.spec())
    end_of(client, done)
    job = submit(client, OK, needs=[done, open_one])

    blocker = client.why(job)

    assert (blocker["code"], blocker["details"]) == ("needs", {"needs": [open_one]})
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")


def test_need_when_the_needed_job_is_retried_after_a_failure_then_it_is_waited_for_again(
    client: stoker.Client, gate: Gate
) -> None:
    needed = submit(client, shell("exit 1", max_attempts=2, base_delay_ms=60_000))
    job = submit(client, OK, needs=[needed])
    client.call("job.hold", {"id": submit(client, gate.spec(), needs=[job])})
    until(lambda: client.get(needed)["failures"] == 1, why="the failure")

    assert state(client, job) == "waiting"  # a failure with a retry to come is no end
    client.cancel(needed)
    assert end_of(client, job) == ("skipped", "dependency")


@pytest.mark.parametrize("verb", ["job.retry", "job.restart"])
def test_need_when_a_finished_job_runs_again_then_new_dependents_wait_for_that_run(
    client: stoker.Client, gate: Gate, verb: str
) -> None:
    needed = submit(client, gate.spec())
    client.cancel(needed)
    end_of(client, needed)
    client.call(verb, {"id": needed, "yes": True})

    job = submit(client, OK, needs=[needed])

    assert state(client, job) == "waiting"
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")


def test_need_when_the_needed_job_is_cancelled_and_retried_at_once_then_its_next_end_is_still_heard(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    needed = submit(client, OK, run_at=int(time.time() * 1000) + HOUR_MS)
    job = submit(client, OK, needs=[{"job": needed, "on": "any"}])

    with RawClient(shared.socket) as raw:
        raw.say(request("job.cancel", 1, id=needed) + request("job.retry", 2, id=needed))  # one turn decides both
        assert [raw.hear()["result"]["state"] for _ in range(2)] == ["cancelled", "waiting"]
    assert state(client, job) == "waiting"
    client.call("job.skip", {"id": needed})

    assert end_of(client, job) == ("succeeded", "exit")


def test_need_when_the_job_is_held_meanwhile_then_it_stays_held_and_may_be_released(
    client: stoker.Client, gate: Gate
) -> None:
    needed = submit(client, gate.spec())
    job = submit(client, OK, needs=[needed])
    client.call("job.hold", {"id": job})

    gate.open()
    end_of(client, needed)

    assert state(client, job) == "held"
    client.call("job.release", {"id": job})
    assert end_of(client, job) == ("succeeded", "exit")


@pytest.mark.parametrize("needs", [[999_999], [{"job": 999_999, "on": "any"}]])
def test_need_when_the_job_is_unknown_then_the_submit_is_refused_with_the_path(
    client: stoker.Client, needs: list[object]
) -> None:
    with pytest.raises(JobNotFound) as refused:
        submit(client, OK, needs=needs)

    assert refused.value.details["path"] == "needs[0]"


def test_need_when_one_job_is_named_twice_then_the_submit_is_refused(client: stoker.Client) -> None:
    needed = submit(client, OK)

    with pytest.raises(InvalidParams) as refused:
        submit(client, OK, needs=[needed, {"job": needed, "on": "failed"}])

    assert refused.value.details["path"] == "needs"


def test_need_when_the_daemon_restarts_meanwhile_then_the_dependent_still_goes_on(
    daemon: DaemonProcess, gate: Gate
) -> None:
    with daemon.client() as client:
        needed = submit(client, gate.spec(), survive=True)
        job = submit(client, OK, needs=[needed])
        running(client, needed)
    daemon.kill9()
    gate.open()

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        assert end_of(client, needed) == ("succeeded", "exit")


def test_need_when_the_daemon_died_between_the_end_and_its_dependents_then_the_next_start_tells_them(
    daemon: DaemonProcess,
) -> None:
    with daemon.client() as client:
        needed = submit(client, OK, run_at=int(time.time() * 1000) + HOUR_MS)
        job, other = submit(client, OK, needs=[needed]), submit(client, OK, needs=[{"job": needed, "on": "failed"}])
    daemon.kill9()
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:  # as committed by a turn that was the last
        database.execute(
            "UPDATE jobs SET state = 'succeeded', reason = 'exit', exit_code = 0, finished_at = created_at"
            " WHERE id = ?", [needed]
        )  # fmt: skip
    database.close()

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        assert end_of(client, other) == ("skipped", "dependency")
        assert [change["cause"] for change in changes(client, other)] == ["submitted", "need_failed"]


def test_why_when_one_of_many_needs_failed_then_that_one_is_named(client: stoker.Client) -> None:
    fine = [submit(client, OK) for _ in range(6)]
    broken = submit(client, FAILS)
    client.wait(*fine, broken)
    job = submit(client, OK, needs=[{"job": each} for each in (*fine, broken)])
    assert end_of(client, job) == ("skipped", "dependency")

    told = client.why(job)

    assert told["message"] == f"is skipped (dependency): it needed job {broken} (ok)"
    assert told["hint"] == f"stoker why {broken}"
