"""Rows of `jobs` and `needs`.

Owns the columns of a Spec and a Job: fields by which rows are selected or ordered have columns of their own, the others
are in `policy`, one JSON object. Invariant: a Job that is read back equals the one that was stored, and the checksum of
its Spec still matches.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import NODEFAULT, Struct, field
from msgspec.structs import asdict, fields

from stoker.core.answers import JobStanding
from stoker.core.job.conditions import all_open
from stoker.core.job.model import (
    ExecutionMode,
    Job,
    NeedOn,
    OnOrphan,
    Reason,
    Spec,
    State,
)
from stoker.core.raw_bytes import AnyText
from stoker.store.database import json_array
from stoker.store.strict import strict

_SPEC_COLUMNS = (
    "queue, name, priority, execution_mode, command, args, env_vars, working_dir, max_attempts, backoff_factor, "
    "deadline, ttl_ms, timeout_ms, on_orphan, survive, run_at, supersede_key, hook, hook_change, policy"
)
_NAMED_OTHERWISE = "env"  # its column is env_vars
# The other fields of a Spec are in `policy`, which leaves out those that are as usual: for that they must be the very
# objects that are the defaults of Spec.
_REST = [
    (one.name, one.type, one.default if one.default is not NODEFAULT else field(default_factory=one.default_factory))
    for one in fields(Spec)
    if one.name not in (*_SPEC_COLUMNS.split(", "), _NAMED_OTHERWISE)
]
SpecRemainder = msgspec.defstruct("SpecRemainder", _REST, frozen=True, omit_defaults=True)
# To find damage: a field whose name was changed would be read as if it had its default.
_KnownRemainder = msgspec.defstruct(
    "_KnownRemainder", [], bases=(SpecRemainder,), frozen=True, omit_defaults=True, forbid_unknown_fields=True
)
_remainder = attrgetter(*SpecRemainder.__struct_fields__)
_encode = msgspec.json.Encoder().encode
_policy = msgspec.json.Decoder(SpecRemainder).decode
_known_policy = msgspec.json.Decoder(_KnownRemainder).decode
_args = msgspec.json.Decoder(tuple[AnyText, ...]).decode
_env = msgspec.json.Decoder(dict[str, AnyText]).decode
_text = msgspec.json.Decoder(AnyText).decode
_IS_JSON = ("{", '"')  # a column that begins so is JSON

SPEC_WIDTH = 20
_TRUTHS = ("undecided", "not_needed")
_PLAIN_FIELDS = tuple(name for name in Job.__struct_fields__ if name not in ("spec", *_TRUTHS))
_STATE_FIELDS = (*_PLAIN_FIELDS, *_TRUTHS)  # each has a column of its name
_CHANGING = (
    "state", "reason", "pid", "attempts", "failures", "orphanings", "needs_open", "conditions_open",
    "undecided", "not_needed", "wake_at", "expires_at", "started_at", "finished_at", "exit_code", "signal",
    "checkpoint_floor", "superseded_by",
)  # fmt: skip
_TRUTH = {0: False, 1: True}
_plain_row = attrgetter(*_PLAIN_FIELDS)
COLUMNS = f"{_SPEC_COLUMNS}, {', '.join(_STATE_FIELDS)}"
INSERT = f"INSERT INTO jobs ({COLUMNS}) VALUES ({', '.join('?' * (SPEC_WIDTH + len(_STATE_FIELDS)))})"
UPDATE = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in _CHANGING)} WHERE id = ?"
update_row = attrgetter(*_CHANGING, "id")  # the parameters of UPDATE
REPLACE_SPEC = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in _SPEC_COLUMNS.split(', '))} WHERE id = ?"
UPDATE_SPEC = """
UPDATE jobs SET queue = ?, execution_mode = ?, name = ?, priority = ?, order_key = ?, deadline = ?, ttl_ms = ?,
    timeout_ms = ?, max_attempts = ?, policy = ?, spec_hash = ?
WHERE id = ?
"""
# For each query that may meet an ended job: those that are being purged are gone, although their rows are still there.
NOT_PURGED = "jobs.id NOT IN (SELECT purging_jobs.id FROM purging_jobs)"
BY_IDS = f"SELECT {COLUMNS} FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND {NOT_PURGED}"
STANDINGS = f"""
SELECT id, state, reason, exit_code, signal, superseded_by FROM jobs
WHERE id IN (SELECT value FROM json_each(?)) AND {NOT_PURGED}
"""
OF_WORKFLOWS = f"SELECT {COLUMNS} FROM jobs WHERE workflow_id IN (SELECT value FROM json_each(?)) AND {NOT_PURGED}"
READY = f"""
SELECT {COLUMNS} FROM jobs WHERE queue = ? AND owner_uid = ? AND demand IS ? AND state = 'queued'
    AND (workflow_id IS NULL OR workflow_id NOT IN (SELECT value FROM json_each(?))) ORDER BY order_key, id LIMIT ?
