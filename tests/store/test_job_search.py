"""Searches for jobs: the same answers as a look at each job, in portions, whatever the filter."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from stoker.core.job.model import FINAL, Reason, State
from stoker.core.requests import JobFilter
from stoker.store import job_search
from tests.support.batches import put
from tests.support.facts import until_async
from tests.support.jobs import NOW, attempt, job, spec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from stoker.core.job.model import Job
    from stoker.store.directory import StateDirectory
    from tests.store.conftest import Open

T = NOW.wall
NAMES = (None, "nightly-1", "nightly-2", "Build", "caf\u00e9", "50%", "a_b")
ARGS = ((), ("-a", "/srv/data"), ('say "hi"',), ("back\\slash", "TAR"))
LABELS: tuple[dict[str, str], ...] = ({}, {"team": "a"}, {"team": "b", "x": 'q"uo\\te'}, {"xteam": "a"})


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (JobFilter(), [5, 4, 3, 2, 1]),
        (JobFilter(states=(State.HELD, State.FAILED)), [4, 3]),
        (JobFilter(queue="bulk"), [2]),
        (JobFilter(name="nightly"), [5, 1]),
        (JobFilter(label="team=a"), [5]),
        (JobFilter(label="team=A"), []),
        (JobFilter(label="a=team"), []),
        (JobFilter(before=4), [3, 2, 1]),
        (JobFilter(states=(State.QUEUED,), name="nightly", before=5), [1]),
        (JobFilter(after=0), [1, 2, 3, 4, 5]),
        (JobFilter(after=2), [3, 4, 5]),
        (JobFilter(states=(State.HELD,), after=0), [4]),
        (JobFilter(states=(State.QUEUED,), after=1), [2, 5]),
    ],
)
def test_page_when_a_filter_is_set_then_only_matching_jobs_come_in_order(
    database: sqlite3.Connection, wanted: JobFilter, ids: list[int]
) -> None:
    labels = {"team": "a", "x": "y"}
    put(
        database,
        [
            job(id=1, asked=spec(name="nightly")),
            job(id=2, asked=spec(queue="bulk", labels={"team": "b"})),
            job(State.FAILED, id=3),
            job(State.HELD, id=4),
            job(id=5, asked=spec(name="nightly", labels=labels)),
        ],
    )

    assert [one.id for one in job_search.scan(database, wanted).jobs] == ids


def test_scan_when_the_table_is_longer_than_a_portion_then_the_cursor_goes_on(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_search, "ENTRIES", 2)
    put(database, [job(id=ident, asked=spec(name=f"{ident % 5}")) for ident in range(1, 11)])

    seen: list[list[int]] = []
    scan = job_search.scan(database, JobFilter(name="1"))
    while scan.next is not None:
        seen.append([one.id for one in scan.jobs])
        scan = job_search.scan(database, JobFilter(name="1", before=scan.next))

    assert [*seen, [one.id for one in scan.jobs]] == [[], [], [6], [], [1]]


def test_scan_when_the_oldest_come_first_then_it_begins_where_jobs_wait(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_search, "FEW", 0)
    monkeypatch.setattr(job_search, "ROWS", 3)
    put(database, [job(State.FAILED, id=ident) for ident in range(1, 5)] + [job(id=ident) for ident in range(5, 11)])

    first = job_search.scan(database, JobFilter(states=(State.QUEUED,), after=0))
    second = job_search.scan(database, JobFilter(states=(State.QUEUED,), after=first.next))

    assert [one.id for scan in (first, second) for one in scan.jobs] == list(range(5, 11))
    assert (first.next, second.next) == (7, None)


def test_scan_when_the_jobs_are_large_then_a_portion_ends_at_its_bytes(database: sqlite3.Connection) -> None:
    put(database, [job(id=ident, asked=spec(args=("x" * 100_000,))) for ident in range(1, 31)])

    scan = job_search.scan(database, JobFilter())

    assert [one.id for one in scan.jobs] == list(range(30, 19, -1))
    assert scan.next == 20


def any_job(dice: random.Random, ident: int) -> Job:
    state = dice.choice([*State])
    asked = spec(
        name=dice.choice(NAMES),
        queue=dice.choice(["default", "bulk", "gpu"]),
        args=dice.choice(ARGS),
        labels=dice.choice(LABELS),
        command=dice.choice(["/bin/tar", "/usr/bin/rsync"]),
    )
    fields: dict[str, Any] = {"created_at": T + dice.randrange(20), "workflow_id": dice.choice([None, None, 3, 4])}
    if state in FINAL:
        ended = {"finished_at": T + 50 + dice.randrange(20), "exit_code": dice.choice([None, 0, 1])}
        fields |= ended | {"reason": dice.choice([Reason.EXIT, Reason.USER, Reason.TIMEOUT])}
    return job(state, id=ident, order_key=ident, asked=asked, attempts=int(state is State.RUNNING), **fields)


FILTERS: dict[str, Callable[[random.Random], Any]] = {
    "states": lambda dice: tuple(dice.sample([*State], dice.randint(1, 4))),
    "queue": lambda dice: dice.choice(["default", "bulk", "none"]),
    "name": lambda dice: dice.choice(["nightly-1", "Build", "night"]),
    "name_prefix": lambda dice: dice.choice(["nightly", "caf\u00e9", "5", "b"]),
    "label": lambda dice: dice.choice(["team=a", "team=b", 'x=q"uo\\te', "x=q", "a=team"]),
    "workflow": lambda dice: dice.choice([3, 9]),
    "search": lambda dice: dice.choice(
        ["tar", "BUILD", "/srv", "50%", "a_b", 'y "h', "\\", "%", "_", "CAF\u00e9", "q"]
    ),
    "created_since": lambda dice: T + dice.randrange(20),
    "created_until": lambda dice: T + dice.randrange(20, 40),
    "ended_since": lambda dice: T + 50 + dice.randrange(20),
    "ended_until": lambda dice: T + 50 + dice.randrange(20, 40),
    "reasons": lambda dice: tuple(dice.sample([Reason.EXIT, Reason.TIMEOUT, Reason.OOM], dice.randint(1, 2))),
    "exit_code": lambda dice: dice.choice([0, 1, 77]),
}


def lower(text: str) -> str:
    """Only ASCII letters: so LIKE compares."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in text)


