"""The rules for every chain of checkpoints, checked against the rows: each breach is one sentence.

The audit (tests/support/audit.py) and the tests of checkpoints share them. Only sealing and rebuilding are product
code, because these are under test; everything else is read from the rows.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from stoker.core.errors import StokerError
from stoker.core.job.run_id import RunId
from stoker.core.workflow.checkpoint import Checkpoint, CheckpointKind, opened
from stoker.core.workflow.context import rebuild
from stoker.store import checkpoints

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence

ALL = f"SELECT {checkpoints.COLUMNS} FROM checkpoints ORDER BY chain, seq"


def chains_of(connection: sqlite3.Connection) -> dict[str, list[Checkpoint]]:
    """Every chain, oldest link first."""
    chains: defaultdict[str, list[Checkpoint]] = defaultdict(list)
    for row in connection.execute(ALL):
        link = checkpoints.from_row(tuple(row))
        chains[link.chain].append(link)
    return dict(chains)


def broken_links(of: str, links: Sequence[Checkpoint]) -> Iterator[str]:
    """Breaches: a gap, a wrong parent, or a checksum that does not match."""
    before = None
    for number, link in enumerate(links, start=1):
        if link.seq != number:
            yield f"{of}: checkpoint {link.id} has seq {link.seq} in place {number}"
        if link.parent != before:
            yield f"{of}: checkpoint {link.id} builds on {link.parent}, not on {before}"
        before = link.id
        try:
            opened(link)
        except StokerError as error:
            yield f"{of}: {error.message}"


def wrong_context(
    of: str, links: Sequence[Checkpoint], steps: Mapping[str, Mapping[str, Any]], holds: Mapping[str, str]
) -> Iterator[str]:
    """Breaches: a step whose state in the rebuilt context differs from that in its rows.

    `steps`: rows of jobs by step; `holds`: of open attempts, by step, as their rows have it.
    """
    whole = [place for place, link in enumerate(links) if link.kind is CheckpointKind.CONTEXT]
    if not whole:
        yield f"{of} has no whole context"
        return
    context = rebuild(links[whole[-1] :])
    from_chain = {
        name: (stood.job, stood.state.value, stood.reason, stood.floor) for name, stood in context.steps.items()
    }
    is_so = {name: (row["id"], row["state"], row["reason"], row["checkpoint_floor"]) for name, row in steps.items()}
    if from_chain != is_so:
        yield f"{of}: its checkpoints say {from_chain}, the rows {is_so}"
    for name in steps:
        held = msgspec.json.decode(holds.get(name, "{}"))
        if context.holds.get(name, {}) != held:
            yield f"{of}: step {name} holds {context.holds.get(name, {})} by its checkpoints, {held} by its row"


def unlike_memory(of: str, links: Sequence[Checkpoint]) -> Iterator[str]:
    """Breaches: a whole context, which is the memory of the daemon, that differs from the chain before it."""
    whole = [place for place, link in enumerate(links) if link.kind is CheckpointKind.CONTEXT]
    for since, place in pairwise(whole):
        try:
            rebuilt = replace(rebuild(links[since:place]), seq=links[place].seq)
            from_chain = rebuild(links[place : place + 1])
        except StokerError as error:
            yield f"{of}: {error.message}"
            return
        if rebuilt != from_chain:
            yield f"{of}: memory knew {from_chain} at checkpoint {links[place].id}, its chain gives {rebuilt}"


def unlike_changes(of: str, links: Sequence[Checkpoint], moves: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Breaches: not one transition for each change of a step, in order, or not one end for each ended attempt."""
    transitions = [msgspec.json.decode(link.data) for link in links if link.kind is CheckpointKind.TRANSITION]
    seen = [(move["job_id"], move["from_state"], move["to_state"]) for move in moves if move["from_state"] is not None]
    if [(each["job"], each["from"], each["to"]) for each in transitions] != seen:
        yield f"{of}: its transitions are {transitions}, its changes {seen}"
    ends = [msgspec.json.decode(link.data) for link in links if link.kind is CheckpointKind.STEP]
    ended = [
        (move["job_id"], RunId.parse(attempt["run_id"]).ordinal)
        for move in moves
        if (attempt := msgspec.json.decode(move["payload"]).get("attempt", {})).get("outcome")
    ]
    if [(each["job"], each["attempt"]) for each in ends] != ended:
        yield f"{of}: its ends of steps are {[(each['job'], each['attempt']) for each in ends]}, its changes {ended}"
