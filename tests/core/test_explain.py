"""Why a job does not run: one code, one sentence and one next command for every blocker."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.core.explain import Blocker, Scene, explain
from stoker.core.job.limits import Bounds, Limits
from stoker.core.job.model import (
    FINAL,
    Identity,
    Job,
    Need,
    NeedOn,
    Outcome,
    OutcomeKind,
    Queue,
    QueueClass,
    Reason,
    State,
    StopReason,
)
from stoker.core.shortage import Shortage
from stoker.core.workflow.state import Intent
from tests.support.jobs import NOW, attempt, exited, job, running, spec

LOW = Queue(name="bulk", queue_class=QueueClass.LOW)


def why(of: Job, **around: Any) -> Blocker:
    return explain(of, Scene(**({"now": NOW, "queue": Queue(name="bulk")} | around)))


def test_why_when_needs_are_open_then_it_names_them() -> None:
    blocker = why(job(State.WAITING, needs_open=2), open_needs=[3, 4])

    assert blocker == Blocker("needs", "waits for jobs 3, 4 to end", "stoker why 3", {"needs": [3, 4]})


def test_why_when_many_needs_are_open_then_the_sentence_stays_short() -> None:
    blocker = why(job(State.WAITING, needs_open=9), open_needs=range(1, 10))

    assert blocker.message == "waits for jobs 1, 2, 3, 4, 5 and 4 more to end"
    assert blocker.details == {"needs": list(range(1, 10))}


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


def test_why_when_a_job_was_superseded_then_it_names_the_newer_one() -> None:
    blocker = why(job(State.SUPERSEDED, reason=Reason.SUPERSEDED, superseded_by=9))

    assert (blocker.message, blocker.hint) == ("was superseded by job 9, which is newer", "stoker why 9")
    assert blocker.details == {"reason": "superseded", "superseded_by": 9}


def test_why_when_a_superseded_job_runs_then_it_says_what_follows() -> None:
    of, live = running(superseded_by=9, pid=5)

    assert why(of, attempt=live).message == "is running (attempt 1, pid 5); job 9 takes its place after this attempt"


def test_why_when_the_last_need_ended_this_moment_then_there_is_no_job_to_look_at() -> None:
    assert why(job(State.WAITING, needs_open=1)).hint is None


def test_why_when_a_backoff_runs_then_it_says_how_long_and_how_often() -> None:
    blocker = why(job(State.WAITING, asked=spec(max_attempts=3), failures=1, wake_at=NOW.steady + 1_500))

    assert (blocker.code, blocker.hint) == ("backoff", "stoker logs 7")
    assert blocker.message == "failed 1 of 3 times; the next try is in 1.50s"
    assert blocker.details == {"wake_in_ms": 1_500, "failures": 1}


def test_why_when_the_last_run_saved_and_went_at_once_then_it_says_so() -> None:
    asked = spec(checkpoint_exit_code=75)

    blocker = why(job(State.WAITING, asked=asked, exit_code=75, wake_at=NOW.steady + 600))

    assert blocker.message == "saved its state and asked to be run again (exit 75); the next try is in 0.60s"


def test_why_when_a_restart_could_not_be_proven_then_it_does_not_deny_a_signal() -> None:
    of = job(State.HELD, reason=Reason.STUCK, attempts=1)

    blocker = why(of, attempt=attempt(of, stop_reason=StopReason.RESTART))

    assert blocker.message == "was to be restarted, but its last worker cannot be proven gone"


def test_why_when_a_worker_is_silent_then_it_says_since_when_and_what_follows() -> None:
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


# Each scene blocks by everything that stands behind it too: the first no is the one that is told.
QUEUED: list[tuple[str, dict[str, Any], str]] = [
    ("slot", {}, "may start at any moment"),
    ("slot", {"running": 4, "slots": 4, "ahead": 2}, "all 4 slots are taken; 2 jobs of its queue before it"),
    ("resource", {"free": {"gpu": 0}}, "needs 1 of resource 'gpu', 0 free"),
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
def test_why_when_a_queued_job_is_blocked_then_the_first_no_of_the_daemon_is_told(depth: int) -> None:
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
    ],
)
def test_why_when_the_workflow_starts_nothing_then_its_step_says_so(intent: Intent, ending: str, hint: str) -> None:
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


def test_why_when_a_resource_is_kept_for_a_blocked_job_then_both_sides_say_so() -> None:
    first, other = job(id=3, asked=spec(resources={"gpu": 2})), job(id=4, asked=spec(resources={"gpu": 1}))
    scene = {"capacity": {"gpu": 2}, "free": {"gpu": 1}, "holders": {"gpu": [8]}, "reserved": {3: {"gpu": 2}}}

    kept, passed = why(first, **scene), why(other, **scene)

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


def test_why_when_nobody_holds_a_resource_then_the_hint_makes_it_larger() -> None:
    assert why(job(asked=spec(resources={"gpu": 2})), free={}).hint == "stoker resource set gpu 2"


def test_why_when_the_job_runs_then_it_says_so() -> None:
    of = job(State.RUNNING, attempts=2, pid=44)

    assert why(of, attempt=attempt(of)).message == "is running (attempt 2, pid 44)"
    assert why(of).code == "running"


def test_why_when_its_launcher_does_not_answer_then_it_says_which() -> None:
    of, run = job(State.RUNNING, attempts=2), attempt(launcher="3-beef")
    stopped = attempt(launcher="3-beef", stop_reason=StopReason.CANCEL)

    running, stopping = why(of, attempt=run, silent=True), why(of, attempt=stopped, silent=True)

    assert running.message == "is running (attempt 2) as far as is known: its launcher 3-beef lives and does not answer"
    assert stopping.message == "is being stopped (cancel); its launcher 3-beef lives and does not answer"


def test_why_when_its_worker_cannot_be_reached_by_any_signal_then_it_says_so() -> None:
    blocker = why(job(State.RUNNING, pid=44), attempt=attempt(stop_reason=StopReason.TIMEOUT), asleep=True)

    assert blocker.message.startswith(
        "is being stopped (timeout); pid 44 sleeps in the kernel where no signal reaches it"
    )


def test_why_when_the_job_is_being_stopped_then_it_names_the_reason() -> None:
    of = job(State.RUNNING, attempts=1)

    blocker = why(of, attempt=attempt(of, stop_reason=StopReason.TIMEOUT))

    assert (blocker.code, blocker.details) == ("stopping", {"stop_reason": "timeout"})


HELD_FOR = [Reason.USER, Reason.POISON, Reason.STUCK, Reason.ORPHANED, Reason.LOST, Reason.SHUTDOWN]


@pytest.mark.parametrize("reason", HELD_FOR)
def test_why_when_a_job_is_held_then_each_reason_has_its_own_sentence(reason: Reason) -> None:
    blocker = why(job(State.HELD, reason=reason))

    assert (blocker.code, blocker.details) == ("held", {"reason": reason})
    assert blocker.hint == "stoker release 7, or stoker cancel 7"
    assert blocker.message != "waits for a person"


def test_why_when_jobs_are_held_then_no_two_reasons_sound_the_same() -> None:
    assert len({why(job(State.HELD, reason=reason)).message for reason in HELD_FOR}) == len(HELD_FOR)


def test_why_when_a_held_orphan_was_stopped_by_us_then_its_end_is_not_unseen() -> None:
    of = job(State.HELD, reason=Reason.ORPHANED)

    by_us, unseen = (
        why(of, ended=attempt(of, stop_reason=reason)).message for reason in (StopReason.ORPHANED, StopReason.TIMEOUT)
    )

    assert by_us == "ran while no daemon was there and was stopped for that, so a person must decide"
    assert unseen == "had an unseen end, so a person must decide"


@pytest.mark.parametrize(
    ("fields", "how"),
    [
        ({"reason": Reason.EXIT, "exit_code": 3}, "ended (exit 3)"),
        ({"reason": Reason.SIGNAL, "signal": 9}, "ended (signal 9)"),
        ({"reason": Reason.OOM}, "ended (oom)"),
    ],
)
def test_why_when_a_stuck_attempt_has_ended_then_it_says_how(fields: dict[str, Any], how: str) -> None:
    blocker = why(job(State.HELD, **fields))

    assert blocker.message == f"{how} while its worker could not be proven, so a person must decide"
    assert blocker.hint == "stoker release 7, or stoker cancel 7"


def test_why_when_a_held_job_may_live_then_no_verb_is_offered_that_is_refused() -> None:
    of = job(State.HELD, reason=Reason.STUCK, attempts=1)
    identity = Identity(pid=44, start_ticks=1, boot_id="b", pid_namespace=1)

    blocker = why(of, attempt=attempt(of, identity=identity))

    assert blocker.message.endswith("; look at pid 44")
    assert blocker.hint == "stoker show 7"
    assert "pid" not in why(of, attempt=attempt(of)).message


@pytest.mark.parametrize("state", sorted(FINAL))
def test_why_when_a_job_has_ended_then_it_says_how_and_offers_a_sensible_retry(state: State) -> None:
    blocker = why(job(state))

    ended = state.value if state in (State.SUCCEEDED, State.FAILED, State.EXPIRED) else f"was {state.value}"
    assert (blocker.code, blocker.message) == ("final", f"{ended} by a person")
    hints = {State.SKIPPED: "stoker history 7", State.SUCCEEDED: None, State.SUPERSEDED: None}
    assert blocker.hint == hints.get(state, "stoker retry 7")


def test_why_when_a_step_was_skipped_then_a_resume_strategy_may_have_done_it() -> None:
    blocker = why(job(State.SKIPPED, reason=Reason.USER, workflow_id=3, step="a"))

    assert blocker.message == "was skipped by a person or by a resume strategy"


def test_why_when_a_need_could_not_be_met_then_what_was_needed_is_named() -> None:
    few, many = ([Need(job_id, NeedOn.FAILED) for job_id in range(1, last)] for last in (3, 9))

    blockers = [
        why(job(State.SKIPPED, asked=spec(needs=tuple(needs)), reason=Reason.DEPENDENCY)) for needs in (few, many, ())
    ]

    skipped = "was skipped (dependency)"
    assert [one.message for one in blockers] == [
        f"{skipped}: it needed jobs 1 (failed), 2 (failed)",
        f"{skipped}: it needed jobs 1 (failed), 2 (failed), 3 (failed), 4 (failed), 5 (failed) and 3 more",
        "was skipped: a job it needs can no longer end as needed",
    ]
    assert [one.hint for one in blockers] == ["stoker why 1", "stoker why 1", None]


def test_why_when_some_needs_are_unmet_then_they_are_named_and_the_first_is_hinted() -> None:
    needs = tuple(Need(job_id) for job_id in range(16, 23))

    blocker = why(job(State.SKIPPED, asked=spec(needs=needs), reason=Reason.DEPENDENCY), unmet=[22])

    assert (blocker.message, blocker.hint) == ("was skipped (dependency): it needed job 22 (ok)", "stoker why 22")
    assert blocker.details["needs"] == list(range(16, 23))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reason": Reason.EXIT, "exit_code": 3}, "failed: exited with 3 (success codes: 0)"),
        ({"reason": Reason.EXIT}, "failed (exit)"),
        ({"reason": Reason.SIGNAL, "signal": 9}, "failed: signal 9 (SIGKILL)"),
        ({"reason": Reason.SIGNAL}, "failed (signal)"),
        ({"reason": Reason.TIMEOUT, "signal": 9}, "failed: stopped at its time limit (timeout)"),
        ({"reason": None}, "failed"),
        (
            {"reason": Reason.TIMEOUT, "asked": spec(timeout_ms=90_000)},
            "failed: stopped at its time limit (timeout), 90s an attempt",
        ),
        (
            {"reason": Reason.DEADLINE, "asked": spec(deadline=1_796_112_000_000)},
            "failed: its deadline passed, 2026-12-01T08:00:00Z",
        ),
        ({"reason": Reason.TTL}, "failed: did not start within its time to live (ttl)"),
        (
            {"reason": Reason.TTL, "asked": spec(ttl_ms=5_000)},
            "failed: did not start within its time to live (ttl), 5s",
        ),
    ],
)
def test_why_when_a_job_failed_then_its_code_is_told(fields: dict[str, Any], message: str) -> None:
    assert why(job(State.FAILED, **fields)).message == message


@pytest.mark.parametrize("ordinal", [None, 1])
def test_why_when_the_last_attempt_of_a_lost_job_is_missing_then_it_says_so(ordinal: int | None) -> None:
    ended = ordinal and attempt(ordinal=ordinal, outcome=exited(1), ended_at=1)

    message = why(job(State.HELD, reason=Reason.LOST, attempts=2), ended=ended).message

    assert message == "was lost: the database has no attempt 2 of it, as if it was damaged or restored in part"


@pytest.mark.parametrize(
    ("reason", "outcome", "message"),
    [
        (
            Reason.EXIT,
            Outcome(kind=OutcomeKind.EXCEPTION, error="Traceback:\n  a line\nValueError: no\n"),
            "failed: ValueError: no",
        ),
        (
            Reason.SPAWN_ERROR,
            Outcome(kind=OutcomeKind.SPAWN_ERROR, error="no such file\n(hint)"),
            "failed: the command could not be executed: no such file",
        ),
        (
            Reason.OUTPUT,
            Outcome(kind=OutcomeKind.EXIT, exit_code=0, error="STOKER_OUTPUT: line 2: not key=value: 'x'"),
            "failed: its output for other steps could not be read: STOKER_OUTPUT: line 2: not key=value: 'x'",
        ),
        (Reason.EXIT, Outcome(kind=OutcomeKind.EXIT, exit_code=1, error="last words"), "failed (exit)"),
        (Reason.EXIT, Outcome(kind=OutcomeKind.EXCEPTION), "failed (exit)"),
    ],
)
def test_why_when_an_attempt_ended_with_an_error_then_it_is_told(
    reason: Reason, outcome: Outcome, message: str
) -> None:
    ended = attempt(outcome=outcome, ended_at=1)

    assert why(job(State.FAILED, reason=reason), ended=ended).message == message


def test_why_when_outputs_cannot_be_taken_then_the_hint_names_file_forms_and_retry() -> None:
    hint = why(job(State.FAILED, reason=Reason.OUTPUT)).hint

    assert hint == (
        "let the job write to $STOKER_OUTPUT lines KEY=VALUE, blocks that begin with KEY<<END and end with a line END, "
        "or JSON objects; then: stoker retry 7"
    )


# --- limits that may have been the end ------------------------------------------------------------------------


def test_why_when_the_last_end_may_be_due_to_a_limit_then_it_says_so() -> None:
    bounds = Bounds(rlimit=Limits(memory_bytes=1))
    ended = attempt(bounds=bounds, outcome=exited(1), ended_at=1)
    messages = [
        why(job(State.FAILED, reason=Reason.EXIT, exit_code=1), ended=ended).message,
        why(job(State.WAITING, asked=spec(max_attempts=3), failures=1, wake_at=NOW.steady + 1), ended=ended).message,
    ]

    assert all(message.endswith("; a limit may be the cause, see its log: memory") for message in messages)


def test_why_when_a_person_ended_the_job_then_no_limit_is_suspected() -> None:
    ended = attempt(bounds=Bounds(rlimit=Limits(memory_bytes=1)), outcome=exited(1), ended_at=1)

    assert "limit" not in why(job(State.CANCELLED, reason=Reason.USER), ended=ended).message


def test_why_when_the_host_lets_nothing_start_then_that_blocks_a_queued_job() -> None:
    shortage = Shortage(rounds=2, error="true: Cannot allocate memory", try_at=NOW.steady + 4_000)

    blocker = why(job(State.QUEUED), shortage=shortage)

    assert (blocker.code, blocker.hint) == ("host", "stoker status")
    assert blocker.message == "the host cannot start a process (true: Cannot allocate memory); the next try is in 4.00s"


def test_why_when_one_start_failed_then_the_host_is_not_blamed_for_others() -> None:
    assert why(job(State.QUEUED), shortage=Shortage(rounds=1, error="Text file busy")).code == "slot"


def test_why_when_the_host_could_not_start_a_job_then_no_failure_is_reported() -> None:
    end = Outcome(kind=OutcomeKind.NEVER_STARTED, error="a: Text file busy", ended_at=1)

    blocker = why(job(State.WAITING, wake_at=NOW.steady + 2_000), ended=attempt(outcome=end, ended_at=1))

    assert blocker.code == "host"
    assert "a: Text file busy" in blocker.message


def test_why_when_the_worker_is_frozen_then_it_says_so_and_because_of_what() -> None:
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


def test_why_when_a_running_job_is_frozen_then_it_says_so_and_why() -> None:
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
