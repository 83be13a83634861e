"""Why a job ended as it did, or is held: a sentence for each reason, and a next command that is not refused."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stoker.core.explain import explain
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
    Reason,
    State,
    StopReason,
    When,
)
from stoker.core.job.run_if import RunIf
from stoker.core.job.taken_over import TakenOver
from stoker.core.job_facts import Blocker, JobFacts
from stoker.core.workflow.fan_out import COLLECT
from stoker.core.workflow.handlers import gate
from tests.support.jobs import NOW, attempt, exited, job, spec


def why(of: Job, **around: Any) -> Blocker:
    return explain(of, JobFacts(**({"now": NOW, "queue": Queue(name="bulk")} | around)))


def test_why_when_a_job_was_superseded_then_it_names_the_newer_one() -> None:
    blocker = why(job(State.SUPERSEDED, reason=Reason.SUPERSEDED, superseded_by=9))

    assert (blocker.message, blocker.hint) == ("was superseded by job 9, which is newer", "stoker why 9")
    assert blocker.details == {"reason": "superseded", "superseded_by": 9}


HELD_FOR = [Reason.USER, Reason.POISON, Reason.STUCK, Reason.ORPHANED, Reason.LOST, Reason.RESTORED, Reason.SHUTDOWN]


@pytest.mark.parametrize("reason", HELD_FOR)
def test_why_when_a_job_is_held_then_each_reason_has_its_own_sentence(reason: Reason) -> None:
    blocker = why(job(State.HELD, reason=reason))

    assert (blocker.code, blocker.details) == ("held", {"reason": reason})
    assert blocker.hint == "stoker release 7, or stoker cancel 7"
    assert blocker.message != "waits for a person"


def test_why_when_a_job_is_damaged_then_a_release_is_offered_only_after_a_repair() -> None:
    blocker = why(job(State.HELD, reason=Reason.DAMAGED))

    assert (
        blocker.hint == "stoker doctor says whether it can be repaired; if so release it then, if not: stoker cancel 7"
    )


def test_why_when_the_secrets_are_gone_then_it_names_them_and_asks_for_a_new_submit() -> None:
    of = job(State.HELD, reason=Reason.SECRETS, attempts=1)
    refused = Outcome(kind=OutcomeKind.NEVER_STARTED, error="its secrets are gone (TOKEN)")

    known, unknown = why(of, ended=attempt(of, outcome=refused)), why(of)

    assert known.message == "was not started: its secrets are gone (TOKEN)"
    assert known.hint == unknown.hint == "submit it again with its secrets, then: stoker cancel 7"
    assert unknown.message == "was not started: its secrets cannot be given to it"


def test_why_when_its_user_is_barred_then_it_says_why_and_how_to_release_it() -> None:
    of = job(State.HELD, reason=Reason.SPAWN_ERROR, attempts=1)
    refused = Outcome(kind=OutcomeKind.NEVER_STARTED, error="the account ann (uid 1001) is locked: passwd -u ann")

    known, unknown = why(of, ended=attempt(of, outcome=refused)), why(of)

    assert known.message == "was not started: the account ann (uid 1001) is locked: passwd -u ann"
    assert known.hint == unknown.hint == "stoker release 7, or stoker cancel 7"
    assert unknown.message == "was not started: its user may not have jobs here any more"


def test_why_when_jobs_are_held_then_no_two_reasons_sound_the_same() -> None:
    reasons = [*HELD_FOR, Reason.DAMAGED, Reason.SECRETS, Reason.SPAWN_ERROR]

    assert len({why(job(State.HELD, reason=reason)).message for reason in reasons}) == len(reasons)


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


def test_why_when_a_step_was_reused_then_the_earlier_one_is_named() -> None:
    reused = job(State.SUCCEEDED, reason=Reason.REUSED, asked=spec(reused=TakenOver(12, "compile[a]", 3)))

    assert why(reused).message == "succeeded: reused from 12/compile[a] (job 3)"


def test_why_when_a_need_could_not_be_met_then_the_needed_job_is_named() -> None:
    few, many = ([Need(job_id, NeedOn.FAILED) for job_id in range(1, last)] for last in (3, 9))

    blockers = [
        why(job(State.SKIPPED, id=70, asked=spec(needs=tuple(needs)), reason=Reason.DEPENDENCY))
        for needs in (few, many, ())
    ]

    skipped = "was skipped (dependency)"
    assert [one.message for one in blockers] == [
        f"{skipped}: it needed jobs 1 (failed), 2 (failed)",
        f"{skipped}: it needed jobs 1 (failed), 2 (failed), 3 (failed), 4 (failed), 5 (failed) and 3 more",
        "was skipped: a job it needs can no longer end as needed",
    ]
    assert [one.hint for one in blockers] == ["stoker why 1", "stoker why 1", None]


@pytest.mark.parametrize(
    ("when", "end"),
    [
        (When.ANY_FAILED, "one of jobs 1, 2 to fail"),
        (When.ANY_OK, "one of jobs 1, 2 to succeed"),
        (When.EACH, "jobs 1 (any), 2 (any)"),
    ],
)
def test_why_when_the_needs_count_together_then_it_names_the_end_that_did_not_come(when: When, end: str) -> None:
    needs = (Need(1, NeedOn.ANY), Need(2, NeedOn.ANY))

    blocker = why(job(State.SKIPPED, asked=spec(needs=needs, when=when), reason=Reason.DEPENDENCY), unmet=[1, 2])

    assert blocker.message == f"was skipped (dependency): it needed {end}"


def test_why_when_some_needs_are_unmet_then_they_are_named_and_the_first_is_hinted() -> None:
    needs = tuple(Need(job_id) for job_id in range(16, 23))

    blocker = why(job(State.SKIPPED, asked=spec(needs=needs), reason=Reason.DEPENDENCY), unmet=[22])

    assert (blocker.message, blocker.hint) == ("was skipped (dependency): it needed job 22 (ok)", "stoker why 22")
    assert blocker.details["needs"] == list(range(16, 23))


@pytest.mark.parametrize(
    ("unmet", "why_not", "hint"),
    [
        ([], "it is a handler for another end of its workflow", "stoker workflow show 4"),
        ([3], "it needed job 3 (failed)", "stoker why 3"),
    ],
)
def test_why_when_a_handler_was_not_needed_then_it_does_not_need_itself(
    unmet: list[int], why_not: str, hint: str
) -> None:
    asked = spec(needs=(gate(7), Need(3, NeedOn.FAILED)))
    handler = job(State.SKIPPED, id=7, asked=asked, reason=Reason.NOT_NEEDED, workflow_id=4, step="alarm")

    blocker = why(handler, unmet=unmet)

    assert (blocker.message, blocker.hint) == (f"was skipped (not_needed): {why_not}", hint)
    assert blocker.details["needs"] == [3]


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
def test_why_when_a_job_failed_then_its_code_is_named(fields: dict[str, Any], message: str) -> None:
    assert why(job(State.FAILED, **fields)).message == message


@pytest.mark.parametrize("ordinal", [None, 1])
def test_why_when_the_last_attempt_of_a_lost_job_is_missing_then_that_is_explained(ordinal: int | None) -> None:
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
            Outcome(kind=OutcomeKind.EXIT, exit_code=0, error="STOKER_OUTPUT: line 2"),
            "failed: its output could not be read, or a file that it produces is missing: STOKER_OUTPUT: line 2",
        ),
        (Reason.EXIT, Outcome(kind=OutcomeKind.EXIT, exit_code=1, error="last words"), "failed (exit)"),
        (Reason.EXIT, Outcome(kind=OutcomeKind.EXCEPTION), "failed (exit)"),
    ],
)
def test_why_when_an_attempt_ended_with_an_error_then_it_is_shown(
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


def test_why_when_the_last_end_may_be_due_to_a_limit_then_the_limit_is_named() -> None:
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


def test_why_when_the_host_could_not_start_a_job_then_no_failure_is_reported() -> None:
    end = Outcome(kind=OutcomeKind.NEVER_STARTED, error="a: Text file busy", ended_at=1)

    blocker = why(job(State.WAITING, wake_at=NOW.steady + 2_000), ended=attempt(outcome=end, ended_at=1))

    assert blocker.code == "host"
    assert "a: Text file busy" in blocker.message


def test_why_when_an_if_was_decided_then_its_result_is_the_reason() -> None:
    asked = spec(run_if=RunIf(text="1 > 2"))
    false = job(State.SKIPPED, reason=Reason.NOT_NEEDED, asked=asked)
    no_value = job(State.FAILED, reason=Reason.CONDITION, asked=asked)

    assert why(false, decision="if: 1 > 2 is false").message == "was skipped (not_needed): if: 1 > 2 is false"
    assert why(false).message == "was skipped (not_needed): if: 1 > 2"
    shown = why(no_value, decision="if: 1 > 2 has no value: why")
    assert (shown.message, shown.hint) == (
        "failed (condition): if: 1 > 2 has no value: why",
        "stoker retry 7",
    )
    assert why(replace(no_value, spec=spec())).message == "failed: its `if` has no value"


def test_why_when_a_need_failed_before_an_if_was_decided_then_it_names_the_need() -> None:
    asked = spec(run_if=RunIf(text="1 > 2"), needs=(Need(3, NeedOn.FAILED),))

    blocker = why(job(State.SKIPPED, reason=Reason.NOT_NEEDED, asked=asked, undecided=True))

    assert blocker.message == "was skipped (not_needed): it needed job 3 (failed)"


def test_why_when_a_nested_workflow_failed_then_its_steps_are_to_run_again() -> None:
    end = job(State.FAILED, reason=Reason.TIMEOUT, asked=spec(command=COLLECT), workflow_id=3, step="build")

    assert why(end).hint == "stoker workflow retry 3 --failed"


def test_why_when_a_nested_workflow_reached_its_limit_then_the_limit_is_named() -> None:
    end = job(State.FAILED, reason=Reason.TIMEOUT, asked=spec(command=COLLECT), workflow_id=3, step="build")
    error = "ended by its timeout: timeout_ms = 300"
    ended = replace(attempt(end), outcome=Outcome(kind=OutcomeKind.EXCEPTION, error=error))

    assert why(end, ended=ended).message == f"failed: {error}"