"""
COUNTS = """
SELECT queue, owner_uid, 'queued', demand, count(*) FROM jobs WHERE state = 'queued' GROUP BY queue, owner_uid, demand
UNION ALL
SELECT queue, owner_uid, state, NULL, count(*) FROM jobs WHERE state IN ('waiting', 'held')
GROUP BY queue, state, owner_uid
"""
AHEAD = """
SELECT count(*) FROM (
    SELECT 1 FROM json_each(?) AS demands JOIN jobs ON queue = ? AND owner_uid = ? AND demand IS demands.value
        AND (order_key, jobs.id) < (?, ?)
    WHERE state = 'queued' LIMIT 10000
)
"""
UNFINISHED_OF_KEY = "SELECT id FROM jobs WHERE owner_uid = ? AND supersede_key = ? AND finished_at IS NULL ORDER BY id"
RUNNING_WITHOUT_ATTEMPT = """
SELECT id, attempts FROM jobs WHERE state = 'running'
    AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.job_id = jobs.id AND attempts.ended_at IS NULL)
"""
OPEN_NEEDS = "SELECT needed FROM needs WHERE job_id = ? ORDER BY needed"

INSERT_NEED = "INSERT INTO needs (job_id, needed, on_end) VALUES (?, ?, ?)"
DELETE_NEED = "DELETE FROM needs WHERE job_id = ? AND needed = ?"
DROP_NEEDS = "DELETE FROM needs WHERE job_id = ?"
DEPENDENTS = """
SELECT needs.needed, needs.job_id, needs.on_end FROM needs JOIN jobs ON jobs.id = needs.job_id
WHERE needs.needed = ? AND needs.job_id > ? AND jobs.state IN ('waiting', 'held') ORDER BY needs.job_id LIMIT ?
"""
SKIPPED_BEHIND = f"""
WITH RECURSIVE behind (needed, job_id, on_end) AS (
    SELECT needs.needed, needs.job_id, needs.on_end FROM needs JOIN jobs ON jobs.id = needs.job_id
    WHERE needs.needed IN (SELECT value FROM json_each(?))
        AND jobs.state = 'skipped' AND jobs.reason IN ('dependency', 'not_needed') AND {NOT_PURGED}
    UNION
    SELECT needs.needed, needs.job_id, needs.on_end FROM behind
    JOIN needs ON needs.needed = behind.job_id JOIN jobs ON jobs.id = needs.job_id
    WHERE jobs.state = 'skipped' AND jobs.reason IN ('dependency', 'not_needed') AND {NOT_PURGED}
)
SELECT needed, job_id, on_end FROM behind
"""
NEEDED = "SELECT DISTINCT needed FROM needs JOIN jobs ON jobs.id = needs.job_id WHERE jobs.state IN ('waiting', 'held')"
ENDED_NEEDS = """
SELECT DISTINCT needed FROM needs JOIN jobs ON jobs.id = needs.job_id
JOIN jobs AS other ON other.id = needs.needed
WHERE jobs.state IN ('waiting', 'held') AND other.finished_at IS NOT NULL
"""

# The fields that hashes of the first version cover, in their order. A later field counts only if it differs from its
# default, so that hashes stored by earlier versions stay valid. This list and these defaults never change.
FIRST_HASHED = (
    "command", "working_dir", "args", "env", "stdin", "name", "labels", "queue", "priority", "execution_mode",
    "max_attempts", "base_delay_ms", "backoff_factor", "max_delay_ms", "success_exit_codes", "no_retry_exit_codes",
    "checkpoint_exit_code", "ttl_ms", "deadline", "timeout_ms", "grace_ms", "warn_signal", "warn_before_ms", "notify",
    "heartbeat_ms", "unresponsive_warn_ms", "unresponsive_kill_ms", "run_at", "needs", "on_orphan", "max_orphanings",
    "survive", "resources", "limits", "nice", "max_log_bytes", "traceparent",
)  # fmt: skip
_first_hashed = attrgetter(*FIRST_HASHED)
_HashedSpec = msgspec.defstruct("_HashedSpec", FIRST_HASHED)  # encoded as a dict would be, but faster


def spec_hash(spec: Spec) -> bytes:
    """The checksum of a spec: BLAKE2b-128 of its JSON, without later fields at their defaults."""
    text = _encode(_HashedSpec(*_first_hashed(spec)))
    names, values_of, defaults = _later_fields(type(spec))
    values = values_of(spec)
    if values != defaults:
        later = [(name, value) for name, value, usual in zip(names, values, defaults, strict=True) if value != usual]
        text = text[:-1] + b"," + _encode(dict(later))[1:]
    return hashlib.blake2b(text, digest_size=16).digest()


@cache
def _later_fields(kind: type[Spec]) -> tuple[list[str], Callable[[Spec], tuple[object, ...]], tuple[object, ...]]:
    """Of the fields that the first hashes do not cover: their names, how to read their values, and their defaults."""
    later = [one for one in fields(kind) if one.name not in FIRST_HASHED]
    names = [one.name for one in later]
    defaults = (one.default if one.default_factory is NODEFAULT else one.default_factory() for one in later)
    return names, attrgetter(*names), tuple(defaults)


def is_damaged(job: Job) -> bool:
    """Whether the spec of a job that was read is not the one that was stored, by its checksum."""
    return spec_hash(job.spec) != job.spec_hash


def _policy_of(spec: Spec) -> str:
    return _encode(SpecRemainder(*_remainder(spec))).decode()


def spec_row(job: Job) -> tuple[Any, ...]:
    """The parameters of UPDATE_SPEC: the fields that a person may change."""
    spec = job.spec
    return (
        spec.queue, spec.execution_mode, spec.name, spec.priority, job.order_key, spec.deadline, spec.ttl_ms,
        spec.timeout_ms, spec.max_attempts, _policy_of(spec), job.spec_hash, job.id,
    )  # fmt: skip


def insert_row(job: Job) -> tuple[Any, ...]:
    """The values of COLUMNS, each as it is read again: the journal gets them as they are."""
    return (*spec_values(job.spec), *_plain_row(job), int(job.undecided), int(job.not_needed))


def spec_values(spec: Spec) -> tuple[Any, ...]:
    """The values of the columns of a spec."""
    return (
        spec.queue, spec.name, spec.priority, spec.execution_mode, _text_column(spec.command),
        _encode(spec.args).decode(), _encode(spec.env).decode(), _text_column(spec.working_dir), spec.max_attempts,
        spec.backoff_factor, spec.deadline, spec.ttl_ms, spec.timeout_ms, spec.on_orphan, int(spec.survive),
        spec.run_at, spec.supersede_key, spec.hook, spec.hook_change, _policy_of(spec),
    )  # fmt: skip


def spec_size(spec: Spec) -> int:
    """The bytes of the texts of a spec, without short fields; store/user_sizes.py adds up the same columns."""
    plain = len(_text_column(spec.command).encode()) + len(_text_column(spec.working_dir).encode())
    return plain + len(_encode(spec.args)) + len(_encode(spec.env)) + len(_policy_of(spec).encode())


def need_rows(needs: Mapping[int, Mapping[int, NeedOn]]) -> list[tuple[int, int, str]]:
    """The parameters of INSERT_NEED, one tuple a need."""
    return [(job_id, needed, on.value) for job_id, open_needs in needs.items() for needed, on in open_needs.items()]


def _text_column(text: AnyText) -> str:
    """Plain text as it is; bytes, and text that looks like JSON, as JSON."""
    return text if isinstance(text, str) and not text.startswith(_IS_JSON) else _encode(text).decode()


def _of_text_column(column: str) -> AnyText:
    if not column.startswith(_IS_JSON):
        return column
    try:
        text: AnyText = _text(column)
    except msgspec.DecodeError:  # an earlier version stored every text as it is
        return column
    return text


@strict("jobs")
def from_row(row: Sequence[Any]) -> Job:
    values = dict(zip(_STATE_FIELDS, row[SPEC_WIDTH:], strict=True))
    for name in _TRUTHS:
        values[name] = _TRUTH.get(values[name])
    job = msgspec.convert(values | {"spec": spec_of(row)}, Job)
    if job.conditions_open and job.conditions_open & ~all_open(job.spec.wait_for):
        raise ValueError(f"job {job.id} waits for a condition that it does not have")
    return job


def strict_spec_of(row: Sequence[Any]) -> Spec:
    """As `spec_of`. Raises msgspec.MsgspecError also for a field that this release does not know."""
    return spec_of(row, _known_policy)


def spec_of(row: Sequence[Any], read_policy: Callable[[str], Struct] = _policy) -> Spec:
    """The spec in a row of COLUMNS."""
    (
        queue, name, priority, mode, command, args, env_vars, working_dir, max_attempts, backoff_factor, deadline,
        ttl_ms, timeout_ms, on_orphan, survive, run_at, supersede_key, hook, hook_change, policy,
    ) = row[:SPEC_WIDTH]  # fmt: skip
    return Spec(
        command=_of_text_column(command),
        working_dir=_of_text_column(working_dir),
        args=_args(args),
        env=_env(env_vars),
        name=name,
        queue=queue,
        priority=priority,
        execution_mode=ExecutionMode(mode),
        max_attempts=max_attempts,
        backoff_factor=backoff_factor,
        deadline=deadline,
        ttl_ms=ttl_ms,
        timeout_ms=timeout_ms,
        on_orphan=OnOrphan(on_orphan),
        survive=bool(survive),
        run_at=run_at,
        supersede_key=supersede_key,
        hook=hook,
        hook_change=hook_change,
        **asdict(read_policy(policy)),
    )


def by_ids(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Job]:
    return {job.id: job for job in map(from_row, connection.execute(BY_IDS, (json_array(ids),)))}


def standings(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, JobStanding]:
    """The committed states of the jobs among `ids` that exist."""
    return {
        ident: JobStanding(
            id=ident,
            state=State(state),
            reason=None if reason is None else Reason(reason),
            exit_code=exit_code,
            signal=signal,
            superseded_by=newer,
        )
        for ident, state, reason, exit_code, signal, newer in connection.execute(STANDINGS, (json_array(ids),))
    }


def of_workflows(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Job]:
    return {job.id: job for job in map(from_row, connection.execute(OF_WORKFLOWS, (json_array(ids),)))}


def ready(
    connection: sqlite3.Connection, queue: str, owner_uid: int, demand: str | None, barred: Iterable[int], limit: int
) -> list[Job]:
    """The first `limit` queued jobs of a user in a queue with this demand, without steps of barred workflows."""
    rows = connection.execute(READY, (queue, owner_uid, demand, json_array(barred), limit))
    return [from_row(row) for row in rows]


def ahead(connection: sqlite3.Connection, job: Job, demands: Iterable[str | None]) -> int:
    """The number of queued jobs of its user and queue, with these demands, that go before this one; at most 10 000."""
    parameters = (json_array(demands), job.spec.queue, job.owner_uid, job.order_key, job.id)
    return int(connection.execute(AHEAD, parameters).fetchone()[0])


def open_needs(connection: sqlite3.Connection, job_id: int) -> list[int]:
    return [row[0] for row in connection.execute(OPEN_NEEDS, (job_id,))]


class Dependent(Struct, frozen=True):
    needed: int
    job_id: int
    on: NeedOn


def dependents(connection: sqlite3.Connection, needed: int, after: int, limit: int) -> list[Dependent]:
    """The first `limit` jobs after the id `after` that still wait for `needed`."""
    rows = connection.execute(DEPENDENTS, (needed, after, limit))
    return [Dependent(needed, job_id, NeedOn(on)) for needed, job_id, on in rows]


def skipped_behind(connection: sqlite3.Connection, ids: Iterable[int]) -> list[Dependent]:
    """Jobs that were skipped because of `ids`, directly or through other skipped jobs."""
    rows = connection.execute(SKIPPED_BEHIND, (json_array(ids),))
    return [Dependent(needed, job_id, NeedOn(on)) for needed, job_id, on in rows]


def needed(connection: sqlite3.Connection) -> set[int]:
    """Ids of all jobs for which others still wait."""
    return {row[0] for row in connection.execute(NEEDED)}


def unfinished_of_keys(
    connection: sqlite3.Connection, keys: Iterable[tuple[int, str]]
) -> dict[tuple[int, str], list[int]]:
    """By owner and `supersede_key`, the jobs that have not ended."""
    return {pair: [row[0] for row in connection.execute(UNFINISHED_OF_KEY, pair)] for pair in keys}


def running_without_attempt(connection: sqlite3.Connection) -> list[int]:
    """Jobs that are stored as running while no attempt of them is open, which no commit of ours leaves behind."""
    return [row[0] for row in connection.execute(RUNNING_WITHOUT_ATTEMPT)]


def ended_needs(connection: sqlite3.Connection) -> list[int]:
    """Ids of jobs that have ended while others still wait for them: a crash came before these were released."""
    return [row[0] for row in connection.execute(ENDED_NEEDS)]
