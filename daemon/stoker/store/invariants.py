"""The rules that hold between rows of a database of the current schema, each as a query for the rows that break it.

`integrity.LAWS` are the few that hold in every schema; a backup is checked for those alone. Each rule is asked in one
statement, so in one snapshot: a daemon may run. Invariant: it only reads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from enum import StrEnum

from stoker.store.integrity import LAWS, Law
from stoker.store.jobs import NOT_PURGED, RUNNING_WITHOUT_ATTEMPT
from stoker.store.outbox import NOT_JOURNALED, TABLES


class Invariant(StrEnum):
    """The names of the groups of laws: rows that break laws of one group have the same remedy."""

    LOG = "log"
    OPEN_ATTEMPTS = "open attempts"
    NOT_RUNNING = "not running"
    HOLDS = "holds"
    PURGED = "purged jobs"
    ATTEMPTS = "attempts"
    NEEDS = "needs"
    COUNTERS = "counters"
    WORKFLOWS = "workflows"
    CHAINS = "chains"
    KEYS = "keys"
    SUPERSEDED = "supersede keys"
    QUEUES = "queues"
    SCHEDULES = "schedules"
    SECRETS = "secrets"
    OUTBOX = "outbox"


TWO_OPEN = Law(
    "SELECT job_id, count(*), group_concat(run_id, ', ') FROM attempts NOT INDEXED WHERE ended_at IS NULL"
    " GROUP BY job_id HAVING count(*) > 1",
    "job {0} has {1} open attempts: {2}",
)
WITHOUT_ATTEMPT = Law(
    RUNNING_WITHOUT_ATTEMPT,
    "job {0} is running, but no attempt of it is open (it had {1})",
)
HELD_BEYOND = Law(
    """
SELECT held.key, sum(held.value), coalesce(capacity, 'no'), group_concat(job_id, ', ')
FROM attempts, json_each(holds) AS held LEFT JOIN resources ON resources.name = held.key
WHERE ended_at IS NULL GROUP BY held.key HAVING sum(held.value) > coalesce(capacity, 0)
""",
    "resource {0}: jobs {3} hold {1} of it, its capacity is {2}",
)
NEEDED_MISSING = Law(
    """
SELECT jobs.id, needed FROM jobs JOIN needs ON needs.job_id = jobs.id
WHERE jobs.state IN ('waiting', 'held') AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.id = needed)
""",
    "job {0} waits for job {1}, which does not exist",
)
NEEDS_MISCOUNTED = Law(
    """
SELECT id, needs_open, (SELECT count(*) FROM needs WHERE job_id = id) AS open FROM jobs
WHERE state IN ('waiting', 'queued', 'held') AND needs_open <> open AND open > 0
""",
    "job {0} counts {1} open needs, its rows are {2}",
)
NEEDS_LOST = Law(
    """
SELECT id, needs_open FROM jobs WHERE state IN ('waiting', 'held') AND needs_open > 0
    AND NOT EXISTS (SELECT 1 FROM needs WHERE job_id = id)
""",
    "job {0} waits for {1} jobs, but it is not stored for which",
)
CONDITIONS_UNLIKE_ROWS = Law(
    f"""
SELECT id, conditions_open, (SELECT coalesce(sum(1 << number), 0) FROM conditions WHERE job_id = id) AS stored FROM jobs
WHERE state IN ('waiting', 'held') AND conditions_open <> stored AND {NOT_PURGED}
""",
    "job {0} waits for the conditions {1} (as bits), its rows are {2}",
)
ATTEMPTS_MISCOUNTED = Law(
    f"""
SELECT id, attempts, newest FROM jobs JOIN (
    SELECT job_id, max(ordinal) AS newest FROM attempts GROUP BY job_id
) ON job_id = id WHERE attempts < newest AND {NOT_PURGED}
""",
    "job {0} counts {1} attempts, the newest one is {2}",
)
ATTEMPTS_LOST = Law(
    f"""
SELECT id, attempts, coalesce(newest, 0) FROM jobs LEFT JOIN (
    SELECT job_id, max(ordinal) AS newest FROM attempts GROUP BY job_id
) ON job_id = id WHERE attempts > coalesce(newest, 0) AND {NOT_PURGED}
""",
    "job {0} had {1} attempts, but only those up to {2} are stored",
)
NO_WORKFLOW = Law(
    f"""
SELECT id, step, workflow_id FROM jobs
WHERE workflow_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workflows WHERE workflows.id = workflow_id)
    AND {NOT_PURGED}
""",
    "job {0} is step {1} of workflow {2}, which does not exist",
)
WORKFLOW_ENDED_BEFORE_STEP = Law(
    """
SELECT workflows.id, workflows.state, jobs.id, jobs.step, jobs.state FROM workflows
JOIN jobs ON workflow_id = workflows.id WHERE workflows.finished_at IS NOT NULL AND jobs.finished_at IS NULL
""",
    "workflow {0} is {1}, but its step {3} (job {2}) is {4}",
)
WORKFLOW_UNLIKE_CHANGE = Law(
    """
