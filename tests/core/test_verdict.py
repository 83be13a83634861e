"""The verdict on the end of an attempt: every kind of outcome under every stop, from a table written by hand.

A cell names state and reason. `fail`, `hold` and `requeue` stand for the effect of `on_orphan` on an unseen end.
"""

from __future__ import annotations

import pytest

from stoker.core.job.events import Ended
from stoker.core.job.model import OnOrphan, Outcome, OutcomeKind, Reason, Spec, State, StopReason
from stoker.core.job.verdict import Verdict, failed_by_itself, judge
from tests.support.jobs import NEVER_STARTED, NOW, UNSEEN, attempt, exited, outcome, running, spec

# Rows: the stop that was committed. Columns: the end, for the stops with the signal delivered before it.
# `own`: the end speaks for itself. `unseen:R`: on_orphan decides, with reason R.
EXPECTED = """
             ok                bad             signal          oom             spawn_error     unseen          never_started
none         succeeded/exit    failed/exit     failed/signal   failed/oom      failed/spawn_error unseen:orphaned again
cancel       cancelled/user    cancelled/user  cancelled/user  cancelled/user  cancelled/user  cancelled/user  cancelled/user
aborted      cancelled/aborted cancelled/aborted cancelled/aborted cancelled/aborted cancelled/aborted cancelled/aborted cancelled/aborted
superseded   superseded/superseded superseded/superseded superseded/superseded superseded/superseded superseded/superseded superseded/superseded superseded/superseded
deadline     failed/deadline   failed/deadline failed/deadline failed/deadline failed/deadline failed/deadline failed/deadline
restart      again             again           again           again           again           again           again
timeout      failed/timeout    failed/timeout  failed/timeout  failed/timeout  failed/timeout  unseen:orphaned again
unresponsive failed/unresponsive failed/unresponsive failed/unresponsive failed/unresponsive failed/unresponsive unseen:orphaned again
shutdown     unseen:shutdown   unseen:shutdown unseen:shutdown unseen:shutdown unseen:shutdown unseen:shutdown again
orphaned     unseen:orphaned   unseen:orphaned unseen:orphaned unseen:orphaned unseen:orphaned unseen:orphaned again
"""  # noqa: E501 - one row a line

ENDS: dict[str, Outcome] = {
    "ok": exited(0),
    "bad": exited(3),
    "signal": outcome(OutcomeKind.SIGNAL),
    "oom": outcome(OutcomeKind.OOM),
    "spawn_error": outcome(OutcomeKind.SPAWN_ERROR),
    "unseen": UNSEEN,
    "never_started": NEVER_STARTED,
}

UNSEEN_ENDS = {
    OnOrphan.FAIL: lambda reason: Verdict(State.FAILED, reason, orphaning=_charge(reason)),
    OnOrphan.HOLD: lambda reason: Verdict(State.HELD, reason, orphaning=_charge(reason)),
    OnOrphan.REQUEUE: lambda reason: Verdict(State.QUEUED, orphaning=_charge(reason)),
}


def _charge(reason: Reason) -> int:
    """A stop of the service is not the fault of the job and uses up no budget."""
    return 0 if reason is Reason.SHUTDOWN else 1


def cells() -> list[tuple[str, str, str]]:
    header, *rows = [line.split() for line in EXPECTED.strip().splitlines()]
    return [(row[0], end, cell) for row in rows for end, cell in zip(header, row[1:], strict=True)]


def verdict_of(asked: Spec, stop: StopReason | None, end: Outcome, **fields: int) -> Verdict:
    of, live = running(asked, stop, **fields)
    return judge(of, live, Ended(outcome=end), NOW.wall)


def delivered(end: Outcome) -> Outcome:
    return Outcome(kind=end.kind, exit_code=end.exit_code, signal=end.signal, stopped=True, error=end.error)


