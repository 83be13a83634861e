"""Why a job does not run: one code, one sentence and one next command for every blocker."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stoker.core.explain import explain
from stoker.core.job.model import (
    Job,
    Need,
    Queue,
    QueueClass,
    Reason,
    State,
    StopReason,
)
from stoker.core.job.run_if import RunIf
from stoker.core.job_facts import Blocker, JobFacts, RateWait
from stoker.core.shortage import Shortage
from stoker.core.standstill import Standstill, Wait
from stoker.core.workflow.state import Intent
from tests.support.jobs import NOW, attempt, job, running, spec

LOW = Queue(name="bulk", queue_class=QueueClass.LOW)


def why(of: Job, **around: Any) -> Blocker:
    return explain(of, JobFacts(**({"now": NOW, "queue": Queue(name="bulk")} | around)))


def test_why_when_needs_are_open_then_it_names_them() -> None:
    blocker = why(job(State.WAITING, needs_open=2), open_needs=[3, 4])

    assert blocker == Blocker("needs", "waits for jobs 3, 4 to end", "stoker why 3", {"needs": [3, 4]})


def test_why_when_a_handler_waits_then_it_is_for_the_steps_of_its_workflow() -> None:
    waiting = replace(job(State.WAITING, needs_open=1), workflow_id=7)

    blocker = why(waiting, open_needs=[waiting.id])

    assert blocker.message == "is a handler of workflow 7: waits until the steps before it have ended"
    assert (blocker.hint, blocker.details) == ("stoker workflow show 7", {"workflow": 7})


def test_why_when_a_need_was_harmlessly_unmet_then_it_says_what_the_others_decide() -> None:
    blocker = why(job(State.WAITING, needs_open=1, not_needed=True), open_needs=[3])

    assert blocker.message == (
        "waits for job 3 to end; if none of them fails it is skipped (not_needed), as another need of it ended so"
    )


def test_why_when_many_needs_are_open_then_the_sentence_stays_short() -> None:
    blocker = why(job(State.WAITING, needs_open=9), open_needs=range(11, 20))

    assert blocker.message == "waits for jobs 11, 12, 13, 14, 15 and 4 more to end"
    assert blocker.details == {"needs": list(range(11, 20))}


def test_why_when_a_rate_has_no_token_then_it_says_when_the_next_start_comes() -> None:
    key, queue = {"rate_key 'api'": RateWait("10/s", 90)}, {"queue 'bulk'": RateWait("1/m", 30_000)}

    one, both = why(job(), rates=key), why(job(), rates=key | queue, ahead=2)

    assert (one.code, one.hint) == ("rate", "stoker rate ls")
    assert one.message == "rate_key 'api' may start 10/s; the next start is in 0.09s"
    assert one.details == {"rate": "10/s", "next_token_in_ms": 90, "ahead": 0}
    assert both.message == "queue 'bulk' may start 1/m; the next start is in 30.0s; 2 jobs of its queue before it"
    assert both.hint == "stoker queue ls"


def test_why_when_its_queue_is_narrowed_then_it_names_the_limit_and_the_cause() -> None:
    around = {"queue_running": 3, "narrowed": 3, "running": 3, "slots": 9}

    busy, calm = why(job(), throttled_by=["cpu"], **around), why(job(), **around)

    assert (busy.code, busy.details) == ("throttled", {"limit": 3, "causes": ["cpu"]})
    assert busy.message == "queue 'bulk' runs 3 jobs; its limit is 3 while the host is busy (cpu)"
    assert calm.message.endswith("(until a moment ago)")
    assert why(job(), **(around | {"queue_running": 2})).code == "slot"


def test_why_when_an_older_job_of_its_key_runs_then_it_says_why_it_waits_for_it() -> None:
    of_key = job(State.WAITING, asked=spec(supersede_key="k", needs=(Need(2),)), needs_open=2)

    assert why(of_key, open_needs=[2, 3]).message == (
        "waits for jobs 2, 3 to end; jobs of one supersede_key run one after the other"
    )
    assert why(of_key, open_needs=[2]).message == "waits for job 2 to end"


def test_why_when_a_job_is_debounced_then_it_says_until_when() -> None:
    of = job(State.WAITING, asked=spec(supersede_key="k", debounce_ms=9_000), wake_at=NOW.steady + 2_000)

    blocker = why(of)

    assert blocker.code == "run_at"
    assert blocker.message == "starts in 2.00s, unless a newer job of its supersede_key takes its place (debounce_ms)"
    assert blocker.details == {"wake_in_ms": 2_000, "debounce_ms": 9_000}

    bounded = why(replace(of, debounce_by=NOW.steady + 5_000))

    assert bounded.message == f"{blocker.message}; at the latest it starts in 5.00s"
    assert bounded.details["latest_in_ms"] == 5_000


def test_why_when_a_superseded_job_runs_then_it_names_the_next_event() -> None:
    of, live = running(superseded_by=9, pid=5)

    assert why(of, attempt=live).message == "is running (attempt 1, pid 5); job 9 takes its place after this attempt"


def test_why_when_the_last_need_ended_this_moment_then_there_is_no_job_to_look_at() -> None:
    assert why(job(State.WAITING, needs_open=1)).hint is None


def test_why_when_a_backoff_runs_then_it_says_how_long_and_how_often() -> None:
    blocker = why(job(State.WAITING, asked=spec(max_attempts=3), failures=1, wake_at=NOW.steady + 1_500))

    assert (blocker.code, blocker.hint) == ("backoff", "stoker logs 7")
    assert blocker.message == "failed 1 of 3 times; the next try is in 1.50s"
    assert blocker.details == {"wake_in_ms": 1_500, "failures": 1}


def test_why_when_the_last_run_saved_and_went_at_once_then_that_is_explained() -> None:
    asked = spec(checkpoint_exit_code=75)

    blocker = why(job(State.WAITING, asked=asked, exit_code=75, wake_at=NOW.steady + 600))

    assert blocker.message == "saved its state and asked to be run again (exit 75); the next try is in 0.60s"


def test_why_when_a_restart_could_not_be_proven_then_it_does_not_deny_a_signal() -> None:
    of = job(State.HELD, reason=Reason.STUCK, attempts=1)

    blocker = why(of, attempt=attempt(of, stop_reason=StopReason.RESTART))

    assert blocker.message == "was to be restarted, but its last worker cannot be proven gone"


def test_why_when_a_worker_is_silent_then_it_says_since_when_and_when_it_is_stopped() -> None:
    of = job(State.RUNNING, asked=spec(heartbeat_ms=1_000), attempts=2, pid=9)

    blocker = why(of, attempt=attempt(of), unheard_ms=60_000)

    assert (blocker.code, blocker.details) == ("unresponsive", {"silent_ms": 60_000})
    assert blocker.message == (
        "is running (attempt 2, pid 9) and has given no sign of life for 1m00s; it is stopped in 2m00s"
    )


@pytest.mark.parametrize("run_at", [None, NOW.wall - 1])
def test_why_when_a_backoff_has_just_ended_then_it_is_not_taken_for_a_start_time(run_at: int | None) -> None:
    blocker = why(job(State.WAITING, asked=spec(max_attempts=3, run_at=run_at), failures=1, wake_at=NOW.steady))

    assert (blocker.code, blocker.message) == ("backoff", "failed 1 of 3 times; the next try is now")
    assert blocker.details == {"wake_in_ms": 0, "failures": 1}


def test_why_when_the_start_time_has_just_come_then_it_is_now() -> None:
    blocker = why(job(State.WAITING, asked=spec(run_at=NOW.wall)))

    assert (blocker.code, blocker.message) == ("run_at", "was asked to start now")


@pytest.mark.parametrize("wake_at", [None, NOW.steady])
def test_why_when_run_at_is_ahead_then_it_says_when(wake_at: int | None) -> None:
    blocker = why(job(State.WAITING, asked=spec(run_at=NOW.wall + 60_000), wake_at=wake_at))

    assert (blocker.code, blocker.message) == ("run_at", "was asked to start in 1m00s")
    assert blocker.details == {"run_at": NOW.wall + 60_000}


# Each case also has all blockers of the rows behind it: the first one is explained.
QUEUED: list[tuple[str, dict[str, Any], str]] = [
    ("slot", {}, "may start at any moment"),
    ("slot", {"running": 4, "slots": 4, "ahead": 2}, "all 4 slots are taken; 2 jobs of its queue before it"),
    ("resource", {"free": {"gpu": 0}}, "needs 1 of resource 'gpu', 0 free"),
    ("quota", {"user_running": 3, "user_most": 3}, "uid 1000 runs 3 jobs, and its limit max_running is 3"),
    ("queue_full", {"queue_running": 2}, "queue 'bulk' runs 2 jobs, its limit max_running"),
    (
        "throttled",
        {"throttled_by": ["cpu", "memory"]},
        "queue 'bulk' is of class low, and the host is busy (cpu, memory)",
    ),
    ("queue_paused", {"queue": Queue(name="bulk", paused=True, max_running=2)}, "queue 'bulk' is paused"),
    ("slot", {"closed": "draining"}, "the daemon starts nothing now: draining"),
]


@pytest.mark.parametrize("depth", range(len(QUEUED)))
def test_why_when_a_queued_job_is_blocked_then_the_first_blocker_is_explained(depth: int) -> None:
    code, _, message = QUEUED[depth]
    around: dict[str, Any] = {
        "queue": Queue(name="bulk", queue_class=QueueClass.LOW, max_running=2),
        "free": {"gpu": 1},
        "capacity": {"gpu": 1},
    }
    for _, more, _ in QUEUED[: depth + 1]:
        around |= more

    blocker = why(job(asked=spec(queue="bulk", resources={"gpu": 1})), **around)

    assert (blocker.code, blocker.message) == (code, message)
    assert blocker.hint is not None or message == "may start at any moment"


@pytest.mark.parametrize("queue_class", [QueueClass.NORMAL, QueueClass.HIGH])
def test_why_when_the_host_is_busy_then_only_low_queues_blame_it(queue_class: QueueClass) -> None:
    blocker = why(job(), queue=Queue(name="bulk", queue_class=queue_class), throttled_by=["cpu"])

    assert blocker.code == "slot"


@pytest.mark.parametrize(
    ("intent", "ending", "hint"),
    [
        (Intent.PAUSE, "is paused", "stoker workflow resume 3"),
        (Intent.ROLLBACK, "is being rolled back", "stoker workflow show 3"),
        (Intent.CANCEL, "is being cancelled", "stoker workflow show 3"),
        (Intent.ABORT, "is being ended because of a failure or a limit", "stoker workflow show 3"),
    ],
)
def test_why_when_the_workflow_starts_nothing_then_its_step_names_the_workflow(
    intent: Intent, ending: str, hint: str
) -> None:
    blocker = why(job(State.QUEUED, workflow_id=3, step="link"), intent=intent, queue=Queue(name="bulk", paused=True))

    assert (blocker.code, blocker.hint) == ("workflow_paused", hint)
    assert blocker.message == f"workflow 3, of which it is step 'link', {ending}"


def test_why_when_a_queue_is_at_its_limit_then_the_hint_raises_it_by_one() -> None:
    blocker = why(job(), queue=Queue(name="bulk", max_running=2), queue_running=2)

    assert blocker.hint == "stoker queue set bulk --max-running 3"


def test_why_when_a_resource_is_held_then_it_names_the_holders() -> None:
    of = job(asked=spec(resources={"cpu": 1, "gpu": 2}))

    blocker = why(of, capacity={"cpu": 5, "gpu": 2}, free={"cpu": 5, "gpu": -1}, holders={"gpu": [8, 9]})

    assert blocker.message == "needs 2 of resource 'gpu', 0 free, held by jobs 8, 9"
    assert blocker.hint == "stoker show 8"
    assert blocker.details == {
        "resource": "gpu",
        "wanted": 2,
        "capacity": 2,
        "free": -1,
        "holders": [8, 9],
        "reserved": False,
    }


def test_why_when_a_resource_is_kept_for_a_blocked_job_then_both_jobs_show_it() -> None:
    first, other = job(id=3, asked=spec(resources={"gpu": 2})), job(id=4, asked=spec(resources={"gpu": 1}))
    facts = {"capacity": {"gpu": 2}, "free": {"gpu": 1}, "holders": {"gpu": [8]}, "reserved": {3: {"gpu": 2}}}

    kept, passed = why(first, **facts), why(other, **facts)

    assert kept.message == (
        "needs 2 of resource 'gpu', 1 free, held by job 8; it is next: units that become free are kept for it"
    )
    assert (passed.code, passed.hint) == ("resource", "stoker why 3")
    assert passed.message == "needs 1 of resource 'gpu'; 1 free, set aside for job 3, which goes first"
    assert passed.details["set_aside_for"] == [3]


def test_why_when_there_is_less_of_a_resource_than_is_asked_then_no_holder_is_blamed() -> None:
    of = job(asked=spec(resources={"gpu": 2}))

    blocker = why(of, capacity={"gpu": 1}, free={"gpu": 0}, holders={"gpu": [8]})

    assert blocker.message == "needs 2 of resource 'gpu', and its capacity is 1"
    assert blocker.hint == "stoker resource set gpu 2"


def test_why_when_no_job_holds_a_resource_then_the_hint_makes_it_larger() -> None:
    assert why(job(asked=spec(resources={"gpu": 2})), free={}).hint == "stoker resource set gpu 2"


def test_why_when_jobs_of_other_users_are_in_the_way_then_they_are_counted() -> None:
    hidden = frozenset({7, 8, 9})
    one = job(id=4, asked=spec(resources={"gpu": 1}))
    facts = {"capacity": {"gpu": 2}, "free": {"gpu": 0}, "hidden": hidden}

    some = why(one, holders={"gpu": [3, 8, 9]}, **facts)
    none = why(one, holders={"gpu": [8]}, **facts)
    kept = why(one, capacity={"gpu": 2}, free={"gpu": 1}, reserved={7: {"gpu": 2}}, hidden=hidden)

    assert some.message == "needs 1 of resource 'gpu', 0 free, held by job 3 and 2 jobs of other users"
    assert (some.details["holders"], some.details["others"], some.hint) == ([3], 2, "stoker show 3")
    assert none.message == "needs 1 of resource 'gpu', 0 free, held by 1 job of other users"
    assert (none.details["holders"], none.hint) == ([], "stoker resource ls")
    assert kept.message == "needs 1 of resource 'gpu'; 1 free, set aside for 1 job of other users, which goes first"
    assert (kept.details["set_aside_for"], kept.hint) == ([], "stoker resource ls")


def test_why_when_a_standstill_has_jobs_of_other_users_then_none_is_named() -> None:
    found = Standstill("bulk", {3: [Wait(jobs=(9,))]})
    full = {"queue": Queue(name="bulk", max_running=1), "queue_running": 1, "standstill": found}

    own, others = why(job(), **full), why(job(), **full, hidden=frozenset({9}))

    assert "job 3 waits for job 9" in own.message
    assert others.message == "all running jobs of queue 'bulk' (1) wait for jobs that are queued behind them"
    assert others.details == {"queue": "bulk", "waits": []}


def test_why_when_the_job_runs_then_that_is_the_answer() -> None:
    of = job(State.RUNNING, attempts=2, pid=44)

    assert why(of, attempt=attempt(of)).message == "is running (attempt 2, pid 44)"
    assert why(of).code == "running"


def test_why_when_its_launcher_does_not_answer_then_it_says_which() -> None:
    of, run = job(State.RUNNING, attempts=2), attempt(launcher="3-beef")
    stopped = attempt(launcher="3-beef", stop_reason=StopReason.CANCEL)

    running, stopping = why(of, attempt=run, silent=True), why(of, attempt=stopped, silent=True)

    assert running.message == "is running (attempt 2) as far as is known: its launcher 3-beef lives and does not answer"
    assert stopping.message == "is being stopped (cancel); its launcher 3-beef lives and does not answer"


def test_why_when_no_signal_can_reach_the_worker_then_that_is_explained() -> None:
    blocker = why(job(State.RUNNING, pid=44), attempt=attempt(stop_reason=StopReason.TIMEOUT), asleep=True)

    assert blocker.message.startswith(
        "is being stopped (timeout); pid 44 sleeps in the kernel where no signal reaches it"
    )


def test_why_when_the_job_is_being_stopped_then_reason_and_limit_are_named() -> None:
    of = job(State.RUNNING, attempts=1, asked=spec(timeout_ms=20_000))

    blocker = why(of, attempt=attempt(of, stop_reason=StopReason.TIMEOUT))

    assert (blocker.code, blocker.details) == ("stopping", {"stop_reason": "timeout"})
    assert blocker.message.startswith("is being stopped (timeout, 20s an attempt); ")


def test_why_when_the_host_lets_nothing_start_then_that_blocks_a_queued_job() -> None:
    shortage = Shortage(rounds=2, error="true: Cannot allocate memory", try_at=NOW.steady + 4_000)

    blocker = why(job(State.QUEUED), shortage=shortage)

    assert (blocker.code, blocker.hint) == ("host", "stoker status")
    assert blocker.message == "the host cannot start a process (true: Cannot allocate memory); the next try is in 4.00s"


def test_why_when_one_start_failed_then_the_host_is_not_blamed_for_others() -> None:
    assert why(job(State.QUEUED), shortage=Shortage(rounds=1, error="Text file busy")).code == "slot"


def test_why_when_the_worker_is_frozen_then_that_and_its_cause_are_explained() -> None:
    of, live = running()
    blocker = why(of, attempt=live, frozen=True, throttled_by=("cpu",))

    assert blocker.code == "throttled"
    assert "is frozen" in blocker.message
    assert blocker.message.endswith("is of class low, and the host is busy (cpu)")


def test_why_when_a_worker_became_another_user_then_process_and_command_are_named() -> None:
    of, open_attempt = running(stop_reason=StopReason.CANCEL)

    blocker = why(of, attempt=open_attempt, unstoppable=[41])

    assert (blocker.code, blocker.hint, blocker.details["unstoppable"]) == ("stopping", "sudo kill 41", [41])
    assert "pid 41 became another user" in blocker.message


def test_why_when_a_running_job_is_frozen_then_that_and_the_reason_are_explained() -> None:
    of, open_attempt = running()

    blocker = why(of, attempt=open_attempt, frozen=True, throttled_by=["cpu"])

    assert (blocker.code, blocker.details) == ("throttled", {"frozen": True})
    assert "is frozen" in blocker.message
    assert "(cpu)" in blocker.message


def test_why_when_a_job_left_no_checkpoint_for_long_then_it_says_for_how_long() -> None:
    of, open_attempt = running()

    blocker = why(of, attempt=open_attempt, stale_ms=60_000)

    assert (blocker.code, blocker.details) == ("running", {"stale_ms": 60_000})
    assert "has left no checkpoint for" in blocker.message


def test_why_when_an_if_is_being_decided_then_its_text_is_shown() -> None:
    of = job(State.WAITING, asked=spec(run_if=RunIf(text="1 < 2")), undecided=True)

    blocker = why(of)

    assert (blocker.code, blocker.details) == ("condition", {"if": "1 < 2"})
    assert blocker.message == "its needs have ended, and its `if` is being decided: 1 < 2"


@pytest.mark.parametrize(
    ("name", "holders", "message"),
    [
        ("w7/", [3, 4], "at most 2 steps of workflow 7 run at once: jobs 3, 4"),
        ("w7/compile", [], "at most 2 steps of 'compile' run at once"),
    ],
)
def test_why_when_its_workflow_limits_what_runs_at_once_then_the_sentence_says_it(
    name: str, holders: list[int], message: str
) -> None:
    waiting = replace(job(State.QUEUED, asked=spec(resources={name: 1})), workflow_id=7)

    blocker = why(waiting, free={}, capacity={name: 2}, holders={name: holders})

    assert (blocker.code, blocker.message, blocker.hint) == ("width", message, "stoker workflow show 7")


def test_why_when_another_workflow_of_its_key_goes_first_then_the_sentence_names_it() -> None:
    waiting = replace(job(State.QUEUED), workflow_id=7, step="a")

    blocker = why(waiting, goes_after=[3, 4])

    assert blocker.message == "workflow 7, of which it is step 'a', runs after workflow 3 of the same key"
    assert (blocker.code, blocker.hint) == ("workflow_waits", "stoker workflow show 3")