SELECT id, state, seq, to_state FROM (
    SELECT subject, max(seq) AS seq, to_state FROM changes WHERE kind = 'workflow' AND to_state IS NOT NULL
    GROUP BY subject
) JOIN workflows ON id = CAST(subject AS INTEGER) WHERE state <> to_state
""",
    "workflow {0} is {1}, its last change ({2}) says {3}",
)
CHAIN_WITH_GAP = Law(
    """
SELECT chain, held, first, last, removed FROM (
    SELECT chain, count(*) AS held, min(seq) AS first, max(seq) AS last,
        coalesce((SELECT seq FROM checkpoint_purges WHERE checkpoint_purges.chain = checkpoints.chain), 0) AS removed
    FROM checkpoints GROUP BY chain
) WHERE held <> last - first + 1 OR first > removed + 1
""",
    "chain {0} has {1} checkpoints, from {2} to {3}",
)
KEY_OF_NO_JOB = Law(
    """
SELECT key, owner_uid, job_id FROM idempotency
WHERE purged_at IS NULL AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job_id)
""",
    "idempotency key {0} of user {1} names job {2}, which does not exist",
)

KEY_UNLIKE_CHANGE = Law(
    """
SELECT key, job_id, recorded FROM (
    SELECT key, job_id, (
        SELECT json_extract(payload, '$.key') FROM changes
        WHERE changes.job_id = idempotency.job_id AND from_state IS NULL ORDER BY seq LIMIT 1
    ) AS recorded FROM idempotency WHERE purged_at IS NULL
) WHERE recorded <> key
""",
    "idempotency key {0} names job {1}, which was submitted with the key {2}",
)
TWO_OF_KEY = Law(
    """
SELECT supersede_key, owner_uid, group_concat(id, ', ') FROM jobs
WHERE supersede_key IS NOT NULL AND state IN ('waiting', 'queued') AND finished_at IS NULL
GROUP BY owner_uid, supersede_key HAVING count(*) > 1
""",
    "jobs {2} of user {1} wait with the same supersede key {0}",
)
SUCCESSOR_LOST = Law(
    """
SELECT id, superseded_by FROM jobs AS older WHERE superseded_by IS NOT NULL AND finished_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = older.superseded_by AND jobs.id > older.id)
""",
    "job {0} is superseded by job {1}, which does not exist or is older",
)
QUEUE_LOST = Law(
    """
SELECT 'jobs', queue FROM jobs WHERE finished_at IS NULL AND queue NOT IN (SELECT name FROM queues) GROUP BY queue
UNION SELECT 'changes', subject FROM changes WHERE kind = 'queue' AND subject NOT IN (SELECT name FROM queues)
UNION SELECT 'all daemons', 'default' WHERE NOT EXISTS (SELECT 1 FROM queues WHERE name = 'default')
""",
    "there is no queue {1}, which {0} know of",
)
RESOURCE_LOST = Law(
    """
SELECT DISTINCT subject FROM changes WHERE kind = 'resource' AND subject NOT IN (SELECT name FROM resources)
""",
    "there is no resource {0}, which changes know of",
)
QUEUE_UNLIKE_CHANGE = Law(
    """
SELECT name, seq FROM (
    SELECT subject, max(seq) AS seq, json_extract(payload, '$.queue') AS recorded FROM changes
    WHERE kind = 'queue' GROUP BY subject
) JOIN queues ON name = subject
WHERE json_extract(recorded, '$.queue_class') IS NOT class OR json_extract(recorded, '$.max_running') IS NOT max_running
    OR json_extract(recorded, '$.min_running') IS NOT min_running OR json_extract(recorded, '$.rate') IS NOT rate
    OR json_extract(recorded, '$.max_queued') IS NOT max_queued OR json_extract(recorded, '$.paused') IS NOT paused
    OR json_extract(recorded, '$.defaults') IS NOT json(defaults)
""",
    "queue {0} is not what its last change ({1}) says",
)
RESOURCE_UNLIKE_CHANGE = Law(
    """
SELECT name, capacity, seq, recorded FROM (
    SELECT subject, max(seq) AS seq, json_extract(payload, '$.resource.capacity') AS recorded FROM changes
    WHERE kind = 'resource' GROUP BY subject
) JOIN resources ON name = subject WHERE recorded IS NOT capacity
""",
    "the capacity of resource {0} is {1}, its last change ({2}) says {3}",
)
RATE_UNLIKE_CHANGE = Law(
    """