@pytest.mark.parametrize("on_orphan", OnOrphan)
@pytest.mark.parametrize(("stop", "end", "cell"), cells(), ids=[f"{stop}-{end}" for stop, end, _ in cells()])
def test_judge_when_an_end_meets_a_stop_then_the_table_of_the_design_holds(
    stop: str, end: str, cell: str, on_orphan: OnOrphan
) -> None:
    reason = None if stop == "none" else StopReason(stop)
    event = ENDS[end] if reason is None else delivered(ENDS[end])

    verdict = verdict_of(spec(on_orphan=on_orphan), reason, event)

    if cell == "again":
        assert verdict == Verdict(State.QUEUED)
    elif cell.startswith("unseen:"):
        assert verdict == UNSEEN_ENDS[on_orphan](Reason(cell.removeprefix("unseen:")))
    else:
        state, _, why = cell.partition("/")
        assert (verdict.state, verdict.reason) == (State(state), Reason(why))
        assert verdict.failure == (verdict.state is State.FAILED)
        assert (verdict.orphaning, verdict.delay_ms) == (0, None)


def test_expectations_when_counted_then_every_stop_and_every_kind_is_there() -> None:
    assert {stop for stop, _, _ in cells()} == {"none", *StopReason}
    assert {end.kind for end in ENDS.values()} | {OutcomeKind.EXCEPTION} == set(OutcomeKind)


@pytest.mark.parametrize("stop", StopReason)
@pytest.mark.parametrize(
    ("end", "state", "reason"),
    [
        ("ok", State.SUCCEEDED, Reason.EXIT),
        ("bad", State.FAILED, Reason.EXIT),
        ("signal", State.FAILED, Reason.SIGNAL),
        ("oom", State.FAILED, Reason.OOM),
    ],
)
def test_judge_when_the_stop_came_after_the_exit_then_the_exit_stands(
    stop: StopReason, end: str, state: State, reason: Reason
) -> None:
    verdict = verdict_of(spec(), stop, ENDS[end])

    assert (verdict.state, verdict.reason) == (state, reason)


@pytest.mark.parametrize("on_orphan", OnOrphan)
@pytest.mark.parametrize("stop", [None, *StopReason])
def test_judge_when_a_shutdown_signal_came_first_then_the_end_is_unseen_or_the_stops(
    stop: StopReason | None, on_orphan: OnOrphan
) -> None:
    cut_short = outcome(OutcomeKind.SIGNAL, shutdown=True)

    verdict = verdict_of(spec(on_orphan=on_orphan, max_orphanings=1), stop, cut_short, orphanings=1)

    decided = {"cancel", "superseded", "deadline", "restart", "aborted"}
    if stop in decided:
        assert verdict == verdict_of(spec(on_orphan=on_orphan), stop, UNSEEN)
    else:
        assert verdict == UNSEEN_ENDS[on_orphan](Reason.SHUTDOWN)


@pytest.mark.parametrize(
    ("stop", "wanted"),
    [
        (StopReason.CANCEL, State.CANCELLED),
        (StopReason.SUPERSEDED, State.SUPERSEDED),
        (StopReason.RESTART, State.QUEUED),
    ],
)
def test_judge_when_the_stop_came_after_a_failure_then_it_stops_the_retry(stop: StopReason, wanted: State) -> None:
    verdict = verdict_of(spec(max_attempts=3), stop, exited(3))

    assert (verdict.state, verdict.failure, verdict.delay_ms) == (wanted, 1, None)


def test_judge_when_our_signal_was_only_a_warning_then_the_exit_decides() -> None:
    assert verdict_of(spec(), None, exited(0, stopped=True)).state is State.SUCCEEDED


@pytest.mark.parametrize(("code", "state"), [(0, State.FAILED), (3, State.SUCCEEDED), (9, State.SUCCEEDED)])
def test_judge_when_success_has_other_codes_then_only_those_succeed(code: int, state: State) -> None:
    assert verdict_of(spec(success_exit_codes=(3, 9)), None, exited(code)).state is state


