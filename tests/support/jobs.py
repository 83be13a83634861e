"""Jobs, attempts and outcomes for tests, each valid as it is made, and strategies that make any of them.

Owns plausible values for the fields that do not matter to a test. `NOW` has different wall and steady times, so that
code which confuses them fails.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from stoker.core.clock import Now
from stoker.core.job.conditions import ConditionGroup, all_open
from stoker.core.job.limits import Bounds, Limits
from stoker.core.job.model import (
    FINAL,
    Attempt,
    ExecutionMode,
    Identity,
    Job,
    Need,
    NeedOn,
    OnOrphan,
    Outcome,
    OutcomeKind,
    Reason,
    Spec,
    State,
    StopReason,
    SupersedeRunning,
    When,
)
from stoker.core.job.run_if import RunIf
from stoker.core.workflow.checkpoint import Checkpoint, CheckpointKind, pack, seal
from stoker.store.jobs import spec_hash

NOW = Now(wall=1_700_000_000_000, steady=1_600_000_000_000)
MAX = 2**63 - 1


def spec(**fields: Any) -> Spec:
    return Spec(**({"command": "/bin/true", "working_dir": "/tmp"} | fields))


def job(state: State = State.QUEUED, *, asked: Spec | None = None, **fields: Any) -> Job:
    """A job in `state`, with the fields that this state needs."""
    of = spec() if asked is None else asked
    must: dict[str, Any] = {}
    if state in FINAL or state is State.HELD:
        must["reason"] = Reason.USER
    if state in FINAL:
        must["finished_at"] = NOW.wall
    values: dict[str, Any] = {
        "id": 7,
        "spec_hash": spec_hash(of),
        "owner_uid": 1000,
        "trace_id": "a" * 32,
        "created_at": NOW.wall,
    }
    return Job(**(values | must | {"spec": of, "state": state} | fields))


def attempt(of: Job | None = None, **fields: Any) -> Attempt:
    """An open attempt of `of`, with the ordinal that the job knows."""
    job_id, ordinal = (7, 1) if of is None else (of.id, max(1, of.attempts))
    values: dict[str, Any] = {"run_id": f"{job_id}.{ordinal}.{ordinal:016x}", "job_id": job_id, "ordinal": ordinal}
    return Attempt(**(values | {"launcher": "1-cafe0000", "created_at": NOW.wall} | fields))


def running(asked: Spec | None = None, stop_reason: StopReason | None = None, **fields: Any) -> tuple[Job, Attempt]:
    """A running job and its open attempt."""
    of = job(State.RUNNING, asked=asked, **({"attempts": 1} | fields))
    return of, attempt(of, stop_reason=stop_reason)


def exited(code: int = 0, **fields: Any) -> Outcome:
    return Outcome(kind=OutcomeKind.EXIT, exit_code=code, **fields)


def outcome(kind: OutcomeKind, **fields: Any) -> Outcome:
    """An outcome of `kind` with the facts that belong to it."""
    facts: dict[OutcomeKind, dict[str, Any]] = {
        OutcomeKind.EXIT: {"exit_code": 0},
        OutcomeKind.SIGNAL: {"signal": 9},
        OutcomeKind.OOM: {"signal": 9},
        OutcomeKind.SPAWN_ERROR: {"error": "No such file or directory"},
        OutcomeKind.EXCEPTION: {"error": "ValueError"},
    }
    return Outcome(kind=kind, **(facts.get(kind, {}) | fields))


def checkpoint(data: bytes, seq: int = 1, **fields: Any) -> Checkpoint:
    """A sealed checkpoint in the chain of workflow 1, as if each one there had its seq as its id."""
    packed = pack(data)
    values: dict[str, Any] = {
        "id": seq,
        "chain": "w1",
        "seq": seq,
        "parent": seq - 1 or None,
        "kind": CheckpointKind.PROGRESS,
        "status": "",
        "at": 0,
        "data": packed.data,
        "size": packed.size,
        "encoding": packed.encoding,
    }
    return seal(Checkpoint(**(values | fields)), packed.digest)


UNSEEN = Outcome(kind=OutcomeKind.UNSEEN)
NEVER_STARTED = Outcome(kind=OutcomeKind.NEVER_STARTED)


# --- anything that can be kept ------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,8}", fullmatch=True)
amounts = st.integers(0, MAX)
positives = st.integers(1, MAX)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


limits = st.builds(
    Limits,
    memory_bytes=maybe(positives),
    cpu_seconds=maybe(positives),
    processes=maybe(positives),
    open_files=maybe(positives),
    file_size_bytes=maybe(positives),
)
specs = st.builds(
    Spec,
    command=texts,
    working_dir=texts,
    args=st.lists(texts, max_size=4).map(tuple),
    env=st.dictionaries(names, texts, max_size=3),
    stdin=maybe(texts),
    name=maybe(texts),
    labels=st.dictionaries(names, texts, max_size=3),
    queue=names,
    priority=st.integers(-10_000, 10_000),
    execution_mode=st.sampled_from(ExecutionMode),
    max_attempts=positives,
    base_delay_ms=amounts,
    backoff_factor=st.floats(1, 1e300),
    max_delay_ms=amounts,
    success_exit_codes=st.lists(st.integers(0, 255), max_size=3).map(tuple),
    no_retry_exit_codes=st.lists(st.integers(0, 255), max_size=3).map(tuple),
    ttl_ms=maybe(positives),
    checkpoint_exit_code=maybe(st.integers(0, 255)),
    notify=st.booleans(),
    heartbeat_ms=maybe(positives),
    unresponsive_warn_ms=positives,
    unresponsive_kill_ms=positives,
    deadline=maybe(amounts),
    timeout_ms=maybe(positives),
    grace_ms=amounts,
    warn_signal=maybe(st.integers(1, 64)),
    warn_before_ms=amounts,
    run_at=maybe(amounts),
    needs=st.lists(st.builds(Need, job=positives, on=st.sampled_from(NeedOn)), max_size=3).map(tuple),
    when=maybe(st.sampled_from(When)),
    run_if=maybe(st.builds(RunIf, text=texts, parameters=st.dictionaries(texts, texts, max_size=1))),
    wait_for=st.sampled_from([None, "event:a", ConditionGroup(all=("event:a", ConditionGroup(any=("job:1",))))]),
    on_orphan=st.sampled_from(OnOrphan),
    max_orphanings=positives,
    survive=st.booleans(),
    resources=st.dictionaries(names, positives, max_size=3),
    rate_key=maybe(texts),
    nice=st.integers(-20, 19),
    supersede_key=maybe(texts),
    secrets=st.lists(texts, max_size=2).map(tuple),
    supersede_running=st.sampled_from(SupersedeRunning),
    debounce_ms=amounts,
    debounce_max_ms=maybe(amounts),
    max_log_bytes=positives,
    limits=limits,
    traceparent=maybe(texts),
)


@st.composite
def jobs(draw: st.DrawFn, idents: st.SearchStrategy[int] = positives) -> Job:
    """Any job that the schema accepts."""
    of = draw(specs)
    state = draw(st.sampled_from(State))
    ended = state in FINAL
    return Job(
        id=draw(idents),
        spec=of,
        spec_hash=spec_hash(of),
        owner_uid=draw(amounts),
        trace_id=draw(texts),
        state=state,
        reason=draw(st.sampled_from(Reason) if ended or state is State.HELD else maybe(st.sampled_from(Reason))),
        attempts=draw(amounts),
        failures=draw(amounts),
        orphanings=draw(amounts),
        needs_open=draw(amounts),
        not_needed=draw(st.booleans()),
        undecided=of.run_if is not None and draw(st.booleans()),
        conditions_open=draw(st.integers(0, all_open(of.wait_for))),
        wake_at=draw(maybe(amounts)),
        expires_at=draw(maybe(amounts)),
        order_key=draw(st.integers(-MAX, MAX)),
        pid=draw(maybe(positives)) if state in (State.RUNNING, State.HELD) else None,
        created_at=draw(amounts),
        started_at=draw(maybe(amounts)),
        finished_at=draw(amounts) if ended else None,
        exit_code=draw(maybe(st.integers(0, 255))),
        signal=draw(maybe(st.integers(1, 64))),
        superseded_by=draw(maybe(positives)),
        debounce_by=draw(maybe(amounts)),
    )


identities = st.builds(
    Identity,
    pid=positives,
    start_ticks=amounts,
    boot_id=texts,
    pid_namespace=amounts,
    pidfs_inode=maybe(amounts),
    cgroup=maybe(texts),
)

# `transient` is advice for the one judgement at the end and is not kept; `ended_at` is the attempt's.
outcomes = st.builds(
    Outcome,
    kind=st.sampled_from(OutcomeKind),
    exit_code=maybe(st.integers(0, 255)),
    signal=maybe(st.integers(1, 64)),
    stopped=st.booleans(),
    error=maybe(texts),
    ended_at=amounts,
    user_ms=maybe(amounts),
    system_ms=maybe(amounts),
    max_rss_kib=maybe(amounts),
    log_bytes=maybe(amounts),
)


@st.composite
def progressed(draw: st.DrawFn, of: Attempt) -> Attempt:
    """`of` in any state that it can have while it is open."""
    return replace(
        of,
        identity=draw(maybe(identities)),
        stop_reason=draw(maybe(st.sampled_from(StopReason))),
        adopted=draw(st.integers(0, 9)),
        started_at=draw(maybe(amounts)),
        bounds=draw(maybe(st.builds(Bounds, cgroup=limits, rlimit=limits))),
    )


@st.composite
def settled(draw: st.DrawFn, of: Attempt) -> Attempt:
    """`of` after its end."""
    end = draw(outcomes)
    return replace(draw(progressed(of)), outcome=end, ended_at=end.ended_at)
