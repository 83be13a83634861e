"""The rows that a turn reads before it decides, in one hop into the reader's thread.

Only what was asked for is read: a turn about jobs in memory asks for nothing and costs no hop.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence

from msgspec import Struct, field

from stoker.core.clock import Now
from stoker.core.job.model import Job
from stoker.core.named_events import NamedEvent
from stoker.core.workflow.checkpoint import Head, chain_of
from stoker.store import attempts, checkpoints, conditions, keys, retention, workflows
from stoker.store import jobs as job_rows
from stoker.store.conditions import WaiterPortion, WaitersWanted
from stoker.store.due import Due, due
from stoker.store.jobs import Dependent
from stoker.store.keys import Keyed
from stoker.store.workflows import StoredWorkflow

LaneKey = tuple[int, str | None]  # a user, and what the jobs ask for of resources

# For one turn: each job becomes a step, and turns must be short.
DUE_LIMIT = 500
DEPENDENTS_LIMIT = 200
ENDED_WORKFLOWS_LIMIT = 16  # each may have 10 000 steps, which stay in memory until the commit


class Wanted(Struct):
    """The rows wanted for one turn, which takes place at `now`."""

    now: Now
    ids: set[int] = field(default_factory=set)
    keys: set[tuple[int, str]] = field(default_factory=set)
    supersede_keys: set[tuple[int, str]] = field(default_factory=set)
    dependents_of: dict[int, int] = field(default_factory=dict)  # needed job: after which dependent
    skipped_behind: set[int] = field(default_factory=set)
    run_ids: set[str] = field(default_factory=set)
    workflows: set[int] = field(default_factory=set)
    chains: set[str] = field(default_factory=set)
    open_runs: Container[int] = ()  # jobs that are in memory, so they need not be read
    live_workflows: Container[int] = ()  # likewise
    lanes: list[tuple[str, LaneKey, int]] = field(default_factory=list)  # queue, user and demand, how many jobs
    barred: Collection[int] = ()  # workflows whose steps are left out of the lanes
    waiters: dict[WaitersWanted, None] = field(default_factory=dict)  # in the order in which they were asked for
    # By name and user, how many jobs begin to wait for it.
    kept_events: Counter[tuple[str, int]] = field(default_factory=Counter)
    events: set[int] = field(default_factory=set)
    event_keys: set[tuple[int, str]] = field(default_factory=set)
    kept_counts: set[tuple[int, str]] = field(default_factory=set)  # whose events, and their name
    workflow_ends: set[int] = field(default_factory=set)
    # Of several messages: there is another turn for the others if there are too many ended workflows.
    divisible: bool = False
    due: bool = False
    to_purge: retention.Candidates | None = None

    def __bool__(self) -> bool:
        asked = (self.ids, self.keys, self.supersede_keys, self.dependents_of, self.run_ids, self.lanes, self.due)
        of_events = (self.events, self.kept_events, self.event_keys, self.kept_counts, self.waiters)
        of_workflows = (self.workflows, self.workflow_ends, self.chains)
        return any((*asked, *of_events, *of_workflows, self.to_purge is not None))


class Portion(Struct, frozen=True):
    """Some of the jobs that wait for one; `last`: the cursor of the next portion, `more`: whether there may be one."""

    dependents: Sequence[Dependent] = ()
    last: int = 0
    more: bool = False

    @property
    def put_off(self) -> bool:
        """Whether nothing was read, as the dependents of other jobs are enough for one turn."""
        return self.more and not self.dependents


class Loaded(Struct):
    jobs: dict[int, Job] = field(default_factory=dict)
    keys: dict[tuple[int, str], Keyed] = field(default_factory=dict)
    unfinished_of_key: dict[tuple[int, str], list[int]] = field(default_factory=dict)
    dependents: dict[int, Portion] = field(default_factory=dict)
    skipped_behind: list[Dependent] = field(default_factory=list)
    known_runs: set[str] = field(default_factory=set)
    lanes: dict[tuple[str, LaneKey], list[Job]] = field(default_factory=dict)
    due: Due = Due()
    crowded: bool = False  # too many ended workflows for one turn: no workflow was read
    workflows: list[StoredWorkflow] = field(default_factory=list)
    heads: dict[str, Head] = field(default_factory=dict)
    waiters: dict[WaitersWanted, WaiterPortion] = field(default_factory=dict)
    kept_events: dict[str, dict[int, NamedEvent]] = field(default_factory=dict)  # by name, the newest first
    events: dict[int, NamedEvent] = field(default_factory=dict)
    events_of_key: dict[tuple[int, str], NamedEvent] = field(default_factory=dict)
    kept_counts: dict[tuple[int, str], conditions.KeptCount] = field(default_factory=dict)
    workflow_ends: dict[int, tuple[int, bool]] = field(default_factory=dict)  # owner, and whether it has ended
    jobs_ended_at: dict[int, int] = field(default_factory=dict)
    workflows_ended_at: dict[int, int] = field(default_factory=dict)


def load(connection: sqlite3.Connection, wanted: Wanted) -> Loaded:
    loaded = Loaded()
    if wanted.due:
        loaded.due = due(connection, wanted.now, DUE_LIMIT)
        wanted.ids.update(loaded.due.woken, loaded.due.expired, loaded.due.overdue)
    if wanted.dependents_of:
        loaded.dependents = _portions(connection, wanted.dependents_of)
        wanted.ids.update(needed for needed, portion in loaded.dependents.items() if not portion.put_off)
        wanted.ids.update(each.job_id for portion in loaded.dependents.values() for each in portion.dependents)
    if wanted.skipped_behind:
        loaded.skipped_behind = job_rows.skipped_behind(connection, wanted.skipped_behind)
        wanted.ids.update(wanted.skipped_behind, (each.job_id for each in loaded.skipped_behind))
    if wanted.keys:
        loaded.keys = keys.by_keys(connection, wanted.keys)
        wanted.ids.update(keyed.job_id for keyed in loaded.keys.values())
    _load_conditions(connection, wanted, loaded)
    if unread := [job_id for job_id in wanted.ids if job_id not in wanted.open_runs]:
        loaded.jobs = job_rows.by_ids(connection, unread)
    if wanted.skipped_behind:
        _load_needs(connection, wanted, loaded)
    _load_keys(connection, wanted, loaded)
    _load_workflows(connection, wanted, loaded)
    if wanted.run_ids:
        loaded.known_runs = attempts.existing(connection, wanted.run_ids)
    if wanted.to_purge is not None:
        loaded.jobs_ended_at = retention.jobs_ended_at(connection, wanted.to_purge.jobs)
        loaded.workflows_ended_at = retention.workflows_ended_at(connection, wanted.to_purge.workflows)
    for queue, key, limit in wanted.lanes:
        loaded.lanes[queue, key] = job_rows.ready(connection, queue, *key, wanted.barred, limit)
    return loaded


def _load_conditions(connection: sqlite3.Connection, wanted: Wanted, loaded: Loaded) -> None:
    """The jobs that wait for events and ends, and the events and ends that are there already."""
    if wanted.workflow_ends:
        loaded.workflow_ends = workflows.ends(connection, wanted.workflow_ends)
    loaded.waiters = conditions.waiter_portions(connection, wanted.waiters, DEPENDENTS_LIMIT)
    wanted.ids.update(waiter.job_id for portion in loaded.waiters.values() for waiter in portion.waiters)
    takers = Counter[str]()  # of one name, as an event of root is for jobs of each user
    for (name, _), jobs in wanted.kept_events.items():
        takers[name] += jobs
    for name, owner in wanted.kept_events:
        kept = conditions.kept(connection, name, owner, wanted.now.wall, takers[name])
        loaded.kept_events.setdefault(name, {}).update((event.id, event) for event in kept)
    for name, events in loaded.kept_events.items():  # each user has others
        loaded.kept_events[name] = dict(sorted(events.items(), reverse=True))
    for owner, name in wanted.kept_counts:
        loaded.kept_counts[owner, name] = conditions.count_kept(connection, owner, name, wanted.now.wall)
    loaded.events = {event_id: conditions.by_id(connection, event_id) for event_id in wanted.events}
    for owner, key in wanted.event_keys:
        event = conditions.by_key(connection, owner, key, wanted.now.wall)
        if event is not None:
            loaded.events_of_key[owner, key] = event


def _load_keys(connection: sqlite3.Connection, wanted: Wanted, loaded: Loaded) -> None:
    """The unfinished jobs of the wanted supersede keys, and of those of the jobs that may run again."""
    again = wanted.skipped_behind | {each.job_id for each in loaded.skipped_behind}
    jobs = [loaded.jobs[job_id] for job_id in again if job_id in loaded.jobs]
    keys = wanted.supersede_keys | {job.supersedes for job in jobs if job.supersedes is not None}
    if keys:
        loaded.unfinished_of_key = job_rows.unfinished_of_keys(connection, keys)
        ids = {job_id for unfinished in loaded.unfinished_of_key.values() for job_id in unfinished}
        loaded.jobs |= job_rows.by_ids(connection, ids - loaded.jobs.keys())


def _load_needs(connection: sqlite3.Connection, wanted: Wanted, loaded: Loaded) -> None:
    """The needs of the jobs that may run again; of a step all steps of its workflow, as some watch its end."""
    again = wanted.skipped_behind | {each.job_id for each in loaded.skipped_behind}
    needed = {need.job for job_id in again if job_id in loaded.jobs for need in loaded.jobs[job_id].spec.needs}
    loaded.jobs |= job_rows.by_ids(connection, needed - loaded.jobs.keys())
    if own := {job.workflow_id for job in loaded.jobs.values() if job.id in again and job.workflow_id is not None}:
        loaded.jobs |= job_rows.of_workflows(connection, own)


def _portions(connection: sqlite3.Connection, wanted: Mapping[int, int]) -> dict[int, Portion]:
    """The next dependents of the first of these: of no more than DEPENDENTS_LIMIT jobs, and no more in all."""
    portions = {}
    left = DEPENDENTS_LIMIT
    for needed, after in wanted.items():
        dependents = job_rows.dependents(connection, needed, after, left) if left > 0 else []
        last = dependents[-1].job_id if dependents else after
        portions[needed] = Portion(dependents, last, more=len(dependents) >= left)
        left -= max(1, len(dependents))
    return portions


def _load_workflows(connection: sqlite3.Connection, wanted: Wanted, loaded: Loaded) -> None:
    """The wanted workflows, and those of the loaded jobs: a step may run again after the end of its workflow."""
    ids = wanted.workflows | {job.workflow_id for job in loaded.jobs.values() if job.workflow_id is not None}
    asleep = [workflow_id for workflow_id in ids if workflow_id not in wanted.live_workflows]
    if wanted.divisible and len(asleep) > ENDED_WORKFLOWS_LIMIT:
        loaded.crowded = True
        return
    if asleep:
        loaded.workflows = workflows.by_ids(connection, asleep)
    if wanted.workflows:
        loaded.jobs |= job_rows.of_workflows(connection, wanted.workflows)
    chains = wanted.chains | {chain_of(stored.workflow.id) for stored in loaded.workflows}
    if chains:
        loaded.heads = checkpoints.heads(connection, chains)
