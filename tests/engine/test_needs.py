"""Needs: jobs that wait for the end of others.

Owns the effect of each end of a needed job on its dependents, also across retries, skips and restarts.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from stoker.core.clock import Now
from stoker.core.errors import InvalidParams, JobNotFound
from stoker.core.job.events import ReleaseDependents
from stoker.core.job.model import Need, Queue, State
from stoker.engine.dependents import release_dependents, where_to_go_on
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.store.loading import Loaded, Portion
from tests.support import jobs
from tests.support.facts import scales, until
from tests.support.flows import flow, send
from tests.support.rpc import RawClient, request
from tests.support.work import changes, end_of, running, shell, state, submit, submit_running

if TYPE_CHECKING:
    from pathlib import Path

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
        ("failed", "exit 0", ("skipped", "not_needed")),
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


def test_need_when_the_needed_job_ends_then_the_other_starts_with_the_same_commit(
    client: stoker.Client, gate: Gate
) -> None:
    needed = submit_running(client, gate.spec())
    job = submit(client, OK, needs=[needed])

    gate.open()

    assert end_of(client, job) == ("succeeded", "exit")
    (end,) = changes(client, needed, "ended")
    (met,), (start,) = changes(client, job, "need_met"), changes(client, job, "dispatched")
    assert end["seq"] + 1 == met["seq"] == start["seq"] - 1
    assert end["at"] == met["at"] == start["at"]  # a turn has one clock


@pytest.mark.parametrize("submitted_meanwhile", [True, False])
async def test_need_when_a_job_comes_in_the_turn_of_the_end_then_it_is_released_later(
    submitted_meanwhile: bool,  # noqa: FBT001
) -> None:
    now = Now(wall=1_000, steady=1_000)
    memory = LiveState({"default": Queue(name="default")}, {}, 2, 0)
    memory.needed = {1}
    turn = Turn(memory, now, Loaded(jobs={1: jobs.job(State.SUCCEEDED, id=1)}, dependents={1: Portion()}))
    if submitted_meanwhile:
        turn.set_needs(2, [Need(1)])

    assert list(release_dependents(turn, 1)) == []

    assert memory.needed == ({1} if submitted_meanwhile else set())


def test_need_when_a_job_ends_again_meanwhile_then_all_dependents_are_released() -> None:
    """Those of its first end are released up to the one with id 400."""
    ended_again, going_on = ReleaseDependents(7), ReleaseDependents(7, 400)

    assert where_to_go_on([ended_again, going_on]) == where_to_go_on([going_on, ended_again]) == {7: 0}


@pytest.mark.parametrize(("on", "expected"), [("ok", "skipped"), ("failed", "succeeded"), ("any", "succeeded")])
def test_need_when_the_needed_job_had_failed_before_then_it_is_decided_at_the_submit(
    client: stoker.Client, on: str, expected: str
) -> None:
    needed = submit(client, FAILS)
    end_of(client, needed)

    job = submit(client, OK, needs=[{"job": needed, "on": on}])

    assert end_of(client, job)[0] == expected


def test_need_when_the_needed_job_is_cancelled_then_it_counts_as_failed(client: stoker.Client, gate: Gate) -> None:
    needed = submit_running(client, gate.spec(), grace_ms=100)
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


def test_needs_when_several_are_open_then_why_names_them_and_the_last_frees_the_job(
    client: stoker.Client, gate: Gate
) -> None:
    done, open_one = submit(client, OK), submit(client, gate.spec())
    end_of(client, done)
    job = submit(client, OK, needs=[done, open_one])

    blocker = client.why(job)

    assert (blocker["code"], blocker["details"]) == ("needs", {"needs": [open_one]})
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")


def test_need_when_the_needed_job_is_retried_then_dependents_wait_for_it_again(
    client: stoker.Client, gate: Gate
) -> None:
    needed = submit(client, shell("exit 1", max_attempts=2, base_delay_ms=60_000))
    job = submit(client, OK, needs=[needed])
    client.call("job.hold", {"id": submit(client, gate.spec(), needs=[job])})
    until(lambda: client.get(needed)["failures"] == 1, why="the failure")

    assert state(client, job) == "waiting"  # a failure that will be retried does not end the job
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


def test_need_when_the_needed_job_is_cancelled_and_retried_then_its_next_end_counts(
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


def test_need_when_the_daemon_died_right_after_the_end_then_dependents_still_start(
    daemon: DaemonProcess,
) -> None:
    with daemon.client() as client:
        needed = submit(client, OK, run_at=int(time.time() * 1000) + HOUR_MS)
        job, other = submit(client, OK, needs=[needed]), submit(client, OK, needs=[{"job": needed, "on": "failed"}])
    daemon.kill9()
    # As a daemon leaves it that dies right after this commit.
    with sqlite3.connect(daemon.state_dir / "stoker.db") as database:
        database.execute(
            "UPDATE jobs SET state = 'succeeded', reason = 'exit', exit_code = 0, finished_at = created_at"
            " WHERE id = ?", [needed]
        )  # fmt: skip
    database.close()

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, job) == ("succeeded", "exit")
        assert end_of(client, other) == ("skipped", "not_needed")
        assert [change["cause"] for change in changes(client, other)] == ["submitted", "need_failed"]


def test_why_when_one_of_many_needs_failed_then_that_one_is_named(client: stoker.Client) -> None:
    fine = [submit(client, OK) for _ in range(6)]
    broken = submit(client, FAILS)
    client.wait(*fine, broken)
    job = submit(client, OK, needs=[{"job": each} for each in (*fine, broken)])
    assert end_of(client, job) == ("skipped", "dependency")

    blocker = client.why(job)

    assert blocker["message"] == f"was skipped (dependency): it needed job {broken} (ok)"
    assert blocker["hint"] == f"stoker why {broken}"


# --- taken again ---


def chain(client: stoker.Client, first: int) -> tuple[int, int]:
    """Two more jobs, each of which needs the one before."""
    second = submit(client, OK, needs=[first])
    return second, submit(client, OK, needs=[second])


def test_retry_when_dependents_were_skipped_then_they_run_after_it_at_any_distance(
    client: stoker.Client, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    first = submit(client, shell(f"[ -e {mended} ]"))
    second, third = chain(client, first)
    assert end_of(client, third) == ("skipped", "dependency")
    late = submit(client, OK, needs=[first])  # skipped as it was submitted
    mended.touch()

    standing = client.retry(first)

    assert standing["taken_up"] == [second, late, third]
    for job in (second, third, late):
        assert end_of(client, job) == ("succeeded", "exit")
    assert changes(client, third)[-1]["at"] >= changes(client, second)[-1]["at"]


def test_retry_when_a_job_outside_needs_the_step_then_both_run_again(client: stoker.Client) -> None:
    step = send(client, flow({"a": {**shell("exit 1"), "max_attempts": 1}}))["steps"]["a"]
    behind = submit(client, shell("exit 0"), needs=[step])
    assert end_of(client, behind) == ("skipped", "dependency")

    client.retry(step)

    assert end_of(client, step) == ("failed", "exit")
    assert end_of(client, behind) == ("skipped", "dependency")
    assert len(changes(client, behind, "reset")) == 1


def test_retry_when_another_need_still_failed_then_the_dependent_stays_skipped(client: stoker.Client) -> None:
    first, other = submit(client, FAILS), submit(client, FAILS)
    job = submit(client, OK, needs=[first, other])
    client.wait(first, other, job)

    assert client.retry(first)["taken_up"] == []

    assert end_of(client, first) == ("failed", "exit")
    assert state(client, job) == "skipped"


def test_skip_when_dependents_were_skipped_for_it_then_they_run(client: stoker.Client) -> None:
    first = submit(client, FAILS)
    second, third = chain(client, first)
    assert end_of(client, third) == ("skipped", "dependency")

    standing = client.call("job.skip", {"id": first})

    assert standing["taken_up"] == [second, third]
    assert end_of(client, third) == ("succeeded", "exit")


def test_retry_when_a_handler_was_not_needed_then_it_waits_for_the_new_end(client: stoker.Client, gate: Gate) -> None:
    work = submit(client, gate.spec("[ $STOKER_ATTEMPT = 1 ]"))
    handler = submit(client, OK, needs=[{"job": work, "on": "failed"}])
    after = submit(client, OK, needs=[handler])
    gate.open()
    assert end_of(client, after) == ("skipped", "not_needed")

    assert client.retry(work)["taken_up"] == [handler, after]

    assert end_of(client, work) == ("failed", "exit")
    assert end_of(client, after) == ("succeeded", "exit")


def test_release_when_a_need_of_a_held_job_is_open_then_it_waits_for_it(client: stoker.Client, gate: Gate) -> None:
    needed = submit(client, gate.spec())
    job = submit(client, OK, needs=[needed])
    client.call("job.hold", {"id": job})

    assert client.call("job.release", {"id": job})["state"] == "waiting"

    running(client, needed)
    assert state(client, job) == "waiting"
    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")


def test_retry_when_one_need_failed_and_one_is_open_then_only_the_open_one_counts(
    client: stoker.Client, gate: Gate
) -> None:
    failed, pending = submit(client, FAILS), submit(client, gate.spec())
    job = submit(client, OK, needs=[failed, pending])
    assert end_of(client, job) == ("skipped", "dependency")

    assert client.retry(job)["state"] == "waiting"

    gate.open()
    assert end_of(client, job) == ("succeeded", "exit")


def test_retry_when_a_dependent_is_overdue_then_it_stays_skipped(client: stoker.Client) -> None:
    for in_ms in scales(1_500):
        first = submit(client, FAILS)
        deadline = int(time.time() * 1000) + in_ms
        with contextlib.suppress(InvalidParams):  # it has passed already
            job = submit(client, OK, needs=[first], deadline=deadline)
            if end_of(client, job) == ("skipped", "dependency"):
                break
    until(lambda: time.time() * 1000 > deadline)

    assert client.retry(first)["taken_up"] == []