def within(value: int | None, least: int | None, most: int | None) -> bool:
    if least is None and most is None:
        return True
    return value is not None and (least is None or value >= least) and (most is None or value <= most)


def matches(one: Job, wanted: JobFilter) -> bool:
    asked, (key, _, value) = one.spec, (wanted.label or "").partition("=")
    texts = [asked.name or "", str(asked.command), *map(str, asked.args)]
    return (
        (not wanted.states or one.state in wanted.states)
        and wanted.queue in (None, asked.queue)
        and wanted.name in (None, asked.name)
        and (wanted.name_prefix is None or (asked.name or "").startswith(wanted.name_prefix))
        and (wanted.label is None or asked.labels.get(key) == value)
        and wanted.workflow in (None, one.workflow_id)
        and (wanted.search is None or any(lower(wanted.search) in lower(text) for text in texts))
        and within(one.created_at, wanted.created_since, wanted.created_until)
        and within(one.finished_at, wanted.ended_since, wanted.ended_until)
        and (not wanted.reasons or one.reason in wanted.reasons)
        and wanted.exit_code in (None, one.exit_code)
    )


def found(database: sqlite3.Connection, wanted: JobFilter) -> list[int]:
    """The jobs of all portions, each of which goes on behind the one before."""
    ids: list[int] = []
    while True:
        scan = job_search.scan(database, wanted)
        assert len(scan.jobs) <= wanted.limit
        ids += [one.id for one in scan.jobs]
        if scan.next is None:
            return ids
        wanted = replace(wanted, **{"before" if wanted.after is None else "after": scan.next})


@pytest.mark.parametrize("few", [0, 5_000], ids=["many open jobs", "few open jobs"])
def test_scan_when_any_filter_is_set_then_it_finds_what_a_look_at_each_job_finds(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, seed: int, few: int
) -> None:
    for name, value in {"FEW": few, "ENTRIES": 40, "ROWS": 30}.items():
        monkeypatch.setattr(job_search, name, value)
    dice = random.Random(seed)
    every = [any_job(dice, ident) for ident in dice.sample(range(50, 400), 250)]
    every.sort(key=lambda one: one.id)
    put(database, every, [attempt(one) for one in every if one.state is State.RUNNING])
    purged = {one.id for one in every[::9]}
    database.executemany("INSERT INTO purging_jobs VALUES (?)", [(ident,) for ident in purged])

    for _ in range(200):
        fields = {name: FILTERS[name](dice) for name in dice.sample([*FILTERS], dice.choice([0, 1, 1, 2, 3]))}
        cursor: dict[str, Any] = dice.choice(
            [{}, {"before": dice.randint(1, 450)}, {"after": dice.choice([0, 200, 450])}]
        )
        wanted = JobFilter(**fields, **cursor, limit=dice.choice([1, 3, 100]))
        expected = [
            one.id
            for one in every
            if one.id not in purged
            and matches(one, wanted)
            and (wanted.before is None or one.id < wanted.before)
            and (wanted.after is None or one.id > wanted.after)
        ]

        assert found(database, wanted) == (expected if "after" in cursor else expected[::-1]), (seed, wanted)


async def test_search_when_it_takes_long_then_other_reads_are_answered(
    open_at: Open, directory: StateDirectory
) -> None:
    state = await open_at(directory)
    begun, gate = threading.Event(), threading.Event()

    def searching(_connection: sqlite3.Connection) -> str:
        begun.set()
        return "searched" if gate.wait(60) else "gave up"

    search = asyncio.ensure_future(state.queries.search(searching))
    await until_async(begun.is_set, why="the search")

    assert await state.queries.run(lambda connection: connection.execute("SELECT 7").fetchone()) == (7,)
    gate.set()
    assert await search == "searched"
