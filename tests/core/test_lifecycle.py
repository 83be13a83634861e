"""The transition table in full, against a table written by hand.

`EXPECTED` names for each state and event where the job goes, or the error that refuses it and changes nothing. The
column `stuck` is a held job whose attempt is still open. What an end means is in test_verdict.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.errors import (
    AlreadyFinished,
    AttemptMayLive,
    ConfirmationNeeded,
    IllegalTransition,
    InvalidParams,
    NotAllowed,
    StokerError,
)
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import TABLE, step
from stoker.core.job.model import (
    Actor,
    Attempt,
    Job,
    NeedOn,
    OnOrphan,
    Outcome,
    OutcomeKind,
    Reason,
    State,
    StopReason,
)
from stoker.core.job.transition import Transitioned, blocked, submitted
from tests.support.jobs import NEVER_STARTED, NOW, UNSEEN, attempt, exited, job, running, spec

# A state: the job goes (or stays) there. `no`: NotAllowed. `live`: AttemptMayLive. `done`: AlreadyFinished.
# `bug`: IllegalTransition. `none`: a bug too, there is no attempt it could be about. `-`: cannot be asked (a job that
# ever started has no open need).
EXPECTED = """
                waiting   queued    running   held      stuck  succeeded failed  cancelled expired superseded skipped
