"""The query plans of frequent queries: they use partial indexes and never scan all jobs.

With a million finished jobs a scan would cost a second in every turn. The last test is the control: it shows the plan
of a scan.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from stoker.store import (
    attempts,
    changes,
    checkpoints,
    conditions,
    decisions,
    due,
    hooks,
    job_search,
    jobs,
    keys,
    old_changes,
    retention,
    timeline,
    workflows,
)

GROUP_OF_JOBS, GROUP_OF_WORKFLOWS = retention.of_queue("default"), retention.workflows_named("w")
ENDED_JOBS = retention.ENDED.format(group=GROUP_OF_JOBS.sql, pages=GROUP_OF_JOBS.pages)
NEWEST_JOB = retention.NEWEST_KEPT.format(group=GROUP_OF_JOBS.sql)
ENDED_WORKFLOWS = retention.ENDED.format(group=GROUP_OF_WORKFLOWS.sql, pages=GROUP_OF_WORKFLOWS.pages)
FOUND = f"SELECT id FROM jobs WHERE {job_search.ENDED} AND id BETWEEN ? AND ? ORDER BY id DESC"
ENDED_TOUCHING, OPEN_TOUCHING = timeline.ENDED_TOUCHING.format(owner=""), timeline.OPEN_TOUCHING.format(owner="")
ENDED_OF_OWNER = timeline.ENDED_TOUCHING.format(owner=timeline.OF_OWNER)
OPEN_OF_OWNER = timeline.OPEN_TOUCHING.format(owner=timeline.OF_OWNER)
AT = {"steady": 1, "wall": 1, "limit": 5}

# Statement, parameters, and the index that must answer it.
HOT: list[tuple[str, str, Any, str]] = [
    ("front of a queue", jobs.READY, ("default", 7, None, "[]", 5), "jobs_queued"),
    ("jobs ahead", jobs.AHEAD, ("[null]", "default", 7, 0, 1), "jobs_queued"),
    ("backoffs that end", due.DUE_WAKE, AT, "jobs_wake"),
    ("run_at that came", due.DUE_RUN_AT, AT, "jobs_run_at"),
    ("ttls that passed", due.DUE_TTL, AT, "jobs_expires"),
    ("deadlines that passed", due.DUE_DEADLINE, AT, "jobs_deadline"),
    ("next on the steady clock", due.NEXT_STEADY, AT, "jobs_wake jobs_expires"),
    ("next on the wall", due.NEXT_WALL, AT, "jobs_run_at jobs_deadline"),
    ("jobs by id", jobs.BY_IDS, ("[1]",), "INTEGER PRIMARY KEY"),
    ("steps of a workflow", jobs.OF_WORKFLOWS, ("[1]",), "jobs_workflow"),
    ("newest jobs of a hook", hooks.RUNS, ("h", 5), "jobs_by_hook"),
    ("where a chain ends", checkpoints.HEAD, ("w1",), "sqlite_autoindex_checkpoints_1"),
    ("the last whole context", checkpoints.CONTEXT_SEQ, ("w1", 5), "checkpoints_context"),
    ("what a job saved", checkpoints.PROGRESS, (1, 0, 9, 1), "checkpoints_job"),
    ("live workflows", workflows.LIVE, (), "workflows_live"),
    ("outputs of needs", attempts.OUTPUTS, ("[1]",), "PRIMARY KEY"),
    ("who needs a job", jobs.DEPENDENTS, (1, 0, 9), "needs_needed"),
    ("needs of a job", jobs.OPEN_NEEDS, (1,), "PRIMARY KEY"),
    ("a key", keys.BY_KEY, (0, "k"), "PRIMARY KEY"),
    ("steps that are undecided", decisions.UNDECIDED, (), "jobs_undecided"),
    ("jobs of a supersede key", jobs.UNFINISHED_OF_KEY, (0, "k"), "jobs_superseded"),
    ("known runs", attempts.KNOWN, ('["a"]',), "PRIMARY KEY"),
    ("runs of a job", attempts.OF_JOB, (1,), "PRIMARY KEY"),
    ("open attempts", attempts.OPEN, (), "attempts_open"),
    ("the end of a run", attempts.SETTLE, (None,) * 21 + (1, 1, "a"), "PRIMARY KEY"),
    ("the newest end of a job", attempts.NEWEST_END, (1,), "PRIMARY KEY"),
    ("a change of a job", jobs.UPDATE, (None,) * 18 + (1,), "INTEGER PRIMARY KEY"),
    ("the last change", changes.LAST, (), "changes"),
    ("changes behind a cursor", changes.AFTER, (5, 9, 5), "INTEGER PRIMARY KEY"),
    ("history of a job behind a cursor", changes.OF_JOB_AFTER, (1, 5, 5), "changes_job"),
    ("what watchers of a job are told", changes.AFTER_OF_JOB, (1, 5, 9, 5), "changes_job"),
    ("a page of runs", attempts.PAGE, (1, 5, 5), "PRIMARY KEY"),
    ("where jobs stand", jobs.STANDINGS, ("[1]",), "INTEGER PRIMARY KEY"),
    ("history of a job", changes.OF_JOB, (1,), "changes_job"),
    ("ended jobs", ENDED_JOBS, ("default", 9, 0, 0, "[]", "[]", 9), "jobs_ended"),
    ("the newest ended job", NEWEST_JOB, ("default", 9), "jobs_ended"),
    ("ended workflows", ENDED_WORKFLOWS, ("w", 9, 0, 0, "[]", "[]", 9), "workflows_ended"),
    ("open jobs with needs", retention.WITH_NEEDS, (0, 9), "jobs_with_needs"),
    ("old keys", retention.FORGET_KEYS, (0, 9), "idempotency_purged"),
    ("keys of jobs", retention.MARK_KEYS, (0, "[]"), "idempotency_job"),
    ("attempts of purged jobs", retention.DELETE_ATTEMPTS, ("[1]", 9), "PRIMARY KEY"),
    ("needs of purged jobs", retention.DELETE_NEEDS, ("[1]", 9), "needs_needed"),
    ("sizes of changes", old_changes.SIZES, (1, 5), "INTEGER PRIMARY KEY"),
    ("who waits for an event", conditions.WAITERS, ("event:a", 0, 9, 1, 9), "conditions_waiting"),
    ("how far waiters were examined", conditions.NEXT_ROWS, ("event:a", 0, 9, 9), "conditions_waiting"),
    ("who waits for an end", conditions.DEPENDING, ("job:1", 0, 9), "conditions_waiting"),
    ("conditions that are met", conditions.CLOSE, (1, 0), "PRIMARY KEY"),
    ("events that are kept", conditions.KEPT, ("a", 0, 1, 9), "events_kept"),
    ("kept events of a name", conditions.KEPT_OF_NAME, (1, "a", 0), "events_kept"),
    ("kept events of a user", conditions.KEPT_OF_OWNER, (1, 0), "events_kept_of_owner"),
    ("kept events that are replaced", conditions.REPLACE_KEPT, (1, "a", 9, 9), "events_kept"),
    ("the event of a key", conditions.BY_KEY, (1, "k", 0), "events_keyed"),
    ("the key of an older event", conditions.FREE_KEY, (1, "k", 0), "events_keyed"),
    ("events of a job", conditions.GIVEN, (1,), "PRIMARY KEY"),
    ("events to go on with", conditions.UNDELIVERED, (), "events_undelivered"),
    ("conditions of purged jobs", retention.DELETE_CONDITIONS, ("[1]", 9), "PRIMARY KEY"),
    ("events of purged jobs", retention.DELETE_JOB_EVENTS, ("[1]", 9), "PRIMARY KEY"),
    ("attempts that touched a time", ENDED_TOUCHING, (1, 0, 9, 9, "a", 5, 9), "attempts_touching"),
    ("attempts of a user in a time", ENDED_OF_OWNER, (1, 0, 9, 9, "a", 5, 7, 9), "attempts_touching"),
    ("open attempts that touched a time", OPEN_TOUCHING, (9, 9, "a", 9), "attempts_open"),
    ("open attempts of a user in a time", OPEN_OF_OWNER, (9, 9, "a", 7, 9), "attempts_open"),
    ("attempts of a timeline", timeline.TIMELINE, ("[]",), "PRIMARY KEY"),
    ("what failed last", timeline.FAILED_LAST, (None, 9), "jobs_failed"),
    ("ends of the last hour", timeline.ENDS_SINCE, (1, 9, None), "jobs_by_end"),
    ("ended jobs of a state", FOUND, ("failed", "q", 1, 9), "jobs_found"),
    ("queues with ended jobs", job_search.NEXT_QUEUE, ("failed", ""), "jobs_found"),
    ("the first open job", job_search.FIRST_OPEN, (), "jobs_queued jobs_idle attempts_open"),
    ("counts of live jobs", jobs.COUNTS, (), "jobs_queued jobs_idle"),
]


def plan(connection: sqlite3.Connection, statement: str, parameters: Any) -> list[str]:
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]


def walks(plan_of: list[str]) -> list[str]:
    """The lines that read a whole table; walking a partial index reads only live rows."""
    whole = ("SCAN jobs", "SCAN attempts", "SCAN needs", "SCAN idempotency")
    return [line for line in plan_of if line.startswith(whole) and "INDEX" not in line]


@pytest.mark.parametrize(("_what", "statement", "parameters", "index"), HOT, ids=[what for what, *_ in HOT])
def test_plan_when_a_hot_question_is_asked_then_an_index_answers_it(
    planned: sqlite3.Connection, _what: str, statement: str, parameters: Any, index: str
) -> None:
    steps = plan(planned, statement, parameters)

    assert walks(steps) == []
    assert all(name in " ".join(steps) for name in index.split()), steps


@pytest.mark.parametrize(
    "statement",
    [jobs.READY, due.DUE_WAKE, due.NEXT_STEADY, due.NEXT_WALL, attempts.OF_JOB, changes.AFTER, ENDED_JOBS, NEWEST_JOB],
)
def test_plan_when_order_matters_then_nothing_is_sorted(planned: sqlite3.Connection, statement: str) -> None:
    parameters = {jobs.READY: ("q", 7, None, "[]", 1), attempts.OF_JOB: (1,), changes.AFTER: (1, 1, 1)}
    parameters |= {ENDED_JOBS: ("q", 9, 0, 0, "[]", "[]", 9), NEWEST_JOB: ("q", 9)}

    assert not any("TEMP B-TREE" in line for line in plan(planned, statement, parameters.get(statement, AT)))


def test_indexes_when_every_hot_plan_is_read_then_each_index_of_jobs_serves_one(database: sqlite3.Connection) -> None:
    names = {name for _, name, unique, *_ in database.execute("PRAGMA index_list(jobs)") if not unique}

    plans = " ".join(line for _, statement, parameters, _ in HOT for line in plan(database, statement, parameters))

    assert {name for name in names if name not in plans} == set()


def test_plan_when_a_question_is_not_about_live_jobs_then_a_walk_would_be_noticed(database: sqlite3.Connection) -> None:
    assert walks(plan(database, "SELECT id FROM jobs WHERE state = 'failed'", ()))