def test_judge_when_a_handler_raised_then_the_reason_is_its_exit() -> None:
    verdict = verdict_of(spec(max_attempts=3), None, outcome(OutcomeKind.EXCEPTION))

    assert verdict == Verdict(State.FAILED, Reason.EXIT, failure=1)


@pytest.mark.parametrize("stop", [None, StopReason.TIMEOUT, StopReason.UNRESPONSIVE])
def test_judge_when_the_budget_lasts_then_a_seen_failure_waits_for_its_retry(stop: StopReason | None) -> None:
    verdict = verdict_of(spec(max_attempts=2), stop, exited(3, stopped=stop is not None))

    assert verdict == Verdict(State.WAITING, failure=1, delay_ms=1_000)


def test_judge_when_the_budget_is_used_up_then_the_job_fails() -> None:
    verdict = verdict_of(spec(max_attempts=3), None, exited(3), failures=2)

    assert verdict == Verdict(State.FAILED, Reason.EXIT, failure=1)


@pytest.mark.parametrize(("deadline", "state"), [(NOW.wall + 1_000, State.FAILED), (NOW.wall + 1_001, State.WAITING)])
def test_judge_when_the_retry_would_come_at_the_deadline_then_it_is_not_retried(deadline: int, state: State) -> None:
    verdict = verdict_of(spec(max_attempts=2, deadline=deadline), None, exited(3))

    assert verdict.state is state
    assert verdict.reason is (Reason.EXIT if state is State.FAILED else None)


def test_judge_when_the_worker_was_adopted_and_then_lost_then_the_reason_is_lost() -> None:
    of, live = running(spec())
    adopted = attempt(of, adopted=1)

    assert judge(of, live, Ended(outcome=UNSEEN), NOW.wall).reason is Reason.ORPHANED
    assert judge(of, adopted, Ended(outcome=UNSEEN), NOW.wall).reason is Reason.LOST


@pytest.mark.parametrize(("orphanings", "state"), [(0, State.QUEUED), (1, State.QUEUED), (2, State.HELD)])
def test_judge_when_a_safe_job_ends_unseen_too_often_then_it_is_poison(orphanings: int, state: State) -> None:
    verdict = verdict_of(spec(on_orphan=OnOrphan.REQUEUE, max_orphanings=3), None, UNSEEN, orphanings=orphanings)

    assert (verdict.state, verdict.orphaning) == (state, 1)
    assert verdict.reason is (Reason.POISON if state is State.HELD else None)


def test_judge_when_a_released_poison_job_stops_with_the_service_then_no_charge() -> None:
    asked = spec(on_orphan=OnOrphan.REQUEUE, max_orphanings=3)

    verdict = verdict_of(asked, StopReason.SHUTDOWN, exited(0, stopped=True), orphanings=3)

    assert verdict == Verdict(State.QUEUED)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (outcome(OutcomeKind.OOM, exit_code=0), (State.SUCCEEDED, Reason.EXIT)),
        (outcome(OutcomeKind.OOM, exit_code=5), (State.FAILED, Reason.OOM)),
    ],
    ids=["success", "failure"],
)
def test_verdict_when_only_a_child_was_out_of_memory_then_the_main_exit_counts(
    end: Outcome, expected: tuple[State, Reason]
) -> None:
    verdict = verdict_of(spec(), None, end)

    assert (verdict.state, verdict.reason) == expected


# --- saved, run me again ------------------------------------------------------------------------------------

SAVED = spec(checkpoint_exit_code=75, base_delay_ms=1_000)