SELECT subject, seq FROM (
    SELECT subject, max(seq) AS seq, json_extract(payload, '$.rate') AS recorded FROM changes
    WHERE kind = 'rate' GROUP BY subject
) LEFT JOIN rates ON key = subject WHERE recorded IS NOT rate
""",
    "the rate of key {0} is not what its last change ({1}) says",
)
# The newest change of each schedule that a person or the settings file made; `recorded` is NULL if that removed it.
SCHEDULE_CHANGES = """
SELECT subject, max(seq) AS seq, json_extract(payload, '$.schedule') AS recorded FROM changes
WHERE kind = 'schedule' AND cause IN ('set', 'configured', 'paused', 'resumed', 'removed') GROUP BY subject
"""
SCHEDULE_LOST = Law(
    f"""
SELECT subject, seq FROM ({SCHEDULE_CHANGES}) WHERE recorded IS NOT NULL AND subject NOT IN (SELECT name FROM schedules)
""",
    "there is no schedule {0}, which its last change ({1}) knows of",
)
SCHEDULE_REMOVED = Law(
    f"SELECT subject, seq FROM ({SCHEDULE_CHANGES}) WHERE recorded IS NULL AND subject IN (SELECT name FROM schedules)",
    "schedule {0} is there, but its last change ({1}) removed it",
)
SCHEDULE_UNLIKE_CHANGE = Law(
    f"""
SELECT name, seq FROM ({SCHEDULE_CHANGES}) JOIN schedules ON name = subject
WHERE recorded IS NOT NULL AND (
    json_extract(recorded, '$.timing') IS NOT timing OR json_extract(recorded, '$.zone') IS NOT zone
    OR json_extract(recorded, '$.misfire') IS NOT misfire OR json_extract(recorded, '$.overlap') IS NOT overlap
    OR json_extract(recorded, '$.paused') IS NOT paused OR json_extract(recorded, '$.job') IS NOT job
    OR json_extract(recorded, '$.flow') IS NOT flow OR json_extract(recorded, '$.part') IS NOT part
)
""",
    "schedule {0} is not what its last change ({1}) says",
)
ENTRY_OF_NO_TABLE = Law(
    f"""
SELECT place, count(*) FROM outbox WHERE place NOT IN (SELECT name FROM ({TABLES})) OR place IN {NOT_JOURNALED}
GROUP BY place
""",
    "{1} entries of the outbox name the table {0}, which does not exist or is not journaled: the journal lacks rows",
)
SECRET_OF_NO_JOB = Law(
    "SELECT job_id, name FROM secrets WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job_id)",
    "secret {1} is of job {0}, which does not exist",
)
SECRET_NOT_ASKED_FOR = Law(
    """
SELECT job_id, secrets.name FROM secrets JOIN jobs ON jobs.id = job_id
WHERE secrets.name NOT IN (SELECT value FROM json_each(policy, '$.secrets'))
""",
    "secret {1} is of job {0}, which does not ask for it",
)
PURGED_WHILE_OPEN = Law(
    "SELECT id, state FROM jobs WHERE id IN (SELECT id FROM purging_jobs) AND finished_at IS NULL",
    "job {0} is being removed, but it is {1}",
)

RULES: dict[Invariant, tuple[Law, ...]] = {
    Invariant.LOG: LAWS[:2],
    Invariant.OPEN_ATTEMPTS: (*LAWS[2:], TWO_OPEN),
    Invariant.NOT_RUNNING: (WITHOUT_ATTEMPT,),
    Invariant.HOLDS: (HELD_BEYOND,),
    Invariant.PURGED: (PURGED_WHILE_OPEN,),
    Invariant.ATTEMPTS: (ATTEMPTS_LOST,),
    Invariant.NEEDS: (NEEDED_MISSING, NEEDS_LOST, CONDITIONS_UNLIKE_ROWS),
    Invariant.COUNTERS: (NEEDS_MISCOUNTED, ATTEMPTS_MISCOUNTED),
    Invariant.WORKFLOWS: (NO_WORKFLOW, WORKFLOW_ENDED_BEFORE_STEP, WORKFLOW_UNLIKE_CHANGE),
    Invariant.CHAINS: (CHAIN_WITH_GAP,),
    Invariant.KEYS: (KEY_OF_NO_JOB, KEY_UNLIKE_CHANGE),
    Invariant.SUPERSEDED: (TWO_OF_KEY, SUCCESSOR_LOST),
    Invariant.QUEUES: (QUEUE_LOST, QUEUE_UNLIKE_CHANGE, RESOURCE_LOST, RESOURCE_UNLIKE_CHANGE, RATE_UNLIKE_CHANGE),
    Invariant.SECRETS: (SECRET_OF_NO_JOB, SECRET_NOT_ASKED_FOR),
    Invariant.OUTBOX: (ENTRY_OF_NO_TABLE,),
    Invariant.SCHEDULES: (SCHEDULE_LOST, SCHEDULE_REMOVED, SCHEDULE_UNLIKE_CHANGE),
}


def broken(connection: sqlite3.Connection, rule: Invariant) -> Iterator[str]:
    """A sentence for each row that breaks a rule. Raises sqlite3.Error."""
    for law in RULES[rule]:
        for row in connection.execute(law.broken):
            yield law.evidence.format(*row)
