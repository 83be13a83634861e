"""The recovery plan: every fact with every kind of job, against a table, and every invalid plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stoker.core.job import events as ev
from stoker.core.job.lifecycle import step
from stoker.core.job.model import Attempt, Identity, Job, OnOrphan, State, StopReason
from stoker.core.job.recovery import (
    NEVER_STARTED,
    UNSEEN,
    Action,
    Fact,
    Finding,
    PlanInvalid,
    RecoveryDecision,
    RecoveryPlan,
    RowInvalid,
    event_of,
    foresee,
    plan,
    validate,
)
from tests.support.jobs import NOW, attempt, exited, job, spec

# Columns: the job survives or not, and whether its stop was already wanted. An earlier daemon had begun each of them.
EXPECTED = """
              unsurviving    surviving   unsurviving+stop surviving+stop
ended         settle         settle      settle           settle
owned         stop/orphaned  adopt       stop/cancel      stop/cancel
orphaned      stop/orphaned  adopt       stop/cancel      stop/cancel
never_started requeue        requeue     requeue          requeue
gone          unseen         unseen      unseen           unseen
silent        wait           wait        wait             wait
unprovable    hold_stuck     hold_stuck  hold_stuck       hold_stuck
"""
# Where this daemon itself had begun it, and has only lost a connection or a launcher, one row is another.
EXPECTED_OF_OWN = EXPECTED.replace(
    "owned         stop/orphaned  adopt       stop/cancel      stop/cancel",
    "owned         keep           keep        stop/cancel      stop/cancel",
)
EPOCH = 5


def cells() -> list[tuple[int, Fact, str, str]]:
    return [
        (epoch, Fact(row[0]), column, cell)
        for epoch, expected in ((EPOCH - 1, EXPECTED), (EPOCH, EXPECTED_OF_OWN))
        for header, *rows in [[line.split() for line in expected.strip().splitlines()]]
        for row in rows
        for column, cell in zip(header, row[1:], strict=True)
    ]


def open_run(
    ident: int = 7, *, survive: bool = False, stop: StopReason | None = None, epoch: int = EPOCH - 1
) -> tuple[Job, Attempt]:
    of = job(State.RUNNING, id=ident, asked=spec(survive=survive), attempts=1)
    return of, attempt(of, stop_reason=stop, launcher=f"{epoch}-cafe0000")


def process(pid: int) -> Identity:
    return Identity(pid=pid, start_ticks=1, boot_id="b", pid_namespace=1)


def finding(of: Attempt, fact: Fact, identity: Identity | None = None) -> Finding:
    end = exited(0) if fact is Fact.ENDED else None
    return Finding(run_id=of.run_id, fact=fact, evidence="as seen", outcome=end, identity=identity)


def decided(row: tuple[Job, Attempt], fact: Fact, identity: Identity | None = None) -> RecoveryDecision:
    (decision,) = plan([row], {row[1].run_id: finding(row[1], fact, identity)}, EPOCH).decisions
    return decision


@pytest.mark.parametrize(("epoch", "fact", "column", "cell"), cells())
def test_plan_when_a_fact_meets_a_promise_then_the_table_of_the_design_holds(
    epoch: int, fact: Fact, column: str, cell: str
) -> None:
    promise, _, stopped = column.partition("+")
    row = open_run(survive=promise == "surviving", stop=StopReason.CANCEL if stopped else None, epoch=epoch)

    decision = decided(row, fact)

    action, _, reason = cell.partition("/")
    assert decision.action is Action(action)
    assert decision.stop_reason == (StopReason(reason) if reason else None)
    assert (decision.run_id, decision.job_id, decision.why) == (row[1].run_id, 7, "as seen")
    assert decision.resumed is bool(stopped)
    planned = RecoveryPlan((decision,))
    validate(planned, [row])
    assert [each for each in Action if planned.count(each)] == [decision.action]


def test_expectations_when_counted_then_every_fact_and_every_action_is_there() -> None:
    assert {fact for _, fact, _, _ in cells()} == set(Fact)
    assert {Action(cell.partition("/")[0]) for *_, cell in cells()} == set(Action)


@given(st.lists(st.tuples(st.sampled_from(Fact), st.booleans(), st.none() | st.sampled_from(StopReason)), max_size=8))
def test_plan_when_any_facts_are_found_then_it_is_valid_and_counts_each_attempt_once(
    facts: list[tuple[Fact, bool, StopReason | None]],
) -> None:
    rows = [open_run(ident, survive=survive, stop=stop) for ident, (_, survive, stop) in enumerate(facts, 1)]
    findings = {
        row[1].run_id: finding(row[1], fact, process(row[0].id)) for row, (fact, _, _) in zip(rows, facts, strict=True)
    }

    planned = plan(rows, findings, EPOCH)

    validate(planned, rows)
    assert [decision.run_id for decision in planned.decisions] == [live.run_id for _, live in rows]
    assert sum(planned.count(action) for action in Action) == len(rows)


def test_plan_when_a_fact_is_missing_then_nothing_is_guessed() -> None:
    with pytest.raises(KeyError):
        plan([open_run()], {}, EPOCH)


def test_validate_when_there_is_nothing_open_then_the_empty_plan_is_fine() -> None:
    validate(RecoveryPlan(), [])


def test_validate_when_an_attempt_is_forgotten_then_the_plan_is_refused() -> None:
    row = open_run()

    with pytest.raises(PlanInvalid, match=rf"exactly one decision.*{row[1].run_id}"):
        validate(RecoveryPlan(), [row])


def test_validate_when_an_attempt_is_decided_twice_then_the_plan_is_refused() -> None:
    row = open_run()
    decision = decided(row, Fact.GONE)

    with pytest.raises(PlanInvalid, match=rf"exactly one decision.*{row[1].run_id}"):
        validate(RecoveryPlan((decision, decision)), [row])


def test_validate_when_a_decision_is_for_nothing_open_then_the_plan_is_refused() -> None:
    with pytest.raises(PlanInvalid, match="exactly one decision"):
        validate(RecoveryPlan((decided(open_run(), Fact.GONE),)), [])


@pytest.mark.parametrize("facts", [(Fact.OWNED, Fact.ORPHANED), (Fact.ORPHANED, Fact.ORPHANED)])
@pytest.mark.parametrize("survive", [True, False])
def test_validate_when_one_process_is_claimed_twice_then_the_plan_is_refused(
    facts: tuple[Fact, Fact], *, survive: bool
) -> None:
    rows = [open_run(1, survive=survive), open_run(2, survive=survive)]
    decisions = tuple(decided(row, fact, process(44)) for row, fact in zip(rows, facts, strict=True))

    with pytest.raises(PlanInvalid, match="process 44 is claimed by 1"):
        validate(RecoveryPlan(decisions), rows)


def test_validate_when_the_same_pid_is_another_process_then_the_plan_is_fine() -> None:
    rows = [open_run(1), open_run(2)]
    old, new = process(44), replace(process(44), start_ticks=2)
    decisions = (decided(rows[0], Fact.OWNED, old), decided(rows[1], Fact.OWNED, new))

    validate(RecoveryPlan(decisions), rows)


@pytest.mark.parametrize("action", [Action.STOP, Action.ADOPT])
@pytest.mark.parametrize("fact", [fact for fact in Fact if fact not in (Fact.OWNED, Fact.ORPHANED)])
def test_validate_when_an_unproven_worker_would_be_touched_then_the_plan_is_refused(action: Action, fact: Fact) -> None:
    row = open_run()
    decision = replace(decided(row, fact), action=action)

    with pytest.raises(PlanInvalid, match=f"{action.value} needs a proven worker, but the fact is {fact.value}"):
        validate(RecoveryPlan((decision,)), [row])


@pytest.mark.parametrize("fact", [fact for fact in Fact if fact is not Fact.NEVER_STARTED])
def test_validate_when_an_attempt_never_started_then_that_was_proven(fact: Fact) -> None:
    row = open_run()
    decision = replace(decided(row, fact), action=Action.REQUEUE)

    with pytest.raises(PlanInvalid, match="requeue needs proof that it never started"):
        validate(RecoveryPlan((decision,)), [row])


def test_validate_when_an_end_without_outcome_is_settled_then_the_plan_is_refused() -> None:
    row = open_run()
    decision = replace(decided(row, Fact.GONE), action=Action.SETTLE)

    with pytest.raises(PlanInvalid, match="settle needs an outcome"):
        validate(RecoveryPlan((decision,)), [row])


# --- events, and what comes of them ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact", "survive", "stop", "event"),
    [
        (Fact.ENDED, False, None, ev.Ended(outcome=exited(0))),
        (Fact.OWNED, True, None, ev.Adopted()),
        (Fact.OWNED, False, None, ev.StopWanted(reason=StopReason.ORPHANED)),
        (Fact.OWNED, True, StopReason.CANCEL, None),
        (Fact.NEVER_STARTED, False, None, ev.Ended(outcome=NEVER_STARTED)),
        (Fact.GONE, False, None, ev.Ended(outcome=UNSEEN)),
        (Fact.UNPROVABLE, False, None, ev.Stuck()),
        (Fact.SILENT, False, None, None),
    ],
)
def test_event_when_a_decision_is_followed_then_it_is_an_ordinary_one_or_null(
    fact: Fact, stop: StopReason | None, event: ev.Event | None, *, survive: bool
) -> None:
    assert event_of(decided(open_run(survive=survive, stop=stop), fact)) == event


@pytest.mark.parametrize(
    ("fact", "on_orphan", "stop", "expected"),
    [
        (Fact.ENDED, "fail", None, "succeeded"),
        (Fact.NEVER_STARTED, "fail", None, "queued"),
        (Fact.GONE, "fail", None, "failed/orphaned"),
        (Fact.GONE, "requeue", None, "queued"),
        (Fact.GONE, "hold", None, "held/orphaned"),
        (Fact.ORPHANED, "requeue", None, "queued"),
        (Fact.ORPHANED, "fail", None, "failed/orphaned"),
        (Fact.ORPHANED, "requeue", StopReason.CANCEL, "cancelled/user"),
        (Fact.UNPROVABLE, "requeue", None, "held/stuck"),
        (Fact.SILENT, "requeue", None, "running"),
    ],
)
def test_foresight_when_a_decision_is_given_then_the_job_is_as_it_will_be(
    fact: Fact, on_orphan: str, stop: StopReason | None, expected: str
) -> None:
    of = job(State.RUNNING, asked=spec(on_orphan=OnOrphan(on_orphan)), attempts=1)
    row = (of, attempt(of, stop_reason=stop))

    after = foresee(*row, decided(row, fact), NOW)

    state, _, reason = expected.partition("/")
    assert after.state is State(state)
    assert not reason or after.reason == reason


Row = tuple[Job, Attempt]
LOOKS = st.lists(
    st.tuples(
        st.sampled_from(Fact),
        st.booleans(),
        st.none() | st.sampled_from(StopReason),
        st.sampled_from([State.RUNNING, State.HELD]),
        st.sampled_from(OnOrphan),
    ),
    max_size=8,
)


def recovered(rows: list[Row], findings: dict[str, Finding]) -> tuple[list[Row], list[ev.Effect]]:
    """The attempts that are open after a recovery, and the plan for them."""
    left: list[Row] = []
    effects: list[ev.Effect] = []
    planned = plan(rows, findings, EPOCH)
    validate(planned, rows)
    for (of, live), decision in zip(rows, planned.decisions, strict=True):
        event = event_of(decision)
        after = step(of, live, event, NOW) if event is not None else None
        effects += after.effects if after is not None else ()
        of, live = (after.job, after.attempt or live) if after is not None else (of, live)  # noqa: PLW2901
        if live.open:
            left.append((of, replace(live, adopted=0)))  # how often it was adopted is all that may grow
    return left, effects


@given(LOOKS)
def test_recovery_when_it_meets_the_same_facts_again_then_it_changes_nothing_more(
    looks: list[tuple[Fact, bool, StopReason | None, State, OnOrphan]],
) -> None:
    rows, findings = [], {}
    for ident, (fact, survive, stop, state, on_orphan) in enumerate(looks, 1):
        of = job(state, id=ident, asked=spec(survive=survive, on_orphan=on_orphan), attempts=1)
        live = attempt(of, stop_reason=stop)
        rows.append((of, live))
        findings[live.run_id] = finding(live, fact, process(ident))

    once, _ = recovered(rows, findings)
    twice, effects = recovered(once, findings)

    assert twice == once
    assert not [effect for effect in effects if isinstance(effect, ev.Launch | ev.Settled)]


@pytest.mark.parametrize(("count", "message"), [(1, "is queued, but its attempt 1"), (7, "; and 2 more")])
def test_validate_when_a_row_contradicts_itself_then_it_is_named_and_kept(count: int, message: str) -> None:
    broken = job(State.QUEUED, attempts=1)
    rows = [(broken, attempt(broken, run_id=f"7.1.{number:016x}")) for number in range(count)]

    with pytest.raises(RowInvalid, match=message):
        validate(RecoveryPlan(()), rows)

    (decision,) = plan([rows[0]], {rows[0][1].run_id: finding(rows[0][1], Fact.GONE)}, EPOCH).decisions
    assert foresee(*rows[0], decision, NOW) == broken


def test_validate_when_a_kept_attempt_has_no_launcher_then_the_plan_is_refused() -> None:
    of = job(State.RUNNING, attempts=1)
    row = of, attempt(of)
    kept = replace(decided(row, Fact.GONE), action=Action.KEEP)

    with pytest.raises(PlanInvalid, match="keep needs a launcher"):
        validate(RecoveryPlan((kept,)), [row])