@pytest.mark.parametrize(
    ("ran_ms", "delay_ms"), [(-5_000, 1_000), (0, 1_000), (400, 600), (1_000, 0), (86_400_000, 0)]
)  # fmt: skip
def test_judge_when_a_run_saved_then_the_next_is_uncharged_and_after_the_base_delay(ran_ms: int, delay_ms: int) -> None:
    """A wall clock that was set back in between costs one delay, not more."""
    verdict = verdict_of(SAVED, None, exited(75, ended_at=NOW.wall + ran_ms), failures=8, orphanings=8)

    assert verdict == Verdict(State.QUEUED, delay_ms=delay_ms)


def test_judge_when_the_time_of_the_end_is_not_known_then_the_run_lasted_until_now() -> None:
    of, live = running(SAVED)

    assert judge(of, live, Ended(outcome=exited(75)), NOW.wall + 300).delay_ms == 700


@pytest.mark.parametrize("stop", [StopReason.SHUTDOWN, StopReason.ORPHANED])
@pytest.mark.parametrize("on_orphan", OnOrphan)
def test_judge_when_a_run_saves_as_the_service_stops_then_on_orphan_does_not_count(
    stop: StopReason, on_orphan: OnOrphan
) -> None:
    asked = spec(checkpoint_exit_code=75, on_orphan=on_orphan, base_delay_ms=0)

    assert verdict_of(asked, stop, exited(75, stopped=True)) == Verdict(State.QUEUED, delay_ms=0)


@pytest.mark.parametrize("stop", [StopReason.TIMEOUT, StopReason.UNRESPONSIVE])
def test_judge_when_a_run_saves_after_its_limit_then_it_has_failed_by_that_limit(stop: StopReason) -> None:
    verdict = verdict_of(SAVED, stop, exited(75, stopped=True))

    assert verdict == Verdict(State.FAILED, Reason(stop.value), failure=1)


@pytest.mark.parametrize("stopped", [True, False])
@pytest.mark.parametrize(
    ("stop", "state"),
    [
        (StopReason.CANCEL, State.CANCELLED),
        (StopReason.SUPERSEDED, State.SUPERSEDED),
        (StopReason.DEADLINE, State.FAILED),
        (StopReason.RESTART, State.QUEUED),
    ],
)
def test_judge_when_a_person_wanted_an_end_then_a_run_that_saved_is_not_run_again(
    stop: StopReason, state: State, *, stopped: bool
) -> None:
    assert verdict_of(SAVED, stop, exited(75, stopped=stopped)).state is state


@pytest.mark.parametrize("stop", [StopReason.TIMEOUT, StopReason.UNRESPONSIVE, StopReason.SHUTDOWN])
def test_judge_when_a_run_saved_before_the_stop_came_then_it_is_run_again(stop: StopReason) -> None:
    assert verdict_of(SAVED, stop, exited(75)).state is State.QUEUED


@pytest.mark.parametrize("end", [exited(74), outcome(OutcomeKind.SIGNAL), outcome(OutcomeKind.SPAWN_ERROR)])
def test_judge_when_another_end_is_seen_then_nothing_was_saved(end: Outcome) -> None:
    assert verdict_of(SAVED, None, end).failure == 1


def test_judge_when_the_output_was_refused_then_it_is_a_seen_failure() -> None:
    of, open_attempt = running()

    verdict = judge(of, open_attempt, Ended(outcome=exited(0, output_refused=True)), NOW.wall)

    assert (verdict.state, verdict.reason, verdict.failure) == (State.FAILED, Reason.OUTPUT, True)


@pytest.mark.parametrize(
    ("end", "itself"),
    [
        (exited(3), True),
        (exited(0), False),
        (exited(75), False),
        (exited(3, stopped=True), False),
        (outcome(OutcomeKind.SIGNAL, signal=11), True),
        (outcome(OutcomeKind.OOM, signal=9), True),
        (UNSEEN, False),
    ],
)
def test_failure_when_an_end_is_seen_then_only_one_of_its_own_is_looked_up(end: Outcome, *, itself: bool) -> None:
    assert failed_by_itself(spec(checkpoint_exit_code=75), end) is itself
