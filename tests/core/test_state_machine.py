"""Many jobs under a simulated clock: any events, in any order in which they can happen.

Owns a tiny daemon around the pure core: it submits, admits, ends, stops, dies and recovers, and keeps its own account
of the promises. The rules here come from the promises and not from the table. `Tale` records the story of a job and
checks each step against the one before.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.errors import InvalidParams, NotAllowed
from stoker.core.job import events as ev
from stoker.core.job.admission import AdmissionLine, AdmissionQueue, Group, QueuedJob, admit, place
from stoker.core.job.dependencies import need_failed, need_met
from stoker.core.job.lifecycle import step
from stoker.core.job.model import (
    FINAL,
    Attempt,
    Job,
    Need,
    NeedOn,
    OnOrphan,
    Outcome,
    OutcomeKind,
    Queue,
    QueueClass,
    Reason,
    Resource,
    Spec,
    State,
    StopReason,
)
from stoker.core.job.recovery import Action, Fact, Finding, plan, validate
from stoker.core.job.run_if import Decision, RunIf
from stoker.core.job.transition import awaits_decision, submitted
from tests.support.jobs import NEVER_STARTED, NOW, UNSEEN, exited, job

# The states that may follow each state. A job that a person releases waits while something else blocks it (a release
# during a backoff, a retry ahead of `run_at`).
PENDING = {State.QUEUED, State.WAITING}
CANCELLING = (StopReason.CANCEL, StopReason.ABORTED)
STOPPED = {State.HELD, State.CANCELLED, State.EXPIRED, State.SUPERSEDED, State.SKIPPED}
LEAVES_TO: dict[State, set[State]] = {
    State.WAITING: {State.QUEUED, State.FAILED, State.SUCCEEDED} | STOPPED,
    State.QUEUED: {State.RUNNING, State.SUCCEEDED} | STOPPED,
    State.RUNNING: {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.SUPERSEDED, State.HELD} | PENDING,
    State.HELD: {State.CANCELLED, State.FAILED, State.SKIPPED, State.SUPERSEDED} | PENDING,
    State.SUCCEEDED: PENDING,
    State.FAILED: PENDING | {State.SKIPPED},
    State.CANCELLED: PENDING | {State.SKIPPED},
    State.EXPIRED: PENDING | {State.SKIPPED},
    State.SUPERSEDED: PENDING,
    State.SKIPPED: PENDING,
}
SLOTS = 2
RESOURCE = Resource(name="gpu", capacity=2)
QUEUES = [Queue(name="default"), Queue(name="bulk", queue_class=QueueClass.LOW, max_running=1)]
PERSONS_WORD = (ev.Retry, ev.Release, ev.Restart)
MANY_STEPS = 400
LAST_ENDS = [exited(1), UNSEEN, Outcome(kind=OutcomeKind.OOM, signal=9), NEVER_STARTED, exited(0)]


def blocked(of: Job, now: Now) -> bool:
    """Whether a job must still wait, computed without the core."""
    moments = [(of.wake_at, now.steady), (of.spec.run_at, now.wall)]
    return (
        of.needs_open > 0
        or of.undecided
        or of.conditions_open > 0
        or any(moment is not None and moment > clock for moment, clock in moments)
    )


@st.composite
def asks(draw: st.DrawFn, now: Now, jobs: list[int]) -> Spec:
    """Any spec that the intake would take now."""
    ahead = st.sampled_from([None, None, None, 1, 1_000, 100_000])
    deadline, run_at = draw(ahead), draw(ahead)
    needed = draw(st.sampled_from([(), (), (), *((ident,) for ident in jobs), tuple(jobs[-2:])]))
    return Spec(
        command="work",
        working_dir="/",
        queue=draw(st.sampled_from([queue.name for queue in QUEUES])),
        max_attempts=draw(st.integers(1, 4)),
        base_delay_ms=draw(st.sampled_from([0, 1, 1_000])),
        no_retry_exit_codes=(64,),
        ttl_ms=draw(ahead),
        deadline=deadline and now.wall + deadline,
        run_at=run_at and now.wall + run_at,
        on_orphan=draw(st.sampled_from(OnOrphan)),
        max_orphanings=draw(st.integers(1, 3)),
        survive=draw(st.booleans()),
        resources=draw(st.sampled_from([{}, {}, {"gpu": 1}, {"gpu": 2}])),
        run_if=draw(st.sampled_from([None, None, None, RunIf(text="parameters.go == 'yes'")])),
        needs=tuple(Need(job=ident, on=draw(st.sampled_from(NeedOn))) for ident in needed),
    )


ends = st.builds(
    Outcome,
    kind=st.sampled_from(OutcomeKind),
    exit_code=st.sampled_from([0, 1, 64]),
    signal=st.just(9),
    stopped=st.booleans(),
    transient=st.booleans(),
)


class Life(Struct):
    """The history of a job, as promises are about histories."""

    job: Job
    attempt: Attempt | None = None
    highest: int = 0  # ordinal of the newest attempt ever
    open_needs: tuple[Need, ...] = ()
    unseen: bool = False  # the newest end was unseen, and no person has acted since
    seen_failures: int = 0  # since the last command that resets it
    unseen_ends: int = 0


class Host(RuleBasedStateMachine):
    """The rules: everything that a client, a person, a worker, a clock or a crash can do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.lives: dict[int, Life] = {}
        self.served: dict[str, int] = {queue.name: 0 for queue in QUEUES}

    # --- how things happen ---

    def happen(self, life: Life, event: ev.Event) -> bool:
        """Apply an event as the engine does; True when it was not refused."""
        before, live = life.job, life.attempt
        try:
            after = step(before, live, event, self.now)
        except (NotAllowed, InvalidParams):
            assert isinstance(event, tuple(ev.VERBS.values())), "only a person is ever told no"
            return False
        self.check(life, event, after.job, after.attempt)
        if isinstance(event, ev.Dispatched):
            assert after.effects == (ev.Launch(event.attempt),)
        life.job = after.job
        if after.attempt is not None:
            life.attempt = after.attempt if after.attempt.open else None
            life.highest = after.attempt.ordinal
        self.announce(after.effects)
        return True

    def check(self, life: Life, event: ev.Event, job_after: Job, touched: Attempt | None) -> None:
        before, live = life.job, life.attempt
        assert job_after.state is before.state or job_after.state in LEAVES_TO[before.state], (event, before.state)
        if job_after.state in PENDING and job_after.state is not before.state:
            assert (job_after.state is State.WAITING) is blocked(job_after, self.now), event
        if live is not None and touched is not None:
            assert touched.run_id == live.run_id, "an open attempt was replaced"
            assert live.stop_reason in (None, touched.stop_reason), "the first stop reason wins"
        if isinstance(event, ev.Dispatched):
            assert live is None
            assert before.spec.safe or not life.unseen, "an unsafe job starts again after an end that nobody saw"
        if isinstance(event, PERSONS_WORD):
            life.unseen = False
        if isinstance(event, (ev.Retry, ev.Restart)) and live is None:
            life.seen_failures = life.unseen_ends = 0
        if isinstance(event, ev.Release) and before.reason is Reason.POISON:
            life.unseen_ends = 0
        if isinstance(event, ev.Ended) and before.state is State.RUNNING:
            self.account(life, event.outcome, job_after)
        assert (job_after.failures, job_after.orphanings) == (life.seen_failures, life.unseen_ends), event

    def account(self, life: Life, end: Outcome, job_after: Job) -> None:
        """Charge the end by the promises, not by the answer of the code."""
        assert life.attempt is not None
        stop = life.attempt.stop_reason
        seen = end.kind not in (OutcomeKind.UNSEEN, OutcomeKind.NEVER_STARTED)
        effective = stop if end.stopped or not seen else None
        if end.kind is OutcomeKind.NEVER_STARTED:
            assert job_after.state is not State.SUCCEEDED
            life.seen_failures += effective is StopReason.DEADLINE
            return
        if effective in CANCELLING or effective in (StopReason.RESTART, StopReason.SUPERSEDED):
            return
        if effective is StopReason.DEADLINE:
            life.seen_failures += 1
        elif not seen or effective in (StopReason.SHUTDOWN, StopReason.ORPHANED):
            life.unseen = True
            life.unseen_ends += effective is not StopReason.SHUTDOWN
            assert job_after.state is not State.SUCCEEDED
            # Taken again at once; only a wall clock that was set back to before `run_at` makes it wait.
            assert job_after.state is not State.WAITING or blocked(job_after, self.now)
        elif job_after.state is not State.SUCCEEDED:
            life.seen_failures += 1

    def announce(self, effects: Iterable[ev.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ev.ReleaseDependents):
                self.tell_dependents(self.lives[effect.job_id].job)

    def tell_dependents(self, ended: Job) -> None:
        for life in list(self.lives.values()):
            for need in [need for need in life.open_needs if need.job == ended.id]:
                met = need_met(need.on, ended)
                if life.job.final or not life.job.needs_open or met is None:
                    continue
                life.open_needs = tuple(other for other in life.open_needs if other is not need)
                self.happen(life, self.end_of_need(life.job, need, ended, met=met))

    def end_of_need(self, of: Job, need: Need, ended: Job, *, met: bool) -> ev.Event:
        """As the engine does: what harms nothing is decided with the last need."""
        if met and not (of.not_needed and of.needs_open == 1):
            return ev.NeedMet()
        failed = need_failed(need.on, ended)
        if met:
            return replace(failed, reason=Reason.NOT_NEEDED)
        return ev.Unneeded() if failed.reason is Reason.NOT_NEEDED and of.needs_open > 1 else failed

    def pick(self, number: int, *states: State) -> Life | None:
        """Some job in one of `states`, chosen by a drawn number."""
        fitting = [life for life in self.lives.values() if life.job.state in states]
        return fitting[number % len(fitting)] if fitting else None

    # --- the world ---

    @initialize()
    def begin(self) -> None:
        self.now = NOW

    @rule(data=st.data(), number=st.integers(1, 3))
    def submit(self, data: st.DataObject, number: int) -> None:
        for _ in range(number):
            self.submit_one(data)
        self.dispatch(throttled=False)

    def submit_one(self, data: st.DataObject) -> None:
        asked = data.draw(asks(self.now, list(self.lives)))
        open_needs = tuple(need for need in asked.needs if need_met(need.on, self.lives[need.job].job) is None)
        hopeless = [need for need in asked.needs if need_met(need.on, self.lives[need.job].job) is False]
        ident = len(self.lives) + 1
        waits = {"needs_open": 0 if hopeless else len(open_needs), "undecided": asked.run_if is not None}
        fresh = job(State.WAITING, id=ident, asked=asked, **waits)
        life = self.lives[ident] = Life(submitted(fresh, self.now), open_needs=open_needs)
        assert life.job.state in PENDING
        if hopeless:
            self.happen(life, ev.NeedFailed(needed=hopeless[0].job, on=hopeless[0].on))

    @rule(ms=st.sampled_from([0, 1, 999, 1_000, 2_000, 60_000, 4_000_000]), jump=st.integers(-5_000, 5_000))
    def time_passes(self, ms: int, jump: int) -> None:
        """Steady time only grows; the wall clock may be set."""
        self.now = Now(self.now.wall + ms + jump, self.now.steady + ms)
        self.ring()
        self.dispatch(throttled=False)

    def ring(self) -> None:
        """Every limit that is due, asked for as store/due.py does."""
        for life in list(self.lives.values()):
            of = life.job
            if of.state in PENDING and of.spec.deadline is not None and of.spec.deadline <= self.now.wall:
                self.happen(life, ev.DeadlinePassed())
            elif of.state in PENDING and of.expires_at is not None and of.expires_at <= self.now.steady:
                self.happen(life, ev.TtlPassed())
            elif of.state is State.WAITING and not blocked(of, self.now):
                self.happen(life, ev.Woke())
                assert life.job.state is State.QUEUED, "what is due must leave its set, or it is due for ever"
            elif of.state is State.RUNNING and of.spec.deadline is not None and of.spec.deadline <= self.now.wall:
                self.happen(life, ev.DeadlinePassed())

    @rule(decision=st.sampled_from(Decision))
    def conditions_are_decided(self, decision: Decision) -> None:
        self.decide(decision)

    def decide(self, decision: Decision) -> None:
        """Every `if` whose needs have ended."""
        for life in [life for life in self.lives.values() if awaits_decision(life.job)]:
            self.happen(life, ev.Decided(decision=decision))
            assert not life.job.undecided
            assert (decision is Decision.RUN) is not life.job.final

    @rule(throttled=st.booleans())
    def dispatch(self, *, throttled: bool) -> None:
        live = [life for life in self.lives.values() if life.attempt is not None]
        held = sum(life.job.spec.resources.get(RESOURCE.name, 0) for life in live)
        lines = []
        for queue in QUEUES:
            ready = [life.job for life in self.lives.values() if life.job.state is State.QUEUED]
            mine = [
                QueuedJob(of.id, of.order_key, queue.name, of.spec.resources)
                for of in ready
                if of.spec.queue == queue.name
            ]
            running = sum(life.job.spec.queue == queue.name for life in live)
            lanes = [[of for of in mine if of.resources.get(RESOURCE.name, 0) == amount] for amount in range(3)]
            group = Group(sorted((place(lane[0]), lane) for lane in lanes if lane))
            lines.append(
                AdmissionQueue(
                    queue,
                    [AdmissionLine([group], min(map(place, mine), default=None))],
                    running,
                    self.served[queue.name],
                )
            )
        for pick in admit(
            lines,
            SLOTS - len(live),
            {RESOURCE.name: RESOURCE.capacity - held},
            {RESOURCE.name: RESOURCE.capacity},
            throttled=throttled,
        ):
            life = self.lives[pick.id]
            of, ordinal = life.job, life.job.attempts + 1
            assert ordinal == life.highest + 1, "an ordinal is used again"
            opened = Attempt(
                run_id=f"{of.id}.{ordinal}.x", job_id=of.id, ordinal=ordinal, launcher="1-a", created_at=self.now.wall
            )
            self.served[of.spec.queue] += 1
            self.happen(life, ev.Dispatched(attempt=opened))

    @rule(number=st.integers(0, 99), end=ends, luck=st.floats(0, 1, exclude_max=True))
    def end(self, number: int, end: Outcome, luck: float) -> None:
        life = self.pick(number, State.RUNNING)
        if life is not None:
            self.happen(life, ev.Ended(outcome=end, luck=luck))
            assert life.attempt is None

    @rule(number=st.integers(0, 99))
    def launch_is_refused(self, number: int) -> None:
        life = self.pick(number, State.RUNNING)
        if life is not None:
            cancelled = life.attempt is not None and life.attempt.stop_reason in CANCELLING
            otherwise = State.HELD if life.job.superseded_by is None else State.SUPERSEDED
            self.happen(life, ev.Refused(why="log_exists"))
            assert life.job.state is (State.CANCELLED if cancelled else otherwise)

    @rule(number=st.integers(0, 99), reason=st.sampled_from(StopReason))
    def stop(self, number: int, reason: StopReason) -> None:
        life = self.pick(number, State.RUNNING)
        if life is not None:
            self.happen(life, ev.StopWanted(reason=reason))
            assert life.attempt is not None
            assert life.attempt.stop_reason is not None

    @rule(facts=st.lists(st.sampled_from(Fact), min_size=SLOTS, max_size=SLOTS), ms=st.integers(0, 10_000))
    def daemon_dies_and_recovers(self, facts: list[Fact], ms: int) -> None:
        self.now = Now(self.now.wall + ms, self.now.steady + ms)
        rows = [(life.job, life.attempt) for life in self.lives.values() if life.attempt is not None]
        findings = {
            live.run_id: Finding(
                run_id=live.run_id, fact=fact, evidence="drawn", outcome=exited(0) if fact is Fact.ENDED else None
            )
            for (_, live), fact in zip(rows, facts, strict=False)
        }
        planned = plan(rows, findings, epoch=2)  # all were begun by an earlier daemon
        validate(planned, rows)
        for decision in planned.decisions:
            event = {
                Action.SETTLE: ev.Ended(outcome=exited(0)),
                Action.ADOPT: ev.Adopted(),
                Action.STOP: ev.StopWanted(reason=decision.stop_reason or StopReason.ORPHANED),
                Action.REQUEUE: ev.Ended(outcome=NEVER_STARTED),
                Action.UNSEEN: ev.Ended(outcome=UNSEEN),
                Action.HOLD_STUCK: ev.Stuck(),
                Action.WAIT: None,
            }[decision.action]
            if event is not None:
                self.happen(self.lives[decision.job_id], event)

    @rule(number=st.integers(0, 99))
    def worker_can_no_longer_be_proven(self, number: int) -> None:
        life = self.pick(number, State.RUNNING)
        if life is not None:
            self.happen(life, ev.Stuck())
            assert life.attempt is not None

    @rule(number=st.integers(0, 99), ends_by_it=st.booleans(), reason=st.sampled_from(StopReason))
    def stop_takes_its_course(self, number: int, reason: StopReason, *, ends_by_it: bool) -> None:
        life = self.pick(number, State.RUNNING)
        if life is not None:
            self.happen(life, ev.StopWanted(reason=reason))
            end = Outcome(kind=OutcomeKind.SIGNAL, signal=15, stopped=True) if ends_by_it else UNSEEN
            self.happen(life, ev.Ended(outcome=end))

    @rule(number=st.integers(0, 99))
    def stuck_attempt_turns_out_to_be_over(self, number: int) -> None:
        stuck = [life for life in self.lives.values() if life.job.state is State.HELD and life.attempt is not None]
        if stuck:
            life = stuck[number % len(stuck)]
            self.happen(life, ev.Ended(outcome=UNSEEN))
            assert life.attempt is None
            assert life.job.state in (State.HELD, State.CANCELLED, State.SUPERSEDED)

    @rule(number=st.integers(0, 99), stop=st.booleans())
    def a_newer_job_comes(self, number: int, *, stop: bool) -> None:
        """The newer job of its key takes the place of one that has not ended."""
        life = self.pick(number, *(set(State) - FINAL))
        if life is None:
            return
        live = life.attempt
        self.happen(life, ev.Superseded(by=len(self.lives) + 1, stop=stop))
        assert life.job.superseded_by is not None
        assert (life.job.state is State.SUPERSEDED) == (live is None)
        if live is not None and stop:
            assert life.attempt is not None
            assert life.attempt.stop_reason is not None

    @precondition(lambda self: self.lives)
    @rule(number=st.integers(0, 99), verb=st.sampled_from(sorted(ev.VERBS)), yes=st.booleans())
    def person_speaks(self, number: int, verb: str, *, yes: bool) -> None:
        held = [life for life in self.lives.values() if life.job.state is State.HELD]
        heard_of = [*held, *held, *self.lives.values()]
        life = heard_of[number % len(heard_of)]
        before = (life.job, life.attempt)
        event = ev.Restart(yes=yes) if verb == "restart" else ev.VERBS[verb]()

        if not self.happen(life, event):
            assert (life.job, life.attempt) == before, "a refusal changes nothing"
        elif verb in ("retry", "skip", "release", "hold") and before[1] is not None:
            raise AssertionError("a verb went round an attempt that may live")

    # --- what always holds ---

    @invariant()
    def open_attempts_belong_to_running_or_held_jobs(self) -> None:
        for life in self.lives.values():
            assert life.attempt is None or life.job.state in (State.RUNNING, State.HELD)
            assert life.job.state is not State.RUNNING or life.attempt is not None
            assert life.job.attempts == life.highest

    @invariant()
    def ends_carry_their_reason_and_their_time(self) -> None:
        for life in self.lives.values():
            of = life.job
            assert (of.finished_at is not None) == (of.state in FINAL)
            assert (of.reason is not None) == (of.state in FINAL or of.state is State.HELD)
            assert isinstance(of.reason, Reason | None)
            assert of.pid is None or of.state in (State.RUNNING, State.HELD)

    @invariant()
    def a_superseded_job_has_its_last_attempt(self) -> None:
        for life in self.lives.values():
            assert life.job.superseded_by is None or life.job.final or life.attempt is not None
            assert life.job.state is not State.SUPERSEDED or life.attempt is None

    @invariant()
    def budgets_hold(self) -> None:
        for life in self.lives.values():
            of = life.job
            assert of.failures <= of.spec.max_attempts
            assert of.needs_open >= 0
            if of.state in PENDING:
                assert of.failures < of.spec.max_attempts

    @invariant()
    def slots_and_resources_are_never_overdrawn(self) -> None:
        live = [life.job for life in self.lives.values() if life.attempt is not None]
        assert len(live) <= SLOTS
        assert sum(of.spec.resources.get(RESOURCE.name, 0) for of in live) <= RESOURCE.capacity
        assert sum(of.spec.queue == "bulk" for of in live) <= 1

    @invariant()
    def what_waits_is_blocked_or_due(self) -> None:
        for life in self.lives.values():
            of = life.job
            if of.state is State.WAITING and not blocked(of, self.now):
                timed = of.wake_at is not None or of.spec.run_at is not None
                assert timed, f"nothing will ever wake job {of.id}"

    # --- what must come in the end ---

    def teardown(self) -> None:
        """A world that behaves: time passes, there is room, every attempt ends. Then every job reaches an end."""
        for turn in range(MANY_STEPS):
            if all(life.job.final for life in self.lives.values()):
                return
            self.clear_held()
            self.now = Now(self.now.wall + 4_000_000, self.now.steady + 4_000_000)
            self.ring()
            self.decide(Decision.RUN)
            self.dispatch(throttled=False)
            for life in self.lives.values():
                if life.job.state is State.RUNNING:
                    self.happen(life, ev.Ended(outcome=LAST_ENDS[(turn + life.job.id) % len(LAST_ENDS)]))
        still = [(life.job.id, life.job.state) for life in self.lives.values() if not life.job.final]
        raise AssertionError(f"served and served, and never over: {still}")

    def clear_held(self) -> None:
        for life in self.lives.values():
            if life.job.state is State.HELD:
                if life.attempt is not None:
                    self.happen(life, ev.Ended(outcome=UNSEEN))
                self.happen(life, ev.Cancel())


# A busy machine may take minutes for it: it computes all the time, and waits for nothing.
TestHost = pytest.mark.timeout(1_800)(pytest.mark.long(Host.TestCase))
TestHost.settings = settings(max_examples=300, stateful_step_count=50)
