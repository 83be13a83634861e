"""The jobs that a command acts on: the options of a filter, and the matching jobs.

Owns the options of the filter and the order in which jobs are shown. The daemon applies the filter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from stoker.cli.kit import outcome
from stoker.cli.kit.parser import Given, Option
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from stoker.core.views import JobView

STATES = ("waiting", "queued", "running", "held", *outcome.FINAL)
# The order in which jobs are shown: running, held for a person, waiting, ended.
SECTIONS = (("running",), ("held",), ("waiting", "queued"), outcome.FINAL)
HELD, WAITING = SECTIONS[1:3]
FILTER = (
    Option("--state", "STATE,…", "only jobs in these states", choices=STATES, listed=True),
    Option("--queue", "NAME", "only jobs of this queue"),
    Option("--name", "TEXT", "only jobs with this name"),
    Option("--label", "K=V", "only jobs with this label"),
)
PAGE = 1000


def filter_fields(given: Given) -> dict[str, str]:
    """The parameters of job.list that were given, except the states."""
    return {key: given[key] for key in ("queue", "name", "label") if given[key] is not None}


def has_filter(given: Given) -> bool:
    return any(given[option.to] is not None for option in FILTER)


def matching(
    client: Client,
    states: Sequence[str],
    fields: dict[str, str],
    most: int | None = None,
    *,
    oldest_first: bool = False,
) -> Iterator[JobView]:
    """The matching jobs in one of `states`, newest first if not asked otherwise, page by page; at most `most`."""
    cursor, left = {"after": 0} if oldest_first else {}, most
    while states and (left is None or left > 0):
        limit = PAGE if left is None else min(PAGE, left)
        page = client.call("job.list", {**fields, "states": states, "limit": limit, **cursor})
        yield from page["jobs"]
        if page["next"] is None:
            return
        cursor = {"after" if oldest_first else "before": page["next"]}
        left = None if left is None else left - len(page["jobs"])


class Overview:
    """At most `most` jobs, section by section: those that wait about in the order of their start, others newest first.

    Held jobs stay until a person acts: they take at most a third of the room, unless other jobs leave more.
    `more`: some jobs were left out; `held_left_off`: held ones are among them.
    """

    def __init__(self, client: Client, only: Sequence[str] | None, fields: dict[str, str], most: int | None) -> None:
        sections, room = {}, most
        for section in SECTIONS:
            states = [state for state in section if only is None or state in only]
            one_more = None if room is None else room + 1  # one more than fits shows that there are more
            sections[section] = list(matching(client, states, fields, one_more, oldest_first=section == WAITING))
            if room is not None and section != HELD:
                room = max(0, room - len(sections[section]))
        others = sum(len(jobs) for section, jobs in sections.items() if section != HELD)
        held = sections[HELD] if most is None else sections[HELD][: max(most // 3, most - others)]
        self.held_left_off = len(held) < len(sections[HELD])
        sections[WAITING].sort(key=lambda job: (job["state"], -job["priority"], job["id"]))
        jobs = [job for section in SECTIONS for job in (held if section == HELD else sections[section])]
        self.jobs = jobs[:most]
        self.more = self.held_left_off or len(jobs) > len(self.jobs)