Woke            queued    bug       bug       bug       bug    bug       bug     bug       bug     bug        bug
NeedMet         queued    bug       bug       held      -      bug       bug     bug       bug     bug        bug
NeedFailed      skipped   skipped   bug       skipped   -      bug       bug     bug       bug     bug        bug
Dispatched      bug       running   bug       bug       bug    bug       bug     bug       bug     bug        bug
StopWanted      bug       bug       running   none      held   bug       bug     bug       bug     bug        bug
Ended           bug       bug       succeeded none      held   bug       bug     bug       bug     bug        bug
Refused         bug       bug       held      none      held   bug       bug     bug       bug     bug        bug
Adopted         bug       bug       running   none      held   bug       bug     bug       bug     bug        bug
Stuck           bug       bug       held      none      held   bug       bug     bug       bug     bug        bug
AttemptMissing  bug       bug       none      bug       bug    bug       bug     bug       bug     bug        bug
TtlPassed       expired   expired   bug       bug       bug    bug       bug     bug       bug     bug        bug
DeadlinePassed  expired   expired   running   bug       bug    bug       bug     bug       bug     bug        bug
Superseded      superseded superseded running superseded held   bug       bug     bug       bug     bug        bug
Cancel          cancelled cancelled running   cancelled live   done      done    done      done    done       done
Retry           no        no        live      queued    live   queued    queued  queued    queued  queued     queued
Skip            skipped   skipped   no        skipped   live   done      skipped skipped   skipped done       done
Hold            held      held      no        no        no     done      done    done      done    done       done
Release         no        no        no        queued    live   done      done    done      done    done       done
Reset           queued    queued    bug       queued    live   queued    queued  queued    queued  queued     queued
Rewired         queued    queued    bug       held      live   bug       bug     cancelled expired bug        skipped
Edit            waiting   queued    no        held      live   done      done    done      done    done       done
Restart         no        no        running   queued    live   queued    queued  queued    queued  queued     queued
"""

NO: dict[str, tuple[type[Exception], ...]] = {
    "no": (NotAllowed,),
    "live": (AttemptMayLive,),
    "done": (AlreadyFinished,),
    "bug": (IllegalTransition,),
    "none": (IllegalTransition, AssertionError),
}

EVENTS: dict[str, ev.Event] = {
    "Woke": ev.Woke(),
    "NeedMet": ev.NeedMet(),
    "NeedFailed": ev.NeedFailed(needed=3, on=NeedOn.OK),
    "Dispatched": ev.Dispatched(attempt=attempt(ordinal=2, run_id="7.2.b")),
    "StopWanted": ev.StopWanted(reason=StopReason.TIMEOUT),
    "Ended": ev.Ended(outcome=exited(0)),
    "Refused": ev.Refused(why="log_exists"),
    "Adopted": ev.Adopted(),
    "Stuck": ev.Stuck(),
    "AttemptMissing": ev.AttemptMissing(),
    "TtlPassed": ev.TtlPassed(),
    "DeadlinePassed": ev.DeadlinePassed(),
    "Superseded": ev.Superseded(by=8),
    "Cancel": ev.Cancel(),
    "Retry": ev.Retry(),
    "Reset": ev.Reset(),
    "Rewired": ev.Rewired(needs=(), needs_open=0),
    "Skip": ev.Skip(),
    "Hold": ev.Hold(),
    "Release": ev.Release(),
    "Restart": ev.Restart(yes=True),
    "Edit": ev.Edit(changes={"priority": 5}, moved_ms=-60_000),
}


def cells() -> list[tuple[str, str, str]]:
    header, *rows = [line.split() for line in EXPECTED.strip().splitlines()]
    return [(column, row[0], cell) for row in rows for column, cell in zip(header, row[1:], strict=True)]


def scene(column: str, event: str) -> tuple[Job, Attempt | None]:
    """A job that stands where `column` says and waits for nothing but what `event` tells."""
    needs_open = 1 if event.startswith("Need") and column in ("waiting", "held") else 0
    state = State.HELD if column == "stuck" else State(column)
    if column in ("running", "stuck"):
        of = job(state, attempts=1)
        return of, attempt(of)
    of = job(state, attempts=0, needs_open=needs_open, wake_at=NOW.steady if column == "waiting" else None)
    return replace(of, reason=Reason.ORPHANED) if state is State.HELD else of, None


@pytest.mark.parametrize(("column", "event", "cell"), cells(), ids=[f"{one}-{two}" for one, two, _ in cells()])
def test_step_when_an_event_meets_a_state_then_the_table_of_the_design_holds(
    column: str, event: str, cell: str
) -> None:
    if cell == "-":
        return
    before, live = scene(column, event)

    if cell in NO:
        with pytest.raises((StokerError, AssertionError)) as refused:
            step(before, live, EVENTS[event], NOW)
        assert refused.type in NO[cell], refused.value
        assert (before, live) == scene(column, event)
    else:
        assert step(before, live, EVENTS[event], NOW).job.state == State(cell)


def test_step_when_a_running_job_has_no_attempt_then_it_is_held_as_lost() -> None:
    held = step(job(State.RUNNING, attempts=1, pid=5), None, ev.AttemptMissing(), NOW)

    assert (held.job.state, held.job.reason, held.job.pid) == (State.HELD, Reason.LOST, None)
    assert (held.attempt, held.effects) == (None, ())


def test_expectations_when_counted_then_every_state_and_every_event_is_there() -> None:
    asked = {(column, event) for column, event, _ in cells()}

    assert len(asked) == len(cells()) == (len(State) + 1) * len(EVENTS)
    assert {column for column, _ in asked} == {*State, "stuck"}
    assert {type(event) for event in EVENTS.values()} == set(ev.Event.__subclasses__())
    assert {event for _, event in TABLE} <= {type(event) for event in EVENTS.values()}


def test_retry_when_the_job_ran_before_then_it_counts_from_the_new_start_only() -> None:
    ran = job(State.FAILED, attempts=1, started_at=5, finished_at=9, reason=Reason.EXIT)

    assert step(ran, None, ev.Retry(), NOW).job.started_at is None


def test_refused_when_the_job_is_stuck_then_its_attempt_closes_as_never_started() -> None:
    stuck = job(State.HELD, attempts=1, reason=Reason.STUCK)

    after = step(stuck, attempt(stuck), ev.Refused(why="log_exists"), NOW)

    assert (after.job.state, after.effects) == (State.HELD, (ev.Settled(attempt(stuck).run_id),))
    assert after.attempt is not None
    assert after.attempt.outcome == Outcome(kind=OutcomeKind.NEVER_STARTED, error="log_exists", ended_at=NOW.wall)


# --- refusals ---------------------------------------------------------------------------------------------


REFUSED_VERBS = [(column, event) for column, event, cell in cells() if cell in ("no", "live", "done")]


@pytest.mark.parametrize(("column", "verb"), REFUSED_VERBS)
def test_verb_when_it_is_refused_then_the_error_names_job_state_and_next_command(column: str, verb: str) -> None:
    before, live = scene(column, verb)

    with pytest.raises(NotAllowed) as refused:
        step(before, live, EVENTS[verb], NOW)

    assert "job 7" in refused.value.message
    assert refused.value.hint in {"stoker why 7", "stoker show 7", "stoker cancel 7"}
    if refused.type is not AttemptMayLive:
        assert verb.lower() in refused.value.message
        assert refused.value.details == {"state": column if column != "stuck" else "held"}


@pytest.mark.parametrize("state", [State.RUNNING, State.HELD, State.SUCCEEDED, State.FAILED])
@pytest.mark.parametrize("on_orphan", [OnOrphan.FAIL, OnOrphan.HOLD])
def test_restart_when_the_job_is_unsafe_and_nobody_said_yes_then_it_asks(state: State, on_orphan: OnOrphan) -> None:
    before = job(state, asked=spec(on_orphan=on_orphan), attempts=1)
    live = attempt(before) if state is State.RUNNING else None

    with pytest.raises(ConfirmationNeeded) as asked:
        step(before, live, ev.Restart(), NOW)

    assert asked.value.hint == "stoker restart 7 --yes"


@pytest.mark.parametrize("state", [State.RUNNING, State.FAILED])
def test_restart_when_the_job_is_safe_then_nobody_is_asked(state: State) -> None:
    before = job(state, asked=spec(on_orphan=OnOrphan.REQUEUE), attempts=1)
    live = attempt(before) if state is State.RUNNING else None

    after = step(before, live, ev.Restart(), NOW)

    assert after.job.state is (State.RUNNING if live else State.QUEUED)


RUN = "7.1.0000000000000001"


@pytest.mark.parametrize(
    ("how", "effects"),
    [
        ({}, (ev.Stop(RUN, 42),)),
        ({"force": True}, (ev.Stop(RUN, 0),)),
        ({"reassign": True}, (ev.Stop(RUN, 42), ev.Reassign(RUN))),
        ({"force": True, "reassign": True}, (ev.Stop(RUN, 0), ev.Reassign(RUN))),
    ],
)
def test_restart_when_it_is_not_to_wait_then_the_effects_say_for_what(
    how: dict[str, Any], effects: tuple[ev.Effect, ...]
) -> None:
    of, live = running(spec(grace_ms=42))

    after = step(of, live, ev.Restart(yes=True, **how), NOW)

    assert after == Transitioned(of, replace(live, stop_reason=StopReason.RESTART), effects)


def test_restart_when_a_stop_is_under_way_then_it_is_hastened_and_keeps_its_reason() -> None:
    of, live = running(spec(grace_ms=42), StopReason.CANCEL)

    assert step(of, live, ev.Restart(yes=True), NOW) == Transitioned(of)
    assert step(of, live, ev.Restart(yes=True, force=True), NOW) == Transitioned(of, effects=(ev.Stop(RUN, 0),))


# --- the first state, and waiting -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "asked", "state"),
    [
        ({}, {}, State.QUEUED),
        ({"needs_open": 1}, {}, State.WAITING),
        ({}, {"run_at": NOW.wall + 1}, State.WAITING),
        ({}, {"run_at": NOW.wall}, State.QUEUED),
        ({"wake_at": NOW.steady + 1}, {}, State.WAITING),
        ({"wake_at": NOW.steady}, {}, State.QUEUED),
    ],
)
def test_submitted_when_something_must_happen_first_then_it_waits(
    fields: dict[str, Any], asked: dict[str, Any], state: State
) -> None:
    accepted = submitted(job(State.WAITING, asked=spec(**asked), **fields), NOW)

    assert accepted.state is state
    assert blocked(accepted, NOW) is (state is State.WAITING)


@pytest.mark.parametrize(
    "still",
    [{"needs_open": 1}, {"wake_at": NOW.steady + 1}, {"asked": spec(run_at=NOW.wall + 1)}],
    ids=["needs", "backoff", "run_at"],
)
def test_woke_when_something_else_holds_the_job_then_nothing_changes(still: dict[str, Any]) -> None:
    before = job(State.WAITING, **still)

    assert step(before, None, ev.Woke(), NOW) == Transitioned(before)


def test_woke_when_the_backoff_is_over_then_it_is_forgotten() -> None:
    after = step(job(State.WAITING, wake_at=NOW.steady), None, ev.Woke(), NOW)

    assert after == Transitioned(job(State.QUEUED, wake_at=None))


def test_need_met_when_another_need_is_open_then_it_waits_on() -> None:
    after = step(job(State.WAITING, needs_open=2), None, ev.NeedMet(), NOW)

    assert after == Transitioned(job(State.WAITING, needs_open=1))


def test_need_met_when_run_at_is_still_ahead_then_it_waits_on() -> None:
    asked = spec(run_at=NOW.wall + 1)

    after = step(job(State.WAITING, asked=asked, needs_open=1), None, ev.NeedMet(), NOW)

    assert after == Transitioned(job(State.WAITING, asked=asked, needs_open=0))


def test_need_met_when_the_job_is_held_then_a_person_still_decides() -> None:
    after = step(job(State.HELD, needs_open=1), None, ev.NeedMet(), NOW)

    assert after == Transitioned(job(State.HELD, needs_open=0))


def test_need_failed_when_the_job_waits_then_it_is_skipped_and_dependents_are_told() -> None:
    after = step(job(State.WAITING, needs_open=2), None, ev.NeedFailed(needed=3, on=NeedOn.OK), NOW)

    expected = job(State.SKIPPED, needs_open=2, reason=Reason.DEPENDENCY, finished_at=NOW.wall)
    assert after == Transitioned(expected, effects=(ev.ReleaseDependents(7),))


# --- ttl and deadline -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "fields", "expires_at"),
    [
        ({"ttl_ms": 50}, {}, NOW.steady + 50),
        ({}, {}, None),
        ({"ttl_ms": 50, "run_at": NOW.wall + 1_000}, {}, None),
        ({"ttl_ms": 50, "run_at": NOW.wall - 1_000}, {}, NOW.steady + 50),
        ({"ttl_ms": 50}, {"needs_open": 1}, None),
    ],
    ids=["from submission", "no ttl", "run_at first", "run_at has passed", "needs first"],
)
def test_ttl_when_the_job_is_submitted_then_it_counts_from_whatever_is_last(
    asked: dict[str, Any], fields: dict[str, Any], expires_at: int | None
) -> None:
    assert submitted(job(State.WAITING, asked=spec(**asked), **fields), NOW).expires_at == expires_at


@pytest.mark.parametrize("state", [State.WAITING, State.HELD])
def test_ttl_when_the_last_need_is_met_then_it_counts_from_then(state: State) -> None:
    before = submitted(job(state, asked=spec(ttl_ms=50), needs_open=2), NOW)
    before = replace(before, state=state)
    later = Now(NOW.wall + 500, NOW.steady + 500)

    first = step(before, None, ev.NeedMet(), NOW).job
    last = step(first, None, ev.NeedMet(), later).job

    assert (first.expires_at, last.expires_at) == (None, later.steady + 50)


@pytest.mark.parametrize("jump", [0, -3_600_000, 86_400_000])
def test_ttl_when_run_at_has_come_then_it_counts_from_then_on_steady_time(jump: int) -> None:
    run_at = NOW.wall + 1_000 + jump
    before = submitted(job(State.WAITING, asked=spec(ttl_ms=50, run_at=NOW.wall + 1_000)), NOW)
    later = Now(max(run_at, NOW.wall + 1_000), NOW.steady + 700)

    after = step(before, None, ev.Woke(), later).job

    assert (before.expires_at, after.state, after.expires_at) == (None, State.QUEUED, later.steady + 50)


def test_ttl_when_the_job_was_held_over_its_run_at_then_it_counts_from_the_release() -> None:
    before = job(State.HELD, asked=spec(ttl_ms=50, run_at=NOW.wall - 1))

    assert step(before, None, ev.Release(), NOW).job.expires_at == NOW.steady + 50


def test_ttl_when_a_backoff_is_over_then_it_does_not_begin_again() -> None:
    before = job(State.WAITING, asked=spec(ttl_ms=50, max_attempts=2), attempts=1, failures=1, wake_at=NOW.steady)

    assert step(before, None, ev.Woke(), NOW).job == replace(before, state=State.QUEUED, wake_at=None)


def test_ttl_when_the_job_has_started_once_then_it_is_over() -> None:
    opened = attempt()
    before = submitted(job(State.WAITING, asked=spec(ttl_ms=50, max_attempts=2)), NOW)
    going = step(before, None, ev.Dispatched(attempt=opened), NOW)

    after = step(going.job, opened, ev.Ended(outcome=exited(1)), NOW).job

    assert (after.state, after.expires_at) == (State.WAITING, None)


def test_ttl_when_the_job_never_started_after_all_then_it_still_counts() -> None:
    before = submitted(job(State.WAITING, asked=spec(ttl_ms=50)), NOW)
    opened = attempt()
    going = step(before, None, ev.Dispatched(attempt=opened), NOW)

    after = step(going.job, opened, ev.Ended(outcome=NEVER_STARTED), NOW).job

    assert after.state is State.QUEUED
    assert after.expires_at == NOW.steady + 50


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED])
@pytest.mark.parametrize(
    ("event", "reason"), [(ev.TtlPassed(), Reason.TTL), (ev.DeadlinePassed(), Reason.DEADLINE)], ids=["ttl", "deadline"]
)
def test_limit_when_the_job_never_started_then_it_expires_for_that_reason(
    state: State, event: ev.Event, reason: Reason
) -> None:
    before = job(state, wake_at=NOW.steady, expires_at=NOW.steady)

    after = step(before, None, event, NOW)

    assert after == Transitioned(
        job(State.EXPIRED, reason=reason, wake_at=None, expires_at=None), effects=(ev.ReleaseDependents(7),)
    )


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED])
def test_deadline_when_the_job_has_run_before_but_does_not_now_then_it_expires(state: State) -> None:
    before = job(state, attempts=1, failures=1, asked=spec(max_attempts=3))

    after = step(before, None, ev.DeadlinePassed(), NOW)

    assert (after.job.state, after.job.reason) == (State.EXPIRED, Reason.DEADLINE)


def test_deadline_when_the_job_runs_then_it_is_stopped_and_fails_without_a_retry() -> None:
    of, live = running(spec(max_attempts=5, grace_ms=33))

    stopping = step(of, live, ev.DeadlinePassed(), NOW)
    assert stopping == Transitioned(of, replace(live, stop_reason=StopReason.DEADLINE), (ev.Stop(live.run_id, 33),))
    ended = step(of, stopping.attempt, ev.Ended(outcome=exited(0, stopped=True)), NOW)

    assert (ended.job.state, ended.job.reason) == (State.FAILED, Reason.DEADLINE)


# --- start and stop ---------------------------------------------------------------------------------------


def test_dispatched_when_the_job_is_queued_then_its_attempt_is_opened_and_launched() -> None:
    opened = attempt(ordinal=4, run_id="7.4.d")

    after = step(job(State.QUEUED, attempts=3, wake_at=5), None, ev.Dispatched(attempt=opened), NOW)

    assert after == Transitioned(job(State.RUNNING, attempts=4), opened, (ev.Launch(opened),))


STOPS: list[tuple[ev.Event, StopReason]] = [
    *[(ev.StopWanted(reason=reason), reason) for reason in StopReason],
    (ev.DeadlinePassed(), StopReason.DEADLINE),
    (ev.Cancel(), StopReason.CANCEL),
    (ev.Restart(yes=True), StopReason.RESTART),
]


@pytest.mark.parametrize(("event", "reason"), STOPS)
def test_stop_when_it_is_the_first_then_the_intent_is_kept_and_the_ladder_follows(
    event: ev.Event, reason: StopReason
) -> None:
    of, live = running(spec(grace_ms=42))

    after = step(of, live, event, NOW)

    assert after == Transitioned(of, replace(live, stop_reason=reason), (ev.Stop(live.run_id, 42),))


@pytest.mark.parametrize("first", StopReason)
@pytest.mark.parametrize(("event", "_reason"), STOPS)
def test_stop_when_another_came_first_then_the_first_reason_stays(
    first: StopReason, event: ev.Event, _reason: StopReason
) -> None:
    of, live = running(stop_reason=first)

    after = step(of, live, event, NOW)

    assert after.job == of
    assert after.effects == ()
    assert after.attempt in (None, live)


def test_refused_when_the_disk_knows_more_then_the_job_is_held_uncharged() -> None:
    of, live = running(spec(on_orphan=OnOrphan.REQUEUE, max_attempts=9))

    after = step(of, live, ev.Refused(why="log_exists"), NOW)

    end = Outcome(kind=OutcomeKind.NEVER_STARTED, error="log_exists", ended_at=NOW.wall)
    closed = replace(live, outcome=end, ended_at=NOW.wall)
    assert after == Transitioned(replace(of, state=State.HELD, reason=Reason.LOST), closed, (ev.Settled(live.run_id),))


def test_adopted_when_the_job_runs_then_only_the_attempt_remembers() -> None:
    of, live = running()

    assert step(of, live, ev.Adopted(), NOW) == Transitioned(of, replace(live, adopted=1))


# --- the end of an attempt --------------------------------------------------------------------------------


def test_ended_when_the_job_ends_then_attempt_job_and_dependents_follow_in_order() -> None:
    of, live = running(pid=123, wake_at=4, expires_at=5)

    after = step(of, live, ev.Ended(outcome=exited(0, ended_at=99, user_ms=5)), NOW)

    end = exited(0, ended_at=99, user_ms=5)
    finished = job(State.SUCCEEDED, attempts=1, reason=Reason.EXIT, exit_code=0, finished_at=99)
    assert after.job == finished
    assert after.attempt == replace(live, outcome=end, ended_at=99)
    assert after.effects == (ev.Settled(live.run_id), ev.ReleaseDependents(7))


def test_ended_when_nobody_saw_the_time_then_now_is_the_time() -> None:
    of, live = running()

    after = step(of, live, ev.Ended(outcome=UNSEEN), NOW)

    assert after.attempt is not None
    assert after.attempt.ended_at == NOW.wall


def test_ended_when_a_retry_follows_then_it_waits_out_the_delay_on_the_steady_clock() -> None:
    of, live = running(spec(max_attempts=2, base_delay_ms=1_000), pid=5)

    after = step(of, live, ev.Ended(outcome=exited(3), luck=0.5), NOW)

    assert after.job == job(
        State.WAITING, asked=of.spec, attempts=1, failures=1, exit_code=3, wake_at=NOW.steady + 1_000
    )
    assert after.effects == (ev.Settled(live.run_id),)


def test_ended_when_the_delay_is_nothing_then_the_job_is_queued_at_once() -> None:
    of, live = running(spec(max_attempts=2, base_delay_ms=0))

    assert step(of, live, ev.Ended(outcome=exited(3)), NOW).job.state is State.QUEUED


def test_ended_when_the_job_is_safe_and_nobody_saw_it_then_it_is_queued_and_charged() -> None:
    of, live = running(spec(on_orphan=OnOrphan.REQUEUE))

    after = step(of, live, ev.Ended(outcome=UNSEEN), NOW)

    assert after.job == job(State.QUEUED, asked=of.spec, attempts=1, orphanings=1)
    assert after.effects == (ev.Settled(live.run_id),)


def test_ended_when_a_person_must_decide_then_dependents_are_not_told() -> None:
    of, live = running(spec(on_orphan=OnOrphan.HOLD), pid=5)

    after = step(of, live, ev.Ended(outcome=UNSEEN), NOW)

    assert after.job == job(State.HELD, asked=of.spec, attempts=1, orphanings=1, reason=Reason.ORPHANED)
    assert after.effects == (ev.Settled(live.run_id),)


def test_ended_when_the_job_was_stuck_then_the_attempt_closes_and_a_person_decides() -> None:
    stuck = job(State.HELD, reason=Reason.STUCK, attempts=1, pid=44)
    live = attempt(stuck)

    after = step(stuck, live, ev.Ended(outcome=exited(2, ended_at=8)), NOW)

    assert (after.job.state, after.job.reason, after.job.pid) == (State.HELD, Reason.EXIT, None)
    assert after.job.exit_code == 2
    assert after.attempt == replace(live, outcome=exited(2, ended_at=8), ended_at=8)
    assert after.effects == (ev.Settled(live.run_id),)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (UNSEEN, Reason.LOST),
        (NEVER_STARTED, Reason.LOST),
        (Outcome(kind=OutcomeKind.OOM), Reason.OOM),
        (Outcome(kind=OutcomeKind.SIGNAL, signal=9), Reason.SIGNAL),
    ],
)
def test_ended_when_the_job_was_stuck_then_its_reason_says_what_is_known_by_now(end: Outcome, reason: Reason) -> None:
    stuck = job(State.HELD, reason=Reason.STUCK, attempts=1)

    after = step(stuck, attempt(stuck), ev.Ended(outcome=end), NOW)

    assert (after.job.state, after.job.reason) == (State.HELD, reason)


def test_ended_when_a_cancel_came_before_the_attempt_got_stuck_then_it_counts() -> None:
    of, live = running()
    wanted = step(of, live, ev.Cancel(), NOW).attempt
    stuck = step(of, wanted, ev.Stuck(), NOW)

    after = step(stuck.job, wanted, ev.Ended(outcome=UNSEEN), NOW)

    assert (after.job.state, after.job.reason) == (State.CANCELLED, Reason.USER)


def test_ended_when_the_stuck_attempt_is_closed_then_every_way_out_of_held_is_open() -> None:
    stuck = job(State.HELD, reason=Reason.STUCK, attempts=1)
    freed = step(stuck, attempt(stuck), ev.Ended(outcome=UNSEEN), NOW).job

    ways = {verb: step(freed, None, event(), NOW).job.state for verb, event in ev.VERBS.items() if verb in WAYS_OUT}

    assert ways == WAYS_OUT


WAYS_OUT = {"cancel": State.CANCELLED, "retry": State.QUEUED, "skip": State.SKIPPED, "release": State.QUEUED}


def test_stuck_when_the_worker_may_live_then_the_attempt_stays_open() -> None:
    of, live = running(pid=5)

    after = step(of, live, ev.Stuck(), NOW)

    assert after.job == replace(of, state=State.HELD, reason=Reason.STUCK)
    assert after.attempt in (None, live)
    assert after.effects == ()


# --- a newer job of its key -------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED, State.HELD])
def test_superseded_when_nothing_runs_then_the_job_ends_and_names_the_newer_one(state: State) -> None:
    after = step(job(state), None, ev.Superseded(by=9, stop=True), NOW)

    assert (after.job.state, after.job.reason) == (State.SUPERSEDED, Reason.SUPERSEDED)
    assert (after.job.superseded_by, after.job.finished_at) == (9, NOW.wall)
    assert after.effects == (ev.ReleaseDependents(7),)


@pytest.mark.parametrize("stop", [False, True])
def test_superseded_when_the_job_runs_then_it_is_stopped_only_if_that_was_asked(*, stop: bool) -> None:
    of, live = running()

    after = step(of, live, ev.Superseded(by=9, stop=stop), NOW)

    assert (after.job.state, after.job.superseded_by) == (State.RUNNING, 9)
    assert after.attempt is not None
    assert after.attempt.stop_reason is (StopReason.SUPERSEDED if stop else None)
    assert len(after.effects) == stop


def test_superseded_when_it_happens_twice_then_the_first_of_the_newer_ones_stays() -> None:
    of, live = running(superseded_by=8)

    assert step(of, live, ev.Superseded(by=9), NOW).job.superseded_by == 8


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (exited(0), State.SUCCEEDED),
        (exited(1), State.SUPERSEDED),
        (UNSEEN, State.SUPERSEDED),
        (NEVER_STARTED, State.SUPERSEDED),
    ],
)
@pytest.mark.parametrize("on_orphan", [OnOrphan.HOLD, OnOrphan.REQUEUE])
def test_ended_when_a_newer_job_came_then_no_attempt_follows(end: Outcome, state: State, on_orphan: OnOrphan) -> None:
    of, live = running(spec(max_attempts=3, on_orphan=on_orphan), superseded_by=9)

    assert step(of, live, ev.Ended(outcome=end), NOW).job.state is state


@pytest.mark.parametrize("event", [ev.Ended(outcome=UNSEEN), ev.Refused(why="log_exists")])
def test_ended_when_the_superseded_job_was_stuck_then_it_is_no_longer_held(event: ev.Event) -> None:
    of = job(State.HELD, attempts=1, superseded_by=9)

    assert step(of, attempt(of), event, NOW).job.state is State.SUPERSEDED


def test_retry_when_the_job_was_superseded_then_it_is_no_longer_replaced() -> None:
    assert step(job(State.SUPERSEDED, superseded_by=9), None, ev.Retry(), NOW).job.superseded_by is None


def test_submitted_when_it_is_debounced_then_it_waits_on_the_steady_clock() -> None:
    waiting = submitted(job(State.WAITING, asked=spec(supersede_key="k", debounce_ms=5)), NOW)

    assert (waiting.state, waiting.wake_at) == (State.WAITING, NOW.steady + 5)


# --- what a person says -----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED, State.HELD])
@pytest.mark.parametrize(
    ("event", "end"), [(ev.Cancel(), State.CANCELLED), (ev.Skip(), State.SKIPPED)], ids=["cancel", "skip"]
)
def test_verb_when_nothing_runs_then_the_job_ends_at_once_and_dependents_are_told(
    state: State, event: ev.Event, end: State
) -> None:
    after = step(job(state, wake_at=5, expires_at=6), None, event, NOW)

    assert after == Transitioned(job(end, reason=Reason.USER), effects=(ev.ReleaseDependents(7),))


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.EXPIRED])
def test_skip_when_the_job_has_ended_badly_then_dependents_are_told_again(state: State) -> None:
    after = step(job(state, finished_at=1), None, ev.Skip(), NOW)

    assert after == Transitioned(job(State.SKIPPED, reason=Reason.USER), effects=(ev.ReleaseDependents(7),))


@pytest.mark.parametrize("state", [State.WAITING, State.QUEUED])
def test_hold_when_the_job_is_pending_then_only_its_state_changes(state: State) -> None:
    before = job(state, needs_open=1, wake_at=5, expires_at=6)

    assert step(before, None, ev.Hold(), NOW) == Transitioned(replace(before, state=State.HELD, reason=Reason.USER))
    doubted = step(before, None, ev.Hold(reason=Reason.LOST), NOW)
    assert doubted == Transitioned(replace(before, state=State.HELD, reason=Reason.LOST))


@pytest.mark.parametrize(
    "still",
    [{"needs_open": 1}, {"wake_at": NOW.steady + 1}, {"asked": spec(run_at=NOW.wall + 1)}],
    ids=["needs", "backoff", "run_at"],
)
def test_release_when_something_still_holds_the_job_then_it_waits(still: dict[str, Any]) -> None:
    after = step(job(State.HELD, **still), None, ev.Release(), NOW)

    assert after == Transitioned(job(State.WAITING, **still))


def test_release_when_nothing_holds_the_job_then_it_keeps_budgets_and_is_queued() -> None:
    after = step(job(State.HELD, failures=2, orphanings=3, attempts=5, expires_at=9), None, ev.Release(), NOW)

    assert after == Transitioned(job(State.QUEUED, failures=2, orphanings=3, attempts=5, expires_at=9))


def test_release_when_the_job_is_poison_then_its_unseen_ends_are_counted_afresh() -> None:
    before = job(State.HELD, reason=Reason.POISON, failures=2, orphanings=3, attempts=5)

    assert step(before, None, ev.Release(), NOW) == Transitioned(job(State.QUEUED, failures=2, attempts=5))


@pytest.mark.parametrize("event", [ev.Retry(), ev.Restart(yes=True)], ids=["retry", "restart"])
def test_retry_when_the_job_has_ended_then_budgets_needs_and_ttl_start_afresh(event: ev.Event) -> None:
    asked = spec(ttl_ms=50)
    before = job(
        State.FAILED, asked=asked, attempts=4, failures=3, orphanings=2, needs_open=1, exit_code=3, signal=9, wake_at=8
    )

    after = step(before, None, event, NOW)

    assert after == Transitioned(job(State.QUEUED, asked=asked, attempts=4, expires_at=NOW.steady + 50))


def test_retry_when_run_at_is_ahead_then_it_waits_and_the_ttl_does_not_count() -> None:
    asked = spec(run_at=NOW.wall + 1_000, ttl_ms=50)

    after = step(job(State.CANCELLED, asked=asked), None, ev.Retry(), NOW)

    assert after == Transitioned(job(State.WAITING, asked=asked))


@pytest.mark.parametrize("event", [ev.Retry(), ev.Restart(yes=True)])
def test_retry_when_a_person_holds_the_job_then_only_a_release_is_named(event: ev.Event) -> None:
    with pytest.raises(NotAllowed, match="held by a person") as refused:
        step(job(State.HELD, reason=Reason.USER), None, event, NOW)

    assert refused.value.hint == "stoker release 7"


@pytest.mark.parametrize("deadline", [NOW.wall, NOW.wall - 1])
@pytest.mark.parametrize("state", [State.EXPIRED, State.HELD])
def test_retry_when_the_deadline_has_passed_then_it_asks_for_a_new_one(deadline: int, state: State) -> None:
    before = job(state, asked=spec(deadline=deadline), reason=Reason.ORPHANED)

    with pytest.raises(InvalidParams) as refused:
        step(before, None, ev.Retry(), NOW)

    assert refused.value.details["path"] == "deadline"


def test_retry_when_deadline_and_timeout_are_given_then_they_replace_the_old() -> None:
    before = job(State.EXPIRED, asked=spec(deadline=NOW.wall - 1, timeout_ms=5))

    after = step(before, None, ev.Retry(deadline=NOW.wall + 1, timeout_ms=9), NOW)

    assert after.job.spec == spec(deadline=NOW.wall + 1, timeout_ms=9)


def test_retry_when_the_deadline_is_still_ahead_then_it_stays() -> None:
    before = job(State.FAILED, asked=spec(deadline=NOW.wall + 1, timeout_ms=5))

    assert step(before, None, ev.Retry(), NOW).job.spec == before.spec


@pytest.mark.parametrize(("attempts", "expires_at"), [(0, NOW.steady + 7), (1, 5)])
def test_edit_when_the_ttl_changes_before_the_first_start_then_it_counts_from_now(
    attempts: int, expires_at: int
) -> None:
    before = job(State.QUEUED, asked=spec(ttl_ms=5), attempts=attempts, expires_at=5)

    after = step(before, None, ev.Edit(changes={"ttl_ms": 7}, moved_ms=0), NOW)

    assert (after.job.spec.ttl_ms, after.job.expires_at) == (7, expires_at)


def test_event_when_a_person_causes_it_then_it_carries_the_actor() -> None:
    assert ev.Cancel(actor=Actor(1000, "mistyped")).actor == Actor(1000, "mistyped")
    assert ev.Cancel().actor == Actor(None, None)
