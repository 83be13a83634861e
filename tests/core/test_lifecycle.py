"""The transition table in full, against a table written by hand.

`EXPECTED` names for each state and event where the job goes, or the error that refuses it and changes nothing. The
column `stuck` is a held job whose attempt is still open. test_verdict.py has the meaning of an end.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stoker.core.errors import (
    AlreadyFinished,
    AttemptMayLive,
    ConfirmationNeeded,
    IllegalTransition,
    NotAllowed,
    StokerError,
)
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import TABLE, step
from stoker.core.job.model import (
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
from stoker.core.job.run_if import Decision, RunIf
from stoker.core.job.taken_over import TakenOver
from stoker.core.job.transition import Transitioned
from tests.support.jobs import NOW, attempt, exited, job, running, spec

# A state: the job goes (or stays) there. `no`: NotAllowed. `live`: AttemptMayLive. `done`: AlreadyFinished.
# `bug`: IllegalTransition. `none`: a bug too, there is no attempt it could be about. `-`: cannot be asked (a job that
# ever started has no open need).
EXPECTED = """
                waiting   queued    running   held      stuck  succeeded failed  cancelled expired superseded skipped
Woke            queued    bug       bug       bug       bug    bug       bug     bug       bug     bug        bug
NeedMet         queued    bug       bug       held      -      bug       bug     bug       bug     bug        bug
ConditionMet    queued    bug       bug       held      held   succeeded failed  cancelled expired superseded skipped
Decided         queued    bug       bug       held      held   bug       bug     bug       bug     bug        bug
Unneeded        waiting   bug       bug       held      -      bug       bug     bug       bug     bug        bug
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
Reused          succeeded succeeded bug       bug       bug    bug       bug     bug       bug     bug        bug
Aborted         cancelled cancelled running   cancelled held   bug       bug     bug       bug     bug        bug
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
    "ConditionMet": ev.ConditionMet(number=0),
    "Unneeded": ev.Unneeded(),
    "Decided": ev.Decided(decision=Decision.RUN),
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
    "Reused": ev.Reused(earlier=TakenOver(1, "a", 2)),
    "Aborted": ev.Aborted(),
    "Cancel": ev.Cancel(),
    "Retry": ev.Retry(),
    "Reset": ev.Reset(),
    "Rewired": ev.Rewired(needs=(), when=None, needs_open=0),
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
    """A job in the state of `column`, which waits for nothing except what `event` reports."""
    open_needs = {"NeedMet": 1, "NeedFailed": 1, "Unneeded": 2} if column in ("waiting", "held") else {}
    needs_open = open_needs.get(event, 0)
    state = State.HELD if column == "stuck" else State(column)
    if column in ("running", "stuck"):
        of = job(state, attempts=1, asked=spec(wait_for="event:go"))
        return of, attempt(of)
    of = job(state, attempts=0, needs_open=needs_open, wake_at=NOW.steady if column == "waiting" else None)
    if event == "ConditionMet":
        of = replace(of, spec=spec(wait_for="event:go"), conditions_open=1)
    if event == "Decided":
        of = replace(of, spec=spec(run_if=RunIf(text="true")), undecided=True)
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
def test_restart_when_the_job_is_unsafe_and_yes_is_missing_then_it_is_refused(
    state: State, on_orphan: OnOrphan
) -> None:
    before = job(state, asked=spec(on_orphan=on_orphan), attempts=1)
    live = attempt(before) if state is State.RUNNING else None

    with pytest.raises(ConfirmationNeeded) as asked:
        step(before, live, ev.Restart(), NOW)

    assert asked.value.hint == "stoker restart 7 --yes"


@pytest.mark.parametrize("state", [State.RUNNING, State.FAILED])
def test_restart_when_the_job_is_safe_then_no_confirmation_is_needed(state: State) -> None:
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
