"""Which jobs a command is about: the options of a filter, and the jobs that match it.

Owns the words of the filter, the order in which a person looks at jobs, and what is left off for want of room.
Refuses to filter by itself: the daemon does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stoker.cli.kit import outcome, values
from stoker.cli.kit.parser import Given, Option
from stoker.rpc.client import Client

STATES = ("waiting", "queued", "running", "held", *outcome.FINAL)
# What one looks for first: what runs, what wants a person, what waits, what is over.
SECTIONS = (("running",), ("held",), ("waiting", "queued"), outcome.FINAL)
HELD = SECTIONS[1]
FILTER = (
    Option("--state", "STATE,…", "only these states", convert=values.states(STATES)),
    Option("--queue", "NAME", "only this queue"),
    Option("--name", "TEXT", "only jobs of this name"),
    Option("--label", "K=V", "only jobs with this label"),
)
PAGE = 1000


def wanted(given: Given) -> dict[str, str]:
    """The fields of job.list that were given, beside the states."""
    return {key: given[key] for key in ("queue", "name", "label") if given[key] is not None}


def filtered(given: Given) -> bool:
    return any(given[option.to] is not None for option in FILTER)


def matching(
    client: Client, states: Sequence[str], fields: dict[str, str], most: int | None = None
) -> Iterator[dict[str, Any]]:
    """Jobs in one of `states` that match, newest first, read page by page; all of them unless `most` says how many."""
    before, left = None, most
    while states and (left is None or left > 0):
        limit = PAGE if left is None else min(PAGE, left)
        page = client.call("job.list", {**fields, "states": states, "limit": limit, "before": before})
        yield from page["jobs"]
        before = page["next"]
        if before is None:
            return
        left = None if left is None else left - len(page["jobs"])


class Overview:
    """Jobs section by section, newest first in each, as many as there is room for.

    Held jobs stay until a person acts, so they take at most a third of the room from those that are newer.
    `more`: some were left off; `held_left_off`: held ones are among them.
    """

    def __init__(self, client: Client, only: Sequence[str] | None, fields: dict[str, str], most: int | None) -> None:
        found, room = {}, most
        for section in SECTIONS:
            states = [state for state in section if only is None or state in only]
            one_more = None if room is None else room + 1  # which tells that there are more
            found[section] = list(matching(client, states, fields, one_more))
            if room is not None and section != HELD:
                room = max(0, room - len(found[section]))
        others = sum(len(jobs) for section, jobs in found.items() if section != HELD)
        held = found[HELD] if most is None else found[HELD][: max(most // 3, most - others)]
        self.held_left_off = len(held) < len(found[HELD])
        jobs = [job for section in SECTIONS for job in (held if section == HELD else found[section])]
        self.jobs = jobs[:most]
        self.more = self.held_left_off or len(jobs) > len(self.jobs)
